//! CAS uniques: marked with the backend that gave them, or the same on every backend.
//!
//! Every memcached counts its uniques from 1, so a primary's number can equal its backup's by chance, and a
//! `cas` after a failover could overwrite what its client has never seen. With backups, a unique that is
//! shown to a client is therefore XORed with the [`mark`] of the backend that answered, and a unique in a
//! client's request with the mark of the backend that the request is sent to, when it is sent. One that
//! another backend gave never equals the item's: that server itself answers `EXISTS` or `NOT_FOUND`.
//!
//! Where a server lets its client choose an item's unique (meta `E`), the proxy chooses: a `Versions` number,
//! the same for all copies of what one write stored. It needs no mark, and a `cas` finds it after a failover.
//!
//! ```text
//!   bit 63  62  61 ........ 48  47 ......................... 0
//!        0   0  mark XOR 0      the server's counter             marked
//!        0   1  microseconds since 1970 (52 bits), proxy (10)    a version, never marked
//! ```
//!
//! # Invariants
//!
//! - What a backend gives and gets back is its own number: marking twice with the same mark is nothing, for
//!   every number (`marked`).
//! - Only uniques change, every other byte of a line stays (`mark_answer`, `mark_request`).
//! - The unique that a client chooses itself (`E`) is marked too, so it reads back what it chose, from
//!   whichever backend.
//!
//! # Limits
//!
//! - Two backends have the same mark with a chance of 1 in 16,384. For that pair a unique of the one can
//!   equal one of the other by chance, as if there were no marks.
//! - A mark changes when the backend restarts, and once when its start becomes known. A `gets` before and a
//!   `cas` after that end in `EXISTS`: safe, and the client tries again.
//! - `ms` with `C` and `I` stores, marked stale, if the unique is *lower* than the item's. Of uniques that
//!   different backends gave, neither is lower in any sense, with marks or without.
//!
//! - Two proxies give the same version with a chance of 1 in 1,024 if they write the same key in the same
//!   microsecond.
//!
//! Not here: which backend is asked (`engine`), when its start is known and whether it knows `E` (`keeper`),
//! how a version is sent (`engine/explicit`).

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::WorkerId;
use crate::config::ProcessInfo;
use crate::proto::{Decimal, parse_unsigned};

/// The mark of the backend at `address` (as configured, without a label) that has run since
/// `started_unix_s`: the low 14 bits of XXH3-64 of the address, seeded with the start. The same in every
/// proxy that is given the same address.
///
/// The 16th bit stays 0, for clients that read a unique as a signed 64-bit number (Java's do). The 15th tells
/// a version.
#[must_use]
pub fn mark(address: &str, started_unix_s: i64) -> u16 {
    let hash = xxh3_64_with_seed(address.as_bytes(), started_unix_s.cast_unsigned());
    let [low, high, ..] = hash.to_le_bytes();
    u16::from_le_bytes([low, high & 0x3f])
}

/// `unique` as clients know it, if it is a backend's; as the backend knows it, if it is a client's.
pub(crate) const fn marked(unique: u64, mark: u16) -> u64 {
    let mark = (mark as u64) << 48;
    // To memcached 0 means no unique: an append or `ma` with `C0` is not compared at all. It must stay what
    // it is, and nothing else may become it.
    if unique == 0 || unique == mark || unique & VERSION != 0 {
        unique
    } else {
        unique ^ mark
    }
}

/// The bit that a version has, and neither a mark nor what a server counted to.
const VERSION: u64 = 1 << 62;

/// Whether `unique` was chosen by a proxy, so that every copy of the item can have it.
pub(crate) const fn is_version(unique: u64) -> bool {
    unique & VERSION != 0
}

/// Versions of one worker: uniques that no other write of any proxy has, and that grow with time.
#[derive(Debug)]
pub(crate) struct Versions {
    /// Tells workers and proxies apart: 10 bits.
    whose: u64,
    /// Of the version given last.
    unix_us: u64,
}

impl Versions {
    const UNIX_US_BITS: u32 = 52;
    const WHOSE_BITS: u32 = 10;

    pub(crate) const fn new(process: ProcessInfo, worker: WorkerId) -> Self {
        // In a container every process has the same id.
        let process = process.pid as u64 ^ process.unix_start_s << 32;
        let whose = (process.wrapping_mul(Self::SPREAD) >> 32) + worker.0 as u64;
        Self {
            whose: whose % (1 << Self::WHOSE_BITS),
            unix_us: 0,
        }
    }

    /// 2^64 divided by the golden ratio: ids that follow each other end up far apart.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

    /// The next version, at this time. Ahead of the clock if it is asked for more than one per microsecond.
    pub(crate) fn next(&mut self, unix_us: u64) -> u64 {
        self.unix_us = unix_us.max(self.unix_us + 1);
        let unix_us = self.unix_us % (1 << Self::UNIX_US_BITS);
        VERSION | unix_us << Self::WHOSE_BITS | self.whose
    }
}

/// Appends the first line of an answer, or all of it, with its unique marked.
pub(crate) fn mark_answer(line: &[u8], mark: u16, out: &mut Vec<u8>) {
    // What stands before the unique in the word of this index.
    let prefix = |verb: &[u8], index: usize| -> Option<&'static [u8]> {
        match verb {
            b"VALUE" => (index == 4).then_some(b""),
            b"VA" => (index >= 2).then_some(b"c"),
            b"HD" | b"EN" | b"NS" | b"EX" | b"NF" => Some(b"c"),
            b"ME" => (index >= 2).then_some(b"cas="),
            _ => None,
        }
    };
    rewrite(
        line,
        mark,
        |verb, index, word| {
            let prefix = prefix(verb, index)?;
            word.starts_with(prefix).then_some(prefix.len())
        },
        |piece| out.extend_from_slice(piece),
    );
}

/// Hands out the pieces of a request, its payload included, with the uniques of its line marked.
pub(crate) fn mark_request(request: &[u8], mark: u16, push: impl FnMut(&[u8])) {
    rewrite(
        request,
        mark,
        |verb, index, word| match verb {
            b"cas" => (index == 5).then_some(0),
            // Behind the key, or the length, there are only flags.
            b"mg" | b"ms" | b"md" | b"ma" => {
                (index >= 2 && matches!(word.first(), Some(b'C' | b'E'))).then_some(1)
            }
            _ => None,
        },
        push,
    );
}

/// Copies `bytes` piece by piece, with the uniques of the first line marked: `locate` is asked for each word
/// but the first, with that one and the word's index, how many of its bytes stand before a unique.
fn rewrite(
    bytes: &[u8],
    mark: u16,
    locate: impl Fn(&[u8], usize, &[u8]) -> Option<usize>,
    mut push: impl FnMut(&[u8]),
) {
    if mark == 0 {
        push(bytes);
        return;
    }
    let line_len = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    let line = &bytes[..line_len];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|&byte| byte == b' ').enumerate();
    let verb = words.next().map_or(&b""[..], |(_, verb)| verb);
    let (mut copied, mut end) = (0, verb.len());
    for (index, word) in words {
        let start = end + 1;
        end = start + word.len();
        let Some(before) = locate(verb, index, word) else {
            continue;
        };
        // A number that the server would not take passes as it is.
        if let Some(unique) = parse_unsigned(&word[before..]) {
            push(&bytes[copied..start + before]);
            push(Decimal::new(marked(unique, mark)).digits());
            copied = end;
        }
    }
    push(&bytes[copied..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(line: &str, mark: u16) -> String {
        let mut out = b"before ".to_vec();
        mark_answer(line.as_bytes(), mark, &mut out);
        let out = String::from_utf8(out).unwrap();
        out.strip_prefix("before ").unwrap().to_owned()
    }

    fn request(line: &str, mark: u16) -> String {
        let mut out = Vec::new();
        mark_request(line.as_bytes(), mark, |piece| out.extend_from_slice(piece));
        String::from_utf8(out).unwrap()
    }

    /// Another proxy, of another release, must find the same.
    #[test]
    fn a_mark_never_changes_from_release_to_release() {
        assert_eq!(mark("10.0.0.1:11211", 1_700_000_000), 4011);
        assert_eq!(mark("10.0.0.1:11211", 1_700_000_001), 680);
        assert_eq!(mark("10.0.0.2:11211", 1_700_000_000), 12789);
        assert_eq!(mark("", 0), 0x14c2);
    }

    /// 2^48 is 281474976710656.
    #[test]
    fn uniques_of_answers() {
        for (line, shown) in [
            ("VALUE k 0 1 7\r\n", "VALUE k 0 1 281474976710663\r\n"),
            ("VALUE 4 4 4\r\n", "VALUE 4 4 4\r\n"),
            ("HD c7\r\n", "HD c281474976710663\r\n"),
            ("HD kc5 c7 f1\r\n", "HD kc5 c281474976710663 f1\r\n"),
            ("HD O7 t-1\r\n", "HD O7 t-1\r\n"),
            (
                "VA 7 W c7\r\nc7 c8 c9",
                "VA 7 W c281474976710663\r\nc7 c8 c9",
            ),
            ("EX c0\r\n", "EX c0\r\n"),
            ("HD c281474976710663\r\n", "HD c7\r\n"),
            (
                "HD c13835058055282163711\r\n",
                "HD c13834776580305453055\r\n",
            ),
            (
                "HD c18446744073709551616\r\n",
                "HD c18446744073709551616\r\n",
            ),
            ("HD cx c\r\n", "HD cx c\r\n"),
            (
                "ME cas=1 exp=-1 cas=7 fetch=no\r\n",
                "ME cas=1 exp=-1 cas=281474976710663 fetch=no\r\n",
            ),
            ("STAT c7 c7\r\n", "STAT c7 c7\r\n"),
            ("SERVER_ERROR c7\r\n", "SERVER_ERROR c7\r\n"),
        ] {
            assert_eq!(answer(line, 1), shown);
            assert_eq!(answer(line, 0), line);
        }
    }

    #[test]
    fn uniques_of_requests() {
        for (line, sent) in [
            (
                "cas k 7 7 1 7\r\n7\r\n",
                "cas k 7 7 1 281474976710663\r\n7\r\n",
            ),
            (
                "cas k 0 0 1 281474976710663\r\n7\r\n",
                "cas k 0 0 1 7\r\n7\r\n",
            ),
            // As servers read it: a 1.
            (
                "cas k 0 0 1 -18446744073709551615\r\n7\r\n",
                "cas k 0 0 1 281474976710657\r\n7\r\n",
            ),
            ("set k 7 7 1\r\n7\r\n", "set k 7 7 1\r\n7\r\n"),
            ("mg C7 C7 v OC7\r\n", "mg C7 C281474976710663 v OC7\r\n"),
            (
                "ms k 4 E8 I C7\r\n C7 \r\n",
                "ms k 4 E281474976710664 I C281474976710663\r\n C7 \r\n",
            ),
            // Not compared by the server, and that must not be had with another number.
            ("ma k C0\r\n", "ma k C0\r\n"),
            ("ma k C281474976710656\r\n", "ma k C281474976710656\r\n"),
            (
                "md k C18446744073709551616\r\n",
                "md k C18446744073709551616\r\n",
            ),
            ("md k C C-1 Cx\r\n", "md k C C-1 Cx\r\n"),
        ] {
            assert_eq!(request(line, 1), sent);
            assert_eq!(request(line, 0), line);
        }
    }

    proptest! {
        /// What a backend gave comes back to it as it was; to any other it is none that it gave.
        #[test]
        fn a_unique_finds_home_and_nowhere_else(
            unique in prop_oneof![any::<u64>(), 0..1_000_u64],
            (home, other) in (0..0x4000_u16, 0..0x4000_u16),
            other_unique in 1..1_u64 << 48,
        ) {
            let shown = |line: String| answer(&line, home);
            let number = |line: &str, at: usize| line.split_whitespace().nth(at).unwrap().to_owned();
            let value = number(&shown(format!("VALUE k 0 1 {unique}\r\n")), 4);
            let meta = number(&shown(format!("VA 1 f0 c{unique}\r\n")), 3);
            let debug = number(&shown(format!("ME k cas={unique}\r\n")), 2);
            prop_assert_eq!(&meta[1..], &value);
            prop_assert_eq!(&debug[4..], &value);
            for mark in [home, other] {
                let classic = number(&request(&format!("cas k 0 0 1 {value}\r\n"), mark), 5);
                let meta = number(&request(&format!("ms k 1 T0 C{value} q\r\n"), mark), 4);
                prop_assert_eq!(&meta[1..], &classic);
                if mark == home {
                    prop_assert_eq!(&classic, &unique.to_string());
                }
            }
            // Servers count from 1, and no server counts to 2^48.
            if home != other && (1..1 << 48).contains(&unique) {
                prop_assert_ne!(marked(marked(unique, home), other), other_unique);
            }
        }

        #[test]
        fn a_marked_counter_is_no_version_and_fits_a_signed_number(
            address in ".*",
            started in any::<i64>(),
        ) {
            prop_assert_eq!(marked(1 << 40, mark(&address, started)) >> 62, 0);
        }

        #[test]
        fn versions_grow_and_are_never_marked(
            pid in any::<u32>(),
            worker in any::<u16>(),
            start in 0..1_u64 << 51,
            steps in proptest::collection::vec(0..3_u64, 1..50),
            mark in 0..0x4000_u16,
        ) {
            let process = ProcessInfo { pid, unix_start_s: start / 1_000_000 };
            let mut versions = Versions::new(process, WorkerId(worker));
            let (mut now, mut last) = (start, VERSION - 1);
            for step in steps {
                now += step;
                let version = versions.next(now);
                prop_assert!(last < version && version < 1 << 63);
                prop_assert_eq!(marked(version, mark), version);
                last = version;
            }
        }
    }
}
