//! Which backend answers for a key at this moment, and which others must be told.
//!
//! The rings say where a key lives ([`Route`]); the [`View`] says which backends can be relied on; [`plan`]
//! puts the two together. It is the one table about failover: `docs/failover.md` is checked against it.
//!
//! # Invariants
//!
//! - At most one backend is the authority for a key, and only one that is in step ([`plan`], tested over
//!   all rows).
//! - A backend that is both primary and backup of a list never backs itself up, nor does another on its
//!   host if there is a choice: the next backup of the ring is taken ([`Placement::route`]).
//! - A View never changes; the keeper publishes another with a higher epoch.
//!
//! Not here: what commands do with a plan (`engine`), when a backend changes phase (`keeper`).

mod apart;

use crate::BackendId;
use crate::config::Config;
use crate::scheme::Ring;
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

    /// Where `key` lives. Allocates nothing.
    #[must_use]
    pub fn route(&self, key: &[u8]) -> Route {
        let primary_index = self.primaries.index(key);
        let primary = self.primary_ids[primary_index];
        let backup_index = self.backups.as_ref().and_then(|ring| {
            ring.index_where(key, |index| self.apart.accepts(primary_index, index))
        });
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
    /// Epoch in which `phase` began. Of two backends that are up, the one that has been longer has
    /// everything that the other has.
    pub since_epoch: u64,
    /// Whether its purge is a flush, because it missed acknowledged writes that cannot be named.
    pub flush: bool,
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
            flush: false,
            version: None,
            mark: 0,
            explicit_cas: false,
        };
        Self {
            epoch: 0,
            backends: vec![backend; backends],
        }
    }
}

/// A backend's place in the walk from down to up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It gets every write, and is read where it has been up for longer than the key's other backend.
    Up,
    /// Nothing is sent to it.
    Down,
    /// Back, and rid of what it missed by the workers one after the other. It gets every write, behind the
    /// authority.
    Purging,
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
    /// It has every write that was acknowledged since this epoch, and nothing older than the last one.
    InStep(u64),
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
            Phase::Up => Standing::InStep(self.since_epoch),
            Phase::Purging => Standing::Following,
            Phase::Down => Standing::Absent,
        }
    }
}

/// Who does what for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The backend whose answer counts. `None`: reads miss and writes are refused.
    pub authority: Option<BackendId>,
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
    /// After the authority has answered: it is not in step yet.
    After,
}

/// The failover table: who does what for a key, by the standing of its primary and its backup.
#[must_use]
pub fn plan(primary: (BackendId, Standing), backup: Option<(BackendId, Standing)>) -> Plan {
    use Standing::{Absent, Following, InStep};
    let nobody = Plan {
        authority: None,
        follower: None,
        absent: None,
    };
    let led = |by, follower, absent| Plan {
        authority: Some(by),
        follower,
        absent,
    };
    let follows = |backend, order| Some(Follower { backend, order });
    let (p, primary) = primary;
    let Some((b, backup)) = backup else {
        return match primary {
            InStep(_) => led(p, None, None),
            Following | Absent => nobody,
        };
    };
    match (primary, backup) {
        // The one that has been in step for longer has everything that the other has.
        (InStep(ours), InStep(theirs)) if theirs < ours => {
            led(b, follows(p, Order::Parallel), None)
        }
        (InStep(_), InStep(_)) => led(p, follows(b, Order::Parallel), None),
        (InStep(_), Following) => led(p, follows(b, Order::After), None),
        (InStep(_), Absent) => led(p, None, Some(b)),
        (Absent, InStep(_)) => led(b, None, Some(p)),
        (Following, InStep(_)) => led(b, follows(p, Order::After), None),
        (Following | Absent, Following | Absent) => nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_in_step_and_nobody_has_been_for_longer() {
        use Standing::{Absent, Following, InStep};
        let (p, b) = (BackendId(0), BackendId(1));
        let standings = [InStep(0), InStep(3), InStep(7), Following, Absent];
        let others = standings.map(Some).into_iter().chain([None]);
        for (primary, backup) in standings
            .into_iter()
            .flat_map(|primary| others.clone().map(move |backup| (primary, backup)))
        {
            let plan = plan((p, primary), backup.map(|standing| (b, standing)));
            let standing = |id| if id == p { Some(primary) } else { backup };
            let since = |standing| match standing {
                Some(InStep(since)) => Some(since),
                _ => None,
            };
            match plan.authority {
                Some(id) => {
                    let other = if id == p { b } else { p };
                    let ours = since(standing(id)).expect("an authority is in step");
                    assert!(since(standing(other)).is_none_or(|theirs| ours <= theirs));
                }
                None => assert!(since(Some(primary)).is_none() && since(backup).is_none()),
            }
            if let Some(follower) = plan.follower {
                assert_ne!(Some(follower.backend), plan.authority);
                assert_ne!(standing(follower.backend), Some(Absent));
                let in_step = since(standing(follower.backend)).is_some();
                assert_eq!(follower.order == Order::Parallel, in_step);
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
