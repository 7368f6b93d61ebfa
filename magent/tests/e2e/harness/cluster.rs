//! A proxy with its backends, and which of them holds a key.

use super::items::{EXPIRY_OFF_MAX, Items, differences, items_through, missing};
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

    /// One of the backends, primaries first.
    pub(crate) fn backend_mut(&mut self, index: usize) -> &mut Memcached {
        let backends = self.primaries.iter_mut().chain(&mut self.backups);
        backends.into_iter().nth(index).expect("there are as many")
    }

    /// Which backends hold `key`, primaries first.
    pub(crate) fn holders(&self, key: &str) -> Vec<usize> {
        let backends = self.primaries.iter().chain(&self.backups).enumerate();
        backends
            .filter(|(_, backend)| backend.value(key).is_some())
            .map(|(index, _)| index)
            .collect()
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
        // With a short --fail-ms a busy machine looks like a backend that is gone again.
        wait_until("the key is deleted", || {
            client.try_command(&format!("delete {key}")).is_ok()
        });
    }

    /// Fails unless each key's two copies are the same, and as expected, on the backends themselves and
    /// through the proxy.
    #[track_caller]
    pub(crate) fn assert_in_step(&self, expected: &Items) {
        let primaries: Vec<&Memcached> = self.primaries.iter().collect();
        let backups: Vec<&Memcached> = self.backups.iter().collect();
        let mut wrong = differences(&primaries, &backups, EXPIRY_OFF_MAX);
        wrong.extend(not_held(&self.magent, &primaries, &backups, expected));
        assert_none(&wrong);
    }

    /// The same of these items only: of others it is not known which is right.
    #[track_caller]
    pub(crate) fn assert_holds(&self, expected: &Items) {
        let primaries: Vec<&Memcached> = self.primaries.iter().collect();
        let backups: Vec<&Memcached> = self.backups.iter().collect();
        assert_none(&not_held(&self.magent, &primaries, &backups, expected));
        let others = differences(&primaries, &backups, EXPIRY_OFF_MAX);
        println!(
            "{} copies differ, of items whose last write was not acknowledged",
            others.len()
        );
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

/// Where expected items are missing or other than expected.
#[track_caller]
fn not_held(
    magent: &Magent,
    primaries: &[&Memcached],
    backups: &[&Memcached],
    expected: &Items,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (backends, role) in [(primaries, "primary"), (backups, "backup")] {
        for (index, backend) in backends.iter().enumerate() {
            let mut share = expected.clone();
            share.retain(|key, _| index_of(key, backends.len()) == index);
            let who = format!("{role} {}", backend.endpoint);
            wrong.extend(missing(
                &share,
                &backend.items_of(share.keys()),
                EXPIRY_OFF_MAX,
                &who,
            ));
        }
    }
    let read = items_through(magent, expected.keys());
    // The proxy's clock is yet another.
    wrong.extend(missing(expected, &read, EXPIRY_OFF_MAX + 1, "the proxy"));
    wrong
}

#[track_caller]
fn assert_none(wrong: &[String]) {
    assert!(
        wrong.is_empty(),
        "{} differences, such as {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(10)]
    );
}

pub(crate) fn endpoints(backends: &[Memcached]) -> Vec<&Endpoint> {
    backends.iter().map(|backend| &backend.endpoint).collect()
}

/// Which of `server_count` servers magent 0.6's modulo gives `key` to. Written again here, from
/// `hashing.md`, because the proxy's own answer is what is being tested.
pub(crate) fn index_of(key: impl AsRef<[u8]>, server_count: usize) -> usize {
    let key = key.as_ref();
    assert!(key.is_ascii(), "bytes from 0x80 are added with their sign");
    let hash = key.iter().fold(5_381_u32, |h, &byte| {
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
