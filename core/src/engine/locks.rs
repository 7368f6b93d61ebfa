//! Which slots this worker's requests hold or wait for.
//!
//! ```text
//!                another worker has it
//!    a write ──┬───────────────────────> queued ──┐ its turn has come
//!              │                                  v
//!              └────────────────────────> held for one write ──> the next one that waits here, or released
//! ```
//!
//! From before a write is sent until it is over, later writes of its slot wait. So do reads, until the writes
//! before them have been sent: a client's own commands keep their order. A read that is asked once more, because the
//! backend that owed its answer has failed, keeps its place: a write that arrived after it is not before it now.
//!
//! # Invariants
//!
//! - A slot is held for one write at a time, and requests go on in the order of their arrival.
//! - A worker that releases a slot which others wait for goes to the end of the queue, however many of its own
//!   requests wait. With none waiting it keeps the slot for its next write, without touching the shared word.
//! - In steady state nothing is allocated: entries are used again.
//!
//! Not here: the order among workers (`slots`), what a write does while it holds its slot (`writes`).

use std::collections::VecDeque;
use std::sync::Arc;

use super::exchange::ExchangeId;
use super::slots::{Others, SLOT_COUNT, Slot, Slots, Taken, Ticket};
use crate::BackendId;

/// The locks of one worker.
#[derive(Debug)]
pub(crate) struct Locks {
    slots: Arc<Slots>,
    /// By slot: the position of its entry, or `NONE`. Empty until the first write that has a second copy.
    entries_by_slot: Box<[u32]>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Slots that other workers have before this one.
    queued: Vec<Slot>,
    /// Requests that may go on.
    granted: VecDeque<Granted>,
    /// Whether a slot was given up that others wait for.
    wake: bool,
}

#[derive(Debug, Default)]
struct Entry {
    /// The write that has the slot; `None` while other workers are before this one.
    holder: Option<ExchangeId>,
    /// When the holder arrived.
    holder_number: u64,
    ticket: Option<Ticket>,
    /// Whether the holder has been sent.
    sent: bool,
    /// The backend that decides on it, if the other one is told later.
    sent_to: Option<BackendId>,
    waiters: VecDeque<Waiter>,
}

impl Entry {
    /// Whether a read at this backend comes behind the holder.
    fn was_sent_to(&self, authority: Option<BackendId>) -> bool {
        self.sent && (self.sent_to.is_none() || self.sent_to == authority)
    }

    /// Whether the holder arrived before this number.
    fn is_held_before(&self, arrival_number: u64) -> bool {
        self.holder.is_some() && self.holder_number < arrival_number
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiter {
    exchange: ExchangeId,
    arrival_number: u64,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Read,
    Write,
}

/// A request that has waited and may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Granted {
    /// Nothing that it has to wait for is before it.
    Read(ExchangeId),
    /// It holds its slot.
    Write(ExchangeId),
}

const NONE: u32 = u32::MAX;

/// Room for waiters that an entry keeps when it is used again.
const KEPT_WAITERS_MAX: usize = 64;

impl Locks {
    pub(crate) fn new(slots: Arc<Slots>) -> Self {
        Self {
            slots,
            entries_by_slot: Box::default(),
            entries: Vec::new(),
            free: Vec::new(),
            queued: Vec::new(),
            granted: VecDeque::new(),
            wake: false,
        }
    }

    /// Whether nothing is held, and no ticket is out.
    pub(crate) const fn is_empty(&self) -> bool {
        self.entries.len() == self.free.len()
    }

    /// Whether a write, the newest request, must wait. Then it is queued; else it holds its slot.
    pub(crate) fn write_waits(
        &mut self,
        hash: u64,
        exchange: ExchangeId,
        arrival_number: u64,
    ) -> bool {
        let slot = Slot::of(hash);
        let waiter = Waiter {
            exchange,
            arrival_number,
            what: What::Write,
        };
        if let Some(entry) = self.entry(slot) {
            entry.waiters.push_back(waiter);
            return true;
        }
        let taken = self.slots.take(slot);
        let entry = self.insert(slot);
        match taken {
            Taken::Now => {
                entry.holder = Some(exchange);
                entry.holder_number = arrival_number;
                false
            }
            Taken::Later(ticket) => {
                entry.ticket = Some(ticket);
                entry.waiters.push_back(waiter);
                self.queued.push(slot);
                true
            }
        }
    }

    /// Whether a read that is to be asked at `authority`, perhaps not for the first time, must wait: a write that
    /// arrived before it has not been sent; or not to that backend, because the two were in different Views. Then it is
    /// queued.
    pub(crate) fn read_waits(
        &mut self,
        hash: u64,
        exchange: ExchangeId,
        arrival_number: u64,
        authority: Option<BackendId>,
    ) -> bool {
        let Some(entry) = self.entry(Slot::of(hash)) else {
            return false;
        };
        let position = entry
            .waiters
            .partition_point(|waiter| waiter.arrival_number < arrival_number);
        let waits =
            position > 0 || entry.is_held_before(arrival_number) && !entry.was_sent_to(authority);
        if waits {
            let waiter = Waiter {
                exchange,
                arrival_number,
                what: What::Read,
            };
            entry.waiters.insert(position, waiter);
        }
        waits
    }

    /// The write that a slot is held for.
    pub(crate) fn holder(&self, hash: u64) -> Option<ExchangeId> {
        let index = *self.entries_by_slot.get(Slot::of(hash).index())?;
        self.entries.get(index as usize)?.holder
    }

    /// Whether a slot is held for a write that arrived after this number.
    pub(crate) fn is_held_after(&self, hash: u64, arrival_number: u64) -> bool {
        self.entries_by_slot
            .get(Slot::of(hash).index())
            .and_then(|&index| self.entries.get(index as usize))
            .is_some_and(|entry| entry.holder.is_some() && !entry.is_held_before(arrival_number))
    }

    /// The holder has been sent, to this backend first or to both: reads behind it may go on.
    pub(crate) fn mark_sent(&mut self, hash: u64, sent_to: Option<BackendId>) {
        let index = self.entries_by_slot[Slot::of(hash).index()] as usize;
        let entry = &mut self.entries[index];
        entry.sent = true;
        entry.sent_to = sent_to;
        pop_reads(entry, &mut self.granted);
    }

    /// The holder has to be sent once more.
    pub(crate) fn mark_unsent(&mut self, hash: u64) {
        if let Some(entry) = self.entry(Slot::of(hash)) {
            entry.sent = false;
        }
    }

    /// The holder is over.
    pub(crate) fn release(&mut self, hash: u64, holder: ExchangeId) {
        let slot = Slot::of(hash);
        let entry = self.entry(slot).expect("only a holder releases");
        assert!(
            entry.holder == Some(holder),
            "a slot is released by its holder"
        );
        entry.holder = None;
        pop_reads_of(self, slot);
        self.pass_on(slot);
    }

    /// A request that waits will not be sent. Says whether it was there.
    pub(crate) fn forget(&mut self, hash: u64, exchange: ExchangeId) -> bool {
        let slot = Slot::of(hash);
        let Some(entry) = self.entry(slot) else {
            return false;
        };
        let position = entry
            .waiters
            .iter()
            .position(|waiter| waiter.exchange == exchange);
        // A ticket stays until it is served.
        let found = position.is_some_and(|position| entry.waiters.remove(position).is_some());
        if found && (entry.sent && entry.sent_to.is_none() || entry.holder.is_none()) {
            pop_reads_of(self, slot);
        }
        found
    }

    /// Looks whether this worker's turn has come.
    pub(crate) fn look_at_queued(&mut self) {
        for index in (0..self.queued.len()).rev() {
            let slot = self.queued[index];
            let entry = self.entry(slot).expect("a queued slot has an entry");
            let ticket = entry.ticket.expect("a queued slot has a ticket");
            if self.slots.is_served(slot, ticket) {
                self.queued.swap_remove(index);
                self.entry(slot).expect("as above").ticket = None;
                // Its turn is one write long, whoever else waits.
                pop_reads_of(self, slot);
                if self.has_waiters(slot) {
                    self.grant(slot);
                } else {
                    self.give_up(slot);
                }
            }
        }
    }

    /// The next request that may go on.
    pub(crate) fn next_granted(&mut self) -> Option<Granted> {
        self.granted.pop_front()
    }

    /// Whether requests may go on, or other workers are to be woken.
    pub(crate) fn has_news(&self) -> bool {
        !self.granted.is_empty() || self.wake
    }

    /// Whether other workers are to be woken. Says so once.
    pub(crate) const fn take_wake(&mut self) -> bool {
        std::mem::replace(&mut self.wake, false)
    }

    /// The slot is this worker's, and held for no write. Reads that were first have gone on.
    fn pass_on(&mut self, slot: Slot) {
        if !self.has_waiters(slot) {
            self.give_up(slot);
        } else if self.slots.others(slot) == Others::None {
            self.grant(slot);
        } else {
            self.wake |= self.slots.release(slot) == Others::Wait;
            match self.slots.take(slot) {
                Taken::Now => self.grant(slot),
                Taken::Later(ticket) => {
                    self.entry(slot).expect("it has waiters").ticket = Some(ticket);
                    self.queued.push(slot);
                }
            }
        }
    }

    fn has_waiters(&mut self, slot: Slot) -> bool {
        self.entry(slot)
            .is_some_and(|entry| !entry.waiters.is_empty())
    }

    fn give_up(&mut self, slot: Slot) {
        self.wake |= self.slots.release(slot) == Others::Wait;
        self.remove(slot);
    }

    /// The first that waits is a write.
    fn grant(&mut self, slot: Slot) {
        let entry = self.entry(slot).expect("it has waiters");
        let waiter = entry.waiters.pop_front().expect("a write waits");
        assert!(waiter.what == What::Write, "reads have gone on");
        entry.holder = Some(waiter.exchange);
        entry.holder_number = waiter.arrival_number;
        entry.sent = false;
        entry.sent_to = None;
        self.granted.push_back(Granted::Write(waiter.exchange));
    }

    fn entry(&mut self, slot: Slot) -> Option<&mut Entry> {
        let index = *self.entries_by_slot.get(slot.index())?;
        self.entries.get_mut(index as usize)
    }

    fn insert(&mut self, slot: Slot) -> &mut Entry {
        if self.entries_by_slot.is_empty() {
            self.entries_by_slot = vec![NONE; SLOT_COUNT].into();
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::default());
            u32::try_from(self.entries.len() - 1).expect("there are fewer slots")
        });
        self.entries_by_slot[slot.index()] = index;
        &mut self.entries[index as usize]
    }

    fn remove(&mut self, slot: Slot) {
        let index = std::mem::replace(&mut self.entries_by_slot[slot.index()], NONE);
        let entry = &mut self.entries[index as usize];
        let mut waiters = std::mem::take(&mut entry.waiters);
        waiters.shrink_to(KEPT_WAITERS_MAX);
        *entry = Entry {
            waiters,
            ..Entry::default()
        };
        self.free.push(index);
    }
}

fn pop_reads_of(locks: &mut Locks, slot: Slot) {
    let index = locks.entries_by_slot[slot.index()] as usize;
    pop_reads(&mut locks.entries[index], &mut locks.granted);
}

/// Reads that no write is before any more.
fn pop_reads(entry: &mut Entry, granted: &mut VecDeque<Granted>) {
    while let Some(waiter) = entry.waiters.front()
        && waiter.what == What::Read
    {
        granted.push_back(Granted::Read(waiter.exchange));
        entry.waiters.pop_front();
    }
}
