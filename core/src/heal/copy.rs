//! One item on its way from its source to a target.
//!
//! ```text
//!            value           HD, NS             unchanged      stale, or has a version
//!  Reading ─────────> Storing ─────> LookingBack ────────────┬──────> Completing ──> over
//!     ^                                │                     │                        ^
//!     │ again, a few times             │ changed or gone     └────────────────────────┘
//!     └──────────────────── Removing <─┘
//! ```
//!
//! # Invariants
//!
//! - A copy has asked for exactly one thing at any moment: the answer, or its absence, moves it on.
//! - A copy is over only if the source had the same item, with the same expiry, after it was stored; whoever
//!   wrote to the source in between is told to the target by its worker. A copy that cannot be looked at again
//!   is deleted, but only it (`C`), or the key is kept for the target's next purge ([`Target::unverified`]).
//! - An item that the target already has is never replaced: it is newer, or the same.
//! - Reading a stale item takes the win from its clients. It is given back, once, when the copy has been looked
//!   at again: until then nobody needs to bring a new one, and the CAS unique stays comparable.
//!
//! Not here: which key is next (`choose`), what becomes of a copy when a backend fails (`loss`).
//!
//! [`Target::unverified`]: super::target::Target

use std::sync::Arc;

use super::choose::SINGLE_LEN;
use super::purge::{Print, Suspect};
use super::target::{Hint, Key};
use super::wire::{self, Attributes, Expiry, Stored, Ttl};
use super::{Healer, Later, Role, State};
use crate::breaks::Break;
use crate::cas;
use crate::keeper::Failure;
use crate::proto::response::Line;
use crate::{BackendId, Time};

/// The position of a copy in the healer's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CopyId(pub(super) usize);

/// What a copy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was asked for by its key.
    Single,
    /// A walk found it for the share with this generation.
    Share(u32),
}

#[derive(Debug)]
pub(super) struct Copy {
    pub(super) target: BackendId,
    pub(super) source: BackendId,
    pub(super) key: Key,
    pub(super) origin: Origin,
    hint: Hint,
    pub(super) step: Step,
    /// When its source was asked for it.
    asked_at: Time,
    /// It was asked for again since it began.
    pub(super) dirty: bool,
    /// Its target is lost: only the answer under way is waited for.
    pub(super) orphan: bool,
    /// Bytes that it counts for among those in flight.
    pub(super) reserved: u64,
    /// What its value was taken to be when it was asked for.
    guess: u64,
    /// How often it has begun again.
    rounds: u8,
    /// In how many rounds in a row the target had the item.
    refused: u8,
    seen: Seen,
    /// The CAS unique of the copy, if it was stored.
    pub(super) stored: Option<u64>,
    /// The source's item whose win was taken.
    won: Option<u64>,
}

/// The item as it was read.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    cas: u64,
    /// In Unix milliseconds; `None` if never.
    expires_ms: Option<u64>,
    stale: bool,
    /// Whether it goes by its base64 name: to append, even nothing, would make it forget that.
    base64: bool,
    len: u64,
    skipped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Reading,
    Storing,
    LookingBack,
    /// The copy is marked stale, or given its item's version.
    Completing,
    Removing,
}

/// What a backend owes an answer to.
#[derive(Debug)]
pub(super) enum Asked {
    /// The next step of a copy.
    Step(CopyId),
    /// A win that is given back.
    GiveBack(Key, u64),
    /// A deletion before the target is used: of this key, or what is due to it otherwise.
    Purge(Option<Key>),
    /// An item that may be old.
    Find(Suspect),
    /// What the one that leads has in its stead.
    Compare(Suspect, Print),
    /// Its deletion.
    DeleteOld(Suspect),
    /// The mark of the pool.
    Mark,
    /// The end of a walk's lock.
    Unlock,
    /// A longer life for it.
    Renew,
    /// The backend's clock, among all that `stats` tells.
    Clock,
}

/// An item that changes again and again is set aside for a while after so many rounds.
const ROUNDS_MAX: u8 = 3;
/// How long.
const ASIDE_MS: u64 = 50;
/// An item that has a second to live is looked at again after this.
const EXPIRED_MS: u64 = 1_100;
/// No more keys than this are set aside for that.
const LATER_MAX: usize = 65_536;
/// If the target had the item in so many rounds in a row, it is kept up to date by those who change it.
const REFUSED_MAX: u8 = 3;
/// Expiries that differ by less are the same: servers count whole seconds, which tick at any moment.
const EXPIRY_TOLERANCE_MS: u64 = 1_500;

impl Healer {
    /// Begins a copy. Both connections are open. `size` is what a walk says of the item.
    pub(super) fn begin_copy(
        &mut self,
        now: Time,
        (source, target): (BackendId, BackendId),
        key: &Key,
        (origin, hint): (Origin, Hint),
        size: Option<u64>,
    ) {
        let room = size.unwrap_or(SINGLE_LEN);
        let size = size.unwrap_or(self.value_len_mean);
        let copy = Copy {
            target,
            source,
            key: Arc::clone(key),
            origin,
            hint,
            step: Step::Reading,
            asked_at: now,
            dirty: false,
            orphan: false,
            reserved: room,
            guess: size,
            rounds: 0,
            refused: 0,
            seen: Seen::default(),
            stored: None,
            won: None,
        };
        self.bytes_in_flight += room;
        let id = match self.copies_free.pop() {
            Some(id) => id,
            None => {
                self.copies.push(None);
                CopyId(self.copies.len() - 1)
            }
        };
        self.copies[id.0] = Some(copy);
        self.count_open(target, origin, 1);
        self.target(target).in_flight.insert(Arc::clone(key), id);
        self.read(now, id);
    }

    pub(super) fn copy(&mut self, id: CopyId) -> &mut Copy {
        self.copies[id.0]
            .as_mut()
            .expect("a copy stays until its last answer")
    }

    fn read(&mut self, now: Time, id: CopyId) {
        let copy = self.copy(id);
        copy.stored = None;
        copy.seen = Seen::default();
        copy.asked_at = now;
        let (source, guess) = (copy.source, copy.guess);
        self.rate.take_item();
        self.rate.take_bytes(guess);
        self.ask(now, id, source, Step::Reading, |copy, out| {
            wire::read(&copy.key, out);
        });
    }

    fn ask(
        &mut self,
        now: Time,
        id: CopyId,
        backend: BackendId,
        step: Step,
        encode: impl FnOnce(&Copy, &mut Vec<u8>),
    ) {
        self.copy(id).step = step;
        let mut out = std::mem::take(&mut self.link(backend, Role::Copy).unsent);
        encode(self.copy(id), &mut out);
        self.link(backend, Role::Copy).unsent = out;
        self.push_asked(now, backend, Asked::Step(id));
    }

    /// A backend has answered the oldest thing that it was asked.
    pub(super) fn on_answer(
        &mut self,
        now: Time,
        backend: BackendId,
        line: &Line<'_>,
        value: Option<&[u8]>,
    ) -> Result<(), Failure> {
        let asked = &mut self.backends[backend.index()].asked;
        let Some(front) = asked.pop_front() else {
            return Err(Failure::Desync);
        };
        let result = match &front {
            Asked::Step(id) => self.on_step_answered(now, *id, line, value),
            Asked::GiveBack(..) | Asked::Unlock => is_change(line),
            Asked::Purge(key) => is_change(line).map(|()| self.on_settled(backend, key.clone())),
            Asked::Find(suspect) => self.on_found(now, suspect.clone(), line, value),
            Asked::Compare(suspect, print) => {
                let suspect = (suspect.clone(), *print);
                self.on_compared(now, backend, suspect, line, value)
            }
            Asked::DeleteOld(suspect) => self.on_old_deleted(now, suspect.clone(), line),
            Asked::Mark => Self::on_mark_answered(line),
            Asked::Renew => self.on_lock_renewed(backend, line),
            Asked::Clock => match self.on_clock_line(now, backend, line) {
                Ok(false) => {
                    self.backends[backend.index()].asked.push_front(front);
                    return Ok(());
                }
                over => over.map(|_last| ()),
            },
        };
        if result.is_err() {
            // It is accounted for with all the others.
            self.backends[backend.index()].asked.push_front(front);
        }
        result
    }

    fn on_step_answered(
        &mut self,
        now: Time,
        id: CopyId,
        line: &Line<'_>,
        value: Option<&[u8]>,
    ) -> Result<(), Failure> {
        let key = Arc::clone(&self.copy(id).key);
        let about = |flags| Attributes::about(&key, flags).ok_or(Failure::Desync);
        match (self.copy(id).step, line) {
            (Step::Reading, Line::MetaValue { flags, .. }) => {
                let attributes = about(flags)?;
                self.on_value(now, id, &attributes, value);
            }
            (Step::Reading | Step::LookingBack, Line::MetaMiss(flags)) => {
                about(flags)?;
                self.on_gone(now, id);
            }
            // It cannot be read: an old memcached, or one without memory.
            (Step::Reading, Line::Error | Line::ClientError(_) | Line::ServerError(_)) => {
                self.skip(now, id);
            }
            (Step::LookingBack, Line::MetaHeader(flags)) => {
                let attributes = about(flags)?;
                self.on_looked_back(now, id, &attributes);
            }
            (Step::LookingBack, Line::ServerError(_)) => self.on_changed(now, id),
            (Step::Storing, Line::MetaHeader(flags)) => {
                let attributes = Attributes::parse(flags).ok_or(Failure::Desync)?;
                let cas = attributes.cas.ok_or(Failure::Desync)?;
                self.on_stored(now, id, Some(cas));
            }
            (Step::Storing, Line::MetaNotStored(_)) => self.on_stored(now, id, None),
            // Too large, or no memory. Its old item is gone too, so the source is looked at again: who wrote
            // a smaller one meanwhile has been undone there.
            (Step::Storing, Line::Error | Line::ClientError(_) | Line::ServerError(_)) => {
                self.copy(id).seen.skipped = true;
                self.on_stored(now, id, None);
            }
            // Without memory it keeps the CAS unique that it has.
            (Step::Completing, Line::MetaNotStored(_) | Line::ServerError(_)) => {
                self.finish(now, id);
            }
            (Step::Completing, line) => {
                is_change(line)?;
                self.finish(now, id);
            }
            (Step::Removing, line) => {
                is_change(line)?;
                self.again(now, id);
            }
            _ => return Err(Failure::Desync),
        }
        Ok(())
    }

    fn on_value(&mut self, now: Time, id: CopyId, item: &Attributes<'_>, value: Option<&[u8]>) {
        let unix_ms = self.unix_ms(now);
        let len = value.map_or(0, |value| value.len() as u64);
        let guess = std::mem::replace(&mut self.copy(id).guess, len);
        self.rate.correct_bytes(guess, len);
        self.value_len_mean = (self.value_len_mean * 7 + len) / 8;
        let copy = self.copy(id);
        if item.is_won() {
            copy.won = item.cas;
        }
        copy.seen = Seen {
            cas: item.cas.unwrap_or_default(),
            expires_ms: expires_ms(item, unix_ms),
            stale: item.is_stale(),
            base64: item.is_base64(),
            len,
            skipped: false,
        };
        if copy.orphan {
            self.release(now, id);
            return;
        }
        if !self.may_go_on(id) {
            self.abandon(now, id);
            return;
        }
        let about_to_expire = matches!(item.ttl, Some(Ttl::Seconds(0..=1)) | None);
        // The stub of a client that was told to bring the item: as an ordinary item it would be a hit.
        let stub = item.is_taken() && !item.is_stale() && len == 0;
        if about_to_expire && !stub && self.look_later(now, id) {
            return;
        }
        let (Some(value), false) = (value, about_to_expire || stub) else {
            self.skip(now, id);
            return;
        };
        self.reserve(id, len);
        let add = !self.breaks.has(Break::AddMode);
        let copy = self.copy(id);
        let (source, target) = (copy.source, copy.target);
        let (hint, asked_at) = (copy.hint, copy.asked_at);
        let expiry = match item.ttl {
            Some(Ttl::Seconds(ttl_s)) => {
                self.expiry_at(now, (source, target), ttl_s, hint, asked_at)
            }
            Some(Ttl::Never) | None => Expiry::Never,
        };
        self.ask(now, id, target, Step::Storing, |copy, out| {
            let stored = Stored {
                key: &copy.key,
                base64: item.is_base64(),
                value,
                client_flags: item.client_flags,
                expiry,
                add,
            };
            wire::store(&stored, out);
        });
    }

    /// The target has it, or had it before (`None`).
    fn on_stored(&mut self, now: Time, id: CopyId, stored: Option<u64>) {
        let copy = self.copy(id);
        copy.stored = stored;
        let source = copy.source;
        self.reserve(id, 0);
        if self.breaks.has(Break::LookBack) {
            self.finish(now, id);
        } else if self.may_look_back(id) {
            self.ask(now, id, source, Step::LookingBack, |copy, out| {
                wire::look_back(&copy.key, out);
            });
        } else {
            self.on_changed(now, id);
        }
    }

    fn on_looked_back(&mut self, now: Time, id: CopyId, item: &Attributes<'_>) {
        let expires = expires_ms(item, self.unix_ms(now));
        let copy = self.copy(id);
        let same_end = match (copy.seen.expires_ms, expires) {
            (None, None) => true,
            (Some(seen), Some(found)) => seen.abs_diff(found) <= EXPIRY_TOLERANCE_MS,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let same = item.cas == Some(copy.seen.cas) && same_end;
        if item.is_won() {
            copy.won = item.cas;
        }
        if copy.orphan {
            self.release(now, id);
        } else if !same || !self.may_look_back(id) {
            self.on_changed(now, id);
        } else {
            self.on_unchanged(now, id);
        }
    }

    fn on_unchanged(&mut self, now: Time, id: CopyId) {
        let copy = self.copy(id);
        let (target, seen) = (copy.target, copy.seen);
        let Some(cas) = copy.stored else {
            self.finish(now, id);
            return;
        };
        let explicit_cas = self.view.backends[target.index()].explicit_cas;
        if seen.stale {
            self.ask(now, id, target, Step::Completing, |copy, out| {
                wire::mark_stale(&copy.key, cas, out);
            });
        } else if cas::is_version(seen.cas) && explicit_cas && !seen.base64 {
            self.ask(now, id, target, Step::Completing, |copy, out| {
                wire::give_version(&copy.key, cas, seen.cas, out);
            });
        } else {
            self.finish(now, id);
        }
    }

    fn on_gone(&mut self, now: Time, id: CopyId) {
        let copy = self.copy(id);
        // Whoever replaced or deleted it took the win away.
        copy.won = None;
        if copy.orphan {
            self.release(now, id);
        } else if copy.step == Step::Reading {
            self.finish(now, id);
        } else {
            self.on_changed(now, id);
        }
    }

    /// What was stored is not what the source has, or nobody can tell.
    pub(super) fn on_changed(&mut self, now: Time, id: CopyId) {
        let copy = self.copy(id);
        let (target, stored) = (copy.target, copy.stored);
        let Some(cas) = stored else {
            self.again(now, id);
            return;
        };
        let guard = (!self.breaks.has(Break::CasGuard)).then_some(cas);
        self.ask(now, id, target, Step::Removing, |copy, out| {
            wire::delete(&copy.key, guard, out);
        });
    }

    /// The key of a copy under way was asked for: it is copied again.
    pub(super) fn mark_dirty(&mut self, id: CopyId) {
        let copy = self.copy(id);
        let target = copy.target;
        if !std::mem::replace(&mut copy.dirty, true) {
            self.count_open(target, Origin::Single, 1);
        }
    }

    /// Reads the item anew, at once or in a while.
    fn again(&mut self, now: Time, id: CopyId) {
        self.give_back_win(now, id);
        let copy = self.copy(id);
        copy.rounds += 1;
        copy.refused = if copy.stored.is_none() && !copy.seen.skipped {
            copy.refused + 1
        } else {
            0
        };
        if copy.refused >= REFUSED_MAX {
            self.finish(now, id);
        } else if !self.may_go_on(id) {
            self.abandon(now, id);
        } else if self.copy(id).rounds < ROUNDS_MAX {
            self.read(now, id);
        } else {
            let copy = self.release(now, id);
            self.set_aside(copy, now.after_ms(ASIDE_MS), Hint::NONE);
        }
    }

    fn set_aside(&mut self, copy: Copy, at: Time, hint: Hint) {
        self.count_open(copy.target, copy.origin, 1);
        let later = Later {
            at,
            target: copy.target,
            key: copy.key,
            origin: copy.origin,
            hint,
        };
        let index = self.later.partition_point(|before| before.at <= at);
        self.later.insert(index, later);
    }

    /// The item is about to expire, and not worth a copy: unless somebody touches it. So its share is not copied
    /// before it has expired. Not so for a single key: whoever touched it waits for the end of the catch-up.
    fn look_later(&mut self, now: Time, id: CopyId) -> bool {
        let later = self.later.len();
        let copy = self.copy(id);
        let of_share = matches!(copy.origin, Origin::Share(_));
        if !of_share || copy.hint == Hint::EXPIRED || later >= LATER_MAX {
            return false;
        }
        let copy = self.release(now, id);
        self.set_aside(copy, now.after_ms(EXPIRED_MS), Hint::EXPIRED);
        true
    }

    /// The item cannot be copied, or it would be gone before anyone reads it.
    fn skip(&mut self, now: Time, id: CopyId) {
        let copy = self.copy(id);
        let target = copy.target;
        if copy.orphan {
            self.release(now, id);
            return;
        }
        copy.seen.len = 0;
        self.progress[target.index()].item_skipped();
        self.finish(now, id);
    }

    pub(super) fn finish(&mut self, now: Time, id: CopyId) {
        let copy = self.release(now, id);
        if copy.seen.skipped {
            self.progress[copy.target.index()].item_skipped();
        }
        let len = if copy.stored.is_some() {
            copy.seen.len
        } else {
            0
        };
        self.progress[copy.target.index()].item_done(len);
    }

    /// The copy cannot go on. Its key waits for better times.
    pub(super) fn abandon(&mut self, now: Time, id: CopyId) {
        let copy = self.release(now, id);
        self.queue_again(copy.target, copy.key, copy.origin, copy.hint);
    }

    /// Ends a copy, whatever became of it.
    pub(super) fn release(&mut self, now: Time, id: CopyId) -> Copy {
        self.give_back_win(now, id);
        self.reserve(id, 0);
        let copy = self.copies[id.0].take().expect("a copy is released once");
        self.copies_free.push(id);
        if !copy.orphan {
            self.leave_target(&copy);
        }
        copy
    }

    fn leave_target(&mut self, copy: &Copy) {
        self.count_open(copy.target, copy.origin, -1);
        self.target(copy.target).in_flight.remove(&copy.key);
        if copy.dirty {
            self.count_open(copy.target, Origin::Single, -1);
            self.insert_single(copy.target, Arc::clone(&copy.key));
        }
    }

    fn reserve(&mut self, id: CopyId, len: u64) {
        let copy = self.copy(id);
        let before = std::mem::replace(&mut copy.reserved, len);
        self.bytes_in_flight = self.bytes_in_flight - before + len;
    }

    fn give_back_win(&mut self, now: Time, id: CopyId) {
        let copy = self.copy(id);
        let source = copy.source;
        let Some(cas) = copy.won.take() else {
            return;
        };
        let key = Arc::clone(&copy.key);
        if self.link(source, Role::Copy).state == State::Open {
            wire::mark_stale(&key, cas, &mut self.link(source, Role::Copy).unsent);
            self.push_asked(now, source, Asked::GiveBack(key, cas));
        } else {
            self.backends[source.index()].wins.insert(key, cas);
        }
    }

    /// Whether a round may begin or an item be stored.
    fn may_go_on(&mut self, id: CopyId) -> bool {
        let target = self.copy(id).target;
        self.may_copy_to(target)
            && self.link(target, Role::Copy).state == State::Open
            && self.may_look_back(id)
    }

    /// Whether the source is who the item has to be compared with.
    fn may_look_back(&mut self, id: CopyId) -> bool {
        let copy = self.copy(id);
        let (source, target) = (copy.source, copy.target);
        self.link(source, Role::Copy).state == State::Open && self.leads(source, target)
    }
}

pub(super) fn expires_ms(item: &Attributes<'_>, unix_ms: u64) -> Option<u64> {
    match item.ttl {
        Some(Ttl::Seconds(ttl_s)) => Some(unix_ms + ttl_s * 1_000),
        Some(Ttl::Never) | None => None,
    }
}

/// Whether this can be the answer to a deletion, whatever it did.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a line of any other kind is out of step"
)]
fn is_change(line: &Line<'_>) -> Result<(), Failure> {
    match line {
        Line::MetaHeader(_) | Line::MetaNotFound(_) | Line::MetaExists(_) => Ok(()),
        _ => Err(Failure::Desync),
    }
}
