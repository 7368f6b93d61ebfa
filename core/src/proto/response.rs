//! One line of a backend's response.
//!
//! # Invariants
//!
//! - What is not understood is [`BadLine`], never a guess: the caller cannot know how many bytes
//!   belong to it, so it closes the connection.
//! - No line is longer than [`RESPONSE_LINE_LEN_MAX`], and cutting a line anywhere yields
//!   [`Parsed::NeedMore`].
//!
//! Not here: payloads, which request a line answers (`engine`).

use super::number::parse_digits;
use super::{KEY_LEN_MAX, Parsed, next_token};

/// Longest line of a response, its CR LF included. memcached writes its lines into 1,024 bytes.
pub const RESPONSE_LINE_LEN_MAX: usize = 2_048;

/// A backend sent what is no line of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadLine;

/// A line of a response, or why there is none.
pub type ParsedLine<'a> = Parsed<Line<'a>, BadLine>;

/// Looks for one line of a response at the start of `buf`.
#[must_use]
pub fn parse_line(buf: &[u8]) -> ParsedLine<'_> {
    let Some(line_end) = memchr::memchr(b'\n', &buf[..buf.len().min(RESPONSE_LINE_LEN_MAX)]) else {
        return if buf.len() < RESPONSE_LINE_LEN_MAX {
            Parsed::NeedMore
        } else {
            Parsed::Bad(BadLine)
        };
    };
    // A server always writes CR LF.
    let line = buf[..line_end].strip_suffix(b"\r").and_then(understood);
    line.map_or(Parsed::Bad(BadLine), |item| Parsed::Item {
        item,
        used: line_end + 1,
    })
}

/// Whether `buf` begins with the whole line `VALUE <key> <client flags> <len>` of this very key; yields the length of
/// the line and the bytes of its payload. A shortcut for the line that is by far the most frequent: `None` says
/// nothing, [`parse_line`] does.
#[must_use]
pub fn value_of(key: &[u8], buf: &[u8]) -> Option<(usize, u32)> {
    let behind_key = buf.strip_prefix(b"VALUE ")?.strip_prefix(key)?;
    let (_, behind_flags) = digits(behind_key.strip_prefix(b" ")?)?;
    let (value_len, end) = digits(behind_flags.strip_prefix(b" ")?)?;
    let payload = end.strip_prefix(b"\r\n")?;
    Some((buf.len() - payload.len(), value_len))
}

/// The number that `bytes` begin with, and what follows; `None` if it is one of more than 9 digits.
fn digits(bytes: &[u8]) -> Option<(u32, &[u8])> {
    const DIGITS_MAX: usize = 9;
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(DIGITS_MAX + 1) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return (at > 0).then_some((number, &bytes[at..]));
        }
        // Of the tenth digit, if there is one, the number is not looked at.
        number = number.wrapping_mul(10).wrapping_add(u32::from(digit));
    }
    None
}

fn understood(line: &[u8]) -> Option<Line<'_>> {
    let mut rest = line;
    let line = match next_token(&mut rest)? {
        b"VALUE" => value(rest)?,
        b"END" => bare(rest, Line::End)?,
        b"HD" => Line::MetaHeader(trimmed(rest)),
        b"VA" => meta_value(rest)?,
        b"EN" => Line::MetaMiss(trimmed(rest)),
        b"STORED" => bare(rest, Line::Stored)?,
        b"DELETED" => bare(rest, Line::Deleted)?,
        b"NOT_FOUND" => bare(rest, Line::NotFound)?,
        b"NOT_STORED" => bare(rest, Line::NotStored)?,
        b"EXISTS" => bare(rest, Line::Exists)?,
        b"TOUCHED" => bare(rest, Line::Touched)?,
        b"OK" => bare(rest, Line::Ok)?,
        b"NS" => Line::MetaNotStored(trimmed(rest)),
        b"EX" => Line::MetaExists(trimmed(rest)),
        b"NF" => Line::MetaNotFound(trimmed(rest)),
        b"MN" => bare(rest, Line::MetaNoop)?,
        b"ME" => Line::MetaDebug(trimmed(rest)),
        b"STAT" => stat(rest)?,
        b"RESET" => bare(rest, Line::Reset)?,
        b"VERSION" => Line::Version(trimmed(rest)),
        // With a text: "ERROR Too many open connections", sent before the connection is closed.
        b"ERROR" => Line::Error,
        b"CLIENT_ERROR" => Line::ClientError(trimmed(rest)),
        b"SERVER_ERROR" => Line::ServerError(trimmed(rest)),
        digits => bare(rest, Line::Number(parse_digits(digits).map(|_| digits)?))?,
    };
    Some(line)
}

fn bare<'a>(rest: &[u8], line: Line<'a>) -> Option<Line<'a>> {
    rest.is_empty().then_some(line)
}

/// `<key> <client flags> <len> [<cas>]`.
fn value(rest: &[u8]) -> Option<Line<'_>> {
    let mut rest = rest;
    let key = next_token(&mut rest).filter(|key| key.len() <= KEY_LEN_MAX)?;
    parse_digits(next_token(&mut rest)?)?;
    let value_len = parse_len(next_token(&mut rest)?)?;
    let cas = next_token(&mut rest).unwrap_or_default();
    let valid = (cas.is_empty() || parse_digits(cas).is_some()) && rest.is_empty();
    valid.then_some(Line::Value {
        key,
        value_len,
        cas,
    })
}

/// `<len> <flags>*`.
fn meta_value(rest: &[u8]) -> Option<Line<'_>> {
    let mut rest = rest;
    let value_len = parse_len(next_token(&mut rest)?)?;
    Some(Line::MetaValue {
        value_len,
        flags: trimmed(rest),
    })
}

/// `<name> <value>`.
fn stat(rest: &[u8]) -> Option<Line<'_>> {
    let mut rest = rest;
    let name = next_token(&mut rest)?;
    Some(Line::Stat {
        name,
        value: trimmed(rest),
    })
}

fn parse_len(token: &[u8]) -> Option<u32> {
    u32::try_from(parse_digits(token)?).ok()
}

/// Without the blank that separates it from what stands before.
fn trimmed(rest: &[u8]) -> &[u8] {
    rest.strip_prefix(b" ").unwrap_or(rest)
}

/// What a backend's line says. A value's payload follows its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// `VALUE <key> <client flags> <len> [<cas>]`; `len + 2` bytes follow.
    Value {
        /// The key.
        key: &'a [u8],
        /// Payload bytes, CR LF not counted.
        value_len: u32,
        /// The CAS unique of a `gets`, as digits; empty otherwise.
        cas: &'a [u8],
    },
    /// `END`.
    End,
    /// `STORED`.
    Stored,
    /// `NOT_STORED`.
    NotStored,
    /// `EXISTS`.
    Exists,
    /// `NOT_FOUND`.
    NotFound,
    /// `DELETED`.
    Deleted,
    /// `TOUCHED`.
    Touched,
    /// `OK`.
    Ok,
    /// `RESET`.
    Reset,
    /// Digits: the answer to `incr` and `decr`.
    Number(&'a [u8]),
    /// `VERSION <text>`.
    Version(&'a [u8]),
    /// `STAT <name> <value>`.
    Stat {
        /// Name.
        name: &'a [u8],
        /// Value, which may hold blanks or be empty.
        value: &'a [u8],
    },
    /// `VA <len> <flags>`; `len + 2` bytes follow.
    MetaValue {
        /// Payload bytes, CR LF not counted.
        value_len: u32,
        /// Return flags.
        flags: &'a [u8],
    },
    /// `HD <flags>`.
    MetaHeader(&'a [u8]),
    /// `EN <flags>` of `mg` and `me`: a miss. The flags are the opaque and the key asked for.
    MetaMiss(&'a [u8]),
    /// `NS <flags>`.
    MetaNotStored(&'a [u8]),
    /// `EX <flags>`.
    MetaExists(&'a [u8]),
    /// `NF <flags>`.
    MetaNotFound(&'a [u8]),
    /// `MN`.
    MetaNoop,
    /// `ME <key> <k=v>*`.
    MetaDebug(&'a [u8]),
    /// `ERROR`, with or without a text.
    Error,
    /// `CLIENT_ERROR <text>`.
    ClientError(&'a [u8]),
    /// `SERVER_ERROR <text>`.
    ServerError(&'a [u8]),
}
