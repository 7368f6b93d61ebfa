//! The program as a user runs it, against real memcacheds, for a moment.
#![allow(clippy::unwrap_used, reason = "a test's helper may panic")]

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn bench(words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(words.split(' '))
        .output()
        .unwrap()
}

#[test]
fn every_workload_runs_on_plain_memcacheds() {
    let dir = tempfile::tempdir().unwrap();
    let csv = dir.path().join("runs.csv");
    let short = "--runs 1 --seconds 0.1 --warm-up 0 --no-pin --rate 2000 --connections 6";
    let output = bench(&format!(
        "compare --peers direct {short} --csv {}",
        csv.display()
    ));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        table.contains("get-large: ") && table.contains("direct "),
        "{table}"
    );
    let lines = std::fs::read_to_string(csv).unwrap();
    assert_eq!(
        lines.lines().count(),
        1 + 15,
        "a line per workload\n{lines}"
    );
}

#[test]
fn closed_loop_keeps_memcacheds_busy() {
    let short = "--runs 1 --seconds 0.1 --warm-up 0 --no-pin --workload mixed get-pipelined";
    let output = bench(&format!("compare --peers direct {short}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}

#[test]
fn small_clients_are_measured_beside_every_intruder() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("runs.json");
    let short = "--runs 1 --seconds 0.1 --warm-up 0.05 --no-pin --rate 500";
    let output = bench(&format!(
        "fairness --peers direct {short} --json {}",
        json.display()
    ));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    for name in ["nobody: ", "large-4: ", "slow-writer: ", "writer: "] {
        assert!(table.contains(name), "{name}\n{table}");
    }
    let runs = std::fs::read_to_string(json).unwrap();
    assert_eq!(runs.matches("\"intruder\"").count(), 8, "{runs}");
}

#[test]
fn an_overload_ends_and_is_told() {
    let short = "--runs 1 --seconds 0.1 --warm-up 0.05 --no-pin --connections 8 --depth 16";
    let output = bench(&format!("overload --peers direct {short}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        table.contains("goodput/s") && table.contains("direct "),
        "{table}"
    );
}

#[test]
fn what_is_missing_is_said() {
    for (words, hint) in [
        (
            "compare --peers magent --magent /no/such/magent",
            "cargo build --release -p magent",
        ),
        (
            "compare --peers nutcracker --nutcracker /no/such",
            "apt-get install nutcracker",
        ),
        (
            "compare --peers direct --memcached /no/such",
            "apt-get install memcached",
        ),
        ("load --target 127.0.0.1:1 --workload rate", "--rate"),
        ("load --target 127.0.0.1:1", "127.0.0.1:1"),
    ] {
        let output = bench(words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words}: {stderr}");
        assert!(stderr.contains(hint), "{words}: {stderr}");
    }
}

/// A server that answers every line with `answer`, or hangs up if that is empty.
fn false_server(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while let Some(Ok(_)) = lines.next() {
                    if answer.is_empty() || stream.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn bad_answers_fail_the_run() {
    let cases: [(&[u8], &str); 5] = [
        (b"STORED\r\n", "wrong answer"),
        (b"VALUE other 0 1\r\nx\r\nEND\r\n", "an unknown key"),
        (b"END\r\n", "are missing"),
        (b"SERVER_ERROR out of luck\r\n", "SERVER_ERROR out of luck"),
        (b"", "closed by the peer"),
    ];
    for (answer, hint) in cases {
        let target = false_server(answer);
        let words = "--no-preload --seconds 0.05 --warm-up 0 --connections 2";
        let output = bench(&format!("load --target {target} {words}"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{hint}: {stderr}");
        assert!(stderr.contains(hint), "{hint}: {stderr}");
    }
}

#[test]
fn keys_must_be_stored_first() {
    let target = false_server(b"SERVER_ERROR out of memory\r\n");
    let output = bench(&format!("load --target {target} --seconds 0.05"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && stderr.contains("out of memory"),
        "{stderr}"
    );
}

/// A stand-in for magent: one memcached on the port that magent was to listen on, which knows all
/// that clients ask for. Its cost is no figure, but a number. The file `calls` says how it was called.
fn stand_in(dir: &Path) -> PathBuf {
    let path = dir.join("stand-in");
    let script = "#!/bin/sh\n\
        [ \"$1\" = -V ] && exec memcached -V\n\
        echo \"$@\" >> \"${0%/*}/calls\"\n\
        while [ $# -gt 0 ]; do [ \"$1\" = -p ] && port=$2; shift; done\n\
        exec memcached -u root -l 127.0.0.1 -U 0 -t 1 -p \"$port\"\n";
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn table_of_goals_is_printed_written_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let short = "--runs 1 --seconds 0.1 --warm-up 0 --no-pin --idle 20";
    let output = bench(&format!(
        "table --workload get,rate,idle,set {short} --magent {} --markdown {} --svg {} --json {}",
        stand_in(dir.path()).display(),
        file("table.md").display(),
        file("table.svg").display(),
        file("table.json").display()
    ));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let table = String::from_utf8_lossy(&output.stdout);
    let line_of = |words: &[&str]| {
        let mut lines = table.lines();
        let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
        let line = lines.find(has_all);
        line.unwrap_or_else(|| panic!("no line with {words:?} in\n{table}"))
    };
    for words in [
        &["get", "CPU µs", "≤ 0.65"],
        &["rate", "p99 µs", "≤ 1.00"],
        &["idle", "KiB each, used", "magent ≤ 2"],
        &["set", "CPU µs", "≤ 1.90"],
        &["idle: 20 connections", "", ""],
    ] {
        assert!(!line_of(words).contains("not measured"), "{table}");
    }
    let read = |name| std::fs::read_to_string(file(name)).unwrap();
    assert!(read("table.md").contains("| get of 100 B"));
    assert!(read("table.svg").contains("<rect") && !read("table.svg").contains("NaN"));
    let servers = |call: &str| (call.matches("-s ").count(), call.matches("-b ").count());
    let calls = read("calls");
    assert!(calls.lines().any(|call| servers(call) == (3, 0)), "{calls}");
    assert!(calls.lines().any(|call| servers(call) == (3, 2)), "{calls}");
    let rows = read("table.json").matches("\"verdict\"").count();
    assert_eq!(rows, 8, "a row for each goal of these workloads");
}

#[test]
fn growth_is_measured_at_each_point() {
    let dir = tempfile::tempdir().unwrap();
    let svg = dir.path().join("growth.svg");
    let short = "--runs 1 --seconds 0.1 --warm-up 0 --no-pin --up-to 10";
    let output = bench(&format!(
        "growth {short} --magent {} --svg {}",
        stand_in(dir.path()).display(),
        svg.display()
    ));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let table = String::from_utf8_lossy(&output.stdout);
    for heading in [
        "backends: get of 100 B",
        "backends: get of 50 keys",
        "connections: get",
        "value: get",
        "workers: get",
    ] {
        assert!(table.contains(heading), "no {heading} in\n{table}");
    }
    let points = table.lines().filter(|line| line.starts_with("nutcracker "));
    assert_eq!(points.count(), 2 + 2 + 1 + 1 + 1, "{table}");
    let drawing = std::fs::read_to_string(svg).unwrap();
    assert!(drawing.contains("CPU µs per key") && !drawing.contains("NaN"));
}
