//! Which keys have an outcome on its way to the follower.
//!
//! From the moment a conditional command is sent until its outcome is stored, later writes of the key
//! wait; so do reads once a write waits, so that a client's own commands keep their order. Keys are told
//! apart by hash: two keys that share one only wait for each other.

use std::collections::{BTreeMap, VecDeque};

use super::exchange::ExchangeId;

/// The locks of one worker.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    held: BTreeMap<u64, Lock>,
}

#[derive(Debug)]
struct Lock {
    holder: ExchangeId,
    /// Whether the holder's command has been sent.
    sent: bool,
    waiters: VecDeque<ExchangeId>,
}

impl Locks {
    /// Whether a write of this key must wait. Then it is queued.
    pub(crate) fn write_waits(&mut self, hash: u64, exchange: ExchangeId) -> bool {
        match self.held.get_mut(&hash) {
            Some(lock) if lock.holder != exchange => {
                lock.waiters.push_back(exchange);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Whether a read of this key must wait: a write before it has not been sent. Then it is queued.
    pub(crate) fn read_waits(&mut self, hash: u64, exchange: ExchangeId) -> bool {
        if self.held.is_empty() {
            return false;
        }
        match self.held.get_mut(&hash) {
            Some(lock) if !lock.sent || !lock.waiters.is_empty() => {
                lock.waiters.push_back(exchange);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Takes the lock, or keeps it.
    pub(crate) fn acquire(&mut self, hash: u64, exchange: ExchangeId) {
        let lock = self.held.entry(hash).or_insert_with(|| Lock {
            holder: exchange,
            sent: false,
            waiters: VecDeque::new(),
        });
        assert!(lock.holder == exchange, "a lock has one holder");
        lock.sent = false;
    }

    /// The holder's command is sent.
    pub(crate) fn mark_sent(&mut self, hash: u64) {
        if let Some(lock) = self.held.get_mut(&hash) {
            lock.sent = true;
        }
    }

    /// Gives the lock up and yields those that waited, in order. They try again one by one.
    pub(crate) fn release(&mut self, hash: u64, holder: ExchangeId) -> VecDeque<ExchangeId> {
        let lock = self.held.remove(&hash).expect("only a holder releases");
        assert!(lock.holder == holder, "a lock is released by its holder");
        lock.waiters
    }
}
