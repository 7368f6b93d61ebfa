//! The control thread: workers, the keeper, probes, names, signals.
//!
//! It is the only place with state that crosses threads. Workers report over a channel; the keeper decides;
//! what it decides is sent to each worker, which is woken.
//!
//! Not here: when a backend is up (`magent_core::keeper`), what workers do (`worker`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use magent_core::config::{Config, ProcessInfo};
use magent_core::keeper::{Change, Failure, Keeper, KeeperConfig, Output, ProbeAnswer, Report};
use magent_core::placement::{Phase, Placement};
use magent_core::server::Address;
use magent_core::stats::Counters;
use magent_core::{BackendId, WorkerId};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::listen::Listener;
use crate::log::{self, RateLimiter, Verdict};
use crate::options::Options;
use crate::probe;
use crate::worker::{Common, FromWorker, Handle, ToWorker, Worker, time_since};

/// Reports of one backend's failures in the log, in each minute: many workers see one failure.
const FAILURES_LOGGED_PER_MINUTE: u32 = 10;

/// What reaches the control thread from its own tasks.
#[derive(Debug)]
enum Found {
    Probe(BackendId, Result<ProbeAnswer, Failure>),
}

/// Serves until a signal says otherwise. Calls `ready` as soon as signals are caught.
///
/// # Errors
///
/// If it cannot start, or a worker fails.
pub(crate) fn run(
    options: Options,
    listeners: Vec<Vec<Listener>>,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let started = Instant::now();
    let (to_control, from_workers) = unbounded_channel();
    let mut config = options.config;
    config.process = ProcessInfo {
        pid: std::process::id(),
        unix_start_s: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |age| age.as_secs()),
    };
    let common = Common {
        placement: Arc::new(Placement::new(&config)),
        counters: Arc::new((0..config.workers).map(|_| Counters::default()).collect()),
        config: Arc::new(config),
        started,
        clients_open: Arc::new(AtomicU64::new(0)),
        verbosity: options.run.verbosity,
        control: to_control,
    };
    let mut workers = Workers::default();
    for (index, listeners) in (0..).zip(listeners) {
        workers.create(WorkerId(index), common.clone(), listeners)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control thread's runtime")?;
    runtime.block_on(async {
        let control = Control::new(&common, workers)?;
        ready()?;
        control.run(from_workers).await
    })
}

/// Longest wait for the first probes before clients are served, so that the first of them hears the
/// backends' version and is not the one who finds out that a backend is down.
const FIRST_PROBES: Duration = Duration::from_millis(200);

#[derive(Default)]
struct Workers {
    handles: Vec<Handle>,
    /// Those that have not been started.
    created: Vec<(WorkerId, Worker)>,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
}

impl Workers {
    fn create(&mut self, id: WorkerId, common: Common, listeners: Vec<Listener>) -> Result<()> {
        let (worker, handle) =
            Worker::new(id, common, listeners).context("cannot create a worker's event loop")?;
        self.handles.push(handle);
        self.created.push((id, worker));
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        for (id, worker) in self.created.drain(..) {
            let thread = std::thread::Builder::new()
                .name(format!("worker {}", id.0))
                .spawn(move || worker.run())
                .context("cannot start a worker's thread")?;
            self.threads.push(thread);
        }
        Ok(())
    }

    fn tell_all(&self, message: impl Fn() -> ToWorker) {
        for handle in &self.handles {
            handle.tell(message());
        }
    }
}

struct Control {
    config: Arc<Config>,
    started: Instant,
    workers: Workers,
    keeper: Keeper,
    failures: RateLimiter<BackendId>,
    found: UnboundedSender<Found>,
    findings: UnboundedReceiver<Found>,
    end: Signal,
    interrupt: Signal,
    hang_up: Signal,
    ended: usize,
    draining: bool,
}

impl Control {
    fn new(common: &Common, workers: Workers) -> Result<Self> {
        let config = Arc::clone(&common.config);
        let keeper_config = KeeperConfig {
            backends: config.backends.len(),
            workers: workers.handles.len(),
            probe_delay_ms_min: config.limits.probe_delay_ms_min,
            probe_delay_ms_max: config.limits.probe_delay_ms_max,
            jitter_seed: u64::from(std::process::id()),
        };
        let (found, findings) = unbounded_channel();
        Ok(Self {
            keeper: Keeper::new(keeper_config, time_since(common.started)),
            config,
            started: common.started,
            workers,
            failures: RateLimiter::new(FAILURES_LOGGED_PER_MINUTE, 60_000),
            found,
            findings,
            end: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            ended: 0,
            draining: false,
        })
    }

    async fn run(mut self, mut from_workers: UnboundedReceiver<FromWorker>) -> Result<()> {
        self.first_probes().await;
        self.workers.start()?;
        let mut drained_by = None;
        while self.ended < self.workers.handles.len() {
            let wait = self.follow_keeper();
            tokio::select! {
                message = from_workers.recv() => {
                    let message = message.ok_or_else(|| anyhow!("the workers are gone"))?;
                    self.on_worker(message);
                }
                Some(Found::Probe(backend, result)) = self.findings.recv() => {
                    self.keeper.on_probe(time_since(self.started), backend, result);
                }
                () = sleep_for(wait) => {}
                () = sleep_until(drained_by) => {
                    tracing::warn!("requests are still in flight after --drain-ms: ending without them");
                    self.workers.tell_all(|| ToWorker::Stop);
                    drained_by = None;
                }
                _ = self.end.recv() => drained_by = self.drain("SIGTERM"),
                _ = self.interrupt.recv() => drained_by = self.drain("SIGINT"),
                _ = self.hang_up.recv() => reopen_log(),
            }
        }
        for thread in self.workers.threads.drain(..) {
            let ended = thread
                .join()
                .map_err(|_| anyhow!("a worker has panicked"))?;
            ended.context("a worker's event loop failed")?;
        }
        tracing::info!("ended");
        Ok(())
    }

    /// Waits until every backend has been probed once, or for [`FIRST_PROBES`].
    async fn first_probes(&mut self) {
        let deadline = tokio::time::Instant::now() + FIRST_PROBES;
        for _ in 0..self.config.backends.len() {
            self.follow_keeper();
            match tokio::time::timeout_at(deadline, self.findings.recv()).await {
                Ok(Some(Found::Probe(backend, result))) => {
                    self.keeper
                        .on_probe(time_since(self.started), backend, result);
                }
                Ok(None) | Err(_) => break,
            }
        }
        self.follow_keeper();
    }

    fn drain(&mut self, signal: &str) -> Option<Instant> {
        if self.draining {
            // Asked twice: at once.
            self.workers.tell_all(|| ToWorker::Stop);
            return None;
        }
        tracing::info!("{signal}: finishing what is in flight");
        self.draining = true;
        self.workers.tell_all(|| ToWorker::Drain);
        Some(Instant::now() + Duration::from_millis(self.config.limits.drain_ms))
    }

    fn on_worker(&mut self, message: FromWorker) {
        match message {
            FromWorker::Report(worker, report) => {
                if let Report::Failed {
                    backend, failure, ..
                } = report
                {
                    self.log_failure(worker, backend, failure);
                }
                self.keeper
                    .on_report(time_since(self.started), worker, report);
            }
            FromWorker::Resolve(worker, connection) => {
                let address = self.config.backends[connection.backend.index()].clone();
                let handle = self.workers.handles[worker.index()].clone();
                tokio::spawn(async move {
                    let addresses = resolve(&address).await;
                    handle.tell(ToWorker::Resolved(connection, addresses));
                });
            }
            FromWorker::Ended(worker) => {
                self.ended += 1;
                self.keeper
                    .on_worker_ended(time_since(self.started), worker);
            }
        }
    }

    fn log_failure(&mut self, worker: WorkerId, backend: BackendId, failure: Failure) {
        let now = time_since(self.started);
        if let Verdict::Log { suppressed } = self.failures.on_event(now, backend) {
            let name = &self.config.backends[backend.index()];
            let more = match suppressed {
                0 => String::new(),
                count => format!(" ({count} more like it were not logged)"),
            };
            tracing::debug!(
                "backend {name}: {} in worker {}{more}",
                failure.name(),
                worker.0
            );
        }
    }

    /// Does what the keeper wants done; yields how long it can wait.
    fn follow_keeper(&mut self) -> Option<Duration> {
        let now = time_since(self.started);
        loop {
            match self.keeper.poll(now) {
                Output::Publish(view) => {
                    self.workers.tell_all(|| ToWorker::View(Arc::clone(&view)));
                }
                Output::Settled(epoch) => self.workers.tell_all(|| ToWorker::Settled(epoch)),
                Output::Probe(backend) => self.probe(backend),
                Output::Changed(change) => self.log_change(&change),
                Output::Wait(at) => {
                    return at.map(|at| Duration::from_nanos(at.0.saturating_sub(now.0)));
                }
            }
        }
    }

    fn probe(&self, backend: BackendId) {
        let address = self.config.backends[backend.index()].clone();
        let limit = Duration::from_millis(self.config.limits.fail_ms);
        let found = self.found.clone();
        tokio::spawn(async move {
            let result = match resolve(&address).await {
                Ok(addresses) => probe::probe(&address, &addresses, limit).await,
                Err(failure) => Err(failure),
            };
            // The control thread only stops listening when the process ends.
            drop(found.send(Found::Probe(backend, result)));
        });
    }

    fn log_change(&self, change: &Change) {
        let name = &self.config.backends[change.backend.index()];
        let lasted = Duration::from_millis(change.lasted_ms);
        match change.to {
            Phase::Down => {
                let how = change.failure.map_or("failed", Failure::name);
                tracing::warn!(
                    "backend {name}: down: {how} (was {} for {lasted:?})",
                    phase_name(change.from)
                );
            }
            Phase::Purging if change.flush => tracing::warn!(
                "backend {name}: back after {lasted:?}: flushing it, it missed more than was remembered"
            ),
            Phase::Purging => {
                tracing::info!("backend {name}: back after {lasted:?}: deleting what it missed");
            }
            Phase::Up => tracing::info!("backend {name}: up"),
        }
    }
}

const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Up => "up",
        Phase::Down => "down",
        Phase::Purging => "purging",
    }
}

/// Addresses of a backend; none for a unix socket. Names are looked up every time, so that one that moves
/// is found again.
async fn resolve(address: &Address) -> Result<Vec<SocketAddr>, Failure> {
    match address {
        Address::Unix { .. } => Ok(Vec::new()),
        Address::Tcp { host, port } => {
            let found = tokio::net::lookup_host((&**host, *port)).await;
            found
                .map(Iterator::collect)
                .map_err(|_| Failure::Unresolved)
        }
    }
}

async fn sleep_for(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn reopen_log() {
    match log::reopen() {
        Ok(()) => tracing::info!("log reopened"),
        Err(err) => tracing::error!("cannot reopen the log: {err}"),
    }
}
