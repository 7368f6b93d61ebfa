//! Lines of the meta protocol: their flags, and how they are written to backends.
//!
//! [`FLAGS`] is the one list of flags. memcached checks a flag's token wherever the flag stands and
//! ignores a flag that means nothing to the command; so does this parser.
//!
//! # Invariants
//!
//! - Flags are checked in memcached's order, so that a line with several faults gets the answer that
//!   memcached gives.
//! - An accepted line keeps a backend's framing whatever its version: one that does not know a flag
//!   answers one error line and, for `ms`, swallows the payload.
//!
//! Not here: which flags make a command conditional (`engine`), lines without a key (`classic`).

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};

use super::classic::{Outcome, is_key, with_payload};
use super::number::{encode_decimal, is_signed, is_unsigned, parse_value_len};
use super::{
    KEY_LEN_MAX, Keys, Letters, Meta, MetaVerb, ParseLimits, ProtoError, Request, Told, next_token,
};

/// What a flag's token must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// None; one that is there is ignored.
    None,
    /// A time: a signed number.
    Time,
    /// An unsigned number.
    Number,
    /// One character.
    Mode,
    /// At most [`OPAQUE_LEN_MAX`] characters.
    Opaque,
    /// Anything.
    Any,
}

/// What a flag is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Changes what the command does.
    Effect,
    /// Asks for something in the response and changes nothing.
    Reply,
    /// Belongs to the client's edge or to the authority alone: never repeated on another backend.
    Edge,
}

/// A flag of the meta commands.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Its letter.
    pub letter: u8,
    /// The commands that it means something to.
    pub verbs: &'static [MetaVerb],
    /// What stands behind the letter.
    pub token: Token,
    /// What it is for.
    pub purpose: Purpose,
    /// The first memcached that knows it.
    pub since: &'static str,
    /// What it does, for the documentation.
    pub doc: &'static str,
}

macro_rules! flags {
    ($($letter:literal [$($verb:ident)*] $token:ident $purpose:ident $since:literal $doc:literal;)+) => {
        /// Every flag that some memcached knows.
        pub const FLAGS: &[Flag] = &[$(Flag {
            letter: $letter,
            verbs: &[$(MetaVerb::$verb),*],
            token: Token::$token,
            purpose: Purpose::$purpose,
            since: $since,
            doc: $doc,
        },)+];
    };
}

flags! {
    b'b' [Get Set Delete Arith Debug] None Effect "1.6.10" "the key is base64";
    b'c' [Get Set Arith] None Reply "1.6.0" "return the CAS unique";
    b'f' [Get] None Reply "1.6.0" "return the client flags";
    b'h' [Get] None Reply "1.6.0" "return whether the item was read before";
    b'k' [Get Set Delete Arith] None Edge "1.6.0" "return the key";
    b'l' [Get] None Reply "1.6.0" "return the seconds since the last access";
    b'q' [Get Set Delete Arith] None Edge "1.6.0" "quiet: no response for the ordinary outcome";
    b's' [Get Set] None Reply "1.6.0" "return the length of the value";
    b't' [Get Arith] None Reply "1.6.0" "return the remaining TTL";
    b'u' [Get] None Effect "1.6.0" "do not count as an access";
    b'v' [Get Arith] None Reply "1.6.0" "return the value";
    b'x' [Delete] None Effect "1.6.27" "empty the value and keep the item";
    b'C' [Get Set Delete Arith] Number Edge "1.6.0" "only if the CAS unique is this";
    b'D' [Arith] Number Effect "1.6.0" "the delta";
    b'E' [Set Delete Arith] Number Edge "1.6.27" "the CAS unique that the item gets";
    b'F' [Set] Number Effect "1.6.0" "the client flags";
    b'I' [Set Delete] None Effect "1.6.0" "invalidate: mark stale";
    b'J' [Arith] Number Effect "1.6.0" "the initial value";
    b'L' [Get Set Delete Arith] Any Effect "1.6.14" "ignored by servers, a hint to routers";
    b'M' [Set Arith] Mode Effect "1.6.0" "the mode";
    b'N' [Get Set Arith] Time Effect "1.6.0" "vivify on a miss, with this TTL";
    b'O' [Get Set Delete Arith] Opaque Edge "1.6.0" "opaque: returned as it is";
    b'P' [Get Set Delete Arith] Any Effect "1.6.14" "ignored by servers, a hint to routers";
    b'R' [Get] Time Effect "1.6.0" "win the recache if the remaining TTL is below this";
    b'T' [Get Set Delete Arith] Time Effect "1.6.0" "the TTL";
}

/// Longest opaque, its letter not counted. memcached: `MFLAG_MAX_OPAQUE_LENGTH`, which counts it.
pub const OPAQUE_LEN_MAX: usize = 31;

/// Most flags of a line. memcached: `MFLAG_MAX_OPT_LENGTH` 20, of which verb, key and end take three.
pub const FLAGS_MAX: usize = 17;

/// Most flags of an `ms` line, whose length takes one more.
pub const FLAGS_OF_SET_MAX: usize = 16;

/// Position in [`FLAGS`] by letter, or [`NO_FLAG`].
const INDEX: [u8; 128] = {
    let mut index = [NO_FLAG; 128];
    let mut position = 0;
    while position < FLAGS.len() {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "there are fewer flags than letters"
        )]
        let entry = position as u8;
        index[FLAGS[position].letter as usize] = entry;
        position += 1;
    }
    index
};
const NO_FLAG: u8 = u8::MAX;

fn flag(letter: u8) -> Option<&'static Flag> {
    let position = *INDEX.get(usize::from(letter))?;
    FLAGS.get(usize::from(position))
}

pub(super) fn parse_get(rest: &[u8]) -> Outcome<'_> {
    keyed(MetaVerb::Get, rest)
}

pub(super) fn parse_delete(rest: &[u8]) -> Outcome<'_> {
    keyed(MetaVerb::Delete, rest)
}

pub(super) fn parse_arith(rest: &[u8]) -> Outcome<'_> {
    keyed(MetaVerb::Arith, rest)
}

fn keyed(verb: MetaVerb, rest: &[u8]) -> Outcome<'_> {
    let mut flags = rest;
    let Some(key) = next_token(&mut flags) else {
        return Err(ProtoError::UnknownCommand.into());
    };
    let letters = checked_flags(verb, key, flags)?;
    Ok(Request::Meta(Meta {
        verb,
        key,
        flags,
        letters,
        value_len: 0,
    }))
}

pub(super) fn parse_set<'a>(rest: &'a [u8], limits: &ParseLimits) -> Outcome<'a> {
    let mut flags = rest;
    let Some(key) = next_token(&mut flags) else {
        return Err(ProtoError::StoreUsage.into());
    };
    let Some(value_len) = next_token(&mut flags).and_then(parse_value_len) else {
        return Err(ProtoError::StoreLength.into());
    };
    let refuse = |error| Err(with_payload(error, value_len, Told::Yes));
    let letters = match checked_flags(MetaVerb::Set, key, flags) {
        Ok(letters) => letters,
        Err(error) => return refuse(error),
    };
    if value_len > limits.value_len_max {
        return refuse(ProtoError::TooLarge);
    }
    Ok(Request::Meta(Meta {
        verb: MetaVerb::Set,
        key,
        flags,
        letters,
        value_len,
    }))
}

/// `me` has no flags but a `b`, and that only right behind the key; memcached ignores what else is
/// there, a `b` that comes later included.
pub(super) fn parse_debug(rest: &[u8]) -> Outcome<'_> {
    let mut rest = rest;
    let Some(key) = next_token(&mut rest).filter(|key| is_key(key)) else {
        return Err(ProtoError::BadFormat.into());
    };
    let (flags, letters) = match next_token(&mut rest) {
        Some(flag @ b"b") if decodes(key) => (flag, Letters::of(b"b")),
        Some(b"b") => return Err(ProtoError::BadFormat.into()),
        _ => (&b""[..], Letters::default()),
    };
    Ok(Request::Meta(Meta {
        verb: MetaVerb::Debug,
        key,
        flags,
        letters,
        value_len: 0,
    }))
}

/// The letters of `flags`, or what memcached says of them and of `key`.
fn checked_flags(verb: MetaVerb, key: &[u8], flags: &[u8]) -> Result<Letters, ProtoError> {
    if !is_key(key) || memchr::memchr(0, flags).is_some() {
        return Err(ProtoError::BadFormat);
    }
    if flags.is_empty() {
        return Ok(Letters::default());
    }
    check_count(verb, flags)?;
    let letters = check_each(key, flags).map_err(|error| match verb {
        MetaVerb::Get | MetaVerb::Set | MetaVerb::Debug => error,
        MetaVerb::Delete | MetaVerb::Arith => ProtoError::BadFlags,
    })?;
    if letters.has(b'M') {
        check_mode(verb, flags)?;
    }
    if letters.has(b'O')
        && Keys(flags).any(|flag| flag[0] == b'O' && flag.len() > OPAQUE_LEN_MAX + 1)
    {
        return Err(ProtoError::OpaqueTooLong);
    }
    Ok(letters)
}

fn check_count(verb: MetaVerb, flags: &[u8]) -> Result<(), ProtoError> {
    let (count_max, error) = match verb {
        MetaVerb::Get | MetaVerb::Debug => (FLAGS_MAX, ProtoError::TooManyFlags),
        MetaVerb::Set => (FLAGS_OF_SET_MAX, ProtoError::TooManyWriteFlags),
        MetaVerb::Delete | MetaVerb::Arith => (FLAGS_MAX, ProtoError::TooManyWriteFlags),
    };
    // A flag takes a blank and a letter, so a short line need not be counted.
    if flags.len() > 2 * count_max && Keys(flags).count() > count_max {
        return Err(error);
    }
    Ok(())
}

/// memcached stops at a flag that is there twice or does not exist; of other faults it notes the
/// last one and goes on. A bad `F` has no text of its own: it leaves the note as it is.
fn check_each(key: &[u8], flags: &[u8]) -> Result<Letters, ProtoError> {
    let mut letters = Letters::default();
    let mut fault = None;
    for token in Keys(flags) {
        let (letter, argument) = (token[0], &token[1..]);
        // The letter 127 and all above count as seen.
        if letter >= 127 || letters.has(letter) {
            return Err(ProtoError::DuplicateFlag);
        }
        let Some(flag) = flag(letter) else {
            return Err(ProtoError::BadFlag);
        };
        letters = letters.with(letter);
        let valid = match flag.token {
            Token::Time => is_signed(argument),
            Token::Number => is_unsigned(argument),
            Token::Mode => argument.len() == 1,
            Token::None => letter != b'b' || decodes(key),
            Token::Opaque | Token::Any => true,
        };
        if valid {
            continue;
        }
        fault = match letter {
            b'F' => fault.or(Some(ProtoError::BadFormat)),
            b'b' => Some(ProtoError::BadKeyEncoding),
            b'M' => Some(ProtoError::BadModeLength),
            b'J' => Some(ProtoError::BadInitial),
            b'D' => Some(ProtoError::BadMetaDelta),
            _ => Some(ProtoError::BadToken),
        };
    }
    fault.map_or(Ok(letters), Err)
}

fn check_mode(verb: MetaVerb, flags: &[u8]) -> Result<(), ProtoError> {
    let mode = Keys(flags).find(|flag| flag[0] == b'M');
    match (verb, mode) {
        (MetaVerb::Set, Some(b"ME" | b"MA" | b"MP" | b"MR" | b"MS"))
        | (MetaVerb::Arith, Some(b"MI" | b"M+" | b"MD" | b"M-"))
        | (MetaVerb::Get | MetaVerb::Delete | MetaVerb::Debug, _) => Ok(()),
        (MetaVerb::Set, _) => Err(ProtoError::BadStoreMode),
        (MetaVerb::Arith, _) => Err(ProtoError::BadArithMode),
    }
}

/// Padding is demanded, as memcached does; bits that no byte needs may be anything. memcached also
/// skips characters that are not base64 and reads padding in odd places; such a key is refused here.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// A key token is at most 250 characters long, and four of them carry three bytes.
const DECODED_LEN_MAX: usize = KEY_LEN_MAX.div_ceil(4) * 3;
const _: () = assert!(DECODED_LEN_MAX <= KEY_LEN_MAX);

fn decodes(key: &[u8]) -> bool {
    let mut scratch = [0; KEY_LEN_MAX];
    key.len() <= KEY_LEN_MAX
        && BASE64
            .decode_slice(key, &mut scratch)
            .is_ok_and(|len| len > 0)
}

/// The bytes of the base64 key `token`, which the parser has checked: nothing else decodes.
pub(crate) fn decode_key<'s>(token: &[u8], scratch: &'s mut [u8; KEY_LEN_MAX]) -> &'s [u8] {
    let len = BASE64.decode_slice(token, scratch).unwrap_or(0);
    &scratch[..len]
}

/// Writes `meta` as a backend gets it: without `q`, so that each request has one response.
pub fn encode_forward(meta: &Meta<'_>, out: &mut Vec<u8>) {
    encode(meta, out, |letter| letter != b'q');
}

/// Writes `meta` as [`encode_forward`] does, without `k` too.
pub fn encode_forward_without_echo(meta: &Meta<'_>, out: &mut Vec<u8>) {
    encode(meta, out, |letter| letter != b'q' && letter != b'k');
}

/// Puts the echo of a base64 key where a backend would have put it into a reply's first line: behind what
/// was asked for before `k`.
pub fn insert_echo(token: &[u8], asked_before: Letters, reply: &mut Vec<u8>) {
    let line_len = reply
        .windows(2)
        .position(|pair| pair == b"\r\n")
        .unwrap_or(reply.len());
    // The code, and the length of a value.
    let fixed = if reply.starts_with(b"VA ") { 2 } else { 1 };
    let mut at = 0;
    for (index, word) in reply[..line_len].split(|&byte| byte == b' ').enumerate() {
        let letter = word.first().copied().unwrap_or_default();
        if index >= fixed && !asked_before.has(letter) {
            break;
        }
        at += word.len() + 1;
    }
    let at = at.saturating_sub(1).min(line_len);
    let echo = [b" k", token, b" b"].concat();
    reply.splice(at..at, echo);
}

/// Writes the plain set that gives another backend the outcome of the conditional `ms` `meta`.
pub fn encode_outcome(meta: &Meta<'_>, out: &mut Vec<u8>) {
    encode(meta, out, |letter| matches!(letter, b'b' | b'F' | b'T'));
}

/// Writes `meta` as it is repeated on another backend after the authority has decided: with all
/// effects and neither conditions nor questions.
pub fn encode_repeat(meta: &Meta<'_>, out: &mut Vec<u8>) {
    encode(meta, out, |letter| {
        // What is missing there stays missing: it would begin with less than the authority has.
        let vivifies = matches!(letter, b'N' | b'J');
        !vivifies && flag(letter).is_some_and(|flag| flag.purpose == Purpose::Effect)
    });
}

/// Writes the `ma` `meta` as it is repeated on another backend, with a question for the number. Only where
/// `creates` is set does it make a counter that is missing there: one that the authority had would begin
/// anew.
pub fn encode_repeat_arith(meta: &Meta<'_>, creates: bool, out: &mut Vec<u8>) {
    encode(meta, out, |letter| match letter {
        b'v' => true,
        b'N' | b'J' => creates,
        _ => flag(letter).is_some_and(|flag| flag.purpose == Purpose::Effect),
    });
    if !meta.letters.has(b'v') {
        ask_for_value(out);
    }
}

/// Makes a line of `ma` ask for the number.
pub fn ask_for_value(line: &mut Vec<u8>) {
    line.truncate(line.len() - b"\r\n".len());
    line.extend_from_slice(b" v\r\n");
}

/// Writes what the answer to `meta` repeats of it whatever comes of it: opaque and key.
pub fn encode_echoes(meta: &Meta<'_>, out: &mut Vec<u8>) {
    for token in Keys(meta.flags) {
        match token[0] {
            b'O' => {
                out.push(b' ');
                out.extend_from_slice(token);
            }
            b'k' => {
                out.extend_from_slice(b" k");
                out.extend_from_slice(meta.key);
                if meta.letters.has(b'b') {
                    out.extend_from_slice(b" b");
                }
            }
            _ => {}
        }
    }
}

/// Writes a plain delete of the key with this token.
pub fn encode_delete(key_token: &[u8], base64: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"md ");
    out.extend_from_slice(key_token);
    out.extend_from_slice(if base64 { b" b\r\n" } else { b"\r\n" });
}

fn encode(meta: &Meta<'_>, out: &mut Vec<u8>, keep: impl Fn(u8) -> bool) {
    out.extend_from_slice(meta.verb.wire());
    out.push(b' ');
    out.extend_from_slice(meta.key);
    if meta.verb == MetaVerb::Set {
        out.push(b' ');
        encode_decimal(u64::from(meta.value_len), out);
    }
    for token in Keys(meta.flags) {
        if keep(token[0]) {
            out.push(b' ');
            out.extend_from_slice(token);
        }
    }
    out.extend_from_slice(b"\r\n");
}
