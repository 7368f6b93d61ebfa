//! One long random script of the binary protocol, sent to a memcached directly and through the proxy: the
//! answers are equal but for the numbers of CAS uniques, which are each server's own.
//!
//! The memcached is asked one packet at a time, the proxy gets a round of packets as one pipeline, in chunks of
//! random sizes. Before each round each side is asked for its uniques, which are written into the packets.
//!
//! What differs, and is not in the script:
//!
//! - memcached 1.6.18 swallows too much behind an unknown command that has a body; the proxy exactly the body.
//! - `GAT` with a value: memcached answers it before it closes, the proxy says `Invalid arguments`.
//! - A key with a blank, a line feed or a zero byte may have 186 bytes, not 250.
//! - Where a number gets shorter, memcached fills up with blanks, unless an answer that has not left still
//!   refers to the item: then it makes another. So nothing is counted down, and nothing overflows.
//! - A value that a backend refuses for its size takes the old item with it also where the key has such a byte,
//!   or `Append` and `Prepend` have a unique.
//! - Statistics are the cluster's.

#[path = "../../../core/tests/packets/mod.rs"]
mod packets;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use super::harness::{Cluster, Endpoint, Memcached};
use packets::{Answer, Ask, answers, bare, count, noop, touch};

const ROUNDS: u32 = 60;
const PACKETS_PER_ROUND: u32 = 150;

/// No server counts so far.
const UNIQUE_OF_NONE: u64 = 1 << 40;

#[test]
fn through_three_primaries() {
    check_equal(&Cluster::start_patient(3, 0, &[]), 1);
}

#[test]
fn through_three_primaries_with_backups() {
    check_equal(&Cluster::start_patient(3, 2, &[]), 2);
}

#[test]
fn through_one_primary_in_one_worker() {
    check_equal(&Cluster::start_patient(1, 0, &["--threads", "1"]), 3);
}

fn check_equal(cluster: &Cluster, seed: u64) {
    let memcached = Memcached::start();
    let mut direct = Binary::connect(&memcached.endpoint);
    let mut proxied = Binary::connect(&cluster.magent.endpoint);
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..ROUNDS {
        let script: Vec<Ask> = (0..PACKETS_PER_ROUND)
            .map(|opaque| packet(&mut rng).opaque(opaque))
            .collect();
        let asks = direct.fill_in(&script);
        let expected: Vec<Vec<Answer>> = asks.iter().map(|ask| direct.ask(ask)).collect();
        let asks = proxied.fill_in(&script);
        let got = proxied.pipeline(&asks, &mut rng);
        let mut unexplained: Vec<(Vec<u8>, String)> = Vec::new();
        // By key: what both sides said so far. Behind the first difference nothing can be compared.
        let mut said: BTreeMap<&[u8], Vec<String>> = BTreeMap::new();
        for (ask, expected) in script.iter().zip(&expected) {
            let shown = |answers: &[&Answer]| -> Vec<String> {
                answers.iter().map(ToString::to_string).collect()
            };
            let got: Vec<&Answer> = got.iter().filter(|a| a.opaque == ask.opaque).collect();
            let (expected, got) = (shown(&expected.iter().collect::<Vec<_>>()), shown(&got));
            let said = said.entry(&ask.key).or_default();
            said.push(format!(
                "{ask}\n      memcached: {expected:?}\n      magent:    {got:?}"
            ));
            if expected != got && !unexplained.iter().any(|(key, _)| *key == ask.key) {
                let from = said.len().saturating_sub(5);
                unexplained.push((ask.key.clone(), said[from..].join("\n  ")));
            }
        }
        let opaques: Vec<u32> = got.iter().map(|answer| answer.opaque).collect();
        assert!(opaques.is_sorted(), "out of order: {opaques:?}");
        let unexplained: Vec<String> = unexplained.into_iter().map(|(_, said)| said).collect();
        assert!(
            unexplained.is_empty(),
            "round {round}: the last packet of each group is answered differently\n  {}",
            unexplained.join("\n\n  ")
        );
    }
}

fn keys() -> Vec<Vec<u8>> {
    let plain = (0..5).map(|n| format!("key{n}").into_bytes());
    let odd: [&[u8]; 5] = [b"a b", b"a\nb", b"\0", b"\r", "Schlüssel".as_bytes()];
    let long = [[b'k'; 250].to_vec(), [b' '; 186].to_vec()];
    plain.chain(odd.map(<[u8]>::to_vec)).chain(long).collect()
}

/// `cas` of 1 stands for the item's own unique.
fn packet(rng: &mut fastrand::Rng) -> Ask {
    const STORES: [u8; 6] = [0x01, 0x02, 0x03, 0x11, 0x12, 0x13];
    const APPENDS: [u8; 4] = [0x0e, 0x0f, 0x19, 0x1a];
    const COUNTS: [u8; 4] = [0x05, 0x06, 0x15, 0x16];
    const TOUCHES: [u8; 5] = [0x1c, 0x1d, 0x1e, 0x23, 0x24];
    const PLAIN: [u8; 6] = [0x00, 0x04, 0x09, 0x0c, 0x0d, 0x14];
    const KEYLESS: [u8; 6] = [0x0a, 0x0b, 0x08, 0x18, 0x50, 0x20];
    let keys = keys();
    let key = keys[rng.usize(..keys.len())].as_slice();
    let number = |numbers: &[u32], rng: &mut fastrand::Rng| numbers[rng.usize(..numbers.len())];
    // Nothing that expires while the test runs; a date in 1970; -1 and 2^31, which are in the future.
    let exptime = number(
        &[0, 0, 0, 1_000, 2_592_000, 2_592_001, u32::MAX, 1 << 31],
        rng,
    );
    let value: Vec<u8> = match rng.u8(..8) {
        0 => Vec::new(),
        // Of blanks alone memcached would count what stands behind them in its memory, and blanks behind a
        // number make that shorter.
        1 => b"x\r\n".to_vec(),
        2 => vec![b'x'; 20_000],
        3 if rng.u8(..10) == 0 => vec![b'x'; 1_100_000],
        4 => b"18446744073709000000".to_vec(),
        _ => rng.u32(..200).to_string().into_bytes(),
    };
    let pick = |codes: &[u8], rng: &mut fastrand::Rng| codes[rng.usize(..codes.len())];
    let is_large = value.len() > 1_000_000;
    let key = if is_large { b"key0" } else { key };
    let ask = match rng.u8(..20) {
        0..=5 => {
            let flags = number(&[0, 1, u32::MAX], rng).to_be_bytes();
            let extras = [flags, exptime.to_be_bytes()].concat();
            Ask::new(pick(&STORES, rng), &extras, key, &value)
        }
        6..=7 => Ask::new(pick(&APPENDS, rng), b"", key, &value),
        8..=11 => {
            let code = pick(&COUNTS, rng);
            let delta = if matches!(code, 0x06 | 0x16) {
                0
            } else {
                rng.u64(..100)
            };
            let exptime = number(&[0, 1_000, u32::MAX], rng);
            let ask = count(code, "", delta, rng.u64(..100), exptime);
            Ask::new(code, &ask.extras, key, b"")
        }
        12..=13 => {
            let ask = touch(pick(&TOUCHES, rng), "", exptime);
            Ask::new(ask.code, &ask.extras, key, b"")
        }
        14..=18 => Ask::new(pick(&PLAIN, rng), b"", key, b""),
        _ => match pick(&KEYLESS, rng) {
            0x08 | 0x18 if rng.u8(..4) > 0 => noop(),
            code => bare(code, "", ""),
        },
    };
    let takes_unique = matches!(ask.code, 0x01..=0x06 | 0x0e | 0x0f | 0x11..=0x16 | 0x19 | 0x1a);
    let unique = if takes_unique && !is_large {
        [0, 0, 1, UNIQUE_OF_NONE][rng.usize(..4)]
    } else {
        0
    };
    ask.cas(unique)
}

/// A connection.
struct Binary {
    stream: TcpStream,
}

impl Binary {
    fn connect(endpoint: &Endpoint) -> Self {
        let stream = TcpStream::connect(endpoint.tcp()).unwrap();
        Self { stream }
    }

    /// The packets with this server's uniques.
    fn fill_in(&mut self, script: &[Ask]) -> Vec<Ask> {
        let mut uniques = BTreeMap::new();
        for key in keys() {
            let answer = self.ask(&Ask::new(0x00, b"", &key, b""));
            uniques.insert(key, answer[0].cas);
        }
        let fill_in = |ask: &Ask| match ask.cas {
            1 => ask.clone().cas(uniques[&ask.key]),
            cas => ask.clone().cas(cas),
        };
        script.iter().map(fill_in).collect()
    }

    /// The answers to one packet.
    fn ask(&mut self, ask: &Ask) -> Vec<Answer> {
        let end = noop().opaque(u32::MAX);
        self.stream
            .write_all(&[ask.bytes(), end.bytes()].concat())
            .unwrap();
        self.until_end()
    }

    /// The answers to all packets.
    fn pipeline(&mut self, asks: &[Ask], rng: &mut fastrand::Rng) -> Vec<Answer> {
        let mut bytes: Vec<u8> = asks.iter().flat_map(Ask::bytes).collect();
        bytes.extend(noop().opaque(u32::MAX).bytes());
        let mut writer = self.stream.try_clone().unwrap();
        let mut rng = rng.fork();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let len_max = [30, 500, 20_000, 1_000_000][rng.usize(..4)];
                    let (chunk, after) = rest.split_at(rng.usize(1..=len_max).min(rest.len()));
                    if writer.write_all(chunk).is_err() {
                        // The reader says what is missing.
                        return;
                    }
                    rest = after;
                }
            });
            self.until_end()
        })
    }

    /// The answers before the one of the last Noop.
    fn until_end(&mut self) -> Vec<Answer> {
        let mut got = Vec::new();
        loop {
            let mut packet = vec![0; 24];
            self.stream.read_exact(&mut packet).unwrap();
            let body_len = u32::from_be_bytes(packet[8..12].try_into().unwrap());
            packet.resize(24 + usize::try_from(body_len).unwrap(), 0);
            self.stream.read_exact(&mut packet[24..]).unwrap();
            let answer = answers(&packet).remove(0);
            if answer.opaque == u32::MAX {
                return got;
            }
            got.push(answer);
        }
    }
}
