//! Gathering: gets of all clients that go to one backend leave as one multi-key get.
//!
//! While a batch is in flight the next one gathers; it leaves when the answer has come, when it has keys
//! enough, or when that answer is large or late. With nothing in flight it leaves at the end of the turn, and so it
//! does when the worker had time to spare: packets are saved where they are many.
//! memcached answers 16 pipelined gets with 17 packets but one get of 16 keys with one (measured on 1.6.18),
//! and packets are what a proxy costs.
//!
//! Whatever it is, gets, writes or meta requests, few requests are *held* at the end of a turn in which clients are
//! answered: while the worker writes the answers these clients ask for more, and a packet that wakes a backend costs
//! as much as an answer. So they are while any backend owes an answer, whose client is likely to ask for more, unless
//! the worker had time to spare. In each turn that is looked at anew. Where few other clients wait for answers, hardly
//! anything would come to share the packet, and nothing is held.
//!
//! # Invariants
//!
//! - A key waits for a batch only if no write of it was sent behind its arrival (`Engine::send_to` lets all
//!   batches leave first).
//! - Keys of one client leave in the order in which it asked for them; among clients they take turns
//!   ([`Engine::take_turns`]).
//! - Values come in the order of a batch's keys, so a batch is answered by walking along it (`answers`).
//!
//! Not here: what the answers mean (`answers`), whom a key is asked of (`reads`).

use super::Engine;
use super::backends::{Leave, Pending, VERBS, gather_index};
use super::exchange::ExchangeId;
use crate::proto::GetVerb;
use crate::stats::Counter;
use crate::{BackendId, Time};

/// So many of the keys that wait are looked at when clients take turns: as many as one client may have under way.
const TURNS_LOOKED_AT_MAX: usize = 1_024;

/// A worker has time to spare for so many times as long as it had to wait: while it waits a quarter of its time.
const SPARE_PER_IDLE: u64 = 3;

/// And for so long at most. Measured at half of the load that it can bear: with one turn instead, p50 was 1.06 and
/// 1.09 of that; with 200 µs a get costs 1.05 under full load.
const SPARE_NS_MAX: u64 = 50_000;

impl Engine {
    /// Lets a key wait for the next batch.
    pub(super) fn gather(&mut self, now: Time, id: BackendId, exchange: ExchangeId, verb: GetVerb) {
        let key_len = self.exchanges[exchange].key().len() + 1;
        if self.backends[id.index()].suspect {
            self.drop_answered(id, gather_index(verb));
        }
        let (alone, hash) = (
            self.exchanges[exchange].alone,
            self.exchanges[exchange].hash,
        );
        let other = &self.backends[id.index()].gathers[1 - gather_index(verb)];
        // A later read must not be answered with what is older.
        if alone || other.holds(hash, &self.exchanges) {
            self.send_batches(now, id, Leave::All);
        }
        self.exchanges.retain(exchange);
        let backend = &mut self.backends[id.index()];
        let gather = &mut backend.gathers[gather_index(verb)];
        gather.keys.push_back(exchange);
        gather.len += key_len;
        backend.gathering = true;
        if alone {
            self.send_batches(now, id, Leave::All);
        } else {
            self.touch_backend(id);
        }
    }

    /// What was answered while it waited, by another backend or because its time was up, is not asked any more:
    /// a proxy that is behind would ask for nothing else.
    fn drop_answered(&mut self, id: BackendId, verb: usize) {
        loop {
            let gather = &mut self.backends[id.index()].gathers[verb];
            let Some(&oldest) = gather.keys.front() else {
                return;
            };
            if !self.exchanges[oldest].done {
                return;
            }
            gather.keys.pop_front();
            gather.len -= self.exchanges[oldest].key().len() + 1;
            self.release(oldest);
        }
    }

    /// At the end of a turn: what was gathered leaves, unless an answer is about to come or it is held.
    pub(super) fn send_gathered(&mut self, now: Time) {
        let answered = self.count_answered();
        self.holds_for_turn = false;
        for position in 0..self.dirty_backends.len() {
            let id = self.dirty_backends[position];
            if self.is_worth_holding(now, id, answered) {
                self.holds_for_turn |= answered > 0;
                self.hold(now, id);
                continue;
            }
            self.backends[id.index()].held_since = None;
            if self.backends[id.index()].gathering {
                self.send_batches(now, id, Leave::Due);
                if let Some(due) = self.gather_due(id) {
                    self.backend_is_due(due);
                }
            }
            self.let_go(id);
        }
    }

    /// What is queued for a backend leaves now, and those that are looked at next may wait for its answer.
    fn let_go(&mut self, id: BackendId) {
        let backend = &mut self.backends[id.index()];
        self.in_flight -= backend.in_flight();
        backend.unsent_count = 0;
        self.in_flight += backend.in_flight();
    }

    /// How many clients get something to read in this turn.
    fn count_answered(&self) -> u64 {
        let dirty = self.dirty_clients.iter();
        let answered =
            dirty.filter(|client| !self.clients[client.index as usize].unsent.is_empty());
        answered.count() as u64
    }

    /// The worker has had nothing to do `since`.
    pub(super) fn on_idle(&mut self, now: Time, since: Time) {
        let waited_ns = now.0.saturating_sub(since.0);
        let left_ns = self.idle_until.0.saturating_sub(since.0);
        let spare_ns = left_ns.saturating_add(waited_ns.saturating_mul(SPARE_PER_IDLE));
        self.idle_until = Time(now.0.saturating_add(spare_ns.min(SPARE_NS_MAX)));
    }

    /// Whether the worker has had to wait for something to do: packets are saved where they are many.
    fn has_time_to_spare(&self, now: Time) -> bool {
        now < self.idle_until
    }

    /// Whether few requests would leave for `id`, and for a short time they may wait for others to go with them.
    fn is_worth_holding(&self, now: Time, id: BackendId, answered: u64) -> bool {
        let (backend, limits) = (&self.backends[id.index()], &self.limits);
        let mut count = backend.unsent_count;
        let mut len = backend.unsent.len() as u64;
        for (verb, gather) in backend.gathers.iter().enumerate() {
            if backend.batches_in_flight == 0 {
                count += gather.keys.len() as u64;
                len += gather.len as u64;
            } else if !gather.keys.is_empty() && self.batch_may_leave(now, id, verb) {
                return false;
            }
        }
        let may_wait = (1..limits.gather_keys_min).contains(&count)
            && len < limits.gather_len_max
            && self.held_due(id).is_none_or(|due| now < due);
        let own_answer_comes = backend.in_flight() > 0 && backend.large_len == 0;
        let other_answer_comes = self.in_flight > backend.in_flight();
        let answer_comes = own_answer_comes || other_answer_comes;
        let others = (self.clients_waiting + answered).saturating_sub(count);
        may_wait
            && others >= limits.gather_others_min
            && (answered > 0 || answer_comes && !self.has_time_to_spare(now))
    }

    fn hold(&mut self, now: Time, id: BackendId) {
        self.backends[id.index()].held_since.get_or_insert(now);
        if let Some(due) = self.held_due(id) {
            self.backend_is_due(due);
        }
    }

    /// When held requests leave whatever happens.
    pub(super) fn held_due(&self, id: BackendId) -> Option<Time> {
        let since = self.backends[id.index()].held_since?;
        let delay = self.limits.gather_hold_us.saturating_mul(1_000);
        Some(Time(since.0.saturating_add(delay)))
    }

    /// When gathered keys leave although an answer is still in flight; `None` if only that answer, or
    /// nothing, makes them leave.
    pub(super) fn gather_due(&self, id: BackendId) -> Option<Time> {
        let backend = &self.backends[id.index()];
        let waits = backend.gathering
            && backend.batches_in_flight > 0
            && backend.batches_in_flight < self.limits.gather_batches_max;
        let delay = self.limits.gather_us.saturating_mul(1_000);
        waits.then(|| Time(backend.batch_sent_at.0.saturating_add(delay)))
    }

    pub(super) fn send_batches(&mut self, now: Time, id: BackendId, leave: Leave) {
        for verb in 0..VERBS.len() {
            while leave == Leave::All || self.batch_may_leave(now, id, verb) {
                self.drop_answered(id, verb);
                if self.backends[id.index()].gathers[verb].keys.is_empty() {
                    break;
                }
                self.send_batch(now, id, verb);
            }
        }
        let backend = &mut self.backends[id.index()];
        backend.gathering = backend.gathers.iter().any(|gather| !gather.keys.is_empty());
    }

    pub(super) fn batch_may_leave(&self, now: Time, id: BackendId, verb: usize) -> bool {
        let backend = &self.backends[id.index()];
        let (gather, limits) = (&backend.gathers[verb], &self.limits);
        if backend.batches_in_flight == 0 {
            return true;
        }
        let full = gather.keys.len() as u64 >= limits.gather_keys_min
            || gather.len as u64 >= limits.gather_len_max;
        let large = backend.batch_answer_len >= limits.gather_answer_len;
        let late = self.gather_due(id).is_some_and(|due| due <= now);
        // Beside the answer that it would wait for. More would cost packets that a busy turn wants to save.
        let spare = backend.batches_in_flight == 1 && self.has_time_to_spare(now);
        backend.batches_in_flight < limits.gather_batches_max && (full || large || late || spare)
    }

    /// More keys wait than a batch holds: the oldest of each client comes first, so that nobody waits behind all
    /// that another has asked for. Each client's own keys stay in order.
    fn take_turns(&mut self, id: BackendId, verb: usize) {
        let mut later = self.batch_pool.pop().unwrap_or_default();
        self.shared_batches += 1;
        let Self {
            backends,
            exchanges,
            clients,
            limits,
            shared_batches,
            ..
        } = self;
        let keys = &mut backends[id.index()].gathers[verb].keys;
        let looked_at = keys.len().min(TURNS_LOOKED_AT_MAX);
        let keys = &mut keys.make_contiguous()[..looked_at];
        let (mut first_count, mut end) = (0, 0);
        while end < keys.len() && (first_count as u64) < limits.gather_keys_max {
            let key = keys[end];
            let is_first = exchanges[key].client.is_none_or(|client| {
                let in_batch = &mut clients[client.index as usize].in_batch;
                std::mem::replace(in_batch, *shared_batches) != *shared_batches
            });
            if is_first {
                keys[first_count] = key;
                first_count += 1;
            } else {
                later.push(key);
            }
            end += 1;
        }
        keys[first_count..end].copy_from_slice(&later);
        self.recycle_batch(later);
    }

    pub(super) fn send_batch(&mut self, now: Time, id: BackendId, verb: usize) {
        let waiting = self.backends[id.index()].gathers[verb].keys.len();
        if waiting as u64 > self.limits.gather_keys_max {
            self.take_turns(id, verb);
        }
        let Self {
            backends,
            exchanges,
            pool,
            batch_pool,
            limits,
            ..
        } = self;
        let backend = &mut backends[id.index()];
        let gather = &mut backend.gathers[verb];
        let mut keys: Vec<ExchangeId> = batch_pool.pop().unwrap_or_default();
        let mut line_len = 0;
        backend.unsent.push(VERBS[verb], pool);
        while let Some(&exchange) = gather.keys.front() {
            let key = exchanges[exchange].key();
            let full = keys.len() as u64 >= limits.gather_keys_max
                || (line_len + key.len() + 1) as u64 > limits.gather_len_max;
            if full && !keys.is_empty() {
                break;
            }
            gather.keys.pop_front();
            gather.len -= key.len() + 1;
            line_len += key.len() + 1;
            keys.push(exchange);
            backend.unsent.push(b" ", pool);
            backend.unsent.push(key, pool);
        }
        backend.unsent.push(b"\r\n", pool);
        backend.batches_in_flight += 1;
        backend.batch_sent_at = now;
        backend.batch_answer_len = 0;
        self.count(Counter::Batches);
        self.counters().add(Counter::BatchKeys, keys.len() as u64);
        self.push_pending(now, id, Pending::Batch { keys, next: 0 });
    }

    pub(super) fn batch_key(&self, id: BackendId, index: usize) -> ExchangeId {
        match self.backends[id.index()].pipeline.front() {
            Some(Pending::Batch { keys, .. }) => keys[index],
            Some(Pending::One { .. } | Pending::Purge) | None => {
                unreachable!("the caller looked at the oldest entry")
            }
        }
    }

    pub(super) fn finish_batch(&mut self, id: BackendId) -> (Vec<ExchangeId>, usize) {
        let Some(Pending::Batch { keys, next }) = self.pop_pending(id) else {
            unreachable!("the caller looked at the oldest entry");
        };
        let backend = &mut self.backends[id.index()];
        backend.batches_in_flight -= 1;
        backend.batch_answer_len = 0;
        (keys, next)
    }

    pub(super) fn recycle_batch(&mut self, mut keys: Vec<ExchangeId>) {
        const BATCHES_KEPT: usize = 64;
        keys.clear();
        if self.batch_pool.len() < BATCHES_KEPT {
            self.batch_pool.push(keys);
        }
    }
}
