//! Healing: a backend that was away gets back all it missed, and nobody reads an old value meanwhile.
//!
//! Every test has items that nobody touches ([`store_dataset`]) and clients that never pause ([`Load`]). At
//! its end no client has seen an error, a loss, an old value or a deleted one; and each key's two memcacheds,
//! asked directly, hold the same value and flags, with the same expiry (`EXPIRY_OFF_MAX`): what was acknowledged.
//!
//! Each file is one way to be away: `emptied`, `kept` (it comes back with what it held), `hung`, `cut_off`;
//! `two_proxies` and `restarted_proxy` are about who watches; `catch_up` is about the copying itself, `kinds` about
//! what is copied, `events` about who is told.
//!
//! Not here: what a single client sees command by command (`docs/failover.md` and its test).

mod catch_up;
mod changes;
mod cut_off;
mod emptied;
mod events;
mod hung;
mod kept;
mod kinds;
mod placement;
mod restarted_proxy;
mod soak;
mod two_proxies;

use super::harness::{Cluster, Items, Load, Magent, Report, store_dataset};

/// Clients in the background; few, because the machine has other work.
const CLIENTS: u64 = 4;
/// Items that nobody touches.
const ITEMS: u32 = 2_000;
/// Answers to wait for while something is away: every key of the load is read and written again.
const ANSWERS: u64 = 1_500;

/// Three primaries and two backups with items and load.
struct Scene {
    cluster: Cluster,
    load: Load,
    items: Items,
}

impl Scene {
    #[track_caller]
    fn start(extra: &[&str]) -> Self {
        Self::with(Cluster::start(3, 2, extra))
    }

    #[track_caller]
    fn with(cluster: Cluster) -> Self {
        let items = store_dataset(&cluster.magent.endpoint, ITEMS);
        let load = Load::start(&cluster.magent.endpoint, CLIENTS);
        Self {
            cluster,
            load,
            items,
        }
    }

    /// Kills a backend, and lets the clients go on without it.
    #[track_caller]
    fn kill(&mut self, pick: fn(&mut Cluster) -> &mut super::harness::Memcached) {
        let backend = pick(&mut self.cluster);
        backend.kill9();
        let endpoint = backend.endpoint.clone();
        self.cluster.magent.wait_until_state(&endpoint, &["down"]);
        self.load.wait_for_answers(ANSWERS);
    }

    /// Waits until all is well, then compares everything.
    #[track_caller]
    fn finish(mut self) -> Report {
        self.cluster.magent.wait_until_healed();
        self.load.wait_for_answers(ANSWERS);
        let mut report = self.load.finish();
        report.assert_perfect();
        self.items.append(&mut report.expected);
        self.cluster.magent.wait_until_healed();
        self.cluster.assert_in_step(&self.items);
        report
    }
}

/// Lines of the log that say this.
fn log_lines(magent: &Magent, text: &str) -> Vec<String> {
    let log = magent.log();
    let lines = log.lines().filter(|line| line.contains(text));
    lines.map(ToOwned::to_owned).collect()
}
