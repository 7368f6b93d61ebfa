//! The world: virtual time, the queue of events, and the phases of a run.
//!
//! ```text
//! busy   clients ask, faults come and go         nobody may see anything wrong
//! calm   nobody asks, nothing fails any more     everything is answered, everyone is up, nothing is held
//! audit  every key is read, every copy looked at
//! ```
//!
//! # Invariants
//!
//! - Everything follows from the seed: one queue, ordered by time and then by order of arrival, and one
//!   source of chance.
//!
//! Not here: what proxies (`proxy`), backends (`faults`) and clients (`client`) do, how a run ends (`audit`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use magent_core::keeper::Failure;
use magent_core::known;
use magent_core::placement::Placement;
use magent_core::stats::{Counter, total};
use magent_core::{BackendId, Time};
use magent_node::{Next, Session};

use crate::check::{History, Violation, violation};
use crate::client::{Client, micros};
use crate::connections::Caller;
use crate::control::ToKeeper;
use crate::faults::PlannedFault;
use crate::memcached::Memcached;
use crate::network::{Closed, End, Link, LinkId, Peer};
use crate::options::{Chunks, Faults, Options};
use crate::proxy::{Disk, Proxy, ToWorker};
use crate::rng::Rng;
use crate::split::Splits;
use crate::workload::{Op, counter, keys};

/// Something that happens at a moment.
#[derive(Debug)]
pub(crate) enum Event {
    Turn {
        proxy: usize,
        worker: usize,
    },
    /// A timer of a control thread.
    Control {
        proxy: usize,
    },
    /// Something has arrived for a control thread.
    Sockets {
        proxy: usize,
    },
    ToWorker {
        proxy: usize,
        worker: usize,
        message: ToWorker,
    },
    /// Another worker gave up what this one may wait for.
    SlotsFreed {
        proxy: usize,
        worker: usize,
    },
    ToKeeper {
        proxy: usize,
        message: ToKeeper,
    },
    Call {
        proxy: usize,
        caller: Caller,
    },
    Called {
        proxy: usize,
        caller: Caller,
        result: Result<LinkId, Failure>,
    },
    ProbeEnds {
        proxy: usize,
        backend: BackendId,
        number: u64,
    },
    Deliver {
        link: LinkId,
        toward: End,
    },
    Serve {
        link: LinkId,
    },
    Client(usize),
    FaultBegins(usize),
    FaultEnds(usize),
    Evict,
    Look,
    /// Only a moment that somebody waits for.
    Nothing,
}

#[derive(Debug)]
struct Scheduled {
    at: Time,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Lines about what happened.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub lines: Vec<String>,
    /// Whether requests and answers are in it too.
    pub verbose: bool,
    /// Whether it is printed as it comes about.
    pub live: bool,
}

/// What a run amounted to, so that one that tried nothing is noticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events of the world.
    pub events: u64,
    /// Requests answered.
    pub answers: u64,
    /// Of these, with an error of the proxy or a backend.
    pub errors: u64,
    /// Keys found.
    pub hits: u64,
    /// Keys not found.
    pub misses: u64,
    /// Misses of acknowledged writes, where several faults may lose some.
    pub lost: u64,
    /// Changes of a backend's phase.
    pub transitions: u64,
    /// Times that a worker stood still.
    pub stalls: u64,
    /// Items of the backends that were looked at in the end.
    pub copies: u64,
    /// Items that a backend had in common with its partner in the end.
    pub pairs: u64,
    /// Mistakes that are excused because proxies disagreed ([`Tally`] says how often).
    pub split: u64,
    /// Keys whose copies may differ because a proxy was killed in the middle of a write.
    pub torn: u64,
    /// Keys whose copies differ because two proxies wrote them at the same time, or one while another worker
    /// flushed.
    pub overlapped: u64,
}

/// A cluster and its clients. See the module's page.
#[derive(Debug)]
pub struct World {
    pub(crate) options: Options,
    pub(crate) rng: Rng,
    pub(crate) now: Time,
    queue: BinaryHeap<Reverse<Scheduled>>,
    number: u64,
    pub(crate) links: Vec<Link>,
    /// Every process that ever was.
    pub(crate) proxies: Vec<Proxy>,
    /// The processes that run.
    pub(crate) slots: Vec<Option<usize>>,
    /// Their state files.
    pub(crate) disks: Vec<Option<Disk>>,
    /// By backend.
    pub(crate) splits: Vec<Splits>,
    /// By key: whether its copies may differ since a proxy was killed.
    pub(crate) torn: Vec<bool>,
    /// By backend: since when it has been told of every write, as all workers know, and has kept them.
    pub(crate) follows_since: Vec<Option<Time>>,
    /// By backend: whether somebody else has flushed it.
    pub(crate) emptied: Vec<bool>,
    pub(crate) backends: Vec<Memcached>,
    pub(crate) clients: Vec<Client>,
    pub(crate) connections: u32,
    pub(crate) history: History,
    pub(crate) trace: Trace,
    pub(crate) tally: Tally,
    pub(crate) placement: Placement,
    /// The key of the marks that proxies leave on backends.
    pub(crate) mark_key: Vec<u8>,
    pub(crate) faults: Vec<PlannedFault>,
    /// Whether nobody asks and nothing fails any more.
    pub(crate) is_calm: bool,
    /// Since when nothing has been wrong.
    pub(crate) quiet_since: Option<Time>,
    pub(crate) done: bool,
    violation: Option<Violation>,
}

/// A run has at most this many events; far more than any needs.
const EVENTS_MAX: u64 = 3_000_000;

impl World {
    /// The world of these options, at its beginning.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let config = options.config();
        let placement = Placement::new(&config);
        let mark_key = known::key(&config);
        let keys = keys(&options);
        let clients = (0..options.clients)
            .map(|_| {
                let slow = options.slow_readers && rng.chance(50);
                Client::new(keys.len(), options.requests, slow, options.private)
            })
            .collect();
        let single = options.workers == 1 && options.proxies == 1 && !options.kills;
        let backends = options.backends();
        let unknown_ms = options.limits.request_ms * 3;
        let is_faultless = options.faults == Faults::None;
        let mut world = Self {
            rng,
            now: Time(0),
            queue: BinaryHeap::new(),
            number: 0,
            links: Vec::new(),
            proxies: Vec::new(),
            slots: vec![None; options.proxies],
            disks: vec![None; options.proxies],
            splits: vec![Splits::default(); backends],
            torn: vec![false; keys.len()],
            follows_since: vec![Some(Time(0)); backends],
            emptied: vec![false; backends],
            backends: (0..backends)
                .map(|index| Memcached::new(index, &options))
                .collect(),
            clients,
            connections: 0,
            history: History::new(keys, unknown_ms, is_faultless, single),
            trace: Trace::default(),
            tally: Tally::default(),
            placement,
            mark_key,
            faults: Vec::new(),
            is_calm: false,
            quiet_since: None,
            done: false,
            violation: None,
            options,
        };
        if world.options.counting {
            world.preload();
        }
        for slot in 0..world.slots.len() {
            world.start_proxy(slot);
        }
        world
    }

    /// Numbers that are there from the beginning.
    fn preload(&mut self) {
        for key in 0..self.history.keys.len() {
            let id = u32::try_from(key).expect("few keys");
            self.history.invoke(Op::preloaded(id, key));
            let name = &self.history.keys[key].bytes;
            let value = counter(id);
            let mut line = [b"set ", &name[..]].concat();
            line.extend_from_slice(format!(" {id} 0 {}\r\n", value.len()).as_bytes());
            line.extend_from_slice(&value);
            line.extend_from_slice(b"\r\n");
            let route = self.placement.route(name);
            for backend in [Some(route.primary), route.backup].into_iter().flatten() {
                let store = &mut self.backends[backend.index()].store;
                let mut out = Vec::new();
                let next = Session::new().receive(store, magent_node::Time(0), &line, &mut out);
                assert!(
                    next == Next::Continue && out == b"STORED\r\n",
                    "a plain set"
                );
            }
        }
    }

    /// Prints the trace as it comes about; `requests` adds every request and answer to it.
    pub fn print_trace(&mut self, requests: bool) {
        self.trace.live = true;
        self.trace.verbose = requests;
    }

    /// Runs all phases.
    pub fn run(&mut self) -> Option<Violation> {
        self.plan();
        self.step_until(|world| world.done);
        if self.violation.is_none() {
            self.audit();
        }
        if self.violation.is_none()
            && let Err(found) = self.check_copies().and_then(|()| self.check_in_step())
        {
            self.fail(found);
        }
        self.violation.clone()
    }

    /// The lines about what happened.
    #[must_use]
    pub fn trace(&self) -> &[String] {
        &self.trace.lines
    }

    /// What the run amounted to.
    #[must_use]
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    /// A counter's sum over all workers.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        self.proxies
            .iter()
            .map(|proxy| total(&proxy.counters, counter))
            .sum()
    }

    // -- Events --

    pub(crate) fn at(&mut self, at: Time, event: Event) {
        self.number += 1;
        let at = at.max(self.now);
        self.queue.push(Reverse(Scheduled {
            at,
            number: self.number,
            event,
        }));
    }

    pub(crate) fn after_us(&mut self, us: u64, event: Event) {
        self.at(Time(self.now.0 + us * 1_000), event);
    }

    pub(crate) fn latency_us(&mut self) -> u64 {
        let max = if self.is_calm {
            50
        } else {
            self.options.latency_us_max
        };
        // Mostly short: reordering needs some that are long.
        match self.rng.below(4) {
            0 => self.rng.below(max) + 1,
            _ => self.rng.below(max / 10 + 1) + 1,
        }
    }

    /// Lets things happen until `over`, a violation, or the end of all events.
    pub(crate) fn step_until(&mut self, over: impl Fn(&Self) -> bool) {
        while self.violation.is_none() && !over(self) {
            let Some(Reverse(next)) = self.queue.pop() else {
                return;
            };
            debug_assert!(next.at >= self.now, "time does not go back");
            self.now = next.at;
            self.tally.events += 1;
            if self.tally.events > EVENTS_MAX {
                self.fail(violation("busy world", "too many events"));
                return;
            }
            self.happen(next.event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn { proxy, worker } => self.on_turn(proxy, worker),
            Event::Control { proxy } => self.on_control_timer(proxy),
            Event::Sockets { proxy } => self.on_sockets(proxy),
            Event::ToWorker {
                proxy,
                worker,
                message,
            } => {
                self.on_worker_message(proxy, worker, message);
            }
            Event::SlotsFreed { proxy, worker } => self.on_slots_freed(proxy, worker),
            Event::ToKeeper { proxy, message } => self.on_keeper_message(proxy, message),
            Event::Call { proxy, caller } => self.on_call(proxy, caller),
            Event::Called {
                proxy,
                caller,
                result,
            } => {
                self.on_called(proxy, caller, result);
            }
            Event::ProbeEnds {
                proxy,
                backend,
                number,
            } => {
                self.on_probe_ends(proxy, backend, number);
            }
            Event::Deliver { link, toward } => self.on_deliver(link, toward),
            Event::Serve { link } => self.on_serve(link),
            Event::Client(index) => self.run_client(index),
            Event::FaultBegins(index) => self.begin_fault(index),
            Event::FaultEnds(index) => self.end_fault(index),
            Event::Evict => self.on_evict(),
            Event::Look => self.on_look(),
            Event::Nothing => {}
        }
    }

    // -- The network --

    pub(crate) fn add_link(&mut self, link: Link) -> LinkId {
        let id = LinkId(u32::try_from(self.links.len()).expect("runs are short"));
        self.links.push(link);
        id
    }

    /// Sends bytes over a connection, in one piece or a few.
    pub(crate) fn send(&mut self, id: LinkId, toward: End, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            // A large answer of a slow network comes in many packets.
            const PACKET_LEN: usize = 1_448;
            let packets = self.options.chunks == Chunks::Bytes && bytes.len() > PACKET_LEN;
            let whole = !packets && self.rng.chance(70);
            let len = if whole {
                bytes.len()
            } else {
                let len_max = if packets { PACKET_LEN } else { bytes.len() };
                self.rng.len_between(1, len_max)
            };
            let (piece, rest) = bytes.split_at(len);
            bytes = rest;
            let at = Time(self.now.0 + self.latency_us() * 1_000);
            let at = self.links[id.index()]
                .toward(toward)
                .send(piece.to_vec(), at);
            self.at(at, Event::Deliver { link: id, toward });
        }
    }

    /// Ends a direction of a connection.
    pub(crate) fn close_direction(&mut self, id: LinkId, toward: End, closed: Closed) {
        let at = Time(self.now.0 + self.latency_us() * 1_000);
        let at = self.links[id.index()].toward(toward).close(closed, at);
        self.at(at, Event::Deliver { link: id, toward });
    }

    fn on_deliver(&mut self, id: LinkId, toward: End) {
        let now = self.now;
        let link = &mut self.links[id.index()];
        if link.cut || !link.toward(toward).deliver(now) {
            return;
        }
        match (toward, link.peer) {
            (End::Proxy, Peer::Backend(backend)) if !link.proxy_open => {
                // Nobody has that socket any more: the kernel says so.
                link.to_proxy.readable.clear();
                let said = link.to_peer.closed.is_some() || link.to_peer.is_in_flight();
                if !said && self.backends[backend].sessions.contains_key(&id) {
                    self.close_direction(id, End::Peer, Closed::Reset);
                }
            }
            (End::Proxy, _) => self.ready(id),
            (End::Peer, Peer::Client(_)) if !link.peer_open => {
                // Nobody has that socket any more: the kernel says so.
                let answered = link.to_peer.closed.is_some();
                link.to_peer.readable.clear();
                if !answered {
                    self.close_direction(id, End::Proxy, Closed::Reset);
                }
            }
            (End::Peer, Peer::Client(client)) => {
                if self.clients[client].link == Some(id) {
                    let pause = self.rng.below(20);
                    self.wake_client(client, pause.max(1));
                }
            }
            (End::Peer, Peer::Backend(backend)) => self.serve_soon(backend, id),
        }
    }

    /// The peer has read: its worker may write again.
    pub(crate) fn room_was_made(&mut self, id: LinkId) {
        if self.links[id.index()].proxy_blocked {
            self.ready(id);
        }
    }

    // -- Reports --

    pub(crate) fn fail(&mut self, found: Violation) {
        self.note_state("check", &found.to_string());
        if self.trace.verbose {
            for proxy in &self.proxies {
                println!("{:?}", proxy.keeper);
                println!("{:?}", proxy.healer);
                for worker in &proxy.workers {
                    println!("{:?}", worker.engine);
                }
            }
        }
        self.violation.get_or_insert(found);
    }

    /// Notes a request or an answer.
    pub(crate) fn note(&mut self, subject: &str, text: &str) {
        if self.trace.verbose {
            self.note_state(subject, text);
        }
    }

    /// Notes a change of state.
    pub(crate) fn note_state(&mut self, subject: &str, text: &str) {
        let line = format!("{:>9} {subject:<14} {text}", micros(self.now));
        if self.trace.live {
            println!("{line}");
        }
        self.trace.lines.push(line);
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.answers += other.answers;
        self.errors += other.errors;
        self.hits += other.hits;
        self.misses += other.misses;
        self.lost += other.lost;
        self.transitions += other.transitions;
        self.stalls += other.stalls;
        self.copies += other.copies;
        self.pairs += other.pairs;
        self.split += other.split;
        self.torn += other.torn;
        self.overlapped += other.overlapped;
    }
}
