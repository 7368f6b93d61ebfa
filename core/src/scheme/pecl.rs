//! pecl-memcache's consistent strategy (`memcache.hash_strategy = consistent`).
//!
//! It builds a ring of 160 points per unit of weight, then reads it at 1,024 evenly spaced places
//! only and keeps the answers: a key goes to the server of its hash's bucket, not to that of its
//! hash's point.

use super::hash::HashFunction;
use super::ketama::{PointHash, PointRing, PointSource};
use crate::server::{LabelStyle, ServerSpec};

/// Points per unit of weight (`MMC_CONSISTENT_POINTS`).
pub(super) const POINTS_PER_WEIGHT: u32 = 160;

/// `MMC_CONSISTENT_BUCKETS`.
const BUCKET_COUNT: u32 = 1024;

#[derive(Debug)]
pub(super) struct Buckets {
    function: HashFunction,
    servers: Box<[u16]>,
}

impl Buckets {
    pub(super) fn new(servers: &[ServerSpec], weights: &[u32], function: HashFunction) -> Self {
        let ring = PointRing::new(servers, |index| PointSource {
            count: POINTS_PER_WEIGHT * weights[index],
            style: LabelStyle::HostPort,
            hash: PointHash::Function(function),
        });
        let bucket = |index| ring.servers()[ring.point_of(index * (u32::MAX / BUCKET_COUNT))];
        Self {
            function,
            servers: (0..BUCKET_COUNT).map(bucket).collect(),
        }
    }

    pub(super) fn bucket_of(&self, key: &[u8]) -> usize {
        (self.function.of(key) % BUCKET_COUNT) as usize
    }

    /// The servers of all buckets in their order on the circle.
    pub(super) fn servers(&self) -> &[u16] {
        &self.servers
    }
}
