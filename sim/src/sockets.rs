//! A worker's sockets: one read of each that is ready, writes that are taken in part.
//!
//! Not here: when a turn happens (`proxy`), how bytes travel (`network`).

use std::io::IoSlice;

use magent_core::engine::{ClientId, ConnectionId, Input};
use magent_core::keeper::Failure;

use crate::network::{Closed, End, Handle, LinkId};
use crate::options::Chunks;
use crate::world::World;

impl World {
    // -- Reading and writing --

    pub(crate) fn on_ready(&mut self, proxy: usize, worker: usize, id: LinkId) {
        self.links[id.index()].proxy_ready = false;
        if !self.links[id.index()].proxy_open {
            return;
        }
        match self.links[id.index()].handle {
            Handle::Unaccepted => {
                let client = self.proxies[proxy].workers[worker].engine.open_client();
                self.proxies[proxy].workers[worker].fed = true;
                let clients = &mut self.proxies[proxy].workers[worker].clients;
                let index = client.index as usize;
                if clients.len() <= index {
                    clients.resize(index + 1, None);
                }
                assert!(
                    clients[index].is_none(),
                    "a client's place is free when it is given away"
                );
                clients[index] = Some(id);
                self.links[id.index()].handle = Handle::Client(client);
                self.read_client(proxy, worker, id, client);
            }
            Handle::Client(client) => {
                self.links[id.index()].proxy_blocked = false;
                self.write_client(id, client);
                self.read_client(proxy, worker, id, client);
            }
            Handle::Backend(connection) => {
                let open = self.proxies[proxy].workers[worker].backends[connection.backend.index()]
                    == Some((connection, Some(id)));
                if open {
                    self.links[id.index()].proxy_blocked = false;
                    self.write_backend(id, connection);
                    self.read_backend(proxy, worker, id, connection);
                }
            }
            Handle::Heal(_) | Handle::Probe(_) => unreachable!("those are the control thread's"),
        }
    }

    /// How much one read takes of what is there.
    pub(crate) fn read_len(&mut self, available: usize) -> usize {
        const READ_LEN_MAX: usize = 64 * 1024;
        match self.options.chunks {
            Chunks::Whole => available.min(READ_LEN_MAX),
            Chunks::Parts if self.rng.chance(50) => available.min(READ_LEN_MAX),
            Chunks::Parts => self.rng.len_between(1, available),
            Chunks::Bytes if available <= 64 => 1,
            Chunks::Bytes => self.rng.len_between(1, available / 8),
        }
    }

    pub(crate) fn take_readable(&mut self, id: LinkId) -> Vec<u8> {
        let available = self.links[id.index()].to_proxy.readable.len();
        let len = self.read_len(available);
        let pipe = &mut self.links[id.index()].to_proxy;
        if len == available {
            std::mem::take(&mut pipe.readable)
        } else {
            pipe.readable.drain(..len).collect()
        }
    }

    pub(crate) fn read_client(
        &mut self,
        proxy: usize,
        worker: usize,
        id: LinkId,
        client: ClientId,
    ) {
        if !self.proxies[proxy].workers[worker]
            .engine
            .wants_client_data(client)
        {
            // `Output::ReadClient` says when.
            return;
        }
        let pipe = &self.links[id.index()].to_proxy;
        if pipe.closed == Some(Closed::Reset) {
            self.feed(proxy, worker, Input::ClientLost(client));
        } else if !pipe.readable.is_empty() {
            let bytes = self.take_readable(id);
            let engine = &mut self.proxies[proxy].workers[worker].engine;
            let taken = engine
                .client_room(client)
                .map_or(0, |room| fill(room, &bytes));
            if taken > 0 {
                self.feed(proxy, worker, Input::ClientFilled(client, taken));
            }
            if taken < bytes.len() {
                self.feed(proxy, worker, Input::ClientData(client, &bytes[taken..]));
            }
            let pipe = &self.links[id.index()].to_proxy;
            if !pipe.readable.is_empty() || pipe.closed.is_some() {
                self.ready(id);
            }
        } else if pipe.closed.is_some() && !self.links[id.index()].end_told {
            self.links[id.index()].end_told = true;
            self.feed(proxy, worker, Input::ClientEnd(client));
        }
    }

    pub(crate) fn read_backend(
        &mut self,
        proxy: usize,
        worker: usize,
        id: LinkId,
        connection: ConnectionId,
    ) {
        let pipe = &self.links[id.index()].to_proxy;
        if !pipe.readable.is_empty() {
            let bytes = self.take_readable(id);
            let engine = &mut self.proxies[proxy].workers[worker].engine;
            let room = engine.backend_room(connection);
            let taken = room.map_or(0, |room| fill(room, &bytes));
            if taken > 0 {
                self.feed(proxy, worker, Input::BackendFilled(connection, taken));
            }
            if taken < bytes.len() {
                self.feed(
                    proxy,
                    worker,
                    Input::BackendData(connection, &bytes[taken..]),
                );
            }
            let pipe = &self.links[id.index()].to_proxy;
            if !pipe.readable.is_empty() || pipe.closed.is_some() {
                self.ready(id);
            }
        } else if pipe.closed.is_some() {
            let slot =
                &mut self.proxies[proxy].workers[worker].backends[connection.backend.index()];
            *slot = None;
            self.abandon_link(id);
            self.feed(
                proxy,
                worker,
                Input::BackendLost(connection, Failure::Reset),
            );
        }
    }

    /// How many pieces a write has, and how many bytes the kernel takes of them.
    pub(crate) fn write_len(&mut self, id: LinkId) -> (usize, usize) {
        let slices = self.rng.len_between(1, SLICES);
        let room = self.links[id.index()].to_peer.room();
        let short = self.options.chunks != Chunks::Whole && room > 0 && self.rng.chance(20);
        let len_max = if short {
            self.rng.len_between(1, room.min(100))
        } else {
            room
        };
        (slices, len_max)
    }

    pub(crate) fn write_client(&mut self, id: LinkId, client: ClientId) {
        while self.links[id.index()].proxy_open && !self.links[id.index()].proxy_blocked {
            let (proxy, worker) = (self.links[id.index()].proxy, self.links[id.index()].worker);
            let (slices, len_max) = self.write_len(id);
            let engine = &self.proxies[proxy].workers[worker].engine;
            let bytes = match taken(slices, len_max, |into| engine.client_slices(client, into)) {
                Taken::Nothing => return,
                Taken::NoRoom => {
                    self.links[id.index()].proxy_blocked = true;
                    return;
                }
                Taken::Bytes(bytes) => bytes,
            };
            let engine = &mut self.proxies[proxy].workers[worker].engine;
            engine.client_sent(client, bytes.len());
            self.send(id, End::Peer, &bytes);
        }
    }

    pub(crate) fn write_backend(&mut self, id: LinkId, connection: ConnectionId) {
        while self.links[id.index()].proxy_open && !self.links[id.index()].proxy_blocked {
            let (proxy, worker) = (self.links[id.index()].proxy, self.links[id.index()].worker);
            let (slices, len_max) = self.write_len(id);
            let engine = &self.proxies[proxy].workers[worker].engine;
            let bytes = match taken(slices, len_max, |into| {
                engine.backend_slices(connection, into)
            }) {
                Taken::Nothing => return,
                Taken::NoRoom => {
                    self.links[id.index()].proxy_blocked = true;
                    return;
                }
                Taken::Bytes(bytes) => bytes,
            };
            let now = self.now;
            let engine = &mut self.proxies[proxy].workers[worker].engine;
            engine.backend_sent(now, connection, bytes.len());
            self.send(id, End::Peer, &bytes);
        }
    }
}

/// What the kernel took of what was to be written.
enum Taken {
    Nothing,
    NoRoom,
    Bytes(Vec<u8>),
}

/// Takes at most `len_max` bytes out of at most `count` pieces.
fn taken<'a>(
    count: usize,
    len_max: usize,
    fill: impl FnOnce(&mut [IoSlice<'a>]) -> usize,
) -> Taken {
    let mut slices = [IoSlice::new(&[]); SLICES];
    let filled = fill(&mut slices[..count]);
    if filled == 0 {
        return Taken::Nothing;
    }
    let mut bytes = Vec::new();
    for slice in &slices[..filled] {
        let len = slice.len().min(len_max - bytes.len());
        bytes.extend_from_slice(&slice[..len]);
    }
    if bytes.is_empty() {
        Taken::NoRoom
    } else {
        Taken::Bytes(bytes)
    }
}

/// Pieces of one vectored write.
const SLICES: usize = 4;

/// Reads into the spare capacity of `room`, as far as it goes; yields how many bytes.
fn fill(room: &mut Vec<u8>, bytes: &[u8]) -> usize {
    let count = bytes.len().min(room.capacity() - room.len());
    room.extend_from_slice(&bytes[..count]);
    count
}
