//! Which key is copied next: at the rate, within the window, from targets, shares and single keys in turn.
//!
//! Not here: the steps of a copy (`copy`).

use std::sync::Arc;

use super::Healer;
use super::copy::Origin;
use super::target::Hint;
use crate::keeper::Report;
use crate::placement::plan;
use crate::{BackendId, Time};

use super::Output;

/// Values on their way, in bytes: read at a source and not yet taken by a target. One that is larger goes alone.
const IN_FLIGHT_LEN_MAX: u64 = 8 << 20;
/// What a single key's value is taken to need until it has been read.
pub(super) const SINGLE_LEN: u64 = 128 << 10;
/// Keys that are looked at in search of one that can be copied at once.
const LOOKS_MAX: usize = 16;

/// Where a single key can be copied from.
pub(super) enum Source {
    Led(BackendId),
    /// Nobody but the target leads: this backend would.
    Gone(BackendId),
    /// Not yet known.
    Soon,
    /// The key is not the target's, or cannot be copied.
    Never,
}

impl Healer {
    pub(super) fn begin_copies(&mut self, now: Time) {
        let ids = self.ids().filter(|&target| {
            let this = self.target_ref(target);
            let waits =
                this.has_singles() || this.shares.iter().any(|share| !share.keys.is_empty());
            waits && self.may_copy_to(target)
        });
        let targets: Vec<BackendId> = ids.collect();
        let mut idle = 0;
        while idle < targets.len() {
            let at = self.rate.next_at(now);
            if at > now {
                self.rate_at = Some(at);
                return;
            }
            self.turn = self.turn.wrapping_add(1);
            let target = targets[self.turn % targets.len()];
            let room = (self.target_ref(target).in_flight.len() as u64) < self.limits.heal_window;
            if room && self.begin_next_copy(now, target) {
                idle = 0;
            } else {
                idle += 1;
            }
        }
    }

    /// Begins one copy to `target`, or drops a key that needs none. Whether it did.
    fn begin_next_copy(&mut self, now: Time, target: BackendId) -> bool {
        let this = self.target(target);
        this.single_next = !this.single_next;
        let first = this.single_next;
        [first, !first].into_iter().any(|single| {
            if single {
                self.begin_single(now, target)
            } else {
                self.begin_of_share(now, target)
            }
        })
    }

    fn begin_single(&mut self, now: Time, target: BackendId) -> bool {
        for _ in 0..LOOKS_MAX {
            let Some(key) = self.target(target).singles.peek().cloned() else {
                return false;
            };
            if let Some(&id) = self.target(target).in_flight.get(&key) {
                self.target(target).singles.remove(&key);
                self.mark_dirty(id);
                return true;
            }
            match self.source_of(&key, target) {
                Source::Led(source) => {
                    let pair = (source, target);
                    if self.are_ready(now, pair, Origin::Single) && self.has_room(SINGLE_LEN) {
                        self.target(target).singles.remove(&key);
                        let single = (Origin::Single, Hint::NONE);
                        self.begin_copy(now, pair, &key, single, None);
                        return true;
                    }
                    self.target(target).singles.pass_over(&key);
                }
                Source::Soon => self.target(target).singles.pass_over(&key),
                Source::Never => {
                    self.target(target).singles.remove(&key);
                    return true;
                }
                Source::Gone(source) => {
                    self.drop_singles_of(target, source);
                    return true;
                }
            }
        }
        false
    }

    fn begin_of_share(&mut self, now: Time, target: BackendId) -> bool {
        for index in 0..self.target(target).shares.len() {
            let share = &self.target(target).shares[index];
            let (source, generation) = (share.source, share.generation);
            let Some(found) = share.keys.front() else {
                continue;
            };
            let (key, size, hint) = (Arc::clone(&found.key), u64::from(found.size), found.hint);
            let in_flight = self.target(target).in_flight.contains_key(&key);
            if !in_flight {
                let origin = Origin::Share(generation);
                if !self.are_ready(now, (source, target), origin) || !self.has_room(size) {
                    continue;
                }
            }
            self.target(target).shares[index].keys.pop_front();
            self.listed_keys -= 1;
            self.listed_len -= key.len() as u64;
            if in_flight {
                // The copy under way is looked at again later than this one was found.
                self.progress[target.index()].item_done(0);
            } else {
                let of_share = (Origin::Share(generation), hint);
                self.begin_copy(now, (source, target), &key, of_share, Some(size));
            }
            return true;
        }
        false
    }

    const fn has_room(&self, len: u64) -> bool {
        self.bytes_in_flight == 0 || self.bytes_in_flight + len <= IN_FLIGHT_LEN_MAX
    }

    /// The keys that `source` would lead are lost to `target` until it does again.
    fn drop_singles_of(&mut self, target: BackendId, source: BackendId) {
        let placement = Arc::clone(&self.placement);
        self.target(target).singles.retain(|key| {
            let route = placement.route(key);
            let pair = [Some(route.primary), route.backup];
            !pair.contains(&Some(source))
        });
        self.outputs.push_back(Output::Report(Report::Lacks {
            target,
            source: Some(source),
        }));
    }

    pub(super) fn source_of(&self, key: &[u8], target: BackendId) -> Source {
        let route = self.placement.route(key);
        let Some(backup) = route.backup else {
            return Source::Never;
        };
        let other = match target {
            _ if target == route.primary => backup,
            _ if target == backup => route.primary,
            _ => return Source::Never,
        };
        if !self.speaks_meta(target) || !self.speaks_meta(other) {
            return Source::Never;
        }
        let plan = plan(
            (route.primary, self.standing(route.primary)),
            Some((backup, self.standing(backup))),
        );
        match plan.authority {
            Some(authority) if authority == other => Source::Led(other),
            None if plan.soon => Source::Soon,
            Some(_) | None => Source::Gone(other),
        }
    }
}
