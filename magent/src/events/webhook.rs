//! `--event-webhook URL`: a POST of JSON for each event, over http or https.
//!
//! # Invariants
//!
//! - The URL is a secret: its path (chat services), its query and its user are how the endpoint knows us. `Display`
//!   and `Debug` show scheme, host and port; errors never quote more. With `@FILE` it does not appear in `ps` either.
//! - A post ends within its limit, name look-up, TLS and answer included, and blocks a thread of its own.
//! - The answer is not read, only its status. Redirects are not followed: most would turn the POST into a GET and
//!   lose the event, and all could lead elsewhere what was meant for this endpoint.
//!
//! Certificates are checked against those of the system (`SSL_CERT_FILE` and `SSL_CERT_DIR` choose others), which
//! are read at the start. `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` are respected.
//!
//! Not here: how many posts there are at once, and how often (`events`).

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use tokio::sync::oneshot;
use ureq::http::Uri;
use ureq::http::header::AUTHORIZATION;
use ureq::http::uri::Authority;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Proxy};

/// Who calls.
const USER_AGENT: &str = concat!("magent/", env!("CARGO_PKG_VERSION"));

/// An endpoint that takes events.
#[derive(Clone)]
pub(crate) struct Webhook {
    /// Without user and password.
    url: Uri,
    /// Those, as a header's value.
    authorization: Option<String>,
    agent: Agent,
}

impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.url.scheme_str().unwrap_or_default();
        let authority = self.url.authority().map_or("", Authority::as_str);
        write!(f, "{scheme}://{authority}/…")
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Webhook({self})")
    }
}

impl Webhook {
    /// As given to `--event-webhook`: a URL, or `@FILE` for a file that holds one.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, it is no URL, or there are no certificates for https. They do not quote the URL.
    pub(crate) fn new(text: &str) -> Result<Self> {
        let text = match text.strip_prefix('@') {
            Some(path) => &fs::read_to_string(path).with_context(|| path.to_owned())?,
            None => text,
        };
        Self::with(text.trim(), system_roots, Proxy::try_from_env())
    }

    fn with(
        text: &str,
        roots: impl FnOnce() -> Result<RootCerts>,
        proxy: Option<Proxy>,
    ) -> Result<Self> {
        let (url, authorization) = split(text)?;
        let mut tls = TlsConfig::builder();
        if url.scheme_str() == Some("https") {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            tls = tls
                .unversioned_rustls_crypto_provider(provider)
                .root_certs(roots()?);
        }
        let agent = Agent::config_builder()
            .tls_config(tls.build())
            .proxy(proxy)
            .user_agent(USER_AGENT)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            // Events are rare: an idle connection would be closed by the other side before the next.
            .max_idle_connections(0)
            .build()
            .new_agent();
        Ok(Self {
            url,
            authorization,
            agent,
        })
    }

    /// Posts `json`.
    ///
    /// # Errors
    ///
    /// For the log: what went wrong.
    pub(super) async fn post(&self, json: String, limit: Duration) -> Result<(), String> {
        let (done, outcome) = oneshot::channel();
        let webhook = self.clone();
        // Not in the runtime's pool, which would hold up the end of the process until the post has ended.
        thread::Builder::new()
            .name("webhook".to_owned())
            .spawn(move || drop(done.send(webhook.post_now(&json, limit))))
            .map_err(|err| format!("cannot start a thread: {err}"))?;
        let outcome = outcome.await;
        outcome.unwrap_or_else(|_| Err("its thread ended".to_owned()))
    }

    fn post_now(&self, json: &str, limit: Duration) -> Result<(), String> {
        let mut request = self
            .agent
            .post(&self.url)
            .content_type("application/json")
            .config()
            .timeout_global(Some(limit))
            .build();
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        match request.send(json) {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("answered {}", answer.status())),
            Err(err) => Err(describe(&err)),
        }
    }
}

/// The URL without user and password, and those.
fn split(text: &str) -> Result<(Uri, Option<String>)> {
    let mut parts = text
        .parse::<Uri>()
        .ok()
        .context("this is no URL")?
        .into_parts();
    let scheme = parts.scheme.as_ref().map_or("", |scheme| scheme.as_str());
    ensure!(
        matches!(scheme, "http" | "https"),
        "the URL must start with http:// or https://"
    );
    let Some(authority) = &parts.authority else {
        bail!("the URL names no host");
    };
    let mut authorization = None;
    if let Some((user, host)) = authority.as_str().rsplit_once('@') {
        let user: Vec<u8> = percent_decode_str(user).collect();
        authorization = Some(format!("Basic {}", STANDARD.encode(user)));
        parts.authority = Some(host.parse().ok().context("the URL names no host")?);
    }
    let url = Uri::from_parts(parts).ok().context("this is no URL")?;
    Ok((url, authorization))
}

fn system_roots() -> Result<RootCerts> {
    let found = rustls_native_certs::load_native_certs();
    let roots: Vec<_> = found
        .certs
        .iter()
        .map(|root| Certificate::from_der(root).to_owned())
        .collect();
    if roots.is_empty() {
        let why = found.errors.first().map(|err| format!(": {err}"));
        bail!(
            "no certificates of authorities on this machine{}; install them (ca-certificates) or set SSL_CERT_FILE",
            why.unwrap_or_default()
        );
    }
    Ok(RootCerts::from(roots))
}

/// What can be said about it without quoting a URL.
fn describe(err: &ureq::Error) -> String {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the crate may add kinds of errors at any time"
    )]
    match err {
        ureq::Error::BadUri(_) | ureq::Error::RequireHttpsOnly(_) => "bad URL".to_owned(),
        ureq::Error::ConnectProxyFailed(_) => "the HTTP proxy refused".to_owned(),
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread::JoinHandle;
    use std::time::Instant;

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    use super::super::tests::{notice, runtime};
    use super::*;

    /// Longer than anything takes here, on any machine.
    const LONG: Duration = Duration::from_secs(60);

    /// A request as it came in.
    #[derive(Debug)]
    struct Received {
        head: String,
        body: String,
    }

    fn read_request(stream: impl Read) -> Received {
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        let len = head
            .to_lowercase()
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
            .unwrap();
        let mut body = vec![0; len];
        reader.read_exact(&mut body).unwrap();
        let body = String::from_utf8(body).unwrap();
        Received { head, body }
    }

    /// A server for one request, which gets `answer`.
    fn serve(answer: &'static str) -> (u16, JoinHandle<Received>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let received = read_request(&stream);
            stream.write_all(answer.as_bytes()).unwrap();
            received
        });
        (port, thread)
    }

    fn no_roots() -> Result<RootCerts> {
        bail!("not needed")
    }

    fn post(url: &str, limit: Duration) -> Result<(), String> {
        let webhook = Webhook::with(url, no_roots, None).unwrap();
        runtime().block_on(async {
            let posted = webhook.post(notice().json(), limit);
            tokio::time::timeout(2 * LONG, posted)
                .await
                .expect("it ends")
        })
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    #[test]
    fn an_event_is_posted_as_json() {
        let (port, server) = serve(OK);
        post(&format!("http://127.0.0.1:{port}/hook/x?token=y"), LONG).unwrap();
        let Received { head, body } = server.join().unwrap();
        let head = head.to_lowercase();
        assert!(
            head.starts_with("post /hook/x?token=y http/1.1\r\n"),
            "{head}"
        );
        assert!(
            head.contains("\r\ncontent-type: application/json\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nuser-agent: magent/"), "{head}");
        assert!(!head.contains("authorization"), "{head}");
        assert_eq!(body, notice().json());
    }

    #[test]
    fn user_and_password_become_a_header() {
        let (port, server) = serve(OK);
        post(
            &format!("http://Aladdin:open%20sesame@127.0.0.1:{port}"),
            LONG,
        )
        .unwrap();
        let head = server.join().unwrap().head;
        // The example of RFC 7617, section 2.
        let expected = "authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n";
        assert!(head.contains(expected), "{head}");
        assert!(head.starts_with("POST / HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains(&format!("host: 127.0.0.1:{port}\r\n")),
            "{head}"
        );
    }

    #[test]
    fn every_answer_but_success_is_a_failure() {
        let check = |answer, failure: &str| {
            let (port, server) = serve(answer);
            let url = format!("http://127.0.0.1:{port}/secret");
            assert_eq!(post(&url, LONG), Err(failure.to_owned()));
            server.join().unwrap();
        };
        check("HTTP/1.1 404 Not Found\r\n\r\n", "answered 404 Not Found");
        check(
            "HTTP/1.1 500 Oops\r\n\r\n",
            "answered 500 Internal Server Error",
        );
        check(
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n\r\n",
            "answered 302 Found",
        );
        check(
            "SSH-2.0-x\r\n\r\n",
            "protocol: http parse fail: invalid HTTP version",
        );
    }

    #[test]
    fn an_endpoint_that_is_gone_or_silent_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/secret", listener.local_addr().unwrap());
        // The kernel accepts, nobody answers.
        let started = Instant::now();
        let silent = post(&url, Duration::from_millis(200));
        assert_eq!(silent, Err("no answer in time".to_owned()));
        assert!(started.elapsed() < LONG);
        drop(listener);
        let gone = post(&url, LONG).unwrap_err();
        assert!(gone.contains("refused"), "{gone}");
        assert!(!gone.contains("secret"), "{gone}");
    }

    #[test]
    fn an_answer_that_never_ends_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            read_request(&stream);
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
            stream.write_all(head).unwrap();
            // Until the client goes.
            drop(stream.read(&mut [0]));
        });
        post(&format!("http://127.0.0.1:{port}/"), LONG).unwrap();
        server.join().unwrap();
    }

    #[test]
    fn a_url_is_checked_and_shown_without_its_secrets() {
        let check = |text: &str, shown: &str| {
            let webhook = Webhook::with(text, no_roots, None).unwrap();
            assert_eq!(webhook.to_string(), shown);
            assert_eq!(format!("{webhook:?}"), format!("Webhook({shown})"));
        };
        check("http://a/T0/B0/key?k=v#f", "http://a/…");
        check("http://me:secret@a:81/", "http://a:81/…");
        check("http://me:sec@ret@[::1]:81", "http://[::1]:81/…");
        let refused = |text: &str, why: &str| {
            let err = Webhook::with(text, no_roots, None).unwrap_err();
            assert_eq!(format!("{err:#}"), why);
        };
        let scheme = "the URL must start with http:// or https://";
        refused("", "this is no URL");
        refused("http://me:secret@", "this is no URL");
        refused("ftp://secret@a/", scheme);
        refused("/secret", scheme);
        refused("a", scheme);
        refused("http:///secret", "this is no URL");
        refused("http://a b/secret", "this is no URL");
    }

    #[test]
    fn a_url_can_be_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("url");
        let text = format!("@{}", path.display());
        let missing = format!("{:#}", Webhook::new(&text).unwrap_err());
        assert!(
            missing.starts_with(&path.display().to_string()),
            "{missing}"
        );
        fs::write(&path, "http://a/secret\n").unwrap();
        assert_eq!(Webhook::new(&text).unwrap().url, "http://a/secret");
    }

    /// A server with a certificate of its own for one client, that may turn away.
    fn serve_tls(certified: &CertifiedKey<rcgen::KeyPair>) -> (u16, JoinHandle<Option<Received>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certified.cert.der().clone()],
                PrivateKeyDer::Pkcs8(key),
            )
            .unwrap();
        let thread = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let connection = ServerConnection::new(Arc::new(config)).unwrap();
            let mut tls = StreamOwned::<_, TcpStream>::new(connection, stream);
            // Shakes hands.
            tls.flush().ok()?;
            let received = read_request(&mut tls);
            tls.write_all(OK.as_bytes()).unwrap();
            Some(received)
        });
        (port, thread)
    }

    #[test]
    fn https_takes_a_certificate_that_is_trusted_and_no_other() {
        let certified = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let root = Certificate::from_der(certified.cert.der()).to_owned();
        let post = |host: &str, roots: RootCerts| {
            let (port, server) = serve_tls(&certified);
            let url = format!("https://{host}:{port}/secret");
            let webhook = Webhook::with(&url, || Ok(roots), None).unwrap();
            let posted = runtime().block_on(webhook.post(notice().json(), LONG));
            (posted, server.join().unwrap().map(|received| received.body))
        };
        let trusted = post("localhost", RootCerts::from(vec![root.clone()]));
        assert_eq!(trusted, (Ok(()), Some(notice().json())));
        let (posted, received) = post("127.0.0.1", RootCerts::from(vec![root]));
        let err = posted.unwrap_err();
        assert!(err.contains("certificate not valid for name"), "{err}");
        assert_eq!(received, None);
        let other = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let other = Certificate::from_der(other.cert.der()).to_owned();
        let (posted, received) = post("localhost", RootCerts::from(vec![other]));
        assert!(posted.is_err());
        assert_eq!(received, None);
    }
}
