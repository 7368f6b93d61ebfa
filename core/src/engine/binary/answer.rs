//! What backends, and the proxy itself, say in text becomes the packet that says the same.
//!
//! # Invariants
//!
//! - A value's header is written when its line comes, so that its bytes are kept, and forwarded, as they are
//!   ([`encode_hit`]). Every other answer is text until it is complete: copies are compared by it
//!   ([`Engine::speak_binary`]).
//! - No answer in text begins with [`RESPONSE_MAGIC`], so what begins with it is a packet already.
//! - An error is never hidden, whatever the packet asked for.

use super::Asked;
use crate::cas;
use crate::engine::Engine;
use crate::engine::exchange::{Exchange, ExchangeId};
use crate::proto::binary::{Answer, Command, RESPONSE_MAGIC, Status};
use crate::proto::{KEY_LEN_MAX, parse_unsigned};

impl Engine {
    /// Makes a packet of an exchange's answer; of none at all, if it is what a quiet packet does not want to
    /// hear.
    pub(in crate::engine) fn speak_binary(&mut self, exchange: ExchangeId) {
        let mut packet = std::mem::take(&mut self.scratch);
        packet.clear();
        let this = &mut self.exchanges[exchange];
        if let Some(asked) = this.asked
            && !this.streamed
            && this.reply.first() != Some(&RESPONSE_MAGIC)
        {
            encode(this, asked, &mut packet);
            this.reply.clear();
            this.reply.extend_from_slice(&packet);
        }
        self.scratch = packet;
    }
}

/// Appends the header of the packet that tells a value, if `line` announces one that the client asked for; its
/// unique is marked. The value follows.
pub(in crate::engine) fn encode_hit(
    exchange: &Exchange,
    line: &[u8],
    mark: u16,
    out: &mut Vec<u8>,
) -> bool {
    let Some(asked) = exchange.asked.filter(|asked| asked.fetches()) else {
        return false;
    };
    let mut words = words(line);
    let item = match words.next() {
        // VALUE <key> <flags> <length> <unique>
        Some(b"VALUE") => {
            let mut number = |skipped: usize| words.nth(skipped).map_or(0, number);
            Item {
                client_flags: number(1),
                value_len: number(0),
                cas: number(0),
            }
        }
        // VA <length> f<flags> c<unique>
        Some(b"VA") => {
            let value_len = words.next().map_or(0, number);
            Item {
                value_len,
                ..Item::of_flags(words)
            }
        }
        _ => return false,
    };
    let mut scratch = [0; KEY_LEN_MAX];
    let key = if asked.repeats_key() {
        key_of(exchange, &mut scratch)
    } else {
        b""
    };
    let value_len = u32::try_from(item.value_len).expect("the line was parsed");
    let client_flags = item.client_flags_wire();
    let answer = Answer {
        cas: cas::marked(item.cas, mark),
        extras: &client_flags,
        key,
        value_len,
        ..Answer::bare(asked.opcode.code, asked.opaque, Status::Ok)
    };
    answer.encode(out);
    true
}

/// What an answer in text tells of an item.
#[derive(Debug, Default)]
struct Item {
    client_flags: u64,
    value_len: u64,
    cas: u64,
}

impl Item {
    /// What the flags of a meta answer say.
    fn of_flags<'a>(words: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut item = Self::default();
        for word in words {
            match word.split_first() {
                Some((b'f', digits)) => item.client_flags = number(digits),
                Some((b'c', digits)) => item.cas = number(digits),
                _ => {}
            }
        }
        item
    }

    fn client_flags_wire(&self) -> [u8; 4] {
        // A server that stores more than 32 bits (memcached as of 1.6 can) tells binary clients the low ones.
        let [_, _, _, _, low @ ..] = self.client_flags.to_be_bytes();
        low
    }
}

/// Appends the packet that says what `exchange.reply` says; nothing if the client does not want to hear it.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other status has a text of its own"
)]
fn encode(exchange: &Exchange, asked: Asked, out: &mut Vec<u8>) {
    let said = exchange.reply.as_slice();
    let command = asked.opcode.command;
    let status = status(command, said);
    let ordinary = if asked.fetches() {
        Status::NotFound
    } else {
        Status::Ok
    };
    if asked.opcode.quiet && status == ordinary {
        return;
    }
    let bare = Answer::bare(asked.opcode.code, asked.opaque, status);
    match status {
        Status::Ok => encode_done(exchange, command, &bare, out),
        Status::NotFound if asked.repeats_key() => {
            let mut scratch = [0; KEY_LEN_MAX];
            let key = key_of(exchange, &mut scratch);
            Answer { key, ..bare }.encode(out);
        }
        // What memcached has no words for.
        Status::Temporary => bare.encode_text(error_text(said), out),
        _ => bare.encode_text(status.text(), out),
    }
}

/// Appends the packet for a command that did what it was asked for.
fn encode_done(exchange: &Exchange, command: Command, bare: &Answer<'_>, out: &mut Vec<u8>) {
    let said = exchange.reply.as_slice();
    match command {
        Command::Set | Command::Add | Command::Replace | Command::Append | Command::Prepend => {
            let cas = Item::of_flags(words(said)).cas;
            Answer { cas, ..*bare }.encode(out);
        }
        Command::Touch => {
            let item = Item::of_flags(words(said));
            let client_flags = item.client_flags_wire();
            let extras = &client_flags;
            let cas = item.cas;
            Answer {
                cas,
                extras,
                ..*bare
            }
            .encode(out);
        }
        Command::Increment | Command::Decrement => {
            let cas = Item::of_flags(words(said)).cas;
            let count = Exchange::number(said).map_or(0, number).to_be_bytes();
            Answer { cas, ..*bare }.encode_text(&count, out);
        }
        Command::Version => {
            let version = said.strip_prefix(b"VERSION ").unwrap_or(said);
            bare.encode_text(version.trim_ascii_end(), out);
        }
        Command::Stat => encode_stats(said, bare, out),
        Command::Get
        | Command::GetK
        | Command::Gat
        | Command::GatK
        | Command::Delete
        | Command::Flush
        | Command::Config
        | Command::Noop
        | Command::Quit
        | Command::SaslMechanisms
        | Command::SaslAuth
        | Command::SaslStep => bare.encode(out),
    }
}

/// One packet for each statistic, and one without a name behind the last.
fn encode_stats(said: &[u8], bare: &Answer<'_>, out: &mut Vec<u8>) {
    for line in said.split(|&byte| byte == b'\n') {
        let Some(stat) = line.strip_prefix(b"STAT ") else {
            continue;
        };
        let stat = stat.strip_suffix(b"\r").unwrap_or(stat);
        let mut parts = stat.splitn(2, |&byte| byte == b' ');
        let key = parts.next().unwrap_or_default();
        let value = parts.next().unwrap_or_default();
        Answer { key, ..*bare }.encode_text(value, out);
    }
    bare.encode(out);
}

/// What an answer in text says. memcached: `complete_update_bin`, `complete_incr_bin`, `write_bin_error`.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what one word says of every other command"
)]
fn status(command: Command, said: &[u8]) -> Status {
    let mut words = words(said);
    match words.next().unwrap_or_default() {
        b"" if matches!(command, Command::Noop | Command::Quit) => Status::Ok,
        // A get among several misses without a word.
        b"" | b"EN" | b"NF" | b"NOT_FOUND" => Status::NotFound,
        b"EX" | b"EXISTS" => Status::Exists,
        b"NS" | b"NOT_STORED" => match command {
            Command::Add => Status::Exists,
            Command::Replace => Status::NotFound,
            _ => Status::NotStored,
        },
        b"ERROR" | b"CLIENT_ERROR" if command == Command::Stat => Status::NotFound,
        b"ERROR" => Status::UnknownCommand,
        b"CLIENT_ERROR" => match command {
            // memcached -F: the one command that can be forbidden.
            Command::Flush => Status::AuthError,
            Command::Increment | Command::Decrement if words.any(|word| word == b"non-numeric") => {
                Status::NotNumeric
            }
            _ => Status::Invalid,
        },
        b"SERVER_ERROR" => match error_text(said) {
            text if text.starts_with(b"object too large") => Status::TooLarge,
            text if text.starts_with(b"out of memory") => Status::OutOfMemory,
            _ => Status::Temporary,
        },
        _ => Status::Ok,
    }
}

/// What stands behind the first word of an error.
fn error_text(said: &[u8]) -> &[u8] {
    said.strip_prefix(b"SERVER_ERROR ")
        .unwrap_or(said)
        .trim_ascii_end()
}

/// The key as the client wrote it.
fn key_of<'a>(exchange: &'a Exchange, scratch: &'a mut [u8; KEY_LEN_MAX]) -> &'a [u8] {
    exchange.own_key(scratch)
}

/// The words of the first line. A key among them may hold a CR.
fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let line_len = memchr::memchr(b'\n', text).unwrap_or(text.len());
    let line = &text[..line_len];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.split(|&byte| byte == b' ')
}

fn number(digits: &[u8]) -> u64 {
    parse_unsigned(digits).unwrap_or(0)
}
