//! Medians and ratios of a comparison, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::arena::Outcome;
use crate::cli::Setup;
use crate::measure::Run;
use crate::stats::Spread;
use crate::workload::Workload;

/// One figure of a run: a column of the table, a key in the JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) heading: &'static str,
    pub(crate) digits: usize,
    of: fn(&Run) -> Option<f64>,
}

impl Figure {
    /// Over all of `runs`; `None` without any, or if one does not have it.
    pub(crate) fn spread(&self, runs: &[&Run]) -> Option<Spread> {
        let values: Option<Vec<f64>> = runs.iter().map(|run| (self.of)(run)).collect();
        Spread::of(values?)
    }

    /// Of each of `runs` over that of the run of `baseline` in the same round.
    pub(crate) fn ratios(&self, runs: &[&Run], baseline: &[&Run]) -> Option<Spread> {
        let pairs = runs.iter().filter_map(|run| {
            let other = baseline.iter().find(|other| other.round == run.round)?;
            Some(((self.of)(run)?, (self.of)(other)?))
        });
        Spread::of_ratios(pairs)
    }

    /// `spread`'s median as text.
    pub(crate) fn text(&self, spread: Option<Spread>) -> String {
        let digits = self.digits;
        spread.map_or_else(
            || "–".to_owned(),
            |spread| format!("{:.digits$}", spread.median),
        )
    }
}

/// The columns.
const FIGURES: &[Figure] = &[
    THROUGHPUT,
    P50,
    P99,
    P999,
    PROXY_CPU,
    BACKEND_CPU,
    GENERATOR_CPU,
    PEAK_MEMORY,
];

/// Requests answered in a second.
pub(crate) const THROUGHPUT: Figure = Figure {
    name: "throughput",
    heading: "requests/s",
    digits: 0,
    of: |run| Some(run.throughput),
};

pub(crate) const P50: Figure = Figure {
    name: "p50_us",
    heading: "p50 µs",
    digits: 0,
    of: |run| Some(run.p50_us),
};

pub(crate) const P99: Figure = Figure {
    name: "p99_us",
    heading: "p99 µs",
    digits: 0,
    of: |run| Some(run.p99_us),
};

const P999: Figure = Figure {
    name: "p999_us",
    heading: "p99.9 µs",
    digits: 0,
    of: |run| Some(run.p999_us),
};

/// The figure that counts most: CPU time of the proxy per request.
pub(crate) const PROXY_CPU: Figure = Figure {
    name: "proxy_cpu_us",
    heading: "CPU µs",
    digits: 2,
    of: |run| run.proxy_cpu_us,
};

const BACKEND_CPU: Figure = Figure {
    name: "backend_cpu_us",
    heading: "backends",
    digits: 2,
    of: |run| run.backend_cpu_us,
};

const GENERATOR_CPU: Figure = Figure {
    name: "generator_cpu_us",
    heading: "generator",
    digits: 2,
    of: |run| Some(run.generator_cpu_us),
};

pub(crate) const PEAK_MEMORY: Figure = Figure {
    name: "peak_memory_mib",
    heading: "peak MiB",
    digits: 1,
    of: |run| run.peak_memory_kib.map(|kib| kib as f64 / 1_024.0),
};

/// Memory of the proxy for an idle connection that has asked nothing yet.
/// Not a column: few runs have it.
pub(crate) const NEW_CONNECTION: Figure = Figure {
    name: "new_connection_kib",
    heading: "KiB each, new",
    digits: 2,
    of: |run| run.new_connection_kib,
};

/// The same after a request.
pub(crate) const USED_CONNECTION: Figure = Figure {
    name: "used_connection_kib",
    heading: "KiB each, used",
    digits: 2,
    of: |run| run.used_connection_kib,
};

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

/// Sums up each of `workloads`; ratios are to `baseline`.
pub(crate) fn summarise(
    outcome: &Outcome,
    workloads: &[Workload],
    peers: &[String],
    baseline: &str,
) -> Vec<Summary> {
    workloads
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
    let mut summary = Summary {
        workload: workload.name,
        about: workload.about,
        peers: vec![],
        ratios: vec![],
    };
    let others = outcome.runs_of(workload.name, baseline);
    for peer in peers {
        let runs = outcome.runs_of(workload.name, peer);
        summary
            .peers
            .push(line(peer.clone(), |figure| figure.spread(&runs)));
        if peer != baseline {
            let name = format!("{peer}/{baseline}");
            summary
                .ratios
                .push(line(name, |figure| figure.ratios(&runs, &others)));
        }
    }
    summary.ratios.retain(|line| !line.figures.is_empty());
    summary
}

fn line(name: String, of: impl Fn(&Figure) -> Option<Spread>) -> Line {
    let figures = FIGURES
        .iter()
        .filter_map(|figure| Some((figure.name, of(figure)?)));
    Line {
        name,
        figures: figures.collect(),
    }
}

/// Where a CPU ratio exceeds `limit`, as sentences.
pub(crate) fn exceeding(summaries: &[Summary], limit: f64) -> Vec<String> {
    let mut found = Vec::new();
    for summary in summaries {
        for line in &summary.ratios {
            let Some(cpu) = line.figures.get(PROXY_CPU.name) else {
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

/// Writes every run with what it comes to (`summaries`) and the failures, as JSON.
pub(crate) fn write_json(
    path: &Path,
    outcome: &Outcome,
    summaries: &[impl Serialize],
) -> Result<()> {
    #[derive(Serialize)]
    struct Document<'a, T> {
        summaries: &'a [T],
        failures: &'a [String],
        runs: &'a [Run],
    }
    let document = Document {
        summaries,
        failures: &outcome.failures,
        runs: &outcome.runs,
    };
    write(path, &document)
}

/// Writes anything as JSON.
pub(crate) fn write(path: &Path, what: &impl Serialize) -> Result<()> {
    let file = create(path)?;
    serde_json::to_writer_pretty(file, what).with_context(|| path.display().to_string())
}

/// Writes the runs as CSV, one a line.
pub(crate) fn write_csv(path: &Path, runs: &[Run]) -> Result<()> {
    let mut writer = csv::Writer::from_writer(create(path)?);
    for run in runs {
        writer.serialize(run)?;
    }
    writer.flush().with_context(|| path.display().to_string())
}

/// How long was measured, as words.
pub(crate) fn rounds(setup: &Setup) -> String {
    let seconds = setup.timing().measured.as_secs_f64();
    let runs = setup.runs();
    let plural = if runs == 1 { "" } else { "s" };
    format!("{runs} round{plural} of {seconds} s")
}

/// How this program was called, for whoever wants to repeat it.
pub(crate) fn command_line() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    format!("cargo run --release -p bench -- {}", words.join(" "))
}

/// Writes `text`.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Fails with `failures`, if there are any.
pub(crate) fn none_failed(failures: &[String]) -> Result<()> {
    ensure!(failures.is_empty(), "failed:\n  {}", failures.join("\n  "));
    Ok(())
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("create {}", path.display()))
}

#[cfg(test)]
mod tests;
