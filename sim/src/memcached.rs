//! A model memcached: a store, its connections, and what can go wrong with it.
//!
//! Not here: what commands answer (`magent-node`), when faults happen (`world`).

use std::collections::BTreeMap;

use magent_core::Time;
use magent_node::{Keep, Session, Store, StoreConfig};

use crate::network::LinkId;

/// Whether the process executes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Process {
    Running,
    /// Stopped (`SIGSTOP`): the kernel takes connections and bytes, nobody reads them.
    Paused,
    /// Gone: its port refuses.
    Dead,
}

/// One memcached and its host.
#[derive(Debug)]
pub(crate) struct Memcached {
    pub store: Store,
    pub process: Process,
    /// Whether packets reach it. If not, nothing is refused: everything is silent.
    pub reachable: bool,
    /// Whether it refuses connections although it runs.
    pub refuses: bool,
    /// Whether it answers probes.
    pub answers_probes: bool,
    /// Added to the time that each piece of work takes.
    pub slow_us: u64,
    pub sessions: BTreeMap<LinkId, Session>,
    pid: u32,
}

/// The largest item. Smaller than memcached's so that a refusal is cheap to provoke.
pub(crate) const ITEM_LEN_MAX: usize = 48 * 1024;

impl Memcached {
    pub(crate) fn new() -> Self {
        let store = Store::new(StoreConfig {
            item_len_max: ITEM_LEN_MAX,
            ..StoreConfig::default()
        });
        Self {
            store,
            process: Process::Running,
            reachable: true,
            refuses: false,
            answers_probes: true,
            slow_us: 0,
            sessions: BTreeMap::new(),
            pid: 1,
        }
    }

    /// The process begins anew.
    pub(crate) fn restart(&mut self, now: Time, keep: Keep) {
        self.pid += 1;
        self.store.restart(magent_node::Time(now.0), keep, self.pid);
        self.sessions.clear();
        self.process = Process::Running;
    }

    /// Whether nothing is wrong with it.
    pub(crate) const fn is_well(&self) -> bool {
        matches!(self.process, Process::Running)
            && self.reachable
            && !self.refuses
            && self.answers_probes
            && self.slow_us == 0
    }
}
