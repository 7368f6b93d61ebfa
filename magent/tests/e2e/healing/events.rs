//! Who is told: a command of the operator's, and a webhook.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use super::super::harness::{Cluster, Load, free_endpoint, wait_until};
use super::ANSWERS;

#[test]
fn a_command_and_a_webhook_hear_of_down_returned_and_healed() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("events");
    let posts = Posts::listen();
    let command = format!(
        "printf '%s %s %s\\n' \"$MAGENT_EVENT\" \"$MAGENT_BACKEND\" \"$(cat)\" >> {}",
        file.display()
    );
    let mut cluster = Cluster::start(
        3,
        2,
        &["--on-event", &command, "--event-webhook", &posts.url],
    );
    let load = Load::start(&cluster.magent.endpoint, 2);
    let primary = cluster.primaries[0].endpoint.clone();
    cluster.primaries[0].kill9();
    cluster.magent.wait_until_state(&primary, &["down"]);
    load.wait_for_answers(ANSWERS / 2);
    cluster.primaries[0].restart();
    cluster.magent.wait_until_healed();
    load.finish().assert_perfect();
    let kinds = ["down", "returned", "healed"];
    wait_until("the command has heard of all", || {
        fs::read_to_string(&file).is_ok_and(|text| text.lines().count() >= kinds.len())
    });
    wait_until("the webhook has heard of all", || {
        posts.received().len() >= kinds.len()
    });
    let told = fs::read_to_string(&file).unwrap();
    for ((line, post), kind) in told.lines().zip(posts.received()).zip(kinds) {
        let [event, backend, json] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        assert_eq!((event, backend), (kind, primary.to_string().as_str()));
        let json: Value = serde_json::from_str(json).unwrap();
        for facts in [&json, &post] {
            assert_eq!(facts["event"], kind);
            assert_eq!(facts["backend"], primary.to_string());
            assert_eq!(facts["roles"], Value::from(vec!["primary"]));
            assert_eq!(facts["listen"], cluster.magent.endpoint.to_string());
        }
        if kind != "down" {
            assert!(post["downtime_ms"].as_u64().unwrap() > 0, "{post}");
        }
    }
}

#[test]
fn a_webhook_that_never_answers_holds_up_nobody() {
    // Accepted by the kernel, and then nothing.
    let listener = TcpListener::bind(free_endpoint().tcp()).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut cluster = Cluster::start(3, 2, &["--event-webhook", &url, "--on-event", "sleep 1000"]);
    let load = Load::start(&cluster.magent.endpoint, 2);
    let primary = cluster.primaries[0].endpoint.clone();
    for _ in 0..3 {
        cluster.primaries[0].kill9();
        cluster.magent.wait_until_state(&primary, &["down"]);
        cluster.primaries[0].restart();
        cluster.magent.wait_until_healed();
    }
    load.finish().assert_perfect();
}

/// A small HTTP server that keeps what is posted to it.
struct Posts {
    url: String,
    received: Arc<Mutex<Vec<Value>>>,
}

impl Posts {
    fn listen() -> Self {
        let listener = TcpListener::bind(free_endpoint().tcp()).unwrap();
        let url = format!("http://{}/hooks/magent", listener.local_addr().unwrap());
        let received = Arc::new(Mutex::new(Vec::new()));
        let this = Self {
            url,
            received: Arc::clone(&received),
        };
        // Ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                while let Some(post) = read_post(&mut stream) {
                    received.lock().unwrap().push(post);
                    let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
                    stream.get_mut().write_all(answer).unwrap();
                }
            }
        });
        this
    }

    fn received(&self) -> Vec<Value> {
        self.received.lock().unwrap().clone()
    }
}

/// `None` at the connection's end.
fn read_post(stream: &mut impl BufRead) -> Option<Value> {
    let mut len = 0;
    let mut first = String::new();
    stream.read_line(&mut first).unwrap();
    if first.is_empty() {
        return None;
    }
    assert!(first.starts_with("POST /hooks/magent HTTP/1.1"), "{first}");
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).unwrap();
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            len = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).unwrap();
    Some(serde_json::from_slice(&body).unwrap())
}
