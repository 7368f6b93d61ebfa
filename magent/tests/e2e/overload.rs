//! Too much of something: clients, unread answers, held requests. The proxy and all others go on.

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use super::harness::{Client, Cluster, Load, Memcached, shown, wait_until};

#[test]
fn one_client_too_many_is_told_and_closed() {
    let cluster = Cluster::start(1, 0, &["-n", "8"]);
    // The harness's own first connection may still be counted.
    wait_until("eight clients are served", || {
        let mut clients: Vec<Client> = (0..8).map(|_| cluster.magent.client()).collect();
        if !clients
            .iter_mut()
            .all(|client| client.try_command("mn").is_ok())
        {
            return false;
        }
        let mut ninth = cluster.magent.client();
        assert_eq!(
            shown(&ninth.rest()),
            shown(b"ERROR Too many open connections\r\n")
        );
        for client in &mut clients {
            client.ask(b"mn\r\n", b"MN\r\n");
        }
        true
    });
    // All eight are gone: there is room again.
    wait_until("a new client is served", || {
        cluster.magent.client().try_command("mn").is_ok()
    });
}

/// As a virtual machine does that is moved, or a container that has used up its share of the processors. What the
/// backends said meanwhile is in the proxy's sockets, so they were not silent.
#[test]
fn a_proxy_that_stands_still_blames_nobody() {
    let cluster = Cluster::start(3, 2, &[]);
    let load = Load::start(&cluster.magent.endpoint, 4);
    // More often than not something is under way with each of them.
    for round in 0..6 {
        load.wait_for_answers(200);
        let others: Vec<&Memcached> = cluster.primaries.iter().chain(&cluster.backups).collect();
        // Every second time they stand still, too, and go on a little later.
        let others = if round % 2 == 0 {
            &others[..0]
        } else {
            &others[..]
        };
        cluster.magent.stop();
        for other in others {
            other.stop();
        }
        let since = Instant::now();
        wait_until("they have stood still for long enough", || {
            since.elapsed() > Duration::from_millis(900)
        });
        cluster.magent.cont();
        for other in others {
            other.cont();
        }
    }
    load.wait_for_answers(200);
    load.finish().assert_perfect();
    let log = cluster.magent.log();
    assert!(!log.contains("down"), "{log}");
}

#[test]
fn a_client_that_never_reads_holds_up_nobody() {
    let cluster = Cluster::start(3, 2, &[]);
    let mut other = cluster.magent.client();
    let value = vec![b'x'; 500_000];
    other.set("large", &value);
    let mut sender = cluster.magent.client().into_tcp();
    sender.set_nonblocking(true).unwrap();
    let request = b"get large\r\n".repeat(10_000);
    let mut sent_len = 0;
    // 5 GB of answers per batch are asked for; the proxy stops reading or hangs up long before.
    let mut stuck_count = 0;
    while stuck_count < 200 && sent_len < 100 * request.len() {
        match sender.write(&request) {
            Ok(len) => {
                sent_len += len;
                stuck_count = 0;
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock => stuck_count += 1,
            Err(_) => break,
        }
        assert_eq!(
            other.get("large").map(|value| value.len()),
            Some(value.len())
        );
    }
    assert!(sent_len < 100 * request.len(), "the proxy reads on and on");
    let memory_max = cluster.magent.memory_max();
    assert!(
        memory_max < 512 << 20,
        "{memory_max} bytes for {sent_len} bytes of requests"
    );
    let load = Load::start(&cluster.magent.endpoint, 4);
    load.wait_for_answers(2_000);
    load.finish().assert_perfect();
}

#[test]
fn many_clients_that_never_read_hold_up_nobody() {
    let cluster = Cluster::start(3, 2, &[]);
    let mut other = cluster.magent.client();
    other.set("large", &vec![b'x'; 500_000]);
    let mut silent = Vec::new();
    for _ in 0..50 {
        let mut client = cluster.magent.client();
        client.send(&b"get large\r\n".repeat(100));
        silent.push(client);
    }
    let load = Load::start(&cluster.magent.endpoint, 4);
    load.wait_for_answers(4_000);
    load.finish().assert_perfect();
    let memory_max = cluster.magent.memory_max();
    assert!(memory_max < 512 << 20, "{memory_max} bytes");
    // They have lost nothing that they were promised: what they read now is in order.
    for client in &mut silent[..5] {
        for _ in 0..100 {
            assert_eq!(client.line(), b"VALUE large 0 500000");
            assert_eq!(client.line().len(), 500_000);
            assert_eq!(client.line(), b"END");
        }
    }
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    let cluster = Cluster::start(3, 2, &["-n", "64"]);
    for round in 0..2_000 {
        let mut client = cluster.magent.client();
        match round % 4 {
            0 => drop(client.try_send(b"get a b c d e\r\n")),
            1 => drop(client.try_send(b"set a 0 0 5 noreply\r\nvalue\r\n")),
            2 => drop(client.try_send(b"set a 0 0 5\r\nva")),
            // Refused if those that left have not been noticed yet.
            _ => drop(client.try_command("mn")),
        }
        drop(client);
        if round % 32 == 31 {
            // More have come than `-n` allows at a time: it must notice those that went.
            wait_until("a client is served", || {
                cluster.magent.client().try_command("mn").is_ok()
            });
        }
    }
    let mut client = cluster.magent.client();
    wait_until("one client is left", || {
        client
            .stats("")
            .get("curr_connections")
            .is_some_and(|count| count == "1")
    });
}

#[test]
fn an_idle_proxy_takes_no_cpu() {
    let mut cluster = Cluster::start(3, 2, &[]);
    cluster.primaries[0].kill9();
    cluster.backups[0].kill9();
    let _idle: Vec<Client> = (0..50).map(|_| cluster.magent.client()).collect();
    cluster.wait_until_refused(&cluster.key_on_both(0, 0, 1));
    super::known_failures::assert_idle(&cluster.magent, Duration::from_secs(1));
}
