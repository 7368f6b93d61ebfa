//! Medians and ratios of a comparison, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::compare::Outcome;
use crate::measure::Run;
use crate::stats::Spread;
use crate::workload::Workload;

/// One figure of a run: a column of the table, a key in the JSON.
struct Figure {
    name: &'static str,
    heading: &'static str,
    digits: usize,
    of: fn(&Run) -> Option<f64>,
}

const FIGURES: &[Figure] = &[
    Figure {
        name: "throughput",
        heading: "requests/s",
        digits: 0,
        of: |run| Some(run.throughput),
    },
    Figure {
        name: "p50_us",
        heading: "p50 µs",
        digits: 0,
        of: |run| Some(run.p50_us),
    },
    Figure {
        name: "p99_us",
        heading: "p99 µs",
        digits: 0,
        of: |run| Some(run.p99_us),
    },
    Figure {
        name: "p999_us",
        heading: "p99.9 µs",
        digits: 0,
        of: |run| Some(run.p999_us),
    },
    Figure {
        name: PROXY_CPU,
        heading: "CPU µs",
        digits: 2,
        of: |run| run.proxy_cpu_us,
    },
    Figure {
        name: "backend_cpu_us",
        heading: "backends",
        digits: 2,
        of: |run| run.backend_cpu_us,
    },
    Figure {
        name: "generator_cpu_us",
        heading: "generator",
        digits: 2,
        of: |run| Some(run.generator_cpu_us),
    },
    Figure {
        name: "peak_memory_mib",
        heading: "peak MiB",
        digits: 1,
        of: |run| run.peak_memory_kib.map(|kib| kib as f64 / 1_024.0),
    },
];

/// The figure that counts most: CPU time of the proxy per request.
const PROXY_CPU: &str = "proxy_cpu_us";

/// What a workload's runs come to.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    workload: &'static str,
    about: &'static str,
    /// In the order in which the peers were named.
    peers: Vec<Line>,
    ratios: Vec<Line>,
}

/// The figures of a peer, or of one peer over another.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    figures: BTreeMap<&'static str, Spread>,
}

/// Sums up each workload; ratios are to `baseline`.
pub(crate) fn summarise(outcome: &Outcome, peers: &[String], baseline: &str) -> Vec<Summary> {
    outcome
        .workloads
        .iter()
        .map(|row| summarise_one(row, outcome, peers, baseline))
        .collect()
}

fn summarise_one(
    workload: &Workload,
    outcome: &Outcome,
    peers: &[String],
    baseline: &str,
) -> Summary {
    let runs_of = |peer: &str| -> Vec<&Run> {
        let mine = |run: &&Run| run.workload == workload.name && run.peer == peer;
        outcome.runs.iter().filter(mine).collect()
    };
    let mut summary = Summary {
        workload: workload.name,
        about: workload.about,
        peers: vec![],
        ratios: vec![],
    };
    for peer in peers {
        let runs = runs_of(peer);
        let spread = |figure: &Figure| {
            let values: Option<Vec<f64>> = runs.iter().map(|run| (figure.of)(run)).collect();
            Some((figure.name, Spread::of(values?)?))
        };
        let figures = FIGURES.iter().filter_map(spread).collect();
        summary.peers.push(Line {
            name: peer.clone(),
            figures,
        });
        if peer != baseline {
            let figures = ratios(&runs, &runs_of(baseline));
            summary.ratios.push(Line {
                name: format!("{peer}/{baseline}"),
                figures,
            });
        }
    }
    summary.ratios.retain(|line| !line.figures.is_empty());
    summary
}

/// Every figure of `runs` over that of `baseline` in the same round.
fn ratios(runs: &[&Run], baseline: &[&Run]) -> BTreeMap<&'static str, Spread> {
    let ratio = |figure: &Figure| {
        let pairs = runs.iter().filter_map(|run| {
            let other = baseline.iter().find(|other| other.round == run.round)?;
            Some(((figure.of)(run)?, (figure.of)(other)?))
        });
        Some((figure.name, Spread::of_ratios(pairs)?))
    };
    FIGURES.iter().filter_map(ratio).collect()
}

/// Where a CPU ratio exceeds `limit`, as sentences.
pub(crate) fn exceeding(summaries: &[Summary], limit: f64) -> Vec<String> {
    let mut found = Vec::new();
    for summary in summaries {
        for line in &summary.ratios {
            let Some(cpu) = line.figures.get(PROXY_CPU) else {
                continue;
            };
            if cpu.median > limit {
                found.push(format!(
                    "{}: CPU time per request {} is {:.3}, above {limit}",
                    summary.workload, line.name, cpu.median
                ));
            }
        }
    }
    found
}

/// The tables for people.
pub(crate) fn render(summaries: &[Summary]) -> String {
    let mut out = String::new();
    for summary in summaries {
        out.push_str(&render_one(summary));
        out.push('\n');
    }
    out.push_str(
        "Medians; ratios are taken round by round, with the smallest and largest in brackets.\n\
         CPU µs: of the proxy per request; backends, generator: theirs per request.\n",
    );
    out
}

fn render_one(summary: &Summary) -> String {
    let mut out = format!("{}: {}\n{:<22}", summary.workload, summary.about, "");
    for figure in FIGURES {
        write!(out, " {:>12}", figure.heading).expect("writing to a String cannot fail");
    }
    out.push('\n');
    for line in &summary.peers {
        row(&mut out, &line.name, line, |spread, digits| {
            format!("{:.digits$}", spread.median)
        });
    }
    for line in &summary.ratios {
        row(&mut out, &line.name, line, |spread, _| {
            format!("{:.2}", spread.median)
        });
        row(&mut out, "", line, |spread, _| {
            format!("({:.2}–{:.2})", spread.min, spread.max)
        });
    }
    out
}

fn row(out: &mut String, name: &str, line: &Line, cell: impl Fn(&Spread, usize) -> String) {
    write!(out, "  {name:<20}").expect("writing to a String cannot fail");
    for figure in FIGURES {
        let spread = line.figures.get(figure.name);
        let text = spread.map_or_else(|| "–".to_owned(), |spread| cell(spread, figure.digits));
        write!(out, " {text:>12}").expect("writing to a String cannot fail");
    }
    out.push('\n');
}

/// The figures of a single run.
pub(crate) fn render_run(run: &Run) -> String {
    let mut out = String::new();
    for figure in FIGURES {
        if let Some(value) = (figure.of)(run) {
            let (heading, digits) = (figure.heading, figure.digits);
            writeln!(out, "{heading:<12} {value:>12.digits$}").expect("a String takes all");
        }
    }
    let Run {
        requests,
        hits,
        misses,
        stored,
        errors,
        ..
    } = run;
    writeln!(
        out,
        "{requests} requests: {hits} hits, {misses} misses, {stored} stored, {errors} errors"
    )
    .expect("a String takes all");
    out
}

/// Writes runs, medians, ratios and failures as JSON.
pub(crate) fn write_json(path: &Path, outcome: &Outcome, summaries: &[Summary]) -> Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        summaries: &'a [Summary],
        failures: &'a [String],
        runs: &'a [Run],
    }
    let document = Document {
        summaries,
        failures: &outcome.failures,
        runs: &outcome.runs,
    };
    let file = create(path)?;
    serde_json::to_writer_pretty(file, &document).with_context(|| path.display().to_string())
}

/// Writes the runs as CSV, one a line.
pub(crate) fn write_csv(path: &Path, runs: &[Run]) -> Result<()> {
    let mut writer = csv::Writer::from_writer(create(path)?);
    for run in runs {
        writer.serialize(run)?;
    }
    writer.flush().with_context(|| path.display().to_string())
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("create {}", path.display()))
}

#[cfg(test)]
mod tests;
