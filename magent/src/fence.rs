//! Can something that was sent to a backend before it went away still be executed?
//!
//! A memcached that was stopped executes, once it goes on, what is in its sockets' buffers, also if we have closed
//! them long ago. So a backend that is back is asked which connections it has (`stats conns`): as long as one of
//! ours that we have given up is among them, nothing else is done with it. This remembers which those are: by
//! their local address, which is what a memcached shows.
//!
//! # Invariants
//!
//! - While a backend is down nothing is forgotten: connections are given up, and none is made in their place.
//! - It leaves `Down` only after no worker and no healer has a connection to it any more, and then all are
//!   forgotten.
//! - At other times there is one connection for each [`Owner`], and at most one more per owner from before it was
//!   made again.
//! - Connections of the process before this one count until a fresh connection has not seen them.
//!
//! Not here: asking (`probe`), what follows from the answer (`magent_core::keeper`).

use std::net::SocketAddr;

use magent_core::heal::Role;
use magent_core::{BackendId, WorkerId};

/// Who has a connection to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A worker of this process.
    Worker(WorkerId),
    /// Its healer.
    Healer(Role),
    /// An earlier process of this proxy, as its state file says.
    Earlier,
}

/// What a probe looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LookFor {
    /// Nothing: no connection was given up.
    Nothing,
    /// Connections from these addresses.
    Addresses(Vec<SocketAddr>),
    /// Connections over a unix socket, which all look alike.
    Unknowable,
}

/// The connections to all backends. See the module's page.
#[derive(Debug)]
pub(crate) struct Fence {
    backends: Vec<Connections>,
}

#[derive(Debug, Clone, Default)]
struct Connections {
    down: bool,
    /// The address is missing for a unix socket.
    made: Vec<(Owner, Option<SocketAddr>)>,
}

impl Fence {
    /// Without any connection.
    pub(crate) fn new(backends: usize) -> Self {
        Self {
            backends: vec![Connections::default(); backends],
        }
    }

    /// Connections that an earlier process had.
    pub(crate) fn restore(&mut self, backend: BackendId, addresses: &[String]) {
        let this = &mut self.backends[backend.index()];
        for text in addresses {
            match text.parse() {
                Ok(address) => this.made.push((Owner::Earlier, Some(address))),
                Err(_) => this.made.push((Owner::Earlier, None)),
            }
        }
    }

    /// A connection is there, and nothing was sent on it.
    pub(crate) fn on_connected(
        &mut self,
        backend: BackendId,
        owner: Owner,
        local: Option<SocketAddr>,
    ) {
        let this = &mut self.backends[backend.index()];
        if !this.down {
            // The one before was lost with nothing unanswered: else the backend would be down.
            this.made.retain(|&(other, _)| other != owner);
        }
        this.made.push((owner, local));
    }

    /// The backend is down: all connections to it are given up.
    pub(crate) fn on_down(&mut self, backend: BackendId) {
        self.backends[backend.index()].down = true;
    }

    /// The backend is back, and has none of them any more.
    pub(crate) fn on_returned(&mut self, backend: BackendId) {
        self.backends[backend.index()] = Connections::default();
    }

    /// A probe did not find what it looked for.
    pub(crate) fn on_not_found(&mut self, backend: BackendId) {
        let this = &mut self.backends[backend.index()];
        if !this.down {
            this.made.retain(|&(owner, _)| owner != Owner::Earlier);
        }
    }

    /// What a probe that begins now looks for.
    pub(crate) fn look_for(&self, backend: BackendId) -> LookFor {
        let this = &self.backends[backend.index()];
        let given_up = |owner| this.down || owner == Owner::Earlier;
        let made = this.made.iter().filter(|&&(owner, _)| given_up(owner));
        let addresses: Option<Vec<SocketAddr>> = made.map(|&(_, address)| address).collect();
        match addresses {
            None => LookFor::Unknowable,
            Some(addresses) if addresses.is_empty() => LookFor::Nothing,
            Some(addresses) => LookFor::Addresses(addresses),
        }
    }

    /// For the state file: every connection that a later process has to look for.
    pub(crate) fn addresses(&self, backend: BackendId) -> Vec<String> {
        let made = self.backends[backend.index()].made.iter();
        made.map(|(_, address)| match address {
            Some(address) => address.to_string(),
            None => UNIX.to_owned(),
        })
        .collect()
    }
}

/// Stands for a connection over a unix socket. Anything that is no address would do.
const UNIX: &str = "unix";

#[cfg(test)]
mod tests {
    use super::*;

    const BACKEND: BackendId = BackendId(0);
    const WORKER: Owner = Owner::Worker(WorkerId(0));

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn looked_for(fence: &Fence) -> Vec<u16> {
        match fence.look_for(BACKEND) {
            LookFor::Nothing => Vec::new(),
            LookFor::Addresses(addresses) => addresses.iter().map(SocketAddr::port).collect(),
            LookFor::Unknowable => panic!("no unix socket here"),
        }
    }

    #[test]
    fn what_was_given_up_is_looked_for_until_the_backend_is_back() {
        let mut fence = Fence::new(1);
        fence.on_connected(BACKEND, WORKER, Some(address(1)));
        fence.on_connected(BACKEND, Owner::Worker(WorkerId(1)), Some(address(2)));
        // Lost while idle, and made again.
        fence.on_connected(BACKEND, WORKER, Some(address(3)));
        assert_eq!(looked_for(&fence), [] as [u16; 0]);
        fence.on_down(BACKEND);
        assert_eq!(looked_for(&fence), [2, 3]);
        // Made before that worker knew.
        fence.on_connected(BACKEND, WORKER, Some(address(4)));
        assert_eq!(looked_for(&fence), [2, 3, 4]);
        fence.on_returned(BACKEND);
        fence.on_connected(BACKEND, WORKER, Some(address(5)));
        fence.on_down(BACKEND);
        assert_eq!(looked_for(&fence), [5]);
    }

    #[test]
    fn connections_of_an_earlier_process_count_although_the_backend_is_up() {
        let mut before = Fence::new(1);
        before.on_connected(BACKEND, WORKER, Some(address(1)));
        let mut fence = Fence::new(1);
        fence.restore(BACKEND, &before.addresses(BACKEND));
        fence.on_connected(BACKEND, WORKER, Some(address(2)));
        assert_eq!(looked_for(&fence), [1]);
        fence.on_down(BACKEND);
        fence.on_not_found(BACKEND);
        assert_eq!(looked_for(&fence), [1, 2]);
        fence.on_returned(BACKEND);
        fence.restore(BACKEND, &before.addresses(BACKEND));
        fence.on_not_found(BACKEND);
        assert_eq!(looked_for(&fence), [] as [u16; 0]);
    }

    #[test]
    fn unix_sockets_all_look_alike() {
        let mut before = Fence::new(1);
        before.on_connected(BACKEND, Owner::Healer(Role::Copy), None);
        assert_eq!(before.look_for(BACKEND), LookFor::Nothing);
        before.on_down(BACKEND);
        assert_eq!(before.look_for(BACKEND), LookFor::Unknowable);
        let mut fence = Fence::new(1);
        fence.restore(BACKEND, &before.addresses(BACKEND));
        assert_eq!(fence.look_for(BACKEND), LookFor::Unknowable);
    }
}
