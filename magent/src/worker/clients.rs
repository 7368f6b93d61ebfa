//! Clients' sockets: read once a turn, written once at its end.
//!
//! Not here: how they come in (`accept`), what their requests do (`magent_core::engine`).

use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use magent_core::Time;
use magent_core::auth::Credentials;
use magent_core::engine::{ClientId, Input};
use mio::event::Event;

use super::stream::{Received, Stream};
use super::trouble::{TLS_HELLO, Trouble};
use super::{HEAD_LEN, READ_LEN, SLICES, Worker};

/// A connected client.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not exclude each other"
)]
pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) stream: Stream,
    /// Where it comes from, for the log; none for a unix socket.
    pub(super) peer: Option<SocketAddr>,
    /// Whether it has said anything yet.
    pub(super) spoke: bool,
    /// Whether the kernel takes no more bytes at the moment.
    pub(super) blocked: bool,
    /// Whether there may be bytes to read.
    pub(super) readable: bool,
    /// Whether the kernel has said that its end follows: no other edge will, so it is read until then.
    pub(super) ending: bool,
}

impl Client {
    pub(super) fn new(id: ClientId, stream: Stream, peer: Option<SocketAddr>) -> Self {
        Self {
            id,
            stream,
            peer,
            spoke: false,
            blocked: false,
            readable: false,
            ending: false,
        }
    }
}

/// Told to whoever speaks TLS where it is not spoken. Its library calls that a wrong version number.
const NO_TLS: &[u8] = b"ERROR this port is without TLS\r\n";

impl Worker {
    pub(super) fn client_mut(&mut self, id: ClientId) -> Option<&mut Client> {
        self.clients
            .get_mut(id.index as usize)?
            .as_mut()
            .filter(|client| client.id == id)
    }

    pub(super) fn on_client_event(&mut self, now: Time, index: usize, event: &Event) {
        let Some(Some(client)) = self.clients.get_mut(index) else {
            return;
        };
        let id = client.id;
        client.ending |= event.is_read_closed() || event.is_error();
        if event.is_writable() && std::mem::take(&mut client.blocked) {
            self.write_client(now, id);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read_client(now, id);
        }
    }

    /// Reads once, or a little first where a large payload is expected: that goes to its place then.
    pub(super) fn read_client(&mut self, now: Time, id: ClientId) {
        let begins = self.engine.client_is_large(id) && self.engine.client_room(id).is_none();
        let len_max = if begins { HEAD_LEN } else { READ_LEN };
        let mut more = self.read_client_once(now, id, len_max);
        if more && begins {
            more = self.read_client_once(now, id, READ_LEN);
        }
        if more {
            self.clients_again.push(id);
        }
    }

    /// Whether there may be more that no edge will tell of.
    fn read_client_once(&mut self, now: Time, id: ClientId, len_max: usize) -> bool {
        let wanted = self.engine.wants_client_data(id);
        let Some(Some(client)) = self.clients.get_mut(id.index as usize) else {
            return false;
        };
        if client.id != id {
            return false;
        }
        client.readable = true;
        if !wanted {
            // `Output::ReadClient` says when.
            return false;
        }
        let room = self.engine.client_room(id);
        let room = room.filter(|_| client.stream.is_plain());
        let direct = room.is_some();
        let Received { len, more } = match client.stream.read(room, &mut self.buffers, len_max) {
            Ok(received) => received,
            Err(err) if err.kind() == ErrorKind::WouldBlock => {
                client.readable = false;
                return false;
            }
            Err(err) if err.kind() == ErrorKind::Interrupted => return true,
            Err(_) => {
                self.feed(now, Input::ClientLost(id));
                return false;
            }
        };
        client.readable = len > 0 && (more || client.ending);
        let again = client.readable;
        if len == 0 {
            self.feed(now, Input::ClientEnd(id));
        } else if direct {
            self.feed(now, Input::ClientFilled(id, len));
        } else if !std::mem::replace(&mut client.spoke, true)
            && self.buffers.plain[..len].starts_with(TLS_HELLO)
        {
            self.refuse_tls(now, id);
            return false;
        } else {
            self.fed = true;
            self.engine
                .handle(now, Input::ClientData(id, &self.buffers.plain[..len]));
        }
        again
    }

    /// It began with a TLS handshake, on a port without.
    fn refuse_tls(&mut self, now: Time, id: ClientId) {
        if let Some(client) = self.client_mut(id) {
            let peer = client.peer;
            // If it does not take it, there is nobody to tell.
            drop(client.stream.write(NO_TLS));
            self.complain(now, peer, Trouble::TlsOnPlain, "");
        }
        self.feed(now, Input::ClientLost(id));
    }

    /// Has a password checked, by other threads if that takes long.
    pub(super) fn check(&mut self, now: Time, id: ClientId, credentials: Credentials) {
        let peer = self.client_mut(id).and_then(|client| client.peer);
        let peer = peer.map(|address| address.ip());
        let common = &self.common;
        let own = common
            .workers
            .get()
            .and_then(|all| all.get(self.id.index()));
        let checked = match (&common.verifier, own) {
            (Some(verifier), Some(own)) => verifier.check(credentials, peer, own, id),
            _ => unreachable!("the engine asks where there are users, and after the start"),
        };
        if let Some(checked) = checked {
            self.feed(now, Input::Checked(id, &checked));
        }
    }

    pub(super) fn write_client(&mut self, now: Time, id: ClientId) {
        loop {
            let Some(Some(client)) = self.clients.get_mut(id.index as usize) else {
                return;
            };
            if client.id != id || client.blocked {
                return;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.engine.client_slices(id, &mut slices);
            if count == 0 {
                match client.stream.flush() {
                    Ok(()) => {}
                    Err(err) if err.kind() == ErrorKind::WouldBlock => client.blocked = true,
                    Err(_) => self.feed(now, Input::ClientLost(id)),
                }
                return;
            }
            match client.stream.write_vectored(&slices[..count]) {
                Ok(len) => self.engine.client_sent(id, len),
                Err(err) if err.kind() == ErrorKind::WouldBlock => client.blocked = true,
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.feed(now, Input::ClientLost(id));
                    return;
                }
            }
        }
    }

    pub(super) fn close_client(&mut self, now: Time, id: ClientId) {
        let Some(slot) = self.clients.get_mut(id.index as usize) else {
            return;
        };
        if let Some(client) = slot.take_if(|client| client.id == id) {
            if client.stream.has_unsent() {
                self.see_off(now, client);
            } else {
                client.stream.close(&mut self.buffers);
                self.common.clients_open.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
