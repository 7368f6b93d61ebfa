//! Connections that the engine does not know: those that have not come to their first request, because a PROXY header
//! or a TLS handshake comes before it, and those that are closed as soon as their last answer has left.
//!
//! ```text
//! accepted -> Header -> Hello -> Handshake -> client of the engine -> Farewell -> closed
//!             PROXY     TLS or plain text?                            only if TLS holds something back
//! ```
//!
//! # Invariants
//!
//! - Each ends within `handshake_ms`, and there are at most `handshakes_max` of them. One more closes the oldest: who
//!   stalls on purpose is the oldest, and keeps nobody out.
//! - A turn does a few steps of handshakes at most, since each can cost a signature; the others wait for the next
//!   turn, and clients that are served wait for a few.
//! - Until the handshake nothing is taken from the socket but a header that is complete.
//!
//! Not here: what a PROXY header looks like (`magent_core::proto::proxy_header`), certificates (`crate::tls`).

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use magent_core::Time;
use magent_core::config::Limits;
use magent_core::proto::Parsed;
use magent_core::proto::proxy_header::{self, Source};
use magent_core::stats::Counter;
use mio::Token;
use mio::event::Event;
use mio::net::TcpStream;

use super::clients::Client;
use super::stream::Stream;
use super::tls::TlsStream;
use super::trouble::{TLS_HELLO, Trouble};
use super::{TOKEN_GREETING, Worker};
use crate::listen::{Greeting, ProxyHeader, Tls};
use crate::tls::clients::explain;
use crate::tls::tls_error;

/// Steps of greetings in a turn. A signature takes from 0.05 ms (an elliptic curve) to 1 ms (RSA).
const STEPS_PER_TURN: usize = 8;

/// Told to whoever speaks no TLS where it is spoken.
const EXPECTS_TLS: &[u8] = b"CLIENT_ERROR this port expects TLS\r\n";

/// See the module's page.
pub(super) struct Greetings {
    /// By order of arrival, which is that of their deadlines too.
    waiting: BTreeMap<usize, Waiting>,
    arrivals: usize,
    /// Those whose events came when the turn had done enough.
    behind: VecDeque<usize>,
    steps_left: usize,
    count_max: usize,
    limit_ms: u64,
}

struct Waiting {
    stage: Stage,
    peer: Option<SocketAddr>,
    greeting: Greeting,
    deadline: Time,
    /// Whether the kernel has said that nothing more will come.
    ending: bool,
}

enum Stage {
    Header(TcpStream),
    Hello(TcpStream),
    Handshake(Box<TlsStream>),
    Farewell(Stream),
}

/// What comes of a step.
enum Next {
    Wait(Stage),
    Go(Stage),
    Admit(Stream),
    Close(Stream),
}

impl Greetings {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            waiting: BTreeMap::new(),
            arrivals: 0,
            behind: VecDeque::new(),
            steps_left: STEPS_PER_TURN,
            count_max: usize::try_from(limits.handshakes_max).unwrap_or(usize::MAX),
            limit_ms: limits.handshake_ms,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether some could go on at once.
    pub(super) fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// When the first has waited long enough.
    pub(super) fn deadline(&self) -> Option<Time> {
        let (_, oldest) = self.waiting.first_key_value()?;
        Some(oldest.deadline)
    }
}

impl Worker {
    /// A connection that begins with something else than a request has been accepted.
    pub(super) fn greet(
        &mut self,
        now: Time,
        stream: TcpStream,
        peer: SocketAddr,
        greeting: Greeting,
    ) {
        let stage = match greeting.proxy_header {
            ProxyHeader::NotExpected => Stage::Hello(stream),
            ProxyHeader::Required => {
                let ip = peer.ip().to_canonical();
                if !self
                    .common
                    .trusted_proxies
                    .iter()
                    .any(|net| net.contains(&ip))
                {
                    let why = "a PROXY header is not taken from its address; --proxy-protocol-from names those that are";
                    self.refuse_header(now, Some(peer), why);
                    self.dismiss(Stream::Tcp(stream));
                    return;
                }
                Stage::Header(stream)
            }
        };
        self.add_greeting(now, stage, Some(peer), greeting);
    }

    /// A client whose last answers TLS has taken and the kernel not yet.
    pub(super) fn see_off(&mut self, now: Time, client: Client) {
        let stage = Stage::Farewell(client.stream);
        self.add_greeting(now, stage, client.peer, Greeting::default());
    }

    fn add_greeting(
        &mut self,
        now: Time,
        mut stage: Stage,
        peer: Option<SocketAddr>,
        greeting: Greeting,
    ) {
        while self.greetings.waiting.len() >= self.greetings.count_max {
            let why = "its handshake made room for others (handshakes_max)";
            self.end_oldest(now, Trouble::Crowded, why);
        }
        self.greetings.arrivals = (self.greetings.arrivals + 1) % TOKEN_GREETING;
        let number = self.greetings.arrivals;
        let token = Token(TOKEN_GREETING | number);
        let registry = self.poll.registry();
        let registered = match &mut stage {
            Stage::Header(stream) | Stage::Hello(stream) => {
                registry.register(stream, token, super::stream::INTEREST)
            }
            Stage::Handshake(stream) => {
                registry.register(&mut stream.socket, token, super::stream::INTEREST)
            }
            Stage::Farewell(stream) => stream.reregister(&self.poll, token),
        };
        if let Err(err) = registered {
            tracing::error!("cannot watch a client: {err}");
            self.dismiss(stage.into_stream());
            return;
        }
        let waiting = Waiting {
            stage,
            peer,
            greeting,
            deadline: now.after_ms(self.greetings.limit_ms),
            ending: false,
        };
        self.greetings.waiting.insert(number, waiting);
    }

    pub(super) fn on_greeting_event(&mut self, now: Time, number: usize, event: &Event) {
        let Some(waiting) = self.greetings.waiting.get_mut(&number) else {
            return;
        };
        waiting.ending |= event.is_read_closed() || event.is_error();
        if self.greetings.steps_left == 0 {
            self.greetings.behind.push_back(number);
        } else {
            self.greetings.steps_left -= 1;
            self.go_on_with(now, number);
        }
    }

    /// At the beginning of a turn: those that were put off, and those that have waited too long.
    #[inline]
    pub(super) fn go_on_greeting(&mut self, now: Time) {
        // As in nearly every turn.
        if !self.greetings.is_empty() {
            self.go_on_with_all(now);
        }
    }

    fn go_on_with_all(&mut self, now: Time) {
        self.greetings.steps_left = STEPS_PER_TURN;
        while self.greetings.steps_left > 0
            && let Some(number) = self.greetings.behind.pop_front()
        {
            self.greetings.steps_left -= 1;
            self.go_on_with(now, number);
        }
        while self.greetings.deadline().is_some_and(|at| at <= now) {
            let why = "its handshake took too long (handshake_ms)";
            self.end_oldest(now, Trouble::TooSlow, why);
        }
    }

    /// Nobody new is served any more. Last answers may still leave.
    pub(super) fn drop_greetings(&mut self) {
        let waiting = std::mem::take(&mut self.greetings.waiting);
        for (number, waiting) in waiting {
            match waiting.stage {
                Stage::Farewell(_) => {
                    self.greetings.waiting.insert(number, waiting);
                }
                stage @ (Stage::Header(_) | Stage::Hello(_) | Stage::Handshake(_)) => {
                    self.dismiss(stage.into_stream());
                }
            }
        }
    }

    fn end_oldest(&mut self, now: Time, trouble: Trouble, why: &str) {
        let Some((_, oldest)) = self.greetings.waiting.pop_first() else {
            return;
        };
        match &oldest.stage {
            Stage::Farewell(_) => {}
            Stage::Header(_) => {
                self.refuse_header(now, oldest.peer, "no PROXY header came in time");
            }
            Stage::Hello(_) | Stage::Handshake(_) => {
                self.count(Counter::TlsFailures);
                self.complain(now, oldest.peer, trouble, why);
            }
        }
        self.dismiss(oldest.stage.into_stream());
    }

    /// Closes a connection that is none of the engine's.
    fn dismiss(&mut self, stream: Stream) {
        stream.close(&mut self.buffers);
        self.common.clients_open.fetch_sub(1, Ordering::Relaxed);
    }

    fn go_on_with(&mut self, now: Time, number: usize) {
        let Some(mut waiting) = self.greetings.waiting.remove(&number) else {
            return;
        };
        loop {
            let next = match waiting.stage {
                Stage::Header(stream) => {
                    let (greeting, ending) = (waiting.greeting, waiting.ending);
                    self.take_header(now, stream, &mut waiting.peer, greeting, ending)
                }
                Stage::Hello(stream) => self.tell_tls(now, stream, waiting.peer, waiting.ending),
                Stage::Handshake(stream) => self.shake_hands(now, stream, waiting.peer),
                Stage::Farewell(mut stream) => match stream.flush() {
                    Err(err) if err.kind() == ErrorKind::WouldBlock => {
                        Next::Wait(Stage::Farewell(stream))
                    }
                    Ok(()) | Err(_) => Next::Close(stream),
                },
            };
            match next {
                Next::Go(stage) => waiting.stage = stage,
                Next::Wait(stage) => {
                    waiting.stage = stage;
                    self.greetings.waiting.insert(number, waiting);
                    return;
                }
                Next::Admit(stream) => return self.admit_greeted(stream, waiting.peer),
                Next::Close(stream) => return self.dismiss(stream),
            }
        }
    }

    fn admit_greeted(&mut self, mut stream: Stream, peer: Option<SocketAddr>) {
        let id = self.engine.open_client();
        let registered = stream.reregister(&self.poll, Token(id.index as usize));
        self.admit(Client::new(id, stream, peer), registered);
        // TLS may have decrypted the first request together with the end of the handshake.
        self.clients_again.push(id);
    }

    fn take_header(
        &mut self,
        now: Time,
        mut stream: TcpStream,
        peer: &mut Option<SocketAddr>,
        greeting: Greeting,
        ending: bool,
    ) -> Next {
        let buffer = &mut self.buffers.plain[..proxy_header::HEADER_LEN_MAX];
        let why = match peek(&stream, buffer) {
            Ok(len) => match proxy_header::parse(&buffer[..len]) {
                Parsed::NeedMore if !ending => return Next::Wait(Stage::Header(stream)),
                Parsed::NeedMore => "closed before its PROXY header was complete".to_owned(),
                Parsed::Bad(err) => format!("{err}, where one is expected"),
                Parsed::Item { item, used } => match stream.read_exact(&mut buffer[..used]) {
                    Ok(()) => {
                        if let Source::Client(source) = item {
                            *peer = Some(source);
                        }
                        return match greeting.tls {
                            Tls::Spoken => Next::Go(Stage::Hello(stream)),
                            Tls::NotSpoken => Next::Admit(Stream::Tcp(stream)),
                        };
                    }
                    Err(err) => err.to_string(),
                },
            },
            Err(err) => err.to_string(),
        };
        self.refuse_header(now, *peer, &why);
        Next::Close(Stream::Tcp(stream))
    }

    fn refuse_header(&mut self, now: Time, peer: Option<SocketAddr>, why: &str) {
        self.count(Counter::ProxyRefusals);
        self.complain(now, peer, Trouble::ProxyRefused, why);
    }

    /// Looks at the first bytes: who speaks no TLS is told so in words that it understands.
    fn tell_tls(
        &mut self,
        now: Time,
        mut stream: TcpStream,
        peer: Option<SocketAddr>,
        ending: bool,
    ) -> Next {
        let mut start = [0; TLS_HELLO.len()];
        let trouble = match peek(&stream, &mut start) {
            // A port scan, a health check: not worth a word.
            Ok(0) if ending => return Next::Close(Stream::Tcp(stream)),
            Ok(len) if start[..len] == TLS_HELLO[..len] => {
                if len < start.len() && !ending {
                    return Next::Wait(Stage::Hello(stream));
                }
                match self.begin_tls() {
                    Ok(tls) => {
                        let stream = Box::new(TlsStream::new(stream, tls));
                        return Next::Go(Stage::Handshake(stream));
                    }
                    Err(err) => (Trouble::TlsFailed, err.to_string()),
                }
            }
            Ok(_) => {
                // If it does not take it, there is nobody to tell.
                drop(stream.write(EXPECTS_TLS));
                (Trouble::PlainOnTls, String::new())
            }
            Err(err) => (Trouble::TlsFailed, err.to_string()),
        };
        self.count(Counter::TlsFailures);
        self.complain(now, peer, trouble.0, trouble.1);
        Next::Close(Stream::Tcp(stream))
    }

    fn begin_tls(&self) -> Result<rustls::ServerConnection, rustls::Error> {
        match &self.common.tls.clients {
            Some(tls) => tls.accept(),
            None => Err(rustls::Error::General("no certificate".to_owned())),
        }
    }

    fn shake_hands(
        &mut self,
        now: Time,
        mut stream: Box<TlsStream>,
        peer: Option<SocketAddr>,
    ) -> Next {
        match stream.handshake() {
            Ok(false) => Next::Wait(Stage::Handshake(stream)),
            Ok(true) => {
                self.count(Counter::TlsHandshakes);
                if stream.is_resumed() {
                    self.count(Counter::TlsResumed);
                }
                Next::Admit(Stream::Tls(stream))
            }
            Err(err) => {
                self.count(Counter::TlsFailures);
                let why = tls_error(&err).map_or_else(|| err.to_string(), explain);
                self.complain(now, peer, Trouble::TlsFailed, why);
                Next::Close(Stream::Tls(stream))
            }
        }
    }
}

impl Stage {
    fn into_stream(self) -> Stream {
        match self {
            Self::Header(stream) | Self::Hello(stream) => Stream::Tcp(stream),
            Self::Handshake(stream) => Stream::Tls(stream),
            Self::Farewell(stream) => stream,
        }
    }
}

/// What has come, without taking it; 0 if nothing has, or nothing will.
fn peek(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.peek(buffer) {
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(0),
            peeked => return peeked,
        }
    }
}
