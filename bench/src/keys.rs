//! What is stored under which key: every key, its client flags and its value follow from an index.
//!
//! # Invariants
//!
//! - Two key sets share a key only if they agree on its value, because the value's length is part
//!   of the key. So workloads may run one after the other on the same backends.
//! - The values of two keys of a set differ from their first bytes on (the block they are cut
//!   from is random), so another key's value is always noticed.
//!
//! Not here: how keys and values look on the wire (`wire`).

use std::ops::Range;

/// One key set and the part of it that one connection may ask for.
#[derive(Debug)]
pub(crate) struct Keys {
    prefix: Vec<u8>,
    count: u32,
    value_len: usize,
    /// The value of key `index` is `block[index..][..value_len]`.
    block: Vec<u8>,
}

impl Keys {
    /// The set of `count` keys whose values are `value_len` bytes long.
    pub(crate) fn new(count: u32, value_len: usize) -> Self {
        assert!(count > 0, "a key set needs a key");
        let prefix = format!("bench:{value_len}:").into_bytes();
        let block_len = value_len + usize::try_from(count).expect("u32 fits usize on Linux");
        // The seed never changes: a later run must find the values of an earlier one.
        let mut random = fastrand::Rng::with_seed(0x6d61_6765_6e74);
        let mut block = vec![0; block_len];
        random.fill(&mut block);
        Self {
            prefix,
            count,
            value_len,
            block,
        }
    }

    pub(crate) fn value_len(&self) -> usize {
        self.value_len
    }

    /// Appends the text of key `index` to `out`.
    pub(crate) fn write_key(&self, index: u32, out: &mut Vec<u8>) {
        debug_assert!(index < self.count);
        out.extend_from_slice(&self.prefix);
        let mut digits = [b'0'; INDEX_LEN];
        let mut rest = index;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).expect("a digit is below 10");
            rest /= 10;
        }
        out.extend_from_slice(&digits);
    }

    /// The index of the key written `text`, if it is one of ours.
    pub(crate) fn index_of(&self, text: &[u8]) -> Option<u32> {
        let digits = text.strip_prefix(self.prefix.as_slice())?;
        if digits.len() != INDEX_LEN {
            return None;
        }
        let mut index = 0;
        for digit in digits {
            if !digit.is_ascii_digit() {
                return None;
            }
            index = index * 10 + u32::from(digit - b'0');
        }
        (index < self.count).then_some(index)
    }

    pub(crate) fn value(&self, index: u32) -> &[u8] {
        let start = usize::try_from(index).expect("u32 fits usize on Linux");
        &self.block[start..start + self.value_len]
    }

    /// The client flags of key `index`: not constant, so that mixed-up flags are noticed.
    pub(crate) fn client_flags(index: u32) -> u32 {
        index.wrapping_mul(2_654_435_761) >> 16
    }
}

/// The keys that a connection asks for: all of them, or every `step`th when the generator itself
/// spreads keys over several backends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    first: u32,
    step: u32,
    count: u32,
}

impl Share {
    /// Share number `part` of `parts`.
    pub(crate) fn new(keys: &Keys, part: u32, parts: u32) -> Self {
        assert!(
            part < parts && parts <= keys.count,
            "share {part} of {parts}"
        );
        Self {
            first: part,
            step: parts,
            count: (keys.count - part).div_ceil(parts),
        }
    }

    pub(crate) fn count(self) -> u32 {
        self.count
    }

    /// The key index of the `nth` key of this share, counted in a circle.
    pub(crate) fn index(self, nth: u32) -> u32 {
        self.first + nth % self.count * self.step
    }

    /// The place in this share of key `index`, if it belongs to it.
    pub(crate) fn nth(self, index: u32) -> Option<u32> {
        let distance = index.checked_sub(self.first)?;
        (distance % self.step == 0).then_some(distance / self.step)
    }

    /// Every place in the share.
    pub(crate) fn all(self) -> Range<u32> {
        0..self.count
    }
}

/// Digits of a key's index; enough for any `u32` that a benchmark can store.
const INDEX_LEN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_text_and_index_are_inverse() {
        let keys = Keys::new(12_000, 100);
        for index in [0, 9, 10, 11_999] {
            let mut text = Vec::new();
            keys.write_key(index, &mut text);
            assert_eq!(keys.index_of(&text), Some(index));
        }
        for text in [
            "bench:100:00012000",
            "bench:10:00000001",
            "bench:100:1",
            "bench:100:0000000x",
            "",
        ] {
            assert_eq!(keys.index_of(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn values_differ_between_keys_and_repeat_between_sets() {
        let keys = Keys::new(1_000, 16);
        let again = Keys::new(500, 16);
        for index in 0..499 {
            assert_ne!(keys.value(index), keys.value(index + 1));
            assert_eq!(keys.value(index), again.value(index));
        }
    }

    #[test]
    fn shares_cover_every_key_once() {
        let keys = Keys::new(1_000, 1);
        let mut owners = vec![0; 1_000];
        for part in 0..3 {
            let share = Share::new(&keys, part, 3);
            for nth in share.all() {
                let index = share.index(nth);
                assert_eq!(share.nth(index), Some(nth));
                owners[usize::try_from(index).unwrap()] += 1;
            }
            assert_eq!(share.index(share.count()), share.index(0), "a circle");
        }
        assert!(owners.iter().all(|&count| count == 1));
        assert_eq!(Share::new(&keys, 1, 3).nth(3), None, "another share's key");
    }
}
