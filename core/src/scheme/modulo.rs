//! Hash modulo the number of servers: simple, and when that number changes nearly every key moves.
//!
//! The programs differ in the hash, and in whether a server can be listed several times over to
//! give it weight.

use super::hash::{HashFunction, djb2};
use crate::server::{LabelStyle, ServerSpec};

/// A hash, and which server each remainder belongs to.
#[derive(Debug)]
pub(super) struct Modulo {
    hash: ModuloHash,
    slots: Slots,
}

/// What is divided.
#[derive(Clone, Copy, Debug)]
pub(super) enum ModuloHash {
    /// magent 0.6 without `-k`.
    Djb2,
    /// twemproxy's and libmemcached's modula.
    Plain(HashFunction),
    /// mcrouter's `CRC32`: without the sign bit.
    Bits31(HashFunction),
    /// pecl-memcache's standard strategy: 15 bits of the upper half, 1 in place of 0.
    Pecl(HashFunction),
}

/// Remainder to server. A server of weight w has w remainders in a row.
#[derive(Debug)]
enum Slots {
    /// One each.
    Even { server_count: u32 },
    /// Where each server's remainders end, and which server it is: a table of remainders would be
    /// as long as the sum of the weights.
    Weighted {
        ends: Box<[u32]>,
        total: u32,
        servers: Box<[usize]>,
    },
}

impl Modulo {
    pub(super) fn even(hash: ModuloHash, server_count: u32) -> Self {
        Self {
            hash,
            slots: Slots::Even { server_count },
        }
    }

    /// `servers` is the order in which they have their remainders.
    pub(super) fn weighted(hash: ModuloHash, weights: &[u32], servers: Box<[usize]>) -> Self {
        let ends: Box<[u32]> = servers
            .iter()
            .scan(0, |end, &server| {
                *end += weights[server];
                Some(*end)
            })
            .collect();
        let total = ends.last().copied().unwrap_or(0);
        Self {
            hash,
            slots: Slots::Weighted {
                ends,
                total,
                servers,
            },
        }
    }

    pub(super) fn server_of(&self, key: &[u8]) -> usize {
        let hash = self.hash.of(key);
        match &self.slots {
            Slots::Even { server_count } => (hash % server_count) as usize,
            Slots::Weighted {
                ends,
                total,
                servers,
            } => {
                let slot = hash % total;
                servers[ends.partition_point(|&end| end <= slot)]
            }
        }
    }
}

/// The order that twemproxy brings its servers into before it numbers them: by the length of the
/// name, then by its bytes. Its documentation is silent about it; found by asking nutcracker 0.5.0
/// (`tests/captured`).
pub(super) fn twemproxy_order(servers: &[ServerSpec]) -> Box<[usize]> {
    let mut order: Box<[usize]> = (0..servers.len()).collect();
    order.sort_by_cached_key(|&server| {
        let label = servers[server].label(LabelStyle::Ketama);
        (label.len(), label)
    });
    order
}

impl ModuloHash {
    fn of(self, key: &[u8]) -> u32 {
        match self {
            Self::Djb2 => djb2(key),
            Self::Plain(function) => function.of(key),
            Self::Bits31(function) => function.of(key) & 0x7fff_ffff,
            Self::Pecl(function) => ((function.of(key) >> 16) & 0x7fff).max(1),
        }
    }
}
