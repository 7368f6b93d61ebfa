//! A key and its lock, `S` and `S.lock`: one client's requests for the two keep their order.
//!
//! One memcached does what a connection asks for in order, and pecl-memcache's session handler relies on it: it
//! asks for the lock and the data of a session in one packet (`incr S.lock`, `add S.lock`, `get S`), and writes
//! the data and gives up the lock in another (`set S`, `set S.lock`). It sends both to the server of `S` for that
//! reason. Behind the proxy the two keys may be on two servers. Sent at once, the data could be read before the
//! lock is taken, or the lock given up before the data is written, and a page view would be lost.
//!
//! # Invariants
//!
//! - A request for `S` is not begun while one of the same client for `S.lock` is not answered, nor the reverse.
//! - A client that asks for no `.lock` key pays for one comparison per pipelined request.
//!
//! Not here: where the two keys are (`scheme`'s lock keys), the order of requests for one key (`locks`).

use super::{ClientId, Engine};
use crate::proto::Request;
use crate::proto::binary::Packet;

/// What a lock's key has behind that of the data.
const LOCK: &[u8] = b".lock";

impl Engine {
    /// Whether this request of a client comes behind one that is not answered. Then the client is held back.
    pub(super) fn request_waits_for_lock(&mut self, id: ClientId, request: &Request<'_>) -> bool {
        match *request {
            Request::Get { mut keys, .. } | Request::GetAndTouch { mut keys, .. } => {
                let client = &self.clients[id.index as usize];
                let concerned = client.asked_for_lock && !client.queue.is_empty()
                    || memchr::memmem::find(keys.0, LOCK).is_some();
                concerned && keys.any(|key| self.waits_for_lock(id, key))
            }
            Request::Store(store) => self.waits_for_lock(id, store.key),
            Request::Delete { key, .. }
            | Request::Arith { key, .. }
            | Request::Touch { key, .. } => self.waits_for_lock(id, key),
            Request::Meta(meta) => self.waits_for_lock(id, meta.key),
            Request::FlushAll { .. }
            | Request::Config { .. }
            | Request::Version
            | Request::Verbosity { .. }
            | Request::Stats { .. }
            | Request::Quit
            | Request::MetaNoop => false,
        }
    }

    /// The same of a packet.
    pub(super) fn packet_waits_for_lock(&mut self, id: ClientId, packet: &Packet<'_>) -> bool {
        self.waits_for_lock(id, packet.key)
    }

    fn waits_for_lock(&mut self, id: ClientId, key: &[u8]) -> bool {
        let Self {
            clients, exchanges, ..
        } = self;
        let client = &mut clients[id.index as usize];
        let data_key = key.strip_suffix(LOCK);
        if client.queue.is_empty() {
            client.asked_for_lock = data_key.is_some();
            return false;
        }
        let is_before = |other: &[u8]| match data_key {
            Some(data_key) => other == data_key,
            None => other.strip_suffix(LOCK) == Some(key),
        };
        client.asked_for_lock |= data_key.is_some();
        let waits = client.asked_for_lock
            && client
                .queue
                .iter()
                .map(|&exchange| &exchanges[exchange])
                .any(|exchange| {
                    let own_key = exchange.key().get(usize::from(exchange.prefix_len)..);
                    !exchange.done && own_key.is_some_and(is_before)
                });
        client.held_back |= waits;
        waits
    }
}
