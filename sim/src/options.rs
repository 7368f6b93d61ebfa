//! What a seed draws before anything happens.
//!
//! A seed that finds something is understood by its options first, so they are printed before the run.

use std::fmt;

use magent_core::breaks::Breaks;
use magent_core::config::{Config, DeadRead, Limits};
use magent_core::scheme::{Scheme, SchemeOptions};
use magent_core::server::ServerSpec;
use magent_node::Crawler;

use crate::memcached::UNIX_START_S;
use crate::rng::Rng;
use crate::shapes::Shape;

/// Which faults happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Faults {
    /// None: every answer must be the one that a single memcached gives.
    None,
    /// One backend has all of them: with backups nothing may be lost.
    OneVictim,
    /// Any backend at any time: items may be lost, but never be old.
    Wild,
}

/// How bytes arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunks {
    /// A read takes all that is there.
    Whole,
    /// A read takes any part.
    Parts,
    /// A read takes one byte, or a small part if much is there.
    Bytes,
}

/// Everything that distinguishes one run from another besides the order of its events.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not exclude each other"
)]
pub struct Options {
    /// The seed that all of it follows from.
    pub seed: u64,
    /// Number of proxies.
    pub proxies: usize,
    /// Workers of each proxy.
    pub workers: usize,
    /// Number of primaries.
    pub primaries: usize,
    /// Number of backups.
    pub backups: usize,
    /// Number of clients.
    pub clients: usize,
    /// Requests of each client.
    pub requests: usize,
    /// Most requests that a client has under way.
    pub depth_max: usize,
    /// Number of keys, or of each client's keys if they are `private`.
    pub keys: usize,
    /// Whether each client has keys of its own. Then its answers are compared byte for byte with those
    /// of a single memcached.
    pub private: bool,
    /// Which faults happen.
    pub faults: Faults,
    /// What comes together.
    pub shape: Shape,
    /// Whether the faults are many and small: single connections are reset.
    pub flapping: bool,
    /// Number of faults.
    pub fault_count: usize,
    /// Time in which clients ask and faults happen, in milliseconds.
    pub busy_ms: u64,
    /// Whether backends evict.
    pub evicting: bool,
    /// Whether backends see other addresses of the proxies than these do themselves.
    pub nat: bool,
    /// Whether every backend says that its process id is 1.
    pub containers: bool,
    /// How long a backend must have answered probes where nobody can tell whether it has settled.
    pub settle_ms: u64,
    /// Whether proxies are killed.
    pub kills: bool,
    /// Whether backends are cut off from one proxy only, if there are several.
    pub cut_from: bool,
    /// Whether somebody else flushes backends.
    pub flushed_by_others: bool,
    /// Whether backends know the meta flag `E`.
    pub explicit_cas: bool,
    /// What backends answer to a walk.
    pub crawler: Crawler,
    /// How bytes arrive.
    pub chunks: Chunks,
    /// Latency of the network, in microseconds.
    pub latency_us_max: u64,
    /// How long a backend takes for a piece of work at most, in microseconds.
    pub serve_us_max: u64,
    /// How long a message between a worker and the keeper takes at most, in microseconds. Those to the
    /// last worker are slow more often.
    pub lag_us_max: u64,
    /// Requests in a thousand that are `flush_all`.
    pub flush_per_mille: u64,
    /// Requests in a hundred with a large value, among those that store.
    pub large_percent: u64,
    /// Requests in a hundred that want no answer, among those that can say so.
    pub noreply_percent: u64,
    /// Requests in a hundred that are in the meta protocol.
    pub meta_percent: u64,
    /// Whether there are only numbers, which are there from the beginning and only counted up. Then no two
    /// counts may be answered alike, whatever the workers' order.
    pub counting: bool,
    /// Whether clients mostly append and count.
    pub appending: bool,
    /// Whether clients only set and read.
    pub storing: bool,
    /// Whether clients mostly delete and set.
    pub deleting: bool,
    /// Whether clients mostly compare and store.
    pub comparing: bool,
    /// Whether clients mostly add and delete, as those do that use memcached for locks.
    pub locking: bool,
    /// Requests in a hundred that read.
    pub read_percent: u64,
    /// Requests in a thousand behind which a client disconnects.
    pub disconnect_per_mille: u64,
    /// Whether workers stand still now and then.
    pub stalls: bool,
    /// Whether some clients read slowly.
    pub slow_readers: bool,
    /// Limits and timeouts of the proxies.
    pub limits: Limits,
    /// What a read is told when all backends of its key are down.
    pub dead_read: DeadRead,
    /// How keys are placed.
    pub scheme: &'static str,
    /// Protections of the core that are switched off.
    pub breaks: Breaks,
}

impl Options {
    /// What `seed` draws.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a flat list: one draw per option")]
    pub fn draw(seed: u64, lite: bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x6f70_7469_6f6e_7321);
        let faults = rng.pick(&[
            Faults::None,
            Faults::OneVictim,
            Faults::OneVictim,
            Faults::OneVictim,
            Faults::Wild,
            Faults::Wild,
        ]);
        let private = faults == Faults::None && rng.chance(50);
        let flapping = faults != Faults::None && rng.chance(30);
        let evicting = faults != Faults::None && rng.chance(20);
        let busy_ms = if lite {
            300
        } else {
            rng.pick(&[100, 200, 400, 1_000])
        };
        let latency_us_max = rng.pick(&[50, 300, 2_000, 5_000]);
        let chunks = rng.pick(&[
            Chunks::Whole,
            Chunks::Whole,
            Chunks::Parts,
            Chunks::Parts,
            Chunks::Bytes,
        ]);
        let serve_us_max = match chunks {
            Chunks::Whole => rng.pick(&[20, 20, 1_000]),
            Chunks::Parts | Chunks::Bytes => 20,
        };
        let lag_us_max = rng.pick(&[50, 5_000, 20_000, 50_000]);
        let mut limits = draw_limits(&mut rng);
        // A healthy network must not look like a failure: the longest upload takes some 30 round trips.
        limits.fail_ms = limits
            .fail_ms
            .max((latency_us_max + serve_us_max) * 60 / 1_000)
            // A new connection waits for two messages and a probe.
            .max(lag_us_max * 3 / 1_000);
        limits.request_ms = limits.fail_ms * rng.between(5, 10);
        let requests = if lite { 40 } else { rng.len_between(30, 300) };
        let explicit_cas = rng.chance(30);
        let drawn = Self {
            seed,
            proxies: if private {
                1
            } else {
                rng.pick(&[1, 1, 1, 1, 1, 1, 1, 2, 2, 3])
            },
            workers: rng.pick(&[1, 2, 2, 3, 4]),
            primaries: rng.pick(&[1, 1, 2, 3]),
            backups: rng.pick(&[0, 1, 1, 1, 2]),
            clients: rng.len_between(1, 5),
            requests,
            depth_max: rng.pick(&[1, 2, 4, 8, 30]),
            keys: rng.pick(&[1, 2, 3, 5, 8]),
            private,
            faults,
            shape: Shape::Plain,
            flapping,
            fault_count: if flapping {
                rng.len_between(10, 50)
            } else if faults == Faults::None {
                0
            } else {
                rng.len_between(1, 8)
            },
            busy_ms,
            evicting,
            nat: rng.chance(4),
            containers: rng.chance(30),
            settle_ms: limits.fail_ms * 3,
            kills: faults != Faults::None && rng.chance(20),
            cut_from: rng.chance(40),
            flushed_by_others: faults != Faults::None && rng.chance(5),
            explicit_cas,
            crawler: if rng.chance(4) {
                rng.pick(&[Crawler::DumpForbidden, Crawler::Disabled])
            } else {
                Crawler::Enabled
            },
            chunks,
            serve_us_max,
            latency_us_max,
            lag_us_max,
            flush_per_mille: if private { 0 } else { rng.pick(&[0, 0, 0, 10]) },
            // As a meta command, a store on a condition that is refused for its size takes the old item with it.
            // The core avoids that for values that a real memcached refuses; here smaller ones are.
            large_percent: if private && explicit_cas {
                0
            } else {
                rng.pick(&[0, 0, 2, 10])
            },
            noreply_percent: rng.pick(&[0, 0, 5, 20]),
            meta_percent: rng.pick(&[0, 20, 50, 90]),
            counting: false,
            appending: rng.chance(10),
            storing: false,
            deleting: false,
            comparing: false,
            locking: rng.chance(15),
            read_percent: rng.pick(&[20, 50, 50, 80]),
            disconnect_per_mille: rng.pick(&[0, 0, 10, 40]),
            stalls: seed % 8 == 7,
            slow_readers: rng.chance(20),
            limits,
            dead_read: rng.pick(&[DeadRead::Miss, DeadRead::Miss, DeadRead::Error]),
            scheme: rng.pick(&["magent", "memcached-jump", "mcrouter-ch3"]),
            breaks: Breaks::default(),
        };
        drawn.shaped(&mut rng)
    }

    /// Whether a number that was seen on one backend is told from the same one of another.
    pub(crate) const fn has_marks(&self) -> bool {
        self.backups > 0 && self.proxies == 1 && !self.kills
    }

    /// For a scenario: one worker, two primaries, one backup, a fast network, nothing by chance but
    /// latencies.
    #[must_use]
    pub fn quiet() -> Self {
        Self {
            shape: Shape::Plain,
            proxies: 1,
            workers: 1,
            primaries: 1,
            backups: 1,
            clients: 0,
            requests: 0,
            faults: Faults::None,
            fault_count: 0,
            evicting: false,
            nat: false,
            settle_ms: 300,
            kills: false,
            explicit_cas: false,
            crawler: Crawler::Enabled,
            private: false,
            chunks: Chunks::Whole,
            latency_us_max: 50,
            serve_us_max: 20,
            stalls: false,
            slow_readers: false,
            dead_read: DeadRead::Miss,
            scheme: "magent",
            limits: Limits {
                fail_ms: 100,
                request_ms: 1_000,
                probe_delay_ms_min: 10,
                probe_delay_ms_max: 50,
                ..Limits::default()
            },
            ..Self::draw(0, true)
        }
    }

    /// The proxies' configuration.
    ///
    /// # Panics
    ///
    /// If the core refuses it, which is a mistake of this module.
    #[must_use]
    pub fn config(&self) -> Config {
        let servers = |net: usize, count: usize| -> Vec<ServerSpec> {
            (1..=count)
                .map(|host| {
                    format!("10.0.{net}.{host}:11211")
                        .parse()
                        .expect("a plain address")
                })
                .collect()
        };
        let scheme: Scheme = self
            .scheme
            .parse()
            .expect("the scheme is in the core's table");
        let mut config = Config::new(
            servers(1, self.primaries),
            servers(2, self.backups),
            scheme,
            SchemeOptions::default(),
        )
        .expect("distinct addresses and a known scheme");
        config.workers = u16::try_from(self.workers).expect("at most four workers");
        config.limits = self.limits.clone();
        config.dead_read = self.dead_read;
        config.breaks = self.breaks;
        config.process.unix_start_s = UNIX_START_S;
        config
    }

    /// Number of backends.
    #[must_use]
    pub const fn backends(&self) -> usize {
        self.primaries + self.backups
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed={} proxies={}{} workers={} primaries={} backups={} scheme={} clients={} requests={} depth={} \
             keys={}{} faults={:?}x{}{} evicting={} flushed_by_others={} nat={} containers={} settle_ms={} crawler={:?} explicit_cas={} busy_ms={} chunks={:?} latency_us={} serve_us={} lag_us={} meta={}% \
             reads={}% locking={} appending={} comparing={} storing={} deleting={} counting={} noreply={}% large={}% flush={}‰ disconnect={}‰ stalls={} slow_readers={} dead_read={:?} \
             fail_ms={} request_ms={} probe_ms={}..{} in_flight={} stream={} remember={} purge_window={} \
             gather={}",
            self.seed,
            self.proxies,
            match (self.kills, self.cut_from && self.proxies > 1) {
                (true, true) => " killed, cut off",
                (true, false) => " killed",
                (false, true) => " cut off",
                (false, false) => "",
            },
            self.workers,
            self.primaries,
            self.backups,
            self.scheme,
            self.clients,
            self.requests,
            self.depth_max,
            self.keys,
            if self.private { " private" } else { "" },
            self.faults,
            self.fault_count,
            match self.shape.name() {
                "" if self.flapping => " flapping",
                name => name,
            },
            self.evicting,
            self.flushed_by_others,
            self.nat,
            self.containers,
            self.settle_ms,
            self.crawler,
            self.explicit_cas,
            self.busy_ms,
            self.chunks,
            self.latency_us_max,
            self.serve_us_max,
            self.lag_us_max,
            self.meta_percent,
            self.read_percent,
            self.locking,
            self.appending,
            self.comparing,
            self.storing,
            self.deleting,
            self.counting,
            self.noreply_percent,
            self.large_percent,
            self.flush_per_mille,
            self.disconnect_per_mille,
            self.stalls,
            self.slow_readers,
            self.dead_read,
            self.limits.fail_ms,
            self.limits.request_ms,
            self.limits.probe_delay_ms_min,
            self.limits.probe_delay_ms_max,
            self.limits.requests_in_flight_max,
            self.limits.stream_len_min,
            self.limits.remembered_keys_max,
            self.limits.purge_window,
            self.limits.gather_keys_max,
        )
    }
}

fn draw_limits(rng: &mut Rng) -> Limits {
    Limits {
        fail_ms: rng.pick(&[80, 150, 300]),
        probe_delay_ms_min: rng.pick(&[1, 5, 20]),
        probe_delay_ms_max: rng.pick(&[20, 50, 200]),
        stats_ms: rng.pick(&[5, 50]),
        requests_in_flight_max: rng.pick(&[16, 64, 1_024]),
        client_unread_len_pause: rng.pick(&[16_384, 1 << 20]),
        stream_len_min: rng.pick(&[1 << 20, 1 << 20, 4_096]),
        gather_keys_max: rng.pick(&[1, 3, 100]),
        gather_us: rng.pick(&[20, 1_000, 10_000]),
        gather_answer_len: rng.pick(&[64, 16_384]),
        gather_hold_us: rng.pick(&[0, 20, 250, 10_000]),
        // There are few clients here.
        gather_others_min: 0,
        remembered_keys_max: rng.pick(&[2, 1 << 20, 1 << 20, 1 << 20]),
        purge_window: rng.pick(&[1, 2, 256]),
        ..Limits::default()
    }
}
