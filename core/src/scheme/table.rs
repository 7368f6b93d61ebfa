//! The table of schemes: every name that `--scheme` takes, and what it stands for.
//!
//! # Invariants
//!
//! - A name stands for one placement for ever. What is found to differ gets a name of its own.
//! - A [`Scheme`] prints as the name that it was parsed from (test `names`).
//!
//! Not here: how each places keys (the modules beside this one).

use super::SchemeError;
use super::hash::HashFunction;
use crate::server::LabelStyle;
use std::fmt;
use std::str::FromStr;

/// A row of the table of schemes: one name, or one per hash function.
#[derive(Debug)]
pub struct SchemeInfo {
    /// The name; where there are [`hashes`](Self::hashes), `/` and one of them follow.
    pub name: &'static str,
    /// Whose placement it is.
    pub origin: &'static str,
    /// What it is, in a sentence.
    pub about: &'static str,
    /// What it makes of weights.
    pub weights: WeightUse,
    variants: Variants,
}

impl SchemeInfo {
    /// The hash functions to choose from; empty if there is no choice.
    #[must_use]
    pub const fn hashes(&self) -> &'static [HashName] {
        match self.variants {
            Variants::One(_) => &[],
            Variants::PerHash(_, hashes) => hashes,
        }
    }

    /// The name as documentation writes it: `ketama/HASH`.
    #[must_use]
    pub fn pattern(&self) -> String {
        let suffix = if self.hashes().is_empty() {
            ""
        } else {
            "/HASH"
        };
        format!("{}{suffix}", self.name)
    }

    /// Every scheme of this row.
    pub fn schemes(&'static self) -> impl Iterator<Item = Scheme> {
        let one = match self.variants {
            Variants::One(kind) => Some(Scheme {
                info: self,
                hash: None,
                kind,
            }),
            Variants::PerHash(..) => None,
        };
        let per_hash = self.hashes().iter().filter_map(|hash| self.with_hash(hash));
        one.into_iter().chain(per_hash)
    }

    fn with_hash(&'static self, hash: &'static HashName) -> Option<Scheme> {
        match self.variants {
            Variants::One(_) => None,
            Variants::PerHash(kind, _) => Some(Scheme {
                info: self,
                hash: Some(hash),
                kind: kind(hash.function),
            }),
        }
    }
}

/// What a scheme makes of servers' weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightUse {
    /// Nothing: the original has none, or ignores them.
    Ignored,
    /// Whole numbers.
    Whole,
    /// A part of 1.
    Fraction,
}

/// A hash function, by the name it has in one scheme.
#[derive(Debug)]
pub struct HashName {
    name: &'static str,
    function: HashFunction,
}

impl HashName {
    /// What follows the `/` of a scheme.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

#[derive(Clone, Copy, Debug)]
enum Variants {
    One(Kind),
    PerHash(fn(HashFunction) -> Kind, &'static [HashName]),
}

/// How keys are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Magent,
    Magent06Ketama,
    Magent07Ketama,
    Ketama(HashFunction),
    Modula(HashFunction),
    LibmemcachedModula(HashFunction),
    LibmemcachedConsistent(HashFunction),
    PeclStandard(HashFunction),
    PeclConsistent(HashFunction),
    McrouterCh3,
    McrouterCrc32,
    McrouterWeightedCh3,
    MemcachedJump { seed: u64 },
    MemcachedRing(HashFunction),
    MemcachedRingEvcache(HashFunction),
}

impl Kind {
    /// The same with keys hashed from this seed, where there is one.
    pub(super) fn seeded(self, seed: u64) -> Option<Self> {
        let xxh3 = HashFunction::Xxh3 { seed };
        match self {
            Self::MemcachedJump { .. } => Some(Self::MemcachedJump { seed }),
            Self::Ketama(HashFunction::Xxh3 { .. }) => Some(Self::Ketama(xxh3)),
            Self::MemcachedRing(HashFunction::Xxh3 { .. }) => Some(Self::MemcachedRing(xxh3)),
            Self::MemcachedRingEvcache(HashFunction::Xxh3 { .. }) => {
                Some(Self::MemcachedRingEvcache(xxh3))
            }
            Self::Magent
            | Self::Magent06Ketama
            | Self::Magent07Ketama
            | Self::Ketama(_)
            | Self::Modula(_)
            | Self::LibmemcachedModula(_)
            | Self::LibmemcachedConsistent(_)
            | Self::PeclStandard(_)
            | Self::PeclConsistent(_)
            | Self::McrouterCh3
            | Self::McrouterCrc32
            | Self::McrouterWeightedCh3
            | Self::MemcachedRing(_)
            | Self::MemcachedRingEvcache(_) => None,
        }
    }

    /// How the scheme writes its servers; `None` if it only numbers them.
    pub(super) const fn label_style(self) -> Option<LabelStyle> {
        match self {
            // Modula orders its servers by it.
            Self::Ketama(_) | Self::Modula(_) | Self::LibmemcachedConsistent(_) => {
                Some(LabelStyle::Ketama)
            }
            Self::Magent06Ketama | Self::Magent07Ketama => Some(LabelStyle::Magent),
            Self::PeclConsistent(_) | Self::MemcachedRing(_) => Some(LabelStyle::HostPort),
            Self::MemcachedRingEvcache(_) => Some(LabelStyle::Evcache),
            Self::Magent
            | Self::LibmemcachedModula(_)
            | Self::PeclStandard(_)
            | Self::McrouterCh3
            | Self::McrouterCrc32
            | Self::McrouterWeightedCh3
            | Self::MemcachedJump { .. } => None,
        }
    }
}

/// The hash functions of libmemcached, then what twemproxy has beyond them, then what can be a
/// key's hash on ketama's ring in memcached's proxy.
static HASHES: [HashName; 13] = [
    named("md5", HashFunction::Md5),
    named("one_at_a_time", HashFunction::OneAtATime),
    named("fnv1a_64", HashFunction::Fnv1aTruncated),
    named("fnv1a_32", HashFunction::Fnv1a),
    named("fnv1_64", HashFunction::Fnv1Low32),
    named("fnv1_32", HashFunction::Fnv1),
    named("crc32", HashFunction::Crc32Bits15),
    named("murmur", HashFunction::Murmur2),
    named("jenkins", HashFunction::Jenkins),
    named("hsieh", HashFunction::Hsieh),
    named("crc32a", HashFunction::Crc32),
    named("crc16", HashFunction::Crc16),
    named("xxh3", HashFunction::Xxh3 { seed: 0 }),
];
static LIBMEMCACHED_HASHES: &[HashName] = HASHES.split_at(10).0;
static TWEMPROXY_HASHES: &[HashName] = HASHES.split_at(12).0;

static PECL_HASHES: [HashName; 2] = [
    named("crc32", HashFunction::Crc32),
    named("fnv", HashFunction::Fnv1a),
];

static MEMCACHED_HASHES: [HashName; 2] = [
    named("xxh3", HashFunction::Xxh3 { seed: 0 }),
    named("md5", HashFunction::Md5),
];

const fn named(name: &'static str, function: HashFunction) -> HashName {
    HashName { name, function }
}

/// All schemes. Adding one: a row here, its `Kind`, golden vectors.
pub static SCHEMES: [SchemeInfo; 15] = [
    SchemeInfo {
        name: "magent",
        origin: "magent 0.6 without -k",
        about: "hash modulo the number of servers; the default",
        weights: WeightUse::Ignored,
        variants: Variants::One(Kind::Magent),
    },
    SchemeInfo {
        name: "magent06-ketama",
        origin: "magent 0.6 with -k",
        about: "a ring that looks at 8 bits of each key's hash and so fills one server only",
        weights: WeightUse::Ignored,
        variants: Variants::One(Kind::Magent06Ketama),
    },
    SchemeInfo {
        name: "magent07-ketama",
        origin: "the magent 0.7 fork with -k",
        about: "the ring of magent 0.6 with whole hashes: 2,000 md5 points per server",
        weights: WeightUse::Ignored,
        variants: Variants::One(Kind::Magent07Ketama),
    },
    SchemeInfo {
        name: "ketama",
        origin: "twemproxy's ketama, libmemcached's LIBKETAMA_COMPATIBLE (ketama/md5), \
                 memcached proxy's ring_hash in ketama or twemproxy mode",
        about: "a ring of about 160 md5 points per server, more for a higher weight",
        weights: WeightUse::Whole,
        variants: Variants::PerHash(Kind::Ketama, &HASHES),
    },
    SchemeInfo {
        name: "modula",
        origin: "twemproxy's modula",
        about: "hash modulo the sum of the weights, servers ordered by the length of their name, \
                then by name",
        weights: WeightUse::Whole,
        variants: Variants::PerHash(Kind::Modula, TWEMPROXY_HASHES),
    },
    SchemeInfo {
        name: "libmemcached-modula",
        origin: "libmemcached's default distribution (by default with one_at_a_time)",
        about: "hash modulo the number of servers",
        weights: WeightUse::Ignored,
        variants: Variants::PerHash(Kind::LibmemcachedModula, LIBMEMCACHED_HASHES),
    },
    SchemeInfo {
        name: "libmemcached-consistent",
        origin: "libmemcached's DISTRIBUTION_CONSISTENT",
        about: "a ring of 100 points per server, or ketama as soon as a weight is above 1",
        weights: WeightUse::Whole,
        variants: Variants::PerHash(Kind::LibmemcachedConsistent, LIBMEMCACHED_HASHES),
    },
    SchemeInfo {
        name: "pecl-standard",
        origin: "PHP's memcache extension, memcache.hash_strategy=standard",
        about: "15 bits of the hash modulo the sum of the weights",
        weights: WeightUse::Whole,
        variants: Variants::PerHash(Kind::PeclStandard, &PECL_HASHES),
    },
    SchemeInfo {
        name: "pecl-consistent",
        origin: "PHP's memcache extension, memcache.hash_strategy=consistent",
        about: "1,024 buckets filled from a ring of 160 points per unit of weight",
        weights: WeightUse::Whole,
        variants: Variants::PerHash(Kind::PeclConsistent, &PECL_HASHES),
    },
    SchemeInfo {
        name: "mcrouter-ch3",
        origin: "mcrouter's Ch3, its default",
        about: "a consistent hash of the server's number; mcrouter users add --hash-filter stop:|#|",
        weights: WeightUse::Ignored,
        variants: Variants::One(Kind::McrouterCh3),
    },
    SchemeInfo {
        name: "mcrouter-crc32",
        origin: "mcrouter's CRC32",
        about: "31 bits of the crc modulo the number of servers",
        weights: WeightUse::Ignored,
        variants: Variants::One(Kind::McrouterCrc32),
    },
    SchemeInfo {
        name: "mcrouter-weighted-ch3",
        origin: "mcrouter's WeightedCh3",
        about: "Ch3 in which a server takes only the part of its keys that its weight allows",
        weights: WeightUse::Fraction,
        variants: Variants::One(Kind::McrouterWeightedCh3),
    },
    SchemeInfo {
        name: "memcached-jump",
        origin: "memcached proxy's jump_hash, its default",
        about: "jump consistent hash of the server's number; takes --hash-seed",
        weights: WeightUse::Ignored,
        variants: Variants::One(Kind::MemcachedJump { seed: 0 }),
    },
    SchemeInfo {
        name: "memcached-ring",
        origin: "memcached proxy's ring_hash in default mode",
        about: "a ring of 160 xxh3 points per server; .../xxh3 takes --hash-seed",
        weights: WeightUse::Ignored,
        variants: Variants::PerHash(Kind::MemcachedRing, &MEMCACHED_HASHES),
    },
    SchemeInfo {
        name: "memcached-ring-evcache",
        origin: "memcached proxy's ring_hash in evcache mode, Netflix' EVCache client",
        about: "a ring of 160 md5 points per server; .../xxh3 takes --hash-seed",
        weights: WeightUse::Ignored,
        variants: Variants::PerHash(Kind::MemcachedRingEvcache, &MEMCACHED_HASHES),
    },
];

/// A way to place keys, hash function included. Parsed from its name, which it prints as.
#[derive(Clone, Copy)]
pub struct Scheme {
    info: &'static SchemeInfo,
    hash: Option<&'static HashName>,
    pub(super) kind: Kind,
}

impl Scheme {
    /// magent's default: that of magent 0.6.
    #[must_use]
    pub fn magent() -> Self {
        Self {
            info: &SCHEMES[0],
            hash: None,
            kind: Kind::Magent,
        }
    }

    /// magent's `-k`: the ketama that libmemcached and twemproxy share.
    #[must_use]
    pub fn ketama_md5() -> Self {
        let (info, hash) = (&SCHEMES[3], &HASHES[0]);
        Self {
            info,
            hash: Some(hash),
            kind: Kind::Ketama(hash.function),
        }
    }

    /// Every scheme there is.
    pub fn all() -> impl Iterator<Item = Self> {
        SCHEMES.iter().flat_map(SchemeInfo::schemes)
    }

    /// Its row in the table.
    #[must_use]
    pub const fn info(&self) -> &'static SchemeInfo {
        self.info
    }

    /// Whether a hash seed makes a difference.
    #[must_use]
    pub fn takes_seed(&self) -> bool {
        self.kind.seeded(0).is_some()
    }

    /// The scheme whose name is most like `name`, if any is.
    #[must_use]
    pub fn nearest(name: &str) -> Option<Self> {
        let distance = |scheme: &Self| strsim::osa_distance(&scheme.to_string(), name);
        // A third of the letters wrong is no typing error any more.
        let limit = (name.chars().count() / 3).min(4);
        let nearest = Self::all().min_by_key(distance)?;
        (distance(&nearest) <= limit).then_some(nearest)
    }
}

impl Default for Scheme {
    fn default() -> Self {
        Self::magent()
    }
}

impl PartialEq for Scheme {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

impl Eq for Scheme {}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hash {
            Some(hash) => write!(f, "{}/{}", self.info.name, hash.name),
            None => f.write_str(self.info.name),
        }
    }
}

impl fmt::Debug for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scheme({self})")
    }
}

impl FromStr for Scheme {
    type Err = SchemeError;

    fn from_str(text: &str) -> Result<Self, SchemeError> {
        if let Some(scheme) = Self::all().find(|scheme| scheme.to_string() == text) {
            return Ok(scheme);
        }
        let (name, hash) = text
            .split_once('/')
            .map_or((text, None), |(n, h)| (n, Some(h)));
        let info = SCHEMES
            .iter()
            .find(|info| info.name == name && !info.hashes().is_empty());
        Err(match (info, hash) {
            (Some(info), None) => SchemeError::HashMissing { scheme: info.name },
            (Some(info), Some(hash)) => SchemeError::HashUnknown {
                scheme: info.name,
                hash: hash.into(),
            },
            (None, _) => SchemeError::Unknown {
                name: text.into(),
                nearest: Self::nearest(text).map(|scheme| scheme.to_string().into()),
            },
        })
    }
}
