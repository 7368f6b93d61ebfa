//! Backends' sockets: one connection of this worker to each.
//!
//! Not here: when there is to be one, and what goes over it (`magent_core::engine`).

use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::time::Duration;

use magent_core::Time;
use magent_core::engine::{ConnectionId, Input};
use magent_core::keeper::Failure;
use magent_core::server::Address;
use mio::Token;
use mio::event::Event;
use mio::net::{TcpStream, UnixStream};
use rustls::ClientConnection;
use socket2::SockRef;

use super::stream::{Received, Stream, tune_backend};
use super::tls::TlsStream;
use super::{FromWorker, HEAD_LEN, READ_LEN, SLICES, TOKEN_BACKEND, Worker};
use crate::auth::backend;
use crate::tls::{self, tls_error};

/// A connection that is there or being made.
pub(super) struct BackendLink {
    pub(super) connection: ConnectionId,
    stream: Stream,
    connected: bool,
    blocked: bool,
    /// Whether the backend has closed: a short read is not the last then.
    ending: bool,
    /// What the backend has answered to our login so far, while that is not over.
    login: Option<Vec<u8>>,
}

impl BackendLink {
    /// Goes on with connecting; whether requests may be sent.
    fn advance(&mut self) -> io::Result<bool> {
        Ok(self.stream.is_connected()? && self.stream.handshake()?)
    }
}

impl Worker {
    pub(super) fn connect(&mut self, now: Time, connection: ConnectionId) {
        let common = self.common.clone();
        match &common.config.backends[connection.backend.index()] {
            Address::Unix { path } => {
                let stream = UnixStream::connect(&**path).map(Stream::Unix);
                self.on_connecting(now, connection, stream);
            }
            Address::Tcp { host, port } => match host.parse() {
                Ok(ip) => self.connect_to(now, connection, SocketAddr::new(ip, *port)),
                Err(_) => {
                    self.resolving[connection.backend.index()] = Some(connection);
                    self.tell(FromWorker::Resolve(self.id, connection));
                }
            },
        }
    }

    pub(super) fn on_resolved(
        &mut self,
        now: Time,
        connection: ConnectionId,
        addresses: Result<Vec<SocketAddr>, Failure>,
    ) {
        // A name server may take longer than the engine waits.
        let asked =
            self.resolving[connection.backend.index()].take_if(|asked| *asked == connection);
        if asked.is_none() {
            return;
        }
        match addresses {
            // One after the other, so that a dead address of a name does not hide the others.
            Ok(addresses) if !addresses.is_empty() => {
                let index = connection.generation as usize % addresses.len();
                self.connect_to(now, connection, addresses[index]);
            }
            Ok(_) => self.feed(now, Input::BackendLost(connection, Failure::Unresolved)),
            Err(failure) => self.feed(now, Input::BackendLost(connection, failure)),
        }
    }

    pub(super) fn connect_to(&mut self, now: Time, connection: ConnectionId, address: SocketAddr) {
        let stream = TcpStream::connect(address).map(|stream| {
            tune_backend(&stream, address.ip());
            // It is only closed when it is given up: then nothing that has not left may leave any more.
            drop(SockRef::from(&stream).set_linger(Some(Duration::ZERO)));
            match self.common.tls.backends.target(connection.backend) {
                None => Ok(Stream::Tcp(stream)),
                Some(target) => ClientConnection::new(target.config, target.name)
                    .map(|tls| Stream::Tls(Box::new(TlsStream::new(stream, tls))))
                    .map_err(|err| io::Error::new(ErrorKind::InvalidData, err)),
            }
        });
        let stream = stream.and_then(|stream| stream);
        self.on_connecting(now, connection, stream);
    }

    pub(super) fn on_connecting(
        &mut self,
        now: Time,
        connection: ConnectionId,
        stream: io::Result<Stream>,
    ) {
        let index = connection.backend.index();
        let registered = stream.and_then(|mut stream| {
            stream.register(&self.poll, Token(TOKEN_BACKEND | index))?;
            Ok(stream)
        });
        match registered {
            Ok(stream) => {
                let link = BackendLink {
                    connection,
                    stream,
                    connected: false,
                    blocked: false,
                    ending: false,
                    login: None,
                };
                self.backends[index] = Some(link);
            }
            Err(err) => self.on_backend_error(now, connection, &err),
        }
    }

    pub(super) fn on_backend_event(&mut self, now: Time, index: usize, event: &Event) {
        let Some(Some(link)) = self.backends.get_mut(index) else {
            return;
        };
        let connection = link.connection;
        if !link.connected {
            match link.advance() {
                Ok(true) => {
                    link.connected = true;
                    let local = link.stream.local_addr();
                    self.tell(FromWorker::Connected(self.id, connection, local));
                    self.log_in(now, connection);
                }
                Ok(false) => return,
                Err(err) => {
                    self.on_backend_error(now, connection, &err);
                    return;
                }
            }
        }
        let Some(Some(link)) = self.backends.get_mut(index) else {
            return;
        };
        link.ending |= event.is_read_closed() || event.is_error();
        if event.is_writable() && std::mem::take(&mut link.blocked) {
            self.write_backend(now, connection);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read_backend(now, connection);
        }
    }

    /// Says the password, if there is one. The engine hears of the connection when it is of use.
    fn log_in(&mut self, now: Time, connection: ConnectionId) {
        let Some(login) = self.common.backend_login.clone() else {
            self.feed(now, Input::BackendConnected(connection));
            return;
        };
        let Some(link) = &mut self.backends[connection.backend.index()] else {
            return;
        };
        link.login = Some(Vec::new());
        // A fresh socket takes a line, and what TLS holds back of it leaves before the first request.
        let written = link.stream.write(login.bytes());
        match written.and_then(|len| link.stream.flush().map(|()| len)) {
            Ok(len) if len == login.bytes().len() => {}
            Ok(_) => self.lose_backend(now, connection, Failure::Unreachable),
            Err(err) => self.on_backend_error(now, connection, &err),
        }
    }

    /// The first `len` bytes of the buffer answer our login.
    fn on_login_answer(&mut self, now: Time, connection: ConnectionId, len: usize) {
        let Some(link) = &mut self.backends[connection.backend.index()] else {
            return;
        };
        let answer = link.login.get_or_insert_default();
        answer.extend_from_slice(&self.buffers.plain[..len]);
        match backend::judge(answer) {
            None => {}
            Some(Ok(())) => {
                link.login = None;
                self.feed(now, Input::BackendConnected(connection));
            }
            Some(Err(failure)) => self.lose_backend(now, connection, failure),
        }
    }

    /// Reads once, or a little first where a large value is expected: that goes to its place then.
    pub(super) fn read_backend(&mut self, now: Time, connection: ConnectionId) {
        let begins = self.engine.backend_is_large(connection)
            && self.engine.backend_room(connection).is_none();
        let len_max = if begins { HEAD_LEN } else { READ_LEN };
        let mut more = self.read_backend_once(now, connection, len_max);
        if more && begins {
            more = self.read_backend_once(now, connection, READ_LEN);
        }
        if more {
            self.backends_again.push(connection);
        }
    }

    /// Whether there may be more that no edge will tell of.
    fn read_backend_once(&mut self, now: Time, connection: ConnectionId, len_max: usize) -> bool {
        let Some(link) = &mut self.backends[connection.backend.index()] else {
            return false;
        };
        if link.connection != connection {
            return false;
        }
        let room = self.engine.backend_room(connection);
        let room = room.filter(|_| link.stream.is_plain());
        let direct = room.is_some();
        let Received { len, more } = match link.stream.read(room, &mut self.buffers, len_max) {
            Ok(received) => received,
            Err(err) if err.kind() == ErrorKind::WouldBlock => return false,
            Err(err) if err.kind() == ErrorKind::Interrupted => return true,
            Err(err) => {
                self.on_backend_error(now, connection, &err);
                return false;
            }
        };
        let again = more || link.ending;
        if len == 0 {
            self.lose_backend(now, connection, Failure::Reset);
            return false;
        }
        if direct {
            self.feed(now, Input::BackendFilled(connection, len));
        } else if link.login.is_some() {
            self.on_login_answer(now, connection, len);
        } else {
            self.fed = true;
            let bytes = &self.buffers.plain[..len];
            self.engine
                .handle(now, Input::BackendData(connection, bytes));
        }
        again
    }

    pub(super) fn write_backend(&mut self, now: Time, connection: ConnectionId) {
        loop {
            let Some(link) = &mut self.backends[connection.backend.index()] else {
                return;
            };
            if link.connection != connection || link.blocked || !link.connected {
                return;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.engine.backend_slices(connection, &mut slices);
            if count == 0 {
                match link.stream.flush() {
                    Ok(()) => {}
                    Err(err) if err.kind() == ErrorKind::WouldBlock => link.blocked = true,
                    Err(err) => self.on_backend_error(now, connection, &err),
                }
                return;
            }
            match link.stream.write_vectored(&slices[..count]) {
                Ok(len) => self.engine.backend_sent(now, connection, len),
                Err(err) if err.kind() == ErrorKind::WouldBlock => link.blocked = true,
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => {
                    self.on_backend_error(now, connection, &err);
                    return;
                }
            }
        }
    }

    fn on_backend_error(&mut self, now: Time, connection: ConnectionId, err: &io::Error) {
        let failure = failure_of(err);
        let tls = &self.common.tls.backends;
        tls.on_failed(connection.backend, failure, tls_error(err));
        self.lose_backend(now, connection, failure);
    }

    fn lose_backend(&mut self, now: Time, connection: ConnectionId, failure: Failure) {
        self.backends[connection.backend.index()] = None;
        self.feed(now, Input::BackendLost(connection, failure));
    }
}

/// What an error of a backend's socket says about the backend.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kinds of std are open-ended"
)]
pub(crate) fn failure_of(err: &io::Error) -> Failure {
    if let Some(err) = tls_error(err) {
        return tls::backends::failure_of(err);
    }
    match err.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => Failure::Refused,
        ErrorKind::TimedOut => Failure::ConnectTimeout,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
            Failure::Reset
        }
        _ => Failure::Unreachable,
    }
}
