//! What every end-to-end test is made of: backends, the proxy, clients, load, a relay to cut.
//!
//! # Invariants
//!
//! - Whatever is started is ended by its own pid when its owner is dropped, and by the kernel if the
//!   test process dies first (`process`).
//! - No two servers of any test share an address (`endpoint`).
//! - Nothing blocks for ever: reads and waits end at [`DEADLINE`] with a message that says what was
//!   waited for.

mod client;
mod cluster;
mod dataset;
mod endpoint;
mod items;
mod load;
mod magent;
mod memcached;
mod network;
mod process;
mod relay;
mod tls;

use std::time::{Duration, Instant};

pub(crate) use client::{Client, shown, transcript};
pub(crate) use cluster::{Cluster, QUICK_PROBES, endpoints, index_of, key_at};
pub(crate) use dataset::store_dataset;
pub(crate) use endpoint::{
    Endpoint, free_endpoint, free_endpoint_localhost, free_endpoint_on, free_endpoint_v6, loopback,
};
pub(crate) use items::{
    EXPIRY_OFF_MAX, Item, Items, Moment, items_through, missing, token, unix_now,
};
pub(crate) use load::{Load, Report};
pub(crate) use magent::{Magent, magent_path, run_magent};
pub(crate) use memcached::Memcached;
pub(crate) use network::Network;
pub(crate) use process::{Process, program, run_script};
pub(crate) use relay::{Path, Relay};
pub(crate) use tls::{Authority, TlsClient};

/// Longest wait for anything. Far above what is expected, so that only a hang meets it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `condition` yields a value.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started_at = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            started_at.elapsed() < DEADLINE,
            "still not after {DEADLINE:?}: {what}"
        );
        // The only pause in these tests: what is waited for needs the core that polling would take.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Repeats `work` until `span` has passed, at least once: for faults whose length is the subject.
pub(crate) fn keep_doing(span: Duration, mut work: impl FnMut()) {
    let started_at = Instant::now();
    loop {
        work();
        if started_at.elapsed() >= span {
            return;
        }
    }
}

/// A number that the environment may set, such as a seed.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}
