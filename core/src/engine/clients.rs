//! Client connections: when they are read, when held back, when closed.
//!
//! # Invariants
//!
//! - A client that has too much under way is not read: its bytes stay in its socket.
//! - After an error that loses the framing, after `quit` and after its end, nothing more is read; the client
//!   is closed when its last answer has left.
//! - An id is used again only when the caller has heard that its client is closed.
//!
//! Not here: what a request becomes (`start`), how answers leave (`replies`).

use std::collections::VecDeque;

use super::auth::{Login, Session};
use super::binary::Asked;
use super::exchange::{self, ExchangeId, Kind};
use super::send_queue::SendQueue;
use super::{ClientId, Engine, Output};
use crate::proto::binary::REQUEST_MAGIC;
use crate::proto::{self, Bad, GetVerb, ParseLimits, Parsed, ProtoError, Request, Told};
use crate::stats::Counter;
use crate::{Time, config};

/// One client connection.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not exclude each other"
)]
pub(crate) struct Client {
    pub(super) generation: u32,
    pub(super) open: bool,
    /// Bytes of unparsed requests that count as held memory.
    pub(super) counted: usize,
    /// What is owed, oldest first.
    pub(super) queue: VecDeque<ExchangeId>,
    /// Bytes that are not parsed yet: a part of a line, or more than may be under way.
    pub(super) inbox: Vec<u8>,
    pub(super) session: Session,
    pub(super) protocol: Protocol,
    /// The packet that is being read: the exchange that it becomes answers it.
    pub(super) asked: Option<Asked>,
    pub(super) reading: Reading,
    pub(super) unsent: SendQueue,
    /// Whether its last payload was large.
    pub(super) sends_large: bool,
    /// Moving average of its answers' bytes: bounds what it may have under way.
    pub(super) answer_len_average: usize,
    /// Whether bytes wait in `inbox` or in the socket because too much is under way.
    pub(super) held_back: bool,
    /// The turn in which it last began a request, and how many it has begun in it.
    begun_in: u64,
    begun: u64,
    /// Whether one of its requests since its queue was empty was for a lock (`lock_order`).
    pub(super) asked_for_lock: bool,
    /// Whether the client has sent its last byte.
    pub(super) ended: bool,
    pub(super) dirty: bool,
    /// The last batch for which clients took turns that holds a key of its (`gather`).
    pub(super) in_batch: u64,
}

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// How many there have been.
    count: u64,
    /// Clients that have had their share of this one and go on in the next.
    pub(super) yielded: Vec<ClientId>,
}

/// What a client speaks, for as long as it is connected: its first byte tells.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// It has not said anything.
    #[default]
    Unknown,
    /// Classic or meta, line by line.
    Text,
    Binary,
}

/// What the next byte is a part of.
#[derive(Debug, Default)]
pub(super) enum Reading {
    /// A request line, or the part of a packet before its value.
    #[default]
    Lines,
    /// A payload; `large` is where it goes if it is too large for the exchange's own buffer.
    Payload {
        exchange: ExchangeId,
        remaining: usize,
        large: Option<Vec<u8>>,
    },
    /// The payload of a refused request; `exchange` is answered behind it.
    Swallow {
        remaining: u64,
        exchange: Option<ExchangeId>,
    },
    /// The rest of a multi-key request that is larger than may be under way.
    Multiget(Box<Multiget>),
    /// Nothing: the client has quit, ended or lost its framing.
    Stopped,
}

#[derive(Debug)]
pub(super) struct Multiget {
    pub(super) verb: GetVerb,
    /// `Some` for gat and gats.
    pub(super) exptime: Option<Vec<u8>>,
    pub(super) keys: Vec<u8>,
    pub(super) done: usize,
}

impl Client {
    /// Whether `data` only makes a line longer that is a long multi-key get already. It is not parsed again
    /// and again from its start then.
    fn continues_long_line(&self, data: &[u8], limits: &ParseLimits) -> bool {
        matches!(self.reading, Reading::Lines)
            && !self.held_back
            && self.inbox.len() > limits.request_line_len_max
            && self.inbox.len() + data.len() < limits.get_line_len_max
            && memchr::memchr(b'\n', data).is_none()
    }

    /// What a client speaks whose next request begins with `byte`.
    fn speaks(&mut self, byte: u8) -> Protocol {
        if self.protocol == Protocol::Unknown {
            self.protocol = match byte {
                REQUEST_MAGIC => Protocol::Binary,
                _ => Protocol::Text,
            };
        }
        self.protocol
    }

    pub(crate) fn id_if_open(&self, index: usize) -> Option<ClientId> {
        let index = u32::try_from(index).expect("clients are indexed by u32");
        self.open.then_some(ClientId {
            index,
            generation: self.generation,
        })
    }
}

/// A line of this length is refused when memory is short.
const LONG_LINE_LEN: usize = 64 * 1024;

/// What a new client's answers are taken for is within these, in bytes: until they are known, 16 requests may be under way,
/// or 128 where others get small ones.
const ANSWER_LEN_FIRST_MIN: usize = 8 * 1024;
pub(super) const ANSWER_LEN_FIRST: usize = 64 * 1024;

impl Engine {
    /// A client has connected.
    ///
    /// # Panics
    ///
    /// If 2^32 clients are connected.
    pub fn open_client(&mut self) -> ClientId {
        let index = self.clients_free.pop().unwrap_or_else(|| {
            self.clients.push(Client::default());
            u32::try_from(self.clients.len() - 1).expect("clients are indexed by u32")
        });
        let client = &mut self.clients[index as usize];
        client.open = true;
        client.session = Session::new(self.users.as_ref());
        client.protocol = Protocol::Unknown;
        client.asked = None;
        client.reading = Reading::Lines;
        client.answer_len_average =
            (2 * self.answer_len_average).clamp(ANSWER_LEN_FIRST_MIN, ANSWER_LEN_FIRST);
        client.sends_large = false;
        self.clients_open += 1;
        let id = ClientId {
            index,
            generation: client.generation,
        };
        self.count(Counter::ClientsOpened);
        if self.draining {
            self.stop_reading(id);
        }
        id
    }

    /// Whether bytes of this client may be handed in. If not, [`Output::ReadClient`] says when.
    #[must_use]
    pub fn wants_client_data(&self, id: ClientId) -> bool {
        self.client(id).is_some_and(|client| !client.held_back)
    }

    /// `count` bytes have been written to this client.
    pub fn client_sent(&mut self, id: ClientId, count: usize) {
        let Self {
            clients,
            pool,
            memory_len,
            ..
        } = self;
        let client = &mut clients[id.index as usize];
        if client.generation != id.generation {
            return;
        }
        client.unsent.consume(count, pool);
        *memory_len -= count as u64;
        self.counters().add(Counter::BytesWritten, count as u64);
        // A client that was held back, or that only waited for its last byte, goes on in the next turn end.
        let client = &self.clients[id.index as usize];
        if client.held_back || matches!(client.reading, Reading::Stopped) {
            self.touch_client(id);
        }
    }

    pub(super) fn client(&self, id: ClientId) -> Option<&Client> {
        self.clients
            .get(id.index as usize)
            .filter(|client| client.generation == id.generation)
    }

    pub(super) fn client_mut(&mut self, id: ClientId) -> Option<&mut Client> {
        self.clients
            .get_mut(id.index as usize)
            .filter(|client| client.generation == id.generation)
    }

    pub(super) fn touch_client(&mut self, id: ClientId) {
        let client = &mut self.clients[id.index as usize];
        if !std::mem::replace(&mut client.dirty, true) {
            self.dirty_clients.push(id);
        }
    }

    pub(super) fn on_client_data(&mut self, now: Time, id: ClientId, data: &[u8]) {
        self.counters().add(Counter::BytesRead, data.len() as u64);
        self.take_client_data(now, id, data);
    }

    pub(super) fn take_client_data(&mut self, now: Time, id: ClientId, data: &[u8]) {
        let limits = self.parse_limits;
        let Some(client) = self.client_mut(id) else {
            return;
        };
        if client.inbox.is_empty() {
            let used = self.read_requests(now, id, data);
            if let Some(client) = self.client_mut(id) {
                client.inbox.extend_from_slice(&data[used..]);
            }
        } else {
            let continues = client.continues_long_line(data, &limits);
            client.inbox.extend_from_slice(data);
            if !continues {
                self.read_inbox(now, id);
            }
        }
        self.count_inbox(id);
        self.refuse_long_line_if_short(id);
        self.close_if_over(id);
    }

    /// Counts the requests that are not parsed as memory.
    fn count_inbox(&mut self, id: ClientId) {
        let Self {
            clients,
            memory_len,
            ..
        } = self;
        let client = &mut clients[id.index as usize];
        let keys_len = match &client.reading {
            Reading::Multiget(multiget) => multiget.keys.len(),
            Reading::Lines
            | Reading::Payload { .. }
            | Reading::Swallow { .. }
            | Reading::Stopped => 0,
        };
        let len = client.inbox.len() + keys_len;
        *memory_len = *memory_len - client.counted as u64 + len as u64;
        client.counted = len;
    }

    /// When memory is short, a line that has grown long is not waited for.
    fn refuse_long_line_if_short(&mut self, id: ClientId) {
        let short = self.memory_len > self.memory_len_max;
        let long = |client: &Client| client.inbox.len() > LONG_LINE_LEN && !client.held_back;
        if short && self.client(id).is_some_and(long) {
            self.count(Counter::MemoryRefusals);
            let bad = Bad {
                error: ProtoError::LineTooLong,
                used: 0,
                swallow: 0,
                told: Told::Yes,
            };
            self.refuse_request(id, bad);
        }
    }

    pub(super) fn read_inbox(&mut self, now: Time, id: ClientId) {
        let Some(client) = self.client_mut(id) else {
            return;
        };
        let mut inbox = std::mem::take(&mut client.inbox);
        let used = self.read_requests(now, id, &inbox);
        inbox.drain(..used);
        if let Some(client) = self.client_mut(id) {
            client.inbox = inbox;
            if client.inbox.is_empty() {
                // An idle connection holds no buffer.
                client.inbox = Vec::new();
            }
            self.count_inbox(id);
        }
    }

    pub(super) fn on_client_end(&mut self, id: ClientId) {
        let Some(client) = self.client_mut(id) else {
            return;
        };
        client.ended = true;
        self.stop_reading_if_ended(id);
    }

    /// After a client's end, what it asked for completely is answered; a request cut short is not one.
    pub(super) fn stop_reading_if_ended(&mut self, id: ClientId) {
        if self
            .client(id)
            .is_some_and(|client| client.ended && !client.held_back)
        {
            self.stop_reading(id);
        }
    }

    /// Reads nothing more from this client; it is closed when its answers have left.
    pub(super) fn stop_reading(&mut self, id: ClientId) {
        let Some(client) = self.client_mut(id) else {
            return;
        };
        client.inbox = Vec::new();
        client.held_back = false;
        client.ended = false;
        match std::mem::replace(&mut client.reading, Reading::Stopped) {
            Reading::Payload { exchange, .. } => self.drop_unfinished(id, exchange),
            Reading::Swallow {
                exchange: Some(exchange),
                ..
            } => self.drop_unfinished(id, exchange),
            Reading::Swallow { exchange: None, .. }
            | Reading::Lines
            | Reading::Multiget(_)
            | Reading::Stopped => {}
        }
        self.count_inbox(id);
        self.touch_client(id);
        self.close_if_over(id);
    }

    /// Drops the newest exchange of a client: its request never became complete.
    pub(super) fn drop_unfinished(&mut self, id: ClientId, exchange: ExchangeId) {
        if let Some(client) = self.client_mut(id) {
            let newest = client.queue.pop_back();
            assert!(
                newest == Some(exchange),
                "only the newest exchange is unfinished"
            );
            self.clients_waiting -= u64::from(client.queue.is_empty());
        }
        self.free_payload(exchange);
        self.release(exchange);
    }

    pub(super) fn on_client_lost(&mut self, id: ClientId) {
        if self.client(id).is_some() {
            self.close_client(id);
        }
    }

    pub(super) fn close_client(&mut self, id: ClientId) {
        let Self {
            clients,
            pool,
            memory_len,
            ..
        } = self;
        let client = &mut clients[id.index as usize];
        *memory_len -= (client.unsent.len() + std::mem::take(&mut client.counted)) as u64;
        client.unsent.clear(pool);
        client.inbox = Vec::new();
        client.reading = Reading::Stopped;
        client.held_back = false;
        client.ended = false;
        // The list of touched clients still has the old id, which then names nobody.
        client.dirty = false;
        client.open = false;
        client.session = Session::default();
        client.generation += 1;
        let queue = std::mem::take(&mut client.queue);
        self.clients_waiting -= u64::from(!queue.is_empty());
        for exchange in queue {
            self.exchanges.unlink(exchange);
            self.exchanges[exchange].client = None;
            self.exchanges[exchange].done = true;
            if self.exchanges[exchange].kind == Kind::Upload {
                self.free_payload(exchange);
            }
            // A number that is still compared with its copy is kept until then.
            if self.exchanges[exchange].kind != Kind::Write {
                self.drop_reply(exchange);
            }
            self.release(exchange);
        }
        self.clients_open -= 1;
        self.count(Counter::ClientsClosed);
        self.outputs.push_back(Output::CloseClient(id));
    }

    pub(super) fn close_if_over(&mut self, id: ClientId) {
        let Some(client) = self.client(id) else {
            return;
        };
        let stopped = matches!(client.reading, Reading::Stopped);
        if stopped && client.queue.is_empty() && client.unsent.is_empty() {
            self.close_client(id);
        }
    }

    /// At the end of a turn: what a touched client needs.
    pub(super) fn finish_client_turn(&mut self, id: ClientId) {
        let unread_max = self.limits.client_unread_len_max;
        let Some(client) = self.client_mut(id) else {
            return;
        };
        client.dirty = false;
        if client.unsent.len() as u64 > unread_max {
            self.count(Counter::ClientsOverrun);
            self.close_client(id);
            return;
        }
        if client.unsent.is_empty() {
            self.close_if_over(id);
        } else {
            self.outputs.push_back(Output::WriteClient(id));
        }
    }

    /// Clients that were held back go on with what they have sent. Those that have had their share of this turn
    /// wait for the next.
    pub(super) fn resume_clients(&mut self, now: Time) {
        self.turns.count += 1;
        let mut yielded = std::mem::take(&mut self.turns.yielded);
        for id in yielded.drain(..) {
            if self.client(id).is_some() {
                self.touch_client(id);
            }
        }
        yielded.append(&mut self.turns.yielded);
        self.turns.yielded = yielded;
        for position in 0..self.dirty_clients.len() {
            let id = self.dirty_clients[position];
            if !self.client(id).is_some_and(|client| client.held_back) || !self.may_start(id) {
                continue;
            }
            self.clients[id.index as usize].held_back = false;
            self.read_inbox(now, id);
            self.stop_reading_if_ended(id);
            if self.wants_client_data(id) {
                self.outputs.push_back(Output::ReadClient(id));
            }
            self.close_if_over(id);
        }
    }

    /// One more request of this client begins.
    pub(super) fn count_begun(&mut self, id: ClientId) {
        let turn = self.turns.count;
        if let Some(client) = self.client_mut(id) {
            if std::mem::replace(&mut client.begun_in, turn) != turn {
                client.begun = 0;
            }
            client.begun += 1;
        }
    }

    /// Whether this client has had its share of the turn.
    fn has_had_its_turn(&self, client: &Client) -> bool {
        client.begun_in == self.turns.count && client.begun >= self.limits.requests_per_turn_max
    }

    /// This client is not read until [`Self::may_start`] says so again.
    fn hold_back(&mut self, id: ClientId) {
        let client = &self.clients[id.index as usize];
        // No answer may come that would make the engine look at it again.
        if self.has_had_its_turn(client) {
            self.turns.yielded.push(id);
        }
        self.clients[id.index as usize].held_back = true;
    }

    /// Whether one more request of this client may be under way.
    pub(super) fn may_start(&self, id: ClientId) -> bool {
        self.client(id).is_some_and(|client| {
            let about_to_come = client.queue.len() * client.answer_len_average;
            let unread = (client.unsent.len() + about_to_come) as u64;
            !matches!(client.session.login, Login::Checking(_))
                && (client.queue.len() as u64) < self.limits.requests_in_flight_max
                && unread < self.limits.client_unread_len_pause
                && !self.has_had_its_turn(client)
                && (!self.is_full() || client.queue.is_empty())
        })
    }

    /// Whether as many requests are under way as may be, or take all the memory that they may.
    fn is_full(&self) -> bool {
        let count = self.exchanges.len();
        self.memory_len >= self.memory_len_max
            || count as u64 >= self.limits.requests_under_way_max
            || count >= exchange::count_within(self.memory_len_max / 3)
    }

    /// Makes exchanges of `data`; yields how many bytes it used.
    pub(super) fn read_requests(&mut self, now: Time, id: ClientId, data: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let Some(client) = self.client_mut(id) else {
                return data.len();
            };
            let rest = &data[used..];
            match &mut client.reading {
                Reading::Stopped => return data.len(),
                Reading::Payload { .. } => {
                    if rest.is_empty() {
                        return used;
                    }
                    used += self.read_payload(now, id, rest);
                }
                Reading::Swallow {
                    remaining,
                    exchange,
                } => {
                    let count = (rest.len() as u64).min(*remaining);
                    *remaining -= count;
                    let (over, exchange) = (*remaining == 0, *exchange);
                    used += usize::try_from(count).expect("at most the length of a slice");
                    if !over {
                        return used;
                    }
                    client.reading = Reading::Lines;
                    if let Some(exchange) = exchange {
                        self.complete(exchange);
                    }
                }
                Reading::Multiget(_) => {
                    self.continue_multiget(now, id);
                    let client = &self.clients[id.index as usize];
                    if matches!(client.reading, Reading::Multiget(_)) {
                        self.hold_back(id);
                        return used;
                    }
                }
                Reading::Lines => {
                    if rest.is_empty() {
                        return used;
                    }
                    if !self.may_start(id) {
                        self.hold_back(id);
                        // It is looked at again at the end of every turn in which it is touched.
                        return used;
                    }
                    self.count_begun(id);
                    let client = &mut self.clients[id.index as usize];
                    let request = match client.speaks(rest[0]) {
                        Protocol::Binary => self.read_packet(now, id, rest),
                        Protocol::Text | Protocol::Unknown if self.is_stranger(id) => {
                            self.read_login(id, rest)
                        }
                        Protocol::Text | Protocol::Unknown => self.read_line(now, id, rest),
                    };
                    match request {
                        Some(len) => used += len,
                        None => return used,
                    }
                }
            }
        }
    }

    /// Makes exchanges of the line at the start of `data`; yields how many bytes it used, or `None` if it has to
    /// wait.
    fn read_line(&mut self, now: Time, id: ClientId, data: &[u8]) -> Option<usize> {
        match proto::parse_request(data, &self.parse_limits) {
            Parsed::NeedMore => None,
            // It concerns every key, so it must not overtake a write that waits for its key.
            Parsed::Item {
                item: Request::FlushAll { .. },
                ..
            } if self.owes(id) => {
                self.clients[id.index as usize].held_back = true;
                None
            }
            Parsed::Item { item, .. } if self.request_waits_for_lock(id, &item) => None,
            Parsed::Item { item, used } => {
                self.start(now, id, &item);
                Some(used)
            }
            Parsed::Bad(bad) => {
                self.refuse_request(id, bad);
                Some(bad.used)
            }
        }
    }

    /// Whether the client waits for answers.
    pub(super) fn owes(&self, id: ClientId) -> bool {
        self.client(id)
            .is_some_and(|client| !client.queue.is_empty())
    }

    /// Answers a request that was not understood.
    pub(super) fn refuse_request(&mut self, id: ClientId, bad: Bad) {
        self.count(Counter::ProtocolErrors);
        let exchange = match bad.told {
            Told::Yes => {
                let exchange = self.admit(id, Kind::Local);
                self.exchanges[exchange]
                    .reply
                    .extend_from_slice(bad.error.wire());
                Some(exchange)
            }
            Told::No => {
                self.count(Counter::NoreplyErrors);
                None
            }
        };
        if bad.swallow > 0 {
            let client = &mut self.clients[id.index as usize];
            client.reading = Reading::Swallow {
                remaining: bad.swallow,
                exchange,
            };
            return;
        }
        if let Some(exchange) = exchange {
            self.complete(exchange);
        }
        if !bad.error.keeps_framing() {
            self.stop_reading(id);
        }
    }

    /// A new exchange at the end of a client's queue.
    pub(super) fn admit(&mut self, id: ClientId, kind: Kind) -> ExchangeId {
        let exchange = self.exchanges.insert();
        let this = &mut self.exchanges[exchange];
        this.client = Some(id);
        this.kind = kind;
        let client = &mut self.clients[id.index as usize];
        this.asked = client.asked;
        this.prefix_len = client.prefix_len();
        this.part = client.asked.is_some_and(Asked::is_part);
        self.clients_waiting += u64::from(client.queue.is_empty());
        client.queue.push_back(exchange);
        exchange
    }
}

const _: () = assert!(config::BACKENDS_MAX <= u16::MAX as usize);
