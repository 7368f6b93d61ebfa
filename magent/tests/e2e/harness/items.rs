//! What memcacheds hold, the proxy not asked, and what they should hold.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

use super::cluster::index_of;
use super::{Client, Magent, Memcached, shown, wait_for};

/// One item, without its CAS unique: that is each memcached's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) client_flags: u32,
    /// `None` never expires.
    pub(crate) expires: Option<Moment>,
    pub(crate) value: Vec<u8>,
}

/// When an item ends, in seconds since 1970, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    from: u64,
    to: u64,
}

impl Moment {
    pub(crate) const fn at(unix_s: u64) -> Self {
        Self {
            from: unix_s,
            to: unix_s,
        }
    }

    /// `exptime` seconds after a command that was sent at `sent_at` and has just been answered; `None` for 0.
    pub(crate) fn after(sent_at: u64, exptime: u64) -> Option<Self> {
        (exptime > 0).then(|| Self {
            from: sent_at + exptime,
            to: unix_now() + exptime,
        })
    }

    pub(crate) const fn is_before(self, unix_s: u64) -> bool {
        self.to < unix_s
    }

    /// Seconds between the two.
    const fn apart(self, other: Self) -> u64 {
        let before = other.from.saturating_sub(self.to);
        let behind = self.from.saturating_sub(other.to);
        before + behind
    }
}

/// How far a copy's expiry may be off, in seconds, however often it was healed. Most of it is memcached's own: it counts
/// whole seconds from a start of its own.
pub(crate) const EXPIRY_OFF_MAX: u64 = 2;

/// What is longer than this, in seconds, is stored as a date.
pub(crate) const RELATIVE_S_MAX: u64 = 2_592_000;

/// By key.
pub(crate) type Items = BTreeMap<Vec<u8>, Item>;

impl Item {
    /// How it differs from `other`, whose expiry may be so many seconds off.
    fn difference(&self, other: &Self, off_max: u64) -> Option<String> {
        let expiries_agree = match (self.expires, other.expires) {
            (Some(one), Some(other)) => one.apart(other) <= off_max,
            (one, other) => one == other,
        };
        let agree =
            expiries_agree && self.client_flags == other.client_flags && self.value == other.value;
        (!agree).then(|| format!("{} and {}", self.summary(), other.summary()))
    }

    fn summary(&self) -> String {
        let value = &self.value[..self.value.len().min(60)];
        format!(
            "{} bytes \"{}\" with flags {} until {:?}",
            self.value.len(),
            shown(value),
            self.client_flags,
            self.expires
        )
    }
}

impl Memcached {
    /// Everything it holds.
    #[track_caller]
    pub(crate) fn items(&self) -> Items {
        let mut client = self.client();
        let keys = keys(&mut client);
        keys.chunks(KEYS_PER_BATCH)
            .flat_map(|keys| batch(&mut client, keys))
            .collect()
    }

    /// What it holds under these keys.
    #[track_caller]
    pub(crate) fn items_of<'a>(&self, keys: impl IntoIterator<Item = &'a Vec<u8>>) -> Items {
        items_of(&mut self.client(), keys)
    }
}

/// What the proxy answers for these keys.
#[track_caller]
pub(crate) fn items_through<'a>(
    magent: &Magent,
    keys: impl IntoIterator<Item = &'a Vec<u8>>,
) -> Items {
    items_of(&mut magent.client(), keys)
}

#[track_caller]
fn items_of<'a>(client: &mut Client, keys: impl IntoIterator<Item = &'a Vec<u8>>) -> Items {
    let keys: Vec<Vec<u8>> = keys.into_iter().cloned().collect();
    keys.chunks(KEYS_PER_BATCH)
        .flat_map(|keys| batch(client, keys))
        .collect()
}

/// In one write: few enough that neither side has to read before it has written everything.
const KEYS_PER_BATCH: usize = 200;

/// All keys, of live items and of some that have expired.
#[track_caller]
fn keys(client: &mut Client) -> Vec<Vec<u8>> {
    let first = wait_for("the crawler is free", || {
        let line = client.ask_line(b"lru_crawler metadump hash\r\n");
        (!line.starts_with("BUSY")).then_some(line)
    });
    let mut keys = Vec::new();
    let mut line = first;
    while line != "END" {
        let key = line
            .strip_prefix("key=")
            .and_then(|rest| rest.split(' ').next());
        let key = key.unwrap_or_else(|| panic!("not a line of a dump: {line}"));
        keys.push(percent_decode_str(key).collect());
        line = String::from_utf8(client.line()).unwrap();
    }
    keys.retain(|key: &Vec<u8>| !key.starts_with(OF_THE_PROXY));
    keys
}

/// Keys that the proxy itself stores.
const OF_THE_PROXY: &[u8] = b"magent.";

#[track_caller]
fn batch(client: &mut Client, keys: &[Vec<u8>]) -> Items {
    let mut request = Vec::new();
    for key in keys {
        request.extend_from_slice(format!("mg {} k f t v q\r\n", token(key)).as_bytes());
    }
    request.extend_from_slice(b"mn\r\n");
    // An item's expiry is its rest of life and the time at which that was told.
    let (answer, now) = wait_for("an answer within a second of the server's clock", || {
        let before = client.server_time();
        client.send(&request);
        let answer = client.until_meta_noop().unwrap();
        (client.server_time() == before).then_some((answer, before))
    });
    let mut items = Items::new();
    let mut rest = &answer[..];
    while let Some(line_len) = rest.windows(2).position(|bytes| bytes == b"\r\n") {
        let line = std::str::from_utf8(&rest[..line_len]).unwrap();
        let (key, mut item, value_len) =
            parse_header(line, now).unwrap_or_else(|| panic!("not an item: {line}"));
        let value = &rest[line_len + 2..];
        item.value = value[..value_len].to_vec();
        rest = &value[value_len + 2..];
        items.insert(key, item);
    }
    items
}

/// The first line of what `mg … k f t v` answers.
fn parse_header(line: &str, now: u64) -> Option<(Vec<u8>, Item, usize)> {
    let mut words = line.strip_prefix("VA ")?.split(' ');
    let value_len = words.next()?.parse().ok()?;
    let words: Vec<&str> = words.collect();
    let flag = |letter: char| words.iter().find_map(|word| word.strip_prefix(letter));
    let key = flag('k')?;
    let key = if words.contains(&"b") {
        STANDARD.decode(key).ok()?
    } else {
        key.as_bytes().to_vec()
    };
    let expires = match flag('t')? {
        "-1" => None,
        seconds => Some(Moment::at(now + seconds.parse::<u64>().ok()?)),
    };
    let item = Item {
        client_flags: flag('f')?.parse().ok()?,
        expires,
        value: Vec::new(),
    };
    Some((key, item, value_len))
}

/// A key as a meta command takes it: base64, with the flag that says so, unless it is printable.
pub(crate) fn token(key: &[u8]) -> String {
    if key.iter().all(u8::is_ascii_graphic) {
        String::from_utf8(key.to_vec()).expect("printable")
    } else {
        format!("{} b", STANDARD.encode(key))
    }
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// Where a key's two copies differ, for every key that any of these memcacheds holds.
#[track_caller]
pub(crate) fn differences(
    primaries: &[&Memcached],
    backups: &[&Memcached],
    off_max: u64,
) -> Vec<String> {
    let items = |backends: &[&Memcached]| -> Vec<Items> {
        backends.iter().map(|backend| backend.items()).collect()
    };
    let (primary_items, backup_items) = (items(primaries), items(backups));
    let all = primary_items.iter().chain(&backup_items);
    let mut keys: Vec<&Vec<u8>> = all.flat_map(BTreeMap::keys).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut found = Vec::new();
    for key in keys {
        let primary = index_of(key, primaries.len());
        let backup = index_of(key, backups.len());
        let copies = (
            primary_items[primary].get(key),
            backup_items[backup].get(key),
        );
        let difference = match copies {
            (Some(one), Some(other)) => one.difference(other, off_max),
            (None, None) => Some("neither, but another backend has it".to_owned()),
            (Some(one), None) => Some(format!("{} and nothing", one.summary())),
            (None, Some(other)) => Some(format!("nothing and {}", other.summary())),
        };
        found.extend(difference.map(|difference| {
            format!(
                "{} on {} and {}: {difference}",
                shown(key),
                primaries[primary].endpoint,
                backups[backup].endpoint
            )
        }));
    }
    found
}

/// What is missing or other than `expected` in these items, which a memcached or the proxy holds.
pub(crate) fn missing(expected: &Items, held: &Items, off_max: u64, who: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (key, expected) in expected {
        let difference = match held.get(key) {
            Some(item) => item.difference(expected, off_max),
            None => Some(format!("nothing and {}", expected.summary())),
        };
        found.extend(
            difference.map(|difference| {
                format!("{}: {who} has and should have {difference}", shown(key))
            }),
        );
    }
    found
}
