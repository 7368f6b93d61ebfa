//! Clients with auto discovery are told the list of proxies.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod packets;
mod rig;

use magent_core::config::{Advertised, AdvertisedProxy, ProcessInfo};
use packets::{bare, noop, shown, store};
use rig::Rig;

fn proxy(host: &str, ip: &str, port: u16) -> AdvertisedProxy {
    AdvertisedProxy {
        host: host.to_owned(),
        ip: ip.to_owned(),
        port,
    }
}

fn advertised(version: Option<u64>) -> Advertised {
    Advertised {
        proxies: vec![
            proxy("cache-1.example.com", "192.0.2.1", 11_211),
            proxy("192.0.2.2", "192.0.2.2", 12_000),
        ],
        version,
    }
}

const LIST: &str = "7\ncache-1.example.com|192.0.2.1|11211 192.0.2.2|192.0.2.2|12000\n";

/// A proxy with one backend, which must hear of nothing, and a list or none.
fn rig(advertised: Option<Advertised>) -> Rig {
    Rig::with_config(1, 0, |config| {
        config.advertised = advertised;
        config.process = ProcessInfo {
            pid: 1,
            unix_start_s: 1_700_000_000,
        };
    })
}

#[track_caller]
fn check(requests: &str, expected: &str) {
    let mut rig = rig(Some(advertised(Some(7))));
    let client = rig.client();
    rig.send(client, requests.as_bytes());
    assert_eq!(rig.got(client), expected, "{requests}");
    assert_eq!(rig.sent(0), "", "{requests}");
}

#[test]
fn the_list_is_told() {
    let len = LIST.len();
    check(
        "config get cluster\r\n",
        &format!("CONFIG cluster 0 {len}\r\n{LIST}\r\nEND\r\n"),
    );
    // pymemcache and others end lines so.
    check(
        "config get cluster\n",
        &format!("CONFIG cluster 0 {len}\r\n{LIST}\r\nEND\r\n"),
    );
    check(
        "get AmazonElastiCache:cluster\r\n",
        &format!("VALUE AmazonElastiCache:cluster 0 {len}\r\n{LIST}\r\nEND\r\n"),
    );
    check(
        "gets AmazonElastiCache:cluster\r\n",
        &format!("VALUE AmazonElastiCache:cluster 0 {len} 1\r\n{LIST}\r\nEND\r\n"),
    );
}

#[test]
fn only_that_can_be_asked_for() {
    check("config get other\r\n", "END\r\n");
    for request in [
        "config\r\n",
        "config get\r\n",
        "config get cluster more\r\n",
        "config list\r\n",
        "config delete cluster\r\n",
        "CONFIG get cluster\r\n",
    ] {
        check(request, "ERROR\r\n");
    }
    check("config set cluster 0 2\r\nmn\r\n", "ERROR\r\nMN\r\n");
    let long_key = "k".repeat(251);
    check(&format!("config get {long_key}\r\n"), "ERROR\r\n");
}

#[test]
fn among_others() {
    let mut rig = rig(Some(advertised(Some(7))));
    rig.use_nodes();
    let client = rig.client();
    rig.send(
        client,
        b"set k 0 0 1\r\nv\r\nget k AmazonElastiCache:cluster nothing\r\nmn\r\n",
    );
    let len = LIST.len();
    assert_eq!(
        rig.got(client),
        format!(
            "STORED\r\nVALUE k 0 1\r\nv\r\nVALUE AmazonElastiCache:cluster 0 {len}\r\n{LIST}\r\nEND\r\nMN\r\n"
        )
    );
}

#[test]
fn in_binary() {
    let mut rig = rig(Some(advertised(Some(7))));
    let client = rig.client();
    let key = "AmazonElastiCache:cluster";
    let asks = [
        bare(0x60, "cluster", ""),
        bare(0x60, "other", ""),
        bare(0x00, key, ""),
        bare(0x0d, key, ""),
        noop(),
    ];
    for ask in asks {
        rig.send(client, &ask.bytes());
    }
    assert_eq!(rig.sent(0), "");
    let list = LIST.replace('\n', "\\n");
    assert_eq!(
        shown(&rig.got_bytes(client)),
        [
            format!("60:0 f=00000000 v={list}"),
            "60:1 v=Not found".to_owned(),
            format!("00:0 f=00000000 v={list} c"),
            format!("0d:0 f=00000000 k={key} v={list} c"),
            "0a:0".to_owned(),
        ]
    );
}

#[test]
fn without_a_list_memcached_is_not_asked_either() {
    let mut rig = rig(None);
    rig.use_nodes();
    let client = rig.client();
    rig.send(
        client,
        b"config get cluster\r\nget AmazonElastiCache:cluster\r\n\
          set AmazonElastiCache:cluster 0 0 1\r\nv\r\nget AmazonElastiCache:cluster\r\n",
    );
    assert_eq!(
        rig.got(client),
        "ERROR\r\nEND\r\nSTORED\r\nVALUE AmazonElastiCache:cluster 0 1\r\nv\r\nEND\r\n"
    );
    let client = rig.client();
    rig.send(client, &bare(0x60, "cluster", "").bytes());
    rig.send(client, &store(0x01, "k", "v").bytes());
    let answers = shown(&rig.got_bytes(client));
    assert_eq!(answers[0], "60:81 v=Unknown command");
    assert_eq!(answers.len(), 2, "the connection goes on");
}

#[test]
fn a_list_without_a_number_has_the_time_of_the_start() {
    let mut rig = rig(Some(advertised(None)));
    let client = rig.client();
    rig.send(client, b"config get cluster\r\n");
    let answer = rig.got(client);
    assert_eq!(answer.lines().nth(1), Some("1700000000"), "{answer}");
}
