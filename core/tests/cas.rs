//! CAS uniques through the engine: shown with the mark of who answers, sent with the mark of who is asked.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::sync::Arc;

use magent_core::engine::{ClientId, Input};
use magent_core::placement::{Phase, View};
use magent_core::stats::Counter;
use magent_node::{Store, StoreConfig};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use rig::Rig;

/// The mark of backend 0 is 1, that of backend 1 is 2, and so on. A mark of 1 changes a small unique by
/// 2^48 = 281,474,976,710,656.
fn view(backends: usize, epoch: u64) -> View {
    let mut view = View {
        epoch,
        ..View::initial(backends)
    };
    for (backend, mark) in view.backends.iter_mut().zip(1..) {
        backend.mark = mark;
    }
    view
}

fn publish(rig: &mut Rig, view: View) {
    let epoch = view.epoch;
    rig.engine.handle(rig.now, Input::View(&Arc::new(view)));
    rig.engine.handle(rig.now, Input::Settled(epoch));
    rig.run();
}

fn marked(primaries: u16, backups: u16) -> Rig {
    let mut rig = Rig::new(primaries, backups);
    publish(&mut rig, view(usize::from(primaries + backups), 1));
    rig
}

/// Every worker knows that backend 0 is down.
fn fail_primary(rig: &mut Rig) {
    fail_primary_of(rig, [false, false]);
}

/// The same where backends are known to know `E`.
fn fail_primary_of(rig: &mut Rig, known: [bool; 2]) {
    rig.kill(0);
    let mut down = view(2, 2);
    for (backend, known) in down.backends.iter_mut().zip(known) {
        backend.explicit_cas = known;
    }
    down.backends[0].phase = Phase::Down;
    down.backends[0].incarnation = 1;
    down.backends[0].since_epoch = 2;
    publish(rig, down);
}

const P7: u64 = 7 ^ (1 << 48);
const P8: u64 = 8 ^ (1 << 48);
const B7: u64 = 7 ^ (2 << 48);

/// `client` asks backend `asked` alone, and hears what that one says.
#[track_caller]
fn check(rig: &mut Rig, client: ClientId, asked: usize, [request, sent, says, hears]: [&str; 4]) {
    rig.send(client, request.as_bytes());
    assert_eq!(rig.sent(asked), sent, "{request}");
    rig.answer(asked, says.as_bytes());
    // Its outcome is copied; nobody else's unique means anything there.
    let told = rig.sent(1 - asked);
    let line = told.split("\r\n").next().unwrap();
    let flag = |word: &str| word.starts_with(['C', 'E', 'c']);
    assert!(
        !line.split(' ').skip(2).any(flag),
        "{request} is copied as {line}"
    );
    assert!(!line.starts_with("cas "), "{request} is copied as {line}");
    if !told.is_empty() {
        let done = if line.starts_with('m') {
            "HD\r\n"
        } else {
            "STORED\r\n"
        };
        rig.answer(1 - asked, done.as_bytes());
    }
    assert_eq!(rig.got(client), hears, "{request}");
}

#[test]
fn whoever_answers_marks_what_is_shown() {
    let mut rig = marked(1, 1);
    let client = rig.client();
    for row in [
        [
            "gets k\r\n",
            "gets k\r\n",
            "VALUE k 1 1 7\r\nx\r\nEND\r\n",
            &format!("VALUE k 1 1 {P7}\r\nx\r\nEND\r\n"),
        ],
        [
            "get k\r\n",
            "get k\r\n",
            "VALUE k 1 1\r\n7\r\nEND\r\n",
            "VALUE k 1 1\r\n7\r\nEND\r\n",
        ],
        [
            "mg k c v\r\n",
            "mg k c v\r\n",
            "VA 2 c7\r\nc7\r\n",
            &format!("VA 2 c{P7}\r\nc7\r\n"),
        ],
        [
            "mg k k c\r\n",
            "mg k k c\r\n",
            "HD kk c7 W\r\n",
            &format!("HD kk c{P7} W\r\n"),
        ],
        [
            "mg k v O7\r\n",
            "mg k v O7\r\n",
            "VA 1 O7\r\nx\r\n",
            "VA 1 O7\r\nx\r\n",
        ],
        [
            "me k\r\n",
            "me k\r\n",
            "ME k exp=-1 cas=7 size=60\r\n",
            &format!("ME k exp=-1 cas={P7} size=60\r\n"),
        ],
        [
            "ms k 1 ME c\r\nx\r\n",
            "ms k 1 ME c\r\nx\r\n",
            "HD c7\r\n",
            &format!("HD c{P7}\r\n"),
        ],
        ["ma k c N0\r\n", "ma k c N0 v\r\n", "NF\r\n", "NF\r\n"],
    ] {
        check(&mut rig, client, 0, row);
    }
    // Of an `ma` the number is compared, and shown to nobody who did not ask for it.
    rig.send(client, b"ma k c\r\n");
    rig.answer(0, b"VA 1 c7\r\n5\r\n");
    rig.answer(1, b"VA 1 c9\r\n5\r\n");
    assert_eq!(rig.got(client), format!("HD c{P7}\r\n"));
    rig.send(client, b"gats 9 k\r\n");
    rig.answer(0, b"VALUE k 1 1 7\r\nx\r\nEND\r\n");
    rig.answer(1, b"TOUCHED\r\n");
    assert_eq!(rig.got(client), format!("VALUE k 1 1 {P7}\r\nx\r\nEND\r\n"));
}

#[test]
fn whoever_is_asked_gets_its_own_unique() {
    let mut rig = marked(1, 1);
    let client = rig.client();
    for [request, sent, says] in [
        [
            format!("cas k 0 0 1 {P7}\r\nx\r\n"),
            "cas k 0 0 1 7\r\nx\r\n".into(),
            "STORED\r\n".into(),
        ],
        [
            format!("cas k 0 0 1 {P7} noreply\r\nx\r\n"),
            "cas k 0 0 1 7\r\nx\r\n".into(),
            String::new(),
        ],
        [
            "cas k 0 0 1 7\r\nx\r\n".into(),
            format!("cas k 0 0 1 {P7}\r\nx\r\n"),
            "EXISTS\r\n".into(),
        ],
        [
            format!("ms k 1 C{P7} T9\r\nx\r\n"),
            "ms k 1 C7 T9\r\nx\r\n".into(),
            "HD\r\n".into(),
        ],
        [
            format!("ms k 1 MA C{P7}\r\nx\r\n"),
            "ms k 1 MA C7\r\nx\r\n".into(),
            "HD\r\n".into(),
        ],
        [
            format!("md k q C{P7}\r\n"),
            "md k C7\r\n".into(),
            String::new(),
        ],
        [
            format!("ma k C{P7} v\r\n"),
            "ma k C7 v\r\n".into(),
            "EX\r\n".into(),
        ],
        [
            format!("mg k C{P7} v\r\n"),
            "mg k C7 v\r\n".into(),
            "HD\r\n".into(),
        ],
        [
            "ma k C0 v\r\n".into(),
            "ma k C0 v\r\n".into(),
            "NF\r\n".into(),
        ],
    ] {
        let answer = match &request[..2] {
            "ca" if says.is_empty() => "STORED\r\n",
            "md" => "HD\r\n",
            _ => &says,
        };
        check(&mut rig, client, 0, [&request, &sent, answer, &says]);
    }
    // One that is no number never leaves.
    rig.send(client, b"md k C18446744073709551616\r\n");
    assert_eq!(rig.sent(0), "");
    assert_eq!(
        rig.got(client),
        "CLIENT_ERROR invalid or duplicate flag\r\n"
    );
}

#[test]
fn after_a_failover_no_unique_matches_by_chance() {
    let mut rig = marked(1, 1);
    rig.use_nodes();
    let (client, other) = (rig.client(), rig.client());
    rig.send(client, b"set k 0 0 1\r\na\r\n");
    rig.send(client, b"gets k\r\n");
    assert!(
        rig.got(client)
            .ends_with(&format!(" {}\r\na\r\nEND\r\n", 1_u64 ^ 1 << 48))
    );
    rig.sent(1);
    fail_primary(&mut rig);
    // Both servers call it 1: without marks both would be stored.
    rig.send(
        client,
        format!("cas k 0 0 1 {}\r\nb\r\n", 1_u64 ^ 1 << 48).as_bytes(),
    );
    rig.send(
        client,
        format!("ms k 1 C{}\r\nb\r\n", 1_u64 ^ 1 << 48).as_bytes(),
    );
    assert_eq!(rig.got(client), "EXISTS\r\nEX\r\n");
    assert!(
        rig.sent(1)
            .starts_with(&format!("cas k 0 0 1 {}\r\n", 1_u64 ^ 3 << 48))
    );
    rig.send(other, b"gets k\r\n");
    assert_eq!(
        rig.got(other),
        format!("VALUE k 0 1 {}\r\na\r\nEND\r\n", 1_u64 ^ 2 << 48)
    );
    rig.send(
        other,
        format!("cas k 0 0 1 {}\r\nc\r\n", 1_u64 ^ 2 << 48).as_bytes(),
    );
    assert_eq!(rig.got(other), "STORED\r\n");
}

#[test]
fn what_is_decided_anew_carries_the_unique_of_who_decides() {
    for (request, tail) in [
        (format!("cas k 0 0 1 {B7}\r\nx\r\n"), "\r\nx\r\n"),
        (format!("ms k 1 C{B7} c\r\nx\r\n"), " c\r\nx\r\n"),
    ] {
        let mut rig = marked(1, 1);
        let client = rig.client();
        rig.send(client, request.as_bytes());
        assert!(rig.sent(0).ends_with(&format!("{}{tail}", 7_u64 ^ 3 << 48)));
        fail_primary(&mut rig);
        // The engine may have more to say than the request.
        let sent = rig.sent(1);
        assert!(sent.ends_with(&format!("7{tail}")), "{sent}");
        rig.answer(
            1,
            if tail.starts_with(" c") {
                b"HD c8\r\n"
            } else {
                b"STORED\r\n"
            },
        );
        let hears = rig.got(client);
        let expected = format!("HD c{}\r\n", 8_u64 ^ 2 << 48);
        assert!(hears == expected || hears == "STORED\r\n", "{hears}");
    }
}

#[test]
fn the_copy_that_answers_in_the_authoritys_stead_marks_its_own() {
    let mut rig = marked(1, 1);
    let client = rig.client();
    rig.send(client, b"ms k 1 c\r\nx\r\n");
    rig.answer(1, b"HD c7\r\n");
    fail_primary(&mut rig);
    assert_eq!(rig.got(client), format!("HD c{B7}\r\n"));
}

#[test]
fn a_unique_that_the_client_chose_is_the_same_on_both() {
    let mut rig = marked(1, 1);
    let client = rig.client();
    rig.send(client, b"ms k 1 E7\r\nx\r\n");
    assert_eq!(rig.sent(0), format!("ms k 1 E{P7}\r\nx\r\n"));
    assert_eq!(rig.sent(1), format!("ms k 1 E{B7}\r\nx\r\n"));
    rig.answer(0, b"HD\r\n");
    rig.answer(1, b"HD\r\n");
    rig.got(client);
    rig.send(client, b"mg k c\r\n");
    rig.answer(0, format!("HD c{P7}\r\n").as_bytes());
    assert_eq!(rig.got(client), "HD c7\r\n");
}

#[test]
fn each_value_of_a_multiget_is_marked_by_its_own_backend() {
    let mut rig = marked(2, 1);
    let client = rig.client();
    let (first, second) = (rig.key(0, Some(2)), rig.key(1, Some(2)));
    rig.send(
        client,
        format!("gets {first} {second} {first}\r\n").as_bytes(),
    );
    let value = |key: &str, unique: u64| format!("VALUE {key} 0 1 {unique}\r\nx\r\n");
    let [a, b] = [value(&first, 7), value(&second, 7)];
    rig.answer(1, format!("{b}END\r\n").as_bytes());
    rig.answer(0, format!("{a}{a}END\r\n").as_bytes());
    let [a, b] = [value(&first, P7), value(&second, B7)];
    assert_eq!(rig.got(client), format!("{a}{b}{a}END\r\n"));
}

#[test]
fn a_value_in_parts_is_marked_once() {
    for chunk_len in [1, 5, usize::MAX] {
        let mut rig = Rig::with_limits(1, 1, |limits| limits.stream_len_min = 4);
        publish(&mut rig, view(2, 1));
        rig.answer_chunk_len = chunk_len;
        let client = rig.client();
        for (request, says, hears) in [
            (
                "gets k\r\n",
                "VALUE k 0 9 7\r\nc7 c7\r\nc7\r\nEND\r\n",
                format!("VALUE k 0 9 {P7}\r\nc7 c7\r\nc7\r\nEND\r\n"),
            ),
            (
                "mg k v c\r\n",
                "VA 9 c8\r\nc7 c7\r\nc7\r\n",
                format!("VA 9 c{P8}\r\nc7 c7\r\nc7\r\n"),
            ),
        ] {
            rig.send(client, request.as_bytes());
            rig.answer(0, says.as_bytes());
            assert_eq!(rig.got(client), hears);
        }
    }
}

#[test]
fn a_large_upload_carries_the_unique_of_who_is_asked() {
    let mut rig = marked(1, 1);
    let client = rig.client();
    let value = " C7 cas k 0 0 1 7\r\n".repeat(10_000);
    rig.send(
        client,
        format!("cas k 0 0 {} {P7}\r\n{value}\r\n", value.len()).as_bytes(),
    );
    assert!(rig.sent(0) == format!("cas k 0 0 {} 7\r\n{value}\r\n", value.len()));
}

/// A key's authority never changes there, and other proxies may show what the server says.
#[test]
fn without_backups_nothing_is_marked() {
    let mut rig = Rig::new(1, 0);
    let mut view = view(1, 1);
    view.backends[0].explicit_cas = true;
    publish(&mut rig, view);
    let client = rig.client();
    for (request, says) in [
        ("set k 0 0 1\r\nx\r\n", "STORED\r\n"),
        ("gets k\r\n", "VALUE k 1 1 7\r\nx\r\nEND\r\n"),
        ("mg k c\r\n", "HD c7\r\n"),
        ("me k\r\n", "ME k cas=7\r\n"),
        ("cas k 0 0 1 7\r\nx\r\n", "STORED\r\n"),
        ("ms k 1 C7 c\r\nx\r\n", "HD c8\r\n"),
        ("ms k 1 E7 c\r\nx\r\n", "HD c7\r\n"),
    ] {
        rig.send(client, request.as_bytes());
        assert_eq!(rig.sent(0), request);
        rig.answer(0, says.as_bytes());
        assert_eq!(rig.got(client), says);
    }
}

/// A primary and a backup, model memcacheds that know `E`, which the proxy knows of as `known` says.
fn explicit(known: [bool; 2]) -> Rig {
    let mut rig = Rig::new(1, 1);
    for peer in &mut rig.peers {
        peer.store = Some(Store::new(StoreConfig {
            meta_cas: true,
            ..StoreConfig::default()
        }));
    }
    let mut view = view(2, 1);
    for (backend, known) in view.backends.iter_mut().zip(known) {
        backend.explicit_cas = known;
    }
    publish(&mut rig, view);
    rig
}

/// The unique that `gets` shows.
fn unique(rig: &mut Rig, client: ClientId) -> u64 {
    rig.got(client);
    rig.send(client, b"gets k\r\n");
    let got = rig.got(client);
    let line = got.lines().next().unwrap();
    line.split(' ').nth(4).unwrap().parse().unwrap()
}

fn is_version(unique: u64) -> bool {
    unique >> 62 == 1
}

#[test]
fn what_one_write_stores_has_the_same_unique_on_both() {
    for write in [
        "set k 7 0 1\r\n1\r\n",
        "set k 0 9 1 noreply\r\n1\r\n",
        "ms k 1\r\n1\r\n",
        "ms k 1 MS T9 q\r\n1\r\n",
        "delete k\r\nadd k 0 0 1\r\n1\r\n",
        "replace k 0 0 1\r\n1\r\n",
        "append k 0 0 1\r\n1\r\n",
        "ms k 1 MP\r\n1\r\n",
        "incr k 1\r\n",
        "ma k\r\n",
        "md k I T30\r\n",
    ] {
        let mut rig = explicit([true, true]);
        let client = rig.client();
        rig.send(client, b"set k 0 0 1\r\n1\r\n");
        let before = unique(&mut rig, client);
        rig.send(client, write.as_bytes());
        let after = unique(&mut rig, client);
        assert!(is_version(after) && after > before, "{write} {after}");
        fail_primary_of(&mut rig, [true, true]);
        assert_eq!(unique(&mut rig, client), after, "{write}");
        rig.send(client, format!("cas k 0 0 1 {before}\r\nx\r\n").as_bytes());
        rig.send(client, format!("cas k 0 0 1 {after}\r\nx\r\n").as_bytes());
        rig.send(client, format!("cas k 0 0 1 {after}\r\nx\r\n").as_bytes());
        assert_eq!(rig.got(client), "EXISTS\r\nSTORED\r\nEXISTS\r\n", "{write}");
    }
}

/// As `ms` a store on a condition that is too large takes the old item with it. Found by seed 1014145.
#[test]
fn a_refused_store_leaves_the_two_copies_equal() {
    for write in ["add", "replace", "append", "prepend", "cas", "set"] {
        let mut rig = explicit([true, true]);
        for peer in &mut rig.peers {
            peer.store = Some(Store::new(StoreConfig {
                meta_cas: true,
                item_len_max: 1_000,
                ..StoreConfig::default()
            }));
        }
        let client = rig.client();
        rig.send(client, b"set k 0 0 1\r\n1\r\n");
        let unique = match write {
            "cas" => format!(" {}", unique(&mut rig, client)),
            _ => String::new(),
        };
        rig.got(client);
        let value = "v".repeat(2_000);
        rig.send(
            client,
            format!("{write} k 0 0 2000{unique}\r\n{value}\r\n").as_bytes(),
        );
        assert!(rig.got(client).starts_with("SERVER_ERROR "), "{write}");
        rig.send(client, b"get k\r\n");
        let before = rig.got(client);
        fail_primary_of(&mut rig, [true, true]);
        rig.send(client, b"get k\r\n");
        assert_eq!(rig.got(client), before, "{write}");
    }
}

/// What a scripted backend that knows `E` is sent; `*` stands for the version.
#[test]
fn classic_writes_as_meta() {
    for (request, expected) in [
        ("set k 0 0 1\r\nx\r\n", "ms k 1 E*\r\nx\r\n"),
        ("set k 7 -1 1\r\nx\r\n", "ms k 1 F7 T-1 E*\r\nx\r\n"),
        (
            "add k 0 2592001 1\r\nx\r\n",
            "ms k 1 ME T2592001 E*\r\nx\r\n",
        ),
        (
            "replace k 00 9 1 noreply\r\nx\r\n",
            "ms k 1 MR F00 T9 E*\r\nx\r\n",
        ),
        ("append k 7 9 1\r\nx\r\n", "ms k 1 MA E*\r\nx\r\n"),
        ("prepend k 7 9 1\r\nx\r\n", "ms k 1 MP E*\r\nx\r\n"),
        (
            "cas k 0 0 1 281474976710663\r\nx\r\n",
            "ms k 1 C7 E*\r\nx\r\n",
        ),
        ("incr k 5\r\n", "ma k D5 E* v\r\n"),
        ("decr k 5 noreply\r\n", "ma k MD D5 E* v\r\n"),
        (
            "ms k 1 q C281474976710663\r\nx\r\n",
            "ms k 1 C7 E*\r\nx\r\n",
        ),
        ("ms k 1 E7\r\nx\r\n", "ms k 1 E281474976710663\r\nx\r\n"),
        ("ma k\r\n", "ma k v E*\r\n"),
        ("md k I\r\n", "md k I E*\r\n"),
        ("md k x\r\n", "md k x E*\r\n"),
        ("md k\r\n", "md k\r\n"),
        ("mg k N0\r\n", "mg k N0\r\n"),
        ("delete k\r\n", "delete k\r\n"),
        ("touch k 9\r\n", "touch k 9\r\n"),
        ("gat 9 k\r\n", "gat 9 k\r\n"),
    ] {
        let mut rig = explicit([true, true]);
        let client = rig.client();
        rig.send(client, request.as_bytes());
        let sent = rig.sent(0);
        let sent = match sent.split_once(" E4") {
            Some((before, after)) => {
                format!(
                    "{before} E*{}",
                    after.trim_start_matches(|c: char| c.is_ascii_digit())
                )
            }
            None => sent,
        };
        assert_eq!(sent, expected, "{request}");
    }
}

#[test]
fn an_incr_that_is_answered_without_its_number_is_out_of_step() {
    let mut rig = explicit([true, true]);
    rig.peers[0].store = None;
    let client = rig.client();
    rig.send(client, b"incr k 1\r\n");
    rig.answer(0, b"HD\r\n");
    assert_eq!(rig.count(Counter::Desyncs), 1);
    assert_eq!(rig.got(client), "");
}

/// One that does not know `E` counts by itself, and what it says is marked.
#[test]
fn a_backend_that_does_not_know_of_versions_is_not_told() {
    for known in [[true, false], [false, true], [false, false]] {
        let mut rig = explicit(known);
        let client = rig.client();
        rig.send(
            client,
            b"set k 0 0 1\r\n1\r\nincr k 2\r\nappend k 0 0 1\r\n0\r\n",
        );
        assert_eq!(rig.got(client), "STORED\r\n3\r\nSTORED\r\n");
        let sent = [rig.sent(0), rig.sent(1)];
        for (sent, known) in sent.iter().zip(known) {
            assert_eq!(sent.contains("set k 0 0 1\r\n"), !known);
            assert_eq!(sent.contains("incr k 2\r\n"), !known);
            assert_eq!(sent.contains(" E"), known);
        }
        let before = unique(&mut rig, client);
        assert_eq!(is_version(before), known[0]);
        fail_primary_of(&mut rig, known);
        let after = unique(&mut rig, client);
        assert_eq!(is_version(after), known[1]);
        rig.send(client, format!("cas k 0 0 1 {before}\r\nx\r\n").as_bytes());
        assert_eq!(rig.got(client), "EXISTS\r\n");
    }
}

#[test]
fn a_write_that_is_decided_anew_is_another_write() {
    let mut rig = explicit([true, true]);
    let client = rig.client();
    rig.peers[0].stopped = true;
    rig.send(client, b"add k 0 0 1\r\n1\r\n");
    let first = rig.sent(0);
    fail_primary_of(&mut rig, [true, true]);
    assert_eq!(rig.got(client), "STORED\r\n");
    let second = rig.sent(1);
    let version = |sent: &str| sent.split(" E").nth(1).unwrap()[..19].to_owned();
    assert!(first.starts_with("ms k 1 ME E"), "{first}");
    assert!(second.starts_with("ms k 1 ME E"), "{second}");
    assert!(version(&first) < version(&second));
}

/// What the two protocols might read differently is sent as the client wrote it.
#[test]
fn odd_numbers_are_not_translated() {
    let mut rig = explicit([true, true]);
    let client = rig.client();
    for line in [
        "set k 4294967296 0 1",
        "set k +1 0 1",
        "set k 0 2147483648 1",
        "set k 0 +1 1",
        "set k 0 -2147483649 1",
        "set k 0 1\t 1",
    ] {
        rig.send(client, format!("{line}\r\nx\r\n").as_bytes());
        assert_eq!(rig.sent(0), format!("{line}\r\nx\r\n"));
    }
    for line in ["incr k +1", "decr k 1\tx"] {
        rig.send(client, format!("{line}\r\n").as_bytes());
        assert_eq!(rig.sent(0), format!("{line}\r\n"));
    }
    let flags = "F0 T0 Pa La k s c b I C1 MS O1 v N0 J1 D1";
    rig.send(client, format!("ms aa== 1 {flags}\r\nx\r\n").as_bytes());
    assert!(
        !rig.sent(0).contains(" E"),
        "16 flags are as many as a server takes"
    );
}

/// Printed without the values.
struct Requests(Vec<String>);

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines = self.0.iter().map(|request| request.lines().next());
        f.debug_list().entries(lines).finish()
    }
}

/// Classic commands, some of which make no sense.
fn classic() -> impl Strategy<Value = String> {
    let key = select(vec!["a", "b", "c\u{1}"]);
    let number = select(vec![
        "0",
        "1",
        "7",
        "10",
        "99",
        "18446744073709551615",
        "x",
        " 1 ",
    ]);
    let flags = select(vec!["0", "1", "4294967295", "007", "4294967296", "+3"]);
    let exptime = select(vec![
        "0",
        "100",
        "-1",
        "2592001",
        "1700009999",
        "+5",
        "-0",
        "9999999999",
    ]);
    let value = prop_oneof![
        6 => Just("5".to_owned()),
        2 => Just(String::new()),
        6 => Just("99".to_owned()),
        3 => Just("text\r\nC1 E1".to_owned()),
        2 => Just("y".repeat(20_000)),
        1 => Just("z".repeat(1_100_000)),
    ];
    let verb = select(vec!["set", "add", "replace", "append", "prepend", "cas"]);
    let tail = select(vec!["", "", "", " noreply"]);
    prop_oneof![
        4 => (verb, key.clone(), flags, exptime, value, tail.clone()).prop_map(
            |(verb, key, flags, exptime, value, tail)| {
                let unique = if verb == "cas" { " 1" } else { "" };
                let len = value.len();
                format!("{verb} {key} {flags} {exptime} {len}{unique}{tail}\r\n{value}\r\n")
            }
        ),
        3 => (select(vec!["incr", "decr"]), key.clone(), number, tail)
            .prop_map(|(verb, key, number, tail)| format!("{verb} {key} {number}{tail}\r\n")),
        1 => key.clone().prop_map(|key| format!("delete {key}\r\n")),
        2 => key.clone().prop_map(|key| format!("get {key}\r\n")),
        1 => key.clone().prop_map(|key| format!("mg {key} t f v\r\n")),
        1 => key.prop_map(|key| format!("touch {key} 50\r\n")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// A client does not see that its commands were sent as meta, whoever of the two is.
    #[test]
    fn translated_commands_are_answered_as_classic_ones(
        requests in vec(classic(), 1..30).prop_map(Requests),
        known in any::<[bool; 2]>(),
        chunk_len in select(vec![1_usize, 3, usize::MAX]),
    ) {
        let mut plain = explicit([false, false]);
        let mut translating = explicit(known);
        translating.answer_chunk_len = chunk_len;
        let clients = [plain.client(), translating.client()];
        for request in &requests.0 {
            plain.send(clients[0], request.as_bytes());
            translating.send(clients[1], request.as_bytes());
            let [expected, got] = [plain.got(clients[0]), translating.got(clients[1])];
            prop_assert!(got == expected, "{:.80}: {:.80} for {:.80}", request, got, expected);
        }
        // Nor does the copy.
        fail_primary(&mut plain);
        fail_primary_of(&mut translating, known);
        for key in ["a", "b", "c\u{1}"] {
            let request = format!("mg {key} t f v\r\n");
            plain.send(clients[0], request.as_bytes());
            translating.send(clients[1], request.as_bytes());
            let [expected, got] = [plain.got(clients[0]), translating.got(clients[1])];
            prop_assert!(got == expected, "{key}: {:.80} for {:.80}", got, expected);
        }
        for (rig, client) in [(&mut plain, clients[0]), (&mut translating, clients[1])] {
            rig.lose_client(client);
            rig.pass_ms(20);
            prop_assert!(rig.engine.is_drained());
            prop_assert_eq!(rig.memory_len(), 0);
        }
    }
}
