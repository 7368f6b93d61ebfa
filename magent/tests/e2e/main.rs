//! End to end: the magent binary between real memcacheds and real clients.
//!
//! # Rules
//!
//! - Every test starts its own backends and proxy, so tests run in parallel and in any order.
//! - Nothing waits for time to pass, only for a condition, with a deadline far above what a busy machine
//!   needs. Where the length of a fault is the subject, the test keeps working meanwhile.
//! - What memcached answers is asked of a memcached in the same test, not remembered.
//! - `Magent` checks on drop that the proxy is still alive and that its log holds no panic.
//!
//! `docs/testing.md` says how to run parts. Not here: parsers and failover tables (`core`).
#![allow(
    clippy::unwrap_used,
    reason = "a test's way to say that a step failed; clippy's allow-unwrap-in-tests misses helpers"
)]

mod addresses;
mod article;
mod auth;
mod backups;
mod bad_input;
mod binary;
mod both_dead;
mod clients;
mod differential;
mod discovery;
mod gathering;
mod harness;
mod healing;
mod known_failures;
mod lifecycle;
mod listeners;
mod no_backups;
mod overload;
mod php_sessions;
mod pipelines;
mod returning;
mod stats;
mod tls;
mod tls_backends;
