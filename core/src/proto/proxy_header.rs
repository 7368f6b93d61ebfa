//! The PROXY protocol: the line or header by which a load balancer says, ahead of a client's first byte, where that
//! client comes from. Version 1 is a line of text, version 2 is binary.
//!
//! # Invariants
//!
//! - Nothing is guessed: bytes that begin neither version are [`Error::Missing`], also when they would be a fine
//!   request. Who may send a header at all is the caller's to check.
//! - A header is at most [`HEADER_LEN_MAX`] bytes; one that says it is longer is refused before it has arrived.
//! - Extensions (TLVs) are skipped, whatever they hold.
//!
//! Not here: reading it from a socket, and from whom it is taken (`magent/src/worker/greeting.rs`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::Parsed;

/// Longest header. Version 1 ends at 107 bytes; version 2 could have 65,551, most of it extensions: the addresses
/// take 52 bytes, a balancer's notes about its own TLS some hundred more.
pub const HEADER_LEN_MAX: usize = 4_096;

/// Where a client comes from, as the sender of the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From here.
    Client(SocketAddr),
    /// The connection is the sender's own, or it does not know or cannot say: the connection's address counts.
    Sender,
}

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The connection begins with something else.
    Missing,
    /// Version 1, but not a line of it.
    BadLine,
    /// Version 2 begins, but version, command or family do not exist.
    BadHeader,
    /// The addresses do not fit in the length.
    Short,
    /// Longer than [`HEADER_LEN_MAX`].
    TooLong,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no PROXY header"),
            Self::BadLine => f.write_str("a PROXY line that is none"),
            Self::BadHeader => f.write_str("a PROXY header of an unknown kind"),
            Self::Short => f.write_str("a PROXY header too short for its addresses"),
            Self::TooLong => write!(f, "a PROXY header of more than {HEADER_LEN_MAX} bytes"),
        }
    }
}

/// Looks for a header at the start of what a connection has sent.
#[must_use]
pub fn parse(input: &[u8]) -> Parsed<Source, Error> {
    if input.starts_with(SIGNATURE) {
        return parse_v2(input);
    }
    if input.starts_with(PREFIX_V1) {
        return parse_v1(input);
    }
    if SIGNATURE.starts_with(input) || PREFIX_V1.starts_with(input) {
        return Parsed::NeedMore;
    }
    Parsed::Bad(Error::Missing)
}

/// Version 2 begins with these bytes, which no other protocol does.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and transport, length.
const FIXED_LEN: usize = 16;

fn parse_v2(input: &[u8]) -> Parsed<Source, Error> {
    let Some((fixed, rest)) = input.split_at_checked(FIXED_LEN) else {
        return Parsed::NeedMore;
    };
    let [version_command, family, len_high, len_low] = [fixed[12], fixed[13], fixed[14], fixed[15]];
    let len = usize::from(u16::from_be_bytes([len_high, len_low]));
    if FIXED_LEN + len > HEADER_LEN_MAX {
        return Parsed::Bad(Error::TooLong);
    }
    let (version, command) = (version_command >> 4, version_command & 0x0f);
    if version != 2 || command > COMMAND_PROXY {
        return Parsed::Bad(Error::BadHeader);
    }
    let Some(body) = rest.get(..len) else {
        return Parsed::NeedMore;
    };
    let source = match (command, family) {
        // The sender's health checks. Whatever family it names, the addresses are to be ignored.
        (COMMAND_LOCAL, _) => Ok(Source::Sender),
        (_, FAMILY_TCP4) => source_v4(body).ok_or(Error::Short),
        (_, FAMILY_TCP6) => source_v6(body).ok_or(Error::Short),
        // Unspecified, datagrams and unix sockets: addresses that mean nothing here.
        (_, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => Ok(Source::Sender),
        _ => Err(Error::BadHeader),
    };
    match source {
        Ok(item) => Parsed::Item {
            item,
            used: FIXED_LEN + len,
        },
        Err(err) => Parsed::Bad(err),
    }
}

const COMMAND_LOCAL: u8 = 0;
const COMMAND_PROXY: u8 = 1;
const FAMILY_TCP4: u8 = 0x11;
const FAMILY_TCP6: u8 = 0x21;

/// Source, destination, and the ports of both.
fn source_v4(body: &[u8]) -> Option<Source> {
    let ip: [u8; 4] = body.get(..4)?.try_into().ok()?;
    let port: [u8; 2] = body.get(8..12)?.first_chunk().copied()?;
    let port = u16::from_be_bytes(port);
    Some(Source::Client((Ipv4Addr::from(ip), port).into()))
}

fn source_v6(body: &[u8]) -> Option<Source> {
    let ip: [u8; 16] = body.get(..16)?.try_into().ok()?;
    let port: [u8; 2] = body.get(32..36)?.first_chunk().copied()?;
    let port = u16::from_be_bytes(port);
    Some(Source::Client((Ipv6Addr::from(ip), port).into()))
}

const PREFIX_V1: &[u8] = b"PROXY ";

/// The longest line, its end included: two IPv6 addresses written out.
const LINE_LEN_MAX: usize = 107;

fn parse_v1(input: &[u8]) -> Parsed<Source, Error> {
    let within = &input[..input.len().min(LINE_LEN_MAX)];
    let Some(end) = memchr::memchr(b'\n', within) else {
        return if within.len() == LINE_LEN_MAX {
            Parsed::Bad(Error::BadLine)
        } else {
            Parsed::NeedMore
        };
    };
    match within[..end].strip_suffix(b"\r").and_then(source_v1) {
        Some(item) => Parsed::Item {
            item,
            used: end + 1,
        },
        None => Parsed::Bad(Error::BadLine),
    }
}

fn source_v1(line: &[u8]) -> Option<Source> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        // Whatever follows is to be ignored.
        return Some(Source::Sender);
    }
    let addresses = [words.next()?, words.next()?];
    let ports = [words.next()?, words.next()?];
    let ips = match family {
        "TCP4" => addresses.map(|text| Ipv4Addr::from_str(text).ok().map(IpAddr::from)),
        "TCP6" => addresses.map(|text| Ipv6Addr::from_str(text).ok().map(IpAddr::from)),
        _ => return None,
    };
    let [port, _] = ports.map(port_v1);
    let [ip, target_ip] = ips;
    (target_ip.is_some() && port_v1(ports[1]).is_some() && words.next().is_none())
        .then_some(Source::Client((ip?, port?).into()))
}

/// `parse` takes "+1" as well.
fn port_v1(text: &str) -> Option<u16> {
    text.parse()
        .ok()
        .filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// For the fuzzer: no bytes panic, and what is found is within the input and found again in its own prefix.
#[cfg(any(test, fuzzing))]
pub fn fuzz_proxy_header(input: &[u8]) {
    match parse(input) {
        Parsed::Item { item, used } => {
            assert!(used <= input.len() && used <= HEADER_LEN_MAX);
            assert_eq!(parse(&input[..used]), Parsed::Item { item, used });
            for cut in 0..used {
                assert_eq!(parse(&input[..cut]), Parsed::NeedMore, "cut at {cut}");
            }
        }
        Parsed::NeedMore => assert!(
            input.len() < HEADER_LEN_MAX,
            "more than the limit is wanted"
        ),
        Parsed::Bad(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Version 2 with this command and family.
    fn v2(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[version_command, family], &len, body].concat()
    }

    const BODY_V4: &[u8] = &[10, 0, 0, 9, 10, 0, 0, 1, 0xc8, 0x01, 0x2b, 0xcb];

    fn body_v6() -> Vec<u8> {
        let [from, to] = ["2001:db8::9", "2001:db8::1"].map(|ip| Ipv6Addr::from_str(ip).unwrap());
        [&from.octets()[..], &to.octets(), &[0xc8, 0x01, 0x2b, 0xcb]].concat()
    }

    #[track_caller]
    fn check(header: &[u8], expected: Result<Source, Error>) {
        let input = [header, b"get a\r\n"].concat();
        match expected {
            Ok(item) => assert_eq!(
                parse(&input),
                Parsed::Item {
                    item,
                    used: header.len()
                }
            ),
            Err(err) => assert_eq!(parse(&input), Parsed::Bad(err)),
        }
        fuzz_proxy_header(&input);
    }

    fn client(text: &str) -> Result<Source, Error> {
        Ok(Source::Client(text.parse().unwrap()))
    }

    #[test]
    fn version_2() {
        check(&v2(0x21, 0x11, BODY_V4), client("10.0.0.9:51201"));
        check(&v2(0x21, 0x21, &body_v6()), client("[2001:db8::9]:51201"));
        let with_tlvs = [BODY_V4, &[0x04, 0, 2, 0, 0], &[0xea, 0, 1, 7]].concat();
        check(&v2(0x21, 0x11, &with_tlvs), client("10.0.0.9:51201"));
        check(&v2(0x20, 0x00, b""), Ok(Source::Sender));
        check(&v2(0x20, 0x11, BODY_V4), Ok(Source::Sender));
        check(&v2(0x21, 0x00, b"anything"), Ok(Source::Sender));
        check(&v2(0x21, 0x31, &[b'/'; 216]), Ok(Source::Sender));
        check(&v2(0x21, 0x12, BODY_V4), Ok(Source::Sender));
    }

    #[test]
    fn version_2_gone_wrong() {
        check(&v2(0x11, 0x11, BODY_V4), Err(Error::BadHeader));
        check(&v2(0x22, 0x11, BODY_V4), Err(Error::BadHeader));
        check(&v2(0x21, 0x13, BODY_V4), Err(Error::BadHeader));
        check(&v2(0x21, 0x41, BODY_V4), Err(Error::BadHeader));
        check(&v2(0x21, 0x11, &BODY_V4[..11]), Err(Error::Short));
        // Says IPv6 and brings IPv4.
        check(&v2(0x21, 0x21, BODY_V4), Err(Error::Short));
        check(&v2(0x21, 0x11, &[0; 4_081]), Err(Error::TooLong));
        let longest = [BODY_V4, &[0; 4_080 - 12]].concat();
        check(&v2(0x21, 0x11, &longest), client("10.0.0.9:51201"));
    }

    #[test]
    fn version_1() {
        let line = b"PROXY TCP4 10.0.0.9 10.0.0.1 51201 11211\r\n";
        check(line, client("10.0.0.9:51201"));
        let line = b"PROXY TCP6 2001:db8::9 ::1 51201 11211\r\n";
        check(line, client("[2001:db8::9]:51201"));
        check(b"PROXY UNKNOWN\r\n", Ok(Source::Sender));
        let long = "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
        check(long.as_bytes(), Ok(Source::Sender));
        for line in [
            "PROXY TCP4 10.0.0.9 10.0.0.1 51201 11211\n",
            "PROXY TCP4 10.0.0.9 10.0.0.1 51201 11211 \r\n",
            "PROXY TCP4 10.0.0.9 10.0.0.1 51201\r\n",
            "PROXY TCP4 10.0.0.9 ::1 51201 11211\r\n",
            "PROXY TCP6 10.0.0.9 10.0.0.1 51201 11211\r\n",
            "PROXY TCP4 10.0.0.9 10.0.0.1 +5120 11211\r\n",
            "PROXY TCP4 10.0.0.9 10.0.0.1 51201 65536\r\n",
            "PROXY TCP4  10.0.0.9 10.0.0.1 51201 11211\r\n",
            "PROXY UDP4 10.0.0.9 10.0.0.1 51201 11211\r\n",
            "PROXY \r\n",
        ] {
            check(line.as_bytes(), Err(Error::BadLine));
        }
        let endless = [PREFIX_V1, &[b'1'; 101]].concat();
        check(&endless, Err(Error::BadLine));
        assert_eq!(parse(&endless[..106]), Parsed::NeedMore);
    }

    #[test]
    fn anything_else_is_no_header() {
        for input in [
            "get a\r\n",
            "\r\n\r\nget",
            "PROXYget",
            "\x16\x03\x01",
            "\u{80}",
        ] {
            assert_eq!(parse(input.as_bytes()), Parsed::Bad(Error::Missing));
        }
        assert_eq!(parse(b""), Parsed::NeedMore);
    }

    proptest! {
        #[test]
        fn nothing_panics(input: Vec<u8>) {
            fuzz_proxy_header(&input);
        }

        #[test]
        fn nothing_panics_behind_a_signature(command in 0_u8..4, family: u8, len: u16, body: Vec<u8>) {
            let len = len % 400;
            let fixed = [0x20 | command, family, len.to_be_bytes()[0], len.to_be_bytes()[1]];
            fuzz_proxy_header(&[SIGNATURE, &fixed, &body].concat());
        }

        #[test]
        fn what_is_written_is_read(ip: [u8; 16], port: u16, tlvs: Vec<u8>) {
            let address = SocketAddr::from((ip, port));
            let body = [&ip[..], &ip, &port.to_be_bytes(), &[0, 0], &tlvs].concat();
            let header = v2(0x21, FAMILY_TCP6, &body);
            let used = header.len();
            prop_assert_eq!(parse(&header), Parsed::Item { item: Source::Client(address), used });
        }
    }
}
