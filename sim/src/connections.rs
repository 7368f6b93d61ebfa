//! Connections of a proxy to backends, whoever of it has them: workers, the healer, probes.
//!
//! # Invariants
//!
//! - A connection that a proxy closes is closed abortively: what has not arrived may be lost. What the backend
//!   had not read is executed all the same when it goes on, and until then `stats conns` lists the connection.
//! - A proxy knows its end of every connection that it has closed ([`crate::proxy::Proxy::given_up`]).
//!
//! Not here: when they are made and closed (`magent-core`), what arrives over them (`sockets`, `control`).

use std::net::SocketAddr;

use magent_core::BackendId;
use magent_core::engine::{ConnectionId, Input};
use magent_core::heal::HealConnection;
use magent_core::keeper::Failure;

use crate::memcached::Process;
use crate::network::{Closed, End, Handle, Link, LinkId, Peer};
use crate::world::{Event, World};

/// Who wants a connection to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    Worker(usize, ConnectionId),
    Healer(HealConnection),
    /// A probe, by its number.
    Probe(BackendId, u64),
}

impl Caller {
    pub(crate) const fn backend(self) -> BackendId {
        match self {
            Self::Worker(_, connection) => connection.backend,
            Self::Healer(connection) => connection.backend,
            Self::Probe(backend, _) => backend,
        }
    }

    const fn handle(self) -> Handle {
        match self {
            Self::Worker(_, connection) => Handle::Backend(connection),
            Self::Healer(connection) => Handle::Heal(connection),
            Self::Probe(_, number) => Handle::Probe(number),
        }
    }
}

impl World {
    /// Somebody wants a connection.
    pub(crate) fn call(&mut self, proxy: usize, caller: Caller) {
        let backend = caller.backend().index();
        let slot = self.proxies[proxy].slot;
        let refused_at_once = self.backends[backend].process == Process::Dead
            && self.backends[backend].is_reached_by(slot)
            && self.rng.chance(20);
        if let (Caller::Worker(worker, connection), true) = (caller, refused_at_once) {
            self.feed(
                proxy,
                worker,
                Input::BackendLost(connection, Failure::Refused),
            );
            return;
        }
        let latency = self.latency_us();
        self.after_us(latency, Event::Call { proxy, caller });
    }

    fn is_wanted(&self, proxy: usize, caller: Caller) -> bool {
        let this = &self.proxies[proxy];
        if this.dead {
            return false;
        }
        match caller {
            Caller::Worker(worker, connection) => {
                let slot = this.workers[worker].backends[connection.backend.index()];
                slot == Some((connection, None))
            }
            Caller::Healer(connection) => this
                .heal_links
                .get(&connection)
                .is_some_and(|heal| heal.link.is_none()),
            Caller::Probe(backend, number) => this.probes[backend.index()]
                .as_ref()
                .is_some_and(|probe| probe.number == number),
        }
    }

    /// The request for a connection reaches the backend's host.
    pub(crate) fn on_call(&mut self, proxy: usize, caller: Caller) {
        if !self.is_wanted(proxy, caller) {
            return;
        }
        let index = caller.backend().index();
        let backend = &self.backends[index];
        if !backend.is_reached_by(self.proxies[proxy].slot) {
            // The kernel tries again.
            const RETRY_US: u64 = 30_000;
            self.after_us(RETRY_US, Event::Call { proxy, caller });
            return;
        }
        let result = if backend.process == Process::Dead || backend.refuses {
            Err(Failure::Refused)
        } else {
            Ok(self.accept(proxy, caller))
        };
        let latency = self.latency_us();
        self.after_us(
            latency,
            Event::Called {
                proxy,
                caller,
                result,
            },
        );
    }

    /// The backend's kernel accepts a connection.
    fn accept(&mut self, proxy: usize, caller: Caller) -> LinkId {
        let index = caller.backend().index();
        let room = self.rng.pick(&[2_048, 16_384, 65_536]);
        let worker = match caller {
            Caller::Worker(worker, _) => worker,
            Caller::Healer(_) | Caller::Probe(..) => 0,
        };
        let peer = Peer::Backend(index);
        let mut link = Link::new((proxy, worker), peer, caller.handle(), usize::MAX, room);
        let number = self.links.len();
        let port = u16::try_from(1_024 + number % 60_000).expect("below 65,536");
        let net = u8::try_from(number / 60_000).expect("runs are short");
        link.local = SocketAddr::from(([10, 9, net, 1], port));
        // Behind a translator of addresses the backend sees another one.
        let seen = if self.options.nat {
            SocketAddr::from(([10, 8, net, 1], port))
        } else {
            link.local
        };
        let id = self.add_link(link);
        self.backends[index].open(self.now, id, seen);
        id
    }

    /// The caller hears of it.
    pub(crate) fn on_called(
        &mut self,
        proxy: usize,
        caller: Caller,
        result: Result<LinkId, Failure>,
    ) {
        if self.proxies[proxy].dead {
            if let Ok(link) = result {
                self.bury_end(link);
            }
            return;
        }
        match caller {
            Caller::Worker(worker, connection) => {
                self.proxies[proxy].workers[worker]
                    .connected
                    .push((connection, result));
                self.wake_worker_soon(proxy, worker);
            }
            Caller::Healer(connection) => self.on_heal_called(proxy, connection, result),
            Caller::Probe(backend, number) => self.on_probe_called(proxy, backend, number, result),
        }
    }

    pub(crate) fn on_connected(
        &mut self,
        proxy: usize,
        worker: usize,
        connection: ConnectionId,
        result: Result<LinkId, Failure>,
    ) {
        let slot = &mut self.proxies[proxy].workers[worker].backends[connection.backend.index()];
        if *slot != Some((connection, None)) {
            // It was given up meanwhile.
            if let Ok(link) = result {
                self.abandon_link(link);
            }
            return;
        }
        match result {
            Ok(link) => {
                *slot = Some((connection, Some(link)));
                self.feed(proxy, worker, Input::BackendConnected(connection));
                // It may have been reset by now.
                self.on_ready(proxy, worker, link);
            }
            Err(failure) => {
                *slot = None;
                self.feed(proxy, worker, Input::BackendLost(connection, failure));
            }
        }
    }

    pub(crate) fn disconnect(&mut self, proxy: usize, worker: usize, connection: ConnectionId) {
        let slot = &mut self.proxies[proxy].workers[worker].backends[connection.backend.index()];
        if let Some((_, link)) = slot.take_if(|(asked, _)| *asked == connection)
            && let Some(link) = link
        {
            self.abandon_link(link);
        }
    }

    /// The proxy closes its end of a connection to a backend, abortively.
    pub(crate) fn abandon_link(&mut self, id: LinkId) {
        let link = &mut self.links[id.index()];
        link.proxy_open = false;
        link.to_proxy.readable.clear();
        let Peer::Backend(backend) = link.peer else {
            return;
        };
        let (proxy, local) = (link.proxy, link.local);
        self.proxies[proxy].given_up[backend].insert(local);
        self.abort(id);
    }

    /// Of what is under way to the peer some arrives, then a reset; which can get lost, too.
    pub(crate) fn abort(&mut self, id: LinkId) {
        let link = &self.links[id.index()];
        let packets = link.to_peer.packets();
        let kept = self.rng.below(packets as u64 + 1);
        let reset_is_lost = link.cut && self.rng.chance(50);
        let at = magent_core::Time(self.now.0 + self.latency_us() * 1_000);
        let pipe = &mut self.links[id.index()].to_peer;
        if reset_is_lost {
            // Nothing reaches the peer any more: it keeps its end until it says something.
            pipe.lose();
            return;
        }
        let kept = usize::try_from(kept).expect("few packets");
        let at = pipe.abort(kept, at);
        self.at(
            at,
            Event::Deliver {
                link: id,
                toward: End::Peer,
            },
        );
    }

    /// A killed process: its kernel closes its connections, mostly in order.
    pub(crate) fn bury_end(&mut self, id: LinkId) {
        self.links[id.index()].proxy_open = false;
        if self.rng.chance(30) {
            self.abort(id);
        } else {
            self.close_direction(id, End::Peer, Closed::Fin);
        }
    }
}
