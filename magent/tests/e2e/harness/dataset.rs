//! Items of all kinds, stored through the proxy: what has to be there again after a fault.

use super::items::{Item, Items, RELATIVE_S_MAX, token, unix_now};
use super::{Client, Endpoint};

/// Stores `count` small items and a few large ones; yields them. Nobody else writes their keys.
///
/// All kinds: with and without flags; no expiry, some that are relative and some that memcached takes for
/// a date; keys that have to be sent in base64; values from none to nearly the most that memcached takes.
#[track_caller]
pub(crate) fn store_dataset(proxy: &Endpoint, count: u32) -> Items {
    let now = unix_now();
    let small = (0..count).map(|n| small(n, now));
    let large = [20_000, 100_000, 700_000, 1_000_000].map(|len| {
        let value = (0..len).map(|n: u32| b'a' + u8::try_from(n % 23).unwrap());
        let item = Item {
            client_flags: len,
            expires_at: Some(now + u64::from(len)),
            value: value.collect(),
        };
        (format!("large-{len}").into_bytes(), item)
    });
    let items: Items = small.chain(large).collect();
    let all: Vec<(&Vec<u8>, &Item)> = items.iter().collect();
    let mut client = Client::connect(proxy);
    for batch in all.chunks(ITEMS_PER_BATCH) {
        let now = unix_now();
        let mut request = Vec::new();
        for (key, item) in batch {
            request.extend_from_slice(&store_request(key, item, now));
        }
        request.extend_from_slice(b"mn\r\n");
        client.ask(&request, b"MN\r\n");
    }
    items
}

/// In one write.
const ITEMS_PER_BATCH: usize = 500;

const DAY: u64 = 86_400;

fn small(n: u32, now: u64) -> (Vec<u8>, Item) {
    let key = if n.is_multiple_of(17) {
        // Decoded, a key of meta commands may hold any byte.
        format!("data \u{1}\r\n{n}").into_bytes()
    } else {
        format!("data-{n}").into_bytes()
    };
    let expires_at = match n % 4 {
        0 | 1 => None,
        2 => Some(now + 1_000 + u64::from(n)),
        _ => Some(now + 40 * DAY + u64::from(n)),
    };
    let value = if n.is_multiple_of(29) {
        Vec::new()
    } else {
        format!("{n} is the value of {n}").into_bytes()
    };
    (
        key,
        Item {
            client_flags: n,
            expires_at,
            value,
        },
    )
}

fn store_request(key: &[u8], item: &Item, now: u64) -> Vec<u8> {
    let exptime = match item.expires_at {
        None => 0,
        Some(at) if at - now <= RELATIVE_S_MAX => at - now,
        Some(at) => at,
    };
    let (token, len, flags) = (token(key), item.value.len(), item.client_flags);
    let mut words = token.split(' ');
    let key = words.next().expect("a key");
    let base64 = words.next().map_or("", |_| " b");
    let head = format!("ms {key} {len} T{exptime} F{flags}{base64} q\r\n");
    [head.as_bytes(), &item.value, b"\r\n"].concat()
}
