//! Clients that speak the binary protocol: their packets become the exchanges that the same wish in text becomes.
//!
//! Towards backends there is no binary protocol. What is known from then on about an exchange whose client
//! speaks it is `Exchange::asked`; its answer becomes a packet where it is kept or complete (`answer`).
//!
//! | packet | sent as |
//! | --- | --- |
//! | `Get` and its kin | a key of a gathered `gets`; `mg` if text cannot name the key |
//! | `GAT` and its kin, `Touch` | `mg` with `T` |
//! | `Set`, `Add`, `Replace` | `ms`, with `ME` and `MR`; with `C` and no mode if a unique is given |
//! | `Append`, `Prepend` | `ms` with `MA`, `MP`, perhaps `C` |
//! | `Delete` | `md`, perhaps with `C` |
//! | `Increment`, `Decrement` | `ma` with `MI`, `MD`, perhaps with `N`, `J` and `C` |
//! | `Flush`, `Stat` | as in text, to every backend |
//! | some of these, at times | as the classic command: see `classic` |
//!
//! # Invariants
//!
//! - One packet is one exchange, so opaque and order are right whatever becomes of it; a quiet one keeps its
//!   place until it is known whether it is answered.
//! - A value is followed by CR LF on every backend, and by nothing in a packet: the end is added when an upload
//!   is complete (`upload`), and not kept of what a backend sends (`answers`).
//! - Keys are compared and placed by their bytes, as those of text: both kinds of clients meet.
//!
//! # Limits
//!
//! - A key with a blank, a line feed or a zero byte reaches backends in base64, of which they take
//!   [`KEY_IN_BASE64_LEN_MAX`] bytes. A longer one is answered with `Invalid arguments`.
//! - An expiry beyond 2038, which meta commands cannot say, becomes that date ([`EXPTIME_MAX`]).
//! - `GAT`, `Touch` and gets in base64 are `mg`: of an item that a meta client has marked stale they take the win.
//! - Without users SASL is answered as by a memcached that was started without it: unknown.
//!
//! Not here: what a packet looks like (`proto::binary`), whom a request is sent to (`reads`, `writes`).

mod answer;
mod classic;

use super::exchange::{ExchangeId, Kind};
use super::{ClientId, Engine, encode};
use crate::Time;
use crate::proto::binary::{self, Command, Opcode, Packet, Refused, Shape, Status};
use crate::proto::{Decimal, GetVerb, Letters, Meta, MetaVerb, Parsed};
use crate::stats::Counter;

pub(super) use answer::encode_hit;

/// What has to be known of a packet when it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub opcode: Opcode,
    pub opaque: u32,
}

impl Asked {
    /// Whether the answer is an item.
    const fn fetches(self) -> bool {
        matches!(
            self.opcode.command,
            Command::Get | Command::GetK | Command::Gat | Command::GatK
        )
    }

    /// Whether the answer need not leave alone: a quiet get is one of many.
    pub(super) const fn is_part(self) -> bool {
        self.opcode.quiet && self.fetches()
    }

    /// Whether the answer repeats the key.
    const fn repeats_key(self) -> bool {
        matches!(self.opcode.command, Command::GetK | Command::GatK)
    }
}

/// Longest key that a backend can be told in base64: its token has at most 250 characters, padding included.
const KEY_IN_BASE64_LEN_MAX: usize = 186;

/// Latest expiry of a meta command: memcached reads it into 31 bits and a sign. It lies in 2038.
const EXPTIME_MAX: u32 = i32::MAX.cast_unsigned();

impl Engine {
    /// Makes an exchange of the packet at the start of `data`; yields how many bytes it used, its value
    /// excepted, or `None` if it has to wait.
    pub(super) fn read_packet(&mut self, now: Time, id: ClientId, data: &[u8]) -> Option<usize> {
        if self.is_stranger(id)
            && let Some(used) = self.refuse_stranger(id, data)
        {
            return Some(used);
        }
        match binary::parse_packet(data) {
            Parsed::NeedMore => None,
            // It must not overtake a write that waits for its key.
            Parsed::Item { item, .. } if item.opcode.command == Command::Flush && self.owes(id) => {
                self.clients[id.index as usize].held_back = true;
                None
            }
            Parsed::Item { item, .. } if self.packet_waits_for_lock(id, &item) => None,
            Parsed::Item { item, used } if item.opcode.shape == Shape::Sasl => {
                self.clients[id.index as usize].asked = Some(Asked {
                    opcode: item.opcode,
                    opaque: item.opaque,
                });
                let value_len = self.start_sasl(id, &item, &data[used..])?;
                Some(used + value_len)
            }
            Parsed::Item { item, used } => {
                self.clients[id.index as usize].asked = Some(Asked {
                    opcode: item.opcode,
                    opaque: item.opaque,
                });
                self.start_packet(now, id, &item);
                Some(used)
            }
            Parsed::Bad(refused) => {
                self.refuse_packet(id, &refused);
                Some(refused.used)
            }
        }
    }

    pub(super) fn refuse_packet(&mut self, id: ClientId, refused: &Refused) {
        self.count(Counter::ProtocolErrors);
        let exchange = refused.told.then(|| {
            let exchange = self.admit(id, Kind::Local);
            let this = &mut self.exchanges[exchange];
            this.asked = None;
            binary::encode_status(
                refused.code,
                refused.opaque,
                refused.status,
                &mut this.reply,
            );
            exchange
        });
        self.drop_value(id, refused.swallow, exchange);
        if !refused.keeps_framing {
            self.stop_reading(id);
        }
    }

    /// Drops so many bytes that follow, and answers behind them.
    fn drop_value(&mut self, id: ClientId, len: u64, exchange: Option<ExchangeId>) {
        if len > 0 {
            self.clients[id.index as usize].reading = super::clients::Reading::Swallow {
                remaining: len,
                exchange,
            };
        } else if let Some(exchange) = exchange {
            self.complete(exchange);
        }
    }

    pub(super) fn start_allowed_packet(&mut self, now: Time, id: ClientId, packet: &Packet<'_>) {
        match packet.opcode.command {
            Command::Get
            | Command::GetK
            | Command::Gat
            | Command::GatK
            | Command::Touch
            | Command::Set
            | Command::Add
            | Command::Replace
            | Command::Append
            | Command::Prepend
            | Command::Delete
            | Command::Increment
            | Command::Decrement => self.start_keyed(now, id, packet),
            Command::Flush => {
                let delay = Decimal::new(exptime(packet));
                self.start_flush(now, id, delay.digits(), false);
            }
            Command::Config => self.start_config_packet(id, packet),
            Command::Noop => self.answer_locally(id, b"", false),
            Command::Version => {
                let reply = self.version_reply();
                self.answer_locally(id, &reply, false);
            }
            Command::Stat => self.start_stats(now, id, packet.key),
            Command::Quit => {
                if !packet.opcode.quiet {
                    self.answer_locally(id, b"", false);
                }
                self.stop_reading(id);
            }
            Command::SaslMechanisms => self.start_mechanisms(id, packet),
            Command::SaslAuth | Command::SaslStep => unreachable!("taken with their value"),
        }
    }

    /// Refuses a packet that was understood.
    pub(super) fn refuse_read_packet(&mut self, id: ClientId, packet: &Packet<'_>, status: Status) {
        self.refuse_packet(
            id,
            &Refused {
                status,
                code: packet.opcode.code,
                opaque: packet.opaque,
                used: 0,
                swallow: u64::from(packet.value_len),
                keeps_framing: true,
                told: true,
            },
        );
    }

    fn start_keyed(&mut self, now: Time, id: ClientId, packet: &Packet<'_>) {
        let plain = encode::is_nameable(packet.key);
        if plain && matches!(packet.opcode.command, Command::Get | Command::GetK) {
            self.start_fetch(now, id, packet.key);
            return;
        }
        if !plain && (packet.key.len() > KEY_IN_BASE64_LEN_MAX || self.lacks_meta) {
            self.refuse_read_packet(id, packet, Status::Invalid);
            return;
        }
        if plain && self.start_as_classic(now, id, packet) {
            return;
        }
        let mut encoded = [0; encode::ENCODED_LEN_MAX];
        let mut line = Line::new();
        let key = if plain {
            packet.key
        } else {
            line.flag(b'b');
            encode::base64(packet.key, &mut encoded)
        };
        let verb = write_flags(packet, &mut line);
        if matches!(verb, MetaVerb::Get) && line.letters.has(b'T') {
            self.count(Counter::Touches);
        }
        let meta = Meta {
            verb,
            key,
            flags: line.flags(),
            letters: line.letters,
            value_len: packet.value_len,
        };
        self.start_meta(now, id, &meta);
    }

    /// A get whose key text can name.
    fn start_fetch(&mut self, now: Time, id: ClientId, key: &[u8]) {
        self.count(Counter::Gets);
        let exchange = self.admit(id, Kind::Fetch(GetVerb::Gets));
        self.place(exchange, key);
        let this = &mut self.exchanges[exchange];
        this.only = true;
        this.wire.extend_from_slice(key);
        this.key = 0..u16::try_from(key.len()).expect("the parser bounds keys");
        self.start_read(now, exchange, key);
    }
}

fn exptime(packet: &Packet<'_>) -> u64 {
    u64::from(packet.exptime().min(EXPTIME_MAX))
}

/// Writes the flags of the meta command that does what `packet` asks for; yields which command.
fn write_flags(packet: &Packet<'_>, line: &mut Line) -> MetaVerb {
    let verb = match packet.opcode.command {
        Command::Get | Command::GetK => {
            line.ask(b"fcv");
            return MetaVerb::Get;
        }
        Command::Gat | Command::GatK | Command::Touch => {
            line.number(b'T', exptime(packet));
            line.ask(b"fc");
            if packet.opcode.command != Command::Touch {
                line.flag(b'v');
            }
            return MetaVerb::Get;
        }
        Command::Delete => MetaVerb::Delete,
        Command::Increment | Command::Decrement => {
            write_flags_of_count(packet, line);
            MetaVerb::Arith
        }
        Command::Set | Command::Add | Command::Replace | Command::Append | Command::Prepend => {
            write_flags_of_store(packet, line);
            MetaVerb::Set
        }
        Command::Flush
        | Command::Config
        | Command::Noop
        | Command::Version
        | Command::Stat
        | Command::Quit
        | Command::SaslMechanisms
        | Command::SaslAuth
        | Command::SaslStep => unreachable!("it names no item"),
    };
    if packet.cas != 0 {
        line.number(b'C', packet.cas);
    }
    verb
}

fn write_flags_of_count(packet: &Packet<'_>, line: &mut Line) {
    line.number(b'D', packet.delta());
    if packet.opcode.command == Command::Decrement {
        line.mode(b'D');
    }
    if let Some(initial) = packet.initial() {
        line.number(b'N', exptime(packet));
        line.number(b'J', initial);
    }
    line.ask(b"vc");
}

fn write_flags_of_store(packet: &Packet<'_>, line: &mut Line) {
    // Append and Prepend have neither.
    for (letter, number) in [(b'F', packet.client_flags()), (b'T', exptime(packet))] {
        if number != 0 {
            line.number(letter, number);
        }
    }
    // With a unique memcached compares it, and no more: even `Add` stores if it is the item's.
    const MODES: [(Command, u8); 2] = [(Command::Add, b'E'), (Command::Replace, b'R')];
    const ADDING_MODES: [(Command, u8); 2] = [(Command::Append, b'A'), (Command::Prepend, b'P')];
    let modes = MODES.iter().filter(|_| packet.cas == 0);
    for (command, mode) in modes.chain(&ADDING_MODES) {
        if packet.opcode.command == *command {
            line.mode(*mode);
        }
    }
    line.flag(b'c');
}

/// The flags of a meta command while they are written: those of a packet are few.
struct Line {
    bytes: [u8; Self::LEN_MAX],
    len: usize,
    letters: Letters,
}

impl Line {
    /// `b`, `D`, `J` and `C` with 20 digits, `N` with 10, `M`, `v`, `c`, and a blank before each.
    const LEN_MAX: usize = 96;

    fn new() -> Self {
        Self {
            bytes: [0; Self::LEN_MAX],
            len: 0,
            letters: Letters::default(),
        }
    }

    fn flags(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn flag(&mut self, letter: u8) {
        self.push(&[b' ', letter]);
        self.letters = self.letters.with(letter);
    }

    fn ask(&mut self, letters: &[u8]) {
        for &letter in letters {
            self.flag(letter);
        }
    }

    fn mode(&mut self, mode: u8) {
        self.flag(b'M');
        self.push(&[mode]);
    }

    fn number(&mut self, letter: u8, number: u64) {
        self.flag(letter);
        self.push(Decimal::new(number).digits());
    }
}
