//! A small memcached in memory, sans-IO: bytes and time in, bytes out.
//!
//! **This is not a cache to deploy.** Real deployments use real memcached. This one exists for two
//! purposes: the five backends of `magent demo`, where nothing has to be installed, and the model
//! memcached of the simulator and the engine's tests, where a server must be stopped, restarted,
//! looked into and replayed from a seed.
//!
//! It answers like memcached 1.6.18, byte for byte, on the commands it knows; the differential
//! test asks a real one. One [`Store`] is one server process, one [`Session`] is one connection:
//!
//! ```
//! use magent_node::{Next, Session, Store, StoreConfig, Time};
//!
//! let mut store = Store::new(StoreConfig::default());
//! let mut session = Session::new();
//! let mut out = Vec::new();
//! let next = session.receive(&mut store, Time(0), b"set a 0 0 1\r\nx\r\nget a\r\n", &mut out);
//! assert_eq!(next, Next::Continue);
//! assert_eq!(out, b"STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
//! ```
//!
//! ```text
//! session    lines and values out of a byte stream, in any chunking
//! classic    get, set, incr, flush_all, ...          meta   mg, ms, md, ma, me
//! crawl      lru_crawler, metadump, cachedump        stats  counters and the stats commands
//! store      lookup, eviction, CAS, restart          item   one item, its size and its end
//! token      words, numbers, base64
//! ```
//!
//! # Invariants
//!
//! - No input panics, and what a connection can make us hold is bounded (`session`).
//! - The same calls give the same bytes: no clock, no randomness, no random iteration order.
//! - The bytes do not depend on how the input is cut, except where memcached's own rule does:
//!   lines that are too long (`session`).
//!
//! # Where it differs from memcached 1.6.18, on purpose
//!
//! - One LRU in plain order instead of segments, and a limit on bytes instead of slab pages; slab
//!   classes exist as numbers in reports only.
//! - memcached throws away the unsent answers of earlier pipelined commands when a `get` has an
//!   overlong key, and refuses or drops commands pipelined around `lru_crawler metadump`. Both
//!   depend on packet boundaries. Here every command gets its answer.
//! - Unknown here: the binary protocol (the connection is closed), UDP, TLS, SASL, `watch`,
//!   `extstore`, `lru`, `slabs`, `stats detail`, `stats sizes_enable`.
#![forbid(unsafe_code)]

mod classic;
mod crawl;
mod item;
mod meta;
mod session;
mod stats;
mod store;
mod token;

pub use crate::session::{ConnectionAddrs, Next, Session};
pub use crate::store::{Crawler, ItemView, Keep, Store, StoreConfig};

/// Monotonic nanoseconds since the caller's start. Every call carries one; the store never goes
/// back to an earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The instant `seconds` after the start.
    #[must_use]
    pub const fn from_s(seconds: u64) -> Self {
        Self(seconds.saturating_mul(NANOS_PER_S))
    }

    /// Whole seconds since the start.
    #[must_use]
    pub const fn as_s(self) -> u64 {
        self.0 / NANOS_PER_S
    }
}

const NANOS_PER_S: u64 = 1_000_000_000;
