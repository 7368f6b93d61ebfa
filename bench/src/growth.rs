//! `bench growth`: what a request costs as one thing grows and all else stays equal.
//!
//! All points of a dimension run in turns, as peers do elsewhere: so a point is compared with the
//! first in the same round.
//!
//! Not here: how runs are made (`arena`), how the drawing looks (`chart`).

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;

use crate::arena::{self, Arena, Beside, Entry, Ground, Outcome};
use crate::chart::{Curve, Panel, panels};
use crate::cli::GrowthArgs;
use crate::environment::Environment;
use crate::grid::{Grid, thousands};
use crate::peer::Peer;
use crate::report::{self, Figure, P50, P99, PEAK_MEMORY, PROXY_CPU, THROUGHPUT};
use crate::stats::Spread;
use crate::workload::Workload;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Dimension {
    /// memcacheds behind the proxy
    Backends,
    /// Clients' connections
    Connections,
    /// Bytes of each value
    Value,
    /// Threads of the proxy, where it can have several
    Workers,
}

/// A workload at several points of a dimension.
#[derive(Debug)]
struct Series {
    dimension: Dimension,
    workload: &'static str,
    per: Per,
    points: &'static [u32],
    /// Where it is not flat, and why.
    why: &'static str,
}

/// What a request's cost is divided by, so that it can be flat.
#[derive(Clone, Copy, Debug)]
enum Per {
    Request,
    Key,
    KiB,
}

const SERIES: &[Series] = &[
    Series {
        dimension: Dimension::Backends,
        workload: "get",
        per: Per::Request,
        points: &[1, 10, 100, 500],
        why: "Grows until a backend seldom has two requests at a time: then there is nothing to gather, and each is a send and a wake-up of its own.",
    },
    Series {
        dimension: Dimension::Backends,
        workload: "multiget",
        per: Per::Key,
        points: &[1, 10, 100, 500],
        why: "Grows with the backends that 50 keys reach, each of which is asked and answers on its own, and as fewer clients meet at each.",
    },
    Series {
        dimension: Dimension::Connections,
        workload: "get",
        per: Per::Request,
        points: &[1, 100, 1_000, 20_000],
        why: "One client alone pays for a wake-up with every request. From a hundred on it grows slowly, as the sockets do not fit into the cache any more.",
    },
    Series {
        dimension: Dimension::Value,
        workload: "get",
        per: Per::Request,
        points: &[10, 100, 1 << 10, 10 << 10],
        why: "Flat while a value costs less to copy than the system calls around it.",
    },
    Series {
        dimension: Dimension::Value,
        workload: "get",
        per: Per::KiB,
        points: &[100 << 10, 1 << 20, 8 << 20],
        why: "Flat: only copying counts.",
    },
    Series {
        dimension: Dimension::Workers,
        workload: "get",
        per: Per::Request,
        points: &[1, 2],
        why: "A worker has fewer clients, so it gathers less.",
    },
];

/// Carries out `bench growth`.
pub(crate) fn growth(args: &GrowthArgs) -> Result<()> {
    let wanted =
        |dimension: &Dimension| args.dimensions.is_empty() || args.dimensions.contains(dimension);
    let all = Dimension::value_variants().iter().copied();
    let dimensions: Vec<Dimension> = all.filter(wanted).collect();
    let mut notes = vec![format!(
        "{}, in each all points and peers of a dimension take turns. One worker thread and \
         {BACKENDS} memcacheds where nothing else is said.",
        report::rounds(&args.setup)
    )];
    notes.extend(Environment::look(&args.setup).lines());
    let plans: Result<Vec<Plan>> = SERIES
        .iter()
        .filter(|series| dimensions.contains(&series.dimension))
        .map(|series| Plan::new(series, args))
        .collect();
    let plans = plans?;
    notes.extend(dimensions.iter().filter_map(|dimension| dimension.note()));
    notes.extend(plans.iter().filter_map(|plan| plan.fewer.clone()));
    let outcome = run(args, &dimensions, &plans)?;
    let points: Vec<Vec<Point>> = plans
        .iter()
        .map(|plan| plan.points(&args.peers, &outcome))
        .collect();
    let shown = Shown {
        plans: &plans,
        points: &points,
        notes: &notes,
    };
    print!("{}", shown.text());
    if let Some(path) = &args.markdown {
        report::write_text(path, &shown.markdown(&report::command_line()))?;
    }
    if let Some(path) = &args.svg {
        report::write_text(path, &shown.svg(&args.peers))?;
    }
    if let Some(path) = &args.json {
        report::write_json(path, &outcome, &points.concat())?;
    }
    report::none_failed(&outcome.failures)
}

/// All rounds of `plans`, one dimension after the other.
fn run(args: &GrowthArgs, dimensions: &[Dimension], plans: &[Plan]) -> Result<Outcome> {
    let entries = |dimension| -> Vec<Entry> {
        let plans = plans
            .iter()
            .filter(|plan| plan.series.dimension == dimension);
        plans.flat_map(|plan| plan.entries(&args.peers)).collect()
    };
    let total: usize = dimensions
        .iter()
        .map(|&dimension| entries(dimension).len())
        .sum();
    let mut outcome = Outcome::new(total * usize::try_from(args.setup.runs())?);
    for &dimension in dimensions {
        let entries = entries(dimension);
        let most = |of: fn(&Entry) -> u32| entries.iter().map(of).max().unwrap_or(0);
        let ground = Ground {
            backends: most(|entry| entry.backends),
            backups: 0,
            connections: most(|entry| entry.workload.connections),
            memcached: dimension.memcached(),
            pinned: dimension != Dimension::Workers,
            beside: Beside::Generator,
        };
        eprintln!(
            "{}: starting {} memcacheds",
            dimension.name(),
            ground.backends
        );
        let arena = Arena::new(&args.setup, &ground, &args.peers)?;
        arena.heat(entries, None, &mut outcome)?;
    }
    Ok(outcome)
}

impl Dimension {
    fn name(self) -> &'static str {
        match self {
            Self::Backends => "backends",
            Self::Connections => "connections",
            Self::Value => "value",
            Self::Workers => "workers",
        }
    }

    /// A point as people say it.
    fn point(self, at: u32) -> String {
        match (self, at) {
            (Self::Value, at) if at >= 1 << 20 => format!("{} MiB", at >> 20),
            (Self::Value, at) if at >= 1 << 10 => format!("{} KiB", at >> 10),
            (Self::Value, at) => format!("{at} B"),
            (Self::Backends | Self::Connections | Self::Workers, at) => thousands(at),
        }
    }

    /// memcached's memory. Hundreds of them each get little; large values need a larger limit.
    fn memcached(self) -> &'static str {
        match self {
            Self::Backends => "-m 16",
            Self::Connections | Self::Workers => "-m 1024",
            Self::Value => "-m 1024 -I 16m",
        }
    }

    fn note(self) -> Option<String> {
        let note = match self {
            Self::Backends | Self::Connections => return None,
            Self::Value => format!(
                "value: {VALUE_CONNECTIONS} connections; as many keys as make 64 MiB, at most 10,000."
            ),
            Self::Workers => "workers: not pinned to CPUs, generator and memcacheds share all of \
                              them with the proxy; nutcracker has one thread."
                .to_owned(),
        };
        Some(note)
    }
}

/// A series with the points that are measured.
#[derive(Debug)]
struct Plan {
    series: &'static Series,
    workload: Workload,
    points: Vec<u32>,
    /// Why a point is not where it should be.
    fewer: Option<String>,
}

impl Plan {
    fn new(series: &'static Series, args: &GrowthArgs) -> Result<Self> {
        let workload = Workload::find(series.workload).context("a series without a workload")?;
        let limit = args.up_to.unwrap_or(u32::MAX);
        let points = series.points.iter().copied();
        let mut points: Vec<u32> = points.filter(|&point| point <= limit).collect();
        let mut fewer = None;
        if let (Dimension::Connections, Some(&most)) = (series.dimension, points.last()) {
            let allowed = arena::connections_allowed(most)?;
            points
                .iter_mut()
                .for_each(|point| *point = allowed.min(*point));
            points.dedup();
            fewer = (allowed < most).then(|| {
                format!(
                    "connections: {} instead of {}, as many as the limit on open files allows.",
                    thousands(allowed),
                    thousands(most)
                )
            });
        }
        Ok(Self {
            series,
            workload: workload.clone(),
            points,
            fewer,
        })
    }

    fn name(&self, peer: &Peer, at: u32) -> String {
        let dimension = self.series.dimension;
        format!(
            "{} at {} {}",
            peer.name,
            dimension.name(),
            dimension.point(at)
        )
    }

    fn entries(&self, peers: &[Peer]) -> Vec<Entry> {
        let points = self.points.iter();
        let pairs = points.flat_map(|&at| peers.iter().map(move |peer| (at, peer)));
        pairs
            .filter(|(at, peer)| self.applies(*at, peer))
            .map(|(at, peer)| self.entry(at, peer))
            .collect()
    }

    fn applies(&self, at: u32, peer: &Peer) -> bool {
        self.series.dimension != Dimension::Workers || at == 1 || peer.takes_workers()
    }

    fn entry(&self, at: u32, peer: &Peer) -> Entry {
        let mut entry = Entry {
            name: self.name(peer, at),
            peer: peer.clone(),
            workload: self.workload.clone(),
            backends: BACKENDS,
            workers: 1,
        };
        match self.series.dimension {
            Dimension::Backends => entry.backends = at,
            Dimension::Connections => entry.workload.connections = at,
            Dimension::Value => {
                entry.workload.connections = VALUE_CONNECTIONS;
                entry.workload.key_count = entry.workload.key_count.min(STORED_MAX / at);
                entry.workload.value_len = usize::try_from(at).expect("u32 fits usize on Linux");
            }
            Dimension::Workers => entry.workers = at,
        }
        entry
    }

    /// How many units a request has at a point.
    fn units(&self, at: u32) -> f64 {
        match self.series.per {
            Per::Request => 1.0,
            Per::Key => f64::from(self.workload.keys_per_request),
            Per::KiB => f64::from(at) / 1_024.0,
        }
    }

    fn figure(&self) -> &'static str {
        match self.series.per {
            Per::Request => "CPU µs per request",
            Per::Key => "CPU µs per key",
            Per::KiB => "CPU µs per KiB",
        }
    }

    /// What stays the same at all points.
    fn about(&self) -> String {
        let Workload {
            keys_per_request,
            value_len,
            connections,
            ..
        } = self.workload;
        let what = match keys_per_request {
            1 => "get".to_owned(),
            keys => format!("get of {keys} keys"),
        };
        match self.series.dimension {
            Dimension::Backends | Dimension::Workers => {
                format!("{what} of {value_len} B, {connections} connections")
            }
            Dimension::Connections => format!("{what} of {value_len} B"),
            Dimension::Value => format!("{what}, {VALUE_CONNECTIONS} connections"),
        }
    }

    fn heading(&self) -> String {
        format!("{}: {}", self.series.dimension.name(), self.about())
    }

    /// The heading with what to expect.
    fn introduction(&self) -> [String; 2] {
        [self.heading(), self.series.why.to_owned()]
    }

    fn points(&self, peers: &[Peer], outcome: &Outcome) -> Vec<Point> {
        let pairs = peers
            .iter()
            .flat_map(|peer| self.points.iter().map(move |&at| (at, peer)));
        pairs
            .filter(|(at, peer)| self.applies(*at, peer))
            .map(|(at, peer)| self.point(at, peer, outcome))
            .collect()
    }

    fn point(&self, at: u32, peer: &Peer, outcome: &Outcome) -> Point {
        let runs_at = |at| outcome.runs_of(self.workload.name, &self.name(peer, at));
        let (runs, first) = (runs_at(at), self.points.first().copied().unwrap_or(at));
        let spread = |figure: Figure| figure.spread(&runs);
        let to_first = PROXY_CPU.ratios(&runs, &runs_at(first));
        Point {
            dimension: self.series.dimension,
            workload: self.workload.name,
            figure: self.figure(),
            at,
            peer: peer.name.clone(),
            cost: spread(PROXY_CPU).map(|cost| cost.divided_by(self.units(at))),
            to_first: to_first.map(|ratio| ratio.divided_by(self.units(at) / self.units(first))),
            throughput: spread(THROUGHPUT),
            p50_us: spread(P50),
            p99_us: spread(P99),
            peak_memory_mib: spread(PEAK_MEMORY),
        }
    }
}

/// What was measured of a peer at one point.
#[derive(Clone, Debug, Serialize)]
struct Point {
    dimension: Dimension,
    workload: &'static str,
    /// What the cost is.
    figure: &'static str,
    at: u32,
    peer: String,
    cost: Option<Spread>,
    /// The cost over that at the first point.
    to_first: Option<Spread>,
    throughput: Option<Spread>,
    p50_us: Option<Spread>,
    p99_us: Option<Spread>,
    peak_memory_mib: Option<Spread>,
}

/// The points of all plans, for people.
struct Shown<'a> {
    plans: &'a [Plan],
    points: &'a [Vec<Point>],
    notes: &'a [String],
}

impl Shown<'_> {
    fn grids(&self) -> impl Iterator<Item = ([String; 2], Grid)> {
        let both = self.plans.iter().zip(self.points);
        both.map(|(plan, points)| {
            let mut grid = Grid::new(
                2,
                &[
                    "",
                    plan.series.dimension.name(),
                    plan.figure(),
                    "(min–max)",
                    "to the first",
                    "requests/s",
                    "p50 µs",
                    "p99 µs",
                    "peak MiB",
                ],
            );
            for point in points {
                grid.push(point.cells());
            }
            (plan.introduction(), grid)
        })
    }

    fn text(&self) -> String {
        let grids = self.grids();
        let parts =
            grids.map(|([heading, why], grid)| format!("{heading}\n{}{why}\n\n", grid.text()));
        format!("{}{}\n", parts.collect::<String>(), self.notes.join("\n"))
    }

    fn markdown(&self, command: &str) -> String {
        let parts = self.grids();
        let parts = parts.map(|([heading, why], grid)| {
            format!("**{heading}**\n\n{}\n{why}\n\n", grid.markdown())
        });
        format!(
            "# Growth\n\nMeasured with\n\n```sh\n{command}\n```\n\n{}{}\n",
            parts.collect::<String>(),
            self.notes.join("\n")
        )
    }

    fn svg(&self, peers: &[Peer]) -> String {
        let drawn = self.plans.iter().zip(self.points).map(|(plan, points)| {
            let curve = |peer: &Peer| Curve {
                name: peer.name.clone(),
                values: plan
                    .points
                    .iter()
                    .map(|&at| {
                        let mine = |point: &&Point| point.at == at && point.peer == peer.name;
                        points.iter().find(mine)?.cost
                    })
                    .collect(),
            };
            let dimension = plan.series.dimension;
            Panel {
                heading: plan.heading(),
                figure: plan.figure().to_owned(),
                points: plan.points.iter().map(|&at| dimension.point(at)).collect(),
                curves: peers.iter().map(curve).collect(),
            }
        });
        panels(
            "How the cost of a request grows",
            "CPU time of the proxy, median and range of the rounds. Every axis starts at 0.",
            &drawn.collect::<Vec<_>>(),
            self.notes,
        )
    }
}

impl Point {
    fn cells(&self) -> Vec<String> {
        let digits = |spread: Spread| if spread.median < 1.0 { 3 } else { 2 };
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
        vec![
            self.peer.clone(),
            self.dimension.point(self.at),
            or_dash(
                self.cost
                    .map(|cost| format!("{:.*}", digits(cost), cost.median)),
            ),
            or_dash(self.cost.map(|cost| {
                let digits = digits(cost);
                format!("({:.digits$}–{:.digits$})", cost.min, cost.max)
            })),
            or_dash(self.to_first.map(|ratio| format!("{:.2}", ratio.median))),
            THROUGHPUT.text(self.throughput),
            P50.text(self.p50_us),
            P99.text(self.p99_us),
            PEAK_MEMORY.text(self.peak_memory_mib),
        ]
    }
}

/// memcacheds where their number does not grow.
const BACKENDS: u32 = 3;

/// Connections where values grow: few, so that generator and kernel are not what is measured.
const VALUE_CONNECTIONS: u32 = 10;

/// Bytes of all values of a set of keys.
const STORED_MAX: u32 = 64 << 20;

#[cfg(test)]
mod tests;
