//! Client libraries and tools that others wrote, each through the proxy. One folder per client; its
//! script takes host and port, and exits 0 if all was well.

use std::process::{Command, Stdio};

use super::harness::{Cluster, Magent, run_script};

#[track_caller]
fn check_script(script: &str, more: &[&str]) {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let [host, port] = host_and_port(&cluster.magent);
    run_script(script, &[&[host.as_str(), &port], more].concat());
}

fn host_and_port(magent: &Magent) -> [String; 2] {
    let address = magent.endpoint.tcp();
    [address.ip().to_string(), address.port().to_string()]
}

#[test]
fn php_memcache() {
    check_script("php-memcache/basic.php", &[]);
}

#[test]
fn php_memcached() {
    for protocol in ["text", "binary"] {
        check_script("php-memcached/basic.php", &[protocol]);
    }
}

/// The article's own wish: sessions with nothing in php.ini but save_handler and save_path.
#[test]
fn php_sessions_of_php_memcached_with_default_settings() {
    check_script("php-sessions/default.php", &[]);
}

#[test]
fn php_sessions_of_php_memcached_outlive_each_backend() {
    for victim in 0..5 {
        let mut cluster = Cluster::start_patient(3, 2, &[]);
        let [host, port] = host_and_port(&cluster.magent);
        let view = |count: &str| {
            run_script(
                "php-sessions/default.php",
                &[&host, &port, "count", "session", count],
            );
        };
        view("0");
        let Cluster {
            primaries, backups, ..
        } = &mut cluster;
        let mut backends = primaries.iter_mut().chain(backups);
        backends.nth(victim).unwrap().kill9();
        view("1");
    }
}

#[test]
fn pymemcache() {
    check_script("python-pymemcache/basic.py", &[]);
}

#[test]
fn pylibmc() {
    for protocol in ["text", "binary"] {
        check_script("python-pylibmc/basic.py", &[protocol]);
    }
}

#[test]
fn libmemcacheds_conformance_test_passes_in_full() {
    // As many as memccapable 1.1.4 has: fewer would mean that it stopped half-way.
    for (option, prefix, test_count) in [("-a", "ascii ", 27), ("-b", "binary ", 27)] {
        for (primaries, backups) in [(1, 0), (3, 2)] {
            let cluster = Cluster::start_patient(primaries, backups, &[]);
            check_memccapable(&cluster.magent, option, prefix, test_count);
        }
    }
}

#[track_caller]
fn check_memccapable(magent: &Magent, option: &str, prefix: &str, test_count: usize) {
    let [host, port] = host_and_port(magent);
    let output = Command::new("memccapable")
        .args([option, "-h", &host, "-p", &port])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let (passed, failed): (Vec<&str>, Vec<&str>) = said
        .lines()
        .filter(|line| line.starts_with(prefix))
        .partition(|line| line.ends_with("[pass]"));
    assert!(
        output.status.success() && failed.is_empty(),
        "{option}\n{said}"
    );
    assert!(passed.len() >= test_count, "{} tests\n{said}", passed.len());
}
