//! Backends that cannot be reached for a while, and never notice: they come back with what they held.
//!
//! Behind a relay the proxy cannot see its old connections on the backend (it has another address there), so
//! it waits until the backend has answered for `settle_ms`. In a network of its own the backend keeps the
//! connections that the proxy has given up, which the proxy sees.

use std::time::Duration;

use super::super::harness::{
    Client, Cluster, Items, Magent, Memcached, Network, Path, QUICK_PROBES, Relay, keep_doing,
    wait_until,
};
use super::changes::Changes;
use super::{ANSWERS, Scene};

/// Three primaries, the first behind a relay, and two backups.
fn cluster_behind_relay(extra: &[&str]) -> (Cluster, Relay) {
    let [primaries, backups] =
        [3, 2].map(|count| -> Vec<Memcached> { (0..count).map(|_| Memcached::start()).collect() });
    let relay = Relay::start(&primaries[0].endpoint);
    let magent = Magent::start(
        &[
            &relay.endpoint,
            &primaries[1].endpoint,
            &primaries[2].endpoint,
        ],
        &[&backups[0].endpoint, &backups[1].endpoint],
        &[&QUICK_PROBES[..], extra].concat(),
    );
    let cluster = Cluster {
        magent,
        primaries,
        backups,
    };
    (cluster, relay)
}

#[test]
fn a_primary_is_cut_off_by_a_relay() {
    let (cluster, relay) = cluster_behind_relay(&[]);
    let mut scene = Scene::with(cluster);
    let mut client = scene.cluster.magent.client();
    let mut changes = Changes::prepare(&mut client);
    relay.set_path(Path::Cut);
    changes.make(&mut client);
    scene
        .cluster
        .magent
        .wait_until_state(&relay.endpoint, &["down"]);
    scene.load.wait_for_answers(ANSWERS);
    changes.make(&mut client);
    relay.set_path(Path::Whole);
    wait_until("it is up", || {
        changes.check(&mut client);
        scene.cluster.magent.states()[&relay.endpoint.to_string()] == "up"
    });
    changes.check(&mut client);
    scene.items.append(&mut changes.expected());
    scene.finish();
}

#[test]
fn connections_to_a_primary_are_broken_with_writes_in_flight() {
    let (cluster, relay) = cluster_behind_relay(&[]);
    let scene = Scene::with(cluster);
    for _ in 0..10 {
        relay.break_links();
        scene.load.wait_for_answers(ANSWERS / 10);
    }
    scene.cluster.magent.wait_until_healed();
    // Nothing but what was in flight was missed: nothing is emptied for that.
    assert_eq!(scene.cluster.primaries[0].stat("cmd_flush"), 0);
    scene.finish();
}

#[test]
fn writes_that_arrive_long_after_do_not_undo_what_came_after() {
    let (cluster, relay) = cluster_behind_relay(&[]);
    let mut client = cluster.magent.client();
    let keys: Vec<String> = (0..100).map(|seed| cluster.key_on(0, seed)).collect();
    let store_all = |client: &mut Client, value: &str| {
        let len = value.len();
        let requests = keys
            .iter()
            .map(|key| format!("set {key} 0 0 {len}\r\n{value}\r\n"));
        client.ask(
            requests.collect::<String>().as_bytes(),
            &b"STORED\r\n".repeat(keys.len()),
        );
    };
    store_all(&mut client, "before");
    // From here on the backend answers whoever is new, and has yet to read what it was sent before.
    relay.hold_back();
    store_all(&mut client, "old");
    store_all(&mut client, "new");
    let check = |client: &mut Client| {
        for key in &keys {
            assert_eq!(client.get(key).as_deref(), Some(&b"new"[..]), "{key}");
        }
    };
    // Not for so long that the proxy gives up waiting (`settle_ms`, 5 s).
    keep_doing(Duration::from_secs(1), || check(&mut client));
    relay.let_go();
    keep_doing(Duration::from_secs(1), || check(&mut client));
    cluster.magent.wait_until_healed();
    check(&mut client);
    cluster.assert_in_step(&Items::new());
}

#[test]
fn a_primary_is_cut_off_by_the_network() {
    let Some(network) = Network::start() else {
        println!("not tried: a network namespace needs root and the commands ip and nsenter");
        return;
    };
    let mut cluster = Cluster::start(3, 2, &[]);
    cluster.primaries[0] = network.start_memcached();
    let primaries: Vec<_> = cluster
        .primaries
        .iter()
        .map(|primary| &primary.endpoint)
        .collect();
    let backups: Vec<_> = cluster
        .backups
        .iter()
        .map(|backup| &backup.endpoint)
        .collect();
    cluster.magent = Magent::start(&primaries, &backups, &QUICK_PROBES);
    let mut scene = Scene::with(cluster);
    let mut client = scene.cluster.magent.client();
    let mut changes = Changes::prepare(&mut client);
    let primary = scene.cluster.primaries[0].endpoint.clone();
    network.set_path(Path::Cut);
    changes.make(&mut client);
    scene.cluster.magent.wait_until_state(&primary, &["down"]);
    scene.load.wait_for_answers(ANSWERS);
    changes.make(&mut client);
    network.set_path(Path::Whole);
    wait_until("it is up", || {
        changes.check(&mut client);
        scene.cluster.magent.states()[&primary.to_string()] == "up"
    });
    changes.check(&mut client);
    scene.items.append(&mut changes.expected());
    scene.finish();
}
