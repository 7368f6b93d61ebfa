//! A healer with the memcacheds that it copies between, one message at a time.
//!
//! Commands and answers wait in queues until a step takes one of them, so a test can act between any two. Views
//! are made by hand; workers are assumed to acknowledge at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use magent_core::config::{Config, ProcessInfo};
use magent_core::engine::ConnectionId;
use magent_core::heal::{HealConnection, Healer, Input, Output};
use magent_core::keeper::{Failure, Report};
use magent_core::known::{self, Process};
use magent_core::placement::{Phase, Placement, View};
use magent_core::stats::Progress;
use magent_core::{BackendId, Time};
use magent_node::{Next, Session, Store, StoreConfig};

/// The healer begins when the memcacheds have run for so long.
const START: Time = Time(100_000_000_000);
const UNIX_START_S: u64 = 1_700_000_000;
/// Who answers at a backend that is known.
pub(crate) const PROCESS: Process = Process {
    pid: 7,
    started_unix_s: 1_700_000_090,
};

pub(crate) struct Lab {
    pub(crate) healer: Healer,
    pub(crate) now: Time,
    pub(crate) view: View,
    pub(crate) nodes: Vec<Node>,
    pub(crate) reports: Vec<Report>,
    pub(crate) progress: Arc<Vec<Progress>>,
    pub(crate) placement: Arc<Placement>,
    /// Epochs settle as soon as the healer has acknowledged them.
    pub(crate) settles: bool,
    /// Connections are verified at once.
    pub(crate) verifies: bool,
    /// Answers arrive in pieces of so many bytes.
    pub(crate) answer_len: usize,
    /// What a walk lists does not arrive.
    pub(crate) walk_stalls: bool,
    connections: BTreeMap<HealConnection, Connection>,
    turn: usize,
    due: Option<Time>,
}

pub(crate) struct Node {
    pub(crate) store: Store,
    /// It refuses connections.
    pub(crate) dead: bool,
    /// It executes nothing.
    pub(crate) stopped: bool,
    /// What it was told, one command each.
    pub(crate) told: Vec<String>,
    /// How far its clock is ahead. The part of a second is when it ticks.
    pub(crate) ahead_ms: u64,
}

impl Node {
    fn time(&self, now: Time) -> magent_node::Time {
        magent_node::Time(now.after_ms(self.ahead_ms).0)
    }
}

struct Connection {
    stage: Stage,
    session: Session,
    commands: VecDeque<Vec<u8>>,
    answers: VecDeque<Vec<u8>>,
    partial: Vec<u8>,
    closed: bool,
}

#[derive(PartialEq, Eq)]
enum Stage {
    Connecting,
    Connected,
    Verified,
}

/// Something that has just happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Connected(HealConnection),
    Verified(HealConnection),
    /// A backend has executed a command.
    Executed(BackendId, String),
    /// The healer has heard an answer.
    Heard(BackendId, String),
    /// It has heard of a lost connection.
    Lost(HealConnection),
}

/// What can happen next on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Connect,
    Verify,
    Execute,
    Answer,
    Close,
}

pub(crate) const fn id(index: u16) -> BackendId {
    BackendId(index)
}

impl Lab {
    pub(crate) fn new(primaries: u16, backups: u16) -> Self {
        Self::with(primaries, backups, |_| {})
    }

    pub(crate) fn with(primaries: u16, backups: u16, change: impl FnOnce(&mut Config)) -> Self {
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
        config.process = ProcessInfo {
            pid: 1,
            unix_start_s: UNIX_START_S + START.0 / 1_000_000_000,
        };
        change(&mut config);
        let count = usize::from(primaries + backups);
        let placement = Arc::new(Placement::new(&config));
        let progress: Arc<Vec<Progress>> =
            Arc::new((0..count).map(|_| Progress::default()).collect());
        let healer = Healer::new(
            &config,
            Arc::clone(&placement),
            Arc::clone(&progress),
            START,
        );
        let node = |_| Node {
            store: empty_store(),
            dead: false,
            stopped: false,
            told: Vec::new(),
            ahead_ms: 0,
        };
        Self {
            healer,
            now: START,
            view: View::initial(count),
            nodes: (0..count).map(node).collect(),
            reports: Vec::new(),
            progress,
            placement,
            settles: true,
            verifies: true,
            answer_len: usize::MAX,
            walk_stalls: false,
            connections: BTreeMap::new(),
            turn: 0,
            due: None,
        }
    }

    // -- The keeper, by hand --

    pub(crate) fn publish(&mut self, change: impl FnOnce(&mut View)) {
        self.view.epoch += 1;
        change(&mut self.view);
        let view = Arc::new(self.view.clone());
        self.handle(Input::View(&view));
    }

    pub(crate) fn set_phase(&mut self, backend: BackendId, phase: Phase) {
        self.publish(|view| {
            let epoch = view.epoch;
            let this = &mut view.backends[backend.index()];
            this.phase = phase;
            this.since_epoch = epoch;
            this.sources.clear();
        });
    }

    /// `backend` fails; those in `cleaning` had it as a source.
    pub(crate) fn fail(&mut self, backend: BackendId, cleaning: &[BackendId]) {
        self.publish(|view| {
            let epoch = view.epoch;
            for &id in cleaning.iter().chain([&backend]) {
                let this = &mut view.backends[id.index()];
                this.phase = Phase::Cleaning;
                this.since_epoch = epoch;
                this.sources.clear();
            }
            view.backends[backend.index()].phase = Phase::Down;
            view.backends[backend.index()].incarnation += 1;
            view.backends[backend.index()].known = None;
        });
    }

    /// `target` catches up from `sources`.
    pub(crate) fn catch_up(&mut self, target: BackendId, sources: &[BackendId]) {
        let sources = sources.to_vec();
        self.publish(|view| {
            let epoch = view.epoch;
            let this = &mut view.backends[target.index()];
            this.phase = Phase::CatchingUp;
            this.since_epoch = epoch;
            this.seniority = epoch;
            this.sources = sources;
        });
    }

    pub(crate) fn recopy(&mut self, target: BackendId, keys: &[&str]) {
        let keys = keys.iter().map(|key| key.as_bytes().into()).collect();
        self.handle(Input::Recopy(target, keys));
    }

    /// A worker names what `target`, which has returned, has missed.
    pub(crate) fn missed(&mut self, target: BackendId, keys: &[&str]) {
        let keys = keys.iter().map(|key| key.as_bytes().into()).collect();
        self.handle(Input::Missed(target, keys));
    }

    /// `target` returns as a new process that other proxies may have filled.
    pub(crate) fn return_known(&mut self, target: BackendId) {
        self.publish(|view| {
            let epoch = view.epoch;
            let this = &mut view.backends[target.index()];
            this.phase = Phase::Purging;
            this.since_epoch = epoch;
            this.known = Some(PROCESS);
        });
    }

    /// Whether the healer has said this since the last call, with all before it.
    pub(crate) fn has_said(&mut self, report: Report) -> bool {
        let at = self.reports.iter().position(|said| *said == report);
        if let Some(at) = at {
            self.reports.drain(..=at);
        }
        at.is_some()
    }

    pub(crate) fn copied(&self, target: BackendId, source: BackendId) -> Report {
        let incarnation = self.view.backends[target.index()].incarnation;
        Report::Copied {
            target,
            incarnation,
            source,
        }
    }

    // -- The backends --

    pub(crate) fn key(&self, number: usize, primary: BackendId, backup: BackendId) -> String {
        (0..100_000)
            .map(|number| format!("k{number}"))
            .filter(|key| self.is_of(key.as_bytes(), primary, backup))
            .nth(number)
            .unwrap()
    }

    pub(crate) fn is_of(&self, key: &[u8], a: BackendId, b: BackendId) -> bool {
        let route = self.placement.route(key);
        let pair = [Some(route.primary), route.backup];
        pair == [Some(a), Some(b)] || pair == [Some(b), Some(a)]
    }

    /// What a client of the backend is answered.
    pub(crate) fn ask(&mut self, backend: BackendId, command: impl AsRef<[u8]>) -> String {
        let mut out = Vec::new();
        let node = &mut self.nodes[backend.index()];
        let now = node.time(self.now);
        let store = &mut node.store;
        let next = Session::new().receive(store, now, command.as_ref(), &mut out);
        assert_eq!(next, Next::Continue);
        String::from_utf8_lossy(&out).into_owned()
    }

    pub(crate) fn set(&mut self, backend: BackendId, key: &str, value: &str) {
        let command = format!("set {key} 0 0 {}\r\n{value}\r\n", value.len());
        assert_eq!(self.ask(backend, command), "STORED\r\n");
    }

    pub(crate) fn value(&self, backend: BackendId, key: &str) -> Option<String> {
        let node = &self.nodes[backend.index()];
        let item = node.store.peek(key.as_bytes(), node.time(self.now))?;
        Some(String::from_utf8_lossy(item.value).into_owned())
    }

    /// Seconds that the item has left, as the backend counts them.
    pub(crate) fn ttl_s(&self, backend: BackendId, key: &str) -> Option<u64> {
        let node = &self.nodes[backend.index()];
        let item = node.store.peek(key.as_bytes(), node.time(self.now));
        item.and_then(|item| item.ttl_s).map(u64::from)
    }

    /// In how many ms the backend forgets the item, to the tick.
    pub(crate) fn left_ms(&self, backend: BackendId, key: &str) -> Option<u64> {
        let node = &self.nodes[backend.index()];
        let since_tick_ms = node.time(self.now).0 / 1_000_000 % 1_000;
        Some(self.ttl_s(backend, key)? * 1_000 - since_tick_ms)
    }

    /// The backend has lost everything and returned.
    pub(crate) fn restart(&mut self, backend: BackendId, ahead_ms: u64) {
        self.cut(backend);
        self.fail(backend, &[]);
        self.settle_down();
        let node = &mut self.nodes[backend.index()];
        node.store = empty_store();
        node.ahead_ms = ahead_ms;
    }

    /// Panics unless both have the same items of their common keys.
    pub(crate) fn assert_equal(&self, target: BackendId, source: BackendId) {
        self.assert_equal_within(target, source, 2);
    }

    /// The same, where a copy may end so many seconds sooner or later.
    pub(crate) fn assert_equal_within(&self, target: BackendId, source: BackendId, off_max: u32) {
        let items = |backend: BackendId| {
            let node = &self.nodes[backend.index()];
            let items = node.store.items(node.time(self.now)).filter(|item| {
                // What is about to expire is not copied.
                !item.key.starts_with(known::PREFIX)
                    && self.is_of(item.key, target, source)
                    && item.ttl_s.is_none_or(|ttl_s| ttl_s > 1)
            });
            let items = items.map(|item| {
                let value = (item.value, item.client_flags, item.stale);
                (
                    String::from_utf8_lossy(item.key).into_owned(),
                    (value, item.ttl_s),
                )
            });
            items.collect::<BTreeMap<_, _>>()
        };
        let (wanted, found) = (items(source), items(target));
        for (key, (value, ttl_s)) in &wanted {
            let (copy, copy_ttl_s) = found.get(key).unwrap_or_else(|| panic!("{key} is missing"));
            assert!(copy == value, "{key} differs");
            match (ttl_s, copy_ttl_s) {
                (None, None) => {}
                (Some(a), Some(b)) => {
                    assert!(a.abs_diff(*b) <= off_max, "{key} lives {a} and {b} s");
                }
                _ => panic!("{key} lives {ttl_s:?} and {copy_ttl_s:?}"),
            }
        }
        for (key, (value, _)) in &found {
            assert!(wanted.contains_key(key), "{key} came back: {value:?}");
        }
    }

    pub(crate) fn kill(&mut self, backend: BackendId) {
        self.nodes[backend.index()].dead = true;
        self.cut(backend);
    }

    /// All connections to it are reset.
    pub(crate) fn cut(&mut self, backend: BackendId) {
        for (connection, this) in &mut self.connections {
            if connection.backend == backend {
                this.closed = true;
                this.commands.clear();
                this.answers.clear();
            }
        }
    }

    /// The answer that is under way from it is another one.
    pub(crate) fn forge_answer(&mut self, backend: BackendId, answer: &[u8]) {
        let mut answers = self
            .connections
            .iter_mut()
            .filter(|(connection, _)| connection.backend == backend)
            .flat_map(|(_, this)| this.answers.iter_mut());
        *answers.next().unwrap() = answer.to_vec();
    }

    /// How often it was told a command that begins so.
    pub(crate) fn told(&self, backend: BackendId, start: &str) -> usize {
        let told = &self.nodes[backend.index()].told;
        told.iter()
            .filter(|command| command.starts_with(start))
            .count()
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.connections.len()
    }

    // -- Steps --

    /// Runs until nothing can happen at this moment.
    pub(crate) fn settle_down(&mut self) {
        self.until(|_, _| false);
    }

    /// Runs until `done` or nothing can happen at this moment. Whether it was done.
    pub(crate) fn until(&mut self, mut done: impl FnMut(&mut Self, &Step) -> bool) -> bool {
        for _ in 0..1_000_000 {
            let Some(step) = self.step(0) else {
                return false;
            };
            if done(self, &step) {
                return true;
            }
        }
        panic!("the healer never rests");
    }

    /// Runs until the backend has executed a command that begins so.
    pub(crate) fn until_executed(&mut self, backend: BackendId, start: &str) {
        let wanted = |_: &mut Self, step: &Step| matches!(step, Step::Executed(id, command) if *id == backend && command.starts_with(start));
        assert!(self.until(wanted), "{backend} is never told {start}");
    }

    /// Time passes, and all that happens in it.
    pub(crate) fn pass_ms(&mut self, ms: u64) {
        self.pass_ms_with(ms, |_, _| {});
    }

    /// The same; `after` acts after each step.
    pub(crate) fn pass_ms_with(&mut self, ms: u64, mut after: impl FnMut(&mut Self, &Step)) {
        let end = self.now.after_ms(ms);
        let mut run = |lab: &mut Self| {
            lab.until(|lab, step| {
                after(lab, step);
                false
            })
        };
        run(self);
        for _ in 0..10_000_000 {
            let Some(due) = self.due.filter(|&due| due <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(due);
            self.handle(Input::Tick);
            run(self);
        }
        panic!("the healer wakes up all the time");
    }

    /// The healer stands still.
    pub(crate) fn stall_ms(&mut self, ms: u64) {
        self.now = self.now.after_ms(ms);
        let for_ns = ms * 1_000_000;
        self.handle(Input::Stalled { for_ns });
    }

    /// The next thing that can happen; `choice` picks among connections.
    pub(crate) fn step(&mut self, choice: usize) -> Option<Step> {
        let actions: Vec<(HealConnection, Action)> = self
            .connections
            .iter()
            .filter_map(|(&connection, this)| Some((connection, self.action(connection, this)?)))
            .collect();
        if actions.is_empty() {
            return None;
        }
        self.turn += 1 + choice;
        let (connection, action) = actions[self.turn % actions.len()];
        Some(self.act(connection, action))
    }

    fn action(&self, connection: HealConnection, this: &Connection) -> Option<Action> {
        let node = &self.nodes[connection.backend.index()];
        let next = this.commands.front();
        if self.walk_stalls && next.is_some_and(|command| command.starts_with(b"lru_crawler")) {
            return None;
        }
        match this.stage {
            _ if this.closed => Some(Action::Close),
            Stage::Connecting => Some(Action::Connect),
            Stage::Connected => self.verifies.then_some(Action::Verify),
            Stage::Verified if !this.answers.is_empty() && self.turn.is_multiple_of(2) => {
                Some(Action::Answer)
            }
            Stage::Verified if !this.commands.is_empty() && !node.stopped => Some(Action::Execute),
            Stage::Verified => (!this.answers.is_empty()).then_some(Action::Answer),
        }
    }

    fn act(&mut self, connection: HealConnection, action: Action) -> Step {
        let backend = connection.backend;
        let this = self.connections.get_mut(&connection).unwrap();
        match action {
            Action::Close => {
                self.connections.remove(&connection);
                self.handle(Input::Lost(connection, Failure::Reset));
                Step::Lost(connection)
            }
            Action::Connect if self.nodes[backend.index()].dead => {
                self.connections.remove(&connection);
                self.handle(Input::Lost(connection, Failure::Refused));
                Step::Lost(connection)
            }
            Action::Connect => {
                this.stage = Stage::Connected;
                self.handle(Input::Connected(connection));
                Step::Connected(connection)
            }
            Action::Verify => {
                this.stage = Stage::Verified;
                let generation = connection.generation;
                self.handle(Input::Verified(ConnectionId {
                    backend,
                    generation,
                }));
                Step::Verified(connection)
            }
            Action::Execute => {
                let command = this.commands.pop_front().unwrap();
                let node = &mut self.nodes[backend.index()];
                let mut out = Vec::new();
                let now = node.time(self.now);
                let next = this
                    .session
                    .receive(&mut node.store, now, &command, &mut out);
                assert_eq!(next, Next::Continue, "a node hangs up on the healer");
                // So many lines that nothing else would ever happen.
                let stats = command.starts_with(b"stats").then_some(STATS_PIECE_LEN);
                let len = self.answer_len.max(stats.unwrap_or(1));
                let len = len.min(out.len().max(1));
                this.answers.extend(out.chunks(len).map(<[u8]>::to_vec));
                let command = String::from_utf8_lossy(&command).into_owned();
                node.told.push(command.clone());
                Step::Executed(backend, command)
            }
            Action::Answer => {
                let answer = this.answers.pop_front().unwrap();
                self.handle(Input::Data(connection, &answer));
                Step::Heard(backend, String::from_utf8_lossy(&answer).into_owned())
            }
        }
    }

    /// A moment passes, or a little more.
    pub(crate) fn tick(&mut self, ms: u64) {
        self.now = self.now.after_ms(ms);
        if self.due.is_some_and(|due| due <= self.now) {
            self.handle(Input::Tick);
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.healer.handle(self.now, input);
        loop {
            let settled = loop {
                match self.healer.poll(self.now) {
                    Output::Wait(due) => {
                        self.due = due;
                        break None;
                    }
                    Output::Report(Report::Acknowledged { epoch }) => {
                        self.reports.push(Report::Acknowledged { epoch });
                        if self.settles {
                            break Some(epoch);
                        }
                    }
                    output @ (Output::Connect(_)
                    | Output::Disconnect(_)
                    | Output::Write(..)
                    | Output::Report(_)) => self.perform(output),
                }
            };
            let Some(epoch) = settled else {
                return;
            };
            // What else it had to say comes first.
            loop {
                match self.healer.poll(self.now) {
                    Output::Wait(_) => break,
                    output @ (Output::Connect(_)
                    | Output::Disconnect(_)
                    | Output::Write(..)
                    | Output::Report(_)) => self.perform(output),
                }
            }
            self.healer.handle(self.now, Input::Settled(epoch));
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Connect(connection) => {
                let this = Connection {
                    stage: Stage::Connecting,
                    session: Session::new(),
                    commands: VecDeque::new(),
                    answers: VecDeque::new(),
                    partial: Vec::new(),
                    closed: false,
                };
                assert!(self.connections.insert(connection, this).is_none());
            }
            Output::Disconnect(connection) => {
                self.connections.remove(&connection);
            }
            Output::Write(connection, bytes) => {
                let this = self.connections.get_mut(&connection).unwrap();
                assert!(this.stage == Stage::Verified, "it writes before it may");
                this.partial.extend(bytes);
                while let Some(len) = command_len(&this.partial) {
                    let rest = this.partial.split_off(len);
                    let command = std::mem::replace(&mut this.partial, rest);
                    this.commands.push_back(command);
                }
            }
            Output::Report(report) => self.reports.push(report),
            Output::Wait(_) => unreachable!("the caller stops there"),
        }
    }
}

fn empty_store() -> Store {
    Store::new(StoreConfig {
        unix_start_s: UNIX_START_S,
        ..StoreConfig::default()
    })
}

/// Answers to `stats` do not arrive in smaller pieces.
const STATS_PIECE_LEN: usize = 400;

/// The length of the command at the start, its value included.
fn command_len(bytes: &[u8]) -> Option<usize> {
    let line_len = bytes.iter().position(|&byte| byte == b'\n')? + 1;
    if !bytes.starts_with(b"ms ") {
        return Some(line_len);
    }
    let line = std::str::from_utf8(&bytes[..line_len]).unwrap();
    let value_len: usize = line.split(' ').nth(2).unwrap().parse().unwrap();
    let len = line_len + value_len + 2;
    (bytes.len() >= len).then_some(len)
}
