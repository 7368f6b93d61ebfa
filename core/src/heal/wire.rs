//! What the healer says to a memcached, and what it reads from the answers.
//!
//! Written for memcached 1.6.10 and later, checked against 1.6.18. Where it matters what a server does:
//!
//! - `mg` with `u` neither renews an item nor counts as a read of it: clients, not copies, decide what is
//!   evicted. Even so it takes the win of a stale item.
//! - `md` with `I` takes a win back: the item is stale and the next reader wins. Its CAS unique changes,
//!   its expiry does not.
//! - `T` above 30 days is a date. `t-1` is an item that never expires, `T0` makes one.
//! - A walk's lines end in LF alone, its `END` and its refusals in CR LF.
//!
//! Not here: when which of it is said (`copy`, `walk`).

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::proto::{KEY_LEN_MAX, Letters, encode_decimal};

/// The lock that keeps other proxies from walking the same backend.
pub(super) const LOCK: &[u8] = b"magent.walk";
/// How long a lock that nobody renews stays, in seconds: its proxy was killed.
const LOCK_S: &[u8] = b"10";
/// Above it (30 days) a `T` is a date.
pub(super) const RELATIVE_S_MAX: u64 = 2_592_000;

/// How a key is written: as it is, or in base64 if a line could not hold it or it was stored that way.
struct Token<'a> {
    text: Cow<'a, [u8]>,
    base64: bool,
}

/// Whether a line can hold the key as it is. All others came in base64, so they are short enough for it.
fn is_plain(key: &[u8]) -> bool {
    !key.iter().any(|byte| matches!(byte, 0 | b' ' | b'\n'))
}

impl<'a> Token<'a> {
    fn of(key: &'a [u8], base64: bool) -> Self {
        if is_plain(key) && !base64 {
            return Self {
                text: Cow::Borrowed(key),
                base64: false,
            };
        }
        Self {
            text: Cow::Owned(encoded(key)),
            base64: true,
        }
    }

    /// `<verb> <key>`, then `parts`, then the flag that says how the key is written.
    fn line(&self, verb: &[u8], parts: &[&[u8]], out: &mut Vec<u8>) {
        out.extend_from_slice(verb);
        out.push(b' ');
        out.extend_from_slice(&self.text);
        for part in parts {
            out.extend_from_slice(part);
        }
        if self.base64 {
            out.extend_from_slice(b" b");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// What asks for the key, where an answer can hold it: an item that was appended to forgets that its name is
/// base64, and is then named by its bytes.
fn echo_of(key: &[u8]) -> &'static [u8] {
    if is_plain(key) { b" k" } else { b"" }
}

/// Reads an item, and asks whose it is.
pub(super) fn read(key: &[u8], out: &mut Vec<u8>) {
    Token::of(key, false).line(b"mg", &[echo_of(key), b" f t v c u"], out);
}

/// Asks whether an item is as it was read.
pub(super) fn look_back(key: &[u8], out: &mut Vec<u8>) {
    Token::of(key, false).line(b"mg", &[echo_of(key), b" t c u"], out);
}

/// An item as it is stored on another backend.
#[derive(Debug)]
pub(super) struct Stored<'a> {
    pub(super) key: &'a [u8],
    /// Whether it is stored under its base64 name, as at its source.
    pub(super) base64: bool,
    pub(super) value: &'a [u8],
    pub(super) client_flags: u32,
    pub(super) expiry: Expiry,
    /// Whether it may not replace what is there.
    pub(super) add: bool,
}

/// When a copy ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    Never,
    /// After so many seconds, 30 days at most.
    In(u64),
    /// At this date, by the clock of who stores it.
    At(u64),
}

impl Expiry {
    /// After so many seconds, where it is `unix_s` now.
    pub(super) const fn of_life(ttl_s: u64, unix_s: u64) -> Self {
        if ttl_s <= RELATIVE_S_MAX {
            Self::In(ttl_s)
        } else {
            Self::At(unix_s + ttl_s)
        }
    }
}

/// Stores an item and asks for its CAS unique.
pub(super) fn store(item: &Stored<'_>, out: &mut Vec<u8>) {
    let exptime = match item.expiry {
        Expiry::Never => 0,
        Expiry::In(ttl_s) => ttl_s,
        Expiry::At(date) => date,
    };
    let mut parts = vec![b' '];
    encode_decimal(item.value.len() as u64, &mut parts);
    parts.extend_from_slice(b" F");
    encode_decimal(u64::from(item.client_flags), &mut parts);
    parts.extend_from_slice(b" T");
    encode_decimal(exptime, &mut parts);
    parts.extend_from_slice(if item.add { b" ME c" } else { b" c" });
    Token::of(item.key, item.base64).line(b"ms", &[&parts], out);
    out.extend_from_slice(item.value);
    out.extend_from_slice(b"\r\n");
}

/// Deletes an item; with `cas` only if it is still that one.
pub(super) fn delete(key: &[u8], cas: Option<u64>, out: &mut Vec<u8>) {
    let mut parts = Vec::new();
    if let Some(cas) = cas {
        parts.extend_from_slice(b" C");
        encode_decimal(cas, &mut parts);
    }
    Token::of(key, false).line(b"md", &[&parts], out);
}

/// Marks an item stale, if it is still the one with this CAS unique: whoever reads it next wins.
pub(super) fn mark_stale(key: &[u8], cas: u64, out: &mut Vec<u8>) {
    let mut parts = b" I C".to_vec();
    encode_decimal(cas, &mut parts);
    Token::of(key, false).line(b"md", &[&parts], out);
}

/// Gives an item another CAS unique and leaves the rest as it is, if it is still the one with the unique `cas`:
/// appends nothing.
pub(super) fn give_version(key: &[u8], cas: u64, version: u64, out: &mut Vec<u8>) {
    let mut parts = b" 0 MA C".to_vec();
    encode_decimal(cas, &mut parts);
    parts.extend_from_slice(b" E");
    encode_decimal(version, &mut parts);
    Token::of(key, false).line(b"ms", &[&parts], out);
    out.extend_from_slice(b"\r\n");
}

/// Takes the lock of a walk for `owner`, and asks who has it.
pub(super) fn lock(owner: &[u8], out: &mut Vec<u8>) {
    for part in [b"ms ", LOCK, b" "] {
        out.extend_from_slice(part);
    }
    encode_decimal(owner.len() as u64, out);
    for part in [
        b" T",
        LOCK_S,
        b" ME\r\n",
        owner,
        b"\r\nmg ",
        LOCK,
        b" v c u\r\n",
    ] {
        out.extend_from_slice(part);
    }
}

/// Has the lock of `owner` stay for as long again, if it is still the one with the CAS unique `cas`.
pub(super) fn renew_lock(owner: &[u8], cas: u64, out: &mut Vec<u8>) {
    for part in [b"ms ", LOCK, b" "] {
        out.extend_from_slice(part);
    }
    encode_decimal(owner.len() as u64, out);
    for part in [b" T", LOCK_S, b" c C"] {
        out.extend_from_slice(part);
    }
    encode_decimal(cas, out);
    for part in [b"\r\n", owner, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Stores the mark of a pool, for good.
pub(super) fn set_mark(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let mut parts = vec![b' '];
    encode_decimal(value.len() as u64, &mut parts);
    parts.extend_from_slice(b" T0");
    Token::of(key, false).line(b"ms", &[&parts], out);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// What an answer says about an item.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attributes<'a> {
    /// The key as the answer writes it.
    pub(super) key: Option<&'a [u8]>,
    pub(super) cas: Option<u64>,
    pub(super) client_flags: u32,
    pub(super) ttl: Option<Ttl>,
    /// Flags that stand for themselves.
    marks: Letters,
}

/// What is left of an item's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ttl {
    Never,
    Seconds(u64),
}

impl<'a> Attributes<'a> {
    /// Reads the flags of an answer; `None` if they make no sense.
    pub(super) fn parse(flags: &'a [u8]) -> Option<Self> {
        let mut this = Self::default();
        for token in flags.split(|&byte| byte == b' ') {
            let Some((&letter, argument)) = token.split_first() else {
                continue;
            };
            match letter {
                b'k' => this.key = Some(argument),
                b'c' => this.cas = Some(number(argument)?),
                b'f' => this.client_flags = u32::try_from(number(argument)?).ok()?,
                b't' if argument == b"-1" => this.ttl = Some(Ttl::Never),
                b't' => this.ttl = Some(Ttl::Seconds(number(argument)?)),
                letter => this.marks = this.marks.with(letter),
            }
        }
        Some(this)
    }

    /// What an answer says about `key`; `None` if it is about another.
    pub(super) fn about(key: &[u8], flags: &'a [u8]) -> Option<Self> {
        Self::parse(flags).filter(|answer| answer.is_about(key))
    }

    /// Whether the item was stored under its base64 name.
    pub(super) const fn is_base64(&self) -> bool {
        self.marks.has(b'b')
    }

    /// Whether the reader is the one who has to bring a new item.
    pub(super) const fn is_won(&self) -> bool {
        self.marks.has(b'W')
    }

    pub(super) const fn is_stale(&self) -> bool {
        self.marks.has(b'X')
    }

    /// Whether somebody has won before.
    pub(super) const fn is_taken(&self) -> bool {
        self.marks.has(b'Z')
    }

    /// Whether the answer is about `key`.
    pub(super) fn is_about(&self, key: &[u8]) -> bool {
        match self.key {
            Some(text) if self.is_base64() => text == encoded(key),
            Some(text) => text == key,
            None => !is_plain(key),
        }
    }
}

fn encoded(key: &[u8]) -> Vec<u8> {
    const LEN_MAX: usize = KEY_LEN_MAX.div_ceil(3) * 4;
    let mut text = vec![0; LEN_MAX];
    let len = STANDARD
        .encode_slice(key, &mut text)
        .expect("the buffer holds the longest key");
    text.truncate(len);
    text
}

/// A line of a walk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WalkLine {
    /// An item, what it takes, and when it ends if it does.
    Item {
        key: Vec<u8>,
        size: u64,
        date: Option<u64>,
    },
    /// All of them were listed.
    End,
    /// Another crawl is under way.
    Busy,
    /// It will not be told.
    Refused,
    /// It cannot be told at this moment.
    Failed,
    /// None of these.
    Bad,
}

/// Reads one line of a walk, without its end.
pub(super) fn walk_line(line: &[u8]) -> WalkLine {
    if let Some(rest) = line.strip_prefix(b"key=") {
        let mut words = rest.split(|&byte| byte == b' ');
        let key = words.next().and_then(decode_uri);
        let (mut size, mut date) = (0, None);
        for word in words {
            if let Some(value) = word.strip_prefix(b"size=") {
                size = number(value).unwrap_or(0);
            } else if let Some(value) = word.strip_prefix(b"exp=") {
                date = number(value);
            }
        }
        return match key {
            Some(key) if !key.is_empty() => WalkLine::Item { key, size, date },
            _ => WalkLine::Bad,
        };
    }
    match line {
        b"END" => WalkLine::End,
        b"ERROR Too many open connections" => WalkLine::Failed,
        _ if line.starts_with(b"BUSY") => WalkLine::Busy,
        _ if line.starts_with(b"ERROR") || line.starts_with(b"CLIENT_ERROR") => WalkLine::Refused,
        _ if line.starts_with(b"SERVER_ERROR") => WalkLine::Failed,
        _ => WalkLine::Bad,
    }
}

fn decode_uri(text: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, behind)) = rest.split_first() {
        if byte != b'%' {
            key.push(byte);
            rest = behind;
            continue;
        }
        let (digits, behind) = behind.split_at_checked(2)?;
        key.push(hex(digits[0])? << 4 | hex(digits[1])?);
        rest = behind;
    }
    Some(key)
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

/// Digits and nothing else.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| plain)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(encode: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        encode(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn keys_that_no_line_can_hold_go_in_base64() {
        assert_eq!(text(|out| read(b"a", out)), "mg a k f t v c u\r\n");
        assert_eq!(
            text(|out| look_back(b"a b\0", out)),
            "mg YSBiAA== t c u b\r\n"
        );
        assert_eq!(text(|out| delete(b"a", Some(7), out)), "md a C7\r\n");
        assert_eq!(text(|out| delete(b"a b\0", None, out)), "md YSBiAA== b\r\n");
        assert_eq!(text(|out| mark_stale(b"a", 7, out)), "md a I C7\r\n");
        assert_eq!(
            text(|out| give_version(b"a b", 7, 9, out)),
            "ms YSBi 0 MA C7 E9 b\r\n\r\n"
        );
    }

    #[test]
    fn a_long_life_is_stored_as_a_date() {
        let line = |expiry, base64| {
            text(|out| {
                let item = Stored {
                    key: b"foo",
                    base64,
                    value: b"xy",
                    client_flags: 5,
                    expiry,
                    add: true,
                };
                store(&item, out);
            })
        };
        assert_eq!(line(Expiry::Never, false), "ms foo 2 F5 T0 ME c\r\nxy\r\n");
        assert_eq!(
            line(Expiry::of_life(2_592_000, 1_700_000_000), false),
            "ms foo 2 F5 T2592000 ME c\r\nxy\r\n"
        );
        assert_eq!(
            line(Expiry::of_life(2_592_001, 1_700_000_000), true),
            "ms Zm9v 2 F5 T1702592001 ME c b\r\nxy\r\n"
        );
    }

    #[test]
    fn attributes() {
        let answer = Attributes::parse(b"ka f5 t-1 c12 X W").unwrap();
        assert!(answer.is_about(b"a") && !answer.is_about(b"b"));
        assert!(answer.is_won() && answer.is_stale() && !answer.is_taken());
        assert_eq!(answer.cas, Some(12));
        assert_eq!(answer.ttl, Some(Ttl::Never));
        let answer = Attributes::parse(b"kZm9v b t7 c1").unwrap();
        assert!(answer.is_about(b"foo") && answer.is_base64());
        assert_eq!(answer.ttl, Some(Ttl::Seconds(7)));
        let answer = Attributes::parse(b"t7 c1").unwrap();
        assert!(answer.is_about(b"a b\0") && !answer.is_about(b"a"));
        assert_eq!(Attributes::parse(b"cx"), None);
    }

    #[test]
    fn lines_of_a_walk() {
        let line = b"key=a%20b%00%FF%0Az exp=-1 la=1 cas=17 fetch=yes cls=1 size=68";
        let key = b"a b\0\xff\nz";
        let item = |key: &[u8], size, date| WalkLine::Item {
            key: key.to_vec(),
            size,
            date,
        };
        assert_eq!(walk_line(line), item(key, 68, None));
        assert_eq!(walk_line(b"key=k exp=-1"), item(b"k", 0, None));
        assert_eq!(
            walk_line(b"key=k exp=1700000100 la=1 cas=17 fetch=no cls=1 size=68"),
            item(b"k", 68, Some(1_700_000_100))
        );
        assert_eq!(walk_line(b"key= exp=-1"), WalkLine::Bad);
        assert_eq!(walk_line(b"key=%2"), WalkLine::Bad);
        assert_eq!(walk_line(b"END"), WalkLine::End);
        assert_eq!(
            walk_line(b"BUSY currently processing crawler request"),
            WalkLine::Busy
        );
        assert_eq!(walk_line(b"ERROR metadump not allowed"), WalkLine::Refused);
        assert_eq!(
            walk_line(b"CLIENT_ERROR lru crawler disabled"),
            WalkLine::Refused
        );
        assert_eq!(
            walk_line(b"ERROR Too many open connections"),
            WalkLine::Failed
        );
    }
}
