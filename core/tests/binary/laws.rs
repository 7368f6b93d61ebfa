//! Laws of binary clients on random packets, cuts, faults and garbage.

use magent_core::engine::ClientId;
use proptest::collection::vec;
use proptest::prelude::*;

use super::packets::{Ask, answers, bare, count, noop, store, touch};
use super::rig::Rig;
use super::{NEVER, bytes};

/// A packet of a random command: keys belong to one client.
fn ask(who: usize) -> impl Strategy<Value = Ask> {
    let keyed = (0..0x26_u8, 0..6_u8, value(), any::<bool>());
    keyed.prop_map(move |(code, key, value, odd)| {
        let key = format!("c{who}{}k{key}", if odd { " " } else { "" });
        match code {
            0x01..=0x03 | 0x11..=0x13 => store(code, &key, &value),
            0x05 | 0x06 | 0x15 | 0x16 => count(code, &key, 1, 10, if odd { NEVER } else { 0 }),
            0x0e | 0x0f | 0x19 | 0x1a => bare(code, &key, &value),
            0x1c..=0x1e | 0x23 | 0x24 => touch(code, &key, 0),
            0x00 | 0x04 | 0x09 | 0x0c | 0x0d | 0x14 => bare(code, &key, ""),
            0x0a | 0x0b | 0x20 => bare(code, "", ""),
            // Nothing that closes, and nothing that concerns the other clients.
            _ => bare(0x4a, &key, &value),
        }
    })
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just("5".to_owned()),
        3 => "[a\r\n]{0,20}",
        1 => (16_380..16_390_usize).prop_map(|len| "x".repeat(len)),
    ]
}

fn numbered(asks: &[Ask]) -> Vec<Ask> {
    asks.iter()
        .zip(0..)
        .map(|(ask, opaque)| ask.clone().opaque(opaque))
        .collect()
}

/// What a client is told when it is alone and its packets come one by one. Uniques count all writes, so they
/// are left out.
fn alone(asks: &[Ask]) -> Vec<(u32, String)> {
    let mut rig = Rig::with_nodes(3, 2);
    let client = rig.client();
    for ask in asks {
        rig.send(client, &ask.bytes());
    }
    told(&mut rig, client)
}

fn told(rig: &mut Rig, client: ClientId) -> Vec<(u32, String)> {
    let answers = answers(&rig.got_bytes(client));
    answers
        .iter()
        .map(|answer| (answer.opaque, answer.to_string()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// However the bytes of clients and backends are cut and mixed, each client is told what it would be told
    /// alone, in the order of its packets.
    #[test]
    fn mixing_and_cutting_change_no_answer(
        (first, second) in (vec(ask(0), 0..40), vec(ask(1), 0..40)),
        cuts in vec((0..2_usize, 1..200_usize, any::<bool>()), 0..100),
        answer_chunk_len in prop_oneof![1..40_usize, Just(usize::MAX)],
    ) {
        let asks = [numbered(&first), numbered(&second)];
        let mut rig = Rig::with_nodes(3, 2);
        rig.answer_chunk_len = answer_chunk_len;
        let clients = [rig.client(), rig.client()];
        let mut rest = asks.each_ref().map(|asks| bytes(asks));
        for (who, len, turn_ends) in cuts {
            let len = len.min(rest[who].len());
            let chunk: Vec<u8> = rest[who].drain(..len).collect();
            rig.feed(clients[who], &chunk);
            if turn_ends {
                rig.run();
            }
        }
        for (client, rest) in clients.iter().zip(&rest) {
            rig.feed(*client, rest);
        }
        rig.run();
        for (client, asks) in clients.iter().zip(&asks) {
            prop_assert_eq!(told(&mut rig, *client), alone(asks));
        }
    }

    /// Backends die, are silent, are cut short in mid-answer and return: whoever asks aloud is answered once,
    /// in order, and never with another's key.
    #[test]
    fn failures_lose_no_step(
        asks in vec(ask(0), 1..60),
        faults in vec((0..5_usize, 0..6_u8, 0..100_usize), 0..60),
        answer_chunk_len in prop_oneof![1..40_usize, Just(usize::MAX)],
    ) {
        let mut rig = Rig::with_nodes(3, 2).with_keeper();
        rig.answer_chunk_len = answer_chunk_len;
        let client = rig.client();
        let asks = numbered(&asks);
        let mut faults = faults.into_iter();
        for ask in &asks {
            rig.feed(client, &ask.bytes());
            match faults.next() {
                Some((backend, 0, _)) => rig.kill(backend),
                Some((backend, 1, _)) => rig.peers[backend].alive = true,
                Some((backend, 2, _)) => rig.lose(backend),
                Some((backend, 3, _)) => rig.peers[backend].stopped ^= true,
                Some((_, 4, _)) => rig.pass_ms(200),
                Some((backend, 5, len)) => rig.peers[backend].cut_short = Some(len),
                Some(_) | None => rig.run(),
            }
        }
        rig.pass_ms(5_000);
        rig.send(client, &noop().opaque(1_000).bytes());
        rig.pass_ms(2_500);
        let got = answers(&rig.got_bytes(client));
        prop_assert_eq!(got.last().map(|answer| answer.opaque), Some(1_000), "it is stuck");
        prop_assert!(got.windows(2).all(|pair| pair[0].opaque < pair[1].opaque), "out of order");
        for answer in &got {
            let asked = asks.iter().find(|ask| ask.opaque == answer.opaque);
            prop_assert!(asked.is_none_or(|ask| ask.code == answer.code));
            let key_fits = asked.is_none_or(|ask| answer.key.is_empty() || ask.key == answer.key);
            prop_assert!(key_fits, "{}", answer);
        }
        let loud = |ask: &&Ask| !matches!(ask.code, 0x09 | 0x0d | 0x11..=0x1a | 0x1e | 0x24);
        for ask in asks.iter().filter(loud) {
            prop_assert!(got.iter().any(|answer| answer.opaque == ask.opaque), "{:?}", ask);
        }
        rig.lose_client(client);
        rig.pass_ms(3_000);
        prop_assert!(rig.engine.is_drained(), "an exchange is left");
        prop_assert_eq!(rig.memory_len(), 0, "memory is still counted");
    }

    /// Whatever follows the first byte of a packet.
    #[test]
    fn garbage_of_clients_is_survived(
        packets in vec((any::<u8>(), vec(any::<u8>(), 0..60), vec(prop_oneof![5 => Just(0_u8), 1 => 0..20_u8], 23)), 0..30),
    ) {
        let mut rig = Rig::with_nodes(2, 1);
        let (client, other) = (rig.client(), rig.client());
        for (code, body, small) in packets {
            // A header of small numbers, so that most of them mean something.
            let header = [&[0x80, code % 0x28], &small[1..]].concat();
            rig.send(client, &[&header[..], &body].concat());
            rig.send(other, b"mn\r\n");
            prop_assert_eq!(rig.got(other), "MN\r\n");
            answers(&rig.got_bytes(client));
        }
        rig.lose_client(client);
        rig.lose_client(other);
        rig.pass_ms(3_000);
        prop_assert!(rig.engine.is_drained(), "an exchange is left");
        prop_assert_eq!(rig.memory_len(), 0, "memory is still counted");
    }
}
