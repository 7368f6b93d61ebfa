//! What becomes of copies when a backend fails in the middle.
//!
//! | lost | the copy has | then |
//! | --- | --- | --- |
//! | source | been read, or not yet | its key waits |
//! | source | been stored, not looked at again | it is deleted, before the target leads |
//! | target | been stored, perhaps | its key is deleted at the target's return, and copied again |
//! | target | not been stored | its key waits, if it is a single one; its share is walked again |
//!
//! # Invariants
//!
//! - The request under way on the lost connection is accounted for first ([`Healer::on_unanswered`]), then copies
//!   whose request is elsewhere ([`Healer::on_target_lost`]): each once.
//!
//! Not here: how a failure is noticed (`link`), purges (`target`).

use std::sync::Arc;

use super::Healer;
use super::copy::{Asked, CopyId, Origin, Step};
use crate::breaks::Break;
use crate::placement::Phase;
use crate::{BackendId, Time};

impl Healer {
    /// The backend is given up before it has answered this.
    pub(super) fn on_unanswered(&mut self, now: Time, backend: BackendId, asked: Asked) {
        let id = match asked {
            Asked::Step(id) => id,
            Asked::GiveBack(key, cas) => {
                self.backends[backend.index()].wins.insert(key, cas);
                return;
            }
            Asked::Compare(suspect, _) => {
                self.on_comparison_lost(now, &suspect);
                return;
            }
            Asked::Purge(_)
            | Asked::Find(_)
            | Asked::DeleteOld(_)
            | Asked::Mark
            | Asked::Unlock
            | Asked::Renew
            | Asked::Clock => return,
        };
        let takeover = self.breaks.has(Break::Takeover);
        let copy = self.copy(id);
        if copy.orphan {
            self.release(now, id);
            return;
        }
        match copy.step {
            Step::Reading => self.abandon(now, id),
            Step::LookingBack if copy.stored.is_none() => self.abandon(now, id),
            // Copies were led by the backend that is lost: they do not stay.
            Step::LookingBack if takeover => self.finish(now, id),
            Step::LookingBack => self.on_changed(now, id),
            Step::Storing | Step::Completing | Step::Removing => self.leave_unverified(now, id),
        }
    }

    /// The target is lost: what is under way elsewhere is for nothing.
    pub(super) fn on_target_lost(&mut self, target: BackendId) {
        for index in 0..self.copies.len() {
            let Some(copy) = &mut self.copies[index] else {
                continue;
            };
            if copy.target != target || copy.orphan {
                continue;
            }
            copy.orphan = true;
            let (key, origin) = (Arc::clone(&copy.key), copy.origin);
            let stored = copy.step == Step::LookingBack && copy.stored.is_some();
            let dirty = copy.dirty;
            self.count_open(target, origin, -1);
            if dirty {
                self.count_open(target, Origin::Single, -1);
            }
            let this = self.target(target);
            this.in_flight.remove(&key);
            if stored {
                this.unverified.insert(Arc::clone(&key));
            }
            if stored || dirty || origin == Origin::Single {
                self.insert_single(target, key);
            }
        }
        self.target(target).purge = None;
    }

    /// The target may have a copy that nobody has looked at again.
    fn leave_unverified(&mut self, now: Time, id: CopyId) {
        let copy = self.release(now, id);
        let this = self.target(copy.target);
        this.unverified.insert(Arc::clone(&copy.key));
        self.insert_single(copy.target, copy.key);
    }

    /// Whether copies that were not looked at again are on the backend, or may be.
    pub(super) fn holds_unverified(&self, backend: BackendId) -> bool {
        self.copies.iter().flatten().any(|copy| {
            copy.target == backend
                && !copy.orphan
                && match copy.step {
                    Step::Reading => false,
                    Step::LookingBack => copy.stored.is_some(),
                    Step::Storing | Step::Completing | Step::Removing => true,
                }
        })
    }

    /// Whether the target may lead: nothing on it waits to be looked at again.
    pub(super) fn is_clean(&self, target: BackendId) -> bool {
        self.phase(target) != Phase::Cleaning
            || self.target_ref(target).in_flight.is_empty()
            || self.breaks.has(Break::Takeover)
    }
}
