//! The program as a user runs it, against real memcacheds, for a moment.
#![allow(clippy::unwrap_used, reason = "a test's helper may panic")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
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
        1 + 14,
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
