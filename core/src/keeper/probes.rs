//! Probes: who answers, and what that says.
//!
//! # Invariants
//!
//! - One probe of a backend is under way at a time. What happened after it was asked for does not count for
//!   it: it carries what was known by then.
//! - A connection is verified only by a probe that was asked for after it had been made.
//!
//! Not here: what follows from a change of phase (`phases`), probes on the wire (`magent/src/probe.rs`).

use super::report::{Failure, ProbeAnswer};
use super::{ENDED, Keeper, Output, State, StillDown, worker_id};
use crate::breaks::Break;
use crate::engine::ConnectionId;
use crate::known::Process;
use crate::placement::{Phase, Version};
use crate::{BackendId, Time, WorkerId};

/// A probe that has been asked for.
#[derive(Debug)]
pub(super) struct Probe {
    incarnation: u32,
    since_epoch: u64,
    /// Whether everybody knew of the phase when it was asked for.
    settled: bool,
    /// Whether every participant had purged the backend when it was asked for.
    purged: bool,
    /// Whether nothing was left to copy when it was asked for.
    complete: bool,
    verifies: Vec<(WorkerId, ConnectionId)>,
}
/// For how long a backend that is down has answered probes: the proof of last resort that it has read what it was
/// sent before. Only time between two probes in a row that were both answered counts.
#[derive(Debug, Default)]
pub(super) struct Answered {
    ms: u64,
    last: Option<Time>,
}

impl Answered {
    fn go_on(&mut self, now: Time) {
        self.ms += self.last.map_or(0, |last| now.ms_since(last));
        self.last = Some(now);
    }

    /// A probe was not answered. If it merely came too late, nothing that was proven is disproved: the backend is
    /// sent nothing new. If nobody is there any more, somebody else may be the next time.
    fn interrupt(&mut self, failure: Failure) {
        self.last = None;
        if !failure.is_late() {
            self.ms = 0;
        }
    }
}

impl Keeper {
    /// Asks who is there, or asks again once the probe under way has been answered.
    pub(super) fn probe(&mut self, backend: BackendId) {
        let complete = self.is_complete(backend);
        let this = &mut self.backends[backend.index()];
        if this.probe.is_some() {
            this.probe_again = true;
            return;
        }
        this.probe_again = false;
        this.probe = Some(Probe {
            incarnation: this.incarnation,
            since_epoch: this.since_epoch,
            settled: self.settled >= this.since_epoch,
            purged: matches!(&this.state, State::Purging { waiting_for } if waiting_for.is_empty()),
            complete,
            verifies: std::mem::take(&mut this.unverified),
        });
        self.outputs.push_back(Output::Probe(backend));
    }

    /// The probe that was asked for was answered, or not.
    ///
    /// # Panics
    ///
    /// If none was asked for.
    pub fn on_probe(
        &mut self,
        now: Time,
        backend: BackendId,
        result: Result<ProbeAnswer, Failure>,
    ) {
        let this = &mut self.backends[backend.index()];
        let probe = this.probe.take().expect("a probe is answered once");
        if let Ok(answer) = result {
            if answer.version.is_some() && answer.version != this.version {
                this.version = answer.version;
                self.next_epoch();
            }
            let this = &mut self.backends[backend.index()];
            if answer.explicit_cas != this.explicit_cas {
                this.explicit_cas = answer.explicit_cas;
                self.next_epoch();
            }
            self.on_answer(now, backend, &probe, &answer);
        } else if let Err(failure) = result {
            if let State::Down { answered, .. } = &mut self.backends[backend.index()].state {
                answered.interrupt(failure);
                self.schedule_probe(now, backend);
            } else if self.is_current(backend, probe.incarnation) {
                self.mark_down(now, backend, failure);
            }
        }
        let this = &self.backends[backend.index()];
        if this.probe_again && this.probe.is_none() && this.state.phase() != Phase::Down {
            self.probe(backend);
        }
    }

    fn on_answer(&mut self, now: Time, backend: BackendId, probe: &Probe, answer: &ProbeAnswer) {
        let this = &mut self.backends[backend.index()];
        let replaced = this
            .identity
            .zip(answer.identity)
            .is_some_and(|(known, found)| known.is_replaced_by(&found))
            && !self.breaks.has(Break::Identity);
        let unknown = this.identity.is_none();
        if answer.identity.is_some() {
            this.identity = answer.identity;
            if unknown {
                // Its uniques are marked from now on.
                self.next_epoch();
            }
        }
        if replaced {
            self.mark_down(now, backend, Failure::Restarted);
        }
        let this = &mut self.backends[backend.index()];
        if let State::Down {
            restarted,
            stranger,
            ..
        } = &mut this.state
        {
            *restarted |= replaced;
            *stranger |= unknown;
            self.on_answer_while_down(now, backend, probe, answer);
            return;
        }
        if probe.incarnation != this.incarnation {
            return;
        }
        for &(worker, connection) in &probe.verifies {
            self.outputs.push_back(Output::Verified(worker, connection));
        }
        let this = &mut self.backends[backend.index()];
        match &this.state {
            State::Purging { .. } if probe.purged => {
                let flushed_by_another = !this.flush && this.flushes != Some(answer.flushes);
                if flushed_by_another {
                    this.lacks.extend(&self.config.partners[backend.index()]);
                }
                this.flushes = Some(answer.flushes);
                if std::mem::take(&mut this.flush) {
                    this.known = answer.identity.as_ref().map(Process::of);
                }
                self.seniority_last += 1;
                this.seniority = self.seniority_last;
                self.enter_catching_up(now, backend);
            }
            State::CatchingUp if this.flushes.is_none() => {
                this.flushes = Some(answer.flushes);
                self.finish_if_complete(backend);
            }
            State::CatchingUp if probe.complete && probe.since_epoch == this.since_epoch => {
                if this.flushes != Some(answer.flushes) {
                    this.flushes = Some(answer.flushes);
                    let partners = self.config.partners[backend.index()].clone();
                    self.lack(now, backend, partners);
                } else if self.is_complete(backend) {
                    self.flip_unless_held(now, backend);
                }
            }
            State::Up => this.flushes = Some(answer.flushes),
            State::Down { .. }
            | State::Purging { .. }
            | State::Cleaning
            | State::CatchingUp
            | State::Flipping => {}
        }
    }

    fn on_answer_while_down(
        &mut self,
        now: Time,
        backend: BackendId,
        probe: &Probe,
        answer: &ProbeAnswer,
    ) {
        let partner_leads = self.has_partner_that_leads(backend);
        let why = self.why_still_down(now, backend, probe, answer);
        let delay_ms_min = self.config.probe_delay_ms_min;
        let this = &mut self.backends[backend.index()];
        let State::Down {
            restarted,
            stranger,
            delay_ms,
            probe_at,
            ..
        } = &mut this.state
        else {
            return;
        };
        let (restarted, stranger) = (*restarted, *stranger);
        if let Some(why) = why {
            if why == StillDown::MissedTooMuch {
                self.schedule_probe(now, backend);
            } else {
                // Somebody is there: soon again, or when the epoch has settled.
                *delay_ms = delay_ms_min;
                let waits_for_epoch = self.settled < this.since_epoch;
                *probe_at = (!waits_for_epoch).then(|| now.after_ms(delay_ms_min));
            }
            self.outputs.push_back(Output::StillDown(backend, why));
            return;
        }
        // Items of a process that we do not know; or not all of us have flushed it, because it failed while we
        // did. Another proxy may have flushed it, but so may anyone else before these items came: unless its mark
        // is there. If both proxies flush it, the one that was first sees that by `flushes`, and copies once more.
        let process = answer.identity.as_ref().map(Process::of);
        let marked = answer.known.zip(process);
        let marked = marked.is_some_and(|(known, process)| known.is(&process));
        let unknown = restarted && answer.items > 0 && !marked || !restarted && this.flush;
        this.flush = this.overflow || (unknown && partner_leads);
        let has_partners = !self.config.partners[backend.index()].is_empty();
        // What knows no meta commands cannot be compared, nor marked.
        let comparable = this
            .version
            .is_none_or(|version| version >= Version::META_SINCE);
        let is_known = has_partners && comparable && restarted && !unknown && !this.flush;
        this.known = process.filter(|_| is_known);
        // Since it was last asked: by a client, or by hand.
        let flushed = this.flushes.is_some_and(|known| known != answer.flushes);
        if this.flush || restarted || stranger || flushed {
            let partners = &self.config.partners[backend.index()];
            this.lacks.extend(partners);
        }
        this.flushes = Some(answer.flushes);
        self.hold(now, backend);
        let participants = self.acknowledged.iter().enumerate();
        let waiting_for = participants
            .filter(|&(_, &epoch)| epoch != ENDED)
            .map(|(index, _)| worker_id(index))
            .collect();
        self.enter(now, backend, State::Purging { waiting_for }, None);
    }

    /// Why a backend that answers is not taken back.
    fn why_still_down(
        &mut self,
        now: Time,
        backend: BackendId,
        probe: &Probe,
        answer: &ProbeAnswer,
    ) -> Option<StillDown> {
        let this = &mut self.backends[backend.index()];
        let State::Down {
            restarted,
            answered,
            ..
        } = &mut this.state
        else {
            return None;
        };
        // Before everybody knows, a worker may still write to it.
        let current = probe.since_epoch == this.since_epoch && probe.settled;
        if current {
            answered.go_on(now);
        } else if !self.breaks.has(Break::DownSettles) {
            return Some(StillDown::Unsettled);
        }
        let settle_ms = self.config.settle_ms;
        let settled = *restarted
            || answer.lingering == Some(false)
            || answered.ms >= settle_ms
            || self.breaks.has(Break::Settle);
        if !settled {
            let answered_ms = answered.ms;
            return Some(StillDown::Lingering {
                answered_ms,
                settle_ms,
            });
        }
        let missed_too_much = this.overflow && self.config.stay_down && answer.items > 0;
        missed_too_much.then_some(StillDown::MissedTooMuch)
    }

    fn schedule_probe(&mut self, now: Time, backend: BackendId) {
        let jitter = self.next_jitter();
        let max = self.config.probe_delay_ms_max;
        let State::Down {
            delay_ms, probe_at, ..
        } = &mut self.backends[backend.index()].state
        else {
            return;
        };
        *delay_ms = delay_ms.saturating_mul(2).min(max);
        // 75 to 100 % of the delay, so that many proxies do not probe in step.
        *probe_at = Some(now.after_ms(*delay_ms - *delay_ms * (jitter % 64) / 256));
    }

    fn next_jitter(&mut self) -> u64 {
        // splitmix64 (Steele, Lea, Flood 2014).
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.jitter ^ (self.jitter >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
