//! Checked configuration: what the operator asked for, in a form that cannot be invalid.
//!
//! # Invariants
//!
//! - Every address occurs once in [`Config::backends`], whatever roles it has ([`Config::new`]).
//! - There is at least one primary, and every [`BackendId`] is in range.
//! - [`LIMITS`] is the one list of limits and timeouts; `--help`, `docs/limits.md` and the checks
//!   derive from it.
//!
//! Not here: flags and their spelling (`magent/src/cli.rs`), where a key goes (`scheme`).

mod advertised;

use std::fmt;
use std::sync::Arc;

use crate::BackendId;
use crate::auth::Users;
use crate::breaks::Breaks;
use crate::scheme::{Ring, Scheme, SchemeError, SchemeOptions};
use crate::server::{Address, ServerSpec};
pub use advertised::{Advertised, AdvertisedProxy};

/// Everything that the workers and the keeper need to know before they start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Distinct backends; a [`BackendId`] is an index into this list.
    pub backends: Vec<Address>,
    /// `-s`, in the order given.
    pub primaries: Vec<ServerSpec>,
    /// `-b`, in the order given; may be empty.
    pub backups: Vec<ServerSpec>,
    /// Backend of each primary, by its index in `primaries`.
    pub primary_ids: Vec<BackendId>,
    /// Backend of each backup, by its index in `backups`.
    pub backup_ids: Vec<BackendId>,
    /// How keys are placed.
    pub scheme: Scheme,
    /// What the scheme takes besides the list of servers.
    pub scheme_options: SchemeOptions,
    /// Number of workers, at least 1.
    pub workers: u16,
    /// Limits and timeouts.
    pub limits: Limits,
    /// Who may come in; `None`: everybody.
    pub users: Option<Arc<Users>>,
    /// Whether clients may use `flush_all`.
    pub flush: Flush,
    /// What a read is told when every backend of its key is down.
    pub dead_read: DeadRead,
    /// When a read is asked at a second backend as well.
    pub hedge: Hedge,
    /// What becomes of a backend that missed more than can be remembered.
    pub on_overflow: OnOverflow,
    /// Whether a key's backup may be on its primary's host.
    pub backup_placement: BackupPlacement,
    /// What clients with auto discovery are told, if anything.
    pub advertised: Option<Advertised>,
    /// What `stats` says about the process.
    pub process: ProcessInfo,
    /// Whether the engine reports where each request went (`-v`).
    pub trace_routes: bool,
    /// Protections that are switched off: none, but in the simulator.
    pub breaks: Breaks,
}

/// What the core cannot find out by itself about the process that it runs in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Process id.
    pub pid: u32,
    /// Unix time at the start of the workers, in seconds.
    pub unix_start_s: u64,
}

/// May clients flush?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// `flush_all` goes to every backend.
    Allowed,
    /// `flush_all` is answered with an error.
    Refused,
}

/// What a single-key read is told when every backend of its key is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadRead {
    /// A miss, as if the item had been evicted.
    Miss,
    /// `SERVER_ERROR`. A multi-key get still sees a miss: clients lose step on an error among values.
    Error,
}

/// When a read that its backend has not begun to answer is asked at the key's other backend too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hedge {
    /// After a delay that follows what answers take, so that few reads are asked twice.
    Auto,
    /// Never, until the backend is down.
    Off,
    /// After this many milliseconds, at least 1.
    AfterMs(u64),
}

/// What becomes of a backend that missed acknowledged writes which cannot be named any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOverflow {
    /// It is flushed when it returns.
    Flush,
    /// It stays down until the operator has dealt with it.
    StayDown,
}

/// Which backups a key may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupPlacement {
    /// One on another host than its primary, where there is one.
    Apart,
    /// The one that the scheme names, unless it is the primary itself.
    Hash,
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq)]
pub enum ConfigError {
    /// No `-s` at all.
    NoPrimary,
    /// The same address twice in one list.
    DuplicateServer {
        /// `-s` or `-b`.
        list: &'static str,
        /// The address.
        address: String,
    },
    /// More backends than a [`BackendId`] can name.
    TooManyBackends,
    /// A number outside of its range.
    OutOfRange {
        /// Name of the limit.
        name: &'static str,
        /// What was asked for.
        value: u64,
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// The scheme cannot place keys on these servers.
    Scheme(SchemeError),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPrimary => write!(f, "no server: give at least one with -s ADDRESS"),
            Self::DuplicateServer { list, address } => {
                write!(
                    f,
                    "server \"{address}\" is given twice with {list}: name each server once, with *WEIGHT for a larger share"
                )
            }
            Self::TooManyBackends => write!(f, "too many servers: at most {BACKENDS_MAX}"),
            Self::OutOfRange {
                name,
                value,
                min,
                max,
            } => {
                write!(f, "{name} is {value}, expected {min} to {max}")
            }
            Self::Scheme(err) => write!(f, "{err}"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// More backends than anyone runs behind one proxy; keeps per-backend state small and ids in 16 bits.
pub const BACKENDS_MAX: usize = 4096;

impl Config {
    /// A configuration for these servers with everything else at its default.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if a list is empty or holds an address twice, or the scheme refuses it.
    pub fn new(
        primaries: Vec<ServerSpec>,
        backups: Vec<ServerSpec>,
        scheme: Scheme,
        scheme_options: SchemeOptions,
    ) -> Result<Self, ConfigError> {
        if primaries.is_empty() {
            return Err(ConfigError::NoPrimary);
        }
        let mut backends: Vec<Address> = Vec::new();
        let primary_ids = backend_ids("-s", &primaries, &mut backends)?;
        let backup_ids = backend_ids("-b", &backups, &mut backends)?;
        Ring::new(scheme, &scheme_options, &primaries).map_err(ConfigError::Scheme)?;
        if !backups.is_empty() {
            Ring::new(scheme, &scheme_options, &backups).map_err(ConfigError::Scheme)?;
        }
        Ok(Self {
            backends,
            primaries,
            backups,
            primary_ids,
            backup_ids,
            scheme,
            scheme_options,
            workers: 1,
            limits: Limits::default(),
            users: None,
            flush: Flush::Allowed,
            dead_read: DeadRead::Miss,
            hedge: Hedge::Auto,
            on_overflow: OnOverflow::Flush,
            backup_placement: BackupPlacement::Apart,
            advertised: None,
            process: ProcessInfo::default(),
            trace_routes: false,
            breaks: Breaks::default(),
        })
    }

    /// Whether any write has a second copy.
    #[must_use]
    pub const fn has_backups(&self) -> bool {
        !self.backup_ids.is_empty()
    }
}

fn backend_ids(
    list: &'static str,
    servers: &[ServerSpec],
    backends: &mut Vec<Address>,
) -> Result<Vec<BackendId>, ConfigError> {
    let mut ids = Vec::with_capacity(servers.len());
    for server in servers {
        let index = backends
            .iter()
            .position(|known| known == server.address())
            .unwrap_or_else(|| {
                backends.push(server.address().clone());
                backends.len() - 1
            });
        if backends.len() > BACKENDS_MAX {
            return Err(ConfigError::TooManyBackends);
        }
        let id = BackendId(u16::try_from(index).expect("BACKENDS_MAX fits in 16 bits"));
        if ids.contains(&id) {
            return Err(ConfigError::DuplicateServer {
                list,
                address: server.address().to_string(),
            });
        }
        ids.push(id);
    }
    Ok(ids)
}

/// One row of the table of limits.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Name, with its unit last.
    pub name: &'static str,
    /// Value unless the operator says otherwise.
    pub default: u64,
    /// Smallest allowed.
    pub min: u64,
    /// Largest allowed.
    pub max: u64,
    /// The flag that sets it, if any.
    pub flag: Option<&'static str>,
    /// What it bounds and why the default is what it is.
    pub reason: &'static str,
}

/// The one flag of two limits: items, then bytes.
pub const HEAL_RATE: &str = "--heal-rate";

macro_rules! limits {
    ($($name:ident = $default:literal, $min:literal ..= $max:literal, $flag:expr, $reason:literal;)+) => {
        /// Limits and timeouts in force. Field names say the unit.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            $(#[doc = $reason] pub $name: u64,)+
        }

        /// Every limit and timeout: the one list.
        pub const LIMITS: &[Limit] = &[
            $(Limit { name: stringify!($name), default: $default, min: $min, max: $max, flag: $flag, reason: $reason },)+
        ];

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl Limits {
            /// Checks every value against its range.
            ///
            /// # Errors
            ///
            /// [`ConfigError::OutOfRange`] for the first that is outside.
            pub fn check(&self) -> Result<(), ConfigError> {
                let values = [$((stringify!($name), self.$name),)+];
                for (row, (name, value)) in LIMITS.iter().zip(values) {
                    if !(row.min..=row.max).contains(&value) {
                        return Err(ConfigError::OutOfRange { name, value, min: row.min, max: row.max });
                    }
                }
                Ok(())
            }
        }
    };
}

limits! {
    clients_max = 4_096, 1..=1_000_000, Some("--max-clients"),
        "Client connections, over all workers. One more is told `ERROR Too many open connections` and closed, as memcached does.";
    connections_per_backend_max = 20, 1..=1_000, Some("--max-backend-connections"),
        "Connections to one backend, over all workers. A worker needs one, so this also bounds the number of workers.";
    request_ms = 2_000, 10..=600_000, Some("--request-ms"),
        "Longest time from a request's arrival to its answer. Then a get misses and a write is answered with SERVER_ERROR.";
    fail_ms = 500, 10..=60_000, Some("--fail-ms"),
        "A backend that owes an answer and sends no byte for this long, or is not connected to within it, is marked down. Longer than a lost packet's retransmission (about 200 ms) so that one does not count.";
    probe_delay_ms_min = 100, 1..=60_000, Some("--probe-ms-min"),
        "Pause before the first probe of a backend that is down. It doubles after each failed probe.";
    probe_delay_ms_max = 5_000, 1..=3_600_000, Some("--probe-ms-max"),
        "Longest pause between two probes of a backend that is down.";
    settle_ms = 5_000, 100..=600_000, None,
        "Milliseconds for which a backend that is back has to answer probes, where it cannot be told whether it still has old connections of ours: behind an address translation, or over a unix socket.";
    drain_ms = 5_000, 0..=3_600_000, Some("--drain-ms"),
        "On SIGTERM, longest wait for requests in flight before the process exits.";
    stats_ms = 200, 1..=10_000, None,
        "Longest wait for the backends' share of a `stats` answer. Those that have not answered are named as absent.";
    handshake_ms = 10_000, 100..=600_000, None,
        "Longest time from a client's connection to the end of its TLS handshake, PROXY header included. Then it is closed.";
    handshakes_max = 1_000, 16..=1_000_000, None,
        "TLS handshakes and PROXY headers under way per worker. Beyond it the one that has waited longest is closed: who stalls on purpose keeps nobody out.";
    request_line_len_max = 2_048, 1_024..=65_536, None,
        "A request line other than a multi-key get, in bytes. memcached gives up at 2,048 too.";
    get_line_len_max = 4_194_304, 2_048..=67_108_864, None,
        "A multi-key get line, in bytes: 10,000 keys of 250 bytes fit.";
    credentials_len_max = 1_024, 64..=65_536, None,
        "Bytes of user and password in a login, SASL or text. Nobody is known before it, so nobody may make the proxy wait for more.";
    login_failures_max = 3, 1..=1_000, None,
        "Logins that may fail on one connection. Then it is closed: whoever guesses has to connect again.";
    value_len_max = 134_217_728, 1_024..=1_073_741_824, Some("--max-value"),
        "Bytes of one value. Far above memcached's default of 1 MiB: the backends decide, this only bounds the proxy's memory.";
    requests_in_flight_max = 1_024, 16..=65_536, None,
        "Unanswered requests of one client; each key of a multi-key get counts. A client that has more is not read until some are answered.";
    requests_under_way_max = 65_536, 1_024..=16_777_216, None,
        "Unanswered requests of one worker, over all its clients. Beyond it a client that waits for an answer is not read: what cannot be asked soon waits in its socket instead of becoming too late here.";
    requests_per_turn_max = 128, 1..=65_536, None,
        "Requests of one client that are taken up before others have their turn; each key of a multi-key get counts. The rest waits for the next turn, a millisecond at most.";
    client_unread_len_pause = 1_048_576, 16_384..=1_073_741_824, None,
        "Answers, in bytes, that one client has not taken yet or, going by its last ones (by those of others if it is new), is about to get. Beyond it the client's requests are not read.";
    client_unread_len_max = 268_435_456, 16_384..=4_294_967_296, None,
        "Answers, in bytes, that one client has not taken yet. Beyond it the client is closed.";
    memory_max = 1_073_741_824, 16_777_216..=1_099_511_627_776, Some("--max-memory"),
        "Bytes of requests and answers held by the process, over all workers. A quarter is for the state of requests. Beyond it large values are refused with SERVER_ERROR, and of a client that waits for an answer nothing more is read.";
    stream_len_min = 1_048_577, 1..=1_073_741_824, None,
        "A value of at least this many bytes is forwarded to its client as it arrives. A smaller one is held until it is complete, so that a backend's death in the middle costs the client nothing.";
    gather_keys_max = 100, 1..=1_000, None,
        "Keys in one gathered get. memcached took 1.5 ms for a line of 1,000 keys: others would wait behind it.";
    gather_keys_min = 16, 1..=1_000, None,
        "Keys that leave together without waiting for the answer in flight: so many share a packet well enough.";
    gather_len_max = 8_192, 512..=16_384, None,
        "Bytes of one gathered get line.";
    gather_answer_len = 16_384, 1..=16_777_216, None,
        "Bytes of the answer in flight after which the next gathered get leaves without waiting for its end: nobody waits behind a large value.";
    gather_batches_max = 4, 1..=1_000, None,
        "Gathered gets in flight on one connection. More would only wait in the backend, and writes behind them.";
    gather_us = 1_000, 1..=1_000_000, None,
        "Microseconds after which the next gathered get leaves without waiting for the one in flight.";
    gather_hold_us = 250, 0..=1_000_000, None,
        "Microseconds for which fewer than gather_keys_min requests for a backend wait for others to go with them: while clients are being answered, and while any backend owes an answer and the worker is busy.";
    gather_others_min = 6, 0..=1_000_000, None,
        "Other clients that must be waiting for an answer, and so be about to ask for more, for requests to be held. With fewer a wait costs more than it saves.";
    remembered_keys_max = 1_048_576, 1..=1_073_741_824, Some("--remember-keys"),
        "Keys remembered per absent backend, over all workers. Beyond it the backend is flushed when it returns, or stays down (--on-overflow).";
    remembered_len_max = 67_108_864, 1_024..=1_099_511_627_776, None,
        "Bytes of the keys remembered per absent backend, over all workers.";
    purge_window = 256, 1..=65_536, None,
        "Purge deletes in flight per worker to a backend that has returned.";
    heal_items_per_s = 20_000, 1..=10_000_000, Some(HEAL_RATE),
        "Items per second that are copied to a backend that has returned. 100,000 small items take 5 s, and clients keep most of the partner's attention.";
    heal_bytes_per_s = 52_428_800, 65_536..=1_099_511_627_776, Some(HEAL_RATE),
        "Bytes per second of these copies, over all backends that are catching up. Less than half of a gigabit link.";
    heal_keys_max = 1_048_576, 1..=1_073_741_824, None,
        "Keys found by a walk that wait for their copy. Beyond it the walk is ended and resumed later: a memcached whose walk nobody reads holds up writes.";
    heal_keys_len_max = 67_108_864, 1_024..=1_099_511_627_776, None,
        "Bytes of these keys.";
    heal_window = 64, 1..=65_536, None,
        "Keys that are being copied to a backend at the same time.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_their_ranges() {
        assert_eq!(Limits::default().check(), Ok(()));
    }

    #[test]
    fn a_value_out_of_range_names_itself() {
        let limits = Limits {
            request_ms: 9,
            ..Limits::default()
        };
        let err = limits.check().unwrap_err();
        assert_eq!(err.to_string(), "request_ms is 9, expected 10 to 600000");
    }
}
