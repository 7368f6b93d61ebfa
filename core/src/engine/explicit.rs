//! Writes with an explicit CAS unique, for backends that know the meta flag `E`: all copies of what one write
//! stores get the same version (`cas`).
//!
//! Only meta commands can carry it, so a classic write is sent as the meta command that does the same, and
//! its answer is told to the client in classic words.
//!
//! | classic | as meta | answers |
//! | --- | --- | --- |
//! | `set`, `cas` | `ms`, with `C` | `HD` `EX` `NF`: `STORED` `EXISTS` `NOT_FOUND` |
//! | `add`, `replace`, `append`, `prepend` | `ms` with `ME`, `MR`, `MA`, `MP` | `HD` `NS`: `STORED` `NOT_STORED` |
//! | `incr`, `decr` | `ma`, with `MD` | `VA` `NF`: the number, `NOT_FOUND` |
//!
//! # Invariants
//!
//! - A command that the two protocols may understand differently stays as it is, and its item gets a unique
//!   of the server's: numbers that are not plain digits, times beyond 31 bits, a unique that the client
//!   chose, a line that has no room for one more flag.
//! - A store on a condition that is refused for its size leaves the old item alone, but not as `ms`. So large
//!   ones stay as they are ([`VALUE_LEN_MAX`]). One that is refused because memory is short does take the old
//!   item with it, as an eviction would.
//! - Errors have the same text in both, so they pass as they are.
//!
//! memcached 1.6.45 forgets the `E` of an `ma` whose number grows by a digit. The item then has a unique of
//! the server's, which is marked: a `cas` after a failover hears `EXISTS`.
//!
//! Not here: what the answers mean (`answers`), which backends know `E` (`keeper`).

use super::Engine;
use super::backends::Leg;
use super::encode::UNLIMITED;
use super::exchange::{Exchange, ExchangeId, Form};
use crate::BackendId;
use crate::cas;
use crate::proto::response::Line;
use crate::proto::{
    self, ArithVerb, Decimal, Keys, Meta, MetaVerb, Parsed, Request, Store, StoreVerb, meta,
};

impl Engine {
    /// The version that a request of a write carries to `backend`; `None` if it carries none.
    pub(super) fn version_of_request(
        &mut self,
        backend: BackendId,
        exchange: ExchangeId,
        leg: Leg,
    ) -> Option<u64> {
        if leg == Leg::Authority {
            // Decided anew, it is another write: what the failed one did is not what is stored now.
            self.exchanges[exchange].version = 0;
        }
        let explicit = self.has_backups && self.view.backends[backend.index()].explicit_cas;
        if !explicit || !matches!(leg, Leg::Authority | Leg::Follower) {
            return None;
        }
        if self.exchanges[exchange].version == 0 {
            let since_start_us = self.turn_at.0.saturating_sub(self.started.0) / 1_000;
            let unix_us = self.process.unix_start_s * 1_000_000 + since_start_us;
            self.exchanges[exchange].version = self.versions.next(unix_us);
        }
        Some(self.exchanges[exchange].version)
    }
}

/// Hands out the pieces of `request`, its payload included, so that what it stores gets `version`. Yields
/// what its answer looks like if it is another command than `request`; `None` if `request` cannot carry a
/// version, or needs none: then nothing was handed out.
pub(super) fn encode(
    request: &[u8],
    version: u64,
    mark: u16,
    mut push: impl FnMut(&[u8]),
) -> Option<Sent> {
    let Parsed::Item { item, used } = proto::parse_request(request, &UNLIMITED) else {
        unreachable!("a request that is forwarded parses");
    };
    let version = Decimal::new(version);
    match item {
        Request::Store(store) if is_plain(&store) => {
            encode_store(&store, mark, &mut push);
            for piece in [b" E", version.digits(), b"\r\n", &request[used..]] {
                push(piece);
            }
            Some(Sent::Translated)
        }
        Request::Arith {
            verb, key, delta, ..
        } if is_digits(delta) => {
            let mode: &[u8] = match verb {
                ArithVerb::Incr => b"",
                ArithVerb::Decr => b" MD",
            };
            for piece in [b"ma ", key, mode, b" D", delta, b" E", version.digits()] {
                push(piece);
            }
            push(b" v\r\n");
            Some(Sent::Translated)
        }
        Request::Meta(meta) if takes_version(&meta) => {
            let line_len = used - b"\r\n".len();
            cas::mark_request(&request[..line_len], mark, &mut push);
            for piece in [b" E", version.digits(), &request[line_len..]] {
                push(piece);
            }
            Some(Sent::AsItIs)
        }
        Request::Store(_)
        | Request::Arith { .. }
        | Request::Meta(_)
        | Request::Get { .. }
        | Request::Config { .. }
        | Request::GetAndTouch { .. }
        | Request::Delete { .. }
        | Request::Touch { .. }
        | Request::FlushAll { .. }
        | Request::Version
        | Request::Verbosity { .. }
        | Request::Stats { .. }
        | Request::Quit
        | Request::MetaNoop => None,
    }
}

/// How a request was sent that carries a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// With one flag more.
    AsItIs,
    /// As a meta command in a classic one's stead: its answer is [`Form::Meta`].
    Translated,
}

/// The line of a classic store as `ms`, without its end.
fn encode_store(store: &Store<'_>, mark: u16, push: &mut impl FnMut(&[u8])) {
    let value_len = Decimal::new(u64::from(store.value_len));
    for piece in [b"ms ", store.key, b" ", value_len.digits()] {
        push(piece);
    }
    let mode: &[u8] = match store.verb {
        StoreVerb::Set | StoreVerb::Cas => b"",
        StoreVerb::Add => b" ME",
        StoreVerb::Replace => b" MR",
        StoreVerb::Append => b" MA",
        StoreVerb::Prepend => b" MP",
    };
    push(mode);
    // An item keeps its own when something is appended.
    let replaces = !matches!(store.verb, StoreVerb::Append | StoreVerb::Prepend);
    for (flag, number) in [(b" F", store.client_flags), (b" T", store.exptime)] {
        if replaces && number != b"0" {
            push(flag);
            push(number);
        }
    }
    if store.verb == StoreVerb::Cas {
        push(b" C");
        let unique = proto::parse_unsigned(store.cas).expect("the parser has checked it");
        push(Decimal::new(cas::marked(unique, mark)).digits());
    }
}

/// Longest value of a translated store on a condition: half of what memcached takes by default (`-I`).
pub(super) const VALUE_LEN_MAX: u32 = 512 * 1024;

/// Whether both protocols understand a classic store alike.
fn is_plain(store: &Store<'_>) -> bool {
    let number = |token| std::str::from_utf8(token).ok();
    let exptime = store.exptime.strip_prefix(b"-").unwrap_or(store.exptime);
    (store.verb == StoreVerb::Set || store.value_len <= VALUE_LEN_MAX)
        && is_digits(store.client_flags)
        && number(store.client_flags).is_some_and(|flags| flags.parse::<u32>().is_ok())
        && is_digits(exptime)
        && number(store.exptime).is_some_and(|exptime| exptime.parse::<i32>().is_ok())
}

fn is_digits(token: &[u8]) -> bool {
    !token.is_empty() && token.iter().all(u8::is_ascii_digit)
}

/// Whether a meta command gives its item a unique, and has room for the flag that says which.
fn takes_version(meta: &Meta<'_>) -> bool {
    let flags_max = match meta.verb {
        MetaVerb::Set => meta::FLAGS_OF_SET_MAX,
        MetaVerb::Arith => meta::FLAGS_MAX,
        // It keeps the item.
        MetaVerb::Delete if meta.letters.has(b'I') || meta.letters.has(b'x') => meta::FLAGS_MAX,
        MetaVerb::Delete | MetaVerb::Get | MetaVerb::Debug => return false,
    };
    !meta.letters.has(b'E') && Keys(meta.flags).count() < flags_max
}

/// Whether a classic request was sent as meta, if its answer looks like `form`.
pub(super) fn is_translated(exchange: &Exchange, form: Form) -> bool {
    exchange.write.form == Form::Line && form == Form::Meta
}

/// The line of a meta answer in classic words; `None` if it says the same in both.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "errors and numbers are the same in both"
)]
pub(super) fn classic_answer(line: &Line<'_>) -> Option<&'static [u8]> {
    match line {
        Line::MetaHeader(_) => Some(b"STORED\r\n"),
        Line::MetaNotStored(_) => Some(b"NOT_STORED\r\n"),
        Line::MetaExists(_) => Some(b"EXISTS\r\n"),
        Line::MetaNotFound(_) => Some(b"NOT_FOUND\r\n"),
        _ => None,
    }
}
