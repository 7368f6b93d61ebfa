//! Runs every workload on every peer in front of the same backends, and prints all figures.

use anyhow::{Result, ensure};

use crate::arena::{Arena, Beside, Entry, Ground, Outcome};
use crate::cli::CompareArgs;
use crate::report;
use crate::workload::Workload;

/// Carries out `bench compare`.
pub(crate) fn compare(args: &CompareArgs) -> Result<()> {
    let names = args.line_up.names()?;
    let baseline = &args.line_up.baseline;
    if args.assert_max.is_some() {
        ensure!(
            names.contains(baseline),
            "--assert-max needs the peer {baseline}"
        );
    }
    let workloads = args.workloads()?;
    let outcome = run(args, &workloads)?;
    let summaries = report::summarise(&outcome, &workloads, &names, baseline);
    print!("{}", report::render(&summaries));
    if let Some(path) = &args.json {
        report::write_json(path, &outcome, &summaries)?;
    }
    if let Some(path) = &args.csv {
        report::write_csv(path, &outcome.runs)?;
    }
    let mut failures = outcome.failures;
    if let Some(limit) = args.assert_max {
        failures.extend(report::exceeding(&summaries, limit));
    }
    report::none_failed(&failures)
}

fn run(args: &CompareArgs, workloads: &[Workload]) -> Result<Outcome> {
    let peers = args.line_up.peers();
    let connections = workloads.iter().map(|workload| workload.connections);
    let ground = Ground {
        backends: args.backends,
        backups: args.backups,
        connections: connections.max().unwrap_or(0),
        memcached: "-m 1024",
        pinned: true,
        beside: Beside::Generator,
    };
    let arena = Arena::new(&args.setup, &ground, &peers)?;
    let rounds = usize::try_from(args.setup.runs())?;
    let mut outcome = Outcome::new(workloads.len() * peers.len() * rounds);
    for workload in workloads {
        let entries = peers.iter().map(|peer| Entry {
            name: peer.name.clone(),
            peer: peer.clone(),
            workload: workload.clone(),
            backends: args.backends,
            workers: 1,
        });
        arena.heat(
            entries.collect(),
            Some(&args.line_up.baseline),
            &mut outcome,
        )?;
    }
    Ok(outcome)
}
