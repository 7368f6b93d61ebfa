//! What a source has: found by walking its hash table, for all targets that want it at once.
//!
//! ```text
//!          a share is wanted        verified          HD          END             END
//!   Idle ────────────────────> Due ────────> Locking ───> Counting ───> Listing ───> Unlocking ───> Between ──> Idle
//!                               ^               │ taken                    │ busy, lost    │
//!                               └───────────────┴──────────────────────────┘<──────────────┘ next pass
//! ```
//!
//! # Invariants
//!
//! - A memcached whose walk nobody reads holds up writes. So every line is taken in at once, and if the list of
//!   keys is full the connection is closed.
//! - The list is bounded. A walk that finds too much is made in passes: each takes the keys of one part of the
//!   hashes, and begins when those of the one before are copied.
//! - One walk per source at a time: in this process by this machine, between proxies by a lock on the source that
//!   expires by itself.
//!
//! Not here: how a key is copied (`copy`).

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::copy::Asked;
use super::link::Link;
use super::target::{Found, Hint, Share, ShareState};
use super::wire::{self, Attributes, WalkLine};
use super::{Healer, Role, State, purge};
use crate::keeper::{Failure, Report};
use crate::placement::Version;
use crate::proto::response::{Line, RESPONSE_LINE_LEN_MAX, parse_line};
use crate::proto::{KEY_LEN_MAX, Parsed};
use crate::{BackendId, Time};

/// One backend as one that is walked.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) link: Link,
    pub(super) stage: Stage,
    /// Targets with the generation of their share.
    targets: Vec<(BackendId, u32)>,
    passes: u32,
    pass: u32,
    /// CAS unique of the lock whose owner the next line names, and of the lock that is ours.
    lock_seen: Option<u64>,
    lock: Option<u64>,
    /// The same, when the walk was broken off and the lock has to be given back.
    pub(super) unlock: Option<u64>,
    /// When the lock is to be renewed, and whether the answer to that is awaited: it has the next CAS unique.
    renew_at: Time,
    renewing: bool,
    /// What the source says that it holds.
    items: Option<u64>,
    /// Lines of this pass, and keys of them that were wanted.
    seen: u64,
    wanted: u64,
    retry_at: Time,
    delay_ms: u64,
    /// It has refused to be walked, and is not asked again before `retry_at`.
    refuses: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Idle,
    /// To begin, at `retry_at` at the earliest.
    Due,
    Locking,
    Counting,
    Listing,
    /// A pass is over; the lock is given back.
    Unlocking,
    /// A pass is over; its keys are being copied.
    Between,
}

/// Pauses before a walk is tried again.
const RETRY_MS_MIN: u64 = 100;
const RETRY_MS_MAX: u64 = 2_000;
/// A source that does not say what it has is asked again after this: an operator may have allowed it.
const UNWALKABLE_MS: u64 = 60_000;
/// A walk without a byte for this long is given up. Not the backend: its crawler may be slow.
const SILENT_MS: u64 = 10_000;
/// The lock is renewed so often, while the walk goes on: a third of its life.
const RENEW_MS: u64 = 3_000;
/// More passes than anyone needs: a list of 1,024 keys would do for 64 million.
const PASSES_MAX: u32 = 65_536;

impl Walk {
    pub(super) const fn idle() -> Self {
        Self {
            link: Link::closed(),
            stage: Stage::Idle,
            targets: Vec::new(),
            passes: 1,
            pass: 0,
            lock_seen: None,
            lock: None,
            unlock: None,
            renew_at: Time(0),
            renewing: false,
            items: None,
            seen: 0,
            wanted: 0,
            retry_at: Time(0),
            delay_ms: RETRY_MS_MIN,
            refuses: false,
        }
    }

    const fn is_under_way(&self) -> bool {
        matches!(
            self.stage,
            Stage::Locking | Stage::Counting | Stage::Listing | Stage::Unlocking
        )
    }

    fn takes(&self, key: &[u8]) -> bool {
        self.passes == 1 || xxh3_64(key) % u64::from(self.passes) == u64::from(self.pass)
    }
}

impl Healer {
    fn walk(&mut self, source: BackendId) -> &mut Walk {
        &mut self.backends[source.index()].walk
    }

    /// Starts what can be started.
    pub(super) fn go_on_walking(&mut self, now: Time) {
        for source in self.ids() {
            match self.walk(source).stage {
                Stage::Idle => self.look_for_walk(now, source),
                Stage::Between => self.begin_next_pass(source),
                Stage::Locking | Stage::Counting | Stage::Listing | Stage::Unlocking => {
                    self.expire_walk(now, source);
                }
                Stage::Due => {}
            }
            let room = self.listed_keys * 2 <= self.limits.heal_keys_max
                && self.listed_len * 2 <= self.limits.heal_keys_len_max;
            self.renew_lock(now, source);
            self.give_back_lock(now, source);
            let walk = self.walk(source);
            let may = walk.retry_at <= now && walk.unlock.is_none();
            if walk.stage == Stage::Due && may && room {
                self.connect(now, source, Role::Walk);
            }
        }
    }

    /// When a walk is to be tried again, or given up.
    pub(super) fn walks_due(&self) -> Option<Time> {
        let due = self.backends.iter().filter_map(|backend| {
            let walk = &backend.walk;
            match walk.stage {
                Stage::Due if walk.link.state == State::Closed => {
                    Some(walk.retry_at.max(walk.link.reopen_at))
                }
                Stage::Idle if walk.retry_at > Time(0) => Some(walk.retry_at),
                _ if walk.is_under_way() => {
                    let silent_at = walk.link.active_at.after_ms(SILENT_MS);
                    let renews = walk.lock.is_some() && !walk.renewing;
                    Some(if renews {
                        silent_at.min(walk.renew_at)
                    } else {
                        silent_at
                    })
                }
                Stage::Idle
                | Stage::Due
                | Stage::Between
                | Stage::Locking
                | Stage::Counting
                | Stage::Listing
                | Stage::Unlocking => None,
            }
        });
        due.min()
    }

    fn look_for_walk(&mut self, now: Time, source: BackendId) {
        let walk = self.walk(source);
        let retry = walk.retry_at <= now;
        if retry {
            walk.retry_at = Time(0);
            walk.refuses = false;
        }
        let refuses = walk.refuses;
        let mut targets = Vec::new();
        for target in self.ids() {
            if !self.may_copy_to(target) {
                continue;
            }
            let walkable = self.speaks_meta(source) && self.speaks_meta(target);
            let Some(share) = self.target(target).share(source) else {
                continue;
            };
            if retry && share.state == ShareState::Unwalkable && walkable {
                share.state = ShareState::Wanted;
            }
            if share.state != ShareState::Wanted {
                continue;
            }
            if walkable && !refuses {
                share.state = ShareState::Walking;
                targets.push((target, share.generation));
            } else {
                // At once, also to whoever asks next: until it is known, nothing is copied that is read.
                share.state = ShareState::Unwalkable;
                self.outputs
                    .push_back(super::Output::Report(Report::Unwalkable { target, source }));
            }
        }
        if targets.is_empty() {
            return;
        }
        let walk = self.walk(source);
        walk.targets = targets;
        walk.stage = Stage::Due;
        walk.passes = 1;
        walk.pass = 0;
        walk.delay_ms = RETRY_MS_MIN;
    }

    /// The connection is there: the lock first.
    pub(super) fn begin_walk(&mut self, now: Time, source: BackendId) {
        let owner = self.lock_owner();
        let walk = self.walk(source);
        if walk.stage != Stage::Due {
            self.disconnect(source, Role::Walk);
            return;
        }
        walk.stage = Stage::Locking;
        walk.lock_seen = None;
        walk.seen = 0;
        walk.wanted = 0;
        walk.link.active_at = now;
        wire::lock(&owner, &mut walk.link.unsent);
    }

    pub(super) fn on_walk_data(&mut self, now: Time, source: BackendId) {
        let targets = self.walk(source).targets.clone();
        let inbox = std::mem::take(&mut self.link(source, Role::Walk).inbox);
        let mut used = 0;
        while self.walk(source).is_under_way() {
            let rest = &inbox[used..];
            let Some(line_len) = memchr::memchr(b'\n', rest) else {
                if rest.len() > RESPONSE_LINE_LEN_MAX {
                    self.retry_walk(now, source);
                }
                break;
            };
            used += line_len + 1;
            let line = &rest[..=line_len];
            match self.walk(source).stage {
                Stage::Locking => self.on_lock_line(now, source, line),
                Stage::Counting => self.on_count_line(now, source, line),
                Stage::Listing => self.on_list_line(now, source, line),
                // Given back, or somebody else's: either will do.
                Stage::Unlocking => self.on_pass_over(source),
                Stage::Idle | Stage::Due | Stage::Between => {}
            }
        }
        for (target, _) in targets {
            self.publish_total(target);
        }
        if self.walk(source).is_under_way() {
            let link = self.link(source, Role::Walk);
            link.inbox = inbox;
            link.inbox.drain(..used);
        }
    }

    /// What this proxy writes into locks.
    fn lock_owner(&self) -> Vec<u8> {
        let process = self.process;
        format!("{}.{}", process.pid, process.unix_start_s).into_bytes()
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "any other line is a failure"
    )]
    fn on_lock_line(&mut self, now: Time, source: BackendId, line: &[u8]) {
        let owner = self.lock_owner();
        let walk = self.walk(source);
        if let Some(cas) = walk.lock_seen.take() {
            if line.strip_suffix(b"\r\n") == Some(&owner) {
                walk.lock = Some(cas);
                walk.renew_at = now.after_ms(RENEW_MS);
                self.begin_counting(source);
            } else {
                // Another proxy walks.
                self.retry_walk(now, source);
            }
            return;
        }
        let Parsed::Item { item: line, .. } = parse_line(line) else {
            self.retry_walk(now, source);
            return;
        };
        match line {
            // Set, or there before: the next answer says whose it is. Ours is also one that we were cut off from.
            Line::MetaHeader(_) | Line::MetaNotStored(_) => {}
            Line::MetaValue { flags, .. } => {
                let answer = Attributes::parse(flags).unwrap_or_default();
                walk.lock_seen = Some(answer.cas.unwrap_or_default());
            }
            // No memory for it: then it has to do without.
            Line::ServerError(_) => {}
            Line::MetaMiss(_) => self.begin_counting(source),
            Line::Error | Line::ClientError(_) => self.on_unwalkable(now, source),
            _ => self.retry_walk(now, source),
        }
    }

    fn begin_counting(&mut self, source: BackendId) {
        let walk = self.walk(source);
        walk.stage = Stage::Counting;
        walk.items = None;
        walk.link.unsent.extend_from_slice(b"stats\r\n");
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "any other line is a failure"
    )]
    fn on_count_line(&mut self, now: Time, source: BackendId, line: &[u8]) {
        let Parsed::Item { item: line, .. } = parse_line(line) else {
            self.retry_walk(now, source);
            return;
        };
        let walk = self.walk(source);
        match line {
            Line::Stat { name, value } => {
                if name == b"curr_items" {
                    walk.items = wire::number(value);
                }
                return;
            }
            Line::End | Line::Reset | Line::Error => {}
            _ => {
                self.retry_walk(now, source);
                return;
            }
        }
        walk.stage = Stage::Listing;
        walk.link
            .unsent
            .extend_from_slice(b"lru_crawler metadump hash\r\n");
    }

    fn on_list_line(&mut self, now: Time, source: BackendId, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match wire::walk_line(line) {
            WalkLine::Item { key, size, date } => {
                self.on_key(now, source, &key, size, Hint::ends_at(date));
            }
            WalkLine::End => self.end_listing(source),
            WalkLine::Refused => self.on_unwalkable(now, source),
            WalkLine::Busy | WalkLine::Failed | WalkLine::Bad => self.retry_walk(now, source),
        }
    }

    fn on_key(&mut self, now: Time, source: BackendId, key: &[u8], size: u64, hint: Hint) {
        let walk = self.walk(source);
        walk.seen += 1;
        if purge::is_own(key) || key.len() > KEY_LEN_MAX || !walk.takes(key) {
            return;
        }
        let route = self.placement.route(key);
        let Some(backup) = route.backup else {
            return;
        };
        let target = if route.primary == source {
            backup
        } else if backup == source {
            route.primary
        } else {
            return;
        };
        let walk = self.walk(source);
        let wanted = walk.targets.iter().find(|wanted| wanted.0 == target);
        let Some(&(_, generation)) = wanted else {
            return;
        };
        walk.wanted += 1;
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let Some(share) = self.target(target).share_of(generation) else {
            return;
        };
        share.found_in_pass += 1;
        let key = Arc::from(key);
        self.list(target, generation, Found { key, size, hint });
        if self.listed_keys > self.limits.heal_keys_max
            || self.listed_len > self.limits.heal_keys_len_max
        {
            self.on_list_full(now, source);
        }
    }

    /// Puts a key behind those of its share that wait.
    pub(super) fn list(&mut self, target: BackendId, generation: u32, found: Found) {
        let len = found.key.len() as u64;
        let Some(share) = self.target(target).share_of(generation) else {
            return;
        };
        share.keys.push_back(found);
        self.listed_keys += 1;
        self.listed_len += len;
    }

    /// The walk is broken off. If its own keys fill the list, it takes more passes.
    fn on_list_full(&mut self, now: Time, source: BackendId) {
        let walk = self.walk(source);
        let targets = walk.targets.clone();
        let mut listed = 0;
        for &(target, generation) in &targets {
            if let Some(share) = self.target(target).share_of(generation) {
                listed += share.keys.len() as u64;
            }
        }
        if listed * 2 < self.limits.heal_keys_max && listed * 2 < self.listed_keys {
            self.retry_walk(now, source);
            return;
        }
        let walk = self.walk(source);
        let total = walk.items.map_or(0, |items| {
            let wanted = u128::from(walk.wanted) * u128::from(walk.passes);
            u128::from(items) * wanted / u128::from(walk.seen.max(1))
        });
        // A quarter more than it looks like: hashes do not fall evenly.
        let needed = (total + total / 4) / u128::from(walk.wanted.max(1)) + 1;
        let needed = u32::try_from(needed).unwrap_or(PASSES_MAX);
        walk.passes = needed.max(walk.passes.saturating_mul(2)).min(PASSES_MAX);
        walk.pass = 0;
        let passes = walk.passes;
        for (target, generation) in targets {
            self.unlist(target, generation, |_| false);
            if let Some(share) = self.target(target).share_of(generation) {
                share.passes = passes;
                share.passes_done = 0;
                share.found = 0;
            }
        }
        self.retry_walk(now, source);
    }

    /// Drops keys of a share that wait.
    pub(super) fn unlist(
        &mut self,
        target: BackendId,
        generation: u32,
        keep: impl Fn(&[u8]) -> bool,
    ) {
        let Some(share) = self.target(target).share_of(generation) else {
            return;
        };
        let (mut keys, mut len) = (0, 0);
        share.keys.retain(|Found { key, .. }| {
            let keep = keep(key);
            if !keep {
                keys += 1;
                len += key.len() as u64;
            }
            keep
        });
        share.found_in_pass = 0;
        self.listed_keys -= keys;
        self.listed_len -= len;
    }

    /// All of it is known: the lock goes first, so that nobody waits for it.
    fn end_listing(&mut self, source: BackendId) {
        let walk = self.walk(source);
        match walk.lock.filter(|_| !walk.renewing) {
            Some(cas) => {
                walk.lock = None;
                walk.stage = Stage::Unlocking;
                wire::delete(wire::LOCK, Some(cas), &mut walk.link.unsent);
            }
            None => self.on_pass_over(source),
        }
    }

    fn on_pass_over(&mut self, source: BackendId) {
        self.close_walk(source);
        let walk = self.walk(source);
        walk.delay_ms = RETRY_MS_MIN;
        let targets = walk.targets.clone();
        let last = walk.pass + 1 >= walk.passes;
        if last {
            walk.stage = Stage::Idle;
            walk.targets.clear();
        } else {
            walk.stage = Stage::Between;
        }
        for (target, generation) in targets {
            if let Some(share) = self.target(target).share_of(generation) {
                share.found += std::mem::take(&mut share.found_in_pass);
                share.passes_done += 1;
                if last {
                    share.state = ShareState::Walked;
                }
            }
        }
    }

    fn begin_next_pass(&mut self, source: BackendId) {
        let targets = self.walk(source).targets.clone();
        let copied = targets.iter().all(|&(target, generation)| {
            self.target(target)
                .share_of(generation)
                .is_none_or(|share| share.keys.is_empty())
        });
        if copied {
            let walk = self.walk(source);
            walk.pass += 1;
            walk.stage = Stage::Due;
        }
    }

    /// Breaks the pass off and tries it again in a while.
    pub(super) fn retry_walk(&mut self, now: Time, source: BackendId) {
        self.close_walk(source);
        let walk = self.walk(source);
        match walk.stage {
            Stage::Idle | Stage::Between => return,
            // Nothing is missing but the answer of the lock, which expires.
            Stage::Unlocking => {
                self.on_pass_over(source);
                return;
            }
            Stage::Due | Stage::Locking | Stage::Counting | Stage::Listing => {}
        }
        walk.stage = Stage::Due;
        walk.retry_at = now.after_ms(walk.delay_ms);
        walk.delay_ms = (walk.delay_ms * 2).min(RETRY_MS_MAX);
        let (pass, passes) = (u64::from(walk.pass), u64::from(walk.passes));
        for (target, generation) in walk.targets.clone() {
            // Those of earlier passes that had to be queued again stay.
            self.unlist(target, generation, |key| xxh3_64(key) % passes != pass);
        }
    }

    fn on_unwalkable(&mut self, now: Time, source: BackendId) {
        self.close_walk(source);
        let walk = self.walk(source);
        walk.stage = Stage::Idle;
        walk.retry_at = now.after_ms(UNWALKABLE_MS);
        walk.refuses = true;
        for (target, generation) in std::mem::take(&mut walk.targets) {
            self.unlist(target, generation, |_| false);
            if let Some(share) = self.target(target).share_of(generation) {
                share.state = ShareState::Unwalkable;
                self.outputs
                    .push_back(super::Output::Report(Report::Unwalkable { target, source }));
            }
        }
    }

    fn expire_walk(&mut self, now: Time, source: BackendId) {
        if self.walk(source).link.active_at.after_ms(SILENT_MS) <= now {
            self.retry_walk(now, source);
        }
    }

    /// Ends the connection, and the lock if it is ours.
    fn close_walk(&mut self, source: BackendId) {
        self.disconnect(source, Role::Walk);
        let walk = self.walk(source);
        walk.unlock = walk.lock.take().or(walk.unlock);
    }

    /// Has the lock stay while the walk goes on; the walk's own connection is busy.
    fn renew_lock(&mut self, now: Time, source: BackendId) {
        let walk = self.walk(source);
        let due = walk.is_under_way() && walk.renew_at <= now && !walk.renewing;
        let Some(cas) = walk.lock.filter(|_| due) else {
            return;
        };
        if self.is_ready(now, source) {
            let owner = self.lock_owner();
            let walk = self.walk(source);
            walk.renewing = true;
            walk.renew_at = now.after_ms(RENEW_MS);
            let unsent = &mut self.link(source, Role::Copy).unsent;
            wire::renew_lock(&owner, cas, unsent);
            self.push_asked(now, source, Asked::Renew);
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a line of any other kind is out of step"
    )]
    pub(super) fn on_lock_renewed(
        &mut self,
        source: BackendId,
        line: &Line<'_>,
    ) -> Result<(), Failure> {
        let renewed = match line {
            Line::MetaHeader(flags) => Attributes::parse(flags).and_then(|answer| answer.cas),
            // It was too late, or there is no memory for it.
            Line::MetaExists(_)
            | Line::MetaNotFound(_)
            | Line::MetaNotStored(_)
            | Line::ServerError(_) => None,
            _ => return Err(Failure::Desync),
        };
        let walk = self.walk(source);
        walk.renewing = false;
        walk.lock = walk.lock.and(renewed);
        walk.unlock = walk.unlock.and(renewed);
        Ok(())
    }

    /// The backend is given up: the lock expires by itself, and who comes next may be walked.
    pub(super) fn forget_walks(&mut self, source: BackendId) {
        let walk = self.walk(source);
        walk.unlock = None;
        walk.renewing = false;
        walk.retry_at = Time(0);
        walk.refuses = false;
    }

    /// Ends the lock, on the connection that is not closed when a walk is broken off.
    fn give_back_lock(&mut self, now: Time, source: BackendId) {
        let walk = self.walk(source);
        let Some(cas) = walk.unlock.filter(|_| !walk.renewing) else {
            return;
        };
        if self.is_ready(now, source) {
            self.walk(source).unlock = None;
            let unsent = &mut self.link(source, Role::Copy).unsent;
            wire::delete(wire::LOCK, Some(cas), unsent);
            self.push_asked(now, source, Asked::Unlock);
        }
    }

    /// Nobody wants the walk any more, or its source is given up.
    pub(super) fn stop_walk(&mut self, source: BackendId) {
        self.close_walk(source);
        let walk = self.walk(source);
        walk.stage = Stage::Idle;
        for (target, generation) in std::mem::take(&mut walk.targets) {
            self.unlist(target, generation, |_| false);
            if let Some(share) = self.target(target).share_of(generation) {
                restart(share);
            }
        }
    }

    /// Lets go of shares that are wanted no more.
    pub(super) fn retain_walks(&mut self) {
        for source in self.ids() {
            let mut targets = std::mem::take(&mut self.walk(source).targets);
            let any = !targets.is_empty();
            targets
                .retain(|&(target, generation)| self.target(target).share_of(generation).is_some());
            let none = targets.is_empty();
            self.walk(source).targets = targets;
            if any && none {
                self.stop_walk(source);
            }
        }
    }

    /// Whether it knows the meta commands, as far as the keeper knows.
    pub(super) fn speaks_meta(&self, backend: BackendId) -> bool {
        let view = &self.view.backends[backend.index()];
        view.version
            .is_none_or(|version| version >= Version::META_SINCE)
    }
}

/// The share has to be walked from the beginning.
pub(super) fn restart(share: &mut Share) {
    *share = Share {
        open: share.open,
        ..Share::new(share.source, share.generation)
    };
}
