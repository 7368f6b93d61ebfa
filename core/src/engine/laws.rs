//! What holds for logins whatever clients send, in any order and however it is cut.
//!
//! The input is a program for three clients and one backend: who sends which request, how much of it arrives, when
//! a password is looked at. Two clients, one in text and one in packets, send requests from a list; a model says
//! what each must be answered, byte by byte. The third sends what it likes. Compiled for tests and for fuzzing only.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use super::{ClientId, Engine, Input, Output, Shared};
use crate::auth::{Access, Checked, Credentials, Rights, Users};
use crate::config::Config;
use crate::engine::ConnectionId;
use crate::engine::encode::UNLIMITED;
use crate::proto::binary::{Answer, Status};
use crate::proto::{self, MetaVerb, Parsed, ProtoError, Request};
use crate::{Time, WorkerId};

/// Whose password is `secret`; while it is `busy` nobody looks.
const USER: &[u8] = b"joe";

/// What the backend has for every key.
const VALUE: &[u8] = b"BACKEND";

/// Runs `bytes` as such a program.
pub fn fuzz_auth(bytes: &[u8]) {
    let mut world = World::new();
    let mut input = bytes.iter().copied();
    while let Some(op) = input.next() {
        world.step(op, &mut input);
    }
    world.finish();
}

/// What a request of the list must be answered with.
struct Item {
    bytes: Vec<u8>,
    to_stranger: To,
    to_user: To,
}

/// What comes of a request.
#[derive(Clone)]
enum To {
    /// This answer.
    Answer(Vec<u8>),
    /// A password is looked at: what is said then.
    Login {
        granted: bool,
        counts: bool,
        answer: Vec<u8>,
    },
    /// The first of two steps.
    Begin(Vec<u8>),
    /// The second: what is said if there was a first, and if there was none.
    Step(Vec<u8>, Vec<u8>),
    /// Whoever it was, it is a stranger now, and has failed.
    Failure(Vec<u8>),
    /// This answer, and the end.
    End(Vec<u8>),
}

struct World {
    engine: Engine,
    backend: Option<ConnectionId>,
    /// What the backend has been sent and has not answered.
    unread: Vec<u8>,
    checks: VecDeque<(ClientId, Credentials)>,
    peers: Vec<Peer>,
}

/// A client.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not exclude each other"
)]
struct Peer {
    id: ClientId,
    items: Vec<Item>,
    to_send: Vec<u8>,
    expected: Vec<u8>,
    got: Vec<u8>,
    known: bool,
    begun: bool,
    failures: u32,
    over: bool,
    closed: bool,
}

fn users() -> Arc<Users> {
    let joe = Rights::new(USER, b"", Access::Full, b"");
    Arc::new([joe].into_iter().collect())
}

impl World {
    fn new() -> Self {
        let server = "10.0.0.1:11211".parse().expect("an address");
        let options = crate::scheme::SchemeOptions::default();
        let scheme = crate::scheme::Scheme::magent();
        let mut config =
            Config::new(vec![server], Vec::new(), scheme, options).expect("one server");
        config.users = Some(users());
        let mut engine = Engine::new(WorkerId(0), &config, Shared::new(&config), Time(0));
        let peers = [text_items(), packet_items(), Vec::new()]
            .map(|items| Peer::new(engine.open_client(), items))
            .into();
        let mut this = Self {
            engine,
            backend: None,
            unread: Vec::new(),
            checks: VecDeque::new(),
            peers,
        };
        this.run();
        this
    }

    fn step(&mut self, op: u8, input: &mut impl Iterator<Item = u8>) {
        let mut argument = || usize::from(input.next().unwrap_or(0));
        match op % 8 {
            0..=2 => {
                let (which, len) = (argument(), argument());
                self.peers[0].ask(which);
                self.send(0, len);
            }
            3 | 4 => {
                let (which, len) = (argument(), argument());
                self.peers[1].ask(which);
                self.send(1, len);
            }
            5 => {
                let len = argument();
                let raw: Vec<u8> = input.take(len).collect();
                self.peers[2].to_send.extend_from_slice(&raw);
                self.send(2, len);
            }
            6 => self.check(),
            _ => self.run(),
        }
    }

    /// Hands in so many bytes of what a client has to say.
    fn send(&mut self, index: usize, len: usize) {
        let peer = &mut self.peers[index];
        let len = len.min(peer.to_send.len());
        let bytes: Vec<u8> = peer.to_send.drain(..len).collect();
        if !peer.closed {
            self.engine
                .handle(Time(0), Input::ClientData(peer.id, &bytes));
        }
    }

    /// Looks at the oldest password.
    fn check(&mut self) {
        let Some((client, credentials)) = self.checks.pop_front() else {
            return;
        };
        let checked = match credentials.password.expose() {
            b"busy" => Checked::Busy,
            b"secret" if *credentials.user == *USER => {
                let users = users();
                Checked::Granted(Arc::clone(users.get(USER).expect("there is one")))
            }
            _ => Checked::Denied,
        };
        let is_granted = matches!(checked, Checked::Granted(_));
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == client) {
            peer.known = is_granted || peer.known;
        }
        self.engine
            .handle(Time(0), Input::Checked(client, &checked));
    }

    /// Turns, until nothing is left to do.
    #[expect(clippy::wildcard_enum_match_arm, reason = "`perform` has them all")]
    fn run(&mut self) {
        loop {
            self.engine.handle(Time(0), Input::TurnEnd);
            let mut idle = true;
            loop {
                match self.engine.poll(Time(0)) {
                    Output::Wait(_) => break,
                    output => {
                        idle = false;
                        self.perform(output);
                    }
                }
            }
            if idle && !self.answer_backend() {
                return;
            }
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the others are for a keeper"
    )]
    fn perform(&mut self, output: Output) {
        let mut slices = [IoSlice::new(&[]); 64];
        match output {
            Output::Connect(connection) => {
                self.backend = Some(connection);
                self.engine
                    .handle(Time(0), Input::BackendConnected(connection));
            }
            Output::WriteBackend(connection) => {
                let count = self.engine.backend_slices(connection, &mut slices);
                let before = self.unread.len();
                slices[..count]
                    .iter()
                    .for_each(|slice| self.unread.extend_from_slice(slice));
                let len = self.unread.len() - before;
                self.engine.backend_sent(Time(0), connection, len);
                assert!(
                    self.peers.iter().any(|peer| peer.known),
                    "a backend is asked before anybody has logged in"
                );
            }
            Output::WriteClient(id) => {
                let count = self.engine.client_slices(id, &mut slices);
                let bytes: Vec<u8> = slices[..count]
                    .iter()
                    .flat_map(|slice| slice.to_vec())
                    .collect();
                self.engine.client_sent(id, bytes.len());
                let peer = self.peers.iter_mut().find(|peer| peer.id == id);
                let peer = peer.expect("it is one of ours");
                peer.got.extend_from_slice(&bytes);
                assert!(
                    peer.known || memchr::memmem::find(&peer.got, VALUE).is_none(),
                    "a stranger gets a value"
                );
            }
            Output::CloseClient(id) => {
                let peer = self.peers.iter_mut().find(|peer| peer.id == id);
                peer.expect("it is one of ours").closed = true;
            }
            Output::Check(client, credentials) => self.checks.push_back((client, credentials)),
            _ => {}
        }
    }

    /// Answers what the backend has been asked; whether there was anything.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others have no payload")]
    fn answer_backend(&mut self) -> bool {
        let mut answers = Vec::new();
        let mut used = 0;
        while let Parsed::Item { item, used: len } =
            proto::parse_request(&self.unread[used..], &UNLIMITED)
        {
            let payload_len = match item {
                Request::Store(store) => store.value_len as usize + 2,
                Request::Meta(meta) if meta.verb == MetaVerb::Set => meta.value_len as usize + 2,
                _ => 0,
            };
            if self.unread.len() < used + len + payload_len {
                break;
            }
            answer(&item, &mut answers);
            used += len + payload_len;
        }
        self.unread.drain(..used);
        if let Some(connection) = self.backend.filter(|_| !answers.is_empty()) {
            self.engine
                .handle(Time(0), Input::BackendData(connection, &answers));
        }
        used > 0
    }

    /// All that is on its way arrives; the answers are what they must be.
    fn finish(mut self) {
        for index in 0..self.peers.len() {
            self.send(index, usize::MAX);
        }
        self.run();
        while !self.checks.is_empty() {
            self.check();
            self.run();
        }
        for peer in &self.peers[..2] {
            assert_eq!(
                peer.got.escape_ascii().to_string(),
                peer.expected.escape_ascii().to_string(),
                "answers in the order of the requests"
            );
            assert_eq!(peer.over, peer.closed);
        }
        for peer in &self.peers {
            self.engine.handle(Time(0), Input::ClientLost(peer.id));
        }
        self.run();
        assert!(self.engine.is_drained(), "something is left");
        assert_eq!(self.engine.memory_len, 0, "memory is still counted");
    }
}

impl Peer {
    const fn new(id: ClientId, items: Vec<Item>) -> Self {
        Self {
            id,
            items,
            to_send: Vec::new(),
            expected: Vec::new(),
            got: Vec::new(),
            known: false,
            begun: false,
            failures: 0,
            over: false,
            closed: false,
        }
    }

    /// One more request of the list; what must be answered.
    fn ask(&mut self, which: usize) {
        let item = &self.items[which % self.items.len()];
        self.to_send.extend_from_slice(&item.bytes);
        if self.over {
            return;
        }
        // The model's own idea of who it is: `known` follows the checks, which come later.
        let is_user = self.failures & LOGGED_IN != 0;
        let to = if is_user {
            item.to_user.clone()
        } else {
            item.to_stranger.clone()
        };
        let begun = self.begun;
        self.begun &= matches!(to, To::Answer(_));
        let (answer, failed) = match to {
            To::Answer(answer) => (answer, false),
            To::Login {
                granted,
                counts,
                answer,
            } => {
                self.failures = if granted {
                    LOGGED_IN
                } else {
                    self.failures & !LOGGED_IN
                };
                (answer, counts)
            }
            To::Begin(answer) => {
                self.failures &= !LOGGED_IN;
                self.begun = true;
                (answer, false)
            }
            To::Step(answer, _) if begun => {
                self.failures = LOGGED_IN;
                (answer, false)
            }
            To::Step(_, answer) => {
                self.failures &= !LOGGED_IN;
                (answer, true)
            }
            To::Failure(answer) => {
                self.failures &= !LOGGED_IN;
                (answer, true)
            }
            To::End(answer) => {
                self.over = true;
                (answer, false)
            }
        };
        self.expected.extend_from_slice(&answer);
        if failed {
            self.failures += 1;
            self.over = self.failures >= 3;
        }
    }
}

/// In `Peer::failures`: the model has logged in.
const LOGGED_IN: u32 = 1 << 31;

#[expect(clippy::wildcard_enum_match_arm, reason = "a model needs no more")]
fn answer(request: &Request<'_>, out: &mut Vec<u8>) {
    let mut value = |key: &[u8]| {
        for part in [b"VALUE ", key, b" 0 7 1\r\n", VALUE, b"\r\n"] {
            out.extend_from_slice(part);
        }
    };
    match *request {
        Request::Get { keys, .. } | Request::GetAndTouch { keys, .. } => {
            keys.for_each(&mut value);
            out.extend_from_slice(b"END\r\n");
        }
        Request::Store(_) => out.extend_from_slice(b"STORED\r\n"),
        Request::Delete { .. } => out.extend_from_slice(b"DELETED\r\n"),
        Request::Arith { .. } => out.extend_from_slice(b"7\r\n"),
        Request::Touch { .. } => out.extend_from_slice(b"TOUCHED\r\n"),
        Request::FlushAll { .. } => out.extend_from_slice(b"OK\r\n"),
        Request::Stats { .. } => out.extend_from_slice(b"END\r\n"),
        Request::Meta(meta) if meta.verb == MetaVerb::Arith => {
            out.extend_from_slice(b"VA 1\r\n7\r\n");
        }
        Request::Meta(meta) if matches!(meta.verb, MetaVerb::Get | MetaVerb::Debug) => {
            out.extend_from_slice(b"EN\r\n");
        }
        Request::Meta(_) => out.extend_from_slice(b"HD\r\n"),
        _ => unreachable!("no backend is asked that"),
    }
}

fn text_items() -> Vec<Item> {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let wire = |error: ProtoError| To::Answer(error.wire().to_vec());
    let login = |password: &str, granted, counts, answer: &[u8]| Item {
        bytes: format!("set x 0 0 {}\r\njoe {password}\r\n", password.len() + 4).into_bytes(),
        to_stranger: To::Login {
            granted,
            counts,
            answer: answer.to_vec(),
        },
        to_user: To::Answer(bytes("STORED\r\n")),
    };
    let plain = |request: &str, to_user: To| Item {
        bytes: bytes(request),
        to_stranger: wire(ProtoError::Unauthenticated),
        to_user,
    };
    let failure = ProtoError::AuthFailure.wire();
    vec![
        login("secret", true, false, b"STORED\r\n"),
        login("wrong", false, true, failure),
        login("busy", false, false, super::auth::BUSY),
        Item {
            bytes: bytes("set x 0 0 7 noreply\r\ngarbage\r\n"),
            to_stranger: wire(ProtoError::AuthFormat),
            to_user: To::Answer(Vec::new()),
        },
        Item {
            bytes: bytes("set x 0 0 3\r\njoe\n\n"),
            to_stranger: wire(ProtoError::AuthTermination),
            to_user: wire(ProtoError::BadDataChunk),
        },
        plain(
            "get a\r\n",
            To::Answer(bytes("VALUE a 0 7 1\r\nBACKEND\r\nEND\r\n")),
        ),
        plain("mn\r\n", To::Answer(bytes("MN\r\n"))),
        plain("delete a noreply\r\n", To::Answer(Vec::new())),
        plain("mg a v\r\n", To::Answer(bytes("EN\r\n"))),
        plain("md a q\r\n", To::Answer(Vec::new())),
        plain("incr a 1\n", To::Answer(bytes("7\r\n"))),
        plain("flush_all\r\n", To::Answer(bytes("OK\r\n"))),
        plain("bogus\r\n", wire(ProtoError::UnknownCommand)),
        plain("quit\r\n", To::End(Vec::new())),
    ]
}

#[expect(clippy::too_many_lines, reason = "a flat table, and the words for it")]
fn packet_items() -> Vec<Item> {
    let packet = |code: u8, key: &[u8], value: &[u8]| {
        let len = |bytes: &[u8]| u8::try_from(bytes.len()).expect("it is short");
        let mut bytes = vec![0x80, code, 0, len(key), 0, 0, 0, 0, 0, 0, 0];
        bytes.push(len(key) + len(value));
        bytes.extend_from_slice(&[0, 0, 0, code, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        bytes
    };
    let said = |code: u8, status: Status, text: &[u8]| {
        let mut out = Vec::new();
        Answer::bare(code, u32::from(code), status).encode_text(text, &mut out);
        out
    };
    let status = |code, status: Status| said(code, status, status.text());
    let login = |password: &str, granted, counts, answer: Vec<u8>| {
        let to = To::Login {
            granted,
            counts,
            answer,
        };
        let message = [b"\0joe\0", password.as_bytes()].concat();
        Item {
            bytes: packet(0x21, b"PLAIN", &message),
            to_stranger: to.clone(),
            to_user: to,
        }
    };
    let either = |bytes, to: To| Item {
        bytes,
        to_stranger: to.clone(),
        to_user: to,
    };
    let plain = |code, key: &[u8], answer| Item {
        bytes: packet(code, key, b""),
        to_stranger: To::End(status(code, Status::AuthError)),
        to_user: To::Answer(answer),
    };
    let mut hit = Vec::new();
    Answer {
        cas: 1,
        extras: &[0; 4],
        value_len: 7,
        ..Answer::bare(0, 0, Status::Ok)
    }
    .encode(&mut hit);
    hit.extend_from_slice(VALUE);
    let list = said(0x20, Status::Ok, b"PLAIN");
    vec![
        login(
            "secret",
            true,
            false,
            said(0x21, Status::Ok, b"Authenticated"),
        ),
        login("wrong", false, true, status(0x21, Status::AuthError)),
        login("busy", false, false, status(0x21, Status::Busy)),
        either(packet(0x20, b"", b""), To::Answer(list)),
        either(
            packet(0x21, b"CRAM-MD5", b""),
            To::Failure(status(0x21, Status::AuthError)),
        ),
        either(
            packet(0x21, b"plain", b"joe\0joe"),
            To::Failure(status(0x21, Status::AuthError)),
        ),
        either(
            packet(0x21, b"plain", b""),
            To::Begin(status(0x21, Status::AuthContinue)),
        ),
        either(
            packet(0x22, b"PLAIN", b"\0joe\0secret"),
            To::Step(
                said(0x22, Status::Ok, b"Authenticated"),
                status(0x22, Status::AuthError),
            ),
        ),
        plain(0x00, b"a", hit),
        plain(0x0a, b"", said(0x0a, Status::Ok, b"")),
        plain(0x04, b"a", said(0x04, Status::Ok, b"")),
        plain(0x14, b"a", Vec::new()),
        plain(0x08, b"", said(0x08, Status::Ok, b"")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs that are drawn, the same ones each time.
    #[test]
    fn logins_are_answered_as_the_model_says() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..2_000 {
            let program: Vec<u8> = (0..60)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state.to_le_bytes()[3]
                })
                .collect();
            fuzz_auth(&program);
        }
    }
}
