//! Health and recovery of all backends, for all workers of one process.
//!
//! Workers report what they see, probes say who is there, the healer (`heal`) copies, and the keeper publishes
//! Views. One machine per backend:
//!
//! ```text
//!         a worker's report,     answered, settled,        rid of what it missed,
//!         another identity       every worker knows        by every participant
//!    Up ────────────────> Down ───────────────────> Purging ────────────────> CatchingUp <─┐
//!    ^ │                   ^                           │                        │  ^  │     │ more to
//!    │ │                   └──────── failure ──────────┴────────────────────────┘  │  │     │ copy
//!    │ │                                                                           │  v     │
//!    │ └───────── a partner that it lacks items of is up ──────────────────────────┘ Flipping
//!    │                                                     a source fails: Cleaning <─┤  │
//!    │                                                                   (and back)      │
//!    └───────────────────── every participant has acknowledged, nothing more to copy ────┘
//! ```
//!
//! - **Settled**: nothing that was sent to it before can still be executed. Another process answers, or
//!   `stats conns` on a fresh connection does not list our old connections, or it has answered probes for
//!   `settle_ms` in all although nobody can tell.
//! - **Identity**: process id, start time and counters that only grow. It is asked on every new connection,
//!   so that a restart between two requests is noticed before anybody reads.
//! - **What it lacks** is a set of partners. All of them after a restart or a flush; else none, and the
//!   healer is given single keys by the workers. A partner that is down is copied from when it is back.
//!
//! # Invariants
//!
//! - Only an answered probe leads out of `Down`, and only one that was sent after the epoch in which the
//!   backend went down had settled: no worker reads it or writes to it any more.
//! - A report about an earlier incarnation changes nothing.
//! - The epoch grows with every View; `settled` is the newest epoch that every participant has acknowledged
//!   and never decreases.
//! - A backend that returned is `Up` only when other proxies have had the time to notice that it is back.
//! - A backend is `Up` only after an epoch in which nothing was left to copy to it and conditional commands
//!   waited (`Flipping`).
//! - Nobody leads with copies that were not looked at again: if a source of a junior fails, the junior is
//!   `Cleaning` until the healer has removed them. So is whoever returns meanwhile and would lead in its stead.
//! - Whoever copies from a backend never comes to lead it: one that returns ranks behind all others, and one that
//!   was in step and goes back to catching up ranks before them.
//! - A backend that somebody flushed while it caught up starts again (`cmd_flush` before and after).
//!
//! What the keeper is told is in `report`, what a probe's answer leads to in `probes`, changes of phase in
//! `phases`.
//!
//! Not here: what a phase means for a request (`placement`), probes on the wire (`magent/src/probe.rs`), copying
//! (`heal`).
mod phases;
mod probes;
mod report;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::breaks::{Break, Breaks};
use crate::cas::mark;
use crate::engine::ConnectionId;
use crate::known::Process;
use crate::placement::{BackendView, Phase, Version, View};
use crate::{BackendId, Time, WorkerId};

use probes::{Answered, Probe};
pub use report::{Failure, Identity, Left, ProbeAnswer, Remains, Report, StillDown};

/// What the keeper wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Give this View to every worker and to the healer. What it says about who is in step is written down
    /// first, where there is a state file.
    Publish(Arc<View>),
    /// Tell every worker and the healer that all have acknowledged this epoch.
    Settled(u64),
    /// Probe this backend on a fresh connection and say how it went.
    Probe(BackendId),
    /// Tell this worker that its connection leads to the process that is in the View.
    Verified(WorkerId, ConnectionId),
    /// A backend has changed phase: for the log and for events.
    Changed(Change),
    /// A backend that is down has answered a probe and is not taken back yet: for the log.
    StillDown(BackendId, StillDown),
    /// Nothing to do before this moment, or before something is reported.
    Wait(Option<Time>),
}

/// One change of phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Which backend.
    pub backend: BackendId,
    /// Before.
    pub from: Phase,
    /// After.
    pub to: Phase,
    /// How it failed, if it did.
    pub failure: Option<Failure>,
    /// Whether its purge is a flush.
    pub flush: bool,
    /// Backends whose share it lacks.
    pub lacks: usize,
    /// How long it was in the phase before, in milliseconds.
    pub lasted_ms: u64,
    /// How long ago it left `Up`, in milliseconds.
    pub away_ms: u64,
}

/// What the keeper needs to know before it starts.
#[derive(Debug, Clone)]
pub struct KeeperConfig {
    /// By backend: its address without a label, the same in every proxy.
    pub addresses: Vec<String>,
    /// By backend: see [`crate::placement::Placement::partners`].
    pub partners: Vec<Vec<BackendId>>,
    /// Number of workers. The healer takes part with the next [`WorkerId`].
    pub workers: usize,
    /// Whether a backend that missed more than can be named stays down until it is restarted empty.
    pub stay_down: bool,
    /// See `probe_delay_ms_min`.
    pub probe_delay_ms_min: u64,
    /// See `probe_delay_ms_max`.
    pub probe_delay_ms_max: u64,
    /// See `settle_ms`.
    pub settle_ms: u64,
    /// For how long a backend that has returned is not read, at most: until another proxy, which probes as rarely, knows
    /// that it is back. Before, that goes on without telling it of writes.
    pub hold_ms_max: u64,
    /// Spreads the probes of several proxies: any number.
    pub jitter_seed: u64,
}

/// The machine. See the module's page.
#[derive(Debug)]
pub struct Keeper {
    config: KeeperConfig,
    backends: Vec<Backend>,
    epoch: u64,
    /// The lowest and the highest that were given to a backend.
    seniority_first: u64,
    seniority_last: u64,
    acknowledged: Vec<u64>,
    settled: u64,
    jitter: u64,
    changed: bool,
    breaks: Breaks,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not exclude each other"
)]
struct Backend {
    state: State,
    since: Time,
    since_epoch: u64,
    /// When it was last `Up`.
    up_until: Time,
    /// It is not read before this, since it returned.
    held_until: Time,
    /// When that is over, if it waits for nothing else.
    flip_at: Option<Time>,
    seniority: u64,
    incarnation: u32,
    /// It missed acknowledged writes that cannot be named.
    overflow: bool,
    /// It has to be rid of all that it holds.
    flush: bool,
    /// See [`BackendView::known`].
    known: Option<Process>,
    /// Others were told of writes that it may have missed.
    missed: bool,
    version: Option<Version>,
    explicit_cas: bool,
    identity: Option<Identity>,
    /// Backends whose share it lacks.
    lacks: BTreeSet<BackendId>,
    /// Whether the healer has single keys to copy to it.
    left: Left,
    /// A backend in `lacks` cannot be walked.
    unwalkable: bool,
    /// `cmd_flush` when it was last asked.
    flushes: Option<u64>,
    probe: Option<Probe>,
    probe_again: bool,
    /// Connections that the next probe verifies.
    unverified: Vec<(WorkerId, ConnectionId)>,
}
#[derive(Debug)]
enum State {
    Up,
    Down {
        delay_ms: u64,
        /// When it is probed again; `None` while a probe or the epoch is waited for.
        probe_at: Option<Time>,
        /// Whether another process answers than the one that failed.
        restarted: bool,
        /// Whether nobody knows who answered there before.
        stranger: bool,
        /// For how long it has answered.
        answered: Answered,
    },
    Purging {
        /// Empty: the probe that begins the catch-up is on its way.
        waiting_for: Vec<WorkerId>,
    },
    Cleaning,
    CatchingUp,
    Flipping,
}

impl State {
    const fn phase(&self) -> Phase {
        match self {
            Self::Up => Phase::Up,
            Self::Down { .. } => Phase::Down,
            Self::Purging { .. } => Phase::Purging,
            Self::Cleaning => Phase::Cleaning,
            Self::CatchingUp => Phase::CatchingUp,
            Self::Flipping => Phase::Flipping,
        }
    }

    fn down(delay_ms: u64, probe_at: Time) -> Self {
        Self::Down {
            delay_ms,
            probe_at: Some(probe_at),
            restarted: false,
            stranger: false,
            answered: Answered::default(),
        }
    }
}

impl Keeper {
    /// A keeper that takes every backend to be up and probes each once to learn who it is.
    #[must_use]
    pub fn new(config: KeeperConfig, now: Time) -> Self {
        let count = config.partners.len();
        let backends = (0..count).map(|_| Backend {
            state: State::Up,
            since: now,
            since_epoch: 0,
            up_until: now,
            held_until: now,
            flip_at: None,
            seniority: 0,
            incarnation: 0,
            overflow: false,
            flush: false,
            known: None,
            missed: false,
            version: None,
            explicit_cas: false,
            identity: None,
            lacks: BTreeSet::new(),
            left: Left::None,
            unwalkable: false,
            flushes: None,
            probe: None,
            probe_again: false,
            unverified: Vec::new(),
        });
        let has_partners = config.partners.iter().any(|partners| !partners.is_empty());
        let participants = config.workers + usize::from(has_partners);
        let mut this = Self {
            backends: backends.collect(),
            epoch: 0,
            seniority_first: SENIORITY_START,
            seniority_last: SENIORITY_START,
            acknowledged: vec![0; participants],
            settled: 0,
            jitter: config.jitter_seed,
            changed: false,
            breaks: Breaks::default(),
            outputs: VecDeque::new(),
            config,
        };
        for index in 0..count {
            this.probe(backend_id(index));
        }
        this
    }

    /// The same with protections switched off.
    #[must_use]
    pub fn with_breaks(self, breaks: Breaks) -> Self {
        Self { breaks, ..self }
    }

    /// What an earlier process has left in its state file. Before the first [`Self::poll`].
    pub fn restore(&mut self, now: Time, backend: BackendId, remains: Remains) {
        let this = &mut self.backends[backend.index()];
        this.identity = remains.identity;
        if remains.missed {
            this.overflow = true;
            this.missed = true;
            self.mark_down(now, backend, Failure::Unfinished);
        }
    }

    /// What to do next. Call until it says `Wait`.
    pub fn poll(&mut self, now: Time) -> Output {
        for index in 0..self.backends.len() {
            if let State::Down { probe_at, .. } = &mut self.backends[index].state
                && probe_at.is_some_and(|at| at <= now)
            {
                *probe_at = None;
                self.probe(backend_id(index));
            }
            if self.backends[index]
                .flip_at
                .take_if(|at| *at <= now)
                .is_some()
            {
                self.finish_if_complete(backend_id(index));
            }
        }
        if std::mem::take(&mut self.changed) {
            self.outputs
                .push_back(Output::Publish(Arc::new(self.view())));
        }
        self.outputs.pop_front().unwrap_or_else(|| {
            let due = self
                .backends
                .iter()
                .filter_map(|backend| match backend.state {
                    State::Down { probe_at, .. } => probe_at,
                    State::CatchingUp => backend.flip_at,
                    State::Up | State::Purging { .. } | State::Cleaning | State::Flipping => None,
                });
            Output::Wait(due.min())
        })
    }

    /// The View in force.
    #[must_use]
    pub fn view(&self) -> View {
        let backends = (0..self.backends.len()).map(|index| {
            let backend = &self.backends[index];
            BackendView {
                phase: backend.state.phase(),
                incarnation: backend.incarnation,
                since_epoch: backend.since_epoch,
                seniority: backend.seniority,
                flush: backend.flush,
                known: backend.known,
                fill: backend.unwalkable,
                sources: match backend.state {
                    State::CatchingUp => self.sources(backend_id(index)).collect(),
                    State::Up
                    | State::Down { .. }
                    | State::Purging { .. }
                    | State::Cleaning
                    | State::Flipping => Vec::new(),
                },
                version: backend.version,
                mark: if self.breaks.has(Break::CasMark) {
                    0
                } else {
                    let identity = backend.identity.as_ref();
                    let started = identity.map_or(0, |identity| identity.started_unix_s);
                    mark(&self.config.addresses[index], started)
                },
                explicit_cas: backend.explicit_cas,
            }
        });
        View {
            epoch: self.epoch,
            backends: backends.collect(),
        }
    }

    /// What a later process of this proxy has to know about a backend.
    #[must_use]
    pub fn remains(&self, backend: BackendId) -> Remains {
        let this = &self.backends[backend.index()];
        Remains {
            identity: this.identity,
            missed: this.missed,
        }
    }

    /// A worker, or the healer, has something to say.
    pub fn on_report(&mut self, now: Time, worker: WorkerId, report: Report) {
        match report {
            Report::Failed {
                backend,
                incarnation,
                failure,
            } => {
                if self.is_current(backend, incarnation) {
                    self.mark_down(now, backend, failure);
                }
            }
            Report::Connected {
                connection,
                incarnation,
            } => {
                if self.is_current(connection.backend, incarnation) {
                    let this = &mut self.backends[connection.backend.index()];
                    this.unverified.push((worker, connection));
                    self.probe(connection.backend);
                }
            }
            Report::Suspect {
                backend,
                incarnation,
            } => {
                // Again, if one is under way: the backend may have answered that before.
                if self.is_current(backend, incarnation) {
                    self.probe(backend);
                }
            }
            Report::Purged {
                backend,
                incarnation,
            } => self.on_purged(worker, backend, incarnation),
            Report::Purging {
                backend,
                incarnation,
            } => self.on_purging(worker, backend, incarnation),
            Report::Overflow { backend } => self.on_overflow(now, backend),
            Report::Acknowledged { epoch } => self.on_acknowledged(now, worker, epoch),
            Report::Copied {
                target,
                incarnation,
                source,
            } => {
                if self.is_current(target, incarnation) {
                    self.on_copied(target, source);
                }
            }
            Report::Lacks { target, source } => self.on_lacks(now, target, source),
            Report::Left { target, left } => self.on_left(now, target, left),
            Report::Unwalkable { target, source } => {
                let this = &mut self.backends[target.index()];
                if this.lacks.contains(&source) && !this.unwalkable {
                    this.unwalkable = true;
                    self.next_epoch();
                }
            }
        }
    }

    /// A worker has ended: nobody waits for it any more.
    pub fn on_worker_ended(&mut self, now: Time, worker: WorkerId) {
        self.on_acknowledged(now, worker, ENDED);
        for index in 0..self.backends.len() {
            let incarnation = self.backends[index].incarnation;
            self.on_purged(worker, backend_id(index), incarnation);
        }
    }

    fn is_current(&self, backend: BackendId, incarnation: u32) -> bool {
        self.backends[backend.index()].incarnation == incarnation
    }

    fn on_acknowledged(&mut self, now: Time, worker: WorkerId, epoch: u64) {
        let acknowledged = &mut self.acknowledged[worker.index()];
        *acknowledged = epoch.max(*acknowledged);
        let settled = self.acknowledged.iter().copied().min().unwrap_or(epoch);
        if settled <= self.settled {
            return;
        }
        self.settled = settled;
        self.outputs.push_back(Output::Settled(settled));
        for index in 0..self.backends.len() {
            self.leave_if_settled(now, backend_id(index));
        }
    }

    /// Views that change in one go are published as one.
    fn next_epoch(&mut self) {
        if !self.changed {
            self.changed = true;
            self.epoch += 1;
        }
    }
}

/// The epoch that a worker has acknowledged that has ended.
const ENDED: u64 = u64::MAX;

/// Room for returns above, and for those who go back to catching up below.
const SENIORITY_START: u64 = 1 << 32;

fn backend_id(index: usize) -> BackendId {
    BackendId(u16::try_from(index).expect("BACKENDS_MAX fits in 16 bits"))
}

fn worker_id(index: usize) -> WorkerId {
    WorkerId(u16::try_from(index).expect("Config holds the number of workers in 16 bits"))
}
