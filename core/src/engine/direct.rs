//! Large payloads are read from their socket to the place where they belong, not copied there.
//!
//! The caller asks for the room before it reads ([`Engine::client_room`], [`Engine::backend_room`]), reads into its
//! spare capacity, and says how much that was ([`super::Input::ClientFilled`], [`super::Input::BackendFilled`]). What
//! was read behind the payload is taken from there.
//!
//! # Invariants
//!
//! - Room is lent only for a payload that has begun and is wanted, and only as far as memory may be used.
//! - A payload that is read so and one that is handed over in pieces come to the same: both end in
//!   `upload::Engine::on_payload_bytes` and `answers::Engine::on_value_bytes`.
//! - Behind a large value another one is expected, and its line is read with it. What turns out to be something else is
//!   handed over.
//!
//! Not here: small payloads, and whatever comes over TLS: they are copied.

use super::answers::{is_plain_fetch, is_unwanted};
use super::backends::{Pending, Receiving};
use super::clients::Reading;
use super::exchange::ExchangeId;
use super::send_queue::QUEUE_LEN_MIN;
use super::{ClientId, ConnectionId, Engine};
use crate::proto::response::value_of;
use crate::stats::Counter;
use crate::{BackendId, Time};

/// Below this a copy costs less than another read.
const ROOM_LEN_MIN: usize = 8 * 1024;

/// At most so much is reserved for what is to come.
const ROOM_LEN_MAX: usize = 1024 * 1024;

/// Behind a value: its CR LF, `END` and its own. They come with the last read.
pub(super) const BEHIND_LEN: usize = 64;

/// A payload of at least this many bytes is large: the next one of the same sender is expected to be, too.
pub(super) const LARGE_LEN: usize = 2 * QUEUE_LEN_MIN;

impl Engine {
    /// Whether the next bytes of this client are likely to begin a large payload: then a short read takes the line,
    /// and the payload can be read to its place.
    #[must_use]
    pub fn client_is_large(&self, id: ClientId) -> bool {
        self.client(id).is_some_and(|client| client.sends_large)
    }

    /// The same of a backend.
    #[must_use]
    pub fn backend_is_large(&self, connection: ConnectionId) -> bool {
        self.backends[connection.backend.index()].large_len > 0
    }

    /// Where the next bytes of this client belong, if they are those of a large payload: into the spare capacity,
    /// which is not empty. [`super::Input::ClientFilled`] follows.
    pub fn client_room(&mut self, id: ClientId) -> Option<&mut Vec<u8>> {
        let memory_left = self.memory_len_max.saturating_sub(self.memory_len);
        let client = self.client_mut(id)?;
        let Reading::Payload {
            remaining,
            large: Some(large),
            ..
        } = &mut client.reading
        else {
            return None;
        };
        if *remaining < ROOM_LEN_MIN || !client.inbox.is_empty() {
            return None;
        }
        reserve(large, *remaining, 0, memory_left).then_some(large)
    }

    /// Where the next bytes of this backend belong, if they are those of a large value or likely to begin one. As
    /// [`Self::client_room`].
    pub fn backend_room(&mut self, connection: ConnectionId) -> Option<&mut Vec<u8>> {
        let memory_left = self.memory_len_max.saturating_sub(self.memory_len);
        let backend = &self.backends[connection.backend.index()];
        if !backend.is_open(connection) || !backend.inbox.is_empty() {
            return None;
        }
        let Some(receiving) = &backend.receiving else {
            return self.room_for_expected(connection.backend, memory_left);
        };
        let (exchange, remaining) = (receiving.exchange, receiving.remaining);
        let elsewhere = receiving.discard || receiving.of_follower;
        let this = &mut self.exchanges[exchange];
        // A packet's value is not kept with its CR LF.
        if elsewhere || is_unwanted(this) || remaining < ROOM_LEN_MIN || this.asked.is_some() {
            return None;
        }
        reserve(&mut this.reply, remaining, BEHIND_LEN, memory_left).then_some(&mut this.reply)
    }

    /// The same where no value has begun: behind a large one the next is expected to be as long.
    fn room_for_expected(&mut self, id: BackendId, memory_left: u64) -> Option<&mut Vec<u8>> {
        let len = self.backends[id.index()].large_len;
        if len == 0 || (len + BEHIND_LEN) as u64 > memory_left {
            return None;
        }
        let exchange = self.next_fetched(id)?;
        let reply = &mut self.exchanges[exchange].reply;
        if !reply.is_empty() {
            return None;
        }
        if reply.capacity() < len {
            let small = std::mem::replace(reply, self.pool.take_large(len + BEHIND_LEN));
            self.pool.give(small);
        }
        Some(reply)
    }

    /// The next key of the oldest batch, if a value of it goes to its client as it comes.
    fn next_fetched(&self, id: BackendId) -> Option<ExchangeId> {
        let Some(Pending::Batch { keys, next }) = self.backends[id.index()].pipeline.front() else {
            return None;
        };
        let exchange = *keys.get(*next)?;
        is_plain_fetch(&self.exchanges[exchange], id).then_some(exchange)
    }

    /// What was read into [`Self::room_for_expected`] begins with the line of a large value of that key, which is
    /// received from now on; yields the bytes of the line.
    fn begin_expected(&mut self, id: BackendId, exchange: ExchangeId) -> Option<usize> {
        let this = &self.exchanges[exchange];
        let (line_len, value_len) = value_of(this.key(), &this.reply)?;
        let remaining = value_len as usize + b"\r\n".len();
        let fits = self.memory_len + remaining as u64 <= self.memory_len_max;
        if remaining < LARGE_LEN || !fits {
            return None;
        }
        let backend = &mut self.backends[id.index()];
        let Some(Pending::Batch { next, .. }) = backend.pipeline.front_mut() else {
            unreachable!("the caller looked at the oldest entry");
        };
        *next += 1;
        backend.large_len = line_len + remaining;
        backend.receiving = Some(Receiving {
            exchange,
            remaining,
            discard: false,
            last_byte: 0,
            of_batch: true,
            of_follower: false,
            stream: u64::from(value_len) >= self.limits.stream_len_min,
        });
        Some(line_len)
    }

    /// `count` bytes were read into [`Self::client_room`].
    pub(super) fn on_client_filled(&mut self, now: Time, id: ClientId, count: usize) {
        let mut behind = std::mem::take(&mut self.behind);
        let Some(client) = self.client_mut(id) else {
            return;
        };
        let Reading::Payload {
            remaining,
            large: Some(large),
            ..
        } = &mut client.reading
        else {
            unreachable!("room is lent for a large payload");
        };
        let taken = count.min(*remaining);
        cut_behind(large, count - taken, &mut behind);
        self.counters().add(Counter::BytesRead, count as u64);
        self.on_payload_bytes(now, id, taken);
        self.take_client_data(now, id, &behind);
        self.behind = behind;
    }

    /// `count` bytes were read into [`Self::backend_room`].
    pub(super) fn on_backend_filled(&mut self, now: Time, connection: ConnectionId, count: usize) {
        if !self.on_backend_bytes(now, connection, count) {
            return;
        }
        let id = connection.backend;
        let mut count = count;
        if self.backends[id.index()].receiving.is_none() {
            let Some(exchange) = self.next_fetched(id) else {
                unreachable!("room is lent for a value");
            };
            let Some(line_len) = self.begin_expected(id, exchange) else {
                let data = std::mem::take(&mut self.exchanges[exchange].reply);
                self.take_backend_data(now, id, &data);
                self.pool.give(data);
                return;
            };
            count -= line_len;
        }
        let Some(receiving) = &self.backends[id.index()].receiving else {
            unreachable!("room is lent for a value");
        };
        let taken = count.min(receiving.remaining);
        let reply = &mut self.exchanges[receiving.exchange].reply;
        let mut behind = std::mem::take(&mut self.behind);
        cut_behind(reply, count - taken, &mut behind);
        let last = [2, 1].map(|back| Some(reply[reply.len().checked_sub(back)?]));
        match self.on_value_bytes(now, id, taken, last) {
            Ok(()) => self.take_backend_data(now, id, &behind),
            Err(failure) => self.fail_backend(now, id, failure),
        }
        self.behind = behind;
    }
}

/// Moves the last `len` bytes of `buffer`, which are none of its payload.
fn cut_behind(buffer: &mut Vec<u8>, len: usize, behind: &mut Vec<u8>) {
    let end = buffer.len() - len;
    behind.clear();
    behind.extend_from_slice(&buffer[end..]);
    buffer.truncate(end);
}

/// Makes room for what is to come; `false` if there is no memory for it.
fn reserve(buffer: &mut Vec<u8>, remaining: usize, behind: usize, memory_left: u64) -> bool {
    let wanted = remaining.min(ROOM_LEN_MAX) + behind;
    let spare = buffer.capacity() - buffer.len();
    if wanted.max(spare) as u64 > memory_left {
        return false;
    }
    // What was reserved before and is nearly full is left as it is until the rest is worth a read.
    if spare < wanted.min(ROOM_LEN_MIN) {
        buffer.reserve(wanted);
    }
    buffer.capacity() > buffer.len()
}
