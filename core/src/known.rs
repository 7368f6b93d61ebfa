//! The mark on a backend that tells other proxies of the same pool where its items come from.
//!
//! A memcached that another process took the place of is emptied before it is used, unless it is empty already: what
//! it holds may be anybody's. With several proxies the one that returns to it last would find what the first one has
//! healed, and empty what that reads. So whoever has seen it empty, or has emptied it, leaves an item there that names
//! the process: what it holds since then was written through proxies of this pool.
//!
//! # Invariants
//!
//! - The mark holds for one process only. Items that outlive it (memcached `-e`) bring a mark of another.
//! - It holds for one pool only: its key is a hash of the lists of servers and the scheme.
//! - Its absence is no proof: it may have been evicted or flushed. Then the backend is emptied, as without it.
//!
//! Not here: who sets it (`heal/purge`), who reads it (`magent/src/probe.rs`), what follows (`keeper/probes`).

use xxhash_rust::xxh3::xxh3_64;

use crate::config::Config;
use crate::keeper::Identity;
use crate::proto::encode_decimal;

/// A process of memcached, as far as all proxies see it alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub pid: u64,
    /// When it started, in Unix seconds by its own clock.
    pub started_unix_s: i64,
}

impl Process {
    /// The process that a probe has found.
    #[must_use]
    pub const fn of(identity: &Identity) -> Self {
        Self {
            pid: identity.pid,
            started_unix_s: identity.started_unix_s,
        }
    }

    /// Whether both are one. Its start is the difference of two numbers of whole seconds.
    #[must_use]
    pub const fn is(&self, other: &Self) -> bool {
        self.pid == other.pid && self.started_unix_s.abs_diff(other.started_unix_s) <= 1
    }

    /// Reads the value of a mark: both numbers in decimal.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (pid, started) = std::str::from_utf8(value).ok()?.split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            started_unix_s: started.parse().ok()?,
        })
    }

    /// The value of its mark.
    #[must_use]
    pub fn value(&self) -> Vec<u8> {
        format!("{} {}", self.pid, self.started_unix_s).into_bytes()
    }
}

/// What the key of every mark begins with. Such items are nobody's: they are not copied.
pub const PREFIX: &[u8] = b"magent.known.";

/// The key of the marks of this pool: [`PREFIX`] and the XXH3-64, in decimal, of what decides where its keys are.
///
/// Proxies whose lists are written differently take each other for strangers, which is safe.
#[must_use]
pub fn key(config: &Config) -> Vec<u8> {
    let Config {
        primaries,
        backups,
        scheme,
        scheme_options,
        backup_placement,
        ..
    } = config;
    let pool =
        format!("{primaries:?} {backups:?} {scheme} {scheme_options:?} {backup_placement:?}");
    let mut key = PREFIX.to_vec();
    encode_decimal(xxh3_64(pool.as_bytes()), &mut key);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(primary: &str, backup: &str) -> Config {
        let server = |text: &str| vec![text.parse().unwrap()];
        Config::new(
            server(primary),
            server(backup),
            "magent".parse().unwrap(),
            Default::default(),
        )
        .unwrap()
    }

    #[test]
    fn a_process_reads_back() {
        let process = Process {
            pid: 17,
            started_unix_s: 1_700_000_000,
        };
        assert_eq!(process.value(), b"17 1700000000");
        assert_eq!(Process::parse(&process.value()), Some(process));
        for bad in [&b""[..], b"17", b"17 x", b"-1 1", b"17 1 2", b"\xff 1"] {
            assert_eq!(Process::parse(bad), None);
        }
        let at = |pid, started_unix_s| Process {
            pid,
            started_unix_s,
        };
        assert!(process.is(&at(17, 1_700_000_001)) && process.is(&at(17, 1_699_999_999)));
        assert!(!process.is(&at(17, 1_700_000_002)) && !process.is(&at(18, 1_700_000_000)));
    }

    #[test]
    fn a_mark_is_of_one_pool() {
        let (a, b) = ("10.0.0.1:1", "10.0.0.2:1");
        assert_eq!(key(&pool(a, b)), key(&pool(a, b)));
        assert_ne!(key(&pool(a, b)), key(&pool(b, a)));
        let mut other = pool(a, b);
        other.scheme = "magent06-ketama".parse().unwrap();
        assert_ne!(key(&pool(a, b)), key(&other));
        assert!(key(&other).starts_with(PREFIX));
        assert!(key(&other).len() < 40, "it is asked for in every probe");
    }
}
