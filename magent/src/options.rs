//! What the command line asks for, checked and in the form in which the rest of the program wants
//! it.
//!
//! # Invariants
//!
//! - Options that exist can be carried out as far as this machine lets them: every number is in its
//!   range, every name was looked up, every path is absolute (going to the background changes the
//!   directory).
//!
//! Not here: how options are spelled and explained (`cli`).

pub(crate) mod advertise;
mod listening;
mod state_dir;
mod tls;

use std::ffi::OsString;
use std::path::PathBuf;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result, ensure};
use clap::ArgMatches;
use magent_core::auth::Access;
use magent_core::config::{BackupPlacement, Config, DeadRead, Flush, Hedge, Limits, OnOverflow};
use magent_core::placement::{BackupChoice, Placement};
use magent_core::scheme::{
    HashFilter, HashSeed, HashTag, LockKeys, LockRules, Ring, Scheme, SchemeOptions, skew,
};
use magent_core::server::ServerSpec;

use crate::auth::passwd::{PasswdOptions, Task};
use crate::cli::{self, HealRate, SchemeArg};
use crate::listen::ListenOptions;
use crate::log::{LogTarget, Verbosity};
use crate::sys::{Identity, OpenFiles};
pub(crate) use state_dir::StateDir;
pub(crate) use tls::TlsOptions;

/// Workers unless the operator says otherwise. More of them gather less: a request has fewer
/// neighbours to share a packet with.
const WORKERS_DEFAULT_MAX: usize = 4;

/// Everything for the proxy.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Backends, placement, limits.
    pub(crate) config: Config,
    /// Where clients come in.
    pub(crate) listen: ListenOptions,
    /// Certificates and keys.
    pub(crate) tls: TlsOptions,
    /// The process.
    pub(crate) run: RunOptions,
    /// What the operator should hear at the start.
    pub(crate) notices: Vec<String>,
}

/// How the process runs.
#[derive(Clone, Debug)]
pub(crate) struct RunOptions {
    /// `-u` and `-g`.
    pub(crate) identity: Identity,
    /// `-D` or not.
    pub(crate) mode: Mode,
    /// `--pid-file`.
    pub(crate) pid_file: Option<PathBuf>,
    /// `--log-file`, or what goes with the mode.
    pub(crate) log: LogTarget,
    /// `-v`.
    pub(crate) verbosity: Verbosity,
    /// `--state-dir`.
    pub(crate) state_dir: StateDir,
    /// `--auth-file`.
    pub(crate) auth_file: Option<PathBuf>,
    /// `--backend-auth-file`.
    pub(crate) backend_auth_file: Option<PathBuf>,
    /// `--on-event`, `--event-webhook`.
    pub(crate) events: EventOptions,
}

/// Who is told of events.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventOptions {
    /// A command line for `sh -c`.
    pub(crate) command: Option<String>,
    /// Where the event is posted to, or `@` and the file that says where.
    pub(crate) webhook: Option<String>,
}

/// Whether the shell waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `-D`.
    Foreground,
    /// As magent 0.6 does.
    Background,
}

/// For `magent demo`.
#[derive(Clone, Debug)]
pub(crate) struct DemoOptions {
    /// Where the demo's proxy listens, on loopback.
    pub(crate) port: u16,
    /// `-v`.
    pub(crate) verbosity: Verbosity,
}

/// For `magent route`.
#[derive(Clone, Debug)]
pub(crate) struct RouteOptions {
    /// Servers and scheme.
    pub(crate) config: Config,
    /// As given; `-` stands for standard input.
    pub(crate) keys: Vec<OsString>,
    /// What is printed.
    pub(crate) output: RouteOutput,
}

/// What `magent route` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteOutput {
    /// A line per key, for people.
    Text,
    /// A record per key, for programs.
    Csv,
    /// A bar per backend.
    Summary,
}

impl Options {
    /// Checks the options of the proxy.
    pub(crate) fn new(matches: &ArgMatches) -> Result<Self> {
        let mut config = config(matches)?;
        config.limits = limits(matches);
        config.limits.check()?;
        config.workers = workers(matches, &config.limits)?;
        config.flush = if matches.get_flag("no-flush") {
            Flush::Refused
        } else {
            Flush::Allowed
        };
        config.dead_read = if matches.get_flag("read-error") {
            DeadRead::Error
        } else {
            DeadRead::Miss
        };
        config.hedge = hedge(matches, &config.limits)?;
        config.on_overflow = *matches
            .get_one::<OnOverflow>("on-overflow")
            .expect("has a default");
        let run = RunOptions::new(matches)?;
        config.trace_routes = run.verbosity >= Verbosity::Routes;
        let mut notices = placement_notices(&config, matches.get_flag("ketama"));
        config.advertised = advertise::advertised(matches, &mut notices);
        let listen = listening::listen_options(matches)?;
        Ok(Self {
            tls: TlsOptions::new(matches, &listen, &config)?,
            listen,
            config,
            run,
            notices,
        })
    }

    /// What the process will have open.
    pub(crate) fn open_files(&self) -> OpenFiles {
        let backends = u64::try_from(self.config.backends.len()).unwrap_or(u64::MAX);
        let addresses = self.listen.tcp.len() + self.listen.unix.len();
        let addresses = u64::try_from(addresses).unwrap_or(u64::MAX);
        OpenFiles {
            clients: self.config.limits.clients_max,
            backend_connections: backends * self.config.limits.connections_per_backend_max,
            listeners: addresses * u64::from(self.config.workers),
        }
    }

    /// One line for the log.
    pub(crate) fn summary(&self) -> String {
        let config = &self.config;
        format!(
            "listening on {}; primaries {}, backups {}, scheme {}, workers {}",
            self.listen,
            config.primaries.len(),
            config.backups.len(),
            config.scheme,
            config.workers
        )
    }
}

impl RunOptions {
    fn new(matches: &ArgMatches) -> Result<Self> {
        let text = |id| matches.get_one::<String>(id).map(String::as_str);
        let mode = if matches.get_flag("foreground") {
            Mode::Foreground
        } else {
            Mode::Background
        };
        let log = match (absolute(matches, "log-file")?, mode) {
            (Some(path), _) => LogTarget::File(path),
            (None, Mode::Foreground) => LogTarget::Stderr,
            (None, Mode::Background) => LogTarget::Syslog,
        };
        Ok(Self {
            identity: Identity::resolve(text("user"), text("group"))?,
            mode,
            pid_file: absolute(matches, "pid-file")?,
            log,
            verbosity: verbosity(matches),
            state_dir: matches
                .get_one::<StateDir>("state-dir")
                .cloned()
                .unwrap_or_default(),
            auth_file: absolute(matches, "auth-file")?,
            backend_auth_file: absolute(matches, "backend-auth-file")?,
            events: EventOptions {
                command: matches.get_one("on-event").cloned(),
                webhook: webhook(matches)?,
            },
        })
    }
}

impl DemoOptions {
    /// Checks the options of the demo.
    pub(crate) fn new(matches: &ArgMatches) -> Self {
        let port = *matches.get_one("port").expect("has a default");
        Self {
            port,
            verbosity: verbosity(matches),
        }
    }
}

impl PasswdOptions {
    /// Checks the options of `magent passwd`.
    pub(crate) fn new(matches: &ArgMatches) -> Result<Self> {
        let text = |id| matches.get_one::<String>(id).cloned();
        let file: &PathBuf = matches.get_one("file").expect("required");
        let task = match text("name") {
            None => {
                ensure!(
                    matches.get_flag("list"),
                    "name the user as well, or say --list"
                );
                Task::List
            }
            Some(user) if matches.get_flag("delete") => Task::Delete { user },
            Some(user) => Task::Set {
                user,
                prefix: text("prefix"),
                access: matches.get_flag("read-only").then_some(Access::ReadOnly),
            },
        };
        Ok(Self {
            file: file.clone(),
            task,
        })
    }
}

impl RouteOptions {
    /// Checks the options of `magent route`. Those of the proxy are accepted, so that its command
    /// line can be used as it is, and those that place no keys are not looked at: another machine
    /// may well have another user.
    pub(crate) fn new(matches: &ArgMatches) -> Result<Self> {
        let keys: Vec<_> = matches
            .get_many("key")
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        ensure!(
            !keys.is_empty(),
            "no key given: name some, or - to read them from standard input"
        );
        let output = if matches.get_flag("summary") {
            RouteOutput::Summary
        } else {
            *matches.get_one("format").expect("has a default")
        };
        Ok(Self {
            config: config(matches)?,
            keys,
            output,
        })
    }
}

fn config(matches: &ArgMatches) -> Result<Config> {
    let servers = |id| {
        matches
            .get_many(id)
            .into_iter()
            .flatten()
            .cloned()
            .collect::<Vec<ServerSpec>>()
    };
    let primaries = servers("server");
    ensure!(!primaries.is_empty(), cli::NO_PRIMARY);
    let scheme = match matches.get_one("scheme") {
        Some(SchemeArg::One(scheme)) => *scheme,
        Some(SchemeArg::List) => unreachable!("`cli` answers --scheme list before"),
        None if matches.get_flag("ketama") => Scheme::ketama_md5(),
        None => Scheme::magent(),
    };
    let lock_rules = matches.get_many::<LockRules>("lock-with-data");
    let scheme_options = SchemeOptions {
        lock_keys: LockKeys::new(lock_rules.into_iter().flatten()),
        hash_tag: matches.get_one::<HashTag>("hash-tag").copied(),
        hash_seed: matches
            .get_one::<String>("hash-seed")
            .map(|text| HashSeed::new(text)),
        hash_filter: matches.get_one::<HashFilter>("hash-filter").cloned(),
    };
    let mut config = Config::new(primaries, servers("backup"), scheme, scheme_options)?;
    config.backup_placement = *matches
        .get_one::<BackupPlacement>("backup-placement")
        .expect("has a default");
    Ok(config)
}

fn webhook(matches: &ArgMatches) -> Result<Option<String>> {
    let text = matches.get_one::<String>("event-webhook");
    // The address is not repeated: it may hold a password, and this may end up in a log.
    ensure!(
        text.is_none_or(|text| ["http://", "https://", "@"]
            .iter()
            .any(|start| text.starts_with(start) && text.len() > start.len())),
        "--event-webhook: expected an address such as http://localhost:8080/magent, or @FILE"
    );
    Ok(text.cloned())
}

fn hedge(matches: &ArgMatches, limits: &Limits) -> Result<Hedge> {
    let hedge = *matches.get_one("hedge-ms").expect("has a default");
    if let Hedge::AfterMs(hedge_ms) = hedge {
        ensure!(
            hedge_ms < limits.fail_ms,
            "--hedge-ms {hedge_ms} must be less than --fail-ms, {}: after that the backend is down",
            limits.fail_ms
        );
    }
    Ok(hedge)
}

fn limits(matches: &ArgMatches) -> Limits {
    let mut limits = Limits::default();
    for row in cli::own_flags() {
        let value = *matches.get_one(row.name).expect("has a default");
        set_limit(&mut limits, row.name, value);
    }
    let heal_rate: &HealRate = matches.get_one("heal-rate").expect("has a default");
    limits.heal_items_per_s = heal_rate.items_per_s;
    limits.heal_bytes_per_s = heal_rate.bytes_per_s;
    limits
}

/// Sets the limit of that name. A test compares this with the table of limits.
fn set_limit(limits: &mut Limits, name: &str, value: u64) {
    let field = match name {
        "clients_max" => &mut limits.clients_max,
        "connections_per_backend_max" => &mut limits.connections_per_backend_max,
        "request_ms" => &mut limits.request_ms,
        "fail_ms" => &mut limits.fail_ms,
        "probe_delay_ms_min" => &mut limits.probe_delay_ms_min,
        "probe_delay_ms_max" => &mut limits.probe_delay_ms_max,
        "drain_ms" => &mut limits.drain_ms,
        "value_len_max" => &mut limits.value_len_max,
        "memory_max" => &mut limits.memory_max,
        "remembered_keys_max" => &mut limits.remembered_keys_max,
        _ => unreachable!("limit {name} has a flag and no field"),
    };
    *field = value;
}

fn workers(matches: &ArgMatches, limits: &Limits) -> Result<u16> {
    let connections_max = limits.connections_per_backend_max;
    if let Some(&workers) = matches.get_one::<u16>("threads") {
        ensure!(
            u64::from(workers) <= connections_max,
            "--threads {workers} needs as many connections to each backend, but -i allows \
             {connections_max}"
        );
        return Ok(workers);
    }
    let cores = available_parallelism()
        .map_or(1, usize::from)
        .min(WORKERS_DEFAULT_MAX);
    let workers = u16::try_from(cores).expect("at most WORKERS_DEFAULT_MAX");
    Ok(workers.min(u16::try_from(connections_max).unwrap_or(u16::MAX)))
}

fn verbosity(matches: &ArgMatches) -> Verbosity {
    Verbosity::from_count(matches.get_count("verbose"))
}

fn absolute(matches: &ArgMatches, id: &str) -> Result<Option<PathBuf>> {
    let path = matches.get_one::<PathBuf>(id).map(std::path::absolute);
    path.transpose().with_context(|| format!("--{id}"))
}

/// What is to be known of how keys are placed.
fn placement_notices(config: &Config, by_flag: bool) -> Vec<String> {
    let mut notices = Vec::new();
    if by_flag {
        notices.push(format!(
            "-k is {}, which libmemcached and twemproxy share; magent 0.6 placed keys otherwise, \
             nearly all on one server: --scheme magent06-ketama keeps that",
            config.scheme
        ));
    }
    for (flag, servers) in [("-s", &config.primaries), ("-b", &config.backups)] {
        let Ok(ring) = Ring::new(config.scheme, &config.scheme_options, servers) else {
            continue;
        };
        let skew = skew::sample(&ring);
        if skew.is_skewed() {
            notices.push(format!(
                "scheme {} is uneven over {flag}: {skew}",
                config.scheme
            ));
        }
    }
    if config.has_backups() {
        backup_notices(config, &Placement::new(config), &mut notices);
    }
    notices
}

/// What is to be known of second copies that a host takes with it.
fn backup_notices(config: &Config, placement: &Placement, notices: &mut Vec<String>) {
    let with = |choice| {
        let primaries = config.primaries.iter().enumerate();
        let chosen: Vec<_> = primaries
            .filter(|&(index, _)| placement.backup_choice(index) == choice)
            .map(|(_, primary)| primary.address().to_string())
            .collect();
        (!chosen.is_empty()).then(|| chosen.join(", "))
    };
    if let Some(primaries) = with(BackupChoice::Nobody) {
        notices.push(format!(
            "keys of {primaries} have no second copy: it is the only backup itself"
        ));
    }
    if let Some(primaries) = with(BackupChoice::SameHost) {
        notices.push(format!(
            "every backup of {primaries} is on the same host, which takes both copies of its keys \
             with it: add a backup (-b) on another"
        ));
    }
    if config.backup_placement == BackupPlacement::Apart
        && let Some(primaries) = with(BackupChoice::Some)
    {
        notices.push(format!(
            "{:.0} % of keys have another backup than scheme {} names, because that is on the host \
             of their primary ({primaries}); \"magent route\" shows which, --backup-placement hash \
             leaves them there",
            moved_share(placement) * 100.0,
            config.scheme
        ));
    }
}

/// Which part of made-up keys has another backup than the scheme names.
fn moved_share(placement: &Placement) -> f64 {
    let is_moved = |&n: &u32| {
        // Counters alone would go round the servers in step.
        let key = format!("user:{n}:{:08x}", n.wrapping_mul(0x9e37_79b9));
        let by_scheme = placement.backup_by_scheme(key.as_bytes());
        by_scheme != placement.route(key.as_bytes()).backup_index
    };
    let moved = (0..MOVED_SAMPLE).filter(is_moved).count();
    f64::from(u32::try_from(moved).expect("at most MOVED_SAMPLE")) / f64::from(MOVED_SAMPLE)
}

/// Keys of the sample: enough for whole per cents.
const MOVED_SAMPLE: u32 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_with_a_flag_can_be_set() {
        for row in cli::own_flags() {
            let mut limits = Limits::default();
            set_limit(&mut limits, row.name, row.max + 1);
            let err = limits.check().unwrap_err().to_string();
            assert!(
                err.starts_with(row.name),
                "{} sets something else: {err}",
                row.name
            );
        }
    }

    #[test]
    fn options_for_failures_and_returns() {
        let with = |args: &[&str]| {
            let args = ["magent", "-s", "a", "-b", "b"].iter().chain(args);
            match cli::parse(args.map(OsString::from)) {
                Ok(cli::Action::Serve(options)) => options.config,
                Ok(_) | Err(_) => panic!("not understood"),
            }
        };
        let config = with(&[]);
        assert_eq!(config.hedge, Hedge::Auto);
        assert_eq!(config.on_overflow, OnOverflow::Flush);
        assert_eq!(config.backup_placement, BackupPlacement::Apart);
        assert_eq!(config.limits, Limits::default());

        assert_eq!(with(&["--hedge-ms", "0"]).hedge, Hedge::Off);
        assert_eq!(with(&["--hedge-ms=30"]).hedge, Hedge::AfterMs(30));
        assert_eq!(
            with(&["--hedge-ms=0", "--hedge-ms=auto"]).hedge,
            Hedge::Auto
        );
        let config = with(&["--on-overflow", "stay-down", "--backup-placement", "hash"]);
        assert_eq!(config.on_overflow, OnOverflow::StayDown);
        assert_eq!(config.backup_placement, BackupPlacement::Hash);
        for (text, items, bytes) in [("7", 7, 50 << 20), ("5000,8m", 5_000, 8 << 20)] {
            let limits = with(&["--heal-rate", text]).limits;
            assert_eq!(
                (limits.heal_items_per_s, limits.heal_bytes_per_s),
                (items, bytes)
            );
        }
    }
}
