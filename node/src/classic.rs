//! The classic text commands, and who executes all others.
//!
//! # Invariants
//!
//! - The order of checks is memcached's, since it decides which of several mistakes is reported
//!   and whether `noreply` was understood by then.
//! - Every command appends its whole answer at once; a multiget that fails takes its values back.
//!
//! Not here: framing (`session`), meta commands (`meta`).

use crate::item::class_of;
use crate::session::{After, Pending, Reply};
use crate::stats::{self, ClassCounter, Counter};
use crate::store::{Bump, Change, DeltaError, Mode, Room, Store, Write};
use crate::token::{Tokens, number_i32, number_u32, number_u64, push_number};
use crate::{crawl, meta};

/// Executes one line, without its end.
pub(crate) fn execute(
    store: &mut Store,
    slot: Option<usize>,
    line: &[u8],
    out: &mut Vec<u8>,
) -> After {
    let tokens = Tokens::split(line);
    let command = tokens.word(0);
    let count = tokens.count();
    match command {
        b"get" | b"gets" | b"gat" | b"gats" | b"bget" if count >= 2 => get(store, &tokens, out),
        b"set" if matches!(count, 5 | 6) => return update(store, &tokens, Mode::Set, out),
        b"add" if matches!(count, 5 | 6) => return update(store, &tokens, Mode::Add, out),
        b"replace" if matches!(count, 5 | 6) => return update(store, &tokens, Mode::Replace, out),
        b"append" if matches!(count, 5 | 6) => return update(store, &tokens, Mode::Append, out),
        b"prepend" if matches!(count, 5 | 6) => return update(store, &tokens, Mode::Prepend, out),
        b"cas" if matches!(count, 6 | 7) => return update(store, &tokens, Mode::Cas, out),
        b"mg" if count >= 2 => meta::get(store, &tokens, out),
        b"ms" if count >= 2 => return meta::set(store, &tokens, out),
        b"md" if count >= 2 => meta::delete(store, &tokens, out),
        b"ma" if count >= 2 => meta::arithmetic(store, &tokens, out),
        b"me" => meta::debug(store, &tokens, out),
        b"mn" => say(out, b"MN"),
        b"delete" if (2..=4).contains(&count) => delete(store, &tokens, out),
        b"incr" if matches!(count, 3 | 4) => arithmetic(store, &tokens, Change::Incr, out),
        b"decr" if matches!(count, 3 | 4) => arithmetic(store, &tokens, Change::Decr, out),
        b"touch" if matches!(count, 3 | 4) => touch(store, &tokens, out),
        b"flush_all" if count <= 3 => flush_all(store, &tokens, out),
        b"stats" => stats::answer(store, slot, &tokens, out),
        b"version" => say(
            out,
            [b"VERSION ", store.config.version.as_bytes()]
                .concat()
                .as_slice(),
        ),
        b"verbosity" if matches!(count, 2 | 3) => verbosity(store, &tokens, out),
        b"lru_crawler" => crawl::command(store, &tokens, out),
        b"cache_memlimit" if matches!(count, 2 | 3) => memory_limit(store, &tokens, out),
        b"shutdown" => say(out, b"ERROR: shutdown not enabled"),
        b"watch" => say(out, b"CLIENT_ERROR watch commands not allowed"),
        b"quit" => return After::Close,
        _ if is_http(&tokens) => return After::Close,
        _ => say(out, b"ERROR"),
    }
    After::Line
}

/// Appends one line of answer.
pub(crate) fn say(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(line);
    out.extend_from_slice(b"\r\n");
}

/// An answer that `noreply` suppresses.
struct Answer {
    noreply: bool,
}

impl Answer {
    /// memcached looks at the last word only.
    fn of(tokens: &Tokens<'_>) -> Self {
        Self {
            noreply: tokens.last() == b"noreply",
        }
    }

    fn say(&self, out: &mut Vec<u8>, line: &[u8]) {
        if !self.noreply {
            say(out, line);
        }
    }
}

fn get(store: &mut Store, tokens: &Tokens<'_>, out: &mut Vec<u8>) {
    let command = tokens.word(0);
    let with_cas = matches!(command, b"gets" | b"gats");
    let mut touch = None;
    let mut keys = &tokens.words()[1..];
    if matches!(command, b"gat" | b"gats") {
        let Some(exptime) = number_i32(keys[0]) else {
            return say(out, b"CLIENT_ERROR invalid exptime argument");
        };
        touch = Some(store.realtime(exptime));
        keys = &keys[1..];
    }
    let start = out.len();
    let mut batch;
    let mut rest = tokens.rest();
    loop {
        for key in keys {
            if key.len() > KEY_LEN_MAX {
                out.truncate(start);
                return say(out, BAD_FORMAT);
            }
            get_one(store, key, touch, with_cas, out);
        }
        let Some(line) = rest else { break };
        batch = Tokens::split(line);
        keys = batch.words();
        rest = batch.rest();
    }
    say(out, b"END");
}

fn get_one(store: &mut Store, key: &[u8], touch: Option<u32>, with_cas: bool, out: &mut Vec<u8>) {
    store.stats.count(if touch.is_some() {
        Counter::CmdTouch
    } else {
        Counter::CmdGet
    });
    let Some(item) = store.fetch(key, Bump::Yes) else {
        let missed = if touch.is_some() {
            Counter::TouchMisses
        } else {
            Counter::GetMisses
        };
        return store.stats.count(missed);
    };
    if let Some(exptime) = touch {
        item.exptime = exptime;
    }
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    out.push(b' ');
    push_number(out, u64::from(item.client_flags));
    out.push(b' ');
    push_number(out, item.value.len() as u64);
    if with_cas {
        out.push(b' ');
        push_number(out, item.cas);
    }
    out.extend_from_slice(b"\r\n");
    say(out, &item.value);
    let class = class_of(key, item);
    let hit = if touch.is_some() {
        ClassCounter::TouchHits
    } else {
        ClassCounter::GetHits
    };
    store.stats.count_class(class, hit);
}

fn update(store: &mut Store, tokens: &Tokens<'_>, mode: Mode, out: &mut Vec<u8>) -> After {
    let answer = Answer::of(tokens);
    let key = tokens.word(1);
    let compare = if mode == Mode::Cas {
        number_u64(tokens.word(5))
    } else {
        Some(0)
    };
    let numbers = (
        number_u32(tokens.word(2)),
        number_i32(tokens.word(3)),
        value_len(tokens.word(4)),
        compare,
    );
    let (Some(client_flags), Some(exptime), Some(value_len), Some(compare)) = numbers else {
        answer.say(out, BAD_FORMAT);
        return After::Line;
    };
    if key.len() > KEY_LEN_MAX {
        answer.say(out, BAD_FORMAT);
        return After::Line;
    }
    if let Err(refusal) = room(store, key, value_len, client_flags) {
        answer.say(out, refusal);
        // Rather no value than the old one: the client wanted it replaced.
        if mode == Mode::Set {
            store.unlink(key);
        }
        return After::Swallow(value_len + 2);
    }
    let write = Write {
        compare,
        ..Write::new(mode, client_flags, store.realtime(exptime))
    };
    let reply = Reply::Classic {
        noreply: answer.noreply,
    };
    After::Payload(Pending {
        key: key.to_vec(),
        write,
        value_len,
        reply,
    })
}

/// The length of a value, as far as memcached can read it.
pub(crate) fn value_len(text: &[u8]) -> Option<usize> {
    number_i32(text)
        .filter(|len| *len <= i32::MAX - 2)
        .and_then(|len| usize::try_from(len).ok())
}

/// Whether the item may be stored; if not, what is said.
pub(crate) fn room(
    store: &mut Store,
    key: &[u8],
    value_len: usize,
    client_flags: u32,
) -> Result<(), &'static [u8]> {
    match store.room_for(key, value_len, client_flags) {
        Room::Yes => Ok(()),
        Room::TooLarge => {
            store.stats.count(Counter::StoreTooLarge);
            Err(b"SERVER_ERROR object too large for cache")
        }
        Room::NoMemory => {
            store.stats.count(Counter::StoreNoMemory);
            Err(b"SERVER_ERROR out of memory storing object")
        }
    }
}

fn delete(store: &mut Store, tokens: &Tokens<'_>, out: &mut Vec<u8>) {
    let mut answer = Answer { noreply: false };
    if tokens.count() > 2 {
        // Old clients send a time, which was always 0.
        let holds_zero = tokens.word(2) == b"0";
        answer = Answer::of(tokens);
        let valid = match tokens.count() {
            3 => holds_zero || answer.noreply,
            _ => holds_zero && answer.noreply,
        };
        if !valid {
            let usage = b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]";
            return answer.say(out, usage);
        }
    }
    let key = tokens.word(1);
    if key.len() > KEY_LEN_MAX {
        return answer.say(out, BAD_FORMAT);
    }
    if let Some(item) = store.fetch(key, Bump::No) {
        let class = class_of(key, item);
        store.stats.count_class(class, ClassCounter::DeleteHits);
        store.unlink(key);
        answer.say(out, b"DELETED");
    } else {
        store.stats.count(Counter::DeleteMisses);
        answer.say(out, b"NOT_FOUND");
    }
}

fn arithmetic(
    store: &mut Store,
    tokens: &Tokens<'_>,
    change: fn(u64) -> Change,
    out: &mut Vec<u8>,
) {
    let answer = Answer::of(tokens);
    let key = tokens.word(1);
    if key.len() > KEY_LEN_MAX {
        return answer.say(out, BAD_FORMAT);
    }
    let Some(delta) = number_u64(tokens.word(2)) else {
        return answer.say(out, b"CLIENT_ERROR invalid numeric delta argument");
    };
    let change = change(delta);
    match store.add_delta(key, change, 0) {
        Ok(changed) => answer.say(out, &changed.text),
        Err(DeltaError::NonNumeric) => answer.say(out, NON_NUMERIC),
        Err(DeltaError::NotFound | DeltaError::CasMismatch) => {
            count_delta_miss(store, change);
            answer.say(out, b"NOT_FOUND");
        }
    }
}

pub(crate) fn count_delta_miss(store: &mut Store, change: Change) {
    store.stats.count(match change {
        Change::Incr(_) => Counter::IncrMisses,
        Change::Decr(_) => Counter::DecrMisses,
    });
}

fn touch(store: &mut Store, tokens: &Tokens<'_>, out: &mut Vec<u8>) {
    let answer = Answer::of(tokens);
    let key = tokens.word(1);
    if key.len() > KEY_LEN_MAX {
        return answer.say(out, BAD_FORMAT);
    }
    let Some(exptime) = number_i32(tokens.word(2)) else {
        return answer.say(out, b"CLIENT_ERROR invalid exptime argument");
    };
    let exptime = store.realtime(exptime);
    store.stats.count(Counter::CmdTouch);
    if let Some(item) = store.fetch(key, Bump::Yes) {
        item.exptime = exptime;
        let class = class_of(key, item);
        store.stats.count_class(class, ClassCounter::TouchHits);
        answer.say(out, b"TOUCHED");
    } else {
        store.stats.count(Counter::TouchMisses);
        answer.say(out, b"NOT_FOUND");
    }
}

fn flush_all(store: &mut Store, tokens: &Tokens<'_>, out: &mut Vec<u8>) {
    let answer = Answer::of(tokens);
    store.stats.count(Counter::CmdFlush);
    let without_delay = if answer.noreply { 2 } else { 1 };
    let mut exptime = 0;
    if tokens.count() != without_delay {
        let Some(delay) = number_i32(tokens.word(1)) else {
            return answer.say(out, b"CLIENT_ERROR invalid exptime argument");
        };
        exptime = delay;
    }
    store.flush(exptime);
    answer.say(out, b"OK");
}

fn verbosity(store: &mut Store, tokens: &Tokens<'_>, out: &mut Vec<u8>) {
    let answer = Answer::of(tokens);
    let Some(level) = number_u32(tokens.word(1)) else {
        return answer.say(out, BAD_FORMAT);
    };
    store.verbosity = level.min(VERBOSITY_MAX);
    answer.say(out, b"OK");
}

fn memory_limit(store: &mut Store, tokens: &Tokens<'_>, out: &mut Vec<u8>) {
    let answer = Answer::of(tokens);
    match number_u32(tokens.word(1)) {
        None => answer.say(out, b"ERROR"),
        Some(0..8) => {
            answer.say(
                out,
                b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m",
            );
        }
        Some(1_000_000_001..) => {
            answer.say(
                out,
                b"MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes",
            );
        }
        Some(mebibytes) => {
            store.config.memory_max_bytes = u64::from(mebibytes) << 20;
            store.shrink();
            answer.say(out, b"OK");
        }
    }
}

/// A browser or a scanner: memcached hangs up on an unknown command that ends in HTTP/….
fn is_http(tokens: &Tokens<'_>) -> bool {
    let command = tokens.word(0);
    // Behind these letters memcached has settled for `ERROR` before it looks for HTTP.
    let settled = matches!(
        command,
        [b'g' | b's' | b'a' | b'c' | b'i' | b'd' | b't', ..]
            | [b'm', _]
            | []
            | [_]
            | b"replace"
            | b"prepend"
            | b"bget"
            | b"flush_all"
            | b"verbosity"
    );
    !settled && tokens.last().starts_with(b"HTTP/")
}

/// The longest key.
pub(crate) const KEY_LEN_MAX: usize = 250;
pub(crate) const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format";
pub(crate) const NON_NUMERIC: &[u8] =
    b"CLIENT_ERROR cannot increment or decrement non-numeric value";
const VERBOSITY_MAX: u32 = 3;
