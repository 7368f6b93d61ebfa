//! Commands about the server as a whole: stats, version, verbosity, flush_all, and what is refused.

use super::harness::{Cluster, Memcached, shown, transcript};

#[test]
fn items_and_bytes_are_summed_over_primaries_only() {
    let cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    for n in 0..300 {
        client.set(&format!("key-{n}"), b"value");
    }
    let stats = client.stats("");
    let sum = |name: &str| -> u64 { cluster.primaries.iter().map(|p| p.stat(name)).sum() };
    assert_eq!(stats["curr_items"], "300");
    assert_eq!(stats["curr_items"], sum("curr_items").to_string());
    assert_eq!(stats["bytes"], sum("bytes").to_string());
    assert_eq!(stats["limit_maxbytes"], sum("limit_maxbytes").to_string());
}

#[test]
fn names_are_memcacheds_and_numbers_are_numbers() {
    let cluster = Cluster::start(3, 2, &[]);
    let memcached = Memcached::start();
    let stats = cluster.magent.client().stats("");
    let known = memcached.client().stats("");
    // What monitors read.
    for name in [
        "pid",
        "uptime",
        "time",
        "version",
        "pointer_size",
        "curr_connections",
        "total_connections",
        "cmd_get",
        "cmd_set",
        "cmd_flush",
        "get_hits",
        "get_misses",
        "delete_hits",
        "delete_misses",
        "incr_hits",
        "incr_misses",
        "bytes_read",
        "bytes_written",
        "limit_maxbytes",
        "threads",
        "bytes",
        "curr_items",
        "total_items",
        "evictions",
    ] {
        assert!(known.contains_key(name), "{name} is no name of memcached's");
        let value = stats
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {stats:#?}"));
        if name != "version" {
            assert!(value.parse::<u64>().is_ok(), "{name} is {value}");
        }
    }
}

#[test]
fn a_hung_backend_is_named_absent_and_the_others_are_summed() {
    let cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    for n in 0..300 {
        client.set(&format!("key-{n}"), b"value");
    }
    cluster.primaries[1].stop();
    let stats = client.stats("");
    let live = cluster.primaries[0].stat("curr_items") + cluster.primaries[2].stat("curr_items");
    assert_eq!(stats["curr_items"], live.to_string());
    let absent = cluster.primaries[1].endpoint.to_string();
    assert!(
        stats
            .iter()
            .any(|(name, value)| format!("{name} {value}").contains(&absent)),
        "{absent} is not named in {stats:#?}"
    );
    // Asked for again and again: never the whole time until the request's own limit.
    for _ in 0..5 {
        client.stats("");
    }
}

#[test]
fn the_proxys_own_numbers() {
    let cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    client.set("key", b"value");
    let stats = client.stats("magent");
    for backend in cluster.primaries.iter().chain(&cluster.backups) {
        let address = backend.endpoint.to_string();
        assert!(
            stats
                .iter()
                .any(|(name, value)| format!("{name} {value}").contains(&address)),
            "{address} is not in {stats:#?}"
        );
    }
}

#[test]
fn arguments_of_stats_are_defined() {
    let cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    client.set("key", b"value");
    client.ask(b"stats reset\r\n", b"RESET\r\n");
    for args in ["items", "slabs", "settings", "", " "] {
        client.stats(args);
        client.ask(b"mn\r\n", b"MN\r\n");
    }
    for args in ["cachedump 1 10", "nosuch", "detail dump", "conns", "sizes"] {
        let answer = transcript(
            &cluster.magent.endpoint,
            format!("stats {args}\r\nmn\r\n").as_bytes(),
        );
        assert!(
            answer.ends_with(b"\r\nMN\r\n"),
            "{args}: {}",
            shown(&answer)
        );
    }
}

#[test]
fn version_is_the_lowest_of_the_backends() {
    let cluster = Cluster::start(3, 2, &[]);
    let expected = cluster.primaries[0].client().ask_line(b"version\r\n");
    let mut client = cluster.magent.client();
    assert_eq!(client.ask_line(b"version\r\n"), expected);
    cluster.primaries[0].stop();
    assert_eq!(client.ask_line(b"version\r\n"), expected);
}

#[test]
fn verbosity_is_answered_here() {
    let cluster = Cluster::start(1, 0, &[]);
    let mut client = cluster.magent.client();
    client.ask(
        b"verbosity 1\r\nverbosity 0 noreply\r\nmn\r\n",
        b"OK\r\nMN\r\n",
    );
}

#[test]
fn flush_all_empties_every_backend() {
    let cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    let keys: Vec<String> = (0..30).map(|n| format!("key-{n}")).collect();
    for request in ["flush_all\r\n", "flush_all 0\r\n", "flush_all \r\n"] {
        for key in &keys {
            client.set(key, b"value");
        }
        client.ask(request.as_bytes(), b"OK\r\n");
        for key in &keys {
            assert_eq!(client.get(key), None, "{request:?}");
            assert_eq!(cluster.primary_of(key).value(key), None);
            assert_eq!(cluster.backup_of(key).value(key), None);
        }
    }
    client.ask(b"flush_all noreply\r\nmn\r\n", b"MN\r\n");
}

#[test]
fn a_delayed_flush_reaches_every_backend_as_delayed() {
    let cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    let keys: Vec<String> = (0..3).map(|index| cluster.key_on(index, 1)).collect();
    for key in &keys {
        client.set(key, b"value");
    }
    client.ask(b"flush_all 600\r\n", b"OK\r\n");
    for key in &keys {
        assert_eq!(client.get(key), Some(b"value".to_vec()));
    }
    for backend in cluster.primaries.iter().chain(&cluster.backups) {
        assert_eq!(backend.stat("cmd_flush"), 1, "{}", backend.endpoint);
    }
}

#[test]
fn no_flush_refuses_flush_all() {
    let cluster = Cluster::start(3, 2, &["--no-flush"]);
    let mut client = cluster.magent.client();
    client.set("key", b"value");
    for request in ["flush_all", "flush_all 0", "flush_all 10"] {
        let answer = client.try_command(request).unwrap_err();
        assert!(
            answer.starts_with("CLIENT_ERROR ") || answer.starts_with("SERVER_ERROR "),
            "{request}: {answer}"
        );
    }
    client.ask(b"flush_all noreply\r\nmn\r\n", b"MN\r\n");
    assert_eq!(client.get("key"), Some(b"value".to_vec()));
    for backend in cluster.primaries.iter().chain(&cluster.backups) {
        assert_eq!(backend.stat("cmd_flush"), 0, "{}", backend.endpoint);
    }
}

#[test]
fn commands_that_could_harm_a_backend_are_never_forwarded() {
    let cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    for command in [
        "shutdown",
        "shutdown graceful",
        "watch",
        "watch fetchers",
        "lru tune 10 25 0.1 2.0",
        "lru_crawler metadump all",
        "lru_crawler crawl all",
        "slabs reassign 1 2",
        "slabs automove 1",
        "cache_memlimit 64",
        "debugtime p",
        "refresh_certs",
        "misbehave",
        "extstore free_memchunks 1 1",
    ] {
        client.ask(
            format!("{command}\r\nmn\r\n").as_bytes(),
            b"ERROR\r\nMN\r\n",
        );
    }
    for backend in cluster.primaries.iter().chain(&cluster.backups) {
        backend.client().ask(b"mn\r\n", b"MN\r\n");
    }
}
