//! One memcached process: its items, their expiry and eviction, CAS numbers and restarts.
//!
//! # Invariants
//!
//! - An item that is expired or flushed is never handed out; it is removed when it is met.
//! - `usage` counts exactly what `items` holds (an underflow panics in debug builds).
//! - Items are kept in LRU order, oldest first, and are only ever iterated in that order: the
//!   hash decides nothing that can be seen.
//! - CAS numbers come from one counter and only grow, until a restart that keeps nothing.
//! - Seconds count as in memcached: from 62 before the start, so that a restart's uptime is 2 and
//!   relative time 1 is always in the past.
//!
//! Not here: what the commands answer (`classic`, `meta`, `crawl`, `stats`).

use core::net::SocketAddr;

use hashlink::LinkedHashMap;
use hashlink::linked_hash_map::RawEntryMut;
use rustc_hash::FxBuildHasher;

use crate::Time;
use crate::item::{CHUNK_LEN_MAX, Flushed, Item, Usage, class_of, class_of_len, total_len};
use crate::session::ConnectionAddrs;
use crate::stats::{ClassCounter, Counter, Stats};

/// A memcached process and its items.
#[derive(Debug)]
pub struct Store {
    pub(crate) config: StoreConfig,
    pub(crate) stats: Stats,
    pub(crate) connections: Vec<Option<Connection>>,
    pub(crate) usage: Usage,
    /// Memcached's `current_time`: relative seconds.
    pub(crate) current: u32,
    pub(crate) oldest_live: u32,
    pub(crate) verbosity: u32,
    items: Items,
    /// Tells connections to this process from those to one before a restart.
    incarnation: u64,
    restarted: u32,
    cas_last: u64,
    oldest_cas: u64,
}

type Items = LinkedHashMap<Box<[u8]>, Item, FxBuildHasher>;

/// What a [`Store`] is started with.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Bytes of items, memcached's overhead included, above which the oldest are evicted (`-m`).
    pub memory_max_bytes: u64,
    /// The largest item, overhead included (`-I`).
    pub item_len_max: usize,
    /// Unix time at `Time(0)`; exptimes can be dates.
    pub unix_start_s: u64,
    /// The process id that `stats` reports.
    pub pid: u32,
    /// The version that `version` and `stats` report.
    pub version: &'static str,
    /// Whether the meta flag `E` sets the new CAS number, as in 1.6.45. In 1.6.18 it is
    /// `CLIENT_ERROR invalid flag`.
    pub meta_cas: bool,
    /// What becomes of `lru_crawler` commands.
    pub crawler: Crawler,
    /// Where this server claims to listen.
    pub listen: SocketAddr,
    /// How many connections it claims to accept (`-c`); the caller's business to enforce.
    pub connections_max: u32,
    /// How many worker threads it claims to have (`-t`).
    pub threads: u32,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            memory_max_bytes: 64 << 20,
            item_len_max: 1 << 20,
            unix_start_s: 1_700_000_000,
            pid: 1,
            version: "1.6.18",
            meta_cas: false,
            crawler: Crawler::Enabled,
            listen: SocketAddr::from(([127, 0, 0, 1], 11211)),
            connections_max: 1024,
            threads: 4,
        }
    }
}

/// What becomes of `lru_crawler` commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crawler {
    /// They are executed.
    Enabled,
    /// The crawler is switched off: `CLIENT_ERROR lru crawler disabled`.
    Disabled,
    /// The server was started with `-X`: `ERROR metadump not allowed`.
    DumpForbidden,
    /// Another crawl is under way: `BUSY currently processing crawler request`.
    Busy,
}

/// What survives [`Store::restart`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The ordinary restart: empty, and CAS numbers count from 1 again.
    Nothing,
    /// memcached's warm restart (`-e`): items, their TTLs and the CAS counter stay.
    Items,
}

/// An item as the outside may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemView<'a> {
    /// The key, decoded.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// The 32-bit number stored with it.
    pub client_flags: u32,
    /// Its CAS number.
    pub cas: u64,
    /// Seconds until it expires; `None` for never.
    pub ttl_s: Option<u32>,
    /// Whether it is marked stale (`md … I`).
    pub stale: bool,
    /// Whether somebody has won the right to recache it.
    pub won: bool,
}

impl Store {
    /// A process that starts at `Time(0)`.
    #[must_use]
    pub fn new(config: StoreConfig) -> Self {
        Self {
            config,
            stats: Stats::at_start(),
            connections: Vec::new(),
            usage: Usage::default(),
            current: START_S,
            oldest_live: 0,
            verbosity: 0,
            items: Items::default(),
            incarnation: 0,
            restarted: START_S,
            cas_last: 0,
            oldest_cas: 0,
        }
    }

    /// The process dies and comes back as `pid`. Connections to the old one are closed at their
    /// next use; uptime counts from 2 again and all counters from zero.
    pub fn restart(&mut self, now: Time, keep: Keep, pid: u32) {
        self.tick(now);
        self.config.pid = pid;
        self.stats = Stats::at_start();
        self.connections.clear();
        self.verbosity = 0;
        self.incarnation += 1;
        self.restarted = self.current;
        if keep == Keep::Nothing {
            self.items.clear();
            self.usage = Usage::default();
            self.cas_last = 0;
            self.oldest_live = 0;
            self.oldest_cas = 0;
        }
    }

    /// Looks at an item without touching anything.
    #[must_use]
    pub fn peek(&self, key: &[u8], now: Time) -> Option<ItemView<'_>> {
        let (key, item) = self.items.get_key_value(key)?;
        self.view(key, item, relative(now))
    }

    /// All live items, oldest use first, without touching anything.
    pub fn items(&self, now: Time) -> impl Iterator<Item = ItemView<'_>> {
        let current = relative(now);
        self.items
            .iter()
            .filter_map(move |(key, item)| self.view(key, item, current))
    }

    /// Evicts one item, as memory pressure would. Says whether it was there.
    pub fn evict(&mut self, key: &[u8]) -> bool {
        let Some((key, item)) = self.items.remove_entry(key) else {
            return false;
        };
        self.count_eviction(&key, &item);
        true
    }

    /// Changes what becomes of `lru_crawler` commands.
    pub fn set_crawler(&mut self, crawler: Crawler) {
        self.config.crawler = crawler;
    }

    /// Removes everything at once and without a trace in the counters: a fault for simulations.
    pub fn clear(&mut self) {
        self.items.clear();
        self.usage = Usage::default();
    }

    fn view<'a>(&self, key: &'a [u8], item: &'a Item, current: u32) -> Option<ItemView<'a>> {
        if item.is_expired(current) || self.flushed_by(current).covers(item) {
            return None;
        }
        Some(ItemView {
            key,
            value: &item.value,
            client_flags: item.client_flags,
            cas: item.cas,
            ttl_s: (item.exptime != 0).then(|| item.exptime - current),
            stale: item.has(Item::STALE),
            won: item.has(Item::TOKEN_SENT),
        })
    }

    // What commands use.

    pub(crate) fn tick(&mut self, now: Time) {
        self.current = self.current.max(relative(now));
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(crate) fn uptime(&self) -> u32 {
        self.current - self.restarted + UPTIME_AT_START_S
    }

    pub(crate) fn item_count(&self) -> usize {
        self.items.len()
    }

    /// All items, oldest use first, dead ones included.
    pub(crate) fn raw_items(&self) -> impl Iterator<Item = (&[u8], &Item)> {
        self.items.iter().map(|(key, item)| (&**key, item))
    }

    /// Unix time of relative second 0.
    pub(crate) fn process_started(&self) -> u64 {
        self.config.unix_start_s.saturating_sub(u64::from(START_S))
    }

    /// The relative second at which something with this exptime ends; 0 is never.
    pub(crate) fn realtime(&self, exptime: i32) -> u32 {
        // Negative ones become a date long ago, which the rule below turns into second 1.
        let exptime = u64::try_from(exptime).unwrap_or(RELATIVE_EXPTIME_MAX + 1);
        let end = match exptime {
            0 => 0,
            1..=RELATIVE_EXPTIME_MAX => exptime + u64::from(self.current),
            _ => exptime.saturating_sub(self.process_started()).max(1),
        };
        u32::try_from(end).unwrap_or(u32::MAX)
    }

    /// The item of `key`, if it is alive.
    pub(crate) fn fetch(&mut self, key: &[u8], bump: Bump) -> Option<&mut Item> {
        let flushed = self.flushed_by(self.current);
        let RawEntryMut::Occupied(mut entry) = self.items.raw_entry_mut().from_key(key) else {
            return None;
        };
        let item = entry.get();
        let dead = match (flushed.covers(item), item.is_expired(self.current)) {
            (true, _) => Some(Counter::GetFlushed),
            (false, true) => Some(Counter::GetExpired),
            (false, false) => None,
        };
        if let Some(counter) = dead {
            let item = entry.remove();
            self.usage.remove(key, &item);
            self.stats.count(counter);
            return None;
        }
        if bump == Bump::Yes {
            entry.to_back();
        }
        let item = entry.into_mut();
        if bump == Bump::Yes {
            item.mark_fetched(self.current);
        }
        Some(item)
    }

    /// Removes an item, dead or alive.
    pub(crate) fn unlink(&mut self, key: &[u8]) {
        if let Some(item) = self.items.remove(key) {
            self.usage.remove(key, &item);
        }
    }

    /// What an item of this size would meet.
    pub(crate) fn room_for(&self, key: &[u8], value_len: usize, client_flags: u32) -> Room {
        let total = total_len(key.len(), value_len, client_flags);
        if total > self.config.item_len_max {
            Room::TooLarge
        } else if total as u64 > self.config.memory_max_bytes {
            Room::NoMemory
        } else {
            Room::Yes
        }
    }

    /// Makes `item` the item of `key`, with the next CAS number or an explicit one, and evicts
    /// until it fits.
    pub(crate) fn link(&mut self, key: &[u8], mut item: Item, cas: Option<u64>) -> u64 {
        item.time = self.current;
        item.cas = cas.unwrap_or_else(|| self.next_cas());
        let cas = item.cas;
        self.usage.add(key, &item);
        self.stats.count(Counter::TotalItems);
        match self.items.raw_entry_mut().from_key(key) {
            RawEntryMut::Occupied(mut entry) => {
                entry.to_back();
                let old = entry.replace_value(item);
                self.usage.remove(key, &old);
            }
            RawEntryMut::Vacant(entry) => {
                entry.insert(Box::from(key), item);
            }
        }
        self.shrink();
        cas
    }

    /// One of the storage commands, with its value complete.
    pub(crate) fn store(&mut self, write: Write<'_>, value: Box<[u8]>) -> Outcome {
        let Write {
            key,
            mode,
            compare,
            explicit_cas,
            ..
        } = write;
        let mut item = Item::new(value, write.client_flags, write.exptime);
        item.marks = write.marks;
        let Some(old) = self.fetch(key, Bump::No) else {
            return match mode {
                Mode::Set | Mode::Add => Outcome::Stored(self.link(key, item, explicit_cas)),
                Mode::Cas => {
                    self.stats.count(Counter::CasMisses);
                    Outcome::NotFound
                }
                Mode::Replace | Mode::Append | Mode::Prepend => Outcome::NotStored,
            };
        };
        let (old_cas, old_exptime, old_marks) = (old.cas, old.exptime, old.marks);
        let class = class_of(key, old);
        match mode {
            Mode::Set | Mode::Replace => {}
            Mode::Add => {
                self.refresh(key);
                return Outcome::NotStored;
            }
            Mode::Cas if compare == old_cas => {
                self.stats.count_class(class, ClassCounter::CasHits);
            }
            Mode::Cas if write.accepts_stale && compare != 0 && compare < old_cas => {
                item.exptime = old_exptime;
                item.marks |= Item::STALE | old_marks & Item::TOKEN_SENT;
                self.stats.count_class(class, ClassCounter::CasHits);
            }
            Mode::Cas => {
                self.stats.count_class(class, ClassCounter::CasBadval);
                return Outcome::Exists;
            }
            Mode::Append | Mode::Prepend => {
                if compare != 0 && compare != old_cas {
                    return Outcome::Exists;
                }
                let value = if mode == Mode::Append {
                    [&*old.value, &*item.value].concat()
                } else {
                    [&*item.value, &*old.value].concat()
                };
                // All marks of the old item are lost here, that of a binary key included.
                item = Item::new(value.into_boxed_slice(), old.client_flags, old_exptime);
                if self.room_for(key, item.value.len(), item.client_flags) != Room::Yes {
                    return Outcome::NotStored;
                }
            }
        }
        Outcome::Stored(self.link(key, item, explicit_cas))
    }

    /// `incr`, `decr` and `ma`. `compare` is a CAS number, or 0 for none.
    pub(crate) fn add_delta(
        &mut self,
        key: &[u8],
        change: Change,
        compare: u64,
    ) -> Result<Changed, DeltaError> {
        let current = self.current;
        let cas_next = self.cas_last + 1;
        let item = self.fetch(key, Bump::No).ok_or(DeltaError::NotFound)?;
        let class = class_of(key, item);
        if item.value.is_empty() || item.total_len(key) > CHUNK_LEN_MAX {
            return Err(DeltaError::NonNumeric);
        }
        if compare != 0 && compare != item.cas {
            return Err(DeltaError::CasMismatch);
        }
        let number = crate::token::number_u64(&item.value).ok_or(DeltaError::NonNumeric)?;
        let (number, counter) = match change {
            Change::Incr(delta) => (number.wrapping_add(delta), ClassCounter::IncrHits),
            Change::Decr(delta) => (number.saturating_sub(delta), ClassCounter::DecrHits),
        };
        let mut text = Vec::new();
        crate::token::push_number(&mut text, number);
        let exptime = item.exptime;
        let in_place = text.len() <= item.value.len();
        if in_place {
            let (digits, blanks) = item.value.split_at_mut(text.len());
            digits.copy_from_slice(&text);
            blanks.fill(b' ');
            item.cas = cas_next;
            item.time = current;
            self.cas_last = cas_next;
            self.renew(key);
        } else {
            let item = Item::new(text.clone().into_boxed_slice(), item.client_flags, exptime);
            self.link(key, item, None);
        }
        self.stats.count_class(class, counter);
        Ok(Changed {
            text,
            exptime,
            cas: cas_next,
            in_place,
        })
    }

    /// `flush_all`: from `exptime` on, items older than it are gone. A later one replaces an
    /// earlier one that is still waiting, as in memcached.
    pub(crate) fn flush(&mut self, exptime: i32) {
        let from = if exptime > 0 {
            self.realtime(exptime)
        } else {
            self.current
        };
        self.oldest_live = from - 1;
        if self.oldest_live > self.current {
            return;
        }
        if self.config.meta_cas {
            // A number that a client chose says nothing about when the item was stored, so 1.6.45 removes
            // those of the last second at once instead.
            self.clear();
        } else {
            self.oldest_cas = self.next_cas();
        }
    }

    /// Removes what is expired or flushed in `classes`; how many items were looked at.
    pub(crate) fn reclaim(&mut self, classes: &dyn Fn(usize) -> bool) -> u64 {
        let flushed = self.flushed_by(self.current);
        let mut checked = 0;
        let mut dead = Vec::new();
        for (key, item) in &self.items {
            if !classes(class_of(key, item)) {
                continue;
            }
            checked += 1;
            if item.is_past(self.current) || flushed.covers(item) {
                dead.push(key.clone());
            }
        }
        for key in dead {
            let Some(item) = self.items.remove(&key) else {
                continue;
            };
            let class = self.usage.remove(&key, &item);
            self.stats
                .count_class(class, ClassCounter::CrawlerReclaimed);
        }
        checked
    }

    /// The next CAS number.
    pub(crate) fn next_cas(&mut self) -> u64 {
        self.cas_last += 1;
        self.cas_last
    }

    /// Which items the last `flush_all` has removed by now.
    pub(crate) fn flushed_by(&self, current: u32) -> Flushed {
        let due = self.oldest_live != 0 && self.oldest_live <= current;
        Flushed::new(due, self.oldest_live, self.oldest_cas)
    }

    /// Moves an item to the recent end of the LRU.
    pub(crate) fn renew(&mut self, key: &[u8]) {
        self.items.to_back(key);
    }

    /// Gives the item of `key` another CAS number.
    pub(crate) fn set_cas(&mut self, key: &[u8], cas: u64) {
        if let Some(item) = self.items.get_mut(key) {
            item.cas = cas;
        }
    }

    /// Gives the item of `key` another end.
    pub(crate) fn set_exptime(&mut self, key: &[u8], exptime: u32) {
        if let Some(item) = self.items.get_mut(key) {
            item.exptime = exptime;
        }
    }

    /// Counts a storage command, by the class of the item that it announced.
    pub(crate) fn count_set(&mut self, key: &[u8], value_len: usize, client_flags: u32) {
        let class = class_of_len(total_len(key.len(), value_len, client_flags));
        self.stats.count_class(class, ClassCounter::CmdSet);
    }

    fn refresh(&mut self, key: &[u8]) {
        if let Some(item) = self.items.to_back(key) {
            item.time = self.current;
        }
    }

    /// Evicts the oldest until the rest fits; the newest always stays (`room_for`).
    pub(crate) fn shrink(&mut self) {
        while self.usage.bytes > self.config.memory_max_bytes && self.items.len() > 1 {
            let Some((key, item)) = self.items.pop_front() else {
                return;
            };
            self.count_eviction(&key, &item);
        }
    }

    fn count_eviction(&mut self, key: &[u8], item: &Item) {
        let class = self.usage.remove(key, item);
        let unfetched = !item.has(Item::FETCHED);
        if item.is_past(self.current) || self.flushed_by(self.current).covers(item) {
            self.stats.count_class(class, ClassCounter::Reclaimed);
            if unfetched {
                self.stats
                    .count_class(class, ClassCounter::ExpiredUnfetched);
            }
            return;
        }
        self.stats.count_class(class, ClassCounter::Evicted);
        self.stats.evicted_age_s[class] = self.current - item.time;
        if item.exptime != 0 {
            self.stats.count_class(class, ClassCounter::EvictedNonzero);
        }
        if unfetched {
            self.stats
                .count_class(class, ClassCounter::EvictedUnfetched);
        }
    }
}

/// A connection as `stats conns` shows it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) addrs: ConnectionAddrs,
    pub(crate) last_command: u32,
}

/// Whether a lookup counts as a use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bump {
    Yes,
    No,
}

/// Whether an item may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Yes,
    TooLarge,
    NoMemory,
}

/// The storage commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    Cas,
}

/// A storage command but for its value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) mode: Mode,
    pub(crate) client_flags: u32,
    /// Already relative.
    pub(crate) exptime: u32,
    /// The CAS number that the item must have; 0 for none.
    pub(crate) compare: u64,
    /// The CAS number that the item gets, where the client says so.
    pub(crate) explicit_cas: Option<u64>,
    /// Whether an older CAS number stores too, marked stale.
    pub(crate) accepts_stale: bool,
    /// Marks of the item to be.
    pub(crate) marks: u8,
}

impl Write<'static> {
    /// One that depends on nothing; its key comes with its value.
    pub(crate) fn new(mode: Mode, client_flags: u32, exptime: u32) -> Self {
        Self {
            key: b"",
            mode,
            client_flags,
            exptime,
            compare: 0,
            explicit_cas: None,
            accepts_stale: false,
            marks: 0,
        }
    }
}

/// What became of a storage command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With the item's CAS number.
    Stored(u64),
    Exists,
    NotFound,
    NotStored,
}

/// Which way to count, and how far.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Incr(u64),
    Decr(u64),
}

/// A number that was changed.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) text: Vec<u8>,
    pub(crate) exptime: u32,
    pub(crate) cas: u64,
    /// Whether the item is the same as before. A number that grew by a digit is a new item.
    pub(crate) in_place: bool,
}

/// Why a number was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeltaError {
    NotFound,
    NonNumeric,
    CasMismatch,
}

fn relative(now: Time) -> u32 {
    u32::try_from(now.as_s()).map_or(u32::MAX, |seconds| seconds.saturating_add(START_S))
}

/// Above it (30 days) an exptime is a date.
const RELATIVE_EXPTIME_MAX: u64 = 60 * 60 * 24 * 30;
/// memcached starts its clock 62 seconds before itself and reports the time since second 60.
const START_S: u32 = 62;
const UPTIME_AT_START_S: u32 = 2;
