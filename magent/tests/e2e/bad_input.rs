//! Bytes that no client should send: what memcached answers or better, and the connection goes on.
//!
//! Each request is followed by `mn`, so its answer ends with `MN` if the connection went on in step.
//!
//! Not here: too much of something (`overload`), the same in bulk (`differential`).

use super::harness::{Client, Cluster, Memcached, shown, transcript};

/// Compares the proxy's answer to each of `requests` with a memcached's.
#[track_caller]
fn check_same(requests: &[&[u8]]) {
    let memcached = Memcached::start();
    let expected: Vec<Vec<u8>> = requests
        .iter()
        .map(|request| transcript(&memcached.endpoint, &[request, &b"mn\r\n"[..]].concat()))
        .collect();
    let cases: Vec<(&[u8], &[u8])> = requests
        .iter()
        .copied()
        .zip(expected.iter().map(Vec::as_slice))
        .collect();
    check(&cases);
}

/// The proxy gives each request the answer beside it; where a comment says so, a better one than
/// memcached's.
#[track_caller]
fn check(cases: &[(&[u8], &[u8])]) {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let mut wrong = String::new();
    for (request, expected) in cases {
        let request = [request, &b"mn\r\n"[..]].concat();
        let answer = transcript(&cluster.magent.endpoint, &request);
        if answer != *expected {
            wrong += &format!(
                "\n request: {}\nexpected: {}\n  answer: {}\n",
                shown(&request),
                shown(expected),
                shown(&answer)
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn key_of(len: usize) -> String {
    "k".repeat(len)
}

#[test]
fn unknown_commands() {
    check_same(&[
        b"nonsense\r\n",
        b"nonsense with arguments\r\n",
        b"GET a\r\n",
        b"Set a 0 0 1\r\n",
        b"\r\n",
        b"\n",
        b" \r\n",
        b"  get a\r\n",
        b"get\r\n",
        b"get \r\n",
        b"gets\r\n",
        b"gat\r\n",
        b"delete\r\n",
        b"incr\r\n",
        b"incr a\r\n",
        b"touch\r\n",
        b"touch a\r\n",
        b"verbosity\r\n",
        b"mg\r\n",
        b"md\r\n",
        b"ma\r\n",
        b"m\r\n",
        b"mz a\r\n",
        b"quitx\r\n",
        b"stats nosuch\r\n",
        b"\x01\x02\x03\r\n",
        b"\xff\xfe\xfd\r\n",
    ]);
}

#[test]
fn overlong_keys() {
    let longest = key_of(250);
    let overlong = key_of(251);
    let requests: Vec<String> = [&longest, &overlong]
        .into_iter()
        .flat_map(|key| {
            [
                format!("get {key}\r\n"),
                format!("get a {key} b\r\n"),
                format!("gat 0 {key}\r\n"),
                format!("delete {key}\r\n"),
                format!("incr {key} 1\r\n"),
                format!("touch {key} 0\r\n"),
                format!("mg {key} v\r\n"),
                format!("md {key}\r\n"),
                format!("ma {key}\r\n"),
            ]
        })
        .chain([format!("set {longest} 0 0 1\r\nx\r\nget {longest}\r\n")])
        .collect();
    check_same(&requests.iter().map(String::as_bytes).collect::<Vec<_>>());
}

#[test]
fn bad_numbers() {
    check_same(&[
        b"incr a x\r\n",
        b"incr a -1\r\n",
        b"incr a 18446744073709551616\r\n",
        b"decr a 1x\r\n",
        b"touch a x\r\n",
        b"touch a 1x\r\n",
        b"gat x a\r\n",
        b"verbosity x\r\n",
        b"flush_all x\r\n",
        b"delete a 1\r\n",
        b"delete a 0 noreply\r\n",
        b"set a 0 0 0\r\n\r\nincr a 1\r\n",
        b"set a 0 0 1\r\nx\r\nincr a 1\r\nset a 0 0 20\r\n18446744073709551615\r\nincr a 1\r\n",
        b"set a 4294967295 0 1\r\nx\r\nget a\r\n",
        b"set a 0 -1 1\r\nx\r\nget a\r\n",
        b"mg a v v\r\n",
        b"mg a T\r\n",
        b"mg a Tx\r\n",
        b"ma a Dx\r\n",
        b"mg a !\r\n",
        b"mg a b\r\n",
    ]);
}

/// A line whose length can be read is answered and its payload swallowed; memcached takes the payload
/// for commands.
#[test]
fn payloads_behind_a_bad_line_are_no_commands() {
    const BAD_LINE: &[u8] = b"CLIENT_ERROR bad command line format\r\nMN\r\n";
    let overlong = key_of(251);
    let set = format!("set {overlong} 0 0 9\r\nflush_all\r\n");
    let ms = format!("ms {overlong} 9\r\nflush_all\r\n");
    check(&[
        (set.as_bytes(), BAD_LINE),
        (ms.as_bytes(), BAD_LINE),
        (b"set a x 0 9\r\nflush_all\r\n", BAD_LINE),
        (b"set a 0 x 9\r\nflush_all\r\n", BAD_LINE),
        (b"cas a 0 0 9 x\r\nflush_all\r\n", BAD_LINE),
        (
            b"ms a 9 F1 F2\r\nflush_all\r\n",
            b"CLIENT_ERROR duplicate flag\r\nMN\r\n",
        ),
    ]);
}

/// Where the length cannot be read, the next line may be a payload: the proxy answers as memcached and
/// may then close, but never takes that line for a command.
#[test]
fn a_length_that_cannot_be_read_is_answered() {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let memcached = Memcached::start();
    let mut other = cluster.magent.client();
    other.set("key", b"value");
    for line in [
        "set",
        "set a",
        "set a 0 0",
        "cas a 0 0 1",
        "ms",
        "set a 0 0 x",
        "set a 0 0 -1",
        "set a 0 0 -2147483648",
        "set a 0 0 2147483648",
        "ms a x",
        "ms a -1",
        "ms a 2147483648",
    ] {
        let expected = memcached
            .client()
            .ask_line(format!("{line}\r\n").as_bytes());
        let answer = transcript(
            &cluster.magent.endpoint,
            format!("{line}\r\nmn\r\n").as_bytes(),
        );
        let answer = answer.strip_suffix(b"MN\r\n").unwrap_or(&answer);
        assert_eq!(
            shown(answer),
            shown(format!("{expected}\r\n").as_bytes()),
            "{line}"
        );
        other.ask(b"get key\r\n", b"VALUE key 0 5\r\nvalue\r\nEND\r\n");
    }
    for line in ["set a 0 0 x", "set a 0 0 -1", "ms a x"] {
        transcript(
            &cluster.magent.endpoint,
            format!("{line}\r\nflush_all\r\n").as_bytes(),
        );
        assert_eq!(other.get("key"), Some(b"value".to_vec()), "after {line}");
    }
}

#[test]
fn payload_of_another_length() {
    check_same(&[
        b"set a 0 0 5\r\nabcdefg\r\n",
        b"set a 0 0 5\r\nabcdefg\r\nget a\r\n",
        b"set a 0 0 3\r\nabcde",
        b"ms a 3\r\nabcde\r\n",
        b"set a 0 0 0\r\nx\r\n",
    ]);
}

#[test]
fn a_value_too_large_is_swallowed_and_the_connection_goes_on() {
    let value = vec![b'x'; 1_048_577];
    let mut requests = Vec::new();
    for head in [
        "set a 0 0 1048577",
        "set a 0 0 1048577 noreply",
        "add a 0 0 1048577",
        "ms a 1048577",
    ] {
        requests.push([head.as_bytes(), b"\r\n", &value, b"\r\nget a\r\n"].concat());
    }
    check_same(&requests.iter().map(Vec::as_slice).collect::<Vec<_>>());
}

#[test]
fn a_value_above_the_proxys_own_limit_is_swallowed_too() {
    let cluster = Cluster::start_patient(3, 2, &["--max-value", "2000"]);
    let mut client = cluster.magent.client();
    let store = |len: usize| {
        [
            format!("set a 0 0 {len}\r\n").as_bytes(),
            &vec![b'x'; len],
            b"\r\n",
        ]
        .concat()
    };
    client.ask(&store(2_000), b"STORED\r\n");
    client.ask(
        &store(2_001),
        b"SERVER_ERROR object too large for cache\r\n",
    );
    // As memcached: a refused set leaves no older value behind.
    client.ask(b"get a\r\n", b"END\r\n");
    client.ask(
        &store(100_000_000),
        b"SERVER_ERROR object too large for cache\r\n",
    );
    client.ask(&store(10), b"STORED\r\n");
}

#[test]
fn a_multiget_of_ten_thousand_keys() {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let mut client = cluster.magent.client();
    let keys: Vec<String> = (0..10_000).map(|n| format!("{n:0>200}")).collect();
    for key in keys.iter().step_by(7) {
        client.send(format!("set {key} 0 0 200 noreply\r\n{key}\r\n").as_bytes());
    }
    client.ask(b"mn\r\n", b"MN\r\n");
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let values = client.get_many(&keys);
    assert_eq!(values.len(), 10_000_usize.div_ceil(7));
    assert!(values.iter().all(|(key, value)| key.as_bytes() == value));
    client.ask(b"mn\r\n", b"MN\r\n");
}

#[test]
fn a_line_without_an_end_is_given_up() {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let mut other = cluster.magent.client();
    for start in ["x", "set ", "mg ", "get k "] {
        let line = [start.as_bytes(), &vec![b'y'; 16 << 20]].concat();
        let mut client = cluster.magent.client();
        // It may hang up before it has read everything: that is no more than memcached does.
        client.try_send(&line).ok();
        let answer = client.rest();
        assert!(
            answer.is_empty() || answer.starts_with(b"CLIENT_ERROR ") || answer == b"ERROR\r\n",
            "{start}: {}",
            shown(&answer)
        );
        other.ask(b"mn\r\n", b"MN\r\n");
    }
    assert!(
        cluster.magent.memory_max() < 256 << 20,
        "{} bytes",
        cluster.magent.memory_max()
    );
}

#[test]
fn binary_garbage_ends_its_own_connection_at_most() {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let mut other = cluster.magent.client();
    other.set("a", b"value");
    let mut rng = fastrand::Rng::with_seed(6);
    for round in 0..200 {
        let mut garbage: Vec<u8> = (0..rng.usize(1..4_096)).map(|_| rng.u8(..)).collect();
        if round % 4 == 0 {
            garbage[0] = 0x80;
        }
        transcript(&cluster.magent.endpoint, &garbage);
        assert_eq!(
            other.get("a"),
            Some(b"value".to_vec()),
            "after garbage {round}"
        );
    }
}

#[test]
fn garbage_lines_are_answered_as_by_memcached() {
    let mut rng = fastrand::Rng::with_seed(7);
    let requests: Vec<Vec<u8>> = (0..300)
        .map(|_| {
            let mut line: Vec<u8> = (0..rng.usize(1..200)).map(|_| rng.u8(..)).collect();
            line.retain(|byte| !matches!(byte, 0 | b'\r' | b'\n'));
            // 0x80 first is the binary protocol.
            line.insert(0, b'!');
            line.extend_from_slice(b"\r\n");
            line
        })
        .collect();
    check_same(&requests.iter().map(Vec::as_slice).collect::<Vec<_>>());
}

/// memcached ends the line at the NUL and forgets the keys behind it.
#[test]
fn a_nul_in_a_key_hides_no_other_key() {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let mut client = cluster.magent.client();
    client.set("b", b"value b");
    client.set("c", b"value c");
    let answer = transcript(&cluster.magent.endpoint, b"get a\0z\r\nget b\r\nmn\r\n");
    assert!(
        answer.ends_with(b"VALUE b 0 7\r\nvalue b\r\nEND\r\nMN\r\n"),
        "{}",
        shown(&answer)
    );
    // Either the line is refused or its good keys are served: not half of them.
    let answer = transcript(&cluster.magent.endpoint, b"get b a\0z c\r\nmn\r\n");
    let served: &[u8] = b"VALUE b 0 7\r\nvalue b\r\nVALUE c 0 7\r\nvalue c\r\nEND\r\nMN\r\n";
    assert!(
        answer == served
            || (answer.starts_with(b"CLIENT_ERROR ") && answer.ends_with(b"\r\nMN\r\n")),
        "{}",
        shown(&answer)
    );
    for request in [
        "set a\0z 0 0 1\r\nx\r\n",
        "delete a\0z\r\n",
        "incr a\0z 1\r\n",
        "mg a\0z v\r\n",
    ] {
        let answer = transcript(
            &cluster.magent.endpoint,
            format!("{request}mn\r\n").as_bytes(),
        );
        assert!(
            answer.ends_with(b"\r\nMN\r\n"),
            "{request:?}: {}",
            shown(&answer)
        );
        assert_eq!(
            client.get("b"),
            Some(b"value b".to_vec()),
            "after {request:?}"
        );
    }
}

#[test]
fn a_client_that_dies_in_mid_value_stores_nothing() {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let mut other = cluster.magent.client();
    other.set("a", b"before");
    for sent in [
        "set a 0 0 100",
        "set a 0 0 100\r\n",
        "set a 0 0 100\r\nhalf of it",
        "ms a 100\r\nhalf",
    ] {
        let mut client = cluster.magent.client();
        client.ask(b"mn\r\n", b"MN\r\n");
        client.send(sent.as_bytes());
        drop(client);
        // Through the same backend connection as the dead client's would have gone.
        for _ in 0..20 {
            assert_eq!(other.get("a"), Some(b"before".to_vec()), "after {sent:?}");
        }
    }
}

#[test]
fn all_answers_arrive_after_a_half_close() {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let mut client = cluster.magent.client();
    let mut expected = Vec::new();
    for n in 0..500 {
        client.send(format!("set key-{n} 0 0 3\r\n{n:0>3}\r\nget key-{n}\r\n").as_bytes());
        expected.extend(format!("STORED\r\nVALUE key-{n} 0 3\r\n{n:0>3}\r\nEND\r\n").into_bytes());
    }
    client.half_close();
    let answers = client.rest();
    assert!(answers == expected, "{}", shown(&answers));
}

#[test]
fn a_half_close_in_mid_request_is_an_end() {
    let cluster = Cluster::start_patient(3, 2, &[]);
    for sent in ["ge", "get a", "set a 0 0 3\r\nx"] {
        let mut client: Client = cluster.magent.client();
        client.send(format!("mn\r\n{sent}").as_bytes());
        client.half_close();
        assert_eq!(client.rest(), b"MN\r\n", "{sent:?}");
    }
    assert_eq!(cluster.magent.client().get("a"), None);
}
