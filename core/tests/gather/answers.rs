//! Each answer of a batch reaches whom it is for, whatever it looks like, and however it is cut.

use magent_core::engine::ClientId;
use magent_core::stats::Counter;

use super::rig::Rig;
use super::{MISS, ask_together, asks, assert_nothing_left, hit, value};

/// Bytes of an answer that are handed in at a time.
const CUTS: [usize; 5] = [1, 2, 3, 7, usize::MAX];

/// Any of the keys may miss: first, last, in the middle, all, none. In every case each client is told its own.
#[test]
fn whichever_keys_miss_the_others_are_found() {
    const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];
    for found in 0..1_u32 << KEYS.len() {
        for cut in CUTS {
            let mut rig = Rig::new(1, 0);
            rig.answer_chunk_len = cut;
            let is_found = |at: usize| found & (1 << at) != 0;
            let line = |at: usize| {
                let of = format!("of {}", KEYS[at]);
                if is_found(at) {
                    value(KEYS[at], &of)
                } else {
                    String::new()
                }
            };
            // Two clients with one key each, one with the three in the middle.
            let (first, middle, last) = (rig.client(), rig.client(), rig.client());
            rig.feed(first, b"get a\r\n");
            rig.feed(middle, b"get b c d\r\n");
            rig.feed(last, b"get e\r\n");
            rig.run();
            assert_eq!(rig.sent(0), "get a b c d e\r\n");
            let all: String = (0..KEYS.len()).map(line).collect();
            rig.answer(0, (all + MISS).as_bytes());
            assert_eq!(rig.got(first), line(0) + MISS);
            assert_eq!(rig.got(middle), line(1) + &line(2) + &line(3) + MISS);
            assert_eq!(rig.got(last), line(4) + MISS);
            assert_eq!(rig.count(Counter::Desyncs), 0);
            assert_nothing_left(rig, &[first, middle, last]);
        }
    }
}

/// Values are told by their length. What is in them, or in the flags, does not matter.
#[test]
fn a_value_may_look_like_an_answer() {
    let long = "k".repeat(250);
    let items = [
        ("empty", "0", ""),
        ("end", "65536", "END\r\n"),
        ("value", "4294967295", "VALUE end 0 3\r\nabc\r\nEND\r\n"),
        ("ends", "1", "\r\nEND"),
        ("error", "0", "SERVER_ERROR out of memory\r\n"),
        (&long, "70000", "x"),
        ("lines", "0", "\r\n\r\n"),
    ];
    for cut in CUTS {
        let mut rig = Rig::new(1, 0);
        rig.answer_chunk_len = cut;
        let keys: Vec<&str> = items.iter().map(|item| item.0).collect();
        let clients = ask_together(&mut rig, &keys);
        let lines: Vec<String> = items
            .iter()
            .map(|(key, flags, of)| format!("VALUE {key} {flags} {}\r\n{of}\r\n", of.len()))
            .collect();
        rig.answer(0, (lines.concat() + MISS).as_bytes());
        for (&client, line) in clients.iter().zip(&lines) {
            assert_eq!(rig.got(client), format!("{line}END\r\n"));
        }
        assert_eq!(rig.count(Counter::Desyncs), 0);
        assert_nothing_left(rig, &clients);
    }
}

// -- A backend that refuses --

const ERRORS: [&str; 3] = [
    "SERVER_ERROR out of memory writing get response\r\n",
    "ERROR\r\n",
    "CLIENT_ERROR line too long\r\n",
];

/// Whichever key it was that could not be answered: the others must not suffer for it.
#[test]
fn each_key_of_a_refused_batch_is_asked_again_alone() {
    for error in ERRORS {
        let mut rig = Rig::new(1, 0);
        let clients = ask_together(&mut rig, &["a", "b", "c"]);
        rig.answer(0, error.as_bytes());
        assert_eq!(rig.sent(0), "get a\r\nget b\r\nget c\r\n");
        // A get that comes now does not join those that are to be alone.
        let late = asks(&mut rig, "d");
        rig.run();
        rig.answer(0, (hit("a", "1") + error + &hit("c", "3")).as_bytes());
        assert_eq!(rig.sent(0), "get d\r\n", "and not b for a third time");
        rig.answer(0, hit("d", "4").as_bytes());
        assert_eq!(rig.got(clients[0]), hit("a", "1"));
        assert_eq!(rig.got(clients[1]), MISS, "{error}");
        assert_eq!(rig.got(clients[2]), hit("c", "3"));
        assert_eq!(rig.got(late), hit("d", "4"));
        assert_eq!(rig.count(Counter::BackendFailures), 0);
        assert_nothing_left(rig, &[clients, vec![late]].concat());
    }
}

#[test]
fn what_a_refused_batch_had_answered_is_not_asked_again() {
    for error in ERRORS {
        let mut rig = Rig::new(1, 0);
        let clients = ask_together(&mut rig, &["a", "b", "c", "d"]);
        rig.answer(0, (value("b", "2") + error).as_bytes());
        assert_eq!(rig.got(clients[0]), MISS, "memcached went past it");
        assert_eq!(rig.got(clients[1]), hit("b", "2"));
        assert_eq!(rig.sent(0), "get c\r\nget d\r\n");
        rig.answer(0, (hit("c", "3") + &hit("d", "4")).as_bytes());
        assert_eq!(rig.got(clients[2]), hit("c", "3"));
        assert_eq!(rig.got(clients[3]), hit("d", "4"));
        assert_nothing_left(rig, &clients);
    }
}

/// Among several values an error line would cost the client its step; a lone get can be told.
#[test]
fn a_lone_get_is_told_of_its_error_and_a_key_of_several_misses() {
    for error in ERRORS {
        let mut rig = Rig::new(1, 0);
        let lone = ask_together(&mut rig, &["a"])[0];
        rig.answer(0, error.as_bytes());
        assert_eq!(rig.got(lone), error);
        let several = rig.client();
        rig.send(several, b"get a b\r\n");
        assert_eq!(rig.sent(0), "get a b\r\n");
        rig.answer(0, error.as_bytes());
        assert_eq!(rig.sent(0), "get a\r\nget b\r\n");
        rig.answer(0, (error.to_owned() + &hit("b", "2")).as_bytes());
        assert_eq!(rig.got(several), hit("b", "2"));
        assert_nothing_left(rig, &[lone, several]);
    }
}

// -- A backend that is out of step --

/// What each of the clients may be told of its key: the value that backend 1 has, or nothing.
#[track_caller]
fn assert_own_or_nothing(rig: &mut Rig, clients: &[ClientId], keys: &[&str], told: &str) {
    for (&client, key) in clients.iter().zip(keys) {
        let got = rig.got(client);
        let own = [MISS.to_owned(), hit(key, "right"), hit(key, "early")];
        assert!(
            own.contains(&got),
            "{told:?}: client of {key} was told {got:?}"
        );
    }
}

/// The line of an answer says whose it is. One that does not fit costs the connection, and what is not answered is
/// asked at the other backend.
#[test]
fn an_answer_that_does_not_fit_costs_the_connection() {
    let keys = ["a", "b", "c"];
    let early = value("a", "early");
    for answer in [
        // In another order.
        value("b", "early") + &early,
        value("c", "early") + &value("b", "wrong"),
        // A key that nobody asked for, also one that begins alike, and none.
        value("x", "wrong"),
        value("aa", "wrong"),
        early.clone() + &value("ab", "wrong"),
        "VALUE  0 1\r\nx\r\n".to_owned(),
        // A key twice.
        early.clone() + &value("a", "wrong"),
        // Nonsense, at once or later.
        "nonsense\r\n".to_owned(),
        early.clone() + "STORED\r\n",
        early.clone() + "VALUE b\r\n",
        early.clone() + "VALUE b 0 -1\r\n\r\n",
        early.clone() + "VALUE b 0 x\r\nx\r\n",
        early.clone() + "VALUE b 0 99999999999\r\nx\r\n",
        early.clone() + "VA 1\r\nx\r\n",
        early.clone() + "HD\r\n",
        early.clone() + "EN\r\n",
        early.clone() + "\r\n",
        // A value that is shorter or longer than it says.
        "VALUE a 0 3\r\nwrong\r\nEND\r\n".to_owned(),
        "VALUE a 0 9\r\nwrong\r\nEND\r\nVALUE a 0 1\r\nx\r\n".to_owned(),
        // An answer too many.
        hit("a", "early") + &hit("b", "wrong"),
        hit("a", "early") + MISS,
    ] {
        for cut in CUTS {
            let mut rig = Rig::new(1, 1);
            rig.answer_chunk_len = cut;
            let clients = ask_together(&mut rig, &keys);
            rig.answer(0, answer.as_bytes());
            assert_eq!(rig.count(Counter::Desyncs), 1, "{answer:?} by {cut}");
            let again = rig.sent(1);
            if !again.is_empty() {
                let keys = again.trim_end().split(' ').skip(1);
                let found: String = keys.map(|key| value(key, "right")).collect();
                rig.answer(1, (found + MISS).as_bytes());
            }
            assert_own_or_nothing(&mut rig, &clients, &keys, &answer);
            assert_nothing_left(rig, &clients);
        }
    }
}
