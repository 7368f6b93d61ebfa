//! When an item ends, said so that two backends end it together.
//!
//! A memcached counts whole seconds on a clock of its own, and an item ends at one of them: a date by that clock.
//! What is left of its life is told in whole seconds too. Whoever stores that elsewhere is off by up to a second,
//! and a little late; there and back, once per failure, that adds up. So a copy is given a date:
//!
//! | at the source | from |
//! | --- | --- |
//! | the item's date | the walk's `exp`, if what is left at the read agrees with it |
//! | otherwise, by a second too early at most | what is left, and the source's clock (`time` in `stats`) |
//!
//! At the target it is the same date plus the difference of both clocks, in whole seconds. That difference is taken
//! for zero, and later for what it was, until both clocks, read at one moment, contradict it by two seconds, and
//! again, three seconds later, by as much: a memcached whose main thread finds no CPU answers, and its clock stands
//! still meanwhile. Nothing is copied between two that are in doubt.
//!
//! All clocks are read in rounds, one after the other: when a connection opens, and again and again while items are
//! copied. The question is asked on the connection that items are read on, before them. So however long both take,
//! the clock was not behind what it said when the item was read.
//!
//! # Invariants
//!
//! - The difference of two backends is the same there and back, so dates come back as they were.
//! - Clocks that agree within a second are one clock: on it, dates stay however often a backend is started again.
//! - A date is never 0, which would be for ever, and never so small that it would be taken for a rest of life.
//! - This process's own clock does not matter, except to tell how long ago a backend's was read.
//! - Both clocks are known, of one round, before the first item is copied ([`Healer::are_ready`]).
//!
//! Not here: which items are about to end and not copied (`copy`).

use super::copy::{Asked, Origin};
use super::target::Hint;
use super::wire::{self, Expiry, RELATIVE_S_MAX};
use super::{Healer, Role, State};
use crate::keeper::Failure;
use crate::proto::response::Line;
use crate::{BackendId, Time};

/// Clocks are read again after this: ticks wander.
const SHARE_CLOCK_MS: u64 = 10_000;
/// The same while single keys are copied, whose dates nobody has said.
const SINGLE_CLOCK_MS: u64 = 250;
/// A busy memcached ticks a little late.
const TICK_LATE_MS: i64 = 100;
/// Clocks that were read within this are taken to have been read at one moment.
const AT_ONCE_MS: u64 = 250;
/// A difference is believed when it is the same after so long, and for that read again so often.
const CONFIRM_MS: u64 = 3_000;
const DOUBT_CLOCK_MS: u64 = 500;
/// The last date that memcached takes: exptimes are 32 bits with a sign.
const DATE_MAX: u64 = i32::MAX as u64;

/// A difference of two clocks that has been seen, and is not believed yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doubt {
    difference_s: i64,
    since: Time,
}

/// The clock of a backend, by its answers on the connection for copies.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// The first round that asks it.
    since_round: u64,
    /// When it was asked, if it has not answered.
    asked_at: Option<Time>,
    /// The time that the answer so far names, and when it did.
    heard: Option<(u64, Time)>,
    /// What it said last.
    reading: Option<Reading>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    round: u64,
    asked_at: Time,
    answered_at: Time,
    /// `None` if it does not tell.
    unix_s: Option<u64>,
}

impl Reading {
    /// What the clock showed, at least, when something was read that was asked for at `asked_at`, after it.
    fn at_read(&self, asked_at: Time) -> Option<u64> {
        let since_ms = signed_ms(self.answered_at, asked_at).max(0);
        Some(self.unix_s?.saturating_add_signed(since_ms / 1_000))
    }

    /// The first and the last second that it can have shown then, if the answer has come just now.
    fn around_read(&self, asked_at: Time, now: Time) -> Option<(u64, u64)> {
        let unix_s = self.unix_s?;
        // Each tick is a second after the one before; when the first one was is not known.
        let first = (signed_ms(self.answered_at, asked_at) - TICK_LATE_MS).div_euclid(1_000);
        let last = (signed_ms(self.asked_at, now) + TICK_LATE_MS).div_euclid(1_000) + 1;
        Some((
            unix_s.saturating_add_signed(first.max(0)),
            unix_s.saturating_add_signed(last),
        ))
    }
}

/// From `a` to `b`.
fn signed_ms(a: Time, b: Time) -> i64 {
    let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    if a <= b {
        ms(b.ms_since(a))
    } else {
        -ms(a.ms_since(b))
    }
}

impl Healer {
    fn clock(&mut self, backend: BackendId) -> &mut Clock {
        &mut self.backends[backend.index()].clock
    }

    /// A connection for copies is there.
    pub(super) fn on_copy_link_open(&mut self, now: Time, backend: BackendId) {
        *self.clock(backend) = Clock {
            since_round: self.clock_round + 1,
            ..Clock::default()
        };
        self.read_clocks(now, 0);
    }

    /// Begins a round unless one is under way, or the last one is not so old and has asked everybody.
    fn read_clocks(&mut self, now: Time, age_ms: u64) {
        let open = |backend: &super::Backend| backend.link.state == State::Open;
        let clocks = || self.backends.iter().filter(|backend| open(backend));
        let under_way = clocks().any(|backend| backend.clock.asked_at.is_some());
        let is_fresh = |backend: &super::Backend| {
            let reading = backend.clock.reading.as_ref();
            reading.is_some_and(|reading| now.ms_since(reading.asked_at) < age_ms)
        };
        if under_way || clocks().all(is_fresh) {
            return;
        }
        self.clock_round += 1;
        for backend in self.ids() {
            if self.link(backend, Role::Copy).state != State::Open {
                continue;
            }
            let clock = self.clock(backend);
            clock.asked_at = Some(now);
            clock.heard = None;
            let unsent = &mut self.link(backend, Role::Copy).unsent;
            unsent.extend_from_slice(b"stats\r\n");
            self.push_asked(now, backend, Asked::Clock);
        }
    }

    /// Whether items can be copied between the two: connections and clocks. If not, both are seen to.
    pub(super) fn are_ready(
        &mut self,
        now: Time,
        (source, target): (BackendId, BackendId),
        origin: Origin,
    ) -> bool {
        let ready = [target, source].map(|id| self.is_ready(now, id));
        if ready != [true, true] {
            return false;
        }
        let in_doubt = self.doubts.contains_key(&ordered(source, target).0);
        self.read_clocks(
            now,
            match origin {
                _ if in_doubt => DOUBT_CLOCK_MS,
                Origin::Single => SINGLE_CLOCK_MS,
                Origin::Share(_) => SHARE_CLOCK_MS,
            },
        );
        if in_doubt {
            return false;
        }
        let clocks = [source, target].map(|id| &self.backends[id.index()].clock);
        let since_round = clocks[0].since_round.max(clocks[1].since_round);
        clocks.iter().all(|clock| {
            let reading = clock.reading.as_ref();
            reading.is_some_and(|reading| reading.round >= since_round)
        })
    }

    /// When clocks in doubt are read again, by whoever waits for them.
    pub(super) fn clocks_due(&self) -> Option<Time> {
        let clocks = self.doubts.keys().flat_map(|&(one, other)| [one, other]);
        let reading = clocks.filter_map(|id| self.backends[id.index()].clock.reading);
        reading
            .map(|reading| reading.asked_at.after_ms(DOUBT_CLOCK_MS))
            .min()
    }

    /// One line of the answer to `stats`. Whether it was the last.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a line of any other kind is out of step"
    )]
    pub(super) fn on_clock_line(
        &mut self,
        now: Time,
        backend: BackendId,
        line: &Line<'_>,
    ) -> Result<bool, Failure> {
        let round = self.clock_round;
        let clock = self.clock(backend);
        match line {
            Line::Stat { name, value } => {
                if *name == b"time" {
                    clock.heard = wire::number(value).map(|unix_s| (unix_s, now));
                }
                return Ok(false);
            }
            Line::End | Line::Reset => {}
            Line::Error | Line::ClientError(_) | Line::ServerError(_) => clock.heard = None,
            _ => return Err(Failure::Desync),
        }
        clock.reading = clock.asked_at.take().map(|asked_at| Reading {
            round,
            asked_at,
            answered_at: clock.heard.map_or(now, |(_, heard_at)| heard_at),
            unix_s: clock.heard.map(|(unix_s, _)| unix_s),
        });
        for other in self.ids() {
            self.compare_clocks(backend, other);
        }
        Ok(true)
    }

    /// What to tell `target` of an item that was asked for at `asked_at`, and of whose life `ttl_s` are left.
    pub(super) fn expiry_at(
        &mut self,
        now: Time,
        (source, target): (BackendId, BackendId),
        ttl_s: u64,
        hint: Hint,
        asked_at: Time,
    ) -> Expiry {
        let here = self.clock(source).reading;
        let told = self.clock(target).reading.and_then(|there| there.unix_s);
        let read = here.and_then(|here| {
            let around = here.around_read(asked_at, now)?;
            Some((here.at_read(asked_at)?, around))
        });
        let (Some((unix_s, (first, last))), Some(_)) = (read, told) else {
            return Expiry::of_life(ttl_s, self.unix_ms(now) / 1_000);
        };
        let agrees = |date: &u64| (first + ttl_s..=last + ttl_s).contains(date);
        let date = hint.date().filter(agrees).unwrap_or(unix_s + ttl_s);
        let there = date.saturating_add_signed(self.offset_s(source, target));
        // An item of this kind is there to stay; a second more would be refused.
        let there = if date <= DATE_MAX {
            there.min(DATE_MAX)
        } else {
            there
        };
        if there > RELATIVE_S_MAX {
            Expiry::At(there)
        } else {
            Expiry::of_life(ttl_s, there.saturating_sub(ttl_s))
        }
    }

    /// By how many seconds the clock of `target` is taken to be ahead of that of `source`.
    fn offset_s(&self, source: BackendId, target: BackendId) -> i64 {
        let (pair, sign) = ordered(source, target);
        self.offsets.get(&pair).copied().unwrap_or(0) * sign
    }

    /// Looks whether two clocks, if they were read in one round, contradict what their difference is taken for.
    fn compare_clocks(&mut self, one: BackendId, other: BackendId) {
        let [here, there] = [one, other].map(|id| self.clock(id).reading);
        let (Some(here), Some(there)) = (here, there) else {
            return;
        };
        let (Some(here_s), Some(there_s)) = (here.unix_s, there.unix_s) else {
            return;
        };
        if here.round != there.round {
            return;
        }
        let took_ms = [here, there].map(|reading| reading.answered_at.ms_since(reading.asked_at));
        let slack_ms = took_ms[0].max(took_ms[1]).saturating_sub(AT_ONCE_MS);
        let difference = i64::try_from(there_s)
            .unwrap_or(i64::MAX)
            .saturating_sub(i64::try_from(here_s).unwrap_or(i64::MAX));
        let wrong_s = difference.abs_diff(self.offset_s(one, other));
        let (pair, sign) = ordered(one, other);
        if wrong_s.saturating_mul(1_000) < slack_ms.saturating_add(2_000) {
            self.doubts.remove(&pair);
            return;
        }
        let (difference_s, at) = (difference * sign, here.answered_at.max(there.answered_at));
        let same = |doubt: &&Doubt| doubt.difference_s.abs_diff(difference_s) <= 1;
        match self.doubts.get(&pair).filter(same) {
            None => {
                let since = at;
                let doubt = Doubt {
                    difference_s,
                    since,
                };
                self.doubts.insert(pair, doubt);
            }
            Some(doubt) if at.ms_since(doubt.since) >= CONFIRM_MS => {
                self.doubts.remove(&pair);
                self.offsets.insert(pair, difference_s);
            }
            Some(_) => {}
        }
    }
}

/// A pair by its smaller member, and the sign of a difference to it.
fn ordered(one: BackendId, other: BackendId) -> ((BackendId, BackendId), i64) {
    if one < other {
        ((one, other), 1)
    } else {
        ((other, one), -1)
    }
}
