//! The hash functions that memcached clients and proxies place keys with.
//!
//! None is used here for its quality. Each gives, bit for bit, what the program gives that it was
//! taken from, faults included, because a different bit is a cold cache.
//!
//! In C on x86 `char` is signed, so several of these add a byte of 0x80 or more as a negative
//! number ([`extend`]). It matters for every key in UTF-8.
//!
//! Not here: SpookyHash and murmur64A (`mcrouter`), which only mcrouter uses.

use super::md5_lanes::{self, LANES};
use md5::{Digest as _, Md5};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A function from a key to 32 bits. The names are the programs', which is why "64" can be in the
/// name of a function of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HashFunction {
    OneAtATime,
    Md5,
    Crc16,
    /// libmemcached's and twemproxy's `crc32`: 15 bits of the crc.
    Crc32Bits15,
    /// The whole crc: twemproxy's `crc32a`, pecl-memcache's and mcrouter's `crc32`.
    Crc32,
    Fnv1Low32,
    Fnv1aTruncated,
    Fnv1,
    Fnv1a,
    Hsieh,
    Murmur2,
    Jenkins,
    /// The low 32 bits of memcached's own default.
    Xxh3 {
        seed: u64,
    },
}

impl HashFunction {
    pub(crate) fn of(self, key: &[u8]) -> u32 {
        match self {
            Self::OneAtATime => one_at_a_time(key),
            Self::Md5 => md5_words(key)[0],
            Self::Crc16 => crc16(key),
            Self::Crc32Bits15 => (crc32fast::hash(key) >> 16) & 0x7fff,
            Self::Crc32 => crc32fast::hash(key),
            // Multiplication and xor never carry a high bit down, so the low half of the 64-bit
            // function is the function with the low halves of its constants.
            Self::Fnv1Low32 => fnv1(key, FNV_64_INIT_LOW, FNV_64_PRIME_LOW),
            Self::Fnv1aTruncated => fnv1a(key, FNV_64_INIT_LOW, FNV_64_PRIME_LOW),
            Self::Fnv1 => fnv1(key, FNV_32_INIT, FNV_32_PRIME),
            Self::Fnv1a => fnv1a(key, FNV_32_INIT, FNV_32_PRIME),
            Self::Hsieh => hsieh(key),
            Self::Murmur2 => murmur2(key),
            Self::Jenkins => jenkins(key),
            Self::Xxh3 { seed } => low_32(xxh3_64_with_seed(key, seed)),
        }
    }

    /// [`Self::of`] of each key, if that is cheaper than one after the other.
    pub(super) fn of_each(self, keys: &[&[u8]; LANES]) -> Option<[u32; LANES]> {
        (self == Self::Md5).then(|| md5_lanes::first_words(keys))?
    }
}

/// A byte as the C programs add it: sign-extended.
const fn extend(byte: u8) -> u32 {
    (byte.cast_signed() as i32).cast_unsigned()
}

pub(super) const fn low_32(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

/// The first bytes of `bytes`, at most 8, as a little-endian number.
pub(super) fn little_endian(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    let len = bytes.len().min(word.len());
    word[..len].copy_from_slice(&bytes[..len]);
    u64::from_le_bytes(word)
}

/// As [`little_endian`], at most 4 bytes.
fn little_endian_32(bytes: &[u8]) -> u32 {
    low_32(little_endian(&bytes[..bytes.len().min(4)]))
}

/// The digest as the four little-endian words that ketama takes it for.
pub(super) fn md5_words(bytes: &[u8]) -> [u32; 4] {
    let digest = Md5::digest(bytes);
    let mut words = [0; 4];
    for (word, chunk) in words.iter_mut().zip(digest.chunks_exact(4)) {
        *word = little_endian_32(chunk);
    }
    words
}

/// Daniel J. Bernstein's `h * 33 + c`, as magent 0.6 computes it: signed, and without sign bit.
pub(super) fn djb2(key: &[u8]) -> u32 {
    let hash = key.iter().fold(5381u32, |h, &byte| {
        h.wrapping_mul(33).wrapping_add(extend(byte))
    });
    hash & 0x7fff_ffff
}

/// Bob Jenkins, "Hash functions for hash table lookup", Dr. Dobb's Journal, September 1997.
fn one_at_a_time(key: &[u8]) -> u32 {
    let mut hash = 0u32;
    for &byte in key {
        hash = hash.wrapping_add(extend(byte));
        hash = hash.wrapping_add(hash << 10);
        hash ^= hash >> 6;
    }
    hash = hash.wrapping_add(hash << 3);
    hash ^= hash >> 11;
    hash.wrapping_add(hash << 15)
}

const FNV_32_INIT: u32 = 0x811c_9dc5;
const FNV_32_PRIME: u32 = 0x0100_0193;
const FNV_64_INIT_LOW: u32 = 0x8422_2325;
const FNV_64_PRIME_LOW: u32 = 0x0000_01b3;

/// Fowler, Noll and Vo, <http://www.isthe.com/chongo/tech/comp/fnv/>: multiply, then xor.
fn fnv1(key: &[u8], init: u32, prime: u32) -> u32 {
    key.iter()
        .fold(init, |hash, &byte| hash.wrapping_mul(prime) ^ extend(byte))
}

/// The same, xor first.
fn fnv1a(key: &[u8], init: u32, prime: u32) -> u32 {
    key.iter().fold(init, |hash, &byte| {
        (hash ^ extend(byte)).wrapping_mul(prime)
    })
}

const CRC16_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0u32;
    while index < 256 {
        let mut crc = index << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
            bit += 1;
        }
        table[index as usize] = crc & 0xffff;
        index += 1;
    }
    table
};

/// twemproxy's: CRC-16 of polynomial 0x1021 in a register of 32 bits. What is shifted out of the
/// 16 is never masked away, so the upper half holds remains of earlier bytes.
fn crc16(key: &[u8]) -> u32 {
    key.iter().fold(0u32, |crc, &byte| {
        let [low, ..] = (crc >> 8).to_le_bytes();
        (crc << 8) ^ CRC16_TABLE[usize::from(low ^ byte)]
    })
}

/// Paul Hsieh's SuperFastHash, <http://www.azillionmonkeys.com/qed/hash.html>. Signed in one
/// place only: the last byte of a key whose length is 3 modulo 4.
fn hsieh(key: &[u8]) -> u32 {
    let half = |bytes: &[u8]| u32::from(bytes[0]) | (u32::from(bytes[1]) << 8);
    let mut hash = 0u32;
    let chunks = key.chunks_exact(4);
    let rest = chunks.remainder();
    for chunk in chunks {
        hash = hash.wrapping_add(half(chunk));
        hash = (hash << 16) ^ (half(&chunk[2..]) << 11) ^ hash;
        hash = hash.wrapping_add(hash >> 11);
    }
    match *rest {
        [_, _, last] => {
            hash = hash.wrapping_add(half(rest));
            hash ^= hash << 16;
            hash ^= extend(last) << 18;
            hash = hash.wrapping_add(hash >> 11);
        }
        [_, _] => {
            hash = hash.wrapping_add(half(rest));
            hash ^= hash << 11;
            hash = hash.wrapping_add(hash >> 17);
        }
        [last] => {
            hash = hash.wrapping_add(u32::from(last));
            hash ^= hash << 10;
            hash = hash.wrapping_add(hash >> 1);
        }
        _ => {}
    }
    hash ^= hash << 3;
    hash = hash.wrapping_add(hash >> 5);
    hash ^= hash << 4;
    hash = hash.wrapping_add(hash >> 17);
    hash ^= hash << 25;
    hash.wrapping_add(hash >> 6)
}

/// Austin Appleby's MurmurHash2 of 32 bits, with libmemcached's seed: `0xdeadbeef * len`.
fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let len = len_32(key);
    let mut hash = 0xdead_beef_u32.wrapping_mul(len) ^ len;
    let chunks = key.chunks_exact(4);
    let rest = chunks.remainder();
    for chunk in chunks {
        let mut word = little_endian_32(chunk).wrapping_mul(M);
        word ^= word >> 24;
        hash = hash.wrapping_mul(M) ^ word.wrapping_mul(M);
    }
    if !rest.is_empty() {
        hash = (hash ^ little_endian_32(rest)).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// Bob Jenkins' lookup3, <http://burtleburtle.net/bob/c/lookup3.c>, `hashlittle` with
/// libmemcached's initval of 13.
fn jenkins(key: &[u8]) -> u32 {
    let mut state = [0xdead_beef_u32.wrapping_add(len_32(key)).wrapping_add(13); 3];
    let mut rest = key;
    while rest.len() > 12 {
        add_block(&mut state, rest);
        jenkins_mix(&mut state);
        rest = &rest[12..];
    }
    // Only an empty key gets here without bytes left, and it is not mixed.
    if !rest.is_empty() {
        add_block(&mut state, rest);
        jenkins_final(&mut state);
    }
    state[2]
}

/// Adds the first 12 bytes, missing ones as zero.
fn add_block(state: &mut [u32; 3], bytes: &[u8]) {
    for (word, chunk) in state.iter_mut().zip(bytes.chunks(4)) {
        *word = word.wrapping_add(little_endian_32(chunk));
    }
}

fn jenkins_mix(state: &mut [u32; 3]) {
    let [mut a, mut b, mut c] = *state;
    for (rot_a, rot_b, rot_c) in [(4, 6, 8), (16, 19, 4)] {
        a = a.wrapping_sub(c) ^ c.rotate_left(rot_a);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(rot_b);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(rot_c);
        b = b.wrapping_add(a);
    }
    *state = [a, b, c];
}

fn jenkins_final(state: &mut [u32; 3]) {
    let [mut a, mut b, mut c] = *state;
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    c = (c ^ b).wrapping_sub(b.rotate_left(24));
    *state = [a, b, c];
}

/// The length as C's `uint32_t` holds it.
fn len_32(key: &[u8]) -> u32 {
    low_32(key.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published values, for what the golden vectors can only show modulo three servers.
    #[test]
    fn published_values() {
        assert_eq!(HashFunction::Crc32.of(b"123456789"), 0xcbf4_3926);
        // CRC-16/XMODEM. The register's upper half is the excess that twemproxy does not mask.
        assert_eq!(HashFunction::Crc16.of(b"123456789") & 0xffff, 0x31c3);
        assert_eq!(HashFunction::Fnv1.of(b"foobar"), 0x31f0_b262);
        assert_eq!(HashFunction::Fnv1a.of(b"foobar"), 0xbf9c_f968);
        // The low half of the published 0x340d8765a4dda9c2.
        assert_eq!(HashFunction::Fnv1Low32.of(b"foobar"), 0xa4dd_a9c2);
        assert_eq!(HashFunction::OneAtATime.of(b"a"), 0xca2e_9442);
        assert_eq!(
            HashFunction::OneAtATime.of(b"The quick brown fox jumps over the lazy dog"),
            0x519e_91f5
        );
        assert_eq!(HashFunction::Md5.of(b""), 0xd98c_1dd4);
        // lookup3 leaves an empty key unmixed.
        assert_eq!(HashFunction::Jenkins.of(b""), 0xdead_beef + 13);
        // XXH3_64bits of nothing, seed 0: 0x2d06800538d394c2.
        assert_eq!(HashFunction::Xxh3 { seed: 0 }.of(b""), 0x38d3_94c2);
    }

    #[test]
    fn bytes_above_7f_are_negative() {
        assert_eq!(extend(0x7f), 0x7f);
        assert_eq!(extend(0x80), 0xffff_ff80);
        assert_eq!(djb2(b"\xff"), 5381 * 33 - 1);
    }
}
