//! The event loop of one worker: sockets on one side, the engine on the other.
//!
//! A turn: wait for events, read each ready socket once, tell the engine that the turn ends, write each
//! connection that has something once. All decisions are the engine's.
//!
//! # Invariants
//!
//! - The clock is read once per turn.
//! - Sockets are registered once, edge-triggered; a read that fills the buffer, or is put off, is noted and
//!   made up for in a later turn, so nothing waits for an edge that has passed.
//!
//! Not here: what requests do (`magent_core::engine`), how listeners come about (`listen`).

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use magent_core::auth::{Checked, Credentials, Users};
use magent_core::config::Config;
use magent_core::engine::{ClientId, ConnectionId, Engine, Input, Output, RouteTrace, Shared};
use magent_core::keeper::{Failure, Report};
use magent_core::placement::View;
use magent_core::server::Address;
use magent_core::stats::Counter;
use magent_core::{BackendId, Time, WorkerId};
use mio::event::Event;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::SockRef;
use tokio::sync::mpsc::UnboundedSender;

use crate::auth::Verifier;
use crate::auth::backend::{self, BackendLogin};
use crate::listen::Listener;
use crate::log::{Verbosity, short_key};

/// Bytes of one read. Large enough for what arrives in a turn, small enough to stay in the cache.
const READ_LEN: usize = 64 * 1024;

/// Pieces of one vectored write.
const SLICES: usize = 64;

/// Events taken from the kernel at once.
const EVENTS: usize = 1_024;

/// Connections accepted per listener and turn, so that a rush of clients does not starve those served.
const ACCEPTS_PER_TURN: usize = 64;

/// Pause before `accept` is tried again after it failed for want of descriptors or memory.
const ACCEPT_PAUSE_MS: u64 = 100;

/// Told to a client beyond `clients_max`, as memcached does.
const TOO_MANY: &[u8] = b"ERROR Too many open connections\r\n";

/// What the control thread tells a worker.
#[derive(Debug)]
pub(crate) enum ToWorker {
    View(Arc<View>),
    Settled(u64),
    /// Another worker has given up a key that this one may wait for.
    SlotsFreed,
    /// The connection leads to the process that the View is about.
    Verified(ConnectionId),
    /// Addresses of the backend that the connection is for.
    Resolved(ConnectionId, Result<Vec<SocketAddr>, Failure>),
    /// The users are these from now on.
    Users(Arc<Users>),
    /// What came of a login.
    Checked(ClientId, Checked),
    /// Accept nobody, finish what is under way, end.
    Drain,
    /// End now.
    Stop,
}

/// What a worker tells the control thread.
#[derive(Debug)]
pub(crate) enum FromWorker {
    /// A connection to a backend is there, from this address unless it is a unix socket.
    Connected(WorkerId, ConnectionId, Option<SocketAddr>),
    Report(WorkerId, Report),
    /// The healer is to copy these keys to the backend.
    Recopy(BackendId, Vec<Box<[u8]>>),
    /// A backend is known by name: its addresses are wanted.
    Resolve(WorkerId, ConnectionId),
    /// The worker has ended.
    Ended(WorkerId),
}

/// How to reach a worker.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    sender: Sender<ToWorker>,
    waker: Arc<Waker>,
}

impl Handle {
    /// Tells the worker. One that has ended hears nothing more.
    pub(crate) fn tell(&self, message: ToWorker) {
        if self.sender.send(message).is_ok()
            && let Err(err) = self.waker.wake()
        {
            tracing::error!("cannot wake a worker: {err}");
        }
    }
}

/// What all workers have in common.
#[derive(Clone)]
pub(crate) struct Common {
    pub config: Arc<Config>,
    pub shared: Shared,
    /// All workers, once all are there: before any of them runs.
    pub workers: Arc<OnceLock<Vec<Handle>>>,
    pub started: Instant,
    /// Client connections of all workers.
    pub clients_open: Arc<AtomicU64>,
    pub verbosity: Verbosity,
    /// Checks passwords, if clients have to log in.
    pub verifier: Option<Verifier>,
    /// What backends are told first.
    pub backend_login: Option<Arc<BackendLogin>>,
    pub control: UnboundedSender<FromWorker>,
}

/// One worker.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not exclude each other"
)]
pub(crate) struct Worker {
    id: WorkerId,
    common: Common,
    poll: Poll,
    engine: Engine,
    inbox: Receiver<ToWorker>,
    listeners: Vec<Accepting>,
    /// By index of [`ClientId`].
    clients: Vec<Option<Client>>,
    /// By backend.
    backends: Vec<Option<BackendLink>>,
    /// By backend: the connection whose addresses are being looked up.
    resolving: Vec<Option<ConnectionId>>,
    /// Sockets that have more to read although no edge will say so.
    clients_again: Vec<ClientId>,
    backends_again: Vec<ConnectionId>,
    accept_again: bool,
    /// When `accept` is tried again: it failed, and no edge will come for those that wait already.
    accept_at: Option<Time>,
    /// Whether that was logged.
    accept_fails: bool,
    buffer: Box<[u8]>,
    /// Whether the engine was given something since its turn ended.
    fed: bool,
    draining: bool,
    stopped: bool,
}

enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

struct Client {
    id: ClientId,
    stream: Stream,
    /// Whether the kernel takes no more bytes at the moment.
    blocked: bool,
    /// Whether there may be bytes to read.
    readable: bool,
    /// Whether the kernel has said that its end follows: no other edge will, so it is read until then.
    ending: bool,
}

struct BackendLink {
    connection: ConnectionId,
    stream: Stream,
    connected: bool,
    blocked: bool,
    /// Whether the backend has closed: a short read is not the last then.
    ending: bool,
    /// What the backend has answered to our login so far, while that is not over.
    login: Option<Vec<u8>>,
}

const TOKEN_WAKER: Token = Token(usize::MAX);
const TOKEN_LISTENER: usize = 1 << 62;
const TOKEN_BACKEND: usize = 1 << 61;

impl Worker {
    /// A worker that listens already, and the handle to reach it.
    ///
    /// # Errors
    ///
    /// If the kernel has no room for an epoll instance.
    pub(crate) fn new(
        id: WorkerId,
        common: Common,
        listeners: Vec<Listener>,
    ) -> io::Result<(Self, Handle)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), TOKEN_WAKER)?);
        let (sender, inbox) = mpsc::channel();
        let mut accepting = Vec::new();
        for (index, listener) in listeners.into_iter().enumerate() {
            let token = Token(TOKEN_LISTENER | index);
            accepting.push(match listener {
                Listener::Tcp(listener) => {
                    let mut listener = TcpListener::from_std(listener);
                    poll.registry()
                        .register(&mut listener, token, Interest::READABLE)?;
                    Accepting::Tcp(listener)
                }
                Listener::Unix(listener) => {
                    let mut listener = UnixListener::from_std(listener);
                    poll.registry()
                        .register(&mut listener, token, Interest::READABLE)?;
                    Accepting::Unix(listener)
                }
            });
        }
        let now = time_since(common.started);
        let engine = Engine::new(id, &common.config, common.shared.clone(), now);
        let worker = Self {
            id,
            poll,
            engine,
            inbox,
            listeners: accepting,
            clients: Vec::new(),
            backends: common.config.backends.iter().map(|_| None).collect(),
            resolving: vec![None; common.config.backends.len()],
            clients_again: Vec::new(),
            backends_again: Vec::new(),
            accept_again: true,
            accept_at: None,
            accept_fails: false,
            buffer: vec![0; READ_LEN].into_boxed_slice(),
            fed: false,
            draining: false,
            stopped: false,
            common,
        };
        Ok((worker, Handle { sender, waker }))
    }

    /// Runs until it is told to end.
    ///
    /// # Errors
    ///
    /// If epoll fails, which it does not on a sane kernel.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        self.engine.connect_all(time_since(self.common.started));
        let mut now = time_since(self.common.started);
        loop {
            let deadline = self.end_turn(now);
            if self.stopped || (self.draining && self.engine.is_drained()) {
                break;
            }
            let timeout = self.timeout(now, deadline);
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
            now = time_since(self.common.started);
            self.take_again(now);
            for event in &events {
                self.on_event(now, event);
            }
        }
        self.tell(FromWorker::Ended(self.id));
        Ok(())
    }

    fn timeout(&self, now: Time, deadline: Option<Time>) -> Option<Duration> {
        let pending =
            self.accept_again || !self.clients_again.is_empty() || !self.backends_again.is_empty();
        if pending {
            return Some(Duration::ZERO);
        }
        let deadline = [deadline, self.accept_at].into_iter().flatten().min();
        deadline.map(|deadline| Duration::from_nanos(deadline.0.saturating_sub(now.0)))
    }

    /// Lets the engine finish its turn and does what it wants done; yields its deadline.
    fn end_turn(&mut self, now: Time) -> Option<Time> {
        loop {
            self.engine.handle(now, Input::TurnEnd);
            self.fed = false;
            let deadline = loop {
                let output = self.engine.poll(now);
                if let Output::Wait(deadline) = output {
                    break deadline;
                }
                self.perform(now, output);
            };
            if !self.fed {
                return deadline;
            }
        }
    }

    fn feed(&mut self, now: Time, input: Input<'_>) {
        self.fed = true;
        self.engine.handle(now, input);
    }

    fn tell(&self, message: FromWorker) {
        if self.common.control.send(message).is_err() {
            // The control thread outlives its workers unless the process is about to end.
            tracing::debug!("the control thread has ended");
        }
    }

    /// Keys that others wait to write are free. Not by the control thread: a client waits.
    fn perform(&mut self, now: Time, output: Output) {
        match output {
            Output::Connect(connection) => self.connect(now, connection),
            Output::Disconnect(connection) => {
                let index = connection.backend.index();
                self.backends[index].take_if(|link| link.connection == connection);
                self.resolving[index].take_if(|asked| *asked == connection);
            }
            Output::WriteBackend(connection) => self.write_backend(now, connection),
            Output::WriteClient(client) => self.write_client(now, client),
            Output::ReadClient(client) => {
                if let Some(socket) = self.client_mut(client)
                    && socket.readable
                {
                    self.clients_again.push(client);
                }
            }
            Output::CloseClient(client) => self.close_client(client),
            Output::Check(client, credentials) => self.check(now, client, credentials),
            Output::Recopy(backend, keys) => self.tell(FromWorker::Recopy(backend, keys)),
            Output::WakeWorkers => self.wake_others(),
            Output::Report(report) => self.tell(FromWorker::Report(self.id, report)),
            Output::Route(route) => self.log_route(&route),
            Output::Wait(_) => {}
        }
    }

    fn wake_others(&self) {
        let workers = self.common.workers.get().map_or(&[][..], Vec::as_slice);
        for (index, worker) in workers.iter().enumerate() {
            if index != self.id.index() {
                worker.tell(ToWorker::SlotsFreed);
            }
        }
    }

    fn on_event(&mut self, now: Time, event: &Event) {
        let token = event.token();
        if token == TOKEN_WAKER {
            self.take_messages(now);
        } else if token.0 & TOKEN_LISTENER != 0 {
            self.accept(now, token.0 & !TOKEN_LISTENER);
        } else if token.0 & TOKEN_BACKEND != 0 {
            self.on_backend_event(now, token.0 & !TOKEN_BACKEND, event);
        } else {
            self.on_client_event(now, token.0, event);
        }
    }

    fn take_messages(&mut self, now: Time) {
        loop {
            match self.inbox.try_recv() {
                Ok(ToWorker::View(view)) => self.feed(now, Input::View(&view)),
                Ok(ToWorker::SlotsFreed) => self.feed(now, Input::SlotsFreed),
                Ok(ToWorker::Users(users)) => self.feed(now, Input::Users(&users)),
                Ok(ToWorker::Checked(client, checked)) => {
                    self.feed(now, Input::Checked(client, &checked));
                }
                Ok(ToWorker::Settled(epoch)) => self.feed(now, Input::Settled(epoch)),
                Ok(ToWorker::Verified(connection)) => {
                    self.feed(now, Input::Verified(connection));
                }
                Ok(ToWorker::Resolved(connection, addresses)) => {
                    self.on_resolved(now, connection, addresses);
                }
                Ok(ToWorker::Drain) => {
                    self.draining = true;
                    self.listeners.clear();
                    self.feed(now, Input::Drain);
                }
                Ok(ToWorker::Stop) | Err(TryRecvError::Disconnected) => {
                    self.stopped = true;
                    return;
                }
                Err(TryRecvError::Empty) => return,
            }
        }
    }

    /// Sockets that were put off.
    fn take_again(&mut self, now: Time) {
        let retry = self.accept_at.take_if(|at| *at <= now).is_some();
        if std::mem::take(&mut self.accept_again) || retry {
            for index in 0..self.listeners.len() {
                self.accept(now, index);
            }
        }
        let mut clients = std::mem::take(&mut self.clients_again);
        for client in clients.drain(..) {
            self.read_client(now, client);
        }
        clients.append(&mut self.clients_again);
        self.clients_again = clients;
        let mut backends = std::mem::take(&mut self.backends_again);
        for connection in backends.drain(..) {
            self.read_backend(now, connection);
        }
        backends.append(&mut self.backends_again);
        self.backends_again = backends;
    }

    // -- Clients --

    fn accept(&mut self, now: Time, index: usize) {
        if self.accept_at.is_some() {
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.listeners.get(index) else {
                return;
            };
            let accepted = match listener {
                Accepting::Tcp(listener) => listener.accept().map(|(stream, _)| {
                    // Answers are written whole; waiting for more to send only delays them.
                    drop(stream.set_nodelay(true));
                    Stream::Tcp(stream)
                }),
                Accepting::Unix(listener) => {
                    listener.accept().map(|(stream, _)| Stream::Unix(stream))
                }
            };
            match accepted {
                Ok(stream) => {
                    self.accept_fails = false;
                    self.admit(stream);
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

    fn admit(&mut self, mut stream: Stream) {
        let open = self.common.clients_open.fetch_add(1, Ordering::Relaxed);
        if open >= self.common.config.limits.clients_max {
            self.common.clients_open.fetch_sub(1, Ordering::Relaxed);
            self.common.shared.counters[self.id.index()].add(Counter::ClientsRefused, 1);
            // A fresh socket takes a line; if it does not, there is nobody to tell.
            drop(stream.write(TOO_MANY));
            stream.close(&mut self.buffer);
            return;
        }
        let id = self.engine.open_client();
        self.fed = true;
        let index = id.index as usize;
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(err) = stream.register(&self.poll, Token(index), interest) {
            tracing::error!("cannot watch a client: {err}");
            let now = time_since(self.common.started);
            self.feed(now, Input::ClientLost(id));
        }
        if self.clients.len() <= index {
            self.clients.resize_with(index + 1, || None);
        }
        self.clients[index] = Some(Client {
            id,
            stream,
            blocked: false,
            readable: false,
            ending: false,
        });
    }

    fn client_mut(&mut self, id: ClientId) -> Option<&mut Client> {
        self.clients
            .get_mut(id.index as usize)?
            .as_mut()
            .filter(|client| client.id == id)
    }

    fn on_client_event(&mut self, now: Time, index: usize, event: &Event) {
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

    /// Reads once.
    fn read_client(&mut self, now: Time, id: ClientId) {
        let wanted = self.engine.wants_client_data(id);
        let Some(Some(client)) = self.clients.get_mut(id.index as usize) else {
            return;
        };
        if client.id != id {
            return;
        }
        client.readable = true;
        if !wanted {
            // `Output::ReadClient` says when.
            return;
        }
        match client.stream.read(&mut self.buffer) {
            Ok(0) => {
                client.readable = false;
                self.feed(now, Input::ClientEnd(id));
            }
            Ok(len) => {
                if len == self.buffer.len() || client.ending {
                    self.clients_again.push(id);
                } else {
                    client.readable = false;
                }
                self.fed = true;
                self.engine
                    .handle(now, Input::ClientData(id, &self.buffer[..len]));
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock => client.readable = false,
            Err(err) if err.kind() == ErrorKind::Interrupted => self.clients_again.push(id),
            Err(_) => self.feed(now, Input::ClientLost(id)),
        }
    }

    fn write_client(&mut self, now: Time, id: ClientId) {
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

    fn close_client(&mut self, id: ClientId) {
        let Some(slot) = self.clients.get_mut(id.index as usize) else {
            return;
        };
        if let Some(client) = slot.take_if(|client| client.id == id) {
            client.stream.close(&mut self.buffer);
            self.common.clients_open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Has a password checked, by other threads if that takes long.
    fn check(&mut self, now: Time, id: ClientId, credentials: Credentials) {
        let peer = self.client_mut(id).and_then(|client| client.stream.peer());
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

    // -- Backends --

    fn connect(&mut self, now: Time, connection: ConnectionId) {
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

    fn on_resolved(
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

    fn connect_to(&mut self, now: Time, connection: ConnectionId, address: SocketAddr) {
        let stream = TcpStream::connect(address).map(|stream| {
            drop(stream.set_nodelay(true));
            // It is only closed when it is given up: then nothing that has not left may leave any more.
            drop(SockRef::from(&stream).set_linger(Some(Duration::ZERO)));
            Stream::Tcp(stream)
        });
        self.on_connecting(now, connection, stream);
    }

    fn on_connecting(&mut self, now: Time, connection: ConnectionId, stream: io::Result<Stream>) {
        let index = connection.backend.index();
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = stream.and_then(|mut stream| {
            stream.register(&self.poll, Token(TOKEN_BACKEND | index), interest)?;
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
            Err(err) => self.feed(now, Input::BackendLost(connection, failure_of(&err))),
        }
    }

    fn on_backend_event(&mut self, now: Time, index: usize, event: &Event) {
        let Some(Some(link)) = self.backends.get_mut(index) else {
            return;
        };
        let connection = link.connection;
        if !link.connected {
            match link.stream.is_connected() {
                Ok(true) => {
                    link.connected = true;
                    let local = link.stream.local_addr();
                    self.tell(FromWorker::Connected(self.id, connection, local));
                    self.log_in(now, connection);
                }
                Ok(false) => return,
                Err(err) => {
                    self.lose_backend(now, connection, failure_of(&err));
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
        // A fresh socket takes a line.
        match link.stream.write(login.bytes()) {
            Ok(len) if len == login.bytes().len() => {}
            Ok(_) => self.lose_backend(now, connection, Failure::Unreachable),
            Err(err) => self.lose_backend(now, connection, failure_of(&err)),
        }
    }

    /// The first `len` bytes of the buffer answer our login.
    fn on_login_answer(&mut self, now: Time, connection: ConnectionId, len: usize) {
        let Some(link) = &mut self.backends[connection.backend.index()] else {
            return;
        };
        let answer = link.login.get_or_insert_default();
        answer.extend_from_slice(&self.buffer[..len]);
        match backend::judge(answer) {
            None => {}
            Some(Ok(())) => {
                link.login = None;
                self.feed(now, Input::BackendConnected(connection));
            }
            Some(Err(failure)) => self.lose_backend(now, connection, failure),
        }
    }

    fn read_backend(&mut self, now: Time, connection: ConnectionId) {
        let Some(link) = &mut self.backends[connection.backend.index()] else {
            return;
        };
        if link.connection != connection {
            return;
        }
        match link.stream.read(&mut self.buffer) {
            Ok(0) => self.lose_backend(now, connection, Failure::Reset),
            Ok(len) => {
                if len == self.buffer.len() || link.ending {
                    self.backends_again.push(connection);
                }
                if link.login.is_some() {
                    self.on_login_answer(now, connection, len);
                    return;
                }
                self.fed = true;
                self.engine
                    .handle(now, Input::BackendData(connection, &self.buffer[..len]));
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock => {}
            Err(err) if err.kind() == ErrorKind::Interrupted => {
                self.backends_again.push(connection);
            }
            Err(err) => self.lose_backend(now, connection, failure_of(&err)),
        }
    }

    fn write_backend(&mut self, now: Time, connection: ConnectionId) {
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
                return;
            }
            match link.stream.write_vectored(&slices[..count]) {
                Ok(len) => self.engine.backend_sent(now, connection, len),
                Err(err) if err.kind() == ErrorKind::WouldBlock => link.blocked = true,
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => {
                    self.lose_backend(now, connection, failure_of(&err));
                    return;
                }
            }
        }
    }

    fn lose_backend(&mut self, now: Time, connection: ConnectionId, failure: Failure) {
        self.backends[connection.backend.index()] = None;
        self.feed(now, Input::BackendLost(connection, failure));
    }

    fn log_route(&self, route: &RouteTrace) {
        let name = |backend: Option<BackendId>| {
            backend.map_or_else(
                || "-".to_owned(),
                |id| self.common.config.backends[id.index()].to_string(),
            )
        };
        tracing::info!(
            "{} {} -> {} backup {}",
            route.verb,
            short_key(&route.key, self.common.verbosity),
            name(route.authority),
            name(route.follower),
        );
    }
}

impl Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write_vectored(slices),
            Self::Unix(stream) => stream.write_vectored(slices),
        }
    }

    fn register(&mut self, poll: &Poll, token: Token, interest: Interest) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => poll.registry().register(stream, token, interest),
            Self::Unix(stream) => poll.registry().register(stream, token, interest),
        }
    }

    /// Whether a connection that was begun is there.
    fn is_connected(&self) -> io::Result<bool> {
        let (error, peer) = match self {
            Self::Tcp(stream) => (stream.take_error()?, stream.peer_addr().map(drop)),
            Self::Unix(stream) => (stream.take_error()?, stream.peer_addr().map(drop)),
        };
        if let Some(err) = error {
            return Err(err);
        }
        match peer {
            Ok(()) => Ok(true),
            Err(err) if err.kind() == ErrorKind::NotConnected => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Where the other side is, unless it is on a unix socket.
    fn peer(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok().map(|address| address.ip()),
            Self::Unix(_) => None,
        }
    }

    /// Unless it is a unix socket.
    fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Closes without losing the last answer: a socket closed with bytes unread is reset, and the peer then
    /// drops what it has not read yet.
    fn close(mut self, buffer: &mut [u8]) {
        let shut = match &self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
        const READS_MAX: usize = 16;
        for _ in 0..READS_MAX {
            if shut.is_err() || !matches!(self.read(buffer), Ok(len) if len > 0) {
                break;
            }
        }
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

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kinds of std are open-ended"
)]
/// What an error of a backend's socket says about the backend.
pub(crate) fn failure_of(err: &io::Error) -> Failure {
    match err.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => Failure::Refused,
        ErrorKind::TimedOut => Failure::ConnectTimeout,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
            Failure::Reset
        }
        _ => Failure::Unreachable,
    }
}

/// The engine's time: nanoseconds since the process began to serve.
pub(crate) fn time_since(started: Instant) -> Time {
    Time(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX))
}
