//! Backends that speak TLS: real memcacheds with `-Z`.

use super::harness::{
    Authority, Client, Cluster, Endpoint, Load, Magent, Memcached, QUICK_PROBES, endpoints,
    index_of, loopback, wait_until,
};

/// Options of a memcached with this certificate.
fn options(pair: &str) -> [String; 2] {
    let option = format!("ssl_chain_cert={pair},ssl_key={pair}");
    ["-o".to_owned(), option]
}

fn start(pair: &str) -> Memcached {
    Memcached::start_tls(&options(pair).each_ref().map(String::as_str))
}

/// Where all backends listen.
fn ip() -> String {
    loopback(0).to_string()
}

fn magent(backend: &Memcached, extra: &[&str]) -> Magent {
    let args = [&QUICK_PROBES[..], &["--backend-tls"], extra].concat();
    Magent::start(&[&backend.endpoint], &[], &args)
}

#[track_caller]
fn check_serves(magent: &Magent, backend: &Memcached) {
    magent.wait_until_healed();
    let mut client = magent.client();
    client.set("key", b"value");
    assert_eq!(client.get("key"), Some(b"value".to_vec()));
    assert_eq!(backend.value("key"), Some(b"value".to_vec()));
}

/// It is down with this reason, and one line of the log says what to do.
#[track_caller]
fn check_down(magent: &Magent, backend: &Memcached, reason: &str, remedy: &str) {
    magent.wait_until_state(&backend.endpoint, &["down"]);
    let line = format!("backend {}: down: {reason}", backend.endpoint);
    magent.wait_for_log(&line);
    let line = format!("backend {}: {reason}: ", backend.endpoint);
    assert!(
        magent.wait_for_log(&line).contains(remedy),
        "{}",
        magent.log()
    );
    // Probes go on, lines do not.
    let probed = |log: &str| log.matches(&line).count();
    let mut client = magent.client();
    wait_until("clients hear of it", || {
        client.try_store("set", "key", b"x").is_err()
    });
    assert_eq!(probed(&magent.log()), 1, "{}", magent.log());
}

#[test]
fn values_of_all_sizes() {
    let authority = Authority::new();
    let backend = start(&authority.issue("m.pem", &[&ip()]));
    let magent = magent(&backend, &["--backend-tls-ca", &authority.path()]);
    check_serves(&magent, &backend);
    let mut client = magent.client();
    for len in [0, 1, 16_383, 16_384, 16_385, 100_000, 1_000_000] {
        let value: Vec<u8> = (0..len).map(|n: u32| n.to_be_bytes()[3]).collect();
        client.set("key", &value);
        assert_eq!(client.get("key").as_deref(), Some(&value[..]), "{len}");
    }
    let value = vec![b'v'; 1_000_000];
    client.set("key", &value);
    client.send(&b"get key\r\n".repeat(20));
    for _ in 0..20 {
        assert_eq!(client.line(), b"VALUE key 0 1000000");
        assert_eq!(client.line(), value);
        assert_eq!(client.line(), b"END");
    }
}

#[test]
fn killed_under_load_and_healed() {
    let authority = Authority::new();
    let pair = authority.issue("m.pem", &[&ip()]);
    let primaries: Vec<Memcached> = (0..2).map(|_| start(&pair)).collect();
    let backups: Vec<Memcached> = (0..2).map(|_| start(&pair)).collect();
    let ca = authority.path();
    let args = [
        &QUICK_PROBES[..],
        &["--backend-tls", "--backend-tls-ca", &ca],
    ]
    .concat();
    let magent = Magent::start(&endpoints(&primaries), &endpoints(&backups), &args);
    let mut cluster = Cluster {
        magent,
        primaries,
        backups,
    };
    cluster.magent.wait_until_healed();
    let load = Load::start(&cluster.magent.endpoint, 4);
    cluster.primaries[0].kill9();
    load.wait_for_answers(1_000);
    cluster.primaries[0].restart();
    cluster.magent.wait_until_healed();
    load.wait_for_answers(1_000);
    let report = load.finish();
    report.assert_right();
    cluster.magent.wait_until_healed();
    cluster.assert_in_step(&report.expected);
}

#[test]
fn an_expired_certificate_and_a_new_one() {
    let authority = Authority::new();
    let pair = authority.issue_expired("m.pem", &[&ip()]);
    let mut backend = start(&pair);
    let magent = magent(&backend, &["--backend-tls-ca", &authority.path()]);
    check_down(&magent, &backend, "its certificate has expired", "renew it");
    backend.kill9();
    authority.issue("m.pem", &[&ip()]);
    backend.restart();
    check_serves(&magent, &backend);
}

#[test]
fn a_certificate_that_is_not_trusted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let backend = start(&authority.issue("m.pem", &[&ip()]));
    let ca = other.path();
    let magent = magent(&backend, &["--backend-tls-ca", &ca]);
    check_down(
        &magent,
        &backend,
        "its certificate is not trusted",
        &format!("--backend-tls-ca {ca} has no authority"),
    );
    // The right authorities are taken without a restart.
    std::fs::copy(authority.path(), &ca).unwrap();
    magent.hang_up();
    check_serves(&magent, &backend);
}

#[test]
fn a_certificate_for_another_name() {
    let authority = Authority::new();
    let backend = start(&authority.issue("m.pem", &["memcached.example"]));
    let ca = authority.path();
    {
        let magent = magent(&backend, &["--backend-tls-ca", &ca]);
        check_down(
            &magent,
            &backend,
            "its certificate is for another name",
            "--backend-tls-name",
        );
    }
    let name = ["--backend-tls-name", "memcached.example"];
    let magent = magent(&backend, &[&["--backend-tls-ca", &ca], &name[..]].concat());
    check_serves(&magent, &backend);
}

#[test]
fn verification_is_only_off_if_asked_for() {
    let backend = start(&Authority::new().issue_expired("m.pem", &["nobody"]));
    let magent = magent(&backend, &["--backend-tls-verify", "off"]);
    magent.wait_for_log("WARN --backend-tls-verify off: whoever is in between");
    check_serves(&magent, &backend);
}

#[test]
fn a_backend_without_tls() {
    let backend = Memcached::start();
    let authority = Authority::new();
    let magent = magent(
        &backend,
        &["--backend-tls-ca", &authority.path(), "--fail-ms", "100"],
    );
    magent.wait_until_state(&backend.endpoint, &["down"]);
    // It waits for the end of a line, which may be among the handshake's bytes.
    wait_until("the log says so", || {
        let log = magent.log();
        log.contains("it does not speak TLS: start it with TLS (memcached -Z)")
            || log.contains("no answer to the TLS handshake: it accepts connections; does it")
    });
}

#[test]
fn a_backend_that_wants_a_certificate() {
    let authority = Authority::new();
    let (ca, pair) = (authority.path(), authority.issue("m.pem", &[&ip()]));
    let option = format!("ssl_chain_cert={pair},ssl_key={pair},ssl_ca_cert={ca},ssl_verify_mode=2");
    let backend = Memcached::start_tls(&["-o", &option]);
    {
        let magent = magent(&backend, &["--backend-tls-ca", &ca]);
        check_down(
            &magent,
            &backend,
            "it wants a client certificate",
            "--backend-tls-cert",
        );
    }
    let own = authority.issue("magent.pem", &["magent"]);
    let args = ["--backend-tls-ca", &ca, "--backend-tls-cert", &own];
    check_serves(&magent(&backend, &args), &backend);
}

/// As on the way from one to the other, server by server.
#[test]
fn some_with_and_some_without() {
    let authority = Authority::new();
    let pair = authority.issue("m.pem", &[&ip()]);
    let (plain, tls) = (Memcached::start(), start(&pair));
    let servers = [plain.endpoint.to_string(), format!("tls:{}", tls.endpoint)];
    let ca = authority.path();
    let none: [String; 0] = [];
    let magent = Magent::start_named(&servers, &none, &["--backend-tls-ca", &ca]);
    magent.wait_until_healed();
    let mut client = magent.client();
    for n in 0..20 {
        let key = format!("key-{n}");
        client.set(&key, b"value");
        let backend = [&plain, &tls][index_of(&key, 2)];
        assert_eq!(backend.value(&key), Some(b"value".to_vec()), "{key}");
    }
}

/// TLS from one end to the other.
#[test]
fn on_both_sides() {
    let authority = Authority::new();
    let pair = authority.issue("m.pem", &[&ip()]);
    let backend = start(&pair);
    let listen = super::harness::free_endpoint();
    let tls = format!("tls:{listen}");
    let magent = magent(
        &backend,
        &[
            "--backend-tls-ca",
            &authority.path(),
            "-l",
            &tls,
            "--tls-cert",
            &pair,
        ],
    );
    magent.wait_until_healed();
    let mut client = Client::connect(&Endpoint::Tls(listen.tcp(), authority.client()));
    let value = vec![b'v'; 900_000];
    for _ in 0..10 {
        client.set("key", &value);
        assert_eq!(client.get("key").as_ref(), Some(&value));
    }
}
