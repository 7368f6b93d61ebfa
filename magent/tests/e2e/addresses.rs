//! Backends and listeners at every kind of address.

use tempfile::TempDir;

use super::harness::{
    Client, Endpoint, Magent, Memcached, free_endpoint_localhost, free_endpoint_v6, wait_until,
};

#[track_caller]
fn check_serves(magent: &Magent, backend: &Memcached) {
    let mut client = magent.client();
    client.set("key", b"value");
    assert_eq!(client.get("key"), Some(b"value".to_vec()));
    assert_eq!(backend.value("key"), Some(b"value".to_vec()));
}

#[test]
fn a_unix_socket_as_backend() {
    let dir = TempDir::new().unwrap();
    let backend = Memcached::start_unix(dir.path().join("memcached.sock"));
    let magent = Magent::start(&[&backend.endpoint], &[], &[]);
    check_serves(&magent, &backend);
}

#[test]
fn a_unix_socket_for_clients() {
    let dir = TempDir::new().unwrap();
    let backend = Memcached::start();
    let endpoint = Endpoint::Unix(dir.path().join("magent.sock"));
    let magent = Magent::start_at(endpoint, &["-s".into(), backend.endpoint.to_string()]);
    check_serves(&magent, &backend);
}

#[test]
fn a_unix_socket_beside_tcp() {
    let dir = TempDir::new().unwrap();
    let backend = Memcached::start();
    let path = dir.path().join("magent.sock");
    let magent = Magent::start(&[&backend.endpoint], &[], &["-f", path.to_str().unwrap()]);
    check_serves(&magent, &backend);
    assert_eq!(
        Client::connect(&Endpoint::Unix(path)).get("key"),
        Some(b"value".to_vec())
    );
}

#[test]
fn ipv6_on_both_sides() {
    let backend = Memcached::start_at(free_endpoint_v6(), &[]);
    let magent = Magent::start_at(
        free_endpoint_v6(),
        &["-s".into(), backend.endpoint.to_string()],
    );
    check_serves(&magent, &backend);
}

#[test]
fn a_name_is_resolved_and_resolved_again() {
    let mut backend = Memcached::start_at(free_endpoint_localhost(), &[]);
    let port = backend.endpoint.tcp().port();
    let magent = Magent::start_at(
        super::harness::free_endpoint(),
        &[
            "-s".into(),
            format!("localhost:{port}"),
            "--probe-ms-max".into(),
            "100".into(),
        ],
    );
    check_serves(&magent, &backend);
    backend.kill9();
    let mut client = magent.client();
    wait_until("it is noticed", || {
        client.try_store("set", "key", b"x").is_err()
    });
    backend.restart();
    wait_until("it is reached again", || {
        client.try_store("set", "key", b"x").is_ok()
    });
    assert_eq!(backend.value("key"), Some(b"x".to_vec()));
}

#[test]
fn a_name_that_does_not_resolve_is_a_backend_that_is_down() {
    let backend = Memcached::start();
    let magent = Magent::start_at(
        super::harness::free_endpoint(),
        &[
            "-s",
            "no-such-host.invalid:11211",
            "-b",
            &backend.endpoint.to_string(),
        ]
        .map(str::to_owned),
    );
    check_serves(&magent, &backend);
}

#[test]
fn names_and_weights_of_servers_are_understood() {
    let backend = Memcached::start();
    let server = format!("cache-1={}*2", backend.endpoint);
    let magent = Magent::start_at(super::harness::free_endpoint(), &["-s".into(), server]);
    check_serves(&magent, &backend);
}
