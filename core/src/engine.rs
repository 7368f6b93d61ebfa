//! One worker: what happens to requests, from a client's bytes to its answer.
//!
//! ```text
//!  client bytes ──> clients ──> Exchange ──> reads / writes ──> backends ──> bytes to backends
//!                      ^                                            │
//!  client bytes <──────┴───────── Exchange is done <────────────────┴──────< bytes from backends
//! ```
//!
//! | question | module |
//! | --- | --- |
//! | When is a client read, when closed? | `clients`, `upload`, `direct` |
//! | What becomes of a request? | `start`, `exchange` |
//! | Whom is it sent to, in which order? | `reads`, `writes`, `locks`, `slots`, `lock_order`, `broadcast` |
//! | What leaves for a backend, when? | `backends`, `gather`, `encode`, `explicit` |
//! | Whose answer is this? | `answers` |
//! | How does it reach the client? | `replies`, `send_queue` |
//! | And if the client speaks binary? | `binary` |
//! | And if it asks who else there is? | `discovery` |
//! | Who is it, and what may it do? | `auth`, `rights` |
//! | What if a backend is silent? | `hedge` |
//! | What did a backend miss? | `purge`, `remembered` |
//!
//! The caller owns the sockets and the clock. It gives [`Engine::handle`] one [`Input`] after the other,
//! ends each turn of its loop with [`Input::TurnEnd`], and drains [`Engine::poll`] until that says
//! [`Output::Wait`].
//!
//! # Invariants
//!
//! - Every exchange that wants an answer gets exactly one, in the order of its client's requests
//!   (`replies`: only the head of a client's queue is written out).
//! - An answer is matched to the oldest request of the backend's pipeline. One that fits no request closes
//!   that connection (`answers`).
//! - For one key, writes reach a backend in the order of their arrival: one connection per backend. Where a key
//!   has a second copy one write is under way at a time, in all workers (`locks`, `slots`).
//! - Bytes leave only at the end of a turn, so that many requests share a write.
//!
//! Not here: which backend has a key (`placement`), whether a backend is up (`keeper`).

mod answers;
mod auth;
mod backends;
mod binary;
mod broadcast;
mod clients;
mod direct;
mod discovery;
mod encode;
mod exchange;
mod explicit;
mod fill;
mod gather;
mod hedge;
#[cfg(any(test, fuzzing))]
mod laws;
mod lock_order;
mod locks;
mod purge;
mod reads;
mod remembered;
mod replies;
mod rights;
mod send_queue;
mod slots;
mod start;
mod upload;
mod writes;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use crate::auth::{Checked, Credentials, Users};
use crate::breaks::{Break, Breaks};
use crate::cas::Versions;
use crate::config::{Config, DeadRead, Flush, Hedge, Limits, ProcessInfo};
use crate::keeper::{Failure, Report};
use crate::placement::{Phase, Placement, Plan, Standing, View, plan};
use crate::proto::ParseLimits;
use crate::stats::{Counter, Counters, Progress};
use crate::{BackendId, Time, WorkerId};

use backends::Backend;
use broadcast::Broadcast;
use clients::{Client, Turns};
use exchange::{ExchangeId, Exchanges, Kind};
use locks::{Granted, Locks};
use send_queue::Pool;

#[cfg(any(test, fuzzing))]
pub use laws::fuzz_auth;
pub use slots::Slots;

/// A client connection of one worker. Numbers are used again, with another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId {
    /// Position in a dense table.
    pub index: u32,
    /// How often the position had been used before.
    pub generation: u32,
}

/// A connection to a backend. There is at most one per worker and backend at a time; a later one has a
/// higher generation, and what arrives for an earlier one is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    /// The backend.
    pub backend: BackendId,
    /// How often a connection to it had been asked for before.
    pub generation: u32,
}

/// Something has happened outside.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Bytes from a client.
    ClientData(ClientId, &'a [u8]),
    /// So many bytes from a client, at the end of what [`Engine::client_room`] has just lent.
    ClientFilled(ClientId, usize),
    /// A client will send no more. What it asked for is still answered.
    ClientEnd(ClientId),
    /// A client's connection is gone.
    ClientLost(ClientId),
    /// What came of [`Output::Check`].
    Checked(ClientId, &'a Checked),
    /// The users are these from now on.
    Users(&'a Arc<Users>),
    /// A connection that was asked for is there.
    BackendConnected(ConnectionId),
    /// It leads to the process that the View is about.
    Verified(ConnectionId),
    /// Bytes from a backend.
    BackendData(ConnectionId, &'a [u8]),
    /// So many bytes from a backend, at the end of what [`Engine::backend_room`] has just lent.
    BackendFilled(ConnectionId, usize),
    /// A connection could not be made, or is gone.
    BackendLost(ConnectionId, Failure),
    /// The keeper has decided something.
    View(&'a Arc<View>),
    /// All workers have acknowledged this epoch.
    Settled(u64),
    /// Another worker said [`Output::WakeWorkers`].
    SlotsFreed,
    /// Finish what is under way and close clients that wait for nothing.
    Drain,
    /// The caller had nothing to do before this turn: who often waits has time to spare, so that nothing needs to
    /// gather.
    Idle {
        /// From then on.
        since: Time,
    },
    /// The caller stood still, before what this turn brings: nobody was late for that.
    Stalled {
        /// For how long, in nanoseconds.
        for_ns: u64,
    },
    /// All that this turn brought has been handed in: what was gathered may leave.
    TurnEnd,
}

/// Something is to be done outside.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Connect to the backend of this id; report `BackendConnected` or `BackendLost`.
    Connect(ConnectionId),
    /// Close this connection; nothing is to be reported for it.
    Disconnect(ConnectionId),
    /// Write what [`Engine::backend_slices`] has; report with [`Engine::backend_sent`].
    WriteBackend(ConnectionId),
    /// Write what [`Engine::client_slices`] has; report with [`Engine::client_sent`].
    WriteClient(ClientId),
    /// Read from this client again: it had been held back ([`Engine::wants_client_data`]).
    ReadClient(ClientId),
    /// Close this client; its id is free for use.
    CloseClient(ClientId),
    /// Find out whether a client is who it says; report with [`Input::Checked`].
    Check(ClientId, Credentials),
    /// For the keeper.
    Report(Report),
    /// For the healer, before any later report of this worker reaches the keeper: this backend lacks these
    /// keys, by their placement, if their authority has them.
    Recopy(BackendId, Vec<Box<[u8]>>),
    /// For the healer, likewise: this backend, which has returned, may hold old items of these keys.
    Missed(BackendId, Vec<Box<[u8]>>),
    /// Give every other worker [`Input::SlotsFreed`]: a write of one of them may wait for what this one was
    /// writing. At most once per turn.
    WakeWorkers,
    /// Where a request went, if `trace_routes` is set.
    Route(RouteTrace),
    /// Nothing to do before this moment, or before something happens.
    Wait(Option<Time>),
}

/// Where a request went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTrace {
    /// Who asked.
    pub client: Option<ClientId>,
    /// The command.
    pub verb: &'static str,
    /// The key; can be a session id.
    pub key: Box<[u8]>,
    /// Whose answer counts; `None` if every backend of the key is down.
    pub authority: Option<BackendId>,
    /// Who is told as well.
    pub follower: Option<BackendId>,
}

/// What the workers of one process share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Where keys live.
    pub placement: Arc<Placement>,
    /// By worker, in order of their ids.
    pub counters: Arc<Vec<Counters>>,
    /// By backend: what was missed, and what is being copied.
    pub progress: Arc<Vec<Progress>>,
    /// Who may write which keys.
    pub slots: Arc<Slots>,
}

impl Shared {
    /// For as many workers as are configured.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let counters = (0..config.workers).map(|_| Counters::default()).collect();
        let progress = config
            .backends
            .iter()
            .map(|_| Progress::default())
            .collect();
        Self {
            placement: Arc::new(Placement::new(config)),
            counters: Arc::new(counters),
            progress: Arc::new(progress),
            slots: Arc::new(Slots::new(config.workers)),
        }
    }
}

/// One worker. See the module's page.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not exclude each other"
)]
pub struct Engine {
    worker: WorkerId,
    limits: Limits,
    parse_limits: ParseLimits,
    /// `None` where nobody has to log in.
    users: Option<Arc<Users>>,
    flush: Flush,
    dead_read: DeadRead,
    hedge: Hedge,
    trace_routes: bool,
    fill: fill::Fill,
    breaks: Breaks,
    has_backups: bool,
    /// This worker's share of `memory_max`, less a quarter of it for exchanges.
    memory_len_max: u64,
    memory_len: u64,

    placement: Arc<Placement>,
    view: Arc<View>,
    /// Whether a backend of it is known not to understand meta commands.
    lacks_meta: bool,
    settled: u64,
    acknowledged: u64,
    /// Writes under way that were sent under the epoch in force, and under earlier ones.
    writes_of_epoch: usize,
    writes_of_older: usize,
    all_counters: Arc<Vec<Counters>>,
    /// By backend.
    progress: Arc<Vec<Progress>>,
    started: Time,
    /// When the turn under way began.
    turn_at: Time,
    process: ProcessInfo,
    /// What clients with auto discovery are told, if anything.
    cluster: Option<Vec<u8>>,
    versions: Versions,
    /// By backend: its address, for statistics and errors.
    names: Vec<String>,
    /// By backend: whether it is in the list of primaries.
    is_primary: Vec<bool>,

    clients: Vec<Client>,
    clients_free: Vec<u32>,
    clients_open: usize,
    exchanges: Exchanges,
    backends: Vec<Backend>,
    broadcasts: Vec<(ExchangeId, Broadcast)>,
    locks: Locks,
    /// What waits for an epoch: conditional writes, and all that has no authority at the moment.
    awaiting_epoch: Vec<ExchangeId>,
    /// When the last `flush_all` of a client takes effect, if it was to do so later.
    delayed_flush: Option<Time>,
    /// Of the clients' averages, by how often they are answered.
    answer_len_average: usize,
    /// Diverted writes whose acknowledgement is held until their epoch has settled.
    held: Vec<ExchangeId>,

    pool: Pool,
    batch_pool: Vec<Vec<ExchangeId>>,
    /// Batches for which clients took turns (`gather`).
    shared_batches: u64,
    /// Holds one line while it is made.
    scratch: Vec<u8>,
    /// Holds what was read behind a payload.
    behind: Vec<u8>,
    dirty_clients: Vec<ClientId>,
    turns: Turns,
    dirty_backends: Vec<BackendId>,
    outputs: VecDeque<Output>,
    /// No deadline of a backend is earlier than this.
    backends_due: Option<Time>,
    draining: bool,
    turn_open: bool,
    /// Until when the worker has time to spare, because it had to wait.
    idle_until: Time,
    /// [`Backend::in_flight`] of all backends.
    in_flight: u64,
    /// Clients that wait for an answer.
    clients_waiting: u64,
    /// Whether requests are held for those of clients that were answered in this turn.
    holds_for_turn: bool,
}

impl Engine {
    /// A worker without clients.
    #[must_use]
    pub fn new(worker: WorkerId, config: &Config, shared: Shared, now: Time) -> Self {
        let slots = if config.breaks.has(Break::OneWriter) {
            Arc::new(Slots::new(1))
        } else {
            shared.slots
        };
        let limits = config.limits.clone();
        let backend = || Backend::new(&limits, u64::from(config.workers.max(1)));
        Self {
            worker,
            parse_limits: parse_limits(&limits),
            users: config.users.clone(),
            flush: config.flush,
            dead_read: config.dead_read,
            hedge: config.hedge,
            trace_routes: config.trace_routes,
            fill: fill::Fill::default(),
            breaks: config.breaks,
            has_backups: config.has_backups(),
            memory_len_max: limits.memory_max / u64::from(config.workers.max(1)) / 4 * 3,
            memory_len: 0,
            placement: shared.placement,
            view: Arc::new(View::initial(config.backends.len())),
            lacks_meta: false,
            settled: 0,
            acknowledged: 0,
            writes_of_epoch: 0,
            writes_of_older: 0,
            all_counters: shared.counters,
            progress: shared.progress,
            started: now,
            turn_at: now,
            process: config.process,
            cluster: discovery::list(config),
            versions: Versions::new(config.process, worker),
            names: config.backends.iter().map(ToString::to_string).collect(),
            is_primary: backends::are_primary(config),
            clients: Vec::new(),
            clients_free: Vec::new(),
            clients_open: 0,
            exchanges: Exchanges::default(),
            backends: config.backends.iter().map(|_| backend()).collect(),
            broadcasts: Vec::new(),
            locks: Locks::new(slots),
            awaiting_epoch: Vec::new(),
            delayed_flush: None,
            answer_len_average: clients::ANSWER_LEN_FIRST,
            held: Vec::new(),
            pool: Pool::default(),
            batch_pool: Vec::new(),
            shared_batches: 0,
            scratch: Vec::new(),
            behind: Vec::new(),
            dirty_clients: Vec::new(),
            turns: Turns::default(),
            dirty_backends: Vec::new(),
            outputs: VecDeque::new(),
            backends_due: None,
            draining: false,
            turn_open: false,
            idle_until: Time(0),
            in_flight: 0,
            clients_waiting: 0,
            holds_for_turn: false,
            limits,
        }
    }

    /// Takes in one thing that has happened. Drain [`Self::poll`] before the loop waits again.
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        self.turn_at = now;
        let turn_ends = matches!(input, Input::TurnEnd);
        match input {
            Input::ClientData(client, data) => self.on_client_data(now, client, data),
            Input::ClientFilled(client, count) => self.on_client_filled(now, client, count),
            Input::ClientEnd(client) => self.on_client_end(client),
            Input::ClientLost(client) => self.on_client_lost(client),
            Input::Checked(client, checked) => self.on_checked(client, checked),
            Input::Users(users) => self.on_users(users),
            Input::BackendConnected(connection) => self.on_backend_connected(now, connection),
            Input::Verified(connection) => self.on_verified(now, connection),
            Input::BackendData(connection, data) => self.on_backend_data(now, connection, data),
            Input::BackendFilled(connection, count) => {
                self.on_backend_filled(now, connection, count);
            }
            Input::BackendLost(connection, failure) => {
                self.on_backend_lost(now, connection, failure);
            }
            Input::View(view) => self.on_view(now, view),
            Input::Settled(epoch) => self.on_settled(now, epoch),
            Input::SlotsFreed => self.locks.look_at_queued(),
            Input::Drain => self.on_drain(),
            Input::Idle { since } => self.on_idle(now, since),
            Input::Stalled { for_ns } => self.on_stalled(now, for_ns),
            Input::TurnEnd => self.on_turn_end(now),
        }
        self.work_off_ready(now);
        self.turn_open = !turn_ends;
    }

    /// What to do next; call until it says [`Output::Wait`], and give [`Input::TurnEnd`] before waiting.
    pub fn poll(&mut self, now: Time) -> Output {
        if !self.turn_open {
            self.expire(now);
        }
        match self.outputs.pop_front() {
            Some(output) => {
                // Before the caller has heard of it, it would take a new client for the old one.
                if let Output::CloseClient(client) = output {
                    self.clients_free.push(client.index);
                }
                output
            }
            None => Output::Wait(self.next_deadline()),
        }
    }

    /// Whether nothing is under way and no client is left.
    #[must_use]
    pub const fn is_drained(&self) -> bool {
        self.clients_open == 0 && self.exchanges.len() == 0 && self.locks.is_empty()
    }

    /// Bytes that wait to be written to a client: as many pieces as `slices` takes.
    pub fn client_slices<'a>(&'a self, client: ClientId, slices: &mut [IoSlice<'a>]) -> usize {
        self.client(client)
            .map_or(0, |client| client.unsent.slices(slices))
    }

    /// Bytes that wait to be written to a backend: as many pieces as `slices` takes.
    pub fn backend_slices<'a>(
        &'a self,
        connection: ConnectionId,
        slices: &mut [IoSlice<'a>],
    ) -> usize {
        let backend = &self.backends[connection.backend.index()];
        if backend.is_open(connection) {
            backend.unsent.slices(slices)
        } else {
            0
        }
    }

    /// One holder of an exchange less. What the last one leaves behind is given back.
    fn release(&mut self, exchange: ExchangeId) {
        if self.exchanges[exchange].refs == 1 {
            self.free_payload(exchange);
            self.drop_reply(exchange);
            self.drop_hedge_reply(exchange);
        }
        self.exchanges.release(exchange);
    }

    fn counters(&self) -> &Counters {
        &self.all_counters[self.worker.index()]
    }

    fn count(&self, counter: Counter) {
        self.counters().add(counter, 1);
    }

    /// What `backend` can be to a key at this moment: the keeper's View, corrected by what this worker has
    /// just seen itself.
    fn standing(&self, backend: BackendId) -> Standing {
        let view = &self.view.backends[backend.index()];
        if self.has_seen_fail(backend) {
            return Standing::Absent;
        }
        match view.standing() {
            Standing::Junior(_) if self.breaks.has(Break::Seniority) => Standing::Junior(0),
            standing @ (Standing::InStep
            | Standing::Junior(_)
            | Standing::Following
            | Standing::Absent) => standing,
        }
    }

    /// What the CAS uniques of `backend` are marked with. Without backups a key has one authority for ever.
    fn mark(&self, backend: BackendId) -> u16 {
        if self.has_backups {
            self.view.backends[backend.index()].mark
        } else {
            0
        }
    }

    fn plan(&self, primary: BackendId, backup: Option<BackendId>) -> Plan {
        // Where only this worker knows of a failure, a junior may hold copies that were not looked at again.
        let leads = |backend, partner: Option<BackendId>| match self.standing(backend) {
            Standing::Junior(_) if partner.is_some_and(|partner| self.has_seen_fail(partner)) => {
                Standing::Following
            }
            standing @ (Standing::InStep
            | Standing::Junior(_)
            | Standing::Following
            | Standing::Absent) => standing,
        };
        plan(
            (primary, leads(primary, backup)),
            backup.map(|backup| (backup, leads(backup, Some(primary)))),
        )
    }

    /// Whether this worker has seen `backend` fail and its View does not say so yet.
    fn has_seen_fail(&self, backend: BackendId) -> bool {
        let view = &self.view.backends[backend.index()];
        self.backends[backend.index()].failed_incarnation == Some(view.incarnation)
            && !self.breaks.has(Break::OwnFailure)
    }

    /// What waits for the next View, in order of arrival.
    fn await_epoch(&mut self, exchange: ExchangeId) {
        self.exchanges.retain(exchange);
        self.awaiting_epoch.push(exchange);
    }

    /// Whether no worker reads `backend` any more, if it is absent.
    fn absence_is_settled(&self, backend: BackendId) -> bool {
        let view = &self.view.backends[backend.index()];
        match self.standing(backend) {
            Standing::InStep | Standing::Junior(_) | Standing::Following => true,
            Standing::Absent => view.phase == Phase::Down && view.since_epoch <= self.settled,
        }
    }

    fn on_view(&mut self, now: Time, view: &Arc<View>) {
        assert!(view.epoch > self.view.epoch, "the keeper's epochs grow");
        let before = std::mem::replace(&mut self.view, Arc::clone(view));
        self.lacks_meta = view.without_meta().next().is_some();
        self.fill.on_view(&before, view);
        self.writes_of_older += self.writes_of_epoch;
        self.writes_of_epoch = 0;
        for (index, (was, is)) in before.backends.iter().zip(&view.backends).enumerate() {
            let id = backends::backend_id(index);
            if is.since_epoch != was.since_epoch {
                self.backends[index].phase_since = now;
            }
            if is.incarnation != was.incarnation {
                // The failure may have been seen by another worker only.
                self.set_suspect(id, false);
                self.abandon_backend(now, id);
                self.backends[index].failed_incarnation = None;
                self.backends[index].absent_since = now;
            }
            if is.phase == Phase::Purging && is.since_epoch != was.since_epoch {
                self.start_purge(now, id, is);
            }
            if is.phase != Phase::Down && was.phase != is.phase {
                // Without a connection nobody would notice its next restart.
                self.connect(now, id);
            }
        }
        self.go_on_after_epoch(now);
        self.acknowledge();
    }

    fn on_settled(&mut self, now: Time, epoch: u64) {
        self.settled = self.settled.max(epoch);
        self.go_on_after_epoch(now);
    }

    /// What waited for an epoch looks again.
    fn go_on_after_epoch(&mut self, now: Time) {
        for exchange in std::mem::take(&mut self.awaiting_epoch) {
            match self.exchanges[exchange].kind {
                Kind::Fetch(_) | Kind::Read => self.dispatch_read(now, exchange),
                Kind::Write => self.start_write(now, exchange),
                Kind::Local | Kind::Upload | Kind::Broadcast => {
                    unreachable!("only reads and writes wait for an epoch")
                }
            }
            self.release(exchange);
        }
        for exchange in std::mem::take(&mut self.held) {
            self.answer_write(exchange);
            self.release(exchange);
        }
        self.finish_held_broadcasts();
    }

    /// Tells the keeper when no write of an earlier epoch is under way.
    fn acknowledge(&mut self) {
        if self.writes_of_older == 0 && self.acknowledged < self.view.epoch {
            self.acknowledged = self.view.epoch;
            let epoch = self.view.epoch;
            self.outputs
                .push_back(Output::Report(Report::Acknowledged { epoch }));
        }
    }

    fn on_drain(&mut self) {
        self.draining = true;
        for index in 0..self.clients.len() {
            if let Some(id) = self.clients[index].id_if_open(index) {
                self.stop_reading(id);
            }
        }
    }

    fn on_turn_end(&mut self, now: Time) {
        debug_assert_eq!(
            self.in_flight,
            self.backends.iter().map(Backend::in_flight).sum::<u64>(),
            "every request that leaves and every answer is counted"
        );
        debug_assert_eq!(
            self.clients_waiting,
            self.clients
                .iter()
                .map(|client| u64::from(!client.queue.is_empty()))
                .sum::<u64>(),
            "a client waits from its first request to its last answer"
        );
        self.expire(now);
        self.locks.look_at_queued();
        self.work_off_ready(now);
        self.resume_clients(now);
        self.work_off_ready(now);
        self.send_gathered(now);
        self.queue_writes();
        if self.locks.take_wake() {
            self.outputs.push_back(Output::WakeWorkers);
        }
        self.counters().set_clients_open(self.clients_open as u64);
        self.counters().set_memory_len(self.memory_len);
    }

    fn work_off_ready(&mut self, now: Time) {
        while let Some(granted) = self.locks.next_granted() {
            let exchange = match granted {
                Granted::Read(exchange) => {
                    self.route_read(now, exchange);
                    exchange
                }
                Granted::Write(exchange) => {
                    self.exchanges[exchange].write.holds_lock = true;
                    self.start_write(now, exchange);
                    exchange
                }
            };
            self.release(exchange);
        }
    }

    /// Turns the lists of touched connections into outputs.
    fn queue_writes(&mut self) {
        let Self {
            dirty_backends,
            backends,
            outputs,
            ..
        } = self;
        dirty_backends.retain(|&id| {
            let backend = &mut backends[id.index()];
            let held = backend.held_since.is_some();
            if !held && let Some(connection) = backend.writable(id) {
                outputs.push_back(Output::WriteBackend(connection));
            }
            // What is held is looked at again in each turn.
            backend.dirty = held;
            held
        });
        let mut dirty = std::mem::take(&mut self.dirty_clients);
        for client in dirty.drain(..) {
            self.finish_client_turn(client);
        }
        self.dirty_clients = dirty;
    }

    fn expire(&mut self, now: Time) {
        while let Some(oldest) = self.exchanges.oldest() {
            if self.exchanges[oldest]
                .arrived
                .after_ms(self.limits.request_ms)
                > now
            {
                break;
            }
            self.count(Counter::Timeouts);
            self.expire_exchange(oldest);
        }
        self.expire_broadcasts(now);
        if self.backends_due.is_some_and(|due| due <= now) {
            self.expire_backends(now);
        }
    }

    /// The process was stopped, or had no processor, while backends and the clock went on: what they said meanwhile
    /// has not been read, and what was to be sent was not. So no limit of time runs out for that.
    fn on_stalled(&mut self, now: Time, for_ns: u64) {
        self.exchanges.delay(now, for_ns);
        for (_, broadcast) in &mut self.broadcasts {
            broadcast.due = broadcast.due.map(|due| due.after_ns(for_ns));
        }
        for backend in &mut self.backends {
            backend.active_at = backend.active_at.after_ns(for_ns).min(now);
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        let more = !self.dirty_clients.is_empty()
            || !self.turns.yielded.is_empty()
            || self.holds_for_turn
            || self.locks.has_news();
        if more {
            return Some(Time(0));
        }
        let request = self.exchanges.oldest().map(|oldest| {
            self.exchanges[oldest]
                .arrived
                .after_ms(self.limits.request_ms)
        });
        let broadcast = self
            .broadcasts
            .iter()
            .filter_map(|(_, broadcast)| broadcast.due)
            .min();
        [request, broadcast, self.backends_due]
            .into_iter()
            .flatten()
            .min()
    }

    fn trace_route(&mut self, exchange: ExchangeId, verb: &'static str, plan: Plan) {
        if !self.trace_routes {
            return;
        }
        let exchange = &self.exchanges[exchange];
        self.outputs.push_back(Output::Route(RouteTrace {
            client: exchange.client,
            verb,
            key: exchange.key().into(),
            authority: plan.authority,
            follower: plan.follower.map(|follower| follower.backend),
        }));
    }
}

fn parse_limits(limits: &Limits) -> ParseLimits {
    let length = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
    ParseLimits {
        request_line_len_max: length(limits.request_line_len_max),
        get_line_len_max: length(limits.get_line_len_max),
        // The engine knows the key of a value that is too large, and drops the old one.
        value_len_max: u32::MAX,
    }
}
