//! Without `-b`: a dead primary costs its own keys only, and a hiccup costs nothing.

use super::harness::{Cluster, Load, keep_doing, wait_until};
use std::time::Duration;

/// Items on all primaries.
fn items(cluster: &Cluster) -> u64 {
    cluster
        .primaries
        .iter()
        .map(|primary| primary.stat("curr_items"))
        .sum()
}

#[test]
fn a_hiccup_loses_no_item() {
    let cluster = Cluster::start(3, 0, &[]);
    let mut client = cluster.magent.client();
    for n in 0..3_000 {
        client.set(&format!("item-{n}"), b"value");
    }
    assert_eq!(items(&cluster), 3_000);
    let reader = Load::start(&cluster.magent.endpoint, 2);
    cluster.primaries[0].stop();
    // The same span as in the promise; the other primaries are used meanwhile.
    let elsewhere = cluster.key_on(1, 0);
    keep_doing(Duration::from_millis(300), || {
        client.set(&elsewhere, b"value");
    });
    cluster.primaries[0].cont();
    cluster.wait_until_written(0);
    reader.finish();
    client.try_command(&format!("delete {elsewhere}")).unwrap();
    for n in 0..3_000 {
        assert_eq!(
            client.get(&format!("item-{n}")),
            Some(b"value".to_vec()),
            "item-{n}"
        );
    }
}

#[test]
fn a_hang_that_is_noticed_loses_no_item() {
    let cluster = Cluster::start(3, 0, &["--fail-ms", "100"]);
    let mut client = cluster.magent.client();
    for n in 0..3_000 {
        client.set(&format!("item-{n}"), b"value");
    }
    let before = items(&cluster);
    cluster.primaries[0].stop();
    cluster.wait_until_refused(&cluster.key_on(0, 7));
    cluster.primaries[0].cont();
    cluster.wait_until_written(0);
    // The refused write may have been executed on SIGCONT and is then deleted: it is no item of these.
    client
        .try_command(&format!("delete {}", cluster.key_on(0, 7)))
        .unwrap();
    assert_eq!(items(&cluster), before);
    for n in 0..3_000 {
        assert_eq!(
            client.get(&format!("item-{n}")),
            Some(b"value".to_vec()),
            "item-{n}"
        );
    }
}

#[test]
fn a_dead_primary_costs_its_own_keys_only_and_returns_by_itself() {
    let mut cluster = Cluster::start(3, 0, &[]);
    let mut client = cluster.magent.client();
    let keys: Vec<String> = (0..3).map(|index| cluster.key_on(index, 0)).collect();
    for key in &keys {
        client.set(key, b"value");
    }
    cluster.primaries[0].kill9();
    cluster.wait_until_refused(&keys[0]);
    for _ in 0..100 {
        assert_eq!(client.get(&keys[0]), None);
        let refused = client.try_store("set", &keys[0], b"new").unwrap_err();
        assert!(refused.starts_with("SERVER_ERROR "), "{refused}");
        for key in &keys[1..] {
            assert_eq!(client.get(key), Some(b"value".to_vec()));
            client.set(key, b"value");
        }
        let all: Vec<&str> = keys.iter().map(String::as_str).collect();
        assert_eq!(client.get_many(&all).len(), 2);
    }
    cluster.primaries[0].restart();
    wait_until("the primary is used again", || {
        client.try_store("set", &keys[0], b"again").is_ok()
    });
    assert_eq!(client.get(&keys[0]), Some(b"again".to_vec()));
    assert_eq!(
        cluster.primaries[0].value(&keys[0]),
        Some(b"again".to_vec())
    );
}

#[test]
fn a_write_that_went_unanswered_is_not_found_half_done() {
    let cluster = Cluster::start(3, 0, &["--fail-ms", "100"]);
    let mut client = cluster.magent.client();
    let key = cluster.key_on(0, 1);
    client.set(&key, b"old");
    cluster.primaries[0].stop();
    let refused = client.try_store("set", &key, b"new").unwrap_err();
    assert!(refused.starts_with("SERVER_ERROR "), "{refused}");
    cluster.primaries[0].cont();
    cluster.wait_until_written(0);
    // Whether it was executed cannot be known, so the key is deleted: a miss, no guess.
    assert_eq!(client.get(&key), None);
}

#[test]
fn load_goes_on_with_all_primaries_well() {
    let cluster = Cluster::start(3, 0, &[]);
    let load = Load::start(&cluster.magent.endpoint, 6);
    load.wait_for_answers(6_000);
    load.finish().assert_perfect();
}
