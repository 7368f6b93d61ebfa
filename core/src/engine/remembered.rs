//! Keys that a backend missed, or whose write it may or may not have executed.
//!
//! Only keys: the value is wherever the authority is. Bounded by count and bytes; what exceeds the bound
//! makes the whole set worthless, and the backend is flushed when it returns.

use std::collections::BTreeSet;

/// What one worker remembers for one backend.
#[derive(Debug)]
pub(crate) struct Remembered {
    keys: BTreeSet<Box<[u8]>>,
    len: u64,
    keys_max: u64,
    len_max: u64,
    overflowed: bool,
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noted {
    /// It is remembered.
    Added,
    /// It was known, or the set has overflowed before.
    Known,
    /// The set has overflowed.
    Overflowed,
}

impl Remembered {
    pub(crate) const fn new(keys_max: u64, len_max: u64) -> Self {
        Self {
            keys: BTreeSet::new(),
            len: 0,
            keys_max,
            len_max,
            overflowed: false,
        }
    }

    /// Remembers `key`.
    pub(crate) fn note(&mut self, key: &[u8]) -> Noted {
        if self.overflowed || self.keys.contains(key) {
            return Noted::Known;
        }
        if self.keys.len() as u64 >= self.keys_max || self.len + key.len() as u64 > self.len_max {
            self.overflow();
            return Noted::Overflowed;
        }
        self.len += key.len() as u64;
        self.keys.insert(key.into());
        Noted::Added
    }

    /// More was missed than keys can say.
    pub(crate) fn overflow(&mut self) {
        self.overflowed = true;
        self.keys = BTreeSet::new();
        self.len = 0;
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The keys, to be purged. They stay remembered until [`Self::clear`].
    pub(crate) fn keys(&self) -> Vec<Box<[u8]>> {
        self.keys.iter().cloned().collect()
    }

    /// The backend is rid of them.
    pub(crate) fn clear(&mut self) {
        self.keys = BTreeSet::new();
        self.len = 0;
        self.overflowed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_merged_and_the_bounds_hold() {
        let mut set = Remembered::new(2, 10);
        assert_eq!(set.note(b"a"), Noted::Added);
        assert_eq!(set.note(b"a"), Noted::Known);
        assert_eq!(set.note(b"b"), Noted::Added);
        assert_eq!(set.len(), 2);
        assert_eq!(set.note(b"c"), Noted::Overflowed);
        assert_eq!(set.note(b"d"), Noted::Known);
        assert_eq!(set.keys(), Vec::<Box<[u8]>>::new());
        set.clear();
        assert_eq!(set.note(b"0123456789"), Noted::Added);
        assert_eq!(set.note(b"x"), Noted::Overflowed);
    }
}
