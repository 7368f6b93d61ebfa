//! The meta commands.
//!
//! # Invariants
//!
//! - Flags are answered in the order in which they were asked for; `Z`, `X` and `W` follow.
//! - Errors are always answered, without flags; `q` hides only the ordinary outcome.
//! - At most one reader is told `W` until the item is written or marked stale again.
//!
//! Where this looks odd it is what memcached 1.6.18 does: `ma` on a number that grows a digit sets
//! the TTL of the item that is going away, `ma q` shows the `HD` of a number it made, `md` and
//! `ma` have one message for all bad flags.
//!
//! Not here: what storing means (`store`).

use std::borrow::Cow;

use crate::classic::{self, BAD_FORMAT, KEY_LEN_MAX, NON_NUMERIC, say};
use crate::item::{Item, class_of};
use crate::session::{After, Pending, Reply};
use crate::stats::{ClassCounter, Counter};
use crate::store::{Bump, Change, DeltaError, Mode, Outcome, Room, Store, Write};
use crate::token::{
    Tokens, decode_base64, number_i32, number_u32, number_u64, push_base64, push_number,
};

type Refusal = &'static [u8];

/// The flags of one command, checked.
struct Flags<'a> {
    words: &'a [&'a [u8]],
    /// Decoded.
    key: Cow<'a, [u8]>,
    /// One bit for each letter that was there.
    letters: u128,
    mode: Option<u8>,
    /// `T`, as a relative second.
    exptime: Option<u32>,
    /// `N`, as a relative second.
    vivify: Option<u32>,
    /// `R`, as a relative second; 0 is never.
    recache: u32,
    client_flags: u32,
    compare: Option<u64>,
    explicit_cas: Option<u64>,
    delta: u64,
    initial: u64,
}

impl<'a> Flags<'a> {
    /// Reads the words from `first` on. A mistake does not end the reading, a flag that is
    /// unknown or there twice does; the last mistake is the one reported.
    fn read(store: &Store, tokens: &'a Tokens<'a>, first: usize) -> Result<Self, Refusal> {
        let words = tokens.words().get(first..).unwrap_or_default();
        let mut flags = Self {
            words,
            key: Cow::Borrowed(tokens.word(1)),
            letters: 0,
            mode: None,
            exptime: None,
            vivify: None,
            recache: 0,
            client_flags: 0,
            compare: None,
            explicit_cas: None,
            delta: 1,
            initial: 0,
        };
        let mut mistake = None;
        for word in words {
            let (letter, argument) = (word[0], &word[1..]);
            if letter >= LETTERS_END || flags.has(letter) {
                return Err(b"CLIENT_ERROR duplicate flag");
            }
            flags.letters |= 1 << letter;
            match flags.read_one(store, letter, argument) {
                Ok(()) => {}
                Err(Mistake::Unknown) => return Err(b"CLIENT_ERROR invalid flag"),
                Err(Mistake::Says(text)) => mistake = Some(text),
                // `F` alone has no message and keeps that of an earlier mistake.
                Err(Mistake::Silent) => mistake = mistake.or(Some(BAD_FORMAT)),
            }
        }
        mistake.map_or(Ok(flags), Err)
    }

    fn has(&self, letter: u8) -> bool {
        self.letters & 1 << letter != 0
    }

    fn key_binary(&self) -> bool {
        self.has(b'b')
    }

    /// Whether a use is counted after the answer instead of before it.
    fn bumps_late(&self) -> bool {
        [b'N', b'T', b'R', b'l', b'h']
            .iter()
            .any(|letter| self.has(*letter))
    }

    fn read_one(&mut self, store: &Store, letter: u8, argument: &[u8]) -> Result<(), Mistake> {
        let end = || {
            number_i32(argument)
                .map(|number| store.realtime(number))
                .ok_or(BAD_TOKEN)
        };
        match letter {
            b'b' => {
                let decoded = decode_base64(&self.key);
                self.key = Cow::Owned(decoded.ok_or(Mistake::Says(BAD_KEY))?);
            }
            b'N' => self.vivify = Some(end()?),
            b'T' => self.exptime = Some(end()?),
            b'R' => self.recache = end()?,
            b'O' | b'P' | b'L' | b'k' | b's' | b't' | b'c' | b'f' | b'l' | b'h' | b'v' | b'u'
            | b'q' | b'I' => {}
            b'F' => self.client_flags = number_u32(argument).ok_or(Mistake::Silent)?,
            b'C' => self.compare = Some(number_u64(argument).ok_or(BAD_TOKEN)?),
            b'E' if store.config.meta_cas => {
                self.explicit_cas = Some(number_u64(argument).ok_or(BAD_TOKEN)?);
            }
            b'M' => match argument {
                [mode] => self.mode = Some(*mode),
                _ => return Err(Mistake::Says(b"CLIENT_ERROR incorrect length for M token")),
            },
            b'J' => {
                let bad = Mistake::Says(b"CLIENT_ERROR invalid numeric initial value");
                self.initial = number_u64(argument).ok_or(bad)?;
            }
            b'D' => {
                let bad = Mistake::Says(b"CLIENT_ERROR invalid numeric delta value");
                self.delta = number_u64(argument).ok_or(bad)?;
            }
            _ => return Err(Mistake::Unknown),
        }
        Ok(())
    }

    /// Appends the opaque or the key, if `word` asks for one. An opaque can be too long.
    fn echo(&self, word: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        match word[0] {
            b'O' => echo_opaque(word, out),
            b'k' => {
                push_key(&self.key, self.key_binary(), out);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn echo_all(&self, out: &mut Vec<u8>) -> Result<(), Refusal> {
        self.words.iter().try_for_each(|word| self.echo(word, out))
    }
}

enum Mistake {
    Unknown,
    Says(Refusal),
    Silent,
}

/// What `mg`, `md` and `ma` check before they look at flags.
fn check_line(tokens: &Tokens<'_>, too_many: Refusal) -> Result<(), Refusal> {
    if tokens.word(1).len() > KEY_LEN_MAX {
        return Err(BAD_FORMAT);
    }
    if tokens.count() > WORDS_MAX {
        Err(too_many)
    } else {
        Ok(())
    }
}

/// The flags of `md` and `ma`, which do not say what is wrong with them.
fn flags_or_one_message<'a>(store: &Store, tokens: &'a Tokens<'a>) -> Result<Flags<'a>, Refusal> {
    check_line(tokens, b"CLIENT_ERROR options flags too long")?;
    Flags::read(store, tokens, 2).map_err(|_| &b"CLIENT_ERROR invalid or duplicate flag"[..])
}

/// `mg`.
pub(crate) fn get(store: &mut Store, tokens: &Tokens<'_>, out: &mut Vec<u8>) {
    let line = check_line(tokens, b"CLIENT_ERROR options flags are too long");
    let flags = match line.and_then(|()| Flags::read(store, tokens, 2)) {
        Ok(flags) => flags,
        Err(refusal) => return say(out, refusal),
    };
    let start = out.len();
    let created = flags.vivify.is_some()
        && store.fetch(&flags.key, Bump::No).is_none()
        && store.room_for(&flags.key, 0, 0) == Room::Yes;
    if created {
        store.link(
            &flags.key,
            Item::new(Box::default(), 0, 0),
            flags.explicit_cas,
        );
    }
    let current = store.current;
    let bump = if flags.bumps_late() || flags.has(b'u') {
        Bump::No
    } else {
        Bump::Yes
    };
    let Some(item) = store.fetch(&flags.key, bump) else {
        store.stats.count(Counter::CmdGet);
        store.stats.count(Counter::GetMisses);
        return miss(&flags, out);
    };
    if let Err(refusal) = hit(&flags, item, current, created, out) {
        out.truncate(start);
        return say(out, refusal);
    }
    let class = class_of(&flags.key, item);
    if flags.bumps_late() && !flags.has(b'u') {
        item.mark_fetched(current);
        store.renew(&flags.key);
    }
    let (counter, hit) = match flags.exptime {
        Some(_) => (Counter::CmdTouch, ClassCounter::TouchHits),
        None => (Counter::CmdGet, ClassCounter::GetHits),
    };
    store.stats.count(counter);
    store.stats.count_class(class, hit);
}

fn miss(flags: &Flags<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(b"EN");
    if let Err(refusal) = flags.echo_all(out) {
        out.truncate(start);
        return say(out, refusal);
    }
    if flags.has(b'q') {
        out.truncate(start);
    } else {
        say(out, b"");
    }
}

/// Answers an `mg` and does to the item what its flags say, in their order.
fn hit(
    flags: &Flags<'_>,
    item: &mut Item,
    current: u32,
    created: bool,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    status(flags.has(b'v').then_some(item.value.len()), out);
    let mut won = false;
    for word in flags.words {
        match word[0] {
            b'T' => item.exptime = flags.exptime.unwrap_or(item.exptime),
            b'N' if created => {
                item.exptime = flags.vivify.unwrap_or(item.exptime);
                won = true;
            }
            b'R' if !created => {
                let sent = item.has(Item::TOKEN_SENT);
                won |= !sent && item.exptime != 0 && item.exptime < flags.recache;
            }
            b's' => push_flag(b's', item.value.len() as u64, out),
            b't' => push_ttl(item.exptime, current, out),
            b'c' => push_flag(b'c', item.cas, out),
            b'f' => push_flag(b'f', u64::from(item.client_flags), out),
            b'l' => push_flag(b'l', u64::from(current - item.time), out),
            b'h' => push_flag(b'h', u64::from(item.has(Item::FETCHED)), out),
            b'O' => echo_opaque(word, out)?,
            b'k' => push_key(&flags.key, item.has(Item::KEY_BINARY), out),
            _ => {}
        }
    }
    let sent = item.has(Item::TOKEN_SENT);
    if sent {
        out.extend_from_slice(b" Z");
    }
    if item.has(Item::STALE) {
        out.extend_from_slice(b" X");
        won |= !sent;
    }
    if won {
        out.extend_from_slice(b" W");
        item.mark(Item::TOKEN_SENT);
    }
    say(out, b"");
    if flags.has(b'v') {
        say(out, &item.value);
    }
    Ok(())
}

/// `ms`.
pub(crate) fn set(store: &mut Store, tokens: &Tokens<'_>, out: &mut Vec<u8>) -> After {
    let refuse = |out: &mut Vec<u8>, refusal: Refusal| {
        say(out, refusal);
        After::Line
    };
    if tokens.word(1).len() > KEY_LEN_MAX || tokens.count() == 2 {
        return refuse(out, BAD_FORMAT);
    }
    if tokens.count() > WORDS_MAX {
        return refuse(out, b"CLIENT_ERROR options flags too long");
    }
    let Some(value_len) = classic::value_len(tokens.word(2)) else {
        return refuse(out, BAD_FORMAT);
    };
    match pending(store, tokens, value_len) {
        Ok(pending) => After::Payload(pending),
        Err(refusal) => {
            say(out, refusal);
            After::Swallow(value_len + 2)
        }
    }
}

fn pending(store: &mut Store, tokens: &Tokens<'_>, value_len: usize) -> Result<Pending, Refusal> {
    let flags = Flags::read(store, tokens, 3)?;
    let mut suffix = Vec::new();
    let mut too_long = Ok(());
    for word in flags.words {
        match word[0] {
            b'O' => too_long = echo_opaque(word, &mut suffix),
            b'k' => push_key(&flags.key, flags.key_binary(), &mut suffix),
            // The number is known when the value is stored.
            b'c' => suffix.extend_from_slice(CAS_PLACE),
            _ => {}
        }
    }
    let mode = match flags.mode {
        None | Some(b'S') if flags.compare.is_some() => Mode::Cas,
        Some(b'R') if flags.compare.is_some() => Mode::Cas,
        None | Some(b'S') => Mode::Set,
        Some(b'R') => Mode::Replace,
        Some(b'E') => Mode::Add,
        Some(b'A') => Mode::Append,
        Some(b'P') => Mode::Prepend,
        Some(_) => return Err(b"CLIENT_ERROR invalid mode for ms M token"),
    };
    too_long?;
    if let Err(refusal) = classic::room(store, &flags.key, value_len, flags.client_flags) {
        store.unlink(&flags.key);
        return Err(refusal);
    }
    let write = Write {
        compare: flags.compare.unwrap_or(0),
        explicit_cas: flags.explicit_cas,
        accepts_stale: flags.has(b'I') && mode == Mode::Cas,
        marks: if flags.key_binary() {
            Item::KEY_BINARY
        } else {
            0
        },
        ..Write::new(mode, flags.client_flags, flags.exptime.unwrap_or(0))
    };
    let reply = Reply::Meta(SetReply {
        quiet: flags.has(b'q'),
        suffix,
    });
    Ok(Pending {
        key: flags.key.into_owned(),
        write,
        value_len,
        reply,
    })
}

/// What an `ms` answers besides its status.
#[derive(Debug)]
pub(crate) struct SetReply {
    quiet: bool,
    suffix: Vec<u8>,
}

impl SetReply {
    pub(crate) fn answer(&self, outcome: Outcome, out: &mut Vec<u8>) {
        let (status, cas) = match outcome {
            Outcome::Stored(_) if self.quiet => return,
            Outcome::Stored(cas) => (b"HD", cas),
            Outcome::Exists => (b"EX", 0),
            Outcome::NotFound => (b"NF", 0),
            Outcome::NotStored => (b"NS", 0),
        };
        out.extend_from_slice(status);
        let mut parts = self.suffix.split(|&byte| byte == CAS_PLACE[0]);
        out.extend_from_slice(parts.next().unwrap_or_default());
        for part in parts {
            push_flag(b'c', cas, out);
            out.extend_from_slice(part);
        }
        say(out, b"");
    }
}

/// `md`.
pub(crate) fn delete(store: &mut Store, tokens: &Tokens<'_>, out: &mut Vec<u8>) {
    let mut suffix = Vec::new();
    let flags = match flags_or_one_message(store, tokens) {
        Ok(flags) => flags,
        Err(refusal) => return say(out, refusal),
    };
    if let Err(refusal) = flags.echo_all(&mut suffix) {
        return say(out, refusal);
    }
    let status = delete_item(store, &flags);
    if status == b"HD" && flags.has(b'q') {
        return;
    }
    out.extend_from_slice(status);
    say(out, &suffix);
}

fn delete_item(store: &mut Store, flags: &Flags<'_>) -> &'static [u8] {
    let Some(item) = store.fetch(&flags.key, Bump::No) else {
        store.stats.count(Counter::DeleteMisses);
        return b"NF";
    };
    if flags.compare.is_some_and(|cas| cas != item.cas) {
        store.stats.count(Counter::DeleteMisses);
        return b"EX";
    }
    if flags.has(b'I') {
        item.exptime = flags.exptime.unwrap_or(item.exptime);
        item.mark(Item::STALE);
        item.unmark(Item::TOKEN_SENT);
        let cas = flags.explicit_cas.unwrap_or_else(|| store.next_cas());
        store.set_cas(&flags.key, cas);
    } else {
        let class = class_of(&flags.key, item);
        store.stats.count_class(class, ClassCounter::DeleteHits);
        store.unlink(&flags.key);
    }
    b"HD"
}

/// `ma`.
pub(crate) fn arithmetic(store: &mut Store, tokens: &Tokens<'_>, out: &mut Vec<u8>) {
    let flags = match flags_or_one_message(store, tokens) {
        Ok(flags) => flags,
        Err(refusal) => return say(out, refusal),
    };
    let change = match flags.mode {
        None | Some(b'I' | b'+') => Change::Incr(flags.delta),
        Some(b'D' | b'-') => Change::Decr(flags.delta),
        Some(_) => return say(out, b"CLIENT_ERROR invalid mode for ma M token"),
    };
    let start = out.len();
    let answered = match store.add_delta(&flags.key, change, flags.compare.unwrap_or(0)) {
        Ok(changed) => {
            let cas = flags.explicit_cas.unwrap_or(changed.cas);
            store.set_cas(&flags.key, cas);
            let linked = changed.in_place;
            let number = Number {
                text: changed.text,
                exptime: changed.exptime,
                cas,
                linked,
                created: false,
            };
            let answered = number.answer(store, &flags, out);
            if answered.is_ok() && flags.has(b'q') {
                out.truncate(start);
            }
            answered
        }
        Err(DeltaError::NotFound) if flags.vivify.is_some() => vivify_number(store, &flags, out),
        Err(DeltaError::NotFound) => {
            classic::count_delta_miss(store, change);
            failure(b"NF", &flags, out)
        }
        Err(DeltaError::CasMismatch) => failure(b"EX", &flags, out),
        Err(DeltaError::NonNumeric) => Err(NON_NUMERIC),
    };
    if let Err(refusal) = answered {
        out.truncate(start);
        say(out, refusal);
    }
}

fn vivify_number(store: &mut Store, flags: &Flags<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let mut text = Vec::new();
    push_number(&mut text, flags.initial);
    if store.room_for(&flags.key, text.len(), 0) != Room::Yes {
        return Err(b"SERVER_ERROR Out of memory allocating new item");
    }
    let item = Item::new(text.clone().into_boxed_slice(), 0, 0);
    let cas = store.link(&flags.key, item, flags.explicit_cas);
    Number {
        text,
        exptime: 0,
        cas,
        linked: true,
        created: true,
    }
    .answer(store, flags, out)
}

fn failure(status: &[u8], flags: &Flags<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    out.extend_from_slice(status);
    flags.echo_all(out)?;
    say(out, b"");
    Ok(())
}

/// A number that `ma` has changed or made.
struct Number {
    text: Vec<u8>,
    exptime: u32,
    cas: u64,
    /// Whether this is the item that is stored; if not, its TTL no longer matters.
    linked: bool,
    created: bool,
}

impl Number {
    fn answer(
        mut self,
        store: &mut Store,
        flags: &Flags<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let written = self.write(store.current, flags, out);
        if self.linked {
            store.set_exptime(&flags.key, self.exptime);
        }
        written
    }

    fn write(&mut self, current: u32, flags: &Flags<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
        status(flags.has(b'v').then_some(self.text.len()), out);
        for word in flags.words {
            match word[0] {
                b'c' => push_flag(b'c', self.cas, out),
                b't' => push_ttl(self.exptime, current, out),
                b'T' => self.exptime = flags.exptime.unwrap_or(self.exptime),
                b'N' if self.created => self.exptime = flags.vivify.unwrap_or(self.exptime),
                _ => flags.echo(word, out)?,
            }
        }
        say(out, b"");
        if flags.has(b'v') {
            say(out, &self.text);
        }
        Ok(())
    }
}

/// `me`.
pub(crate) fn debug(store: &mut Store, tokens: &Tokens<'_>, out: &mut Vec<u8>) {
    let key = tokens.word(1);
    if key.is_empty() || key.len() > KEY_LEN_MAX {
        return say(out, BAD_FORMAT);
    }
    let mut key = Cow::Borrowed(key);
    if tokens.word(2) == b"b" {
        let Some(decoded) = decode_base64(&key) else {
            return say(out, BAD_FORMAT);
        };
        key = Cow::Owned(decoded);
    }
    store.stats.count(Counter::CmdMeta);
    let current = store.current;
    let Some(item) = store.fetch(&key, Bump::No) else {
        return say(out, b"EN");
    };
    out.extend_from_slice(b"ME ");
    if item.has(Item::KEY_BINARY) {
        push_base64(out, &key);
    } else {
        out.extend_from_slice(&key);
    }
    // memcached subtracts the wrong way round: what is left is shown as a negative number.
    let left = if item.exptime == 0 {
        1
    } else {
        item.exptime - current
    };
    let fetched = if item.has(Item::FETCHED) { "yes" } else { "no" };
    let (idle, cas, class) = (current - item.time, item.cas, class_of(&key, item));
    let size = item.total_len(&key);
    let rest = format!(" exp=-{left} la={idle} cas={cas} fetch={fetched} cls={class} size={size}");
    say(out, rest.as_bytes());
}

/// `HD`, or `VA` and the length.
fn status(value_len: Option<usize>, out: &mut Vec<u8>) {
    match value_len {
        Some(len) => {
            out.extend_from_slice(b"VA ");
            push_number(out, len as u64);
        }
        None => out.extend_from_slice(b"HD"),
    }
}

fn push_flag(letter: u8, number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b' ', letter]);
    push_number(out, number);
}

fn push_ttl(exptime: u32, current: u32, out: &mut Vec<u8>) {
    if exptime == 0 {
        out.extend_from_slice(b" t-1");
    } else {
        // An item that has just been given a date in the past has a huge TTL, as in memcached.
        push_flag(b't', u64::from(exptime.wrapping_sub(current)), out);
    }
}

fn push_key(key: &[u8], binary: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b" k");
    if binary {
        push_base64(out, key);
        out.extend_from_slice(b" b");
    } else {
        out.extend_from_slice(key);
    }
}

fn echo_opaque(word: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    if word.len() > OPAQUE_LEN_MAX {
        return Err(b"CLIENT_ERROR opaque token too long");
    }
    out.push(b' ');
    out.extend_from_slice(word);
    Ok(())
}

/// Command, key and flags.
const WORDS_MAX: usize = 19;
/// memcached takes letters from here on for duplicates.
const LETTERS_END: u8 = 127;
/// The letter included.
const OPAQUE_LEN_MAX: usize = 32;
/// Stands for the CAS number in a suffix: a byte that no word contains.
const CAS_PLACE: &[u8] = b"\n";
const BAD_TOKEN: Mistake = Mistake::Says(b"CLIENT_ERROR bad token in command line format");
const BAD_KEY: Refusal = b"CLIENT_ERROR error decoding key";
