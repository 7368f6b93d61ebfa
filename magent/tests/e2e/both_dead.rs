//! Both of a key's backends are dead: a clear error at once for writes, a miss for reads, and nobody
//! else notices.

use std::time::{Duration, Instant};

use super::harness::{Client, Cluster};

/// Primary 0 and backup 0 dead. Requests may take a minute: an answer within the harness's deadline was
/// not waited for.
fn start(extra: &[&str]) -> (Cluster, String, String) {
    let mut cluster = Cluster::start(3, 2, &[&["--request-ms", "60000"], extra].concat());
    let dead_key = cluster.key_on_both(0, 0, 1);
    let live_key = cluster.key_on_both(1, 1, 1);
    let mut client = cluster.magent.client();
    client.set(&dead_key, b"value");
    client.set(&live_key, b"value");
    cluster.primaries[0].kill9();
    cluster.backups[0].kill9();
    cluster.wait_until_refused(&dead_key);
    (cluster, dead_key, live_key)
}

#[test]
fn writes_are_refused_and_reads_miss() {
    let (cluster, dead_key, live_key) = start(&[]);
    let mut client = cluster.magent.client();
    for command in [
        format!("set {dead_key} 0 0 1\r\nx"),
        format!("add {dead_key} 0 0 1\r\nx"),
        format!("replace {dead_key} 0 0 1\r\nx"),
        format!("append {dead_key} 0 0 1\r\nx"),
        format!("cas {dead_key} 0 0 1 1\r\nx"),
        format!("delete {dead_key}"),
        format!("incr {dead_key} 1"),
        format!("touch {dead_key} 0"),
        format!("ms {dead_key} 1\r\nx"),
        format!("ms {dead_key} 1 q\r\nx"),
        format!("md {dead_key}"),
        format!("ma {dead_key}"),
    ] {
        let answer = client.try_command(&command).unwrap_err();
        assert!(answer.starts_with("SERVER_ERROR "), "{command:?}: {answer}");
        assert_eq!(
            client.get(&live_key),
            Some(b"value".to_vec()),
            "after {command:?}"
        );
    }
    assert_eq!(client.get(&dead_key), None);
    client.ask(format!("gets {dead_key}\r\n").as_bytes(), b"END\r\n");
    client.ask(format!("gat 0 {dead_key}\r\n").as_bytes(), b"END\r\n");
    client.ask(format!("mg {dead_key} v\r\n").as_bytes(), b"EN\r\n");
    assert_eq!(client.get_many(&[&dead_key, &live_key]).len(), 1);
    client.ask(
        format!("set {dead_key} 0 0 1 noreply\r\nx\r\nmn\r\n").as_bytes(),
        b"MN\r\n",
    );
}

#[test]
fn with_read_error_a_single_get_is_an_error_and_a_multiget_is_not() {
    let (cluster, dead_key, live_key) = start(&["--read-error"]);
    let mut client = cluster.magent.client();
    let answer = client.try_get(&dead_key).unwrap_err();
    assert!(answer.starts_with("SERVER_ERROR "), "{answer}");
    let answer = client.try_command(&format!("mg {dead_key} v")).unwrap_err();
    assert!(answer.starts_with("SERVER_ERROR "), "{answer}");
    assert_eq!(client.get_many(&[&dead_key, &live_key]).len(), 1);
    assert_eq!(client.get_many(&[&live_key, &dead_key]).len(), 1);
    assert_eq!(client.get(&live_key), Some(b"value".to_vec()));
}

#[test]
fn a_refusal_takes_no_longer_than_an_answer() {
    let (cluster, dead_key, live_key) = start(&[]);
    let mut client = cluster.magent.client();
    let mut refused = Vec::new();
    let mut stored = Vec::new();
    // In turns, so that both meet the same noise.
    for _ in 0..201 {
        refused.push(span(&mut client, &dead_key));
        stored.push(span(&mut client, &live_key));
    }
    let (refused, stored) = (median(refused), median(stored));
    assert!(
        refused < stored * 10,
        "refused in {refused:?}, stored in {stored:?}"
    );
}

#[test]
fn the_keys_are_served_again_when_one_of_the_two_returns() {
    for returns_first in ["primary", "backup"] {
        let (mut cluster, dead_key, _) = start(&[]);
        if returns_first == "primary" {
            cluster.primaries[0].restart();
        } else {
            cluster.backups[0].restart();
        }
        let mut client = cluster.magent.client();
        super::harness::wait_until("writes are stored again", || {
            client.try_store("set", &dead_key, b"again").is_ok()
        });
        assert_eq!(
            client.get(&dead_key),
            Some(b"again".to_vec()),
            "{returns_first} first"
        );
    }
}

fn span(client: &mut Client, key: &str) -> Duration {
    let started_at = Instant::now();
    // Stored or refused: the tests above say which.
    client.try_store("set", key, b"x").ok();
    started_at.elapsed()
}

fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort_unstable();
    spans[spans.len() / 2]
}
