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
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mio::{Interest, Registry, Token};
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
    /// Connects to `target`, to ask for the keys of `share`.
    ///
    /// It waits for the connection: thousands begun at once would overflow the listener's queue,
    /// and then a handshake is repeated after a second.
    pub(crate) fn open(
        target: SocketAddr,
        transport: Transport,
        share: Share,
        registry: &Registry,
        token: Token,
    ) -> Result<Self> {
        let mut stream = TcpStream::connect_timeout(&target, CONNECT_MAX)
            .with_context(|| format!("connect to {target}"))?;
        stream.set_nodelay(true)?;
        let tls = match transport {
            Transport::Plain => None,
            Transport::Tls => {
                let mut tls = tls::connection()?;
                tls.set_buffer_limit(None);
                stream.set_read_timeout(Some(CONNECT_MAX))?;
                while tls.is_handshaking() {
                    tls.complete_io(&mut stream).context("TLS handshake")?;
                }
                Some(Box::new(tls))
            }
        };
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

/// Longest wait for one connection: a full accept queue costs a second per try.
const CONNECT_MAX: Duration = Duration::from_secs(5);
