//! Every kind of wrong answer must be noticed, however the bytes are cut.

use super::*;

const KEY_COUNT: u32 = 20;

fn keys() -> Keys {
    Keys::new(KEY_COUNT, 10)
}

/// `VALUE` block of key `index` as memcached sends it.
fn value_block(keys: &Keys, index: u32) -> Vec<u8> {
    let mut out = b"VALUE ".to_vec();
    keys.write_key(index, &mut out);
    out.extend_from_slice(format!(" {} 10\r\n", Keys::client_flags(index)).as_bytes());
    out.extend_from_slice(keys.value(index));
    out.extend_from_slice(b"\r\n");
    out
}

/// Feeds `bytes` in pieces of `piece` until the answer is complete; also says what it used.
fn feed(request: &Request, bytes: &[u8], piece: usize) -> Result<(usize, Option<Answer>), Wrong> {
    let keys = keys();
    let share = Share::new(&keys, 0, 1);
    let mut checker = Checker::default();
    let mut request = request.clone();
    let mut used = 0;
    for chunk in bytes.chunks(piece) {
        let (count, answer) = checker.check(&keys, share, &mut request, chunk)?;
        used += count;
        if answer.is_some() {
            return Ok((used, answer));
        }
        assert_eq!(count, chunk.len(), "an unfinished answer uses all bytes");
    }
    Ok((used, None))
}

/// The single place that judges an answer: whole, in every size of pieces, and with the next
/// answer behind it. `None` is a wrong answer.
#[track_caller]
fn check(request: &Request, bytes: &[u8], expected: Option<&Answer>) {
    for piece in 1..=bytes.len() {
        let outcome = feed(request, bytes, piece);
        match expected {
            Some(answer) => {
                assert_eq!(
                    outcome,
                    Ok((bytes.len(), Some(answer.clone()))),
                    "pieces of {piece}"
                );
            }
            None => assert!(outcome.is_err(), "pieces of {piece}: {outcome:?}"),
        }
    }
    if let Some(answer) = expected {
        let with_next = [bytes, b"END\r\n"].concat();
        let outcome = feed(request, &with_next, with_next.len());
        assert_eq!(
            outcome,
            Ok((bytes.len(), Some(answer.clone()))),
            "pipelined"
        );
        for cut in 1..bytes.len() {
            assert_eq!(
                feed(request, &bytes[..cut], cut),
                Ok((cut, None)),
                "cut at {cut}"
            );
        }
    }
}

#[test]
fn requests_as_bytes() {
    let keys = Keys::new(KEY_COUNT, 3);
    let share = Share::new(&keys, 1, 2);
    let encoded = |command, first, key_count| {
        let mut out = Vec::new();
        Request::new(command, first, key_count, 0).encode(&keys, share, &mut out);
        out
    };
    assert_eq!(encoded(Command::Get, 0, 1), b"get bench:3:00000001\r\n");
    assert_eq!(
        encoded(Command::Get, 9, 2),
        b"get bench:3:00000019 bench:3:00000001\r\n"
    );
    assert_eq!(
        encoded(Command::MetaGet, 1, 1),
        b"mg bench:3:00000003 v f\r\n"
    );
    let header = format!("set bench:3:00000003 {} 0 3\r\n", Keys::client_flags(3));
    let set = [header.as_bytes(), keys.value(3), CRLF];
    assert_eq!(encoded(Command::Set, 1, 1), set.concat());
}

#[test]
fn single_get() {
    let keys = keys();
    let get = Request::new(Command::Get, 4, 1, 0);
    let right = [&value_block(&keys, 4)[..], b"END\r\n"].concat();
    check(&get, &right, Some(&Answer::Values { hits: 1, misses: 0 }));
    check(
        &get,
        b"END\r\n",
        Some(&Answer::Values { hits: 0, misses: 1 }),
    );
    check(
        &get,
        &[&value_block(&keys, 5)[..], b"END\r\n"].concat(),
        None,
    );
    check(
        &get,
        &[
            &value_block(&keys, 4)[..],
            &value_block(&keys, 4),
            b"END\r\n",
        ]
        .concat(),
        None,
    );
    check(&get, b"STORED\r\n", None);
    check(&get, b"END\n", None);
}

#[test]
fn any_changed_byte_is_noticed() {
    let keys = keys();
    let get = Request::new(Command::Get, 4, 1, 0);
    let right = [&value_block(&keys, 4)[..], b"END\r\n"].concat();
    for place in 0..right.len() {
        let mut bytes = right.clone();
        bytes[place] ^= 0x01;
        // A line end that is gone makes the answer wait for more: fill it up.
        bytes.extend_from_slice(&[b'x'; LINE_LEN_MAX + 1]);
        assert!(feed(&get, &bytes, bytes.len()).is_err(), "byte {place}");
    }
}

#[test]
fn somebody_elses_value_under_the_right_key() {
    let keys = keys();
    let get = Request::new(Command::Get, 4, 1, 0);
    let mut bytes = value_block(&keys, 4);
    let start = bytes.len() - 12;
    bytes[start..start + 10].copy_from_slice(keys.value(5));
    bytes.extend_from_slice(b"END\r\n");
    check(&get, &bytes, None);
}

#[test]
fn missing_end_is_noticed_with_the_next_answer() {
    let keys = keys();
    let get = Request::new(Command::Get, 4, 1, 0);
    let bytes = [value_block(&keys, 4), value_block(&keys, 7)].concat();
    check(&get, &bytes, None);
}

#[test]
fn value_of_another_length() {
    let get = Request::new(Command::Get, 4, 1, 0);
    let flags = Keys::client_flags(4);
    let bytes = format!("VALUE bench:10:00000004 {flags} 9\r\n123456789\r\nEND\r\n");
    check(&get, bytes.as_bytes(), None);
}

#[test]
fn error_lines() {
    let keys = keys();
    let get = Request::new(Command::Get, 4, 2, 0);
    for line in ["ERROR", "CLIENT_ERROR bad key", "SERVER_ERROR timed out"] {
        check(
            &get,
            format!("{line}\r\n").as_bytes(),
            Some(&Answer::Error(line.into())),
        );
    }
    let after_value = [&value_block(&keys, 5)[..], b"SERVER_ERROR gone\r\n"].concat();
    check(
        &get,
        &after_value,
        Some(&Answer::Error("SERVER_ERROR gone".into())),
    );
}

#[test]
fn multiget_in_any_order_with_holes() {
    let keys = keys();
    // Wraps around the end of the key set: 18, 19, 0, 1.
    let get = Request::new(Command::Get, 18, 4, 0);
    let bytes = [
        value_block(&keys, 1),
        value_block(&keys, 18),
        value_block(&keys, 0),
    ]
    .concat();
    let bytes = [&bytes[..], b"END\r\n"].concat();
    check(&get, &bytes, Some(&Answer::Values { hits: 3, misses: 1 }));
    check(
        &get,
        &[&value_block(&keys, 2)[..], b"END\r\n"].concat(),
        None,
    );
}

#[test]
fn meta_get() {
    let keys = keys();
    let get = Request::new(Command::MetaGet, 4, 1, 0);
    let header = format!("VA 10 f{}\r\n", Keys::client_flags(4));
    let right = [header.as_bytes(), keys.value(4), CRLF].concat();
    check(&get, &right, Some(&Answer::Values { hits: 1, misses: 0 }));
    check(
        &get,
        b"EN\r\n",
        Some(&Answer::Values { hits: 0, misses: 1 }),
    );
    check(&get, b"HD\r\n", None);
    check(
        &get,
        &[header.as_bytes(), keys.value(5), CRLF].concat(),
        None,
    );
}

#[test]
fn binary_get() {
    let keys = keys();
    let get = Request::new(Command::BinaryGet, 4, 1, 0);
    let packet = |status: u8, index: u32, extras: &[u8], value: &[u8]| {
        let mut out = vec![0; PACKET_HEADER_LEN];
        (out[0], out[4], out[7]) = (0x81, u8::try_from(extras.len()).unwrap(), status);
        out[11] = u8::try_from(extras.len() + value.len()).unwrap();
        out[12..16].copy_from_slice(&index.to_be_bytes());
        [&out, extras, value].concat()
    };
    let flags = Keys::client_flags(4).to_be_bytes();
    let miss = packet(1, 4, b"", b"Not found");
    for (answer, expected) in [
        (
            packet(0, 4, &flags, keys.value(4)),
            Some(Answer::Values { hits: 1, misses: 0 }),
        ),
        (miss, Some(Answer::Values { hits: 0, misses: 1 })),
        (
            packet(0x86, 4, b"", b"busy"),
            Some(Answer::Error("busy".into())),
        ),
        (packet(0, 4, &flags, keys.value(5)), None),
        (packet(0, 5, &flags, keys.value(4)), None),
    ] {
        for piece in 1..=answer.len() {
            let outcome = feed(&get, &answer, piece);
            assert_eq!(
                outcome.ok(),
                expected.clone().map(|e| (answer.len(), Some(e)))
            );
        }
    }
    let mut asked = Vec::new();
    get.encode(&keys, Share::new(&keys, 0, 1), &mut asked);
    assert_eq!(asked[..4], [0x80, 0, 0, 17]);
    assert_eq!(asked[PACKET_HEADER_LEN..], *b"bench:10:00000004");
}

#[test]
fn set() {
    let set = Request::new(Command::Set, 4, 1, 0);
    check(&set, b"STORED\r\n", Some(&Answer::Stored));
    check(
        &set,
        b"NOT_STORED\r\n",
        Some(&Answer::Error("NOT_STORED".into())),
    );
    check(&set, b"END\r\n", None);
}

#[test]
fn each_of_a_thousand_keys_is_seen_once() {
    let mut seen = Seen::default();
    assert!((0..1_000).all(|offset| seen.insert(offset)));
    assert_eq!(seen.count(), 1_000);
    assert!(
        ![0, 127, 128, 999]
            .into_iter()
            .any(|offset| seen.insert(offset))
    );
    assert_eq!(seen.count(), 1_000);
}
