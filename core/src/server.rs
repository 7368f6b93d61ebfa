//! How an operator names a backend: `[NAME=][tls:]ADDRESS[*WEIGHT]`.
//!
//! ```text
//! 10.0.0.4                 host, port 11211          node0=10.0.0.4:11212*2   name, weight
//! cache-1.example:11212    host and port             unix:/run/memcached.sock socket
//! [2001:db8::1]:11212      IPv6 goes in brackets     10.0.0.4*0.5             fraction
//! tls:10.0.0.4:11211       spoken to with TLS
//! ```
//!
//! # Invariants
//!
//! - A [`ServerSpec`] that exists is valid; there is no other way to make one than to parse it.
//! - `Display` gives text that parses to an equal value (property test below).
//! - `tls:` is no part of the address: keys do not move when a server begins to speak TLS.
//! - The host stays as it was written. Rings hash that text, so `::1` and `0:0::1` are different
//!   servers to them, as they are to the programs whose placement is reproduced.
//!
//! Not here: what the rings make of these strings (`scheme`), name resolution (the binary).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The port of a server written without one.
pub const PORT_DEFAULT: u16 = 11_211;

/// The largest weight. Rings grow with it: a weight of 10,000 is already 1.6 million points in
/// pecl-memcache's.
pub const WEIGHT_MAX: f64 = 10_000.0;

/// The longest path of a unix socket: `sun_path` holds 108 bytes with its final NUL on Linux.
pub const UNIX_PATH_LEN_MAX: usize = 107;

/// The longest name of a server; DNS names end at 253 as well.
pub const NAME_LEN_MAX: usize = 253;

/// One server as configured: where it is, how it is called, how much it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSpec {
    name: Option<Box<str>>,
    address: Address,
    tls: bool,
    weight: Weight,
}

impl ServerSpec {
    /// The name before `=`. Where there is one, rings hash it in place of the address, so a
    /// server can move to another address and keep its keys.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Where to connect to.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Whether `tls:` stands before the address.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.tls
    }

    /// Its share of the keys, relative to the others'; 1 if none was written.
    #[must_use]
    pub const fn weight(&self) -> Weight {
        self.weight
    }

    /// What a ring hashes for this server, up to the `-k` that makes each point another string.
    pub(crate) fn label(&self, style: LabelStyle) -> String {
        if let Some(name) = &self.name {
            return name.to_string();
        }
        match (&self.address, style) {
            (
                Address::Tcp {
                    host,
                    port: PORT_DEFAULT,
                },
                LabelStyle::Ketama,
            ) => host.to_string(),
            (Address::Tcp { host, port }, LabelStyle::Ketama | LabelStyle::HostPort) => {
                format!("{host}:{port}")
            }
            (Address::Tcp { host, port }, LabelStyle::Magent) => format!("{host}-{port}"),
            (Address::Tcp { host, port }, LabelStyle::Evcache) => format!("{host}/{host}:{port}"),
            // twemproxy calls a unix server by its path. The others have no such case to keep.
            (Address::Unix { path }, _) => path.to_string(),
        }
    }
}

/// The forms in which rings write a server that has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LabelStyle {
    /// `host`, or `host:port` if the port is not 11211.
    Ketama,
    /// `host:port`.
    HostPort,
    /// `host-port`, as magent wrote it.
    Magent,
    /// `host/host:port`, as Netflix' EVCache client writes it.
    Evcache,
}

impl fmt::Display for ServerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}=")?;
        }
        if self.tls {
            f.write_str(TLS_PREFIX)?;
        }
        write!(f, "{}", self.address)?;
        if self.weight == Weight::ONE {
            Ok(())
        } else {
            write!(f, "*{}", self.weight)
        }
    }
}

impl FromStr for ServerSpec {
    type Err = ServerError;

    fn from_str(text: &str) -> Result<Self, ServerError> {
        parse_server(text).map_err(|problem| ServerError {
            text: text.into(),
            problem,
        })
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A TCP port.
    Tcp {
        /// A name, an IPv4 address or an IPv6 address without its brackets, as written.
        host: Box<str>,
        /// 1 to 65535.
        port: u16,
    },
    /// A socket in the file system.
    Unix {
        /// An absolute path.
        path: Box<str>,
    },
}

impl Address {
    /// The host, or `None` for a unix socket.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp { host, .. } => Some(host),
            Self::Unix { .. } => None,
        }
    }

    /// Whether losing one host would lose both: same host, port ignored.
    ///
    /// Loopback and unix sockets never count. Whoever runs all servers on one machine is trying
    /// things out, and would otherwise be left without any backup. Names are compared as text,
    /// because what they resolve to can change under way.
    #[must_use]
    pub fn same_host(&self, other: &Self) -> bool {
        match (self.host().map(Host::new), other.host().map(Host::new)) {
            (Some(host), Some(other)) => host == other && !host.is_loopback(),
            (None, _) | (_, None) => false,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => write!(f, "unix:{path}"),
        }
    }
}

impl FromStr for Address {
    type Err = ServerError;

    fn from_str(text: &str) -> Result<Self, ServerError> {
        parse_address(text).map_err(|problem| ServerError {
            text: text.into(),
            problem,
        })
    }
}

/// A host for comparison: two spellings of one address are equal.
enum Host<'a> {
    Ip(IpAddr),
    Name(&'a str),
}

impl<'a> Host<'a> {
    fn new(text: &'a str) -> Self {
        text.parse::<IpAddr>()
            .map_or(Host::Name(text), |ip| Host::Ip(ip.to_canonical()))
    }

    fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(ip) => ip.is_loopback(),
            Self::Name(name) => name.eq_ignore_ascii_case("localhost"),
        }
    }
}

impl PartialEq for Host<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ip(ip), Self::Ip(other)) => ip == other,
            (Self::Name(name), Self::Name(other)) => name.eq_ignore_ascii_case(other),
            (Self::Ip(_), Self::Name(_)) | (Self::Name(_), Self::Ip(_)) => false,
        }
    }
}

/// A server's weight: above 0, at most [`WEIGHT_MAX`], exactly what was written.
///
/// Most schemes count in whole numbers; mcrouter's weights are fractions of 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Weight(f64);

// Never NaN: only `parse_weight` makes one.
impl Eq for Weight {}

impl Weight {
    /// What a server without a weight has.
    pub const ONE: Self = Self(1.0);

    /// The number itself.
    #[must_use]
    pub const fn as_f64(self) -> f64 {
        self.0
    }

    /// The number if it is whole.
    #[must_use]
    pub fn as_integer(self) -> Option<u32> {
        if self.0.fract() != 0.0 {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole, above 0 and at most WEIGHT_MAX"
        )]
        let whole = self.0 as u32;
        Some(whole)
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rust prints the shortest decimal that reads back as the same f64, and no exponent.
        self.0.fmt(f)
    }
}

/// What is wrong with a server as written, and the text in question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    text: Box<str>,
    problem: ServerProblem,
}

impl ServerError {
    /// What is wrong.
    #[must_use]
    pub const fn problem(&self) -> ServerProblem {
        self.problem
    }
}

impl std::error::Error for ServerError {}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server {:?}: {}", self.text, self.problem)
    }
}

/// The ways in which the text of a server can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerProblem {
    /// Nothing before `=`, blanks in the name, or too long.
    Name,
    /// No host.
    HostMissing,
    /// A byte that no host name has, or too long.
    Host,
    /// Digits and dots that are no IPv4 address.
    Ipv4,
    /// No IPv6 address between the brackets.
    Ipv6,
    /// More than one colon, no brackets.
    Colons,
    /// A bracket that does not belong there.
    Brackets,
    /// Not a number, or out of range.
    Port,
    /// Not absolute, too long, or with a byte that cannot be told from the rest.
    Path,
    /// TLS over a unix socket.
    TlsUnix,
    /// Not a decimal number.
    Weight,
    /// Zero, or so small that it is zero.
    WeightZero,
    /// Above [`WEIGHT_MAX`].
    WeightTooLarge,
}

impl fmt::Display for ServerProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => write!(f, "name must be 1 to {NAME_LEN_MAX} bytes without blanks"),
            Self::HostMissing => f.write_str("host must not be empty"),
            Self::Host => f.write_str("host must be a name of letters, digits, '-', '_' and '.'"),
            Self::Ipv4 => f.write_str("host must be an IPv4 address of four numbers up to 255"),
            Self::Ipv6 => f.write_str("brackets must hold an IPv6 address"),
            Self::Colons => f.write_str(
                "an IPv6 address must be in brackets ([::1]:11211), a weight after * (host:port*2)",
            ),
            Self::Brackets => f.write_str("brackets must be around an IPv6 address: [::1]:11211"),
            Self::Port => f.write_str("port must be 1 to 65535"),
            Self::Path => write!(
                f,
                "unix path must be absolute, at most {UNIX_PATH_LEN_MAX} bytes, without '*'"
            ),
            Self::TlsUnix => f.write_str("a unix socket has no TLS: leave tls: away"),
            Self::Weight => f.write_str("weight must be a number such as 2 or 0.5"),
            Self::WeightZero => f.write_str("weight must be above 0"),
            Self::WeightTooLarge => write!(f, "weight must be at most {WEIGHT_MAX}"),
        }
    }
}

fn parse_server(text: &str) -> Result<ServerSpec, ServerProblem> {
    // A path may hold `=`, so an address that begins with `unix:` has no name before it.
    let (name, rest) = match text.split_once('=') {
        Some((name, rest)) if !text.starts_with(UNIX_PREFIX) => (Some(parse_name(name)?), rest),
        Some(_) | None => (None, text),
    };
    let (address, weight) = match rest.rsplit_once('*') {
        Some((address, weight)) => (address, parse_weight(weight)?),
        None => (rest, Weight::ONE),
    };
    let (tls, address) = match address.strip_prefix(TLS_PREFIX) {
        // A host of this name, and its port.
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => (false, address),
        Some(rest) => (true, rest),
        None => (false, address),
    };
    let address = parse_address(address)?;
    if tls && address.host().is_none() {
        return Err(ServerProblem::TlsUnix);
    }
    Ok(ServerSpec {
        name,
        address,
        tls,
        weight,
    })
}

fn parse_name(name: &str) -> Result<Box<str>, ServerProblem> {
    let blank = |c: char| c.is_whitespace() || c.is_control();
    if (1..=NAME_LEN_MAX).contains(&name.len()) && !name.contains(blank) {
        Ok(name.into())
    } else {
        Err(ServerProblem::Name)
    }
}

fn parse_weight(text: &str) -> Result<Weight, ServerProblem> {
    // `f64::from_str` takes "inf", "1e3" and "+1" as well.
    let decimal = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let value = text
        .parse::<f64>()
        .ok()
        .filter(|_| decimal)
        .ok_or(ServerProblem::Weight)?;
    if value <= 0.0 {
        Err(ServerProblem::WeightZero)
    } else if value > WEIGHT_MAX {
        Err(ServerProblem::WeightTooLarge)
    } else {
        Ok(Weight(value))
    }
}

fn parse_address(text: &str) -> Result<Address, ServerProblem> {
    if let Some(path) = text.strip_prefix(UNIX_PREFIX) {
        let bad = |c: char| c == '*' || c.is_control();
        return if path.starts_with('/') && path.len() <= UNIX_PATH_LEN_MAX && !path.contains(bad) {
            Ok(Address::Unix { path: path.into() })
        } else {
            Err(ServerProblem::Path)
        };
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => parse_bracketed(rest)?,
        None => parse_plain(text)?,
    };
    let port = match port {
        Some(port) => parse_port(port)?,
        None => PORT_DEFAULT,
    };
    Ok(Address::Tcp {
        host: host.into(),
        port,
    })
}

/// `::1]` or `::1]:11211`, the opening bracket already gone.
fn parse_bracketed(text: &str) -> Result<(&str, Option<&str>), ServerProblem> {
    let (host, rest) = text.split_once(']').ok_or(ServerProblem::Brackets)?;
    let port = match (rest, rest.strip_prefix(':')) {
        ("", _) => None,
        (_, Some(port)) => Some(port),
        (_, None) => return Err(ServerProblem::Brackets),
    };
    if host.is_empty() {
        return Err(ServerProblem::HostMissing);
    }
    host.parse::<Ipv6Addr>().map_err(|_| ServerProblem::Ipv6)?;
    Ok((host, port))
}

/// `host` or `host:port`.
fn parse_plain(text: &str) -> Result<(&str, Option<&str>), ServerProblem> {
    let (host, port) = match text.split_once(':') {
        Some((_, port)) if port.contains(':') => return Err(ServerProblem::Colons),
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    if host.is_empty() {
        return Err(ServerProblem::HostMissing);
    }
    if host.contains(['[', ']']) {
        return Err(ServerProblem::Brackets);
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if host.len() > NAME_LEN_MAX || !host.bytes().all(known) {
        return Err(ServerProblem::Host);
    }
    // The resolver takes `10.1` for 10.0.0.1, and a typing error for a name to look up.
    let numeric = host
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err(ServerProblem::Ipv4);
    }
    Ok((host, port))
}

fn parse_port(text: &str) -> Result<u16, ServerProblem> {
    match text.parse::<u16>() {
        // `parse` takes "+1" as well.
        Ok(port @ 1..) if !text.starts_with('+') => Ok(port),
        Ok(_) | Err(_) => Err(ServerProblem::Port),
    }
}

const UNIX_PREFIX: &str = "unix:";
const TLS_PREFIX: &str = "tls:";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> ServerSpec {
        text.parse().unwrap()
    }

    /// The three parts of `text` and how it is printed.
    #[track_caller]
    fn check(text: &str, name: Option<&str>, address: &str, weight: f64, printed: &str) {
        let server = parsed(text);
        assert_eq!(server.name(), name, "{text}");
        assert_eq!(server.address().to_string(), address, "{text}");
        assert_eq!(server.weight().as_f64(), weight, "{text}");
        assert_eq!(server.to_string(), printed, "{text}");
        assert_eq!(parsed(printed), server, "{text}");
    }

    #[test]
    fn accepts() {
        check("10.0.0.4", None, "10.0.0.4:11211", 1.0, "10.0.0.4:11211");
        check(
            "10.0.0.4:11212",
            None,
            "10.0.0.4:11212",
            1.0,
            "10.0.0.4:11212",
        );
        check(
            "cache-1.example",
            None,
            "cache-1.example:11211",
            1.0,
            "cache-1.example:11211",
        );
        check("a_b:1", None, "a_b:1", 1.0, "a_b:1");
        check("[::1]", None, "[::1]:11211", 1.0, "[::1]:11211");
        check(
            "[0:0::1]:65535*3",
            None,
            "[0:0::1]:65535",
            3.0,
            "[0:0::1]:65535*3",
        );
        check(
            "unix:/run/m.sock",
            None,
            "unix:/run/m.sock",
            1.0,
            "unix:/run/m.sock",
        );
        check("unix:/a=b*2", None, "unix:/a=b", 2.0, "unix:/a=b*2");
        check(
            "n=unix:/a=b*2",
            Some("n"),
            "unix:/a=b",
            2.0,
            "n=unix:/a=b*2",
        );
        check("node0=h:1*0.5", Some("node0"), "h:1", 0.5, "node0=h:1*0.5");
        check(
            "a/b:1=h*1.0",
            Some("a/b:1"),
            "h:11211",
            1.0,
            "a/b:1=h:11211",
        );
        check("h*0.3333", None, "h:11211", 0.3333, "h:11211*0.3333");
        check("h*10000", None, "h:11211", 10_000.0, "h:11211*10000");
    }

    #[test]
    fn tls_is_no_part_of_the_address() {
        check("tls:h:1*2", None, "h:1", 2.0, "tls:h:1*2");
        check(
            "n=tls:[::1]",
            Some("n"),
            "[::1]:11211",
            1.0,
            "n=tls:[::1]:11211",
        );
        assert!(parsed("tls:h").is_tls() && !parsed("h").is_tls());
        for style in [LabelStyle::Ketama, LabelStyle::Magent, LabelStyle::HostPort] {
            assert_eq!(parsed("tls:h").label(style), parsed("h").label(style));
        }
        // A host of that name.
        check("tls:11211", None, "tls:11211", 1.0, "tls:11211");
        check("tls:tls:1", None, "tls:1", 1.0, "tls:tls:1");
        assert!(!parsed("tls:11211").is_tls() && parsed("tls:tls:1").is_tls());
        check_refused("tls:", "port must be");
        check_refused("tls:unix:/a", "a unix socket has no TLS");
    }

    #[track_caller]
    fn check_refused(text: &str, message: &str) {
        let err = text.parse::<ServerSpec>().unwrap_err();
        let message = format!("server {text:?}: {message}");
        assert!(
            err.to_string().starts_with(&message),
            "{err}\nexpected {message}"
        );
    }

    #[test]
    fn refuses() {
        for text in ["", ":11211", "n=", "*2", "[]:1"] {
            check_refused(text, "host must not be empty");
        }
        for text in [
            "10.0.0.7:99999",
            "h:0",
            "h:",
            "h:+1",
            "h:x",
            "h: 1",
            "[::1]:",
        ] {
            check_refused(text, "port must be 1 to 65535");
        }
        for text in ["[::1", "[::1]x", "h]", "h[1]", "[::1]]", "::1]"] {
            let message = if text == "::1]" {
                "an IPv6 address"
            } else {
                "brackets must be"
            };
            check_refused(text, message);
        }
        check_refused("[10.0.0.1]", "brackets must hold an IPv6 address");
        for text in ["::1", "fe80::1:11211", "10.0.0.1:11211:1"] {
            check_refused(text, "an IPv6 address must be in brackets");
        }
        for text in ["10.0.0.300", "10.0.0", "1", "10.0.0.1.", "."] {
            check_refused(text, "host must be an IPv4 address");
        }
        for text in ["a b", "h,h2", "höst", "h/x"] {
            check_refused(text, "host must be a name");
        }
        check_refused(&"h".repeat(254), "host must be a name");
        for text in ["=h", "a b=h", "\t=h", "a\u{7}=h"] {
            check_refused(text, "name must be 1 to 253 bytes");
        }
        for text in [
            "unix:",
            "unix:m.sock",
            "unix:/a*b*2",
            "unix:x=h",
            "unix:/a\n",
        ] {
            check_refused(text, "unix path must be absolute");
        }
        check_refused(
            &format!("unix:/{}", "p".repeat(107)),
            "unix path must be absolute",
        );
        for text in [
            "h*", "h*x", "h*-1", "h*+1", "h*1e3", "h*inf", "h*nan", "h*.", "h*1.2.3",
        ] {
            check_refused(text, "weight must be a number");
        }
        for text in ["h*0", "h*0.0", "h*00"] {
            check_refused(text, "weight must be above 0");
        }
        check_refused("h*10000.1", "weight must be at most 10000");
    }

    #[test]
    fn whole_weights() {
        assert_eq!(parsed("h*2").weight().as_integer(), Some(2));
        assert_eq!(parsed("h*2.0").weight().as_integer(), Some(2));
        assert_eq!(parsed("h*2.5").weight().as_integer(), None);
        assert_eq!(parsed("h*0.1").weight().as_integer(), None);
    }

    #[test]
    fn labels() {
        let label = |text: &str, style| parsed(text).label(style);
        assert_eq!(label("10.0.0.4", LabelStyle::Ketama), "10.0.0.4");
        assert_eq!(
            label("10.0.0.4:11212", LabelStyle::Ketama),
            "10.0.0.4:11212"
        );
        assert_eq!(label("[::1]:1", LabelStyle::Ketama), "::1:1");
        assert_eq!(label("10.0.0.4", LabelStyle::HostPort), "10.0.0.4:11211");
        assert_eq!(
            label("10.0.0.4", LabelStyle::Evcache),
            "10.0.0.4/10.0.0.4:11211"
        );
        assert_eq!(label("unix:/m", LabelStyle::Ketama), "/m");
        assert_eq!(label("node0=10.0.0.4", LabelStyle::Evcache), "node0");
    }

    #[track_caller]
    fn check_host(one: &str, other: &str, same: bool) {
        let (one, other) = (parsed(one), parsed(other));
        assert_eq!(
            one.address().same_host(other.address()),
            same,
            "{one} {other}"
        );
        assert_eq!(
            other.address().same_host(one.address()),
            same,
            "{other} {one}"
        );
    }

    #[test]
    fn same_host() {
        check_host("10.0.0.4:1", "10.0.0.4:2", true);
        check_host("10.0.0.4", "10.0.0.5", false);
        check_host("Cache-1:1", "cache-1:2", true);
        check_host("[2001:db8::1]", "[2001:db8:0::1]:2", true);
        check_host("[::ffff:10.0.0.4]", "10.0.0.4:2", true);
        check_host("127.0.0.1:1", "127.0.0.1:2", false);
        check_host("[::1]:1", "[::1]:2", false);
        check_host("localhost:1", "localhost:2", false);
        check_host("unix:/a", "unix:/a", false);
        check_host("unix:/a", "10.0.0.4", false);
    }

    fn any_server() -> impl Strategy<Value = String> {
        let name = prop::option::of("[a-zA-Z0-9_/:.*-]{1,20}");
        let address = prop_oneof![
            "[a-z][a-z0-9_.-]{0,20}(:[1-9][0-9]{0,3})?",
            any::<Ipv4Addr>().prop_map(|ip| ip.to_string()),
            (any::<Ipv6Addr>(), 1u16..).prop_map(|(ip, port)| format!("[{ip}]:{port}")),
            "unix:/[a-z=./:]{0,20}",
        ];
        let weight = prop::option::of("[1-9][0-9]{0,2}(\\.[0-9]{1,20})?|0\\.[0-9]{0,20}[1-9]");
        let tls = prop_oneof![Just(""), Just("tls:")];
        let address = (tls, address).prop_filter_map("no TLS there", |(tls, address)| {
            let no_tls = address.starts_with(UNIX_PREFIX) && !tls.is_empty();
            (!no_tls).then(|| format!("{tls}{address}"))
        });
        (name, address, weight).prop_map(|(name, address, weight)| {
            let name = name.map(|name| format!("{name}=")).unwrap_or_default();
            let weight = weight
                .map(|weight| format!("*{weight}"))
                .unwrap_or_default();
            format!("{name}{address}{weight}")
        })
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(text in any_server()) {
            prop_assume!(!text.starts_with(UNIX_PREFIX) || text.starts_with("unix:/"));
            let server = parsed(&text);
            prop_assert_eq!(&parsed(&server.to_string()), &server);
            let address: Address = server.address().to_string().parse().unwrap();
            prop_assert_eq!(&address, server.address());
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}|[\\[\\]:*=.0-9a-z/]{0,20}") {
            if let Ok(server) = text.parse::<ServerSpec>() {
                prop_assert_eq!(parsed(&server.to_string()), server);
            }
        }
    }
}
