//! In steady state a request costs no allocation: buffers, exchanges and batches are used again.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test's way to say that a step failed"
)]

mod packets;

use std::io::IoSlice;
use std::sync::Arc;

use magent_core::config::Config;
use magent_core::engine::{ClientId, ConnectionId, Engine, Input, Output, Shared, Slots};
use magent_core::placement::View;
use magent_core::{Time, WorkerId};

/// An engine with connected backends and clients, and nothing around it that allocates.
struct Bench {
    engine: Engine,
    now: Time,
    clients: Vec<ClientId>,
    backends: Vec<ConnectionId>,
    /// Backends answer in so many turns.
    turns: usize,
}

impl Bench {
    fn new(primaries: u16, backups: u16, clients: usize) -> Self {
        let servers = |from: u16, count: u16| {
            let ports = from..from + count;
            ports
                .map(|port| format!("10.0.0.1:{}", 20_000 + port).parse().unwrap())
                .collect()
        };
        let config = Config::new(
            servers(0, primaries),
            servers(primaries, backups),
            "ketama/md5".parse().unwrap(),
            Default::default(),
        )
        .unwrap();
        let shared = Shared {
            // With the part that several workers share.
            slots: Arc::new(Slots::new(2)),
            ..Shared::new(&config)
        };
        let now = Time(0);
        let mut engine = Engine::new(WorkerId(0), &config, shared, now);
        engine.connect_all(now);
        let mut backends = Vec::new();
        loop {
            match engine.poll(now) {
                Output::Connect(connection) => backends.push(connection),
                Output::Wait(_) => break,
                other => panic!("{other:?}"),
            }
        }
        for &connection in &backends {
            engine.handle(now, Input::BackendConnected(connection));
            engine.handle(now, Input::Verified(connection));
        }
        while !matches!(engine.poll(now), Output::Wait(_)) {}
        let clients = (0..clients).map(|_| engine.open_client()).collect();
        Self {
            engine,
            now,
            clients,
            backends,
            turns: 1,
        }
    }

    /// CAS uniques are marked from here on, those of backend 0 with 1, of backend 1 with 2, or chosen.
    fn with_marks(mut self, explicit: bool) -> Self {
        let mut view = View::initial(self.backends.len());
        view.epoch = 1;
        for (backend, mark) in view.backends.iter_mut().zip(1..) {
            backend.mark = mark;
            backend.explicit_cas = explicit;
        }
        let input = Input::View(&Arc::new(view));
        self.engine.handle(self.now, input);
        while !matches!(self.engine.poll(self.now), Output::Wait(_)) {}
        self
    }

    /// Of the backends only the first one answers.
    fn with_one_answering(mut self) -> Self {
        self.backends.truncate(1);
        self
    }

    /// Ends the turn and takes everything that is to be written; yields the bytes for clients.
    fn end_turn(&mut self) -> usize {
        let mut answered = 0;
        self.engine.handle(self.now, Input::TurnEnd);
        loop {
            let mut slices = [IoSlice::new(&[]); 16];
            let len = |slices: &[IoSlice<'_>]| slices.iter().map(|slice| slice.len()).sum();
            match self.engine.poll(self.now) {
                Output::Wait(_) => return answered,
                Output::WriteBackend(connection) => {
                    let count = self.engine.backend_slices(connection, &mut slices);
                    let len = len(&slices[..count]);
                    self.engine.backend_sent(self.now, connection, len);
                }
                Output::WriteClient(client) => {
                    let count = self.engine.client_slices(client, &mut slices);
                    let len = len(&slices[..count]);
                    self.engine.client_sent(client, len);
                    answered += len;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn answering_in(mut self, turns: usize) -> Self {
        self.turns = turns;
        self
    }

    /// Every client asks; every backend answers.
    fn round(&mut self, requests: &[Vec<u8>], answers: &[u8], expected: usize) {
        self.now = Time(self.now.0 + 1_000_000);
        for (&client, request) in self.clients.iter().zip(requests) {
            let input = Input::ClientData(client, request);
            self.engine.handle(self.now, input);
        }
        let mut answered = self.end_turn();
        for _ in 0..self.turns {
            for index in 0..self.backends.len() {
                let input = Input::BackendData(self.backends[index], answers);
                self.engine.handle(self.now, input);
            }
            answered += self.end_turn();
        }
        assert_eq!(answered, expected, "every client has its answers");
    }

    /// `##` in a request stands for the client's number.
    #[track_caller]
    fn check(&mut self, request: &[u8], answers: &[u8], answer: &[u8]) {
        const ROUNDS: usize = 200;
        let expected = answer.len() * self.clients.len();
        let requests: Vec<_> = (0..self.clients.len())
            .map(|number| with_number(request, number))
            .collect();
        // Until every buffer has been used.
        for _ in 0..ROUNDS {
            self.round(&requests, answers, expected);
        }
        let counted = allocation_counter::measure(|| {
            for _ in 0..ROUNDS {
                self.round(&requests, answers, expected);
            }
        });
        assert_eq!(counted.count_total, 0, "{}", request.escape_ascii());
    }
}

fn with_number(request: &[u8], number: usize) -> Vec<u8> {
    let mut request = request.to_vec();
    if let Some(at) = request.windows(2).position(|pair| pair == b"##") {
        request[at..at + 2].copy_from_slice(format!("{number:02}").as_bytes());
    }
    request
}

#[test]
fn gets_gathered_from_many_clients() {
    let value = b"VALUE key 0 5\r\nvalue\r\n";
    let answers = [&value.repeat(20)[..], b"END\r\n"].concat();
    let answer = [&value[..], b"END\r\n"].concat();
    Bench::new(1, 0, 20).check(b"get key\r\n", &answers, &answer);
}

#[test]
fn sets_with_a_second_copy() {
    let request = b"set key## 0 0 5\r\nvalue\r\n";
    Bench::new(1, 1, 20).check(request, &b"STORED\r\n".repeat(20), b"STORED\r\n");
}

#[test]
fn writes_of_one_key_that_wait_for_each_other() {
    let mut bench = Bench::new(1, 1, 20).answering_in(20);
    let request = b"set key 0 0 5\r\nvalue\r\n";
    bench.check(request, b"STORED\r\n", b"STORED\r\n");
}

#[test]
fn meta_gets() {
    let answer = b"VA 5 f0\r\nvalue\r\n";
    Bench::new(1, 0, 20).check(b"mg key v f\r\n", &answer.repeat(20), answer);
}

#[test]
fn multigets_with_misses() {
    let request = b"get a b c d\r\n";
    let answers = [&b"VALUE b 0 1\r\nx\r\n".repeat(5)[..], b"END\r\n"].concat();
    Bench::new(1, 0, 5).check(request, &answers, b"VALUE b 0 1\r\nx\r\nEND\r\n");
}

/// 2^48 is 281474976710656.
#[test]
fn uniques_that_are_shown() {
    let value = b"VALUE key 0 5 7\r\nvalue\r\n";
    let answers = [&value.repeat(20)[..], b"END\r\n"].concat();
    let answer = b"VALUE key 0 5 281474976710663\r\nvalue\r\nEND\r\n";
    let mut bench = Bench::new(1, 1, 20).with_marks(false).with_one_answering();
    bench.check(b"gets key\r\n", &answers, answer);
    let answer = b"VA 5 c281474976710663 f0\r\nvalue\r\n";
    let answers = b"VA 5 c7 f0\r\nvalue\r\n".repeat(20);
    bench.check(b"mg key v c f\r\n", &answers, answer);
}

#[test]
fn uniques_that_are_sent() {
    let mut bench = Bench::new(1, 1, 1).with_marks(false);
    let request = b"cas key 0 0 5 281474976710663\r\nvalue\r\n";
    bench.check(request, b"STORED\r\n", b"STORED\r\n");
    let request = b"ms key 5 E281474976710663 c\r\nvalue\r\n";
    bench.check(request, b"HD c7\r\n", b"HD c281474976710663\r\n");
}

#[test]
fn uniques_that_are_chosen() {
    let mut bench = Bench::new(1, 1, 1).with_marks(true);
    let stored = b"STORED\r\n";
    bench.check(b"set key 7 9 5\r\nvalue\r\n", b"HD\r\n", stored);
    bench.check(b"add key 0 0 5\r\nvalue\r\n", b"HD\r\n", stored);
    bench.check(b"incr key 1\r\n", b"VA 2\r\n10\r\n", b"10\r\n");
    bench.check(
        b"ms key 5 c\r\nvalue\r\n",
        b"HD c7\r\n",
        b"HD c281474976710663\r\n",
    );
}

#[test]
fn quiet_batches_of_binary_clients() {
    let request = [
        packets::bare(0x0d, "a", "").bytes(),
        packets::bare(0x0d, "b", "").bytes(),
        packets::noop().bytes(),
    ];
    let answers = [&b"VALUE b 0 5 7\r\nvalue\r\n".repeat(5)[..], b"END\r\n"].concat();
    let answer = vec![0; 24 + 4 + "bvalue".len() + 24];
    Bench::new(1, 0, 5).check(&request.concat(), &answers, &answer);
}

#[test]
fn writes_of_binary_clients_with_a_second_copy() {
    let mut bench = Bench::new(1, 1, 20).with_marks(false);
    let set = packets::store(0x01, "key##", "value").bytes();
    bench.check(&set, &b"HD c7\r\n".repeat(20), &[0; 24]);
    let delete = packets::bare(0x04, "key##", "").bytes();
    bench.check(&delete, &b"HD\r\n".repeat(20), &[0; 24]);
    let mut bench = Bench::new(1, 0, 20);
    let count = packets::count(0x05, "key##", 1, 2, 3).bytes();
    bench.check(&count, &b"VA 2 c7\r\n10\r\n".repeat(20), &[0; 32]);
    let touch = packets::touch(0x1c, "key##", 3).bytes();
    bench.check(&touch, &b"HD f5 c7\r\n".repeat(20), &[0; 28]);
    let get = packets::bare(0x00, "a key##", "").bytes();
    bench.check(&get, &b"VA 5 f5 c7\r\nvalue\r\n".repeat(20), &[0; 33]);
}
