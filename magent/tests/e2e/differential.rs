//! One long random script, sent to a memcached directly and through the proxy: the answers are equal
//! but for the differences that [`DIFFERENCES`] lists, each with its reason.
//!
//! The script comes in groups, each ended by `mn`, so that answers can be told apart by its `MN`. The
//! memcached is asked one command at a time, because some of its answers depend on what else is in the
//! pipe. The proxy gets a round of groups as one pipeline, in chunks of random sizes. CAS uniques are the
//! server's own, so a round first asks each side for its numbers and writes them into its commands.
//!
//! Not here: what the commands are made of (`differential/script`).

mod script;

use std::collections::BTreeMap;
use std::io::Write;

use super::harness::{Client, Cluster, Endpoint, Memcached, shown};
use script::{Group, Script};

const ROUNDS: usize = 60;
const GROUPS_PER_ROUND: usize = 50;

#[test]
fn through_three_primaries() {
    check_equal(&Cluster::start_patient(3, 0, &[]), 1);
}

#[test]
fn through_three_primaries_with_backups() {
    check_equal(&Cluster::start_patient(3, 2, &[]), 2);
}

#[test]
fn through_one_primary_in_one_worker() {
    check_equal(&Cluster::start_patient(1, 0, &["--threads", "1"]), 3);
}

fn check_equal(cluster: &Cluster, seed: u64) {
    let memcached = Memcached::start();
    for endpoint in [&memcached.endpoint, &cluster.magent.endpoint] {
        use_up_first_cas_uniques(&mut Client::connect(endpoint));
    }
    let mut script = Script::new(seed);
    let (mut command_count, mut unexplained) = (0, Vec::new());
    for round in 0..ROUNDS {
        let groups: Vec<Group> = (0..GROUPS_PER_ROUND).map(|_| script.group()).collect();
        command_count += groups
            .iter()
            .map(|group| group.commands.len())
            .sum::<usize>();
        let seed = seed * 1_000 + u64::try_from(round).unwrap();
        let direct = one_by_one(&memcached.endpoint, &groups);
        let proxied = pipelined(&cluster.magent.endpoint, &groups, seed);
        for (group, (direct, proxied)) in groups.iter().zip(direct.iter().zip(&proxied)) {
            if expected(group, direct) != comparable(proxied) {
                unexplained.push(format!(
                    "round {round}\n  commands:  {}\n  memcached: {}\n  magent:    {}",
                    shown(&group.bytes(&BTreeMap::new())),
                    shown(&direct.concat()),
                    shown(proxied)
                ));
            }
        }
    }
    assert!(
        unexplained.is_empty(),
        "{} of {command_count} commands' groups differ:\n{}",
        unexplained.len(),
        unexplained[..unexplained.len().min(12)].join("\n")
    );
    println!("{command_count} commands, equal but for:");
    DIFFERENCES
        .iter()
        .for_each(|difference| println!("- {}", difference.why));
}

/// What the proxy must answer to a group whose commands memcached answered as in `direct`.
fn expected(group: &Group, direct: &[Vec<u8>]) -> Vec<u8> {
    let mut expected = Vec::new();
    for (command, answer) in group.commands.iter().zip(direct) {
        let difference = DIFFERENCES
            .iter()
            .find(|difference| (difference.applies)(command));
        expected.extend(match difference {
            Some(difference) => (difference.instead)(answer),
            None => comparable(answer),
        });
    }
    expected
}

/// The answers to each command of each group, each sent when the one before it is answered.
fn one_by_one(endpoint: &Endpoint, groups: &[Group]) -> Vec<Vec<Vec<u8>>> {
    let mut client = Client::connect(endpoint);
    let uniques = cas_uniques(&mut client);
    let mut ask = |command: &[u8]| {
        client.send(&[&script::fill_in(command, &uniques), &b"mn\r\n"[..]].concat());
        client.until_meta_noop().unwrap()
    };
    groups
        .iter()
        .map(|group| group.commands.iter().map(|command| ask(command)).collect())
        .collect()
}

/// The answers to each group, all sent as one pipeline.
fn pipelined(endpoint: &Endpoint, groups: &[Group], seed: u64) -> Vec<Vec<u8>> {
    let mut client = Client::connect(endpoint);
    let uniques = cas_uniques(&mut client);
    let mut rng = fastrand::Rng::with_seed(seed);
    let bytes: Vec<u8> = groups
        .iter()
        .flat_map(|group| group.bytes(&uniques))
        .collect();
    let mut stream = client.into_tcp();
    let mut reader = Client::from_tcp(stream.try_clone().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let len_max = [3, 50, 2_000, 100_000][rng.usize(..4)];
                let (chunk, after) = rest.split_at(rng.usize(1..=len_max).min(rest.len()));
                if stream.write_all(chunk).is_err() {
                    // The reader says what is missing.
                    return;
                }
                rest = after;
            }
        });
        groups
            .iter()
            .map(|group| {
                reader.until_meta_noop().unwrap_or_else(|err| {
                    panic!("no MN after {}\n{err}", shown(&group.bytes(&uniques)))
                })
            })
            .collect()
    })
}

/// The CAS unique of every key of the script that exists.
fn cas_uniques(client: &mut Client) -> BTreeMap<String, String> {
    let mut uniques = BTreeMap::new();
    for key in script::keys() {
        let answer = client.ask_line(format!("mg {key} c\r\n").as_bytes());
        // A stale item's is followed by `W` or `Z` and `X`.
        if let Some(unique) = answer
            .strip_prefix("HD c")
            .and_then(|rest| rest.split(' ').next())
        {
            uniques.insert(key, unique.to_owned());
        }
    }
    uniques
}

/// Makes 1 a unique that no item has: it stands for an old one in the script.
fn use_up_first_cas_uniques(client: &mut Client) {
    for key in script::keys() {
        client.set(&key, b"value");
        client.delete(&key);
    }
}

/// `answer` without what no two memcacheds agree on: each CAS unique becomes `~`, and the flags that say
/// whether an item is stale and who won it (`W`, `X`, `Z`) are left out, because memcached 1.6.18 marked an
/// item stale in one run and not in the next (`one_client_wins` in `pipelines` has those).
fn comparable(answer: &[u8]) -> Vec<u8> {
    let mut lines = Vec::new();
    for line in answer.split_inclusive(|&byte| byte == b'\n') {
        let (line, end) = match line.strip_suffix(b"\r\n") {
            Some(line) => (line, &b"\r\n"[..]),
            None => (line, &b""[..]),
        };
        let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        let kept: Vec<&[u8]> = words
            .iter()
            .enumerate()
            .filter_map(|(n, word)| match (words[0], n, *word) {
                (b"VALUE", 4, _) => Some(&b"~"[..]),
                (b"VA" | b"HD", 1.., b"W" | b"X" | b"Z") => None,
                (b"VA" | b"HD", 1.., flag) if is_cas_flag(flag) => Some(&b"c~"[..]),
                (_, _, word) => Some(word),
            })
            .collect();
        lines.extend(kept.join(&b' '));
        lines.extend_from_slice(end);
    }
    lines
}

fn is_cas_flag(word: &[u8]) -> bool {
    let digits = word.strip_prefix(b"c");
    digits.is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
}

/// A kind of command that is answered otherwise than by memcached.
struct Difference {
    why: &'static str,
    applies: fn(&[u8]) -> bool,
    /// The proxy's answer in place of memcached's.
    instead: fn(&[u8]) -> Vec<u8>,
}

/// All differences but what [`comparable`] hides.
const DIFFERENCES: &[Difference] = &[Difference {
    why: "memcached 1.6.18 answers `ma` with `q` if it made the counter (`N`), though it did what was \
           asked. The proxy strips `q` towards backends and hides every `HD` and `VA`, as the \
           protocol says.",
    applies: |command| {
        let flags: Vec<&[u8]> = command
            .trim_ascii_end()
            .split(|&byte| byte == b' ')
            .collect();
        flags[0] == b"ma" && flags.contains(&&b"q"[..]) && flags.contains(&&b"N0"[..])
    },
    instead: |answer| {
        let hidden = answer.starts_with(b"HD") || answer.starts_with(b"VA");
        if hidden {
            Vec::new()
        } else {
            comparable(answer)
        }
    },
}];
