//! Connections to backends: opened, used, lost and given up.
//!
//! # Invariants
//!
//! - A connection that fails with something unanswered is the backend's failure: reads are asked again,
//!   writes count as unknown ([`Engine::abandon_backend`]). Nothing is sent again that could have been executed,
//!   except reads.
//! - With backups, a new connection is used only once the keeper knows that the same process answers as before:
//!   one that was restarted meanwhile may be empty ([`Engine::on_verified`]).
//! - A request of a key never overtakes one of the same key that was gathered before it
//!   ([`Engine::send_to`]).
//! - Silence means something only while an answer is owed.
//!
//! Not here: what leaves in which batch (`gather`), what answers mean (`answers`), who is asked (`placement`),
//! what silence means (`hedge`).

use std::collections::VecDeque;

use super::exchange::{ExchangeId, Exchanges, Form, Verdict};
use super::explicit::{self, Sent};
use super::hedge::Gaps;
use super::remembered::Remembered;
use super::send_queue::{QUEUE_LEN_MIN, SendQueue};
use super::{ConnectionId, Engine, Output};
use crate::breaks::Break;
use crate::cas;
use crate::config::{Config, Limits};
use crate::keeper::{Failure, Report};
use crate::proto::GetVerb;
use crate::stats::Counter;
use crate::{BackendId, Time};

/// One backend as one worker sees it.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(super) generation: u32,
    pub(super) link: Link,
    /// What is owed, oldest first.
    pub(super) pipeline: VecDeque<Pending>,
    /// The payload that is arriving.
    pub(super) receiving: Option<Receiving>,
    /// A part of a line.
    pub(super) inbox: Vec<u8>,
    /// Bytes of its last value and the line before it if that was large, else 0.
    pub(super) large_len: usize,
    pub(super) unsent: SendQueue,
    /// Requests that were queued since it was last let go.
    pub(super) unsent_count: u64,
    /// Since when requests that could leave wait for others to go with them.
    pub(super) held_since: Option<Time>,
    pub(super) gathers: [Gather; 2],
    pub(super) batches_in_flight: u64,
    pub(super) batch_sent_at: Time,
    /// Bytes that have arrived for the batch in flight.
    pub(super) batch_answer_len: u64,
    /// Last byte from it, or when it began to owe something.
    pub(super) active_at: Time,
    /// How long it usually lets us wait for a byte.
    pub(super) gaps: Gaps,
    /// Whether it has been silent for so long that what it owes is asked elsewhere too.
    pub(super) suspect: bool,
    pub(super) connected_at: Time,
    /// When a connection that was lost in silence is opened again, unless it is needed before.
    pub(super) reconnect_at: Option<Time>,
    /// The incarnation that this worker saw fail, until the keeper's View says so too.
    pub(super) failed_incarnation: Option<u32>,
    /// When its View last said that it had failed.
    pub(super) absent_since: Time,
    pub(super) remembered: Remembered,
    /// How many keys that are, as others see it.
    pub(super) remembered_published: u64,
    /// Since when it is in its phase.
    pub(super) phase_since: Time,
    pub(super) purge: Option<Purge>,
    pub(super) dirty: bool,
    /// Whether it is in the engine's list of those to look at when the turn ends.
    pub(super) gathering: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Idle,
    Connecting,
    /// There, but who answers? The keeper asks.
    Verifying,
    Open,
}

/// A request that a backend owes an answer to.
#[derive(Debug)]
pub(super) enum Pending {
    Batch {
        keys: Vec<ExchangeId>,
        next: usize,
    },
    One {
        exchange: ExchangeId,
        leg: Leg,
        form: Form,
    },
    Purge,
}

/// Which of an exchange's requests this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leg {
    /// A meta read.
    Read,
    /// A write at the authority.
    Authority,
    /// A write, or its outcome, at the follower.
    Follower,
    /// The deletion of a copy that may disagree.
    Mend,
    /// One of many: `flush_all`, `stats`.
    Broadcast,
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not exclude each other"
)]
pub(super) struct Receiving {
    pub(super) exchange: ExchangeId,
    /// Payload bytes to come, CR LF included.
    pub(super) remaining: usize,
    /// Whether nobody wants them.
    pub(super) discard: bool,
    /// The last byte that has come, for the check of a CR LF that is cut in two.
    pub(super) last_byte: u8,
    /// Whether the value answers a key of a batch.
    pub(super) of_batch: bool,
    /// Whether it is a follower's: to be compared, or a hedge's.
    pub(super) of_follower: bool,
    /// Whether it is forwarded as it arrives.
    pub(super) stream: bool,
}

/// Keys that wait to be asked for, oldest first. They leave in batches.
#[derive(Debug, Default)]
pub(super) struct Gather {
    pub(super) keys: VecDeque<ExchangeId>,
    /// Bytes of their line, its verb not counted.
    pub(super) len: usize,
}

impl Gather {
    pub(super) fn holds(&self, hash: u64, exchanges: &Exchanges) -> bool {
        self.keys.iter().any(|&key| exchanges[key].hash == hash)
    }
}

/// Which batches leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// Those whose time has come.
    Due,
    /// All, because a request that follows must not overtake them.
    All,
}

#[derive(Debug)]
pub(super) struct Purge {
    pub(super) incarnation: u32,
    pub(super) keys: Vec<Box<[u8]>>,
    pub(super) next: usize,
    pub(super) outstanding: u64,
}

/// A connection that was closed with nothing unanswered is opened again when it would have lasted this long.
const RECONNECT_MS: u64 = 1_000;

pub(super) const VERBS: [&[u8]; 2] = [b"get", b"gets"];

pub(super) const fn gather_index(verb: GetVerb) -> usize {
    match verb {
        GetVerb::Get => 0,
        GetVerb::Gets => 1,
    }
}

impl Backend {
    pub(crate) fn new(limits: &Limits, workers: u64) -> Self {
        Self {
            generation: 0,
            link: Link::Idle,
            pipeline: VecDeque::new(),
            receiving: None,
            inbox: Vec::new(),
            large_len: 0,
            unsent: SendQueue::default(),
            unsent_count: 0,
            held_since: None,
            gathers: [Gather::default(), Gather::default()],
            batches_in_flight: 0,
            batch_sent_at: Time(0),
            batch_answer_len: 0,
            active_at: Time(0),
            gaps: Gaps::default(),
            suspect: false,
            connected_at: Time(0),
            reconnect_at: None,
            failed_incarnation: None,
            absent_since: Time(0),
            remembered: Remembered::new(
                (limits.remembered_keys_max / workers).max(1),
                (limits.remembered_len_max / workers).max(1),
            ),
            remembered_published: 0,
            phase_since: Time(0),
            purge: None,
            dirty: false,
            gathering: false,
        }
    }

    const fn connection(&self, backend: BackendId) -> ConnectionId {
        ConnectionId {
            backend,
            generation: self.generation,
        }
    }

    pub(crate) fn is_open(&self, connection: ConnectionId) -> bool {
        self.link == Link::Open && self.generation == connection.generation
    }

    /// The connection, if it is there and something waits to be written.
    pub(crate) fn writable(&self, backend: BackendId) -> Option<ConnectionId> {
        (self.link == Link::Open && !self.unsent.is_empty()).then(|| self.connection(backend))
    }

    /// Whether it owes something, so that its silence means something.
    fn owes(&self) -> bool {
        matches!(self.link, Link::Connecting | Link::Verifying) || !self.pipeline.is_empty()
    }

    /// Requests and batches that have left and are about to be answered: of one that is suspect none.
    pub(super) fn in_flight(&self) -> u64 {
        if self.suspect {
            return 0;
        }
        (self.pipeline.len() as u64).saturating_sub(self.unsent_count)
    }

    fn holds_gathered(&self, hash: u64, exchanges: &Exchanges) -> bool {
        self.gathers
            .iter()
            .any(|gather| gather.holds(hash, exchanges))
    }
}

impl Engine {
    /// `count` bytes have been written to this backend.
    pub fn backend_sent(&mut self, now: Time, connection: ConnectionId, count: usize) {
        let Self { backends, pool, .. } = self;
        let backend = &mut backends[connection.backend.index()];
        if !backend.is_open(connection) {
            return;
        }
        // Progress of a long upload is a sign of life; what merely fits into the kernel's buffers is not.
        if count > 0 && backend.unsent.len() > 8 * QUEUE_LEN_MIN {
            backend.active_at = now;
        }
        backend.unsent.consume(count, pool);
        self.counters()
            .add(Counter::BackendBytesWritten, count as u64);
    }

    /// Opens the connections that will be needed, so that a backend that is down is noticed at the start.
    pub fn connect_all(&mut self, now: Time) {
        for index in 0..self.backends.len() {
            self.connect(now, backend_id(index));
        }
    }

    /// Connects, unless it is or will be.
    pub(super) fn connect(&mut self, now: Time, id: BackendId) {
        let backend = &mut self.backends[id.index()];
        if backend.link != Link::Idle {
            return;
        }
        backend.link = Link::Connecting;
        backend.reconnect_at = None;
        backend.generation += 1;
        backend.active_at = now;
        let connection = backend.connection(id);
        self.outputs.push_back(Output::Connect(connection));
        self.backend_is_due(now.after_ms(self.limits.fail_ms));
    }

    pub(super) fn backend_is_due(&mut self, at: Time) {
        self.backends_due = Some(self.backends_due.map_or(at, |due| due.min(at)));
    }

    pub(super) fn touch_backend(&mut self, id: BackendId) {
        let backend = &mut self.backends[id.index()];
        if !std::mem::replace(&mut backend.dirty, true) {
            self.dirty_backends.push(id);
        }
    }

    pub(super) fn on_backend_connected(&mut self, now: Time, connection: ConnectionId) {
        let backend = &mut self.backends[connection.backend.index()];
        if backend.link != Link::Connecting || backend.generation != connection.generation {
            return;
        }
        backend.connected_at = now;
        if self.has_backups && !self.breaks.has(Break::Identity) {
            // It may be empty: then what it lacks is asked at its partners.
            backend.link = Link::Verifying;
            let incarnation = self.view.backends[connection.backend.index()].incarnation;
            self.outputs.push_back(Output::Report(Report::Connected {
                connection,
                incarnation,
            }));
        } else {
            self.open(now, connection.backend);
        }
    }

    pub(super) fn on_verified(&mut self, now: Time, connection: ConnectionId) {
        let backend = &self.backends[connection.backend.index()];
        if backend.link == Link::Verifying && backend.generation == connection.generation {
            self.open(now, connection.backend);
        }
    }

    fn open(&mut self, now: Time, id: BackendId) {
        let backend = &mut self.backends[id.index()];
        backend.link = Link::Open;
        backend.active_at = now;
        // On its way here it has answered the keeper.
        self.trust(id, now);
        self.touch_backend(id);
    }

    pub(super) fn on_backend_lost(
        &mut self,
        now: Time,
        connection: ConnectionId,
        failure: Failure,
    ) {
        let id = connection.backend;
        let Self { backends, pool, .. } = self;
        let backend = &mut backends[id.index()];
        if backend.generation != connection.generation || backend.link == Link::Idle {
            return;
        }
        if backend.owes() && self.breaks.has(Break::LostConnection) {
            self.abandon_backend(now, id);
        } else if backend.owes() {
            backend.link = Link::Idle;
            self.fail_backend(now, id, failure);
        } else {
            // Nothing was unanswered, so nothing is unknown. Another is opened, to hear whether the backend is
            // still there, and the same; but not in a circle with one that closes whatever it accepts.
            let lived_ms = now.ms_since(backend.connected_at);
            backend.link = Link::Idle;
            backend.inbox.clear();
            // An error may answer a set whose payload has not left: it must not open the next connection.
            backend.unsent.clear(pool);
            backend.unsent_count = 0;
            backend.held_since = None;
            if backend.gathering || lived_ms >= RECONNECT_MS {
                self.connect(now, id);
            } else {
                let at = backend.connected_at.after_ms(RECONNECT_MS);
                backend.reconnect_at = Some(at);
                self.backend_is_due(at);
            }
        }
    }

    /// This worker has seen the backend fail: it is absent from here on, whatever the View says.
    pub(super) fn fail_backend(&mut self, now: Time, id: BackendId, failure: Failure) {
        let incarnation = self.view.backends[id.index()].incarnation;
        self.count(Counter::BackendFailures);
        if failure == Failure::Desync {
            self.count(Counter::Desyncs);
        }
        let backend = &mut self.backends[id.index()];
        backend.failed_incarnation = Some(incarnation);
        self.set_suspect(id, false);
        let report = Report::Failed {
            backend: id,
            incarnation,
            failure,
        };
        self.outputs.push_back(Output::Report(report));
        self.abandon_backend(now, id);
    }

    /// Closes the connection and finds another answer for all that it owed.
    pub(super) fn abandon_backend(&mut self, now: Time, id: BackendId) {
        let Self {
            backends,
            pool,
            outputs,
            in_flight,
            ..
        } = self;
        let backend = &mut backends[id.index()];
        if backend.link != Link::Idle {
            outputs.push_back(Output::Disconnect(backend.connection(id)));
            backend.link = Link::Idle;
        }
        *in_flight -= backend.in_flight();
        backend.unsent.clear(pool);
        backend.unsent_count = 0;
        backend.held_since = None;
        backend.inbox.clear();
        backend.reconnect_at = None;
        let receiving = backend.receiving.take();
        backend.batches_in_flight = 0;
        backend.gathering = false;
        backend.purge = None;
        let pipeline = std::mem::take(&mut backend.pipeline);
        let gathered: Vec<ExchangeId> = backend
            .gathers
            .iter_mut()
            .flat_map(|gather| std::mem::take(gather).keys)
            .collect();
        if let Some(receiving) = receiving.filter(|receiving| receiving.of_batch) {
            // The batch has gone on to the next key already.
            self.ask_again(now, receiving.exchange, id);
        }
        for pending in pipeline {
            match pending {
                Pending::Batch { keys, next } => {
                    for &key in &keys[next..] {
                        self.ask_again(now, key, id);
                    }
                }
                Pending::One {
                    exchange,
                    leg: Leg::Read,
                    ..
                } => self.ask_again(now, exchange, id),
                Pending::One {
                    exchange,
                    leg: Leg::Broadcast,
                    ..
                } => {
                    self.on_broadcast_lost(now, exchange, id);
                    self.release(exchange);
                }
                Pending::One { exchange, leg, .. } => {
                    if !self.breaks.has(Break::PurgeOfUnknown) {
                        self.remember(exchange, id);
                    }
                    self.on_write_verdict(now, exchange, leg, id, Verdict::Unknown);
                    self.release(exchange);
                }
                Pending::Purge => {}
            }
        }
        for key in gathered {
            self.ask_again(now, key, id);
        }
    }

    /// Looks at all backends whose silence, or whose gathered requests, may be due.
    pub(super) fn expire_backends(&mut self, now: Time) {
        self.backends_due = None;
        for index in 0..self.backends.len() {
            let id = backend_id(index);
            if self.backends[index].owes() {
                self.look_at_silence(now, id);
            }
            match self.backends[index].reconnect_at {
                Some(at) if at <= now => self.connect(now, id),
                Some(at) => self.backend_is_due(at),
                None => {}
            }
            let due = [self.gather_due(id), self.held_due(id)];
            match due.into_iter().flatten().min() {
                Some(due) if due > now => self.backend_is_due(due),
                Some(_) => self.touch_backend(id),
                None => {}
            }
        }
    }

    /// Queues one request. Its line, and a large payload, are in the exchange unless `other` is given.
    pub(super) fn send_to(
        &mut self,
        now: Time,
        id: BackendId,
        exchange: ExchangeId,
        leg: Leg,
        form: Form,
        other: Option<(&[u8], bool)>,
    ) {
        let hash = self.exchanges[exchange].hash;
        // flush_all concerns every key.
        let overtakes = leg == Leg::Broadcast
            || self.backends[id.index()].holds_gathered(hash, &self.exchanges);
        if overtakes && !self.breaks.has(Break::BatchBeforeWrite) {
            self.send_batches(now, id, Leave::All);
        }
        self.exchanges.retain(exchange);
        let mark = self.mark_of_request(id, exchange);
        let version = self.version_of_request(id, exchange, leg);
        let Self {
            backends,
            exchanges,
            pool,
            ..
        } = self;
        let backend = &mut backends[id.index()];
        let this = &mut exchanges[exchange];
        let (line, with_payload) = other.unwrap_or((&this.wire, true));
        let mut push = |piece: &[u8]| backend.unsent.push(piece, pool);
        let sent = version.and_then(|version| explicit::encode(line, version, mark, &mut push));
        if sent.is_none() {
            cas::mark_request(line, mark, &mut push);
        }
        let translated = sent == Some(Sent::Translated);
        let form = if translated { Form::Meta } else { form };
        if let Some(payload) = this.payload.as_ref().filter(|_| with_payload) {
            backend.unsent.share(payload);
        }
        if leg == Leg::Authority {
            this.write.translated = translated;
        }
        self.push_pending(
            now,
            id,
            Pending::One {
                exchange,
                leg,
                form,
            },
        );
    }

    /// The oldest request or batch of a pipeline is answered.
    pub(super) fn pop_pending(&mut self, id: BackendId) -> Option<Pending> {
        let backend = &mut self.backends[id.index()];
        self.in_flight -= backend.in_flight();
        let oldest = backend.pipeline.pop_front();
        self.in_flight += backend.in_flight();
        oldest
    }

    pub(super) fn push_pending(&mut self, now: Time, id: BackendId, pending: Pending) {
        let backend = &mut self.backends[id.index()];
        if backend.pipeline.is_empty() {
            backend.active_at = now;
        }
        backend.pipeline.push_back(pending);
        backend.unsent_count += 1;
        let due = self.silence_due(id, now);
        self.backend_is_due(due);
        self.connect(now, id);
        self.touch_backend(id);
    }
}

pub(super) fn backend_id(index: usize) -> BackendId {
    BackendId(u16::try_from(index).expect("BACKENDS_MAX fits in 16 bits"))
}

/// By backend: whether it is in the list of primaries.
pub(super) fn are_primary(config: &Config) -> Vec<bool> {
    let ids = (0..config.backends.len()).map(backend_id);
    ids.map(|id| config.primary_ids.contains(&id)).collect()
}
