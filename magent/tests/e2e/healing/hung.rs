//! Backends that stand still and go on: SIGSTOP, SIGCONT.
//!
//! What was in a stopped memcached's socket buffers is executed when it goes on, which must not undo what was
//! acknowledged meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::super::harness::{
    Client, Cluster, Endpoint, Items, Magent, Memcached, QUICK_PROBES, endpoints, free_endpoint,
    keep_doing, wait_until,
};
use super::changes::Changes;
use super::{ANSWERS, Scene};

/// A cluster whose primary stands still for `span`, while clients overwrite, delete, count and touch.
#[track_caller]
fn check_hung(span: Duration, extra: &[&str]) {
    let mut scene = Scene::start(extra);
    let mut client = scene.cluster.magent.client();
    let mut changes = Changes::prepare(&mut client);
    let (cluster, over) = (&scene.cluster, AtomicBool::new(false));
    cluster.primaries[0].stop();
    std::thread::scope(|scope| {
        // Again and again: each round has its own newest values. A round that waits does not make it last.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                changes.make(&mut client);
            }
        });
        let started_at = Instant::now();
        wait_until("it has hung for so long", || started_at.elapsed() >= span);
        cluster.primaries[0].cont();
        over.store(true, Ordering::Relaxed);
    });
    keep_doing(Duration::from_millis(300), || changes.check(&mut client));
    scene.cluster.magent.wait_until_healed();
    changes.check(&mut client);
    scene.items.append(&mut changes.expected());
    let cluster = &scene.cluster;
    wait_until("deleted keys are gone from the primary", || {
        changes
            .deleted()
            .all(|key| cluster.primaries[0].value(&key).is_none())
    });
    scene.finish();
}

#[test]
fn a_primary_hangs_for_300_ms() {
    check_hung(Duration::from_millis(300), &[]);
}

#[test]
fn a_primary_hangs_for_1_s() {
    check_hung(Duration::from_secs(1), &[]);
}

#[test]
fn a_primary_hangs_for_5_s() {
    check_hung(Duration::from_secs(5), &[]);
}

#[test]
fn a_primary_hangs_again_while_it_catches_up() {
    let scene = Scene::start(&["--heal-rate", "500"]);
    let primary = &scene.cluster.primaries[0];
    for _ in 0..2 {
        primary.stop();
        scene
            .cluster
            .magent
            .wait_until_state(&primary.endpoint, &["down"]);
        scene.load.wait_for_answers(ANSWERS / 2);
        primary.cont();
        scene.cluster.magent.wait_until_state(
            &primary.endpoint,
            &["purging", "catching up", "flipping", "up"],
        );
    }
    scene.finish();
}

#[test]
fn a_backup_hangs() {
    let scene = Scene::start(&[]);
    let backup = &scene.cluster.backups[0];
    backup.stop();
    scene
        .cluster
        .magent
        .wait_until_state(&backup.endpoint, &["down"]);
    scene.load.wait_for_answers(ANSWERS);
    backup.cont();
    scene.finish();
}

#[test]
fn a_primary_misses_more_than_is_remembered() {
    let scene = Scene::start(&["--remember-keys", "50"]);
    let primary = &scene.cluster.primaries[0];
    primary.stop();
    scene
        .cluster
        .magent
        .wait_until_state(&primary.endpoint, &["down"]);
    scene.load.wait_for_answers(ANSWERS);
    primary.cont();
    scene.cluster.magent.wait_until_healed();
    // By each worker: one that hears of the return later has diverted writes until then.
    assert!(primary.stat("cmd_flush") >= 1, "it was flushed");
    scene.finish();
}

#[test]
fn writes_in_a_hung_primarys_buffers_do_not_undo_what_came_after() {
    let mut cluster = Cluster::start(3, 2, &[]);
    // Four threads, as by default: what is in the buffers of one connection is executed beside what comes on
    // another, and is so many commands that it takes its time.
    cluster.primaries[0] = Memcached::start_at(free_endpoint(), &["-t", "4"]);
    let primaries: Vec<&Endpoint> = endpoints(&cluster.primaries);
    cluster.magent = Magent::start(&primaries, &endpoints(&cluster.backups), &QUICK_PROBES);
    let keys: Vec<String> = (0..2_000).map(|seed| cluster.key_on(0, seed)).collect();
    let mut clients: Vec<Client> = (0..8).map(|_| cluster.magent.client()).collect();
    for round in 0..2 {
        cluster.primaries[0].stop();
        for stage in ["old", "new"] {
            let value = format!("{stage}{round}").into_bytes();
            for (client, keys) in clients.iter_mut().zip(keys.chunks(250)) {
                let head = |key: &String| format!("set {key} 0 0 {}\r\n", value.len());
                let requests = keys
                    .iter()
                    .map(|key| [head(key).as_bytes(), &value, b"\r\n"].concat());
                client.send(&requests.collect::<Vec<_>>().concat());
            }
            for (client, keys) in clients.iter_mut().zip(keys.chunks(250)) {
                client.expect(&b"STORED\r\n".repeat(keys.len()));
            }
        }
        cluster.primaries[0].cont();
        let newest = format!("new{round}").into_bytes();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let check = |client: &mut Client| {
            let values = client.get_many(&keys);
            let right = |key: &&str| {
                values
                    .get(*key)
                    .is_some_and(|value| value.starts_with(&newest))
            };
            assert!(
                keys.iter().all(right),
                "round {round}: {:?}",
                keys.iter().find(|key| !right(key))
            );
        };
        wait_until("it is healed", || {
            check(&mut clients[0]);
            cluster.magent.states().values().all(|state| state == "up")
        });
        check(&mut clients[0]);
    }
    cluster.assert_in_step(&Items::new());
}
