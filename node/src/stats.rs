//! Counters, and the `stats` commands that show them.
//!
//! # Invariants
//!
//! - Every counter is listed once; `GENERAL` and `SETTINGS` are the one place that names what
//!   `stats` shows, in memcached's order. The differential test compares the names.
//! - What memcached counts per slab class is counted per class and summed for `stats`.
//!
//! Not here: when something is counted.

use core::fmt::Write as _;

use crate::classic::say;
use crate::crawl;
use crate::item::{CLASSES, class_len, class_of};
use crate::store::{Crawler, Store};
use crate::token::{Tokens, push_number};

/// Counts that belong to the whole server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Counter {
    TotalConnections,
    CmdGet,
    CmdFlush,
    CmdTouch,
    CmdMeta,
    GetMisses,
    GetExpired,
    GetFlushed,
    DeleteMisses,
    IncrMisses,
    DecrMisses,
    CasMisses,
    TouchMisses,
    StoreTooLarge,
    StoreNoMemory,
    BytesRead,
    BytesWritten,
    TotalItems,
    CrawlerStarts,
    CrawlerItemsChecked,
}

impl Counter {
    const COUNT: usize = Self::CrawlerItemsChecked as usize + 1;
}

/// Counts that belong to a slab class.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ClassCounter {
    GetHits,
    CmdSet,
    DeleteHits,
    IncrHits,
    DecrHits,
    CasHits,
    CasBadval,
    TouchHits,
    Evicted,
    EvictedNonzero,
    EvictedUnfetched,
    Reclaimed,
    ExpiredUnfetched,
    CrawlerReclaimed,
}

impl ClassCounter {
    const COUNT: usize = Self::CrawlerReclaimed as usize + 1;
}

/// All counters.
#[derive(Debug)]
pub(crate) struct Stats {
    counts: [u64; Counter::COUNT],
    classes: Box<[[u64; ClassCounter::COUNT]; CLASSES]>,
    /// How long the last item evicted from a class had not been used.
    pub(crate) evicted_age_s: [u32; CLASSES],
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            counts: [0; Counter::COUNT],
            classes: Box::new([[0; ClassCounter::COUNT]; CLASSES]),
            evicted_age_s: [0; CLASSES],
        }
    }
}

impl Stats {
    /// memcached counts its listener as a connection, until a reset.
    pub(crate) fn at_start() -> Self {
        let mut stats = Self::default();
        stats.count(Counter::TotalConnections);
        stats
    }

    pub(crate) fn count(&mut self, counter: Counter) {
        self.add(counter, 1);
    }

    pub(crate) fn add(&mut self, counter: Counter, number: u64) {
        self.counts[counter as usize] += number;
    }

    pub(crate) fn count_class(&mut self, class: usize, counter: ClassCounter) {
        self.classes[class][counter as usize] += 1;
    }

    fn sum(&self, counter: ClassCounter) -> u64 {
        self.classes
            .iter()
            .map(|counts| counts[counter as usize])
            .sum()
    }
}

/// `stats …`.
pub(crate) fn answer(
    store: &mut Store,
    slot: Option<usize>,
    tokens: &Tokens<'_>,
    out: &mut Vec<u8>,
) {
    match tokens.word(1) {
        b"" => table(store, GENERAL, out),
        b"settings" => table(store, SETTINGS, out),
        b"reset" => {
            store.stats = Stats::default();
            return say(out, b"RESET");
        }
        b"conns" => connections(store, slot, out),
        b"items" => items(store, out),
        b"slabs" => slabs(store, out),
        b"sizes" => out.extend_from_slice(b"STAT sizes_status disabled\r\n"),
        b"cachedump" => return crawl::cachedump(store, tokens, out),
        _ => return say(out, b"ERROR"),
    }
    say(out, b"END");
}

fn table(store: &Store, rows: &[(&str, Source)], out: &mut Vec<u8>) {
    for (name, source) in rows {
        let number = match source {
            Text(text) => {
                line(out, format_args!("{name} {text}"));
                continue;
            }
            Said(text) => {
                line(out, format_args!("{name} {}", text(store)));
                continue;
            }
            Count(counter) => store.stats.counts[*counter as usize],
            Sum(counter) => store.stats.sum(*counter),
            Number(number) => number(store),
        };
        out.extend_from_slice(b"STAT ");
        out.extend_from_slice(name.as_bytes());
        out.push(b' ');
        push_number(out, number);
        out.extend_from_slice(b"\r\n");
    }
}

fn connections(store: &Store, own: Option<usize>, out: &mut Vec<u8>) {
    let listen = socket_name(store.config.listen);
    line(out, format_args!("{LISTENER_FD}:addr {listen}"));
    line(out, format_args!("{LISTENER_FD}:state conn_listening"));
    line(
        out,
        format_args!("{LISTENER_FD}:secs_since_last_cmd {}", store.uptime()),
    );
    for (slot, connection) in store.connections.iter().enumerate() {
        let Some(connection) = connection else {
            continue;
        };
        let fd = LISTENER_FD + 1 + slot;
        let state = if own == Some(slot) {
            "conn_parse_cmd"
        } else {
            "conn_read"
        };
        let idle_s = store.current - connection.last_command;
        line(
            out,
            format_args!("{fd}:addr {}", socket_name(connection.addrs.peer)),
        );
        line(
            out,
            format_args!("{fd}:listen_addr {}", socket_name(connection.addrs.local)),
        );
        line(out, format_args!("{fd}:state {state}"));
        line(out, format_args!("{fd}:secs_since_last_cmd {idle_s}"));
    }
}

fn socket_name(addr: core::net::SocketAddr) -> String {
    let protocol = if addr.is_ipv4() { "tcp" } else { "tcp6" };
    format!("{protocol}:{addr}")
}

/// `stats items`. The one LRU is shown as memcached's cold one, where idle items end up.
fn items(store: &Store, out: &mut Vec<u8>) {
    let mut oldest_s = [None; CLASSES];
    for (key, item) in store.raw_items() {
        oldest_s[class_of(key, item)].get_or_insert(store.current - item.time);
    }
    let numbers = store.usage.class_items.iter().copied().enumerate();
    for (class, number) in numbers.filter(|(_, number)| *number > 0) {
        let counts = &store.stats.classes[class];
        let count = |counter: ClassCounter| counts[counter as usize];
        let rows = [
            ("number", number),
            ("number_hot", 0),
            ("number_warm", 0),
            ("number_cold", number),
            ("age_hot", 0),
            ("age_warm", 0),
            ("age", u64::from(oldest_s[class].unwrap_or(0))),
            ("mem_requested", store.usage.class_bytes[class]),
            ("evicted", count(ClassCounter::Evicted)),
            ("evicted_nonzero", count(ClassCounter::EvictedNonzero)),
            ("evicted_time", u64::from(store.stats.evicted_age_s[class])),
            ("outofmemory", 0),
            ("tailrepairs", 0),
            ("reclaimed", count(ClassCounter::Reclaimed)),
            ("expired_unfetched", count(ClassCounter::ExpiredUnfetched)),
            ("evicted_unfetched", count(ClassCounter::EvictedUnfetched)),
            ("evicted_active", 0),
            ("crawler_reclaimed", count(ClassCounter::CrawlerReclaimed)),
            ("crawler_items_checked", 0),
            ("lrutail_reflocked", 0),
            ("moves_to_cold", 0),
            ("moves_to_warm", 0),
            ("moves_within_lru", 0),
            ("direct_reclaims", 0),
            ("hits_to_hot", 0),
            ("hits_to_warm", 0),
            ("hits_to_cold", count(ClassCounter::GetHits)),
            ("hits_to_temp", 0),
        ];
        for (name, value) in rows {
            line(out, format_args!("items:{class}:{name} {value}"));
        }
    }
}

/// `stats slabs`. Pages are what the items would need.
fn slabs(store: &Store, out: &mut Vec<u8>) {
    let (mut active, mut pages_sum) = (0, 0);
    let numbers = store.usage.class_items.iter().copied().enumerate();
    for (class, used) in numbers.filter(|(_, number)| *number > 0) {
        let chunk_len = class_len(class);
        let per_page = PAGE_LEN / chunk_len as u64;
        let pages = used.div_ceil(per_page);
        let total = pages * per_page;
        (active, pages_sum) = (active + 1, pages_sum + pages);
        let counts = &store.stats.classes[class];
        let rows = [
            ("chunk_size", chunk_len as u64),
            ("chunks_per_page", per_page),
            ("total_pages", pages),
            ("total_chunks", total),
            ("used_chunks", used),
            ("free_chunks", total - used),
            ("free_chunks_end", 0),
            ("get_hits", counts[ClassCounter::GetHits as usize]),
            ("cmd_set", counts[ClassCounter::CmdSet as usize]),
            ("delete_hits", counts[ClassCounter::DeleteHits as usize]),
            ("incr_hits", counts[ClassCounter::IncrHits as usize]),
            ("decr_hits", counts[ClassCounter::DecrHits as usize]),
            ("cas_hits", counts[ClassCounter::CasHits as usize]),
            ("cas_badval", counts[ClassCounter::CasBadval as usize]),
            ("touch_hits", counts[ClassCounter::TouchHits as usize]),
        ];
        for (name, value) in rows {
            line(out, format_args!("{class}:{name} {value}"));
        }
    }
    line(out, format_args!("active_slabs {active}"));
    line(out, format_args!("total_malloced {}", pages_sum * PAGE_LEN));
}

fn line(out: &mut Vec<u8>, text: core::fmt::Arguments<'_>) {
    let mut row = String::from("STAT ");
    row.write_fmt(text).expect("a String takes any text");
    say(out, row.as_bytes());
}

/// Where a row of `stats` comes from.
enum Source {
    Count(Counter),
    Sum(ClassCounter),
    Number(fn(&Store) -> u64),
    Said(fn(&Store) -> String),
    Text(&'static str),
}

use Source::{Count, Number, Said, Sum, Text};

/// `stats`, in memcached's order. What has no meaning here is a constant.
const GENERAL: &[(&str, Source)] = &[
    ("pid", Number(|store| u64::from(store.config.pid))),
    ("uptime", Number(|store| u64::from(store.uptime()))),
    (
        "time",
        Number(|store| store.process_started() + u64::from(store.current)),
    ),
    ("version", Said(|store| store.config.version.to_owned())),
    ("libevent", Text("none")),
    ("pointer_size", Text("64")),
    ("rusage_user", Text("0.000000")),
    ("rusage_system", Text("0.000000")),
    (
        "max_connections",
        Number(|store| u64::from(store.config.connections_max)),
    ),
    ("curr_connections", Number(open_connections)),
    ("total_connections", Count(Counter::TotalConnections)),
    ("rejected_connections", Text("0")),
    (
        "connection_structures",
        Number(|store| open_connections(store) + 1),
    ),
    ("response_obj_oom", Text("0")),
    ("response_obj_count", Text("1")),
    ("response_obj_bytes", Text("16384")),
    ("read_buf_count", Number(open_connections)),
    (
        "read_buf_bytes",
        Number(|store| open_connections(store) * 16384),
    ),
    ("read_buf_bytes_free", Text("0")),
    ("read_buf_oom", Text("0")),
    ("reserved_fds", Text("20")),
    ("cmd_get", Count(Counter::CmdGet)),
    ("cmd_set", Sum(ClassCounter::CmdSet)),
    ("cmd_flush", Count(Counter::CmdFlush)),
    ("cmd_touch", Count(Counter::CmdTouch)),
    ("cmd_meta", Count(Counter::CmdMeta)),
    ("get_hits", Sum(ClassCounter::GetHits)),
    ("get_misses", Count(Counter::GetMisses)),
    ("get_expired", Count(Counter::GetExpired)),
    ("get_flushed", Count(Counter::GetFlushed)),
    ("delete_misses", Count(Counter::DeleteMisses)),
    ("delete_hits", Sum(ClassCounter::DeleteHits)),
    ("incr_misses", Count(Counter::IncrMisses)),
    ("incr_hits", Sum(ClassCounter::IncrHits)),
    ("decr_misses", Count(Counter::DecrMisses)),
    ("decr_hits", Sum(ClassCounter::DecrHits)),
    ("cas_misses", Count(Counter::CasMisses)),
    ("cas_hits", Sum(ClassCounter::CasHits)),
    ("cas_badval", Sum(ClassCounter::CasBadval)),
    ("touch_hits", Sum(ClassCounter::TouchHits)),
    ("touch_misses", Count(Counter::TouchMisses)),
    ("store_too_large", Count(Counter::StoreTooLarge)),
    ("store_no_memory", Count(Counter::StoreNoMemory)),
    ("auth_cmds", Text("0")),
    ("auth_errors", Text("0")),
    ("bytes_read", Count(Counter::BytesRead)),
    ("bytes_written", Count(Counter::BytesWritten)),
    (
        "limit_maxbytes",
        Number(|store| store.config.memory_max_bytes),
    ),
    ("accepting_conns", Text("1")),
    ("listen_disabled_num", Text("0")),
    ("time_in_listen_disabled_us", Text("0")),
    ("threads", Number(|store| u64::from(store.config.threads))),
    ("conn_yields", Text("0")),
    ("hash_power_level", Text("16")),
    ("hash_bytes", Text("524288")),
    ("hash_is_expanding", Text("0")),
    ("slab_reassign_rescues", Text("0")),
    ("slab_reassign_chunk_rescues", Text("0")),
    ("slab_reassign_evictions_nomem", Text("0")),
    ("slab_reassign_inline_reclaim", Text("0")),
    ("slab_reassign_busy_items", Text("0")),
    ("slab_reassign_busy_deletes", Text("0")),
    ("slab_reassign_running", Text("0")),
    ("slabs_moved", Text("0")),
    (
        "lru_crawler_running",
        Number(|store| u64::from(store.config.crawler == Crawler::Busy)),
    ),
    ("lru_crawler_starts", Count(Counter::CrawlerStarts)),
    ("lru_maintainer_juggles", Text("0")),
    ("malloc_fails", Text("0")),
    ("log_worker_dropped", Text("0")),
    ("log_worker_written", Text("0")),
    ("log_watcher_skipped", Text("0")),
    ("log_watcher_sent", Text("0")),
    ("log_watchers", Text("0")),
    ("unexpected_napi_ids", Text("0")),
    ("round_robin_fallback", Text("0")),
    ("bytes", Number(|store| store.usage.bytes)),
    ("curr_items", Number(|store| store.item_count() as u64)),
    ("total_items", Count(Counter::TotalItems)),
    ("slab_global_page_pool", Text("0")),
    ("expired_unfetched", Sum(ClassCounter::ExpiredUnfetched)),
    ("evicted_unfetched", Sum(ClassCounter::EvictedUnfetched)),
    ("evicted_active", Text("0")),
    ("evictions", Sum(ClassCounter::Evicted)),
    ("reclaimed", Sum(ClassCounter::Reclaimed)),
    ("crawler_reclaimed", Sum(ClassCounter::CrawlerReclaimed)),
    ("crawler_items_checked", Count(Counter::CrawlerItemsChecked)),
    ("lrutail_reflocked", Text("0")),
    ("moves_to_cold", Text("0")),
    ("moves_to_warm", Text("0")),
    ("moves_within_lru", Text("0")),
    ("direct_reclaims", Text("0")),
    ("lru_bumps_dropped", Text("0")),
];

/// `stats settings`: memcached's defaults but for what a store can be told.
const SETTINGS: &[(&str, Source)] = &[
    ("maxbytes", Number(|store| store.config.memory_max_bytes)),
    (
        "maxconns",
        Number(|store| u64::from(store.config.connections_max)),
    ),
    (
        "tcpport",
        Number(|store| u64::from(store.config.listen.port())),
    ),
    ("udpport", Text("0")),
    ("inter", Said(|store| store.config.listen.ip().to_string())),
    ("verbosity", Number(|store| u64::from(store.verbosity))),
    ("oldest", Number(|store| u64::from(store.oldest_live))),
    ("evictions", Text("on")),
    ("domain_socket", Text("NULL")),
    ("umask", Text("700")),
    ("shutdown_command", Text("no")),
    ("growth_factor", Text("1.25")),
    ("chunk_size", Text("48")),
    (
        "num_threads",
        Number(|store| u64::from(store.config.threads)),
    ),
    (
        "num_threads_per_udp",
        Number(|store| u64::from(store.config.threads)),
    ),
    ("stat_key_prefix", Text(":")),
    ("detail_enabled", Text("no")),
    ("reqs_per_event", Text("20")),
    ("cas_enabled", Text("yes")),
    ("tcp_backlog", Text("1024")),
    ("binding_protocol", Text("auto-negotiate")),
    ("auth_enabled_sasl", Text("no")),
    ("auth_enabled_ascii", Text("no")),
    (
        "item_size_max",
        Number(|store| store.config.item_len_max as u64),
    ),
    ("maxconns_fast", Text("yes")),
    ("hashpower_init", Text("0")),
    ("slab_reassign", Text("yes")),
    ("slab_automove", Text("1")),
    ("slab_automove_ratio", Text("0.80")),
    ("slab_automove_window", Text("30")),
    ("slab_chunk_max", Text("524288")),
    (
        "lru_crawler",
        Said(|store| yes_no(store.config.crawler != Crawler::Disabled)),
    ),
    ("lru_crawler_sleep", Text("100")),
    ("lru_crawler_tocrawl", Text("0")),
    ("tail_repair_time", Text("0")),
    ("flush_enabled", Text("yes")),
    (
        "dump_enabled",
        Said(|store| yes_no(store.config.crawler != Crawler::DumpForbidden)),
    ),
    ("hash_algorithm", Text("murmur3")),
    ("lru_maintainer_thread", Text("yes")),
    ("lru_segmented", Text("yes")),
    ("hot_lru_pct", Text("20")),
    ("warm_lru_pct", Text("40")),
    ("hot_max_factor", Text("0.20")),
    ("warm_max_factor", Text("2.00")),
    ("temp_lru", Text("no")),
    ("temporary_ttl", Text("61")),
    ("idle_timeout", Text("0")),
    ("watcher_logbuf_size", Text("262144")),
    ("worker_logbuf_size", Text("65536")),
    ("read_buf_mem_limit", Text("0")),
    ("track_sizes", Text("no")),
    ("inline_ascii_response", Text("no")),
];

fn open_connections(store: &Store) -> u64 {
    store.connections.iter().flatten().count() as u64
}

fn yes_no(yes: bool) -> String {
    let text = if yes { "yes" } else { "no" };
    text.to_owned()
}

const PAGE_LEN: u64 = 1 << 20;
/// memcached 1.6.18 on Linux with four threads listens here; connections come after it.
const LISTENER_FD: usize = 22;
