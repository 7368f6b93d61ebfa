//! Which backups a primary's keys cannot have: itself, and those that would be lost with its host.
//!
//! # Invariants
//!
//! - A primary is never its own backup, whatever the option says.
//! - A backup on the primary's host is refused only if there is one elsewhere, so that nobody is left
//!   without a second copy for it (`a_backup_is_elsewhere_if_one_can_be` in `core/tests/placement.rs`).
//! - Asking compares numbers and allocates nothing: hosts are compared as text once, at the start.
//!
//! Not here: which of the others is taken (`scheme`), when two addresses share a host (`server`).

use crate::BackendId;
use crate::config::{BackupPlacement, Config};
use crate::server::Address;

/// Which backups each primary accepts.
#[derive(Debug)]
pub(super) struct Apart {
    primaries: Vec<Primary>,
    backups: Vec<(BackendId, HostId)>,
}

#[derive(Debug)]
struct Primary {
    id: BackendId,
    host: HostId,
    refuses: Refuses,
}

#[derive(Debug, Clone, Copy)]
enum Refuses {
    /// The primary alone: all backups are on its host, or nobody cares.
    Itself,
    /// All that is on the primary's host.
    ItsHost,
}

/// A host, by the first backend that is on it. A backend that shares its host with nobody is a host.
type HostId = BackendId;

/// What is left to a primary's keys of the list of backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupChoice {
    /// Any of them.
    All,
    /// Those on other hosts, or those that are not the primary itself. The keys of the others are moved to
    /// these.
    Some,
    /// None on another host: both copies are lost with it.
    SameHost,
    /// Nothing: there is none but the primary itself.
    Nobody,
}

impl Apart {
    pub(super) fn new(config: &Config) -> Self {
        let hosts = hosts(&config.backends);
        let with_host = |&id: &BackendId| (id, hosts[id.index()]);
        let backups: Vec<_> = config.backup_ids.iter().map(with_host).collect();
        let primary = |(id, host)| {
            let has_choice = backups.iter().any(|&(_, other)| other != host);
            let refuses = match config.backup_placement {
                BackupPlacement::Apart if has_choice => Refuses::ItsHost,
                BackupPlacement::Apart | BackupPlacement::Hash => Refuses::Itself,
            };
            Primary { id, host, refuses }
        };
        let primaries = config.primary_ids.iter().map(with_host).map(primary);
        Self {
            primaries: primaries.collect(),
            backups,
        }
    }

    /// Whether the primary's keys may have this backup.
    pub(super) fn accepts(&self, primary_index: usize, backup_index: usize) -> bool {
        let (backup, host) = self.backups[backup_index];
        let primary = &self.primaries[primary_index];
        match primary.refuses {
            Refuses::Itself => backup != primary.id,
            Refuses::ItsHost => host != primary.host,
        }
    }

    /// What is left to the primary's keys. Not for the path of a request.
    pub(super) fn choice(&self, primary_index: usize) -> BackupChoice {
        let all = 0..self.backups.len();
        let accepted = || {
            all.clone()
                .filter(|&index| self.accepts(primary_index, index))
        };
        let host = self.primaries[primary_index].host;
        if accepted().next().is_none() {
            BackupChoice::Nobody
        } else if accepted().all(|index| self.backups[index].1 == host) {
            BackupChoice::SameHost
        } else if accepted().count() == self.backups.len() {
            BackupChoice::All
        } else {
            BackupChoice::Some
        }
    }
}

/// The host of each backend.
fn hosts(backends: &[Address]) -> Vec<HostId> {
    let ids = || (0..).map(BackendId).zip(backends);
    let host_of = |(id, address): (BackendId, &Address)| {
        let mut earlier = ids().take(id.index());
        earlier
            .find(|(_, other)| other.same_host(address))
            .map_or(id, |(other, _)| other)
    };
    ids().map(host_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_number() {
        let backends = [
            "10.0.0.4:1",
            "10.0.0.5:1",
            "10.0.0.4:2",
            "[::ffff:10.0.0.5]:3",
            "127.0.0.1:1",
            "127.0.0.1:2",
            "cache:1",
            "CACHE:2",
            "unix:/a",
        ];
        let backends: Vec<Address> = backends.iter().map(|text| text.parse().unwrap()).collect();
        let hosts: Vec<u16> = hosts(&backends).iter().map(|host| host.0).collect();
        assert_eq!(hosts, [0, 1, 0, 1, 4, 5, 6, 6, 8]);
    }
}
