//! Clients that speak the binary protocol.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "binary/laws.rs"]
mod laws;
mod packets;
mod rig;

use std::sync::Arc;

use magent_core::engine::Input;
use magent_core::placement::{Version, View};
use magent_core::stats::Counter;
use packets::{Ask, answers, bare, count, noop, shown, store, touch};
use rig::Rig;

const NEVER: u32 = u32::MAX;

fn bytes(asks: &[Ask]) -> Vec<u8> {
    asks.iter().flat_map(Ask::bytes).collect()
}

/// Sends all at once, and cut at every byte; the answers as text.
#[track_caller]
fn check(asks: &[Ask], expected: &[&str]) {
    for (primaries, backups) in [(1, 0), (3, 2)] {
        let mut rig = Rig::with_nodes(primaries, backups);
        let client = rig.client();
        rig.send(client, &bytes(asks));
        assert_eq!(
            shown(&rig.got_bytes(client)),
            expected,
            "{primaries}+{backups}"
        );
        let mut rig = Rig::with_nodes(primaries, backups);
        rig.answer_chunk_len = 1;
        let client = rig.client();
        for byte in bytes(asks) {
            rig.feed(client, &[byte]);
        }
        rig.run();
        assert_eq!(shown(&rig.got_bytes(client)), expected, "byte by byte");
    }
}

// -- What memcached 1.6.18 answers, captured from it --

#[test]
fn gets() {
    check(
        &[
            store(0x01, "k", "v"),
            bare(0x00, "k", ""),
            bare(0x0c, "k", ""),
            bare(0x09, "k", ""),
            bare(0x0d, "k", ""),
            bare(0x00, "m", ""),
            bare(0x0c, "m", ""),
            bare(0x09, "m", ""),
            bare(0x0d, "m", ""),
            noop(),
        ],
        &[
            "01:0 c",
            "00:0 f=00000005 v=v c",
            "0c:0 f=00000005 k=k v=v c",
            "09:0 f=00000005 v=v c",
            "0d:0 f=00000005 k=k v=v c",
            "00:1 v=Not found",
            "0c:1 k=m",
            "0a:0",
        ],
    );
}

#[test]
fn touches() {
    check(
        &[
            store(0x01, "k", "v"),
            touch(0x1c, "k", 0),
            touch(0x1c, "m", 0),
            touch(0x1d, "k", 0),
            touch(0x23, "k", 0),
            touch(0x23, "m", 0),
            touch(0x1d, "m", 0),
            touch(0x1e, "m", 0),
            touch(0x24, "m", 0),
            touch(0x1e, "k", 0),
            touch(0x24, "k", 0),
            noop(),
        ],
        &[
            "01:0 c",
            "1c:0 f=00000005 c",
            "1c:1 v=Not found",
            "1d:0 f=00000005 v=v c",
            "23:0 f=00000005 k=k v=v c",
            "23:1 k=m",
            "1d:1 v=Not found",
            "1e:0 f=00000005 v=v c",
            "24:0 f=00000005 k=k v=v c",
            "0a:0",
        ],
    );
}

#[test]
fn stores() {
    check(
        &[
            store(0x01, "k", "v"),
            store(0x02, "k", "v"),
            store(0x12, "k", "v"),
            store(0x03, "m", "v"),
            store(0x13, "m", "v"),
            bare(0x0e, "m", "x"),
            bare(0x19, "m", "x"),
            bare(0x0e, "k", "x"),
            bare(0x19, "k", "x"),
            bare(0x0f, "k", "x").cas(99_999),
            bare(0x0f, "k", "<"),
            store(0x11, "q", "v"),
            store(0x13, "q", "w"),
            store(0x01, "empty", ""),
            bare(0x00, "k", ""),
            bare(0x00, "q", ""),
            bare(0x00, "empty", ""),
        ],
        &[
            "01:0 c",
            "02:2 v=Data exists for key.",
            "12:2 v=Data exists for key.",
            "03:1 v=Not found",
            "13:1 v=Not found",
            "0e:5 v=Not stored.",
            "19:5 v=Not stored.",
            "0e:0 c",
            "0f:2 v=Data exists for key.",
            "0f:0 c",
            "01:0 c",
            "00:0 f=00000005 v=<vxx c",
            "00:0 f=00000005 v=w c",
            "00:0 f=00000005 c",
        ],
    );
}

#[test]
fn uniques() {
    check(
        &[
            store(0x01, "k", "v"),
            store(0x01, "k", "w").cas(99_999),
            store(0x01, "m", "w").cas(99_999),
            store(0x02, "m", "w").cas(9),
            store(0x03, "k", "w").cas(99_999),
            bare(0x04, "k", "").cas(99_999),
            bare(0x04, "m", "").cas(9),
        ],
        &[
            "01:0 c",
            "01:2 v=Data exists for key.",
            "01:1 v=Not found",
            "02:1 v=Not found",
            "03:2 v=Data exists for key.",
            "04:2 v=Data exists for key.",
            "04:1 v=Not found",
        ],
    );
}

#[test]
fn counters() {
    let number = |number: u64| number.to_be_bytes().escape_ascii().to_string();
    check(
        &[
            store(0x01, "k", "v"),
            count(0x05, "n", 1, 10, 0),
            count(0x05, "n", 1, 10, 0),
            count(0x06, "n", 100, 10, 0),
            count(0x05, "m", 1, 10, NEVER),
            count(0x05, "k", 1, 0, 0),
            count(0x15, "n", 1, 0, 0),
            count(0x15, "k", 1, 0, 0),
            count(0x05, "n", 1, 0, 0).cas(99_999),
            count(0x05, "n9", 1, 5, 0).cas(99_999),
            count(0x05, "n8", 1, u64::MAX, 0),
            bare(0x00, "n8", ""),
        ],
        &[
            "01:0 c",
            &format!("05:0 v={} c", number(10)),
            &format!("05:0 v={} c", number(11)),
            &format!("06:0 v={} c", number(0)),
            "05:1 v=Not found",
            "05:6 v=Non-numeric server-side value for incr or decr",
            "15:6 v=Non-numeric server-side value for incr or decr",
            "05:2 v=Data exists for key.",
            &format!("05:0 v={} c", number(5)),
            &format!("05:0 v={} c", number(u64::MAX)),
            "00:0 f=00000000 v=18446744073709551615 c",
        ],
    );
}

#[test]
fn deletes_and_what_has_no_key() {
    check(
        &[
            store(0x01, "k", "v"),
            bare(0x04, "k", ""),
            bare(0x04, "k", ""),
            bare(0x14, "k", ""),
            store(0x11, "k", "v"),
            bare(0x14, "k", ""),
            bare(0x08, "", ""),
            Ask::new(0x08, &[0; 4], b"", b""),
            bare(0x18, "", ""),
            Ask::new(0x4a, &[0; 4], b"kk", b"vv"),
            bare(0x20, "", ""),
            bare(0x21, "PLAIN", "\0u\0p"),
            bare(0x1b, "", ""),
            bare(0x10, "nosuch", ""),
            noop(),
        ],
        &[
            "01:0 c",
            "04:0",
            "04:1 v=Not found",
            "14:1 v=Not found",
            "08:0",
            "08:0",
            "4a:81 v=Unknown command",
            "20:81 v=Unknown command",
            "21:81 v=Unknown command",
            "1b:81 v=Unknown command",
            "10:1 v=Not found",
            "0a:0",
        ],
    );
}

#[test]
fn statistics_are_packets_and_the_last_one_is_empty() {
    let mut rig = Rig::with_nodes(2, 0);
    let client = rig.client();
    rig.send(client, &bytes(&[bare(0x10, "", "").opaque(3), noop()]));
    let answers = answers(&rig.got_bytes(client));
    let (noop, stats) = answers.split_last().unwrap();
    let (last, stats) = stats.split_last().unwrap();
    assert_eq!(
        (noop.to_string(), last.to_string()),
        ("0a:0".into(), "10:0".into())
    );
    assert!(
        stats
            .iter()
            .all(|stat| stat.opaque == 3 && !stat.key.is_empty())
    );
    assert!(
        stats
            .iter()
            .any(|stat| stat.key == b"cmd_get" && stat.value == b"0")
    );
}

#[test]
fn what_loses_the_framing_is_answered_and_closed() {
    for (packet, answer) in [
        (
            Ask::new(0x00, &[0; 4], b"k", b""),
            &["00:4 v=Invalid arguments"][..],
        ),
        (bare(0x00, "", ""), &["00:4 v=Invalid arguments"]),
        (
            bare(0x00, &"k".repeat(251), ""),
            &["00:4 v=Invalid arguments"],
        ),
        (bare(0x07, "", ""), &["07:0"]),
        (bare(0x17, "", ""), &[]),
    ] {
        let mut rig = Rig::with_nodes(1, 0);
        let client = rig.client();
        rig.send(client, &bytes(&[packet, noop()]));
        assert_eq!(shown(&rig.got_bytes(client)), answer);
        assert_eq!(rig.closed, [client]);
    }
    let mut rig = Rig::with_nodes(1, 0);
    let client = rig.client();
    rig.send(
        client,
        &[&noop().bytes()[..], b"version\r\n                       "].concat(),
    );
    assert_eq!(shown(&rig.got_bytes(client)), ["0a:0"]);
    assert_eq!(rig.closed, [client]);
}

// -- What is sent to backends --

#[test]
fn a_quiet_batch_is_one_get() {
    let mut rig = Rig::new(1, 0);
    let client = rig.client();
    let batch = bytes(&[
        bare(0x0d, "a", "").opaque(1),
        bare(0x0d, "b", "").opaque(2),
        bare(0x0d, "c", "").opaque(3),
        noop(),
    ]);
    rig.send(client, &batch);
    assert_eq!(rig.sent(0), "gets a b c\r\n");
    rig.answer(0, b"VALUE b 4294967295 2 7\r\n\r\n");
    assert_eq!(
        rig.got_bytes(client),
        b"",
        "a value is not there before its end"
    );
    rig.answer(0, b"\r\nEND\r\n");
    let got = answers(&rig.got_bytes(client));
    assert_eq!(got[0].to_string(), r"0d:0 f=ffffffff k=b v=\r\n c");
    assert_eq!((got[0].opaque, got[0].cas), (2, 7));
    assert_eq!(got[1].to_string(), "0a:0");
}

/// Values of several backends come one after the other; a write for each would wake the client each time.
#[test]
fn values_of_a_quiet_batch_leave_together() {
    let mut rig = Rig::new(2, 0);
    let keys = [rig.key(0, None), rig.key(1, None)];
    let client = rig.client();
    let quiet = keys.each_ref().map(|key| bare(0x09, key, ""));
    rig.send(
        client,
        &bytes(&[quiet[0].clone(), quiet[1].clone(), noop()]),
    );
    rig.answer(
        0,
        format!("VALUE {} 5 1 9\r\nv\r\nEND\r\n", keys[0]).as_bytes(),
    );
    assert_eq!(rig.got_bytes(client), b"");
    rig.answer(
        1,
        format!("VALUE {} 5 1 9\r\nw\r\nEND\r\n", keys[1]).as_bytes(),
    );
    let both = ["09:0 f=00000005 v=v c", "09:0 f=00000005 v=w c", "0a:0"];
    assert_eq!(shown(&rig.got_bytes(client)), both);
}

#[test]
fn gets_of_both_kinds_of_clients_share_a_batch() {
    let mut rig = Rig::new(1, 0);
    let (text, binary) = (rig.client(), rig.client());
    rig.feed(text, b"gets a\r\n");
    rig.feed(binary, &bare(0x00, "b", "").bytes());
    rig.run();
    assert_eq!(rig.sent(0), "gets a b\r\n");
    rig.answer(0, b"VALUE a 1 1 8\r\nx\r\nVALUE b 1 1 9\r\ny\r\nEND\r\n");
    assert_eq!(rig.got(text), "VALUE a 1 1 8\r\nx\r\nEND\r\n");
    assert_eq!(shown(&rig.got_bytes(binary)), ["00:0 f=00000001 v=y c"]);
}

#[test]
fn commands_become_meta_lines() {
    for (packet, line) in [
        (store(0x01, "k", "v"), "ms k 1 F5 c\r\nv\r\n"),
        (store(0x12, "k", ""), "ms k 0 F5 ME c\r\n\r\n"),
        (store(0x03, "k", "v"), "ms k 1 F5 MR c\r\nv\r\n"),
        (store(0x02, "k", "v").cas(8), "ms k 1 F5 c C8\r\nv\r\n"),
        (bare(0x0e, "k", "v"), "ms k 1 MA c\r\nv\r\n"),
        (bare(0x1a, "k", "v").cas(8), "ms k 1 MP c C8\r\nv\r\n"),
        (bare(0x04, "k", ""), "md k\r\n"),
        (bare(0x04, "k", "").cas(8), "md k C8\r\n"),
        (count(0x05, "k", 2, 3, 4), "ma k D2 N4 J3 v c\r\n"),
        (count(0x16, "k", 2, 3, NEVER), "ma k D2 MD v c\r\n"),
        (touch(0x1c, "k", 100), "mg k T100 f c\r\n"),
        (touch(0x24, "k", 100), "mg k T100 f c v\r\n"),
        (bare(0x00, "a b", ""), "mg YSBi b f c v\r\n"),
        (bare(0x04, "a\nb", ""), "md YQpi b\r\n"),
        (bare(0x0e, "a\0b", "v"), "ms YQBi 1 b MA c\r\nv\r\n"),
        // -1 is 2106, which meta cannot say.
        (touch(0x1c, "k", u32::MAX), "mg k T2147483647 f c\r\n"),
    ] {
        let mut rig = Rig::new(1, 0);
        let client = rig.client();
        rig.send(client, &packet.bytes());
        assert_eq!(rig.sent(0), line);
    }
}

#[test]
fn keys_of_any_bytes_are_found_again() {
    let keys = ["a b", "\n", "\0", "VALUE x 0 1", "\r", "a\r\nb"];
    let asks: Vec<Ask> = keys
        .iter()
        .flat_map(|key| {
            [
                store(0x01, key, "v"),
                bare(0x0c, key, ""),
                touch(0x23, key, 0),
                bare(0x0e, key, "w"),
                bare(0x0c, key, ""),
                bare(0x04, key, ""),
                bare(0x0c, key, ""),
            ]
        })
        .collect();
    let expected: Vec<String> = keys
        .iter()
        .flat_map(|key| {
            let key = key.as_bytes().escape_ascii();
            [
                "01:0 c".to_owned(),
                format!("0c:0 f=00000005 k={key} v=v c"),
                format!("23:0 f=00000005 k={key} v=v c"),
                "0e:0 c".to_owned(),
                format!("0c:0 f=00000005 k={key} v=vw c"),
                "04:0".to_owned(),
                format!("0c:1 k={key}"),
            ]
        })
        .collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    check(&asks, &expected);
}

#[test]
fn a_key_too_long_for_base64_is_refused_with_its_value() {
    let long = |len: usize| format!(" {}", "k".repeat(len - 1));
    check(
        &[
            store(0x01, &long(187), "value"),
            bare(0x00, &long(187), ""),
            store(0x01, &long(186), "value"),
            bare(0x00, &long(186), ""),
        ],
        &[
            "01:4 v=Invalid arguments",
            "00:4 v=Invalid arguments",
            "01:0 c",
            "00:0 f=00000005 v=value c",
        ],
    );
}

#[expect(clippy::too_many_lines, reason = "a flat table")]
#[test]
fn a_backend_without_meta_gets_classic_commands() {
    let gat = "VALUE k 5 1 9\r\nv\r\nEND\r\n";
    for (packet, line, says, answer) in [
        (
            store(0x01, "k", "v"),
            "set k 5 0 1\r\nv\r\n",
            "STORED\r\n",
            "01:0",
        ),
        (
            store(0x02, "k", "v"),
            "add k 5 0 1\r\nv\r\n",
            "NOT_STORED\r\n",
            "02:2 v=Data exists for key.",
        ),
        (
            store(0x03, "k", "v").cas(8),
            "cas k 5 0 1 8\r\nv\r\n",
            "EXISTS\r\n",
            "03:2 v=Data exists for key.",
        ),
        (
            bare(0x0f, "k", "v"),
            "prepend k 0 0 1\r\nv\r\n",
            "STORED\r\n",
            "0f:0",
        ),
        (bare(0x0f, "k", "v").cas(8), "", "", "0f:83 v=Not supported"),
        (bare(0x04, "k", ""), "delete k\r\n", "DELETED\r\n", "04:0"),
        (bare(0x04, "k", "").cas(8), "", "", "04:83 v=Not supported"),
        (
            count(0x06, "k", 2, 3, 4),
            "decr k 2\r\n",
            "65\r\n",
            r"06:0 v=\x00\x00\x00\x00\x00\x00\x00A",
        ),
        (
            count(0x06, "k", 2, 3, 4),
            "decr k 2\r\n",
            "NOT_FOUND\r\n",
            "06:1 v=Not found",
        ),
        (
            touch(0x1c, "k", 9),
            "touch k 9\r\n",
            "TOUCHED\r\n",
            "1c:0 f=00000000",
        ),
        (
            touch(0x23, "k", 9),
            "gats 9 k\r\n",
            gat,
            "23:0 f=00000005 k=k v=v c",
        ),
        (
            touch(0x1d, "k", 9),
            "gats 9 k\r\n",
            "END\r\n",
            "1d:1 v=Not found",
        ),
        (
            bare(0x00, "k", ""),
            "gets k\r\n",
            gat,
            "00:0 f=00000005 v=v c",
        ),
        (bare(0x00, "a b", ""), "", "", "00:4 v=Invalid arguments"),
    ] {
        let mut rig = Rig::new(1, 0);
        let mut view = View::initial(1);
        view.epoch = 1;
        view.backends[0].version = Some(Version {
            major: 1,
            minor: 5,
            patch: 22,
        });
        rig.engine.handle(rig.now, Input::View(&Arc::new(view)));
        let client = rig.client();
        rig.send(client, &packet.bytes());
        assert_eq!(rig.sent(0), line);
        rig.answer_if_connected(0, says.as_bytes());
        assert_eq!(shown(&rig.got_bytes(client)), [answer]);
    }
}

// -- Values, limits, failures --

#[test]
fn a_streamed_value_is_what_the_backend_has() {
    const LEN: usize = 100_000;
    for chunk_len in [1, 7, LEN + 1, LEN + 2, usize::MAX] {
        for code in [0x00_u8, 0x0d, 0x23] {
            let mut rig = Rig::with_limits(1, 0, |limits| limits.stream_len_min = 10);
            rig.answer_chunk_len = chunk_len;
            let client = rig.client();
            let packet = match code {
                0x23 => touch(code, "k", 0),
                _ => bare(code, "k", ""),
            };
            rig.send(client, &bytes(&[packet, noop()]));
            let header: &[u8] = match code {
                0x23 => b"VA 100000 f5 c9\r\n",
                _ => b"VALUE k 5 100000 9\r\n",
            };
            let end: &[u8] = if code == 0x23 {
                b"\r\n"
            } else {
                b"\r\nEND\r\n"
            };
            let value = b"\r\n".repeat(LEN / 2);
            rig.answer(0, &[header, &value, end].concat());
            let got = answers(&rig.got_bytes(client));
            assert_eq!(got.len(), 2, "chunks of {chunk_len}");
            assert!(got[0].value == value && got[0].cas == 9 && got[0].extras == [0, 0, 0, 5]);
            assert_eq!(rig.memory_len(), 0);
        }
    }
}

#[test]
fn quiet_gets_that_nothing_follows_are_answered() {
    let mut rig = Rig::with_nodes(3, 0);
    let client = rig.client();
    rig.send(
        client,
        &bytes(&[store(0x11, "a", "1"), store(0x11, "b", "2")]),
    );
    assert_eq!(rig.got_bytes(client), b"");
    rig.send(
        client,
        &bytes(&[
            bare(0x09, "a", ""),
            bare(0x09, "m", ""),
            bare(0x09, "b", ""),
        ]),
    );
    let both = ["09:0 f=00000005 v=1 c", "09:0 f=00000005 v=2 c"];
    assert_eq!(shown(&rig.got_bytes(client)), both);
    // Nor do they wait for a value that its client has not sent.
    let set = store(0x01, "c", "3").bytes();
    rig.send(
        client,
        &[&bare(0x09, "a", "").bytes(), &set[..set.len() - 1]].concat(),
    );
    assert_eq!(shown(&rig.got_bytes(client)), both[..1]);
    rig.send(client, &set[set.len() - 1..]);
    assert_eq!(shown(&rig.got_bytes(client)), ["01:0 c"]);
}

#[test]
fn a_value_above_the_limit_is_dropped_with_the_old_item() {
    let mut rig = Rig::with_limits(2, 1, |limits| limits.value_len_max = 1_024);
    rig.use_nodes();
    let client = rig.client();
    let large = "x".repeat(1_025);
    rig.send(
        client,
        &bytes(&[
            store(0x01, "k", "v"),
            store(0x11, "k", &large),
            bare(0x00, "k", ""),
            store(0x01, "k", "v"),
            bare(0x19, "k", &large),
            bare(0x00, "k", ""),
        ]),
    );
    assert_eq!(
        shown(&rig.got_bytes(client)),
        [
            "01:0 c",
            "11:3 v=Too large.",
            "00:1 v=Not found",
            "01:0 c",
            "19:3 v=Too large.",
            "00:0 f=00000005 v=v c",
        ]
    );
}

#[test]
fn without_a_backend_reads_miss_and_writes_fail_for_now() {
    let mut rig = Rig::with_nodes(1, 0).with_keeper();
    rig.kill(0);
    rig.pass_ms(1_000);
    let client = rig.client();
    rig.send(
        client,
        &bytes(&[
            bare(0x0c, "k", ""),
            bare(0x0d, "k", ""),
            store(0x11, "k", "v"),
            noop(),
        ]),
    );
    assert_eq!(
        shown(&rig.got_bytes(client)),
        [
            "0c:1 k=k",
            "11:86 v=backend failed before it answered",
            "0a:0"
        ]
    );
}

#[test]
fn what_a_backend_refuses_is_said_in_packets() {
    for (refusal, answer) in [
        (
            "SERVER_ERROR object too large for cache",
            "01:3 v=Too large.",
        ),
        (
            "SERVER_ERROR out of memory storing object",
            "01:82 v=Out of memory",
        ),
        ("SERVER_ERROR busy", "01:86 v=busy"),
        ("CLIENT_ERROR bad", "01:4 v=Invalid arguments"),
        ("ERROR", "01:81 v=Unknown command"),
    ] {
        let mut rig = Rig::new(1, 0);
        let client = rig.client();
        rig.send(client, &store(0x01, "k", "v").bytes());
        rig.answer(0, format!("{refusal}\r\n").as_bytes());
        assert_eq!(shown(&rig.got_bytes(client)), [answer]);
    }
}

#[test]
fn a_unique_finds_its_item_whatever_backend_gave_it() {
    let mut rig = Rig::with_nodes(2, 2).with_keeper();
    let client = rig.client();
    rig.send(
        client,
        &bytes(&[store(0x01, "k", "1"), bare(0x00, "k", "")]),
    );
    let got = answers(&rig.got_bytes(client));
    assert!(got[0].cas == got[1].cas && got[1].cas >> 48 != 0, "{got:?}");
    let asks = [
        store(0x01, "k", "2").cas(got[1].cas),
        store(0x01, "k", "3").cas(got[1].cas),
        bare(0x00, "k", ""),
    ];
    rig.send(client, &bytes(&asks));
    assert_eq!(
        shown(&rig.got_bytes(client)),
        [
            "01:0 c",
            "01:2 v=Data exists for key.",
            "00:0 f=00000005 v=2 c"
        ]
    );
}

#[test]
fn a_killed_primary_loses_nothing() {
    let mut rig = Rig::with_nodes(1, 1).with_keeper();
    let client = rig.client();
    rig.send(
        client,
        &bytes(&[
            store(0x01, "k", "1"),
            store(0x02, "l", "2"),
            bare(0x0e, "k", "x"),
            count(0x05, "n", 1, 10, 0),
            count(0x05, "n", 1, 10, 0),
            store(0x01, "a b", "3"),
            touch(0x1d, "k", 1_000),
        ]),
    );
    rig.got_bytes(client);
    rig.kill(0);
    rig.send(
        client,
        &bytes(&[
            bare(0x00, "k", ""),
            bare(0x00, "l", ""),
            bare(0x00, "n", ""),
            bare(0x00, "a b", ""),
        ]),
    );
    assert_eq!(
        shown(&rig.got_bytes(client)),
        [
            "00:0 f=00000005 v=1x c",
            "00:0 f=00000005 v=2 c",
            "00:0 f=00000000 v=11 c",
            "00:0 f=00000005 v=3 c",
        ]
    );
    assert_eq!(rig.count(Counter::Mended), 0);
}
