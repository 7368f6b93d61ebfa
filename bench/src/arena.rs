//! Backends, and whatever is measured in front of them, in turns.
//!
//! # Invariants
//!
//! - Only one entry has work at any time; in each round every entry runs once, and every other
//!   round in reverse order, so that drift hits all alike.
//! - A proxy is started afresh for each heat: peak memory is that heat's own.
//! - A run with a wrong, missing or failed answer never becomes a figure.
//!
//! Not here: what is compared with what (`compare`, `goals`, `growth`), what is made of the runs
//! (`report`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::cli::Setup;
use crate::interrupt;
use crate::measure::{Run, Target, measure};
use crate::peer::{Meta, Peer, Site};
use crate::preload::preload;
use crate::process::{self, Pinning, Process, find_program};
use crate::wire::Command;
use crate::workload::{Pace, Transport, Workload};

/// All that was measured so far.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) runs: Vec<Run>,
    /// What went wrong, as sentences.
    pub(crate) failures: Vec<String>,
    progress: Progress,
}

impl Outcome {
    /// Nothing yet, of `total` runs.
    pub(crate) fn new(total: usize) -> Self {
        Self {
            runs: Vec::new(),
            failures: Vec::new(),
            progress: Progress {
                done: 0,
                total,
                started: Instant::now(),
            },
        }
    }

    /// The runs of the entry `name` with the workload called `workload`.
    pub(crate) fn runs_of(&self, workload: &str, name: &str) -> Vec<&Run> {
        let mine = |run: &&Run| run.workload == workload && run.peer == name;
        self.runs.iter().filter(mine).collect()
    }
}

/// What is started for all heats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground {
    pub(crate) backends: u32,
    /// Started only if a peer asks for them.
    pub(crate) backups: u32,
    /// The most clients at once.
    pub(crate) connections: u32,
    /// memcached's memory and other options.
    pub(crate) memcached: &'static str,
    /// Whether the proxy has a CPU of its own. Two workers cannot.
    pub(crate) pinned: bool,
    /// Who shares it with the memcacheds, then.
    pub(crate) beside: Beside,
}

/// Whose CPU the memcacheds share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    /// The proxy has one to itself: what it costs is its own doing.
    Generator,
    /// The generator has time to spare: what is full is the proxy or what is behind it.
    Proxy,
}

/// One participant of a heat.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// What its runs are called.
    pub(crate) name: String,
    pub(crate) peer: Peer,
    pub(crate) workload: Workload,
    /// The first so many of the ground's backends are its own.
    pub(crate) backends: u32,
    pub(crate) workers: u32,
}

/// An entry whose proxy, if it has one, runs.
pub(crate) struct Contender {
    pub(crate) entry: Entry,
    process: Option<Process>,
    pub(crate) target: Target,
}

impl Contender {
    /// Fails if its proxy has ended, which says more than that a connection was lost.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match &mut self.process {
            Some(process) => process.check_alive(&self.entry.name),
            None => Ok(()),
        }
    }
}

pub(crate) struct Arena<'a> {
    setup: &'a Setup,
    magent: PathBuf,
    dir: TempDir,
    cpus: Vec<usize>,
    pinning: Option<Pinning>,
    backends: Vec<Process>,
    backups: Vec<Process>,
}

impl<'a> Arena<'a> {
    /// Checks that everything needed is there and starts the backends.
    pub(crate) fn new(setup: &'a Setup, ground: &Ground, peers: &[Peer]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bench-").tempdir()?;
        process::raise_open_files(u64::from(ground.connections) + SPARE_FILES)?;
        let cpus = process::cpus()?;
        let pinning = Pinning::of(&cpus).filter(|_| ground.pinned && !setup.no_pin);
        let mut arena = Self {
            setup,
            magent: magent(setup),
            dir,
            cpus,
            pinning,
            backends: Vec::new(),
            backups: Vec::new(),
        };
        for peer in peers {
            peer.check_installed(&arena.site(&[], &[], 1, 1))?;
        }
        ensure!(
            find_program(&setup.memcached.to_string_lossy()).is_some(),
            "no program {} (apt-get install memcached)",
            setup.memcached.display()
        );
        if let Some(pinning) = &arena.pinning {
            process::pin_self(&pinning.rest)?;
        }
        for number in 0..ground.backends {
            let backend = arena.start_backend(&format!("memcached-{number}"), ground)?;
            arena.backends.push(backend);
            interrupt::check()?;
        }
        if peers.iter().any(Peer::needs_backups) {
            for number in 0..ground.backups {
                let backup = arena.start_backend(&format!("backup-{number}"), ground)?;
                arena.backups.push(backup);
            }
        }
        Ok(arena)
    }

    fn start_backend(&self, name: &str, ground: &Ground) -> Result<Process> {
        let program = find_program(&self.setup.memcached.to_string_lossy());
        let program = program.context("memcached is gone")?;
        let files = u32::try_from(process::open_files_max()?).unwrap_or(u32::MAX);
        let limit = files.min(ground.connections + BACKEND_SPARE_CONNECTIONS);
        let backend = Process::start(name, self.dir.path(), |port| {
            let options = format!(
                "-u root -l 127.0.0.1 -U 0 -t 1 {} -c {limit} -b 4096 -p {port}",
                ground.memcached
            );
            let options = options.split(' ').map(Into::into);
            Ok(std::iter::once(program.clone().into())
                .chain(options)
                .collect())
        })?;
        if let Some(pinning) = &self.pinning {
            backend.pin(match ground.beside {
                Beside::Generator => &pinning.rest,
                Beside::Proxy => &pinning.proxy,
            })?;
        }
        Ok(backend)
    }

    fn site<'s>(
        &'s self,
        backends: &'s [SocketAddr],
        backups: &'s [SocketAddr],
        clients: u32,
        workers: u32,
    ) -> Site<'s> {
        Site {
            magent: &self.magent,
            nutcracker: &self.setup.nutcracker,
            memcached: &self.setup.memcached,
            dir: self.dir.path(),
            backends,
            backups,
            clients,
            workers,
        }
    }

    /// Starts the proxy of `entry` and stores the keys of its workload through it.
    pub(crate) fn start(&self, mut entry: Entry) -> Result<Contender> {
        let own = usize::try_from(entry.backends)?;
        let primaries = self.backends.get(..own).context("too few backends")?;
        let backups = if entry.peer.needs_backups() {
            self.backups.as_slice()
        } else {
            &[]
        };
        let addresses = |of: &[Process]| -> Vec<SocketAddr> {
            of.iter().map(|process| process.address).collect()
        };
        let (servers, seconds) = (addresses(primaries), addresses(backups));
        let clients = CLIENTS_MIN.max(entry.workload.connections + CLIENTS_SPARE);
        let site = self.site(&servers, &seconds, clients, entry.workers);
        adapt(&mut entry);
        let process = if entry.peer.is_proxy() {
            let words = |port| entry.peer.words(&site, port);
            Some(Process::start(&entry.peer.name, self.dir.path(), words)?)
        } else {
            None
        };
        if let (Some(process), Some(pinning)) = (&process, &self.pinning) {
            process.pin(&pinning.proxy)?;
        }
        let target = Target {
            addresses: process
                .as_ref()
                .map_or(servers, |process| vec![process.address]),
            proxy_pid: process.as_ref().map(Process::pid),
            backend_pids: primaries.iter().chain(backups).map(Process::pid).collect(),
        };
        if entry.workload.reads() {
            preload(&entry.workload, &target.addresses)?;
        }
        Ok(Contender {
            entry,
            process,
            target,
        })
    }

    /// All rounds of `entries`. An open loop goes at half the speed of the entry `baseline`.
    pub(crate) fn heat(
        &self,
        entries: Vec<Entry>,
        baseline: Option<&str>,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let mut contenders = Vec::new();
        for entry in entries {
            let (workload, name) = (entry.workload.name, entry.name.clone());
            match self.start(entry) {
                Ok(contender) => contenders.push(contender),
                Err(err) => fail(workload, &name, &err, outcome)?,
            }
        }
        if contenders
            .iter()
            .any(|contender| contender.entry.workload.pace == Pace::HalfOfBaseline)
        {
            match self.half_of_baseline(&contenders, baseline) {
                Ok(rate) => {
                    for contender in &mut contenders {
                        contender.entry.workload.pace = Pace::Rate(rate);
                    }
                }
                Err(err) => {
                    let workload = contenders[0].entry.workload.name;
                    return fail(workload, "the baseline", &err, outcome);
                }
            }
        }
        for round in 1..=self.setup.runs() {
            let mut kept = Vec::new();
            for mut contender in contenders {
                match self.run_once(&mut contender, round) {
                    Ok(run) => {
                        outcome.progress.tell(&run);
                        outcome.runs.push(run);
                        kept.push(contender);
                    }
                    Err(err) => {
                        let Entry { workload, name, .. } = &contender.entry;
                        fail(workload.name, name, &err, outcome)?;
                    }
                }
            }
            kept.reverse();
            contenders = kept;
        }
        Ok(())
    }

    fn run_once(&self, contender: &mut Contender, round: u32) -> Result<Run> {
        let entry = &contender.entry;
        if entry.workload.pace == Pace::Never && round > 1 {
            // Memory that an earlier round left behind would hide what this one takes.
            *contender = self.start(entry.clone())?;
        }
        let Contender {
            entry,
            process,
            target,
        } = contender;
        let measured = measure(&entry.workload, target, self.setup.timing());
        // That the proxy has died says more than that a connection was lost.
        if let Some(process) = process {
            process.check_alive(&entry.name)?;
        }
        let mut run = measured?;
        run.peer.clone_from(&entry.name);
        run.round = round;
        if let Some(fault) = run.fault() {
            bail!("{fault}");
        }
        Ok(run)
    }

    /// Half of the throughput that the baseline reaches in a closed loop.
    fn half_of_baseline(&self, contenders: &[Contender], name: Option<&str>) -> Result<u64> {
        let name = name.context("half of which throughput? There is no baseline here")?;
        let baseline = contenders
            .iter()
            .find(|contender| contender.entry.name == name);
        let baseline = baseline.with_context(|| {
            format!("half of which throughput? Name a --rate, or let {name} take part")
        })?;
        let closed = Workload {
            pace: Pace::Closed,
            ..baseline.entry.workload.clone()
        };
        let run = measure(&closed, &baseline.target, self.setup.timing())?;
        eprintln!(
            "{}: {name} reaches {:.0}/s; half of that for all",
            run.workload, run.throughput
        );
        let ms = Duration::from_secs_f64(run.seconds).as_millis().max(1);
        Ok(u64::try_from(u128::from(run.requests) * 500 / ms)?.max(1))
    }
}

impl Drop for Arena<'_> {
    fn drop(&mut self) {
        // What is started next inherits where this thread may run.
        if self.pinning.is_some() {
            process::pin_self(&self.cpus).ok();
        }
    }
}

/// Gives `entry` the work that its peer knows: in plain or classic if need be.
fn adapt(entry: &mut Entry) {
    if entry.workload.transport == Transport::Tls {
        match entry.peer.with_tls() {
            Some(peer) => entry.peer = peer,
            None => entry.workload = entry.workload.plain(),
        }
    }
    if entry.peer.meta == Meta::Unknown && entry.workload.read != Command::Get {
        entry.workload = entry.workload.classic();
    }
}

/// Notes a failure and goes on with the others, unless the user wants to stop.
fn fail(workload: &str, name: &str, err: &anyhow::Error, outcome: &mut Outcome) -> Result<()> {
    interrupt::check()?;
    let failure = format!("{name} in {workload}: {err:#}");
    eprintln!("FAILED: {failure}");
    outcome.failures.push(failure);
    Ok(())
}

/// What has been done and how long the rest will take.
#[derive(Debug)]
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
        let cost = match (run.used_connection_kib, run.proxy_cpu_us) {
            (Some(kib), _) => format!(", {kib:.2} KiB a connection"),
            (None, Some(cpu)) => format!(", {cpu:.2} µs CPU"),
            (None, None) => String::new(),
        };
        eprintln!(
            "[{}/{}, {:.0} s left] {} {} {}: {:.0}/s{cost}",
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

/// The magent to measure: by default the one built together with this program.
pub(crate) fn magent(setup: &Setup) -> PathBuf {
    setup.magent.clone().unwrap_or_else(|| {
        let own = std::env::current_exe().unwrap_or_default();
        let dir = own.parent().unwrap_or_else(|| Path::new("."));
        dir.join("magent")
    })
}

/// The most connections of the generator that the limit on open files allows, up to `wanted`.
pub(crate) fn connections_allowed(wanted: u32) -> Result<u32> {
    let allowed = process::open_files_max()?.saturating_sub(SPARE_FILES);
    Ok(u32::try_from(allowed).map_or(wanted, |allowed| wanted.min(allowed)))
}

/// Open files beside the generator's connections. A proxy has as many clients, and beside them
/// backends, for which magent sets aside 20 connections each.
const SPARE_FILES: u64 = 200;

/// Connections of a backend beside those of the generator: the proxies', and the probes'.
const BACKEND_SPARE_CONNECTIONS: u32 = 1_000;

/// Clients that a proxy has to take beside those of the generator: those that store the keys.
const CLIENTS_SPARE: u32 = 10;

/// Clients that a proxy has to take anyway: magent's default, so that it is measured with it.
const CLIENTS_MIN: u32 = 4_096;
