//! A batch that is not answered as it was asked: its backend dies, its clients leave, its time is up.

use magent_core::config::DeadRead;
use magent_core::stats::Counter;

use super::rig::Rig;
use super::{MISS, ask_together, asks, assert_nothing_left, hit, value};

/// What is asked in the batch that is cut: keys of clients with one each, and of one with two.
const KEYS: [&str; 5] = ["a", "b", "miss", "c", "d"];

/// The whole answer to `KEYS`.
fn whole(of: &str) -> String {
    let found = KEYS.iter().filter(|&&key| key != "miss");
    let values: String = found
        .map(|key| value(key, &format!("{of} {key}")))
        .collect();
    values + MISS
}

/// Whatever has arrived of the answer when the connection is closed, each client is told its value: the part that
/// came, the rest from the other backend, also of what had not been sent yet.
#[test]
fn a_backend_that_dies_at_any_byte_of_its_answer_costs_nobody_anything() {
    for offset in 0..=whole("x").len() {
        let mut rig = Rig::with_nodes(1, 1).with_keeper();
        let writer = rig.client();
        for key in KEYS.iter().filter(|&&key| key != "miss").chain(&["late"]) {
            let line = format!("set {key} 0 0 {}\r\nx {key}\r\n", key.len() + 2);
            rig.send(writer, line.as_bytes());
        }
        assert_eq!(rig.got(writer), "STORED\r\n".repeat(5));
        rig.peers[0].stopped = true;
        let [one, two, three] = [rig.client(), rig.client(), rig.client()];
        rig.feed(one, b"get a\r\n");
        rig.feed(two, b"get b miss\r\n");
        rig.feed(three, b"get c d\r\n");
        rig.run();
        // Behind it one more gathers.
        let late = asks(&mut rig, "late");
        rig.run();
        rig.sent(1);
        rig.answer(0, &whole("x").as_bytes()[..offset]);
        rig.kill(0);
        rig.pass_ms(20);
        assert_eq!(rig.got(one), hit("a", "x a"), "cut at {offset}");
        assert_eq!(rig.got(two), hit("b", "x b"), "cut at {offset}");
        let both = value("c", "x c") + &hit("d", "x d");
        assert_eq!(rig.got(three), both, "cut at {offset}");
        assert_eq!(rig.got(late), hit("late", "x late"), "cut at {offset}");
        assert_eq!(rig.closed, []);
        assert_nothing_left(rig, &[writer, one, two, three, late]);
    }
}

/// Without backups what has not come is a miss, or an error by the operator's wish and only for a get of one key.
#[test]
fn without_a_backup_what_had_not_arrived_is_missed() {
    const NOBODY: &str = "SERVER_ERROR no backend for this key is up\r\n";
    for dead_read in [DeadRead::Miss, DeadRead::Error] {
        let lost = if dead_read == DeadRead::Miss {
            MISS
        } else {
            NOBODY
        };
        let answer = whole("x");
        // Where each value is complete, and where it is known that there was none.
        let end = |key: &str| {
            let value = value(key, &format!("x {key}"));
            answer.find(&value).unwrap() + value.len()
        };
        for offset in 0..=answer.len() {
            let mut rig = Rig::with_config(1, 0, |config| config.dead_read = dead_read);
            let [one, two, three] = [rig.client(), rig.client(), rig.client()];
            rig.feed(one, b"get a\r\n");
            rig.feed(two, b"get b miss\r\n");
            rig.feed(three, b"get c d\r\n");
            rig.run();
            assert_eq!(rig.sent(0), format!("get {}\r\n", KEYS.join(" ")));
            let late = asks(&mut rig, "late");
            rig.run();
            rig.answer(0, &answer.as_bytes()[..offset]);
            rig.peers[0].alive = false;
            rig.lose(0);
            let found = |key: &str| {
                let whole = value(key, &format!("x {key}"));
                if offset >= end(key) {
                    whole
                } else {
                    String::new()
                }
            };
            let first = if offset >= end("a") {
                found("a") + MISS
            } else {
                lost.to_owned()
            };
            assert_eq!(rig.got(one), first, "cut at {offset}");
            assert_eq!(rig.got(two), found("b") + MISS, "cut at {offset}");
            assert_eq!(rig.got(three), found("c") + &found("d") + MISS);
            assert_eq!(rig.got(late), lost, "cut at {offset}");
            assert_nothing_left(rig, &[one, two, three, late]);
        }
    }
}

/// A client that has heard the beginning of a value hears its end, or its connection's. Nobody else of the batch is
/// touched, and nobody hears what was meant for it.
#[test]
fn a_value_that_was_forwarded_in_part_ends_its_client_and_no_other() {
    let (large, small) = (value("large", "0123456789"), value("small", "x"));
    let answer = format!("{large}{small}END\r\n");
    // It is forwarded from its first byte, with its line.
    let header_len = large.find("\r\n").unwrap() + 2;
    for backups in [0, 1] {
        for offset in 0..=answer.len() {
            let mut rig = Rig::with_limits(1, backups, |limits| limits.stream_len_min = 4);
            let clients = ask_together(&mut rig, &["large", "small"]);
            rig.answer(0, &answer.as_bytes()[..offset]);
            rig.peers[0].alive = false;
            rig.lose(0);
            if backups == 1 {
                let again = rig.sent(1);
                let keys = again.trim_end().split(' ').skip(1);
                let of = |key| if key == "large" { &large } else { &small };
                let found: String = keys.map(|key| of(key).as_str()).collect();
                rig.answer_if_connected(1, (found + MISS).as_bytes());
            }
            let got = clients
                .iter()
                .map(|&client| rig.got(client))
                .collect::<Vec<_>>();
            let is_begun = offset > header_len && offset < large.len();
            if is_begun {
                assert_eq!(rig.closed, [clients[0]], "cut at {offset}");
                assert_eq!(got[0], answer[..offset], "cut at {offset}");
            } else {
                assert_eq!(rig.closed, [], "cut at {offset}");
                let is_found = backups == 1 || offset >= large.len();
                let expected = if is_found {
                    large.clone() + MISS
                } else {
                    MISS.to_owned()
                };
                assert_eq!(got[0], expected, "cut at {offset}");
            }
            let is_found = backups == 1 || offset >= large.len() + small.len();
            let expected = if is_found {
                small.clone() + MISS
            } else {
                MISS.to_owned()
            };
            assert_eq!(got[1], expected, "cut at {offset}");
        }
    }
}

/// All of several batches in flight are asked elsewhere, in their order, and joined with what has not left.
#[test]
fn batches_in_flight_are_asked_elsewhere_as_one() {
    let mut rig = Rig::new(1, 1);
    let mut clients = ask_together(&mut rig, &["a", "b"]);
    for key in ["c", "d", "e"] {
        rig.pass_us(1_000);
        clients.extend(ask_together(&mut rig, &[key]));
    }
    clients.push(asks(&mut rig, "f"));
    rig.run();
    assert_eq!(rig.sent(0), "", "four are in flight");
    rig.answer(0, value("a", "1").as_bytes());
    rig.kill(0);
    assert_eq!(rig.sent(1), "get b c d e f\r\n");
    let found: String = ["b", "d", "f"].map(|key| value(key, "2")).concat();
    rig.answer(1, (found + MISS).as_bytes());
    let expected = [
        hit("a", "1"),
        hit("b", "2"),
        MISS.to_owned(),
        hit("d", "2"),
        MISS.to_owned(),
        hit("f", "2"),
    ];
    for (&client, expected) in clients.iter().zip(expected) {
        assert_eq!(rig.got(client), expected);
    }
    assert_nothing_left(rig, &clients);
}

/// The write had gone to both copies at once, and what the get should have seen is nowhere any more. See the limits
/// of the promises in docs/failover.md.
#[test]
fn a_get_that_is_asked_again_may_see_the_write_behind_it() {
    let mut rig = Rig::new(1, 1);
    let client = rig.client();
    rig.send(client, b"get k\r\nset k 0 0 1\r\n2\r\nget k\r\n");
    assert_eq!(rig.sent(1), "set k 0 0 1\r\n2\r\n");
    rig.answer(1, b"STORED\r\n");
    rig.kill(0);
    // Both gets, and never one value for the second that is older than that of the first.
    assert_eq!(rig.sent(1), "get k k\r\n");
    let value = value("k", "2");
    rig.answer(1, format!("{value}{value}END\r\n").as_bytes());
    assert_eq!(rig.got(client), hit("k", "2"));
}

/// What waited for the write of somebody else has not left, so the get that is asked again is before it.
#[test]
fn a_get_that_is_asked_again_does_not_see_what_arrived_later_and_waits() {
    for first in ["get k\r\n", "get k\r\nget k\r\n"] {
        let mut rig = Rig::new(1, 1);
        let [client, other] = [rig.client(), rig.client()];
        rig.send(client, first.as_bytes());
        rig.send(other, b"set k 0 0 1\r\n1\r\n");
        rig.send(client, b"get k\r\nset k 0 0 1\r\n2\r\n");
        assert_eq!(rig.sent(1), "set k 0 0 1\r\n1\r\n");
        rig.answer(1, b"STORED\r\n");
        rig.kill(0);
        let before = 1 + first.lines().count();
        let keys = " k".repeat(before);
        assert_eq!(rig.sent(1), format!("get{keys}\r\nset k 0 0 1\r\n2\r\n"));
        let found = value("k", "1").repeat(before);
        rig.answer(1, format!("{found}END\r\nSTORED\r\n").as_bytes());
        assert_eq!(rig.got(client), hit("k", "1").repeat(before));
    }
}

/// A write that is decided anew is before the gets behind it, and not before those in front of it.
#[test]
fn gets_around_a_write_that_is_decided_anew_keep_their_places() {
    let mut rig = Rig::new(1, 1).with_keeper();
    let client = rig.client();
    rig.send(client, b"get k\r\nappend k 0 0 1\r\n2\r\nget k\r\n");
    assert_eq!(rig.sent(1), "");
    rig.kill(0);
    assert_eq!(rig.sent(1), "get k\r\nappend k 0 0 1\r\n2\r\n");
    let first = hit("k", "1") + "STORED\r\n";
    rig.answer(1, first.as_bytes());
    assert_eq!(rig.sent(1), "get k\r\n");
    rig.answer(1, hit("k", "12").as_bytes());
    assert_eq!(rig.got(client), first + &hit("k", "12"));
    assert_nothing_left(rig, &[client]);
}

// -- Clients that leave --

/// When a client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Its key has not left.
    Gathering,
    /// The line has left.
    InFlight,
    /// So many bytes of the answer have come.
    Answered(usize),
}

/// The others of its batch are answered; its own answer is read and dropped.
#[test]
fn who_leaves_takes_nothing_from_the_others_of_the_batch() {
    let answer = value("a", "1") + &value("b", "2") + &hit("c", "3");
    let moments = [Moment::Gathering, Moment::InFlight].into_iter();
    for moment in moments.chain((0..=answer.len()).map(Moment::Answered)) {
        for leaves in 0..3 {
            let mut rig = Rig::new(1, 0);
            let busy = ask_together(&mut rig, &["busy"])[0];
            let clients = ["a", "b", "c"].map(|key| asks(&mut rig, key));
            rig.run();
            if moment == Moment::Gathering {
                rig.lose_client(clients[leaves]);
            }
            rig.answer(0, MISS.as_bytes());
            let sent = rig.sent(0);
            // Whether it is still asked for is not said, only that it is told to nobody else.
            let asked = |key: &str| sent.trim_end().split(' ').any(|word| word == key);
            let keys = ["a", "b", "c"].into_iter().zip(["1", "2", "3"]);
            let values = keys.clone().filter(|(key, _)| asked(key));
            let answer: String = values.map(|(key, of)| value(key, of)).collect();
            let answer = answer + MISS;
            let at = if let Moment::Answered(at) = moment {
                at
            } else {
                0
            };
            rig.answer(0, &answer.as_bytes()[..at]);
            let before = rig.got(clients[leaves]);
            if moment != Moment::Gathering {
                rig.lose_client(clients[leaves]);
            }
            // Who comes now may get the place of who has left.
            let next = asks(&mut rig, "next");
            rig.run();
            rig.answer(0, &answer.as_bytes()[at..]);
            assert_eq!(rig.sent(0), "get next\r\n");
            rig.answer(0, hit("next", "4").as_bytes());
            for (at, (key, of)) in keys.enumerate() {
                if at == leaves {
                    assert_eq!(rig.got(clients[at]), "", "after it has left");
                    assert!(before.is_empty() || before == hit(key, of));
                } else {
                    assert_eq!(rig.got(clients[at]), hit(key, of), "{moment:?}");
                    rig.lose_client(clients[at]);
                }
            }
            assert_eq!(rig.got(busy), MISS);
            assert_eq!(rig.got(next), hit("next", "4"), "{moment:?}");
            assert_eq!(rig.count(Counter::Desyncs), 0);
            assert_nothing_left(rig, &[busy, next]);
        }
    }
}

#[test]
fn what_comes_for_who_has_left_is_not_held() {
    let mut rig = Rig::new(1, 0);
    let clients = ask_together(&mut rig, &["large", "small"]);
    let answer = value("large", &"v".repeat(100_000)) + &hit("small", "x");
    rig.answer(0, &answer.as_bytes()[..30_000]);
    rig.lose_client(clients[0]);
    assert_eq!(rig.memory_len(), 0);
    rig.answer(0, &answer.as_bytes()[30_000..90_000]);
    assert_eq!(rig.memory_len(), 0);
    rig.answer(0, &answer.as_bytes()[90_000..]);
    assert_eq!(rig.got(clients[1]), hit("small", "x"));
    assert_nothing_left(rig, &clients[1..]);
}

// -- Time --

/// A get that is answered by its deadline has missed. Its answer, when it comes, is for nobody.
#[test]
fn the_late_answer_of_an_expired_get_is_dropped() {
    let mut rig = Rig::with_limits(1, 0, |limits| {
        limits.request_ms = 100;
        limits.fail_ms = 10_000;
    });
    let early = ask_together(&mut rig, &["a", "b"]);
    rig.pass_ms(50);
    let late = ask_together(&mut rig, &["c"])[0];
    rig.answer(0, value("a", "1").as_bytes());
    rig.pass_ms(50);
    assert_eq!(rig.got(early[0]), hit("a", "1"), "it was in time");
    assert_eq!(rig.got(early[1]), MISS, "its time is up");
    assert_eq!(rig.got(late), "");
    let next = ask_together(&mut rig, &["b"])[0];
    rig.answer(
        0,
        (hit("b", "late") + &hit("c", "3") + &hit("b", "4")).as_bytes(),
    );
    assert_eq!(rig.got(early[1]), "");
    assert_eq!(rig.got(late), hit("c", "3"));
    assert_eq!(rig.got(next), hit("b", "4"));
    assert_nothing_left(rig, &[early, vec![late, next]].concat());
}

/// The time of a get runs from its arrival, also while it gathers.
#[test]
fn a_get_may_expire_before_it_leaves() {
    let mut rig = Rig::with_limits(1, 0, |limits| {
        limits.request_ms = 100;
        limits.fail_ms = 10_000;
        limits.gather_batches_max = 1;
    });
    let busy = ask_together(&mut rig, &["busy"])[0];
    let expires = asks(&mut rig, "a");
    rig.run();
    rig.pass_ms(50);
    let stays = [asks(&mut rig, "a"), asks(&mut rig, "b")];
    rig.run();
    rig.pass_ms(50);
    assert_eq!(rig.sent(0), "", "one is in flight");
    assert_eq!([rig.got(busy), rig.got(expires)], [MISS, MISS]);
    rig.answer(0, MISS.as_bytes());
    let sent = rig.sent(0);
    let count = sent.matches(" a").count();
    assert!(
        sent.ends_with(" a b\r\n") && (1..=2).contains(&count),
        "{sent}"
    );
    let answer = value("a", "1").repeat(count) + &hit("b", "2");
    rig.answer(0, answer.as_bytes());
    assert_eq!(rig.got(expires), "");
    assert_eq!(rig.got(stays[0]), hit("a", "1"));
    assert_eq!(rig.got(stays[1]), hit("b", "2"));
    assert_nothing_left(rig, &[busy, expires, stays[0], stays[1]]);
}

/// The deadline of a multi-key get is one answer for all of its keys, with those that have come.
#[test]
fn a_multiget_whose_time_is_up_has_what_came_in_time() {
    let mut rig = Rig::with_limits(1, 0, |limits| {
        limits.request_ms = 100;
        limits.fail_ms = 10_000;
    });
    let client = rig.client();
    rig.send(client, b"get a b c\r\n");
    // The value of b begins, but does not end.
    rig.answer(0, (value("a", "1") + "VALUE b 0 10\r\n01234").as_bytes());
    rig.pass_ms(100);
    assert_eq!(rig.got(client), hit("a", "1"));
    rig.answer(0, ("56789\r\n".to_owned() + &hit("c", "3")).as_bytes());
    assert_eq!(rig.count(Counter::Desyncs), 0);
    assert_nothing_left(rig, &[client]);
}
