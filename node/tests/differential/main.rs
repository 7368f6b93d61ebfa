//! The same bytes to a real memcached and to a [`Store`]: the answers must be the same bytes.
//!
//! Only what a clock decides may differ by a few seconds (`clock_number`). Nothing here sleeps or
//! waits for an item to expire; expiry is tested with a virtual clock in `store.rs`.
//!
//! A command is followed by an `mg` that misses; its `EN` ends the answer.
#![allow(
    clippy::unwrap_used,
    reason = "a test: what cannot be unwrapped has failed"
)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test against a real process, with real sockets and a real clock"
)]

mod exchanges;
mod random;
mod real;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use magent_node::{ConnectionAddrs, Next, Session, Store, StoreConfig, Time};
use real::Memcached;

/// Both servers, with one connection to each.
struct Pair {
    real: Memcached,
    store: Store,
    session: Session,
    started: Instant,
    exchanges: usize,
}

impl Pair {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(options: &[&str]) -> Self {
        let real = Memcached::start(options);
        let unix_start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let config = StoreConfig {
            unix_start_s: unix_start.as_secs(),
            pid: real.pid(),
            listen: real.addr(),
            ..StoreConfig::default()
        };
        let mut store = Store::new(config);
        let session = Session::open(&mut store, Time(0), addrs(&real));
        Self {
            real,
            store,
            session,
            started: Instant::now(),
            exchanges: 0,
        }
    }

    /// Sends `command` to both and compares the answers, to the end of the connection if it ends.
    #[track_caller]
    fn check(&mut self, command: &[u8]) -> Vec<u8> {
        let terminated = [command, TERMINATOR].concat();
        let real = self.real.ask(&terminated, TERMINATOR_ANSWER);
        let (ours, next) = self.ask_store(&terminated);
        let sent = command.escape_ascii().to_string();
        let sent = &sent[..sent.len().min(400)];
        assert!(
            same(&real.bytes, &ours),
            "sent  {sent}\nreal  {}\nours  {}",
            real.bytes.escape_ascii(),
            ours.escape_ascii()
        );
        assert_eq!(real.closed, next == Next::Close, "sent {sent}: who closes?");
        if real.closed {
            self.real.reconnect();
            let dead = std::mem::replace(&mut self.session, Session::new());
            dead.close(&mut self.store);
            self.session = Session::open(&mut self.store, Time(0), addrs(&self.real));
        }
        self.exchanges += 1;
        ours
    }

    fn ask_store(&mut self, command: &[u8]) -> (Vec<u8>, Next) {
        let mut ours = Vec::new();
        let now = Time(u64::try_from(self.started.elapsed().as_nanos()).unwrap());
        let next = self
            .session
            .receive(&mut self.store, now, command, &mut ours);
        (ours, next)
    }

    /// The lines of a dump come in another order, and memcached drops what is pipelined behind it.
    #[track_caller]
    fn check_dump(&mut self, command: &[u8]) {
        // The end of a dump can be read before memcached has put its crawler to rest.
        let deadline = Instant::now() + real::PATIENCE;
        let real = loop {
            let real = self.real.ask_for_dump(command);
            if !real.bytes.starts_with(b"BUSY") {
                break real;
            }
            assert!(Instant::now() < deadline, "the crawler is busy for ever");
        };
        let (ours, _) = self.ask_store(command);
        assert!(
            same(&sorted(&real.bytes), &sorted(&ours)),
            "real  {}\nours  {}",
            real.bytes.escape_ascii(),
            ours.escape_ascii()
        );
    }

    /// `stats …` as names and values.
    fn stats(&mut self, command: &[u8]) -> [Vec<(String, String)>; 2] {
        let real = self.real.ask(command, b"END\r\n").bytes;
        let (ours, _) = self.ask_store(command);
        [real, ours].map(|text| {
            let text = String::from_utf8(text).unwrap();
            let rows = text.lines().filter_map(|line| line.strip_prefix("STAT "));
            rows.map(|row| row.split_once(' ').unwrap())
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect()
        })
    }
}

fn addrs(real: &Memcached) -> ConnectionAddrs {
    ConnectionAddrs {
        peer: real.own_addr(),
        local: real.addr(),
    }
}

fn sorted(dump: &[u8]) -> Vec<u8> {
    let mut lines: Vec<_> = dump.split_inclusive(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines.concat()
}

/// Equal, or equal but for a few seconds in what a clock decides.
fn same(real: &[u8], ours: &[u8]) -> bool {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\n');
    real == ours
        || real.split(blank).count() == ours.split(blank).count()
            && real
                .split(blank)
                .zip(ours.split(blank))
                .all(|(real, ours)| {
                    real == ours
                        || match (clock_number(real), clock_number(ours)) {
                            (Some(real), Some(ours)) => real.abs_diff(ours) <= CLOCKS_APART_S_MAX,
                            _ => false,
                        }
                })
}

/// The TTL or age in a word of an answer: `t90`, `l3`, `la=3`, `exp=-90`.
fn clock_number(word: &[u8]) -> Option<u64> {
    let word = std::str::from_utf8(word).ok()?.trim_end_matches('\r');
    let number = ["exp=-", "exp=", "la=", "t", "l"]
        .iter()
        .find_map(|name| word.strip_prefix(name))?;
    number.parse().ok()
}

#[test]
fn every_form_of_every_command() {
    let mut pair = Pair::start_with(STEADY);
    exchanges::check_all(&mut pair);
    assert!(pair.exchanges > 800, "only {} exchanges", pair.exchanges);
}

#[test]
fn random_scripts() {
    for seed in 1..=8 {
        let mut pair = Pair::start_with(STEADY);
        let mut script = random::Script::new(seed);
        for step in 0..4_000 {
            let command = script.command();
            let shown = command.escape_ascii().to_string();
            let run = std::panic::AssertUnwindSafe(|| pair.check(&command));
            match std::panic::catch_unwind(run) {
                Ok(answer) => script.answered(&answer),
                Err(_) => panic!("seed {seed}, step {step}: {shown}"),
            }
        }
        check_counters(&mut pair);
    }
}

/// Every counter that only clients move.
fn check_counters(pair: &mut Pair) {
    let [real, ours] = pair.stats(b"stats\r\n");
    let value = |rows: &[(String, String)], name| {
        let row = rows.iter().find(|row| row.0 == name);
        row.unwrap_or_else(|| panic!("no {name}")).1.clone()
    };
    for name in MOVED_BY_CLIENTS.split_ascii_whitespace() {
        assert_eq!(value(&real, name), value(&ours, name), "{name}");
    }
}

#[test]
fn stats_name_the_same_rows() {
    let mut pair = Pair::start();
    pair.check(b"set a 0 0 1\r\nx\r\n");
    check_counters(&mut pair);
    let names = |rows: Vec<(String, String)>| rows.into_iter().map(|row| row.0).collect::<Vec<_>>();
    let [real, ours] = pair.stats(b"stats\r\n");
    assert_eq!(names(real), names(ours));
    let [real, ours] = pair.stats(b"stats settings\r\n");
    // What follows is about TLS and storage on disk, which are not here.
    assert_eq!(real[..ours.len()], ours);
    for command in [&b"stats items\r\n"[..], b"stats slabs\r\n"] {
        let [real, ours] = pair.stats(command);
        assert_eq!(names(real), names(ours));
    }
    let [real, ours] = pair.stats(b"stats conns\r\n");
    assert_eq!(real.len(), ours.len());
    for (real, ours) in real.iter().zip(&ours) {
        let row = real.0.split_once(':').unwrap().1;
        assert_eq!(row, ours.0.split_once(':').unwrap().1);
        assert!(
            row == "secs_since_last_cmd" || real.1 == ours.1,
            "{real:?} {ours:?}"
        );
    }
    pair.check(b"stats reset\r\n");
    check_counters(&mut pair);
}

#[test]
fn metadump_and_cachedump() {
    let mut pair = Pair::start();
    pair.check_dump(b"lru_crawler metadump all\r\n");
    for command in [
        &b"set plain 0 0 1\r\nx\r\n"[..],
        b"set ttl 7 1000 3\r\nxyz\r\n",
        b"set gone 0 -1 1\r\nx\r\n",
        b"set a%/+~=\xff 0 0 1\r\nx\r\n",
        b"ms AP8g 1 b T500\r\nx\r\n",
        &[b"set large 0 0 5000\r\n", [b'x'; 5000].as_slice(), b"\r\n"].concat(),
        // Only once each: memcached holds on to busier items, and its dump leaves those out.
        b"get plain ttl\r\n",
    ] {
        pair.check(command);
    }
    pair.check_dump(b"lru_crawler metadump all\r\n");
    pair.check_dump(b"lru_crawler metadump hash\r\n");
    pair.check_dump(b"lru_crawler metadump 1\r\n");
    pair.check_dump(b"lru_crawler metadump 1,18,2\r\n");
    pair.check(b"stats cachedump 18 0\r\n");
    pair.check(b"flush_all\r\n");
    pair.check_dump(b"lru_crawler metadump all\r\n");
}

const CLOCKS_APART_S_MAX: u64 = 5;

const MOVED_BY_CLIENTS: &str = "total_connections curr_connections cmd_get cmd_set cmd_flush \
    cmd_touch cmd_meta get_hits get_misses delete_misses delete_hits incr_misses incr_hits \
    decr_misses decr_hits cas_misses cas_hits cas_badval touch_hits touch_misses store_too_large \
    store_no_memory bytes_read total_items limit_maxbytes threads pointer_size pid version \
    max_connections";
/// Ends every command; nothing else asks for this key.
const TERMINATOR: &[u8] = b"mg -the-end- k\r\n";
const TERMINATOR_ANSWER: &[u8] = b"EN k-the-end-\r\n";
/// memcached's LRU thread holds on to items that are read often, at random moments, and `decr` pads
/// its number with blanks only while nobody holds the item.
const STEADY: &[&str] = &["-o", "no_lru_maintainer"];
