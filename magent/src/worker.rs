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
//! Not here: what requests do (`magent_core::engine`), how listeners come about (`listen`). What is done with the
//! sockets of clients, backends and listeners has a file each.

mod accept;
mod backends;
mod clients;
mod greeting;
mod stream;
mod timer;
mod tls;
mod trouble;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use magent_core::auth::{Checked, Users};
use magent_core::config::Config;
use magent_core::engine::{ClientId, ConnectionId, Engine, Input, Output, RouteTrace, Shared};
use magent_core::keeper::{Failure, Report};
use magent_core::placement::View;
use magent_core::stats::Counter;
use magent_core::{BackendId, Time, WorkerId};
use mio::event::Event;
use mio::{Events, Poll, Token, Waker};
use tokio::sync::mpsc::UnboundedSender;

use self::accept::Accepting;
use self::backends::BackendLink;
pub(crate) use self::backends::failure_of;
use self::clients::Client;
use self::greeting::Greetings;
use self::stream::Buffers;
use self::timer::Timer;
use self::trouble::{TROUBLES_PER_MINUTE, Trouble};
use crate::auth::Verifier;
use crate::auth::backend::BackendLogin;
use crate::listen::Listener;
use crate::log::{RateLimiter, Verbosity, short_key};
use crate::stall::stalled_ns;
use crate::tls::Tls;

/// Bytes of one read. Large enough for what arrives in a turn, small enough to stay in the cache.
const READ_LEN: usize = 64 * 1024;

/// Bytes of a read that is to end soon behind the line before a large payload.
const HEAD_LEN: usize = 4 * 1024;

/// Pieces of one vectored write.
const SLICES: usize = 64;

/// A wait that took longer was one: with events at hand it is over sooner.
const IDLE_NS: u64 = 5_000;

/// Events taken from the kernel at once.
const EVENTS: usize = 1_024;

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
    /// The healer is to see that nothing old is left under these keys.
    Missed(BackendId, Vec<Box<[u8]>>),
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
    pub tls: Arc<Tls>,
    /// Whose PROXY headers are believed.
    pub trusted_proxies: Arc<[IpNet]>,
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
    timer: Timer,
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
    buffers: Buffers,
    /// Connections that the engine does not know: not yet, or not any more.
    greetings: Greetings,
    /// What the log says of clients, no more than it should.
    troubles: RateLimiter<Trouble>,
    /// Whether the engine was given something since its turn ended.
    fed: bool,
    draining: bool,
    stopped: bool,
}

const TOKEN_WAKER: Token = Token(usize::MAX);
const TOKEN_TIMER: Token = Token(usize::MAX - 1);
const TOKEN_LISTENER: usize = 1 << 62;
const TOKEN_BACKEND: usize = 1 << 61;
const TOKEN_GREETING: usize = 1 << 60;

impl Worker {
    /// A worker that listens already, and the handle to reach it.
    ///
    /// # Errors
    ///
    /// If the kernel has no room for an epoll instance or its timer.
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
            accepting.push(Accepting::new(listener, &poll, token)?);
        }
        let now = time_since(common.started);
        let engine = Engine::new(id, &common.config, common.shared.clone(), now);
        let worker = Self {
            id,
            timer: Timer::new(&poll, TOKEN_TIMER)?,
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
            buffers: Buffers::new(READ_LEN),
            greetings: Greetings::new(&common.config.limits),
            troubles: RateLimiter::new(TROUBLES_PER_MINUTE, 60_000),
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
            if self.stopped || (self.draining && self.is_drained()) {
                break;
            }
            let due = self.due(now, deadline);
            let timeout = self.timeout(now, due)?;
            let asleep = time_since(self.common.started);
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
            let awake = time_since(self.common.started);
            let for_ns = stalled_ns(now, asleep, due, awake);
            now = awake;
            if for_ns > 0 {
                self.engine.handle(now, Input::Stalled { for_ns });
            }
            if now.0.saturating_sub(asleep.0) > IDLE_NS {
                self.engine.handle(now, Input::Idle { since: asleep });
            }
            self.take_again(now);
            for event in &events {
                self.on_event(now, event);
            }
        }
        self.tell(FromWorker::Ended(self.id));
        Ok(())
    }

    fn is_drained(&self) -> bool {
        self.engine.is_drained() && self.greetings.is_empty()
    }

    /// When the loop goes on though nothing happens: not before `now`.
    fn due(&self, now: Time, deadline: Option<Time>) -> Option<Time> {
        let pending = self.accept_again
            || !self.clients_again.is_empty()
            || !self.backends_again.is_empty()
            || self.greetings.is_behind();
        let deadlines = [deadline, self.accept_at, self.greetings.deadline()];
        if pending {
            return Some(now);
        }
        let due = deadlines.into_iter().flatten().min();
        due.map(|due| due.max(now))
    }

    /// How long the loop may wait; `None` is until something happens, which the timer is among.
    fn timeout(&mut self, now: Time, due: Option<Time>) -> io::Result<Option<Duration>> {
        if due == Some(now) {
            return Ok(Some(Duration::ZERO));
        }
        self.timer.set(now, due)?;
        Ok(None)
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

    fn count(&self, counter: Counter) {
        self.common.shared.counters[self.id.index()].add(counter, 1);
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
            Output::CloseClient(client) => self.close_client(now, client),
            Output::Check(client, credentials) => self.check(now, client, credentials),
            Output::Recopy(backend, keys) => self.tell(FromWorker::Recopy(backend, keys)),
            Output::Missed(backend, keys) => self.tell(FromWorker::Missed(backend, keys)),
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
        } else if token == TOKEN_TIMER {
            self.timer.went_off();
        } else if token.0 & TOKEN_LISTENER != 0 {
            self.accept(now, token.0 & !TOKEN_LISTENER);
        } else if token.0 & TOKEN_BACKEND != 0 {
            self.on_backend_event(now, token.0 & !TOKEN_BACKEND, event);
        } else if token.0 & TOKEN_GREETING != 0 {
            self.on_greeting_event(now, token.0 & !TOKEN_GREETING, event);
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
                    self.drop_greetings();
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
        self.go_on_greeting(now);
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

/// The engine's time: nanoseconds since the process began to serve.
pub(crate) fn time_since(started: Instant) -> Time {
    Time(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX))
}
