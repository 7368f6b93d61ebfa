//! A model memcached: a store, its connections, and what can go wrong with it.
//!
//! Not here: what commands answer (`magent-node`), when faults happen (`world`).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use magent_core::Time;
use magent_node::{ConnectionAddrs, Crawler, Keep, Next, Session, Store, StoreConfig};

use crate::network::LinkId;
use crate::options::Options;

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
    /// Whether packets of this proxy reach it.
    pub reachable_from: Vec<bool>,
    /// Whether it refuses connections although it runs.
    pub refuses: bool,
    /// Whether it answers probes.
    pub answers_probes: bool,
    /// Added to the time that each piece of work takes.
    pub slow_us: u64,
    pub sessions: BTreeMap<LinkId, Session>,
    pid: u32,
}

/// Unix time at the world's beginning.
pub(crate) const UNIX_START_S: u64 = 1_700_000_000;

/// The largest item. Smaller than memcached's so that a refusal is cheap to provoke.
pub(crate) const ITEM_LEN_MAX: usize = 48 * 1024;

impl Memcached {
    pub(crate) fn new(index: usize, options: &Options) -> Self {
        let host = u8::try_from(index).expect("few backends");
        let store = Store::new(StoreConfig {
            item_len_max: ITEM_LEN_MAX,
            listen: SocketAddr::from(([10, 0, 0, host], 11_211)),
            unix_start_s: UNIX_START_S,
            crawler: options.crawler,
            meta_cas: options.explicit_cas,
            ..StoreConfig::default()
        });
        Self {
            store,
            process: Process::Running,
            reachable: true,
            reachable_from: vec![true; options.proxies],
            refuses: false,
            answers_probes: true,
            slow_us: 0,
            sessions: BTreeMap::new(),
            pid: 1,
        }
    }

    /// A connection is accepted.
    pub(crate) fn open(&mut self, now: Time, link: LinkId, peer: SocketAddr) {
        let local = SocketAddr::from(([10, 0, 0, 1], 11_211));
        let addrs = ConnectionAddrs { peer, local };
        let session = Session::open(&mut self.store, magent_node::Time(now.0), addrs);
        self.sessions.insert(link, session);
    }

    /// Whether packets of this proxy reach it.
    pub(crate) fn is_reached_by(&self, slot: usize) -> bool {
        self.reachable && self.reachable_from[slot]
    }

    /// The process begins anew.
    pub(crate) fn restart(&mut self, now: Time, keep: Keep) {
        self.pid += 1;
        self.store.restart(magent_node::Time(now.0), keep, self.pid);
        self.sessions.clear();
        self.process = Process::Running;
    }

    pub(crate) fn set_crawler(&mut self, crawler: Crawler) {
        self.store.set_crawler(crawler);
    }

    /// Somebody else flushes it.
    pub(crate) fn flush_all(&mut self, now: Time) {
        self.execute(now, b"flush_all\r\n", b"OK\r\n");
    }

    /// Gives it an item.
    pub(crate) fn plant(&mut self, now: Time, key: &[u8], client_flags: u32, value: &[u8]) {
        let key = STANDARD.encode(key);
        let mut line = format!("ms {key} {} b F{client_flags}\r\n", value.len()).into_bytes();
        line.extend_from_slice(value);
        line.extend_from_slice(b"\r\n");
        let mut out = Vec::new();
        let now = magent_node::Time(now.0);
        let next = Session::new().receive(&mut self.store, now, &line, &mut out);
        assert!(next == Next::Continue, "a plain set");
    }

    fn execute(&mut self, now: Time, line: &[u8], expected: &[u8]) {
        let mut out = Vec::new();
        let now = magent_node::Time(now.0);
        let next = Session::new().receive(&mut self.store, now, line, &mut out);
        assert!(next == Next::Continue && out == expected, "a plain command");
    }

    /// Whether nothing is wrong with it.
    pub(crate) fn is_well(&self) -> bool {
        matches!(self.process, Process::Running)
            && self.reachable
            && self.reachable_from.iter().all(|&reachable| reachable)
            && !self.refuses
            && self.answers_probes
            && self.slow_us == 0
    }
}
