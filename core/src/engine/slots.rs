//! One writer per key and process: which worker may write the keys of a slot.
//!
//! Two workers that write one key at the same moment could reach the primary in one order and the backup in the
//! other, and the copies would differ for ever. So every write of a key with a backup holds its key's slot from
//! before it is sent until it is over. Keys are told apart by a few bits of their hash: two keys of one slot only
//! wait for each other.
//!
//! A slot is a ticket lock in one word. A worker takes the next ticket and holds the slot when that is served.
//! Nobody spins: a worker that waits is woken after a release and looks whether its turn has come.
//!
//! ```text
//!    31       16 15        0
//!   ┌───────────┬───────────┐   held: serving != next. Others wait: they differ by more than 1.
//!   │  serving  │   next    │   take: next += 1.   release: serving += 1, which wraps out of the word.
//!   └───────────┴───────────┘
//! ```
//!
//! # Invariants
//!
//! - A worker has at most one ticket of a slot, so fewer than 2^16 are out (`WorkerId` has 16 bits).
//! - First come, first served, over workers: a ticket waits for those before it and for nobody else. It has no
//!   owner who could give it back early; a worker whose writes have meanwhile expired releases it in its turn.
//! - No wake-up is lost. All changes of a slot are read-modify-writes of one word, so they have one order. If a
//!   ticket was taken before the release that serves it, that release sees that somebody waits; if after, the
//!   taker sees that it is served.
//! - What a holder did happens before what the next one does: a release is `Release`, and finding a ticket served
//!   is `Acquire`. Tickets that others take in between are read-modify-writes, which keep the release sequence.
//!
//! Not here: who is first among the requests of one worker (`locks`).

use std::sync::atomic::{AtomicU32, Ordering};

/// Slots of one process, shared by its workers.
#[derive(Debug)]
pub struct Slots {
    /// Empty if nobody shares it.
    words: Box<[AtomicU32]>,
}

/// Which slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(u16);

/// A place in the queue for a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u16);

/// Whether a slot is held now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Now,
    /// When this ticket is served.
    Later(Ticket),
}

/// Whether somebody else waits for a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    Wait,
    None,
}

/// Enough that two writes under way rarely share one: a thousand of them in 65,536 slots keep 1.5 % of new ones
/// waiting. They take 256 KiB.
pub(crate) const SLOT_COUNT: usize = 1 << 16;

const SERVED: u32 = 1 << 16;

impl Slot {
    pub(crate) const fn of(hash: u64) -> Self {
        let [.., high, low] = hash.to_be_bytes();
        Self(u16::from_be_bytes([high, low]))
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

impl Slots {
    /// Slots for this many workers. A single one has nobody to wait for.
    #[must_use]
    pub fn new(workers: u16) -> Self {
        let count = if workers > 1 { SLOT_COUNT } else { 0 };
        Self {
            words: (0..count).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Takes a ticket.
    pub(crate) fn take(&self, slot: Slot) -> Taken {
        let Some(word) = self.words.get(slot.index()) else {
            return Taken::Now;
        };
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            let (serving, next) = halves(seen);
            let taken = u32::from(serving) << 16 | u32::from(next.wrapping_add(1));
            // Acquire: if it is served at once, all that earlier holders did has happened before.
            match word.compare_exchange_weak(seen, taken, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) if serving == next => return Taken::Now,
                Ok(_) => return Taken::Later(Ticket(next)),
                Err(newer) => seen = newer,
            }
        }
    }

    /// Whether the turn of this ticket has come.
    pub(crate) fn is_served(&self, slot: Slot, ticket: Ticket) -> bool {
        self.words
            .get(slot.index())
            .is_none_or(|word| halves(word.load(Ordering::Acquire)).0 == ticket.0)
    }

    /// Whether a holder should make room. One that comes in this moment may be seen at the next look.
    pub(crate) fn others(&self, slot: Slot) -> Others {
        let word = self.words.get(slot.index());
        others(word.map_or(0, |word| word.load(Ordering::Relaxed)))
    }

    /// Gives a slot up that is held. Says whether those that wait have to be woken.
    pub(crate) fn release(&self, slot: Slot) -> Others {
        let Some(word) = self.words.get(slot.index()) else {
            return Others::None;
        };
        let before = word.fetch_add(SERVED, Ordering::Release);
        let (serving, next) = halves(before);
        assert!(serving != next, "a slot is released by its holder");
        others(before)
    }
}

const fn halves(word: u32) -> (u16, u16) {
    let [serving_high, serving_low, next_high, next_low] = word.to_be_bytes();
    (
        u16::from_be_bytes([serving_high, serving_low]),
        u16::from_be_bytes([next_high, next_low]),
    )
}

/// Besides the holder.
const fn others(word: u32) -> Others {
    let (serving, next) = halves(word);
    if next.wrapping_sub(serving) > 1 {
        Others::Wait
    } else {
        Others::None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use super::*;

    const HERE: Slot = Slot(7);

    #[test]
    fn first_come_first_served() {
        let slots = Slots::new(3);
        assert_eq!(slots.take(HERE), Taken::Now);
        assert_eq!(slots.others(HERE), Others::None);
        let Taken::Later(second) = slots.take(HERE) else {
            panic!("it is held");
        };
        assert_eq!(slots.others(HERE), Others::Wait);
        let Taken::Later(third) = slots.take(HERE) else {
            panic!("it is held");
        };
        assert_eq!(slots.release(HERE), Others::Wait);
        assert!(slots.is_served(HERE, second) && !slots.is_served(HERE, third));
        assert_eq!(slots.release(HERE), Others::Wait);
        assert!(slots.is_served(HERE, third));
        assert_eq!(slots.release(HERE), Others::None);
        assert_eq!(slots.take(HERE), Taken::Now);
    }

    #[test]
    fn tickets_wrap() {
        let slots = Slots::new(2);
        assert_eq!(slots.take(HERE), Taken::Now);
        for _ in 0..150_000 {
            let Taken::Later(ticket) = slots.take(HERE) else {
                panic!("it is held");
            };
            assert!(!slots.is_served(HERE, ticket));
            assert_eq!(slots.release(HERE), Others::Wait);
            assert!(slots.is_served(HERE, ticket));
        }
        assert_eq!(slots.release(HERE), Others::None);
    }

    #[test]
    fn other_slots_are_free() {
        let slots = Slots::new(2);
        assert_eq!(slots.take(HERE), Taken::Now);
        assert_eq!(slots.take(Slot(8)), Taken::Now);
        assert_ne!(Slot::of(0x1_0000_0007), Slot::of(0x1_0000_0008));
    }

    #[test]
    fn a_single_worker_shares_nothing() {
        let slots = Slots::new(1);
        assert_eq!(slots.take(HERE), Taken::Now);
        assert_eq!(slots.take(HERE), Taken::Now);
        assert_eq!(slots.release(HERE), Others::None);
    }

    /// With real threads: one holder at a time, who sees all that the others did, and everybody's turn comes.
    #[test]
    fn four_threads_in_few_slots() {
        const THREADS: u64 = 4;
        const ROUNDS: u64 = 10_000;
        const USED: u64 = 3;
        let slots = Slots::new(4);
        let start = Barrier::new(4);
        // Plain loads and stores: without mutual exclusion, or without its order, additions get lost.
        let sums: Vec<AtomicU64> = (0..USED).map(|_| AtomicU64::new(0)).collect();
        thread::scope(|scope| {
            for own in 0..THREADS {
                let (slots, sums, start) = (&slots, &sums, &start);
                scope.spawn(move || {
                    start.wait();
                    for round in 0..ROUNDS {
                        let number = (round * 7 + own) % USED;
                        let slot = Slot::of(number);
                        if let Taken::Later(ticket) = slots.take(slot) {
                            while !slots.is_served(slot, ticket) {
                                thread::yield_now();
                            }
                        }
                        let sum = &sums[slot.index()];
                        let seen = sum.load(Ordering::Relaxed);
                        if round % 8 == own {
                            thread::yield_now();
                        }
                        sum.store(seen + 1, Ordering::Relaxed);
                        slots.release(slot);
                    }
                });
            }
        });
        let total: u64 = sums.iter().map(|sum| sum.load(Ordering::Relaxed)).sum();
        assert_eq!(total, THREADS * ROUNDS);
        assert!((0..USED).all(|number| slots.others(Slot::of(number)) == Others::None));
    }
}
