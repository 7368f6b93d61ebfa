//! `--advertise`: the proxies that clients with auto discovery are told.
//!
//! Names are looked up once, at the start. One that is not found is no reason not to start: it is told without its
//! address, which many clients then look up themselves.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::str::FromStr;

use clap::ArgMatches;
use magent_core::config::{Advertised, AdvertisedProxy};

/// One `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    host: String,
    port: u16,
}

impl FromStr for HostPort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected HOST:PORT such as 192.168.1.2:12000, \
                                cache.example.com:11211 or [::1]:11211";
        let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
        let port = port
            .parse()
            .ok()
            .filter(|&port| port != 0)
            .ok_or(EXPECTED)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let host = match bare {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            None if !host.is_empty() && host.bytes().all(is_known) => host,
            Some(_) | None => return Err(EXPECTED),
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl Display for HostPort {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl HostPort {
    fn resolve(&self) -> Option<IpAddr> {
        if let Ok(ip) = self.host.parse() {
            return Some(ip);
        }
        let mut addresses = (self.host.as_str(), self.port).to_socket_addrs().ok()?;
        addresses.next().map(|address| address.ip())
    }
}

/// What the options say, and what is to be known of it.
pub(super) fn advertised(matches: &ArgMatches, notices: &mut Vec<String>) -> Option<Advertised> {
    let proxies = matches.get_many::<HostPort>("advertise")?;
    let proxies = proxies.map(|proxy| {
        let ip = proxy.resolve();
        if ip.is_none() {
            notices.push(format!(
                "--advertise {proxy}: cannot look it up; clients are told the name alone, and \
                 some want an address"
            ));
        }
        AdvertisedProxy {
            host: proxy.host.clone(),
            ip: ip.map(|ip| ip.to_string()).unwrap_or_default(),
            port: proxy.port,
        }
    });
    Some(Advertised {
        proxies: proxies.collect(),
        version: matches.get_one("advertise-version").copied(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        for text in [
            "192.168.1.2:12000",
            "cache-1.example.com:1",
            "[2001:db8::4]:65535",
        ] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:65536",
            "a b:1",
            "a|b:1",
            "::1:11211",
            "[::1]",
            "[a]:1",
        ] {
            text.parse::<HostPort>().unwrap_err();
        }
        let v6: HostPort = "[::1]:11211".parse().unwrap();
        assert_eq!((v6.host.as_str(), v6.port), ("::1", 11_211));
        assert_eq!(v6.resolve(), Some("::1".parse().unwrap()));
    }
}
