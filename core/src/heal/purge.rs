//! What a target was left with goes before anyone reads it.
//!
//! | who answers at the target | an item that may be old |
//! | --- | --- |
//! | the process that failed | is deleted |
//! | a new one, which other proxies may have filled and read already | is compared with the one that leads, and deleted if they differ |
//! | the same, and nobody leads | is deleted |
//!
//! ```text
//!                value                  another value, or none
//!  Find ──────────────────> Compare ────────────────────────────> DeleteOld ──> over
//!  (target) │               (source) │                            (target) │
//!    ^      └── miss: over           └── the same item: over              │ it is another by now
//!    └─────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! # Invariants
//!
//! - A purge is over when nothing under its keys is older than what was acknowledged through this proxy.
//! - An item that was compared goes only if it is still that one (`C`): who replaced it meanwhile knew better.
//! - Keys stay in [`Target::unverified`] until the purge is over: a target that fails meanwhile is purged again.
//!
//! Not here: what the workers delete themselves (`engine/purge`), when a target returns (`keeper`).
//!
//! [`Target::unverified`]: super::target::Target

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::choose::Source;
use super::copy::{Asked, expires_ms};
use super::target::Key;
use super::wire::{self, Attributes};
use super::{Healer, Output, Role, State};
use crate::breaks::Break;
use crate::keeper::{Failure, Report};
use crate::placement::Phase;
use crate::proto::response::Line;
use crate::{BackendId, Time, known};

/// The purge of one target.
#[derive(Debug)]
pub(super) struct Purge {
    incarnation: u32,
    keys: Vec<Key>,
    next: usize,
    pub(super) outstanding: u64,
    /// Whether its process is a new one.
    compares: bool,
}

/// An item of a target that is compared.
#[derive(Debug, Clone)]
pub(super) struct Suspect {
    target: BackendId,
    incarnation: u32,
    key: Key,
    /// How often it had become another one.
    rounds: u8,
}

/// What an item of the target is compared by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Print {
    cas: u64,
    /// XXH3-64 of its value.
    hash: u64,
    len: usize,
    client_flags: u32,
    /// In Unix milliseconds; `None` if never.
    expires_ms: Option<u64>,
}

/// An item that is another one each time is deleted, whichever it is, after so many rounds.
const ROUNDS_MAX: u8 = 3;
/// Ends that differ by less are the same. Each is a whole number of seconds, and a copy's end may be off by two.
const EXPIRY_TOLERANCE_MS: u64 = 3_000;

impl Print {
    fn of(item: &Attributes<'_>, value: &[u8], unix_ms: u64) -> Self {
        Self {
            cas: item.cas.unwrap_or_default(),
            hash: xxh3_64(value),
            len: value.len(),
            client_flags: item.client_flags,
            expires_ms: expires_ms(item, unix_ms),
        }
    }

    /// Whether both are the same to who reads them. Their CAS uniques may differ.
    fn is_like(&self, other: &Self) -> bool {
        let same_end = match (self.expires_ms, other.expires_ms) {
            (None, None) => true,
            (Some(one), Some(another)) => one.abs_diff(another) <= EXPIRY_TOLERANCE_MS,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let same_value = (self.hash, self.len) == (other.hash, other.len);
        same_value && self.client_flags == other.client_flags && same_end
    }
}

impl Healer {
    /// The target has returned: what was not looked at again goes.
    pub(super) fn start_purge(&mut self, now: Time, target: BackendId) {
        if self.view.backends[target.index()].flush {
            // Everything goes, by the workers.
            self.target(target).unverified.clear();
            self.backends[target.index()].wins.clear();
        }
        let keys = if self.breaks.has(Break::Purge) {
            Vec::new()
        } else {
            let unverified = self.target_ref(target).unverified.keys();
            unverified.cloned().collect()
        };
        self.purge(target, keys);
        self.go_on_purging(now, target);
    }

    fn purge(&mut self, target: BackendId, keys: Vec<Key>) {
        let view = &self.view.backends[target.index()];
        let purge = Purge {
            incarnation: view.incarnation,
            keys,
            next: 0,
            outstanding: 0,
            compares: view.known.is_some(),
        };
        self.target(target).purge = Some(purge);
    }

    /// A worker has named what the target missed.
    pub(super) fn on_missed(&mut self, target: BackendId, keys: Vec<Box<[u8]>>) {
        let keys: Vec<Key> = keys.into_iter().map(Key::from).collect();
        let (keys_max, len_max) = (
            self.limits.remembered_keys_max,
            self.limits.remembered_len_max,
        );
        let incarnation = self.view.backends[target.index()].incarnation;
        let purging = self.phase(target) == Phase::Purging && !self.has_failed(target);
        let unverified = &mut self.target(target).unverified;
        for key in &keys {
            unverified.insert(Arc::clone(key));
        }
        // What all workers may name, and what an earlier return has left.
        if unverified.exceeds(keys_max.saturating_mul(2), len_max.saturating_mul(2)) {
            self.give_up_naming(target);
        } else if purging {
            match &mut self.target(target).purge {
                Some(purge) => purge.keys.extend(keys),
                None => {
                    self.purge(target, keys);
                    self.outputs.push_back(Output::Report(Report::Purging {
                        backend: target,
                        incarnation,
                    }));
                }
            }
        }
    }

    /// Nobody can say what the target may not hold: all of it goes.
    fn give_up_naming(&mut self, target: BackendId) {
        self.target(target).unverified.clear();
        self.outputs
            .push_back(Output::Report(Report::Overflow { backend: target }));
    }

    pub(super) fn go_on_purging(&mut self, now: Time, target: BackendId) {
        while let Some(purge) = &self.target_ref(target).purge {
            let wins = !self.backends[target.index()].wins.is_empty();
            let next = purge.keys.get(purge.next).cloned();
            if !wins && next.is_none() {
                if purge.outstanding == 0 {
                    self.on_purged(target);
                }
                return;
            }
            let compares = purge.compares && !wins;
            let window = if compares {
                self.limits.purge_window.min(self.limits.heal_window)
            } else {
                self.limits.purge_window
            };
            if purge.outstanding >= window || !self.is_ready(now, target) {
                return;
            }
            if let Some((key, cas)) = self.backends[target.index()].wins.pop_first() {
                // Taken from clients before it failed. If it holds another item by now, that has another unique.
                self.count_outstanding(target, 1);
                self.write(now, target, Asked::Purge(None), |out| {
                    wire::mark_stale(&key, cas, out);
                });
                continue;
            }
            let Some(key) = next else { return };
            if compares && let Source::Led(source) = self.source_of(&key, target) {
                let due = self.rate.next_at(now);
                if due > now {
                    self.rate_at = Some(due);
                    return;
                }
                if !self.is_ready(now, source) {
                    return;
                }
                let incarnation = self.view.backends[target.index()].incarnation;
                let suspect = Suspect {
                    target,
                    incarnation,
                    key,
                    rounds: 0,
                };
                self.find(now, suspect);
            } else {
                self.delete(now, target, &key);
            }
            self.count_outstanding(target, 1);
            if let Some(purge) = &mut self.target(target).purge {
                purge.next += 1;
            }
        }
    }

    /// Who leads the item, if that can be asked now.
    fn source_to_ask(&mut self, suspect: &Suspect) -> Option<BackendId> {
        if let Source::Led(source) = self.source_of(&suspect.key, suspect.target)
            && self.link(source, Role::Copy).state == State::Open
        {
            return Some(source);
        }
        None
    }

    /// Asks the target whether it has the item at all.
    fn find(&mut self, now: Time, suspect: Suspect) {
        let key = Arc::clone(&suspect.key);
        self.write(now, suspect.target, Asked::Find(suspect), |out| {
            wire::read(&key, out);
        });
    }

    fn delete(&mut self, now: Time, target: BackendId, key: &Key) {
        let asked = Asked::Purge(Some(Arc::clone(key)));
        self.write(now, target, asked, |out| wire::delete(key, None, out));
    }

    fn delete_old(&mut self, now: Time, suspect: Suspect, cas: u64) {
        let key = Arc::clone(&suspect.key);
        self.write(now, suspect.target, Asked::DeleteOld(suspect), |out| {
            wire::delete(&key, Some(cas), out);
        });
    }

    fn write(
        &mut self,
        now: Time,
        backend: BackendId,
        asked: Asked,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        encode(&mut self.link(backend, Role::Copy).unsent);
        self.push_asked(now, backend, asked);
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a line of any other kind is out of step"
    )]
    pub(super) fn on_found(
        &mut self,
        now: Time,
        suspect: Suspect,
        line: &Line<'_>,
        value: Option<&[u8]>,
    ) -> Result<(), Failure> {
        let target = suspect.target;
        match line {
            Line::MetaMiss(_) => self.on_settled(target, Some(suspect.key)),
            Line::MetaValue { flags, .. } => {
                let item = Attributes::about(&suspect.key, flags).ok_or(Failure::Desync)?;
                let source = self.source_to_ask(&suspect);
                let value = value.filter(|_| !item.is_stale());
                match (source, value) {
                    (Some(source), Some(value)) => {
                        self.rate.take_item();
                        // From both.
                        self.rate.take_bytes(2 * value.len() as u64);
                        let print = Print::of(&item, value, self.unix_ms(now));
                        let key = Arc::clone(&suspect.key);
                        self.write(now, source, Asked::Compare(suspect, print), |out| {
                            wire::read(&key, out);
                        });
                    }
                    (Some(_), None) => {
                        let cas = item.cas.unwrap_or_default();
                        self.delete_old(now, suspect, cas);
                    }
                    (None, _) => self.delete(now, target, &suspect.key),
                }
            }
            // It knows no meta commands.
            Line::Error => {
                self.on_settled(target, None);
                self.give_up_naming(target);
            }
            Line::ClientError(_) | Line::ServerError(_) => self.delete(now, target, &suspect.key),
            _ => return Err(Failure::Desync),
        }
        Ok(())
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a line of any other kind is out of step"
    )]
    pub(super) fn on_compared(
        &mut self,
        now: Time,
        source: BackendId,
        (suspect, print): (Suspect, Print),
        line: &Line<'_>,
        value: Option<&[u8]>,
    ) -> Result<(), Failure> {
        let item = match line {
            Line::MetaValue { flags, .. } => {
                Some(Attributes::about(&suspect.key, flags).ok_or(Failure::Desync)?)
            }
            Line::MetaMiss(_) | Line::Error | Line::ClientError(_) | Line::ServerError(_) => None,
            _ => return Err(Failure::Desync),
        };
        if let Some(item) = item.filter(Attributes::is_won) {
            let cas = item.cas.unwrap_or_default();
            let key = Arc::clone(&suspect.key);
            let asked = Asked::GiveBack(Arc::clone(&key), cas);
            self.write(now, source, asked, |out| {
                wire::mark_stale(&key, cas, out);
            });
        }
        if !self.is_under_way(&suspect) {
            return Ok(());
        }
        let leads = match item.zip(value) {
            Some((item, value)) if !item.is_stale() => {
                Print::of(&item, value, self.unix_ms(now)).is_like(&print)
            }
            _ => false,
        };
        if leads {
            self.on_settled(suspect.target, None);
        } else {
            self.delete_old(now, suspect, print.cas);
        }
        Ok(())
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a line of any other kind is out of step"
    )]
    pub(super) fn on_old_deleted(
        &mut self,
        now: Time,
        mut suspect: Suspect,
        line: &Line<'_>,
    ) -> Result<(), Failure> {
        match line {
            Line::MetaHeader(_) | Line::MetaNotFound(_) => {
                self.on_settled(suspect.target, Some(suspect.key));
            }
            Line::MetaExists(_) if suspect.rounds < ROUNDS_MAX => {
                suspect.rounds += 1;
                self.find(now, suspect);
            }
            Line::MetaExists(_) => self.delete(now, suspect.target, &suspect.key),
            _ => return Err(Failure::Desync),
        }
        Ok(())
    }

    /// Who an item was to be compared with is gone.
    pub(super) fn on_comparison_lost(&mut self, now: Time, suspect: &Suspect) {
        if self.is_under_way(suspect) {
            self.delete(now, suspect.target, &suspect.key);
        }
    }

    /// Nothing old is left of one key. `lacked` is it, if nothing at all may be left.
    pub(super) fn on_settled(&mut self, target: BackendId, lacked: Option<Key>) {
        self.count_outstanding(target, -1);
        if let Some(key) = lacked {
            self.insert_single(target, key);
        }
    }

    fn count_outstanding(&mut self, target: BackendId, change: i64) {
        if let Some(purge) = &mut self.target(target).purge {
            purge.outstanding = purge
                .outstanding
                .checked_add_signed(change)
                .expect("what is answered was asked");
        }
    }

    /// Whether the target has not failed since the item was found there.
    fn is_under_way(&mut self, suspect: &Suspect) -> bool {
        let purge = self.target(suspect.target).purge.as_ref();
        purge.is_some_and(|purge| purge.incarnation == suspect.incarnation)
    }

    fn on_purged(&mut self, target: BackendId) {
        let this = self.target(target);
        let Some(purge) = this.purge.take() else {
            return;
        };
        for key in &purge.keys {
            this.unverified.remove(key);
        }
        self.outputs.push_back(Output::Report(Report::Purged {
            backend: target,
            incarnation: purge.incarnation,
        }));
    }

    // -- The mark of the pool --

    /// Tells other proxies where the items of this backend come from, if that is known and not said yet.
    pub(super) fn set_mark(&mut self, now: Time, backend: BackendId) {
        let Some(process) = self.backends[backend.index()].unmarked else {
            return;
        };
        if !self.speaks_meta(backend) || !self.is_ready(now, backend) {
            return;
        }
        self.backends[backend.index()].unmarked = None;
        let key = self.mark_key.clone();
        self.write(now, backend, Asked::Mark, |out| {
            wire::set_mark(&key, &process.value(), out);
        });
    }

    /// Whether it was stored or not.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a line of any other kind is out of step"
    )]
    pub(super) const fn on_mark_answered(line: &Line<'_>) -> Result<(), Failure> {
        match line {
            Line::MetaHeader(_)
            | Line::MetaNotStored(_)
            | Line::Error
            | Line::ClientError(_)
            | Line::ServerError(_) => Ok(()),
            _ => Err(Failure::Desync),
        }
    }
}

/// Whether this key belongs to no client.
pub(super) fn is_own(key: &[u8]) -> bool {
    key == wire::LOCK || key.starts_with(known::PREFIX)
}
