//! Which server a key belongs to, by the scheme of whichever program put it there before.
//!
//! [`SCHEMES`] lists all of them; a [`Scheme`] is one by its name, and a [`Ring`] is that scheme
//! over a list of servers. Primaries and backups are two rings of the same scheme.
//!
//! # Invariants
//!
//! - Bit for bit: the vectors in `tests/golden` come from the programs themselves. A key that
//!   moves is a miss on a warm cache, so nothing here may be improved.
//! - [`Ring::index`] is always below the number of servers, for any bytes, and allocates nothing
//!   for keys that memcached takes.
//! - A ring depends on nothing but its arguments. Two proxies with the same ones agree.
//!
//! Not here: which of primary and backup is asked (`placement`), how a server is written
//! ([`crate::server`]).

mod error;
mod hash;
mod jump;
mod ketama;
mod lock_keys;
mod mcrouter;
mod md5_lanes;
mod modulo;
mod options;
mod pecl;
pub mod skew;
mod spooky;
mod table;

pub use error::SchemeError;
pub use lock_keys::{DataKey, LockKeys, LockRules};
pub use options::{HashFilter, HashSeed, HashTag, SchemeOptions};
pub use table::{HashName, SCHEMES, Scheme, SchemeInfo, WeightUse};

use crate::server::{LabelStyle, ServerSpec, Weight};
use hash::HashFunction;
use ketama::{Magent06Ring, PointRing};
use mcrouter::WeightedCh3;
use modulo::{Modulo, ModuloHash};
use options::KeyPart;
use pecl::Buckets;
use std::collections::BTreeSet;
use table::Kind;

/// The longest list of servers. Far above the largest pools known, and small enough that a ring's
/// points name their server in 16 bits.
pub const SERVERS_MAX: usize = 4_096;

/// The most points of a ring: 24 MB, and seconds to build.
pub const POINTS_MAX: u64 = 4_000_000;

/// A scheme over a list of servers: from a key to the index of a server.
#[derive(Debug)]
pub struct Ring {
    lock_keys: LockKeys,
    part: KeyPart,
    picker: Picker,
    fair_weights: Box<[f64]>,
}

/// The schemes' mechanisms.
#[derive(Debug)]
enum Picker {
    Points { ring: PointRing, hash: HashFunction },
    Magent06(Magent06Ring),
    Buckets(Buckets),
    Modulo(Modulo),
    Ch3 { server_count: u32 },
    WeightedCh3(WeightedCh3),
    Jump { seed: u64, server_count: u32 },
}

/// What [`Ring::hash`] made of a key: good for all rings of one scheme and its options. Schemes that place by
/// more than a number of 32 bits have none, and where it is not known yet each ring hashes for itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyHash(Option<u32>);

/// How many keys are hashed at once: see [`Ring::hash_each`].
pub const KEYS_AT_ONCE: usize = md5_lanes::LANES;

/// Where a key was found.
enum Place<'a> {
    /// At one of the places of a circle, each of which has its server.
    Circle { servers: &'a [u16], at: usize },
    /// In the list of servers.
    List(usize),
}

impl Place<'_> {
    fn server(&self) -> usize {
        match *self {
            Self::Circle { servers, at } => usize::from(servers[at]),
            Self::List(server) => server,
        }
    }
}

impl Ring {
    /// Builds the ring, or says what is wrong with its servers or options.
    pub fn new(
        scheme: Scheme,
        options: &SchemeOptions,
        servers: &[ServerSpec],
    ) -> Result<Self, SchemeError> {
        check_count(servers.len())?;
        let part = KeyPart::new(options)?;
        let kind = match options.hash_seed {
            Some(seed) => {
                scheme
                    .kind
                    .seeded(seed.as_u64())
                    .ok_or_else(|| SchemeError::SeedUnused {
                        scheme: name_of(scheme),
                    })?
            }
            None => scheme.kind,
        };
        check_unique(kind.label_style(), servers)?;
        let picker = Picker::new(scheme, kind, servers)?;
        let fair = |server: &ServerSpec| match scheme.info().weights {
            WeightUse::Ignored => 1.0,
            WeightUse::Whole | WeightUse::Fraction => server.weight().as_f64(),
        };
        Ok(Self {
            lock_keys: options.lock_keys.clone(),
            part,
            picker,
            fair_weights: servers.iter().map(fair).collect(),
        })
    }

    /// The server of `key`, by its index in the list that the ring was made of.
    #[must_use]
    pub fn index(&self, key: &[u8]) -> usize {
        self.index_hashed(key, self.hash(key))
    }

    /// The same for a key whose hash is known.
    #[must_use]
    pub fn index_hashed(&self, key: &[u8], hash: KeyHash) -> usize {
        self.place(key, hash).server()
    }

    /// The server of `key` if `accept` takes it, else the next one that it does take: on a circle
    /// (ketama and its kin, pecl-memcache's buckets) the next one clockwise, in the other schemes
    /// the next one in the list, around its end. `None` if it takes none.
    ///
    /// The answer depends on `accept` only where it must: while the ring's own choice is accepted
    /// the key stays where it is. `accept` may be asked more than once for a server.
    #[must_use]
    pub fn index_where(&self, key: &[u8], accept: impl FnMut(usize) -> bool) -> Option<usize> {
        self.index_where_hashed(key, self.hash(key), accept)
    }

    /// The same for a key whose hash is known.
    #[must_use]
    pub fn index_where_hashed(
        &self,
        key: &[u8],
        hash: KeyHash,
        mut accept: impl FnMut(usize) -> bool,
    ) -> Option<usize> {
        let place = self.place(key, hash);
        let first = place.server();
        if accept(first) {
            return Some(first);
        }
        // Asked first, because a circle has hundreds of places per server to find nobody at.
        let server_count = self.server_count();
        if !(0..server_count).any(&mut accept) {
            return None;
        }
        let circle = match place {
            Place::Circle { servers, at } => servers[at..].iter().chain(&servers[..at]),
            Place::List(_) => [].iter().chain(&[]),
        };
        // A server can own no place at all on a circle; the list has everyone.
        let list = (first..server_count).chain(0..first);
        circle
            .map(|&server| usize::from(server))
            .chain(list)
            .find(|&server| accept(server))
    }

    /// How many servers there are.
    #[must_use]
    pub fn server_count(&self) -> usize {
        self.fair_weights.len()
    }

    /// What each server's share should be relative to the others': its weight, or 1 for all where
    /// the scheme ignores weights.
    #[must_use]
    pub fn fair_weights(&self) -> &[f64] {
        &self.fair_weights
    }

    /// The dear part of placing `key`.
    #[must_use]
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash(match &self.picker {
            Picker::Points { hash, .. } => Some(self.on_part(key, |part| hash.of(part))),
            Picker::Magent06(_)
            | Picker::Buckets(_)
            | Picker::Modulo(_)
            | Picker::Ch3 { .. }
            | Picker::WeightedCh3(_)
            | Picker::Jump { .. } => None,
        })
    }

    /// [`Self::hash`] of several keys, cheaper than one after the other where that can be done.
    #[must_use]
    pub fn hash_each(&self, keys: &[&[u8]]) -> [KeyHash; KEYS_AT_ONCE] {
        // With fewer, most of the vectors' work would be for nothing.
        const KEYS_MIN: usize = 3;
        let keys = &keys[..keys.len().min(KEYS_AT_ONCE)];
        if let Picker::Points { hash, .. } = &self.picker
            && keys.len() >= KEYS_MIN
            && self.lock_keys.is_empty()
        {
            let mut parts: [&[u8]; KEYS_AT_ONCE] = [&[]; KEYS_AT_ONCE];
            for (part, key) in parts.iter_mut().zip(keys) {
                *part = self.part.of(key);
            }
            if let Some(hashes) = hash.of_each(&parts) {
                return hashes.map(|hash| KeyHash(Some(hash)));
            }
        }
        let mut hashes = [KeyHash::default(); KEYS_AT_ONCE];
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = self.hash(key);
        }
        hashes
    }

    /// Calls with the part of `key` that decides about its place.
    fn on_part<R>(&self, key: &[u8], call: impl FnOnce(&[u8]) -> R) -> R {
        if self.lock_keys.is_empty() {
            call(self.part.of(key))
        } else {
            call(self.part.of(&self.lock_keys.data_key(key)))
        }
    }

    fn place(&self, key: &[u8], hash: KeyHash) -> Place<'_> {
        match (&self.picker, hash.0) {
            (Picker::Points { ring, .. }, Some(hash)) => ring.place_of(hash),
            _ => self.on_part(key, |part| self.place_part(part)),
        }
    }

    fn place_part(&self, key: &[u8]) -> Place<'_> {
        match &self.picker {
            Picker::Points { ring, hash } => ring.place_of(hash.of(key)),
            Picker::Magent06(magent) => match magent.point_of(key) {
                Ok(at) => Place::Circle {
                    servers: magent.ring().servers(),
                    at,
                },
                Err(server) => Place::List(server as usize),
            },
            Picker::Buckets(buckets) => Place::Circle {
                servers: buckets.servers(),
                at: buckets.bucket_of(key),
            },
            Picker::Modulo(modulo) => Place::List(modulo.server_of(key)),
            Picker::Ch3 { server_count } => Place::List(mcrouter::ch3(key, *server_count)),
            Picker::WeightedCh3(weighted) => Place::List(weighted.server_of(key)),
            Picker::Jump { seed, server_count } => {
                Place::List(jump::server_of(key, *seed, *server_count))
            }
        }
    }
}

impl Picker {
    fn new(scheme: Scheme, kind: Kind, servers: &[ServerSpec]) -> Result<Self, SchemeError> {
        let server_count = check_count(servers.len())?;
        let weights = whole_weights(scheme, servers)?;
        Ok(match kind {
            Kind::Magent => Self::Modulo(Modulo::even(ModuloHash::Djb2, server_count)),
            Kind::Magent06Ketama => {
                check_points(scheme, u64::from(server_count) * 2_000)?;
                Self::Magent06(Magent06Ring::new(servers, server_count))
            }
            Kind::Magent07Ketama => {
                check_points(scheme, u64::from(server_count) * 2_000)?;
                let ring = PointRing::uniform(servers, ketama::MAGENT_POINTS);
                Self::Points {
                    ring,
                    hash: HashFunction::Md5,
                }
            }
            Kind::Ketama(hash) => Self::Points {
                ring: PointRing::weighted(servers, &weights),
                hash,
            },
            Kind::Modula(hash) => {
                let order = modulo::twemproxy_order(servers);
                Self::Modulo(Modulo::weighted(ModuloHash::Plain(hash), &weights, order))
            }
            Kind::LibmemcachedModula(hash) => {
                Self::Modulo(Modulo::even(ModuloHash::Plain(hash), server_count))
            }
            Kind::LibmemcachedConsistent(hash) => {
                let ring = if weights.iter().any(|&weight| weight > 1) {
                    PointRing::weighted(servers, &weights)
                } else {
                    PointRing::uniform(servers, ketama::libmemcached_points(hash))
                };
                Self::Points { ring, hash }
            }
            Kind::PeclStandard(hash) => {
                let order = (0..servers.len()).collect();
                Self::Modulo(Modulo::weighted(ModuloHash::Pecl(hash), &weights, order))
            }
            Kind::PeclConsistent(hash) => {
                let total: u64 = weights.iter().copied().map(u64::from).sum();
                check_points(scheme, total * u64::from(pecl::POINTS_PER_WEIGHT))?;
                Self::Buckets(Buckets::new(servers, &weights, hash))
            }
            Kind::McrouterCh3 => Self::Ch3 { server_count },
            Kind::McrouterCrc32 => {
                let hash = ModuloHash::Bits31(HashFunction::Crc32);
                Self::Modulo(Modulo::even(hash, server_count))
            }
            Kind::McrouterWeightedCh3 => {
                check_fractions(scheme, servers)?;
                Self::WeightedCh3(WeightedCh3::new(servers.iter().map(ServerSpec::weight)))
            }
            Kind::MemcachedJump { seed } => Self::Jump { seed, server_count },
            Kind::MemcachedRing(hash) => {
                let ring = PointRing::uniform(servers, ketama::MEMCACHED_POINTS);
                Self::Points { ring, hash }
            }
            Kind::MemcachedRingEvcache(hash) => {
                let ring = PointRing::uniform(servers, ketama::EVCACHE_POINTS);
                Self::Points { ring, hash }
            }
        })
    }
}

fn name_of(scheme: Scheme) -> Box<str> {
    scheme.to_string().into()
}

fn check_count(count: usize) -> Result<u32, SchemeError> {
    match u32::try_from(count) {
        Ok(0) => Err(SchemeError::NoServers),
        Ok(server_count) if count <= SERVERS_MAX => Ok(server_count),
        Ok(_) | Err(_) => Err(SchemeError::TooManyServers { count }),
    }
}

fn check_points(scheme: Scheme, count: u64) -> Result<(), SchemeError> {
    if count <= POINTS_MAX {
        Ok(())
    } else {
        Err(SchemeError::TooManyPoints {
            scheme: name_of(scheme),
            count,
        })
    }
}

/// A ring that hashes labels gives all points of two equal ones to the first. A scheme that only
/// numbers its servers may well list an address twice, but a name is to tell servers apart.
fn check_unique(style: Option<LabelStyle>, servers: &[ServerSpec]) -> Result<(), SchemeError> {
    let label = |server: &ServerSpec| match style {
        Some(style) => Some(server.label(style)),
        None => server.name().map(str::to_string),
    };
    let mut seen = BTreeSet::new();
    for label in servers.iter().filter_map(label) {
        if let Some(label) = seen.replace(label) {
            return Err(SchemeError::Duplicate {
                label: label.into(),
            });
        }
    }
    Ok(())
}

/// The weights of a scheme that counts in whole numbers; empty for others.
fn whole_weights(scheme: Scheme, servers: &[ServerSpec]) -> Result<Box<[u32]>, SchemeError> {
    if scheme.info().weights != WeightUse::Whole {
        return Ok(Box::default());
    }
    let whole = |server: &ServerSpec| {
        server
            .weight()
            .as_integer()
            .ok_or_else(|| SchemeError::WeightFraction {
                scheme: name_of(scheme),
                server: server.to_string().into(),
            })
    };
    servers.iter().map(whole).collect()
}

fn check_fractions(scheme: Scheme, servers: &[ServerSpec]) -> Result<(), SchemeError> {
    match servers.iter().find(|server| server.weight() > Weight::ONE) {
        Some(server) => Err(SchemeError::WeightAboveOne {
            scheme: name_of(scheme),
            server: server.to_string().into(),
        }),
        None => Ok(()),
    }
}
