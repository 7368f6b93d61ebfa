//! Several listeners of different kinds, and load balancers that say for whom a connection is.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::harness::{
    Authority, Client, DEADLINE, Endpoint, Magent, Memcached, free_endpoint, run_magent,
    run_script, wait_until,
};

#[test]
fn side_by_side() {
    let (backend, authority) = (Memcached::start(), Authority::new());
    let dir = TempDir::new().unwrap();
    let (plain, tls) = (free_endpoint(), free_endpoint());
    let pair = authority.issue("magent.pem", &[&tls.tcp().ip().to_string()]);
    let [private, open] = ["private", "open"].map(|name| dir.path().join(name));
    let listen = format!(
        "tcp:{plain},tls:{tls},unix:{},unix:{},mode=0777",
        private.display(),
        open.display()
    );
    let magent = Magent::start(
        &[&backend.endpoint],
        &[],
        &["-l", &listen, "--tls-cert", &pair],
    );
    // TCP comes first, and is what the harness waits for.
    wait_until("it listens everywhere", || {
        Client::try_connect(&Endpoint::Unix(open.clone())).is_ok()
    });
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode(&private), mode(&open)], [0o700, 0o777]);
    let endpoints = [
        magent.endpoint.clone(),
        plain,
        Endpoint::Tls(tls.tcp(), authority.client()),
        Endpoint::Unix(private),
        Endpoint::Unix(open),
    ];
    for (n, endpoint) in endpoints.iter().enumerate() {
        Client::connect(endpoint).set(&format!("key-{n}"), b"value");
    }
    let keys: Vec<String> = (0..endpoints.len()).map(|n| format!("key-{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    for endpoint in &endpoints {
        let values = Client::connect(endpoint).get_many(&keys);
        assert_eq!(values.len(), keys.len(), "{endpoint}");
    }
}

#[test]
fn what_cannot_be_is_said() {
    let check = |args: &[&str], expected: &str| {
        let ended = run_magent(&[&["-s", "127.0.0.1:1"], args].concat());
        assert_ne!(ended.code, Some(0));
        assert!(
            ended.stderr.contains(expected),
            "{args:?}: {}",
            ended.stderr
        );
    };
    check(
        &["-l", "tls:127.0.0.1:1"],
        "needs a certificate: --tls-cert",
    );
    check(&["--tls-cert", "x"], "no listener speaks TLS");
    check(
        &["--backend-tls-ca", "x"],
        "no server is spoken to with TLS",
    );
    check(&["-b", "tls:127.0.0.1:1"], "given with tls: and without");
    let tls = ["-l", "tls:127.0.0.1:1", "--tls-cert"];
    check(
        &[&tls[..], &["/nowhere"]].concat(),
        "--tls-cert /nowhere: No such file",
    );
    let dir = TempDir::new().unwrap();
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    let empty = empty.to_str().unwrap();
    check(&[&tls[..], &[empty]].concat(), "no certificate in it");
    let authority = Authority::new();
    let [one, other] = ["one", "other"].map(|name| authority.issue(name, &["localhost"]));
    check(
        &[&tls[..], &[&one, "--tls-key", &other]].concat(),
        "is not the key of the first certificate in",
    );
    check(
        &[&tls[..], &[&one, "--tls-client-auth", "required"]].concat(),
        "whose certificates are good?",
    );
}

/// Its first bytes are `start`; what comes back until the end.
fn exchange(endpoint: &Endpoint, start: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(endpoint.tcp()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(start).unwrap();
    let mut answer = Vec::new();
    // Reset, if it was closed with bytes unread.
    stream.read_to_end(&mut answer).ok();
    answer
}

const HEADER: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x09\xc0\0\x02\x01\x30\x39\x2b\xcb";

#[test]
fn a_load_balancer_says_where_clients_come_from() {
    let backend = Memcached::start();
    let (behind, other) = (free_endpoint(), free_endpoint());
    let listen = format!("tcp:{behind},proxy-protocol,tcp:{other},proxy-protocol");
    let magent = Magent::start(
        &[&backend.endpoint],
        &[],
        &[
            "-l",
            &listen,
            "--proxy-protocol-from",
            "127.0.0.1,10.0.0.0/8",
        ],
    );
    let asked = [HEADER, b"set a 0 0 1\r\nA\r\nquit\r\n"].concat();
    assert_eq!(exchange(&behind, &asked), b"STORED\r\n");
    // Its address is the one that the log names.
    exchange(&behind, &[HEADER, b"\x16\x03\x01"].concat());
    magent.wait_for_log("client 192.0.2.9:12345: speaks TLS");
    // Without a header nothing is served, however good it looks.
    assert_eq!(exchange(&behind, b"get a\r\nquit\r\n"), b"");
    magent.wait_for_log("closed: no PROXY header, where one is expected");
    let mut cut = TcpStream::connect(other.tcp()).unwrap();
    cut.write_all(&HEADER[..20]).unwrap();
    cut.shutdown(std::net::Shutdown::Write).unwrap();
    magent.wait_for_log("closed before its PROXY header was complete");
    // Elsewhere a header is a bad request.
    let answer = exchange(&magent.endpoint, &[HEADER, b"\r\nquit\r\n"].concat());
    assert!(!answer.is_empty());

    let address = behind.tcp();
    let [ip, port] = [address.ip().to_string(), address.port().to_string()];
    run_script("python-proxy-protocol/basic.py", &[&ip, &port]);
    magent.wait_for_log("127.0.0.9:");
    magent.wait_for_log("--proxy-protocol-from names those that are");
    let refusals = magent.client().stats("magent")["proxy_refusals_total"].clone();
    assert_eq!(refusals, "4");
}

#[test]
fn tls_behind_a_load_balancer() {
    let (backend, authority) = (Memcached::start(), Authority::new());
    let tls = free_endpoint();
    let ip = tls.tcp().ip().to_string();
    let pair = authority.issue("magent.pem", &[&ip]);
    let listen = format!("tls:{tls},proxy-protocol");
    let args = [
        "-l",
        &listen,
        "--tls-cert",
        &pair,
        "--proxy-protocol-from",
        "127.0.0.1",
    ];
    let magent = Magent::start(&[&backend.endpoint], &[], &args);
    let port = tls.tcp().port().to_string();
    run_script(
        "python-proxy-protocol/basic.py",
        &[&ip, &port, &authority.path()],
    );
    assert_eq!(
        exchange(&tls, &[HEADER, b"get a\r\n"].concat()),
        b"CLIENT_ERROR this port expects TLS\r\n"
    );
    magent.wait_for_log("client 192.0.2.9:12345: speaks no TLS");
}
