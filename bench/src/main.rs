//! Load generator and side-by-side comparison of memcached proxies.
//!
//! ```text
//! main -> compare, table -> goals, growth      what is compared with what
//!          fairness -> intruder, overload         the same, for questions of their own
//!          │ └──> report, stats, chart          medians, ratios, tables, drawings
//!          └────> arena ──> process, peer       backends and proxies as children
//!                  └──────> measure ──> meter      CPU and memory from /proc
//!                                   └──> generator ──> connection ──> wire, keys
//! ```
//!
//! How to read the figures is in README.md.

mod arena;
mod chart;
mod cli;
mod compare;
mod connection;
mod environment;
mod fairness;
mod figures;
mod generator;
mod goals;
mod grid;
mod growth;
mod hot_path;
mod interrupt;
mod intruder;
mod keys;
mod measure;
mod meter;
mod overload;
mod peer;
mod preload;
mod process;
mod report;
mod stats;
mod table;
mod tls;
mod wire;
mod workload;

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use clap::Parser;

use cli::{Cli, InstructionsArgs, LoadArgs, Task};
use hot_path::PATHS;
use measure::Target;
use workload::Pace;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cfg!(debug_assertions) {
        eprintln!("bench: a debug build: its generator is too slow for figures, use --release");
    }
    let done = interrupt::catch().and_then(|()| match &cli.command {
        Task::Compare(args) => compare::compare(args),
        Task::Table(args) => table::table(args),
        Task::Growth(args) => growth::growth(args),
        Task::Fairness(args) => fairness::fairness(args),
        Task::Overload(args) => overload::overload(args),
        Task::Load(args) => load(args),
        Task::Instructions(args) => instructions(args),
        Task::HotPath(args) => args.path.run(args.rounds),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("bench: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn load(args: &LoadArgs) -> Result<()> {
    let workload = args.shape.apply(&args.workload)?;
    if workload.pace == Pace::HalfOfBaseline {
        bail!("there is no baseline to take half of: name a --rate");
    }
    process::raise_open_files(u64::from(workload.connections) + 100)?;
    if workload.reads() && !args.no_preload {
        preload::preload(&workload, &args.targets)?;
    }
    let target = Target {
        addresses: args.targets.clone(),
        proxy_pid: args.pid,
        backend_pids: Vec::new(),
    };
    let run = measure::measure(&workload, &target, args.timing())?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&run)?);
    } else {
        print!("{}", report::render_run(&run));
    }
    match run.fault() {
        Some(fault) => bail!("{fault}"),
        None => Ok(()),
    }
}

fn instructions(args: &InstructionsArgs) -> Result<()> {
    let all: Vec<_> = PATHS.iter().collect();
    let paths = if args.paths.is_empty() {
        &all
    } else {
        &args.paths
    };
    println!("{:<18} {:>12} {:>12}  path", "", "instructions", "expected");
    let mut dearer = Vec::new();
    for path in paths {
        let count = path.instructions()?;
        println!(
            "{:<18} {count:>12} {:>12}  {}",
            path.name, path.expected, path.about
        );
        if let Some(percent) = args.check
            && count * 100 > path.expected * (100 + percent)
        {
            dearer.push(format!("{}: {count}, not {}", path.name, path.expected));
        }
    }
    ensure!(
        dearer.is_empty(),
        "dearer than written down in bench/src/hot_path.rs:\n  {}",
        dearer.join("\n  ")
    );
    Ok(())
}
