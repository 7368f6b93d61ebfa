//! Changes of phase: what each leads to for the backend and for its partners.
//!
//! Not here: what a phase means for a request (`placement`), which answers lead out of `Down` (`probes`).

use super::report::{Failure, Left};
use super::{Change, Keeper, Output, State, backend_id};
use crate::breaks::Break;
use crate::{BackendId, Time, WorkerId};

impl Keeper {
    pub(super) fn mark_down(&mut self, now: Time, backend: BackendId, failure: Failure) {
        let someone_else_leads = self.has_partner_that_leads(backend);
        let juniors = self.juniors_of(backend);
        let delay_ms = self.config.probe_delay_ms_min;
        let this = &mut self.backends[backend.index()];
        if matches!(this.state, State::Down { .. }) {
            return;
        }
        if matches!(this.state, State::Up) {
            this.up_until = now;
        }
        this.incarnation += 1;
        this.known = None;
        this.missed |= someone_else_leads;
        this.unverified.clear();
        let state = State::down(delay_ms, now.after_ms(delay_ms));
        self.enter(now, backend, state, Some(failure));
        if !self.breaks.has(Break::Takeover) {
            self.clean(now, juniors);
        }
    }

    /// Backends that may be copying from this one.
    fn juniors_of(&self, leader: BackendId) -> Vec<BackendId> {
        let partners = self.config.partners[leader.index()].iter().copied();
        partners
            .filter(|&partner| {
                let state = &self.backends[partner.index()].state;
                matches!(state, State::CatchingUp | State::Flipping) && self.leads(leader, partner)
            })
            .collect()
    }

    /// Whether one that returned before this backend is being cleaned, and leads when that is over.
    fn is_leader_cleaned(&self, backend: BackendId) -> bool {
        let seniority = self.backends[backend.index()].seniority;
        let mut partners = self.config.partners[backend.index()].iter();
        partners.any(|partner| {
            let that = &self.backends[partner.index()];
            matches!(that.state, State::Cleaning)
                && that.since_epoch > self.settled
                && that.seniority < seniority
        })
    }

    /// Who these were copied from no longer leads. Nor do they while they are cleaned, so those that copy from
    /// them are cleaned too: else one that lacks more would lead instead.
    fn clean(&mut self, now: Time, juniors: Vec<BackendId>) {
        for junior in juniors {
            let theirs = self.juniors_of(junior);
            let state = &self.backends[junior.index()].state;
            if matches!(state, State::CatchingUp | State::Flipping) {
                self.enter(now, junior, State::Cleaning, None);
                self.clean(now, theirs);
            }
        }
    }

    pub(super) fn on_overflow(&mut self, now: Time, backend: BackendId) {
        let this = &mut self.backends[backend.index()];
        this.overflow = true;
        if !this.missed {
            // What all have missed, such as a flush, is written down as well.
            this.missed = true;
            self.next_epoch();
        }
        let this = &self.backends[backend.index()];
        // Sent before the worker heard of a purge that does not flush, or while it followed: not enough.
        if !matches!(this.state, State::Down { .. }) && !this.flush {
            self.mark_down(now, backend, Failure::Overflowed);
        }
    }

    pub(super) fn on_purged(&mut self, worker: WorkerId, backend: BackendId, incarnation: u32) {
        let this = &mut self.backends[backend.index()];
        let State::Purging { waiting_for } = &mut this.state else {
            return;
        };
        if this.incarnation != incarnation || waiting_for.is_empty() {
            return;
        }
        waiting_for.retain(|&other| other != worker);
        if self.breaks.has(Break::AllPurge) {
            waiting_for.clear();
        }
        if waiting_for.is_empty() {
            this.overflow = false;
            self.probe(backend);
        }
    }

    /// The participant has more to delete than it said.
    pub(super) fn on_purging(&mut self, worker: WorkerId, backend: BackendId, incarnation: u32) {
        let this = &mut self.backends[backend.index()];
        if let State::Purging { waiting_for } = &mut this.state
            && this.incarnation == incarnation
            && !waiting_for.is_empty()
            && !waiting_for.contains(&worker)
        {
            waiting_for.push(worker);
        }
    }

    pub(super) fn enter_catching_up(&mut self, now: Time, backend: BackendId) {
        if self.config.partners[backend.index()].is_empty() {
            self.enter_up(now, backend);
            return;
        }
        if self.is_leader_cleaned(backend) {
            // It would lead instead, although it lacks more.
            if !matches!(self.backends[backend.index()].state, State::Cleaning) {
                self.enter(now, backend, State::Cleaning, None);
            }
            return;
        }
        self.enter(now, backend, State::CatchingUp, None);
        self.note_unfinished(backend);
        // Others may have waited for one that leads.
        self.look_at_juniors();
        self.finish_if_complete(backend);
    }

    pub(super) fn enter_up(&mut self, now: Time, backend: BackendId) {
        let this = &mut self.backends[backend.index()];
        this.missed = false;
        this.unwalkable = false;
        self.enter(now, backend, State::Up, None);
        for partner in self.config.partners[backend.index()].clone() {
            let that = &mut self.backends[partner.index()];
            if !that.lacks.contains(&backend) {
                continue;
            }
            // It led without what the other had.
            if matches!(that.state, State::Up) {
                that.up_until = now;
                that.flushes = None;
                // Whoever copies from it goes on: it still has more than they.
                self.seniority_first -= 1;
                that.seniority = self.seniority_first;
                self.enter(now, partner, State::CatchingUp, None);
                self.note_unfinished(partner);
                self.probe(partner);
            } else if matches!(that.state, State::Flipping) {
                self.enter(now, partner, State::CatchingUp, None);
                self.note_unfinished(partner);
            }
        }
        self.look_at_juniors();
    }

    /// A copy that was not looked at again may be old: a later process has to know.
    fn note_unfinished(&mut self, backend: BackendId) {
        let complete = self.is_complete(backend);
        let this = &mut self.backends[backend.index()];
        if matches!(this.state, State::CatchingUp) && !complete && !this.missed {
            this.missed = true;
            self.next_epoch();
        }
    }

    /// Who can be copied from may have changed.
    fn look_at_juniors(&mut self) {
        for index in 0..self.backends.len() {
            if matches!(self.backends[index].state, State::CatchingUp) {
                self.next_epoch();
                self.note_unfinished(backend_id(index));
            }
        }
    }

    pub(super) fn on_lacks(&mut self, now: Time, target: BackendId, source: Option<BackendId>) {
        let partners = &self.config.partners[target.index()];
        let more = match source {
            Some(source) => vec![source],
            None => partners.clone(),
        };
        self.lack(now, target, more);
    }

    pub(super) fn lack(&mut self, now: Time, target: BackendId, more: Vec<BackendId>) {
        let this = &mut self.backends[target.index()];
        this.lacks.extend(more);
        if matches!(this.state, State::Flipping) && !self.is_complete(target) {
            self.enter(now, target, State::CatchingUp, None);
        } else {
            self.next_epoch();
        }
        self.note_unfinished(target);
        self.finish_if_complete(target);
    }

    pub(super) fn on_copied(&mut self, target: BackendId, source: BackendId) {
        let this = &mut self.backends[target.index()];
        if this.lacks.remove(&source) {
            // A View that names it again means: once more.
            self.next_epoch();
            self.finish_if_complete(target);
        }
    }

    pub(super) fn on_left(&mut self, now: Time, target: BackendId, left: Left) {
        let this = &mut self.backends[target.index()];
        this.left = left;
        if left == Left::Many && matches!(this.state, State::Flipping) {
            // Conditional commands would have to wait for too long.
            self.enter(now, target, State::CatchingUp, None);
        }
        self.note_unfinished(target);
        self.finish_if_complete(target);
        self.leave_if_settled(now, target);
    }

    /// Backends that `target` lacks the share of and that can be copied from: they lead where it follows.
    pub(super) fn sources(&self, target: BackendId) -> impl Iterator<Item = BackendId> + '_ {
        let this = &self.backends[target.index()];
        this.lacks
            .iter()
            .copied()
            .filter(move |&source| self.leads(source, target))
    }

    fn leads(&self, source: BackendId, target: BackendId) -> bool {
        let that = &self.backends[source.index()];
        match that.state {
            State::Up => true,
            State::CatchingUp | State::Flipping => {
                that.seniority < self.backends[target.index()].seniority
            }
            State::Down { .. } | State::Purging { .. } | State::Cleaning => false,
        }
    }

    pub(super) fn has_partner_that_leads(&self, backend: BackendId) -> bool {
        self.config.partners[backend.index()].iter().any(|partner| {
            matches!(
                self.backends[partner.index()].state,
                State::Up | State::CatchingUp | State::Flipping | State::Cleaning
            )
        })
    }

    /// Whether next to nothing is left to copy that can be copied now. Each `incr` puts its key back, so that
    /// nothing may never come before conditional commands wait.
    pub(super) fn is_complete(&self, backend: BackendId) -> bool {
        let this = &self.backends[backend.index()];
        this.left != Left::Many && self.sources(backend).next().is_none()
    }

    /// The backend has returned. Until when may another proxy not know? It has seen it fail at about the same time. Its
    /// pauses between probes have doubled since, and each was at least three quarters of what it could be.
    pub(super) fn hold(&mut self, now: Time, backend: BackendId) {
        let this = &mut self.backends[backend.index()];
        let away_ms = now.ms_since(this.up_until);
        let pause_ms_max = 2 * (away_ms + self.config.probe_delay_ms_min);
        this.held_until = now.after_ms(pause_ms_max.min(self.config.hold_ms_max));
    }

    /// Everything is copied.
    pub(super) fn flip_unless_held(&mut self, now: Time, backend: BackendId) {
        let this = &mut self.backends[backend.index()];
        if this.held_until > now {
            this.flip_at = Some(this.held_until);
        } else {
            self.enter(now, backend, State::Flipping, None);
            self.leave_if_settled(now, backend);
        }
    }

    /// The flip begins with a probe: has somebody flushed the backend meanwhile?
    pub(super) fn finish_if_complete(&mut self, backend: BackendId) {
        let this = &self.backends[backend.index()];
        if matches!(this.state, State::CatchingUp) && self.is_complete(backend) {
            self.probe(backend);
        }
    }

    /// Where every participant's knowledge of the phase is all that is waited for.
    pub(super) fn leave_if_settled(&mut self, now: Time, backend: BackendId) {
        let this = &mut self.backends[backend.index()];
        let settled = self.settled >= this.since_epoch;
        match &mut this.state {
            State::Down { probe_at, .. } if settled && probe_at.is_none() => {
                // One that was asked for earlier does not count.
                self.probe(backend);
            }
            State::Cleaning if settled => self.enter_catching_up(now, backend),
            State::Flipping
                if (settled || self.breaks.has(Break::TwoStepFlip))
                    && (this.left == Left::None || self.breaks.has(Break::FlipAgain)) =>
            {
                self.enter_up(now, backend);
            }
            State::Up
            | State::Down { .. }
            | State::Purging { .. }
            | State::Cleaning
            | State::CatchingUp
            | State::Flipping => {}
        }
    }

    pub(super) fn enter(
        &mut self,
        now: Time,
        backend: BackendId,
        state: State,
        failure: Option<Failure>,
    ) {
        self.next_epoch();
        let epoch = self.epoch;
        let this = &mut self.backends[backend.index()];
        let from = this.state.phase();
        let lasted_ms = now.ms_since(this.since);
        this.state = state;
        this.since = now;
        this.since_epoch = epoch;
        if matches!(this.state, State::Up | State::CatchingUp) {
            // It leads whoever is down now, and they miss what it is told.
            for partner in self.config.partners[backend.index()].clone() {
                let that = &mut self.backends[partner.index()];
                that.missed |= matches!(that.state, State::Down { .. });
            }
        }
        let this = &self.backends[backend.index()];
        self.outputs.push_back(Output::Changed(Change {
            backend,
            from,
            to: this.state.phase(),
            failure,
            flush: this.flush,
            lacks: this.lacks.len(),
            lasted_ms,
            away_ms: now.ms_since(this.up_until),
        }));
    }
}
