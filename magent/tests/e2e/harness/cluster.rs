//! A proxy with its backends, and which of them holds a key.

use super::{Endpoint, Magent, Memcached, wait_until};

/// Backends and the proxy in front of them.
#[derive(Debug)]
pub(crate) struct Cluster {
    // First, so that it is checked and ended before its backends go away.
    /// The proxy.
    pub(crate) magent: Magent,
    /// `-s`, in order.
    pub(crate) primaries: Vec<Memcached>,
    /// `-b`, in order.
    pub(crate) backups: Vec<Memcached>,
}

/// Probes in quick succession: tests wait for returns.
pub(crate) const QUICK_PROBES: [&str; 4] = ["--probe-ms-min", "20", "--probe-ms-max", "100"];

impl Cluster {
    /// So many of each; `extra` goes to the proxy.
    pub(crate) fn start(primary_count: usize, backup_count: usize, extra: &[&str]) -> Self {
        let primaries: Vec<Memcached> = (0..primary_count).map(|_| Memcached::start()).collect();
        let backups: Vec<Memcached> = (0..backup_count).map(|_| Memcached::start()).collect();
        let magent = Magent::start(
            &endpoints(&primaries),
            &endpoints(&backups),
            &[&QUICK_PROBES[..], extra].concat(),
        );
        Self {
            magent,
            primaries,
            backups,
        }
    }

    /// The same where no backend fails: on a machine that stands still for half a second, none is taken
    /// for failed either.
    pub(crate) fn start_patient(primary_count: usize, backup_count: usize, extra: &[&str]) -> Self {
        let patient = ["--fail-ms", "20000", "--request-ms", "25000"];
        Self::start(primary_count, backup_count, &[&patient, extra].concat())
    }

    /// A key whose primary is this one; `seed` makes it another.
    pub(crate) fn key_on(&self, primary_index: usize, seed: u32) -> String {
        key_at(self.primaries.len(), primary_index, seed)
    }

    /// A key with this primary and this backup.
    pub(crate) fn key_on_both(
        &self,
        primary_index: usize,
        backup_index: usize,
        seed: u32,
    ) -> String {
        (0..)
            .map(|n| format!("key-{seed}-{n}"))
            .find(|key| {
                index_of(key, self.primaries.len()) == primary_index
                    && index_of(key, self.backups.len()) == backup_index
            })
            .unwrap()
    }

    /// The primary that holds `key`.
    pub(crate) fn primary_of(&self, key: &str) -> &Memcached {
        &self.primaries[index_of(key, self.primaries.len())]
    }

    /// The backup that holds `key`.
    pub(crate) fn backup_of(&self, key: &str) -> &Memcached {
        &self.backups[index_of(key, self.backups.len())]
    }

    /// Waits until the proxy's writes reach this primary (again), seen on the memcached itself.
    pub(crate) fn wait_until_written(&self, primary_index: usize) {
        let key = self.key_on(primary_index, u32::MAX);
        let backend = &self.primaries[primary_index];
        let mut client = self.magent.client();
        wait_until("writes reach the primary", || {
            client
                .try_store("set", &key, b"here?")
                .is_ok_and(|answer| answer == "STORED")
                && backend.value(&key).is_some()
        });
        client.try_command(&format!("delete {key}")).unwrap();
    }

    /// Waits until a key of this primary is answered: whatever is wrong with it is known.
    pub(crate) fn wait_until_answered(&self, primary_index: usize) {
        let key = self.key_on(primary_index, u32::MAX);
        wait_until("a read is answered", || {
            self.magent.client().try_get(&key).is_ok()
        });
    }

    /// Waits until a key of this primary is answered with an error: all its backends are known dead.
    pub(crate) fn wait_until_refused(&self, key: &str) {
        wait_until("writes are refused", || {
            self.magent.client().try_store("set", key, b"x").is_err()
        });
    }
}

pub(crate) fn endpoints(backends: &[Memcached]) -> Vec<&Endpoint> {
    backends.iter().map(|backend| &backend.endpoint).collect()
}

/// Which of `server_count` servers magent 0.6's modulo gives `key` to. Written again here, from
/// `hashing.md`, because the proxy's own answer is what is being tested.
pub(crate) fn index_of(key: &str, server_count: usize) -> usize {
    assert!(key.is_ascii(), "bytes from 0x80 are added with their sign");
    let hash = key.bytes().fold(5_381_u32, |h, byte| {
        h.wrapping_mul(33).wrapping_add(byte.into())
    });
    usize::try_from(hash & 0x7fff_ffff).unwrap() % server_count
}

/// A key that `index_of` puts at `index`; `seed` makes it another.
pub(crate) fn key_at(server_count: usize, index: usize, seed: u32) -> String {
    (0..)
        .map(|n| format!("key-{seed}-{n}"))
        .find(|key| index_of(key, server_count) == index)
        .unwrap()
}
