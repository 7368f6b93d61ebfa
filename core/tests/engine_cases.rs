//! Cases that the engine once got wrong, or could: one scripted exchange each.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use magent_core::config::Limits;
use magent_core::keeper::{self, Failure, Keeper, KeeperConfig, ProbeAnswer, Report};
use magent_core::placement::Phase;
use magent_core::stats::Counter;
use magent_core::{BackendId, Time, WorkerId};
use rig::Rig;

/// The engine is at rest and holds nothing.
#[track_caller]
fn assert_nothing_left(rig: &mut Rig) {
    rig.run();
    assert!(rig.engine.is_drained(), "an exchange is left");
    assert_eq!(rig.memory_len(), 0, "memory is still counted");
}

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
    assert_nothing_left(&mut rig);
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
    assert_nothing_left(&mut rig);
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
        assert_nothing_left(&mut rig);
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
    rig.engine
        .handle(rig.now, magent_core::engine::Input::ClientLost(first));
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
    assert_nothing_left(&mut rig);
}

#[test]
fn an_overflow_that_is_told_late_still_flushes() {
    let (backend, now) = (BackendId(0), Time(0));
    let config = KeeperConfig {
        backends: 1,
        workers: 2,
        probe_delay_ms_min: 100,
        probe_delay_ms_max: 1_000,
        jitter_seed: 1,
    };
    let mut keeper = Keeper::new(config, now);
    let workers = [WorkerId(0), WorkerId(1)];
    let settle = |keeper: &mut Keeper| {
        while !matches!(keeper.poll(now), keeper::Output::Wait(_)) {}
        for worker in workers {
            let epoch = keeper.view().epoch;
            keeper.on_report(now, worker, Report::Acknowledged { epoch });
        }
    };
    let answered = Ok(ProbeAnswer { version: None });
    keeper.on_report(
        now,
        workers[0],
        Report::Failed {
            backend,
            incarnation: 0,
            failure: Failure::Reset,
        },
    );
    settle(&mut keeper);
    keeper.on_probe(now, backend, answered);
    settle(&mut keeper);
    assert_eq!(keeper.view().backends[0].phase, Phase::Purging);
    assert!(!keeper.view().backends[0].flush);
    // Sent before this worker heard of the purge.
    keeper.on_report(now, workers[1], Report::Overflow { backend });
    for worker in workers {
        let report = Report::Purged {
            backend,
            incarnation: 1,
        };
        keeper.on_report(now, worker, report);
    }
    settle(&mut keeper);
    assert_eq!(keeper.view().backends[0].phase, Phase::Down);
    keeper.on_probe(now, backend, answered);
    settle(&mut keeper);
    assert_eq!(keeper.view().backends[0].phase, Phase::Purging);
    assert!(keeper.view().backends[0].flush);
}

#[test]
fn a_restart_between_two_requests_loses_nothing() {
    let mut rig = Rig::with_nodes(1, 1).with_keeper();
    let client = rig.client();
    rig.send(client, b"set k 0 0 1\r\nx\r\n");
    assert_eq!(rig.got(client), "STORED\r\n");
    for _ in 0..2 {
        // It is back, and empty, before anyone asks it for anything.
        rig.peers[0].store.as_mut().unwrap().clear();
        rig.lose(0);
        rig.send(client, b"get k\r\n");
        assert_eq!(rig.got(client), "VALUE k 0 1\r\nx\r\nEND\r\n");
        rig.pass_ms(1_000);
        rig.send(client, b"get k\r\n");
        assert_eq!(rig.got(client), "VALUE k 0 1\r\nx\r\nEND\r\n");
        rig.pass_ms(1_000);
    }
    // Nobody has used the connection since it came up the last time.
    rig.lose(0);
    rig.pass_ms(1_000);
    assert_eq!(rig.count(Counter::BackendFailures), 3);
    rig.lose(0);
    assert_eq!(rig.count(Counter::BackendFailures), 4);
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
    assert_nothing_left(&mut rig);
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
    assert_nothing_left(&mut rig);
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
    assert_nothing_left(&mut rig);
}

#[test]
fn a_worker_that_has_ended_is_not_waited_for() {
    let config = KeeperConfig {
        backends: 1,
        workers: 2,
        probe_delay_ms_min: 100,
        probe_delay_ms_max: 1_000,
        jitter_seed: 1,
    };
    let (backend, now) = (BackendId(0), Time(0));
    let mut keeper = Keeper::new(config, now);
    let failed = Report::Failed {
        backend,
        incarnation: 0,
        failure: Failure::Reset,
    };
    keeper.on_report(now, WorkerId(0), failed);
    let epoch = keeper.view().epoch;
    keeper.on_report(now, WorkerId(0), Report::Acknowledged { epoch });
    let settled = |keeper: &mut Keeper| {
        let mut outputs = Vec::new();
        while !matches!(outputs.last(), Some(keeper::Output::Wait(_))) {
            outputs.push(keeper.poll(now));
        }
        outputs.contains(&keeper::Output::Settled(epoch))
    };
    assert!(!settled(&mut keeper), "the second worker may still read it");
    keeper.on_worker_ended(now, WorkerId(1));
    assert!(settled(&mut keeper));
}
