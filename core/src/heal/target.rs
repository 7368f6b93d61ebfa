//! A backend that is copied to: which keys it waits for, and what it was left with.
//!
//! # Invariants
//!
//! - A key is in at most one copy to a target at a time; one that is asked for meanwhile is copied again.
//! - Single keys are bounded. Beyond the bound none is left, and the keeper is told that shares are lacking.
//!
//! Not here: the steps of a copy (`copy`), how the keys of a share are found (`walk`), how what is old goes (`purge`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::copy::{CopyId, Origin};
use super::purge::Purge;
use super::{Healer, Output};
use crate::BackendId;
use crate::keeper::{Left, Report};
use crate::placement::Phase;

/// A key, by its placement.
pub(super) type Key = Arc<[u8]>;

/// One backend as one that is copied to.
#[derive(Debug, Default)]
pub(super) struct Target {
    /// Keys to be copied from wherever they are led.
    pub(super) singles: Singles,
    /// Single keys whose copy has begun, or has to wait a little.
    pub(super) singles_open: usize,
    /// What the keeper was told of single keys.
    pub(super) left: Left,
    pub(super) shares: Vec<Share>,
    /// Keys that are being copied.
    pub(super) in_flight: BTreeMap<Key, CopyId>,
    /// Keys that it may have old items of: it failed before a copy was looked at again, or workers say that it missed
    /// something.
    pub(super) unverified: Singles,
    pub(super) purge: Option<Purge>,
    /// Whose turn it is when both single keys and a share wait.
    pub(super) single_next: bool,
    pub(super) singles_seen: u64,
}

impl Target {
    pub(super) fn has_singles(&self) -> bool {
        self.singles_open > 0 || !self.singles.keys.is_empty()
    }

    pub(super) fn share(&mut self, source: BackendId) -> Option<&mut Share> {
        self.shares.iter_mut().find(|share| share.source == source)
    }

    pub(super) fn share_of(&mut self, generation: u32) -> Option<&mut Share> {
        self.shares
            .iter_mut()
            .find(|share| share.generation == generation)
    }

    /// Items that have to be looked at, as far as is known.
    pub(super) fn items_total(&self) -> u64 {
        let shares = self.shares.iter().map(Share::expected);
        self.singles_seen + shares.sum::<u64>()
    }
}

/// Keys that are copied one by one. Taken round and round in their order, so that each has its turn.
#[derive(Debug, Default)]
pub(super) struct Singles {
    keys: BTreeSet<Key>,
    len: u64,
    cursor: Option<Key>,
}

impl Singles {
    pub(super) fn insert(&mut self, key: Key) {
        let len = key.len() as u64;
        if self.keys.insert(key) {
            self.len += len;
        }
    }

    pub(super) fn exceeds(&self, keys_max: u64, len_max: u64) -> bool {
        self.keys.len() as u64 > keys_max || self.len > len_max
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Drops some.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&[u8]) -> bool) {
        self.keys.retain(|key| keep(key));
        self.len = self.keys.iter().map(|key| key.len() as u64).sum();
    }

    /// The key behind the one that was taken or passed over last.
    pub(super) fn peek(&self) -> Option<&Key> {
        let next = self.cursor.as_ref().and_then(|cursor| {
            self.keys
                .range::<Key, _>((Bound::Excluded(cursor), Bound::Unbounded))
                .next()
        });
        next.or_else(|| self.keys.first())
    }

    pub(super) fn pass_over(&mut self, key: &Key) {
        self.cursor = Some(Arc::clone(key));
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.pass_over(key);
        if self.keys.remove(key) {
            self.len -= key.len() as u64;
        }
    }
}

/// What one source has of a target's keys.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) source: BackendId,
    /// Tells it from an earlier one of the same two backends.
    pub(super) generation: u32,
    pub(super) state: ShareState,
    /// Keys that were found and wait.
    pub(super) keys: VecDeque<Found>,
    /// Keys whose copy has begun, or has to wait a little.
    pub(super) open: usize,
    /// Keys were dropped that a walk has passed: it does not suffice.
    pub(super) again: bool,
    /// Found by the walks that are over, and by the one under way.
    pub(super) found: u64,
    pub(super) found_in_pass: u64,
    /// Walks that it takes, and those that are over.
    pub(super) passes: u32,
    pub(super) passes_done: u32,
}

/// A key that waits, and what is known of its item.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: Key,
    /// What the item takes.
    pub(super) size: u32,
    pub(super) hint: Hint,
}

/// What is known of an item before it is read. One number: there may be a million of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hint(u32);

impl Hint {
    pub(super) const NONE: Self = Self(0);
    /// It was about to expire when it was read, and should have by the time of the next read.
    pub(super) const EXPIRED: Self = Self(u32::MAX);

    /// When a walk says that it ends, by its backend's clock.
    pub(super) fn ends_at(date: Option<u64>) -> Self {
        let date = date.and_then(|date| u32::try_from(date).ok());
        date.map_or(Self::NONE, Self)
    }

    pub(super) fn date(self) -> Option<u64> {
        (self != Self::NONE && self != Self::EXPIRED).then(|| u64::from(self.0))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShareState {
    /// To be walked.
    Wanted,
    /// Being walked, in one or more passes.
    Walking,
    /// All its keys are found.
    Walked,
    /// Its source does not say what it has.
    Unwalkable,
    /// The keeper was told that it is copied.
    Done,
}

impl Share {
    pub(super) const fn new(source: BackendId, generation: u32) -> Self {
        Self {
            source,
            generation,
            state: ShareState::Wanted,
            keys: VecDeque::new(),
            open: 0,
            again: false,
            found: 0,
            found_in_pass: 0,
            passes: 1,
            passes_done: 0,
        }
    }

    /// Keys that it has, by what the walks so far have found.
    fn expected(&self) -> u64 {
        if self.state == ShareState::Walking && self.passes_done > 0 {
            return self.found / u64::from(self.passes_done) * u64::from(self.passes);
        }
        self.found + self.found_in_pass
    }
}

impl Healer {
    pub(super) fn target(&mut self, target: BackendId) -> &mut Target {
        &mut self.backends[target.index()].target
    }

    pub(super) fn target_ref(&self, target: BackendId) -> &Target {
        &self.backends[target.index()].target
    }

    /// A copy begins (or its key is set aside), or ends.
    pub(super) fn count_open(&mut self, target: BackendId, origin: Origin, change: isize) {
        let this = self.target(target);
        let open = match origin {
            Origin::Single => &mut this.singles_open,
            Origin::Share(generation) => match this.share_of(generation) {
                Some(share) => &mut share.open,
                None => return,
            },
        };
        *open = open
            .checked_add_signed(change)
            .expect("what ends has begun");
    }

    /// Puts the key of a copy that could not go on where it came from.
    pub(super) fn queue_again(&mut self, target: BackendId, key: Key, origin: Origin, hint: Hint) {
        match origin {
            Origin::Single => self.insert_single(target, key),
            Origin::Share(generation) => {
                let found = Found { key, size: 0, hint };
                self.list(target, generation, found);
            }
        }
    }

    /// A key that the target lacks, or may lack.
    pub(super) fn insert_single(&mut self, target: BackendId, key: Key) {
        if self.phase(target) == Phase::Up {
            return;
        }
        let (keys_max, len_max) = (self.limits.heal_keys_max, self.limits.heal_keys_len_max);
        let this = self.target(target);
        this.singles.insert(key);
        self.report_left(target);
        let this = self.target(target);
        if this.singles.exceeds(keys_max, len_max) {
            this.singles.clear();
            // What is dropped may be behind a walk that is under way.
            for share in &mut this.shares {
                share.again = true;
            }
            self.outputs.push_back(Output::Report(Report::Lacks {
                target,
                source: None,
            }));
        }
    }

    /// Tells the keeper when none, few or many single keys are left.
    pub(super) fn report_left(&mut self, target: BackendId) {
        let few = usize::try_from(self.limits.heal_window).unwrap_or(usize::MAX);
        let this = self.target(target);
        let left = match this.singles_open + this.singles.keys.len() {
            0 => Left::None,
            count if count <= few => Left::Few,
            _ => Left::Many,
        };
        if this.left != left {
            this.left = left;
            self.outputs
                .push_back(Output::Report(Report::Left { target, left }));
        }
    }

    pub(super) fn publish_total(&mut self, target: BackendId) {
        let total = self.target_ref(target).items_total();
        self.progress[target.index()].set_items_total(total);
    }
}
