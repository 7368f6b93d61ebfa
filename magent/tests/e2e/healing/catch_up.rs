//! The copying itself: many items, its rate, and backends that do not tell what they hold.

use std::time::{Duration, Instant};

use super::super::harness::{
    Cluster, EXPIRY_OFF_MAX, Load, Magent, Memcached, QUICK_PROBES, free_endpoint, index_of,
    items_through, missing, store_dataset, wait_until,
};
use super::{ANSWERS, CLIENTS, ITEMS, Scene, log_lines};

/// Items of the large catch-up. `HEAL_ITEMS=200000` is the size that the promise is about; a default that
/// leaves the machine to the other tests is the same code.
fn many_items() -> u32 {
    std::env::var("HEAL_ITEMS").map_or(30_000, |count| count.parse().unwrap())
}

#[test]
fn many_items_under_load() {
    let mut cluster = Cluster::start(1, 1, &[]);
    let items = store_dataset(&cluster.magent.endpoint, many_items());
    let load = Load::start(&cluster.magent.endpoint, CLIENTS);
    let primary = cluster.primaries[0].endpoint.clone();
    cluster.primaries[0].kill9();
    cluster.magent.wait_until_state(&primary, &["down"]);
    load.wait_for_answers(ANSWERS);
    cluster.primaries[0].restart();
    cluster.magent.wait_until_healed();
    let report = load.finish();
    report.assert_perfect();
    let mut expected = items;
    expected.extend(report.expected);
    cluster.assert_in_step(&expected);
    println!("{}", log_lines(&cluster.magent, "caught up:").join("\n"));
}

/// How long the return of an emptied backend takes that has everything, from its start until it is read.
#[track_caller]
fn return_took(rate: &[&str]) -> Duration {
    let mut cluster = Cluster::start(1, 1, rate);
    let items = store_dataset(&cluster.magent.endpoint, ITEMS);
    let primary = cluster.primaries[0].endpoint.clone();
    cluster.primaries[0].kill9();
    cluster.magent.wait_until_state(&primary, &["down"]);
    let started_at = Instant::now();
    cluster.primaries[0].restart();
    cluster.magent.wait_until_healed();
    let took = started_at.elapsed();
    cluster.assert_in_step(&items);
    took
}

#[test]
fn the_rate_is_kept() {
    let fast = return_took(&[]);
    // 2,000 items, and 1.8 MB. A rate lets at most a second's worth pass at once.
    let by_items = return_took(&["--heal-rate", "1000"]);
    let by_bytes = return_took(&["--heal-rate", "20000,900k"]);
    println!("a return took {fast:?}; {by_items:?} at 1,000 items/s, {by_bytes:?} at 900 kB/s");
    for slow in [by_items, by_bytes] {
        // As long as a limit demands, not shorter, whatever the machine does.
        assert!(
            slow > fast && slow >= Duration::from_millis(900),
            "{slow:?}, {fast:?} without a limit"
        );
    }
}

#[test]
fn a_source_hangs_in_the_middle() {
    let mut cluster = Cluster::start(3, 2, &["--heal-rate", "400"]);
    let items = store_dataset(&cluster.magent.endpoint, ITEMS);
    let primary = cluster.primaries[0].endpoint.clone();
    cluster.primaries[0].kill9();
    cluster.magent.wait_until_state(&primary, &["down"]);
    cluster.primaries[0].restart();
    cluster.magent.wait_until_state(&primary, &["catching up"]);
    let backup = &cluster.backups[0];
    backup.stop();
    // Somebody has to ask for it to be noticed.
    let mut client = cluster.magent.client();
    let key = cluster.key_on_both(1, 0, 1);
    wait_until("it is down", || {
        client.get(&key);
        cluster.magent.states()[&backup.endpoint.to_string()] == "down"
    });
    backup.cont();
    cluster.magent.wait_until_healed();
    cluster.assert_in_step(&items);
}

#[test]
fn backends_that_do_not_tell_their_keys_fill_on_read() {
    let primaries: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let backups: Vec<Memcached> = (0..2)
        .map(|_| Memcached::start_at(free_endpoint(), &["-X"]))
        .collect();
    let magent = Magent::start(
        &primaries
            .iter()
            .map(|primary| &primary.endpoint)
            .collect::<Vec<_>>(),
        &backups
            .iter()
            .map(|backup| &backup.endpoint)
            .collect::<Vec<_>>(),
        &QUICK_PROBES,
    );
    let mut scene = Scene::with(Cluster {
        magent,
        primaries,
        backups,
    });
    scene.kill(|cluster| &mut cluster.primaries[0]);
    scene.cluster.primaries[0].restart();
    let primary = scene.cluster.primaries[0].endpoint.clone();
    scene
        .cluster
        .magent
        .wait_until_state(&primary, &["catching up", "flipping", "up"]);
    wait_until("the log says so", || {
        !log_lines(&scene.cluster.magent, "does not tell its keys").is_empty()
    });
    scene.load.wait_for_answers(ANSWERS);
    // Whoever reads an item has it copied.
    let read = items_through(&scene.cluster.magent, scene.items.keys());
    assert_eq!(read.len(), scene.items.len());
    let mut share = scene.items.clone();
    share.retain(|key, _| index_of(key, 3) == 0);
    wait_until("what was read is on the primary", || {
        let held = scene.cluster.primaries[0].items_of(share.keys());
        missing(&share, &held, EXPIRY_OFF_MAX, "the primary").is_empty()
    });
    let report = scene.load.finish();
    report.assert_perfect();
}
