//! Requests as bytes, and answers checked byte for byte.
//!
//! # Invariants
//!
//! - `Checker` accepts nothing but the one right answer, a miss, or an error line. Whatever else
//!   comes is `Wrong`: after it nobody knows where the next answer starts, so the run ends.
//! - A checker's memory does not grow with the values: only an unfinished line is kept.
//!
//! Not here: sockets and time (`generator`), what is stored (`keys`).

use std::fmt;

use crate::keys::{Keys, Share};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Classic `get` of one or more keys.
    Get,
    /// `mg <key> v f`.
    MetaGet,
    /// `Get` of the binary protocol.
    BinaryGet,
    /// Classic `set` of the value that the key has anyway, so that gets can go on beside it.
    Set,
}

/// A request that waits for its answer.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) command: Command,
    /// The place in the connection's share of the first key; the others follow it.
    pub(crate) first: u32,
    pub(crate) key_count: u32,
    /// When it was sent, or with a fixed rate: when it should have been. Nanoseconds from the
    /// start of the run.
    pub(crate) start_ns: u64,
    /// The keys already answered.
    seen: Seen,
}

impl Request {
    pub(crate) fn new(command: Command, first: u32, key_count: u32, start_ns: u64) -> Self {
        assert!(
            (1..=KEYS_PER_REQUEST_MAX).contains(&key_count),
            "{key_count} keys in a request"
        );
        Self {
            command,
            first,
            key_count,
            start_ns,
            seen: Seen::default(),
        }
    }

    /// Appends the bytes of this request to `out`.
    pub(crate) fn encode(&self, keys: &Keys, share: Share, out: &mut Vec<u8>) {
        let index = share.index(self.first);
        match self.command {
            Command::Get => {
                out.extend_from_slice(b"get");
                for nth in 0..self.key_count {
                    out.push(b' ');
                    keys.write_key(share.index(self.first + nth), out);
                }
            }
            Command::MetaGet => {
                out.extend_from_slice(b"mg ");
                keys.write_key(index, out);
                out.extend_from_slice(b" v f");
            }
            Command::BinaryGet => {
                let start = out.len();
                out.extend_from_slice(&[0; PACKET_HEADER_LEN]);
                keys.write_key(index, out);
                let key_len = out.len() - start - PACKET_HEADER_LEN;
                let key_len = u8::try_from(key_len).expect("keys are short");
                let header = &mut out[start..];
                (header[0], header[3], header[11]) = (0x80, key_len, key_len);
                // The opaque.
                header[12..16].copy_from_slice(&index.to_be_bytes());
                return;
            }
            Command::Set => {
                out.extend_from_slice(b"set ");
                keys.write_key(index, out);
                let rest = format!(" {} 0 {}\r\n", Keys::client_flags(index), keys.value_len());
                out.extend_from_slice(rest.as_bytes());
                out.extend_from_slice(keys.value(index));
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Notes that key `index` was answered; refuses one that was not asked for or came before.
    fn mark_seen(&mut self, share: Share, index: u32) -> Result<(), &'static str> {
        let not_asked = "a key that was not asked for";
        let nth = share.nth(index).ok_or(not_asked)?;
        let offset = (nth + share.count() - self.first % share.count()) % share.count();
        if offset >= self.key_count {
            return Err(not_asked);
        }
        if !self.seen.insert(offset) {
            return Err("the same key twice");
        }
        Ok(())
    }
}

/// Which of a request's keys have been answered: bit n for `first + n`.
#[derive(Clone, Debug, Default)]
struct Seen {
    first: u128,
    /// Empty, and so not allocated, where the keys are few.
    more: Vec<u128>,
}

impl Seen {
    /// Notes key `offset`; whether it was not noted before.
    fn insert(&mut self, offset: u32) -> bool {
        let word = usize::try_from(offset / u128::BITS).expect("u32 fits usize on Linux");
        let bits = match word.checked_sub(1) {
            None => &mut self.first,
            Some(index) => {
                if self.more.len() <= index {
                    self.more.resize(index + 1, 0);
                }
                &mut self.more[index]
            }
        };
        let bit = 1 << (offset % u128::BITS);
        let fresh = *bits & bit == 0;
        *bits |= bit;
        fresh
    }

    fn count(&self) -> u32 {
        let more = self.more.iter().map(|bits| bits.count_ones());
        self.first.count_ones() + more.sum::<u32>()
    }
}

/// A complete answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A get was answered, with this many of its keys.
    Values {
        hits: u32,
        misses: u32,
    },
    Stored,
    /// `ERROR`, `CLIENT_ERROR …`, `SERVER_ERROR …` or a refused set.
    Error(String),
}

/// An answer that no memcached may give to the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    what: String,
}

impl Wrong {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }

    fn line(what: &str, line: &[u8]) -> Self {
        Self::new(format!("{what}: \"{}\"", excerpt(line)))
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wrong answer: {}", self.what)
    }
}

impl std::error::Error for Wrong {}

/// Reads the answers of one connection, in any cut.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    state: State,
    /// The start of a line whose end has not come yet.
    partial: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Line,
    /// Within the value of key `index` or the line end behind it; `at` bytes are checked.
    Value { index: u32, at: usize },
}

impl Checker {
    /// Checks `bytes` against the answer to `request` and says how many it used. The answer is
    /// `None` while more bytes are needed; then all were used.
    pub(crate) fn check(
        &mut self,
        keys: &Keys,
        share: Share,
        request: &mut Request,
        bytes: &[u8],
    ) -> Result<(usize, Option<Answer>), Wrong> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            match self.state {
                State::Line if request.command == Command::BinaryGet => {
                    let len = packet_len(&self.partial) - self.partial.len();
                    let (part, _) = rest.split_at(len.min(rest.len()));
                    self.partial.extend_from_slice(part);
                    used += part.len();
                    if self.partial.len() < packet_len(&self.partial) {
                        if used == bytes.len() {
                            return Ok((used, None));
                        }
                        continue;
                    }
                    let packet = std::mem::take(&mut self.partial);
                    let answer = self.on_packet(keys, share, request, &packet)?;
                    if answer.is_some() {
                        return Ok((used, answer));
                    }
                }
                State::Line => {
                    let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
                        self.partial.extend_from_slice(rest);
                        if self.partial.len() > LINE_LEN_MAX {
                            return Err(Wrong::line("a line without end", &self.partial));
                        }
                        return Ok((bytes.len(), None));
                    };
                    used += end + 1;
                    let answer = if self.partial.is_empty() {
                        self.on_line(keys, share, request, &rest[..=end])?
                    } else {
                        let mut line = std::mem::take(&mut self.partial);
                        line.extend_from_slice(&rest[..=end]);
                        self.on_line(keys, share, request, &line)?
                    };
                    if answer.is_some() {
                        return Ok((used, answer));
                    }
                }
                State::Value { index, at } => {
                    let end: &[u8] = match request.command {
                        Command::BinaryGet => b"",
                        Command::Get | Command::MetaGet | Command::Set => CRLF,
                    };
                    let checked = check_value(keys, index, at, rest, end)?;
                    used += checked;
                    let at = at + checked;
                    if at < keys.value_len() + end.len() {
                        self.state = State::Value { index, at };
                        return Ok((used, None));
                    }
                    self.state = State::Line;
                    if matches!(request.command, Command::MetaGet | Command::BinaryGet) {
                        return Ok((used, Some(Answer::Values { hits: 1, misses: 0 })));
                    }
                }
            }
        }
    }

    /// Handles one line, its end included.
    fn on_line(
        &mut self,
        keys: &Keys,
        share: Share,
        request: &mut Request,
        line: &[u8],
    ) -> Result<Option<Answer>, Wrong> {
        let Some(text) = line.strip_suffix(CRLF) else {
            return Err(Wrong::line("a line that does not end in CR LF", line));
        };
        if is_error(text) {
            return Ok(Some(Answer::Error(excerpt(text))));
        }
        match request.command {
            Command::Get => self.on_get_line(keys, share, request, text),
            Command::MetaGet => self.on_meta_line(keys, share, request, text),
            Command::BinaryGet => unreachable!("its answers are no lines"),
            Command::Set => match text {
                b"STORED" => Ok(Some(Answer::Stored)),
                b"NOT_STORED" => Ok(Some(Answer::Error(excerpt(text)))),
                _ => Err(Wrong::line("not an answer to a set", text)),
            },
        }
    }

    fn on_get_line(
        &mut self,
        keys: &Keys,
        share: Share,
        request: &mut Request,
        text: &[u8],
    ) -> Result<Option<Answer>, Wrong> {
        if text == b"END" {
            let hits = request.seen.count();
            return Ok(Some(Answer::Values {
                hits,
                misses: request.key_count - hits,
            }));
        }
        let Some(header) = text.strip_prefix(b"VALUE ") else {
            return Err(Wrong::line("not an answer to a get", text));
        };
        let key_len = header
            .iter()
            .position(|&byte| byte == b' ')
            .unwrap_or(header.len());
        let (key, numbers) = header.split_at(key_len);
        let Some(index) = keys.index_of(key) else {
            return Err(Wrong::line("an unknown key", text));
        };
        request
            .mark_seen(share, index)
            .map_err(|what| Wrong::line(what, text))?;
        if parse_numbers(numbers) != Some([Keys::client_flags(index).into(), len_of(keys)]) {
            return Err(Wrong::line("wrong flags or length", text));
        }
        self.state = State::Value { index, at: 0 };
        Ok(None)
    }

    fn on_meta_line(
        &mut self,
        keys: &Keys,
        share: Share,
        request: &mut Request,
        text: &[u8],
    ) -> Result<Option<Answer>, Wrong> {
        if text == b"EN" {
            return Ok(Some(Answer::Values { hits: 0, misses: 1 }));
        }
        let index = share.index(request.first);
        let expected = format!("VA {} f{}", keys.value_len(), Keys::client_flags(index));
        if text != expected.as_bytes() {
            return Err(Wrong::line(&format!("not \"{expected}\""), text));
        }
        self.state = State::Value { index, at: 0 };
        Ok(None)
    }

    /// Handles a packet, or the part of it before its value.
    fn on_packet(
        &mut self,
        keys: &Keys,
        share: Share,
        request: &Request,
        packet: &[u8],
    ) -> Result<Option<Answer>, Wrong> {
        let wrong = |what: &str| Wrong::line(what, packet);
        let number = |range: std::ops::Range<usize>| {
            let digits = packet[range].iter();
            digits.fold(0, |sum, &byte| sum << 8 | u64::from(byte))
        };
        let index = share.index(request.first);
        if packet[..2] != [0x81, 0] || number(12..16) != u64::from(index) {
            return Err(wrong("not an answer to this packet"));
        }
        match number(6..8) {
            0 => {}
            1 => return Ok(Some(Answer::Values { hits: 0, misses: 1 })),
            _ => {
                let text = excerpt(&packet[PACKET_HEADER_LEN..]);
                return Ok(Some(Answer::Error(text)));
            }
        }
        let flags = Keys::client_flags(index).to_be_bytes();
        if packet[PACKET_HEADER_LEN..] != flags || number(8..12) != len_of(keys) + 4 {
            return Err(wrong("wrong flags or length"));
        }
        self.state = State::Value { index, at: 0 };
        Ok(None)
    }
}

/// Bytes of a packet of which `start` has come: of one with a value, up to that.
fn packet_len(start: &[u8]) -> usize {
    match start.get(..PACKET_HEADER_LEN) {
        None => PACKET_HEADER_LEN,
        Some([_, _, _, _, extras_len, _, 0, 0, ..]) => PACKET_HEADER_LEN + usize::from(*extras_len),
        // An error has a short text.
        Some(header) => PACKET_HEADER_LEN + usize::from(header[11]),
    }
}

/// Compares as much of `bytes` as belongs to the value of `index` or `end` behind it, of which `at`
/// bytes came before.
fn check_value(
    keys: &Keys,
    index: u32,
    at: usize,
    bytes: &[u8],
    end: &[u8],
) -> Result<usize, Wrong> {
    let value = keys.value(index);
    let mut used = 0;
    if at < value.len() {
        used = bytes.len().min(value.len() - at);
        if bytes[..used] != value[at..at + used] {
            let differs = value[at..]
                .iter()
                .zip(bytes)
                .position(|(want, have)| want != have);
            let place = at + differs.unwrap_or(0);
            return Err(Wrong::new(format!(
                "the value of key {index} differs at byte {place} of {}",
                value.len()
            )));
        }
    }
    if let Some(line_end_at) = (at + used).checked_sub(value.len()) {
        let expected = &end[line_end_at..];
        let count = expected.len().min(bytes.len() - used);
        let line_end = &bytes[used..used + count];
        if line_end != &expected[..count] {
            return Err(Wrong::line("no line end behind a value", line_end));
        }
        used += count;
    }
    Ok(used)
}

/// Reads ` <number> <number>` and nothing else.
fn parse_numbers(text: &[u8]) -> Option<[u64; 2]> {
    let text = std::str::from_utf8(text.strip_prefix(b" ")?).ok()?;
    let (first, second) = text.split_once(' ')?;
    Some([first.parse().ok()?, second.parse().ok()?])
}

fn len_of(keys: &Keys) -> u64 {
    u64::try_from(keys.value_len()).expect("a length fits u64")
}

fn is_error(text: &[u8]) -> bool {
    text == b"ERROR" || text.starts_with(b"CLIENT_ERROR ") || text.starts_with(b"SERVER_ERROR ")
}

/// The start of `bytes`, fit for a message.
fn excerpt(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(EXCERPT_LEN_MAX)]
        .escape_ascii()
        .to_string()
}

const CRLF: &[u8] = b"\r\n";

const PACKET_HEADER_LEN: usize = 24;

/// Keys in one request.
pub(crate) const KEYS_PER_REQUEST_MAX: u32 = 100_000;

/// Longest line of an answer: `VALUE`, a key of 250 bytes, two numbers, with room to spare.
const LINE_LEN_MAX: usize = 1_024;

/// Bytes of a wrong line that a message shows.
const EXCERPT_LEN_MAX: usize = 80;

#[cfg(test)]
mod tests;
