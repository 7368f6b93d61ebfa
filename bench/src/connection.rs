//! One connection of the generator: requests out, answers in and checked, in order.
//!
//! # Invariants
//!
//! - Answers belong to requests in the order in which these were sent; bytes that no request
//!   waits for are a wrong answer.
//! - The socket is edge-triggered, so it is read until it is empty and written until it is full
//!   or nothing is left.
//!
//! Not here: which request comes next and when (`generator`).

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mio::{Interest, Registry, Token};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use rustls::ClientConnection;

use crate::keys::{Keys, Share};
use crate::tls;
use crate::wire::{Answer, Checker, Request, Wrong};
use crate::workload::Transport;

pub(crate) struct Connection {
    stream: mio::net::TcpStream,
    tls: Option<Box<ClientConnection>>,
    share: Share,
    waiting: VecDeque<Request>,
    checker: Checker,
    out: Vec<u8>,
    /// Bytes of `out` already sent.
    sent: usize,
}

impl Connection {
    /// The client at the end of `stream`, who asks for the keys of `share`.
    pub(crate) fn new(
        stream: TcpStream,
        tls: Option<Box<ClientConnection>>,
        share: Share,
        registry: &Registry,
        token: Token,
    ) -> Result<Self> {
        stream.set_nonblocking(true)?;
        let mut stream = mio::net::TcpStream::from_std(stream);
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let (waiting, checker) = (VecDeque::new(), Checker::default());
        Ok(Self {
            stream,
            tls,
            share,
            waiting,
            checker,
            out: Vec::new(),
            sent: 0,
        })
    }

    pub(crate) fn share(&self) -> Share {
        self.share
    }

    /// The requests that are not answered yet, oldest first.
    pub(crate) fn waiting(&self) -> &VecDeque<Request> {
        &self.waiting
    }

    /// Puts `request` behind those that wait to be sent; `flush` sends them.
    pub(crate) fn push(&mut self, request: Request, keys: &Keys) {
        request.encode(keys, self.share, &mut self.out);
        self.waiting.push_back(request);
    }

    /// Sends what the socket takes.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.writer().write_all(&self.out)?;
            self.out.clear();
            while tls.wants_write() {
                match tls.write_tls(&mut self.stream) {
                    Ok(_) => {}
                    Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                    Err(err) => return Err(err).context("send a request"),
                }
            }
            return Ok(());
        }
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err).context("send a request"),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Reads what has come and hands every complete answer to `on_answer`. `scratch` holds the
    /// bytes between socket and checker.
    pub(crate) fn receive(
        &mut self,
        keys: &Keys,
        scratch: &mut [u8],
        mut on_answer: impl FnMut(&Request, Answer),
    ) -> Result<()> {
        loop {
            let count = match self.read(scratch) {
                Ok(0) => bail!(
                    "closed by the peer, {} requests unanswered",
                    self.waiting.len()
                ),
                Ok(count) => count,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => return Err(err).context("read an answer"),
            };
            self.check(keys, &scratch[..count], &mut on_answer)?;
            // A read that does not fill the buffer has emptied the socket (epoll(7)), and the
            // next bytes raise a new edge: the read that would only say so is saved.
            if count < scratch.len() && self.tls.is_none() {
                return Ok(());
            }
        }
    }

    fn read(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.stream.read(scratch);
        };
        loop {
            match tls.reader().read(scratch) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            if tls.read_tls(&mut self.stream)? == 0 {
                return Ok(0);
            }
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }

    fn check(
        &mut self,
        keys: &Keys,
        mut bytes: &[u8],
        on_answer: &mut impl FnMut(&Request, Answer),
    ) -> Result<(), Wrong> {
        while !bytes.is_empty() {
            let Some(request) = self.waiting.front_mut() else {
                let start = bytes[..bytes.len().min(80)].escape_ascii();
                return Err(Wrong::new(format!("nobody asked for \"{start}\"")));
            };
            let (used, answer) = self.checker.check(keys, self.share, request, bytes)?;
            bytes = &bytes[used..];
            if let Some(answer) = answer {
                on_answer(request, answer);
                self.waiting.pop_front();
            }
        }
        Ok(())
    }
}

/// Connects client `number` to `target`.
///
/// It waits for the connection: thousands begun at once would overflow the listener's queue, and
/// then a handshake is repeated after a second.
pub(crate) fn connect(target: SocketAddr, number: u32) -> Result<TcpStream> {
    let source = number / CONNECTIONS_PER_SOURCE;
    let stream = match (target, u8::try_from(source)) {
        (SocketAddr::V4(v4), Ok(source @ 1..)) if v4.ip().is_loopback() => {
            connect_from(Ipv4Addr::new(127, 0, 0, 1 + source), v4)
        }
        _ => TcpStream::connect_timeout(&target, CONNECT_MAX).map_err(Into::into),
    };
    let stream = stream.with_context(|| format!("connect to {target}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects from another loopback address. With half of the ports of one address in use, the
/// kernel takes milliseconds to find a free one.
fn connect_from(source: Ipv4Addr, target: SocketAddrV4) -> Result<TcpStream> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let limit = TimeVal::new(CONNECT_MAX.as_secs().try_into()?, 0);
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    // Else the port would be chosen here, and not be one that an ended connection still holds.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    let source = SocketAddrV4::new(source, 0);
    bind(socket.as_raw_fd(), &SockaddrIn::from(source))?;
    nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrIn::from(target))?;
    Ok(socket.into())
}

/// Speaks TLS on `stream`, if that is what `transport` says.
pub(crate) fn handshake(
    transport: Transport,
    stream: &mut TcpStream,
) -> Result<Option<Box<ClientConnection>>> {
    if transport == Transport::Plain {
        return Ok(None);
    }
    let mut tls = tls::connection()?;
    tls.set_buffer_limit(None);
    stream.set_read_timeout(Some(CONNECT_MAX))?;
    while tls.is_handshaking() {
        tls.complete_io(stream).context("TLS handshake")?;
    }
    Ok(Some(Box::new(tls)))
}

/// Clients of one loopback address; the rest use the next ones.
const CONNECTIONS_PER_SOURCE: u32 = 5_000;

/// Longest wait for one connection: a full accept queue costs a second per try.
const CONNECT_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn thousands_of_clients_have_several_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        for (number, source) in [(0, 1), (4_999, 1), (5_000, 2), (19_999, 4)] {
            let stream = connect(target, number).unwrap();
            let source = Ipv4Addr::new(127, 0, 0, source);
            assert_eq!(stream.local_addr().unwrap().ip(), source, "{number}");
        }
    }
}
