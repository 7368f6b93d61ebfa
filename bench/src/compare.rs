//! Runs every workload on every peer, in turns, in front of the same backends.
//!
//! # Invariants
//!
//! - Only one peer has work at any time; in each round every peer runs once, and every other
//!   round in reverse order, so that drift hits all alike.
//! - A proxy is started afresh for each workload: peak memory is that workload's own.
//! - A run with a wrong, missing or failed answer never becomes a figure.
//!
//! Not here: what is made of the runs (`report`).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::cli::CompareArgs;
use crate::interrupt;
use crate::measure::{Run, Target, measure};
use crate::peer::{Meta, Peer, Site};
use crate::preload::preload;
use crate::process::{self, Pinning, Process, find_program};
use crate::wire::Command;
use crate::workload::{Pace, Transport, Workload};

/// All that was measured.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) workloads: Vec<Workload>,
    pub(crate) runs: Vec<Run>,
    /// What went wrong, as sentences.
    pub(crate) failures: Vec<String>,
}

/// Carries out the comparison; tells its progress on stderr.
pub(crate) fn compare(args: &CompareArgs) -> Result<Outcome> {
    let workloads = args.workloads()?;
    let mut arena = Arena::new(args, &workloads)?;
    let mut outcome = Outcome::default();
    for workload in workloads {
        arena.run_workload(&workload, &mut outcome)?;
    }
    Ok(outcome)
}

/// A proxy that runs, or none.
struct Contender {
    peer: Peer,
    process: Option<Process>,
    workload: Workload,
    target: Target,
}

struct Arena<'a> {
    args: &'a CompareArgs,
    magent: PathBuf,
    dir: TempDir,
    pinning: Option<Pinning>,
    backends: Vec<Process>,
    progress: Progress,
}

impl<'a> Arena<'a> {
    /// Checks that everything needed is there and starts the backends.
    fn new(args: &'a CompareArgs, workloads: &[Workload]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bench-").tempdir()?;
        let peers = args.peers();
        let most = workloads
            .iter()
            .map(|workload| workload.connections)
            .max()
            .unwrap_or(0);
        process::raise_open_files(u64::from(most) + SPARE_FILES)?;
        let pinning = if args.no_pin {
            None
        } else {
            Pinning::of(&process::cpus()?)
        };
        let total = workloads.len() * peers.len() * usize::try_from(args.runs())?;
        let progress = Progress {
            done: 0,
            total,
            started: Instant::now(),
        };
        let magent = args.magent.clone().unwrap_or_else(default_magent);
        let mut arena = Self {
            args,
            magent,
            dir,
            pinning,
            backends: Vec::new(),
            progress,
        };
        for peer in &peers {
            peer.check_installed(&arena.site(&[]))?;
        }
        ensure!(
            find_program(&args.memcached.to_string_lossy()).is_some(),
            "no program {} (apt-get install memcached)",
            args.memcached.display()
        );
        if let Some(pinning) = &arena.pinning {
            process::pin_self(&pinning.rest)?;
        }
        for number in 0..args.backends {
            let backend = arena.start_backend(number, most)?;
            arena.backends.push(backend);
        }
        Ok(arena)
    }

    fn start_backend(&self, number: u32, connections: u32) -> Result<Process> {
        let program = find_program(&self.args.memcached.to_string_lossy());
        let program = program.context("memcached is gone")?;
        let limit = connections + BACKEND_SPARE_CONNECTIONS;
        let backend = Process::start(&format!("memcached-{number}"), self.dir.path(), |port| {
            let options =
                format!("-u root -l 127.0.0.1 -U 0 -t 1 -m 1024 -c {limit} -b 4096 -p {port}");
            let options = options.split(' ').map(Into::into);
            Ok(std::iter::once(program.clone().into())
                .chain(options)
                .collect())
        })?;
        if let Some(pinning) = &self.pinning {
            backend.pin(&pinning.rest)?;
        }
        Ok(backend)
    }

    fn site<'s>(&'s self, backends: &'s [std::net::SocketAddr]) -> Site<'s> {
        Site {
            magent: &self.magent,
            nutcracker: &self.args.nutcracker,
            memcached: &self.args.memcached,
            dir: self.dir.path(),
            backends,
        }
    }

    /// Starts `peer` in front of the backends and stores the keys of `workload` through it.
    fn start(&self, peer: Peer, workload: &Workload) -> Result<Contender> {
        let backends: Vec<_> = self
            .backends
            .iter()
            .map(|backend| backend.address)
            .collect();
        let site = self.site(&backends);
        let (peer, workload) = match (workload.transport, peer.with_tls()) {
            (Transport::Tls, Some(peer)) => (peer, workload.clone()),
            (Transport::Tls, None) => (peer, workload.plain()),
            (Transport::Plain, _) => (peer, workload.clone()),
        };
        let process = if peer.is_proxy() {
            let words = |port| peer.words(&site, port);
            Some(Process::start(&peer.name, self.dir.path(), words)?)
        } else {
            None
        };
        if let (Some(process), Some(pinning)) = (&process, &self.pinning) {
            process.pin(&pinning.proxy)?;
        }
        let target = Target {
            addresses: process
                .as_ref()
                .map_or(backends, |process| vec![process.address]),
            proxy_pid: process.as_ref().map(Process::pid),
            backend_pids: self.backends.iter().map(Process::pid).collect(),
        };
        let workload = match peer.meta {
            Meta::Unknown if workload.read != Command::Get => workload.classic(),
            Meta::Known | Meta::Unknown => workload,
        };
        if workload.reads() {
            preload(&workload, &target.addresses)?;
        }
        Ok(Contender {
            peer,
            process,
            workload,
            target,
        })
    }

    /// All rounds of one workload.
    fn run_workload(&mut self, workload: &Workload, outcome: &mut Outcome) -> Result<()> {
        let mut contenders = Vec::new();
        for peer in self.args.peers() {
            let name = peer.name.clone();
            match self.start(peer, workload) {
                Ok(contender) => contenders.push(contender),
                Err(err) => fail(workload, &name, &format!("{err:#}"), outcome)?,
            }
        }
        if workload.pace == Pace::HalfOfBaseline {
            let rate = self.half_of_baseline(&contenders)?;
            contenders
                .iter_mut()
                .for_each(|contender| contender.workload.pace = Pace::Rate(rate));
        }
        outcome.workloads.push(workload.clone());
        for round in 1..=self.args.runs() {
            let mut kept = Vec::new();
            for mut contender in contenders {
                match self.run_once(&mut contender, round) {
                    Ok(run) => {
                        outcome.runs.push(run);
                        kept.push(contender);
                    }
                    Err(err) => {
                        let name = contender.peer.name.clone();
                        fail(workload, &name, &format!("{err:#}"), outcome)?;
                    }
                }
            }
            kept.reverse();
            contenders = kept;
        }
        Ok(())
    }

    fn run_once(&mut self, contender: &mut Contender, round: u32) -> Result<Run> {
        let measured = measure(&contender.workload, &contender.target, self.args.timing());
        // That the proxy has died says more than that a connection was lost.
        if let Some(process) = &mut contender.process {
            process.check_alive(&contender.peer.name)?;
        }
        let mut run = measured?;
        run.peer.clone_from(&contender.peer.name);
        run.round = round;
        if let Some(fault) = run.fault() {
            bail!("{fault}");
        }
        self.progress.tell(&run);
        Ok(run)
    }

    /// Half of the throughput that the baseline reaches in a closed loop.
    fn half_of_baseline(&self, contenders: &[Contender]) -> Result<u64> {
        let name = &self.args.baseline;
        let baseline = contenders
            .iter()
            .find(|contender| contender.peer.name == *name);
        let baseline = baseline.with_context(|| {
            format!("half of which throughput? Name a --rate, or let {name} take part")
        })?;
        let closed = Workload {
            pace: Pace::Closed,
            ..baseline.workload.clone()
        };
        let run = measure(&closed, &baseline.target, self.args.timing())?;
        eprintln!(
            "{}: {name} reaches {:.0}/s; half of that for all",
            run.workload, run.throughput
        );
        let ms = Duration::from_secs_f64(run.seconds).as_millis().max(1);
        Ok(u64::try_from(u128::from(run.requests) * 500 / ms)?.max(1))
    }
}

/// Notes a failure and goes on with the other peers, unless the user wants to stop.
fn fail(workload: &Workload, peer: &str, what: &str, outcome: &mut Outcome) -> Result<()> {
    interrupt::check()?;
    let failure = format!("{peer} in {}: {what}", workload.name);
    eprintln!("FAILED: {failure}");
    outcome.failures.push(failure);
    Ok(())
}

/// What has been done and how long the rest will take.
struct Progress {
    done: usize,
    total: usize,
    started: Instant,
}

impl Progress {
    fn tell(&mut self, run: &Run) {
        self.done += 1;
        let left = self.total.saturating_sub(self.done);
        let per_run = self.started.elapsed().as_secs_f64() / self.done as f64;
        let cpu = run
            .proxy_cpu_us
            .map_or_else(String::new, |cpu| format!(", {cpu:.2} µs CPU"));
        eprintln!(
            "[{}/{}, {:.0} s left] {} {} {}: {:.0}/s{cpu}",
            self.done,
            self.total,
            per_run * left as f64,
            run.workload,
            run.round,
            run.peer,
            run.throughput,
        );
    }
}

/// The magent built together with this program.
fn default_magent() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.parent()
        .unwrap_or_else(|| Path::new("."))
        .join("magent")
}

/// Open files beside the generator's connections.
const SPARE_FILES: u64 = 100;

/// Connections of a backend beside those of the generator: the proxies', and the probes'.
const BACKEND_SPARE_CONNECTIONS: u32 = 1_000;
