//! Proxies: what `magent` does around the engine, the keeper and the healer, on virtual time.
//!
//! A worker's loop is the real one's (`magent/src/worker.rs`): in a turn each ready connection is read
//! once, in any order, the engine is told that the turn ends, and its outputs are done until it wants to
//! wait. Messages between workers and the control thread take their time and keep their order.
//!
//! Not here: what is decided (`magent-core`), the control thread (`control`), connections to backends
//! (`connections`), start and crash (`process`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use magent_core::config::Config;
use magent_core::engine::{ClientId, ConnectionId, Engine, Input, Output, Shared};
use magent_core::heal::{HealConnection, Healer};
use magent_core::keeper::{Failure, Keeper, KeeperConfig, Remains};
use magent_core::placement::{Phase, View};
use magent_core::stats::{Counters, Progress};
use magent_core::{BackendId, Time, WorkerId};

use crate::check::violation;
use crate::connections::Caller;
use crate::control::{HealLink, Probe, ToKeeper};
use crate::network::{Closed, End, Handle, LinkId};
use crate::shapes::Shape;
use crate::world::{Event, World};

/// One process.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// Which of the proxies it is: a later process has the same.
    pub slot: usize,
    /// Whether it was killed.
    pub dead: bool,
    pub keeper: Keeper,
    pub healer: Option<Healer>,
    pub heal_links: BTreeMap<HealConnection, HealLink>,
    pub workers: Vec<Worker>,
    pub counters: Arc<Vec<Counters>>,
    /// By backend: the probe under way.
    pub probes: Vec<Option<Probe>>,
    pub probe_number: u64,
    /// By backend: this end of connections that were closed, as far as the backend may still have them.
    pub given_up: Vec<BTreeSet<SocketAddr>>,
    pub keeper_at: Option<Time>,
    pub healer_at: Option<Time>,
    /// Connections of the healer and of probes that have something.
    pub ready: Vec<LinkId>,
    pub control_scheduled: bool,
    /// The View in force, and the newest epoch that all its workers live by.
    pub view: Arc<View>,
    pub settled: u64,
    /// By backend: the newest incarnation that a worker has seen fail.
    pub failing: Vec<Option<u32>>,
}

/// One thread of it.
#[derive(Debug)]
pub(crate) struct Worker {
    pub engine: Engine,
    /// When its loop runs next.
    turn_at: Option<Time>,
    /// Connections that have something.
    pub ready: Vec<LinkId>,
    messages: VecDeque<ToWorker>,
    pub connected: Vec<(ConnectionId, Result<LinkId, Failure>)>,
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
    /// Whether another worker gave up what this one may wait for.
    pub slots_freed: bool,
    /// Until when it stands still, and for how long then.
    stalled: Option<(Time, u64)>,
    /// Turns in a row for which only the engine's own deadline was the reason.
    idle_turns: u32,
}

/// What the control thread tells a worker.
#[derive(Debug)]
pub(crate) enum ToWorker {
    View(Arc<View>),
    Settled(u64),
    Verified(ConnectionId),
}

/// What is in a proxy's state file.
pub(crate) type Disk = Vec<(Remains, BTreeSet<SocketAddr>)>;

/// For so long did a worker wait that is told to be idle: it has time to spare for as long as one can.
const IDLE_NS: u64 = 50_000;

/// Turns without any event after which the loop is taken to spin.
const IDLE_TURNS_MAX: u32 = 1_000;

impl Proxy {
    /// A process that starts now, with what an earlier one has left.
    pub(crate) fn new(
        slot: usize,
        config: &Config,
        (jitter_seed, settle_ms): (u64, u64),
        now: Time,
        disk: Option<&Disk>,
    ) -> Self {
        let count = usize::from(config.workers);
        let shared = Shared::new(config);
        let counters = Arc::clone(&shared.counters);
        let placement = Arc::clone(&shared.placement);
        let workers = (0..config.workers).map(|id| Worker {
            engine: Engine::new(WorkerId(id), config, shared.clone(), now),
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
            slots_freed: false,
            stalled: None,
            idle_turns: 0,
        });
        let workers = workers.collect();
        let keeper_config = KeeperConfig {
            addresses: config.backends.iter().map(ToString::to_string).collect(),
            partners: placement.partners(),
            workers: count,
            stay_down: false,
            probe_delay_ms_min: config.limits.probe_delay_ms_min,
            probe_delay_ms_max: config.limits.probe_delay_ms_max,
            settle_ms,
            hold_ms_max: config.limits.probe_delay_ms_max,
            jitter_seed,
        };
        let mut keeper = Keeper::new(keeper_config, now).with_breaks(config.breaks);
        let backends = config.backends.len();
        let mut given_up = vec![BTreeSet::new(); backends];
        for (index, (remains, addresses)) in disk.into_iter().flatten().enumerate() {
            let backend = BackendId(u16::try_from(index).expect("few backends"));
            keeper.restore(now, backend, *remains);
            given_up[index].clone_from(addresses);
        }
        let progress = (0..backends).map(|_| Progress::default()).collect();
        let healer = config
            .has_backups()
            .then(|| Healer::new(config, placement, Arc::new(progress), now));
        Self {
            slot,
            dead: false,
            keeper,
            healer,
            heal_links: BTreeMap::new(),
            workers,
            counters,
            probes: (0..backends).map(|_| None).collect(),
            probe_number: 0,
            given_up,
            keeper_at: None,
            healer_at: None,
            ready: Vec::new(),
            control_scheduled: false,
            view: Arc::new(View::initial(backends)),
            settled: 0,
            failing: vec![None; backends],
        }
    }

    /// Whether every backend is up for everyone; or catches up for ever, where walks are refused.
    pub(crate) fn is_healthy(&self, can_walk: bool) -> bool {
        let view = self.keeper.view();
        view.backends.iter().all(|backend| {
            backend.phase == Phase::Up
                || !can_walk && backend.phase == Phase::CatchingUp && backend.fill
        }) && self.settled == view.epoch
    }
}

impl World {
    // -- Messages --

    /// How long a message between threads takes.
    fn message_us(&mut self, worker: usize) -> u64 {
        let max = self.options.lag_us_max;
        let slow = if worker + 1 == self.options.workers {
            10
        } else {
            2
        };
        let late = self.options.shape == Shape::Late && worker + 1 == self.options.workers;
        match self.rng.below(20) {
            _ if late => self.rng.between(max / 2, max),
            choice if choice < slow => self.rng.below(max),
            10..=12 => self.rng.below(max / 10 + 1),
            _ => self.rng.below(30),
        }
    }

    pub(crate) fn tell_worker(&mut self, proxy: usize, worker: usize, message: ToWorker) {
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

    pub(crate) fn on_slots_freed(&mut self, proxy: usize, worker: usize) {
        self.proxies[proxy].workers[worker].slots_freed = true;
        self.wake_worker_soon(proxy, worker);
    }

    pub(crate) fn on_worker_message(&mut self, proxy: usize, worker: usize, message: ToWorker) {
        self.proxies[proxy].workers[worker]
            .messages
            .push_back(message);
        self.wake_worker_soon(proxy, worker);
    }

    /// A worker tells the control thread something: reports and keys keep their order.
    fn tell_control(
        &mut self,
        proxy: usize,
        worker: usize,
        message: impl FnOnce(WorkerId) -> ToKeeper,
    ) {
        let at = Time(self.now.0 + self.message_us(0) * 1_000);
        let this = &mut self.proxies[proxy].workers[worker];
        this.from_at = this.from_at.max(at);
        let at = this.from_at;
        let id = WorkerId(u16::try_from(worker).expect("few workers"));
        let message = message(id);
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
        match link.handle {
            Handle::Unaccepted | Handle::Client(_) | Handle::Backend(_) => {
                self.proxies[proxy].workers[worker].ready.push(id);
                self.wake_worker_soon(proxy, worker);
            }
            Handle::Heal(_) | Handle::Probe(_) => {
                self.proxies[proxy].ready.push(id);
                self.wake_control(proxy);
            }
        }
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

    pub(crate) fn wake_worker(&mut self, proxy: usize, worker: usize, at: Time) {
        let this = &mut self.proxies[proxy].workers[worker];
        if this.turn_at.is_none_or(|turn_at| at < turn_at) {
            this.turn_at = Some(at);
            self.at(at, Event::Turn { proxy, worker });
        }
    }

    /// One turn of a worker's loop, if it is still due.
    pub(crate) fn on_turn(&mut self, proxy: usize, worker: usize) {
        let dead = self.proxies[proxy].dead;
        let this = &mut self.proxies[proxy].workers[worker];
        if dead || this.turn_at.is_none_or(|at| at > self.now) {
            return;
        }
        this.turn_at = None;
        if self.stands_still(proxy, worker) {
            return;
        }
        let this = &mut self.proxies[proxy].workers[worker];
        this.idle_turns += 1;
        if this.idle_turns > IDLE_TURNS_MAX {
            let text = format!("worker {worker} of proxy {proxy} spins");
            self.fail(violation("busy loop", text));
            return;
        }
        let slots_freed = std::mem::take(&mut this.slots_freed);
        let mut ready = std::mem::take(&mut this.ready);
        let connected = std::mem::take(&mut this.connected);
        self.rng.shuffle(&mut ready);
        let messages_first = self.rng.chance(50);
        if messages_first {
            self.take_messages(proxy, worker);
        }
        if slots_freed {
            self.feed(proxy, worker, Input::SlotsFreed);
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

    /// Whether a worker that is due does nothing yet: it was stopped, or has no processor. When it goes on, it knows.
    fn stands_still(&mut self, proxy: usize, worker: usize) -> bool {
        let this = &mut self.proxies[proxy].workers[worker];
        match this.stalled {
            Some((until, _)) if until > self.now => {
                self.wake_worker(proxy, worker, until);
                true
            }
            Some((_, for_ns)) => {
                this.stalled = None;
                self.feed(proxy, worker, Input::Stalled { for_ns });
                false
            }
            // Chance, without a draw of its own: that would change every seed.
            None if self.options.stalls && (self.now.0 / 4_096).is_multiple_of(499) => {
                let ms = self.options.limits.fail_ms * 3 / 2;
                let until = self.now.after_ms(ms);
                this.stalled = Some((until, ms * 1_000_000));
                self.wake_worker(proxy, worker, until);
                self.tally.stalls += 1;
                true
            }
            None => false,
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
                ToWorker::Verified(connection) => {
                    self.feed(proxy, worker, Input::Verified(connection));
                }
            }
        }
    }

    pub(crate) fn feed(&mut self, proxy: usize, worker: usize, input: Input<'_>) {
        let this = &mut self.proxies[proxy].workers[worker];
        this.fed = true;
        this.engine.handle(self.now, input);
    }

    fn end_turn(&mut self, proxy: usize, worker: usize) -> Option<Time> {
        // Whether a worker had to wait is chance; a draw of its own would change every seed.
        if (self.now.0 / 4_096).is_multiple_of(4) {
            let engine = &mut self.proxies[proxy].workers[worker].engine;
            let since = Time(self.now.0.saturating_sub(IDLE_NS));
            engine.handle(self.now, Input::Idle { since });
        }
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
            Output::Connect(connection) => {
                let slot = connection.backend.index();
                self.proxies[proxy].workers[worker].backends[slot] = Some((connection, None));
                self.call(proxy, Caller::Worker(worker, connection));
            }
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
            Output::Report(report) => {
                self.note_report(proxy, worker, &report);
                self.tell_control(proxy, worker, |id| ToKeeper::Report(id, report));
            }
            Output::Recopy(backend, ref keys) => {
                let keys = keys.clone();
                self.tell_control(proxy, worker, |_| ToKeeper::Recopy(backend, keys));
            }
            Output::Missed(backend, ref keys) => {
                let keys = keys.clone();
                self.tell_control(proxy, worker, |_| ToKeeper::Missed(backend, keys));
            }
            Output::Check(..) => unreachable!("nobody has to log in here"),
            Output::WakeWorkers => {
                for other in (0..self.options.workers).filter(|&other| other != worker) {
                    let us = self.message_us(other);
                    let worker = other;
                    self.after_us(us, Event::SlotsFreed { proxy, worker });
                }
            }
            Output::Route(_) | Output::Wait(_) => {}
        }
    }

    fn client_link(&self, proxy: usize, worker: usize, client: ClientId) -> Option<LinkId> {
        let link = (*self.proxies[proxy].workers[worker]
            .clients
            .get(client.index as usize)?)?;
        (self.links[link.index()].handle == Handle::Client(client)).then_some(link)
    }
}
