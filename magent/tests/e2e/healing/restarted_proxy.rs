//! The proxy itself is killed while a backend is away: what that backend missed is not forgotten.

use tempfile::TempDir;

use super::super::harness::{Cluster, Load, Magent, items_through, keep_doing, store_dataset};
use super::changes::Changes;
use super::{ANSWERS, CLIENTS, ITEMS};
use std::time::Duration;

/// A cluster whose proxy keeps its state in a directory.
fn start() -> (TempDir, Cluster) {
    let dir = TempDir::new().unwrap();
    let cluster = Cluster::start(3, 2, &["--state-dir", dir.path().to_str().unwrap()]);
    (dir, cluster)
}

#[track_caller]
fn kill_and_restart(magent: &mut Magent) {
    magent.kill9();
    magent.restart();
}

#[test]
fn killed_while_a_primary_hangs() {
    let (_dir, mut cluster) = start();
    let mut items = store_dataset(&cluster.magent.endpoint, ITEMS);
    let mut client = cluster.magent.client();
    let mut changes = Changes::prepare(&mut client);
    cluster.primaries[0].stop();
    for _ in 0..3 {
        changes.make(&mut client);
    }
    kill_and_restart(&mut cluster.magent);
    let mut client = cluster.magent.client();
    changes.check(&mut client);
    changes.make(&mut client);
    cluster.primaries[0].cont();
    keep_doing(Duration::from_secs(1), || changes.check(&mut client));
    cluster.magent.wait_until_healed();
    changes.check(&mut client);
    items.append(&mut changes.expected());
    cluster.assert_in_step(&items);
}

#[test]
fn killed_while_a_primary_hangs_which_goes_on_before_the_proxy_is_back() {
    let (_dir, mut cluster) = start();
    let mut items = store_dataset(&cluster.magent.endpoint, ITEMS);
    let mut client = cluster.magent.client();
    let mut changes = Changes::prepare(&mut client);
    cluster.primaries[0].stop();
    for _ in 0..3 {
        changes.make(&mut client);
    }
    cluster.magent.kill9();
    cluster.primaries[0].cont();
    cluster.magent.restart();
    let mut client = cluster.magent.client();
    // The first answer counts.
    changes.check(&mut client);
    keep_doing(Duration::from_secs(1), || changes.check(&mut client));
    cluster.magent.wait_until_healed();
    items.append(&mut changes.expected());
    cluster.assert_in_step(&items);
}

#[test]
fn killed_again_and_again_under_load_while_a_primary_hangs_and_returns() {
    let (_dir, mut cluster) = start();
    let mut items = store_dataset(&cluster.magent.endpoint, ITEMS);
    let load = Load::start(&cluster.magent.endpoint, CLIENTS);
    cluster.primaries[0].stop();
    let primary = cluster.primaries[0].endpoint.clone();
    cluster.magent.wait_until_state(&primary, &["down"]);
    load.wait_for_answers(ANSWERS);
    kill_and_restart(&mut cluster.magent);
    load.wait_for_answers(ANSWERS);
    cluster.primaries[0].cont();
    cluster
        .magent
        .wait_until_state(&primary, &["purging", "catching up", "flipping", "up"]);
    kill_and_restart(&mut cluster.magent);
    load.wait_for_answers(ANSWERS);
    cluster.magent.wait_until_healed();
    load.wait_for_answers(ANSWERS);
    let mut report = load.finish();
    // Clients lost their connections with the proxy, and nothing else.
    report.assert_right();
    assert!(
        report.errors.iter().all(|error| !error.contains("ERROR")),
        "{:#?}",
        report.errors
    );
    items.append(&mut report.expected);
    cluster.magent.wait_until_healed();
    cluster.assert_holds(&items);
}

#[test]
fn killed_in_the_middle_of_a_catch_up() {
    let dir = TempDir::new().unwrap();
    let mut cluster = Cluster::start(
        3,
        2,
        &[
            "--heal-rate",
            "300",
            "--state-dir",
            dir.path().to_str().unwrap(),
        ],
    );
    let items = store_dataset(&cluster.magent.endpoint, ITEMS);
    let primary = cluster.primaries[0].endpoint.clone();
    cluster.primaries[0].kill9();
    cluster.magent.wait_until_state(&primary, &["down"]);
    cluster.primaries[0].restart();
    cluster.magent.wait_until_state(&primary, &["catching up"]);
    kill_and_restart(&mut cluster.magent);
    let mut client = cluster.magent.client();
    let read = items_through(&cluster.magent, items.keys());
    assert_eq!(
        read.len(),
        items.len(),
        "what was not copied yet is read where it is"
    );
    drop(client.stats("magent"));
    cluster.magent.wait_until_healed();
    cluster.assert_in_step(&items);
}
