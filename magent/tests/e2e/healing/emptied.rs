//! Backends that come back with nothing.

use super::super::harness::{Cluster, wait_until};
use super::{ANSWERS, Scene};

#[test]
fn a_primary_is_killed_and_started_again() {
    let mut scene = Scene::start(&[]);
    scene.load.wait_for_answers(ANSWERS);
    scene.kill(|cluster| &mut cluster.primaries[0]);
    scene.cluster.primaries[0].restart();
    scene.finish();
}

#[test]
fn the_same_without_a_fault() {
    // What the longest stall of the others is compared with by whoever reads the output.
    let scene = Scene::start(&[]);
    scene.load.wait_for_answers(2 * ANSWERS);
    scene.finish();
}

#[test]
fn a_backup_is_killed_and_started_again() {
    let mut scene = Scene::start(&[]);
    scene.kill(|cluster| &mut cluster.backups[0]);
    scene.cluster.backups[0].restart();
    scene.finish();
}

#[test]
fn a_primary_flaps() {
    let mut scene = Scene::start(&[]);
    let primary = scene.cluster.primaries[1].endpoint.clone();
    for round in 0..6 {
        scene.cluster.primaries[1].kill9();
        scene.cluster.magent.wait_until_state(&primary, &["down"]);
        scene.cluster.primaries[1].restart();
        // It fails again in every stage of its return.
        scene.load.wait_for_answers(50 << round);
    }
    scene.finish();
}

#[test]
fn a_restart_between_two_requests_is_noticed() {
    let mut cluster = Cluster::start(3, 2, &[]);
    let items = super::store_dataset(&cluster.magent.endpoint, super::ITEMS);
    let mut client = cluster.magent.client();
    let key = cluster.key_on(0, 1);
    for round in 0..5 {
        let value = format!("value {round}");
        client.set(&key, value.as_bytes());
        cluster.primaries[0].kill9();
        cluster.primaries[0].restart();
        // The proxy was not asked for anything meanwhile; the first to ask finds what was stored.
        assert_eq!(client.get(&key), Some(value.into_bytes()), "round {round}");
        wait_until("the primary has the value again", || {
            cluster.primaries[0].value(&key).is_some()
        });
        cluster.magent.wait_until_healed();
    }
    cluster.assert_in_step(&items);
}

#[test]
fn all_primaries_are_killed() {
    let mut scene = Scene::start(&[]);
    for index in 0..3 {
        scene.cluster.primaries[index].kill9();
    }
    scene.load.wait_for_answers(ANSWERS);
    for index in 0..3 {
        scene.cluster.primaries[index].restart();
    }
    scene.finish();
}

#[test]
fn one_after_the_other_is_killed_and_healed() {
    let mut scene = Scene::start(&[]);
    let picks: [fn(&mut Cluster) -> &mut _; 5] = [
        |cluster| &mut cluster.primaries[0],
        |cluster| &mut cluster.backups[0],
        |cluster| &mut cluster.backups[1],
        |cluster| &mut cluster.primaries[1],
        |cluster| &mut cluster.primaries[2],
    ];
    for pick in picks {
        scene.kill(pick);
        pick(&mut scene.cluster).restart();
        // Only what is healed may lose its partner.
        scene.cluster.magent.wait_until_healed();
    }
    // Copied there and back.
    scene.finish();
}
