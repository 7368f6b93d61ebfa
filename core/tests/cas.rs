//! CAS uniques through the engine: shown with the mark of who answers, sent with the mark of who is asked.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::sync::Arc;

use magent_core::engine::{ClientId, Input};
use magent_core::placement::{Phase, View};
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
    rig.kill(0);
    let mut down = view(2, 2);
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
    let mut rig = marked(1, 0);
    let client = rig.client();
    for (request, says) in [
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
