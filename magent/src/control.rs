//! The control thread: workers, keeper, healer, probes, names, signals.
//!
//! It is the only place with state that crosses threads. Workers report over a channel; the keeper decides; what it
//! decides is told to the healer, which runs here, and to each worker, which is woken.
//!
//! # Invariants
//!
//! - Views, and who may use a connection, are told in the order in which they were decided, and only when what a
//!   later process of this proxy has to know about them is on the disk (`ledger`).
//! - What the healer reports is with the keeper before anything else happens.
//! - A connection is known to the fence before the keeper hears of it.
//!
//! Not here: when a backend is up (`magent_core::keeper`), what is copied (`magent_core::heal`), what workers do
//! (`worker`).

pub(crate) mod sources;
mod tell;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use magent_core::config::{Config, OnOverflow, ProcessInfo};
use magent_core::engine::Shared;
use magent_core::heal::{self, Healer};
use magent_core::keeper::{Failure, Keeper, KeeperConfig, Report};
use magent_core::known;
use magent_core::{BackendId, Time, WorkerId};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use self::sources::{Event, Found, Sources};
use self::tell::Tell;
use crate::auth::backend::BackendLogin;
use crate::auth::{Secrets, UserTable, Verifier};
use crate::changes::Changes;
use crate::dial::{Destination, resolve};
use crate::events::{EventCommand, EventOptions, Events, Webhook};
use crate::fence::{Fence, Owner};
use crate::healing::{self, Links};
use crate::ledger::Ledger;
use crate::listen::Listener;
use crate::log::{self, RateLimiter, Verdict};
use crate::options::Options;
use crate::probe;
use crate::stall::stalled_ns;
use crate::tls::Tls;
use crate::worker::{Common, FromWorker, Handle, ToWorker, Worker, time_since};

/// Reports of one backend's failures in the log, in each minute: many workers see one failure.
const FAILURES_LOGGED_PER_MINUTE: u32 = 10;

/// Longest wait, at the end, for events to be delivered.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// Serves until a signal says otherwise. Calls `ready` as soon as signals are caught.
///
/// # Errors
///
/// If it cannot start, or a worker fails.
pub(crate) fn run(
    options: Options,
    secrets: Secrets,
    listeners: Vec<Vec<Listener>>,
    tls: Tls,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let started = Instant::now();
    let events = event_options(&options)?;
    let (to_control, from_workers) = unbounded_channel();
    let mut config = options.config;
    config.process = ProcessInfo {
        pid: std::process::id(),
        unix_start_s: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |age| age.as_secs()),
    };
    // A predecessor that still drains has the last word about what its backends missed.
    let wait = Duration::from_millis(config.limits.drain_ms) + Duration::from_secs(1);
    let ledger = Ledger::open(options.run.state_dir.path(), &options.listen, &config, wait)?;
    let verifier = secrets.users.map(|users| Verifier::start(users, started));
    let verifier = verifier
        .transpose()
        .context("cannot start the threads for logins")?;
    let common = Common {
        verifier,
        backend_login: secrets.backend_login,
        shared: Shared::new(&config),
        workers: Arc::new(OnceLock::new()),
        config: Arc::new(config),
        started,
        clients_open: Arc::new(AtomicU64::new(0)),
        verbosity: options.run.verbosity,
        tls: Arc::new(tls),
        trusted_proxies: options.listen.trusted_proxies.into(),
        control: to_control,
    };
    let mut workers = Workers::default();
    for (index, listeners) in (0..).zip(listeners) {
        workers.create(WorkerId(index), common.clone(), listeners)?;
    }
    common.workers.get_or_init(|| workers.handles.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control thread's runtime")?;
    runtime.block_on(async {
        let events = Events::start(events);
        let (mut control, sources) = Control::new(&common, workers, ledger, events, from_workers)?;
        control.auth_file = options.run.auth_file;
        ready()?;
        control.run(sources).await
    })
}

fn event_options(options: &Options) -> Result<EventOptions> {
    let events = &options.run.events;
    let webhook = events.webhook.as_deref().map(Webhook::new);
    let listen = &options.listen;
    let tcp = listen.tcp.first().map(|tcp| tcp.address.to_string());
    let unix = listen.unix.first();
    let first = tcp.or_else(|| unix.map(|unix| unix.path.display().to_string()));
    Ok(EventOptions {
        command: events.command.as_ref().map(EventCommand::new),
        webhook: webhook.transpose()?,
        listen: first.unwrap_or_default(),
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
    /// There is one where keys have two backends.
    healer: Option<Healer>,
    links: Links,
    tls: Arc<Tls>,
    fence: Fence,
    /// The key of this pool's marks, where keys have two backends.
    mark_key: Option<Arc<[u8]>>,
    verifier: Option<Verifier>,
    auth_file: Option<PathBuf>,
    backend_login: Option<Arc<BackendLogin>>,
    ledger: Ledger,
    changes: Changes,
    failures: RateLimiter<BackendId>,
    found: UnboundedSender<Found>,
    /// Whether the log says already that a backend is old.
    told_of_old: bool,
    to_tell: VecDeque<Tell>,
    /// How many of them wait for the write under way and not for another.
    covered: usize,
    ended: usize,
    drained_by: Option<Instant>,
    draining: bool,
}

impl Control {
    fn new(
        common: &Common,
        workers: Workers,
        ledger: Ledger,
        events: Events,
        from_workers: UnboundedReceiver<FromWorker>,
    ) -> Result<(Self, Sources)> {
        let config = Arc::clone(&common.config);
        let now = time_since(common.started);
        let mut keeper = Keeper::new(keeper_config(common), now);
        let mut fence = Fence::new(config.backends.len());
        ledger.restore(now, &mut keeper, &mut fence);
        let has_partners = common
            .shared
            .placement
            .partners()
            .iter()
            .any(|list| !list.is_empty());
        let healer = has_partners.then(|| {
            let placement = Arc::clone(&common.shared.placement);
            Healer::new(&config, placement, Arc::clone(&common.shared.progress), now)
        });
        let (found, findings) = unbounded_channel();
        let (tls, login) = (Arc::clone(&common.tls), common.backend_login.clone());
        let (links, healing) = Links::new(Arc::clone(&config), tls, login)
            .context("cannot start the healer's thread")?;
        let mark_key = healer.is_some().then(|| known::key(&config).into());
        let this = Self {
            changes: Changes::new(&config, Arc::clone(&common.shared.progress), events),
            config,
            started: common.started,
            workers,
            keeper,
            healer,
            links,
            tls: Arc::clone(&common.tls),
            fence,
            mark_key,
            verifier: common.verifier.clone(),
            auth_file: None,
            backend_login: common.backend_login.clone(),
            ledger,
            failures: RateLimiter::new(FAILURES_LOGGED_PER_MINUTE, 60_000),
            found,
            told_of_old: false,
            to_tell: VecDeque::new(),
            covered: 0,
            ended: 0,
            drained_by: None,
            draining: false,
        };
        let sources = Sources::new(from_workers, healing, findings)?;
        Ok((this, sources))
    }

    async fn run(mut self, mut sources: Sources) -> Result<()> {
        self.first_probes(&mut sources).await?;
        self.workers.start()?;
        let mut awake = time_since(self.started);
        while self.ended < self.workers.handles.len() {
            let wait = self.go_on();
            let asleep = time_since(self.started);
            let due = wait
                .map(|wait| asleep.after_ns(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)));
            let event = sources.next(wait, self.drained_by).await?;
            let began = std::mem::replace(&mut awake, time_since(self.started));
            let for_ns = stalled_ns(began, asleep, due, awake);
            if for_ns > 0 {
                self.tell_healer(awake, heal::Input::Stalled { for_ns });
            }
            self.on_event(event);
        }
        for thread in self.workers.threads.drain(..) {
            let ended = thread
                .join()
                .map_err(|_| anyhow!("a worker has panicked"))?;
            ended.context("a worker's event loop failed")?;
        }
        self.changes.into_events().finish(LAST_EVENTS).await;
        tracing::info!("ended");
        Ok(())
    }

    /// Waits until every backend has been probed once, or for [`FIRST_PROBES`].
    async fn first_probes(&mut self, sources: &mut Sources) -> Result<()> {
        let deadline = Instant::now() + FIRST_PROBES;
        let mut unknown = self.config.backends.len();
        while unknown > 0 {
            self.go_on();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let event = sources.next(Some(left), None).await?;
            unknown -= usize::from(matches!(event, Event::Found(Found::Probe(..))));
            self.on_event(event);
        }
        self.go_on();
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        let now = time_since(self.started);
        match event {
            Event::Worker(message) => self.on_worker(now, message),
            Event::Healing(event) => self.on_healing(now, event),
            Event::Found(Found::Probe(backend, result)) => {
                if let Err(failure) = result {
                    self.changes.on_probe_failed(backend, failure);
                }
                if result.is_ok_and(|answer| answer.lingering == Some(false)) {
                    self.fence.on_not_found(backend);
                }
                match result {
                    Ok(_) => self.tls.backends.on_good(backend),
                    Err(failure) => self.tls.backends.on_failed(backend, failure, None),
                }
                self.keeper.on_probe(now, backend, result);
            }
            Event::Found(Found::Written(written)) => {
                self.ledger.on_written(*written);
                for _ in 0..std::mem::take(&mut self.covered) {
                    self.tell_next(now);
                }
            }
            Event::Due => {}
            Event::DrainOver => {
                tracing::warn!(
                    "requests are still in flight after --drain-ms: ending without them"
                );
                self.workers.tell_all(|| ToWorker::Stop);
                self.drained_by = None;
            }
            Event::Terminate(signal) => self.drain(signal),
            Event::HangUp => {
                reopen_log();
                self.read_users();
                self.tls.reload();
            }
        }
    }

    /// Reads the users again. A file that is wrong changes nothing.
    fn read_users(&self) {
        let (Some(path), Some(verifier)) = (&self.auth_file, &self.verifier) else {
            return;
        };
        match UserTable::load(path) {
            Ok(table) => {
                tracing::info!("{} users read from {}", table.len(), path.display());
                verifier.set_users(table, |users| {
                    self.workers.tell_all(|| ToWorker::Users(Arc::clone(users)));
                });
            }
            Err(err) => tracing::error!("{err}; the users stay as they were"),
        }
    }

    fn drain(&mut self, signal: &str) {
        if self.draining {
            // Asked twice: at once.
            self.workers.tell_all(|| ToWorker::Stop);
            self.drained_by = None;
            return;
        }
        tracing::info!("{signal}: finishing what is in flight");
        self.draining = true;
        self.workers.tell_all(|| ToWorker::Drain);
        let limit = Duration::from_millis(self.config.limits.drain_ms);
        self.drained_by = Some(Instant::now() + limit);
    }

    fn on_worker(&mut self, now: Time, message: FromWorker) {
        match message {
            FromWorker::Connected(worker, connection, local) => {
                let owner = Owner::Worker(worker);
                self.fence.on_connected(connection.backend, owner, local);
            }
            FromWorker::Report(worker, report) => self.on_report(now, worker, report),
            FromWorker::Recopy(backend, keys) => {
                self.tell_healer(now, heal::Input::Recopy(backend, keys));
            }
            FromWorker::Missed(backend, keys) => {
                self.tell_healer(now, heal::Input::Missed(backend, keys));
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
                self.keeper.on_worker_ended(now, worker);
            }
        }
    }

    fn on_healing(&mut self, now: Time, event: healing::Event) {
        if let healing::Event::Data(_, bytes) = &event {
            self.links.was_read(bytes.len());
        }
        match event {
            healing::Event::Connected(connection, local) if self.links.is_open(connection) => {
                let owner = Owner::Healer(connection.role);
                self.fence.on_connected(connection.backend, owner, local);
                self.tell_healer(now, heal::Input::Connected(connection));
            }
            healing::Event::Data(connection, bytes) if self.links.is_open(connection) => {
                self.tell_healer(now, heal::Input::Data(connection, &bytes));
            }
            healing::Event::Lost(connection, failure) if self.links.is_open(connection) => {
                self.links.close(connection);
                self.tell_healer(now, heal::Input::Lost(connection, failure));
            }
            // It was closed meanwhile.
            healing::Event::Connected(..) | healing::Event::Data(..) | healing::Event::Lost(..) => {
            }
        }
    }

    fn on_report(&mut self, now: Time, participant: WorkerId, report: Report) {
        if let Report::Failed {
            backend, failure, ..
        } = report
        {
            self.log_failure(now, participant, backend, failure);
        }
        self.changes.on_report(&report);
        self.keeper.on_report(now, participant, report);
    }

    fn log_failure(
        &mut self,
        now: Time,
        participant: WorkerId,
        backend: BackendId,
        failure: Failure,
    ) {
        if let Verdict::Log { suppressed } = self.failures.on_event(now, backend) {
            let name = self.changes.name(backend);
            let more = match suppressed {
                0 => String::new(),
                count => format!(" ({count} more like it were not logged)"),
            };
            let failure = failure.name();
            if participant == self.healer_id() {
                tracing::debug!("backend {name}: {failure} while it was copied from or to{more}");
            } else {
                let worker = participant.0;
                tracing::debug!("backend {name}: {failure} in worker {worker}{more}");
            }
        }
    }

    /// The healer takes part in epochs as the worker after the last.
    fn healer_id(&self) -> WorkerId {
        WorkerId(self.config.workers)
    }

    /// Does all that can be done now; yields how long there is nothing to do.
    fn go_on(&mut self) -> Option<Duration> {
        let now = time_since(self.started);
        if let Some(due) = self.follow_healer(now)
            && due <= now
        {
            self.tell_healer(now, heal::Input::Tick);
        }
        let due = loop {
            let healer_due = self.follow_healer(now);
            let keeper_due = self.follow_keeper(now);
            if !self.tell_what_is_kept(now) {
                let waits = !self.to_tell.is_empty();
                let disk_due = self.ledger.due().filter(|_| waits);
                break [healer_due, keeper_due, disk_due, self.changes.on_time(now)];
            }
        };
        let due = due.into_iter().flatten().min();
        due.map(|at| Duration::from_nanos(at.0.saturating_sub(now.0)))
    }

    fn probe(&self, backend: BackendId) {
        let to = Destination {
            backend,
            address: self.config.backends[backend.index()].clone(),
            tls: Arc::clone(&self.tls),
            login: self.backend_login.clone(),
        };
        let limit = Duration::from_millis(self.config.limits.fail_ms);
        let look_for = self.fence.look_for(backend);
        let mark_key = self.mark_key.clone();
        let found = self.found.clone();
        tokio::spawn(async move {
            let result = probe::probe(&to, &look_for, mark_key.as_deref(), limit).await;
            // The control thread only stops listening when the process ends.
            drop(found.send(Found::Probe(backend, result)));
        });
    }
}

fn keeper_config(common: &Common) -> KeeperConfig {
    let config = &common.config;
    let limits = &config.limits;
    KeeperConfig {
        partners: common.shared.placement.partners(),
        addresses: config.backends.iter().map(ToString::to_string).collect(),
        workers: config.workers.into(),
        stay_down: config.on_overflow == OnOverflow::StayDown,
        probe_delay_ms_min: limits.probe_delay_ms_min,
        probe_delay_ms_max: limits.probe_delay_ms_max,
        settle_ms: limits.settle_ms,
        hold_ms_max: limits.probe_delay_ms_max,
        jitter_seed: u64::from(std::process::id()),
    }
}

fn reopen_log() {
    match log::reopen() {
        Ok(()) => tracing::info!("log reopened"),
        Err(err) => tracing::error!("cannot reopen the log: {err}"),
    }
}
