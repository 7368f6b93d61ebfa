//! Client libraries and tools that others wrote, each through the proxy. One folder per client; its
//! script takes host and port, and exits 0 if all was well.

use std::process::{Command, Stdio};

use super::harness::{Cluster, Magent, run_script};

#[track_caller]
fn check_script(script: &str) {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let [host, port] = host_and_port(&cluster.magent);
    run_script(script, &[&host, &port]);
}

fn host_and_port(magent: &Magent) -> [String; 2] {
    let address = magent.endpoint.tcp();
    [address.ip().to_string(), address.port().to_string()]
}

#[test]
fn php_memcache() {
    check_script("php-memcache/basic.php");
}

#[test]
fn php_memcached_in_text_mode() {
    check_script("php-memcached/basic.php");
}

#[test]
fn pymemcache() {
    check_script("python-pymemcache/basic.py");
}

#[test]
fn pylibmc_in_text_mode() {
    check_script("python-pylibmc/basic.py");
}

#[test]
fn libmemcacheds_conformance_test_passes_in_full() {
    for (primaries, backups) in [(1, 0), (3, 2)] {
        let cluster = Cluster::start_patient(primaries, backups, &[]);
        let [host, port] = host_and_port(&cluster.magent);
        let output = Command::new("memccapable")
            .args(["-a", "-h", &host, "-p", &port])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let (passed, failed): (Vec<&str>, Vec<&str>) = said
            .lines()
            .filter(|line| line.starts_with("ascii "))
            .partition(|line| line.ends_with("[pass]"));
        assert!(
            output.status.success() && failed.is_empty(),
            "{primaries}+{backups}\n{said}"
        );
        // As many as memccapable 1.1.4 has: fewer would mean that it stopped half-way.
        assert!(
            passed.len() >= ASCII_TESTS,
            "{} tests\n{said}",
            passed.len()
        );
    }
}

const ASCII_TESTS: usize = 27;
