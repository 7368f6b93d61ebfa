//! Requests are held for a short time while clients are being answered.

use magent_core::config::Limits;
use magent_core::engine::ClientId;
use magent_core::stats::Counter;

use super::rig::Rig;
use super::{HELD_US, MISS, asks, assert_nothing_left, hit, value};

/// One client has just been given its answer by backend 0, in a turn that is not over; others have not asked yet.
fn answering() -> (Rig, ClientId) {
    let mut rig = Rig::that_holds(1, 0);
    let client = asks(&mut rig, "first");
    rig.run();
    assert_eq!(rig.sent(0), "get first\r\n");
    rig.answers(0, hit("first", "1").as_bytes());
    (rig, client)
}

#[test]
fn what_the_answered_ask_next_leaves_with_what_was_held() {
    let (mut rig, first) = answering();
    let second = asks(&mut rig, "second");
    assert!(rig.end_turn(), "the next turn begins at once");
    assert_eq!(rig.got(first), hit("first", "1"));
    assert_eq!(rig.sent(0), "", "held");
    rig.feed(first, b"get third\r\n");
    assert!(!rig.end_turn());
    assert_eq!(rig.sent(0), "get second third\r\n");
    rig.answer(0, (value("second", "2") + &hit("third", "3")).as_bytes());
    assert_eq!(rig.got(second), hit("second", "2"));
    assert_eq!(rig.got(first), hit("third", "3"));
    assert_nothing_left(rig, &[first, second]);
}

#[test]
fn a_turn_in_which_nobody_is_answered_ends_the_wait() {
    let (mut rig, first) = answering();
    let second = asks(&mut rig, "second");
    assert!(rig.end_turn());
    assert!(!rig.end_turn(), "not even a microsecond later");
    assert_eq!(rig.sent(0), "get second\r\n");
    rig.answer(0, MISS.as_bytes());
    assert_eq!(rig.got(first), hit("first", "1"));
    assert_eq!(rig.got(second), MISS);
    assert_nothing_left(rig, &[first, second]);
}

#[test]
fn with_nobody_to_answer_nothing_is_held() {
    let mut rig = Rig::that_holds(1, 0);
    let client = asks(&mut rig, "k");
    rig.run();
    rig.answer(0, MISS.as_bytes());
    assert_eq!(rig.got(client), MISS);
    rig.sent(0);
    for (request, answer) in [
        ("get k\r\n", MISS),
        ("mg k v\r\n", "EN\r\n"),
        ("set k 0 0 1\r\n1\r\n", "STORED\r\n"),
    ] {
        rig.feed(client, request.as_bytes());
        assert!(!rig.end_turn());
        assert_eq!(rig.sent(0), request);
        rig.answer(0, answer.as_bytes());
        assert_eq!(rig.got(client), answer);
    }
    assert_nothing_left(rig, &[client]);
}

/// Writes and meta requests too, in the order in which they came.
#[test]
fn every_kind_of_request_is_held() {
    let (mut rig, first) = answering();
    let second = rig.client();
    rig.feed(second, b"set k 0 0 1\r\n1\r\n");
    rig.feed(second, b"mg k v\r\n");
    rig.feed(second, b"get k\r\n");
    assert!(rig.end_turn());
    assert_eq!(rig.sent(0), "");
    rig.feed(first, b"md k\r\n");
    assert!(!rig.end_turn());
    let sent = rig.sent(0);
    assert_eq!(sent, "set k 0 0 1\r\n1\r\nmg k v\r\nget k\r\nmd k\r\n");
    let answer = "STORED\r\nVA 1\r\n1\r\n".to_owned() + &hit("k", "1") + "HD\r\n";
    rig.answer(0, answer.as_bytes());
    assert_eq!(rig.got(second), answer.strip_suffix("HD\r\n").unwrap());
    assert_eq!(rig.got(first), hit("first", "1") + "HD\r\n");
    assert_nothing_left(rig, &[first, second]);
}

/// Answers that leave turn after turn hold nothing up for longer than the limit.
#[test]
fn nothing_is_held_for_longer_than_the_limit() {
    let mut rig = Rig::that_holds(2, 0);
    let [busy, other] = [rig.client(), rig.client()];
    let elsewhere = format!("mg {} v\r\n", rig.key(1, None));
    rig.send(busy, elsewhere.repeat(100).as_bytes());
    let held = format!("mg {} v\r\n", rig.key(0, None));
    rig.send(other, held.as_bytes());
    rig.pass_us(HELD_US);
    rig.answer(0, b"EN\r\n");
    assert_eq!(rig.sent(0), held);
    rig.feed(other, held.as_bytes());
    let mut turns = 0;
    while rig.sent(0).is_empty() {
        rig.answers(1, b"EN\r\n");
        rig.end_turn();
        assert_eq!(rig.got(busy), "EN\r\n");
        rig.now.0 += 20_000;
        turns += 1;
    }
    // 250 microseconds, and the turn in which that shows.
    assert_eq!(turns, 14);
}

/// So many share a packet well enough.
#[test]
fn sixteen_requests_are_not_held() {
    for verb in ["get", "mg"] {
        for count in [15, 16] {
            let (mut rig, first) = answering();
            let clients: Vec<_> = (0..count).map(|_| rig.client()).collect();
            for (n, &client) in clients.iter().enumerate() {
                rig.feed(client, format!("{verb} k{n}\r\n").as_bytes());
            }
            rig.end_turn();
            assert_eq!(rig.sent(0).is_empty(), count == 15, "{count} of {verb}");
            rig.got(first);
        }
    }
}

/// What is long needs packets of its own.
#[test]
fn a_long_request_is_not_held() {
    let (mut rig, _) = answering();
    let writer = rig.client();
    rig.feed(writer, b"set k 0 0 9000\r\n");
    rig.feed(writer, &[b'v'; 9_000]);
    rig.feed(writer, b"\r\n");
    rig.end_turn();
    assert!(rig.sent(0).starts_with("set k 0 0 9000\r\n"));
}

/// The connection breaks before they have left: they are answered as those that have.
#[test]
fn held_requests_of_a_connection_that_breaks_are_answered() {
    let (mut rig, first) = answering();
    let [reader, writer] = [asks(&mut rig, "k"), rig.client()];
    rig.feed(writer, b"set x 0 0 1\r\n1\r\n");
    assert!(rig.end_turn());
    assert_eq!(rig.sent(0), "");
    rig.kill(0);
    rig.run();
    assert_eq!(rig.got(first), hit("first", "1"));
    assert_eq!(rig.got(reader), MISS);
    assert_eq!(
        rig.got(writer),
        "SERVER_ERROR backend failed before it answered\r\n"
    );
    assert_nothing_left(rig, &[first, reader, writer]);
}

#[test]
fn held_requests_of_a_client_that_leaves_do_no_harm() {
    let (mut rig, first) = answering();
    let gone = asks(&mut rig, "gone");
    let second = asks(&mut rig, "second");
    assert!(rig.end_turn());
    rig.lose_client(gone);
    assert_eq!(rig.sent(0), "get second\r\n");
    rig.answer(0, hit("second", "2").as_bytes());
    assert_eq!(rig.got(second), hit("second", "2"));
    assert_eq!(rig.got(first), hit("first", "1"));
    assert_nothing_left(rig, &[first, second]);
}

/// One client's meta get is in flight; the worker has not had to wait since.
fn in_flight() -> (Rig, ClientId) {
    let mut rig = Rig::that_holds(1, 0);
    let client = rig.client();
    rig.send(client, b"mg first v\r\n");
    assert_eq!(rig.sent(0), "mg first v\r\n");
    (rig, client)
}

#[test]
fn requests_behind_an_answer_in_flight_leave_together() {
    let (mut rig, first) = in_flight();
    let [writer, reader] = [rig.client(), rig.client()];
    rig.send(writer, b"set k 0 0 1\r\n1\r\n");
    rig.send(reader, b"mg k v\r\n");
    assert!(!rig.end_turn(), "the answer wakes the worker");
    assert_eq!(rig.sent(0), "");
    rig.answer(0, b"EN\r\n");
    assert_eq!(rig.got(first), "EN\r\n");
    assert_eq!(rig.sent(0), "set k 0 0 1\r\n1\r\nmg k v\r\n");
    rig.answer(0, b"STORED\r\nVA 1\r\n1\r\n");
    assert_eq!(rig.got(writer), "STORED\r\n");
    assert_eq!(rig.got(reader), "VA 1\r\n1\r\n");
    assert_nothing_left(rig, &[first, writer, reader]);
}

#[test]
fn requests_behind_a_late_answer_do_not_wait_for_it() {
    let (mut rig, first) = in_flight();
    let reader = rig.client();
    rig.send(reader, b"mg k v\r\n");
    rig.pass_us(249);
    assert_eq!(rig.sent(0), "");
    rig.pass_us(1);
    assert_eq!(rig.sent(0), "mg k v\r\n");
    rig.answer(0, b"EN\r\nEN\r\n");
    assert_eq!([rig.got(first), rig.got(reader)], ["EN\r\n", "EN\r\n"]);
    assert_nothing_left(rig, &[first, reader]);
}

#[test]
fn a_worker_with_time_to_spare_holds_nothing_behind_an_answer() {
    // Three times as long as it waited, and 50 us at most.
    for (waited_us, spare_us) in [(5, 15), (10, 30), (17, 50), (1_000, 50)] {
        for (passed_us, held) in [(0, false), (spare_us - 1, false), (spare_us, true)] {
            let (mut rig, _) = in_flight();
            rig.waited_us(waited_us);
            rig.pass_us(passed_us);
            let reader = rig.client();
            rig.send(reader, b"mg k v\r\n");
            let what = format!("{passed_us} us after {waited_us} us");
            assert_eq!(rig.sent(0).is_empty(), held, "{what}");
        }
    }
}

/// Whose waits are short and many has time to spare as well as one who waits for long.
#[test]
fn short_waits_add_up() {
    for (passed_us, held) in [(49, false), (50, true)] {
        let (mut rig, _) = in_flight();
        for _ in 0..10 {
            // What is left of the one before counts.
            rig.now.0 += 10_000;
            rig.waited_us(10);
            rig.pass_us(20);
        }
        rig.now.0 += 10_000;
        rig.waited_us(10);
        rig.pass_us(passed_us);
        let reader = rig.client();
        rig.send(reader, b"mg k v\r\n");
        assert_eq!(rig.sent(0).is_empty(), held, "{passed_us} us");
    }
}

/// Each key is asked for at its backend, as the first request there: from now on there are connections.
fn connect(rig: &mut Rig, keys: &[String]) {
    let client = rig.client();
    for (backend, key) in keys.iter().enumerate() {
        rig.send(client, format!("get {key}\r\n").as_bytes());
        rig.answer(backend, MISS.as_bytes());
        assert_eq!(rig.got(client), MISS);
        rig.sent(backend);
    }
    rig.lose_client(client);
}

/// Backend 1 owes an answer to a client, backend 0 owes nothing. With the client, another one, and a key of backend 0.
fn owed_elsewhere(backup: Option<u16>) -> (Rig, ClientId, ClientId, String) {
    let mut rig = Rig::that_holds(2, backup.map_or(0, |_| 1));
    let keys = [0, 1].map(|primary| rig.key(primary, backup));
    connect(&mut rig, &keys);
    let [first, second] = [rig.client(), rig.client()];
    let elsewhere = format!("get {}\r\n", keys[1]);
    rig.send(first, elsewhere.as_bytes());
    assert_eq!(rig.sent(1), elsewhere);
    let [key, _] = keys;
    (rig, first, second, key)
}

/// Another backend's answer brings requests, too.
#[test]
fn requests_wait_while_another_backend_owes_an_answer() {
    for (verb, answer) in [("get", MISS), ("mg", "EN\r\n"), ("delete", "NOT_FOUND\r\n")] {
        let (mut rig, first, second, key) = owed_elsewhere(None);
        let request = format!("{verb} {key}\r\n");
        rig.send(second, request.as_bytes());
        rig.pass_us(HELD_US - 1);
        assert_eq!(rig.sent(0), "", "{verb}");
        rig.pass_us(1);
        assert_eq!(rig.sent(0), request);
        rig.answer(1, MISS.as_bytes());
        assert_eq!(rig.got(first), MISS);
        rig.answer(0, answer.as_bytes());
        assert_eq!(rig.got(second), answer);
        // Nothing is owed any more.
        rig.send(second, request.as_bytes());
        assert_eq!(rig.sent(0), request);
    }
}

/// Of several backends that requests come for in one turn the first is asked, and its answer is one to wait for.
#[test]
fn backends_that_owe_nothing_are_asked_one_after_the_other() {
    let (mut rig, first, second, key) = owed_elsewhere(None);
    rig.answer(1, MISS.as_bytes());
    assert_eq!(rig.got(first), MISS);
    rig.sent(1);
    let elsewhere = format!("mg {} v\r\n", rig.key(1, None));
    let here = format!("mg {key} v\r\n");
    rig.feed(first, elsewhere.as_bytes());
    rig.feed(second, here.as_bytes());
    rig.run();
    assert_eq!([rig.sent(1), rig.sent(0)], [&elsewhere, ""]);
    // It is joined by what the answered asks next.
    rig.answers(1, b"EN\r\n");
    assert!(rig.end_turn());
    assert_eq!([&rig.got(first), rig.sent(0).as_str()], ["EN\r\n", ""]);
    rig.send(first, here.as_bytes());
    assert_eq!(rig.sent(0), here.repeat(2));
    rig.answer(0, b"EN\r\nEN\r\n");
    assert_eq!([rig.got(first), rig.got(second)], ["EN\r\n", "EN\r\n"]);
    assert_nothing_left(rig, &[first, second]);
}

#[test]
fn nothing_waits_once_the_other_backend_has_answered() {
    let (mut rig, first, second, key) = owed_elsewhere(None);
    let request = format!("get {key}\r\n");
    rig.send(second, request.as_bytes());
    assert_eq!(rig.sent(0), "");
    rig.answers(1, MISS.as_bytes());
    assert!(rig.end_turn());
    assert_eq!([rig.got(first), rig.sent(0)], [MISS, ""]);
    rig.end_turn();
    assert_eq!(rig.sent(0), request);
}

/// As by default. Backend 1 owes each of `count` clients an answer; with a key of backend 0.
fn waiting_elsewhere(count: usize) -> (Rig, Vec<ClientId>, String) {
    let mut rig = Rig::with_limits(2, 0, |limits| *limits = Limits::default());
    let keys = [0, 1].map(|primary| rig.key(primary, None));
    connect(&mut rig, &keys);
    let [key, elsewhere] = keys;
    let request = format!("mg {elsewhere} v\r\n");
    let clients = (0..count).map(|_| {
        let client = rig.client();
        rig.send(client, request.as_bytes());
        rig.pass_us(HELD_US);
        client
    });
    let clients = clients.collect();
    assert_eq!(rig.sent(1), request.repeat(count));
    (rig, clients, key)
}

/// With few others hardly anything comes to share the packet, and those that wait could have been answered.
#[test]
fn nothing_waits_for_fewer_than_six_others() {
    for others in [0, 1, 5, 6, 7] {
        for answered in 0..=others {
            let (mut rig, clients, key) = waiting_elsewhere(others);
            let request = format!("get {key}\r\n");
            let client = rig.client();
            rig.feed(client, request.as_bytes());
            rig.answers(1, "EN\r\n".repeat(answered).as_bytes());
            rig.end_turn();
            let what = format!("{others} others, {answered} of them answered");
            assert_eq!(rig.sent(0).is_empty(), others >= 6, "{what}");
            rig.pass_us(HELD_US);
            rig.answer(0, MISS.as_bytes());
            assert_eq!(rig.got(client), MISS);
            rig.answer(1, "EN\r\n".repeat(others - answered).as_bytes());
            for &other in &clients {
                assert_eq!(rig.got(other), "EN\r\n");
            }
        }
    }
}

/// However many keys it asks for, it is one client.
#[test]
fn a_lone_client_asks_all_backends_at_once() {
    let (mut rig, _, key) = waiting_elsewhere(0);
    let client = rig.client();
    let other = rig.key(1, None);
    let keys = [key, other].map(|key| format!(" {key}").repeat(8));
    rig.feed(client, format!("get{}\r\n", keys.concat()).as_bytes());
    rig.end_turn();
    let asked = keys.map(|keys| format!("get{keys}\r\n"));
    assert_eq!([rig.sent(0), rig.sent(1)], asked);
}

#[test]
fn a_worker_with_time_to_spare_waits_for_no_other_backend() {
    let (mut rig, _, second, key) = owed_elsewhere(None);
    rig.waited_us(20);
    let request = format!("get {key}\r\n");
    rig.send(second, request.as_bytes());
    assert_eq!(rig.sent(0), request);
}

/// Nobody knows when a backend answers that has gone silent.
#[test]
fn nothing_waits_while_only_a_suspect_backend_owes_an_answer() {
    let (mut rig, first, second, key) = owed_elsewhere(Some(2));
    rig.pass_ms(20);
    assert_eq!(rig.count(Counter::Suspects), 1);
    rig.answer(2, MISS.as_bytes());
    let request = format!("get {key}\r\n");
    rig.send(second, request.as_bytes());
    assert_eq!(rig.sent(0), request);
    rig.answer(0, MISS.as_bytes());
    assert_eq!(rig.got(second), MISS);
    // A part of its answer: it is trusted again.
    rig.answer(1, b"E");
    rig.send(second, request.as_bytes());
    assert_eq!(rig.sent(0), "");
    rig.answer(1, b"ND\r\n");
    assert_eq!(rig.got(first), MISS);
}

#[test]
fn nothing_waits_behind_a_large_value() {
    let (mut rig, _) = in_flight();
    rig.answer(0, b"VA 100000\r\nvvv");
    let reader = rig.client();
    rig.send(reader, b"mg k v\r\n");
    assert_eq!(rig.sent(0), "mg k v\r\n");
}
