//! Lists in which a key's two backends could be one, or on one host.

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};

use super::super::harness::{
    Items, Load, Magent, Memcached, QUICK_PROBES, free_endpoint_on, store_dataset,
};
use super::{ANSWERS, CLIENTS, ITEMS};

/// Fails unless every item is on exactly two of these, alike.
#[track_caller]
fn assert_two_copies(backends: &[&Memcached], expected: &Items) {
    let held: Vec<Items> = backends.iter().map(|backend| backend.items()).collect();
    for (key, item) in expected {
        let copies: Vec<_> = held.iter().filter_map(|items| items.get(key)).collect();
        let [one, other] = copies[..] else {
            panic!("{} copies of {}", copies.len(), key.escape_ascii());
        };
        for copy in [one, other] {
            assert_eq!(
                (&copy.value, copy.client_flags),
                (&item.value, item.client_flags),
                "{}",
                key.escape_ascii()
            );
        }
    }
}

/// Kills and heals one backend after the other under load.
#[track_caller]
fn check(
    backends: &mut [Memcached],
    names: &[String],
    primaries: &[usize],
    backups: &[usize],
) -> Items {
    let magent = Magent::start_named(
        &pick(names, primaries),
        &pick(names, backups),
        &QUICK_PROBES,
    );
    let mut items = store_dataset(&magent.endpoint, ITEMS);
    let load = Load::start(&magent.endpoint, CLIENTS);
    for index in 0..backends.len() {
        backends[index].kill9();
        magent.wait_until_state(&names[index], &["down"]);
        load.wait_for_answers(ANSWERS);
        backends[index].restart();
        magent.wait_until_healed();
    }
    let mut report = load.finish();
    report.assert_perfect();
    items.append(&mut report.expected);
    magent.wait_until_healed();
    assert_two_copies(&backends.iter().collect::<Vec<_>>(), &items);
    items
}

fn pick<'a>(names: &'a [String], indexes: &[usize]) -> Vec<&'a str> {
    indexes.iter().map(|&index| names[index].as_str()).collect()
}

#[test]
fn an_address_is_primary_and_backup_at_once() {
    // As in the article: three primaries, two of which are backups too.
    let mut backends: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let names: Vec<String> = backends
        .iter()
        .map(|backend| backend.endpoint.to_string())
        .collect();
    check(&mut backends, &names, &[0, 1, 2], &[1, 2]);
}

/// Two addresses on a host that counts as one: this machine by its own name. Loopback never counts.
fn on_this_host() -> Option<[(Memcached, String); 2]> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let host = host.trim();
    let mut addresses = (host, 0).to_socket_addrs().ok()?;
    let ip = addresses.next().filter(SocketAddr::is_ipv4)?.ip();
    if host.eq_ignore_ascii_case("localhost") || std::net::TcpListener::bind((ip, 0)).is_err() {
        return None;
    }
    Some([(); 2].map(|()| {
        let endpoint = free_endpoint_on(ip);
        let name = format!("{host}:{}", endpoint.tcp().port());
        (Memcached::start_at(endpoint, &[]), name)
    }))
}

#[test]
fn a_host_with_a_primary_and_a_backup_is_lost_as_a_whole() {
    let Some([(one, one_name), (other, other_name)]) = on_this_host() else {
        println!("not tried: this machine's name does not lead to itself");
        return;
    };
    let mut backends = vec![one, other];
    let mut names = vec![one_name, other_name];
    for _ in 0..2 {
        let backend = Memcached::start();
        names.push(backend.endpoint.to_string());
        backends.push(backend);
    }
    let (primaries, backups) = ([0, 2], [1, 3]);
    let magent = Magent::start_named(
        &pick(&names, &primaries),
        &pick(&names, &backups),
        &QUICK_PROBES,
    );
    let mut items = store_dataset(&magent.endpoint, ITEMS);
    let load = Load::start(&magent.endpoint, CLIENTS);
    // The whole host: a primary, and a backup of the other primary's keys.
    for backend in &mut backends[..2] {
        backend.kill9();
    }
    for name in &names[..2] {
        magent.wait_until_state(name, &["down"]);
    }
    load.wait_for_answers(ANSWERS);
    for backend in &mut backends[..2] {
        backend.restart();
    }
    magent.wait_until_healed();
    let mut report = load.finish();
    report.assert_perfect();
    items.append(&mut report.expected);
    magent.wait_until_healed();
    assert_two_copies(&backends.iter().collect::<Vec<_>>(), &items);
}
