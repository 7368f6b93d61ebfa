//! Connections as TCP gives them: bytes in order, after a while, in any cutting, or never.
//!
//! # Invariants
//!
//! - Bytes of one direction never overtake each other, and nothing comes after an end.
//! - A [`Pipe`] takes at most its capacity: what was sent and not yet read counts.
//!
//! Not here: who sends what and when (`proxy`, `memcached`, `client`).

use std::collections::VecDeque;
use std::net::SocketAddr;

use magent_core::Time;
use magent_core::engine::{ClientId, ConnectionId};
use magent_core::heal::HealConnection;

/// A connection, counted from 0 in the order of their beginnings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(pub u32);

impl LinkId {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One of the two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// The worker of a proxy.
    Proxy,
    /// The client or the memcached.
    Peer,
}

/// How a direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Orderly: everything before it has arrived.
    Fin,
    /// Reset: what was under way may be lost.
    Reset,
}

#[derive(Debug)]
enum Packet {
    Data(Vec<u8>),
    Closed(Closed),
}

impl Packet {
    const fn len(&self) -> usize {
        match self {
            Self::Data(bytes) => bytes.len(),
            Self::Closed(_) => 0,
        }
    }
}

/// One direction of a connection.
#[derive(Debug)]
pub(crate) struct Pipe {
    in_flight: VecDeque<(Time, Packet)>,
    in_flight_len: usize,
    /// What has arrived and was not read.
    pub(crate) readable: Vec<u8>,
    /// The end, once it has arrived.
    pub(crate) closed: Option<Closed>,
    /// Whether an end was sent.
    ended: bool,
    capacity: usize,
    last_at: Time,
}

impl Pipe {
    fn new(capacity: usize) -> Self {
        Self {
            in_flight: VecDeque::new(),
            in_flight_len: 0,
            readable: Vec::new(),
            closed: None,
            ended: false,
            capacity,
            last_at: Time(0),
        }
    }

    /// Bytes that it takes at the moment.
    pub(crate) fn room(&self) -> usize {
        self.capacity
            .saturating_sub(self.in_flight_len + self.readable.len())
    }

    /// Sends `bytes`, to arrive at `at` or when what was sent before has; yields when.
    pub(crate) fn send(&mut self, bytes: Vec<u8>, at: Time) -> Time {
        let at = at.max(self.last_at);
        self.last_at = at;
        if !self.ended {
            self.in_flight_len += bytes.len();
            self.in_flight.push_back((at, Packet::Data(bytes)));
        }
        at
    }

    /// Ends the direction behind what was sent; a reset also loses what has not arrived.
    pub(crate) fn close(&mut self, closed: Closed, at: Time) -> Time {
        if closed == Closed::Reset {
            self.in_flight.clear();
            self.in_flight_len = 0;
            self.ended = false;
        }
        let at = if closed == Closed::Reset {
            at
        } else {
            at.max(self.last_at)
        };
        self.last_at = at;
        if !self.ended {
            self.ended = true;
            self.in_flight.push_back((at, Packet::Closed(closed)));
        }
        at
    }

    /// Ends the direction abortively: of the packets under way the first `kept` still arrive, then a reset. The
    /// rest is lost, and so is what has not left.
    pub(crate) fn abort(&mut self, kept: usize, at: Time) -> Time {
        self.in_flight.truncate(kept);
        let data = self.in_flight.iter().map(|(_, packet)| packet.len());
        self.in_flight_len = data.sum();
        self.ended = false;
        self.last_at = self.in_flight.back().map_or(at, |&(last, _)| last);
        self.close(Closed::Fin, at.max(self.last_at));
        if let Some((_, packet)) = self.in_flight.back_mut() {
            *packet = Packet::Closed(Closed::Reset);
        }
        self.last_at
    }

    /// Forgets what is under way.
    pub(crate) fn lose(&mut self) {
        self.in_flight.clear();
        self.in_flight_len = 0;
        self.ended = true;
    }

    /// Packets under way.
    pub(crate) fn packets(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether something arrived: what was due by `now`.
    pub(crate) fn deliver(&mut self, now: Time) -> bool {
        let mut arrived = false;
        while self.in_flight.front().is_some_and(|&(at, _)| at <= now) {
            match self.in_flight.pop_front() {
                Some((_, Packet::Data(bytes))) => {
                    self.in_flight_len -= bytes.len();
                    if self.readable.is_empty() {
                        self.readable = bytes;
                    } else {
                        self.readable.extend_from_slice(&bytes);
                    }
                }
                Some((_, Packet::Closed(closed))) => self.closed = Some(closed),
                None => {}
            }
            arrived = true;
        }
        arrived
    }

    /// Whether anything is still on its way.
    pub(crate) fn is_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }
}

/// What a connection leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Client(usize),
    Backend(usize),
}

/// What a proxy knows a connection by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handle {
    /// A client that is not accepted yet.
    Unaccepted,
    Client(ClientId),
    Backend(ConnectionId),
    Heal(HealConnection),
    /// A probe, by its number.
    Probe(u64),
}

/// A connection between a proxy and a client or a backend.
#[derive(Debug)]
pub(crate) struct Link {
    pub proxy: usize,
    /// Of those that a worker has; else 0.
    pub worker: usize,
    pub peer: Peer,
    pub handle: Handle,
    /// The proxy's end, as the peer sees it.
    pub local: SocketAddr,
    pub to_proxy: Pipe,
    pub to_peer: Pipe,
    /// Whether the worker still has its socket.
    pub proxy_open: bool,
    /// Whether the peer still has its socket.
    pub peer_open: bool,
    /// Nothing passes while it is cut.
    pub cut: bool,
    /// Whether the worker's loop will look at it.
    pub proxy_ready: bool,
    /// Whether the worker waits for room to write.
    pub proxy_blocked: bool,
    /// Whether an event for the peer's end is scheduled.
    pub peer_scheduled: bool,
    /// Whether the worker was told of the peer's end.
    pub end_told: bool,
}

impl Link {
    pub(crate) fn new(
        (proxy, worker): (usize, usize),
        peer: Peer,
        handle: Handle,
        to_proxy_capacity: usize,
        to_peer_capacity: usize,
    ) -> Self {
        Self {
            proxy,
            worker,
            peer,
            handle,
            local: SocketAddr::from(([0, 0, 0, 0], 0)),
            to_proxy: Pipe::new(to_proxy_capacity),
            to_peer: Pipe::new(to_peer_capacity),
            proxy_open: true,
            peer_open: true,
            cut: false,
            proxy_ready: false,
            proxy_blocked: false,
            peer_scheduled: false,
            end_told: false,
        }
    }

    pub(crate) fn toward(&mut self, end: End) -> &mut Pipe {
        match end {
            End::Proxy => &mut self.to_proxy,
            End::Peer => &mut self.to_peer,
        }
    }
}
