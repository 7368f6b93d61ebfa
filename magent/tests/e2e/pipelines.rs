//! Pipelines: every request that asks for an answer gets exactly one, in order.

use super::harness::{Cluster, shown, transcript};

#[test]
fn ten_thousand_gets_in_one_write() {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let mut client = cluster.magent.client();
    for n in (0..500).step_by(2) {
        client.set(&format!("key-{n}"), format!("value {n}").as_bytes());
    }
    let mut requests = String::new();
    let mut expected = String::new();
    for n in 0..10_000 {
        let n = (n * 7) % 500;
        requests.push_str(&format!("get key-{n}\r\n"));
        if n % 2 == 0 {
            let value = format!("value {n}");
            expected.push_str(&format!("VALUE key-{n} 0 {}\r\n{value}\r\n", value.len()));
        }
        expected.push_str("END\r\n");
    }
    let answer = transcript(&cluster.magent.endpoint, requests.as_bytes());
    assert!(answer == expected.as_bytes(), "{}", shown(&answer));
}

#[test]
fn commands_of_all_kinds_interleaved_with_silent_ones() {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let mut requests = String::new();
    let mut expected = String::new();
    for n in 0..2_000 {
        let key = format!("key-{}", n % 50);
        // Silent: stored without a word.
        requests.push_str(&format!("set {key} 0 0 4 noreply\r\n{n:0>4}\r\n"));
        requests.push_str(&format!("mg nothing-{n} q v\r\n"));
        requests.push_str(&format!("ms {key}-m 4 q\r\n{n:0>4}\r\n"));
        requests.push_str(&format!("delete nothing-{n} noreply\r\n"));
        // Answered: with what the silent ones wrote just before.
        requests.push_str(&format!("get {key}\r\nmg {key}-m v O{n} q\r\n"));
        expected.push_str(&format!("VALUE {key} 0 4\r\n{n:0>4}\r\nEND\r\n"));
        expected.push_str(&format!("VA 4 O{n}\r\n{n:0>4}\r\n"));
        if n % 10 == 0 {
            requests.push_str("nonsense\r\nversionx\r\nmn\r\n");
            expected.push_str("ERROR\r\nERROR\r\nMN\r\n");
        }
    }
    let answer = transcript(&cluster.magent.endpoint, requests.as_bytes());
    assert!(answer == expected.as_bytes(), "{}", shown(&answer));
}

#[test]
fn a_slow_answer_holds_its_place_before_a_quick_one() {
    let cluster = Cluster::start_patient(3, 0, &[]);
    let (slow, quick) = (cluster.key_on(0, 1), cluster.key_on(1, 1));
    let mut client = cluster.magent.client();
    client.set(&slow, b"slow");
    client.set(&quick, b"quick");
    cluster.primaries[0].stop();
    client.send(format!("get {slow}\r\nget {quick}\r\nversion\r\n").as_bytes());
    // The other primary has answered when it has been asked once more.
    assert_eq!(cluster.magent.client().get(&quick), Some(b"quick".to_vec()));
    cluster.primaries[0].cont();
    // A machine so slow that the stop counts as a failure gives a miss: in its place, too.
    let first = client.line();
    if first != b"END" {
        assert_eq!(first, format!("VALUE {slow} 0 4").into_bytes());
        client.expect(b"slow\r\nEND\r\n");
    }
    client.expect(format!("VALUE {quick} 0 5\r\nquick\r\nEND\r\n").as_bytes());
    assert!(client.line().starts_with(b"VERSION "));
}

#[test]
fn a_request_in_single_bytes() {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let mut client = cluster.magent.client();
    for byte in b"set a 0 0 5\r\nvalue\r\nget a\r\nmg a v\r\n" {
        client.send(&[*byte]);
    }
    client.expect(b"STORED\r\nVALUE a 0 5\r\nvalue\r\nEND\r\nVA 5\r\nvalue\r\n");
}

#[test]
fn values_of_every_size_come_back_whole() {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let mut client = cluster.magent.client();
    for len in [
        0, 1, 2, 100, 4_095, 4_096, 16_383, 16_384, 65_535, 65_536, 500_000, 1_000_000,
    ] {
        let value: Vec<u8> = (0..len)
            .map(|n: u32| n.to_le_bytes()[usize::from(n.is_multiple_of(2))])
            .collect();
        let key = format!("size-{len}");
        client.set(&key, &value);
        let read = client.get(&key).unwrap();
        assert!(read == value, "{len} bytes: {}", shown(&read));
    }
}

#[test]
fn a_multiget_keeps_its_order_and_its_repetitions() {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let mut client = cluster.magent.client();
    for n in 0..20 {
        client.set(&format!("key-{n}"), format!("{n:0>2}").as_bytes());
    }
    let order = [7, 3, 19, 3, 0, 11, 7, 7, 15];
    let keys: Vec<String> = order.iter().map(|n| format!("key-{n}")).collect();
    let expected: String = order
        .iter()
        .map(|n| format!("VALUE key-{n} 0 2\r\n{n:0>2}\r\n"))
        .chain(["END\r\n".into()])
        .collect();
    client.ask(
        format!("get {}\r\n", keys.join(" ")).as_bytes(),
        expected.as_bytes(),
    );
}

#[test]
fn a_flush_all_keeps_its_place() {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let mut requests = String::new();
    let mut expected = String::new();
    for n in 0..100 {
        let key = format!("key-{n}");
        let flush = if n % 2 == 0 {
            "flush_all noreply"
        } else {
            "flush_all"
        };
        requests.push_str(&format!(
            "set {key} 0 0 1\r\nx\r\nget {key}\r\n{flush}\r\nget {key}\r\n\
             set {key} 0 0 1\r\ny\r\nget {key}\r\n"
        ));
        expected.push_str(&format!("STORED\r\nVALUE {key} 0 1\r\nx\r\nEND\r\n"));
        expected.push_str(if n % 2 == 0 { "" } else { "OK\r\n" });
        expected.push_str(&format!("END\r\nSTORED\r\nVALUE {key} 0 1\r\ny\r\nEND\r\n"));
    }
    let answer = transcript(&cluster.magent.endpoint, requests.as_bytes());
    assert!(answer == expected.as_bytes(), "{}", shown(&answer));
}

#[test]
fn one_client_wins() {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let mut clients: Vec<_> = (0..20).map(|_| cluster.magent.client()).collect();
    for round in 0..20 {
        let key = format!("key-{round}");
        let first = format!("ms {key} 5 T600\r\nvalue\r\nmd {key} I T600\r\n");
        clients[0].ask(first.as_bytes(), b"HD\r\nHD\r\n");
        // All at once: of a stale item, exactly one reader is told to make it anew.
        for client in &mut clients {
            client.send(format!("mg {key} v\r\n").as_bytes());
        }
        let mut heads: Vec<Vec<u8>> = Vec::new();
        for client in &mut clients {
            heads.push(client.line());
            client.expect(b"value\r\n");
        }
        heads.sort();
        let (won, waiting) = heads.split_first().unwrap();
        assert_eq!(shown(won), "VA 5 X W", "{key}");
        assert!(
            waiting
                .iter()
                .all(|head| head == b"VA 5 Z X" || head == b"VA 5 X Z"),
            "{heads:?}"
        );
    }
}
