//! A TCP relay before a backend, to cut.
//!
//! ```text
//! magent ── link ──> relay ── link ──> memcached
//! ```
//!
//! # Invariants
//!
//! - A cut drops what is under way, it does not delay it: the backend's side of each link is closed at
//!   once, so nothing sent before the cut arrives after it.
//! - What is held back arrives in full and in order once it is let go, however long after, whether or not the
//!   proxy has closed the connection: as from a backend's socket buffers that is slow to go on.
//! - The proxy's side of a cut link stays open and silent until the path is whole again, and is then
//!   closed, as by a firewall that no longer knows the connection.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use super::Endpoint;
use super::endpoint::free_endpoint;

/// What the path between proxy and backend is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// Bytes pass.
    Whole,
    /// Nothing passes and nobody is told: connections open, all is silent.
    Cut,
}

/// The relay; ends with its owner.
#[derive(Debug)]
pub(crate) struct Relay {
    /// What the proxy is given in place of the backend.
    pub(crate) endpoint: Endpoint,
    shared: Arc<Mutex<Shared>>,
    let_go: Arc<Condvar>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    path: Path,
    closing: bool,
    links: Vec<Link>,
    /// Links below this number are held back.
    held_below: usize,
    link_count: usize,
    /// What clients of the relay sent, for tests that look at the wire.
    recorded: Vec<u8>,
}

#[derive(Debug)]
struct Link {
    proxy_side: TcpStream,
    /// `None` once cut.
    backend_side: Option<TcpStream>,
}

impl Relay {
    /// Before `backend`.
    pub(crate) fn start(backend: &Endpoint) -> Self {
        let endpoint = free_endpoint();
        let listener = TcpListener::bind(endpoint.tcp()).unwrap();
        let shared = Arc::new(Mutex::new(Shared {
            path: Path::Whole,
            closing: false,
            links: Vec::new(),
            held_below: 0,
            link_count: 0,
            recorded: Vec::new(),
        }));
        let let_go = Arc::new(Condvar::new());
        let backend = backend.tcp();
        let acceptor = {
            let (shared, let_go) = (Arc::clone(&shared), Arc::clone(&let_go));
            std::thread::spawn(move || {
                for proxy_side in listener.incoming() {
                    if !Shared::accept(&shared, &let_go, proxy_side.unwrap(), backend) {
                        return;
                    }
                }
            })
        };
        Self {
            endpoint,
            shared,
            let_go,
            acceptor: Some(acceptor),
        }
    }

    /// Cuts the path, or makes it whole again.
    pub(crate) fn set_path(&self, path: Path) {
        let mut shared = self.shared.lock().unwrap();
        shared.path = path;
        for link in &mut shared.links {
            match (path, &link.backend_side) {
                (Path::Cut, Some(backend_side)) => {
                    close(backend_side);
                    link.backend_side = None;
                }
                (Path::Whole, None) => close(&link.proxy_side),
                (Path::Cut, None) | (Path::Whole, Some(_)) => {}
            }
        }
    }

    /// Holds back what is sent to the backend on the connections there are; new ones pass.
    pub(crate) fn hold_back(&self) {
        let mut shared = self.shared.lock().unwrap();
        shared.held_below = shared.link_count;
    }

    /// Sends on what was held back.
    pub(crate) fn let_go(&self) {
        self.shared.lock().unwrap().held_below = 0;
        self.let_go.notify_all();
    }

    /// Closes every connection at once; the next ones pass.
    pub(crate) fn break_links(&self) {
        self.shared.lock().unwrap().close_links();
    }

    /// Every byte the proxy has sent so far.
    pub(crate) fn recorded(&self) -> Vec<u8> {
        self.shared.lock().unwrap().recorded.clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        {
            let mut shared = self.shared.lock().unwrap();
            shared.closing = true;
            shared.close_links();
        }
        self.let_go();
        // Wakes the acceptor, which then sees that it is over.
        TcpStream::connect(self.endpoint.tcp()).ok();
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().ok();
        }
    }
}

impl Shared {
    /// Links a new connection to `backend`; false when it is over.
    fn accept(
        this: &Arc<Mutex<Self>>,
        let_go: &Arc<Condvar>,
        proxy_side: TcpStream,
        backend: SocketAddr,
    ) -> bool {
        let mut shared = this.lock().unwrap();
        if shared.closing {
            return false;
        }
        let backend_side = match shared.path {
            Path::Cut => None,
            Path::Whole => {
                let Ok(backend_side) = TcpStream::connect(backend) else {
                    // Refused here is refused there: the proxy sees its connection end.
                    return true;
                };
                let number = shared.link_count;
                shared.link_count += 1;
                for (towards, from, to) in [
                    (Towards::Backend, &proxy_side, &backend_side),
                    (Towards::Proxy, &backend_side, &proxy_side),
                ] {
                    from.set_nodelay(true).unwrap();
                    let pump = Pump {
                        number,
                        towards,
                        from: from.try_clone().unwrap(),
                        to: to.try_clone().unwrap(),
                        shared: Arc::clone(this),
                        let_go: Arc::clone(let_go),
                    };
                    std::thread::spawn(move || pump.run());
                }
                Some(backend_side)
            }
        };
        shared.links.push(Link {
            proxy_side,
            backend_side,
        });
        true
    }

    fn close_links(&mut self) {
        for link in self.links.drain(..) {
            close(&link.proxy_side);
            link.backend_side.as_ref().map(close);
        }
    }
}

/// Which way a [`Pump`] copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Towards {
    Backend,
    Proxy,
}

/// Copies one direction of one link until it ends.
struct Pump {
    /// Of its link.
    number: usize,
    towards: Towards,
    from: TcpStream,
    to: TcpStream,
    shared: Arc<Mutex<Shared>>,
    let_go: Arc<Condvar>,
}

impl Pump {
    fn run(mut self) {
        let mut buf = vec![0; 65_536];
        while let Ok(len @ 1..) = self.from.read(&mut buf) {
            if self.towards == Towards::Backend {
                let mut shared = self.shared.lock().unwrap();
                shared.recorded.extend_from_slice(&buf[..len]);
                let is_held = |shared: &mut Shared| self.number < shared.held_below;
                drop(self.let_go.wait_while(shared, is_held).unwrap());
            }
            // Fails on a cut link, whose proxy goes on sending into the void.
            self.to.write_all(&buf[..len]).ok();
        }
        // The end of one side is the end of the other, but nobody learns of a cut.
        let cut = self.shared.lock().unwrap().path == Path::Cut;
        if self.towards == Towards::Backend || !cut {
            close(&self.to);
        }
    }
}

fn close(stream: &TcpStream) {
    // An error means that it is closed already.
    stream.shutdown(Shutdown::Both).ok();
}
