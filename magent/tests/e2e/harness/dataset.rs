//! Items of all kinds, stored through the proxy: what has to be there again after a fault.

use super::items::{Item, Items, Moment, RELATIVE_S_MAX, token, unix_now};
use super::{Client, Endpoint};

/// Stores `count` small items and a few large ones; yields them. Nobody else writes their keys.
///
/// All kinds: with and without flags; no expiry, some that are short, some long, some as long as memcached counts
/// down, and some that it takes for a date; keys that have to be sent in base64; values from none to nearly the
/// most that memcached takes.
#[track_caller]
pub(crate) fn store_dataset(proxy: &Endpoint, count: u32) -> Items {
    let large = [20_000, 100_000, 700_000, 1_000_000, LARGEST_LEN].map(|len| {
        let value = (0..len).map(|n: u32| b'a' + u8::try_from(n % 23).unwrap());
        let planned = Planned {
            client_flags: len,
            exptime: u64::from(len),
            value: value.collect(),
        };
        (format!("large-{len}").into_bytes(), planned)
    });
    let all: Vec<(Vec<u8>, Planned)> = (0..count).map(small).chain(large).collect();
    let mut client = Client::connect(proxy);
    let mut items = Items::new();
    for batch in all.chunks(ITEMS_PER_BATCH) {
        let sent_at = unix_now();
        let mut request = Vec::new();
        for (key, item) in batch {
            request.extend_from_slice(&store_request(key, item, sent_at));
        }
        request.extend_from_slice(b"mn\r\n");
        client.ask(&request, b"MN\r\n");
        for (key, planned) in batch {
            let expires = if planned.is_date() {
                Some(Moment::at(sent_at + planned.exptime))
            } else {
                Moment::after(sent_at, planned.exptime)
            };
            let item = Item {
                client_flags: planned.client_flags,
                expires,
                value: planned.value.clone(),
            };
            items.insert(key.clone(), item);
        }
    }
    items
}

/// An item that is to be stored.
struct Planned {
    client_flags: u32,
    /// In seconds from then; 0 for ever.
    exptime: u64,
    value: Vec<u8>,
}

impl Planned {
    const fn is_date(&self) -> bool {
        self.exptime > RELATIVE_S_MAX
    }
}

/// In one write.
const ITEMS_PER_BATCH: usize = 500;

/// With a short key, as large as memcached takes: a megabyte, of which it needs a little itself.
const LARGEST_LEN: u32 = (1 << 20) - 200;

const DAY: u64 = 86_400;
/// Short, and longer than any test takes.
const SHORT_S: u64 = 300;

fn small(n: u32) -> (Vec<u8>, Planned) {
    let key = if n.is_multiple_of(17) {
        // Decoded, a key of meta commands may hold any byte.
        format!("data \u{1}\r\n{n}").into_bytes()
    } else {
        format!("data-{n}").into_bytes()
    };
    let exptime = match n % 8 {
        0..=2 => 0,
        3 => SHORT_S + u64::from(n % 100),
        4 => RELATIVE_S_MAX - u64::from(n % 100),
        5 => 1_000 + u64::from(n),
        _ => 40 * DAY + u64::from(n),
    };
    let value = if n.is_multiple_of(29) {
        Vec::new()
    } else {
        format!("{n} is the value of {n}").into_bytes()
    };
    (
        key,
        Planned {
            client_flags: n,
            exptime,
            value,
        },
    )
}

fn store_request(key: &[u8], item: &Planned, now: u64) -> Vec<u8> {
    let exptime = if item.is_date() {
        now + item.exptime
    } else {
        item.exptime
    };
    let (token, len, flags) = (token(key), item.value.len(), item.client_flags);
    let mut words = token.split(' ');
    let key = words.next().expect("a key");
    let base64 = words.next().map_or("", |_| " b");
    let head = format!("ms {key} {len} T{exptime} F{flags}{base64} q\r\n");
    [head.as_bytes(), &item.value, b"\r\n"].concat()
}
