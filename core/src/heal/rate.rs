//! How fast items may be copied: so many, and so many bytes, in a second.

use crate::Time;
use crate::config::Limits;

const NANOS_PER_S: u128 = 1_000_000_000;
/// What may be caught up with at once after a pause: a fraction of a second's share. The other side of it is
/// that nobody has to wake up for every single item, and that a busy machine may be late.
const BURST_FRACTION: u64 = 10;

/// The rate of all copies of the process.
#[derive(Debug)]
pub(super) struct Rate {
    items: Bucket,
    bytes: Bucket,
}

impl Rate {
    pub(super) fn new(limits: &Limits, now: Time) -> Self {
        Self {
            items: Bucket::new(limits.heal_items_per_s, now),
            bytes: Bucket::new(limits.heal_bytes_per_s, now),
        }
    }

    /// When the next item may be read: at once if that is not later than `now`.
    pub(super) fn next_at(&mut self, now: Time) -> Time {
        self.items.next_at(now).max(self.bytes.next_at(now))
    }

    pub(super) fn take_item(&mut self) {
        self.items.take(1);
    }

    /// Before a value is read its size is a guess.
    pub(super) fn take_bytes(&mut self, len: u64) {
        self.bytes.take(len);
    }

    /// It has been read.
    pub(super) fn correct_bytes(&mut self, guess: u64, len: u64) {
        self.bytes.tokens += i128::from(guess) - i128::from(len);
    }
}

/// A token bucket that may be overdrawn: what was taken too much is waited for before the next.
#[derive(Debug)]
struct Bucket {
    per_s: u64,
    burst: u64,
    tokens: i128,
    /// Tokens were last counted at this moment; what is left of a token since is in `rest`.
    counted_at: Time,
    rest: u128,
    /// Whether somebody waits: then until a part of the burst is there again.
    waiting: bool,
}

impl Bucket {
    fn new(per_s: u64, now: Time) -> Self {
        let burst = (per_s / BURST_FRACTION).max(1);
        Self {
            per_s,
            burst,
            tokens: i128::from(burst),
            counted_at: now,
            rest: 0,
            waiting: false,
        }
    }

    fn next_at(&mut self, now: Time) -> Time {
        self.refill(now);
        let wanted = if self.waiting {
            i128::from(self.burst / 4).max(1)
        } else {
            1
        };
        if self.tokens >= wanted {
            self.waiting = false;
            return now;
        }
        self.waiting = true;
        let wanted = i128::from(self.burst / 4).max(1);
        let missing = u128::try_from(wanted - self.tokens).unwrap_or(1);
        let nanos = (missing * NANOS_PER_S - self.rest).div_ceil(u128::from(self.per_s));
        Time(
            now.0
                .saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX)),
        )
    }

    fn refill(&mut self, now: Time) {
        let elapsed = u128::from(now.0.saturating_sub(self.counted_at.0));
        self.counted_at = self.counted_at.max(now);
        let earned = elapsed * u128::from(self.per_s) + self.rest;
        self.rest = earned % NANOS_PER_S;
        let whole = i128::try_from(earned / NANOS_PER_S).unwrap_or(i128::MAX);
        self.tokens = self.tokens.saturating_add(whole);
        if self.tokens >= i128::from(self.burst) {
            self.tokens = i128::from(self.burst);
            self.rest = 0;
        }
    }

    fn take(&mut self, count: u64) {
        self.tokens -= i128::from(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items taken in one second of virtual time, by somebody who sleeps as told.
    fn taken_in_a_second(per_s: u64, each: u64) -> u64 {
        let mut bucket = Bucket::new(per_s, Time(0));
        let (mut now, mut taken) = (Time(0), 0);
        while now < Time(1_000_000_000) {
            let at = bucket.next_at(now);
            if at > now {
                now = at;
            } else {
                bucket.take(each);
                taken += each;
            }
        }
        taken
    }

    #[test]
    fn the_rate_is_kept() {
        for (per_s, each) in [(1, 1), (10, 1), (20_000, 1), (1_000_000, 70_000), (7, 1)] {
            let taken = taken_in_a_second(per_s, each);
            let burst = per_s / BURST_FRACTION + 1;
            assert!(taken + each >= per_s, "{per_s} of {each}: {taken}");
            assert!(taken <= per_s + burst + each, "{per_s} of {each}: {taken}");
        }
    }

    #[test]
    fn waiting_wakes_up_rarely() {
        let mut bucket = Bucket::new(20_000, Time(0));
        let (mut now, mut wakes) = (Time(0), 0);
        while now < Time(1_000_000_000) {
            let at = bucket.next_at(now);
            if at > now {
                now = at;
                wakes += 1;
            } else {
                bucket.take(1);
            }
        }
        assert!(wakes <= 4 * BURST_FRACTION, "{wakes}");
    }
}
