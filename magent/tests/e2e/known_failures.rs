//! Failures known from other proxies, each impossible here. One test per entry of the list in
//! `docs/failures.md`; names start with the proxy that has it.

use std::time::{Duration, Instant};

use super::harness::{Cluster, Magent, Memcached, Relay, keep_doing, key_at, shown, wait_until};

/// Fails if the proxy computes while nobody asks for anything.
#[track_caller]
pub(crate) fn assert_idle(magent: &Magent, span: Duration) {
    let (before, started_at) = (magent.cpu_time(), Instant::now());
    wait_until("the span has passed", || started_at.elapsed() >= span);
    let (used, elapsed) = (magent.cpu_time() - before, started_at.elapsed());
    // A loop takes all of one core; probes and timers take next to nothing.
    assert!(used * 4 < elapsed, "{used:?} of CPU in {elapsed:?}");
}

/// A cluster whose primary 0 and backup 0 are dead, and a key of both.
fn both_dead() -> (Cluster, String) {
    let mut cluster = Cluster::start(3, 2, &[]);
    let key = cluster.key_on_both(0, 0, 1);
    cluster.primaries[0].kill9();
    cluster.backups[0].kill9();
    (cluster, key)
}

#[test]
fn magent_never_answers_when_both_are_dead() {
    let (cluster, key) = both_dead();
    let mut client = cluster.magent.client();
    assert_eq!(client.get(&key), None);
    let answer = client.try_store("set", &key, b"x").unwrap_err();
    assert!(answer.starts_with("SERVER_ERROR "), "{answer}");
}

#[test]
fn magent_eats_a_core_when_both_are_dead() {
    let (cluster, key) = both_dead();
    let mut client = cluster.magent.client();
    client.get(&key);
    client.try_store("set", &key, b"x").unwrap_err();
    assert_idle(&cluster.magent, Duration::from_secs(1));
}

#[test]
fn magent_leaves_spinning_connections_after_noreply() {
    let cluster = Cluster::start(3, 2, &[]);
    for n in 0..100 {
        let mut client = cluster.magent.client();
        client.send(
            format!("set key-{n} 0 0 1 noreply\r\nx\r\ndelete key-{n} noreply\r\n").as_bytes(),
        );
    }
    let mut client = cluster.magent.client();
    wait_until("the connections are gone", || {
        client.stats("")["curr_connections"] == "1"
    });
    assert_idle(&cluster.magent, Duration::from_secs(1));
}

#[test]
fn magent_drops_pipelined_requests() {
    let cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    // As pecl-memcache starts a session: three commands in one packet.
    client.ask(
        b"incr sid.lock 1\r\nadd sid.lock 768 15 1\r\n1\r\nget sid\r\n",
        b"NOT_FOUND\r\nSTORED\r\nEND\r\n",
    );
}

#[test]
fn magent_hangs_on_a_reused_backup_connection() {
    let mut cluster = Cluster::start(3, 2, &[]);
    let key = cluster.key_on(0, 1);
    cluster.magent.client().set(&key, b"value");
    cluster.primaries[0].kill9();
    for _ in 0..100 {
        let mut client = cluster.magent.client();
        assert_eq!(client.get(&key), Some(b"value".to_vec()));
        client.set(&key, b"value");
    }
}

#[test]
fn magent_stores_an_add_on_a_backup_that_evicted_the_key() {
    let cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    let key = cluster.key_on(0, 1);
    client.set(&key, b"first");
    cluster.backup_of(&key).client().delete(&key);
    client.ask(
        format!("add {key} 0 0 6\r\nsecond\r\n").as_bytes(),
        b"NOT_STORED\r\n",
    );
    assert_ne!(
        cluster.backup_of(&key).value(&key),
        Some(b"second".to_vec())
    );
}

#[test]
fn magent_never_reads_a_returned_primary() {
    let mut cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    cluster.primaries[0].kill9();
    client.set(&cluster.key_on(0, 1), b"while it is away");
    cluster.primaries[0].restart();
    wait_until("the returned primary serves", || {
        client.set(&cluster.key_on(0, 2), b"after its return");
        let primary = &cluster.primaries[0];
        client.get(&cluster.key_on(0, 2)).is_some() && primary.stat("cmd_set") > 0
    });
    assert_eq!(
        client.get(&cluster.key_on(0, 1)),
        Some(b"while it is away".to_vec())
    );
}

#[test]
fn magent_reads_old_data_from_a_returned_primary() {
    let cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    let key = cluster.key_on(0, 1);
    client.set(&key, b"old");
    cluster.primaries[0].stop();
    client.set(&key, b"current");
    cluster.primaries[0].cont();
    cluster.wait_until_written(0);
    keep_doing(Duration::from_secs(1), || {
        assert_eq!(client.get(&key), Some(b"current".to_vec()));
    });
}

#[test]
fn twemproxy_closes_on_an_unknown_command() {
    let cluster = Cluster::start(3, 0, &[]);
    let mut client = cluster.magent.client();
    client.ask(b"nonsense\r\nmn\r\n", b"ERROR\r\nMN\r\n");
}

#[test]
fn twemproxy_fails_a_whole_multiget_for_one_dead_server() {
    let mut cluster = Cluster::start(3, 0, &[]);
    let mut client = cluster.magent.client();
    let keys: Vec<String> = (0..30).map(|n| cluster.key_on(n % 3, 0)).collect();
    for key in &keys {
        client.set(key, b"value");
    }
    cluster.primaries[1].kill9();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    // From the first one on, which finds the connection broken.
    for _ in 0..50 {
        let values = client.get_many(&keys);
        assert!(
            values.contains_key(keys[0]) && values.contains_key(keys[2]),
            "{values:?}"
        );
        assert!(!values.contains_key(keys[1]), "{values:?}");
    }
}

#[test]
fn twemproxy_shows_errors_in_every_retry_window() {
    let mut cluster = Cluster::start(3, 2, &[]);
    cluster.primaries[0].kill9();
    let mut client = cluster.magent.client();
    // Many probes of at most 100 ms apart, each of which must go unnoticed.
    keep_doing(Duration::from_secs(2), || {
        let key = cluster.key_on(0, 1);
        client.set(&key, b"value");
        assert_eq!(client.get(&key), Some(b"value".to_vec()));
    });
}

#[test]
fn twemproxy_shows_stale_data_when_a_server_is_put_back() {
    let backends: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let relay = Relay::start(&backends[0].endpoint);
    let magent = Magent::start(
        &[&relay.endpoint, &backends[1].endpoint],
        &[&backends[2].endpoint],
        &["--probe-ms-min", "20", "--probe-ms-max", "100"],
    );
    let mut client = magent.client();
    let key = key_at(2, 0, 1);
    for round in 0..3 {
        client.set(&key, format!("old {round}").as_bytes());
        relay.set_path(super::harness::Path::Cut);
        client.set(&key, format!("current {round}").as_bytes());
        relay.set_path(super::harness::Path::Whole);
        keep_doing(Duration::from_secs(1), || {
            assert_eq!(
                client.get(&key),
                Some(format!("current {round}").into_bytes())
            );
        });
    }
}

#[test]
fn memcached_proxy_puts_errors_between_value_and_end() {
    let mut cluster = Cluster::start(3, 0, &[]);
    let mut client = cluster.magent.client();
    let keys: Vec<String> = (0..3).map(|index| cluster.key_on(index, 0)).collect();
    for key in &keys {
        client.set(key, b"v");
    }
    cluster.primaries[1].kill9();
    let request = format!("get {} {} {}\r\n", keys[0], keys[1], keys[2]);
    let expected = format!(
        "VALUE {} 0 1\r\nv\r\nVALUE {} 0 1\r\nv\r\nEND\r\n",
        keys[0], keys[2]
    );
    for _ in 0..50 {
        client.ask(request.as_bytes(), expected.as_bytes());
    }
}

#[test]
fn memcached_proxy_hashes_base64_keys_as_text() {
    let cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    // Zm9v is foo; over several keys, so that chance puts not all of them right.
    for (encoded, plain) in [
        ("Zm9v", "foo"),
        ("YmFy", "bar"),
        ("YmF6", "baz"),
        ("cXV4", "qux"),
    ] {
        client.ask(format!("ms {encoded} 1 b\r\nx\r\n").as_bytes(), b"HD\r\n");
        client.ask(
            format!("get {plain}\r\n").as_bytes(),
            format!("VALUE {plain} 0 1\r\nx\r\nEND\r\n").as_bytes(),
        );
        assert!(cluster.primary_of(plain).value(plain).is_some());
    }
}

#[test]
fn memcached_proxy_sends_one_get_per_key_of_a_multiget() {
    let backend = Memcached::start();
    let relay = Relay::start(&backend.endpoint);
    let magent = Magent::start(&[&relay.endpoint], &[], &[]);
    let keys: Vec<String> = (0..100).map(|n| format!("key-{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    assert!(magent.client().get_many(&keys).is_empty());
    let sent = relay.recorded();
    let gets = sent.windows(5).filter(|window| window == b"get k").count()
        + sent.windows(6).filter(|window| window == b"gets k").count();
    assert!(
        (1..=10).contains(&gets),
        "{gets} gets for 100 keys: {}",
        shown(&sent)
    );
}

#[test]
fn mcrouter_fails_a_whole_multiget_for_one_failed_key() {
    let mut cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    let dead = cluster.key_on_both(0, 0, 1);
    let live = cluster.key_on_both(1, 1, 1);
    client.set(&live, b"value");
    cluster.primaries[0].kill9();
    cluster.backups[0].kill9();
    for _ in 0..50 {
        assert_eq!(client.get_many(&[&dead, &live]).len(), 1);
    }
}

#[test]
fn mcrouter_never_refills_a_rebooted_server() {
    let mut cluster = Cluster::start(3, 2, &[]);
    cluster.primaries[0].kill9();
    cluster.wait_until_answered(0);
    cluster.primaries[0].restart();
    cluster.wait_until_written(0);
    let mut client = cluster.magent.client();
    for seed in 0..50 {
        let key = cluster.key_on(0, seed);
        client.set(&key, b"value");
        assert_eq!(
            cluster.primaries[0].value(&key),
            Some(b"value".to_vec()),
            "{key}"
        );
    }
}
