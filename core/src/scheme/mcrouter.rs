//! mcrouter's hash functions: `Ch3`, `WeightedCh3`. (Its `CRC32` is a modulo.)
//!
//! `Ch3` is furc_hash, a consistent hash without a table: a stream of bits drawn from the key
//! walks down a binary tree whose leaves are the server numbers, and starts again where it would
//! end at a number that does not exist. As with the jump hash, only the last server can come or
//! go without moving more keys than need be.

use super::hash::little_endian;
use super::spooky::spooky_32;
use crate::server::Weight;

/// mcrouter's own choice of seed, "selected by search for optimum diffusion".
const FURC_SEED: u64 = 4_193_360_111;

/// How far apart in the stream the bits of one try are.
const FURC_STRIDE: u32 = 23;

/// How often furc starts again before it settles for server 0.
const FURC_TRIES_MAX: u32 = 32;

const SPOOKY_SEED: u32 = 0xface_2014;

/// How many servers `WeightedCh3` asks before it takes the last one's refusal for an answer.
const WEIGHTED_TRIES_MAX: u32 = 32;

/// The server of `key` among `server_count`.
pub(super) fn ch3(key: &[u8], server_count: u32) -> usize {
    if server_count <= 1 {
        return 0;
    }
    let mut depth = u32::BITS - (server_count - 1).leading_zeros();
    let mut bits = Bits::new(key);
    let mut at = depth;
    for _ in 0..FURC_TRIES_MAX {
        while !bits.get(at) {
            depth -= 1;
            if depth == 0 {
                return 0;
            }
            at = depth;
        }
        at += FURC_STRIDE;
        let mut server = 1;
        for _ in 1..depth {
            server = (server << 1) | u32::from(bits.get(at));
            at += FURC_STRIDE;
        }
        if server < server_count {
            return server as usize;
        }
    }
    0
}

/// An endless stream of bits: murmur64A of the key, then of that number, and so on.
///
/// furc reads it forwards, except that it goes back to a place within the first word. So two
/// words are kept where the original keeps a table of 1,024.
struct Bits {
    first: u64,
    word: u64,
    word_index: u32,
}

impl Bits {
    fn new(key: &[u8]) -> Self {
        let first = murmur_64a(key);
        Self {
            first,
            word: first,
            word_index: 0,
        }
    }

    fn get(&mut self, bit_index: u32) -> bool {
        let word_index = bit_index / u64::BITS;
        if word_index < self.word_index {
            self.word = self.first;
            self.word_index = 0;
        }
        while self.word_index < word_index {
            self.word = murmur_64a(&self.word.to_le_bytes());
            self.word_index += 1;
        }
        (self.word >> (bit_index % u64::BITS)) & 1 == 1
    }
}

/// Austin Appleby's MurmurHash64A.
fn murmur_64a(key: &[u8]) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    let mut hash = FURC_SEED ^ (key.len() as u64).wrapping_mul(M);
    let chunks = key.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        let mut word = little_endian(chunk).wrapping_mul(M);
        word ^= word >> 47;
        hash = (hash ^ word.wrapping_mul(M)).wrapping_mul(M);
    }
    if !rest.is_empty() {
        hash = (hash ^ little_endian(rest)).wrapping_mul(M);
    }
    hash ^= hash >> 47;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 47)
}

/// `WeightedCh3`: a server of weight 0.3 refuses 70 % of the keys that `Ch3` gives it, and those
/// are salted and asked for again.
#[derive(Debug)]
pub(super) struct WeightedCh3 {
    /// A key is accepted if its 32-bit hash is below the server's.
    accepted_below: Box<[u32]>,
}

impl WeightedCh3 {
    /// The weights must be at most 1.
    pub(super) fn new(weights: impl Iterator<Item = Weight>) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a weight is above 0 and, here, at most 1"
        )]
        // mcrouter multiplies by 2^32 - 1: at weight 1 one hash of four billion is refused.
        let accepted_below = weights.map(|weight| (weight.as_f64() * f64::from(u32::MAX)) as u32);
        Self {
            accepted_below: accepted_below.collect(),
        }
    }

    pub(super) fn server_of(&self, key: &[u8]) -> usize {
        let mut server = self.try_key(key);
        for salt in 1..WEIGHTED_TRIES_MAX {
            match server {
                Ok(server) => return server,
                Err(_) => server = self.try_salted(key, salt - 1),
            }
        }
        server.unwrap_or_else(|refused_by| refused_by)
    }

    /// The server, or the one that refused.
    fn try_key(&self, key: &[u8]) -> Result<usize, usize> {
        let server_count = u32::try_from(self.accepted_below.len()).expect("at most SERVERS_MAX");
        let server = ch3(key, server_count);
        if spooky_32(key, SPOOKY_SEED) < self.accepted_below[server] {
            Ok(server)
        } else {
            Err(server)
        }
    }

    /// The same for `key` with the decimal digits of `salt` behind it, lowest first.
    fn try_salted(&self, key: &[u8], salt: u32) -> Result<usize, usize> {
        let digit = |value: u32| b"0123456789"[(value % 10) as usize];
        let digits = [digit(salt), digit(salt / 10)];
        let digits = if salt < 10 { &digits[..1] } else { &digits[..] };
        let len = key.len() + digits.len();
        let mut buffer = [0; SALTED_LEN_MAX];
        if let Some(salted) = buffer.get_mut(..len) {
            salted[..key.len()].copy_from_slice(key);
            salted[key.len()..].copy_from_slice(digits);
            self.try_key(salted)
        } else {
            self.try_key(&[key, digits].concat())
        }
    }
}

/// Room for memcached's longest key, 250 bytes, and a salt. Longer keys, which no memcached
/// takes, cost an allocation.
const SALTED_LEN_MAX: usize = 252;
