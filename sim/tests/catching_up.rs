//! Scenarios: what clients see of keys while a copy of theirs catches up.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use magent_core::config::Limits;
use magent_core::placement::Phase;
use magent_node::Crawler;
use sim::{Fault, Options, World};

/// One primary (backend 0) that catches up from its backup (backend 1), and goes on to do so: the crawler of the
/// backup is somebody else's, and the connection of the healer to the primary hangs.
fn primary_catches_up() -> World {
    let mut world = World::new(Options::quiet());
    world.run_ms(5);
    world.begin(1, Fault::Busy);
    world.begin(0, Fault::CrashEmpty);
    world.end(0, Fault::CrashEmpty);
    world.run_until(|world| world.is_in(0, Phase::CatchingUp));
    world.run_ms(5);
    let client = world.client(0);
    world.say(client, "set o 0 0 1\r\n1\r\nincr o 1\r\n");
    world.expect(client, "STORED\r\n2\r\n");
    world.run_until(|world| world.item(0, "o").is_some());
    world.begin(0, Fault::StallHealer);
    world
}

/// Found by seeds 61655 and 62395: the touch was told to the primary by a deletion, and the backup died before the
/// key was copied again.
#[test]
fn what_is_touched_while_a_copy_catches_up_stays_on_both() {
    for touch in ["touch k 100\r\n", "gat 100 k\r\n", "mg k T100\r\n"] {
        let mut world = primary_catches_up();
        let client = world.client(0);
        world.say(client, "set k 0 0 1\r\n1\r\n");
        world.expect(client, "STORED\r\n");
        world.say(client, touch);
        world.run_ms(5);
        assert_eq!(world.item(0, "k").as_deref(), Some("1"), "{touch:?}");
        let _touched = world.heard(client);
        world.begin(1, Fault::CrashEmpty);
        world.end(0, Fault::StallHealer);
        world.say(client, "get k\r\n");
        world.expect(client, "VALUE k 0 1\r\n1\r\nEND\r\n");
    }
}

/// The healer has read an item, somebody touches it, and the copy is stored: with the new end.
#[test]
fn what_is_touched_while_it_is_copied_gets_the_new_end() {
    for moment_us in (0..4_000).step_by(100) {
        let mut world = World::new(Options {
            latency_us_max: 500,
            ..Options::quiet()
        });
        world.run_ms(5);
        let client = world.client(0);
        world.say(client, "set k 0 1000 1\r\n1\r\n");
        world.expect(client, "STORED\r\n");
        world.begin(0, Fault::CrashEmpty);
        world.end(0, Fault::CrashEmpty);
        world.run_until(|world| world.is_in(0, Phase::CatchingUp));
        world.run_us(moment_us);
        world.say(client, "touch k 5000\r\n");
        world.expect(client, "TOUCHED\r\n");
        world.run_until(|world| world.is_in(0, Phase::Up));
        assert!(world.ttl_s(0, "k") > Some(4_000), "at {moment_us}");
    }
}

/// Found by seeds 52690, 53261 and 56798: the backup had just refused to be walked for another primary, so it was not
/// asked again for a minute, and until then nobody knew that it refuses.
#[test]
fn who_refuses_to_be_walked_does_so_for_all() {
    let mut world = World::new(Options {
        primaries: 2,
        crawler: Crawler::DumpForbidden,
        ..Options::quiet()
    });
    world.run_ms(5);
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let client = world.client(0);
    for primary in [0, 1] {
        let key = keys
            .iter()
            .find(|key| world.route(key).0 == primary)
            .unwrap();
        world.say(client, &format!("set {key} 0 0 1\r\n1\r\n"));
        world.expect(client, "STORED\r\n");
        world.begin(primary, Fault::CrashEmpty);
        world.end(primary, Fault::CrashEmpty);
        world.run_until(|world| world.is_in(primary, Phase::CatchingUp));
        world.run_ms(1_000);
        assert_eq!(
            world.item(primary, key),
            None,
            "nobody could say that it is missing"
        );
        world.say(client, &format!("get {key}\r\n"));
        world.expect(client, &format!("VALUE {key} 0 1\r\n1\r\nEND\r\n"));
        world.run_ms(100);
        assert_eq!(
            world.item(primary, key).as_deref(),
            Some("1"),
            "it is copied when it is read"
        );
    }
}

/// Found by seeds 202225 and 304595: the backup had executed the append and not said so, the healer had copied what it
/// made of the item, and then the primary was asked to append as well.
#[test]
fn what_was_copied_before_it_was_answered_is_not_done_again() {
    let quiet = Options::quiet();
    let mut world = World::new(Options {
        limits: Limits {
            fail_ms: 2_000,
            request_ms: 8_000,
            ..quiet.limits
        },
        ..quiet
    });
    world.run_ms(5);
    let client = world.client(0);
    world.say(client, "set k 0 0 1\r\n1\r\n");
    world.expect(client, "STORED\r\n");
    world.begin(1, Fault::Busy);
    world.begin(0, Fault::CrashEmpty);
    world.end(0, Fault::CrashEmpty);
    world.run_until(|world| world.is_in(0, Phase::CatchingUp));
    world.run_ms(5);
    world.say(client, "append k 0 0 1\r\n2\r\n");
    world.run_until(|world| world.item(1, "k").as_deref() == Some("12"));
    world.begin(1, Fault::Stall);
    world.end(1, Fault::Busy);
    world.run_until(|world| world.item(0, "k").as_deref() == Some("12"));
    world.run_ms(20);
    world.begin(1, Fault::CrashEmpty);
    world.say(client, "get k\r\n");
    let failed = "SERVER_ERROR backend failed before it answered\r\n";
    world.expect(client, &format!("{failed}VALUE k 0 2\r\n12\r\nEND\r\n"));
}

/// A limit: the primary had only the old value, so nobody has the new one.
#[test]
fn what_is_counted_while_a_copy_catches_up_is_missed_and_never_old() {
    let mut world = primary_catches_up();
    let client = world.client(0);
    world.say(client, "set n 0 0 1\r\n5\r\n");
    world.expect(client, "STORED\r\n");
    world.say(client, "incr n 1\r\n");
    world.expect(client, "6\r\n");
    world.begin(1, Fault::CrashEmpty);
    world.end(0, Fault::StallHealer);
    world.say(client, "get n\r\n");
    world.expect(client, "END\r\n");
}
