//! Large payloads that are read straight to their place.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use magent_core::engine::{ClientId, Input};
use magent_core::stats::Counter;
use rig::Rig;

const LEN: usize = 300_000;

/// A payload in which every byte tells where it belongs.
fn payload(seed: usize) -> Vec<u8> {
    (0..LEN)
        .map(|at| u8::try_from((at / 251 + at + seed) % 256).unwrap())
        .collect()
}

fn value(key: &str, bytes: &[u8]) -> Vec<u8> {
    let head = format!("VALUE {key} 0 {}\r\n", bytes.len());
    [head.as_bytes(), bytes, b"\r\n"].concat()
}

fn set(key: &str, bytes: &[u8]) -> Vec<u8> {
    let head = format!("set {key} 0 0 {}\r\n", bytes.len());
    [head.as_bytes(), bytes, b"\r\n"].concat()
}

#[test]
fn sets_in_pieces_of_any_length_reach_the_backend_whole() {
    for piece_len in [1_000, 4_096, 65_536, 100_000, LEN + 20] {
        let mut rig = Rig::with_nodes(1, 1);
        let client = rig.client();
        // The second set begins in the piece that ends the first.
        let requests = [
            set("a", &payload(1)),
            set("b", &payload(2)),
            b"get a b\r\n".to_vec(),
        ]
        .concat();
        for piece in requests.chunks(piece_len) {
            rig.send(client, piece);
        }
        let stored = b"STORED\r\nSTORED\r\n".to_vec();
        let expected = [
            stored,
            value("a", &payload(1)),
            value("b", &payload(2)),
            b"END\r\n".to_vec(),
        ];
        assert_eq!(rig.got_bytes(client), expected.concat(), "{piece_len}");
        let whole = piece_len > LEN;
        assert!(
            whole || rig.filled > 1,
            "{piece_len}: nothing was read to its place"
        );
        rig.lose_client(client);
        rig.assert_nothing_left();
    }
}

#[test]
fn requests_that_were_read_behind_a_payload_are_answered() {
    let mut rig = Rig::with_nodes(1, 0);
    let client = rig.client();
    rig.send(client, &set("a", &payload(1)));
    assert_eq!(rig.got(client), "STORED\r\n");
    // The buffer of the first set is used again: it has room for more than the second.
    let smaller = &payload(2)[..LEN - 1_000];
    let requests = [&set("b", smaller)[..], b"get b\r\nmn\r\nver"].concat();
    rig.send(client, &requests[..5_000]);
    rig.send(client, &requests[5_000..]);
    assert_eq!(rig.filled, 1);
    let stored = b"STORED\r\n".to_vec();
    let expected = [stored, value("b", smaller), b"END\r\nMN\r\n".to_vec()];
    assert_eq!(rig.got_bytes(client), expected.concat());
    rig.send(client, b"sion\r\n");
    assert!(rig.got(client).starts_with("VERSION "));
}

#[test]
fn values_in_pieces_of_any_length_reach_the_client_whole() {
    for piece_len in [1_000, 4_096, 65_536, 100_000, LEN - 5, LEN + 20] {
        let mut rig = Rig::new(1, 0);
        let client = rig.client();
        rig.send(client, b"get a b c\r\nget d\r\n");
        assert_eq!(rig.sent(0), "get a b c d\r\n");
        let values = [
            value("a", &payload(1)),
            value("b", b"small"),
            value("c", &payload(3)),
        ]
        .concat();
        let answer = [&values[..], &value("d", &payload(4)), b"END\r\n"].concat();
        for piece in answer.chunks(piece_len) {
            rig.answer(0, piece);
        }
        let expected = [
            &values[..],
            b"END\r\n",
            &value("d", &payload(4)),
            b"END\r\n",
        ]
        .concat();
        assert_eq!(rig.got_bytes(client), expected, "{piece_len}");
        let nearly_whole = piece_len > LEN - 10;
        assert!(
            nearly_whole || rig.filled > 0,
            "{piece_len}: nothing was read to its place"
        );
        rig.lose_client(client);
        rig.assert_nothing_left();
    }
}

/// Backend 0 has just sent a client a large value, so another one is expected of it.
fn behind_a_large_value(mut rig: Rig) -> (Rig, ClientId) {
    let client = rig.client();
    rig.send(client, b"get a\r\n");
    rig.answer(0, &[value("a", &payload(1)), b"END\r\n".to_vec()].concat());
    rig.got_bytes(client);
    (rig, client)
}

/// The line of the next value is read to the value's place, too, and so is whatever comes instead of it.
#[test]
fn what_comes_behind_a_large_value_is_answered_whatever_it_is() {
    let large = payload(1);
    let answers = [
        [&value("k", &payload(2))[..], b"END\r\n"].concat(),
        [&value("k", &large[..40_000]), &b"END\r\n"[..]].concat(),
        [
            value("k", &large),
            value("k", &payload(3)),
            b"END\r\n".to_vec(),
        ]
        .concat(),
        [
            value("k", &[large.clone(), large.clone()].concat()),
            b"END\r\n".to_vec(),
        ]
        .concat(),
        [&value("k", b"small")[..], b"END\r\n"].concat(),
        b"END\r\n".to_vec(),
        b"SERVER_ERROR out of memory\r\n".to_vec(),
    ];
    for (which, answer) in answers.iter().enumerate() {
        for first_len in [1, 5, 20, 1_000, 150_000, answer.len()] {
            let what = format!("{which}, {first_len}");
            let (mut rig, client) = behind_a_large_value(Rig::new(1, 0));
            let keys = if which == 2 { "k k" } else { "k" };
            rig.send(client, format!("get {keys}\r\n").as_bytes());
            let filled = rig.filled;
            let (first, rest) = answer.split_at(first_len.min(answer.len()));
            rig.answer(0, first);
            assert!(rig.filled > filled, "{what}: nothing was read to its place");
            rig.answer(0, rest);
            assert_eq!(rig.got_bytes(client), *answer, "{what}");
            rig.lose_client(client);
            rig.assert_nothing_left();
        }
    }
}

#[test]
fn what_nobody_waits_for_behind_a_large_value_is_not_kept() {
    let (mut rig, client) = behind_a_large_value(Rig::new(1, 0));
    let leaves = rig.client();
    rig.send(leaves, b"get k\r\n");
    rig.lose_client(leaves);
    let filled = rig.filled;
    rig.answer(0, &[value("k", &payload(2)), b"END\r\n".to_vec()].concat());
    assert_eq!(rig.filled, filled);
    rig.lose_client(client);
    rig.assert_nothing_left();
}

#[test]
fn another_keys_value_behind_a_large_one_reaches_nobody() {
    let (mut rig, client) = behind_a_large_value(Rig::new(1, 1));
    rig.send(client, b"get k\r\n");
    rig.answer(0, &value("other", &payload(2)));
    assert_eq!(rig.count(Counter::Desyncs), 1);
    rig.answer(1, b"END\r\n");
    assert_eq!(rig.got(client), "END\r\n");
    rig.lose_client(client);
    rig.assert_nothing_left();
}

/// The room was for one like the last.
#[test]
fn a_value_behind_a_large_one_is_a_miss_if_there_is_no_memory_for_it() {
    let rig = Rig::with_limits(1, 0, |limits| limits.memory_max = 16 << 20);
    let (mut rig, client) = behind_a_large_value(rig);
    rig.send(client, b"get k\r\n");
    let filled = rig.filled;
    let answer = [value("k", &vec![b'v'; 17 << 20]), b"END\r\n".to_vec()].concat();
    for piece in answer.chunks(100_000) {
        rig.answer(0, piece);
        assert!(rig.memory_len() <= 16 << 20);
    }
    assert_eq!(
        rig.filled,
        filled + 1,
        "the line was read to the value's place"
    );
    assert_eq!(rig.got(client), "END\r\n");
    assert_eq!(rig.count(Counter::MemoryRefusals), 1);
    rig.lose_client(client);
    rig.assert_nothing_left();
}

#[test]
fn a_value_without_its_line_end_reaches_nobody() {
    let mut rig = Rig::new(1, 1);
    let client = rig.client();
    rig.send(client, b"get k\r\n");
    let mut answer = value("k", &payload(0));
    let end = answer.len() - 1;
    answer[end] = b'x';
    rig.answer(0, &answer[..5_000]);
    rig.answer(0, &answer[5_000..]);
    assert!(rig.filled > 0, "nothing was read to its place");
    assert_eq!(rig.got(client), "");
    assert_eq!(rig.count(Counter::Desyncs), 1);
    rig.answer(1, b"END\r\n");
    assert_eq!(rig.got(client), "END\r\n");
    rig.lose_client(client);
    rig.assert_nothing_left();
}

#[test]
fn a_client_that_goes_in_the_middle_leaves_nothing() {
    let mut rig = Rig::new(1, 0);
    let (uploads, downloads) = (rig.client(), rig.client());
    rig.send(uploads, &set("k", &payload(0))[..5_000]);
    rig.send(uploads, &payload(0)[..50_000]);
    rig.send(downloads, b"get k\r\n");
    assert_eq!(rig.sent(0), "get k\r\n");
    let answer = [value("k", &payload(0)), b"END\r\n".to_vec()].concat();
    rig.answer(0, &answer[..5_000]);
    rig.answer(0, &answer[5_000..50_000]);
    assert_eq!(rig.filled, 2, "one of each");
    rig.lose_client(uploads);
    rig.lose_client(downloads);
    rig.answer(0, &answer[50_000..]);
    assert_eq!(rig.filled, 2, "what nobody wants is not kept");
    rig.assert_nothing_left();
}

/// It writes no more, and could still be answered; but nothing was asked.
#[test]
fn an_upload_that_ends_in_the_middle_leaves_nothing() {
    let mut rig = Rig::new(1, 0);
    for len in [5_000, 50_000] {
        let client = rig.client();
        rig.send(client, &set("k", &payload(0))[..len]);
        rig.engine.handle(rig.now, Input::ClientEnd(client));
        rig.assert_nothing_left();
        assert_eq!(rig.closed.pop(), Some(client));
    }
    assert_eq!(rig.sent(0), "");
}

#[test]
fn no_room_is_lent_beyond_the_memory() {
    let mut rig = Rig::with_limits(1, 0, |limits| limits.memory_max = 16 << 20);
    let clients: Vec<_> = (0..80).map(|_| rig.client()).collect();
    for &client in &clients {
        for piece in set("k", &payload(0))[..290_000].chunks(50_000) {
            rig.send(client, piece);
        }
    }
    assert!(rig.memory_len() <= 16 << 20, "{}", rig.memory_len());
    assert!(rig.count(Counter::MemoryRefusals) > 0);
    for &client in &clients {
        rig.lose_client(client);
    }
}

#[test]
fn what_is_small_is_not_lent_room() {
    let mut rig = Rig::new(1, 0);
    let client = rig.client();
    rig.send(client, b"set k 0 0 5000\r\n");
    assert!(rig.engine.client_room(client).is_none());
    rig.send(client, &[b'x'; 5_000]);
    rig.send(client, b"\r\n");
    assert_eq!(rig.filled, 0);
    assert!(!rig.engine.client_is_large(client));
    rig.engine.handle(rig.now, Input::ClientLost(client));
}
