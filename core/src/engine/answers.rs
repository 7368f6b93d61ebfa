//! Answers of backends: lines and payloads, matched to the oldest request of the pipeline.
//!
//! # Invariants
//!
//! - A line that does not fit the oldest entry of the pipeline, or comes when nothing is owed, is
//!   [`Failure::Desync`]: the connection is closed before anyone gets another's answer.
//! - A payload is copied once: from what was read to the answer of its exchange.
//!
//! Not here: what an answer means for the copies (`writes`), how it reaches the client (`replies`).

use super::backends::{Leg, Pending, Receiving};
use super::direct::{BEHIND_LEN, LARGE_LEN};
use super::exchange::{Exchange, ExchangeId, Form, Hedging, Kind, Verdict};
use super::send_queue::QUEUE_LEN_MIN;
use super::{ConnectionId, Engine, binary, encode, explicit};
use crate::breaks::Break;
use crate::cas;
use crate::keeper::Failure;
use crate::proto::response::{Line, parse_line, value_of};
use crate::proto::{GetVerb, MetaVerb, Parsed};
use crate::stats::Counter;
use crate::{BackendId, Time};

impl Engine {
    pub(super) fn on_backend_data(&mut self, now: Time, connection: ConnectionId, data: &[u8]) {
        if self.on_backend_bytes(now, connection, data.len()) {
            self.take_backend_data(now, connection.backend, data);
        }
    }

    /// `count` bytes have come; whether anybody is interested.
    pub(super) fn on_backend_bytes(
        &mut self,
        now: Time,
        connection: ConnectionId,
        count: usize,
    ) -> bool {
        let id = connection.backend;
        let backend = &mut self.backends[id.index()];
        if !backend.is_open(connection) {
            return false;
        }
        backend.batch_answer_len += count as u64;
        self.end_silence(now, id);
        self.counters().add(Counter::BackendBytesRead, count as u64);
        true
    }

    pub(super) fn take_backend_data(&mut self, now: Time, id: BackendId, data: &[u8]) {
        let mut inbox = std::mem::take(&mut self.backends[id.index()].inbox);
        let result = if inbox.is_empty() {
            let result = self.read_answers(now, id, data);
            if let Ok(used) = result {
                inbox.extend_from_slice(&data[used..]);
            }
            result
        } else {
            inbox.extend_from_slice(data);
            let result = self.read_answers(now, id, &inbox);
            if let Ok(used) = result {
                inbox.drain(..used);
            }
            result
        };
        match result {
            Ok(_) => self.backends[id.index()].inbox = inbox,
            Err(failure) => self.fail_backend(now, id, failure),
        }
        // A batch may have gathered while this one was in flight.
        if self.backends[id.index()].gathering {
            self.touch_backend(id);
        }
    }

    pub(super) fn read_answers(
        &mut self,
        now: Time,
        id: BackendId,
        data: &[u8],
    ) -> Result<usize, Failure> {
        let mut used = 0;
        while used < data.len() {
            let rest = &data[used..];
            if self.backends[id.index()].receiving.is_some() {
                used += self.receive_payload(now, id, rest)?;
                continue;
            }
            if let Some(len) = self.take_whole_value(id, rest) {
                used += len;
                continue;
            }
            match parse_line(rest) {
                Parsed::NeedMore => break,
                Parsed::Item {
                    item,
                    used: line_len,
                } => {
                    self.on_line(now, id, &item, &rest[..line_len])?;
                    used += line_len;
                }
                Parsed::Bad(_) => return Err(Failure::Desync),
            }
        }
        Ok(used)
    }

    /// Takes the value of a batch's next key, if all of it is there and it is a plain one; yields how many bytes.
    /// The same as line and payload one after the other, for a tenth of the instructions.
    fn take_whole_value(&mut self, id: BackendId, data: &[u8]) -> Option<usize> {
        let backend = &mut self.backends[id.index()];
        let Some(Pending::Batch { keys, next }) = backend.pipeline.front_mut() else {
            return None;
        };
        let exchange = *keys.get(*next)?;
        let this = &mut self.exchanges[exchange];
        if !is_plain_fetch(this, id) {
            return None;
        }
        let (line_len, value_len) = value_of(this.key(), data)?;
        let len = line_len + value_len as usize + b"\r\n".len();
        let whole = data.get(..len).filter(|whole| whole.ends_with(b"\r\n"))?;
        if len >= QUEUE_LEN_MIN {
            return None;
        }
        *next += 1;
        backend.large_len = 0;
        this.reply.extend_from_slice(whole);
        self.on_fetched(exchange);
        self.release(exchange);
        Some(len)
    }

    pub(super) fn on_line(
        &mut self,
        now: Time,
        id: BackendId,
        line: &Line<'_>,
        raw: &[u8],
    ) -> Result<(), Failure> {
        let Some(oldest) = self.backends[id.index()].pipeline.front() else {
            return Err(Failure::Desync);
        };
        match *oldest {
            Pending::Batch { .. } => self.on_batch_line(now, id, line, raw),
            Pending::One {
                exchange,
                leg,
                form: Form::Stats,
            } => {
                let over = self.on_stats_line(now, exchange, id, line, raw)?;
                debug_assert!(
                    leg == Leg::Broadcast,
                    "only a broadcast asks for statistics"
                );
                if over {
                    self.pop_pending(id);
                    self.release(exchange);
                }
                Ok(())
            }
            Pending::One {
                exchange,
                leg,
                form,
            } => self.on_one_line(now, id, (exchange, leg, form), line, raw),
            Pending::Purge => self.on_purge_line(now, id, line),
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a line of any other kind is out of step"
    )]
    pub(super) fn on_batch_line(
        &mut self,
        now: Time,
        id: BackendId,
        line: &Line<'_>,
        raw: &[u8],
    ) -> Result<(), Failure> {
        match *line {
            Line::Value { key, value_len, .. } => {
                // Values come in the order of the keys, so those in between are misses.
                let Self {
                    backends,
                    exchanges,
                    breaks,
                    ..
                } = self;
                let Some(Pending::Batch { keys, next }) = backends[id.index()].pipeline.front_mut()
                else {
                    unreachable!("the caller looked at the oldest entry");
                };
                let skipped = *next;
                let any = breaks.has(Break::Pairing);
                let Some(found) = keys[skipped..]
                    .iter()
                    .position(|&waiting| any || exchanges[waiting].key() == key)
                else {
                    return Err(Failure::Desync);
                };
                *next = skipped + found + 1;
                for index in skipped..skipped + found {
                    let missed = self.batch_key(id, index);
                    self.miss(id, missed);
                }
                let exchange = self.batch_key(id, skipped + found);
                self.expect_value(id, exchange, value_len, raw, true);
                Ok(())
            }
            Line::End => {
                let keys = self.finish_batch(id);
                for &missed in &keys.0[keys.1..] {
                    self.miss(id, missed);
                }
                self.recycle_batch(keys.0);
                Ok(())
            }
            Line::Error | Line::ClientError(_) | Line::ServerError(_) => {
                let (keys, next) = self.finish_batch(id);
                let single = keys.len() == 1;
                for &key in &keys[next..] {
                    self.on_batch_refused(now, id, key, single, raw);
                }
                self.recycle_batch(keys);
                Ok(())
            }
            _ => Err(Failure::Desync),
        }
    }

    /// A value's header has come: where do its bytes go?
    pub(super) fn expect_value(
        &mut self,
        id: BackendId,
        exchange: ExchangeId,
        value_len: u32,
        raw: &[u8],
        of_batch: bool,
    ) {
        let remaining = value_len as usize + 2;
        let short =
            remaining >= QUEUE_LEN_MIN && self.memory_len + remaining as u64 > self.memory_len_max;
        let of_hedge = self.is_hedge(exchange, id);
        let mut discard = is_unwanted(&self.exchanges[exchange]);
        if short && !discard {
            // It is answered as a miss: an evicted item looks the same.
            discard = true;
            self.count(Counter::MemoryRefusals);
        }
        let about = raw.len() + remaining.min(1 << 20) + BEHIND_LEN;
        if discard {
            // Read, and dropped.
        } else if of_hedge {
            self.exchanges[exchange].follower_reply.reserve(about);
            self.keep_hedge_line(id, exchange, raw);
        } else {
            let reply = &mut self.exchanges[exchange].reply;
            if about >= QUEUE_LEN_MIN && reply.is_empty() {
                let small = std::mem::replace(reply, self.pool.take_large(about));
                self.pool.give(small);
            } else {
                reply.reserve(about);
            }
            self.append_line(id, exchange, raw);
        }
        let backend = &mut self.backends[id.index()];
        backend.large_len = if remaining >= LARGE_LEN {
            raw.len() + remaining
        } else {
            0
        };
        backend.receiving = Some(Receiving {
            exchange,
            remaining,
            discard,
            last_byte: 0,
            of_batch,
            of_follower: of_hedge,
            stream: !of_hedge && u64::from(value_len) >= self.limits.stream_len_min,
        });
    }

    /// Takes bytes of a payload; yields how many.
    pub(super) fn receive_payload(
        &mut self,
        now: Time,
        id: BackendId,
        data: &[u8],
    ) -> Result<usize, Failure> {
        let Some(receiving) = &mut self.backends[id.index()].receiving else {
            unreachable!("called while a payload arrives");
        };
        let count = data.len().min(receiving.remaining);
        let value_len = count.min(receiving.remaining.saturating_sub(b"\r\n".len()));
        let chunk = &data[..count];
        // The client may have gone, or its time may be up, since the header came.
        let this = &mut self.exchanges[receiving.exchange];
        receiving.discard |= is_unwanted(this);
        let (discard, of_follower) = (receiving.discard, receiving.of_follower);
        // A packet's value ends by its length.
        let kept = if this.asked.is_some() {
            &chunk[..value_len]
        } else {
            chunk
        };
        if discard {
            // Read, and dropped.
        } else if of_follower {
            this.follower_reply.extend_from_slice(kept);
        } else {
            this.reply.extend_from_slice(kept);
        }
        let last = [2, 1].map(|back| Some(chunk[count.checked_sub(back)?]));
        self.on_value_bytes(now, id, count, last)?;
        Ok(count)
    }

    /// `count` more bytes of a value are where they belong; the `last` of them, or of all so far.
    pub(super) fn on_value_bytes(
        &mut self,
        now: Time,
        id: BackendId,
        count: usize,
        last: [Option<u8>; 2],
    ) -> Result<(), Failure> {
        let Some(receiving) = &mut self.backends[id.index()].receiving else {
            unreachable!("called while a payload arrives");
        };
        receiving.remaining -= count;
        let over = receiving.remaining == 0;
        let ends_right = match last {
            [Some(b'\r'), Some(b'\n')] => true,
            [None, Some(b'\n')] => receiving.last_byte == b'\r',
            _ => false,
        };
        if over && !ends_right {
            return Err(Failure::Desync);
        }
        receiving.last_byte = last[1].unwrap_or(receiving.last_byte);
        let (discard, of_follower) = (receiving.discard, receiving.of_follower);
        let (exchange, stream) = (receiving.exchange, receiving.stream);
        if over {
            if let Some(receiving) = self.backends[id.index()].receiving.take() {
                self.on_value(now, id, &receiving);
            }
        } else if discard {
            // Nothing is held.
        } else if of_follower {
            self.count_hedge_reply(exchange);
        } else if stream {
            self.stream(exchange);
        } else {
            self.count_reply(exchange);
        }
        Ok(())
    }

    /// A value is complete.
    fn on_value(&mut self, now: Time, id: BackendId, receiving: &Receiving) {
        let discarded = receiving.discard;
        if receiving.of_batch {
            let exchange = receiving.exchange;
            match (receiving.of_follower, discarded) {
                (true, _) => self.on_hedge_value(id, exchange, discarded),
                (false, true) => self.miss_for_memory(exchange),
                (false, false) => self.on_fetched(exchange),
            }
            self.release(exchange);
            return;
        }
        let Some(&Pending::One {
            exchange,
            leg,
            form,
        }) = self.backends[id.index()].pipeline.front()
        else {
            unreachable!("a value outside of a batch answers one request");
        };
        match form {
            // END follows.
            Form::Values => self.exchanges[exchange].write.authority_verdict = Some(Verdict::Done),
            Form::Meta => {
                self.pop_pending(id);
                if explicit::is_translated(&self.exchanges[exchange], form) && leg == Leg::Authority
                {
                    let reply = &mut self.exchanges[exchange].reply;
                    let line_len = memchr::memchr(b'\n', reply).map_or(0, |end| end + 1);
                    reply.drain(..line_len);
                }
                if leg == Leg::Read && receiving.of_follower {
                    self.on_hedge_value(id, exchange, discarded);
                    self.release(exchange);
                    return;
                }
                if discarded && !self.exchanges[exchange].done {
                    self.reply_meta_miss(exchange);
                }
                self.on_one_over(now, id, exchange, leg, Verdict::Done);
            }
            Form::Line | Form::Stats => unreachable!("such requests are not answered with values"),
        }
    }

    /// A line that answers a single request, or begins to.
    pub(super) fn on_one_line(
        &mut self,
        now: Time,
        id: BackendId,
        (exchange, leg, form): (ExchangeId, Leg, Form),
        line: &Line<'_>,
        raw: &[u8],
    ) -> Result<(), Failure> {
        let this = &self.exchanges[exchange];
        let translated = explicit::is_translated(this, form);
        let verdict = match (form, *line) {
            (Form::Meta, Line::MetaValue { value_len, .. }) => {
                let asked = match leg {
                    Leg::Authority if translated => counts(this) && value_len <= NUMBER_LEN_MAX,
                    Leg::Read | Leg::Authority => asks_for_value(this),
                    // Of what is repeated, only a counter is asked for its value.
                    Leg::Follower => counts(this) && value_len <= NUMBER_LEN_MAX,
                    Leg::Mend | Leg::Broadcast => false,
                };
                if !asked {
                    return Err(Failure::Desync);
                }
                if leg == Leg::Follower {
                    self.expect_number(id, exchange, value_len, raw);
                } else {
                    self.expect_value(id, exchange, value_len, raw, false);
                }
                return Ok(());
            }
            (Form::Values, Line::Value { key, value_len, .. }) => {
                if key != this.key() || this.write.authority_verdict.is_some() {
                    return Err(Failure::Desync);
                }
                self.expect_value(id, exchange, value_len, raw, false);
                return Ok(());
            }
            (Form::Values, Line::End) => self.exchanges[exchange]
                .write
                .authority_verdict
                .take()
                .unwrap_or(Verdict::Declined),
            // Every answer of a translated incr has its number.
            (Form::Meta, Line::MetaHeader(_)) if translated && counts(this) => {
                return Err(Failure::Desync);
            }
            (form, line) => verdict(form, &line).ok_or(Failure::Desync)?,
        };
        let raw = if translated {
            explicit::classic_answer(line).unwrap_or(raw)
        } else {
            raw
        };
        self.pop_pending(id);
        if leg == Leg::Read && self.is_hedge(exchange, id) {
            self.on_hedge_line(id, exchange, verdict, raw);
            self.release(exchange);
            return Ok(());
        }
        if form != Form::Values {
            self.keep_line(id, exchange, leg, raw);
        }
        self.on_one_over(now, id, exchange, leg, verdict);
        Ok(())
    }

    /// A follower's number has begun to arrive.
    pub(super) fn expect_number(
        &mut self,
        id: BackendId,
        exchange: ExchangeId,
        value_len: u32,
        raw: &[u8],
    ) {
        let this = &mut self.exchanges[exchange];
        this.follower_reply.clear();
        this.follower_reply.extend_from_slice(raw);
        self.backends[id.index()].receiving = Some(Receiving {
            exchange,
            remaining: value_len as usize + 2,
            discard: false,
            last_byte: 0,
            of_batch: false,
            of_follower: true,
            stream: false,
        });
    }

    /// Appends the first line of what the client will be told.
    fn append_line(&mut self, id: BackendId, exchange: ExchangeId, raw: &[u8]) {
        let mark = self.mark_of_answer(id, exchange);
        let this = &mut self.exchanges[exchange];
        let mut reply = std::mem::take(&mut this.reply);
        echo(this, raw, mark, &mut reply);
        this.reply = reply;
    }

    /// Keeps the line that may become the client's answer.
    pub(super) fn keep_line(&mut self, id: BackendId, exchange: ExchangeId, leg: Leg, raw: &[u8]) {
        let this = &mut self.exchanges[exchange];
        match leg {
            // A copy is compared with the authority's answer even if nobody waits for that.
            Leg::Authority | Leg::Read if !this.done || leg == Leg::Authority => {
                this.reply.clear();
                self.append_line(id, exchange, raw);
            }
            Leg::Follower => {
                let mark = self.mark_of_answer(id, exchange);
                let this = &mut self.exchanges[exchange];
                this.follower_reply.clear();
                cas::mark_answer(raw, mark, &mut this.follower_reply);
            }
            Leg::Authority | Leg::Read | Leg::Mend | Leg::Broadcast => {}
        }
    }

    /// What the CAS unique of an answer is marked with; 0 if there is none.
    pub(super) fn mark_of_answer(&self, id: BackendId, exchange: ExchangeId) -> u16 {
        if self.exchanges[exchange].shows_unique() {
            self.mark(id)
        } else {
            0
        }
    }

    /// What the CAS uniques of a request are marked with; 0 if there are none.
    pub(super) fn mark_of_request(&self, id: BackendId, exchange: ExchangeId) -> u16 {
        if self.exchanges[exchange].sends_unique() {
            self.mark(id)
        } else {
            0
        }
    }

    pub(super) fn on_one_over(
        &mut self,
        now: Time,
        id: BackendId,
        exchange: ExchangeId,
        leg: Leg,
        verdict: Verdict,
    ) {
        match leg {
            Leg::Read => self.on_read_answer(exchange, verdict),
            Leg::Authority | Leg::Follower | Leg::Mend => {
                self.on_write_verdict(now, exchange, leg, id, verdict);
            }
            Leg::Broadcast => self.on_broadcast_verdict(now, exchange, id, verdict),
        }
        self.release(exchange);
    }
}

/// Whether a meta request may be answered with a value.
fn asks_for_value(exchange: &Exchange) -> bool {
    exchange.letters.has(b'v') && !exchange.wire.starts_with(MetaVerb::Set.wire())
}

/// Appends the first line of an answer, or the header of a packet that tells a value, its CAS unique marked,
/// with the key where the proxy echoes it in the
/// backend's stead.
pub(super) fn echo(exchange: &Exchange, raw: &[u8], mark: u16, reply: &mut Vec<u8>) {
    if exchange.asked.is_some() && binary::encode_hit(exchange, raw, mark, reply) {
        return;
    }
    cas::mark_answer(raw, mark, reply);
    encode::echo_key(exchange, reply);
}

/// Whether nobody waits for the exchange's value. A counter's is compared with its copy all the same.
pub(super) fn is_unwanted(exchange: &Exchange) -> bool {
    exchange.done && !counts(exchange)
}

/// Whether what `id` says of a key goes to its client as it comes.
pub(super) fn is_plain_fetch(exchange: &Exchange, id: BackendId) -> bool {
    exchange.kind == Kind::Fetch(GetVerb::Get)
        && exchange.asked.is_none()
        && exchange.hedging != Hedging::Asked(id)
        && !exchange.done
}

/// Digits of a 64-bit number.
const NUMBER_LEN_MAX: u32 = 20;

/// Whether the exchange is an `ma`, `incr` or `decr`.
fn counts(exchange: &Exchange) -> bool {
    [&b"ma "[..], b"incr ", b"decr "]
        .iter()
        .any(|verb| exchange.wire.starts_with(verb))
}

/// What a line means as the answer to a request of this form; `None` if it is none.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a line of any other kind is out of step"
)]
fn verdict(form: Form, line: &Line<'_>) -> Option<Verdict> {
    if matches!(
        line,
        Line::Error | Line::ClientError(_) | Line::ServerError(_)
    ) {
        return Some(Verdict::Refused);
    }
    match form {
        Form::Line => match line {
            Line::Stored | Line::Deleted | Line::Touched | Line::Ok | Line::Number(_) => {
                Some(Verdict::Done)
            }
            Line::NotStored | Line::Exists | Line::NotFound => Some(Verdict::Declined),
            _ => None,
        },
        Form::Meta => match line {
            Line::MetaHeader(_) | Line::MetaDebug(_) => Some(Verdict::Done),
            Line::MetaMiss(_)
            | Line::MetaNotStored(_)
            | Line::MetaExists(_)
            | Line::MetaNotFound(_) => Some(Verdict::Declined),
            _ => None,
        },
        Form::Values | Form::Stats => None,
    }
}
