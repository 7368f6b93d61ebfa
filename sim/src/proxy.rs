//! Proxies: what `magent` does around the engine and the keeper, on virtual time.
//!
//! A worker's loop is the real one's (`magent/src/worker.rs`): in a turn each ready connection is read
//! once, in any order, the engine is told that the turn ends, and its outputs are done until it wants to
//! wait. Messages between workers and keeper take their time and keep their order.
//!
//! Not here: what is decided (`magent-core`).

use std::collections::VecDeque;
use std::sync::Arc;

use magent_core::config::Config;
use magent_core::engine::{ClientId, ConnectionId, Engine, Input, Output};
use magent_core::keeper::{self, Failure, Keeper, KeeperConfig, ProbeAnswer, Report};
use magent_core::placement::{Phase, Placement, Version, View};
use magent_core::stats::Counters;
use magent_core::{BackendId, Time, WorkerId};

use crate::check::violation;
use crate::memcached::Process;
use crate::network::{Closed, End, Handle, Link, LinkId, Peer};
use crate::world::{Event, World};

/// One process.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub keeper: Keeper,
    pub workers: Vec<Worker>,
    pub counters: Arc<Vec<Counters>>,
    keeper_at: Option<Time>,
}

/// One thread of it.
#[derive(Debug)]
pub(crate) struct Worker {
    pub engine: Engine,
    /// When its loop runs next.
    turn_at: Option<Time>,
    /// Connections that have something.
    ready: Vec<LinkId>,
    messages: VecDeque<ToWorker>,
    connected: Vec<(ConnectionId, Result<LinkId, Failure>)>,
    /// By index of [`ClientId`].
    pub clients: Vec<Option<LinkId>>,
    /// By backend: the connection that was asked for, and its link once it is there.
    pub backends: Vec<Option<(ConnectionId, Option<LinkId>)>>,
    /// When the last message to it, and from it, arrives.
    to_at: Time,
    from_at: Time,
    /// Whether the engine was given something since its turn ended.
    pub fed: bool,
    /// Whether messages to it wait, because a scenario says so.
    pub deaf: bool,
    /// Turns in a row for which only the engine's own deadline was the reason.
    idle_turns: u32,
}

/// What the keeper tells a worker.
#[derive(Debug)]
pub(crate) enum ToWorker {
    View(Arc<View>),
    Settled(u64),
}

/// What reaches the keeper.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ToKeeper {
    Report(WorkerId, Report),
    Probe(BackendId, Result<ProbeAnswer, Failure>),
}

/// Turns without any event after which the loop is taken to spin.
const IDLE_TURNS_MAX: u32 = 1_000;

impl Proxy {
    pub(crate) fn new(config: &Config, jitter_seed: u64) -> Self {
        let now = Time(0);
        let count = usize::from(config.workers);
        let counters: Arc<Vec<Counters>> =
            Arc::new((0..count).map(|_| Counters::default()).collect());
        let placement = Arc::new(Placement::new(config));
        let workers = (0..config.workers).map(|id| Worker {
            engine: Engine::new(
                WorkerId(id),
                config,
                Arc::clone(&placement),
                Arc::clone(&counters),
                now,
            ),
            turn_at: None,
            ready: Vec::new(),
            messages: VecDeque::new(),
            connected: Vec::new(),
            clients: Vec::new(),
            backends: vec![None; config.backends.len()],
            to_at: now,
            from_at: now,
            fed: false,
            deaf: false,
            idle_turns: 0,
        });
        let keeper_config = KeeperConfig {
            backends: config.backends.len(),
            workers: count,
            probe_delay_ms_min: config.limits.probe_delay_ms_min,
            probe_delay_ms_max: config.limits.probe_delay_ms_max,
            jitter_seed,
        };
        Self {
            keeper: Keeper::new(keeper_config, now).with_breaks(config.breaks),
            workers: workers.collect(),
            counters,
            keeper_at: None,
        }
    }

    /// Whether every backend is up for everyone.
    pub(crate) fn is_healthy(&self) -> bool {
        let view = self.keeper.view();
        view.backends
            .iter()
            .all(|backend| backend.phase == Phase::Up)
    }
}

impl World {
    /// Starts all loops.
    pub(crate) fn start_proxies(&mut self) {
        for proxy in 0..self.proxies.len() {
            for worker in 0..self.options.workers {
                self.proxies[proxy].workers[worker]
                    .engine
                    .connect_all(Time(0));
                self.wake_worker(proxy, worker, Time(0));
            }
            self.run_keeper(proxy);
        }
    }

    // -- The keeper --

    pub(crate) fn run_keeper(&mut self, proxy: usize) {
        self.proxies[proxy].keeper_at = None;
        loop {
            match self.proxies[proxy].keeper.poll(self.now) {
                keeper::Output::Publish(view) => {
                    for worker in 0..self.options.workers {
                        self.tell_worker(proxy, worker, ToWorker::View(Arc::clone(&view)));
                    }
                }
                keeper::Output::Settled(epoch) => {
                    for worker in 0..self.options.workers {
                        self.tell_worker(proxy, worker, ToWorker::Settled(epoch));
                    }
                }
                keeper::Output::Probe(backend) => {
                    let latency = self.latency_us();
                    self.after_us(latency, Event::Probe { proxy, backend });
                }
                keeper::Output::Changed(change) => {
                    let failure = change.failure.map_or("", Failure::name);
                    let flush = if change.flush { " (flush)" } else { "" };
                    let text = format!("{:?} -> {:?}{flush} {failure}", change.from, change.to);
                    self.note_state(
                        &format!("p{proxy} backend {}", change.backend),
                        text.trim_end(),
                    );
                    self.tally.transitions += 1;
                }
                keeper::Output::Wait(at) => {
                    if let Some(at) = at {
                        self.proxies[proxy].keeper_at = Some(at);
                        self.at(at, Event::Keeper { proxy });
                    }
                    return;
                }
            }
        }
    }

    pub(crate) fn on_keeper_timer(&mut self, proxy: usize) {
        if self.proxies[proxy]
            .keeper_at
            .is_some_and(|at| at <= self.now)
        {
            self.run_keeper(proxy);
        }
    }

    pub(crate) fn on_keeper_message(&mut self, proxy: usize, message: ToKeeper) {
        let keeper = &mut self.proxies[proxy].keeper;
        match message {
            ToKeeper::Report(worker, report) => keeper.on_report(self.now, worker, report),
            ToKeeper::Probe(backend, result) => keeper.on_probe(self.now, backend, result),
        }
        self.run_keeper(proxy);
    }

    /// A probe has reached its backend's host, or would have.
    pub(crate) fn on_probe(&mut self, proxy: usize, backend: BackendId) {
        let this = &self.backends[backend.index()];
        let silent_us = self.options.limits.fail_ms * 1_000;
        let version = Version::parse(b"1.6.18");
        let (result, after_us) = if !this.reachable {
            (Err(Failure::Silent), silent_us)
        } else if this.process == Process::Dead || this.refuses {
            (Err(Failure::Refused), 0)
        } else if this.process == Process::Paused || !this.answers_probes {
            (Err(Failure::Silent), silent_us)
        } else {
            (Ok(ProbeAnswer { version }), this.slow_us)
        };
        let after_us = after_us + self.latency_us();
        let message = ToKeeper::Probe(backend, result);
        self.after_us(after_us, Event::ToKeeper { proxy, message });
    }

    /// How long a message between threads takes.
    fn message_us(&mut self, worker: usize) -> u64 {
        let max = self.options.lag_us_max;
        let slow = if worker + 1 == self.options.workers {
            10
        } else {
            2
        };
        match self.rng.below(20) {
            choice if choice < slow => self.rng.below(max),
            10..=12 => self.rng.below(max / 10 + 1),
            _ => self.rng.below(30),
        }
    }

    fn tell_worker(&mut self, proxy: usize, worker: usize, message: ToWorker) {
        let at = Time(self.now.0 + self.message_us(worker) * 1_000);
        let this = &mut self.proxies[proxy].workers[worker];
        this.to_at = this.to_at.max(at);
        let at = this.to_at;
        self.at(
            at,
            Event::ToWorker {
                proxy,
                worker,
                message,
            },
        );
    }

    pub(crate) fn on_worker_message(&mut self, proxy: usize, worker: usize, message: ToWorker) {
        self.proxies[proxy].workers[worker]
            .messages
            .push_back(message);
        self.wake_worker_soon(proxy, worker);
    }

    fn tell_keeper(&mut self, proxy: usize, worker: usize, report: Report) {
        let at = Time(self.now.0 + self.message_us(0) * 1_000);
        let this = &mut self.proxies[proxy].workers[worker];
        this.from_at = this.from_at.max(at);
        let at = this.from_at;
        let id = WorkerId(u16::try_from(worker).expect("few workers"));
        let message = ToKeeper::Report(id, report);
        self.at(at, Event::ToKeeper { proxy, message });
    }

    // -- Loops --

    /// A connection has something for its worker.
    pub(crate) fn ready(&mut self, id: LinkId) {
        let link = &mut self.links[id.index()];
        if !link.proxy_open || std::mem::replace(&mut link.proxy_ready, true) {
            return;
        }
        let (proxy, worker) = (link.proxy, link.worker);
        self.proxies[proxy].workers[worker].ready.push(id);
        self.wake_worker_soon(proxy, worker);
    }

    pub(crate) fn wake_worker_soon(&mut self, proxy: usize, worker: usize) {
        self.proxies[proxy].workers[worker].idle_turns = 0;
        let us = match self.rng.below(1_000) {
            // The thread was not scheduled, or was busy.
            0 => self.rng.below(20_000),
            1..=50 => self.rng.below(1_000),
            _ => self.rng.below(20),
        };
        self.wake_worker(proxy, worker, Time(self.now.0 + us * 1_000));
    }

    fn wake_worker(&mut self, proxy: usize, worker: usize, at: Time) {
        let this = &mut self.proxies[proxy].workers[worker];
        if this.turn_at.is_none_or(|turn_at| at < turn_at) {
            this.turn_at = Some(at);
            self.at(at, Event::Turn { proxy, worker });
        }
    }

    /// One turn of a worker's loop, if it is still due.
    pub(crate) fn on_turn(&mut self, proxy: usize, worker: usize) {
        let this = &mut self.proxies[proxy].workers[worker];
        if this.turn_at.is_none_or(|at| at > self.now) {
            return;
        }
        this.turn_at = None;
        this.idle_turns += 1;
        if this.idle_turns > IDLE_TURNS_MAX {
            let text = format!("worker {worker} of proxy {proxy} spins");
            self.fail(violation("busy loop", text));
            return;
        }
        let mut ready = std::mem::take(&mut this.ready);
        let connected = std::mem::take(&mut this.connected);
        self.rng.shuffle(&mut ready);
        let messages_first = self.rng.chance(50);
        if messages_first {
            self.take_messages(proxy, worker);
        }
        for (connection, result) in connected {
            self.on_connected(proxy, worker, connection, result);
        }
        for link in ready {
            self.on_ready(proxy, worker, link);
        }
        if !messages_first {
            self.take_messages(proxy, worker);
        }
        let deadline = self.end_turn(proxy, worker);
        if let Some(deadline) = deadline {
            // A timer never fires early, and mostly a little late.
            let at = deadline.0.max(self.now.0 + 1_000) + self.rng.below(100_000);
            self.wake_worker(proxy, worker, Time(at));
        }
    }

    fn take_messages(&mut self, proxy: usize, worker: usize) {
        if self.proxies[proxy].workers[worker].deaf {
            return;
        }
        while let Some(message) = self.proxies[proxy].workers[worker].messages.pop_front() {
            match message {
                ToWorker::View(view) => self.feed(proxy, worker, Input::View(&view)),
                ToWorker::Settled(epoch) => self.feed(proxy, worker, Input::Settled(epoch)),
            }
        }
    }

    pub(crate) fn feed(&mut self, proxy: usize, worker: usize, input: Input<'_>) {
        let this = &mut self.proxies[proxy].workers[worker];
        this.fed = true;
        this.engine.handle(self.now, input);
    }

    fn end_turn(&mut self, proxy: usize, worker: usize) -> Option<Time> {
        loop {
            let this = &mut self.proxies[proxy].workers[worker];
            this.engine.handle(self.now, Input::TurnEnd);
            this.fed = false;
            let deadline = loop {
                let output = self.proxies[proxy].workers[worker].engine.poll(self.now);
                if let Output::Wait(deadline) = output {
                    break deadline;
                }
                self.perform(proxy, worker, &output);
            };
            if !self.proxies[proxy].workers[worker].fed {
                return deadline;
            }
        }
    }

    fn perform(&mut self, proxy: usize, worker: usize, output: &Output) {
        match *output {
            Output::Connect(connection) => self.connect(proxy, worker, connection),
            Output::Disconnect(connection) => self.disconnect(proxy, worker, connection),
            Output::WriteBackend(connection) => {
                let link = self.proxies[proxy].workers[worker].backends[connection.backend.index()];
                if let Some((asked, Some(link))) = link
                    && asked == connection
                {
                    self.write_backend(link, connection);
                }
            }
            Output::WriteClient(client) => {
                if let Some(link) = self.client_link(proxy, worker, client) {
                    self.write_client(link, client);
                }
            }
            Output::ReadClient(client) => {
                if let Some(link) = self.client_link(proxy, worker, client) {
                    self.ready(link);
                }
            }
            Output::CloseClient(client) => {
                if let Some(link) = self.client_link(proxy, worker, client) {
                    self.proxies[proxy].workers[worker].clients[client.index as usize] = None;
                    self.links[link.index()].proxy_open = false;
                    self.close_direction(link, End::Peer, Closed::Fin);
                }
            }
            Output::Report(report) => self.tell_keeper(proxy, worker, report),
            Output::Route(_) | Output::Wait(_) => {}
        }
    }

    fn client_link(&self, proxy: usize, worker: usize, client: ClientId) -> Option<LinkId> {
        let link = (*self.proxies[proxy].workers[worker]
            .clients
            .get(client.index as usize)?)?;
        (self.links[link.index()].handle == Handle::Client(client)).then_some(link)
    }

    // -- Connections --

    fn connect(&mut self, proxy: usize, worker: usize, connection: ConnectionId) {
        let backend = connection.backend.index();
        self.proxies[proxy].workers[worker].backends[backend] = Some((connection, None));
        let refused_at_once = self.backends[backend].process == Process::Dead
            && self.backends[backend].reachable
            && self.rng.chance(20);
        if refused_at_once {
            self.feed(
                proxy,
                worker,
                Input::BackendLost(connection, Failure::Refused),
            );
            return;
        }
        let latency = self.latency_us();
        self.after_us(
            latency,
            Event::Connect {
                proxy,
                worker,
                connection,
            },
        );
    }

    /// The request for a connection reaches the backend's host.
    pub(crate) fn on_connect(&mut self, proxy: usize, worker: usize, connection: ConnectionId) {
        let index = connection.backend.index();
        let wanted =
            self.proxies[proxy].workers[worker].backends[index] == Some((connection, None));
        if !wanted {
            return;
        }
        let backend = &self.backends[index];
        if !backend.reachable {
            // The kernel tries again.
            const RETRY_US: u64 = 30_000;
            self.after_us(
                RETRY_US,
                Event::Connect {
                    proxy,
                    worker,
                    connection,
                },
            );
            return;
        }
        let result = if backend.process == Process::Dead || backend.refuses {
            Err(Failure::Refused)
        } else {
            let room = self.rng.pick(&[2_048, 16_384, 65_536]);
            let peer = Peer::Backend(index);
            let handle = Handle::Backend(connection);
            let link = Link::new((proxy, worker), peer, handle, usize::MAX, room);
            let id = self.add_link(link);
            self.open_session(index, id);
            Ok(id)
        };
        let latency = self.latency_us();
        self.after_us(
            latency,
            Event::Connected {
                proxy,
                worker,
                connection,
                result,
            },
        );
    }

    pub(crate) fn on_connect_result(
        &mut self,
        proxy: usize,
        worker: usize,
        connection: ConnectionId,
        result: Result<LinkId, Failure>,
    ) {
        self.proxies[proxy].workers[worker]
            .connected
            .push((connection, result));
        self.wake_worker_soon(proxy, worker);
    }

    fn on_connected(
        &mut self,
        proxy: usize,
        worker: usize,
        connection: ConnectionId,
        result: Result<LinkId, Failure>,
    ) {
        let slot = &mut self.proxies[proxy].workers[worker].backends[connection.backend.index()];
        if *slot != Some((connection, None)) {
            // It was given up meanwhile.
            if let Ok(link) = result {
                self.abandon_link(link);
            }
            return;
        }
        match result {
            Ok(link) => {
                *slot = Some((connection, Some(link)));
                self.feed(proxy, worker, Input::BackendConnected(connection));
                // It may have been reset by now.
                self.on_ready(proxy, worker, link);
            }
            Err(failure) => {
                *slot = None;
                self.feed(proxy, worker, Input::BackendLost(connection, failure));
            }
        }
    }

    fn disconnect(&mut self, proxy: usize, worker: usize, connection: ConnectionId) {
        let slot = &mut self.proxies[proxy].workers[worker].backends[connection.backend.index()];
        if let Some((_, link)) = slot.take_if(|(asked, _)| *asked == connection)
            && let Some(link) = link
        {
            self.abandon_link(link);
        }
    }

    /// The worker closes its end of a connection to a backend.
    pub(crate) fn abandon_link(&mut self, id: LinkId) {
        self.links[id.index()].proxy_open = false;
        let Peer::Backend(backend) = self.links[id.index()].peer else {
            return;
        };
        if self.options.late_execution {
            self.close_direction(id, End::Peer, Closed::Fin);
        } else {
            self.drop_session(backend, id);
        }
    }
}
