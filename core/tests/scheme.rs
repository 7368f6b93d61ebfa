//! Placement against the programs that it reproduces, and the laws that a ring keeps.
//!
//! `golden/` says where real programs put keys and how it was found out. The laws are tried on
//! random keys, servers and weights.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use magent_core::scheme::{
    HashSeed, Ring, SCHEMES, Scheme, SchemeError, SchemeOptions, WeightUse, skew,
};
use magent_core::server::ServerSpec;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn servers(texts: &[&str]) -> Vec<ServerSpec> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn ring(scheme: &str, texts: &[&str]) -> Ring {
    try_ring(scheme, texts).unwrap()
}

fn try_ring(scheme: &str, texts: &[&str]) -> Result<Ring, SchemeError> {
    Ring::new(scheme.parse()?, &SchemeOptions::default(), &servers(texts))
}

/// A row of `golden/schemes.csv`.
struct GoldenRow {
    file: String,
    scheme: String,
    weights: String,
    options: String,
}

fn golden_rows() -> Vec<GoldenRow> {
    let mut reader = csv::Reader::from_path(golden().join("schemes.csv")).unwrap();
    let row = |record: Result<csv::StringRecord, _>| {
        let record = record.unwrap();
        let field = |index: usize| record[index].to_string();
        GoldenRow {
            file: field(0),
            scheme: field(1),
            weights: field(2),
            options: field(3),
        }
    };
    reader.records().map(row).collect()
}

impl GoldenRow {
    fn ring(&self) -> Ring {
        let mut options = SchemeOptions::default();
        let mut names = vec![];
        match self.options.split_once(' ') {
            Some(("--hash-tag", tag)) => options.hash_tag = Some(tag.parse().unwrap()),
            Some(("--hash-seed", seed)) => options.hash_seed = Some(HashSeed::new(seed)),
            Some(("--hash-filter", filter)) => options.hash_filter = Some(filter.parse().unwrap()),
            Some(("names", list)) => names = list.split(',').collect(),
            Some(_) => panic!("{}: option {}", self.file, self.options),
            None => assert_eq!(self.options, ""),
        }
        let server = |(index, weight): (usize, &str)| {
            let name = names
                .get(index)
                .map(|name| format!("{name}="))
                .unwrap_or_default();
            format!("{name}127.0.0.1:{}*{weight}", 21211 + index)
                .parse()
                .unwrap()
        };
        let servers: Vec<ServerSpec> = self.weights.split(',').enumerate().map(server).collect();
        assert_eq!(servers.len(), 3, "{}", self.file);
        Ring::new(self.scheme.parse().unwrap(), &options, &servers).unwrap()
    }
}

#[test]
fn golden_vectors() {
    let mut failures = vec![];
    let mut key_count = 0;
    let rows = golden_rows();
    for row in &rows {
        let ring = row.ring();
        let mut reader = csv::Reader::from_path(golden().join(&row.file)).unwrap();
        let wrong = reader.records().filter(|record| {
            let record = record.as_ref().unwrap();
            key_count += 1;
            ring.index(record[0].as_bytes()) != record[1].parse::<usize>().unwrap()
        });
        let wrong: Vec<_> = wrong.map(|record| record.unwrap()[0].to_string()).collect();
        if !wrong.is_empty() {
            failures.push(format!(
                "{}: {} keys, such as {:?}",
                row.file,
                wrong.len(),
                wrong[0]
            ));
        }
    }
    assert_eq!(
        failures,
        [""; 0],
        "{} of {} files",
        failures.len(),
        rows.len()
    );
    // So that a change of format can't turn this test into one of nothing.
    assert_eq!((rows.len(), key_count), (123, 123 * 536));
}

#[test]
fn golden_files_and_their_list_agree() {
    let listed: BTreeSet<_> = golden_rows().into_iter().map(|row| row.file).collect();
    let present: BTreeSet<_> = std::fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".csv") && name != "schemes.csv")
        .collect();
    assert_eq!(listed, present);
}

/// Server lists that the golden vectors have not: other orders, names, ports and weights.
#[test]
fn captured_vectors() {
    let mut row_count = 0;
    for file in ["twemproxy.tsv", "libmemcached.tsv"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/captured")
            .join(file);
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [scheme, servers, key, index] = fields[..] else {
                panic!("{file}: {line}")
            };
            let servers: Vec<&str> = servers.split(' ').collect();
            let index: usize = index.parse().unwrap();
            assert_eq!(
                ring(scheme, &servers).index(key.as_bytes()),
                index,
                "{line}"
            );
            row_count += 1;
        }
    }
    assert_eq!(row_count, 240 + 320);
}

const THREE: [&str; 3] = ["127.0.0.1:21211", "127.0.0.1:21212", "127.0.0.1:21213"];

#[test]
fn names() {
    let names: BTreeSet<_> = Scheme::all().map(|scheme| scheme.to_string()).collect();
    assert_eq!(names.len(), Scheme::all().count(), "a name is there twice");
    for scheme in Scheme::all() {
        assert_eq!(scheme.to_string().parse(), Ok(scheme));
    }
    assert_eq!("magent".parse(), Ok(Scheme::magent()));
    assert_eq!("ketama/md5".parse(), Ok(Scheme::ketama_md5()));
    assert_eq!(Scheme::default(), Scheme::magent());
}

#[test]
fn every_scheme_has_vectors() {
    let tested: BTreeSet<_> = golden_rows().into_iter().map(|row| row.scheme).collect();
    for info in &SCHEMES {
        let tested = info
            .schemes()
            .any(|scheme| tested.contains(&scheme.to_string()));
        assert!(tested, "{} has no vectors", info.name);
    }
}

#[track_caller]
fn check_refused(scheme: &str, servers: &[&str], message: &str) {
    let err = try_ring(scheme, servers).unwrap_err().to_string();
    assert!(err.starts_with(message), "{err}\nexpected {message}");
}

#[test]
fn refuses_names() {
    let check = |name: &str, message: &str| check_refused(name, &THREE, message);
    check(
        "ketma/md5",
        "scheme \"ketma/md5\": no such scheme; did you mean \"ketama/md5\"?",
    );
    check(
        "ketama-md5",
        "scheme \"ketama-md5\": no such scheme; did you mean \"ketama/md5\"?",
    );
    check(
        "Magent",
        "scheme \"Magent\": no such scheme; did you mean \"magent\"?",
    );
    check(
        "rendezvous",
        "scheme \"rendezvous\": no such scheme; must be one of magent, magent06-",
    );
    check("", "scheme \"\": no such scheme; must be one of magent");
    check(
        "magent/md5",
        "scheme \"magent/md5\": no such scheme; must be one of magent",
    );
    check(
        "ketama",
        "scheme \"ketama\": needs a hash function: md5, one_at_a_time",
    );
    check(
        "pecl-standard/md5",
        "scheme \"pecl-standard/md5\": hash function must be one of crc32, fnv",
    );
    check(
        "modula/xxh3",
        "scheme \"modula/xxh3\": hash function must be one of md5",
    );
    check(
        "ketama/",
        "scheme \"ketama/\": hash function must be one of md5",
    );
}

#[test]
fn refuses_servers() {
    check_refused("magent", &[], "servers: at least one is needed");
    let many: Vec<String> = (0..4097).map(|n| format!("h{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    check_refused("magent", &many, "servers: 4097 are too many, at most 4096");
    assert_eq!(ring("ketama/md5", &many[..4096]).server_count(), 4096);
    check_refused(
        "magent07-ketama",
        &many[..2001],
        "scheme \"magent07-ketama\": servers and weights make 4002000 points, at most 4000000",
    );
    check_refused(
        "pecl-consistent/crc32",
        &["a*10000", "b*10000", "c*10000"],
        "scheme \"pecl-",
    );
    for scheme in [
        "ketama/md5",
        "modula/md5",
        "pecl-standard/fnv",
        "libmemcached-consistent/md5",
    ] {
        let message = format!(
            "server \"b:11211*0.5\": weight must be a whole number for scheme \"{scheme}\""
        );
        check_refused(scheme, &["a", "b*0.5"], &message);
    }
    check_refused(
        "mcrouter-weighted-ch3",
        &["a", "b*1.5"],
        "server \"b:11211*1.5\": weight must be at most 1 for scheme \"mcrouter-weighted-ch3\"",
    );
    let twice = "server \"a\": given twice; each needs its own name or address";
    check_refused("ketama/md5", &["a", "b", "a:11211"], twice);
    check_refused("ketama/md5", &["a", "a=b"], twice);
    check_refused("magent", &["a=b", "a=c"], twice);
    // By number, an address may be there twice: magent 0.6 users gave weight so.
    assert_eq!(ring("magent", &["a", "b", "a"]).server_count(), 3);
}

#[test]
fn refuses_options() {
    let seeded = SchemeOptions {
        hash_seed: Some(HashSeed::new("abc")),
        ..Default::default()
    };
    for scheme in Scheme::all() {
        let result = Ring::new(scheme, &seeded, &servers(&THREE));
        assert_eq!(result.is_ok(), scheme.takes_seed(), "{scheme}");
        let xxh3 = scheme.to_string().ends_with("/xxh3") || scheme.to_string().ends_with("-jump");
        assert_eq!(scheme.takes_seed(), xxh3, "{scheme}");
    }
}

/// A hash of 0 is taken for none by magent 0.6, and the key placed as without `-k`.
#[test]
fn magent06_falls_back_to_modulo() {
    let magent06 = ring("magent06-ketama", &THREE);
    let magent = ring("magent", &THREE);
    // Their md5 begins with a zero byte; these three cover all servers.
    for (key, server) in [
        (&b"key-3793"[..], 0),
        (&b"key-895"[..], 1),
        (&b"key-243"[..], 2),
    ] {
        assert_eq!(magent06.index(key), server);
        assert_eq!(magent.index(key), server);
        assert_eq!(
            magent06.index_where(key, |index| index != server),
            Some((server + 1) % 3)
        );
    }
}

#[test]
fn next_server_of_a_modulo_is_next_in_the_list() {
    for scheme in ["magent", "modula/md5", "memcached-jump", "mcrouter-ch3"] {
        let ring = ring(scheme, &["a", "b", "c", "d"]);
        for key in (0..100).map(|n| format!("key-{n}")) {
            let first = ring.index(key.as_bytes());
            let mut refused = BTreeSet::new();
            for step in 0..4 {
                let next = ring.index_where(key.as_bytes(), |index| !refused.contains(&index));
                assert_eq!(next, Some((first + step) % 4), "{scheme} {key}");
                refused.insert((first + step) % 4);
            }
            assert_eq!(ring.index_where(key.as_bytes(), |_| false), None);
        }
    }
}

/// A point belongs to the keys that hash to it exactly. libmemcached's points are hashes of
/// strings by the keys' own function, so such keys are known: the strings.
#[test]
fn a_key_on_a_point_is_that_points() {
    for hash in ["md5", "murmur", "one_at_a_time"] {
        let servers = ["10.0.0.1", "10.0.0.2:11311", "10.0.0.3"];
        let ring = ring(&format!("libmemcached-consistent/{hash}"), &servers);
        for (index, server) in servers.iter().enumerate() {
            for k in 0..100 {
                let key = format!("{server}-{k}");
                assert_eq!(ring.index(key.as_bytes()), index, "{hash} {key}");
            }
        }
    }
}

/// pecl-memcache takes 1 for a hash of 0: the crc of this key has no bit in its upper half.
#[test]
fn pecl_has_no_hash_of_0() {
    assert_eq!(ring("pecl-standard/crc32", &THREE).index(b"key-35014"), 1);
}

#[test]
fn libmemcached_consistent_is_ketama_from_weight_2_on() {
    let servers = ["a*2", "b", "c"];
    let (consistent, ketama) = (
        ring("libmemcached-consistent/md5", &servers),
        ring("ketama/md5", &servers),
    );
    for key in (0..1000).map(|n| format!("key-{n}")) {
        assert_eq!(
            consistent.index(key.as_bytes()),
            ketama.index(key.as_bytes()),
            "{key}"
        );
    }
}

/// If nobody takes a key it stays where the 32nd try found it: salts 0 to 30, digits reversed.
#[test]
fn weighted_ch3_gives_up_after_32_tries() {
    let hosts = ["a", "b", "c", "d", "e"];
    let weighted = ring(
        "mcrouter-weighted-ch3",
        &hosts
            .map(|host| format!("{host}*0.0000000001"))
            .each_ref()
            .map(String::as_str),
    );
    let plain = ring("mcrouter-ch3", &hosts);
    for key in (0..100).map(|n| format!("key-{n}")) {
        let last = format!("{key}03");
        assert_eq!(
            weighted.index(key.as_bytes()),
            plain.index(last.as_bytes()),
            "{key}"
        );
    }
}

/// Schemes that spread keys well, by servers in a ring or a modulo and any number of them.
const SOUND: [&str; 12] = [
    "magent",
    "magent07-ketama",
    "ketama/md5",
    "ketama/xxh3",
    "ketama/murmur",
    "ketama/jenkins",
    "modula/md5",
    "pecl-standard/crc32",
    "mcrouter-ch3",
    "mcrouter-crc32",
    "memcached-jump",
    "memcached-ring/xxh3",
];

#[test]
fn sound_schemes_are_not_called_skewed() {
    for server_count in [1, 2, 3, 4, 5, 8, 10, 16, 50] {
        let texts: Vec<String> = (1..=server_count).map(|n| format!("10.0.0.{n}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        for scheme in SOUND {
            let skew = skew::sample(&ring(scheme, &texts));
            assert!(
                !skew.is_skewed(),
                "{scheme}, {server_count} servers: {skew}"
            );
        }
    }
}

#[test]
fn shares_follow_weights() {
    let lists: [&[u32]; 4] = [
        &[1, 2, 3],
        &[1, 1, 5],
        &[10, 20, 30, 40],
        &[3, 1, 3, 1, 3, 1],
    ];
    for weights in lists {
        let total: u32 = weights.iter().sum();
        for scheme in [
            "ketama/md5",
            "modula/md5",
            "pecl-standard/crc32",
            "mcrouter-weighted-ch3",
        ] {
            let scheme: Scheme = scheme.parse().unwrap();
            let skew = skew::sample(&weighted_ring(scheme, weights));
            assert!(!skew.is_skewed(), "{scheme} {weights:?}: {skew}");
            let keys: u32 = skew.shares().iter().map(|share| share.keys).sum();
            for (share, &weight) in skew.shares().iter().zip(weights) {
                let fair = f64::from(keys) * f64::from(weight) / f64::from(total);
                assert!((share.fair - fair).abs() < 0.01, "{scheme} {weights:?}");
            }
        }
    }
}

#[test]
fn known_skews_are_found() {
    let other: Vec<String> = (1..=5).map(|n| format!("10.0.0.{n}")).collect();
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    for scheme in [
        "ketama/crc32",
        "ketama/fnv1_64",
        // twemproxy's own default.
        "ketama/fnv1a_64",
        "modula/fnv1a_64",
        "libmemcached-consistent/fnv1_64",
        "magent06-ketama",
    ] {
        for servers in [&THREE[..], &other] {
            let skew = skew::sample(&ring(scheme, servers));
            assert!(skew.is_skewed(), "{scheme}: {skew}");
        }
    }
}

#[test]
fn skew_is_told_in_a_sentence() {
    let skew = skew::sample(&ring("ketama/crc32", &THREE));
    let expected = "servers get 0/100/0 % of keys such as \"user:1023\", fair would be 33/33/33 %";
    assert_eq!(skew.to_string(), expected);
}

/// A ring of servers with these weights, as parts of the largest where the scheme wants that.
fn weighted_ring(scheme: Scheme, weights: &[u32]) -> Ring {
    let largest = *weights.iter().max().unwrap();
    let weight = |weight: u32| match scheme.info().weights {
        WeightUse::Fraction => (f64::from(weight) / f64::from(largest)).to_string(),
        WeightUse::Whole | WeightUse::Ignored => weight.to_string(),
    };
    let server = |(n, &w): (usize, &u32)| format!("10.1.0.{n}:11311*{}", weight(w));
    let texts: Vec<String> = weights.iter().enumerate().map(server).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    ring(&scheme.to_string(), &texts)
}

fn any_scheme() -> impl Strategy<Value = Scheme> {
    prop::sample::select(Scheme::all().collect::<Vec<_>>())
}

fn any_key() -> impl Strategy<Value = Vec<u8>> {
    let edges = prop_oneof![Just(0usize), Just(1), 0..=250usize, 180..=300usize];
    edges.prop_flat_map(|len| prop::collection::vec(any::<u8>(), len))
}

fn any_hosts(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<String>> {
    prop::collection::btree_set("[a-z]{1,8}\\.example(:[1-9][0-9]{3})?", len)
        .prop_map(|hosts| hosts.into_iter().collect())
}

/// Schemes whose points depend on nothing but their own server, with hashes of 32 bits, so that
/// two points hardly ever coincide.
const CIRCLES: [&str; 5] = [
    "libmemcached-consistent/md5",
    "libmemcached-consistent/murmur",
    "memcached-ring/xxh3",
    "memcached-ring/md5",
    "memcached-ring-evcache/md5",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_key_has_a_server(
        scheme in any_scheme(),
        weights in prop::collection::vec(1u32..30, 1..12),
        keys in prop::collection::vec(any_key(), 1..20),
        accepted in any::<u16>(),
    ) {
        let ring = weighted_ring(scheme, &weights);
        for key in keys {
            let first = ring.index(&key);
            prop_assert!(first < weights.len());
            prop_assert_eq!(ring.index_where(&key, |_| true), Some(first));
            let accept = |index: usize| accepted >> index & 1 == 1;
            match ring.index_where(&key, accept) {
                Some(index) => prop_assert!(index < weights.len() && accept(index)),
                None => prop_assert!(!(0..weights.len()).any(accept)),
            }
            if accept(first) {
                prop_assert_eq!(ring.index_where(&key, accept), Some(first));
            }
        }
    }

    #[test]
    fn removing_a_server_moves_only_its_keys(
        scheme in prop::sample::select(&CIRCLES[..]),
        hosts in any_hosts(2..8),
        removed in any::<prop::sample::Index>(),
        keys in prop::collection::vec(any_key(), 1..50),
    ) {
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let removed = removed.index(hosts.len());
        let mut rest = hosts.clone();
        rest.remove(removed);
        let (before, after) = (ring(scheme, &hosts), ring(scheme, &rest));
        for key in keys {
            let (from, to) = (hosts[before.index(&key)], rest[after.index(&key)]);
            prop_assert!(from == to || from == hosts[removed]);
            // And they move to where `index_where` finds the next server.
            let next = before.index_where(&key, |index| index != removed);
            prop_assert_eq!(next.map(|index| hosts[index]), Some(to));
        }
    }

    #[test]
    fn the_last_server_can_go(
        scheme in prop::sample::select(&["memcached-jump", "mcrouter-ch3"][..]),
        server_count in 2usize..100,
        key in any_key(),
    ) {
        let texts: Vec<String> = (0..server_count).map(|n| format!("h{n}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let before = ring(scheme, &texts).index(&key);
        let after = ring(scheme, &texts[1..]).index(&key);
        prop_assert!(before == after || before == server_count - 1);
    }

    #[test]
    fn the_order_of_servers_does_not_matter_to_a_circle(
        scheme in prop::sample::select(&["ketama/md5", "ketama/crc32a", CIRCLES[0], CIRCLES[2]][..]),
        hosts in any_hosts(1..8).prop_shuffle(),
        keys in prop::collection::vec(any_key(), 1..50),
    ) {
        let mut sorted: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let shuffled = sorted.clone();
        sorted.sort_unstable();
        let (one, other) = (ring(scheme, &sorted), ring(scheme, &shuffled));
        for key in keys {
            prop_assert_eq!(sorted[one.index(&key)], shuffled[other.index(&key)]);
        }
    }

    /// mcrouter's own promise for `WeightedCh3`.
    #[test]
    fn full_weights_make_weighted_ch3_equal_ch3(server_count in 1usize..30, key in any_key()) {
        let weights = vec![1; server_count];
        let weighted = weighted_ring("mcrouter-weighted-ch3".parse().unwrap(), &weights);
        let plain = weighted_ring("mcrouter-ch3".parse().unwrap(), &weights);
        prop_assert_eq!(weighted.index(&key), plain.index(&key));
    }
}
