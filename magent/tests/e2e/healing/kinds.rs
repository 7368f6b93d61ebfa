//! What comes back: every kind of item, with its value, its flags and its end.

use super::super::harness::{Client, Cluster, Items, Memcached, Moment, token, unix_now};

/// Kinds of items, told apart by their keys: these are in `store_dataset`.
fn kind_of(key: &[u8], expires: Option<Moment>, value_len: usize) -> &'static str {
    match (expires, value_len) {
        _ if !key.iter().all(u8::is_ascii_graphic) => "binary key",
        (_, 0) => "empty",
        (_, 1_000_000..) => "large",
        (None, _) => "for ever",
        (Some(until), _) if until.is_before(unix_now() + 500) => "short",
        (Some(until), _) if until.is_before(unix_now() + 2_592_000) => "long",
        (Some(_), _) => "date",
    }
}

/// Kills one backend after the other, and compares all items when each has returned.
#[test]
fn every_kind_comes_back_again_and_again() {
    let mut cluster = Cluster::start(1, 1, &[]);
    let items = super::store_dataset(&cluster.magent.endpoint, 1_000);
    let kinds: std::collections::BTreeSet<&str> = items
        .iter()
        .map(|(key, item)| kind_of(key, item.expires, item.value.len()))
        .collect();
    let all = [
        "binary key",
        "date",
        "empty",
        "for ever",
        "large",
        "long",
        "short",
    ];
    assert!(kinds.iter().eq(&all), "{kinds:?}");
    for _ in 0..3 {
        for pick in [primary, backup] {
            return_empty(&mut cluster, pick);
            cluster.assert_in_step(&items);
            no_lock_is_left(&cluster);
        }
    }
}

type Pick = fn(&mut Cluster) -> &mut Memcached;

fn primary(cluster: &mut Cluster) -> &mut Memcached {
    &mut cluster.primaries[0]
}

fn backup(cluster: &mut Cluster) -> &mut Memcached {
    &mut cluster.backups[0]
}

fn return_empty(cluster: &mut Cluster, pick: Pick) {
    let backend = pick(cluster);
    backend.kill9();
    let endpoint = backend.endpoint.clone();
    cluster.magent.wait_until_state(&endpoint, &["down"]);
    pick(cluster).restart();
    cluster.magent.wait_until_healed();
}

fn no_lock_is_left(cluster: &Cluster) {
    for backend in cluster.primaries.iter().chain(&cluster.backups) {
        assert_eq!(backend.value("magent.walk"), None, "{}", backend.endpoint);
    }
}

/// The words of an answer to `mg` whose flags these are.
fn answer(client: &mut Client, key: &[u8], flags: &str) -> Vec<String> {
    let line = client.ask_line(format!("mg {} {flags}\r\n", token(key)).as_bytes());
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn what_is_stale_comes_back_stale() {
    let mut cluster = Cluster::start(1, 1, &[]);
    let mut client = cluster.magent.client();
    for (pick, key) in [(primary as Pick, "stale-1"), (backup, "stale-2")] {
        client.ask(
            format!("ms {key} 5 T400 F7\r\nvalue\r\n").as_bytes(),
            b"HD\r\n",
        );
        client.ask(format!("md {key} I T300\r\n").as_bytes(), b"HD\r\n");
        return_empty(&mut cluster, pick);
        for backend in [primary, backup].map(|pick| pick(&mut cluster).client()) {
            let mut backend = backend;
            // Whoever comes first is to bring a new one, once.
            for win in ["W", "Z"] {
                let words = answer(&mut backend, key.as_bytes(), "s f t");
                let left_s: u64 = words[3].strip_prefix('t').unwrap().parse().unwrap();
                assert!((250..=300).contains(&left_s), "{words:?}");
                assert_eq!(words[..3], ["HD", "s5", "f7"], "{words:?}");
                let mut marks = words[4..].to_vec();
                marks.sort();
                let mut wanted = ["X".to_owned(), win.to_owned()];
                wanted.sort();
                assert_eq!(marks, wanted);
            }
        }
    }
}

#[test]
fn nothing_at_all_comes_back() {
    let mut cluster = Cluster::start(1, 1, &[]);
    for pick in [primary as Pick, backup] {
        return_empty(&mut cluster, pick);
        no_lock_is_left(&cluster);
    }
    cluster.assert_in_step(&Items::new());
}
