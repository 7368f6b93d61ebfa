//! Clients: they ask, read at their own pace, leave in the middle, and look closely at what they get.
//!
//! Not here: what they ask (`workload`), what is a right answer (`answers`, `check`).

use magent_core::Time;
use magent_core::stats::Counter;
use magent_node::{Next, Session, Store, StoreConfig};

use crate::answers::{Answer, Expected};
use crate::binary::speaks_binary;
use crate::check::{Reader, Violation, violation};
use crate::memcached::ITEM_LEN_MAX;
use crate::network::{Closed, End, Handle, Link, LinkId, Peer};
use crate::options::Faults;
use crate::shapes::Shape;
use crate::workload::{Effect, KeyKind, Maker, Op, Outcome, Quiet, Verb};
use crate::world::{Event, World};

/// One client, with at most one connection at a time.
#[derive(Debug)]
pub(crate) struct Client {
    pub link: Option<LinkId>,
    /// Connections are counted over all clients.
    connection: u32,
    proxy: usize,
    pub requests_left: usize,
    pub expected: Expected,
    inbox: Vec<u8>,
    /// By key: a CAS token that was seen, and the request that wrote its value.
    tokens: Vec<Option<(u64, Option<u32>)>>,
    /// Whether it reads little and late.
    pub slow: bool,
    /// Whether it has said that it will ask no more on this connection.
    ended: bool,
    pub scheduled: bool,
    /// Whether it is driven by a scenario: it asks nothing by itself and its answers are kept.
    pub manual: bool,
    pub received: Vec<u8>,
    pub closed: Option<Closed>,
    reference: Option<Reference>,
}

/// A single memcached that is asked the same.
#[derive(Debug)]
struct Reference {
    store: Store,
    session: Session,
    /// What it answered that the client was not told yet.
    answers: Vec<u8>,
}

impl Client {
    pub(crate) fn new(keys: usize, requests: usize, slow: bool, private: bool) -> Self {
        let reference = private.then(|| Reference {
            store: Store::new(StoreConfig {
                item_len_max: ITEM_LEN_MAX,
                ..StoreConfig::default()
            }),
            session: Session::new(),
            answers: Vec::new(),
        });
        Self {
            link: None,
            connection: 0,
            proxy: 0,
            requests_left: requests,
            expected: Expected::default(),
            inbox: Vec::new(),
            tokens: vec![None; keys],
            slow,
            ended: false,
            scheduled: false,
            manual: false,
            received: Vec::new(),
            closed: None,
            reference,
        }
    }
}

impl World {
    /// A client does what it does next: read, then ask.
    pub(crate) fn run_client(&mut self, index: usize) {
        self.clients[index].scheduled = false;
        if let Err(found) = self.client_reads(index) {
            self.fail(found);
            return;
        }
        if self.clients[index].manual {
            return;
        }
        if self.clients[index].link.is_none() {
            if self.clients[index].requests_left == 0 || self.is_calm {
                return;
            }
            if self.slots.iter().all(Option::is_none) {
                // No proxy runs.
                self.wake_client(index, 1_000);
                return;
            }
            self.connect_client(index, None);
        }
        self.client_asks(index);
    }

    /// Gives a client a connection to this worker, or to any, of any proxy.
    pub(crate) fn connect_client(&mut self, index: usize, worker: Option<usize>) -> LinkId {
        let running: Vec<usize> = self.slots.iter().flatten().copied().collect();
        let proxy = self.rng.pick(&running);
        self.connect_client_to(index, proxy, worker)
    }

    /// Gives a client a connection to this proxy.
    pub(crate) fn connect_client_to(
        &mut self,
        index: usize,
        proxy: usize,
        worker: Option<usize>,
    ) -> LinkId {
        let any = if self.options.shape == Shape::Late {
            index % self.options.workers
        } else {
            self.rng.index(self.options.workers)
        };
        let worker = worker.unwrap_or(any);
        let room = self.rng.pick(&[2_048, 16_384, 1 << 20]);
        let link = Link::new(
            (proxy, worker),
            Peer::Client(index),
            Handle::Unaccepted,
            usize::MAX,
            room,
        );
        let id = self.add_link(link);
        self.connections += 1;
        let client = &mut self.clients[index];
        client.link = Some(id);
        client.connection = self.connections;
        client.proxy = proxy;
        client.ended = false;
        client.inbox.clear();
        client.closed = None;
        self.ready(id);
        id
    }

    fn client_asks(&mut self, index: usize) {
        let client = &self.clients[index];
        let Some(link) = client.link else { return };
        if client.ended {
            return;
        }
        if client.requests_left == 0 || self.is_calm {
            if client.expected.len() == 0 {
                self.leave(index);
            }
            return;
        }
        let room = self.options.depth_max.saturating_sub(client.expected.len());
        let count = self
            .rng
            .between(0, room as u64)
            .min(client.requests_left as u64);
        let mut bytes = Vec::new();
        let mut quiet = false;
        // An opaque says whose an answer is, errors included.
        let binary = speaks_binary(&self.options, index);
        for _ in 0..count {
            let mut start = bytes.len();
            let mut op = self.make(index, &mut bytes, |maker| maker.make());
            if quiet && op.quiet == Quiet::No && !binary {
                // Errors do not say whose they are, so a row of quiet requests ends with one that has none.
                bytes.truncate(start);
                self.invoke_noop(index, &mut bytes);
                start = bytes.len();
                op = self.make(index, &mut bytes, |maker| maker.make());
            }
            quiet = op.quiet == Quiet::Meta || (quiet && op.quiet == Quiet::Noreply);
            self.invoke(index, op, &bytes[start..]);
        }
        if quiet {
            self.invoke_noop(index, &mut bytes);
        }
        self.clients[index].requests_left -= usize::try_from(count).unwrap_or(0);
        let leaves = count > 0 && self.rng.per_mille(self.options.disconnect_per_mille);
        // What a broken connection had still asked for is unknown, to the reference too.
        if leaves && !self.options.private && self.rng.chance(30) {
            self.break_off(index, link, bytes);
            return;
        }
        self.ask_reference(index, &bytes);
        self.send(link, End::Proxy, &bytes);
        if leaves {
            // It closes its half: what it asked for is still to be answered.
            self.clients[index].ended = true;
            self.close_direction(link, End::Proxy, Closed::Fin);
        }
        let pause = match self.rng.below(10) {
            0 => self.rng.below(20_000),
            1..=3 => self.rng.below(2_000),
            _ => self.rng.below(300),
        };
        // So that the whole time is used, whatever the number of requests.
        let spread = self.options.busy_ms * 1_000 / (self.options.requests as u64 + 1);
        let pause = pause + self.rng.below(2 * spread * count + 1);
        self.wake_client(index, pause.max(1));
    }

    /// Makes a request; its bytes are appended.
    pub(crate) fn make(
        &mut self,
        index: usize,
        bytes: &mut Vec<u8>,
        how: impl FnOnce(&mut Maker<'_>) -> Op,
    ) -> Op {
        let id = u32::try_from(self.history.ops.len()).expect("runs are short");
        let mut maker = Maker {
            rng: &mut self.rng,
            options: &self.options,
            keys: &self.history.keys,
            client: index,
            id,
            tokens: &self.clients[index].tokens,
            out: bytes,
        };
        how(&mut maker)
    }

    fn invoke_noop(&mut self, index: usize, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        let op = self.make(index, bytes, |maker| maker.make_noop());
        self.invoke(index, op, &bytes[start..]);
    }

    /// Notes that a client asks.
    pub(crate) fn invoke(&mut self, index: usize, mut op: Op, bytes: &[u8]) {
        op.invoked = self.now;
        op.connection = self.clients[index].connection;
        op.proxy = self.clients[index].proxy;
        if self.trace.verbose {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let first = text.lines().next().unwrap_or_default();
            let line = format!("#{} asks {}: {first}", op.connection, op.id);
            self.note_state(&format!("client {index}"), &line);
        }
        if op.quiet == Quiet::Noreply {
            op.outcome = Outcome::Unknown;
        } else {
            self.clients[index].expected.push(&op);
        }
        self.history.invoke(op);
    }

    /// The client goes away; its last request may be cut in the middle.
    fn break_off(&mut self, index: usize, link: LinkId, mut bytes: Vec<u8>) {
        let cut = self.rng.index(bytes.len().max(1));
        bytes.truncate(cut);
        self.send(link, End::Proxy, &bytes);
        let closed = self.rng.pick(&[Closed::Fin, Closed::Reset]);
        self.close_direction(link, End::Proxy, closed);
        self.hang_up(index);
    }

    /// Everything was answered, or the scenario says so.
    fn leave(&mut self, index: usize) {
        if let Some(link) = self.clients[index].link {
            self.close_direction(link, End::Proxy, Closed::Fin);
            self.clients[index].ended = true;
        }
    }

    /// The client has no connection any more: what it asked for is unknown.
    fn hang_up(&mut self, index: usize) {
        let now = self.now;
        if let Some(link) = self.clients[index].link.take() {
            let this = &mut self.links[link.index()];
            this.peer_open = false;
            let unread = !this.to_peer.readable.is_empty();
            this.to_peer.readable.clear();
            if unread {
                self.close_direction(link, End::Proxy, Closed::Reset);
            }
        }
        for op in self.clients[index].expected.drain() {
            self.history.respond(op, Outcome::Unknown, now);
        }
        if let Some(reference) = &mut self.clients[index].reference {
            reference.session = Session::new();
            reference.answers.clear();
        }
        if self.clients[index].requests_left > 0 && !self.clients[index].manual {
            let pause = self.rng.between(1, 5_000);
            self.wake_client(index, pause);
        }
    }

    fn ask_reference(&mut self, index: usize, bytes: &[u8]) {
        let now = magent_node::Time(self.now.0);
        if let Some(reference) = &mut self.clients[index].reference {
            let Reference {
                store,
                session,
                answers,
            } = reference;
            let next = session.receive(store, now, bytes, answers);
            debug_assert_eq!(next, Next::Continue, "clients send nothing that closes");
        }
    }

    pub(crate) fn wake_client(&mut self, index: usize, after_us: u64) {
        if !std::mem::replace(&mut self.clients[index].scheduled, true) {
            self.after_us(after_us, Event::Client(index));
        }
    }

    fn client_reads(&mut self, index: usize) -> Result<(), Violation> {
        let Some(link) = self.clients[index].link else {
            return Ok(());
        };
        let slow = self.clients[index].slow;
        let available = self.links[link.index()].to_peer.readable.len();
        if available > 0 {
            let len = if slow {
                self.rng.len_between(1, available.min(400))
            } else {
                available
            };
            let bytes: Vec<u8> = self.links[link.index()]
                .to_peer
                .readable
                .drain(..len)
                .collect();
            self.room_was_made(link);
            self.client_received(index, &bytes)?;
        }
        let pipe = &self.links[link.index()].to_peer;
        if !pipe.readable.is_empty() {
            let pause = if slow { 2_000 } else { 10 };
            self.wake_client(index, pause);
        } else if let Some(closed) = pipe.closed {
            self.clients[index].closed = Some(closed);
            self.on_closed_by_proxy(index)?;
        }
        Ok(())
    }

    /// The proxy has closed: it may once everything is answered, or if a value was cut in its middle.
    fn on_closed_by_proxy(&mut self, index: usize) -> Result<(), Violation> {
        let client = &self.clients[index];
        let value_was_cut = !client.inbox.is_empty()
            && self.options.limits.stream_len_min < 1 << 20
            && self.options.faults != Faults::None;
        let was_killed = self.proxies[client.proxy].dead;
        let unanswered = client.expected.oldest().filter(|_| !was_killed);
        let connection = client.connection;
        if let Some(oldest) = unanswered.filter(|_| !value_was_cut && !client.manual) {
            let only_quiet = self.history.ops[oldest as usize].quiet == Quiet::Meta;
            if !only_quiet {
                return Err(violation(
                    "unanswered",
                    format!("connection {connection} was closed with request {oldest} unanswered"),
                ));
            }
        }
        self.hang_up(index);
        Ok(())
    }

    fn client_received(&mut self, index: usize, bytes: &[u8]) -> Result<(), Violation> {
        if self.clients[index].manual {
            self.clients[index].received.extend_from_slice(bytes);
            return Ok(());
        }
        if let Some(reference) = &mut self.clients[index].reference {
            let same = reference.answers.starts_with(bytes);
            if !same {
                let pairs = bytes.iter().zip(&reference.answers);
                let same = pairs.take_while(|(left, right)| left == right).count();
                let text = |bytes: &[u8]| {
                    let from = same.saturating_sub(40).min(bytes.len());
                    let bytes = &bytes[from..bytes.len().min(same + 80)];
                    String::from_utf8_lossy(bytes).into_owned()
                };
                return Err(violation(
                    "not as memcached",
                    format!(
                        "client {index} got {:?} instead of {:?}",
                        text(bytes),
                        text(&reference.answers)
                    ),
                ));
            }
            reference.answers.drain(..bytes.len());
        }
        let mut inbox = std::mem::take(&mut self.clients[index].inbox);
        inbox.extend_from_slice(bytes);
        let mut answers = Vec::new();
        let expected = &mut self.clients[index].expected;
        let (ops, keys) = (&self.history.ops, &self.history.keys);
        let result = if speaks_binary(&self.options, index) {
            expected.receive_packets(ops, keys, &inbox, &mut answers)
        } else {
            expected.receive(ops, keys, &inbox, &mut answers)
        };
        // What was understood before the mistake counts as well.
        for answer in answers {
            self.on_answer(index, answer)?;
        }
        let used =
            result.map_err(|text| violation("wrong answer", format!("client {index}: {text}")))?;
        inbox.drain(..used);
        self.clients[index].inbox = inbox;
        let client = &self.clients[index];
        if !client.ended && client.expected.len() < self.options.depth_max {
            let pause = self.rng.below(50);
            self.wake_client(index, pause.max(1));
        }
        Ok(())
    }

    fn on_answer(&mut self, index: usize, answer: Answer) -> Result<(), Violation> {
        let now = self.now;
        let id = answer.op;
        self.history.respond(id, answer.outcome, now);
        self.tally.answers += 1;
        self.tally.errors += u64::from(answer.failed);
        if self.trace.verbose {
            self.note_answer(index, &answer);
        }
        let op = &self.history.ops[id as usize];
        if answer.outcome == Outcome::Done && op.adds && !self.may_lose(op.keys[0]) {
            let key = op.keys[0];
            let reader = self.reader(id);
            let checked = self.history.check_add(id);
            self.unless_split(reader, key, checked)?;
        }
        let op = &self.history.ops[id as usize];
        let blameless = op.is_read() && op.quiet == Quiet::No;
        if answer.failed && blameless && self.options.faults == Faults::None {
            return Err(violation(
                "failed read",
                format!("request {id} without any fault"),
            ));
        }
        let reader = self.reader(id);
        let op = &self.history.ops[id as usize];
        if answer.outcome == Outcome::Done
            && op.compared.is_some()
            && (self.options.faults == Faults::None || self.options.has_marks())
        {
            self.history.check_compare(id)?;
        }
        if matches!(op.verb, Verb::Arith | Verb::MetaArith)
            && let Some(number) = answer.number
        {
            let key = op.keys[0];
            if self.history.keys[key].kind == KeyKind::Counter {
                if self.options.counting {
                    let checked = self.history.check_count(id, number);
                    self.unless_split(reader, key, checked)?;
                }
                let text = number.to_string();
                let checked = self.history.check_found(reader, key, text.as_bytes(), None);
                self.unless_split(reader, key, checked)?;
            }
        }
        for (key, found) in answer.found {
            match found {
                Some(found) => {
                    self.tally.hits += 1;
                    let checked =
                        self.history
                            .check_found(reader, key, &found.value, found.client_flags);
                    let writer = self.unless_split(reader, key, checked)?;
                    if let Some(token) = found.cas {
                        self.clients[index].tokens[key] = Some((token, writer));
                    }
                }
                None => self.on_miss(reader, key)?,
            }
        }
        Ok(())
    }

    fn note_answer(&mut self, index: usize, answer: &Answer) {
        let found: Vec<String> = answer
            .found
            .iter()
            .map(|(key, found)| match found {
                Some(found) => {
                    let shown = &found.value[..found.value.len().min(30)];
                    format!("{key}={}", String::from_utf8_lossy(shown))
                }
                None => format!("{key} missing"),
            })
            .collect();
        let text = format!(
            "hears of {}: {:?} {}",
            answer.op,
            answer.outcome,
            found.join(", ")
        );
        self.note(&format!("client {index}"), &text);
    }

    fn on_miss(&mut self, reader: Reader, key: usize) -> Result<(), Violation> {
        self.tally.misses += 1;
        let Some(stored) = self.history.check_missing(reader, key) else {
            return Ok(());
        };
        self.tally.lost += 1;
        if self.may_lose(key) && !self.must_keep(key, stored) {
            return Ok(());
        }
        let name = String::from_utf8_lossy(&self.history.keys[key].bytes).into_owned();
        let text = format!(
            "{name}: read {} missed what request {stored} had stored",
            reader.id
        );
        self.unless_split(reader, key, Err(violation("lost", text)))
    }

    /// A request as one that looks.
    fn reader(&self, id: u32) -> Reader {
        let op = &self.history.ops[id as usize];
        Reader {
            id,
            connection: op.connection,
            from: op.invoked,
            until: self.now,
        }
    }

    /// Whether an acknowledged write of a key may be gone.
    pub(crate) fn may_lose(&self, key: usize) -> bool {
        let options = &self.options;
        let route = self.placement.route(&self.history.keys[key].bytes);
        if self.emptied[route.primary.index()]
            || route
                .backup
                .is_some_and(|backup| self.emptied[backup.index()])
        {
            return true;
        }
        match options.faults {
            Faults::None => options.evicting,
            Faults::OneVictim if options.shape == Shape::Silences => self.tally.transitions > 0,
            Faults::OneVictim => {
                // Two workers may leave the copies of a key with different numbers: one is then deleted.
                let disagree = options.workers > 1
                    && self.history.keys[key].kind == KeyKind::Counter
                    && self.counter(Counter::Mended) > 0;
                options.evicting || options.backups == 0 || disagree
            }
            Faults::Wild => true,
        }
    }

    /// Whether a backend that is there has been told of this write of a key, and of nothing but stores since.
    fn must_keep(&self, key: usize, stored: u32) -> bool {
        let options = &self.options;
        let disturbed =
            options.evicting || options.shape == Shape::Silences || options.flushed_by_others;
        if disturbed || options.proxies > 1 || options.kills {
            return false;
        }
        let op = &self.history.ops[stored as usize];
        let route = self.placement.route(&self.history.keys[key].bytes);
        let told = [Some(route.primary), route.backup]
            .into_iter()
            .flatten()
            .any(|backend| {
                self.follows_since[backend.index()].is_some_and(|since| since < op.invoked)
            });
        // What is counted or appended on a backend that catches up is deleted there, and copied again.
        let has_outcome = op.effect == Effect::Base;
        told && has_outcome && route.backup.is_some() && self.history.only_stores_behind(key, op)
    }

    /// All clients ask no more; those that wait for nothing leave.
    pub(crate) fn calm_clients(&mut self) {
        for index in 0..self.clients.len() {
            self.wake_client(index, 1);
        }
    }

    /// Whether a client still waits for an answer.
    pub(crate) fn waiting_client(&self) -> Option<usize> {
        self.clients
            .iter()
            .position(|client| client.link.is_some() && !client.manual)
    }

    /// How long the wait of a client has been, for the report.
    pub(crate) fn oldest_unanswered(&self, index: usize) -> String {
        match self.clients[index].expected.oldest() {
            Some(id) => {
                let op = &self.history.ops[id as usize];
                format!("request {id} ({:?}) of {} us", op.verb, micros(op.invoked))
            }
            None => "its connection is not closed".to_owned(),
        }
    }
}

pub(crate) const fn micros(at: Time) -> u64 {
    at.0 / 1_000
}
