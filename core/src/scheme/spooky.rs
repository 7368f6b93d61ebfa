//! SpookyHash V2 by Bob Jenkins, <http://burtleburtle.net/bob/hash/spooky.html>: the 32-bit form,
//! which decides in mcrouter whether a server takes a key or passes it on.
//!
//! Two algorithms by length: one state of four words below 192 bytes, one of twelve from there on.
//! Keys are up to 250 bytes, so both are met.

use super::hash::{little_endian, low_32};

/// Neither zero nor regular in its bits; the author asks for nothing else.
const FILLER: u64 = 0xdead_beef_dead_beef;

/// Bytes that the long form takes at a time.
const BLOCK_LEN: usize = 96;

/// From here on the long form is used.
const LONG_LEN_MIN: usize = 2 * BLOCK_LEN;

/// `SpookyHashV2::Hash32`.
pub(super) fn spooky_32(bytes: &[u8], seed: u32) -> u32 {
    let seed = u64::from(seed);
    low_32(if bytes.len() < LONG_LEN_MIN {
        short(bytes, seed)
    } else {
        long(bytes, seed)
    })
}

fn short(bytes: &[u8], seed: u64) -> u64 {
    let mut state = [seed, seed, FILLER, FILLER];
    let chunks = bytes.chunks_exact(32);
    let mut rest = chunks.remainder();
    for chunk in chunks {
        add_words(&mut state[2..], chunk);
        short_mix(&mut state);
        add_words(&mut state[..2], &chunk[16..]);
    }
    if rest.len() >= 16 {
        add_words(&mut state[2..], rest);
        short_mix(&mut state);
        rest = &rest[16..];
    }
    // Version 1 assigned the length here, version 2 adds it: the only difference for short keys.
    state[3] = state[3].wrapping_add((bytes.len() as u64) << 56);
    if rest.is_empty() {
        state[2] = state[2].wrapping_add(FILLER);
        state[3] = state[3].wrapping_add(FILLER);
    } else {
        add_words(&mut state[2..], rest);
    }
    short_end(&mut state);
    state[0]
}

/// Adds the next 8 bytes to each word, missing ones as zero.
fn add_words(words: &mut [u64], bytes: &[u8]) {
    for (word, chunk) in words.iter_mut().zip(bytes.chunks(8)) {
        *word = word.wrapping_add(little_endian(chunk));
    }
}

fn short_mix(state: &mut [u64; 4]) {
    const ROTATIONS: [u32; 12] = [50, 52, 30, 41, 54, 48, 38, 37, 62, 34, 5, 36];
    for (step, rotation) in ROTATIONS.into_iter().enumerate() {
        let at = |offset: usize| (step + 2 + offset) % 4;
        state[at(0)] = state[at(0)]
            .rotate_left(rotation)
            .wrapping_add(state[at(1)]);
        state[at(2)] ^= state[at(0)];
    }
}

fn short_end(state: &mut [u64; 4]) {
    const ROTATIONS: [u32; 11] = [15, 52, 26, 51, 28, 9, 47, 54, 32, 25, 63];
    for (step, rotation) in ROTATIONS.into_iter().enumerate() {
        let (target, source) = ((step + 3) % 4, (step + 2) % 4);
        state[target] ^= state[source];
        state[source] = state[source].rotate_left(rotation);
        state[target] = state[target].wrapping_add(state[source]);
    }
}

fn long(bytes: &[u8], seed: u64) -> u64 {
    let mut state: [u64; 12] =
        std::array::from_fn(|word| if word % 3 == 2 { FILLER } else { seed });
    let chunks = bytes.chunks_exact(BLOCK_LEN);
    let rest = chunks.remainder();
    for chunk in chunks {
        long_mix(&mut state, chunk);
    }
    let mut last = [0; BLOCK_LEN];
    last[..rest.len()].copy_from_slice(rest);
    last[BLOCK_LEN - 1] = u8::try_from(rest.len()).expect("shorter than a block");
    // Version 2 adds the last block without mixing it as version 1 did.
    add_words(&mut state, &last);
    for _ in 0..3 {
        long_end(&mut state);
    }
    state[0]
}

fn long_mix(state: &mut [u64; 12], block: &[u8]) {
    const ROTATIONS: [u32; 12] = [11, 32, 43, 31, 17, 28, 39, 57, 55, 54, 22, 46];
    for (step, (rotation, chunk)) in ROTATIONS.into_iter().zip(block.chunks(8)).enumerate() {
        let at = |offset: usize| (step + offset) % 12;
        state[step] = state[step].wrapping_add(little_endian(chunk));
        state[at(2)] ^= state[at(10)];
        state[at(11)] ^= state[step];
        state[step] = state[step].rotate_left(rotation);
        state[at(11)] = state[at(11)].wrapping_add(state[at(1)]);
    }
}

fn long_end(state: &mut [u64; 12]) {
    const ROTATIONS: [u32; 12] = [44, 15, 34, 21, 38, 33, 10, 13, 38, 53, 42, 54];
    for (step, rotation) in ROTATIONS.into_iter().enumerate() {
        let at = |offset: usize| (step + offset) % 12;
        state[at(11)] = state[at(11)].wrapping_add(state[at(1)]);
        state[at(2)] ^= state[at(11)];
        state[at(1)] = state[at(1)].rotate_left(rotation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes 0, 1, 2 … hashed by Bob Jenkins' C++ code (through the Python package spookyhash
    /// 2.1.0), at the lengths where another branch is taken.
    #[test]
    fn as_the_reference() {
        let expected = [
            (0, 0x6f2b_12a5),
            (1, 0x4a09_696b),
            (8, 0xbf02_777c),
            (12, 0x3f03_efc4),
            (15, 0x715f_95aa),
            (16, 0xd872_1747),
            (17, 0xb31e_d000),
            (31, 0x18fe_e12a),
            (32, 0xcd7e_89ca),
            (48, 0xfe72_4763),
            (191, 0x3f26_0b8f),
            (192, 0x1ec1_ed37),
            (193, 0x5272_be29),
            (250, 0x5cd4_a4ab),
            (287, 0x4b0f_d741),
            (288, 0xeaba_2920),
            (400, 0x2f30_61d1),
        ];
        for (len, expected) in expected {
            let bytes: Vec<u8> = (0..=255).cycle().take(len).collect();
            assert_eq!(spooky_32(&bytes, 0xface_2014), expected, "{len} bytes");
        }
    }
}
