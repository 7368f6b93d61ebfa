//! A backend is silent: whom its reads are asked of, and whose answer counts.
//!
//! Backend 0 is the primary of every key and backend 1 its backup, unless a case says otherwise. Both are
//! scripted; without a keeper the View says that both are in step, whatever happens.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;
#[path = "hedge/schedule.rs"]
mod schedule;

use std::sync::Arc;

use magent_core::BackendId;
use magent_core::config::Hedge;
use magent_core::engine::{ClientId, Input};
use magent_core::keeper::{Failure, Report};
use magent_core::placement::{Phase, View};
use magent_core::stats::Counter;
use rig::Rig;

/// A client and two backends of which the first is silent: `request` has been asked at both.
fn hedged(request: &str) -> (Rig, ClientId) {
    let mut rig = Rig::new(1, 1);
    let client = rig.client();
    rig.send(client, request.as_bytes());
    assert_eq!(rig.sent(0), request);
    assert_eq!(rig.sent(1), "");
    rig.pass_ms(20);
    assert_eq!(rig.sent(1), request);
    (rig, client)
}

/// The engine is at rest and holds nothing, and no connection has lost step.
#[track_caller]
fn assert_nothing_left(mut rig: Rig, client: ClientId) {
    assert_eq!(rig.got(client), "");
    assert_eq!(rig.count(Counter::Desyncs), 0);
    rig.lose_client(client);
    rig.assert_nothing_left();
}

/// A worker that was stopped for seconds has not read what the backends have said meanwhile.
#[test]
fn nobody_is_silent_while_the_worker_stands_still() {
    let mut rig = Rig::new(1, 1);
    let client = rig.client();
    rig.send(client, b"set a 0 0 1\r\nx\r\n");
    rig.answer(1, b"STORED\r\n");
    rig.pass_ms(10);
    rig.send(client, b"get k\r\n");
    rig.sent(0);
    rig.sent(1);
    for _ in 0..3 {
        rig.stalls_ms(60_000);
    }
    assert_eq!(rig.sent(1), "", "nobody is suspect");
    // It has been silent for 10 ms, and that counts.
    rig.pass_ms(10);
    assert_eq!(rig.sent(1), "get k\r\n");
    rig.pass_ms(470);
    assert_eq!(failures(&rig), []);
    rig.pass_ms(10);
    assert_eq!(failures(&rig), [Failure::Silent]);
}

#[test]
fn a_connection_is_not_late_while_the_worker_stands_still() {
    let mut rig = Rig::new(1, 0);
    rig.peers[0].silent_to_connects = true;
    let client = rig.client();
    rig.send(client, b"get k\r\n");
    rig.pass_ms(400);
    rig.stalls_ms(60_000);
    rig.pass_ms(90);
    assert_eq!(failures(&rig), []);
    rig.pass_ms(10);
    assert_eq!(failures(&rig), [Failure::ConnectTimeout]);
}

#[test]
fn no_request_is_late_while_the_worker_stands_still() {
    let mut rig = Rig::with_limits(1, 0, |limits| {
        limits.request_ms = 100;
        limits.stats_ms = 80;
    });
    let clients = [rig.client(), rig.client()];
    rig.send(clients[0], b"get k\r\n");
    rig.send(clients[1], b"stats\r\n");
    for _ in 0..3 {
        rig.stalls_ms(60_000);
        rig.pass_ms(20);
    }
    assert_eq!(rig.got(clients[1]), "");
    rig.pass_ms(20);
    assert!(rig.got(clients[1]).contains("STAT magent_absent"));
    rig.pass_ms(10);
    assert_eq!(rig.got(clients[0]), "");
    rig.pass_ms(10);
    assert_eq!(rig.got(clients[0]), "END\r\n");
}

fn failures(rig: &Rig) -> Vec<Failure> {
    let mut failures = vec![];
    for report in &rig.reports {
        if let Report::Failed { failure, .. } = report {
            failures.push(*failure);
        }
    }
    failures
}

fn suspects(rig: &Rig) -> Vec<BackendId> {
    let mut suspects = vec![];
    for report in &rig.reports {
        if let Report::Suspect { backend, .. } = report {
            suspects.push(*backend);
        }
    }
    suspects
}

const HIT: &[u8] = b"VALUE k 0 1\r\nx\r\nEND\r\n";
const HIT_TEXT: &str = "VALUE k 0 1\r\nx\r\nEND\r\n";

#[test]
fn what_a_silent_backend_owes_is_answered_by_its_partner() {
    let (mut rig, client) = hedged("get k\r\n");
    assert_eq!(suspects(&rig), [BackendId(0)]);
    rig.answer(1, HIT);
    assert_eq!(rig.got(client), HIT_TEXT);
    // Late, and of no use to anyone.
    rig.answer(0, b"VALUE k 0 3\r\nold\r\nEND\r\n");
    assert_eq!(rig.count(Counter::Suspects), 1);
    assert_eq!(rig.count(Counter::Hedged), 1);
    assert_eq!(rig.count(Counter::HedgesWon), 1);
    assert_eq!(rig.count(Counter::GetHits), 1);
    assert_eq!(failures(&rig), []);
    assert_nothing_left(rig, client);
}

#[test]
fn a_silent_backend_that_answers_first_is_believed_whatever_it_says() {
    for (answer, told) in [
        (HIT, HIT_TEXT),
        (b"END\r\n", "END\r\n"),
        (b"SERVER_ERROR x\r\n", "SERVER_ERROR x\r\n"),
    ] {
        for late in [HIT, b"END\r\n", b"SERVER_ERROR y\r\n"] {
            let (mut rig, client) = hedged("get k\r\n");
            rig.answer(0, answer);
            assert_eq!(rig.got(client), told);
            rig.answer(1, late);
            assert_eq!(rig.count(Counter::HedgesWon), 0);
            assert_nothing_left(rig, client);
        }
    }
}

#[test]
fn a_followers_miss_is_no_answer() {
    for (request, misses, hit) in [
        ("get k\r\n", [&b"END\r\n"[..], b"SERVER_ERROR x\r\n"], HIT),
        (
            "mg k v\r\n",
            [b"EN\r\n", b"SERVER_ERROR x\r\n"],
            b"VA 1\r\nx\r\n",
        ),
    ] {
        for miss in misses {
            let (mut rig, client) = hedged(request);
            rig.answer(1, miss);
            assert_eq!(rig.got(client), "", "{request}");
            rig.answer(0, hit);
            assert_eq!(rig.got(client).as_bytes(), hit);
            assert_nothing_left(rig, client);
        }
    }
}

#[test]
fn after_a_followers_miss_the_authority_may_miss_too() {
    let (mut rig, client) = hedged("get k\r\n");
    rig.answer(1, b"END\r\n");
    rig.answer(0, b"END\r\n");
    assert_eq!(rig.got(client), "END\r\n");
    assert_eq!(rig.count(Counter::GetMisses), 1);
    assert_nothing_left(rig, client);
}

#[test]
fn a_follower_that_missed_is_asked_again_when_it_leads() {
    let (mut rig, client) = hedged("get k\r\n");
    rig.answer(1, b"END\r\n");
    rig.kill(0);
    assert_eq!(rig.got(client), "");
    assert_eq!(rig.sent(1), "get k\r\n");
    rig.answer(1, b"END\r\n");
    assert_eq!(rig.got(client), "END\r\n");
    assert_nothing_left(rig, client);
}

#[test]
fn an_answer_on_its_way_is_not_asked_for_a_third_time() {
    for (answer, told) in [(HIT, HIT_TEXT), (b"END\r\n", "END\r\n")] {
        let (mut rig, client) = hedged("get k\r\n");
        rig.kill(0);
        assert_eq!(rig.sent(1), "");
        assert_eq!(rig.got(client), "");
        // By now it is the authority: its miss counts.
        rig.answer(1, answer);
        assert_eq!(rig.got(client), told);
        assert_eq!(rig.count(Counter::HedgesWon), 0);
        assert_nothing_left(rig, client);
    }
}

#[test]
fn a_follower_that_fails_leaves_the_read_to_the_authority() {
    for part in ["", "VALUE k 0 1\r\n", "VALUE k 0 1\r\nx"] {
        let (mut rig, client) = hedged("get k\r\n");
        rig.answer_if_connected(1, part.as_bytes());
        rig.kill(1);
        assert_eq!(rig.sent(0), "");
        rig.answer(0, HIT);
        assert_eq!(rig.got(client), HIT_TEXT);
        assert_nothing_left(rig, client);
    }
}

#[test]
fn both_fail_and_the_read_misses() {
    for first in [0, 1] {
        let (mut rig, client) = hedged("get k\r\n");
        rig.kill(first);
        rig.kill(1 - first);
        assert_eq!(rig.got(client), "END\r\n");
        assert_nothing_left(rig, client);
    }
}

#[test]
fn answers_keep_the_order_of_the_requests() {
    let (mut rig, client) = hedged("get a\r\n");
    rig.send(client, b"get b\r\nget c\r\n");
    // What is asked of the follower gathers behind the first.
    rig.pass_ms(10);
    assert_eq!(rig.sent(0), "get b c\r\n");
    assert_eq!(rig.sent(1), "get b c\r\n");
    // The follower has lost the first, so its other answers wait for the authority's.
    rig.answer(
        1,
        b"END\r\nVALUE b 0 2\r\nbb\r\nVALUE c 0 2\r\ncc\r\nEND\r\n",
    );
    assert_eq!(rig.got(client), "");
    // The authority's own values for them find the answers already there, and leave them alone.
    rig.answer(
        0,
        b"VALUE a 0 2\r\naa\r\nEND\r\nVALUE b 0 3\r\nold\r\nEND\r\n",
    );
    assert_eq!(
        rig.got(client),
        "VALUE a 0 2\r\naa\r\nEND\r\nVALUE b 0 2\r\nbb\r\nEND\r\nVALUE c 0 2\r\ncc\r\nEND\r\n"
    );
    assert_nothing_left(rig, client);
}

#[test]
fn an_answer_that_waits_for_its_turn_survives_a_late_one() {
    let mut rig = Rig::new(2, 1);
    let (first, second) = (rig.key(0, Some(2)), rig.key(1, Some(2)));
    let client = rig.client();
    rig.send(
        client,
        format!("get {first}\r\nget {second}\r\n").as_bytes(),
    );
    rig.pass_ms(20);
    // Both are asked at the one backup, which knows the second only.
    rig.answer(2, format!("VALUE {second} 0 1\r\nx\r\nEND\r\n").as_bytes());
    for late in ["VALUE 0 0", "END"] {
        let late = late.replace("VALUE 0 0", &format!("VALUE {second} 0 1\r\ny"));
        rig.answer_if_connected(1, format!("{late}\r\n").as_bytes());
        assert_eq!(rig.got(client), "");
    }
    rig.answer(0, b"END\r\n");
    assert_eq!(
        rig.got(client),
        format!("END\r\nVALUE {second} 0 1\r\nx\r\nEND\r\n")
    );
    assert_nothing_left(rig, client);
}

#[test]
fn a_win_is_the_authoritys_to_give() {
    let (mut rig, client) = hedged("mg k v\r\n");
    rig.answer(1, b"VA 1 W X\r\nx\r\n");
    assert_eq!(rig.got(client), "VA 1 Z X\r\nx\r\n");
    rig.answer(0, b"VA 1 W X\r\nx\r\n");
    assert_nothing_left(rig, client);

    let (mut rig, client) = hedged("mg k t\r\n");
    rig.answer(1, b"HD t5 W\r\n");
    assert_eq!(rig.got(client), "HD t5 Z\r\n");
    rig.answer(0, b"HD t5\r\n");
    assert_nothing_left(rig, client);

    let (mut rig, client) = hedged("mg k v\r\n");
    rig.answer(0, b"VA 1 W X\r\nx\r\n");
    assert_eq!(rig.got(client), "VA 1 W X\r\nx\r\n");
    rig.answer(1, b"VA 1 W X\r\nx\r\n");
    assert_nothing_left(rig, client);
}

#[test]
fn a_cas_unique_is_marked_by_who_gave_it() {
    let mut rig = Rig::new(1, 1);
    let mut view = View::initial(2);
    view.epoch = 1;
    for (backend, mark) in view.backends.iter_mut().zip(1..) {
        backend.mark = mark;
    }
    rig.engine.handle(rig.now, Input::View(&Arc::new(view)));
    let client = rig.client();
    let unique = |got: &str| got.split([' ', '\r']).nth(4).unwrap().to_owned();
    let answer = b"VALUE k 0 1 7\r\nx\r\nEND\r\n";
    rig.send(client, b"gets k\r\n");
    rig.answer(0, answer);
    let of_authority = unique(&rig.got(client));
    rig.send(client, b"gets k\r\n");
    rig.pass_ms(20);
    rig.answer(1, answer);
    let of_follower = unique(&rig.got(client));
    rig.answer(0, b"END\r\n");
    rig.sent(0);
    // Only the authority's means anything to the authority.
    for (unique, is_known) in [(of_authority, true), (of_follower, false)] {
        rig.send(client, format!("cas k 0 0 1 {unique}\r\ny\r\n").as_bytes());
        assert_eq!(rig.sent(0) == "cas k 0 0 1 7\r\ny\r\n", is_known);
        rig.answer(0, b"EXISTS\r\n");
        assert_eq!(rig.got(client), "EXISTS\r\n");
    }
    assert_nothing_left(rig, client);
}

#[test]
fn a_late_meta_answer_is_dropped_in_either_order() {
    for (first, late) in [(1, 0), (0, 1)] {
        for late_answer in [&b"VA 1 f0 k\r\ny\r\n"[..], b"EN\r\n", b"HD f0\r\n"] {
            let (mut rig, client) = hedged("mg k v f\r\n");
            rig.answer(first, b"VA 1 f0\r\nx\r\n");
            assert_eq!(rig.got(client), "VA 1 f0\r\nx\r\n");
            rig.answer(late, late_answer);
            // The connection is in step: the next answer is the next request's.
            rig.send(client, b"mg other\r\n");
            rig.answer(0, b"EN\r\n");
            assert_eq!(rig.got(client), "EN\r\n");
            assert_nothing_left(rig, client);
        }
    }
}

#[test]
fn a_multiget_with_a_silent_half_leaves_together() {
    let mut rig = Rig::new(2, 1);
    let (quick, silent) = (rig.key(0, Some(2)), rig.key(1, Some(2)));
    let client = rig.client();
    rig.send(client, format!("get {silent} {quick}\r\n").as_bytes());
    rig.answer(0, format!("VALUE {quick} 0 1\r\nq\r\nEND\r\n").as_bytes());
    rig.pass_ms(20);
    assert_eq!(rig.got(client), "");
    assert_eq!(rig.sent(2), format!("get {silent}\r\n"));
    rig.answer(2, format!("VALUE {silent} 0 1\r\ns\r\nEND\r\n").as_bytes());
    assert_eq!(
        rig.got(client),
        format!("VALUE {silent} 0 1\r\ns\r\nVALUE {quick} 0 1\r\nq\r\nEND\r\n")
    );
    rig.answer(1, b"END\r\n");
    assert_nothing_left(rig, client);
}

#[test]
fn while_a_backend_is_suspect_both_are_asked_at_once() {
    let (mut rig, client) = hedged("mg k\r\n");
    rig.send(client, b"mg l v\r\n");
    assert_eq!(rig.sent(0), "mg l v\r\n");
    // This one's answer is about to come.
    rig.pass_us(250);
    assert_eq!(rig.sent(1), "mg l v\r\n");
    rig.answer(1, b"HD\r\nVA 1\r\nx\r\n");
    assert_eq!(rig.got(client), "HD\r\nVA 1\r\nx\r\n");
    // A byte ends it, even if it is not an answer yet.
    rig.answer(0, b"H");
    rig.send(client, b"mg m\r\n");
    rig.pass_us(250);
    assert_eq!(rig.sent(0), "mg m\r\n");
    assert_eq!(rig.sent(1), "");
    // Silent again: suspect again.
    rig.pass_ms(30);
    assert_eq!(rig.sent(1), "mg m\r\n");
    assert_eq!(rig.count(Counter::Suspects), 2);
    rig.answer(0, b"D\r\nEN\r\nHD\r\n");
    assert_eq!(rig.got(client), "HD\r\n");
    rig.answer(1, b"HD\r\n");
    assert_nothing_left(rig, client);
}

#[test]
fn silence_that_begins_anew_is_noticed_anew() {
    let (mut rig, client) = hedged("mg k\r\nmg l\r\n");
    rig.answer(1, b"HD\r\nHD\r\n");
    rig.pass_ms(60);
    rig.answer(0, b"HD\r\n");
    rig.pass_ms(30);
    assert_eq!(suspects(&rig), [BackendId(0); 2]);
    rig.answer(0, b"HD\r\n");
    assert_eq!(rig.got(client), "HD\r\nHD\r\n");
    assert_nothing_left(rig, client);
}

#[test]
fn what_has_not_left_for_a_silent_backend_is_hedged_too() {
    let mut rig = Rig::with_limits(1, 1, |limits| limits.gather_batches_max = 1);
    let client = rig.client();
    rig.send(client, b"get k\r\n");
    rig.send(client, b"get l\r\n");
    rig.pass_ms(20);
    assert_eq!(rig.sent(0), "get k\r\n");
    assert_eq!(rig.sent(1), "get k l\r\n");
    rig.answer(1, b"VALUE k 0 1\r\nx\r\nVALUE l 0 1\r\ny\r\nEND\r\n");
    rig.answer(0, b"END\r\n");
    assert_eq!(
        rig.sent(0),
        "",
        "it is asked for what was answered meanwhile"
    );
    assert_eq!(
        rig.got(client),
        "VALUE k 0 1\r\nx\r\nEND\r\nVALUE l 0 1\r\ny\r\nEND\r\n"
    );
    assert_nothing_left(rig, client);
}

#[test]
fn a_follower_that_is_not_in_step_is_not_asked() {
    let mut rig = Rig::new(1, 1).with_keeper();
    rig.healer.slow = true;
    let client = rig.client();
    rig.kill(1);
    rig.send(client, b"delete k\r\n");
    rig.answer(0, b"NOT_FOUND\r\n");
    assert_eq!(rig.phase(1), Phase::Down);
    rig.peers[1].alive = true;
    rig.pass_ms(500);
    assert_eq!(rig.phase(1), Phase::Purging);
    rig.answer(1, b"NOT_FOUND\r\n");
    assert_eq!(rig.phase(1), Phase::CatchingUp);
    assert_eq!(rig.got(client), "NOT_FOUND\r\n");
    rig.sent(1);
    rig.reports.clear();
    rig.send(client, b"get k\r\n");
    rig.pass_ms(30);
    assert_eq!(suspects(&rig), [BackendId(0)]);
    assert_eq!(rig.sent(1), "");
}

#[test]
fn a_read_that_was_lost_too_often_waits_for_its_hedge() {
    let mut rig = Rig::with_limits(1, 1, |limits| limits.fail_ms = 50);
    let client = rig.client();
    rig.send(client, b"get k\r\n");
    // The primary's connection is replaced every 50 ms, while the backup is slow, but not silent.
    rig.pass_ms(30);
    for byte in b"VALUE" {
        rig.answer(1, &[*byte]);
        rig.pass_ms(30);
    }
    assert_eq!(rig.got(client), "");
    assert_eq!(rig.sent(1), "get k\r\n");
    rig.answer(1, b" k 0 1\r\nx\r\nEND\r\n");
    assert_eq!(rig.got(client), HIT_TEXT);
    rig.kill(0);
    assert_nothing_left(rig, client);
}

#[test]
fn a_read_whose_time_is_up_is_a_miss_and_late_answers_are_dropped() {
    let mut rig = Rig::with_limits(1, 1, |limits| limits.request_ms = 100);
    let client = rig.client();
    rig.send(client, b"get k\r\n");
    rig.pass_ms(100);
    assert_eq!(rig.got(client), "END\r\n");
    assert_eq!(rig.count(Counter::Timeouts), 1);
    rig.answer(0, HIT);
    rig.answer(1, HIT);
    assert_eq!(rig.count(Counter::GetMisses), 1);
    assert_eq!(rig.count(Counter::GetHits), 0);
    assert_nothing_left(rig, client);
}

#[test]
fn what_a_hedge_brings_counts_as_memory_until_it_is_dropped() {
    let mut rig = Rig::new(1, 1);
    let client = rig.client();
    rig.send(client, b"get a\r\nmg k v\r\n");
    rig.pass_ms(20);
    assert_eq!(rig.sent(1), "mg k v\r\nget a\r\n");
    assert_eq!(rig.memory_len(), 0);
    rig.answer(1, b"VA 10\r\n01234");
    assert_eq!(rig.memory_len(), 12);
    // First it takes over, then it is lost as well; the client waits for the get before.
    rig.kill(0);
    rig.kill(1);
    assert_eq!(rig.got(client), "END\r\nEN\r\n");
    assert_nothing_left(rig, client);
}

#[test]
fn a_silent_backend_with_reads_only_gets_another_connection() {
    let (mut rig, client) = hedged("get k\r\n");
    rig.send(client, b"get l\r\n");
    rig.pass_ms(10);
    rig.sent(1);
    rig.answer(1, b"END\r\n");
    rig.reports.clear();
    rig.pass_ms(480);
    // Asked again there, both of them; the follower was not asked for a third time.
    assert_eq!(rig.sent(0), "get l\r\nget k l\r\n");
    assert_eq!(rig.sent(1), "");
    assert_eq!(failures(&rig), []);
    rig.answer(0, b"VALUE k 0 1\r\nx\r\nVALUE l 0 1\r\ny\r\nEND\r\n");
    assert_eq!(
        rig.got(client),
        "VALUE k 0 1\r\nx\r\nEND\r\nVALUE l 0 1\r\ny\r\nEND\r\n"
    );
    rig.answer(1, b"VALUE l 0 1\r\ny\r\nEND\r\n");
    assert_nothing_left(rig, client);
}

#[test]
fn a_silent_pair_costs_a_reader_no_more_than_its_request_may_take() {
    let (mut rig, client) = hedged("get k\r\n");
    rig.pass_ms(1_980);
    assert_eq!(rig.got(client), "END\r\n");
    assert_eq!(failures(&rig), []);
    rig.kill(0);
    rig.kill(1);
    assert_nothing_left(rig, client);
}

#[test]
fn a_silent_backend_that_owes_a_write_has_failed() {
    let (mut rig, client) = hedged("get k\r\n");
    rig.send(client, b"set l 0 0 1\r\nx\r\n");
    rig.answer(1, HIT);
    rig.answer(1, b"STORED\r\n");
    rig.pass_ms(470);
    assert_eq!(failures(&rig), []);
    assert_eq!(rig.got(client), HIT_TEXT);
    rig.pass_ms(10);
    assert_eq!(failures(&rig), [Failure::Silent]);
    assert_eq!(rig.got(client), "");
}

#[test]
fn what_changes_an_item_is_never_hedged() {
    for request in [
        "set k 0 0 1\r\nx\r\n",
        "delete k\r\n",
        "incr k 1\r\n",
        "gat 9 k\r\n",
        "mg k v N9\r\n",
        "mg k v R9\r\n",
        "mg k v T9\r\n",
        "me k\r\n",
    ] {
        let mut rig = Rig::new(1, 1);
        let client = rig.client();
        rig.send(client, request.as_bytes());
        rig.sent(1);
        rig.pass_ms(100);
        assert_eq!(rig.sent(1), "", "{request}");
        assert_eq!(suspects(&rig).first(), Some(&BackendId(0)));
        assert_eq!(rig.count(Counter::Hedged), 0);
    }
}

#[test]
fn a_read_behind_an_outcome_that_the_follower_lacks_waits() {
    let mut rig = Rig::new(1, 1);
    let client = rig.client();
    rig.send(client, b"incr k 1\r\nget k\r\nget l\r\n");
    rig.pass_ms(20);
    // It would see the number before.
    assert_eq!(rig.sent(1), "get l\r\n");
    rig.answer(0, b"6\r\nVALUE k 0 1\r\n6\r\nVALUE l 0 1\r\nx\r\nEND\r\n");
    rig.answer(1, b"END\r\n6\r\n");
    assert_eq!(
        rig.got(client),
        "6\r\nVALUE k 0 1\r\n6\r\nEND\r\nVALUE l 0 1\r\nx\r\nEND\r\n"
    );
    assert_nothing_left(rig, client);
}

#[test]
fn a_read_between_two_writes_of_its_key_is_asked_elsewhere_only_behind_the_first() {
    let mut rig = Rig::new(1, 1);
    let [client, other] = [rig.client(), rig.client()];
    rig.send(client, b"get k\r\n");
    rig.send(other, b"set k 0 0 1\r\n1\r\n");
    assert_eq!(rig.sent(1), "set k 0 0 1\r\n1\r\n");
    rig.send(client, b"get k\r\n");
    rig.pass_ms(20);
    // The first one would see the write that came behind it.
    assert_eq!(rig.sent(1), "get k\r\n");
    assert_eq!(rig.count(Counter::Hedged), 1);
    rig.answer(1, b"STORED\r\nVALUE k 0 1\r\n1\r\nEND\r\n");
    assert_eq!(rig.got(client), "");
    rig.answer(0, HIT);
    assert_eq!(
        rig.got(client),
        format!("{HIT_TEXT}VALUE k 0 1\r\n1\r\nEND\r\n")
    );
    rig.answer(0, b"STORED\r\nVALUE k 0 1\r\n1\r\nEND\r\n");
    assert_eq!(rig.got(other), "STORED\r\n");
    rig.lose_client(other);
    assert_nothing_left(rig, client);
}

#[test]
fn a_value_cut_by_silence_comes_from_the_follower() {
    for (request, part, rest, whole) in [
        (
            "get k\r\n",
            "VALUE k 0 10\r\n01234",
            "56789\r\nEND\r\n",
            "VALUE k 0 10\r\n0123456789\r\nEND\r\n",
        ),
        (
            "mg k v\r\n",
            "VA 10\r\n01234",
            "56789\r\n",
            "VA 10\r\n0123456789\r\n",
        ),
    ] {
        let mut rig = Rig::new(1, 1);
        let client = rig.client();
        rig.send(client, request.as_bytes());
        rig.answer(0, part.as_bytes());
        rig.pass_ms(30);
        assert_eq!(rig.sent(1), request);
        // Both halves arrive in turns, and the follower's is complete first.
        rig.answer(1, &whole.as_bytes()[..15]);
        rig.answer(0, &rest.as_bytes()[..2]);
        rig.answer(1, &whole.as_bytes()[15..]);
        assert_eq!(rig.got(client), whole);
        rig.answer(0, &rest.as_bytes()[2..]);
        assert_nothing_left(rig, client);
    }
}

#[test]
fn a_value_that_is_forwarded_as_it_arrives_is_not_begun_again() {
    let mut rig = Rig::with_limits(1, 1, |limits| limits.stream_len_min = 4);
    let client = rig.client();
    rig.send(client, b"get k\r\nget l\r\n");
    rig.answer(0, b"VALUE k 0 10\r\n01234");
    assert_eq!(rig.got(client), "VALUE k 0 10\r\n01234");
    rig.pass_ms(30);
    assert_eq!(rig.sent(1), "get l\r\n");
    rig.answer(1, b"VALUE l 0 1\r\nx\r\nEND\r\n");
    rig.answer(0, b"56789\r\nEND\r\n");
    assert_eq!(
        rig.got(client),
        "56789\r\nEND\r\nVALUE l 0 1\r\nx\r\nEND\r\n"
    );
    assert_nothing_left(rig, client);
}

#[test]
fn a_value_that_begins_to_be_forwarded_while_it_is_hedged_is_finished() {
    let mut rig = Rig::with_limits(1, 1, |limits| limits.stream_len_min = 4);
    let client = rig.client();
    rig.send(client, b"get k\r\n");
    rig.pass_ms(20);
    rig.answer(1, b"VALUE k 0 10\r\n01");
    rig.answer(0, b"VALUE k 0 10\r\n0123");
    assert_eq!(rig.got(client), "VALUE k 0 10\r\n0123");
    rig.answer(1, b"23456789\r\nEND\r\n");
    rig.answer(0, b"456789\r\nEND\r\n");
    assert_eq!(rig.got(client), "456789\r\nEND\r\n");
    assert_nothing_left(rig, client);
}

#[test]
fn a_follower_that_takes_over_in_the_middle_of_its_value_finishes_it() {
    let (mut rig, client) = hedged("get k\r\n");
    rig.answer(1, b"VALUE k 0 10\r\n01234");
    rig.kill(0);
    rig.answer(1, b"56789\r\nEND\r\n");
    assert_eq!(rig.got(client), "VALUE k 0 10\r\n0123456789\r\nEND\r\n");
    assert_eq!(rig.sent(1), "");
    assert_nothing_left(rig, client);
}

#[test]
fn a_client_that_leaves_takes_its_questions_along() {
    let (mut rig, client) = hedged("get k\r\n");
    rig.answer(1, b"VALUE k 0 10\r\n01234");
    rig.lose_client(client);
    let other = rig.client();
    rig.answer(1, b"56789\r\nEND\r\n");
    rig.answer(0, HIT);
    assert_nothing_left(rig, other);
}

#[test]
fn a_silent_connect_is_hedged_too() {
    let mut rig = Rig::new(1, 1);
    rig.peers[0].silent_to_connects = true;
    let client = rig.client();
    rig.send(client, b"get k\r\n");
    rig.pass_ms(20);
    assert_eq!(rig.sent(1), "get k\r\n");
    rig.answer(1, HIT);
    assert_eq!(rig.got(client), HIT_TEXT);
    rig.pass_ms(480);
    assert_eq!(failures(&rig), [Failure::ConnectTimeout]);
    assert_nothing_left(rig, client);
}

#[test]
fn one_lost_packet_marks_nobody_down() {
    let mut rig = Rig::new(1, 1).with_keeper();
    let client = rig.client();
    rig.send(client, b"get k\r\nset l 0 0 1\r\nx\r\n");
    // Linux sends again after 200 ms.
    rig.pass_ms(250);
    rig.answer(1, b"STORED\r\nEND\r\n");
    rig.answer(0, b"STORED\r\nEND\r\n");
    assert_eq!(rig.got(client), "END\r\nSTORED\r\n");
    assert_eq!(suspects(&rig), [BackendId(0), BackendId(1)]);
    assert_eq!(failures(&rig), []);
    assert_eq!(rig.phase(0), Phase::Up);
    assert_eq!(rig.phase(1), Phase::Up);
}

#[test]
fn a_silent_backend_that_fails_its_probe_is_down_for_everybody() {
    let mut rig = Rig::new(1, 1).with_keeper();
    let client = rig.client();
    rig.send(client, b"get k\r\n");
    rig.peers[0].stopped = true;
    rig.pass_ms(30);
    assert_eq!(rig.phase(0), Phase::Down);
    assert_eq!(rig.sent(1), "get k\r\n");
    rig.answer(1, b"END\r\n");
    assert_eq!(rig.got(client), "END\r\n");
    assert_nothing_left(rig, client);
}

#[test]
fn without_a_second_copy_nothing_changes() {
    for mut rig in [
        Rig::new(1, 0),
        Rig::with_config(1, 1, |config| config.hedge = Hedge::Off),
    ] {
        let client = rig.client();
        rig.send(client, b"get k\r\n");
        rig.pass_ms(490);
        assert_eq!(suspects(&rig), []);
        assert_eq!(failures(&rig), []);
        rig.pass_ms(10);
        assert_eq!(failures(&rig), [Failure::Silent]);
        assert_eq!(rig.count(Counter::Hedged), 0);
    }
}

#[test]
fn the_operators_delay_is_kept() {
    let mut rig = Rig::with_config(1, 1, |config| config.hedge = Hedge::AfterMs(50));
    let client = rig.client();
    rig.send(client, b"get k\r\n");
    rig.pass_ms(40);
    assert_eq!(rig.sent(1), "");
    rig.pass_ms(10);
    assert_eq!(rig.sent(1), "get k\r\n");
}

#[test]
fn the_delay_follows_what_the_backend_usually_takes() {
    let mut rig = Rig::new(1, 1);
    let client = rig.client();
    for _ in 0..2_000 {
        rig.send(client, b"get k\r\n");
        rig.answer(0, b"END\r\n");
        assert_eq!(rig.got(client), "END\r\n");
    }
    rig.send(client, b"get k\r\n");
    rig.pass_ms(10);
    assert_eq!(rig.sent(1), "get k\r\n", "it usually answers at once");
}

#[test]
fn what_was_answered_elsewhere_does_not_pile_up_behind_a_silent_backend() {
    let (mut rig, client) = hedged("get k\r\n");
    rig.answer(1, HIT);
    assert_eq!(rig.got(client), HIT_TEXT);
    let mut asked = 0;
    for _ in 0..1_000 {
        rig.send(client, b"get k\r\n");
        rig.answer(1, HIT);
        assert_eq!(rig.got(client), HIT_TEXT);
        asked += rig.sent(0).matches(" k").count();
    }
    // Four batches may be in flight.
    assert!(asked < 4 * 16 + 4, "{asked}");
    rig.answer(0, b"END\r\n");
    let left = rig.sent(0).matches(" k").count();
    assert!(left < 20, "{left}");
    rig.kill(0);
    assert_nothing_left(rig, client);
}
