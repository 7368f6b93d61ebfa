//! Clients that speak the binary protocol: what they ask, and which answers are right.
//!
//! They ask for the same effects as clients that speak text, so the history of a key has both. Every packet's
//! opaque is its request's number: an answer is exactly one's, and a quiet request whose successor is answered has
//! been answered by silence.
//!
//! Not here: what a value says (`check`).

use crate::answers::{Answer, Found};
use crate::options::Options;
use crate::workload::{Effect, Key, KeyKind, Maker, Op, Outcome, Quiet, Verb, counter};

/// Whether a client speaks binary: every second one in a quarter of the seeds. It takes nothing from the seed's
/// random numbers, so that the other seeds stay what they are.
pub(crate) fn speaks_binary(options: &Options, client: usize) -> bool {
    // The reference of private clients speaks text.
    options.seed % 4 == 3 && !options.private && client < options.clients && client % 2 == 1
}

const GET: u8 = 0x00;
const SET: u8 = 0x01;
const ADD: u8 = 0x02;
const REPLACE: u8 = 0x03;
const DELETE: u8 = 0x04;
const INCREMENT: u8 = 0x05;
const DECREMENT: u8 = 0x06;
const FLUSH: u8 = 0x08;
const NOOP: u8 = 0x0a;
const VERSION: u8 = 0x0b;
const GET_K: u8 = 0x0c;
const APPEND: u8 = 0x0e;
const PREPEND: u8 = 0x0f;
const STAT: u8 = 0x10;
const TOUCH: u8 = 0x1c;
const GAT: u8 = 0x1d;
const GAT_K: u8 = 0x23;

/// The quiet form of a command, if it has one.
const fn quiet_of(opcode: u8) -> Option<u8> {
    Some(match opcode {
        GET => 0x09,
        GET_K => 0x0d,
        SET => 0x11,
        ADD => 0x12,
        REPLACE => 0x13,
        DELETE => 0x14,
        INCREMENT => 0x15,
        DECREMENT => 0x16,
        APPEND => 0x19,
        PREPEND => 0x1a,
        GAT => 0x1e,
        GAT_K => 0x24,
        _ => return None,
    })
}

/// Whether an answer to this command, if it is an item, repeats the key.
const fn repeats_key(opcode: u8) -> bool {
    matches!(opcode, GET_K | 0x0d | GAT_K | 0x24)
}

// -- Asking --

impl Maker<'_> {
    /// Makes one request of a binary client.
    pub(crate) fn make_packet(&mut self, op: &mut Op) {
        if self.rng.per_mille(self.options.flush_per_mille) {
            (op.verb, op.effect) = (Verb::Flush, Effect::Flush);
            self.packet(op, FLUSH, &[], &[], 0);
            return;
        }
        if self.rng.per_mille(20) {
            let (verb, opcode) = self.rng.pick(&[
                (Verb::MetaNoop, NOOP),
                (Verb::Version, VERSION),
                (Verb::Stats, STAT),
            ]);
            op.verb = verb;
            self.packet(op, opcode, &[], &[], 0);
            return;
        }
        op.keys = vec![self.any_key()];
        if self.rng.chance(self.options.read_percent) {
            self.make_packet_get(op);
        } else {
            self.make_packet_write(op);
        }
    }

    /// A `Noop`, which ends a row of quiet requests.
    pub(crate) fn make_packet_noop(&mut self, op: &mut Op) {
        op.verb = Verb::MetaNoop;
        self.packet(op, NOOP, &[], &[], 0);
    }

    fn make_packet_get(&mut self, op: &mut Op) {
        op.verb = Verb::Get { cas: true };
        op.conditional = self.rng.chance(10);
        let repeats_key = self.rng.chance(50);
        if op.conditional {
            let exptime: u32 = self.rng.pick(&[0, 3_600]);
            let opcode = if repeats_key { GAT_K } else { GAT };
            self.perhaps_quiet(op, opcode, &exptime.to_be_bytes(), &[], 0);
        } else {
            let opcode = if repeats_key { GET_K } else { GET };
            self.perhaps_quiet(op, opcode, &[], &[], 0);
        }
    }

    fn make_packet_write(&mut self, op: &mut Op) {
        let kind = self.keys[op.keys[0]].kind;
        let choice = if self.options.counting {
            50
        } else if self.options.locking || self.options.deleting {
            self.rng.pick(&[0, 99, 99, 99])
        } else if self.options.appending || self.options.comparing {
            self.rng.between(19, 99)
        } else {
            self.rng.below(100)
        };
        match (kind, choice) {
            (_, 0..=12) => {
                (op.verb, op.effect) = (Verb::Delete, Effect::Delete);
                self.perhaps_quiet(op, DELETE, &[], &[], 0);
            }
            (_, 13..=18) => {
                op.verb = Verb::Touch;
                op.conditional = true;
                let exptime = self.lasting(kind).to_be_bytes();
                self.packet(op, TOUCH, &exptime, &[], 0);
            }
            (KeyKind::Counter, 19..=75) => self.make_packet_count(op),
            _ => self.make_packet_store(op),
        }
    }

    fn make_packet_count(&mut self, op: &mut Op) {
        op.verb = Verb::Arith;
        let up = self.options.counting || self.rng.chance(66);
        let (opcode, sign) = if up { (INCREMENT, 1) } else { (DECREMENT, -1) };
        let delta = self.rng.between(1, 3);
        let step = sign * i64::try_from(delta).expect("small");
        let mut extras = delta.to_be_bytes().to_vec();
        if !self.options.counting && self.rng.chance(30) {
            op.effect = Effect::CountOrBase(step);
            let initial: u64 = String::from_utf8(counter(op.id))
                .expect("digits")
                .parse()
                .expect("digits");
            extras.extend_from_slice(&initial.to_be_bytes());
            extras.extend_from_slice(&0_u32.to_be_bytes());
            self.packet(op, opcode, &extras, &[], 0);
        } else {
            op.effect = Effect::Count(step);
            extras.extend_from_slice(&0_u64.to_be_bytes());
            extras.extend_from_slice(&u32::MAX.to_be_bytes());
            self.perhaps_quiet(op, opcode, &extras, &[], 0);
        }
    }

    fn make_packet_store(&mut self, op: &mut Op) {
        let key = op.keys[0];
        let kind = self.keys[key].kind;
        let fragments = kind != KeyKind::Counter;
        let token = self.tokens[key];
        let choice = if self.options.locking && self.rng.chance(90) {
            0
        } else if self.options.deleting {
            100
        } else if self.options.comparing {
            self.rng.pick(&[43, 43, 100])
        } else if self.options.appending && fragments && self.rng.chance(60) {
            self.rng.pick(&[25, 37, 100])
        } else {
            self.rng.below(100)
        };
        let (verb, effect, opcode) = match choice {
            0..=14 => (Verb::Add, Effect::Base, ADD),
            15..=24 => (Verb::Replace, Effect::Base, REPLACE),
            25..=36 if fragments => (Verb::Append, Effect::Fragment, APPEND),
            37..=42 if fragments => (Verb::Append, Effect::Fragment, PREPEND),
            43..=56 if token.is_some() => (Verb::Cas, Effect::Base, SET),
            _ => (Verb::Set, Effect::Base, SET),
        };
        (op.verb, op.effect) = (verb, effect);
        op.conditional = verb != Verb::Set;
        op.adds = verb == Verb::Add;
        let cas = match (verb, token) {
            (Verb::Cas, Some((token, writer))) => {
                op.compared = writer;
                token
            }
            _ => 0,
        };
        let value = self.value(op);
        let mut extras = Vec::new();
        if verb != Verb::Append {
            extras.extend_from_slice(&op.id.to_be_bytes());
            extras.extend_from_slice(&self.lasting(kind).to_be_bytes());
        }
        self.perhaps_quiet(op, opcode, &extras, &value, cas);
    }

    /// An expiry; there is none in the past.
    fn lasting(&mut self, kind: KeyKind) -> u32 {
        match kind {
            KeyKind::Expiring => self.rng.pick(&[0, 1, 1, 2]),
            KeyKind::Register | KeyKind::Counter | KeyKind::Vivify | KeyKind::Binary => {
                self.rng.pick(&[0, 0, 3_600])
            }
        }
    }

    fn perhaps_quiet(&mut self, op: &mut Op, opcode: u8, extras: &[u8], value: &[u8], cas: u64) {
        let quiet = quiet_of(opcode).filter(|_| self.rng.chance(self.options.noreply_percent));
        if quiet.is_some() {
            op.quiet = Quiet::Meta;
        }
        self.packet(op, quiet.unwrap_or(opcode), extras, value, cas);
    }

    fn packet(&mut self, op: &mut Op, opcode: u8, extras: &[u8], value: &[u8], cas: u64) {
        let key = op.keys.first().map(|&key| self.keys[key].bytes.as_slice());
        let key = key.unwrap_or_default();
        let key_len = u16::try_from(key.len()).expect("keys are short");
        let extras_len = u8::try_from(extras.len()).expect("extras are short");
        let body_len = extras.len() + key.len() + value.len();
        let body_len = u32::try_from(body_len).expect("values are short");
        // The answer must repeat it.
        op.echoes = vec![opcode];
        self.out.extend_from_slice(&[0x80, opcode]);
        self.out.extend_from_slice(&key_len.to_be_bytes());
        self.out.extend_from_slice(&[extras_len, 0, 0, 0]);
        self.out.extend_from_slice(&body_len.to_be_bytes());
        self.out.extend_from_slice(&op.id.to_be_bytes());
        self.out.extend_from_slice(&cas.to_be_bytes());
        for part in [extras, key, value] {
            self.out.extend_from_slice(part);
        }
    }
}

// -- Understanding --

/// One packet of an answer.
#[derive(Debug)]
pub(crate) struct Packet<'a> {
    opcode: u8,
    status: u16,
    /// The number of the request that it answers.
    pub opaque: u32,
    cas: u64,
    extras: &'a [u8],
    key: &'a [u8],
    value: &'a [u8],
}

/// The packet at the start of `bytes` and its length, if it is complete.
pub(crate) fn take_packet(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, String> {
    let Some(header) = bytes.first_chunk::<24>() else {
        return Ok(None);
    };
    let number = |at: usize, len: usize| {
        header[at..at + len]
            .iter()
            .fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte))
    };
    if header[0] != 0x81 {
        return Err(format!("not a packet: {}", bytes[..24].escape_ascii()));
    }
    let [key_len, extras_len, body_len] = [(2, 2), (4, 1), (8, 4)]
        .map(|(at, len)| usize::try_from(number(at, len)).expect("32 bits at most"));
    let Some(body) = bytes.get(24..24 + body_len) else {
        return Ok(None);
    };
    let Some(value) = body.get(extras_len + key_len..) else {
        return Err("a body that is shorter than its parts".to_owned());
    };
    let packet = Packet {
        opcode: header[1],
        status: u16::try_from(number(6, 2)).expect("16 bits"),
        opaque: u32::try_from(number(12, 4)).expect("32 bits"),
        cas: number(16, 8),
        extras: &body[..extras_len],
        key: &body[extras_len..extras_len + key_len],
        value,
    };
    Ok(Some((packet, 24 + body_len)))
}

const OK: u16 = 0x00;
const NOT_FOUND: u16 = 0x01;
const EXISTS: u16 = 0x02;
const NOT_STORED: u16 = 0x05;

/// What a packet tells the request that it answers; `None` if more of the answer follows.
pub(crate) fn understand(
    op: &Op,
    keys: &[Key],
    packet: &Packet<'_>,
) -> Result<Option<Answer>, String> {
    let (id, verb) = (op.id, op.verb);
    let wrong = |what| Err(format!("{what} (request {id}, {verb:?}): {packet:?}"));
    if op.echoes != [packet.opcode] {
        return wrong("the answer of another command");
    }
    let answer = |outcome| Answer {
        op: op.id,
        outcome,
        found: Vec::new(),
        number: None,
        failed: false,
    };
    let is_read = matches!(op.verb, Verb::Get { .. });
    let ordinary = if is_read { NOT_FOUND } else { OK };
    if op.quiet == Quiet::Meta && packet.status == ordinary {
        return wrong("an answer that a quiet command should have hidden");
    }
    let Some(outcome) = outcome_of(packet.status, is_read) else {
        return wrong("no such status");
    };
    if !matches!(outcome, Outcome::Done | Outcome::Declined) {
        if matches!(op.verb, Verb::MetaNoop | Verb::Version) {
            return wrong("an error that cannot be");
        }
        return Ok(Some(Answer {
            failed: true,
            ..answer(outcome)
        }));
    }
    let key = op.keys.first().map(|&key| keys[key].bytes.as_slice());
    let repeated = if repeats_key(packet.opcode) {
        key
    } else {
        None
    };
    if op.verb != Verb::Stats && packet.key != repeated.unwrap_or_default() {
        return wrong("another request's key, or none");
    }
    match (op.verb, packet.status) {
        (Verb::Get { .. }, NOT_FOUND) => Ok(Some(Answer {
            found: vec![(op.keys[0], None)],
            ..answer(outcome)
        })),
        (Verb::Get { .. }, _) => {
            let Ok(client_flags) = <[u8; 4]>::try_from(packet.extras) else {
                return wrong("an item without client flags");
            };
            let found = Found {
                value: packet.value.to_vec(),
                client_flags: Some(u32::from_be_bytes(client_flags)),
                cas: Some(packet.cas),
            };
            Ok(Some(Answer {
                found: vec![(op.keys[0], Some(found))],
                ..answer(outcome)
            }))
        }
        (Verb::Arith, OK) => match <[u8; 8]>::try_from(packet.value) {
            Ok(number) => Ok(Some(Answer {
                number: Some(u64::from_be_bytes(number)),
                ..answer(outcome)
            })),
            Err(_) => wrong("not a number"),
        },
        (Verb::Stats, _) if !packet.key.is_empty() => Ok(None),
        _ => Ok(Some(answer(outcome))),
    }
}

/// What a status says; `None` if it may not be said.
const fn outcome_of(status: u16, is_read: bool) -> Option<Outcome> {
    Some(match status {
        OK => Outcome::Done,
        NOT_FOUND if is_read => Outcome::Done,
        NOT_FOUND | EXISTS | NOT_STORED => Outcome::Declined,
        // The arguments, a value that is no number, an unknown command.
        0x04 | 0x06 | 0x81 => Outcome::Refused,
        // Too large, out of memory, and what the proxy or a backend could not do.
        0x03 | 0x82 | 0x84..=0x86 => Outcome::Unknown,
        _ => return None,
    })
}
