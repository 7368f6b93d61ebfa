//! Does this ring spread keys? Measured, not known: on made-up keys of the usual shapes.
//!
//! Some placements that are in wide use are badly uneven, twemproxy's default among them. They
//! cannot be mended without moving every key, so whoever needs them gets them, and a warning.
//!
//! Each shape is judged alone, because weak hash functions fail by shape: on keys that end in a
//! counter fnv1a_64 leaves most of the ring empty, and on keys full of hex digits it is flawless.
//! A mixture of shapes would hide what happens to a site that has one.

use super::Ring;
use std::fmt;
use std::fmt::Write as _;

/// How many keys there are of each shape, at least: a small site, which is where counters do most
/// harm.
const KEYS_PER_SHAPE_MIN: u32 = 1_024;

/// Fewer keys per server could not tell a skew from chance.
const KEYS_PER_SERVER_MIN: u32 = 32;

/// A server with more than this many times its fair share is a warning.
///
/// 160 points per server spread shares with a standard deviation of 8 %, so sound rings stay
/// within 0.75 and 1.3. twemproxy's default gives one of three servers half of its share.
pub const RATIO_MAX: f64 = 1.5;

/// A server with less than this part of its fair share is a warning.
pub const RATIO_MIN: f64 = 0.6;

/// A deviation that chance could explain is none: so many standard deviations.
const SIGNIFICANT_DEVIATIONS: f64 = 5.0;

/// Up to here `Display` lists all servers' shares.
const LISTED_SERVERS_MAX: usize = 8;

/// What one server got of the keys of one shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// How many keys.
    pub keys: u32,
    /// How many its weight entitles it to.
    pub fair: f64,
}

impl Share {
    /// 1 is fair, 2 is double.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        f64::from(self.keys) / self.fair
    }

    fn is_skewed(&self) -> bool {
        let significant = self.deviations() > SIGNIFICANT_DEVIATIONS;
        significant && !(RATIO_MIN..=RATIO_MAX).contains(&self.ratio())
    }

    /// How many standard deviations of chance it is off.
    fn deviations(&self) -> f64 {
        (f64::from(self.keys) - self.fair).abs() / self.fair.sqrt()
    }
}

/// How a ring spreads the shape of key that it spreads worst.
#[derive(Clone, Debug, PartialEq)]
pub struct Skew {
    shares: Box<[Share]>,
    example: Box<str>,
}

impl Skew {
    /// What each server gets, by its index.
    #[must_use]
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// A key of that shape.
    #[must_use]
    pub fn example(&self) -> &str {
        &self.example
    }

    /// Whether the operator should hear of it.
    #[must_use]
    pub fn is_skewed(&self) -> bool {
        self.shares.iter().any(Share::is_skewed)
    }

    /// For comparing shapes: a skewed one is worse than one that is not, then the further off.
    fn badness(&self) -> (bool, f64) {
        let worst = self
            .shares
            .iter()
            .map(Share::deviations)
            .fold(0.0, f64::max);
        (self.is_skewed(), worst)
    }

    /// One number of each share in per cent, or the range if the list would be long.
    fn percents(&self, f: &mut fmt::Formatter<'_>, keys: impl Fn(&Share) -> f64) -> fmt::Result {
        let total: f64 = self.shares.iter().map(|share| share.fair).sum();
        let percent = |share: &Share| keys(share) * 100.0 / total;
        let percents = self.shares.iter().map(percent);
        if self.shares.len() > LISTED_SERVERS_MAX {
            let (least, most) = percents.fold((f64::MAX, 0.0f64), |(least, most), at| {
                (least.min(at), most.max(at))
            });
            return write!(f, "{least:.1} to {most:.1} %");
        }
        for (index, percent) in percents.enumerate() {
            let separator = if index == 0 { "" } else { "/" };
            write!(f, "{separator}{percent:.0}")?;
        }
        f.write_str(" %")
    }
}

/// `servers get 44/39/17 % of keys such as "key-0042", fair would be 33/33/33 %`.
impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("servers get ")?;
        self.percents(f, |share| f64::from(share.keys))?;
        write!(f, " of keys such as {:?}, fair would be ", self.example)?;
        self.percents(f, |share| share.fair)
    }
}

/// Asks `ring` for every key of the sample, a matter of milliseconds.
#[must_use]
pub fn sample(ring: &Ring) -> Skew {
    let total: f64 = ring.fair_weights().iter().sum();
    let server_count = u32::try_from(ring.server_count()).expect("at most SERVERS_MAX");
    let key_count = KEYS_PER_SHAPE_MIN.max(server_count * KEYS_PER_SERVER_MIN);
    let mut worst: Option<Skew> = None;
    for shape in SHAPES {
        let mut shares: Box<[Share]> = ring
            .fair_weights()
            .iter()
            .map(|weight| Share {
                keys: 0,
                fair: f64::from(key_count) * weight / total,
            })
            .collect();
        let mut key = String::new();
        let mut state = 0;
        for n in 0..key_count {
            key.clear();
            shape(&mut key, n, next_random(&mut state))
                .expect("a String takes all that is written");
            shares[ring.index(key.as_bytes())].keys += 1;
        }
        let skew = Skew {
            shares,
            example: key.into(),
        };
        if worst
            .as_ref()
            .is_none_or(|worst| worst.badness() < skew.badness())
        {
            worst = Some(skew);
        }
    }
    worst.expect("there is a shape")
}

/// Writes the key with a number and some random bits.
type Shape = fn(&mut String, u32, u64) -> fmt::Result;

/// Keys as applications make them: counted, drawn, nested, in hex.
const SHAPES: [Shape; 8] = [
    |key, n, _| write!(key, "user:{n}"),
    |key, n, _| write!(key, "key-{n:04}"),
    |key, n, _| write!(key, "item_{n:08}"),
    |key, n, random| write!(key, "/catalog/{}?page={}", random % 100_000, n % 10),
    |key, _, random| write!(key, "article:{}:comments", random % 1_000_000),
    |key, _, random| write!(key, "memc.sess.key.{random:013x}"),
    |key, n, random| write!(key, "session:{random:016x}{n:016x}"),
    |key, _, random| write!(key, "cache_{:08x}", random >> 32),
];

/// Sebastiano Vigna's splitmix64, <https://prng.di.unimi.it/splitmix64.c>.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
