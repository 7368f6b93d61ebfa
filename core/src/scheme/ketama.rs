//! Rings of points: each server owns many places on a circle of 2^32, and a key belongs to the
//! server of the first point at or after its hash.
//!
//! Richard Jones' ketama (last.fm, 2007) and its relatives. They differ in three things only: the
//! strings that are hashed, the function that makes points of them, and how many there are.
//!
//! # Invariants
//!
//! - Points are sorted; among equal ones the server that was listed first comes first and gets
//!   the keys, as with glibc's `qsort`, which is stable where there is memory.
//! - There is at least one point.
//! - The order of the servers matters only for such equal points.

use super::Place;
use super::hash::{HashFunction, djb2, md5_words};
use crate::server::{LabelStyle, ServerSpec};
use std::fmt::Write as _;

/// ketama's points per server of average weight, four to a digest.
const POINTS_PER_SERVER: u32 = 160;

/// The points, as two arrays, and a table that leads from the first bits of a hash to the few points
/// that can follow it. Points are spread by their hash, so that a search looks at one or two.
#[derive(Debug)]
pub(super) struct PointRing {
    positions: Box<[u32]>,
    servers: Box<[u16]>,
    /// By a hash's first bits: how many points lie before all hashes that begin so. One more than there are
    /// such beginnings.
    starts: Box<[u32]>,
    /// Bits of a hash behind these.
    shift: u32,
}

/// Where the points of a server come from: `count` strings `label-k`, k from 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct PointSource {
    pub(super) count: u32,
    pub(super) style: LabelStyle,
    pub(super) hash: PointHash,
}

/// What makes points of a string.
#[derive(Clone, Copy, Debug)]
pub(super) enum PointHash {
    /// The four words of its md5 are four points.
    Md5Words,
    /// One point.
    Function(HashFunction),
}

impl PointRing {
    /// Weighted ketama: twemproxy `ketama`, libmemcached `KETAMA_WEIGHTED`.
    pub(super) fn weighted(servers: &[ServerSpec], weights: &[u32]) -> Self {
        let total: u32 = weights.iter().sum();
        Self::new(servers, |index| {
            let count = strings_of_weight(weights[index], total, servers.len());
            PointSource {
                count,
                style: LabelStyle::Ketama,
                hash: PointHash::Md5Words,
            }
        })
    }

    /// Every server alike.
    pub(super) fn uniform(servers: &[ServerSpec], source: PointSource) -> Self {
        Self::new(servers, |_| source)
    }

    pub(super) fn new(servers: &[ServerSpec], source_of: impl Fn(usize) -> PointSource) -> Self {
        let mut points = Vec::new();
        let mut text = String::new();
        for (index, server) in (0u16..).zip(servers) {
            let PointSource { count, style, hash } = source_of(usize::from(index));
            let label = server.label(style);
            for k in 0..count {
                text.clear();
                write!(text, "{label}-{k}").expect("a String takes all that is written");
                match hash {
                    PointHash::Md5Words => {
                        points.extend(md5_words(text.as_bytes()).map(|word| (word, index)));
                    }
                    PointHash::Function(function) => {
                        points.push((function.of(text.as_bytes()), index));
                    }
                }
            }
        }
        assert!(
            !points.is_empty(),
            "a ring of {} servers without points",
            servers.len()
        );
        points.sort_by_key(|&(position, _)| position);
        let (positions, servers): (Vec<u32>, Vec<u16>) = points.into_iter().unzip();
        let (starts, shift) = starts_of(&positions);
        Self {
            positions: positions.into(),
            servers: servers.into(),
            starts,
            shift,
        }
    }

    /// The index of the first point at or after `hash`, around the end if there is none.
    #[inline]
    pub(super) fn point_of(&self, hash: u32) -> usize {
        let beginning = (hash >> self.shift) as usize;
        let (start, end) = (self.starts[beginning], self.starts[beginning + 1]);
        let near = &self.positions[start as usize..end as usize];
        let point = start as usize + near.partition_point(|&position| position < hash);
        if point == self.positions.len() {
            0
        } else {
            point
        }
    }

    /// Where a key of this hash is found.
    #[inline]
    pub(super) fn place_of(&self, hash: u32) -> Place<'_> {
        Place::Circle {
            servers: &self.servers,
            at: self.point_of(hash),
        }
    }

    /// The servers of all points in their order on the circle.
    #[inline]
    pub(super) fn servers(&self) -> &[u16] {
        &self.servers
    }
}

/// Beyond this the table takes more room than it saves time: 256 KiB.
const STARTS_BITS_MAX: u32 = 16;

/// The table of [`PointRing::starts`], twice as long as there are points or up to four times, and its shift.
fn starts_of(positions: &[u32]) -> (Box<[u32]>, u32) {
    let bits = (2 * positions.len())
        .next_power_of_two()
        .ilog2()
        .min(STARTS_BITS_MAX);
    let shift = u32::BITS - bits;
    let before = |beginning: u64| {
        let first = beginning << shift;
        let point = positions.partition_point(|&position| u64::from(position) < first);
        u32::try_from(point).expect("a ring has at most POINTS_MAX points")
    };
    ((0..=1 << bits).map(before).collect(), shift)
}

/// How many strings a server of this weight gets.
///
/// In C: `float pct = (float)weight / (float)total;`, then
/// `floor((float)(pct * 160 / 4 * (float)n + 0.0000000001))`. Everything up to the sum is `float`,
/// the sum is `double` and is rounded to `float` again; with weights such as 1, 2, 3 a `double`
/// all the way would give one string more or less.
fn strings_of_weight(weight: u32, total: u32, server_count: usize) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the original's own rounding; the result is at most 40 for each server"
    )]
    {
        let share = weight as f32 / total as f32;
        let strings = share * POINTS_PER_SERVER as f32 / 4.0 * server_count as f32;
        (f64::from(strings) + 0.000_000_000_1) as f32 as u32
    }
}

/// magent 0.6's ketama, with the fault that makes it what it is: the hash of a key is returned
/// as `unsigned char`, so all keys meet the first handful of 2,000 points per server, and nearly
/// all of them the same server.
#[derive(Debug)]
pub(super) struct Magent06Ring {
    ring: PointRing,
    server_count: u32,
}

impl Magent06Ring {
    pub(super) fn new(servers: &[ServerSpec], server_count: u32) -> Self {
        Self {
            ring: PointRing::uniform(servers, MAGENT_POINTS),
            server_count,
        }
    }

    pub(super) fn ring(&self) -> &PointRing {
        &self.ring
    }

    /// The point, or for a hash of 0, which magent takes for "no hash", the server by modulo.
    pub(super) fn point_of(&self, key: &[u8]) -> Result<usize, u32> {
        match md5_words(key)[0] & 0xff {
            0 => Err(djb2(key) % self.server_count),
            hash => Ok(self.ring.point_of(hash)),
        }
    }
}

/// magent's `-k`, 0.6 and 0.7: 2,000 points per server.
pub(super) const MAGENT_POINTS: PointSource = PointSource {
    count: 500,
    style: LabelStyle::Magent,
    hash: PointHash::Md5Words,
};

/// memcached's `ring_hash` by default.
pub(super) const MEMCACHED_POINTS: PointSource = PointSource {
    count: POINTS_PER_SERVER,
    style: LabelStyle::HostPort,
    hash: PointHash::Function(HashFunction::Xxh3 { seed: 0 }),
};

/// memcached's `ring_hash` in its `evcache` mode. (Its `ketama` and `twemproxy` modes are
/// weighted ketama with equal weights.)
pub(super) const EVCACHE_POINTS: PointSource = PointSource {
    count: POINTS_PER_SERVER / 4,
    style: LabelStyle::Evcache,
    hash: PointHash::Md5Words,
};

/// libmemcached's CONSISTENT as long as no weight is above 1.
pub(super) const fn libmemcached_points(function: HashFunction) -> PointSource {
    PointSource {
        count: 100,
        style: LabelStyle::Ketama,
        hash: PointHash::Function(function),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_leads_to_the_point_that_a_search_of_all_finds() {
        for server_count in [1, 2, 3, 60, 900] {
            let servers: Vec<ServerSpec> = (0..server_count)
                .map(|index| format!("10.0.{}.{}:11211", index / 250, index % 250))
                .map(|server| server.parse().unwrap())
                .collect();
            let ring = PointRing::weighted(&servers, &vec![1; servers.len()]);
            let near = ring.positions.iter().flat_map(|&position| {
                [position.wrapping_sub(1), position, position.wrapping_add(1)]
            });
            for hash in near.chain([0, 1, u32::MAX]) {
                let after = ring.positions.partition_point(|&position| position < hash);
                assert_eq!(ring.point_of(hash), after % ring.positions.len(), "{hash}");
            }
        }
    }
}
