//! md5 of several short keys at once, one in each lane of a vector.
//!
//! The 64 steps of one md5 wait for each other, so that a processor is mostly idle; those of eight keys do not. With
//! AVX2 a key of a multi-key get takes 30 ns instead of 105 (`docs/performance.md`).
//!
//! The algorithm: R. Rivest, RFC 1321. A key of at most [`KEY_LEN_MAX`] bytes is one block.
//!
//! Not here: md5 of a single key, or of a longer one, or on another processor (`hash`).

/// Keys at once: eight numbers of 32 bits fill a register of 256.
pub(super) const LANES: usize = 8;

/// Longest key that fits into a block with its mark and its length.
pub(super) const KEY_LEN_MAX: usize = 55;

/// One number of each key.
type Lanes = [u32; LANES];

/// The first word of the digest of each key; `None` where this processor cannot do it, or where a key is too long.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(unused_variables, reason = "vectors are for x86-64")
)]
pub(super) fn first_words(keys: &[&[u8]; LANES]) -> Option<Lanes> {
    if keys.iter().any(|key| key.len() > KEY_LEN_MAX) {
        return None;
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[expect(
            unsafe_code,
            reason = "without AVX2 the same source takes 85 ns a key, with it 30"
        )]
        // SAFETY: this processor has AVX2.
        return Some(unsafe { with_avx2(keys) });
    }
    None
}

/// [`digest`], compiled for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2(keys: &[&[u8]; LANES]) -> Lanes {
    digest(keys)
}

/// Plain loops over lanes: the compiler makes vectors of them.
#[inline(always)]
fn digest(keys: &[&[u8]; LANES]) -> Lanes {
    let mut words = [[0; LANES]; 16];
    for (lane, key) in keys.iter().enumerate() {
        let mut block = [0; 56];
        block[..key.len()].copy_from_slice(key);
        block[key.len()] = 0x80;
        for (word, bytes) in words.iter_mut().zip(block.as_chunks().0) {
            word[lane] = u32::from_le_bytes(*bytes);
        }
        words[14][lane] = u32::try_from(key.len() * 8).unwrap_or_default();
    }
    compress(&words)
}

/// The first word after the block.
#[inline(always)]
fn compress(words: &[Lanes; 16]) -> Lanes {
    let mut state = INITIAL.map(|word| [word; LANES]);
    // Written out: what is constant in a step must be known where it is compiled.
    macro_rules! steps {
        ($($four:literal)*) => { $(
            state = step(state, words, 4 * $four);
            state = step(state, words, 4 * $four + 1);
            state = step(state, words, 4 * $four + 2);
            state = step(state, words, 4 * $four + 3);
        )* };
    }
    steps!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    state[0].map(|word| word.wrapping_add(INITIAL[0]))
}

/// One of the 64 steps.
#[inline(always)]
fn step([a, b, c, d]: [Lanes; 4], words: &[Lanes; 16], step: usize) -> [Lanes; 4] {
    let (mixed, word) = match step / 16 {
        0 => (xor(d, and(b, xor(c, d))), step),
        1 => (xor(c, and(d, xor(b, c))), 5 * step + 1),
        2 => (xor(xor(b, c), d), 3 * step + 5),
        _ => (xor(c, or(b, d.map(|word| !word))), 7 * step),
    };
    let sum = add(add(add(a, mixed), [SINES[step]; LANES]), words[word % 16]);
    let turned = sum.map(|word| word.rotate_left(SHIFTS[step / 16][step % 4]));
    [d, add(turned, b), b, c]
}

macro_rules! of_lanes {
    ($($name:ident: $of:expr;)*) => { $(
        #[inline(always)]
        fn $name(a: Lanes, b: Lanes) -> Lanes {
            let of: fn(u32, u32) -> u32 = $of;
            std::array::from_fn(|lane| of(a[lane], b[lane]))
        }
    )* };
}

of_lanes! {
    add: u32::wrapping_add;
    and: |a, b| a & b;
    or: |a, b| a | b;
    xor: |a, b| a ^ b;
}

const INITIAL: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

const SHIFTS: [[u32; 4]; 4] = [
    [7, 12, 17, 22],
    [5, 9, 14, 20],
    [4, 11, 16, 23],
    [6, 10, 15, 21],
];

/// `floor(2^32 * abs(sin(i + 1)))`.
#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::hash::md5_words;

    #[test]
    fn every_lane_and_length_is_the_same_as_md5() {
        let text: Vec<u8> = (0..=255).collect();
        for len in 0..=KEY_LEN_MAX {
            let keys: [&[u8]; LANES] = std::array::from_fn(|lane| {
                let len = (len + 7 * lane) % (KEY_LEN_MAX + 1);
                &text[lane * 20..][..len]
            });
            let expected = keys.map(|key| md5_words(key)[0]);
            assert_eq!(digest(&keys), expected, "length {len}");
            assert!(first_words(&keys).is_none_or(|words| words == expected));
        }
    }

    #[test]
    fn a_key_that_is_too_long_is_not_taken() {
        let mut keys = [&[b'k'; KEY_LEN_MAX][..]; LANES];
        keys[5] = &[b'k'; KEY_LEN_MAX + 1];
        assert_eq!(first_words(&keys), None);
    }
}
