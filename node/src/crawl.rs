//! `lru_crawler`, and the two ways to list keys: `metadump` and `stats cachedump`.
//!
//! # Invariants
//!
//! - A dump is one instant's items, complete. memcached's `all` can miss some while it walks.
//! - Both `all` and `hash` walk in LRU order, oldest use first, so that seeds replay.
//!
//! Not here: the crawler as a process that takes time. `Crawler::Busy` stands in for it.

use core::fmt::Write as _;

use crate::classic::{BAD_FORMAT, say};
use crate::item::{CLASSES, Item, class_of};
use crate::stats::Counter;
use crate::store::{Crawler, Store};
use crate::token::{Tokens, number_u32, push_number};

/// `lru_crawler …`.
pub(crate) fn command(store: &mut Store, tokens: &Tokens<'_>, out: &mut Vec<u8>) {
    let argument = tokens.word(2);
    match (tokens.word(1), tokens.count()) {
        (b"crawl" | b"metadump", 3) => crawl(store, tokens, out),
        (b"tocrawl", 3) if number_u32(argument).is_some() => say(out, b"OK"),
        (b"sleep", 3) => match number_u32(argument) {
            Some(0..=SLEEP_US_MAX) => say(out, b"OK"),
            Some(_) => say(out, b"CLIENT_ERROR sleep must be one second or less"),
            None => say(out, BAD_FORMAT),
        },
        (b"tocrawl", 3) => say(out, BAD_FORMAT),
        (b"enable", 2) if store.config.crawler == Crawler::Disabled => {
            store.config.crawler = Crawler::Enabled;
            say(out, b"OK");
        }
        (b"enable", 2) => say(out, b"ERROR failed to start lru crawler thread"),
        (b"disable", 2) => {
            store.config.crawler = Crawler::Disabled;
            say(out, b"OK");
        }
        _ => say(out, b"ERROR"),
    }
}

fn crawl(store: &mut Store, tokens: &Tokens<'_>, out: &mut Vec<u8>) {
    let dump = tokens.word(1) == b"metadump";
    match store.config.crawler {
        Crawler::Disabled => return say(out, b"CLIENT_ERROR lru crawler disabled"),
        Crawler::DumpForbidden if dump => return say(out, b"ERROR metadump not allowed"),
        Crawler::Enabled | Crawler::DumpForbidden | Crawler::Busy => {}
    }
    let Some(chosen) = Classes::parse(tokens.word(2)) else {
        return say(out, b"BADCLASS invalid class id");
    };
    if store.config.crawler == Crawler::Busy {
        return say(out, b"BUSY currently processing crawler request");
    }
    match chosen {
        Classes::Hash if !dump => return say(out, b"ERROR an unknown error happened"),
        Classes::Some(chosen) if !chosen.contains(&true) => {
            return say(out, b"NOTSTARTED no items to crawl");
        }
        Classes::All | Classes::Hash | Classes::Some(_) => {}
    }
    store.stats.count(Counter::CrawlerStarts);
    let checked = if dump {
        metadump(store, &chosen, out)
    } else {
        say(out, b"OK");
        store.reclaim(&|class| chosen.contains(class))
    };
    store.stats.add(Counter::CrawlerItemsChecked, checked);
}

fn metadump(store: &Store, chosen: &Classes, out: &mut Vec<u8>) -> u64 {
    let mut checked = 0;
    let flushed = store.flushed_by(store.current);
    for (key, item) in store.raw_items() {
        if !chosen.contains(class_of(key, item)) {
            continue;
        }
        checked += 1;
        if !item.is_past(store.current) && !flushed.covers(item) {
            dump_line(store.process_started(), key, item, out);
        }
    }
    say(out, b"END");
    checked
}

fn dump_line(process_started: u64, key: &[u8], item: &Item, out: &mut Vec<u8>) {
    out.extend_from_slice(b"key=");
    push_uri(key, out);
    out.extend_from_slice(b" exp=");
    if item.exptime == 0 {
        out.extend_from_slice(b"-1");
    } else {
        push_number(out, process_started + u64::from(item.exptime));
    }
    out.extend_from_slice(b" la=");
    push_number(out, process_started + u64::from(item.time));
    out.extend_from_slice(b" cas=");
    push_number(out, item.cas);
    let fetched = item.has(Item::FETCHED);
    out.extend_from_slice(if fetched {
        b" fetch=yes cls="
    } else {
        b" fetch=no cls="
    });
    push_number(out, class_of(key, item) as u64);
    out.extend_from_slice(b" size=");
    push_number(out, item.total_len(key) as u64);
    out.push(b'\n');
}

fn push_uri(key: &[u8], out: &mut Vec<u8>) {
    for &byte in key {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            out.push(b'%');
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 0x0f)]);
        }
    }
}

/// `stats cachedump <class> <limit>`.
pub(crate) fn cachedump(store: &Store, tokens: &Tokens<'_>, out: &mut Vec<u8>) {
    if store.config.crawler == Crawler::DumpForbidden {
        return say(out, b"CLIENT_ERROR stats cachedump not allowed");
    }
    if tokens.count() < 4 {
        return say(out, b"CLIENT_ERROR bad command line");
    }
    let (Some(class), Some(limit)) = (number_u32(tokens.word(2)), number_u32(tokens.word(3)))
    else {
        return say(out, BAD_FORMAT);
    };
    if class as usize >= CLASSES {
        return say(out, b"CLIENT_ERROR Illegal slab id");
    }
    let limit = if limit == 0 {
        usize::MAX
    } else {
        limit as usize
    };
    let of_class = store
        .raw_items()
        .filter(|(key, item)| class_of(key, item) == class as usize && !item.has(Item::KEY_BINARY));
    let start = out.len();
    for (key, item) in of_class.take(limit) {
        let ends_at = match item.exptime {
            0 => 0,
            exptime => store.process_started() + u64::from(exptime),
        };
        let mut rest = String::new();
        write!(rest, " [{} b; {ends_at} s]", item.value.len()).expect("a String takes any text");
        let len = "ITEM ".len() + key.len() + rest.len() + 2;
        if out.len() - start + len + 6 > CACHEDUMP_LEN_MAX {
            break;
        }
        out.extend_from_slice(b"ITEM ");
        out.extend_from_slice(key);
        say(out, rest.as_bytes());
    }
    say(out, b"END");
}

/// Which slab classes a crawl visits.
enum Classes {
    All,
    Hash,
    Some([bool; CLASSES]),
}

impl Classes {
    fn parse(text: &[u8]) -> Option<Self> {
        match text {
            b"all" => return Some(Self::All),
            b"hash" => return Some(Self::Hash),
            _ => {}
        }
        let mut chosen = [false; CLASSES];
        for class in text
            .split(|&byte| byte == b',')
            .filter(|class| !class.is_empty())
        {
            let class = number_u32(class).filter(|class| *class >= 1)?;
            *chosen.get_mut(class as usize)? = true;
        }
        Some(Self::Some(chosen))
    }

    fn contains(&self, class: usize) -> bool {
        match self {
            Self::All | Self::Hash => true,
            Self::Some(chosen) => chosen[class],
        }
    }
}

const SLEEP_US_MAX: u32 = 1_000_000;
/// memcached's buffer for a cachedump.
const CACHEDUMP_LEN_MAX: usize = 2 << 20;
const HEX: &[u8; 16] = b"0123456789ABCDEF";
