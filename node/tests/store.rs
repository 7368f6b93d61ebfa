//! Time, memory and restarts, with a virtual clock: what cannot be compared with a real memcached
//! without waiting.

#![allow(
    clippy::unwrap_used,
    reason = "a test: what cannot be unwrapped has failed"
)]

use magent_node::{ConnectionAddrs, Crawler, Keep, Next, Session, Store, StoreConfig, Time};

/// A store and one connection to it.
struct World {
    store: Store,
    session: Session,
    now: Time,
}

impl World {
    fn new(config: StoreConfig) -> Self {
        Self {
            store: Store::new(config),
            session: Session::new(),
            now: Time(0),
        }
    }

    fn at(&mut self, second: u64) -> &mut Self {
        self.now = Time::from_s(second);
        self
    }

    /// Sends `command`, CRLF added, and expects these lines.
    #[track_caller]
    fn says(&mut self, command: &str, expected: &str) -> &mut Self {
        assert_eq!(self.ask(command), expected, "{command}");
        self
    }

    fn ask(&mut self, command: &str) -> String {
        let mut out = Vec::new();
        let input = format!("{}\r\n", command.replace('\n', "\r\n"));
        let next = self
            .session
            .receive(&mut self.store, self.now, input.as_bytes(), &mut out);
        assert_eq!(next, Next::Continue, "{command}");
        String::from_utf8(out)
            .unwrap()
            .replace("\r\n", "\n")
            .trim_end()
            .to_owned()
    }

    fn stat(&mut self, name: &str) -> u64 {
        let stats = self.ask("stats");
        let start = format!("STAT {name} ");
        let row = stats.lines().find_map(|line| line.strip_prefix(&*start));
        row.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    }

    fn keys(&self) -> Vec<String> {
        let keys = self
            .store
            .items(self.now)
            .map(|item| item.key.escape_ascii().to_string());
        keys.collect()
    }
}

fn world() -> World {
    World::new(StoreConfig::default())
}

/// An item of one byte and key of one byte takes 61.
fn world_for_items(count: u64) -> World {
    World::new(StoreConfig {
        memory_max_bytes: 61 * count,
        ..StoreConfig::default()
    })
}

#[test]
fn an_item_expires_at_its_second() {
    let mut world = world();
    world
        .says("set a 0 10 1\nx", "STORED")
        .at(9)
        .says("mg a t v", "VA 1 t1\nx");
    world
        .at(10)
        .says("mg a", "EN")
        .says("get a", "END")
        .says("incr a 1", "NOT_FOUND");
    assert_eq!(world.stat("get_expired"), 1);
}

#[test]
fn the_item_is_gone_for_observers_too() {
    let mut world = world();
    world.says("set a 7 10 1\nx", "STORED");
    let item = world.store.peek(b"a", Time::from_s(4)).unwrap();
    assert_eq!(
        (item.value, item.client_flags, item.ttl_s),
        (&b"x"[..], 7, Some(6))
    );
    assert_eq!(world.store.peek(b"a", Time::from_s(10)), None);
    assert_eq!(world.store.items(Time::from_s(10)).count(), 0);
    // To look is not to touch.
    world.says("me a", "ME a exp=-10 la=0 cas=1 fetch=no cls=1 size=65");
    assert_eq!(world.stat("get_expired"), 0);
}

#[test]
fn dates_count_from_the_wall_clock() {
    let mut world = world();
    let unix_start = StoreConfig::default().unix_start_s;
    world
        .at(50)
        .says(&format!("set a 0 {} 1\nx", unix_start + 60), "STORED")
        .says("mg a t", "HD t10");
    world.at(60).says("mg a t", "EN");
    world
        .says("set old 0 2678400 1\nx", "STORED")
        .says("mg old", "EN");
    assert_eq!(world.stat("time"), unix_start + 60);
}

#[test]
fn time_does_not_go_back() {
    let mut world = world();
    world.at(20).says("set a 0 10 1\nx", "STORED");
    world.at(5).says("mg a t", "HD t10");
}

#[test]
fn ages_are_those_of_the_last_use() {
    let mut world = world();
    world
        .says("set a 0 0 1\nx", "STORED")
        .at(5)
        .says("mg a h l", "HD h0 l5");
    world
        .at(7)
        .says("mg a h l", "HD h1 l7")
        .says("mg a h l", "HD h1 l0");
    world
        .at(9)
        .says("mg a u l", "HD l2")
        .says("mg a l", "HD l2");
}

#[test]
fn a_refused_add_and_a_count_are_uses() {
    let mut world = world_for_items(3);
    for key in ["a", "b", "c"] {
        world.says(&format!("set {key} 0 0 1\n1"), "STORED");
    }
    world
        .at(5)
        .says("add a 0 0 1\n2", "NOT_STORED")
        .says("incr b 1", "2")
        .at(6);
    world
        .says("mg a l u", "HD l1")
        .says("mg b l u", "HD l1")
        .says("mg c l u", "HD l6");
    world.says("set d 0 0 1\nx", "STORED");
    assert_eq!(world.keys(), ["a", "b", "d"]);
}

#[test]
fn the_least_recently_used_item_goes_first() {
    let mut world = world_for_items(3);
    for key in ["a", "b", "c"] {
        world.says(&format!("set {key} 0 0 1\nx"), "STORED");
    }
    world
        .says("get a", "VALUE a 0 1\nx\nEND")
        .says("mg b u", "HD");
    world.says("set d 0 0 1\nx", "STORED");
    assert_eq!(world.keys(), ["c", "a", "d"]);
    let two_places = "y".repeat(62);
    world.says(&format!("set e 0 0 62\n{two_places}"), "STORED");
    assert_eq!(world.keys(), ["d", "e"]);
    assert_eq!(world.stat("evictions"), 3);
    assert_eq!(world.stat("curr_items"), 2);
    assert_eq!(world.stat("bytes"), 61 * 3);
    let too_much = "y".repeat(200);
    let refusal = "SERVER_ERROR out of memory storing object";
    world.says(&format!("set f 0 0 200\n{too_much}"), refusal);
    assert_eq!(world.stat("store_no_memory"), 1);
}

#[test]
fn dead_items_are_reclaimed_not_evicted() {
    let mut world = world_for_items(2);
    world
        .says("set a 0 1 1\nx", "STORED")
        .at(5)
        .says("set b 0 0 1\nx", "STORED");
    world.says("set c 0 0 1\nx", "STORED");
    assert_eq!((world.stat("evictions"), world.stat("reclaimed")), (0, 1));
}

#[test]
fn eviction_on_demand() {
    let mut world = world();
    world.says("set a 0 0 1\nx", "STORED");
    assert!(world.store.evict(b"a"));
    assert!(!world.store.evict(b"a"));
    world.says("mg a", "EN");
    assert_eq!((world.stat("evictions"), world.stat("bytes")), (1, 0));
}

#[test]
fn a_delayed_flush_comes_when_it_is_due() {
    let mut world = world();
    world
        .says("set a 0 0 1\nx", "STORED")
        .says("flush_all 10", "OK");
    world
        .at(8)
        .says("set b 0 0 1\nx", "STORED")
        .says("mg a", "HD");
    // Due a second early, like memcached's: `oldest_live` is compared with "not later".
    world.at(9).says("mg a", "EN").says("mg b", "EN");
    assert_eq!(world.store.peek(b"b", Time::from_s(9)), None);
    world
        .at(10)
        .says("set c 0 0 1\nx", "STORED")
        .says("mg c", "HD");
    assert_eq!(world.stat("get_flushed"), 2);
}

#[test]
fn a_later_flush_replaces_one_that_waits() {
    let mut world = world();
    world.says("flush_all 10", "OK").says("flush_all 100", "OK");
    world
        .says("set a 0 0 1\nx", "STORED")
        .at(50)
        .says("mg a", "HD")
        .at(99)
        .says("mg a", "EN");
}

#[test]
fn a_flush_takes_a_cas_number_and_what_was_there() {
    let mut world = world();
    world
        .says("ms a 1 c\nx", "HD c1")
        .says("flush_all", "OK")
        .says("mg a", "EN");
    world.says("ms a 1 c\nx", "HD c3").says("mg a", "HD");
}

#[test]
fn a_restart_is_a_new_process() {
    let mut world = world();
    world.at(100).says("ms a 1 c T50\nx", "HD c1");
    assert_eq!((world.stat("uptime"), world.stat("pid")), (102, 1));
    world.at(110);
    world.store.restart(Time::from_s(110), Keep::Nothing, 77);
    assert_eq!(world.stat("uptime"), 2);
    assert_eq!((world.stat("pid"), world.stat("total_items")), (77, 0));
    world
        .says("mg a", "EN")
        .says("ms a 1 c\nx", "HD c1")
        .at(113);
    assert_eq!(world.stat("uptime"), 5);
}

#[test]
fn a_warm_restart_keeps_items_and_cas() {
    let mut world = world();
    world.at(100).says("ms a 1 c T50\nx", "HD c1").at(110);
    world.store.restart(Time::from_s(110), Keep::Items, 78);
    assert_eq!((world.stat("uptime"), world.stat("cmd_set")), (2, 0));
    world
        .says("mg a t c", "HD t40 c1")
        .says("ms b 1 c\nx", "HD c2")
        .at(150)
        .says("mg a", "EN");
    assert_eq!(world.stat("curr_items"), 1);
}

#[test]
fn connections_are_listed_and_do_not_survive_a_restart() {
    let mut world = world();
    let addrs = |port: u16| ConnectionAddrs {
        peer: ([10, 0, 0, 1], port).into(),
        local: ([10, 0, 0, 2], 11211).into(),
    };
    let first = Session::open(&mut world.store, Time(0), addrs(1000));
    let mut second = Session::open(&mut world.store, Time(0), addrs(1001));
    let conns = world.at(3).ask("stats conns");
    assert!(conns.contains("STAT 23:addr tcp:10.0.0.1:1000"), "{conns}");
    assert!(conns.contains("STAT 24:secs_since_last_cmd 3"), "{conns}");
    first.close(&mut world.store);
    assert_eq!(world.stat("curr_connections"), 1);
    assert!(!world.ask("stats conns").contains("10.0.0.1:1000"));
    world.store.restart(Time::from_s(3), Keep::Items, 2);
    let mut out = Vec::new();
    let next = second.receive(&mut world.store, Time::from_s(3), b"version\r\n", &mut out);
    assert_eq!((next, &*out), (Next::Close, &b""[..]));
    second.close(&mut world.store);
    assert_eq!(world.stat("curr_connections"), 0);
}

#[test]
fn the_crawler_can_be_made_to_refuse() {
    let mut world = world();
    let dump = "lru_crawler metadump hash";
    world.says("set a 0 0 1\nx", "STORED");
    world.says(
        dump,
        "key=a exp=-1 la=1700000000 cas=1 fetch=no cls=1 size=61\nEND",
    );
    for (crawler, answer) in [
        (Crawler::Busy, "BUSY currently processing crawler request"),
        (Crawler::Disabled, "CLIENT_ERROR lru crawler disabled"),
        (Crawler::DumpForbidden, "ERROR metadump not allowed"),
    ] {
        world.store.set_crawler(crawler);
        world.says(dump, answer);
    }
    world.store.set_crawler(Crawler::Enabled);
    world
        .says("lru_crawler disable", "OK")
        .says(dump, "CLIENT_ERROR lru crawler disabled");
    world
        .says("lru_crawler enable", "OK")
        .says("set b 0 5 1\nx", "STORED")
        .at(6);
    world.says("lru_crawler crawl all", "OK");
    assert_eq!(
        (world.stat("crawler_reclaimed"), world.stat("curr_items")),
        (1, 1)
    );
}

#[test]
fn cas_numbers_can_be_set_where_the_config_says_so() {
    let config = StoreConfig {
        meta_cas: true,
        ..StoreConfig::default()
    };
    let mut world = World::new(config);
    world
        .says("ms a 1 E500 c\nx", "HD c500")
        .says("mg a c", "HD c500");
    world
        .says("ms a 1 C500 E7 c\nx", "HD c7")
        .says("md a I E900", "HD")
        .says("mg a c", "HD c900 X W");
    world
        .says("ma n N0 E40 c", "HD c40")
        .says("ma n E41 c", "HD c41")
        .says("mg v N0 E3 c", "HD c3 W");
    world
        .says("ms b 1 c\nx", "HD c2")
        .says("mg b Ex", "CLIENT_ERROR bad token in command line format");
}

#[test]
fn one_winner() {
    let mut world = world();
    world
        .says("mg a N30 v", "VA 0 W")
        .says("mg a N30 v", "VA 0 Z");
    world
        .says("ms a 1 T30\nx", "HD")
        .at(10)
        .says("mg a R10", "HD")
        .says("mg a R21", "HD W");
    world
        .says("mg a R21", "HD Z")
        .says("md a I T60", "HD")
        .says("mg a t", "HD t60 X W");
    world.says("mg a", "HD Z X");
}
