//! What becomes of a proxy that is asked for twice as much as it can do.
//!
//! ```text
//! closed loops: peak ─> calm ─> twice the peak, for a while ─> calm: back to before?
//! ```
//!
//! Calm is half of what the peer does with one request at a time on each connection. Half of the peak, which is
//! reached with full pipelines, would be too much for some: requests that are due evenly share no packets.
//!
//! # Invariants
//!
//! - One run is one set of connections: what the overload left behind is met by what comes after.
//! - Errors and misses under overload are counted and shown, not judged; a wrong answer and a lost
//!   connection fail the run.
//!
//! Not here: how peers are started (`arena`).

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::arena::{Arena, Beside, Entry, Ground};
use crate::cli::{BACKUPS, OverloadArgs};
use crate::figures::{self, Figure};
use crate::generator::{Generator, Tally};
use crate::interrupt;
use crate::measure::Target;
use crate::meter::peak_memory_kib;
use crate::report;
use crate::workload::{Pace, Transport, Workload};

/// One overload of one peer.
#[derive(Clone, Debug, Serialize)]
struct Run {
    peer: String,
    /// Counts from 1.
    round: u32,
    /// Good answers per second in a closed loop, at the best of several depths.
    peak: f64,
    /// Good answers per second, while twice the peak was wanted.
    goodput: f64,
    p99_before_us: f64,
    p99_overload_us: f64,
    /// From the overload's end until requests took no longer than before it; none if they did to the end.
    recovered_ms: Option<f64>,
    errors: u64,
    misses: u64,
    first_error: Option<String>,
    peak_memory_mib: Option<f64>,
}

/// All that was measured.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    runs: Vec<Run>,
    /// What went wrong, as sentences.
    failures: Vec<String>,
}

/// Carries out `bench overload`.
pub(crate) fn overload(args: &OverloadArgs) -> Result<()> {
    let names = args.line_up.names()?;
    let outcome = run(args)?;
    let baseline = &args.line_up.baseline;
    print!("{}", render(&outcome, &args.workload(), &names, baseline));
    if let Some(path) = &args.json {
        report::write(path, &outcome)?;
    }
    report::none_failed(&outcome.failures)
}

/// Overloads every peer in every round; tells its progress on stderr.
fn run(args: &OverloadArgs) -> Result<Outcome> {
    let workload = args.workload();
    let mut peers = args.line_up.peers();
    let ground = Ground {
        backends: args.backends,
        backups: BACKUPS,
        connections: workload.connections,
        memcached: "-m 1024",
        pinned: true,
        beside: Beside::Proxy,
    };
    let arena = Arena::new(&args.setup, &ground, &peers)?;
    let mut outcome = Outcome::default();
    for round in 1..=args.setup.runs() {
        for peer in &peers {
            let entry = Entry {
                name: peer.name.clone(),
                peer: peer.clone(),
                workload: workload.clone(),
                backends: args.backends,
                workers: 1,
            };
            let mut contender = arena.start(entry)?;
            let ran = run_once(&workload, &contender.target, args);
            match contender.check_alive().and(ran) {
                Ok(run) => {
                    let peer = peer.name.clone();
                    let run = Run { peer, round, ..run };
                    tell(&run);
                    outcome.runs.push(run);
                }
                Err(err) => {
                    interrupt::check()?;
                    let failure = format!("{}: {err:#}", peer.name);
                    eprintln!("FAILED: {failure}");
                    outcome.failures.push(failure);
                }
            }
        }
        peers.reverse();
    }
    Ok(outcome)
}

fn run_once(workload: &Workload, target: &Target, args: &OverloadArgs) -> Result<Run> {
    let timing = args.setup.timing();
    let closed = Workload {
        depth: 1,
        ..workload.clone()
    };
    let mut generator = Generator::connect(&closed, &target.addresses)?;
    let mut bad = Bad::default();
    let (mut peak, mut one_each): (f64, Option<f64>) = (0.0, None);
    // Where a peer is at its best is its own affair.
    for depth in CLOSED_DEPTHS
        .into_iter()
        .filter(|depth| *depth <= workload.depth)
    {
        generator.change(Pace::Closed, depth)?;
        bad.add(&generator.run(timing.warm_up)?);
        let closed = generator.run(timing.measured)?;
        bad.add(&closed);
        peak = peak.max(goodput(&closed));
        one_each.get_or_insert(peak);
    }
    let calm = rate(one_each.unwrap_or(peak) / 2.0)?;
    ensure!(bad.is_none(), "{} before any overload", bad.text());

    generator.change(calm, workload.depth)?;
    bad.add(&generator.run(timing.warm_up + SETTLE)?);
    let before = generator.run(timing.measured)?;
    bad.add(&before);
    ensure!(bad.is_none(), "{} at half of what it can do", bad.text());

    generator.change(rate(peak * 2.0)?, workload.depth)?;
    bad.add(&generator.run(timing.warm_up)?);
    let over = generator.run(timing.measured * 2)?;
    bad.add(&over);

    generator.change(calm, workload.depth)?;
    let p99_before_us = before.latency_us(99.0);
    let recovered = recover(&mut generator, p99_before_us, timing.measured, &mut bad)?;
    bad.add(&generator.finish()?);
    let memory_kib = target.proxy_pid.map(peak_memory_kib).transpose()?;
    Ok(Run {
        peer: String::new(),
        round: 1,
        peak,
        goodput: goodput(&over),
        p99_before_us,
        p99_overload_us: over.latency_us(99.0),
        recovered_ms: recovered.map(|after| after.as_secs_f64() * 1e3),
        errors: bad.errors,
        misses: bad.misses,
        first_error: bad.first_error,
        peak_memory_mib: memory_kib.map(|kib| kib as f64 / 1_024.0),
    })
}

/// When the waits were back to what they had been, seen from the end of the overload: the end of the
/// last window in which they were not.
fn recover(
    generator: &mut Generator,
    p99_before_us: f64,
    measured: Duration,
    bad: &mut Bad,
) -> Result<Option<Duration>> {
    let start = Instant::now();
    let mut windows = Vec::new();
    while start.elapsed() < RECOVERY_MAX {
        let tally = generator.run(WINDOW)?;
        bad.add(&tally);
        windows.push((start.elapsed(), tally.latency_us(99.0)));
        let back = back_after(&windows, p99_before_us * BACK_TO);
        if back.is_some_and(|back| start.elapsed() > back + measured) {
            break;
        }
    }
    Ok(back_after(&windows, p99_before_us * BACK_TO))
}

/// The end of the first of `CALM_WINDOWS` windows in a row with no p99 above `limit_us`.
fn back_after(windows: &[(Duration, f64)], limit_us: f64) -> Option<Duration> {
    let calm = |row: &&[(Duration, f64)]| row.iter().all(|(_, p99_us)| *p99_us <= limit_us);
    let row = windows.windows(CALM_WINDOWS).find(calm)?;
    Some(row.first()?.0)
}

/// Answers that were none.
#[derive(Default)]
struct Bad {
    errors: u64,
    misses: u64,
    first_error: Option<String>,
}

impl Bad {
    fn add(&mut self, tally: &Tally) {
        self.errors += tally.errors;
        self.misses += tally.misses;
        if self.first_error.is_none() {
            self.first_error.clone_from(&tally.first_error);
        }
    }

    fn is_none(&self) -> bool {
        self.errors == 0 && self.misses == 0
    }

    fn text(&self) -> String {
        let first = self.first_error.as_deref().unwrap_or("a miss");
        format!("{} errors, {} misses ({first})", self.errors, self.misses)
    }
}

/// Answers with what was asked for, per second.
fn goodput(tally: &Tally) -> f64 {
    (tally.hits + tally.stored) as f64 / tally.elapsed.as_secs_f64()
}

fn rate(per_s: f64) -> Result<Pace> {
    let nanos = Duration::try_from_secs_f64(per_s / 1e9)?.as_nanos();
    Ok(Pace::Rate(u64::try_from(nanos)?.max(1)))
}

fn tell(run: &Run) {
    eprintln!(
        "{} {}: {:.0}/s at the peak, {:.0}/s under overload, {} errors, {} misses",
        run.round, run.peer, run.peak, run.goodput, run.errors, run.misses
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
        heading: "peak/s",
        digits: 0,
        of: |run| Some(run.peak),
        compared: true,
    },
    Figure {
        heading: "goodput/s",
        digits: 0,
        of: |run| Some(run.goodput),
        compared: true,
    },
    Figure {
        heading: "of peak",
        digits: 2,
        of: |run| Some(run.goodput / run.peak),
        compared: false,
    },
    Figure {
        heading: "before p99",
        digits: 0,
        of: |run| Some(run.p99_before_us),
        compared: true,
    },
    Figure {
        heading: "p99 µs",
        digits: 0,
        of: |run| Some(run.p99_overload_us),
        compared: true,
    },
    Figure {
        heading: "back ms",
        digits: 0,
        of: |run| run.recovered_ms,
        compared: true,
    },
    Figure {
        heading: "errors",
        digits: 0,
        of: |run| Some(run.errors as f64),
        compared: false,
    },
    Figure {
        heading: "misses",
        digits: 0,
        of: |run| Some(run.misses as f64),
        compared: false,
    },
    Figure {
        heading: "peak MiB",
        digits: 1,
        of: |run| run.peak_memory_mib,
        compared: true,
    },
];

/// The table for people.
fn render(outcome: &Outcome, workload: &Workload, peers: &[String], baseline: &str) -> String {
    let runs: Vec<&Run> = outcome.runs.iter().collect();
    let mut out = format!(
        "twice the peak: get of {} B, {} connections, up to {} requests on each\n",
        workload.value_len, workload.connections, workload.depth
    );
    out.push_str(&figures::render(FIGURES, &runs, peers, baseline));
    let told = |run: &&Run| {
        run.first_error
            .as_ref()
            .map(|line| (run.peer.clone(), line.clone()))
    };
    let mut told: Vec<(String, String)> = runs.iter().filter_map(told).collect();
    told.sort();
    told.dedup();
    for (peer, line) in told {
        out.push_str(&format!("{peer} told its clients: {line}\n"));
    }
    out.push_str(
        "\ngoodput/s: answers with the value while twice the peak was wanted. back ms: from the end of\n\
         the overload, calm again, until p99 was at most twice the one before it.\n",
    );
    out
}

/// What is asked for.
pub(crate) const WANTED: Workload = Workload {
    name: "overload",
    about: "get of 100 B",
    read: crate::wire::Command::Get,
    set_percent: 0,
    keys_per_request: 1,
    value_len: 100,
    key_count: 10_000,
    connections: 500,
    depth: 64,
    pace: Pace::Closed,
    transport: Transport::Plain,
};

/// Requests in flight on each connection while the peak is looked for.
const CLOSED_DEPTHS: [u32; 4] = [1, 4, 16, 64];

/// What is left of a phase when the next begins is not to count as its.
const SETTLE: Duration = Duration::from_millis(200);

/// Requests that take so many times as long as before still count as back to it.
const BACK_TO: f64 = 2.0;

/// How closely the way back is looked at.
const WINDOW: Duration = Duration::from_millis(20);

const CALM_WINDOWS: usize = 5;

/// After so long nobody says any more that it recovers at once.
const RECOVERY_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_back_when_it_stays_back() {
        let ms = Duration::from_millis;
        let windows = |p99s: &[f64]| -> Vec<(Duration, f64)> {
            (1..).zip(p99s).map(|(n, &p99)| (ms(20 * n), p99)).collect()
        };
        let back = |p99s: &[f64]| back_after(&windows(p99s), 10.0);
        assert_eq!(back(&[5.0; 5]), Some(ms(20)));
        assert_eq!(
            back(&[50.0, 5.0, 50.0, 5.0, 5.0, 5.0, 5.0, 5.0]),
            Some(ms(80))
        );
        assert_eq!(
            back(&[50.0, 5.0, 5.0, 5.0, 5.0]),
            None,
            "not for long enough"
        );
        assert_eq!(back(&[50.0; 100]), None);
    }

    #[test]
    fn half_and_twice_of_a_peak_are_rates() {
        assert_eq!(rate(1_000.4).unwrap(), Pace::Rate(1_000));
        assert_eq!(rate(0.2).unwrap(), Pace::Rate(1));
        assert!(rate(f64::NAN).is_err());
    }
}
