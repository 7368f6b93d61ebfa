//! The load generator: one thread, one epoll, any number of connections.
//!
//! ```text
//! connect -> run (warm-up, thrown away) -> run (measured) -> finish
//! ```
//!
//! Requests stay in flight between two runs, so what is measured is the steady state.
//!
//! # Invariants
//!
//! - Closed loop: every connection always has `depth` requests in flight.
//! - Open loop: request n is due at n / rate, whatever happened to those before it, and its
//!   latency counts from then (no coordinated omission). If no connection has room it waits, and
//!   the wait is part of its latency; if it is still unanswered at the end, so is its age.
//! - A wrong answer, a lost connection or silence ends the run as an error; refusals and misses
//!   are counted and the caller judges.
//!
//! Not here: CPU time and memory (`meter`), which target and workload (`compare`, `main`).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use hdrhistogram::Histogram;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::connection::{self, Connection};
use crate::interrupt;
use crate::keys::{Keys, Share};
use crate::wire::{Answer, Command, Request};
use crate::workload::{Pace, Workload};

/// What came of a run.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) elapsed: Duration,
    /// Requests answered, errors included.
    pub(crate) requests: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) stored: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Nanoseconds from a request to the last byte of its answer.
    pub(crate) latency: Histogram<u64>,
}

impl Tally {
    fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3);
        Self {
            elapsed: Duration::ZERO,
            requests: 0,
            hits: 0,
            misses: 0,
            stored: 0,
            errors: 0,
            first_error: None,
            latency: latency.expect("constant bounds are valid"),
        }
    }

    fn count(&mut self, answer: Answer, latency_ns: u64) {
        self.requests += 1;
        self.latency.saturating_record(latency_ns.max(1));
        match answer {
            Answer::Values { hits, misses } => {
                self.hits += u64::from(hits);
                self.misses += u64::from(misses);
            }
            Answer::Stored => self.stored += 1,
            Answer::Error(line) => {
                self.errors += 1;
                self.first_error.get_or_insert(line);
            }
        }
    }

    /// Takes over what went wrong in `other`, but none of its figures.
    pub(crate) fn blame(&mut self, other: Self) {
        self.misses += other.misses;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    /// Requests per second.
    pub(crate) fn throughput(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that this percentage of requests did not exceed, in microseconds.
    pub(crate) fn latency_us(&self, percentile: f64) -> f64 {
        self.latency.value_at_percentile(percentile) as f64 / 1e3
    }
}

/// Connected clients that carry out one workload.
pub(crate) struct Generator {
    workload: Workload,
    keys: Keys,
    connections: Vec<Connection>,
    poll: Poll,
    events: Events,
    pacer: Option<Pacer>,
    /// Connections with requests that are not sent yet.
    pushed: Vec<usize>,
    random: fastrand::Rng,
    started: Instant,
    last_answer_ns: u64,
    scratch: Vec<u8>,
}

impl Generator {
    /// Connects the clients of `workload`, in turn to each of `targets`. With several targets
    /// the generator spreads the keys over them itself.
    pub(crate) fn connect(workload: &Workload, targets: &[SocketAddr]) -> Result<Self> {
        let keys = Keys::new(workload.key_count, workload.value_len);
        let poll = Poll::new()?;
        let parts = u32::try_from(targets.len())?;
        let mut connections = Vec::new();
        for number in 0..workload.connections {
            let part = number % parts;
            let target = targets[usize::try_from(part)?];
            let share = Share::new(&keys, part, parts);
            ensure!(
                workload.keys_per_request <= share.count(),
                "{} keys per request, but only {} on each target",
                workload.keys_per_request,
                share.count()
            );
            let token = Token(connections.len());
            let mut stream = connection::connect(target, number)?;
            let tls = connection::handshake(workload.transport, &mut stream)?;
            let connection = Connection::new(stream, tls, share, poll.registry(), token)?;
            connections.push(connection);
        }
        let pacer = match workload.pace {
            Pace::Closed | Pace::Never => None,
            Pace::Rate(rate) => Some(Pacer::new(rate, workload, &poll)?),
            Pace::HalfOfBaseline => bail!("{} needs a rate", workload.name),
        };
        Ok(Self {
            workload: workload.clone(),
            keys,
            connections,
            poll,
            events: Events::with_capacity(1_024),
            pacer,
            pushed: Vec::new(),
            random: fastrand::Rng::with_seed(1),
            started: Instant::now(),
            last_answer_ns: 0,
            scratch: vec![0; SCRATCH_LEN],
        })
    }

    /// Keeps the clients busy for `duration`.
    pub(crate) fn run(&mut self, duration: Duration) -> Result<Tally> {
        let start = Instant::now();
        let mut tally = Tally::new();
        self.fill()?;
        while start.elapsed() < duration {
            self.turn(
                duration.saturating_sub(start.elapsed()),
                Refill::Yes,
                &mut tally,
            )?;
        }
        tally.elapsed = start.elapsed();
        self.count_unanswered(&mut tally);
        Ok(tally)
    }

    /// From here on requests are due at `pace`, with at most `depth` in flight per connection.
    /// What was due and found no room is forgotten: who wanted it has given up.
    pub(crate) fn change(&mut self, pace: Pace, depth: u32) -> Result<()> {
        assert!(
            depth >= self.workload.depth,
            "an answer makes room for a request"
        );
        self.workload.depth = depth;
        self.pacer = match pace {
            Pace::Closed | Pace::Never => None,
            Pace::Rate(rate) => {
                let mut pacer = match self.pacer.take() {
                    Some(pacer) => pacer,
                    None => Pacer::new(rate, &self.workload, &self.poll)?,
                };
                let depth = usize::try_from(depth)?;
                let waiting = self.connections.iter().map(|this| this.waiting().len());
                let waiting: Vec<usize> = waiting.collect();
                let with_room = |nth: usize| {
                    let clients = waiting.iter().enumerate();
                    clients.filter_map(move |(index, has)| (has + nth < depth).then_some(index))
                };
                let free = (0..depth).flat_map(with_room).collect();
                pacer.restart(rate, self.now_ns(), free);
                Some(pacer)
            }
            Pace::HalfOfBaseline => bail!("{} needs a rate", self.workload.name),
        };
        self.workload.pace = pace;
        Ok(())
    }

    /// Waits for the answers of what is in flight and checks them too.
    pub(crate) fn finish(mut self) -> Result<Tally> {
        self.drain()
    }

    /// Has every connection of `which` ask once, all at the same time, and waits for the answers.
    pub(crate) fn ask_once(&mut self, which: Range<usize>) -> Result<Tally> {
        self.last_answer_ns = self.now_ns();
        for index in which {
            self.push(index, self.now_ns());
            self.connections[index].flush()?;
        }
        self.drain()
    }

    fn drain(&mut self) -> Result<Tally> {
        let start = Instant::now();
        let mut tally = Tally::new();
        while self.in_flight() > 0 {
            self.turn(TURN_MAX, Refill::No, &mut tally)?;
        }
        tally.elapsed = start.elapsed();
        Ok(tally)
    }

    fn in_flight(&self) -> usize {
        self.connections
            .iter()
            .map(|connection| connection.waiting().len())
            .sum()
    }

    /// Closed loop: tops every connection up to its depth. In steady state it finds none short.
    fn fill(&mut self) -> Result<()> {
        self.last_answer_ns = self.now_ns();
        if self.pacer.is_some() {
            return Ok(());
        }
        for index in 0..self.connections.len() {
            self.refill(index)?;
        }
        Ok(())
    }

    /// One turn of the event loop, at most `limit` long.
    fn turn(&mut self, limit: Duration, refill: Refill, tally: &mut Tally) -> Result<()> {
        if refill == Refill::Yes {
            self.send_due()?;
        }
        if let Err(err) = self.poll.poll(&mut self.events, Some(limit.min(TURN_MAX)))
            && err.kind() != std::io::ErrorKind::Interrupted
        {
            return Err(err.into());
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let Token(index) = event.token();
            // The timer's event only had to end the wait.
            if index >= self.connections.len() {
                continue;
            }
            if event.is_readable() {
                self.receive(index, tally)?;
            }
            match (refill, &self.pacer) {
                (Refill::Yes, None) => self.refill(index)?,
                (Refill::No, _) | (_, Some(_)) => self.connections[index].flush()?,
            }
        }
        self.events = events;
        interrupt::check()?;
        let silent_ns = self.now_ns().saturating_sub(self.last_answer_ns);
        let in_flight = if silent_ns > SILENCE_NS_MAX {
            self.in_flight()
        } else {
            0
        };
        ensure!(
            in_flight == 0,
            "no answer for 5 s, {in_flight} requests wait"
        );
        Ok(())
    }

    fn receive(&mut self, index: usize, tally: &mut Tally) -> Result<()> {
        let (started, pacer) = (self.started, &mut self.pacer);
        let last_answer_ns = &mut self.last_answer_ns;
        self.connections[index].receive(&self.keys, &mut self.scratch, |request, answer| {
            let now_ns = elapsed_ns(started);
            *last_answer_ns = now_ns;
            tally.count(answer, now_ns - request.start_ns);
            if let Some(pacer) = pacer {
                pacer.free.push_back(index);
            }
        })
    }

    /// Closed loop: asks until `depth` requests are in flight on connection `index`.
    fn refill(&mut self, index: usize) -> Result<()> {
        let depth = usize::try_from(self.workload.depth)?;
        if self.connections[index].waiting().len() < depth {
            let now_ns = self.now_ns();
            while self.connections[index].waiting().len() < depth {
                self.push(index, now_ns);
            }
        }
        self.connections[index].flush()
    }

    /// Open loop: sends what is due, as far as connections have room, and sets the timer for the
    /// next.
    fn send_due(&mut self) -> Result<()> {
        let Some(mut pacer) = self.pacer.take() else {
            return Ok(());
        };
        let now_ns = self.now_ns();
        while pacer.due_ns() <= now_ns
            && let Some(index) = pacer.free.pop_front()
        {
            self.push(index, pacer.due_ns());
            pacer.sent += 1;
            self.pushed.push(index);
        }
        // What is due together leaves together; nothing is left for the second time.
        for index in self.pushed.drain(..) {
            self.connections[index].flush()?;
        }
        pacer.arm(now_ns)?;
        self.pacer = Some(pacer);
        Ok(())
    }

    /// Puts the next request on connection `index`.
    fn push(&mut self, index: usize, start_ns: u64) {
        let connection = &mut self.connections[index];
        let first = self.random.u32(0..connection.share().count());
        let set = self.random.u8(0..100) < self.workload.set_percent;
        let request = if set {
            Request::new(Command::Set, first, 1, start_ns)
        } else {
            let key_count = self.workload.keys_per_request;
            Request::new(self.workload.read, first, key_count, start_ns)
        };
        connection.push(request, &self.keys);
    }

    /// Open loop: what is overdue counts with its age. Left out, the slowest would be missing.
    fn count_unanswered(&self, tally: &mut Tally) {
        let Some(pacer) = &self.pacer else { return };
        let now_ns = self.now_ns();
        let waiting = self.connections.iter().flat_map(Connection::waiting);
        let in_flight = waiting.map(|request| request.start_ns);
        let unsent = (pacer.sent..).map(|number| pacer.due_of(number));
        for start_ns in in_flight.chain(unsent.take_while(|&due_ns| due_ns <= now_ns)) {
            tally.latency.saturating_record((now_ns - start_ns).max(1));
        }
    }

    fn now_ns(&self) -> u64 {
        elapsed_ns(self.started)
    }
}

/// Whether a turn sends new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refill {
    Yes,
    No,
}

/// When requests of an open loop are due, and who has room for them.
struct Pacer {
    rate: u64,
    /// When request 0 was due.
    began_ns: u64,
    /// Requests sent; also the number of the next.
    sent: u64,
    /// Connections with room, once for each request they have room for.
    free: VecDeque<usize>,
    /// epoll's own timeout counts milliseconds; requests are due every few microseconds.
    timer: TimerFd,
    /// What the timer was last set for.
    armed_ns: u64,
}

impl Pacer {
    fn new(rate: u64, workload: &Workload, poll: &Poll) -> Result<Self> {
        ensure!(rate > 0, "a rate of 0 requests per second");
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        let fd = timer.as_fd().as_raw_fd();
        let mut source = SourceFd(&fd);
        poll.registry()
            .register(&mut source, Token(usize::MAX), Interest::READABLE)?;
        let clients = 0..usize::try_from(workload.connections)?;
        let free = (0..workload.depth).flat_map(|_| clients.clone()).collect();
        Ok(Self {
            rate,
            began_ns: 0,
            sent: 0,
            free,
            timer,
            armed_ns: 0,
        })
    }

    /// Begins anew, with another rate and these connections that have room.
    fn restart(&mut self, rate: u64, now_ns: u64, free: VecDeque<usize>) {
        (self.rate, self.began_ns) = (rate, now_ns);
        (self.sent, self.free, self.armed_ns) = (0, free, 0);
    }

    fn due_of(&self, number: u64) -> u64 {
        let due_ns = u128::from(number) * u128::from(NS_PER_S) / u128::from(self.rate);
        u64::try_from(due_ns).map_or(u64::MAX, |due_ns| self.began_ns.saturating_add(due_ns))
    }

    fn due_ns(&self) -> u64 {
        self.due_of(self.sent)
    }

    /// Ends the wait in epoll when the next request is due. An overdue one waits for room, not
    /// for time, so it needs no timer.
    fn arm(&mut self, now_ns: u64) -> Result<()> {
        let due_ns = self.due_ns();
        let Some(wait_ns @ 1..) = due_ns.checked_sub(now_ns) else {
            return Ok(());
        };
        if std::mem::replace(&mut self.armed_ns, due_ns) == due_ns {
            return Ok(());
        }
        let once = Expiration::OneShot(TimeSpec::from_duration(Duration::from_nanos(wait_ns)));
        self.timer.set(once, TimerSetTimeFlags::empty())?;
        Ok(())
    }
}

fn elapsed_ns(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).expect("a run is shorter than 500 years")
}

const NS_PER_S: u64 = 1_000_000_000;

/// Longest latency that is told apart.
const LATENCY_NS_MAX: u64 = 60 * NS_PER_S;

/// Longest time without any answer while requests wait: a proxy that hangs must not hang us.
const SILENCE_NS_MAX: u64 = 5 * NS_PER_S;

/// Longest wait in epoll, so that an interrupt is noticed soon.
const TURN_MAX: Duration = Duration::from_millis(100);

/// Bytes read at once: more than a socket usually holds, so one read per event.
const SCRATCH_LEN: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    /// A listener whose kernel accepts connections and that never answers.
    fn mute() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn workload(depth: u32, pace: Pace) -> Workload {
        let get = Workload::find("get").unwrap();
        Workload {
            connections: 3,
            depth,
            pace,
            ..get.clone()
        }
    }

    #[test]
    fn closed_loop_fills_every_connection_to_its_depth() {
        let (_listener, address) = mute();
        let workload = workload(4, Pace::Closed);
        let mut generator = Generator::connect(&workload, &[address]).unwrap();
        let tally = generator.run(Duration::from_millis(5)).unwrap();
        assert!(
            generator
                .connections
                .iter()
                .all(|connection| connection.waiting().len() == 4)
        );
        assert_eq!((tally.requests, tally.latency.len()), (0, 0));
    }

    #[test]
    fn asking_once_leaves_nothing_in_flight() {
        let (listener, address) = mute();
        let workload = workload(1, Pace::Never);
        let mut generator = Generator::connect(&workload, &[address]).unwrap();
        let answer_one = |mut stream: TcpStream| {
            let mut byte = [0];
            while byte != *b"\n" {
                stream.read_exact(&mut byte).unwrap();
            }
            stream.write_all(b"END\r\n").unwrap();
            stream
        };
        let server = std::thread::spawn(move || {
            let streams = (0..3).map(|_| listener.accept().unwrap().0);
            streams.map(answer_one).collect::<Vec<_>>()
        });
        let tally = generator.ask_once(0..3).unwrap();
        assert_eq!(
            (tally.requests, tally.misses, generator.in_flight()),
            (3, 3, 0)
        );
        server.join().unwrap();
    }

    #[test]
    fn open_loop_omits_no_request_that_a_stalled_target_delays() {
        let (_listener, address) = mute();
        let workload = workload(1, Pace::Rate(1_000));
        let mut generator = Generator::connect(&workload, &[address]).unwrap();
        let tally = generator.run(Duration::from_millis(50)).unwrap();
        let sent: usize = generator
            .connections
            .iter()
            .map(|connection| connection.waiting().len())
            .sum();
        assert_eq!(
            (tally.requests, sent),
            (0, 3),
            "no connection has room for a second"
        );
        // All 50 and more that were due count, not just the 3 sent; the first has waited longest.
        assert!(tally.latency.len() >= 50, "{}", tally.latency.len());
        assert!(
            tally.latency_us(100.0) >= 49_000.0,
            "{}",
            tally.latency_us(100.0)
        );
        assert!(
            tally.latency_us(50.0) >= 20_000.0,
            "{}",
            tally.latency_us(50.0)
        );
    }

    #[test]
    fn another_pace_forgets_what_found_no_room_and_keeps_what_is_in_flight() {
        let (_listener, address) = mute();
        let workload = workload(1, Pace::Rate(1_000));
        let mut generator = Generator::connect(&workload, &[address]).unwrap();
        generator.run(Duration::from_millis(20)).unwrap();
        generator.change(Pace::Rate(100), 3).unwrap();
        let pacer = generator.pacer.as_ref().unwrap();
        assert_eq!(pacer.free, [0, 1, 2, 0, 1, 2], "one each is in flight");
        assert_eq!((pacer.sent, pacer.due_ns()), (0, pacer.began_ns));
        generator.change(Pace::Closed, 3).unwrap();
        generator.run(Duration::from_millis(5)).unwrap();
        assert_eq!(generator.in_flight(), 9);
    }

    #[test]
    fn requests_are_due_evenly() {
        let poll = Poll::new().unwrap();
        let pacer = Pacer::new(3, &workload(2, Pace::Closed), &poll).unwrap();
        let due: Vec<u64> = (0..4).map(|number| pacer.due_of(number)).collect();
        assert_eq!(due, [0, 333_333_333, 666_666_666, 1_000_000_000]);
        assert_eq!(pacer.free, [0, 1, 2, 0, 1, 2], "connections take turns");
    }
}
