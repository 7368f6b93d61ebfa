//! One item: when it is dead, what it takes, and which slab class that would be.
//!
//! # Invariants
//!
//! - Lengths and slab classes are memcached's with default settings; `me`, `metadump` and `stats`
//!   show them, and the differential test compares them.
//! - An exptime is a relative second; 0 is never.
//!
//! Not here: the map of items and the clock (`store`).

/// One item. Its key is the map's.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) value: Box<[u8]>,
    pub(crate) client_flags: u32,
    /// Relative second at which it expires; 0 is never.
    pub(crate) exptime: u32,
    /// Relative second of the last write or counted use.
    pub(crate) time: u32,
    pub(crate) cas: u64,
    pub(crate) marks: u8,
}

impl Item {
    /// It was read since it was written.
    pub(crate) const FETCHED: u8 = 1;
    /// It was invalidated but may still be served.
    pub(crate) const STALE: u8 = 1 << 1;
    /// One client was told to recache it.
    pub(crate) const TOKEN_SENT: u8 = 1 << 2;
    /// Its key was written in base64.
    pub(crate) const KEY_BINARY: u8 = 1 << 3;

    pub(crate) fn new(value: Box<[u8]>, client_flags: u32, exptime: u32) -> Self {
        Self {
            value,
            client_flags,
            exptime,
            time: 0,
            cas: 0,
            marks: 0,
        }
    }

    pub(crate) fn has(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    pub(crate) fn mark(&mut self, mark: u8) {
        self.marks |= mark;
    }

    pub(crate) fn unmark(&mut self, mark: u8) {
        self.marks &= !mark;
    }

    /// The first use after a write only marks the item; later ones renew its time.
    pub(crate) fn mark_fetched(&mut self, current: u32) {
        if self.has(Self::FETCHED) {
            self.time = current;
        }
        self.mark(Self::FETCHED);
    }

    /// As clients see expiry.
    pub(crate) fn is_expired(&self, current: u32) -> bool {
        self.exptime != 0 && self.exptime <= current
    }

    /// As the crawler and eviction see expiry: one second later than clients.
    pub(crate) fn is_past(&self, current: u32) -> bool {
        self.exptime != 0 && self.exptime < current
    }

    /// What memcached says this item takes.
    pub(crate) fn total_len(&self, key: &[u8]) -> usize {
        total_len(key.len(), self.value.len(), self.client_flags)
    }
}

/// The effect of the last `flush_all` at some moment.
#[derive(Clone, Copy)]
pub(crate) struct Flushed {
    due: bool,
    oldest_live: u32,
    oldest_cas: u64,
}

impl Flushed {
    pub(crate) fn new(due: bool, oldest_live: u32, oldest_cas: u64) -> Self {
        Self {
            due,
            oldest_live,
            oldest_cas,
        }
    }

    pub(crate) fn covers(self, item: &Item) -> bool {
        self.due
            && (item.time <= self.oldest_live
                || self.oldest_cas != 0 && item.cas != 0 && item.cas < self.oldest_cas)
    }
}

/// What the items take, as memcached counts it, and per slab class.
#[derive(Debug)]
pub(crate) struct Usage {
    pub(crate) bytes: u64,
    pub(crate) class_bytes: [u64; CLASSES],
    pub(crate) class_items: [u64; CLASSES],
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            bytes: 0,
            class_bytes: [0; CLASSES],
            class_items: [0; CLASSES],
        }
    }
}

impl Usage {
    pub(crate) fn add(&mut self, key: &[u8], item: &Item) {
        let len = item.total_len(key) as u64;
        let class = class_of(key, item);
        self.bytes += len;
        self.class_bytes[class] += len;
        self.class_items[class] += 1;
    }

    /// Says which class it was in.
    pub(crate) fn remove(&mut self, key: &[u8], item: &Item) -> usize {
        let len = item.total_len(key) as u64;
        let class = class_of(key, item);
        self.bytes -= len;
        self.class_bytes[class] -= len;
        self.class_items[class] -= 1;
        class
    }
}

/// The slab class memcached would put the item in.
pub(crate) fn class_of(key: &[u8], item: &Item) -> usize {
    class_of_len(item.total_len(key))
}

pub(crate) fn class_of_len(len: usize) -> usize {
    let class = CLASS_LENS.partition_point(|&class_len| class_len < len);
    class.min(CLASS_LENS.len() - 1) + 1
}

/// The chunk length of slab class `class`, which counts from 1.
pub(crate) fn class_len(class: usize) -> usize {
    CLASS_LENS[class - 1]
}

/// What memcached says an item takes.
pub(crate) fn total_len(key_len: usize, value_len: usize, client_flags: u32) -> usize {
    let client_flags_len = if client_flags == 0 { 0 } else { 4 };
    ITEM_HEADER_LEN + key_len + 1 + client_flags_len + value_len + 2 + 8
}

/// `sizeof(item)` on 64-bit machines.
const ITEM_HEADER_LEN: usize = 48;
/// Items above it are kept in chunks, and chunked items are never numbers.
pub(crate) const CHUNK_LEN_MAX: usize = 512 << 10;
/// Slab classes count from 1 to 63.
pub(crate) const CLASSES: usize = 64;
/// Chunk lengths with memcached's defaults: from 96, times 1.25, to a multiple of 8.
const CLASS_LENS: [usize; 39] = [
    96, 120, 152, 192, 240, 304, 384, 480, 600, 752, 944, 1184, 1480, 1856, 2320, 2904, 3632, 4544,
    5680, 7104, 8880, 11104, 13880, 17352, 21696, 27120, 33904, 42384, 52984, 66232, 82792,
    103_496, 129_376, 161_720, 202_152, 252_696, 315_872, 394_840, 524_288,
];
