//! Which backend answers for a key at this moment, and which others must be told.
//!
//! The rings say where a key lives ([`Route`]); the [`View`] says which backends can be relied on; [`plan`]
//! puts the two together. It is the one table about failover: `docs/failover.md` is checked against it.
//!
//! # Invariants
//!
//! - At most one backend is the authority for a key, it holds nothing old, and nobody has more than it has
//!   ([`plan`], tested over all rows).
//! - A backend that is both primary and backup of a list never backs itself up, nor does another on its
//!   host if there is a choice: the next backup of the ring is taken ([`Placement::route`]).
//! - A View never changes; the keeper publishes another with a higher epoch.
//!
//! Not here: what commands do with a plan (`engine`), when a backend changes phase (`keeper`).

mod apart;

use std::collections::BTreeSet;

use crate::BackendId;
use crate::config::Config;
use crate::known::Process;
use crate::scheme::{KEYS_AT_ONCE, KeyHash, Ring};
use apart::Apart;
pub use apart::BackupChoice;

/// Where keys live by the lists of servers alone.
#[derive(Debug)]
pub struct Placement {
    primaries: Ring,
    backups: Option<Ring>,
    primary_ids: Vec<BackendId>,
    backup_ids: Vec<BackendId>,
    apart: Apart,
}

/// Where one key lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Position in the list of primaries.
    pub primary_index: usize,
    /// Position in the list of backups; `None` without a backup for this key.
    pub backup_index: Option<usize>,
    /// The primary.
    pub primary: BackendId,
    /// The backup.
    pub backup: Option<BackendId>,
}

impl Placement {
    /// The rings of a checked configuration.
    ///
    /// # Panics
    ///
    /// If the configuration was changed after [`Config::new`] checked it.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let ring = |servers| {
            Ring::new(config.scheme, &config.scheme_options, servers)
                .expect("Config::new tried these servers")
        };
        Self {
            primaries: ring(&config.primaries),
            backups: config.has_backups().then(|| ring(&config.backups)),
            primary_ids: config.primary_ids.clone(),
            backup_ids: config.backup_ids.clone(),
            apart: Apart::new(config),
        }
    }

    /// By backend: those that can hold the second copy of a key of its, in order of their ids.
    #[must_use]
    pub fn partners(&self) -> Vec<Vec<BackendId>> {
        let ids = self.primary_ids.iter().chain(&self.backup_ids);
        let count = ids.map(|id| id.index() + 1).max().unwrap_or(0);
        let mut partners = vec![BTreeSet::new(); count];
        for (primary_index, &primary) in self.primary_ids.iter().enumerate() {
            for (backup_index, &backup) in self.backup_ids.iter().enumerate() {
                if self.apart.accepts(primary_index, backup_index) {
                    partners[primary.index()].insert(backup);
                    partners[backup.index()].insert(primary);
                }
            }
        }
        partners
            .into_iter()
            .map(|set| set.into_iter().collect())
            .collect()
    }

    /// Where `key` lives. Allocates nothing.
    #[must_use]
    pub fn route(&self, key: &[u8]) -> Route {
        self.route_hashed(key, self.primaries.hash(key))
    }

    /// The dear part of [`Self::route`] for several keys at once.
    #[must_use]
    pub fn hash_each(&self, keys: &[&[u8]]) -> [KeyHash; KEYS_AT_ONCE] {
        self.primaries.hash_each(keys)
    }

    /// Where `key` lives, if its hash is known. Both lists are rings of the same scheme, so one is enough.
    #[must_use]
    pub fn route_hashed(&self, key: &[u8], hash: KeyHash) -> Route {
        let primary_index = self.primaries.index_hashed(key, hash);
        let primary = self.primary_ids[primary_index];
        let accepts = |index| self.apart.accepts(primary_index, index);
        let backup_index = self
            .backups
            .as_ref()
            .and_then(|ring| ring.index_where_hashed(key, hash, accepts));
        let backup = backup_index.map(|index| self.backup_ids[index]);
        Route {
            primary_index,
            backup_index,
            primary,
            backup,
        }
    }

    /// What the list of backups leaves to the keys of a primary, by its index.
    #[must_use]
    pub fn backup_choice(&self, primary_index: usize) -> BackupChoice {
        self.apart.choice(primary_index)
    }

    /// The backup that the scheme names for `key`, by its index, whoever its primary is.
    #[must_use]
    pub fn backup_by_scheme(&self, key: &[u8]) -> Option<usize> {
        self.backups.as_ref().map(|ring| ring.index(key))
    }
}

/// What the keeper has decided about all backends. Immutable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Increases with every View.
    pub epoch: u64,
    /// By [`BackendId`].
    pub backends: Vec<BackendView>,
}

/// What the keeper has decided about one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendView {
    /// May it be relied on?
    pub phase: Phase,
    /// How often it has been marked down. A report about an earlier incarnation is void.
    pub incarnation: u32,
    /// Epoch in which `phase` began.
    pub since_epoch: u64,
    /// Of two that are not in step the one with the lower number leads. It grows with every return of any
    /// backend: the one that returned first has everything that was written since the other did. One that was
    /// in step until now, and lacks items of a backend that is back, has more than all others.
    pub seniority: u64,
    /// Whether its purge is a flush, because it missed acknowledged writes that cannot be named.
    pub flush: bool,
    /// The process that answers there, if it was empty when a proxy of this pool saw to it: nothing that it holds is
    /// of unknown origin, and other proxies may rely on it already. What it missed is compared, not just deleted.
    pub known: Option<Process>,
    /// Whether what is read at an authority is copied to it, because some authority cannot be walked.
    pub fill: bool,
    /// Backends whose share of it has to be copied from them at this moment.
    pub sources: Vec<BackendId>,
    /// Version that it last told a probe.
    pub version: Option<Version>,
    /// What its CAS uniques are marked with ([`crate::cas::mark`]); 0 until it is known.
    pub mark: u16,
    /// Whether it is known to let its client choose an item's CAS unique (meta `E`, memcached 1.6.27).
    pub explicit_cas: bool,
}

impl View {
    /// The View before anything is known: everyone is taken to be up.
    #[must_use]
    pub fn initial(backends: usize) -> Self {
        let backend = BackendView {
            phase: Phase::Up,
            incarnation: 0,
            since_epoch: 0,
            seniority: 0,
            flush: false,
            known: None,
            fill: false,
            sources: Vec::new(),
            version: None,
            mark: 0,
            explicit_cas: false,
        };
        Self {
            epoch: 0,
            backends: vec![backend; backends],
        }
    }

    /// Backends that are known not to understand today's meta commands.
    pub fn without_meta(&self) -> impl Iterator<Item = BackendId> + '_ {
        let is_old = |version: Version| version < Version::META_SINCE;
        let backends = (0..).map(BackendId).zip(&self.backends);
        backends
            .filter(move |(_, backend)| backend.version.is_some_and(is_old))
            .map(|(id, _)| id)
    }
}

macro_rules! phases {
    ($($variant:ident, $name:literal, $doc:literal;)+) => {
        /// A backend's place in the walk from down to up.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Phase {
            $(#[doc = $doc] $variant,)+
        }

        impl Phase {
            /// Every phase, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// For logs and `stats magent`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

phases! {
    Up, "up", "It has everything that its partners have.";
    Down, "down", "Nothing is sent to it.";
    Purging, "purging", "Back, and rid of what it missed. It gets every write, behind the authority.";
    Cleaning, "cleaning", "As `CatchingUp`, but a backend that it caught up from has failed: copies that were not looked at again are being removed, and until then it leads no key.";
    CatchingUp, "catching up", "It gets every write, behind the authority, and what it lacks is copied to it. It leads a key whose other backend is gone.";
    Flipping, "flipping", "As `CatchingUp`, with nothing left to copy: conditional commands wait until everyone knows.";
}

/// A memcached version, as far as it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1 of 1.6.18.
    pub major: u16,
    /// 6 of 1.6.18.
    pub minor: u16,
    /// 18 of 1.6.18.
    pub patch: u16,
}

impl Version {
    /// The first one whose meta commands are those of today.
    pub(crate) const META_SINCE: Self = Self {
        major: 1,
        minor: 6,
        patch: 10,
    };

    /// Reads `1.6.18` and what distributions append to it, such as `1.6.18_beta1` or `1.5.22-ubuntu`.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut parts = text.split(['.', '-', '_', ' ']).map(|part| {
            let digits = part
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(part.len());
            part[..digits].parse::<u16>().ok()
        });
        Some(Self {
            major: parts.next()??,
            minor: parts.next()??,
            patch: parts.next().flatten().unwrap_or(0),
        })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What a backend can be to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has every write that was acknowledged.
    InStep,
    /// It has every write that was acknowledged since it returned, and nothing old. The number is its seniority.
    Junior(u64),
    /// It gets every write but may hold old items: it is not read.
    Following,
    /// It cannot be told.
    Absent,
}

impl BackendView {
    /// What this backend can be to a key.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        match self.phase {
            Phase::Up => Standing::InStep,
            Phase::CatchingUp | Phase::Flipping => Standing::Junior(self.seniority),
            Phase::Purging | Phase::Cleaning => Standing::Following,
            Phase::Down => Standing::Absent,
        }
    }
}

/// Who does what for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The backend whose answer counts. `None`: reads miss and writes are refused, unless `soon`.
    pub authority: Option<BackendId>,
    /// Whether there will be an authority as soon as a backend that has returned is rid of what is old.
    pub soon: bool,
    /// Gets every write as well.
    pub follower: Option<Follower>,
    /// Should have the key but cannot be told: what it misses is remembered.
    pub absent: Option<BackendId>,
}

/// A backend that gets every write besides the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follower {
    /// Which one.
    pub backend: BackendId,
    /// When it is told.
    pub order: Order,
}

/// When a follower is told of an unconditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Together with the authority: it is in step.
    Parallel,
    /// After the authority has answered: it is not in step, and items are being copied to it.
    After,
}

/// The failover table: who does what for a key, by the standing of its primary and its backup.
#[must_use]
pub fn plan(primary: (BackendId, Standing), backup: Option<(BackendId, Standing)>) -> Plan {
    use Standing::{Absent, Following, InStep, Junior};
    let (p, primary) = primary;
    let Some((b, backup)) = backup else {
        return match primary {
            InStep | Junior(_) => Plan::led(p, None, None),
            Following => Plan::SOON,
            Absent => Plan::NOBODY,
        };
    };
    let beside = |backend| {
        let order = Order::Parallel;
        Some(Follower { backend, order })
    };
    let behind = |backend| {
        let order = Order::After;
        Some(Follower { backend, order })
    };
    match (primary, backup) {
        (InStep, InStep) => Plan::led(p, beside(b), None),
        (InStep, Junior(_) | Following) => Plan::led(p, behind(b), None),
        (Junior(_) | Following, InStep) => Plan::led(b, behind(p), None),
        // Of two that lack items the one that returned first has all that the other has.
        (Junior(ours), Junior(theirs)) if theirs < ours => Plan::led(b, behind(p), None),
        (Junior(_), Junior(_) | Following) => Plan::led(p, behind(b), None),
        (Following, Junior(_)) => Plan::led(b, behind(p), None),
        (InStep | Junior(_), Absent) => Plan::led(p, None, Some(b)),
        (Absent, InStep | Junior(_)) => Plan::led(b, None, Some(p)),
        (Following, Following | Absent) | (Absent, Following) => Plan::SOON,
        (Absent, Absent) => Plan::NOBODY,
    }
}

impl Plan {
    /// Reads miss and writes are refused.
    const NOBODY: Self = Self {
        authority: None,
        soon: false,
        follower: None,
        absent: None,
    };

    /// Requests wait for the next View.
    const SOON: Self = Self {
        soon: true,
        ..Self::NOBODY
    };

    const fn led(by: BackendId, follower: Option<Follower>, absent: Option<BackendId>) -> Self {
        Self {
            authority: Some(by),
            follower,
            absent,
            ..Self::NOBODY
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_has_nothing_old_and_nobody_has_more() {
        use Standing::{Absent, Following, InStep, Junior};
        let (p, b) = (BackendId(0), BackendId(1));
        let standings = [InStep, Junior(3), Junior(7), Following, Absent];
        let others = standings.map(Some).into_iter().chain([None]);
        let rank = |standing| match standing {
            Some(InStep) => Some(0),
            Some(Junior(seniority)) => Some(seniority),
            Some(Following | Absent) | None => None,
        };
        for (primary, backup) in standings
            .into_iter()
            .flat_map(|primary| others.clone().map(move |backup| (primary, backup)))
        {
            let plan = plan((p, primary), backup.map(|standing| (b, standing)));
            let standing = |id| if id == p { Some(primary) } else { backup };
            match plan.authority {
                Some(id) => {
                    let other = if id == p { b } else { p };
                    let ours = rank(standing(id)).expect("an authority has nothing old");
                    assert!(rank(standing(other)).is_none_or(|theirs| ours <= theirs));
                    assert!(!plan.soon);
                }
                None => {
                    assert!(rank(Some(primary)).is_none() && rank(backup).is_none());
                    let returning = primary == Following || backup == Some(Following);
                    assert_eq!(plan.soon, returning);
                }
            }
            if let Some(follower) = plan.follower {
                assert_ne!(Some(follower.backend), plan.authority);
                assert_ne!(standing(follower.backend), Some(Absent));
                let both_in_step = primary == InStep && backup == Some(InStep);
                assert_eq!(follower.order == Order::Parallel, both_in_step);
            }
            if let Some(absent) = plan.absent {
                assert_eq!(standing(absent), Some(Absent));
            }
        }
    }

    #[test]
    fn versions() {
        let v = |major, minor, patch| {
            Some(Version {
                major,
                minor,
                patch,
            })
        };
        assert_eq!(Version::parse(b"1.6.18"), v(1, 6, 18));
        assert_eq!(Version::parse(b"1.6.0-beta1"), v(1, 6, 0));
        assert_eq!(Version::parse(b"1.4"), v(1, 4, 0));
        assert_eq!(Version::parse(b"1.5.22_ubuntu"), v(1, 5, 22));
        assert_eq!(Version::parse(b"x"), None);
        assert!(Version::parse(b"1.4.39") < Version::parse(b"1.6.2"));
    }
}
