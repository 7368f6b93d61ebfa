//! What can be wrong with a scheme, its options or the servers given to it. All of these are the
//! operator's to mend; none happens once a [`Ring`](super::Ring) exists.

use super::{HashName, SCHEMES, SchemeInfo};
use std::fmt;

/// Why there is no such scheme, or no ring of these servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemeError {
    /// No scheme of that name.
    Unknown {
        /// As written.
        name: Box<str>,
        /// The valid name that is nearest, if one is near.
        nearest: Option<Box<str>>,
    },
    /// The scheme exists, with one of several hash functions behind a slash.
    HashMissing {
        /// What precedes the slash.
        scheme: &'static str,
    },
    /// The scheme has no hash function of that name.
    HashUnknown {
        /// What precedes the slash.
        scheme: &'static str,
        /// What follows it.
        hash: Box<str>,
    },
    /// Not two characters.
    HashTag {
        /// As written.
        text: Box<str>,
    },
    /// Neither `stop:STRING` nor `tags:XY`.
    HashFilter {
        /// As written.
        text: Box<str>,
    },
    /// No session handler of PHP, or a prefix that it refuses.
    LockRules {
        /// As written.
        text: Box<str>,
    },
    /// A hash tag and a filter at once.
    TagAndFilter,
    /// A seed for a scheme that does not hash keys with xxh3.
    SeedUnused {
        /// The scheme.
        scheme: Box<str>,
    },
    /// An empty list.
    NoServers,
    /// More than [`SERVERS_MAX`](super::SERVERS_MAX).
    TooManyServers {
        /// How many were given.
        count: usize,
    },
    /// More than [`POINTS_MAX`](super::POINTS_MAX).
    TooManyPoints {
        /// The scheme.
        scheme: Box<str>,
        /// How many the servers' weights ask for.
        count: u64,
    },
    /// A fraction where the scheme counts in whole numbers.
    WeightFraction {
        /// The scheme.
        scheme: Box<str>,
        /// The server.
        server: Box<str>,
    },
    /// A weight above 1 where the scheme takes a part of 1.
    WeightAboveOne {
        /// The scheme.
        scheme: Box<str>,
        /// The server.
        server: Box<str>,
    },
    /// Two servers that the ring could not tell apart.
    Duplicate {
        /// Their common name or address.
        label: Box<str>,
    },
}

impl std::error::Error for SchemeError {}

impl fmt::Display for SchemeError {
    #[expect(clippy::too_many_lines, reason = "a flat table of messages")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown {
                name,
                nearest: Some(nearest),
            } => {
                write!(
                    f,
                    "scheme {name:?}: no such scheme; did you mean {nearest:?}?"
                )
            }
            Self::Unknown {
                name,
                nearest: None,
            } => {
                write!(f, "scheme {name:?}: no such scheme; must be one of ")?;
                list(f, SCHEMES.iter().map(SchemeInfo::pattern))
            }
            Self::HashMissing { scheme } => {
                write!(f, "scheme {scheme:?}: needs a hash function: ")?;
                list_hashes(f, scheme)
            }
            Self::HashUnknown { scheme, hash } => {
                write!(
                    f,
                    "scheme \"{scheme}/{hash}\": hash function must be one of "
                )?;
                list_hashes(f, scheme)
            }
            Self::HashTag { text } => {
                write!(f, "hash tag {text:?}: must be two characters such as {{}}")
            }
            Self::HashFilter { text } => {
                write!(f, "hash filter {text:?}: must be stop:STRING or tags:XY")
            }
            Self::LockRules { text } => {
                write!(
                    f,
                    "session handler {text:?}: must be php, memcache, memcached or memcached:PREFIX"
                )
            }
            Self::TagAndFilter => f.write_str("hash tag and hash filter: must not both be given"),
            Self::SeedUnused { scheme } => write!(
                f,
                "scheme {scheme:?}: takes no hash seed; memcached-jump and .../xxh3 do"
            ),
            Self::NoServers => f.write_str("servers: at least one is needed"),
            Self::TooManyServers { count } => {
                write!(
                    f,
                    "servers: {count} are too many, at most {}",
                    super::SERVERS_MAX
                )
            }
            Self::TooManyPoints { scheme, count } => write!(
                f,
                "scheme {scheme:?}: servers and weights make {count} points, at most {}; \
                 divide the weights by a common factor",
                super::POINTS_MAX
            ),
            Self::WeightFraction { scheme, server } => {
                write!(
                    f,
                    "server {server:?}: weight must be a whole number for scheme {scheme:?}"
                )
            }
            Self::WeightAboveOne { scheme, server } => {
                write!(
                    f,
                    "server {server:?}: weight must be at most 1 for scheme {scheme:?}"
                )
            }
            Self::Duplicate { label } => {
                write!(
                    f,
                    "server {label:?}: given twice; each needs its own name or address"
                )
            }
        }
    }
}

fn list_hashes(f: &mut fmt::Formatter<'_>, scheme: &str) -> fmt::Result {
    let info = SCHEMES.iter().find(|info| info.name == scheme);
    list(
        f,
        info.into_iter()
            .flat_map(SchemeInfo::hashes)
            .map(HashName::name),
    )
}

fn list(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = impl fmt::Display>) -> fmt::Result {
    for (index, item) in items.enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        write!(f, "{separator}{item}")?;
    }
    Ok(())
}
