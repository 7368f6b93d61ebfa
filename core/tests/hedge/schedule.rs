//! Two backends that answer byte by byte, when they like, or not at all: each read gets the right answer.

use std::collections::VecDeque;

use magent_core::engine::ClientId;
use magent_core::keeper::Report;
use magent_core::stats::Counter;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::rig::Rig;

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    /// A client asks for these keys, with a classic get.
    Get(usize, Vec<u8>),
    /// The same with a meta get.
    MetaGet(usize, u8),
    /// So many bytes of what a backend has to say arrive.
    Arrive(usize, usize),
    /// Time passes, in tens of milliseconds.
    Pass(u64),
    /// A connection is reset.
    Lose(usize),
    /// A client leaves, and another comes.
    Leave(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let key = 0..KEYS;
    prop_oneof![
        4 => (0..CLIENTS, vec(key.clone(), 1..4)).prop_map(|(who, keys)| Event::Get(who, keys)),
        3 => (0..CLIENTS, key).prop_map(|(who, key)| Event::MetaGet(who, key)),
        8 => (0..2_usize, prop_oneof![1..30_usize, Just(usize::MAX)])
            .prop_map(|(backend, count)| Event::Arrive(backend, count)),
        4 => prop_oneof![4 => 1..4_u64, 1 => 10..60_u64].prop_map(Event::Pass),
        1 => (0..2_usize).prop_map(Event::Lose),
        1 => (0..CLIENTS).prop_map(Event::Leave),
    ]
}

const CLIENTS: usize = 3;
/// Of three keys one is on both backends, one on the primary alone, and one nowhere.
const KEYS: u8 = 9;

fn value(backend: usize, key: &str) -> Option<String> {
    let number: u8 = key.strip_prefix('k').unwrap().parse().unwrap();
    let held = match number % 3 {
        0 => true,
        1 => backend == 0,
        _ => false,
    };
    // Some are large enough to be forwarded in parts.
    held.then(|| format!("<{number}>").repeat(usize::from(number) * 2 + 1))
}

/// What a backend says to what it was sent.
fn answers(backend: usize, sent: &str) -> Vec<u8> {
    let mut out = String::new();
    for line in sent.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if words[0] == "mg" {
            out += &match value(backend, words[1]) {
                Some(value) => format!("VA {} {}\r\n{value}\r\n", value.len(), words[3]),
                None => format!("EN {}\r\n", words[3]),
            };
            continue;
        }
        for key in &words[1..] {
            if let Some(value) = value(backend, key) {
                out += &format!("VALUE {key} 0 {}\r\n{value}\r\n", value.len());
            }
        }
        out += "END\r\n";
    }
    out.into_bytes()
}

struct Client {
    id: ClientId,
    /// What it asked for and has not been told: opaque of a meta get, keys.
    asked: VecDeque<(Option<usize>, Vec<String>)>,
    got: String,
}

struct World {
    rig: Rig,
    clients: Vec<Client>,
    /// What each backend has to say on its connection.
    unsaid: [VecDeque<u8>; 2],
    /// Connections that it had so far.
    connections: [usize; 2],
    opaque: usize,
    /// Whether the primary was lost, so that what it has alone may be missed.
    primary_lost: bool,
}

impl World {
    fn new(stream_len_min: u64) -> Self {
        let mut rig = Rig::with_limits(1, 1, |limits| limits.stream_len_min = stream_len_min);
        let clients = (0..CLIENTS).map(|_| Client {
            id: rig.client(),
            asked: VecDeque::new(),
            got: String::new(),
        });
        let clients = clients.collect();
        Self {
            rig,
            clients,
            unsaid: Default::default(),
            connections: [0; 2],
            opaque: 0,
            primary_lost: false,
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Get(who, keys) => {
                let keys: Vec<String> = keys.iter().map(|key| format!("k{key}")).collect();
                let line = format!("get {}\r\n", keys.join(" "));
                self.clients[who].asked.push_back((None, keys));
                self.rig.send(self.clients[who].id, line.as_bytes());
            }
            Event::MetaGet(who, key) => {
                self.opaque += 1;
                let key = format!("k{key}");
                let line = format!("mg {key} v O{}\r\n", self.opaque);
                self.clients[who]
                    .asked
                    .push_back((Some(self.opaque), vec![key]));
                self.rig.send(self.clients[who].id, line.as_bytes());
            }
            Event::Arrive(backend, count) => {
                let count = count.min(self.unsaid[backend].len());
                let bytes: Vec<u8> = self.unsaid[backend].drain(..count).collect();
                self.rig.answer_if_connected(backend, &bytes);
            }
            Event::Pass(tens) => {
                for _ in 0..tens {
                    self.rig.pass_ms(10);
                    self.look();
                }
            }
            Event::Lose(backend) => {
                self.primary_lost |= backend == 0;
                self.rig.lose(backend);
            }
            Event::Leave(who) => {
                self.rig.lose_client(self.clients[who].id);
                self.replace(who);
            }
        }
        self.look();
    }

    fn replace(&mut self, who: usize) {
        self.clients[who] = Client {
            id: self.rig.client(),
            asked: VecDeque::new(),
            got: String::new(),
        };
    }

    /// What was sent to backends is answered, some time; what clients were told is checked.
    fn look(&mut self) {
        for report in std::mem::take(&mut self.rig.reports) {
            if let Report::Connected { connection, .. } = report {
                let backend = connection.backend.index();
                self.connections[backend] += 1;
                self.unsaid[backend].clear();
            }
        }
        for backend in 0..2 {
            let sent = self.rig.sent(backend);
            self.unsaid[backend].extend(answers(backend, &sent));
        }
        for who in 0..CLIENTS {
            if self.rig.closed.contains(&self.clients[who].id) {
                // Its value had been forwarded in part.
                self.replace(who);
                continue;
            }
            let got = self.rig.got(self.clients[who].id);
            self.clients[who].got += &got;
            while self.take_answer(who) {}
        }
    }

    /// Checks the oldest answer of a client, if it is complete.
    fn take_answer(&mut self, who: usize) -> bool {
        let client = &mut self.clients[who];
        let Some((opaque, keys)) = client.asked.front() else {
            assert_eq!(client.got, "", "nobody asked");
            return false;
        };
        let (mut rest, mut hits) = (&client.got[..], vec![]);
        loop {
            let Some((line, behind)) = rest.split_once("\r\n") else {
                return false;
            };
            rest = behind;
            let words: Vec<&str> = line.split(' ').collect();
            let (key, value_len) = match (words[0], opaque) {
                ("END", None) => break,
                ("VALUE", None) => (words[1], words[3]),
                ("EN", Some(opaque)) => {
                    assert_eq!(words[1], format!("O{opaque}"));
                    break;
                }
                ("VA", Some(opaque)) => {
                    assert_eq!(words[2], format!("O{opaque}"));
                    (&keys[0][..], words[1])
                }
                _ => panic!("{line}"),
            };
            let value_len: usize = value_len.parse().unwrap();
            if rest.len() < value_len + 2 {
                return false;
            }
            assert_eq!(value(0, key).unwrap(), rest[..value_len], "{key}");
            hits.push(key.to_owned());
            rest = &rest[value_len + 2..];
            if opaque.is_some() {
                break;
            }
        }
        let mut expected = keys.iter();
        for hit in &hits {
            assert!(expected.any(|key| key == hit), "{hits:?} of {keys:?}");
        }
        // So it is if it is silent until the time of a request is up.
        let given_up =
            self.rig.count(Counter::Timeouts) > 0 || self.rig.count(Counter::DeadKeys) > 0;
        if !self.primary_lost && !given_up {
            let held = keys.iter().filter(|key| value(0, key).is_some());
            assert!(held.eq(&hits), "{hits:?} of {keys:?}");
        }
        client.got = rest.to_owned();
        client.asked.pop_front();
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes when: one answer each, in order; the value if a backend that has it was not lost; and
    /// nothing is left behind.
    #[test]
    fn each_read_has_one_right_answer(
        events in vec(event(), 1..120),
        stream_len_min in prop_oneof![Just(20_u64), Just(1_000_000)],
    ) {
        let mut world = World::new(stream_len_min);
        for event in events {
            world.on(event);
        }
        // What is left of it is said.
        for _ in 0..20 {
            for backend in 0..2 {
                world.on(Event::Arrive(backend, usize::MAX));
            }
        }
        for client in &world.clients {
            prop_assert!(client.asked.is_empty(), "not answered: {:?}", client.asked);
        }
        for client in &world.clients {
            world.rig.lose_client(client.id);
        }
        prop_assert!(world.rig.engine.is_drained(), "an exchange is left");
        prop_assert_eq!(world.rig.memory_len(), 0);
        prop_assert_eq!(world.rig.count(Counter::Desyncs), 0);
    }
}
