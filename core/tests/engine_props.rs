//! Laws of the engine on random requests, cuts and garbage.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use magent_core::engine::ClientId;
use proptest::collection::vec;
use proptest::prelude::*;
use rig::Rig;

/// One request and the answer that a model memcached with this key space gives. Keys belong to one client,
/// so that no other client's request changes its answers.
#[derive(Debug, Clone)]
enum Ask {
    Set(u8, usize),
    SetNoreply(u8, usize),
    Add(u8),
    Get(Vec<u8>),
    Gat(u8),
    Delete(u8),
    Incr(u8),
    MetaSet(u8, bool),
    MetaGet(u8, bool),
    MetaNoop,
    Touch(u8),
    Bad(u8),
}

fn ask() -> impl Strategy<Value = Ask> {
    let key = 0..6_u8;
    prop_oneof![
        (key.clone(), value_len()).prop_map(|(key, len)| Ask::Set(key, len)),
        (key.clone(), value_len()).prop_map(|(key, len)| Ask::SetNoreply(key, len)),
        key.clone().prop_map(Ask::Add),
        vec(key.clone(), 1..5).prop_map(Ask::Get),
        key.clone().prop_map(Ask::Gat),
        key.clone().prop_map(Ask::Delete),
        key.clone().prop_map(Ask::Incr),
        (key.clone(), any::<bool>()).prop_map(|(key, quiet)| Ask::MetaSet(key, quiet)),
        (key.clone(), any::<bool>()).prop_map(|(key, quiet)| Ask::MetaGet(key, quiet)),
        Just(Ask::MetaNoop),
        key.prop_map(Ask::Touch),
        (0..4_u8).prop_map(Ask::Bad),
    ]
}

fn value_len() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0..50_usize, 1 => 16_380..16_390_usize, 1 => 60_000..70_000_usize]
}

impl Ask {
    /// As the client `who` writes it.
    fn wire(&self, who: usize) -> Vec<u8> {
        let key = |key: u8| format!("c{who}k{key}");
        let store = |verb: &str, k: u8, len: usize, end: &str| {
            let value = char::from(b'a' + k).to_string().repeat(len);
            format!("{verb} {} {who} 0 {len}{end}\r\n{value}\r\n", key(k))
        };
        let text = match self {
            Self::Set(k, len) => store("set", *k, *len, ""),
            Self::SetNoreply(k, len) => store("set", *k, *len, " noreply"),
            Self::Add(k) => format!("add {} {who} 0 1\r\n5\r\n", key(*k)),
            Self::Get(keys) => {
                let keys: Vec<_> = keys.iter().map(|k| key(*k)).collect();
                format!("get {}\r\n", keys.join(" "))
            }
            Self::Gat(k) => format!("gat 100 {}\r\n", key(*k)),
            Self::Delete(k) => format!("delete {}\r\n", key(*k)),
            Self::Incr(k) => format!("incr {} 3\r\n", key(*k)),
            Self::MetaSet(k, quiet) => {
                format!(
                    "ms {} 2 {}\r\n17\r\n",
                    key(*k),
                    if *quiet { "q" } else { "k" }
                )
            }
            Self::MetaGet(k, quiet) => {
                format!(
                    "mg {} v k O{who}{}\r\n",
                    key(*k),
                    if *quiet { " q" } else { "" }
                )
            }
            Self::MetaNoop => "mn\r\n".to_owned(),
            Self::Touch(k) => format!("touch {} 100\r\n", key(*k)),
            Self::Bad(0) => "nonsense\r\n".to_owned(),
            Self::Bad(1) => format!("get {}\r\n", "x".repeat(251)),
            Self::Bad(2) => "set k x 0 3\r\nabc\r\n".to_owned(),
            Self::Bad(_) => "incr k x noreply\r\n".to_owned(),
        };
        text.into_bytes()
    }
}

/// What a client is told when it is alone and its requests come one by one.
fn alone(asks: &[Ask], who: usize) -> String {
    let mut rig = Rig::with_nodes(3, 2);
    let client = rig.client();
    for ask in asks {
        rig.send(client, &ask.wire(who));
    }
    rig.got(client)
}

fn assert_nothing_left(rig: &mut Rig, clients: &[ClientId]) {
    for &client in clients {
        rig.lose_client(client);
    }
    rig.pass_ms(3_000);
    rig.assert_nothing_left();
}

/// The lines of a client's answers, without the values, whose lengths and ends are checked.
fn lines(mut got: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    while let Some((line, rest)) = got.split_once("\r\n") {
        let mut words = line.split(' ');
        let value_len: Option<usize> = match words.next() {
            Some("VALUE") => Some(words.nth(2).unwrap().parse().unwrap()),
            Some("VA") => Some(words.next().unwrap().parse().unwrap()),
            _ => None,
        };
        lines.push(line);
        got = rest;
        if let Some(value_len) = value_len {
            let rest = got.get(value_len..).unwrap();
            got = rest.strip_prefix("\r\n").unwrap();
        }
    }
    assert_eq!(got, "", "a line has no end");
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// However the bytes of clients and backends are cut and mixed, each client is told what it would be
    /// told alone: the right answers, all of them, in order.
    #[test]
    fn mixing_and_cutting_change_no_answer(
        asks in vec(vec(ask(), 0..25), 1..5),
        cuts in vec((0..5_usize, 1..200_usize, any::<bool>()), 0..200),
        answer_chunk_len in prop_oneof![1..40_usize, Just(usize::MAX)],
    ) {
        let mut rig = Rig::with_nodes(3, 2);
        rig.answer_chunk_len = answer_chunk_len;
        let clients: Vec<_> = asks.iter().map(|_| rig.client()).collect();
        let mut bytes: Vec<Vec<u8>> = asks
            .iter()
            .enumerate()
            .map(|(who, asks)| asks.iter().flat_map(|ask| ask.wire(who)).collect())
            .collect();
        for (who, len, turn_ends) in cuts {
            let who = who % clients.len();
            let len = len.min(bytes[who].len());
            let chunk: Vec<u8> = bytes[who].drain(..len).collect();
            rig.feed(clients[who], &chunk);
            if turn_ends {
                rig.run();
            }
        }
        for (who, rest) in bytes.iter().enumerate() {
            rig.feed(clients[who], rest);
        }
        rig.run();
        for (who, asks) in asks.iter().enumerate() {
            prop_assert_eq!(rig.got(clients[who]), alone(asks, who));
        }
        assert_nothing_left(&mut rig, &clients);
    }

    /// Backends die, in mid-answer too, lie and return, clients leave at any moment: nobody is told another's value, whoever stays
    /// gets one answer per request, and nothing is left behind.
    #[test]
    fn failures_lose_no_step(
        asks in vec((0..4_usize, ask()), 1..80),
        faults in vec((0..5_usize, 0..8_u8, 0..100_usize), 0..80),
        answer_chunk_len in prop_oneof![1..40_usize, Just(usize::MAX)],
    ) {
        let mut rig = Rig::with_nodes(3, 2).with_keeper();
        rig.answer_chunk_len = answer_chunk_len;
        let mut clients: Vec<_> = (0..4).map(|_| rig.client()).collect();
        let mut faults = faults.into_iter();
        for (who, ask) in asks {
            rig.feed(clients[who], &ask.wire(who));
            match faults.next() {
                Some((backend, 0, _)) => rig.kill(backend),
                Some((backend, 1, _)) => rig.peers[backend].alive = true,
                Some((backend, 2, _)) => rig.lose(backend),
                Some((backend, 3, _)) => rig.peers[backend].stopped ^= true,
                Some((_, 4, _)) => rig.pass_ms(200),
                Some((backend, 5, len)) => rig.peers[backend].cut_short = Some(len),
                Some((backend, 6, _)) => rig.peers[backend].lies = true,
                Some((client, _, _)) if client < 4 => {
                    rig.got(clients[client]);
                    rig.lose_client(clients[client]);
                    clients[client] = rig.client();
                }
                Some(_) | None => rig.run(),
            }
        }
        rig.pass_ms(3_000);
        for (who, &client) in clients.iter().enumerate() {
            rig.send(client, format!("mg end{who} k\r\nmn\r\n").as_bytes());
            rig.pass_ms(2_100);
            let got = rig.got(client);
            prop_assert!(got.ends_with("MN\r\n"), "client {} is stuck: {}", who, got);
            for line in lines(&got) {
                let words: Vec<_> = line.split(' ').collect();
                if words[0] == "VALUE" {
                    let own = format!("c{who}k");
                    prop_assert!(words[1].starts_with(&own), "client {} got {}", who, line);
                }
                if let Some(opaque) = words.iter().find(|word| word.starts_with('O')) {
                    prop_assert!(words[0] == "OK" || **opaque == format!("O{who}"), "{}", line);
                }
            }
        }
        assert_nothing_left(&mut rig, &clients);
    }

    /// Bytes that no client should send.
    #[test]
    fn garbage_of_clients_is_survived(chunks in vec(garbage(REQUEST_WORDS), 0..60)) {
        let mut rig = Rig::with_nodes(2, 1);
        let (client, other) = (rig.client(), rig.client());
        for chunk in chunks {
            rig.send(client, &chunk);
            rig.send(other, b"mn\r\n");
            prop_assert_eq!(rig.got(other), "MN\r\n");
        }
        assert_nothing_left(&mut rig, &[client, other]);
    }

    /// Bytes that no backend should send.
    #[test]
    fn garbage_of_backends_is_survived(
        asks in vec((0..3_usize, ask()), 1..40),
        chunks in vec((0..3_usize, garbage(RESPONSE_WORDS)), 0..60),
    ) {
        let mut rig = Rig::new(2, 1).with_keeper();
        let clients: Vec<_> = (0..3).map(|_| rig.client()).collect();
        let mut chunks = chunks.into_iter();
        for (who, ask) in asks {
            rig.send(clients[who], &ask.wire(who));
            if let Some((backend, chunk)) = chunks.next() {
                rig.answer_if_connected(backend, &chunk);
            }
        }
        for (backend, chunk) in chunks {
            rig.answer_if_connected(backend, &chunk);
        }
        rig.pass_ms(2_500);
        for (who, &client) in clients.iter().enumerate() {
            for line in lines(&rig.got(client)) {
                if let Some(rest) = line.strip_prefix("VALUE ") {
                    let own = format!("c{who}k");
                    prop_assert!(rest.starts_with(&own), "client {} got {}", who, line);
                }
            }
        }
        assert_nothing_left(&mut rig, &clients);
    }
}

const REQUEST_WORDS: &[&str] = &[
    "get ",
    "gets ",
    "gat ",
    "set ",
    "add ",
    "cas ",
    "ms ",
    "mg ",
    "md ",
    "ma ",
    "me ",
    "mn",
    "incr ",
    "touch ",
    "delete ",
    "flush_all ",
    "stats ",
    "verbosity ",
    "k ",
    "kk ",
    "a2s= ",
    "b ",
    "q ",
    "v ",
    "k ",
    "T0 ",
    "N30 ",
    "MA ",
    "C1 ",
    "0 ",
    "1 ",
    "2 ",
    "-1 ",
    "70000 ",
    "4294967296 ",
    "noreply",
    "\r\n",
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
];

const RESPONSE_WORDS: &[&str] = &[
    "VALUE ",
    "c0k1 ",
    "c1k1 ",
    "c2k1 ",
    "0 ",
    "1 ",
    "2 ",
    "70000 ",
    "4294967295 ",
    "END",
    "STORED",
    "DELETED",
    "NOT_FOUND",
    "EXISTS",
    "NOT_STORED",
    "TOUCHED",
    "OK",
    "HD",
    "VA ",
    "EN",
    "NF",
    "NS",
    "EX",
    "MN",
    "ME ",
    "ERROR",
    "CLIENT_ERROR x",
    "SERVER_ERROR x",
    "STAT a b",
    "RESET",
    "VERSION 1",
    "17",
    "\r\n",
    "\r\n",
    "\r\n",
    "\r\n",
    "\n",
    "k ",
    "O1",
];

fn garbage(words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        9 => proptest::sample::select(words).prop_map(|word| word.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..10),
    ];
    vec(word, 0..12).prop_map(|words| words.concat())
}
