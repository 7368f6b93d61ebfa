//! Where a key's second copy is: never on its primary, and on another host if there is one.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; a panic is their way to fail"
)]

use magent_core::config::{BackupPlacement, Config};
use magent_core::placement::{BackupChoice, Placement, Route};
use magent_core::scheme::{Ring, SchemeOptions};
use magent_core::server::ServerSpec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// Few hosts, so that they clash: spellings of one address, loopback, a socket.
const SERVERS: &[&str] = &[
    "10.0.0.4:1",
    "10.0.0.4:2",
    "[::ffff:10.0.0.4]:3",
    "10.0.0.5:1",
    "10.0.0.5:2",
    "cache:1",
    "CACHE:2",
    "127.0.0.1:1",
    "127.0.0.1:2",
    "unix:/run/a",
];

/// A circle with few points and one with many, and lists.
const SCHEMES: &[&str] = &[
    "magent",
    "magent06-ketama",
    "ketama/md5",
    "pecl-consistent/crc32",
    "mcrouter-ch3",
    "memcached-jump",
];

fn config(
    scheme: &str,
    primaries: &[&str],
    backups: &[&str],
    placement: BackupPlacement,
) -> Config {
    let servers = |texts: &[&str]| -> Vec<ServerSpec> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    };
    let options = SchemeOptions::default();
    let (primaries, backups) = (servers(primaries), servers(backups));
    let mut config = Config::new(primaries, backups, scheme.parse().unwrap(), options).unwrap();
    config.backup_placement = placement;
    config
}

fn check(config: &Config) {
    let placement = Placement::new(config);
    let ring = Ring::new(config.scheme, &config.scheme_options, &config.backups).unwrap();
    for n in 0..KEYS {
        let key = format!("key-{n}");
        let by_scheme = ring.index(key.as_bytes());
        assert_eq!(placement.backup_by_scheme(key.as_bytes()), Some(by_scheme));
        check_route(config, placement.route(key.as_bytes()), by_scheme);
    }
}

/// Keys per configuration: enough for each pair of a primary and a backup to come up.
const KEYS: u32 = 100;

fn check_route(config: &Config, route: Route, by_scheme: usize) {
    let primary = &config.backends[route.primary.index()];
    let is_other = |index: usize| config.backup_ids[index] != route.primary;
    let is_elsewhere =
        |index: usize| is_other(index) && !config.backups[index].address().same_host(primary);
    let all = 0..config.backups.len();
    let apart = config.backup_placement == BackupPlacement::Apart;
    let accepted = |index| {
        if apart && all.clone().any(is_elsewhere) {
            is_elsewhere(index)
        } else {
            is_other(index)
        }
    };
    match route.backup_index {
        Some(backup) => {
            assert_eq!(route.backup, Some(config.backup_ids[backup]));
            assert!(accepted(backup), "{primary} has backup {backup}");
            if accepted(by_scheme) {
                assert_eq!(backup, by_scheme, "moved without a reason");
            }
        }
        None => assert!(!all.clone().any(is_other), "{primary} is left without"),
    }
}

fn servers() -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(SERVERS, 1..=SERVERS.len()).prop_shuffle()
}

proptest! {
    #[test]
    fn a_backup_is_elsewhere_if_one_can_be(
        primaries in servers(),
        backups in servers(),
        scheme in select(SCHEMES),
        placement in select(&[BackupPlacement::Apart, BackupPlacement::Hash]),
    ) {
        check(&config(scheme, &primaries, &backups, placement));
    }
}

/// Memcacheds of both kinds on two of the machines.
#[test]
fn the_next_backup_takes_over_from_one_on_the_primarys_host() {
    let primaries = ["192.168.1.4", "192.168.1.5", "192.168.1.6"];
    let backups = [
        "192.168.1.4:12211",
        "192.168.1.5:12211",
        "192.168.1.7:12211",
    ];
    let backup_of = |key: &str, placement| {
        let config = config("magent", &primaries, &backups, placement);
        let route = Placement::new(&config).route(key.as_bytes());
        (route.primary_index, route.backup_index)
    };
    // Both lists have three servers, so the scheme puts both copies at the same place of theirs.
    for (key, primary, by_hash, apart) in [
        ("snsgou5", 0, 0, 1),
        ("snsgou3", 1, 1, 2),
        ("snsgou1", 2, 2, 2),
    ] {
        let of = (primary, Some(by_hash));
        assert_eq!(backup_of(key, BackupPlacement::Hash), of, "{key}");
        assert_eq!(
            backup_of(key, BackupPlacement::Apart),
            (primary, Some(apart)),
            "{key}"
        );
    }
}

#[test]
fn what_is_left_to_a_primary() {
    use BackupChoice::{All, Nobody, SameHost, Some};
    let primaries = ["a:1", "b:1"];
    let check = |backups: &[&str], apart: [BackupChoice; 2], hash: [BackupChoice; 2]| {
        for (placement, expected) in [
            (BackupPlacement::Apart, apart),
            (BackupPlacement::Hash, hash),
        ] {
            let placement = Placement::new(&config("magent", &primaries, backups, placement));
            let choices = [0, 1].map(|index| placement.backup_choice(index));
            assert_eq!(choices, expected, "{backups:?}");
        }
    };
    check(&["c:1", "d:1"], [All, All], [All, All]);
    check(&["c:1", "a:2"], [Some, All], [All, All]);
    check(&["c:1", "a:1"], [Some, All], [Some, All]);
    check(&["a:2", "a:3"], [SameHost, All], [SameHost, All]);
    check(&["a:1", "a:3"], [SameHost, All], [SameHost, All]);
    check(&["a:1"], [Nobody, All], [Nobody, All]);
}
