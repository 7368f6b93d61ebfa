//! An engine on a bench: every socket is a buffer that the test fills and reads.
//!
//! Backends are either scripted (the test reads what they were sent and writes their answers) or model
//! memcacheds that answer at once. With [`Rig::with_keeper`] a keeper decides about them; otherwise the
//! View stays as it is.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use magent_core::config::{Config, Limits};
use magent_core::engine::{ClientId, ConnectionId, Engine, Input, Output};
use magent_core::keeper::{self, Failure, Keeper, KeeperConfig, ProbeAnswer, Report};
use magent_core::placement::{Phase, Placement};
use magent_core::stats::{Counter, Counters};
use magent_core::{BackendId, Time, WorkerId};
use magent_node::{Session, Store, StoreConfig};

/// A backend's side of things.
pub(crate) struct Peer {
    /// Whether it takes connections.
    pub(crate) alive: bool,
    /// Whether it answers; one that does not keeps what it was sent.
    pub(crate) stopped: bool,
    /// `Some`: a model memcached answers. `None`: the test does.
    pub(crate) store: Option<Store>,
    /// So many bytes of its next answer are sent; then the connection is reset.
    pub(crate) cut_short: Option<usize>,
    /// Its next answer names keys of another client.
    pub(crate) lies: bool,
    session: Session,
    connection: Option<ConnectionId>,
    /// Bytes that its socket takes, if it does not take all.
    takes: Option<usize>,
    /// What it was sent and the test has not looked at.
    received: Vec<u8>,
    unread: Vec<u8>,
}

/// The engine and everything around it.
pub(crate) struct Rig {
    pub(crate) engine: Engine,
    pub(crate) now: Time,
    pub(crate) peers: Vec<Peer>,
    pub(crate) reports: Vec<Report>,
    pub(crate) closed: Vec<ClientId>,
    pub(crate) counters: Arc<Vec<Counters>>,
    /// Bytes of a backend's answer are handed in by so many at a time.
    pub(crate) answer_chunk_len: usize,
    placement: Arc<Placement>,
    keeper: Option<Keeper>,
    answers: BTreeMap<ClientId, Vec<u8>>,
    paused: Vec<ClientId>,
    /// What is to be handed in.
    inputs: VecDeque<Event>,
}

enum Event {
    Connected(ConnectionId),
    Lost(ConnectionId, Failure),
    Data(ConnectionId, Vec<u8>),
}

impl Rig {
    /// `primaries` and `backups` scripted backends, in this order.
    pub(crate) fn new(primaries: u16, backups: u16) -> Self {
        Self::with_limits(primaries, backups, |_| {})
    }

    pub(crate) fn with_limits(
        primaries: u16,
        backups: u16,
        limits: impl FnOnce(&mut Limits),
    ) -> Self {
        let servers = |from: u16, count: u16| {
            (from..from + count)
                .map(|port| format!("10.0.0.1:{}", 20_000 + port).parse().unwrap())
                .collect()
        };
        let mut config = Config::new(
            servers(0, primaries),
            servers(primaries, backups),
            "magent".parse().unwrap(),
            Default::default(),
        )
        .unwrap();
        limits(&mut config.limits);
        let placement = Arc::new(Placement::new(&config));
        let counters = Arc::new(vec![Counters::default()]);
        let now = Time(1_000_000_000);
        let engine = Engine::new(
            WorkerId(0),
            &config,
            Arc::clone(&placement),
            Arc::clone(&counters),
            now,
        );
        let peer = |_| Peer {
            alive: true,
            stopped: false,
            store: None,
            cut_short: None,
            lies: false,
            session: Session::new(),
            connection: None,
            takes: None,
            received: Vec::new(),
            unread: Vec::new(),
        };
        Self {
            engine,
            now,
            peers: (0..primaries + backups).map(peer).collect(),
            reports: Vec::new(),
            closed: Vec::new(),
            counters,
            answer_chunk_len: usize::MAX,
            placement,
            keeper: None,
            answers: BTreeMap::new(),
            paused: Vec::new(),
            inputs: VecDeque::new(),
        }
    }

    /// The same, with model memcacheds.
    pub(crate) fn with_nodes(primaries: u16, backups: u16) -> Self {
        let mut rig = Self::new(primaries, backups);
        rig.use_nodes();
        rig
    }

    pub(crate) fn use_nodes(&mut self) {
        for peer in &mut self.peers {
            peer.store = Some(Store::new(StoreConfig::default()));
        }
    }

    /// Lets a keeper decide about the backends; probes are answered by those that are alive.
    #[must_use]
    pub(crate) fn with_keeper(mut self) -> Self {
        let config = KeeperConfig {
            backends: self.peers.len(),
            workers: 1,
            probe_delay_ms_min: 100,
            probe_delay_ms_max: 1_000,
            jitter_seed: 1,
        };
        self.keeper = Some(Keeper::new(config, self.now));
        self.run();
        self
    }

    pub(crate) fn client(&mut self) -> ClientId {
        let id = self.engine.open_client();
        self.answers.insert(id, Vec::new());
        id
    }

    /// Hands in a client's bytes and ends the turn.
    pub(crate) fn send(&mut self, client: ClientId, bytes: &[u8]) {
        self.engine
            .handle(self.now, Input::ClientData(client, bytes));
        self.run();
    }

    /// Hands in a client's bytes; the turn goes on.
    pub(crate) fn feed(&mut self, client: ClientId, bytes: &[u8]) {
        self.engine
            .handle(self.now, Input::ClientData(client, bytes));
    }

    pub(crate) fn lose_client(&mut self, client: ClientId) {
        self.engine.handle(self.now, Input::ClientLost(client));
        self.run();
    }

    /// This client takes no bytes.
    pub(crate) fn pause(&mut self, client: ClientId) {
        self.paused.push(client);
    }

    /// What a client has been answered since the last call.
    pub(crate) fn got(&mut self, client: ClientId) -> String {
        let answer = std::mem::take(self.answers.get_mut(&client).unwrap());
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// What a backend has been sent since the last call.
    pub(crate) fn sent(&mut self, backend: usize) -> String {
        let sent = std::mem::take(&mut self.peers[backend].received);
        String::from_utf8_lossy(&sent).into_owned()
    }

    /// A scripted backend answers.
    pub(crate) fn answer(&mut self, backend: usize, bytes: &[u8]) {
        let connection = self.peers[backend].connection.expect("it is connected");
        self.inputs
            .push_back(Event::Data(connection, bytes.to_vec()));
        self.run();
    }

    /// The same, unless nothing connects the two.
    pub(crate) fn answer_if_connected(&mut self, backend: usize, bytes: &[u8]) {
        if self.peers[backend].connection.is_some() && !bytes.is_empty() {
            self.answer(backend, bytes);
        }
    }

    /// The socket to a backend takes so many bytes more.
    pub(crate) fn hold_writes(&mut self, backend: usize, takes: Option<usize>) {
        self.peers[backend].takes = takes;
    }

    /// The connection to a backend is reset.
    pub(crate) fn lose(&mut self, backend: usize) {
        if let Some(connection) = self.peers[backend].connection.take() {
            self.inputs
                .push_back(Event::Lost(connection, Failure::Reset));
        }
        self.run();
    }

    /// The backend dies.
    pub(crate) fn kill(&mut self, backend: usize) {
        self.peers[backend].alive = false;
        self.lose(backend);
    }

    /// Time passes, in steps of 10 ms.
    pub(crate) fn pass_ms(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(10) {
            self.now = self.now.after_ms(10);
            self.run();
        }
    }

    pub(crate) fn count(&self, counter: Counter) -> u64 {
        self.counters[0].count(counter)
    }

    pub(crate) fn memory_len(&self) -> u64 {
        self.counters[0].memory_len()
    }

    /// The first key `k<number>` whose primary and backup are these.
    pub(crate) fn key(&self, primary: u16, backup: Option<u16>) -> String {
        (0..10_000)
            .map(|number| format!("k{number}"))
            .find(|key| {
                let route = self.placement.route(key.as_bytes());
                route.primary == BackendId(primary) && route.backup == backup.map(BackendId)
            })
            .unwrap()
    }

    /// Turns, until nothing is left to do at this moment.
    #[expect(clippy::wildcard_enum_match_arm, reason = "`perform` has them all")]
    pub(crate) fn run(&mut self) {
        for _ in 0..100_000 {
            self.engine.handle(self.now, Input::TurnEnd);
            let mut idle = true;
            let deadline = loop {
                match self.engine.poll(self.now) {
                    Output::Wait(deadline) => break deadline,
                    output => {
                        idle = false;
                        self.perform(output);
                    }
                }
            };
            idle &= !self.follow_keeper();
            while let Some(event) = self.inputs.pop_front() {
                idle = false;
                self.take_in(event);
            }
            let due = deadline.is_some_and(|deadline| deadline <= self.now);
            if idle && !due {
                return;
            }
        }
        panic!("the engine never rests");
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Connected(connection) => self
                .engine
                .handle(self.now, Input::BackendConnected(connection)),
            Event::Lost(connection, failure) => self
                .engine
                .handle(self.now, Input::BackendLost(connection, failure)),
            Event::Data(connection, bytes) => {
                for chunk in bytes.chunks(self.answer_chunk_len.min(bytes.len().max(1))) {
                    self.engine
                        .handle(self.now, Input::BackendData(connection, chunk));
                }
            }
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "an output is done once")]
    fn perform(&mut self, output: Output) {
        match output {
            Output::Connect(connection) => {
                let peer = &mut self.peers[connection.backend.index()];
                if peer.alive {
                    peer.connection = Some(connection);
                    peer.session = Session::new();
                    peer.unread.clear();
                    self.inputs.push_back(Event::Connected(connection));
                } else {
                    self.inputs
                        .push_back(Event::Lost(connection, Failure::Refused));
                }
            }
            Output::Disconnect(connection) => {
                let peer = &mut self.peers[connection.backend.index()];
                if peer.connection == Some(connection) {
                    peer.connection = None;
                }
            }
            Output::WriteBackend(connection) => self.write_backend(connection),
            Output::WriteClient(client) => {
                if self.paused.contains(&client) {
                    return;
                }
                let mut slices = [IoSlice::new(&[]); 64];
                let count = self.engine.client_slices(client, &mut slices);
                let bytes: Vec<u8> = slices[..count].iter().flat_map(|s| s.to_vec()).collect();
                self.engine.client_sent(client, bytes.len());
                self.answers.entry(client).or_default().extend(&bytes);
            }
            Output::ReadClient(_) | Output::Route(_) => {}
            Output::CloseClient(client) => self.closed.push(client),
            Output::Report(report) => {
                self.reports.push(report);
                if let Some(keeper) = &mut self.keeper {
                    keeper.on_report(self.now, WorkerId(0), report);
                }
            }
            Output::Wait(_) => unreachable!("the caller stops there"),
        }
    }

    fn write_backend(&mut self, connection: ConnectionId) {
        let mut slices = [IoSlice::new(&[]); 64];
        let count = self.engine.backend_slices(connection, &mut slices);
        let mut bytes: Vec<u8> = slices[..count].iter().flat_map(|s| s.to_vec()).collect();
        if let Some(takes) = &mut self.peers[connection.backend.index()].takes {
            bytes.truncate(*takes);
            *takes -= bytes.len();
        }
        self.engine.backend_sent(self.now, connection, bytes.len());
        let peer = &mut self.peers[connection.backend.index()];
        peer.received.extend(&bytes);
        peer.unread.extend(&bytes);
        let Some(store) = peer.store.as_mut().filter(|_| !peer.stopped) else {
            return;
        };
        let mut out = Vec::new();
        let unread = std::mem::take(&mut peer.unread);
        let now = magent_node::Time(self.now.0);
        let next = peer.session.receive(store, now, &unread, &mut out);
        assert_eq!(
            next,
            magent_node::Next::Continue,
            "a node hangs up on the engine"
        );
        if out.is_empty() {
            return;
        }
        if std::mem::take(&mut peer.lies) {
            for at in 0..out.len().saturating_sub(8) {
                if out[at..].starts_with(b"VALUE c") {
                    out[at + 7] ^= 1;
                }
            }
        }
        if let Some(len) = peer.cut_short.take() {
            out.truncate(len);
            self.inputs.push_back(Event::Data(connection, out));
            peer.connection = None;
            self.inputs
                .push_back(Event::Lost(connection, Failure::Reset));
            return;
        }
        self.inputs.push_back(Event::Data(connection, out));
    }

    /// Whether the keeper had something to say.
    fn follow_keeper(&mut self) -> bool {
        let Some(keeper) = &mut self.keeper else {
            return false;
        };
        let mut acted = false;
        loop {
            match keeper.poll(self.now) {
                keeper::Output::Publish(view) => {
                    self.engine.handle(self.now, Input::View(&view));
                }
                keeper::Output::Settled(epoch) => {
                    self.engine.handle(self.now, Input::Settled(epoch));
                }
                keeper::Output::Probe(backend) => {
                    let peer = &self.peers[backend.index()];
                    let result = if peer.alive && !peer.stopped {
                        Ok(ProbeAnswer { version: None })
                    } else {
                        Err(Failure::Refused)
                    };
                    keeper.on_probe(self.now, backend, result);
                }
                keeper::Output::Changed(_) => {}
                keeper::Output::Wait(_) => return acted,
            }
            acted = true;
        }
    }
}

/// A second worker, played by the test: it holds back what the keeper waits for.
impl Rig {
    /// As [`Self::with_keeper`], for two workers. The second one says only what the test lets it say.
    #[must_use]
    pub(crate) fn with_keeper_and_second_worker(mut self) -> Self {
        let config = KeeperConfig {
            backends: self.peers.len(),
            workers: 2,
            probe_delay_ms_min: 100,
            probe_delay_ms_max: 1_000,
            jitter_seed: 1,
        };
        self.keeper = Some(Keeper::new(config, self.now));
        self.run();
        self
    }

    /// The second worker lives by the View in force.
    pub(crate) fn second_worker_acknowledges(&mut self) {
        let keeper = self.keeper.as_mut().unwrap();
        let epoch = keeper.view().epoch;
        keeper.on_report(self.now, WorkerId(1), Report::Acknowledged { epoch });
        self.run();
    }

    /// The second worker has purged a backend.
    pub(crate) fn second_worker_has_purged(&mut self, backend: usize) {
        let keeper = self.keeper.as_mut().unwrap();
        let incarnation = keeper.view().backends[backend].incarnation;
        let report = Report::Purged {
            backend: BackendId(u16::try_from(backend).unwrap()),
            incarnation,
        };
        keeper.on_report(self.now, WorkerId(1), report);
        self.run();
    }

    /// Where the keeper sees a backend.
    pub(crate) fn phase(&self, backend: usize) -> Phase {
        self.keeper.as_ref().unwrap().view().backends[backend].phase
    }
}
