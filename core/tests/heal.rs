//! The healer with model memcacheds: what is copied, what is not, and what happens in between.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "heal/between.rs"]
mod between;
#[path = "heal/bounds.rs"]
mod bounds;
#[path = "heal/comparing.rs"]
mod comparing;
#[path = "heal/expiry.rs"]
mod expiry;
#[path = "heal/failures.rs"]
mod failures;
#[path = "heal/lab.rs"]
mod lab;
#[path = "heal/random.rs"]
mod random;

use magent_core::BackendId;
use magent_core::keeper::{Failure, Left, Report};
use magent_core::placement::Phase;
use magent_node::Crawler;

use lab::{Lab, id};

/// The target, and the source that leads its keys.
const T: BackendId = id(0);
const S: BackendId = id(1);

/// One primary and its backup. The primary lacks everything.
fn pair() -> Lab {
    Lab::new(1, 1)
}

/// The same, caught up, with a single key to copy.
fn pair_with_single(key: &str) -> Lab {
    let mut lab = pair();
    lab.catch_up(T, &[]);
    lab.recopy(T, &[key]);
    lab
}

const BUSY: Report = Report::Left {
    target: T,
    left: Left::Few,
};
const NOT_BUSY: Report = Report::Left {
    target: T,
    left: Left::None,
};

fn failed(lab: &Lab, backend: BackendId, failure: Failure) -> Report {
    Report::Failed {
        backend,
        incarnation: lab.view.backends[backend.index()].incarnation,
        failure,
    }
}

// -- Shares --

#[test]
fn a_share_is_copied_and_the_keeper_told() {
    let mut lab = pair();
    for number in 0..500 {
        lab.ask(S, format!("set k{number} {number} 0 3\r\nabc\r\n"));
    }
    lab.catch_up(T, &[S]);
    assert!(!lab.has_said(lab.copied(T, S)));
    lab.pass_ms(1_000);
    assert!(lab.has_said(lab.copied(T, S)));
    lab.assert_equal(T, S);
    let progress = lab.progress[0].look(lab.now);
    assert_eq!((progress.items_done, progress.items_total), (500, 500));
    assert_eq!((progress.bytes_done, progress.percent()), (1_500, 100));
    assert_eq!(lab.told(S, "md magent.walk"), 1, "the lock is given back");
    assert_eq!(lab.value(S, "magent.walk"), None);
    lab.set_phase(T, Phase::Up);
    lab.settle_down();
    assert_eq!(lab.open_connections(), 0);
}

#[test]
fn items_are_equal_in_all_that_they_have() {
    let mut lab = pair();
    let large = "x".repeat(900_000);
    let date = 1_700_000_100 + 4_000_000;
    for command in [
        "set empty 0 0 0\r\n\r\n".to_owned(),
        "set flags 4294967295 0 1\r\nf\r\n".to_owned(),
        "set day 7 86400 1\r\nd\r\n".to_owned(),
        "set month 0 2592000 1\r\nm\r\n".to_owned(),
        format!("set date 0 {date} 1\r\nd\r\n"),
        "set soon 0 3 1\r\ns\r\n".to_owned(),
        "set gone 0 1 1\r\ng\r\n".to_owned(),
        format!("set large 1 0 {}\r\n{large}\r\n", large.len()),
        "set lines 0 0 9\r\nEN\r\nHD\r\n1\r\n".to_owned(),
        format!("set {} 0 0 1\r\nl\r\n", "k".repeat(250)),
        "set a\tb\rc%d 0 0 1\r\nt\r\n".to_owned(),
        // "a b\0c\n", and "foo" under its base64 name.
        "ms YSBiAGMK 1 b F3 T50\r\nb\r\n".to_owned(),
        "ms Zm9v 1 b T0\r\nf\r\n".to_owned(),
        // "a\nb c", which forgets that its name is base64.
        "ms YQpiIGM= 1 b\r\n1\r\nms YQpiIGM= 1 b MA\r\n2\r\n".to_owned(),
    ] {
        lab.ask(S, command);
    }
    lab.catch_up(T, &[S]);
    lab.pass_ms(1_500);
    assert!(lab.has_said(lab.copied(T, S)));
    lab.assert_equal(T, S);
    assert_eq!(lab.value(T, "large"), Some(large));
    assert_eq!(lab.value(T, "gone"), None);
    assert_eq!(lab.ttl_s(T, "month"), lab.ttl_s(S, "month"));
    // The name under which it was stored is part of the item: an echo repeats it.
    assert_eq!(lab.ask(T, "mg foo k\r\n"), lab.ask(S, "mg foo k\r\n"));
    // Copies count neither as reads nor as renewals.
    assert_eq!(lab.ask(S, "mg flags h\r\n"), "HD h0\r\n");
}

#[test]
fn only_the_share_of_both_is_copied() {
    let mut lab = Lab::new(2, 2);
    let (target, source) = (id(0), id(2));
    for number in 0..400 {
        lab.set(source, &format!("k{number}"), "v");
    }
    lab.catch_up(target, &[source]);
    lab.pass_ms(500);
    assert!(lab.has_said(lab.copied(target, source)));
    lab.assert_equal(target, source);
    let now = magent_node::Time(lab.now.0);
    let copies = lab.nodes[0].store.items(now).count();
    assert!((50..350).contains(&copies), "{copies} of 400");
}

#[test]
fn one_walk_serves_two_targets() {
    let mut lab = Lab::new(2, 1);
    let source = id(2);
    for number in 0..200 {
        lab.set(source, &format!("k{number}"), "v");
    }
    // Both are to be walked when the first epoch in which they can be settles.
    lab.settles = false;
    lab.catch_up(id(0), &[source]);
    lab.catch_up(id(1), &[source]);
    lab.settles = true;
    lab.publish(|_| {});
    lab.pass_ms(500);
    for target in [id(0), id(1)] {
        assert!(lab.reports.contains(&lab.copied(target, source)));
    }
    assert_eq!(lab.told(source, "lru_crawler"), 1);
    lab.assert_equal(id(0), source);
    lab.assert_equal(id(1), source);
}

#[test]
fn a_backend_can_be_source_and_target() {
    // Two that returned after each other: each leads some keys, of a third and of each other.
    let mut lab = Lab::new(2, 2);
    for number in 0..200 {
        lab.set(id(2), &format!("k{number}"), "v");
    }
    lab.catch_up(id(0), &[id(2), id(3)]);
    lab.catch_up(id(1), &[id(2), id(3)]);
    lab.pass_ms(1_000);
    lab.assert_equal(id(0), id(2));
    lab.assert_equal(id(1), id(2));
    lab.catch_up(id(2), &[id(0), id(1)]);
    lab.pass_ms(1_000);
    lab.assert_equal(id(2), id(1));
}

#[test]
fn a_share_that_is_lacked_again_is_copied_again() {
    let mut lab = pair();
    lab.set(S, "a", "1");
    lab.catch_up(T, &[S]);
    lab.pass_ms(500);
    assert!(lab.has_said(lab.copied(T, S)));
    // Somebody flushed it: the keeper names the source once more.
    lab.ask(T, "delete a\r\n");
    lab.publish(|_| {});
    lab.pass_ms(500);
    assert!(lab.has_said(lab.copied(T, S)));
    lab.assert_equal(T, S);
}

#[test]
fn nothing_is_copied_before_everybody_knows_that_the_target_follows() {
    let mut lab = pair();
    lab.set(S, "a", "1");
    lab.settles = false;
    lab.catch_up(T, &[S]);
    lab.recopy(T, &["a"]);
    lab.pass_ms(1_000);
    assert_eq!(lab.open_connections(), 0);
    lab.settles = true;
    lab.publish(|_| {});
    lab.pass_ms(1_000);
    assert!(lab.has_said(lab.copied(T, S)));
}

#[test]
fn nothing_is_asked_on_a_connection_that_is_not_verified() {
    let mut lab = pair();
    lab.set(S, "a", "1");
    lab.verifies = false;
    lab.catch_up(T, &[S]);
    lab.recopy(T, &["a"]);
    lab.pass_ms(10_000);
    let asked = |lab: &Lab| lab.nodes.iter().map(|node| node.told.len()).sum::<usize>();
    assert_eq!(asked(&lab), 0);
    let connected = |report: &&Report| matches!(report, Report::Connected { .. });
    assert_eq!(lab.reports.iter().filter(connected).count(), 3);
    lab.verifies = true;
    lab.pass_ms(1_000);
    assert!(lab.has_said(lab.copied(T, S)));
}

// -- Walks that fail --

#[test]
fn a_busy_crawler_is_asked_again() {
    let mut lab = pair();
    lab.set(S, "a", "1");
    lab.nodes[S.index()].store.set_crawler(Crawler::Busy);
    lab.catch_up(T, &[S]);
    lab.pass_ms(5_000);
    let tries = lab.told(S, "lru_crawler");
    assert!((3..10).contains(&tries), "{tries}");
    lab.nodes[S.index()].store.set_crawler(Crawler::Enabled);
    lab.pass_ms(5_000);
    assert!(lab.has_said(lab.copied(T, S)));
    lab.assert_equal(T, S);
}

#[test]
fn a_source_that_does_not_say_what_it_has() {
    for crawler in [Crawler::DumpForbidden, Crawler::Disabled] {
        let mut lab = pair();
        lab.set(S, "a", "1");
        lab.nodes[S.index()].store.set_crawler(crawler);
        lab.catch_up(T, &[S]);
        lab.pass_ms(5_000);
        let unwalkable = Report::Unwalkable {
            target: T,
            source: S,
        };
        assert!(lab.has_said(unwalkable));
        assert!(!lab.has_said(unwalkable), "once is enough");
        // What clients read there is copied.
        lab.recopy(T, &["a"]);
        lab.pass_ms(500);
        lab.assert_equal(T, S);
        assert!(lab.has_said(NOT_BUSY));
        // Until somebody allows it.
        lab.set(S, "b", "2");
        lab.nodes[S.index()].store.set_crawler(Crawler::Enabled);
        lab.pass_ms(60_000);
        assert!(lab.has_said(lab.copied(T, S)));
        lab.assert_equal(T, S);
    }
}

#[test]
fn another_proxy_walks() {
    let mut lab = pair();
    lab.set(S, "a", "1");
    lab.ask(S, "add magent.walk 0 30 1\r\n1\r\n");
    lab.catch_up(T, &[S]);
    lab.pass_ms(10_000);
    assert_eq!(lab.told(S, "lru_crawler"), 0);
    assert_eq!(lab.told(S, "md magent.walk"), 0, "it is not ours");
    lab.pass_ms(25_000);
    assert!(lab.has_said(lab.copied(T, S)));
}

#[test]
fn the_lock_is_gone_when_the_walk_is() {
    // Nothing to copy, and nothing else that the connection for copies would be needed for.
    let mut lab = pair();
    lab.catch_up(T, &[S]);
    let copied = lab.copied(T, S);
    lab.until(|lab, _| lab.reports.contains(&copied));
    assert!(lab.has_said(copied));
    assert_eq!(lab.told(S, "ms magent.walk"), 1);
    assert_eq!(lab.value(S, "magent.walk"), None);
}

#[test]
fn the_lock_is_renewed_while_the_walk_goes_on_and_expires_soon_after() {
    let mut lab = pair();
    lab.set(S, "a", "1");
    // Nobody hears what the walk says.
    lab.walk_stalls = true;
    lab.catch_up(T, &[S]);
    for _ in 0..9 {
        lab.pass_ms(1_000);
        let left_s = lab.ttl_s(S, "magent.walk").unwrap();
        assert!((6..=10).contains(&left_s), "{left_s}");
    }
    assert_eq!(lab.told(S, "ms magent.walk 12 T10 c C"), 3);
    // The proxy is killed: nobody gives it back.
    lab.now = lab.now.after_ms(10_000);
    assert_eq!(lab.value(S, "magent.walk"), None);
}

#[test]
fn a_lock_that_another_proxy_has_taken_stays() {
    let mut lab = pair();
    lab.set(S, "a", "1");
    lab.walk_stalls = true;
    lab.catch_up(T, &[S]);
    lab.pass_ms(1_000);
    assert!(lab.value(S, "magent.walk").is_some());
    lab.ask(S, "set magent.walk 0 30 1\r\n1\r\n");
    lab.pass_ms(4_000);
    lab.walk_stalls = false;
    lab.pass_ms(1_000);
    assert!(lab.has_said(lab.copied(T, S)));
    assert_eq!(lab.value(S, "magent.walk").as_deref(), Some("1"));
    assert!(lab.ttl_s(S, "magent.walk").unwrap() > 20);
}

#[test]
fn a_walk_that_ends_while_its_lock_is_renewed() {
    let mut lab = pair();
    lab.set(S, "a", "1");
    lab.walk_stalls = true;
    lab.catch_up(T, &[S]);
    lab.pass_ms(2_900);
    lab.now = lab.now.after_ms(200);
    lab.tick(0);
    lab.walk_stalls = false;
    lab.pass_ms(100);
    assert!(lab.has_said(lab.copied(T, S)));
    assert_eq!(lab.told(S, "ms magent.walk 12 T10 c C"), 1);
    assert_eq!(lab.value(S, "magent.walk"), None);
}

#[test]
fn a_walk_that_breaks_off_begins_again() {
    let mut lab = pair();
    for number in 0..50 {
        lab.set(S, &format!("k{number}"), "v");
    }
    lab.catch_up(T, &[S]);
    lab.until_executed(S, "lru_crawler");
    lab.cut(S);
    lab.pass_ms(60_000);
    assert!(lab.has_said(lab.copied(T, S)));
    lab.assert_equal(T, S);
}

#[test]
fn a_list_that_overflows_makes_passes() {
    let mut lab = Lab::with(1, 1, |config| {
        config.limits.heal_keys_max = 100;
    });
    for number in 0..1_000 {
        lab.set(S, &format!("k{number}"), "v");
    }
    lab.catch_up(T, &[S]);
    lab.pass_ms(60_000);
    assert!(lab.has_said(lab.copied(T, S)));
    lab.assert_equal(T, S);
    let walks = lab.told(S, "lru_crawler");
    assert!((10..30).contains(&walks), "{walks} walks");
    assert_eq!(lab.progress[0].look(lab.now).items_total, 1_000);
}
