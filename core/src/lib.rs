//! The sans-IO core of magent: bytes, time and configuration in; bytes, deadlines and actions out.
//!
//! Nothing here finds anything out by itself. No socket, clock, thread, file, log or random source is
//! touched (clippy enforces it), so a simulator can try every order of events.
//!
//! # Map
//!
//! | question | module |
//! | --- | --- |
//! | What do bytes mean? | [`proto`] |
//! | Which backend has a key by the server list? | [`scheme`] |
//! | Which backend answers for a key at this moment? | [`placement`] |
//! | What happens to a request? | [`engine`] |
//! | Is a backend usable, when does it return? | [`keeper`] |
//! | Who may come in, and do what? | [`auth`] |
//! | What may be configured, within which limits? | [`config`] |
//! | What is counted? | [`stats`] |
//! | What does the simulator switch off? | [`breaks`] |
#![deny(unsafe_code)]

pub mod auth;
pub mod breaks;
pub mod cas;
pub mod config;
pub mod engine;
pub mod heal;
pub mod keeper;
pub mod known;
pub mod placement;
pub mod proto;
pub mod scheme;
pub mod server;
pub mod stats;

use std::fmt;

/// A moment of the monotonic clock, in nanoseconds since a start that the caller chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// The moment `ms` milliseconds later.
    #[must_use]
    pub const fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// The moment `ns` nanoseconds later.
    #[must_use]
    pub const fn after_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// Whole milliseconds that have passed since `earlier`; 0 if it is in the future.
    #[must_use]
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000
    }
}

/// A backend: its position in [`config::Config::backends`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub u16);

impl BackendId {
    /// The position as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A worker: its position, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u16);

impl WorkerId {
    /// The position as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
