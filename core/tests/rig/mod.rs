//! An engine on a bench: every socket is a buffer that the test fills and reads.
//!
//! Backends are either scripted (the test reads what they were sent and writes their answers) or model
//! memcacheds that answer at once. With [`Rig::with_keeper`] a keeper decides about them, and a stand-in for the
//! healer copies from store to store; otherwise the View stays as it is.
#![allow(dead_code, reason = "each test file uses its own part")]

mod healer;

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::sync::{Arc, LazyLock};

use magent_core::auth::{Checked, Credentials};
use magent_core::cas::mark;
use magent_core::config::{Config, Limits};
use magent_core::engine::{ClientId, ConnectionId, Engine, Input, Output, Shared};
use magent_core::keeper::{
    self, Failure, Identity, Keeper, KeeperConfig, ProbeAnswer, Remains, Report,
};
use magent_core::placement::{Phase, Placement};
use magent_core::stats::{Counter, Counters};
use magent_core::{BackendId, Time, WorkerId};
use magent_node::{Keep, Session, Store, StoreConfig};

pub(crate) use healer::Healer;

/// A backend's side of things.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not exclude each other"
)]
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
    /// Whether nothing is heard of connections that are asked for.
    pub(crate) silent_to_connects: bool,
    /// Its process id.
    pid: u32,
    /// How often it was probed: each time over a new connection.
    probes: u64,
    session: Session,
    connection: Option<ConnectionId>,
    /// Bytes that its socket takes, if it does not take all.
    takes: Option<usize>,
    /// What it was sent and the test has not looked at.
    received: Vec<u8>,
    unread: Vec<u8>,
}

/// Reads into the spare capacity of `room`, as far as it goes; yields how many bytes.
fn fill(room: &mut Vec<u8>, bytes: &[u8]) -> usize {
    let count = bytes.len().min(room.capacity() - room.len());
    room.extend_from_slice(&bytes[..count]);
    count
}

/// The engine and everything around it.
pub(crate) struct Rig {
    /// How often bytes were read straight to their place.
    pub(crate) filled: u32,
    pub(crate) engine: Engine,
    pub(crate) now: Time,
    pub(crate) peers: Vec<Peer>,
    pub(crate) reports: Vec<Report>,
    pub(crate) closed: Vec<ClientId>,
    /// Who wants its password checked.
    pub(crate) checks: VecDeque<(ClientId, Credentials)>,
    /// How often other workers were to be woken.
    pub(crate) wakes: usize,
    pub(crate) counters: Arc<Vec<Counters>>,
    /// Bytes of a backend's answer are handed in by so many at a time.
    pub(crate) answer_chunk_len: usize,
    /// The stand-in for the healer.
    pub(crate) healer: Healer,
    placement: Arc<Placement>,
    keeper: Option<Keeper>,
    workers: u16,
    answers: BTreeMap<ClientId, Vec<u8>>,
    paused: Vec<ClientId>,
    /// What is to be handed in.
    inputs: VecDeque<Event>,
}

fn address(backend: usize) -> String {
    format!("10.0.0.1:{}", 20_000 + backend)
}

/// By scripted backend: a start that leaves its CAS uniques as they are.
static UNMARKED_STARTS: LazyLock<Vec<i64>> = LazyLock::new(|| {
    let start = |backend| (0..).find(|&start| mark(&address(backend), start) == 0);
    (0..8).map(|backend| start(backend).unwrap()).collect()
});

enum Event {
    Connected(ConnectionId),
    Verified(ConnectionId),
    Lost(ConnectionId, Failure),
    Data(ConnectionId, Vec<u8>),
}

impl Rig {
    /// `primaries` and `backups` scripted backends, in this order.
    pub(crate) fn new(primaries: u16, backups: u16) -> Self {
        Self::with_limits(primaries, backups, |_| {})
    }

    /// Few requests are held for a short time, as by default, and however few clients there are.
    pub(crate) fn that_holds(primaries: u16, backups: u16) -> Self {
        Self::with_limits(primaries, backups, |limits| {
            limits.gather_hold_us = Limits::default().gather_hold_us;
            limits.gather_others_min = 0;
        })
    }

    pub(crate) fn with_limits(
        primaries: u16,
        backups: u16,
        limits: impl FnOnce(&mut Limits),
    ) -> Self {
        Self::with_config(primaries, backups, |config| limits(&mut config.limits))
    }

    pub(crate) fn with_config(
        primaries: u16,
        backups: u16,
        configure: impl FnOnce(&mut Config),
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
        // What leaves leaves at once: how requests are held has tests of its own.
        config.limits.gather_hold_us = 0;
        configure(&mut config);
        let shared = Shared::new(&config);
        Self::of_worker(WorkerId(0), &config, shared)
    }

    /// One worker of several, each with backends of its own.
    pub(crate) fn of_worker(worker: WorkerId, config: &Config, shared: Shared) -> Self {
        let Shared {
            placement,
            counters,
            ..
        } = shared.clone();
        let now = Time(1_000_000_000);
        let engine = Engine::new(worker, config, shared, now);
        let peer = |_: &_| Peer {
            alive: true,
            stopped: false,
            store: None,
            cut_short: None,
            lies: false,
            silent_to_connects: false,
            pid: 1,
            probes: 0,
            session: Session::new(),
            connection: None,
            takes: None,
            received: Vec::new(),
            unread: Vec::new(),
        };
        Self {
            filled: 0,
            engine,
            now,
            peers: config.backends.iter().map(peer).collect(),
            reports: Vec::new(),
            closed: Vec::new(),
            checks: VecDeque::new(),
            wakes: 0,
            counters,
            answer_chunk_len: usize::MAX,
            healer: Healer::default(),
            placement,
            keeper: None,
            workers: 1,
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
    pub(crate) fn with_keeper(self) -> Self {
        self.with_keeper_of(1)
    }

    fn with_keeper_of(mut self, workers: u16) -> Self {
        let config = KeeperConfig {
            addresses: (0..self.peers.len()).map(address).collect(),
            partners: self.placement.partners(),
            workers: usize::from(workers),
            stay_down: false,
            probe_delay_ms_min: 100,
            probe_delay_ms_max: 1_000,
            settle_ms: 5_000,
            hold_ms_max: 0,
            jitter_seed: 1,
        };
        self.workers = workers;
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
        self.feed(client, bytes);
        self.run();
    }

    /// Hands in a client's bytes; the turn goes on.
    pub(crate) fn feed(&mut self, client: ClientId, bytes: &[u8]) {
        let taken = self
            .engine
            .client_room(client)
            .map_or(0, |room| fill(room, bytes));
        if taken > 0 {
            self.filled += 1;
            self.engine
                .handle(self.now, Input::ClientFilled(client, taken));
        }
        if taken < bytes.len() {
            self.engine
                .handle(self.now, Input::ClientData(client, &bytes[taken..]));
        }
    }

    /// As [`Self::feed`], for what a backend says.
    fn feed_backend(&mut self, connection: ConnectionId, bytes: &[u8]) {
        let room = self.engine.backend_room(connection);
        let taken = room.map_or(0, |room| fill(room, bytes));
        if taken > 0 {
            self.filled += 1;
            self.engine
                .handle(self.now, Input::BackendFilled(connection, taken));
        }
        if taken < bytes.len() {
            self.engine
                .handle(self.now, Input::BackendData(connection, &bytes[taken..]));
        }
    }

    pub(crate) fn lose_client(&mut self, client: ClientId) {
        self.engine.handle(self.now, Input::ClientLost(client));
        self.run();
    }

    /// The oldest login that waits for it is over.
    pub(crate) fn checked(&mut self, checked: &Checked) {
        let (client, _) = self.checks.pop_front().expect("somebody logs in");
        self.engine
            .handle(self.now, Input::Checked(client, checked));
        self.run();
    }

    /// This client takes no bytes.
    pub(crate) fn pause(&mut self, client: ClientId) {
        self.paused.push(client);
    }

    /// What a client has been answered since the last call.
    pub(crate) fn got(&mut self, client: ClientId) -> String {
        String::from_utf8_lossy(&self.got_bytes(client)).into_owned()
    }

    /// The same, byte by byte.
    pub(crate) fn got_bytes(&mut self, client: ClientId) -> Vec<u8> {
        std::mem::take(self.answers.get_mut(&client).unwrap())
    }

    /// What a backend has been sent since the last call.
    pub(crate) fn sent(&mut self, backend: usize) -> String {
        let sent = std::mem::take(&mut self.peers[backend].received);
        String::from_utf8_lossy(&sent).into_owned()
    }

    /// A scripted backend answers.
    pub(crate) fn answer(&mut self, backend: usize, bytes: &[u8]) {
        let data = self.said_by(backend, bytes);
        self.inputs.push_back(data);
        self.run();
    }

    /// The same; the turn goes on.
    pub(crate) fn answers(&mut self, backend: usize, bytes: &[u8]) {
        let data = self.said_by(backend, bytes);
        self.take_in(data);
    }

    fn said_by(&self, backend: usize, bytes: &[u8]) -> Event {
        let connection = self.peers[backend].connection.expect("it is connected");
        Event::Data(connection, bytes.to_vec())
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

    /// The backend dies and is back at once, as another process, and empty.
    pub(crate) fn restart(&mut self, backend: usize) {
        let peer = &mut self.peers[backend];
        peer.pid += 1;
        if let Some(store) = &mut peer.store {
            store.restart(magent_node::Time(self.now.0), Keep::Nothing, peer.pid);
        }
        self.lose(backend);
    }

    /// Time passes, in steps of 10 ms.
    pub(crate) fn pass_ms(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(10) {
            self.now = self.now.after_ms(10);
            self.run();
        }
    }

    /// The worker stands still.
    pub(crate) fn stalls_ms(&mut self, ms: u64) {
        self.now = self.now.after_ms(ms);
        let for_ns = ms * 1_000_000;
        self.engine.handle(self.now, Input::Stalled { for_ns });
        self.run();
    }

    /// The worker had nothing to do for the last `us`.
    pub(crate) fn waited_us(&mut self, us: u64) {
        let since = Time(self.now.0 - us * 1_000);
        self.engine.handle(self.now, Input::Idle { since });
    }

    /// As [`Self::pass_ms`].
    pub(crate) fn pass_us(&mut self, us: u64) {
        self.now = Time(self.now.0 + us * 1_000);
        self.run();
    }

    pub(crate) fn count(&self, counter: Counter) -> u64 {
        self.counters[0].count(counter)
    }

    /// The engine is at rest and holds nothing.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&mut self) {
        self.run();
        assert!(self.engine.is_drained(), "an exchange is left");
        assert_eq!(self.memory_len(), 0, "memory is still counted");
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

    /// Where a key's primary is.
    pub(crate) fn primary_of(&self, key: &str) -> usize {
        self.placement.route(key.as_bytes()).primary_index
    }

    /// One turn ends; whether the next is to begin at once.
    #[expect(clippy::wildcard_enum_match_arm, reason = "`perform` has them all")]
    pub(crate) fn end_turn(&mut self) -> bool {
        self.engine.handle(self.now, Input::TurnEnd);
        loop {
            match self.engine.poll(self.now) {
                Output::Wait(deadline) => {
                    return deadline.is_some_and(|deadline| deadline <= self.now);
                }
                output => self.perform(output),
            }
        }
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
            Event::Verified(connection) => {
                self.engine.handle(self.now, Input::Verified(connection));
            }
            Event::Lost(connection, failure) => self
                .engine
                .handle(self.now, Input::BackendLost(connection, failure)),
            Event::Data(connection, bytes) => {
                for chunk in bytes.chunks(self.answer_chunk_len.min(bytes.len().max(1))) {
                    self.feed_backend(connection, chunk);
                }
            }
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Connect(connection) => {
                let peer = &mut self.peers[connection.backend.index()];
                if peer.silent_to_connects {
                    peer.connection = None;
                } else if peer.alive {
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
            Output::WakeWorkers => self.wakes += 1,
            Output::CloseClient(client) => self.closed.push(client),
            Output::Check(client, credentials) => self.checks.push_back((client, credentials)),
            Output::Report(report) => {
                self.reports.push(report);
                match (&mut self.keeper, report) {
                    (Some(keeper), report) => keeper.on_report(self.now, WorkerId(0), report),
                    // Nobody else could answer there.
                    (None, Report::Connected { connection, .. }) => {
                        self.inputs.push_back(Event::Verified(connection));
                    }
                    (None, _) => {}
                }
            }
            Output::Recopy(backend, keys) => self.recopy(backend, keys),
            Output::Missed(backend, keys) => self.missed(backend, keys),
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
        let mut acted = false;
        loop {
            let Some(keeper) = &mut self.keeper else {
                return acted;
            };
            match keeper.poll(self.now) {
                keeper::Output::Publish(view) => {
                    self.engine.handle(self.now, Input::View(&view));
                    self.heal(&view);
                }
                keeper::Output::Settled(epoch) => {
                    self.engine.handle(self.now, Input::Settled(epoch));
                }
                keeper::Output::Probe(backend) => {
                    let result = self.probe(backend.index());
                    let keeper = self.keeper.as_mut().unwrap();
                    keeper.on_probe(self.now, backend, result);
                }
                keeper::Output::Verified(WorkerId(0), connection) => {
                    self.engine.handle(self.now, Input::Verified(connection));
                }
                keeper::Output::Verified(..)
                | keeper::Output::Changed(_)
                | keeper::Output::StillDown(..) => {}
                keeper::Output::Wait(_) => return acted,
            }
            acted = true;
        }
    }

    fn probe(&mut self, backend: usize) -> Result<ProbeAnswer, Failure> {
        let now = magent_node::Time(self.now.0);
        let peer = &mut self.peers[backend];
        if !peer.alive || peer.stopped {
            return Err(Failure::Refused);
        }
        peer.probes += 1;
        let Some(store) = &mut peer.store else {
            let identity = Identity {
                pid: u64::from(peer.pid),
                started_unix_s: UNMARKED_STARTS[backend],
                uptime_s: 2,
                connections: peer.probes,
                sets: 0,
                items_stored: 0,
            };
            return Ok(ProbeAnswer {
                explicit_cas: false,
                version: None,
                identity: Some(identity),
                items: 0,
                known: None,
                flushes: 0,
                lingering: Some(false),
            });
        };
        let mut out = Vec::new();
        let next = Session::new().receive(store, now, b"stats\r\n", &mut out);
        assert_eq!(next, magent_node::Next::Continue);
        let text = String::from_utf8(out).unwrap();
        let stat = |name: &str| -> u64 {
            let prefix = format!("STAT {name} ");
            let mut values = text.lines().filter_map(|line| line.strip_prefix(&prefix));
            values.next().unwrap().parse().unwrap()
        };
        Ok(ProbeAnswer {
            explicit_cas: false,
            version: None,
            identity: Some(Identity {
                pid: stat("pid"),
                started_unix_s: stat("time").cast_signed() - stat("uptime").cast_signed(),
                uptime_s: 2,
                connections: stat("total_connections") + peer.probes,
                sets: stat("cmd_set"),
                items_stored: stat("total_items"),
            }),
            items: stat("curr_items"),
            known: None,
            flushes: stat("cmd_flush"),
            lingering: Some(false),
        })
    }

    /// What a later process of this proxy would be told about a backend.
    pub(crate) fn remains(&self, backend: u16) -> Remains {
        self.keeper.as_ref().unwrap().remains(BackendId(backend))
    }
}

/// A second worker, played by the test: it holds back what the keeper waits for.
impl Rig {
    /// As [`Self::with_keeper`], for two workers. The second one says only what the test lets it say.
    #[must_use]
    pub(crate) fn with_keeper_and_second_worker(self) -> Self {
        self.with_keeper_of(2)
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
