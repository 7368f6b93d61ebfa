//! Where to listen: `--listen`, `-p`, `-f` and what goes with them.
//!
//! # Invariants
//!
//! - What magent 0.6 and plain lists of addresses mean stays: `-l 10.0.0.1,10.0.0.2` are two hosts.
//! - An address is listened on once; two listeners that would fight over one are an error that names both.
//!
//! Not here: listening itself (`listen`).

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ArgMatches;
use ipnet::IpNet;
use magent_core::server::UNIX_PATH_LEN_MAX;

use super::absolute;
use crate::cli::octal;
use crate::listen::{Greeting, ListenOptions, ProxyHeader, TcpOptions, Tls, UnixOptions};

/// What the options say, checked.
pub(super) fn listen_options(matches: &ArgMatches) -> Result<ListenOptions> {
    let port = *matches.get_one("port").expect("has a default");
    let mode = *matches.get_one("socket-mode").expect("has a default");
    let mut options = ListenOptions::default();
    let given: Vec<&String> = matches.get_many("listen").into_iter().flatten().collect();
    for text in &given {
        for element in elements(text) {
            element.add_to(&mut options, port, mode)?;
        }
    }
    if given.is_empty() && port != 0 {
        options
            .tcp
            .push(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into());
    }
    if let Some(path) = absolute(matches, "socket")? {
        check_socket_path("-f", &path)?;
        add_unix(&mut options, UnixOptions { path, mode })?;
    }
    ensure!(
        !options.tcp.is_empty() || !options.unix.is_empty(),
        "nothing to listen on: -p 0 turns TCP off, so a unix socket must be given with -f PATH"
    );
    check_overlaps(&options.tcp)?;
    options.trusted_proxies = trusted_proxies(matches, &options)?;
    Ok(options)
}

/// One address of a list, with what was written behind it.
struct Element<'a> {
    text: &'a str,
    kind: Kind,
    /// Without the kind.
    address: &'a str,
    options: Vec<&'a str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Written without a kind, as ever.
    Bare,
    Tcp,
    Tls,
    Unix,
}

/// Splits at commas. What follows one is another address, but an option where the one before says of what kind it is.
fn elements(text: &str) -> Vec<Element<'_>> {
    let mut found: Vec<Element<'_>> = Vec::new();
    for part in text.split(',') {
        let is_option = part.starts_with("mode=") || part == PROXY_OPTION;
        match found.last_mut() {
            Some(last) if last.kind != Kind::Bare && is_option => last.options.push(part),
            Some(_) | None => found.push(Element::new(part)),
        }
    }
    found
}

const PROXY_OPTION: &str = "proxy-protocol";

impl<'a> Element<'a> {
    fn new(text: &'a str) -> Self {
        let kinds = [
            ("tcp:", Kind::Tcp),
            ("tls:", Kind::Tls),
            ("unix:", Kind::Unix),
        ];
        let (kind, address) = kinds
            .iter()
            .find_map(|(prefix, kind)| Some((*kind, text.strip_prefix(prefix)?)))
            .unwrap_or((Kind::Bare, text));
        Self {
            text,
            kind,
            address,
            options: Vec::new(),
        }
    }

    fn add_to(&self, options: &mut ListenOptions, port: u16, mode: u32) -> Result<()> {
        match self.kind {
            Kind::Unix => add_unix(options, self.unix(mode)?),
            Kind::Bare | Kind::Tcp | Kind::Tls => {
                for tcp in self.tcp(port)? {
                    match options
                        .tcp
                        .iter()
                        .find(|other| other.address == tcp.address)
                    {
                        None => options.tcp.push(tcp),
                        // Names may lead to one address.
                        Some(other) if *other == tcp => {}
                        Some(other) => bail!(
                            "-l {}: {other} is given as well: one port cannot be both; give one of them another port",
                            self.text
                        ),
                    }
                }
                Ok(())
            }
        }
    }

    fn unix(&self, mode: u32) -> Result<UnixOptions> {
        let flag = format!("-l {}", self.text);
        let path = PathBuf::from(self.address);
        ensure!(
            path.is_absolute(),
            "{flag}: the path must be absolute: unix:/run/magent.sock"
        );
        check_socket_path(&flag, &path)?;
        let mut unix = UnixOptions { path, mode };
        for option in &self.options {
            match option.strip_prefix("mode=") {
                Some(text) => {
                    unix.mode =
                        octal(text).map_err(|err| anyhow::anyhow!("{flag},{option}: {err}"))?;
                }
                None => bail!(
                    "{flag},{option}: only with tcp: and tls:; a unix socket has no address to trust"
                ),
            }
        }
        Ok(unix)
    }

    fn tcp(&self, port: u16) -> Result<Vec<TcpOptions>> {
        let mut greeting = Greeting::default();
        if self.kind == Kind::Tls {
            greeting.tls = Tls::Spoken;
        }
        for option in &self.options {
            ensure!(
                *option == PROXY_OPTION,
                "-l {},{option}: permissions are for unix sockets",
                self.text
            );
            greeting.proxy_header = ProxyHeader::Required;
        }
        if self.kind == Kind::Bare {
            ensure!(
                port != 0,
                "-l {}: -p 0 turns TCP off, so there is no port to listen on",
                self.text
            );
            // A kind that does not exist, not a host of that name.
            if let Some((kind, rest)) = self.text.split_once(':')
                && !kind.is_empty()
                && !rest.is_empty()
                && kind.bytes().all(|byte| byte.is_ascii_alphabetic())
                && rest.parse::<u16>().is_err()
            {
                bail!(
                    "-l {}: unknown kind \"{kind}\": expected tcp:ADDRESS, tls:ADDRESS or unix:PATH",
                    self.text
                );
            }
        }
        let addresses = listen_addresses(self.text, self.address, port)?;
        let tcp = |address| TcpOptions { address, greeting };
        Ok(addresses.into_iter().map(tcp).collect())
    }
}

fn add_unix(options: &mut ListenOptions, unix: UnixOptions) -> Result<()> {
    let known = options.unix.iter().any(|other| other.path == unix.path);
    ensure!(!known, "unix socket {} is given twice", unix.path.display());
    options.unix.push(unix);
    Ok(())
}

/// The kernel would say that the port is taken, and leave one to look for another program.
fn check_overlaps(tcp: &[TcpOptions]) -> Result<()> {
    let any: HashSet<(bool, u16)> = tcp
        .iter()
        .filter(|tcp| tcp.address.ip().is_unspecified())
        .map(|tcp| (tcp.address.is_ipv4(), tcp.address.port()))
        .collect();
    for one in tcp {
        let place = (one.address.is_ipv4(), one.address.port());
        if !one.address.ip().is_unspecified() && any.contains(&place) {
            let all = tcp
                .iter()
                .find(|all| all.address.ip().is_unspecified() && all.address.port() == place.1);
            let all = all.map_or_else(String::new, ToString::to_string);
            bail!(
                "-l {one} and -l {all}: {all} has that address already; give one of them another port"
            );
        }
    }
    Ok(())
}

fn trusted_proxies(matches: &ArgMatches, options: &ListenOptions) -> Result<Vec<IpNet>> {
    let networks: Vec<IpNet> = matches
        .get_many::<IpNet>("proxy-protocol-from")
        .into_iter()
        .flatten()
        .copied()
        .collect();
    if options.has_proxy_header() {
        ensure!(
            !networks.is_empty(),
            "proxy-protocol: say whose header is believed, with --proxy-protocol-from 10.0.0.0/8 or so"
        );
    } else {
        ensure!(
            networks.is_empty(),
            "--proxy-protocol-from: no listener expects a PROXY header: add one, --listen \
             tcp:0.0.0.0:11311,proxy-protocol"
        );
    }
    Ok(networks)
}

fn check_socket_path(flag: &str, path: &Path) -> Result<()> {
    let len = path.as_os_str().as_bytes().len();
    ensure!(
        len <= UNIX_PATH_LEN_MAX,
        "{flag} {}: the path has {len} bytes, a unix socket's can have {UNIX_PATH_LEN_MAX}",
        path.display()
    );
    Ok(())
}

/// `IP`, `[IPV6]`, `NAME`, each with or without `:PORT`; `whole` is what was written.
fn listen_addresses(whole: &str, text: &str, own_port: u16) -> Result<Vec<SocketAddr>> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        ensure!(
            own_port != 0,
            "-l {whole}: -p 0 turns TCP off, so a port is missing"
        );
        return Ok(vec![(ip, own_port).into()]);
    }
    let addresses = if let Ok(address) = text.parse() {
        vec![address]
    } else {
        let (name, port) = text.split_once(':').unwrap_or((text, ""));
        let port = if port.is_empty() {
            Ok(own_port)
        } else {
            port.parse()
        };
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        match port {
            Ok(port) if !name.is_empty() && name.bytes().all(known) => (name, port)
                .to_socket_addrs()
                .with_context(|| format!("-l {whole}: cannot look it up"))?
                .collect(),
            Ok(_) | Err(_) => Vec::new(),
        }
    };
    ensure!(
        !addresses.is_empty() && addresses.iter().all(|address| address.port() != 0),
        "-l {whole}: {LISTEN_EXPECTED}"
    );
    Ok(addresses)
}

const LISTEN_EXPECTED: &str =
    "expected an address of this machine such as 192.168.1.2, ::1, localhost or 10.0.0.1:12000";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse_listening;

    #[test]
    fn listen_addresses_are_understood() {
        let check = |text: &str, expected: &str| {
            let addresses = listen_addresses(text, text, 12_000).unwrap();
            assert_eq!(addresses, [expected.parse().unwrap()], "{text}");
        };
        check("192.168.1.2", "192.168.1.2:12000");
        check("192.168.1.2:13000", "192.168.1.2:13000");
        check("::1", "[::1]:12000");
        check("[::1]", "[::1]:12000");
        check("[::1]:13000", "[::1]:13000");
        for text in ["", "192.168.1.2:0", "192.168.1.2:x", "[::1"] {
            let err = listen_addresses(text, text, 12_000)
                .unwrap_err()
                .to_string();
            assert_eq!(err, format!("-l {text}: {LISTEN_EXPECTED}"));
        }
    }

    fn options(words: &str) -> Result<ListenOptions> {
        listen_options(&parse_listening(words.split_whitespace()))
    }

    #[test]
    fn kinds_of_listeners() {
        let check = |words: &str, expected: &str| {
            assert_eq!(options(words).unwrap().to_string(), expected, "{words}");
        };
        check("", "0.0.0.0:11211");
        check("-l 10.0.0.1,10.0.0.2", "10.0.0.1:11211 10.0.0.2:11211");
        check("-l tcp:[::1]:5 -l tls:10.0.0.1:6", "[::1]:5 tls:10.0.0.1:6");
        check("-l ::1", "[::1]:11211");
        check("-l tls:10.0.0.1 -p 12", "tls:10.0.0.1:12");
        check("-l tls:10.0.0.1:12 -p 0", "tls:10.0.0.1:12");
        check("-l 10.0.0.1 -l tcp:10.0.0.1", "10.0.0.1:11211");
        check("-l unix:/run/a", "/run/a");
        check(
            "-f /run/a -l unix:/run/b,tcp:10.0.0.1",
            "10.0.0.1:11211 /run/b /run/a",
        );
        check(
            "-l tls:10.0.0.1,proxy-protocol,10.0.0.2 --proxy-protocol-from 10.0.0.0/8",
            "tls:10.0.0.1:11211,proxy-protocol 10.0.0.2:11211",
        );
        let unix = options("-l unix:/run/a,mode=0770,unix:/run/b -a 711").unwrap();
        let modes: Vec<u32> = unix.unix.iter().map(|unix| unix.mode).collect();
        assert_eq!(modes, [0o770, 0o711]);
    }

    #[test]
    fn what_is_wrong_with_a_listener() {
        let check = |words: &str, expected: &str| {
            let err = format!("{:#}", options(words).unwrap_err());
            assert!(err.contains(expected), "{words}: {err}");
        };
        check(
            "-l udp:10.0.0.1:11211",
            "-l udp:10.0.0.1:11211: unknown kind \"udp\"",
        );
        check(
            "-l tcp:10.0.0.1:1,tls:10.0.0.1:1",
            "10.0.0.1:1 is given as well",
        );
        check(
            "-l 0.0.0.0 -l tls:10.0.0.1",
            "0.0.0.0:11211 has that address already",
        );
        check("-l unix:run/a", "the path must be absolute");
        check("-l unix:/run/a,mode=999", "expected permissions in octal");
        check("-l unix:/run/a,proxy-protocol", "only with tcp: and tls:");
        check(
            "-l tcp:10.0.0.1,mode=700",
            "permissions are for unix sockets",
        );
        check(
            "-f /run/a -l unix:/run/a",
            "unix socket /run/a is given twice",
        );
        check("-l tcp:10.0.0.1,proxy-protocol", "--proxy-protocol-from");
        check(
            "--proxy-protocol-from 10.0.0.0/8",
            "no listener expects a PROXY header",
        );
        check("-l tls:10.0.0.1 -p 0", "a port is missing");
        check("-l 10.0.0.1:12 -p 0", "turns TCP off");
    }
}
