//! Two proxies that know nothing of each other over the same memcacheds.
//!
//! Each is right about what its own clients wrote. What one proxy's clients wrote while only the other could
//! reach a backend is what `docs/failover.md` says about it, and counted here.

use super::super::harness::{
    Cluster, Items, Load, Magent, Memcached, Path, QUICK_PROBES, Relay, keep_doing, key_at,
    run_script, store_dataset, wait_until,
};
use super::{ANSWERS, ITEMS};
use std::time::Duration;

/// Three primaries, two backups, and two proxies: the cluster's own and this one.
fn start() -> (Cluster, Magent) {
    let cluster = Cluster::start(3, 2, &[]);
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
    let other = Magent::start(&primaries, &backups, &QUICK_PROBES);
    (cluster, other)
}

/// Clients of each proxy.
fn start_loads(cluster: &Cluster, other: &Magent) -> [Load; 2] {
    [
        Load::start_as(&cluster.magent.endpoint, 0..2),
        Load::start_as(&other.endpoint, 2..4),
    ]
}

#[track_caller]
fn finish(cluster: &Cluster, other: &Magent, loads: [Load; 2], mut items: Items) {
    for magent in [&cluster.magent, other] {
        magent.wait_until_healed();
    }
    for load in &loads {
        load.wait_for_answers(ANSWERS);
    }
    for load in loads {
        let mut report = load.finish();
        report.assert_perfect();
        items.append(&mut report.expected);
    }
    for magent in [&cluster.magent, other] {
        magent.wait_until_healed();
    }
    cluster.assert_in_step(&items);
}

#[test]
fn both_heal_an_emptied_primary() {
    let (mut cluster, other) = start();
    let items = store_dataset(&cluster.magent.endpoint, ITEMS);
    let loads = start_loads(&cluster, &other);
    let primary = cluster.primaries[0].endpoint.clone();
    cluster.primaries[0].kill9();
    for (magent, load) in [&cluster.magent, &other].into_iter().zip(&loads) {
        magent.wait_until_state(&primary, &["down"]);
        load.wait_for_answers(ANSWERS);
    }
    cluster.primaries[0].restart();
    finish(&cluster, &other, loads, items);
}

#[test]
fn both_heal_a_primary_that_hung() {
    let (cluster, other) = start();
    let items = store_dataset(&cluster.magent.endpoint, ITEMS);
    let loads = start_loads(&cluster, &other);
    let primary = &cluster.primaries[0];
    primary.stop();
    for (magent, load) in [&cluster.magent, &other].into_iter().zip(&loads) {
        magent.wait_until_state(&primary.endpoint, &["down"]);
        load.wait_for_answers(ANSWERS);
    }
    primary.cont();
    finish(&cluster, &other, loads, items);
}

#[test]
fn one_proxy_is_killed_while_both_heal() {
    let (mut cluster, mut other) = start();
    let items = store_dataset(&cluster.magent.endpoint, ITEMS);
    let load = Load::start_as(&cluster.magent.endpoint, 0..3);
    cluster.primaries[0].kill9();
    for magent in [&cluster.magent, &other] {
        // Each notices on a request of its own.
        magent
            .client()
            .get_many(&[&key_at(3, 0, 1), &key_at(3, 0, 2)]);
        magent.wait_until_state(&cluster.primaries[0].endpoint, &["down"]);
    }
    load.wait_for_answers(ANSWERS);
    cluster.primaries[0].restart();
    other.wait_until_state(
        &cluster.primaries[0].endpoint,
        &["purging", "catching up", "flipping", "up"],
    );
    // Its walk, and the lock by which the two take turns, are left behind.
    other.kill9();
    cluster.magent.wait_until_healed();
    load.wait_for_answers(ANSWERS);
    let mut report = load.finish();
    report.assert_perfect();
    let mut items = items;
    items.append(&mut report.expected);
    cluster.assert_in_step(&items);
}

#[test]
fn one_proxy_is_cut_off_from_a_primary() {
    let cluster = Cluster::start(3, 2, &[]);
    let relay = Relay::start(&cluster.primaries[0].endpoint);
    let [_, second, third] = &cluster.primaries[..] else {
        unreachable!("three primaries");
    };
    let cut_off = Magent::start(
        &[&relay.endpoint, &second.endpoint, &third.endpoint],
        &[&cluster.backups[0].endpoint, &cluster.backups[1].endpoint],
        &QUICK_PROBES,
    );
    let mut writer = cut_off.client();
    let mut reader = cluster.magent.client();
    let keys: Vec<String> = (0..50).map(|seed| key_at(3, 0, seed)).collect();
    let mut write = |round: u64| {
        for key in &keys {
            writer.set(key, format!("{round}").as_bytes());
        }
    };
    write(0);
    relay.set_path(Path::Cut);
    // How many keys the other proxy reads an older value of; none is missing.
    let mut old_of = |round: u64| -> usize {
        let newest = round.to_string().into_bytes();
        let is_old = |key: &&String| reader.get(key).expect("some value") != newest;
        keys.iter().filter(is_old).count()
    };
    let (mut round, mut old) = (0, 0);
    keep_doing(Duration::from_secs(1), || {
        round += 1;
        write(round);
        old += old_of(round);
    });
    relay.set_path(Path::Whole);
    // The proxy that was cut off deletes on the primary what that missed: from then on both see the newest.
    cut_off.wait_until_healed();
    assert_eq!(old_of(round), 0);
    let read = round * 50;
    println!("one proxy cut off: {old} of {read} reads through the other saw an older value");
    assert!(old > 0, "the path was not cut");
    cluster.assert_in_step(&Items::new());
}

/// A PHP session that counts, through one proxy after the other.
struct Session {
    handler: &'static str,
    id: String,
    count: u32,
}

impl Session {
    /// One page view: reads the count, which must be what the last one wrote, and writes the next.
    #[track_caller]
    fn view(&mut self, magent: &Magent) {
        let address = magent.endpoint.tcp();
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let count = self.count.to_string();
        run_script(
            "php-sessions/count.php",
            &[self.handler, &host, &port, &self.id, &count],
        );
        self.count += VIEWS;
    }
}

/// In one run of the script.
const VIEWS: u32 = 5;

#[test]
fn php_sessions_go_on_through_either_proxy() {
    let (mut cluster, mut other) = start();
    let mut sessions: Vec<Session> = (0..4)
        .map(|n| Session {
            handler: ["memcache", "memcached"][n % 2],
            id: format!("session{n}"),
            count: 0,
        })
        .collect();
    let mut view_all = |magents: &[&Magent]| {
        for session in &mut sessions {
            for magent in magents {
                session.view(magent);
            }
        }
    };
    view_all(&[&cluster.magent, &other]);
    for index in 0..cluster.primaries.len() {
        let primary = cluster.primaries[index].endpoint.clone();
        cluster.primaries[index].kill9();
        for magent in [&cluster.magent, &other] {
            magent.client().get(&cluster.key_on(index, 1));
            magent.wait_until_state(&primary, &["down"]);
        }
        view_all(&[&cluster.magent, &other]);
        cluster.primaries[index].restart();
        // While they heal, each session keeps to one proxy.
        view_all(&[&cluster.magent]);
        cluster.magent.wait_until_healed();
        other.wait_until_healed();
        view_all(&[&other, &cluster.magent]);
    }
    other.kill9();
    view_all(&[&cluster.magent]);
    other.restart();
    view_all(&[&other, &cluster.magent]);
    cluster.assert_in_step(&Items::new());
}

/// One proxy has healed a primary, and reads it, when the other returns to it. That must not take away what is read.
#[test]
fn who_returns_late_to_a_restarted_primary_disturbs_nobody() {
    let mut cluster = Cluster::start(3, 2, &[]);
    let primaries: Vec<_> = cluster.primaries.iter().map(|one| &one.endpoint).collect();
    let backups: Vec<_> = cluster.backups.iter().map(|one| &one.endpoint).collect();
    let rare = ["--probe-ms-min", "3000", "--probe-ms-max", "3000"];
    let late = Magent::start(&primaries, &backups, &rare);
    let keys: Vec<String> = (0..300).map(|seed| key_at(3, 0, seed)).collect();
    let mut through = [cluster.magent.client(), late.client()];
    let mut expected: Vec<Option<Vec<u8>>> = Vec::new();
    for key in &keys {
        through[0].set(key, b"before");
        expected.push(Some(b"before".to_vec()));
    }
    let primary = cluster.primaries[0].endpoint.clone();
    cluster.primaries[0].kill9();
    for (index, magent) in [&cluster.magent, &late].into_iter().enumerate() {
        through[index].get(&keys[0]);
        magent.wait_until_state(&primary, &["down"]);
    }
    // What both have missed, and one of them alone.
    for (index, key) in keys.iter().enumerate().take(200) {
        through[index % 2].set(key, b"while it was gone");
        expected[index] = Some(b"while it was gone".to_vec());
    }
    cluster.primaries[0].restart();
    cluster.magent.wait_until_healed();
    assert_ne!(
        late.states()[&primary.to_string()],
        "up",
        "it was to return later"
    );
    // What the late one's clients write until then the primary does not hear of: old for a while, and not for good.
    for (index, value) in [
        (0, Some("written late")),
        (1, None),
        (299, Some("written late")),
    ] {
        match value {
            Some(value) => through[1].set(&keys[index], value.as_bytes()),
            None => through[1].delete(&keys[index]),
        }
        expected[index] = value.map(|value| value.as_bytes().to_vec());
    }
    let steady = 2..299;
    let mut reads = 0;
    while late.states()[&primary.to_string()] != "up" {
        for index in steady.clone() {
            reads += 1;
            let value = through[0].get(&keys[index]);
            assert_eq!(value, expected[index], "read {reads}: {}", keys[index]);
        }
    }
    for (key, expected) in keys.iter().zip(&expected) {
        for client in &mut through {
            assert_eq!(client.get(key), *expected, "{key}");
        }
    }
    cluster.assert_in_step(&Items::new());
}

#[test]
fn the_walk_of_one_proxy_does_not_disturb_that_of_the_other() {
    let (mut cluster, other) = start();
    let items = store_dataset(&cluster.magent.endpoint, ITEMS);
    for round in 0..3 {
        let backup: &mut Memcached = &mut cluster.backups[round % 2];
        backup.kill9();
        let endpoint = backup.endpoint.clone();
        for magent in [&cluster.magent, &other] {
            wait_until("a write fails over", || {
                magent
                    .client()
                    .try_store("set", &format!("round-{round}"), b"x")
                    .is_ok()
                    && magent.states()[&endpoint.to_string()] == "down"
            });
        }
        cluster.backups[round % 2].restart();
        for magent in [&cluster.magent, &other] {
            magent.wait_until_healed();
        }
    }
    cluster.assert_in_step(&items);
}
