//! With backups, one backend lost is nothing lost: no client sees an error, no acknowledged value is
//! missed, and none that was replaced or deleted is seen again.
//!
//! Not here: a backend that returns (`returning`), both of a key's backends dead (`both_dead`).

use std::time::Duration;

use super::harness::{Cluster, Load, Magent, Memcached, Relay};

const CLIENTS: u64 = 6;
/// Answers to wait for after a fault: long enough that every key has been read and written again.
const ANSWERS: u64 = 6_000;

/// A cluster of three primaries and two backups under load, a fault, and what clients saw.
#[track_caller]
fn check_under_load(extra: &[&str], fault: impl FnOnce(&mut Cluster)) {
    let mut cluster = Cluster::start(3, 2, extra);
    let load = Load::start(&cluster.magent.endpoint, CLIENTS);
    fault(&mut cluster);
    load.wait_for_answers(ANSWERS);
    let report = load.finish();
    report.assert_perfect();
    // The promise is an answer within `request_ms`, 2 s by default; a hang lasts until `fail_ms`.
    assert!(report.stall_max() < Duration::from_secs(10), "{report}");
}

#[test]
fn primary_killed() {
    check_under_load(&[], |cluster| cluster.primaries[0].kill9());
}

#[test]
fn primary_killed_with_one_worker() {
    check_under_load(&["--threads", "1"], |cluster| cluster.primaries[1].kill9());
}

#[test]
fn primary_killed_with_four_workers() {
    check_under_load(&["--threads", "4"], |cluster| cluster.primaries[2].kill9());
}

#[test]
fn primary_hung() {
    check_under_load(&[], |cluster| cluster.primaries[0].stop());
}

#[test]
fn backup_killed() {
    check_under_load(&[], |cluster| cluster.backups[0].kill9());
}

#[test]
fn backup_hung() {
    check_under_load(&[], |cluster| cluster.backups[1].stop());
}

#[test]
fn primary_killed_by_ketama() {
    check_under_load(&["-k"], |cluster| cluster.primaries[0].kill9());
}

#[test]
fn connections_broken_while_the_backend_lives() {
    let primary = Memcached::start();
    let others = [Memcached::start(), Memcached::start()];
    let backup = Memcached::start();
    let relay = Relay::start(&primary.endpoint);
    let magent = Magent::start(
        &[&relay.endpoint, &others[0].endpoint, &others[1].endpoint],
        &[&backup.endpoint],
        &["--probe-ms-min", "20", "--probe-ms-max", "100"],
    );
    let load = Load::start(&magent.endpoint, CLIENTS);
    for _ in 0..5 {
        relay.break_links();
        load.wait_for_answers(ANSWERS / 4);
    }
    load.finish().assert_perfect();
}

#[test]
fn a_dead_backend_at_start_costs_no_error() {
    let mut dead = Memcached::start();
    let others = [Memcached::start(), Memcached::start()];
    let backup = Memcached::start();
    dead.kill9();
    let magent = Magent::start(
        &[&dead.endpoint, &others[0].endpoint, &others[1].endpoint],
        &[&backup.endpoint],
        &[],
    );
    let load = Load::start(&magent.endpoint, CLIENTS);
    load.wait_for_answers(ANSWERS);
    load.finish().assert_perfect();
}

#[test]
fn conditional_writes_are_decided_by_the_primary_alone() {
    let cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    let key = cluster.key_on(0, 1);
    client.set(&key, b"7");
    // The copies differ, as after an eviction: the primary's is the one that counts.
    cluster.backup_of(&key).client().set(&key, b"100");
    client.ask(format!("incr {key} 1\r\n").as_bytes(), b"8\r\n");
    assert_eq!(client.get(&key), Some(b"8".to_vec()));
    let add = format!("add {key} 0 0 1\r\nx\r\n");
    // Deleted behind the proxy's back, if it was not deleted as a copy that disagreed.
    cluster
        .backup_of(&key)
        .client()
        .try_command(&format!("delete {key}"))
        .unwrap();
    client.ask(add.as_bytes(), b"NOT_STORED\r\n");
    assert_ne!(cluster.backup_of(&key).value(&key), Some(b"x".to_vec()));
    assert_eq!(client.get(&key), Some(b"8".to_vec()));
}

#[test]
fn every_kind_of_write_reaches_the_backup() {
    let cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    let key = cluster.key_on(1, 2);
    let expect = |value: Option<&[u8]>| {
        assert_eq!(
            cluster.primary_of(&key).value(&key).as_deref(),
            value,
            "primary"
        );
        assert_eq!(
            cluster.backup_of(&key).value(&key).as_deref(),
            value,
            "backup"
        );
    };
    client.ask(
        format!("add {key} 5 0 2\r\n10\r\n").as_bytes(),
        b"STORED\r\n",
    );
    expect(Some(b"10"));
    client.ask(format!("incr {key} 5\r\n").as_bytes(), b"15\r\n");
    expect(Some(b"15"));
    client.ask(
        format!("append {key} 0 0 1\r\n!\r\n").as_bytes(),
        b"STORED\r\n",
    );
    expect(Some(b"15!"));
    client.ask(
        format!("prepend {key} 0 0 1\r\n#\r\n").as_bytes(),
        b"STORED\r\n",
    );
    expect(Some(b"#15!"));
    client.ask(
        format!("replace {key} 0 0 1\r\nr\r\n").as_bytes(),
        b"STORED\r\n",
    );
    expect(Some(b"r"));
    client.ask(format!("ms {key} 1\r\nm\r\n").as_bytes(), b"HD\r\n");
    expect(Some(b"m"));
    client.ask(format!("md {key} q\r\nmn\r\n").as_bytes(), b"MN\r\n");
    expect(None);
    client.ask(
        format!("set {key} 0 0 1 noreply\r\nn\r\nmn\r\n").as_bytes(),
        b"MN\r\n",
    );
    // A noreply write may still be under way behind `mn`; a get of the same key is ordered after it.
    assert_eq!(client.get(&key), Some(b"n".to_vec()));
    client.delete(&key);
    expect(None);
}
