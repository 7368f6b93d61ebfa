//! Silent backends: what they owe is asked elsewhere as well, long before they count as down.
//!
//! ```text
//!            no byte for the hedge delay
//!  trusted ──────────────────────────────> suspect: the keeper probes it; each read that it owes or is asked
//!     ^                                      │      from now on is asked at the key's other backend too
//!     ├─────── a byte ───────────────────────┤
//!     │                                      │ no byte for fail_ms
//!     │                                      ├──────> failed, if writes are unanswered
//!     └─────── a connection, verified <──────┘ else: another connection; the probe decides about the backend
//! ```
//!
//! A read then has two questions under way: one at the backend that answers for the key, which always counts,
//! and its *hedge* at the follower, which counts only if it finds the item:
//!
//! | what happens | what becomes of the read |
//! | --- | --- |
//! | the authority answers, whatever it says | that is the answer; the follower's is read and dropped |
//! | the follower has the item | that is the answer; the authority's is read and dropped |
//! | the follower misses, or refuses | waits for the authority |
//! | the follower is lost | waits for the authority |
//! | the authority is lost, the follower leads now | its answer on the way counts, whatever it says |
//! | the same, and the follower had missed | is asked there again: the miss was no authority's |
//! | the authority's connection is replaced | is asked there again; the hedge goes on |
//!
//! # Invariants
//!
//! - A follower's miss is never the answer ([`Engine::hedge_misses`]): it may have lost the item.
//! - Only a follower that is in step is asked, and not while the outcome of a write is on its way to it
//!   ([`Engine::hedges_at`]), nor behind a write that was asked for later ([`Engine::suspect`]).
//! - Writes are never hedged, nor is what may win an item or shows one server's own view of it.
//! - A read has at most one hedge under way, and none after its follower has missed.
//! - The two answers are collected apart; a value is the answer when it is complete.
//!
//! Not here: what a failed backend's reads become (`reads`), who is probed when (`keeper`).

use super::Engine;
use super::backends::{Backend, Leg, Link, Pending};
use super::exchange::{ExchangeId, Form, Hedging, Kind, Stage, Verdict};
use super::{Output, answers};
use crate::breaks::Break;
use crate::config::Hedge;
use crate::keeper::{Failure, Report};
use crate::placement::Order;
use crate::stats::Counter;
use crate::{BackendId, Time};

/// The 99th percentile of how long a backend lets us wait for its next byte, followed as it changes.
///
/// Robbins and Monro's stochastic approximation ("A Stochastic Approximation Method", 1951): each
/// observation moves the estimate by one step, up by 99 times as much as down, so that it rests where 1 of
/// 100 observations is above it. The steps are fractions of the estimate itself, so that it adapts as fast
/// at 100 µs as at 10 ms. Two instructions and eight bytes; one outlier moves it by 10 %.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gaps {
    p99_ns: u64,
}

const MS: u64 = 1_000_000;

/// The hedge delay in multiples of the 99th percentile: of a thousand ordinary waits less than one should
/// be that long.
const DELAY_FACTOR: u64 = 4;
/// A shorter delay would only measure the scheduler of this machine.
const DELAY_NS_MIN: u64 = 5 * MS;
/// A longer one is hardly better for the reader than `fail_ms`.
const DELAY_NS_MAX: u64 = 100 * MS;
/// Before anything is known.
const DELAY_NS_FIRST: u64 = 20 * MS;

impl Default for Gaps {
    fn default() -> Self {
        Self {
            p99_ns: DELAY_NS_FIRST / DELAY_FACTOR,
        }
    }
}

impl Gaps {
    /// A byte came, `gap_ns` after the one before or after it began to be owed.
    pub(crate) const fn observe(&mut self, gap_ns: u64) {
        // e^(99/1024) is 1 + 104/1024.
        let estimate = if gap_ns > self.p99_ns {
            self.p99_ns + self.p99_ns * 104 / 1_024
        } else {
            self.p99_ns - self.p99_ns / 1_024
        };
        // What lies outside of the delay's range is not followed, so that it is back soon.
        self.p99_ns = if estimate < DELAY_NS_MIN / DELAY_FACTOR {
            DELAY_NS_MIN / DELAY_FACTOR
        } else if estimate > DELAY_NS_MAX / DELAY_FACTOR {
            DELAY_NS_MAX / DELAY_FACTOR
        } else {
            estimate
        };
    }

    const fn delay_ns(self) -> u64 {
        self.p99_ns * DELAY_FACTOR
    }
}

impl Backend {
    /// Whether it owes an answer to something that may have changed an item.
    fn owes_writes(&self) -> bool {
        self.pipeline.iter().any(|pending| match pending {
            Pending::Batch { .. } => false,
            Pending::One { leg, form, .. } => *leg != Leg::Read && *form != Form::Stats,
            Pending::Purge => true,
        })
    }

    /// Every read that it has not answered.
    fn owed_reads(&self) -> impl Iterator<Item = ExchangeId> + '_ {
        let in_flight = self.pipeline.iter().flat_map(|pending| match pending {
            Pending::Batch { keys, next } => &keys[*next..],
            Pending::One {
                exchange,
                leg: Leg::Read,
                ..
            } => std::slice::from_ref(exchange),
            Pending::One { .. } | Pending::Purge => &[],
        });
        let arriving = self.receiving.iter().filter(|receiving| receiving.of_batch);
        let gathered = self.gathers.iter().flat_map(|gather| &gather.keys);
        arriving
            .map(|receiving| receiving.exchange)
            .chain(in_flight.copied())
            .chain(gathered.copied())
    }
}

impl Engine {
    // -- Silence --

    /// When a backend that begins to owe something, or has just sent a byte, is looked at again.
    pub(super) fn silence_due(&self, id: BackendId, since: Time) -> Time {
        let fails_at = since.after_ms(self.limits.fail_ms);
        match self.suspect_at(id, since) {
            Some(suspect_at) => suspect_at.min(fails_at),
            None => fails_at,
        }
    }

    /// When a backend that has been silent `since` becomes suspect; `None` if it is already, or nobody could
    /// be asked instead.
    fn suspect_at(&self, id: BackendId, since: Time) -> Option<Time> {
        let backend = &self.backends[id.index()];
        if !self.has_backups || backend.suspect {
            return None;
        }
        let delay_ns = match self.hedge {
            Hedge::Off => return None,
            Hedge::AfterMs(ms) => ms.saturating_mul(MS),
            // With a short `fail_ms`, early enough to be of use.
            Hedge::Auto => backend
                .gaps
                .delay_ns()
                .min(self.limits.fail_ms.saturating_mul(MS) / 2),
        };
        Some(Time(since.0.saturating_add(delay_ns)))
    }

    /// A byte has come.
    pub(super) fn end_silence(&mut self, now: Time, id: BackendId) {
        let backend = &mut self.backends[id.index()];
        if !backend.pipeline.is_empty() {
            let gap_ns = now.0.saturating_sub(backend.active_at.0);
            backend.gaps.observe(gap_ns);
        }
        backend.active_at = now;
        self.trust(id, now);
    }

    /// Nobody waits for what a suspect backend is about to say.
    pub(super) fn set_suspect(&mut self, id: BackendId, suspect: bool) {
        let backend = &mut self.backends[id.index()];
        self.in_flight -= backend.in_flight();
        backend.suspect = suspect;
        self.in_flight += backend.in_flight();
    }

    /// The suspicion is over: silence counts anew, from `since`.
    pub(super) fn trust(&mut self, id: BackendId, since: Time) {
        if self.backends[id.index()].suspect {
            self.set_suspect(id, false);
            let due = self.silence_due(id, since);
            self.backend_is_due(due);
        }
    }

    /// A backend owes something. Has it been silent for too long?
    pub(super) fn look_at_silence(&mut self, now: Time, id: BackendId) {
        let backend = &self.backends[id.index()];
        let since = backend.active_at;
        let fails_at = since.after_ms(self.limits.fail_ms);
        if fails_at <= now {
            self.on_dead_silence(now, id);
            return;
        }
        let owes_answers = !backend.pipeline.is_empty();
        match self.suspect_at(id, since).filter(|_| owes_answers) {
            Some(at) if at <= now => {
                self.suspect(now, id);
                self.backend_is_due(fails_at);
            }
            Some(at) => self.backend_is_due(at.min(fails_at)),
            None => self.backend_is_due(fails_at),
        }
    }

    fn on_dead_silence(&mut self, now: Time, id: BackendId) {
        let backend = &self.backends[id.index()];
        match backend.link {
            // What is owed can be had again, and the keeper, which was asked to probe, decides about the backend.
            Link::Open if backend.suspect && !backend.owes_writes() => {
                self.abandon_backend(now, id);
                self.connect(now, id);
            }
            Link::Connecting => self.fail_backend(now, id, Failure::ConnectTimeout),
            Link::Idle | Link::Verifying | Link::Open => {
                self.fail_backend(now, id, Failure::Silent);
            }
        }
    }

    /// The backend has been silent for the hedge delay.
    fn suspect(&mut self, now: Time, id: BackendId) {
        self.count(Counter::Suspects);
        let incarnation = self.view.backends[id.index()].incarnation;
        let mut owed = self.batch_pool.pop().unwrap_or_default();
        self.set_suspect(id, true);
        owed.extend(self.backends[id.index()].owed_reads());
        self.outputs.push_back(Output::Report(Report::Suspect {
            backend: id,
            incarnation,
        }));
        for &exchange in &owed {
            let this = &self.exchanges[exchange];
            // A write of the key that arrived after the read: the follower could show it already.
            if !self.locks.is_held_after(this.hash, this.arrival_number) {
                self.hedge(now, exchange, id);
            }
        }
        self.recycle_batch(owed);
    }

    // -- The second question --

    /// Asks a read, which `asked` owes the answer to, at the key's other backend too.
    pub(super) fn hedge(&mut self, now: Time, exchange: ExchangeId, asked: BackendId) {
        if let Some(other) = self.hedges_at(exchange, asked) {
            self.count(Counter::Hedged);
            self.exchanges[exchange].hedging = Hedging::Asked(other);
            self.ask(now, exchange, other);
        }
    }

    /// Who else can be asked for an item.
    fn hedges_at(&self, exchange: ExchangeId, asked: BackendId) -> Option<BackendId> {
        let this = &self.exchanges[exchange];
        let plain = match this.kind {
            Kind::Fetch(_) => true,
            // `me` shows what one server knows of an item.
            Kind::Read => this.wire.starts_with(b"mg "),
            Kind::Local | Kind::Upload | Kind::Write | Kind::Broadcast => false,
        };
        if !plain || this.done || this.streamed || this.hedging != Hedging::No {
            return None;
        }
        let in_step = self
            .plan(this.primary, this.backup)
            .follower
            .is_some_and(|follower| follower.order == Order::Parallel);
        // The follower does not know yet what the authority decided: a client that asked for both would see
        // its own write undone.
        let outcome_pending = self
            .locks
            .holder(this.hash)
            .is_some_and(|holder| self.exchanges[holder].write.stage != Stage::Parallel);
        if !in_step || outcome_pending {
            return None;
        }
        let both = [Some(this.primary), this.backup];
        both.into_iter().flatten().find(|&backend| backend != asked)
    }

    /// Whether what `id` says about a read is its hedge's answer, which counts only if it is a hit.
    pub(super) fn is_hedge(&self, exchange: ExchangeId, id: BackendId) -> bool {
        self.exchanges[exchange].hedging == Hedging::Asked(id)
    }

    /// Whether the backend that a read would be asked at, as its authority, owes the answer already.
    pub(super) fn hedge_takes_over(&mut self, exchange: ExchangeId, authority: BackendId) -> bool {
        let takes_over = self.is_hedge(exchange, authority);
        if takes_over {
            self.exchanges[exchange].hedging = Hedging::No;
        }
        takes_over
    }

    /// A read has been lost too often. Whether its hedge is left to answer it, whatever it says.
    pub(super) fn hedge_is_left(&mut self, exchange: ExchangeId) -> bool {
        let this = &mut self.exchanges[exchange];
        let is_left = matches!(this.hedging, Hedging::Asked(_));
        if is_left {
            this.hedging = Hedging::No;
        }
        is_left
    }

    /// A backend was lost before it answered a read. Whether that was only its hedge.
    pub(super) fn lose_hedge(&mut self, exchange: ExchangeId, lost: BackendId) -> bool {
        let is_hedge = self.is_hedge(exchange, lost);
        if is_hedge {
            self.exchanges[exchange].hedging = Hedging::No;
        }
        // A part of its answer may be there, also of one that counted by now.
        if !matches!(self.exchanges[exchange].hedging, Hedging::Asked(_)) {
            self.drop_hedge_reply(exchange);
        }
        is_hedge
    }

    /// `id` has no value for a read. Whether it was only its hedge, so that the authority is waited for.
    pub(super) fn hedge_misses(&mut self, exchange: ExchangeId, id: BackendId) -> bool {
        if !self.is_hedge(exchange, id) {
            return false;
        }
        self.exchanges[exchange].hedging = Hedging::Over;
        self.drop_hedge_reply(exchange);
        if self.breaks.has(Break::FollowerMiss) && !self.exchanges[exchange].streamed {
            self.drop_reply(exchange);
            return false;
        }
        true
    }

    // -- Its answer --

    /// The line that is a meta read's whole answer has come from the follower.
    pub(super) fn on_hedge_line(
        &mut self,
        id: BackendId,
        exchange: ExchangeId,
        verdict: Verdict,
        raw: &[u8],
    ) {
        if self.exchanges[exchange].done {
            return;
        }
        if verdict == Verdict::Done {
            self.keep_hedge_line(id, exchange, raw);
            self.on_hedge_value(id, exchange, false);
        } else if !self.hedge_misses(exchange, id) {
            self.keep_line(id, exchange, Leg::Read, raw);
            self.on_read_answer(exchange, verdict);
        }
    }

    /// Keeps the first line of what the follower says.
    pub(super) fn keep_hedge_line(&mut self, id: BackendId, exchange: ExchangeId, raw: &[u8]) {
        let mark = self.mark_of_answer(id, exchange);
        let this = &mut self.exchanges[exchange];
        let mut line = std::mem::take(&mut this.follower_reply);
        line.clear();
        answers::echo(this, raw, mark, &mut line);
        if this.kind == Kind::Read && this.asked.is_none() {
            yield_win(&mut line);
        }
        this.follower_reply = line;
    }

    /// The value that was asked for as a hedge is complete in `follower_reply`, or was dropped.
    pub(super) fn on_hedge_value(&mut self, id: BackendId, exchange: ExchangeId, dropped: bool) {
        let this = &self.exchanges[exchange];
        if this.done {
            self.drop_hedge_reply(exchange);
            return;
        }
        if dropped || this.streamed {
            if !self.hedge_misses(exchange, id) {
                // It counts by now: the authority is gone.
                self.drop_hedge_reply(exchange);
                self.miss_for_memory(exchange);
            }
            return;
        }
        if self.is_hedge(exchange, id) {
            self.count(Counter::HedgesWon);
        }
        self.count(Counter::GetHits);
        self.drop_reply(exchange);
        let this = &mut self.exchanges[exchange];
        std::mem::swap(&mut this.reply, &mut this.follower_reply);
        this.reply_counted = std::mem::take(&mut this.hedge_counted);
        self.complete(exchange);
    }

    /// Counts what a hedge has brought as memory.
    pub(super) fn count_hedge_reply(&mut self, exchange: ExchangeId) {
        let this = &mut self.exchanges[exchange];
        self.memory_len -= this.hedge_counted as u64;
        self.memory_len += this.follower_reply.len() as u64;
        this.hedge_counted = this.follower_reply.len();
    }

    pub(super) fn drop_hedge_reply(&mut self, exchange: ExchangeId) {
        let this = &mut self.exchanges[exchange];
        self.memory_len -= std::mem::take(&mut this.hedge_counted) as u64;
        this.follower_reply.clear();
    }
}

/// In the first line of a follower's answer to `mg`: a win is only the authority's to give.
fn yield_win(line: &mut [u8]) {
    let len = line.iter().position(|&byte| byte == b'\r').unwrap_or(0);
    for at in 1..len {
        let alone = line[at - 1] == b' ' && matches!(line[at + 1], b' ' | b'\r');
        if alone && line[at] == b'W' {
            line[at] = b'Z';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any numbers, the same every time (splitmix64).
    fn numbers() -> impl Iterator<Item = u64> {
        let mut state = 1_u64;
        std::iter::repeat_with(move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        })
    }

    #[test]
    fn before_anything_is_known_it_is_20_ms() {
        assert_eq!(Gaps::default().delay_ns(), 20 * MS);
    }

    #[test]
    fn a_backend_that_answers_at_once_is_asked_elsewhere_after_the_shortest_delay() {
        let mut gaps = Gaps::default();
        for _ in 0..2_000 {
            gaps.observe(100_000);
        }
        assert_eq!(gaps.delay_ns(), DELAY_NS_MIN);
    }

    #[test]
    fn the_estimate_finds_the_99th_percentile() {
        // Evenly spread up to 10 ms, in any order: the percentile is 9.9 ms.
        let mut gaps = Gaps::default();
        let mut sum = 0;
        const ROUNDS: u64 = 100_000;
        for gap_ns in numbers().map(|number| number % (10 * MS)).take(20_000) {
            gaps.observe(gap_ns);
        }
        for gap_ns in numbers()
            .map(|number| number % (10 * MS))
            .take(usize::try_from(ROUNDS).unwrap())
        {
            gaps.observe(gap_ns);
            sum += gaps.p99_ns / 1_000;
        }
        let mean_us = sum / ROUNDS;
        assert!((9_000..=10_500).contains(&mean_us), "{mean_us}");
    }

    #[test]
    fn one_hang_among_many_answers_changes_next_to_nothing() {
        let mut gaps = Gaps::default();
        for _ in 0..2_000 {
            gaps.observe(100_000);
        }
        gaps.observe(400 * MS);
        assert!(gaps.delay_ns() < 6 * MS);
        for _ in 0..200 {
            gaps.observe(100_000);
        }
        assert_eq!(gaps.delay_ns(), DELAY_NS_MIN);
    }

    #[test]
    fn the_longest_delay_is_left_as_fast_as_any() {
        let mut gaps = Gaps::default();
        for _ in 0..10_000 {
            gaps.observe(10_000 * MS);
        }
        assert_eq!(gaps.delay_ns(), DELAY_NS_MAX);
        for _ in 0..4_000 {
            gaps.observe(100_000);
        }
        assert_eq!(gaps.delay_ns(), DELAY_NS_MIN);
    }

    #[test]
    fn a_win_is_yielded_in_the_first_line_only() {
        let check = |before: &[u8], after: &[u8]| {
            let mut line = before.to_vec();
            yield_win(&mut line);
            assert_eq!(
                line.escape_ascii().to_string(),
                after.escape_ascii().to_string()
            );
        };
        check(b"HD W\r\n", b"HD Z\r\n");
        check(b"VA 1 f0 X W\r\n", b"VA 1 f0 X Z\r\n");
        check(b"VA 1 W X\r\n", b"VA 1 Z X\r\n");
        check(b"HD kW OW\r\n", b"HD kW OW\r\n");
        check(b"HD\r\n", b"HD\r\n");
        check(b"VA 3\r\n W \r\n", b"VA 3\r\n W \r\n");
    }
}
