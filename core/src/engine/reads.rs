//! Reads: asked at the authority, and again elsewhere when it fails.
//!
//! # Invariants
//!
//! - A read is never answered with an error because a backend died: it is asked again, and misses when
//!   nobody is left to ask (unless the operator chose errors, and never among several values).
//!
//! Not here: gathering and matching of answers (`backends`), what a silent backend owes (`hedge`).

use super::backends::Leg;
use super::exchange::{ExchangeId, Form, Kind, Verdict};
use super::{Engine, encode, replies};
use crate::breaks::Break;
use crate::config::DeadRead;
use crate::placement::Plan;
use crate::stats::Counter;
use crate::{BackendId, Time};

/// A read is asked at most this many times more: each time another backend has failed.
const RETRIES_MAX: u8 = 2;

/// What a write is told when no backend of its key is up, and a read if the operator wants it so.
pub(super) const NOBODY_UP: &[u8] = b"SERVER_ERROR no backend for this key is up\r\n";

impl Engine {
    /// Sends a read to whoever answers for its key.
    pub(super) fn dispatch_read(&mut self, now: Time, exchange: ExchangeId) {
        let this = &self.exchanges[exchange];
        if this.done {
            return;
        }
        let (hash, arrival_number) = (this.hash, this.arrival_number);
        let plan = self.plan(this.primary, this.backup);
        let authority = plan.authority;
        if self
            .locks
            .read_waits(hash, exchange, arrival_number, authority)
        {
            self.exchanges.retain(exchange);
            return;
        }
        self.follow(now, exchange, plan);
    }

    /// Sends a read that waits for no write.
    pub(super) fn route_read(&mut self, now: Time, exchange: ExchangeId) {
        let this = &self.exchanges[exchange];
        if this.done {
            return;
        }
        let plan = self.plan(this.primary, this.backup);
        self.follow(now, exchange, plan);
    }

    /// Asks whom `plan` names.
    fn follow(&mut self, now: Time, exchange: ExchangeId, plan: Plan) {
        self.trace_route(exchange, "get", plan);
        match plan.authority {
            Some(authority) if self.hedge_takes_over(exchange, authority) => {}
            Some(authority) => {
                self.ask(now, exchange, authority);
                if self.backends[authority.index()].suspect {
                    self.hedge(now, exchange, authority);
                }
            }
            None if plan.soon => self.await_epoch(exchange),
            None => self.answer_dead_read(exchange),
        }
    }

    pub(super) fn ask(&mut self, now: Time, exchange: ExchangeId, backend: BackendId) {
        match self.exchanges[exchange].kind {
            Kind::Fetch(verb) => self.gather(now, backend, exchange, verb),
            Kind::Read => self.send_to(now, backend, exchange, Leg::Read, Form::Meta, None),
            Kind::Local | Kind::Upload | Kind::Write | Kind::Broadcast => {
                unreachable!("only reads are asked")
            }
        }
    }

    /// `lost`, which was asked, has failed. Releases the pipeline's hold on the exchange.
    pub(super) fn ask_again(&mut self, now: Time, exchange: ExchangeId, lost: BackendId) {
        let was_hedge = self.lose_hedge(exchange, lost);
        if !was_hedge && !self.exchanges[exchange].done {
            self.repeat(now, exchange);
        }
        self.release(exchange);
    }

    fn repeat(&mut self, now: Time, exchange: ExchangeId) {
        if self.exchanges[exchange].streamed {
            self.break_off(exchange);
            return;
        }
        self.drop_reply(exchange);
        let this = &mut self.exchanges[exchange];
        this.retries += 1;
        if self.breaks.has(Break::ReadRepeats) {
            self.answer_dead_read(exchange);
        } else if this.retries <= RETRIES_MAX {
            self.count(Counter::Retried);
            if self.breaks.has(Break::ReadPlace) {
                self.exchanges.number(exchange);
            }
            self.dispatch_read(now, exchange);
        } else if !self.hedge_is_left(exchange) {
            self.answer_dead_read(exchange);
        }
    }

    /// A key of a batch was not found. Releases the batch's hold on the exchange.
    pub(super) fn miss(&mut self, id: BackendId, exchange: ExchangeId) {
        if !self.exchanges[exchange].done && !self.hedge_misses(exchange, id) {
            self.count(Counter::GetMisses);
            self.complete(exchange);
        }
        self.release(exchange);
    }

    /// A batch was refused: each of its keys is asked again alone, once. Releases the batch's hold.
    pub(super) fn on_batch_refused(
        &mut self,
        now: Time,
        id: BackendId,
        exchange: ExchangeId,
        single: bool,
        raw: &[u8],
    ) {
        if !self.exchanges[exchange].done && !self.hedge_misses(exchange, id) {
            let this = &mut self.exchanges[exchange];
            if !single {
                this.alone = true;
                self.dispatch_read(now, exchange);
            } else if this.only && !this.alone {
                // What memcached told a lone get; among several values it would cost the client its step.
                this.reply.extend_from_slice(raw);
                this.last = false;
                self.complete(exchange);
            } else {
                self.count(Counter::GetMisses);
                self.complete(exchange);
            }
        }
        self.release(exchange);
    }

    /// A value of a batch is complete in `reply`.
    pub(super) fn on_fetched(&mut self, exchange: ExchangeId) {
        self.count(Counter::GetHits);
        self.fill_follower(exchange);
        self.complete(exchange);
    }

    /// There was no memory for the value: an evicted item looks the same.
    pub(super) fn miss_for_memory(&mut self, exchange: ExchangeId) {
        let this = &self.exchanges[exchange];
        if this.done {
            return;
        }
        self.count(Counter::GetMisses);
        if this.kind == Kind::Read {
            self.reply_meta_miss(exchange);
        }
        self.complete(exchange);
    }

    /// A meta read has its answer in `reply`.
    pub(super) fn on_read_answer(&mut self, exchange: ExchangeId, verdict: Verdict) {
        if self.exchanges[exchange].done {
            return;
        }
        match verdict {
            Verdict::Done => {
                self.count(Counter::GetHits);
                self.fill_follower(exchange);
            }
            Verdict::Declined => self.count(Counter::GetMisses),
            Verdict::Refused | Verdict::Unknown => {}
        }
        self.complete(exchange);
    }

    /// The answer of a meta read that finds nothing, where no backend gave it.
    pub(super) fn reply_meta_miss(&mut self, exchange: ExchangeId) {
        let this = &mut self.exchanges[exchange];
        let mut reply = std::mem::take(&mut this.reply);
        encode::meta_miss(this, &mut reply);
        this.reply = reply;
    }

    fn answer_dead_read(&mut self, exchange: ExchangeId) {
        self.count(Counter::DeadKeys);
        self.count(Counter::GetMisses);
        let this = &mut self.exchanges[exchange];
        match (this.kind, self.dead_read) {
            (Kind::Fetch(_), DeadRead::Error) if this.only => {
                this.reply.extend_from_slice(NOBODY_UP);
                this.last = false;
            }
            (Kind::Fetch(_), _) => {}
            (_, DeadRead::Error) => this.reply.extend_from_slice(NOBODY_UP),
            (_, DeadRead::Miss) => self.reply_meta_miss(exchange),
        }
        self.complete(exchange);
    }

    /// The time of an exchange is up: it is answered with what is left to say.
    pub(super) fn expire_exchange(&mut self, exchange: ExchangeId) {
        if self.exchanges[exchange].streamed {
            self.break_off(exchange);
            return;
        }
        self.drop_reply(exchange);
        let this = &mut self.exchanges[exchange];
        match this.kind {
            Kind::Fetch(_) => self.count(Counter::GetMisses),
            Kind::Read => {
                self.count(Counter::GetMisses);
                self.reply_meta_miss(exchange);
            }
            Kind::Write if this.write.form == Form::Values => {}
            Kind::Write | Kind::Broadcast | Kind::Local | Kind::Upload => {
                this.reply
                    .extend_from_slice(b"SERVER_ERROR timed out waiting for a backend\r\n");
                debug_assert!(replies::is_error(&this.reply), "an error is never hidden");
            }
        }
        self.complete(exchange);
        self.forget_waiting(exchange);
    }
}
