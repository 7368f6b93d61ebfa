//! The command line.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};

use crate::fairness::{SMALL_CLIENTS, parse_intruder};
use crate::goals;
use crate::growth::Dimension;
use crate::hot_path::{PATHS, Path};
use crate::intruder::{INTRUDERS, Row};
use crate::measure::Timing;
use crate::overload::WANTED;
use crate::peer::{PLACEHOLDERS, Peer};
use crate::wire::KEYS_PER_REQUEST_MAX;
use crate::workload::{self, Pace, Workload};

/// Load generator and side-by-side comparison of memcached proxies. Every answer is verified
/// byte for byte.
#[derive(Debug, Parser)]
#[command(name = "bench", after_help = workload::help())]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Start memcacheds and proxies, run workloads on each in turn, print medians and ratios
    #[command(after_help = compare_help())]
    Compare(Box<CompareArgs>),
    /// Hold magent against its goals: the table of goals, measured beside nutcracker and memcached
    Table(TableArgs),
    /// How the cost of a request grows with backends, connections, value length and workers
    Growth(GrowthArgs),
    /// How long small clients wait while somebody else wants much of the same backend
    #[command(after_help = fairness_help())]
    Fairness(Box<FairnessArgs>),
    /// What becomes of a proxy that is asked for twice as much as it can do
    Overload(Box<OverloadArgs>),
    /// Run one workload against anything that speaks memcached's protocol
    #[command(after_help = workload::help())]
    Load(LoadArgs),
    /// Count the instructions that the engine takes for a request, without sockets (needs valgrind)
    Instructions(InstructionsArgs),
    /// What `instructions` looks at
    #[command(hide = true)]
    HotPath(HotPathArgs),
}

#[derive(Args, Debug)]
pub(crate) struct InstructionsArgs {
    /// Paths, by name [default: all]
    #[arg(long = "path", value_name = "NAME", value_delimiter = ',', value_parser = parse_path)]
    pub(crate) paths: Vec<&'static Path>,
    /// Fail if a path takes so many percent more than written down
    #[arg(long, value_name = "PERCENT")]
    pub(crate) check: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct HotPathArgs {
    #[arg(value_parser = parse_path)]
    pub(crate) path: &'static Path,
    #[arg(long)]
    pub(crate) rounds: u32,
}

fn parse_path(name: &str) -> Result<&'static Path> {
    let names = || PATHS.iter().map(|path| path.name).collect::<Vec<_>>();
    Path::find(name).with_context(|| format!("no such path; there are {}", names().join(", ")))
}

#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// Workloads to run, by name [default: all]
    #[arg(long = "workload", value_name = "NAME", num_args = 1.., value_delimiter = ',',
        value_parser = parse_workload)]
    pub(crate) workloads: Vec<Workload>,
    #[command(flatten)]
    pub(crate) line_up: LineUp,
    /// memcacheds to start
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) backends: u32,
    /// memcacheds beside them, for a peer whose command has {-b}
    #[arg(long, value_name = "N", default_value_t = BACKUPS,
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) backups: u32,
    #[command(flatten)]
    pub(crate) setup: Setup,
    /// Write every run and all medians and ratios
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write every run as one line
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Fail if a proxy's CPU time per request exceeds RATIO times the baseline's in any workload
    #[arg(long, value_name = "RATIO")]
    pub(crate) assert_max: Option<f64>,
    #[command(flatten)]
    pub(crate) shape: Shape,
}

impl CompareArgs {
    /// The workloads with their overrides.
    pub(crate) fn workloads(&self) -> Result<Vec<Workload>> {
        let chosen = if self.workloads.is_empty() {
            workload::WORKLOADS
        } else {
            &self.workloads
        };
        chosen
            .iter()
            .map(|workload| self.shape.apply(workload))
            .collect()
    }
}

#[derive(Args, Debug)]
pub(crate) struct TableArgs {
    /// Only the rows of these workloads [default: all]
    #[arg(long = "workload", value_name = "NAME", num_args = 1.., value_delimiter = ',',
        value_parser = goals::parse_workload)]
    pub(crate) workloads: Vec<&'static str>,
    /// Connections held idle; fewer if the limit on open files allows no more
    #[arg(long, value_name = "N", default_value_t = workload::IDLE.connections,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) idle: u32,
    /// Write the table as markdown
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// Draw the ratios
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Write the table, every run and all medians and ratios
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Fail if a goal is missed
    #[arg(long)]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(crate) setup: Setup,
}

#[derive(Args, Debug)]
pub(crate) struct GrowthArgs {
    /// What grows [default: each in turn]
    #[arg(long = "dimension", value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub(crate) dimensions: Vec<Dimension>,
    /// Leave out points above this: so many backends, connections, bytes or workers
    #[arg(long, value_name = "N")]
    pub(crate) up_to: Option<u32>,
    /// What to measure
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = parse_built_in,
        default_value = "magent,nutcracker")]
    pub(crate) peers: Vec<Peer>,
    /// Write the table as markdown
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// Draw it, a panel for each series
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Write the table and every run
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) setup: Setup,
}

/// Who is compared.
#[derive(Args, Debug)]
pub(crate) struct LineUp {
    /// What to compare
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = parse_built_in,
        default_value = "magent,nutcracker,direct")]
    peers: Vec<Peer>,
    /// Another proxy, as a command with placeholders (see below); can be repeated
    #[arg(long = "peer", value_name = "NAME=COMMAND",
        value_parser = |text: &str| Peer::parse(text).map_err(|err| format!("{err:#}")))]
    more_peers: Vec<Peer>,
    /// The peer that ratios are taken to
    #[arg(long, value_name = "NAME", default_value = "nutcracker")]
    pub(crate) baseline: String,
}

impl LineUp {
    /// The peers, built-in ones first.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        [self.peers.clone(), self.more_peers.clone()].concat()
    }

    /// Their names, checked.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let names: Vec<String> = self.peers().into_iter().map(|peer| peer.name).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        ensure!(
            sorted.len() == names.len(),
            "two peers with one name in {}",
            names.join(", ")
        );
        Ok(names)
    }
}

#[derive(Args, Debug)]
pub(crate) struct FairnessArgs {
    /// Who disturbs the small clients, by name [default: each in turn]
    #[arg(long = "intruder", value_name = "NAME", num_args = 1.., value_delimiter = ',',
        value_parser = parse_intruder)]
    intruders: Vec<&'static Row>,
    #[command(flatten)]
    pub(crate) line_up: LineUp,
    #[command(flatten)]
    pub(crate) setup: Setup,
    /// memcacheds to start: with one, all meet at it
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) backends: u32,
    /// Requests per second of all small clients together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Write every run
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl FairnessArgs {
    pub(crate) fn intruders(&self) -> Vec<&'static Row> {
        if self.intruders.is_empty() {
            INTRUDERS.iter().collect()
        } else {
            self.intruders.clone()
        }
    }

    /// What the small clients do.
    pub(crate) fn small(&self) -> Workload {
        Workload {
            pace: self.rate.map_or(SMALL_CLIENTS.pace, Pace::Rate),
            ..SMALL_CLIENTS
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct OverloadArgs {
    #[command(flatten)]
    pub(crate) line_up: LineUp,
    #[command(flatten)]
    pub(crate) setup: Setup,
    /// memcacheds to start
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) backends: u32,
    /// Connections of the generator
    #[arg(long, value_name = "N", default_value_t = WANTED.connections,
        value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Requests that may wait on each connection
    #[arg(long, value_name = "N", default_value_t = WANTED.depth,
        value_parser = clap::value_parser!(u32).range(1..))]
    depth: u32,
    /// Bytes of each value
    #[arg(long, value_name = "BYTES", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..1 << 20))]
    value_len: u32,
    /// Write every run
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl OverloadArgs {
    /// What is wanted.
    pub(crate) fn workload(&self) -> Workload {
        /// All keys together fit a memcached.
        const STORED_LEN_MAX: u32 = 100_000_000;
        Workload {
            connections: self.connections,
            depth: self.depth,
            value_len: usize::try_from(self.value_len).expect("u32 fits usize on Linux"),
            key_count: WANTED.key_count.min(STORED_LEN_MAX / self.value_len),
            ..WANTED
        }
    }
}

/// How things are measured, whatever is measured.
#[derive(Args, Debug)]
#[command(next_help_heading = "How to measure")]
pub(crate) struct Setup {
    /// Rounds; in each every peer runs once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Measured time of a run
    #[arg(long, default_value_t = 2.0, value_parser = parse_seconds)]
    seconds: f64,
    /// Time before each run that does not count
    #[arg(long, value_name = "SECONDS", default_value_t = 0.3, value_parser = parse_seconds)]
    warm_up: f64,
    /// 3 runs of 0.5 seconds: for a first look, not for figures to quote
    #[arg(long, conflicts_with_all = ["runs", "seconds"])]
    quick: bool,
    /// Leave the placement on CPUs to the scheduler. Otherwise the proxy has the last CPU to
    /// itself and the generator and the memcacheds share the others
    #[arg(long)]
    pub(crate) no_pin: bool,
    /// The magent to measure [default: magent beside this program]
    #[arg(long, value_name = "PATH")]
    pub(crate) magent: Option<PathBuf>,
    /// The nutcracker to measure
    #[arg(long, value_name = "PATH", default_value = "nutcracker")]
    pub(crate) nutcracker: PathBuf,
    /// The memcached behind the proxies
    #[arg(long, value_name = "PATH", default_value = "memcached")]
    pub(crate) memcached: PathBuf,
}

impl Setup {
    pub(crate) fn runs(&self) -> u32 {
        if self.quick { 3 } else { self.runs }
    }

    pub(crate) fn timing(&self) -> Timing {
        let seconds = if self.quick { 0.5 } else { self.seconds };
        timing(self.warm_up, seconds)
    }
}

#[derive(Args, Debug)]
pub(crate) struct LoadArgs {
    /// What to connect to, HOST:PORT; with several, connections and keys are spread over them
    #[arg(long = "target", value_name = "HOST:PORT", required = true, num_args = 1..,
        value_delimiter = ',', value_parser = parse_target)]
    pub(crate) targets: Vec<SocketAddr>,
    /// The workload, by name
    #[arg(long, value_name = "NAME", default_value = "get", value_parser = parse_workload)]
    pub(crate) workload: Workload,
    /// Measured time
    #[arg(long, default_value_t = 2.0, value_parser = parse_seconds)]
    seconds: f64,
    /// Time before it that does not count
    #[arg(long, value_name = "SECONDS", default_value_t = 0.3, value_parser = parse_seconds)]
    warm_up: f64,
    /// Do not store the keys first
    #[arg(long)]
    pub(crate) no_preload: bool,
    /// A process on this machine whose CPU time and memory are reported
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// Print the figures as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) shape: Shape,
}

impl LoadArgs {
    pub(crate) fn timing(&self) -> Timing {
        timing(self.warm_up, self.seconds)
    }
}

/// Changes to a workload.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Changes to the workload")]
pub(crate) struct Shape {
    /// Connections of the generator
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connections: Option<u32>,
    /// Requests in flight on each connection
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    depth: Option<u32>,
    /// Bytes of each value
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    value_len: Option<u32>,
    /// Different keys
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..100_000_000))]
    keys: Option<u32>,
    /// Keys in each get
    #[arg(long, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(KEYS_PER_REQUEST_MAX)))]
    keys_per_request: Option<u32>,
    /// Share of sets
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    set_percent: Option<u8>,
    /// Requests per second over all connections, sent on time whatever the answers do (open
    /// loop); latency counts from the time a request was due
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
}

impl Shape {
    pub(crate) fn apply(self, workload: &Workload) -> Result<Workload> {
        let mut changed = workload.clone();
        changed.connections = self.connections.unwrap_or(changed.connections);
        changed.depth = self.depth.unwrap_or(changed.depth);
        changed.key_count = self.keys.unwrap_or(changed.key_count);
        changed.keys_per_request = self.keys_per_request.unwrap_or(changed.keys_per_request);
        changed.set_percent = self.set_percent.unwrap_or(changed.set_percent);
        changed.pace = self.rate.map_or(changed.pace, Pace::Rate);
        if let Some(value_len) = self.value_len {
            changed.value_len = usize::try_from(value_len)?;
        }
        ensure!(
            changed.keys_per_request <= changed.key_count,
            "{}: {} keys in a request, but only {} keys",
            changed.name,
            changed.keys_per_request,
            changed.key_count
        );
        Ok(changed)
    }
}

/// memcacheds that keep second copies, where there are any: three primaries have two.
pub(crate) const BACKUPS: u32 = 2;

fn timing(warm_up: f64, measured: f64) -> Timing {
    let [warm_up, measured] = [warm_up, measured].map(Duration::from_secs_f64);
    Timing { warm_up, measured }
}

fn parse_workload(name: &str) -> Result<Workload, String> {
    let known = || format!("no such workload (known: {})", Workload::names().join(", "));
    Workload::find(name).cloned().ok_or_else(known)
}

fn parse_built_in(name: &str) -> Result<Peer, String> {
    let known = || {
        format!(
            "no such peer (known: {}; others: --peer)",
            Peer::names().join(", ")
        )
    };
    Peer::built_in(name).ok_or_else(known)
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text
        .parse()
        .ok()
        .filter(|seconds| (0.0..=3_600.0).contains(seconds));
    seconds.ok_or_else(|| "expected seconds, at most 3600".to_owned())
}

fn parse_target(text: &str) -> Result<SocketAddr> {
    let mut found = text.to_socket_addrs().context("expected HOST:PORT")?;
    found.next().context("no such host")
}

fn fairness_help() -> String {
    let rows = INTRUDERS.iter();
    let rows = rows.map(|row| format!("  {:<14} {}", row.name, row.about));
    format!("Intruders:\n{}", rows.collect::<Vec<_>>().join("\n"))
}

fn compare_help() -> String {
    let rows: Vec<String> = PLACEHOLDERS
        .iter()
        .map(|(name, about)| format!("  {name:<19} {about}"))
        .collect();
    format!(
        "{}\n\nPlaceholders of --peer:\n{}\n\nExample: compare two builds\n  bench compare \
         --peer \"old=/path/to/magent -D -p {{port}} -l 127.0.0.1 {{-s}} --threads 1 -k\"",
        workload::help(),
        rows.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn names_and_changes_arrive() {
        let words = "bench compare --workload get mixed --peers direct --quick --depth 4";
        let cli = Cli::try_parse_from(words.split(' ')).unwrap();
        let Task::Compare(args) = cli.command else {
            panic!("{cli:?}")
        };
        let workloads = args.workloads().unwrap();
        assert_eq!(
            workloads.iter().map(|row| row.name).collect::<Vec<_>>(),
            ["get", "mixed"]
        );
        assert!(workloads.iter().all(|row| row.depth == 4));
        assert_eq!((args.setup.runs(), args.line_up.peers().len()), (3, 1));
    }

    #[test]
    fn bad_words_name_what_is_known() {
        for (words, hint) in [
            ("bench compare --workload gte", "get-pipelined"),
            ("bench compare --peers mcrouter", "nutcracker"),
            ("bench load --target nowhere", "HOST:PORT"),
        ] {
            let err = Cli::try_parse_from(words.split(' '))
                .unwrap_err()
                .to_string();
            assert!(err.contains(hint), "{err}");
        }
    }
}
