//! Health of all backends, for all workers of one process.
//!
//! Workers report what they see, probes say who is back, and the keeper publishes Views. One machine per
//! backend:
//!
//! ```text
//!          failure reported                probe answered, and every worker
//!          by any worker                   has acknowledged that it was down
//!    Up ──────────────────────> Down ──────────────────────────────────> Purging
//!    ^                           ^                                        │  │
//!    │                           └─────────────── failure ────────────────┘  │
//!    └───────────────────── every worker has purged it ──────────────────────┘
//! ```
//!
//! A backend that is up again is junior to those that were up meanwhile ([`BackendView::since_epoch`]): it gets
//! every write, but is read only for keys whose other backend is gone.
//!
//! # Invariants
//!
//! - Only an answered probe leads out of `Down`; a report about an earlier incarnation changes nothing.
//! - While `Down`, exactly one probe is scheduled or in flight.
//! - The epoch grows with every View; `settled` is the newest epoch that every worker has acknowledged
//!   and never decreases.
//! - A backend leaves `Down` only after the epoch in which it went down has settled, so that no worker
//!   still reads it when its purge begins.
//!
//! Not here: what a phase means for a request (`placement`), probes on the wire (`magent/src/control.rs`).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::breaks::{Break, Breaks};
use crate::placement::{BackendView, Phase, Version, View};
use crate::{BackendId, Time, WorkerId};

/// What a worker tells the keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// A connection failed. The worker already treats the backend as down.
    Failed {
        /// Which backend.
        backend: BackendId,
        /// The incarnation that failed.
        incarnation: u32,
        /// How.
        failure: Failure,
    },
    /// The worker has deleted on the backend what it remembered.
    Purged {
        /// Which backend.
        backend: BackendId,
        /// The incarnation that was purged.
        incarnation: u32,
    },
    /// The backend has missed acknowledged writes that cannot be named.
    Overflow {
        /// Which backend.
        backend: BackendId,
    },
    /// The worker lives by this epoch, and its writes of earlier ones are finished.
    Acknowledged {
        /// Which epoch.
        epoch: u64,
    },
}

macro_rules! failures {
    ($($variant:ident, $name:literal, $doc:literal;)+) => {
        /// How a backend failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Failure {
            $(#[doc = $doc] $variant,)+
        }

        impl Failure {
            /// Every failure, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// For logs and `stats magent`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

failures! {
    Refused, "connection refused", "Nobody listens there.";
    Unreachable, "unreachable", "The network knows no way, or the kernel gave another error.";
    Unresolved, "name not resolved", "The host's name has no address.";
    ConnectTimeout, "connect timed out", "No connection within fail_ms.";
    Reset, "connection lost", "Closed by the backend: while it owed answers, or at all if there are backups.";
    Silent, "silent", "Not a byte for fail_ms while it owed answers.";
    Desync, "answer out of step", "An answer that fits no request.";
    Overflowed, "missed too much", "It returned, but missed more than it can be purged of.";
    BadProbe, "not a memcached", "A probe's answer that no memcached gives.";
}

/// What an answered probe says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// The version, if it could be read.
    pub version: Option<Version>,
}

/// What the keeper wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Give this View to every worker.
    Publish(Arc<View>),
    /// Tell every worker that all have acknowledged this epoch.
    Settled(u64),
    /// Probe this backend on a fresh connection and say how it went.
    Probe(BackendId),
    /// A backend has changed phase: for the log.
    Changed(Change),
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
    /// How long it was in the phase before, in milliseconds.
    pub lasted_ms: u64,
}

/// What the keeper needs to know before it starts.
#[derive(Debug, Clone)]
pub struct KeeperConfig {
    /// Number of backends.
    pub backends: usize,
    /// Number of workers.
    pub workers: usize,
    /// See `probe_delay_ms_min`.
    pub probe_delay_ms_min: u64,
    /// See `probe_delay_ms_max`.
    pub probe_delay_ms_max: u64,
    /// Spreads the probes of several proxies: any number.
    pub jitter_seed: u64,
}

/// The machine. See the module's page.
#[derive(Debug)]
pub struct Keeper {
    config: KeeperConfig,
    backends: Vec<Backend>,
    epoch: u64,
    acknowledged: Vec<u64>,
    settled: u64,
    jitter: u64,
    changed: bool,
    breaks: Breaks,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
struct Backend {
    state: State,
    since: Time,
    since_epoch: u64,
    incarnation: u32,
    overflow: bool,
    version: Option<Version>,
}

#[derive(Debug)]
enum State {
    Up,
    Down { delay_ms: u64, probe: Probe },
    Purging { waiting_for: Vec<WorkerId> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    At(Time),
    InFlight,
    /// Answered, but the epoch in which the backend went down has not settled.
    Answered,
}

impl State {
    const fn phase(&self) -> Phase {
        match self {
            Self::Up => Phase::Up,
            Self::Down { .. } => Phase::Down,
            Self::Purging { .. } => Phase::Purging,
        }
    }
}

impl Keeper {
    /// A keeper that takes every backend to be up and probes each once to learn its version.
    #[must_use]
    pub fn new(config: KeeperConfig, now: Time) -> Self {
        let backends = (0..config.backends)
            .map(|_| Backend {
                state: State::Up,
                since: now,
                since_epoch: 0,
                incarnation: 0,
                overflow: false,
                version: None,
            })
            .collect();
        let first_probes = (0..config.backends).map(|index| Output::Probe(backend_id(index)));
        Self {
            backends,
            epoch: 0,
            acknowledged: vec![0; config.workers],
            settled: 0,
            jitter: config.jitter_seed,
            changed: false,
            breaks: Breaks::default(),
            outputs: first_probes.collect(),
            config,
        }
    }

    /// The same with protections switched off.
    #[must_use]
    pub fn with_breaks(self, breaks: Breaks) -> Self {
        Self { breaks, ..self }
    }

    /// What to do next. Call until it says `Wait`.
    pub fn poll(&mut self, now: Time) -> Output {
        for index in 0..self.backends.len() {
            if let State::Down { probe, .. } = &mut self.backends[index].state
                && let Probe::At(at) = *probe
                && at <= now
            {
                *probe = Probe::InFlight;
                self.outputs.push_back(Output::Probe(backend_id(index)));
            }
        }
        if std::mem::take(&mut self.changed) {
            self.outputs
                .push_back(Output::Publish(Arc::new(self.view())));
        }
        self.outputs.pop_front().unwrap_or_else(|| {
            let probes = self
                .backends
                .iter()
                .filter_map(|backend| match backend.state {
                    State::Down {
                        probe: Probe::At(at),
                        ..
                    } => Some(at),
                    State::Down { .. } | State::Up | State::Purging { .. } => None,
                });
            Output::Wait(probes.min())
        })
    }

    /// The View in force.
    #[must_use]
    pub fn view(&self) -> View {
        let backends = self.backends.iter().map(|backend| BackendView {
            phase: backend.state.phase(),
            incarnation: backend.incarnation,
            since_epoch: backend.since_epoch,
            flush: backend.overflow,
            version: backend.version,
            mark: 0,
            explicit_cas: false,
        });
        View {
            epoch: self.epoch,
            backends: backends.collect(),
        }
    }

    /// A worker has something to say.
    pub fn on_report(&mut self, now: Time, worker: WorkerId, report: Report) {
        match report {
            Report::Failed {
                backend,
                incarnation,
                failure,
            } => {
                if self.backends[backend.index()].incarnation == incarnation {
                    self.mark_down(now, backend, failure);
                }
            }
            Report::Purged {
                backend,
                incarnation,
            } => {
                self.on_purged(now, worker, backend, incarnation);
            }
            Report::Overflow { backend } => {
                let this = &mut self.backends[backend.index()];
                let known = std::mem::replace(&mut this.overflow, true);
                // Sent before the worker heard of a purge that does not flush: that one is not enough.
                if !known && matches!(this.state, State::Purging { .. }) {
                    self.mark_down(now, backend, Failure::Overflowed);
                }
            }
            Report::Acknowledged { epoch } => self.on_acknowledged(now, worker, epoch),
        }
    }

    /// A worker has ended: nobody waits for it any more.
    pub fn on_worker_ended(&mut self, now: Time, worker: WorkerId) {
        self.on_acknowledged(now, worker, u64::MAX);
        for index in 0..self.backends.len() {
            let incarnation = self.backends[index].incarnation;
            self.on_purged(now, worker, backend_id(index), incarnation);
        }
    }

    /// The probe that was asked for was answered, or not.
    pub fn on_probe(
        &mut self,
        now: Time,
        backend: BackendId,
        result: Result<ProbeAnswer, Failure>,
    ) {
        let this = &mut self.backends[backend.index()];
        if let Ok(answer) = result
            && answer.version.is_some()
            && answer.version != this.version
        {
            this.version = answer.version;
            self.next_epoch();
        }
        let this = &mut self.backends[backend.index()];
        match (&mut this.state, result) {
            (State::Down { probe, .. }, Ok(_)) => {
                *probe = Probe::Answered;
                self.leave_down_if_settled(now, backend);
            }
            (State::Down { .. }, Err(_)) => self.schedule_probe(now, backend),
            // The first probe after the start: nobody may have tried the backend yet.
            (State::Up, Err(failure)) => self.mark_down(now, backend, failure),
            (State::Up | State::Purging { .. }, _) => {}
        }
    }

    fn mark_down(&mut self, now: Time, backend: BackendId, failure: Failure) {
        let this = &mut self.backends[backend.index()];
        if matches!(this.state, State::Down { .. }) {
            return;
        }
        this.incarnation += 1;
        let delay_ms = self.config.probe_delay_ms_min;
        self.enter(
            now,
            backend,
            State::Down {
                delay_ms,
                probe: Probe::At(now.after_ms(delay_ms)),
            },
            Some(failure),
        );
    }

    fn schedule_probe(&mut self, now: Time, backend: BackendId) {
        let jitter = self.next_jitter();
        let State::Down { delay_ms, probe } = &mut self.backends[backend.index()].state else {
            return;
        };
        *delay_ms = delay_ms
            .saturating_mul(2)
            .min(self.config.probe_delay_ms_max);
        // 75 to 100 % of the delay, so that many proxies do not probe in step.
        *probe = Probe::At(now.after_ms(*delay_ms - *delay_ms * (jitter % 64) / 256));
    }

    fn leave_down_if_settled(&mut self, now: Time, backend: BackendId) {
        let this = &mut self.backends[backend.index()];
        let answered = matches!(
            this.state,
            State::Down {
                probe: Probe::Answered,
                ..
            }
        );
        let settled = self.settled >= this.since_epoch || self.breaks.has(Break::DownSettles);
        if !answered || !settled {
            return;
        }
        let workers = (0..self.config.workers).map(worker_id);
        let state = State::Purging {
            waiting_for: workers.collect(),
        };
        self.enter(now, backend, state, None);
    }

    fn on_purged(&mut self, now: Time, worker: WorkerId, backend: BackendId, incarnation: u32) {
        let this = &mut self.backends[backend.index()];
        let State::Purging { waiting_for } = &mut this.state else {
            return;
        };
        if this.incarnation != incarnation {
            return;
        }
        waiting_for.retain(|&other| other != worker);
        if self.breaks.has(Break::AllPurge) {
            waiting_for.clear();
        }
        if waiting_for.is_empty() {
            this.overflow = false;
            self.enter(now, backend, State::Up, None);
        }
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
            self.leave_down_if_settled(now, backend_id(index));
        }
    }

    fn enter(&mut self, now: Time, backend: BackendId, state: State, failure: Option<Failure>) {
        self.next_epoch();
        let epoch = self.epoch;
        let this = &mut self.backends[backend.index()];
        let from = this.state.phase();
        let lasted_ms = now.ms_since(this.since);
        this.state = state;
        this.since = now;
        this.since_epoch = epoch;
        self.outputs.push_back(Output::Changed(Change {
            backend,
            from,
            to: this.state.phase(),
            failure,
            flush: this.overflow,
            lasted_ms,
        }));
    }

    /// Views that change in one go are published as one.
    fn next_epoch(&mut self) {
        if !self.changed {
            self.changed = true;
            self.epoch += 1;
        }
    }

    fn next_jitter(&mut self) -> u64 {
        // splitmix64 (Steele, Lea, Flood 2014).
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.jitter ^ (self.jitter >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn backend_id(index: usize) -> BackendId {
    BackendId(u16::try_from(index).expect("BACKENDS_MAX fits in 16 bits"))
}

fn worker_id(index: usize) -> WorkerId {
    WorkerId(u16::try_from(index).expect("Config holds the number of workers in 16 bits"))
}
