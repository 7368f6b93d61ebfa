//! Requests that a backend gets besides what a client wrote: outcomes and deletions.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::exchange::{Class, Exchange, Form, Outcome};
use crate::proto::{
    self, KEY_LEN_MAX, MetaVerb, ParseLimits, Parsed, Request, Store, StoreVerb, encode_decimal,
    meta,
};

/// What was checked when it arrived is not bounded again.
pub(crate) const UNLIMITED: ParseLimits = ParseLimits {
    request_line_len_max: usize::MAX,
    get_line_len_max: usize::MAX,
    value_len_max: u32::MAX,
};

/// Writes the line that copies the outcome of a command; yields what its answer looks like and whether the
/// exchange's large payload follows.
pub(crate) fn outcome(exchange: &Exchange, line: &mut Vec<u8>) -> (Form, bool) {
    let Parsed::Item {
        item: request,
        used,
    } = proto::parse_request(&exchange.wire, &UNLIMITED)
    else {
        unreachable!("a request that was forwarded parses");
    };
    let payload = &exchange.wire[used..];
    let outcome = match exchange.write.class {
        Class::Store | Class::Remove => Outcome::Repeat,
        Class::Conditional(outcome) => outcome,
    };
    match (request, outcome) {
        (Request::Store(store), Outcome::Set) => {
            set_of(&store, line);
            line.extend_from_slice(payload);
            (Form::Line, true)
        }
        (Request::Meta(request), Outcome::Set) => {
            meta::encode_outcome(&request, line);
            line.extend_from_slice(payload);
            (Form::Meta, true)
        }
        // Its touch alone: a follower without the item must not create one (`N`), nor give the recache away
        // (`R`) that the client already has from the authority.
        (Request::Meta(request), Outcome::Touch) => {
            meta::encode_outcome(&request, line);
            (Form::Meta, true)
        }
        (Request::Meta(request), Outcome::Repeat) if request.verb == MetaVerb::Arith => {
            // A counter that has just been made stands at its initial value, here as there.
            let initial = request.token(b'J').unwrap_or(b"0");
            let creates = Exchange::number(&exchange.reply) == Some(initial);
            meta::encode_repeat_arith(&request, creates, line);
            (Form::Meta, false)
        }
        (Request::Meta(request), Outcome::Repeat) => {
            meta::encode_repeat(&request, line);
            line.extend_from_slice(payload);
            (Form::Meta, true)
        }
        (Request::GetAndTouch { exptime, .. }, _) => {
            for part in [b"touch ", exchange.key(), b" ", exptime, b"\r\n"] {
                line.extend_from_slice(part);
            }
            (Form::Line, false)
        }
        (_, Outcome::Delete) => (delete(exchange, line), false),
        (_, Outcome::Repeat | Outcome::Touch | Outcome::Set | Outcome::Nothing) => {
            line.extend_from_slice(&exchange.wire);
            (exchange.write.form, true)
        }
    }
}

/// The set that leaves a follower with what an add, replace or cas stored.
fn set_of(store: &Store<'_>, line: &mut Vec<u8>) {
    line.extend_from_slice(StoreVerb::Set.wire());
    for part in [store.key, store.client_flags, store.exptime] {
        line.push(b' ');
        line.extend_from_slice(part);
    }
    line.push(b' ');
    encode_decimal(u64::from(store.value_len), line);
    line.extend_from_slice(b"\r\n");
}

/// Writes the deletion of the exchange's key; yields what its answer looks like.
pub(crate) fn delete(exchange: &Exchange, line: &mut Vec<u8>) -> Form {
    if exchange.letters.has(b'b') {
        meta::encode_delete(exchange.key(), true, line);
        Form::Meta
    } else {
        classic_delete(exchange.key(), line);
        Form::Line
    }
}

/// Writes the deletion of a remembered key, which may hold any byte.
pub(crate) fn purge(key: &[u8], line: &mut Vec<u8>) {
    // Keys that classic requests cannot name came in base64, or were sent in it, so they are short enough for
    // it: a token of 250 characters, padding included, carries 186 bytes.
    if is_nameable(key) {
        classic_delete(key, line);
    } else {
        let mut encoded = [0; ENCODED_LEN_MAX];
        meta::encode_delete(base64(key, &mut encoded), true, line);
    }
}

/// Whether classic requests can name a key: anything but blanks and what ends or cuts a line.
pub(crate) fn is_nameable(key: &[u8]) -> bool {
    !key.iter().any(|byte| matches!(byte, 0 | b' ' | b'\n'))
}

/// Length of the longest key in base64.
pub(crate) const ENCODED_LEN_MAX: usize = KEY_LEN_MAX.div_ceil(3) * 4;

/// A key in base64.
pub(crate) fn base64<'a>(key: &[u8], encoded: &'a mut [u8; ENCODED_LEN_MAX]) -> &'a [u8] {
    let len = STANDARD
        .encode_slice(key, encoded)
        .expect("the buffer holds the longest key");
    &encoded[..len]
}

/// Writes the answer of an `mg` that finds nothing, with what the client asked to be repeated: a client
/// that pairs by opaque has nothing else to go by.
pub(crate) fn meta_miss(exchange: &Exchange, reply: &mut Vec<u8>) {
    reply.extend_from_slice(b"EN");
    if let Parsed::Item {
        item: Request::Meta(request),
        ..
    } = proto::parse_request(&exchange.wire, &UNLIMITED)
    {
        meta::encode_echoes(&request, reply);
    }
    reply.extend_from_slice(b"\r\n");
    echo_key(exchange, reply);
}

/// Adds the key to the first line of an answer, where the proxy does it in the backend's stead.
pub(crate) fn echo_key(exchange: &Exchange, reply: &mut Vec<u8>) {
    if let Some(asked_before) = exchange.echo {
        meta::insert_echo(exchange.key(), asked_before, reply);
    }
}

fn classic_delete(key: &[u8], line: &mut Vec<u8>) {
    for part in [b"delete ", key, b"\r\n"] {
        line.extend_from_slice(part);
    }
}
