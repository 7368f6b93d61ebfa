//! A backend that comes back, empty or with what it held before, never shows an old value.

use super::harness::{
    Cluster, Load, Magent, Memcached, Path, Relay, keep_doing, key_at, wait_until,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// Long against the probes' pauses (at most 100 ms here): whatever a return changes has happened.
const AFTER_RETURN: Duration = Duration::from_secs(2);

#[test]
fn killed_primary_returns_empty_under_load() {
    let mut cluster = Cluster::start(3, 2, &[]);
    let load = Load::start(&cluster.magent.endpoint, 6);
    cluster.primaries[0].kill9();
    load.wait_for_answers(3_000);
    cluster.primaries[0].restart();
    wait_until("writes reach the primary", || {
        cluster.primaries[0].stat("cmd_set") > 0
    });
    load.wait_for_answers(6_000);
    load.finish().assert_perfect();
}

#[test]
fn killed_backup_returns_empty_under_load() {
    let mut cluster = Cluster::start(3, 2, &[]);
    let load = Load::start(&cluster.magent.endpoint, 6);
    cluster.backups[0].kill9();
    load.wait_for_answers(3_000);
    cluster.backups[0].restart();
    wait_until("writes reach the backup", || {
        cluster.backups[0].stat("cmd_set") > 0
    });
    load.wait_for_answers(6_000);
    load.finish().assert_perfect();
}

#[test]
fn hung_primary_returns_with_its_data_under_load() {
    let cluster = Cluster::start(3, 2, &[]);
    let load = Load::start(&cluster.magent.endpoint, 6);
    for _ in 0..2 {
        cluster.primaries[0].stop();
        load.wait_for_answers(3_000);
        let primary = &cluster.primaries[0];
        primary.cont();
        let before = primary.stat("cmd_set");
        wait_until("writes reach the primary", || {
            primary.stat("cmd_set") > before
        });
        load.wait_for_answers(3_000);
    }
    load.finish().assert_perfect();
}

#[test]
fn cut_off_primary_returns_with_its_data_under_load() {
    let cut = CutOff::start();
    let load = Load::start(&cut.magent.endpoint, 6);
    for _ in 0..2 {
        cut.relay.set_path(Path::Cut);
        load.wait_for_answers(3_000);
        let before = cut.primary.stat("cmd_set");
        cut.relay.set_path(Path::Whole);
        wait_until("writes reach the primary", || {
            cut.primary.stat("cmd_set") > before
        });
        load.wait_for_answers(3_000);
    }
    load.finish().assert_perfect();
}

#[test]
fn one_primary_after_the_other_under_load() {
    let cluster = Cluster::start(3, 2, &[]);
    let load = Load::start(&cluster.magent.endpoint, 6);
    for index in 0..3 {
        cluster.primaries[index].stop();
        cluster.wait_until_answered(index);
        cluster.primaries[index].cont();
        cluster.wait_until_written(index);
        load.wait_for_answers(1_000);
    }
    load.finish().assert_perfect();
}

#[test]
fn what_changed_while_a_primary_was_cut_off_stays_changed() {
    let cut = CutOff::start();
    let mut client = cut.magent.client();
    let keys: Vec<String> = (0..200).map(|seed| key_at(3, 0, seed)).collect();
    for key in &keys {
        client.set(key, b"before the cut");
    }
    cut.relay.set_path(Path::Cut);
    let mut expected = BTreeMap::new();
    for (n, key) in keys.iter().enumerate() {
        match n % 3 {
            0 => {
                client.set(key, b"after the cut");
                expected.insert(key.clone(), b"after the cut".to_vec());
            }
            1 => client.delete(key),
            _ => {
                expected.insert(key.clone(), b"before the cut".to_vec());
            }
        }
    }
    assert_eq!(
        cut.primary.value(&keys[1]),
        Some(b"before the cut".to_vec()),
        "it was cut off"
    );
    cut.relay.set_path(Path::Whole);
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let fresh = key_at(3, 0, u32::MAX);
    wait_until("writes reach the primary", || {
        // Read all the while: the return itself is when an old value could slip out.
        assert_eq!(client.get_many(&keys), expected);
        client.set(&fresh, b"here?");
        cut.primary.value(&fresh).is_some()
    });
    keep_doing(AFTER_RETURN, || {
        assert_eq!(client.get_many(&keys), expected);
    });
    // The copies that the primary kept are right by now, too, or gone.
    for (n, key) in keys.iter().enumerate().filter(|(n, _)| n % 3 != 2) {
        let held = cut.primary.value(key);
        assert!(
            held.is_none() || held.as_ref() == expected.get(*key),
            "{n} {key}: {held:?}"
        );
    }
}

#[test]
fn a_hung_primary_does_not_execute_old_writes_after_its_return() {
    let cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    let keys: Vec<String> = (0..100).map(|seed| cluster.key_on(0, seed)).collect();
    for key in &keys {
        client.set(key, b"0");
    }
    cluster.primaries[0].stop();
    // The first of these are in the stopped memcached's socket buffers, and SIGCONT executes them.
    for round in 1..=3 {
        for key in &keys {
            client.set(key, format!("{round}").as_bytes());
        }
    }
    cluster.primaries[0].cont();
    let expected: BTreeMap<String, Vec<u8>> = keys
        .iter()
        .map(|key| (key.clone(), b"3".to_vec()))
        .collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    keep_doing(AFTER_RETURN, || {
        assert_eq!(client.get_many(&keys), expected);
    });
    cluster.wait_until_written(0);
    assert_eq!(client.get_many(&keys), expected);
}

#[test]
fn a_flush_while_a_primary_was_away_holds_after_its_return() {
    let cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    let key = cluster.key_on(0, 1);
    client.set(&key, b"before the flush");
    cluster.primaries[0].stop();
    assert_eq!(client.get(&key), Some(b"before the flush".to_vec()));
    client.ask(b"flush_all\r\n", b"OK\r\n");
    cluster.primaries[0].cont();
    cluster.wait_until_written(0);
    keep_doing(AFTER_RETURN, || assert_eq!(client.get(&key), None));
}

/// Three primaries, the first behind a relay, and one backup.
struct CutOff {
    magent: Magent,
    relay: Relay,
    primary: Memcached,
    _others: [Memcached; 3],
}

impl CutOff {
    fn start() -> Self {
        let primary = Memcached::start();
        let others = [Memcached::start(), Memcached::start(), Memcached::start()];
        let relay = Relay::start(&primary.endpoint);
        let magent = Magent::start(
            &[&relay.endpoint, &others[0].endpoint, &others[1].endpoint],
            &[&others[2].endpoint],
            &["--probe-ms-min", "20", "--probe-ms-max", "100"],
        );
        Self {
            magent,
            relay,
            primary,
            _others: others,
        }
    }
}
