//! Payloads of storage commands on their way in.
//!
//! # Invariants
//!
//! - A request is sent to a backend only when its payload is complete, so that a slow client holds up
//!   nobody.
//! - Memory is counted as bytes come, and given back when the last backend has answered.
//!
//! Not here: the line before the payload (`start`).

use std::sync::Arc;

use super::clients::Reading;
use super::direct::LARGE_LEN;
use super::exchange::{Class, ExchangeId, Form, Kind};
use super::send_queue::QUEUE_LEN_MIN;
use super::{ClientId, Engine, encode};
use crate::Time;
use crate::proto::ProtoError;
use crate::stats::Counter;

impl Engine {
    /// `value_len` bytes and, in text, CR LF follow. Memory is counted as they come: a client that announces a large
    /// value and does not send it must not take the room of others.
    pub(super) fn expect_payload(
        &mut self,
        now: Time,
        id: ClientId,
        exchange: ExchangeId,
        value_len: u32,
    ) {
        const RESERVED_LEN_MAX: usize = 1024 * 1024;
        let end_len = match self.exchanges[exchange].asked {
            Some(_) => 0,
            None => b"\r\n".len(),
        };
        let remaining = value_len as usize + end_len;
        if u64::from(value_len) > self.limits.value_len_max {
            self.count(Counter::ProtocolErrors);
            self.refuse_payload(now, id, exchange, remaining, ProtoError::TooLarge.wire());
            return;
        }
        let room = value_len as usize + b"\r\n".len();
        let is_large = room >= QUEUE_LEN_MIN;
        let large = is_large.then(|| self.pool.take_large(room.min(RESERVED_LEN_MAX)));
        if large.is_none() {
            self.exchanges[exchange].wire.reserve(room);
        }
        let client = &mut self.clients[id.index as usize];
        client.sends_large = room >= LARGE_LEN;
        client.reading = Reading::Payload {
            exchange,
            remaining,
            large,
        };
        if remaining == 0 {
            self.on_payload(now, id);
        }
    }

    /// Drops what is left of a payload that cannot be taken. As with memcached, a set that is refused leaves
    /// no old item behind: nobody may read what the client meant to replace.
    pub(super) fn refuse_payload(
        &mut self,
        now: Time,
        id: ClientId,
        exchange: ExchangeId,
        remaining: usize,
        reply: &'static [u8],
    ) {
        self.clients[id.index as usize].reading = Reading::Swallow {
            remaining: remaining as u64,
            exchange: None,
        };
        self.free_payload(exchange);
        let this = &mut self.exchanges[exchange];
        if this.write.class != Class::Store {
            this.kind = Kind::Local;
            this.reply.extend_from_slice(reply);
            self.complete(exchange);
            return;
        }
        let mut line = std::mem::take(&mut self.scratch);
        line.clear();
        let form = encode::delete(this, &mut line);
        let key_len = this.key.end - this.key.start;
        let key_start = if form == Form::Meta { 3 } else { 7 };
        this.kind = Kind::Write;
        this.instead = Some(reply);
        this.key = key_start..key_start + key_len;
        this.wire.clear();
        this.wire.extend_from_slice(&line);
        self.scratch = line;
        self.begin_write(now, exchange, Class::Remove, form);
    }

    /// Takes bytes of a payload; yields how many.
    pub(super) fn read_payload(&mut self, now: Time, id: ClientId, data: &[u8]) -> usize {
        let client = &mut self.clients[id.index as usize];
        let Reading::Payload {
            exchange,
            remaining,
            large,
        } = &mut client.reading
        else {
            unreachable!("called while reading a payload");
        };
        let exchange = *exchange;
        let count = data.len().min(*remaining);
        if self.memory_len + count as u64 > self.memory_len_max {
            let remaining = *remaining;
            self.count(Counter::MemoryRefusals);
            let reply = b"SERVER_ERROR out of memory storing object\r\n";
            self.refuse_payload(now, id, exchange, remaining, reply);
            return 0;
        }
        let target = match large {
            Some(large) => large,
            None => &mut self.exchanges[exchange].wire,
        };
        target.extend_from_slice(&data[..count]);
        self.on_payload_bytes(now, id, count);
        count
    }

    /// `count` more bytes of a payload are where they belong.
    pub(super) fn on_payload_bytes(&mut self, now: Time, id: ClientId, count: usize) {
        let Reading::Payload {
            exchange,
            remaining,
            ..
        } = &mut self.clients[id.index as usize].reading
        else {
            unreachable!("called while reading a payload");
        };
        self.memory_len += count as u64;
        self.exchanges[*exchange].reserved += count;
        *remaining -= count;
        if *remaining == 0 {
            self.on_payload(now, id);
        }
    }

    /// A payload is complete.
    fn on_payload(&mut self, now: Time, id: ClientId) {
        let client = &mut self.clients[id.index as usize];
        let Reading::Payload {
            exchange, large, ..
        } = std::mem::take(&mut client.reading)
        else {
            unreachable!("called while reading a payload");
        };
        let mut large = large;
        let this = &mut self.exchanges[exchange];
        let target = large.as_mut().unwrap_or(&mut this.wire);
        if this.asked.is_some() {
            target.extend_from_slice(b"\r\n");
        }
        let complete = target.ends_with(b"\r\n");
        let this = &mut self.exchanges[exchange];
        this.payload = large.map(Arc::new);
        if complete {
            this.kind = Kind::Write;
            let (class, form) = (this.write.class, this.write.form);
            self.begin_write(now, exchange, class, form);
        } else {
            // As memcached does: the bytes behind the announced length are the next request.
            this.kind = Kind::Local;
            this.reply
                .extend_from_slice(ProtoError::BadDataChunk.wire());
            self.count(Counter::ProtocolErrors);
            self.free_payload(exchange);
            self.complete(exchange);
        }
    }

    /// The payload is needed no more.
    pub(super) fn free_payload(&mut self, exchange: ExchangeId) {
        let this = &mut self.exchanges[exchange];
        if let Some(payload) = this.payload.take() {
            self.pool.give_shared(payload);
        }
        self.memory_len -= std::mem::take(&mut this.reserved) as u64;
    }
}
