//! Cases that the engine once got wrong, or could: one scripted exchange each.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use magent_core::config::{Config, Limits};
use magent_core::engine::{Input, Shared};
use magent_core::keeper::Report;
use magent_core::placement::Phase;
use magent_core::stats::Counter;
use magent_core::{BackendId, WorkerId};
use rig::Rig;

#[test]
fn zeros_before_an_exptime_are_no_reason_to_panic() {
    let mut rig = Rig::with_nodes(1, 0);
    let client = rig.client();
    let line = format!("gat {}1 k\r\nmn\r\n", "0".repeat(70_000));
    rig.send(client, line.as_bytes());
    assert_eq!(
        rig.got(client),
        "CLIENT_ERROR invalid exptime argument\r\nMN\r\n"
    );
}

#[test]
fn a_get_whose_value_is_cut_short_is_asked_again() {
    let mut rig = Rig::new(1, 1);
    let client = rig.client();
    rig.send(client, b"get k\r\n");
    assert_eq!(rig.sent(0), "get k\r\n");
    rig.answer(0, b"VALUE k 0 10\r\n01234");
    rig.lose(0);
    assert_eq!(rig.sent(1), "get k\r\n");
    rig.answer(1, b"VALUE k 0 10\r\n0123456789\r\nEND\r\n");
    assert_eq!(rig.got(client), "VALUE k 0 10\r\n0123456789\r\nEND\r\n");
    rig.lose_client(client);
    rig.assert_nothing_left();
}

#[test]
fn a_value_that_lacks_its_line_end_reaches_nobody() {
    let mut rig = Rig::new(1, 1);
    let client = rig.client();
    rig.send(client, b"get k\r\n");
    rig.answer(0, b"VALUE k 0 2\r\nabcdEND\r\n");
    assert_eq!(rig.got(client), "");
    rig.answer(1, b"END\r\n");
    assert_eq!(rig.got(client), "END\r\n");
    rig.lose_client(client);
    rig.assert_nothing_left();
}

#[test]
fn the_rest_of_a_refused_upload_never_meets_the_next_connection() {
    let mut rig = Rig::new(1, 0);
    let client = rig.client();
    let value = "delete victim\r\n".repeat(20_000);
    // The backend takes no bytes, but refuses the set by its first line and then hangs up.
    rig.hold_writes(0, Some(100));
    rig.send(
        client,
        format!("set k 0 0 {}\r\n{value}\r\n", value.len()).as_bytes(),
    );
    rig.answer(0, b"SERVER_ERROR object too large for cache\r\n");
    assert_eq!(
        rig.got(client),
        "SERVER_ERROR object too large for cache\r\n"
    );
    rig.lose(0);
    rig.hold_writes(0, None);
    rig.sent(0);
    rig.send(client, b"get k\r\n");
    assert_eq!(rig.sent(0), "get k\r\n");
}

#[test]
fn a_value_that_was_forwarded_in_part_is_not_begun_again() {
    for request in ["gat 100 k\r\n", "mg k T100 v\r\n"] {
        let mut rig = Rig::with_limits(1, 1, |limits| limits.stream_len_min = 4);
        rig = rig.with_keeper();
        let client = rig.client();
        rig.send(client, request.as_bytes());
        let header: &[u8] = match &request[..2] {
            "mg" => b"VA 10\r\n",
            _ => b"VALUE k 0 10\r\n",
        };
        rig.answer(0, &[header, b"01234"].concat());
        assert!(rig.got(client).ends_with("01234"), "it streams");
        rig.kill(0);
        rig.pass_ms(50);
        assert_eq!(rig.closed, [client], "{request}");
        rig.assert_nothing_left();
    }
}

#[test]
fn a_gat_is_not_answered_with_another_key() {
    for answer in [
        "VALUE other 0 1\r\nx\r\nEND\r\n",
        "VALUE k 0 1\r\nx\r\nVALUE k 0 1\r\nx\r\nEND\r\n",
    ] {
        let mut rig = Rig::new(1, 0);
        let client = rig.client();
        rig.send(client, b"gat 100 k\r\n");
        rig.answer(0, answer.as_bytes());
        assert_eq!(rig.got(client), "END\r\n", "{answer}");
        assert_eq!(rig.count(Counter::Desyncs), 1);
    }
}

#[test]
fn a_value_that_nobody_asked_for_is_out_of_step() {
    let mut rig = Rig::new(1, 1);
    let client = rig.client();
    rig.send(client, b"ms k 1\r\nx\r\n");
    rig.answer(0, b"VA 2\r\nhi\r\n");
    assert_eq!(rig.count(Counter::Desyncs), 1);
    rig.answer(1, b"HD\r\n");
    assert_eq!(rig.got(client), "");
    let mut rig = Rig::new(1, 0);
    let client = rig.client();
    rig.send(client, b"mg k\r\n");
    rig.answer(0, b"VA 2\r\nhi\r\n");
    assert_eq!(rig.count(Counter::Desyncs), 1);
    assert_eq!(rig.got(client), "EN\r\n");
}

#[test]
fn a_key_with_control_characters_is_purged_whatever_its_length() {
    let mut rig = Rig::with_nodes(1, 1).with_keeper();
    let client = rig.client();
    let key = "\u{1}".repeat(200);
    rig.kill(0);
    rig.send(client, format!("set {key} 0 0 1\r\nx\r\n").as_bytes());
    rig.pass_ms(50);
    assert_eq!(rig.got(client), "STORED\r\n");
    rig.peers[0].alive = true;
    rig.sent(0);
    rig.pass_ms(1_000);
    assert_eq!(rig.sent(0), format!("delete {key}\r\n"));
    assert_eq!(rig.count(Counter::Desyncs), 0);
}

#[test]
fn a_flush_that_a_backend_refuses_is_not_ok() {
    let mut rig = Rig::new(1, 1);
    let client = rig.client();
    rig.send(client, b"flush_all\r\n");
    rig.answer(0, b"CLIENT_ERROR flush_all not allowed\r\n");
    rig.answer(1, b"OK\r\n");
    assert!(rig.got(client).starts_with("SERVER_ERROR "));
}

#[test]
fn without_a_backup_a_flush_forgets_no_key_that_is_to_be_purged() {
    let mut rig = Rig::with_nodes(1, 0).with_keeper();
    let client = rig.client();
    rig.peers[0].stopped = true;
    rig.send(client, b"set k 0 0 1\r\nx\r\n");
    rig.pass_ms(600);
    assert!(rig.got(client).starts_with("SERVER_ERROR "));
    rig.send(client, b"flush_all\r\n");
    assert!(rig.got(client).starts_with("SERVER_ERROR "));
    rig.peers[0].stopped = false;
    rig.sent(0);
    rig.pass_ms(2_000);
    assert_eq!(rig.sent(0), "delete k\r\n");
}

#[test]
fn a_place_is_used_again_only_when_its_close_was_told() {
    let mut rig = Rig::new(1, 0);
    let first = rig.client();
    rig.engine.handle(rig.now, Input::ClientLost(first));
    // The caller has not heard of the close yet.
    let second = rig.client();
    assert_ne!(first.index, second.index);
    rig.run();
    assert_eq!(rig.closed, [first]);
    assert_eq!(rig.client().index, first.index);
}

#[test]
fn an_upload_that_never_comes_takes_no_memory_from_others() {
    let mut rig = Rig::with_limits(1, 0, |limits| limits.memory_max = 16 << 20);
    rig.use_nodes();
    let idle = rig.client();
    rig.send(idle, b"set idle 0 0 16000000\r\nnot much");
    let client = rig.client();
    let value = "x".repeat(900_000);
    rig.send(
        client,
        format!("set k 0 0 900000\r\n{value}\r\n").as_bytes(),
    );
    assert_eq!(rig.got(client), "STORED\r\n");
    // Those that do come are refused when memory ends, and the connection goes on.
    let clients: Vec<_> = (0..3).map(|_| rig.client()).collect();
    let value = "x".repeat(8_000_000);
    for &client in &clients {
        rig.send(
            client,
            format!("set k 0 0 8000000\r\n{}", &value[1..]).as_bytes(),
        );
    }
    rig.send(clients[2], b"x\r\nmn\r\n");
    assert_eq!(
        rig.got(clients[2]),
        "SERVER_ERROR out of memory storing object\r\nMN\r\n"
    );
    for client in [vec![idle, client], clients].concat() {
        rig.lose_client(client);
    }
    rig.assert_nothing_left();
}

#[test]
fn a_restart_between_two_requests_loses_nothing() {
    let mut rig = Rig::with_nodes(1, 1).with_keeper();
    let client = rig.client();
    rig.send(client, b"set k 0 0 1\r\nx\r\n");
    assert_eq!(rig.got(client), "STORED\r\n");
    for _ in 0..2 {
        // It is back, and empty, before anyone asks it for anything.
        rig.restart(0);
        rig.send(client, b"get k\r\n");
        assert_eq!(rig.got(client), "VALUE k 0 1\r\nx\r\nEND\r\n");
        rig.pass_ms(2_000);
        assert_eq!(rig.phase(0), Phase::Up);
        rig.sent(0);
        rig.send(client, b"get k\r\n");
        assert_eq!(rig.got(client), "VALUE k 0 1\r\nx\r\nEND\r\n");
        assert_eq!(rig.sent(0), "get k\r\n", "it has been copied back");
    }
    // Its connections never owed anything when they were lost.
    assert_eq!(rig.count(Counter::BackendFailures), 0);
}

#[test]
fn a_connection_that_is_closed_while_idle_is_opened_again_in_silence() {
    let mut rig = Rig::with_nodes(1, 1).with_keeper();
    let client = rig.client();
    rig.send(client, b"set k 0 0 1\r\nx\r\n");
    rig.pass_ms(2_000);
    rig.reports.clear();
    rig.lose(0);
    rig.sent(0);
    rig.send(client, b"get k\r\n");
    assert_eq!(rig.got(client), "STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n");
    assert_eq!(rig.sent(0), "get k\r\n");
    assert!(
        matches!(rig.reports[..], [Report::Connected { .. }]),
        "{:?}",
        rig.reports
    );
}

#[test]
fn what_waits_for_a_connection_is_not_sent_to_another_process() {
    let mut rig = Rig::new(1, 1).with_keeper();
    let client = rig.client();
    rig.send(client, b"get k\r\n");
    rig.answer(0, b"END\r\n");
    rig.sent(0);
    rig.got(client);
    // It is restarted when the probe that the close led to has been answered, and nobody is connected.
    rig.lose(0);
    rig.restart(0);
    rig.send(client, b"incr k 1\r\n");
    assert_eq!(rig.sent(0), "", "an empty one decides nothing");
    assert_eq!(rig.sent(1), "incr k 1\r\n");
    // Another proxy may have filled it by now. So what it missed is the healer's to look at, and not just deleted.
    assert_eq!(rig.healer.recopied, [(BackendId(0), "k".to_owned())]);
}

#[test]
fn a_flush_that_a_dead_backend_missed_is_held_until_nobody_reads_it() {
    let mut rig = Rig::new(1, 1).with_keeper_and_second_worker();
    let client = rig.client();
    rig.send(client, b"flush_all\r\n");
    rig.kill(0);
    rig.answer(1, b"OK\r\n");
    // The second worker's connection may be alive, and full of what was flushed.
    assert_eq!(rig.got(client), "");
    rig.second_worker_acknowledges();
    assert_eq!(rig.got(client), "OK\r\n");
    rig.lose_client(client);
    rig.assert_nothing_left();
}

#[test]
fn a_follower_repeats_the_touch_of_an_mg_and_nothing_else() {
    let mut rig = Rig::new(1, 1);
    let client = rig.client();
    rig.send(client, b"mg k v N30 R5 T100\r\n");
    assert_eq!(rig.sent(0), "mg k v N30 R5 T100\r\n");
    rig.answer(0, b"VA 1\r\nx\r\n");
    // With N30 a follower that lacks the item would create an empty one, to be read after a failover.
    assert_eq!(rig.sent(1), "mg k T100\r\n");
    rig.answer(1, b"EN\r\n");
    assert_eq!(rig.got(client), "VA 1\r\nx\r\n");
}

/// memcached 1.6.18 forgets that a key was base64 when it moves an item, and echoes it raw.
#[test]
fn a_key_with_a_line_end_is_not_echoed_by_a_backend() {
    let mut rig = Rig::new(1, 0);
    let client = rig.client();
    let check = |rig: &mut Rig, request: &[u8], sent: &str, answer: &[u8], got: &str| {
        rig.send(client, request);
        assert_eq!(rig.sent(0), sent);
        rig.answer(0, answer);
        assert_eq!(rig.got(client), got);
    };
    // YSAKYg== is "a \nb".
    check(
        &mut rig,
        b"mg YSAKYg== b O1 k v f\r\n",
        "mg YSAKYg== b O1 v f\r\n",
        b"VA 2 O1 f0 W\r\nk \r\n",
        "VA 2 O1 kYSAKYg== b f0 W\r\nk \r\n",
    );
    check(
        &mut rig,
        b"mg YSAKYg== k b\r\n",
        "mg YSAKYg== b\r\n",
        b"HD\r\n",
        "HD kYSAKYg== b\r\n",
    );
    check(
        &mut rig,
        b"mg YSAKYg== k b O2\r\n",
        "mg YSAKYg== b O2\r\n",
        b"EN O2\r\n",
        "EN kYSAKYg== b O2\r\n",
    );
    rig.send(client, b"me YSAKYg== b\r\n");
    assert_eq!(rig.sent(0), "");
    assert_eq!(rig.got(client), "EN\r\n");
    rig.lose_client(client);
    rig.assert_nothing_left();
}

#[test]
fn a_line_that_is_not_complete_counts_as_memory() {
    let limits = |limits: &mut Limits| {
        limits.memory_max = 200_000;
    };
    let mut rig = Rig::with_limits(1, 0, limits);
    let (first, second) = (rig.client(), rig.client());
    let half_line = [&b"get"[..], &b" k".repeat(60_000)].concat();
    for part in half_line.chunks(1_000) {
        rig.send(first, part);
    }
    assert_eq!(rig.counters[0].memory_len(), 120_003);
    // Memory is short: the second one's line is not waited for.
    rig.send(second, &half_line);
    assert_eq!(rig.got(second), "CLIENT_ERROR line too long\r\n");
    assert_eq!(rig.closed, [second]);
    // The first one's line is taken up where it was left.
    rig.send(first, b" l\r\n");
    assert!(rig.sent(0).starts_with("get k k k"));
    rig.lose_client(first);
    rig.lose(0);
    rig.assert_nothing_left();
}

/// Two workers, each with connections of its own to a primary and a backup.
fn two_workers() -> [Rig; 2] {
    let servers = |port: u16| vec![format!("10.0.0.1:{port}").parse().unwrap()];
    let mut config = Config::new(
        servers(20_000),
        servers(20_001),
        "magent".parse().unwrap(),
        Default::default(),
    )
    .unwrap();
    config.workers = 2;
    config.limits.gather_hold_us = 0;
    let shared = Shared::new(&config);
    [0, 1].map(|worker| Rig::of_worker(WorkerId(worker), &config, shared.clone()))
}

/// Does what [`Output::WakeWorkers`] asks for: says whether there was anything to do.
fn wake(from: &mut Rig, to: &mut Rig) -> bool {
    let wakes = std::mem::take(&mut from.wakes);
    assert!(wakes <= 1, "once per turn");
    if wakes > 0 {
        to.engine.handle(to.now, Input::SlotsFreed);
        to.run();
    }
    wakes > 0
}

#[test]
fn two_workers_write_a_key_one_after_the_other() {
    let [mut first, mut second] = two_workers();
    let (one, two) = (first.client(), second.client());
    first.send(one, b"set k 0 0 1\r\nx\r\n");
    second.send(two, b"set k 0 0 1\r\ny\r\nget k\r\n");
    second.send(two, b"set other 0 0 1\r\nz\r\n");
    // Another key is not waited for; a read waits for the client's own write.
    assert_eq!(second.sent(0), "set other 0 0 1\r\nz\r\n");
    assert_eq!(second.sent(1), "set other 0 0 1\r\nz\r\n");
    first.answer(0, b"STORED\r\n");
    assert!(
        !wake(&mut first, &mut second),
        "the backup does not have it"
    );
    first.answer(1, b"STORED\r\n");
    assert!(wake(&mut first, &mut second));
    assert_eq!(second.sent(0), "set k 0 0 1\r\ny\r\nget k\r\n");
    assert_eq!(second.sent(1), "set k 0 0 1\r\ny\r\n");
    // Nobody else waits when this one is over.
    second.answer(0, b"STORED\r\nSTORED\r\nEND\r\n");
    second.answer(1, b"STORED\r\nSTORED\r\n");
    assert!(!wake(&mut second, &mut first));
    for (rig, client) in [(&mut first, one), (&mut second, two)] {
        rig.lose_client(client);
        rig.assert_nothing_left();
    }
}

#[test]
fn no_worker_starves_however_many_writes_of_a_key_another_has() {
    let [mut first, mut second] = two_workers();
    let (one, two) = (first.client(), second.client());
    first.send(one, &b"set k 0 0 1\r\nx\r\n".repeat(100));
    second.send(two, &b"delete k\r\n".repeat(100));
    // They take turns, and keep their own order.
    for turn in 0..200 {
        let (rig, other, client, line, says) = if turn % 2 == 0 {
            (
                &mut first,
                &mut second,
                one,
                "set k 0 0 1\r\nx\r\n",
                "STORED\r\n",
            )
        } else {
            (&mut second, &mut first, two, "delete k\r\n", "DELETED\r\n")
        };
        for backend in [0, 1] {
            assert_eq!(rig.sent(backend), line, "turn {turn}");
            assert_eq!(other.sent(backend), "", "turn {turn}");
            rig.answer(backend, says.as_bytes());
        }
        assert_eq!(rig.got(client), says);
        assert_eq!(wake(rig, other), turn < 199);
    }
    for (rig, client) in [(&mut first, one), (&mut second, two)] {
        rig.lose_client(client);
        rig.assert_nothing_left();
    }
}

#[test]
fn a_write_that_expires_while_another_worker_writes_is_never_sent() {
    let [mut first, mut second] = two_workers();
    let (one, two) = (first.client(), second.client());
    first.send(one, b"set k 0 0 1\r\nx\r\n");
    first.answer(0, b"STORED\r\n");
    second.send(two, b"set k 0 0 1\r\ny\r\n");
    second.pass_ms(2_100);
    assert!(second.got(two).starts_with("SERVER_ERROR timed out"));
    second.send(two, b"get k\r\n");
    assert_eq!(second.sent(0), "get k\r\n", "no write is before it");
    second.answer(0, b"END\r\n");
    second.lose_client(two);
    assert!(!second.engine.is_drained(), "its turn is still to come");
    first.answer(1, b"STORED\r\n");
    assert!(wake(&mut first, &mut second));
    assert_eq!(second.sent(0), "");
    second.assert_nothing_left();
    first.send(one, b"set k 0 0 1\r\nz\r\n");
    assert_eq!(first.sent(0).len(), 2 * "set k 0 0 1\r\nz\r\n".len());
}

#[test]
fn the_other_worker_waits_for_an_outcome_and_for_a_copy_that_is_deleted() {
    let [mut first, mut second] = two_workers();
    let (one, two) = (first.client(), second.client());
    first.send(one, b"add k 0 0 1\r\nx\r\n");
    second.send(two, b"add k 0 0 1\r\ny\r\n");
    first.answer(0, b"STORED\r\n");
    assert_eq!(first.sent(1), "set k 0 0 1\r\nx\r\n");
    assert!(!wake(&mut first, &mut second));
    first.answer(1, b"SERVER_ERROR out of memory storing object\r\n");
    assert_eq!(first.sent(1), "delete k\r\n");
    assert!(
        !wake(&mut first, &mut second),
        "a newer value could be deleted"
    );
    first.answer(1, b"NOT_FOUND\r\n");
    assert_eq!(first.got(one), "STORED\r\n");
    assert!(wake(&mut first, &mut second));
    assert_eq!(second.sent(0), "add k 0 0 1\r\ny\r\n");
}

#[test]
fn a_refusal_is_mended_before_the_next_write_of_the_key() {
    let mut rig = Rig::new(1, 1);
    let (one, two) = (rig.client(), rig.client());
    rig.send(one, b"set k 0 0 1\r\nx\r\n");
    rig.send(two, b"set k 0 0 1\r\ny\r\n");
    assert_eq!(rig.sent(0), "set k 0 0 1\r\nx\r\n");
    rig.answer(0, b"STORED\r\n");
    rig.answer(1, b"SERVER_ERROR out of memory storing object\r\n");
    assert_eq!(rig.sent(0), "delete k\r\n");
    rig.answer(0, b"DELETED\r\n");
    assert_eq!(rig.sent(0), "");
    rig.answer(1, b"NOT_FOUND\r\n");
    assert_eq!(rig.sent(0), "set k 0 0 1\r\ny\r\n");
    assert_eq!(
        rig.got(one),
        "SERVER_ERROR out of memory storing object\r\n"
    );
}

/// A key on the first primary whose lock is on the second one.
fn key_apart_from_its_lock(rig: &Rig) -> String {
    let is_apart =
        |key: &String| rig.primary_of(key) == 0 && rig.primary_of(&format!("{key}.lock")) == 1;
    (0..)
        .map(|n| format!("session-{n}"))
        .find(is_apart)
        .unwrap()
}

#[test]
fn a_session_is_read_when_its_lock_has_been_asked_for() {
    // In one packet, as pecl-memcache does.
    let mut rig = Rig::new(2, 0);
    let client = rig.client();
    let id = key_apart_from_its_lock(&rig);
    rig.send(
        client,
        format!("incr {id}.lock 1\r\nadd {id}.lock 768 15 1\r\n1\r\nget {id}\r\n").as_bytes(),
    );
    assert_eq!(rig.sent(0), "", "it could be what another view replaces");
    assert_eq!(
        rig.sent(1),
        format!("incr {id}.lock 1\r\nadd {id}.lock 768 15 1\r\n1\r\n")
    );
    rig.answer(1, b"1\r\n");
    assert_eq!(rig.sent(0), "");
    rig.answer(1, b"NOT_STORED\r\n");
    assert_eq!(rig.sent(0), format!("get {id}\r\n"));
    rig.answer(0, b"END\r\n");
    assert_eq!(rig.got(client), "1\r\nNOT_STORED\r\nEND\r\n");
    rig.lose_client(client);
    rig.assert_nothing_left();
}

#[test]
fn a_lock_is_given_up_when_its_session_has_been_written() {
    let mut rig = Rig::new(2, 0);
    let client = rig.client();
    let id = key_apart_from_its_lock(&rig);
    rig.send(
        client,
        format!("set {id} 0 0 1\r\nx\r\nset {id}.lock 768 15 1\r\n0\r\nget other\r\n").as_bytes(),
    );
    assert_eq!(rig.sent(0), format!("set {id} 0 0 1\r\nx\r\n"));
    assert_eq!(rig.sent(1), "", "another view would read what is replaced");
    rig.answer(0, b"STORED\r\n");
    let sent = rig.sent(1);
    assert!(
        sent.starts_with(&format!("set {id}.lock 768 15 1\r\n0\r\n")),
        "{sent}"
    );
}

#[test]
fn a_session_in_binary_keeps_its_order_as_well() {
    let mut rig = Rig::new(2, 0);
    let client = rig.client();
    let id = key_apart_from_its_lock(&rig);
    let delete = |key: &str| {
        let len = u8::try_from(key.len()).unwrap();
        let mut packet = vec![0x80, 0x04, 0, len, 0, 0, 0, 0, 0, 0, 0, len];
        packet.resize(24, 0);
        packet.extend_from_slice(key.as_bytes());
        packet
    };
    rig.send(
        client,
        &[delete(&id), delete(&format!("{id}.lock"))].concat(),
    );
    assert_eq!(rig.sent(0), format!("md {id}\r\n"));
    assert_eq!(rig.sent(1), "");
    rig.answer(0, b"HD\r\n");
    assert_eq!(rig.sent(1), format!("md {id}.lock\r\n"));
}
