//! Clients that speak TLS, and those that should and do not.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};

use super::harness::{
    Authority, Client, Endpoint, Load, Magent, Memcached, TlsClient, free_endpoint, run_script,
    wait_until,
};

/// A proxy with a plain port and one for TLS, in front of one memcached.
struct Site {
    magent: Magent,
    /// The port for TLS.
    tls: Endpoint,
    authority: Authority,
    /// Of the proxy.
    pair: String,
    _backend: Memcached,
}

impl Site {
    fn start(extra: &[&str]) -> Self {
        Self::start_with(Authority::new(), extra)
    }

    fn start_with(authority: Authority, extra: &[&str]) -> Self {
        let (backend, tls) = (Memcached::start(), free_endpoint());
        let ip = tls.tcp().ip().to_string();
        let pair = authority.issue("magent.pem", &[&ip]);
        let listen = format!("tls:{tls}");
        let args = ["-l", &listen, "--tls-cert", &pair];
        let magent = Magent::start(&[&backend.endpoint], &[], &[&args, extra].concat());
        Self {
            magent,
            tls,
            authority,
            pair,
            _backend: backend,
        }
    }

    fn endpoint(&self, client: TlsClient) -> Endpoint {
        Endpoint::Tls(self.tls.tcp(), client)
    }

    #[track_caller]
    fn check_served(&self, client: TlsClient) {
        let mut client = Client::connect(&self.endpoint(client));
        client.set("key", b"value");
        assert_eq!(client.get("key"), Some(b"value".to_vec()));
    }

    /// How connecting and asking fails.
    #[track_caller]
    fn refusal(&self, client: TlsClient) -> String {
        let mut client = match Client::try_connect(&self.endpoint(client)) {
            Ok(client) => client,
            Err(err) => return err,
        };
        // With 1.3 a client hears of it when it reads.
        client.try_get("key").unwrap_err()
    }

    fn counter(&self, name: &str) -> u64 {
        self.magent.client().stats("magent")[name].parse().unwrap()
    }
}

#[test]
fn both_versions_and_plain_beside_it() {
    let site = Site::start(&[]);
    for versions in [
        &[&rustls::version::TLS12][..],
        &[&rustls::version::TLS13],
        rustls::ALL_VERSIONS,
    ] {
        site.check_served(site.authority.client_with(None, versions));
    }
    assert_eq!(site.magent.client().get("key"), Some(b"value".to_vec()));
    assert_eq!(site.counter("tls_handshakes_total"), 3);
    assert_eq!(site.counter("tls_failures_total"), 0);
}

#[test]
fn a_version_that_is_too_old_is_refused() {
    let site = Site::start(&["--tls-min", "1.3"]);
    site.check_served(site.authority.client());
    let old = site.authority.client_with(None, &[&rustls::version::TLS12]);
    let refusal = site.refusal(old);
    assert!(refusal.contains("ProtocolVersion"), "{refusal}");
    site.magent.wait_for_log("nothing in common");
}

#[test]
fn large_values_and_pipelines() {
    let site = Site::start(&[]);
    let mut client = Client::connect(&site.endpoint(site.authority.client()));
    let value: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_be_bytes()[3]).collect();
    client.set("large", &value);
    for _ in 0..3 {
        assert_eq!(client.get("large").as_deref(), Some(&value[..]));
    }
    let mut asked = Vec::new();
    let mut answer = Vec::new();
    for n in 0..2_000 {
        asked.extend_from_slice(format!("set k{n} 0 0 4\r\n{n:04}\r\nget k{n}\r\n").as_bytes());
        let value = format!("STORED\r\nVALUE k{n} 0 4\r\n{n:04}\r\nEND\r\n");
        answer.extend_from_slice(value.as_bytes());
    }
    client.ask(&asked, &answer);
}

/// What has been asked for is still sent to a client that has said goodbye and does not read yet. At one of these
/// lengths the kernel is full when TLS has taken the last bytes.
#[test]
fn answers_leave_before_the_connection_ends() {
    let site = Site::start(&[]);
    let value = vec![b'v'; 60_000];
    let mut other = site.magent.client();
    other.set("large", &value);
    let one = "VALUE large 0 60000\r\n".len() + value.len() + "\r\nEND\r\n".len();
    let client = site.authority.client();
    for count in 20..100 {
        let mut slow = client.connect(site.tls.tcp()).unwrap();
        let asked = [&b"get large\r\n".repeat(count)[..], b"quit\r\n"].concat();
        slow.write_all(&asked).unwrap();
        for _ in 0..20 {
            other.set("other", b"value");
        }
        let mut answers = Vec::new();
        let end = slow.read_to_end(&mut answers);
        assert!(end.is_ok(), "{end:?} after {} bytes", answers.len());
        assert_eq!(answers.len(), count * one);
    }
    wait_until("all are gone", || site.counter("clients_open") == 2);
}

#[test]
fn sessions_are_taken_up_again() {
    let site = Site::start(&[]);
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let client = site.authority.client_with(None, versions);
        let before = site.counter("tls_resumed_total");
        for _ in 0..4 {
            site.check_served(client.clone());
        }
        assert_eq!(
            site.counter("tls_resumed_total"),
            before + 3,
            "{versions:?}"
        );
    }
}

#[test]
fn plain_on_a_tls_port_is_told_so() {
    let site = Site::start(&[]);
    let mut plain = Client::connect(&site.tls);
    plain.send(b"get key\r\n");
    assert_eq!(plain.rest(), b"CLIENT_ERROR this port expects TLS\r\n");
    let line = site.magent.wait_for_log("speaks no TLS");
    assert!(line.contains("WARN client 127."), "{line}");
    site.check_served(site.authority.client());
    assert_eq!(site.counter("tls_failures_total"), 1);
}

#[test]
fn tls_on_a_plain_port_is_told_so() {
    let site = Site::start(&[]);
    let address = site.magent.endpoint.tcp();
    let wrong = Endpoint::Tls(address, site.authority.client());
    Client::try_connect(&wrong).unwrap_err();
    let line = site.magent.wait_for_log("speaks TLS, on a port without");
    assert!(line.contains("WARN client 127."), "{line}");
    // And as bytes.
    let mut client = site.magent.client();
    client.send(b"\x16\x03\x01\x02\0\x01\0");
    assert_eq!(client.rest(), b"ERROR this port is without TLS\r\n");
    site.magent.client().set("key", b"value");
}

#[test]
fn openssl_says_what_is_wrong() {
    let site = Site::start(&[]);
    let s_client = |endpoint: &Endpoint| {
        let output = Command::new("openssl")
            .args(["s_client", "-CAfile", &site.authority.path()])
            .args(["-verify_return_error", "-connect", &endpoint.to_string()])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).into_owned()
    };
    let said = s_client(&site.tls);
    assert!(said.contains("Verification: OK"), "{said}");
    let said = s_client(&site.magent.endpoint);
    assert!(said.contains("wrong version number"), "{said}");
}

#[test]
fn a_cut_handshake_disturbs_nobody() {
    let site = Site::start(&["--threads", "1"]);
    let mut served = Client::connect(&site.endpoint(site.authority.client()));
    let hello = client_hello(&site.authority.client());
    for cut in [0, 1, 2, 5, 60, hello.len()] {
        let mut stream = TcpStream::connect(site.tls.tcp()).unwrap();
        stream.write_all(&hello[..cut]).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
        served.set("key", b"value");
    }
    site.magent
        .wait_for_log("closed in the middle of the handshake");
    // Nothing at all is a health check, not a failure.
    wait_until("all are noticed", || {
        site.counter("tls_failures_total") == 5
    });
    served.set("key", b"value");
    site.check_served(site.authority.client());
    // Neither have those that say nothing a part in this.
    let rubbish = [&hello[..5], &[0xff; 512]].concat();
    let mut stream = TcpStream::connect(site.tls.tcp()).unwrap();
    stream.write_all(&rubbish).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    // An alert, fatal.
    assert_eq!((answer[0], answer[5]), (0x15, 2), "{answer:x?}");
    served.set("key", b"value");
}

/// It makes room for others when there are many, and is closed at the latest after `handshake_ms`.
#[test]
fn who_stalls_in_a_handshake_keeps_nobody_out() {
    let site = Site::start(&["--threads", "1"]);
    let hello = client_hello(&site.authority.client());
    let mut served = Client::connect(&site.endpoint(site.authority.client()));
    let mut stalled = Vec::new();
    for n in 0..1_010 {
        let mut stream = TcpStream::connect(site.tls.tcp()).unwrap();
        stream.write_all(&hello[..hello.len() / 2]).unwrap();
        stalled.push(stream);
        if n % 100 == 0 {
            served.set("key", b"value");
            site.check_served(site.authority.client());
        }
    }
    // handshakes_max is 1,000.
    wait_until("the oldest made room", || {
        site.counter("tls_failures_total") >= 10
    });
    site.magent
        .wait_for_log("its handshake made room for others");
    site.check_served(site.authority.client());
    wait_until("all are closed", || {
        served.set("key", b"value");
        site.counter("tls_failures_total") == 1_010
    });
    site.magent.wait_for_log("its handshake took too long");
    site.check_served(site.authority.client());
}

/// The first message of a handshake.
fn client_hello(client: &TlsClient) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.begin().write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_client_without_a_certificate_is_refused_where_one_is_required() {
    let authority = Authority::new();
    let ca = authority.path();
    let good = authority.issue("client.pem", &["client"]);
    let expired = authority.issue_expired("expired.pem", &["client"]);
    let site = Site::start_with(authority, &["--tls-client-ca", &ca]);
    site.check_served(site.authority.client_as(&good));
    let refusal = site.refusal(site.authority.client());
    assert!(refusal.contains("CertificateRequired"), "{refusal}");
    site.magent.wait_for_log("--tls-client-auth requires one");
    let refusal = site.refusal(site.authority.client_as(&expired));
    assert!(refusal.contains("CertificateExpired"), "{refusal}");
    site.magent.wait_for_log("its certificate has expired");
    site.check_served(site.authority.client_as(&good));
}

#[test]
fn a_certificate_that_is_optional_must_be_good_if_given() {
    let authority = Authority::new();
    let ca = authority.path();
    let good = authority.issue("client.pem", &["client"]);
    let args = ["--tls-client-ca", &ca, "--tls-client-auth", "optional"];
    let elsewhere = Authority::new();
    let stranger = elsewhere.issue("stranger.pem", &["client"]);
    let site = Site::start_with(authority, &args);
    site.check_served(site.authority.client_as(&good));
    site.check_served(site.authority.client());
    let refusal = site.refusal(site.authority.client_as(&stranger));
    assert!(refusal.contains("UnknownCA"), "{refusal}");
    site.magent
        .wait_for_log("of no authority in --tls-client-ca");
}

#[test]
fn an_expired_certificate_of_the_proxy() {
    let authority = Authority::new();
    let tls = free_endpoint();
    let ip = tls.tcp().ip().to_string();
    let pair = authority.issue_expired("expired.pem", &[&ip]);
    let backend = Memcached::start();
    let listen = format!("tls:{tls}");
    let args = ["-l", &listen, "--tls-cert", &pair];
    let magent = Magent::start(&[&backend.endpoint], &[], &args);
    magent.wait_for_log("has expired, on 2020-01-01T00:00:00Z");
    let endpoint = Endpoint::Tls(tls.tcp(), authority.client());
    let refusal = Client::try_connect(&endpoint).unwrap_err();
    assert!(refusal.contains("certificate expired"), "{refusal}");
    magent.wait_for_log("it says that the certificate in --tls-cert has expired");
    // A new one is taken without a restart.
    authority.issue("expired.pem", &[&ip]);
    magent.hang_up();
    magent.wait_for_log("certificates loaded again");
    Client::connect(&endpoint).set("key", b"value");
}

#[test]
fn reloaded_under_load_and_kept_if_broken() {
    let site = Site::start(&[]);
    let load = Load::start(&site.endpoint(site.authority.client()), 4);
    let ip = site.tls.tcp().ip().to_string();
    for _ in 0..3 {
        site.authority.issue("magent.pem", &[&ip]);
        site.magent.hang_up();
        load.wait_for_answers(200);
        site.check_served(site.authority.client());
    }
    let line = site.magent.wait_for_log("certificates loaded again");
    assert!(line.contains("TLS towards clients"), "{line}");
    fs::write(&site.pair, "-----BEGIN CERTIFICATE-----\n").unwrap();
    site.magent.hang_up();
    let line = site.magent.wait_for_log("the new ones are of no use");
    assert!(line.contains(&site.pair), "{line}");
    site.check_served(site.authority.client());
    let report = load.finish();
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert!(report.lost.is_empty() && report.old.is_empty());
}

#[test]
fn python() {
    let site = Site::start(&[]);
    let address = site.tls.tcp();
    let [ip, port] = [address.ip().to_string(), address.port().to_string()];
    run_script("python-tls/basic.py", &[&ip, &port, &site.authority.path()]);
}

#[test]
fn php() {
    let site = Site::start(&[]);
    let address = site.tls.tcp();
    let [ip, port] = [address.ip().to_string(), address.port().to_string()];
    run_script("php-tls/streams.php", &[&ip, &port, &site.authority.path()]);
    // Connections come one after the other, as those of pages do.
    assert!(site.counter("tls_handshakes_total") > 1);
}
