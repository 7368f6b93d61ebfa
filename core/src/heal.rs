//! Copies to a backend what it lacks.
//!
//! ```text
//!   View: a target catches up ──> walk its sources ──> keys of its shares ──┐
//!   workers: single keys ──────────────────────────────> single keys ───────┤ at a bounded rate
//!                                                                           v
//!                                        read at the source, add at the target, look at the source again
//!                                                                           │
//!   keeper <── Copied (a share), Left (single keys), Lacks, Unwalkable <────┘
//! ```
//!
//! | question | module |
//! | --- | --- |
//! | What does a source have? | `walk` |
//! | Which keys does a target wait for? | `target` |
//! | How is it rid of what is old? | `purge` |
//! | Which key is copied next? | `choose` |
//! | How is one item copied? | `copy` |
//! | When does it end there? | `clock` |
//! | What if a backend fails in the middle? | `loss` |
//! | How fast? | `rate` |
//! | What goes over the wire? | `wire` |
//! | Who is connected, who has failed? | `link` |
//!
//! One healer per process. It takes part in epochs as the [`crate::WorkerId`] behind the workers'. The caller gives
//! [`Healer::handle`] one [`Input`] after the other and drains [`Healer::poll`] in between.
//!
//! # Invariants
//!
//! - Nothing is copied to a target before every worker knows that it follows (`may_copy_to`): of writes
//!   that come after an item was read, the target is told.
//! - Only the backend that leads a key is copied from (`leads`).
//! - An epoch is acknowledged when no target that is being cleaned has a copy that was not looked at again.
//! - A share counts as copied when all its keys are, and the keeper knows of single keys before it hears so.
//! - Memory is bounded: single keys per target, the keys that walks have found, values on their way.
//!
//! Not here: who lacks what (`keeper`), what is mended by deletion (`engine/writes`).

mod choose;
mod clock;
mod copy;
mod link;
mod loss;
mod purge;
mod rate;
mod target;
mod walk;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::breaks::Breaks;
use crate::config::{Config, Limits, ProcessInfo};
use crate::engine::ConnectionId;
use crate::keeper::{Failure, Report};
use crate::known::{self, Process};
use crate::placement::{Phase, Placement, Standing, View, plan};
use crate::stats::Progress;
use crate::{BackendId, Time};

use clock::Clock;
use copy::{Asked, Copy, CopyId, Origin};
use link::{Link, State};
use rate::Rate;
use target::{Hint, Key, Share, ShareState, Target};
use walk::Walk;

/// What a connection of the healer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Asks a backend what it has (`lru_crawler metadump hash`).
    Walk,
    /// Reads and stores items.
    Copy,
}

/// A connection of the healer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HealConnection {
    /// The backend.
    pub backend: BackendId,
    /// What for.
    pub role: Role,
    /// How often a connection of the healer to this backend had been asked for before.
    pub generation: u32,
}

/// Something has happened outside.
#[derive(Debug, Clone)]
pub enum Input<'a> {
    /// The keeper has decided something.
    View(&'a Arc<View>),
    /// All participants have acknowledged this epoch.
    Settled(u64),
    /// From a worker: see [`crate::engine::Output::Recopy`].
    Recopy(BackendId, Vec<Box<[u8]>>),
    /// From a worker: see [`crate::engine::Output::Missed`].
    Missed(BackendId, Vec<Box<[u8]>>),
    /// A connection that was asked for is there.
    Connected(HealConnection),
    /// It leads to the process that the View is about: [`crate::keeper::Output::Verified`] for the healer's
    /// [`crate::WorkerId`]. Nothing is asked on a connection before.
    Verified(ConnectionId),
    /// Bytes from a backend.
    Data(HealConnection, &'a [u8]),
    /// A connection could not be made, or is gone.
    Lost(HealConnection, Failure),
    /// The deadline of [`Output::Wait`] has come.
    Tick,
    /// The caller stood still, before what comes next: nobody was late for that.
    Stalled {
        /// For how long, in nanoseconds.
        for_ns: u64,
    },
}

/// Something is to be done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Connect; say `Connected` or `Lost`.
    Connect(HealConnection),
    /// Close this connection; nothing is to be reported for it.
    Disconnect(HealConnection),
    /// Write this.
    Write(HealConnection, Vec<u8>),
    /// For the keeper, at once: before anything else reaches it.
    Report(Report),
    /// Nothing to do before this moment, or before something happens.
    Wait(Option<Time>),
}

/// The machine. See the module's page.
#[derive(Debug)]
pub struct Healer {
    limits: Limits,
    breaks: Breaks,
    process: ProcessInfo,
    /// The key of this pool's marks.
    mark_key: Vec<u8>,
    placement: Arc<Placement>,
    progress: Arc<Vec<Progress>>,
    started: Time,
    /// When it last did what could be done.
    looked_at: Time,
    view: Arc<View>,
    settled: u64,
    acknowledged: u64,
    backends: Vec<Backend>,
    copies: Vec<Option<Copy>>,
    copies_free: Vec<CopyId>,
    /// Keys that are set aside, in order of their time.
    later: VecDeque<Later>,
    /// Rounds of reading clocks so far.
    clock_round: u64,
    /// By how many seconds the clock of the second is ahead, where it is known to be.
    offsets: BTreeMap<(BackendId, BackendId), i64>,
    doubts: BTreeMap<(BackendId, BackendId), clock::Doubt>,
    rate: Rate,
    /// When the rate allows the next copy, if one waits for that.
    rate_at: Option<Time>,
    bytes_in_flight: u64,
    /// Of the values that were read lately.
    value_len_mean: u64,
    /// Keys of all shares that wait, and their bytes.
    listed_keys: u64,
    listed_len: u64,
    share_generation: u32,
    /// Whose turn among the targets it is.
    turn: usize,
    outputs: VecDeque<Output>,
}

/// A backend in all its parts.
#[derive(Debug)]
struct Backend {
    /// The connection for copies, from it and to it.
    link: Link,
    /// What it owes answers to, oldest first.
    asked: VecDeque<Asked>,
    generation: u32,
    /// The incarnation that the healer saw fail, until the View says so too.
    failed_incarnation: Option<u32>,
    /// Stale items whose win was taken from its clients and could not be given back.
    wins: BTreeMap<Key, u64>,
    /// The process that is to be marked ([`known`]).
    unmarked: Option<Process>,
    walk: Walk,
    target: Target,
    clock: Clock,
}

/// A key that is set aside.
#[derive(Debug)]
struct Later {
    at: Time,
    target: BackendId,
    key: Key,
    origin: Origin,
    hint: Hint,
}

impl Healer {
    /// A healer that has nothing to do. `progress` has one entry per backend.
    #[must_use]
    pub fn new(
        config: &Config,
        placement: Arc<Placement>,
        progress: Arc<Vec<Progress>>,
        now: Time,
    ) -> Self {
        let backends = config.backends.iter().map(|_| Backend {
            link: Link::closed(),
            asked: VecDeque::new(),
            generation: 0,
            failed_incarnation: None,
            wins: BTreeMap::new(),
            unmarked: None,
            walk: Walk::idle(),
            target: Target::default(),
            clock: Clock::default(),
        });
        Self {
            limits: config.limits.clone(),
            breaks: config.breaks,
            mark_key: known::key(config),
            process: config.process,
            placement,
            progress,
            started: now,
            looked_at: now,
            view: Arc::new(View::initial(config.backends.len())),
            settled: 0,
            acknowledged: 0,
            backends: backends.collect(),
            copies: Vec::new(),
            copies_free: Vec::new(),
            later: VecDeque::new(),
            clock_round: 0,
            offsets: BTreeMap::new(),
            doubts: BTreeMap::new(),
            rate: Rate::new(&config.limits, now),
            rate_at: None,
            bytes_in_flight: 0,
            value_len_mean: 0,
            listed_keys: 0,
            listed_len: 0,
            share_generation: 0,
            turn: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Takes in one thing that has happened. Drain [`Self::poll`] before the next.
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        match input {
            Input::View(view) => self.on_view(now, view),
            Input::Settled(epoch) => self.settled = self.settled.max(epoch),
            Input::Recopy(target, keys) => self.on_recopy(target, keys),
            Input::Missed(target, keys) => self.on_missed(target, keys),
            Input::Connected(connection) => self.on_connected(connection),
            Input::Verified(connection) => self.on_verified(now, connection),
            Input::Data(connection, data) => self.on_data(now, connection, data),
            Input::Lost(connection, failure) => self.on_lost(now, connection, failure),
            Input::Tick => {}
            Input::Stalled { for_ns } => self.on_stalled(now, for_ns),
        }
        self.go_on(now);
    }

    /// What to do next. Call until it says [`Output::Wait`].
    pub fn poll(&mut self, _now: Time) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| {
            let later = self.later.front().map(|later| later.at);
            let due = [
                self.links_due(),
                self.reopen_due(),
                self.walks_due(),
                self.rate_at,
                self.clocks_due(),
                later,
            ];
            // What was due then and was not done waits for something else.
            let due = due
                .into_iter()
                .flatten()
                .filter(|&due| due > self.looked_at);
            Output::Wait(due.min())
        })
    }

    fn on_recopy(&mut self, target: BackendId, keys: Vec<Box<[u8]>>) {
        if self.phase(target) == Phase::Up {
            // In step: what it lost is a miss, and nothing old.
            return;
        }
        self.target(target).singles_seen += keys.len() as u64;
        for key in keys {
            self.insert_single(target, Key::from(key));
        }
        self.publish_total(target);
    }

    fn on_view(&mut self, now: Time, view: &Arc<View>) {
        assert!(view.epoch > self.view.epoch, "the keeper's epochs grow");
        let before = std::mem::replace(&mut self.view, Arc::clone(view));
        for (id, (was, is)) in self.ids().zip(before.backends.iter().zip(&view.backends)) {
            if is.incarnation != was.incarnation {
                self.give_up(now, id);
                let this = &mut self.backends[id.index()];
                this.failed_incarnation = None;
                this.link.reopen_at = now;
                this.walk.link.reopen_at = now;
            }
        }
        for (id, (was, is)) in self.ids().zip(before.backends.iter().zip(&view.backends)) {
            self.choose_shares(id);
            if is.known != was.known || is.incarnation != was.incarnation {
                self.backends[id.index()].unmarked = is.known;
            }
            if is.phase == Phase::Purging && is.since_epoch != was.since_epoch {
                self.start_purge(now, id);
            }
            let resumes = matches!(
                was.phase,
                Phase::CatchingUp | Phase::Cleaning | Phase::Flipping
            ) && is.incarnation == was.incarnation;
            match is.phase {
                Phase::CatchingUp | Phase::Cleaning if !resumes => {
                    self.progress[id.index()].begin(now);
                    self.target(id).singles_seen = 0;
                }
                Phase::Up => {
                    self.target(id).singles.clear();
                    self.progress[id.index()].end();
                }
                Phase::Down | Phase::Purging => self.progress[id.index()].end(),
                Phase::CatchingUp | Phase::Cleaning | Phase::Flipping => {}
            }
        }
        self.retain_walks();
    }

    /// Which shares of `target` are copied under this View.
    fn choose_shares(&mut self, target: BackendId) {
        let view = Arc::clone(&self.view);
        let this = &view.backends[target.index()];
        let shares: Vec<(BackendId, u32, ShareState)> = self
            .target_ref(target)
            .shares
            .iter()
            .map(|share| (share.source, share.generation, share.state))
            .collect();
        for (source, generation, state) in shares {
            let stays = match this.phase {
                Phase::CatchingUp => this.sources.contains(&source),
                // It goes on when the target is clean.
                Phase::Cleaning => state != ShareState::Done && self.leads(source, target),
                Phase::Up | Phase::Down | Phase::Purging | Phase::Flipping => false,
            };
            if !stays {
                self.unlist(target, generation, |_| false);
                let shares = &mut self.target(target).shares;
                shares.retain(|share| share.generation != generation);
            } else if state == ShareState::Done
                && let Some(share) = self.target(target).share_of(generation)
            {
                // The keeper has heard that it was copied, and still names it: it lacks it again.
                walk::restart(share);
            }
        }
        for &source in &this.sources {
            if self.target(target).share(source).is_none() {
                self.share_generation = self.share_generation.wrapping_add(1);
                let share = Share::new(source, self.share_generation);
                self.target(target).shares.push(share);
            }
        }
    }

    /// Does what can be done at this moment.
    fn go_on(&mut self, now: Time) {
        self.looked_at = now;
        self.expire_links(now);
        while self.later.front().is_some_and(|later| later.at <= now)
            && let Some(later) = self.later.pop_front()
        {
            self.count_open(later.target, later.origin, -1);
            self.queue_again(later.target, later.key, later.origin, later.hint);
        }
        self.rate_at = None;
        for target in self.ids() {
            self.set_mark(now, target);
            self.go_on_purging(now, target);
        }
        for target in self.ids() {
            self.report_copied(target);
        }
        self.go_on_walking(now);
        self.begin_copies(now);
        for target in self.ids() {
            self.report_left(target);
        }
        self.acknowledge();
        self.rest();
        self.send();
    }

    fn report_copied(&mut self, target: BackendId) {
        if self.phase(target) != Phase::CatchingUp {
            return;
        }
        let incarnation = self.view.backends[target.index()].incarnation;
        let this = &mut self.backends[target.index()].target;
        for share in &mut this.shares {
            if share.state != ShareState::Walked || !share.keys.is_empty() || share.open > 0 {
                continue;
            }
            if share.again {
                walk::restart(share);
                continue;
            }
            share.state = ShareState::Done;
            self.outputs.push_back(Output::Report(Report::Copied {
                target,
                incarnation,
                source: share.source,
            }));
        }
    }

    fn acknowledge(&mut self) {
        if self.acknowledged < self.view.epoch && self.ids().all(|target| self.is_clean(target)) {
            self.acknowledged = self.view.epoch;
            let epoch = self.view.epoch;
            self.outputs
                .push_back(Output::Report(Report::Acknowledged { epoch }));
        }
    }

    /// Lets go of connections when nobody returns.
    fn rest(&mut self) {
        let rests = |phase| matches!(phase, Phase::Up | Phase::Down);
        if !self.ids().all(|id| rests(self.phase(id))) {
            return;
        }
        for id in self.ids() {
            let this = &self.backends[id.index()];
            if this.asked.is_empty() && this.walk.unlock.is_none() && this.unmarked.is_none() {
                self.disconnect(id, Role::Copy);
            }
        }
    }

    /// Hands out what was written to the connections.
    fn send(&mut self) {
        for backend in self.ids() {
            for role in [Role::Copy, Role::Walk] {
                let link = self.link(backend, role);
                if link.state == State::Open && !link.unsent.is_empty() {
                    let bytes = std::mem::take(&mut link.unsent);
                    let connection = link.connection(backend, role);
                    self.outputs.push_back(Output::Write(connection, bytes));
                }
            }
        }
    }

    // -- What the View says --

    fn ids(&self) -> impl Iterator<Item = BackendId> + use<> {
        let count = u16::try_from(self.backends.len()).expect("BACKENDS_MAX fits in 16 bits");
        (0..count).map(BackendId)
    }

    fn phase(&self, backend: BackendId) -> Phase {
        self.view.backends[backend.index()].phase
    }

    /// Whether the healer has seen it fail and the View does not say so yet.
    fn has_failed(&self, backend: BackendId) -> bool {
        let view = &self.view.backends[backend.index()];
        self.backends[backend.index()].failed_incarnation == Some(view.incarnation)
    }

    fn standing(&self, backend: BackendId) -> Standing {
        if self.has_failed(backend) {
            Standing::Absent
        } else {
            self.view.backends[backend.index()].standing()
        }
    }

    /// Whether `source` leads the keys that it has in common with `target`.
    fn leads(&self, source: BackendId, target: BackendId) -> bool {
        let pair = plan(
            (source, self.standing(source)),
            Some((target, self.standing(target))),
        );
        pair.authority == Some(source)
    }

    /// Whether every worker tells the target of what it writes.
    fn may_copy_to(&self, target: BackendId) -> bool {
        let view = &self.view.backends[target.index()];
        // A flip can begin before everybody has heard of the catch-up.
        let told = match view.phase {
            Phase::CatchingUp | Phase::Flipping => view.since_epoch <= self.settled,
            Phase::Up | Phase::Down | Phase::Purging | Phase::Cleaning => false,
        };
        told && !self.has_failed(target)
    }

    fn unix_ms(&self, now: Time) -> u64 {
        self.process.unix_start_s * 1_000 + now.ms_since(self.started)
    }
}
