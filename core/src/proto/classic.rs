//! Lines of the classic protocol, and which lines are meta.
//!
//! Arguments are counted and checked in memcached's own order, so that a line with several faults
//! gets the answer that memcached gives. Verbs, keys and `noreply` are case-sensitive; any number of
//! blanks may stand before, between and behind arguments.
//!
//! # Invariants
//!
//! - Where the end of a refused command's payload is known, `swallow` covers it. Where it is not, the
//!   error does not keep framing: a payload is never read as commands. (memcached 1.6.18 does that;
//!   who can choose a key or a value can then choose commands.)
//! - No key, `stats` argument or meta flag of an accepted request holds a NUL: memcached ends a line
//!   there.
//! - The outcome does not depend on how the bytes were cut into reads: a line is measured against its
//!   limit whether its end has arrived or not.
//!
//! Not here: flags of meta commands (`meta`), forms of numbers (`number`).

use super::number::{is_signed, is_unsigned, parse_value_len};
use super::{
    ArithVerb, Bad, GetVerb, KEY_LEN_MAX, Keys, ParseLimits, Parsed, ProtoError, Request, Store,
    StoreVerb, Told, meta, next_token,
};

/// Why a line is not forwarded: [`Bad`] without the length of the line.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) error: ProtoError,
    pub(super) swallow: u64,
    pub(super) told: Told,
}

impl From<ProtoError> for Refusal {
    fn from(error: ProtoError) -> Self {
        Self {
            error,
            swallow: 0,
            told: Told::Yes,
        }
    }
}

pub(super) type Outcome<'a> = Result<Request<'a>, Refusal>;

/// Looks for one classic or meta request at the start of `buf`.
pub(super) fn parse_request<'a>(buf: &'a [u8], limits: &ParseLimits) -> Parsed<Request<'a>> {
    let line_end = memchr::memchr(b'\n', buf);
    // With its LF, or with the one byte at least that must follow.
    let line_len_min = line_end.unwrap_or(buf.len()) + 1;
    if line_len_min > limits.request_line_len_max {
        let line_len_max = line_len_max(buf, limits);
        if line_len_min > line_len_max {
            return Parsed::Bad(Bad {
                error: ProtoError::LineTooLong,
                used: line_len_max.min(buf.len()),
                swallow: 0,
                told: Told::Yes,
            });
        }
    }
    let Some(line_end) = line_end else {
        return Parsed::NeedMore;
    };
    // memcached ends a line at LF and forgives a missing CR.
    let line = buf[..line_end]
        .strip_suffix(b"\r")
        .unwrap_or(&buf[..line_end]);
    let used = line_end + 1;
    match parse_line(line, limits) {
        Ok(item) => Parsed::Item { item, used },
        Err(Refusal {
            error,
            swallow,
            told,
        }) => Parsed::Bad(Bad {
            error,
            used,
            swallow,
            told,
        }),
    }
}

/// How long the line at the start of `buf` may be. Only lines that list keys may be long, and the
/// verb must show before the short limit, so that the answer is the same for every cut behind it.
fn line_len_max(buf: &[u8], limits: &ParseLimits) -> usize {
    let mut rest = &buf[..buf.len().min(limits.request_line_len_max)];
    match next_token(&mut rest) {
        Some(b"get" | b"gets" | b"gat" | b"gats") => limits.get_line_len_max,
        _ => limits.request_line_len_max,
    }
}

fn parse_line<'a>(line: &'a [u8], limits: &ParseLimits) -> Outcome<'a> {
    let mut rest = line;
    match next_token(&mut rest) {
        Some(b"get") => get(GetVerb::Get, rest),
        Some(b"set") => store(StoreVerb::Set, rest, limits),
        Some(b"mg") => meta::parse_get(rest),
        Some(b"gets") => get(GetVerb::Gets, rest),
        Some(b"gat") => get_and_touch(GetVerb::Get, rest),
        Some(b"gats") => get_and_touch(GetVerb::Gets, rest),
        Some(b"ms") => meta::parse_set(rest, limits),
        Some(b"md") => meta::parse_delete(rest),
        Some(b"ma") => meta::parse_arith(rest),
        Some(b"me") => meta::parse_debug(rest),
        Some(b"mn") => Ok(Request::MetaNoop),
        Some(b"add") => store(StoreVerb::Add, rest, limits),
        Some(b"replace") => store(StoreVerb::Replace, rest, limits),
        Some(b"append") => store(StoreVerb::Append, rest, limits),
        Some(b"prepend") => store(StoreVerb::Prepend, rest, limits),
        Some(b"cas") => store(StoreVerb::Cas, rest, limits),
        Some(b"delete") => delete(rest),
        Some(b"incr") => arith(ArithVerb::Incr, rest),
        Some(b"decr") => arith(ArithVerb::Decr, rest),
        Some(b"touch") => touch(rest),
        Some(b"flush_all") => flush_all(rest),
        Some(b"version") => Ok(Request::Version),
        Some(b"verbosity") => verbosity(rest),
        Some(b"stats") => stats(rest),
        Some(b"quit") => Ok(Request::Quit),
        Some(b"config") => config(line, rest),
        // A name from before 2007 that memcached still takes as `get`.
        Some(b"bget") => get(GetVerb::Get, rest),
        Some(_) | None => Err(unknown(line).into()),
    }
}

fn get(verb: GetVerb, rest: &[u8]) -> Outcome<'_> {
    if rest.iter().all(|&byte| byte == b' ') {
        return Err(ProtoError::UnknownCommand.into());
    }
    Ok(Request::Get {
        verb,
        keys: checked_keys(rest)?,
    })
}

/// Anything but `config get KEY` is as unknown as it is to memcached.
fn config<'a>(line: &'a [u8], mut rest: &'a [u8]) -> Outcome<'a> {
    let words = [(); 3].map(|()| next_token(&mut rest));
    match words {
        [Some(b"get"), Some(key), None] if is_key(key) => Ok(Request::Config { key }),
        _ => Err(unknown(line).into()),
    }
}

fn get_and_touch(verb: GetVerb, rest: &[u8]) -> Outcome<'_> {
    let mut keys = rest;
    let Some(exptime) = next_token(&mut keys) else {
        return Err(ProtoError::UnknownCommand.into());
    };
    // Zeros before a number may be any number of bytes, and this line may be long. No server reads that
    // many: memcached hangs up on a gat of 16 KiB.
    if !is_signed(exptime) || exptime.len() > KEY_LEN_MAX {
        return Err(ProtoError::BadExptime.into());
    }
    if keys.iter().all(|&byte| byte == b' ') {
        return Err(ProtoError::BadFormat.into());
    }
    Ok(Request::GetAndTouch {
        verb,
        exptime,
        keys: checked_keys(keys)?,
    })
}

fn checked_keys(list: &[u8]) -> Result<Keys<'_>, Refusal> {
    if memchr::memchr(0, list).is_some() || Keys(list).any(|key| key.len() > KEY_LEN_MAX) {
        return Err(ProtoError::BadFormat.into());
    }
    Ok(Keys(list))
}

fn store<'a>(verb: StoreVerb, rest: &'a [u8], limits: &ParseLimits) -> Outcome<'a> {
    let (args, count) = split_args::<6>(rest);
    let required = if verb == StoreVerb::Cas { 5 } else { 4 };
    if count != required && count != required + 1 {
        return Err(ProtoError::StoreUsage.into());
    }
    let noreply = args[count - 1] == b"noreply";
    let told = told(noreply);
    let [key, client_flags, exptime, len, cas, _] = args;
    let cas = if verb == StoreVerb::Cas { cas } else { b"" };

    let Some(value_len) = parse_value_len(len) else {
        return Err(Refusal {
            error: ProtoError::StoreLength,
            swallow: 0,
            told,
        });
    };
    let valid = is_key(key)
        && is_unsigned(client_flags)
        && is_signed(exptime)
        && (verb != StoreVerb::Cas || is_unsigned(cas));
    if !valid {
        // `set my key 0 0 5`: with a blank in the key every later argument has moved, and what
        // stands in the length's place is not the length.
        if count > required && !noreply {
            return Err(Refusal {
                error: ProtoError::StoreLength,
                swallow: 0,
                told,
            });
        }
        return Err(with_payload(ProtoError::BadFormat, value_len, told));
    }
    if value_len > limits.value_len_max {
        return Err(with_payload(ProtoError::TooLarge, value_len, told));
    }
    Ok(Request::Store(Store {
        verb,
        key,
        client_flags,
        exptime,
        value_len,
        cas,
        noreply,
    }))
}

/// A refusal of a command whose payload of `value_len` bytes and CR LF follows.
pub(super) fn with_payload(error: ProtoError, value_len: u32, told: Told) -> Refusal {
    Refusal {
        error,
        swallow: u64::from(value_len) + 2,
        told,
    }
}

fn delete(rest: &[u8]) -> Outcome<'_> {
    let (args, count) = split_args::<3>(rest);
    // The 0 is the hold time that servers before 1.4 knew.
    let noreply = match (count, args) {
        (1, _) | (2, [_, b"0", _]) => false,
        (2, [_, b"noreply", _]) | (3, [_, b"0", b"noreply"]) => true,
        (2 | 3, _) => {
            return Err(refuse(
                ProtoError::DeleteUsage,
                args[count - 1] == b"noreply",
            ));
        }
        _ => return Err(ProtoError::UnknownCommand.into()),
    };
    if !is_key(args[0]) {
        return Err(refuse(ProtoError::BadFormat, noreply));
    }
    Ok(Request::Delete {
        key: args[0],
        noreply,
    })
}

fn arith(verb: ArithVerb, rest: &[u8]) -> Outcome<'_> {
    let ([key, delta], noreply) = keyed_number(rest)?;
    if !is_unsigned(delta) {
        return Err(refuse(ProtoError::BadDelta, noreply));
    }
    Ok(Request::Arith {
        verb,
        key,
        delta,
        noreply,
    })
}

fn touch(rest: &[u8]) -> Outcome<'_> {
    let ([key, exptime], noreply) = keyed_number(rest)?;
    if !is_signed(exptime) {
        return Err(refuse(ProtoError::BadExptime, noreply));
    }
    Ok(Request::Touch {
        key,
        exptime,
        noreply,
    })
}

/// `<key> <number> [noreply]`, the number not yet checked. As with memcached the last argument is
/// looked at whatever it is, so `touch k noreply` hides the complaint about its exptime.
fn keyed_number(rest: &[u8]) -> Result<([&[u8]; 2], bool), Refusal> {
    let (args, count) = split_args::<3>(rest);
    if count != 2 && count != 3 {
        return Err(ProtoError::UnknownCommand.into());
    }
    let noreply = args[count - 1] == b"noreply";
    if !is_key(args[0]) {
        return Err(refuse(ProtoError::BadFormat, noreply));
    }
    Ok(([args[0], args[1]], noreply))
}

fn flush_all(rest: &[u8]) -> Outcome<'_> {
    let (args, count) = split_args::<2>(rest);
    let (delay, noreply) = match (count, args) {
        (0, _) => {
            return Ok(Request::FlushAll {
                delay: b"",
                noreply: false,
            });
        }
        (1, [b"noreply", _]) => {
            return Ok(Request::FlushAll {
                delay: b"",
                noreply: true,
            });
        }
        (1 | 2, [delay, _]) => (delay, args[count - 1] == b"noreply"),
        _ => return Err(ProtoError::UnknownCommand.into()),
    };
    if !is_signed(delay) {
        return Err(refuse(ProtoError::BadExptime, noreply));
    }
    Ok(Request::FlushAll { delay, noreply })
}

fn verbosity(rest: &[u8]) -> Outcome<'_> {
    let (args, count) = split_args::<2>(rest);
    if count != 1 && count != 2 {
        return Err(ProtoError::UnknownCommand.into());
    }
    let noreply = args[count - 1] == b"noreply";
    if !is_unsigned(args[0]) {
        return Err(refuse(ProtoError::BadFormat, noreply));
    }
    Ok(Request::Verbosity { noreply })
}

fn stats(rest: &[u8]) -> Outcome<'_> {
    if rest.contains(&0) {
        return Err(ProtoError::BadFormat.into());
    }
    let start = rest
        .iter()
        .position(|&byte| byte != b' ')
        .unwrap_or(rest.len());
    let end = rest
        .iter()
        .rposition(|&byte| byte != b' ')
        .map_or(start, |last| last + 1);
    Ok(Request::Stats {
        args: &rest[start..end],
    })
}

/// A web page can make a browser send lines of its choice to any port, behind its own request line.
/// That line ends in `HTTP/1.1`; like memcached we hang up on it.
fn unknown(line: &[u8]) -> ProtoError {
    let last = Keys(line).last().unwrap_or_default();
    if last.starts_with(b"HTTP/") {
        ProtoError::HttpRequest
    } else {
        ProtoError::UnknownCommand
    }
}

pub(super) fn is_key(token: &[u8]) -> bool {
    token.len() <= KEY_LEN_MAX && memchr::memchr(0, token).is_none()
}

/// The first `N` arguments, absent ones empty, and how many there are; `N + 1` stands for more.
fn split_args<const N: usize>(line: &[u8]) -> ([&[u8]; N], usize) {
    let mut args: [&[u8]; N] = [b""; N];
    let mut rest = line;
    let mut count = 0;
    while let Some(token) = next_token(&mut rest) {
        count += 1;
        if count > N {
            break;
        }
        args[count - 1] = token;
    }
    (args, count)
}

const fn told(noreply: bool) -> Told {
    if noreply { Told::No } else { Told::Yes }
}

const fn refuse(error: ProtoError, noreply: bool) -> Refusal {
    Refusal {
        error,
        swallow: 0,
        told: told(noreply),
    }
}
