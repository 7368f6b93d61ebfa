//! Clients come in.
//!
//! Not here: how listeners come about (`listen`), what clients send (`clients`).

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use magent_core::Time;
use magent_core::engine::Input;
use magent_core::stats::Counter;
use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Poll, Token};

use super::clients::Client;
use super::stream::Stream;
use super::{Worker, time_since};
use crate::listen::{Greeting, Listener, ProxyHeader, Tls};

/// Connections accepted per listener and turn, so that a rush of clients does not starve those served.
const ACCEPTS_PER_TURN: usize = 64;

/// Pause before `accept` is tried again after it failed for want of descriptors or memory.
const ACCEPT_PAUSE_MS: u64 = 100;

/// Told to a client beyond `clients_max`, as memcached does.
const TOO_MANY: &[u8] = b"ERROR Too many open connections\r\n";

/// A listening socket.
pub(super) enum Accepting {
    Tcp(TcpListener, Greeting),
    Unix(UnixListener),
}

impl Accepting {
    /// Watches it from now on.
    pub(super) fn new(listener: Listener, poll: &Poll, token: Token) -> io::Result<Self> {
        Ok(match listener {
            Listener::Tcp(listener, greeting) => {
                let mut listener = TcpListener::from_std(listener);
                poll.registry()
                    .register(&mut listener, token, Interest::READABLE)?;
                Self::Tcp(listener, greeting)
            }
            Listener::Unix(listener) => {
                let mut listener = UnixListener::from_std(listener);
                poll.registry()
                    .register(&mut listener, token, Interest::READABLE)?;
                Self::Unix(listener)
            }
        })
    }
}

impl Worker {
    pub(super) fn accept(&mut self, now: Time, index: usize) {
        if self.accept_at.is_some() {
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.listeners.get(index) else {
                return;
            };
            let accepted = match listener {
                Accepting::Tcp(listener, greeting) => listener.accept().map(|(stream, peer)| {
                    // Answers are written whole; waiting for more to send only delays them.
                    drop(stream.set_nodelay(true));
                    (Stream::Tcp(stream), Some(peer), *greeting)
                }),
                Accepting::Unix(listener) => listener
                    .accept()
                    .map(|(stream, _)| (Stream::Unix(stream), None, Greeting::default())),
            };
            match accepted {
                Ok((stream, peer, greeting)) => {
                    self.accept_fails = false;
                    self.receive(now, stream, peer, greeting);
                }
                Err(err) if err.kind() == ErrorKind::WouldBlock => return,
                Err(err) if is_of_one_connection(&err) => {}
                Err(err) => {
                    if !std::mem::replace(&mut self.accept_fails, true) {
                        tracing::error!("cannot accept clients, trying again and again: {err}");
                    }
                    self.accept_at = Some(now.after_ms(ACCEPT_PAUSE_MS));
                    return;
                }
            }
        }
        self.accept_again = true;
    }

    fn receive(
        &mut self,
        now: Time,
        mut stream: Stream,
        peer: Option<SocketAddr>,
        greeting: Greeting,
    ) {
        let open = self.common.clients_open.fetch_add(1, Ordering::Relaxed);
        if open >= self.common.config.limits.clients_max {
            self.common.clients_open.fetch_sub(1, Ordering::Relaxed);
            self.count(Counter::ClientsRefused);
            if greeting.tls == Tls::NotSpoken {
                // A fresh socket takes a line; if it does not, there is nobody to tell.
                drop(stream.write(TOO_MANY));
            }
            stream.close(&mut self.buffers);
            return;
        }
        match (stream, peer, greeting) {
            (Stream::Tcp(stream), Some(peer), greeting)
                if greeting.tls == Tls::Spoken
                    || greeting.proxy_header == ProxyHeader::Required =>
            {
                self.greet(now, stream, peer, greeting);
            }
            (mut stream, peer, _) => {
                let id = self.engine.open_client();
                let registered = stream.register(&self.poll, Token(id.index as usize));
                self.admit(Client::new(id, stream, peer), registered);
            }
        }
    }

    /// A connection becomes a client of the engine, which knows it already.
    pub(super) fn admit(&mut self, client: Client, registered: io::Result<()>) {
        self.fed = true;
        let id = client.id;
        if let Err(err) = registered {
            tracing::error!("cannot watch a client: {err}");
            let now = time_since(self.common.started);
            self.feed(now, Input::ClientLost(id));
        }
        let index = id.index as usize;
        if self.clients.len() <= index {
            self.clients.resize_with(index + 1, || None);
        }
        self.clients[index] = Some(client);
    }
}

/// Whether an error of `accept` concerns only the connection that was about to be accepted.
fn is_of_one_connection(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}
