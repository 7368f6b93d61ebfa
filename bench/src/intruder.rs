//! What shares proxy and backends with the small clients of `fairness`.
//!
//! # Invariants
//!
//! - Its answers are checked byte for byte, as everyone's.
//! - It runs on a thread of its own with the lowest priority, so that the small clients' requests are sent and
//!   their answers read when they are due: what is measured is not the intruder's own CPU time.
//!
//! Not here: whom it disturbs, and how much (`fairness`).

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::generator::Generator;
use crate::keys::{Keys, Share};
use crate::preload::preload;
use crate::wire::{Answer, Checker, Command, Request};
use crate::workload::{Pace, Transport, Workload};

/// Somebody who is more than a small client.
#[derive(Clone, Debug)]
pub(crate) enum Intruder {
    /// Nobody: the small clients are measured against themselves.
    Nobody,
    /// As fast as answers come.
    Load(Workload),
    /// Asks for many values at once and takes them at `BYTES_PER_S`.
    SlowReader(Workload),
    /// Sends values at `BYTES_PER_S`.
    SlowWriter(Workload),
}

/// What an intruder got done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
}

impl Intruder {
    /// The row called `name`, and what it is.
    pub(crate) fn find(name: &str) -> Option<&'static Row> {
        INTRUDERS.iter().find(|row| row.name == name)
    }

    fn workload(&self) -> Option<&Workload> {
        match self {
            Self::Nobody => None,
            Self::Load(workload) | Self::SlowReader(workload) | Self::SlowWriter(workload) => {
                Some(workload)
            }
        }
    }

    /// Its connections.
    pub(crate) fn connections(&self) -> u32 {
        self.workload().map_or(0, |workload| workload.connections)
    }

    /// Stores what it will ask for.
    pub(crate) fn prepare(&self, targets: &[SocketAddr]) -> Result<()> {
        match self.workload() {
            Some(workload) if workload.reads() => preload(workload, targets),
            Some(_) | None => Ok(()),
        }
    }

    /// Works until `over` is set. An error, a miss and a wrong answer fail the run.
    pub(crate) fn run(&self, targets: &[SocketAddr], over: &AtomicBool) -> Result<Done> {
        // Of this thread alone.
        rustix::process::setpriority_process(None, PRIORITY_LOWEST)
            .context("lower the intruder's priority")?;
        let start = Instant::now();
        let bytes = match self {
            Self::Nobody => 0,
            Self::Load(workload) => load(workload, targets, over)?,
            Self::SlowReader(workload) => crawl(workload, targets, over, Slow::reader)?,
            Self::SlowWriter(workload) => crawl(workload, targets, over, Slow::writer)?,
        };
        let seconds = start.elapsed().as_secs_f64();
        Ok(Done { bytes, seconds })
    }
}

fn load(workload: &Workload, targets: &[SocketAddr], over: &AtomicBool) -> Result<u64> {
    let mut generator = Generator::connect(workload, targets)?;
    let mut values = 0;
    let mut count = |tally: crate::generator::Tally| {
        if let Some(line) = tally.first_error {
            bail!("the intruder was told {line}");
        }
        ensure!(
            tally.misses == 0,
            "{} keys of the intruder are missing",
            tally.misses
        );
        values += tally.hits + tally.stored;
        Ok(())
    };
    while !over.load(Ordering::Relaxed) {
        count(generator.run(STEP)?)?;
    }
    count(generator.finish()?)?;
    Ok(values * u64::try_from(workload.value_len)?)
}

/// A connection that is used slowly.
struct Slow {
    stream: TcpStream,
    share: Share,
    /// What is to be sent.
    out: Vec<u8>,
    /// Bytes that may be sent, or taken, by now.
    write_len: usize,
    read_len: usize,
    waiting: Vec<Request>,
    checker: Checker,
}

impl Slow {
    fn open(target: SocketAddr, share: Share) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&target, CONNECT_MAX)
            .with_context(|| format!("connect to {target}"))?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            share,
            out: Vec::new(),
            write_len: usize::MAX,
            read_len: usize::MAX,
            waiting: Vec::new(),
            checker: Checker::default(),
        })
    }

    fn ask(&mut self, keys: &Keys, command: Command, count: u32) {
        for nth in 0..count {
            let request = Request::new(command, nth, 1, 0);
            request.encode(keys, self.share, &mut self.out);
            self.waiting.push(request);
        }
        // The next to be answered is the last.
        self.waiting.reverse();
    }

    fn reader(&mut self, keys: &Keys, count: u32) {
        self.ask(keys, Command::Get, count);
        self.read_len = 0;
    }

    fn writer(&mut self, keys: &Keys, count: u32) {
        self.ask(keys, Command::Set, count);
        self.write_len = 0;
    }

    /// Does what may be done by now; yields the bytes that were moved slowly.
    fn step(&mut self, keys: &Keys) -> Result<usize> {
        for allowed in [&mut self.write_len, &mut self.read_len] {
            *allowed = allowed.saturating_add(STEP_LEN);
        }
        let len = self.write_len.min(self.out.len());
        let sent = moved(self.stream.write(&self.out[..len]), len)?;
        self.out.drain(..sent);
        if self.write_len < usize::MAX {
            self.write_len -= sent;
            self.receive(keys, SCRATCH_LEN)?;
            return Ok(sent);
        }
        let taken = self.receive(keys, self.read_len.min(SCRATCH_LEN))?;
        self.read_len -= taken;
        Ok(taken)
    }

    fn receive(&mut self, keys: &Keys, len: usize) -> Result<usize> {
        let mut scratch = vec![0; len];
        let read = self.stream.read(&mut scratch);
        ensure!(
            !matches!(read, Ok(0)),
            "the slow intruder's connection was closed"
        );
        let count = moved(read, len)?;
        let mut bytes = &scratch[..count];
        while !bytes.is_empty() {
            let request = self.waiting.last_mut().context("nobody asked for this")?;
            let (used, answer) = self.checker.check(keys, self.share, request, bytes)?;
            bytes = &bytes[used..];
            match answer {
                None => {}
                Some(Answer::Values { misses: 0, .. } | Answer::Stored) => {
                    self.waiting.pop();
                }
                Some(other) => bail!("the slow intruder was answered {other:?}"),
            }
        }
        Ok(count)
    }
}

/// Bytes that a non-blocking call has moved.
fn moved(result: io::Result<usize>, asked: usize) -> Result<usize> {
    match result {
        Ok(count) => Ok(count),
        Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        Err(err) => Err(err).with_context(|| format!("the slow intruder's {asked} bytes")),
    }
}

fn crawl(
    workload: &Workload,
    targets: &[SocketAddr],
    over: &AtomicBool,
    begin: fn(&mut Slow, &Keys, u32),
) -> Result<u64> {
    let keys = Keys::new(workload.key_count, workload.value_len);
    let parts = u32::try_from(targets.len())?;
    let mut all = Vec::new();
    for number in 0..workload.connections {
        let part = number % parts;
        let target = targets[usize::try_from(part)?];
        let mut slow = Slow::open(target, Share::new(&keys, part, parts))?;
        begin(&mut slow, &keys, workload.depth);
        all.push(slow);
    }
    let mut bytes = 0;
    while !over.load(Ordering::Relaxed) {
        for slow in &mut all {
            bytes += u64::try_from(slow.step(&keys)?)?;
        }
        // Whoever sets `over` ends the wait.
        std::thread::park_timeout(STEP);
    }
    Ok(bytes)
}

/// An intruder of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) intruder: Intruder,
}

const LARGE: Workload = Workload {
    name: "large",
    about: "",
    read: Command::Get,
    set_percent: 0,
    keys_per_request: 1,
    value_len: 1_000_000,
    key_count: 32,
    connections: 1,
    depth: 1,
    pace: Pace::Closed,
    transport: Transport::Plain,
};

const SMALL: Workload = Workload {
    name: "small",
    value_len: 100,
    key_count: 10_000,
    ..LARGE
};

/// Everyone who may disturb.
pub(crate) const INTRUDERS: &[Row] = &[
    Row {
        name: "nobody",
        about: "nobody else: how much of a difference is noise",
        intruder: Intruder::Nobody,
    },
    Row {
        name: "large-1",
        about: "1 client reads values of 1 MB, one after the other",
        intruder: Intruder::Load(LARGE),
    },
    Row {
        name: "large-4",
        about: "4 clients read values of 1 MB, one after the other each",
        intruder: Intruder::Load(Workload {
            connections: 4,
            ..LARGE
        }),
    },
    Row {
        name: "pipeline",
        about: "1 client has 10,000 gets of 100 B in flight",
        intruder: Intruder::Load(Workload {
            depth: 10_000,
            ..SMALL
        }),
    },
    Row {
        name: "multiget",
        about: "1 client has 4 gets of 1,000 keys of 100 B in flight",
        intruder: Intruder::Load(Workload {
            keys_per_request: 1_000,
            depth: 4,
            ..SMALL
        }),
    },
    Row {
        name: "slow-reader",
        about: "4 clients ask for 50 values of 1 MB each and take 64 KiB/s",
        intruder: Intruder::SlowReader(Workload {
            connections: 4,
            depth: 50,
            ..LARGE
        }),
    },
    Row {
        name: "slow-writer",
        about: "4 clients send sets of 900 KiB at 64 KiB/s",
        intruder: Intruder::SlowWriter(Workload {
            connections: 4,
            set_percent: 100,
            value_len: 900 << 10,
            ..LARGE
        }),
    },
    Row {
        name: "writer",
        about: "1 client sends sets of 900 KiB, one after the other",
        intruder: Intruder::Load(Workload {
            set_percent: 100,
            value_len: 900 << 10,
            ..LARGE
        }),
    },
];

const PRIORITY_LOWEST: i32 = 19;

/// Bytes per second of those who are slow.
const BYTES_PER_S: usize = 64 << 10;

/// How often they move some.
const STEP: Duration = Duration::from_millis(20);

const STEP_LEN: usize = BYTES_PER_S / 50;

const SCRATCH_LEN: usize = 64 << 10;

const CONNECT_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn rows_are_sound() {
        for row in INTRUDERS {
            assert_eq!(Intruder::find(row.name).unwrap().about, row.about);
            if let Some(workload) = row.intruder.workload() {
                assert!(workload.value_len < 1 << 20, "{}", row.name);
                assert!(workload.keys_per_request <= workload.key_count);
            }
        }
        assert!(Intruder::find("someone").is_none());
    }

    #[test]
    fn who_is_slow_takes_no_more_than_its_share() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let keys = Keys::new(8, 100_000);
        let share = Share::new(&keys, 0, 1);
        let mut slow = Slow::open(listener.local_addr().unwrap(), share).unwrap();
        slow.writer(&keys, 1);
        let (mut peer, _) = listener.accept().unwrap();
        for _ in 0..3 {
            assert_eq!(slow.step(&keys).unwrap(), STEP_LEN);
        }
        let mut sent = vec![0; 3 * STEP_LEN];
        peer.read_exact(&mut sent).unwrap();
        assert!(sent.starts_with(b"set "));

        let mut slow = Slow::open(listener.local_addr().unwrap(), share).unwrap();
        slow.reader(&keys, 2);
        let (mut peer, _) = listener.accept().unwrap();
        let mut answer = b"VALUE ".to_vec();
        keys.write_key(0, &mut answer);
        answer.extend(format!(" {} 100000\r\n", Keys::client_flags(0)).into_bytes());
        answer.extend(keys.value(0));
        peer.write_all(&answer).unwrap();
        for steps in 1..=10 {
            let taken: usize = (0..10).map(|_| slow.step(&keys).unwrap()).sum();
            assert!(taken <= 10 * steps * STEP_LEN, "{taken} bytes");
        }
        // What is not the value is noticed, however slowly it is read.
        peer.write_all(&[b'x'; 2_000]).unwrap();
        let wrong = (0..1_000).find_map(|_| slow.step(&keys).err()).unwrap();
        assert!(wrong.to_string().contains("wrong answer"), "{wrong}");
    }
}
