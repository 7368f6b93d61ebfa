//! Writes: who is told, in which order, and when the client hears of it.
//!
//! ```text
//!             slot or epoch
//!  Waiting ──┬─────────────> Parallel ──────────────┬──────> Over ──> answer (held until the
//!            │               authority + follower   │ refused         failed backend's epoch
//!            │                                      v                 has settled)
//!            ├─────────────> Deciding ──> Copying ──┼─> Mending ──> Over
//!            │               authority    follower  │ disagrees
//!            ^                  │                   └──────> Over
//!            └──────────────────┘ authority failed: decided anew by its successor
//! ```
//!
//! # Invariants
//!
//! - A follower never decides: it gets the outcome of what the authority decided, and its own answer is
//!   only compared.
//! - A write that a backend may have executed is remembered for that backend if the answer is unknown, and
//!   a write that a backend misses is remembered when it is sent elsewhere.
//! - The slot of a key with a second copy is held from before a write is sent until it is over: until both
//!   copies have it, or one that may disagree has been deleted. No other write of the key comes in between, in
//!   this worker or another.
//! - A diverted write is acknowledged only when no worker reads the failed backend any more; a diverted
//!   conditional is not even sent before.
//!
//! Not here: the table of authorities and followers (`placement::plan`).

use super::backends::Leg;
use super::exchange::{Class, Exchange, ExchangeId, Form, Outcome, Stage, Verdict};
use super::reads::NOBODY_UP;
use super::{Engine, encode};
use crate::breaks::Break;
use crate::placement::{Order, Phase, Plan, Standing};
use crate::stats::Counter;
use crate::{BackendId, Time};

/// A conditional command is decided at most this many times more: each time its authority has failed.
const REDECIDED_MAX: u8 = 2;

impl Engine {
    /// Sends a write, or queues it behind the one that holds its key's slot.
    pub(super) fn dispatch_write(&mut self, now: Time, exchange: ExchangeId) {
        let this = &self.exchanges[exchange];
        if this.done {
            return;
        }
        if this.backup.is_some() && !self.breaks.has(Break::OutcomeLock) {
            let (hash, arrival_number) = (this.hash, this.arrival_number);
            if self.locks.write_waits(hash, exchange, arrival_number) {
                self.exchanges.retain(exchange);
                return;
            }
            self.exchanges[exchange].write.holds_lock = true;
        }
        self.start_write(now, exchange);
    }

    /// Sends a write that waits for no other.
    pub(super) fn start_write(&mut self, now: Time, exchange: ExchangeId) {
        let this = &self.exchanges[exchange];
        if this.done {
            self.finish_write(exchange);
            return;
        }
        let (primary, backup, class) = (this.primary, this.backup, this.write.class);
        let plan = self.plan(primary, backup);
        let Some(authority) = plan.authority else {
            if plan.soon {
                self.await_epoch(exchange);
                return;
            }
            self.trace_route(exchange, verb_of(class), plan);
            self.refuse_write(exchange);
            return;
        };
        let parallel = match class {
            Class::Store | Class::Remove => plan.follower.is_none_or(|follower| {
                follower.order == Order::Parallel || self.breaks.has(Break::AuthorityFirst)
            }),
            Class::Conditional(_) => false,
        };
        if backup.is_some() && !parallel {
            let waits = matches!(class, Class::Conditional(_))
                && (!self.absences_are_settled(exchange) || self.is_flipping(exchange))
                && !self.breaks.has(Break::ConditionalsWait);
            if waits {
                self.await_epoch(exchange);
                return;
            }
        }
        if self.exchanges[exchange].write.holds_lock {
            let sent_to = (!parallel).then_some(authority);
            self.locks.mark_sent(self.exchanges[exchange].hash, sent_to);
        }
        self.trace_route(exchange, verb_of(class), plan);
        self.send_write(now, exchange, authority, plan, parallel);
    }

    fn send_write(
        &mut self,
        now: Time,
        exchange: ExchangeId,
        authority: BackendId,
        plan: Plan,
        parallel: bool,
    ) {
        if let Some(absent) = plan.absent {
            self.count(Counter::Diverted);
            if !self.breaks.has(Break::RememberWhenSending) {
                self.remember(exchange, absent);
            }
        }
        self.writes_of_epoch += 1;
        let epoch = self.view.epoch;
        // Not to one that follows later: nothing is copied to it before the writes of this epoch are over.
        let may_be_copied = plan
            .follower
            .is_some_and(|follower| matches!(self.standing(follower.backend), Standing::Junior(_)));
        let write = &mut self.exchanges[exchange].write;
        let form = write.form;
        write.epoch = Some(epoch);
        write.authority = authority;
        write.authority_verdict = None;
        write.follower_verdict = None;
        write.may_be_copied = may_be_copied;
        write.stage = if parallel {
            Stage::Parallel
        } else {
            Stage::Deciding
        };
        write.follower = if parallel {
            plan.follower.map(|follower| follower.backend)
        } else {
            None
        };
        let follower = write.follower;
        write.legs = 1 + u8::from(follower.is_some());
        self.send_to(now, authority, exchange, Leg::Authority, form, None);
        if let Some(follower) = follower {
            self.send_to(now, follower, exchange, Leg::Follower, form, None);
        }
    }

    /// Whether a backend of this key is about to lead or to be read.
    fn is_flipping(&self, exchange: ExchangeId) -> bool {
        let this = &self.exchanges[exchange];
        let is = |backend: BackendId| self.view.backends[backend.index()].phase == Phase::Flipping;
        is(this.primary) || this.backup.is_some_and(is)
    }

    /// Whether no worker reads a backend of this key that is absent, so that all agree on its authority.
    fn absences_are_settled(&self, exchange: ExchangeId) -> bool {
        let this = &self.exchanges[exchange];
        self.absence_is_settled(this.primary)
            && this
                .backup
                .is_none_or(|backup| self.absence_is_settled(backup))
    }

    /// A backend has answered one of the write's requests, or has failed with it unanswered.
    pub(super) fn on_write_verdict(
        &mut self,
        now: Time,
        exchange: ExchangeId,
        leg: Leg,
        backend: BackendId,
        verdict: Verdict,
    ) {
        let write = &mut self.exchanges[exchange].write;
        assert!(write.legs > 0, "a leg is answered once");
        write.legs -= 1;
        match leg {
            Leg::Authority => write.authority_verdict = Some(verdict),
            Leg::Follower => write.follower_verdict = Some(verdict),
            Leg::Mend | Leg::Read | Leg::Broadcast => {}
        }
        debug_assert!(
            leg != Leg::Authority || write.authority == backend,
            "the authority's answer comes from the authority"
        );
        if write.legs > 0 {
            return;
        }
        match write.stage {
            Stage::Parallel => self.after_parallel(now, exchange),
            Stage::Deciding => self.after_decision(now, exchange),
            Stage::Copying => self.after_copy(now, exchange),
            Stage::Mending => self.write_is_over(exchange),
            Stage::Waiting | Stage::Over => unreachable!("nothing was sent in {:?}", write.stage),
        }
    }

    fn after_parallel(&mut self, now: Time, exchange: ExchangeId) {
        let this = &mut self.exchanges[exchange];
        let write = this.write;
        let authority_knows = !matches!(write.authority_verdict, Some(Verdict::Unknown) | None);
        let use_follower = match (write.authority_verdict, write.follower_verdict) {
            (_, Some(Verdict::Refused)) => write.authority_verdict != Some(Verdict::Refused),
            (_, Some(Verdict::Unknown) | None) => false,
            (_, Some(Verdict::Done | Verdict::Declined)) => !authority_knows,
        };
        if use_follower && !this.done {
            let Self { exchanges, .. } = self;
            let this = &mut exchanges[exchange];
            std::mem::swap(&mut this.reply, &mut this.follower_reply);
        }
        let other_knows = write
            .follower_verdict
            .is_some_and(|verdict| verdict != Verdict::Unknown);
        if !authority_knows && !other_knows {
            self.set_reply(
                exchange,
                b"SERVER_ERROR backend failed before it answered\r\n",
            );
        }
        let both = [write.authority_verdict, write.follower_verdict];
        let disagree =
            both.contains(&Some(Verdict::Refused)) && both.contains(&Some(Verdict::Done));
        if disagree && write.class == Class::Store {
            // memcached drops the old item when it refuses a new one; the other copy has to go too.
            self.mend(now, exchange, &[Some(write.authority), write.follower]);
        } else {
            self.write_is_over(exchange);
        }
    }

    fn after_decision(&mut self, now: Time, exchange: ExchangeId) {
        let this = &self.exchanges[exchange];
        let (write, primary, backup) = (this.write, this.primary, this.backup);
        let verdict = write
            .authority_verdict
            .expect("the authority's leg is over");
        if verdict == Verdict::Unknown {
            self.decide_anew(now, exchange);
            return;
        }
        let Some(backup) = backup else {
            self.write_is_over(exchange);
            return;
        };
        let refused_store = verdict == Verdict::Refused && write.class == Class::Store;
        let copied = match write.class {
            _ if self.breaks.has(Break::OutcomeCopied) => false,
            Class::Conditional(Outcome::Nothing) => false,
            Class::Conditional(_) => verdict == Verdict::Done,
            // A follower that is not in step gets every write, behind the authority.
            Class::Store => verdict == Verdict::Done,
            Class::Remove => true,
        };
        // Who follows may have changed since the command was sent.
        let partner = if write.authority == primary {
            backup
        } else {
            primary
        };
        if refused_store {
            self.mend(now, exchange, &[Some(write.authority), Some(partner)]);
        } else if verdict == Verdict::Refused && self.takes_old_item(exchange) {
            self.mend(now, exchange, &[Some(partner)]);
        } else if !copied {
            self.write_is_over(exchange);
        } else if self.standing(partner) == Standing::Absent {
            self.remember(exchange, partner);
            self.write_is_over(exchange);
        } else {
            self.copy_outcome(now, exchange, partner);
        }
    }

    /// Whether memcached may have dropped the old item with a store on a condition that it refused: for want of room
    /// it does so with any `ms`. Of the classic stores only `set` does.
    fn takes_old_item(&self, exchange: ExchangeId) -> bool {
        let this = &self.exchanges[exchange];
        let as_meta = this.wire.starts_with(b"ms ") || this.write.translated;
        as_meta && this.reply.starts_with(b"SERVER_ERROR ")
    }

    /// The authority failed before it answered. Whoever succeeds it decides anew: what the failed one may
    /// have done is remembered and purged before it is read again. Not where that may have been copied to its
    /// successor by then, who would do it twice.
    fn decide_anew(&mut self, now: Time, exchange: ExchangeId) {
        self.uncount(exchange);
        if self.exchanges[exchange].streamed {
            self.break_off(exchange);
        }
        let this = &mut self.exchanges[exchange];
        this.write.redecided += 1;
        this.write.stage = Stage::Waiting;
        let twice = this.write.may_be_copied && this.write.class.is_told_by_deletion();
        if this.backup.is_none() || this.write.redecided > REDECIDED_MAX || twice {
            self.set_reply(
                exchange,
                b"SERVER_ERROR backend failed before it answered\r\n",
            );
            self.write_is_over(exchange);
            return;
        }
        if this.write.holds_lock {
            self.locks.mark_unsent(this.hash);
        }
        self.drop_reply(exchange);
        self.start_write(now, exchange);
    }

    fn copy_outcome(&mut self, now: Time, exchange: ExchangeId, follower: BackendId) {
        let mut line = std::mem::take(&mut self.scratch);
        line.clear();
        // What is repeated on a copy that the healer has just made would be done twice.
        let catching_up =
            self.standing(follower) != Standing::InStep && !self.breaks.has(Break::DeleteNotRepeat);
        let this = &mut self.exchanges[exchange];
        let (form, with_payload) = match this.write.class {
            class if class.is_told_by_deletion() && catching_up => {
                this.write.recopy = Some(follower);
                (encode::delete(this, &mut line), false)
            }
            Class::Conditional(Outcome::Touch) if catching_up => {
                // Unless it turns out to have the item.
                this.write.recopy = Some(follower);
                encode::outcome(this, &mut line)
            }
            Class::Conditional(_) | Class::Store | Class::Remove => {
                encode::outcome(this, &mut line)
            }
        };
        let write = &mut self.exchanges[exchange].write;
        write.stage = Stage::Copying;
        write.follower = Some(follower);
        write.legs = 1;
        self.send_to(
            now,
            follower,
            exchange,
            Leg::Follower,
            form,
            Some((&line, with_payload)),
        );
        self.scratch = line;
    }

    fn after_copy(&mut self, now: Time, exchange: ExchangeId) {
        let this = &mut self.exchanges[exchange];
        let is_touch = this.write.class == Class::Conditional(Outcome::Touch);
        if is_touch && this.write.follower_verdict == Some(Verdict::Done) {
            this.write.recopy = None;
        }
        let write = this.write;
        let agrees = match write.follower_verdict.expect("the follower's leg is over") {
            Verdict::Unknown => true,
            Verdict::Refused => false,
            // It has lost the item, or never had it: nothing old is left there.
            Verdict::Declined => true,
            Verdict::Done => {
                // Only numbers can be compared.
                let copy = Exchange::number(&this.follower_reply);
                copy.is_none() || copy == Exchange::number(&this.reply)
            }
        };
        if agrees {
            self.write_is_over(exchange);
        } else {
            self.mend(now, exchange, &[write.follower]);
        }
    }

    /// Deletes copies that may disagree: a miss is never old.
    fn mend(&mut self, now: Time, exchange: ExchangeId, backends: &[Option<BackendId>]) {
        self.count(Counter::Mended);
        let mut line = std::mem::take(&mut self.scratch);
        line.clear();
        let form = encode::delete(&self.exchanges[exchange], &mut line);
        self.exchanges[exchange].write.stage = Stage::Mending;
        for &backend in backends.iter().flatten() {
            if self.standing(backend) == Standing::Absent {
                self.remember(exchange, backend);
            } else {
                let write = &mut self.exchanges[exchange].write;
                if backend != write.authority {
                    write.recopy = Some(backend);
                }
                write.legs += 1;
                self.send_to(
                    now,
                    backend,
                    exchange,
                    Leg::Mend,
                    form,
                    Some((&line, false)),
                );
            }
        }
        self.scratch = line;
        if self.exchanges[exchange].write.legs == 0 {
            self.write_is_over(exchange);
        }
    }

    /// All backends have answered.
    fn write_is_over(&mut self, exchange: ExchangeId) {
        self.exchanges[exchange].write.stage = Stage::Over;
        if let Some(backend) = self.exchanges[exchange].write.recopy.take() {
            self.recopy(exchange, backend);
        }
        if self.breaks.has(Break::RememberWhenSending) {
            self.remember_late(exchange);
        }
        self.free_payload(exchange);
        self.finish_write(exchange);
        self.answer_write(exchange);
    }

    /// What [`Break::RememberWhenSending`] does instead.
    fn remember_late(&mut self, exchange: ExchangeId) {
        let this = &self.exchanges[exchange];
        if let Some(absent) = self.plan(this.primary, this.backup).absent {
            self.remember(exchange, absent);
        }
    }

    /// Gives up what the write held: its slot and its place among those under way.
    fn finish_write(&mut self, exchange: ExchangeId) {
        self.uncount(exchange);
        let this = &mut self.exchanges[exchange];
        if std::mem::take(&mut this.write.holds_lock) {
            let hash = this.hash;
            self.locks.release(hash, exchange);
        }
    }

    fn uncount(&mut self, exchange: ExchangeId) {
        let Some(epoch) = self.exchanges[exchange].write.epoch.take() else {
            return;
        };
        if epoch == self.view.epoch {
            self.writes_of_epoch -= 1;
        } else {
            self.writes_of_older -= 1;
            self.acknowledge();
        }
    }

    /// Answers the client, or holds the answer until nobody reads a backend that does not know of it.
    pub(super) fn answer_write(&mut self, exchange: ExchangeId) {
        let this = &self.exchanges[exchange];
        if this.done {
            return;
        }
        // Without a second copy there is nobody who could be read instead.
        let held = this.backup.is_some() && !self.absences_are_settled(exchange);
        if held && !self.breaks.has(Break::AckWaitsForEpoch) {
            self.exchanges.retain(exchange);
            self.held.push(exchange);
            return;
        }
        self.complete(exchange);
    }

    fn refuse_write(&mut self, exchange: ExchangeId) {
        self.count(Counter::DeadKeys);
        self.free_payload(exchange);
        let reply = if self.exchanges[exchange].write.form == Form::Values {
            // A gat among several: an error line would cost the client its step.
            &b""[..]
        } else {
            NOBODY_UP
        };
        self.set_reply(exchange, reply);
        self.finish_write(exchange);
        self.complete(exchange);
    }

    fn set_reply(&mut self, exchange: ExchangeId, reply: &[u8]) {
        self.drop_reply(exchange);
        let this = &mut self.exchanges[exchange];
        if !this.done && this.write.form != Form::Values {
            this.reply.extend_from_slice(reply);
        }
    }

    /// A request was answered at its deadline. If it was never sent it never will be.
    pub(super) fn forget_waiting(&mut self, exchange: ExchangeId) {
        let this = &self.exchanges[exchange];
        if this.write.holds_lock && this.write.stage == Stage::Waiting {
            self.free_payload(exchange);
            self.finish_write(exchange);
        } else if this.backup.is_some() && self.locks.forget(this.hash, exchange) {
            self.free_payload(exchange);
            self.release(exchange);
        }
    }
}

const fn verb_of(class: Class) -> &'static str {
    match class {
        Class::Store => "set",
        Class::Remove => "delete",
        Class::Conditional(_) => "update",
    }
}
