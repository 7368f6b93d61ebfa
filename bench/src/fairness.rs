//! How long small clients wait while somebody else wants much of the same backend.
//!
//! # Invariants
//!
//! - The small clients ask in an open loop: a request that is due waits for nobody, and its wait counts.
//! - Each run is measured twice over the same connections, before the intruder comes and while it is
//!   there, so that a ratio of the two knows no other machine and no other proxy.
//! - In each round every peer runs once, every other round in reverse order.
//! - A run with a wrong, missing or failed answer, of the intruder too, never becomes a figure.
//!
//! Not here: what intruders do (`intruder`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;

use crate::arena::{Arena, Beside, Entry, Ground};
use crate::cli::{BACKUPS, FairnessArgs};
use crate::figures::{self, Figure};
use crate::generator::{Generator, Tally};
use crate::interrupt;
use crate::intruder::{Done, Row};
use crate::measure::{Target, Timing};
use crate::meter::peak_memory_kib;
use crate::report;
use crate::workload::{Pace, Workload};

/// The small clients in one run, beside one intruder.
#[derive(Clone, Debug, Serialize)]
struct Run {
    intruder: &'static str,
    peer: String,
    /// Counts from 1.
    round: u32,
    /// Before the intruder came.
    calm: Waits,
    beside: Waits,
    /// What the intruder got, in MiB/s of values.
    intruder_mib_s: Option<f64>,
    peak_memory_mib: Option<f64>,
}

/// How long requests took, in microseconds from when they were due.
#[derive(Clone, Copy, Debug, Serialize)]
struct Waits {
    requests: u64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
}

impl Waits {
    /// Fails if a request did.
    fn of(tally: &Tally) -> Result<Self> {
        check(tally)?;
        ensure!(tally.requests > 0, "no small client was answered");
        Ok(Self {
            requests: tally.requests,
            p50_us: tally.latency_us(50.0),
            p99_us: tally.latency_us(99.0),
            p999_us: tally.latency_us(99.9),
        })
    }
}

fn check(tally: &Tally) -> Result<()> {
    if let Some(line) = &tally.first_error {
        bail!("a small client was told {line}");
    }
    ensure!(
        tally.misses == 0,
        "{} keys of small clients are missing",
        tally.misses
    );
    Ok(())
}

/// All that was measured.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    runs: Vec<Run>,
    /// What went wrong, as sentences.
    failures: Vec<String>,
}

/// Carries out `bench fairness`.
pub(crate) fn fairness(args: &FairnessArgs) -> Result<()> {
    let names = args.line_up.names()?;
    let rows = args.intruders();
    let outcome = run(args, &rows)?;
    print!(
        "{}",
        render(&outcome, &rows, &names, &args.line_up.baseline)
    );
    if let Some(path) = &args.json {
        report::write(path, &outcome)?;
    }
    report::none_failed(&outcome.failures)
}

/// Measures every peer beside every intruder; tells its progress on stderr.
fn run(args: &FairnessArgs, rows: &[&'static Row]) -> Result<Outcome> {
    let most = rows.iter().map(|row| row.intruder.connections()).max();
    let ground = Ground {
        backends: args.backends,
        backups: BACKUPS,
        connections: SMALL_CLIENTS.connections + most.unwrap_or(0),
        memcached: "-m 1024",
        pinned: true,
        beside: Beside::Generator,
    };
    let arena = Arena::new(&args.setup, &ground, &args.line_up.peers())?;
    let mut outcome = Outcome::default();
    for row in rows {
        beside(&arena, args, row, &mut outcome)?;
    }
    Ok(outcome)
}

/// All rounds beside one intruder. Each peer is started afresh: its peak of memory is this one's doing.
fn beside(
    arena: &Arena<'_>,
    args: &FairnessArgs,
    row: &'static Row,
    outcome: &mut Outcome,
) -> Result<()> {
    let small = args.small();
    let mut contenders = Vec::new();
    for peer in args.line_up.peers() {
        let contender = arena.start(Entry {
            name: peer.name.clone(),
            peer,
            workload: small.clone(),
            backends: args.backends,
            workers: 1,
        })?;
        row.intruder.prepare(&contender.target.addresses)?;
        contenders.push(contender);
    }
    for round in 1..=args.setup.runs() {
        for contender in &mut contenders {
            let ran = run_once(&small, row, &contender.target, args.setup.timing());
            let peer = contender.entry.name.clone();
            match contender.check_alive().and(ran) {
                Ok(run) => {
                    let run = Run { peer, round, ..run };
                    tell(&run);
                    outcome.runs.push(run);
                }
                Err(err) => {
                    interrupt::check()?;
                    let failure = format!("{peer} beside {}: {err:#}", row.name);
                    eprintln!("FAILED: {failure}");
                    outcome.failures.push(failure);
                }
            }
        }
        contenders.reverse();
    }
    Ok(())
}

fn run_once(small: &Workload, row: &'static Row, target: &Target, timing: Timing) -> Result<Run> {
    let mut generator = Generator::connect(small, &target.addresses)?;
    check(&generator.run(timing.warm_up)?)?;
    let calm = Waits::of(&generator.run(timing.measured / 2)?)?;
    let over = AtomicBool::new(false);
    let (beside, done) = thread::scope(|scope| {
        let intruder = scope.spawn(|| row.intruder.run(&target.addresses, &over));
        let beside = (|| {
            check(&generator.run(timing.warm_up)?)?;
            Waits::of(&generator.run(timing.measured)?)
        })();
        over.store(true, Ordering::Relaxed);
        intruder.thread().unpark();
        let done: Result<Done> = intruder.join().expect("an intruder's panic is ours");
        (beside, done)
    });
    let (done, beside) = (done?, beside?);
    check(&generator.finish()?)?;
    let memory_kib = target.proxy_pid.map(peak_memory_kib).transpose()?;
    Ok(Run {
        intruder: row.name,
        peer: String::new(),
        round: 1,
        calm,
        beside,
        intruder_mib_s: (done.bytes > 0)
            .then(|| done.bytes as f64 / f64::from(1 << 20) / done.seconds),
        peak_memory_mib: memory_kib.map(|kib| kib as f64 / 1_024.0),
    })
}

fn tell(run: &Run) {
    eprintln!(
        "{} {} {}: p99 {:.0} µs, {:.0} before",
        run.intruder, run.round, run.peer, run.beside.p99_us, run.calm.p99_us
    );
}

impl figures::Run for Run {
    fn peer(&self) -> &str {
        &self.peer
    }

    fn round(&self) -> u32 {
        self.round
    }
}

const FIGURES: &[Figure<Run>] = &[
    Figure {
        heading: "calm p99",
        digits: 0,
        of: |run| Some(run.calm.p99_us),
        compared: true,
    },
    Figure {
        heading: "p50 µs",
        digits: 0,
        of: |run| Some(run.beside.p50_us),
        compared: true,
    },
    Figure {
        heading: "p99 µs",
        digits: 0,
        of: |run| Some(run.beside.p99_us),
        compared: true,
    },
    Figure {
        heading: "p99.9 µs",
        digits: 0,
        of: |run| Some(run.beside.p999_us),
        compared: true,
    },
    Figure {
        heading: "p99/calm",
        digits: 2,
        of: |run| Some(run.beside.p99_us / run.calm.p99_us),
        compared: false,
    },
    Figure {
        heading: "its MiB/s",
        digits: 2,
        of: |run| run.intruder_mib_s,
        compared: true,
    },
    Figure {
        heading: "peak MiB",
        digits: 1,
        of: |run| run.peak_memory_mib,
        compared: true,
    },
];

/// The tables for people, one per intruder.
fn render(outcome: &Outcome, rows: &[&'static Row], peers: &[String], baseline: &str) -> String {
    let mut out = String::new();
    for row in rows {
        let runs: Vec<&Run> = (outcome.runs.iter())
            .filter(|run| run.intruder == row.name)
            .collect();
        out.push_str(&format!("{}: {}\n", row.name, row.about));
        out.push_str(&figures::render(FIGURES, &runs, peers, baseline));
        out.push('\n');
    }
    out.push_str(
        "Small clients' requests, beside the intruder and (calm) before it came. Medians; ratios\n\
         are taken round by round, with the smallest and largest in brackets. its MiB/s: what the\n\
         intruder got.\n",
    );
    out
}

/// The small clients: few requests, so that they wait for the intruder and not for each other.
pub(crate) const SMALL_CLIENTS: Workload = Workload {
    name: "small-clients",
    about: "get of 100 B, 20 connections, open loop",
    read: crate::wire::Command::Get,
    set_percent: 0,
    keys_per_request: 1,
    value_len: 100,
    key_count: 10_000,
    connections: 20,
    depth: 1,
    pace: Pace::Rate(2_000),
    transport: crate::workload::Transport::Plain,
};

/// Reads a name of the table.
pub(crate) fn parse_intruder(name: &str) -> Result<&'static Row> {
    let names = || {
        let rows = crate::intruder::INTRUDERS.iter();
        rows.map(|row| row.name).collect::<Vec<_>>().join(", ")
    };
    crate::intruder::Intruder::find(name)
        .with_context(|| format!("no such intruder (known: {})", names()))
}
