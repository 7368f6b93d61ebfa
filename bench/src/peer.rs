//! The table of things that are compared, and how each is started.
//!
//! A peer is a command with placeholders, so another proxy, another version or another option of
//! one is a row here or a `--peer` on the command line, not code.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::process::{find_program, free_port};
use crate::tls;

/// One thing under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) name: String,
    /// How to start it: words with the placeholders of `PLACEHOLDERS`. `None` is no proxy at
    /// all: the generator talks to the backends.
    command: Option<String>,
    /// The same for one that speaks TLS with its clients, if this one can.
    tls_command: Option<String>,
    pub(crate) meta: Meta,
}

/// Whether a peer knows meta commands; if not, it does the same work with classic ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meta {
    Known,
    Unknown,
}

/// What a command can refer to.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    pub(crate) magent: &'a Path,
    pub(crate) nutcracker: &'a Path,
    pub(crate) memcached: &'a Path,
    /// For configuration files; emptied at the end.
    pub(crate) dir: &'a Path,
    /// The primaries.
    pub(crate) backends: &'a [SocketAddr],
    pub(crate) backups: &'a [SocketAddr],
    /// Client connections that it has to take.
    pub(crate) clients: u32,
    /// Threads, where it can have several.
    pub(crate) workers: u32,
}

impl Peer {
    /// The built-in peer called `name`.
    pub(crate) fn built_in(name: &str) -> Option<Self> {
        let row = PEERS.iter().find(|row| row.name == name)?;
        let command = row.command.map(str::to_owned);
        Some(Self {
            name: name.to_owned(),
            command,
            tls_command: row.tls_command.map(str::to_owned),
            meta: row.meta,
        })
    }

    pub(crate) fn names() -> Vec<&'static str> {
        PEERS.iter().map(|row| row.name).collect()
    }

    /// Reads `NAME=COMMAND`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (name, command) = text.split_once('=').context("expected NAME=COMMAND")?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        ensure!(
            !name.is_empty() && name.bytes().all(plain),
            "bad name \"{name}\""
        );
        ensure!(
            Self::built_in(name).is_none(),
            "\"{name}\" is a built-in peer"
        );
        ensure!(
            command.contains("{port}") || command.contains("{nutcracker-conf}"),
            "the command has neither {{port}} nor {{nutcracker-conf}}, so nobody would find it"
        );
        // A configuration file of nutcracker is the only way to start one.
        let classic = command.contains("{nutcracker-conf}");
        let meta = if classic { Meta::Unknown } else { Meta::Known };
        Ok(Self {
            name: name.to_owned(),
            command: Some(command.to_owned()),
            tls_command: None,
            meta,
        })
    }

    /// The same as it is started for clients that speak TLS; `None` if it cannot be.
    pub(crate) fn with_tls(&self) -> Option<Self> {
        Some(Self {
            command: Some(self.tls_command.clone()?),
            ..self.clone()
        })
    }

    /// Whether there is a process to start and to measure.
    pub(crate) fn is_proxy(&self) -> bool {
        self.command.is_some()
    }

    /// Whether it keeps second copies on backups.
    pub(crate) fn needs_backups(&self) -> bool {
        let command = self.command.as_deref().unwrap_or_default();
        command.split_whitespace().any(|word| word == "{-b}")
    }

    /// Whether it can have several threads.
    pub(crate) fn takes_workers(&self) -> bool {
        let command = self.command.as_deref().unwrap_or_default();
        command.contains("{workers}")
    }

    /// Fails with what to do if a program that this peer needs is not there.
    pub(crate) fn check_installed(&self, site: &Site<'_>) -> Result<()> {
        let command = self.command.as_deref().unwrap_or_default();
        let needed = [
            (
                "{magent}",
                site.magent,
                "cargo build --release -p magent, or --magent PATH",
            ),
            (
                "{nutcracker}",
                site.nutcracker,
                "apt-get install nutcracker",
            ),
        ];
        for (placeholder, path, remedy) in needed {
            if command.contains(placeholder) && find_program(&path.to_string_lossy()).is_none() {
                bail!("{}: no program {} ({remedy})", self.name, path.display());
            }
        }
        Ok(())
    }

    /// The words that start this proxy in front of the site's backends, listening on `port`.
    pub(crate) fn words(&self, site: &Site<'_>, port: u16) -> Result<Vec<OsString>> {
        let command = self.command.as_deref().context("not a proxy")?;
        let mut words = Vec::new();
        for word in command.split_whitespace() {
            let (flag, servers) = match word {
                "{-s}" => ("-s", site.backends),
                "{-b}" => ("-b", site.backups),
                _ => {
                    words.push(self.fill_in(word, site, port)?);
                    continue;
                }
            };
            for server in servers {
                words.extend([flag.into(), server.to_string().into()]);
            }
        }
        Ok(words)
    }

    fn fill_in(&self, word: &str, site: &Site<'_>, port: u16) -> Result<OsString> {
        let program = |path: &Path| {
            let found = find_program(&path.to_string_lossy());
            found
                .unwrap_or_else(|| path.to_owned())
                .display()
                .to_string()
        };
        let mut out = String::new();
        let mut rest = word;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').context("a { without }")?;
            out.push_str(before);
            match name {
                "port" => write!(out, "{port}")?,
                "clients" => write!(out, "{}", site.clients)?,
                "workers" => write!(out, "{}", site.workers)?,
                "spare-port" => write!(out, "{}", free_port()?)?,
                "magent" => out.push_str(&program(site.magent)),
                "nutcracker" => out.push_str(&program(site.nutcracker)),
                "memcached" => out.push_str(&program(site.memcached)),
                "tls-pair" => write!(out, "{}", tls::write_pair(site.dir)?.display())?,
                "dir" => write!(out, "{}", site.dir.display())?,
                "servers" => {
                    let servers: Vec<String> =
                        site.backends.iter().map(ToString::to_string).collect();
                    out.push_str(&servers.join(","));
                }
                "nutcracker-conf" => {
                    let path = self.write_nutcracker_conf(site, port)?;
                    write!(out, "{}", path.display())?;
                }
                _ => bail!("unknown placeholder {{{name}}} (known: {})", placeholders()),
            }
            rest = after;
        }
        out.push_str(rest);
        Ok(out.into())
    }

    fn write_nutcracker_conf(&self, site: &Site<'_>, port: u16) -> Result<PathBuf> {
        let path = site.dir.join(format!("{}-{port}.yml", self.name));
        fs::write(&path, nutcracker_conf(site.backends, port))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

/// nutcracker's defaults but for what makes the comparison fair: the same placement of keys as
/// `magent -k`, connections to backends from the start, a listen queue that takes 2,000 clients
/// at once, and nothing that drops a backend.
fn nutcracker_conf(backends: &[SocketAddr], port: u16) -> String {
    let mut conf = format!(
        "bench:\n  listen: 127.0.0.1:{port}\n  hash: md5\n  distribution: ketama\n  \
         timeout: 2000\n  backlog: 4096\n  preconnect: true\n  auto_eject_hosts: false\n  \
         servers:\n"
    );
    for backend in backends {
        conf.push_str(&format!("   - {backend}:1\n"));
    }
    conf
}

/// A row of the table.
struct Row {
    name: &'static str,
    command: Option<&'static str>,
    tls_command: Option<&'static str>,
    meta: Meta,
}

/// The same magent with a second copy of each item on the backups.
pub(crate) const WITH_BACKUPS: &str = "with-backups";

const PEERS: &[Row] = &[
    Row {
        name: "magent",
        command: Some(
            "{magent} -D -p {port} -l 127.0.0.1 -n {clients} {-s} --threads {workers} -k",
        ),
        tls_command: Some(
            "{magent} -D -l tls:127.0.0.1:{port} --tls-cert {tls-pair} -n {clients} {-s} \
             --threads {workers} -k",
        ),
        meta: Meta::Known,
    },
    Row {
        name: WITH_BACKUPS,
        command: Some(
            "{magent} -D -p {port} -l 127.0.0.1 -n {clients} {-s} {-b} --threads {workers} -k",
        ),
        tls_command: None,
        meta: Meta::Known,
    },
    Row {
        name: "nutcracker",
        command: Some(
            "{nutcracker} -c {nutcracker-conf} -s {spare-port} -a 127.0.0.1 -v 4 \
             -o {dir}/nutcracker-{port}.out -p {dir}/nutcracker-{port}.pid",
        ),
        tls_command: None,
        meta: Meta::Unknown,
    },
    Row {
        name: "direct",
        command: None,
        tls_command: None,
        meta: Meta::Known,
    },
];

/// Every placeholder of a command, with its meaning.
pub(crate) const PLACEHOLDERS: &[(&str, &str)] = &[
    ("{port}", "the port to listen on, at 127.0.0.1"),
    ("{-s}", "\"-s 127.0.0.1:PORT\" for each backend"),
    ("{-b}", "\"-b 127.0.0.1:PORT\" for each of --backups"),
    (
        "{clients}",
        "the client connections that the workload needs, and some",
    ),
    ("{workers}", "threads: 1, but where workers are compared"),
    ("{servers}", "the backends, separated by commas"),
    ("{spare-port}", "another free port"),
    ("{dir}", "a directory for files, removed at the end"),
    (
        "{nutcracker-conf}",
        "a configuration file for nutcracker with these backends",
    ),
    ("{tls-pair}", "a file with a certificate and its key"),
    ("{magent}", "the path of --magent"),
    ("{nutcracker}", "the path of --nutcracker"),
    ("{memcached}", "the path of --memcached"),
];

fn placeholders() -> String {
    PLACEHOLDERS
        .iter()
        .map(|(name, _)| *name)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::loopback;

    fn words(peer: &Peer, dir: &Path) -> Vec<String> {
        let backends = [1_001, 1_002, 1_003].map(loopback);
        let site = Site {
            magent: Path::new("/opt/magent"),
            nutcracker: Path::new("/opt/nutcracker"),
            memcached: Path::new("/opt/memcached"),
            dir,
            backends: &backends[..2],
            backups: &backends[2..],
            clients: 4_096,
            workers: 1,
        };
        let words = peer.words(&site, 9_000).unwrap();
        words
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect()
    }

    #[test]
    fn magent_is_started_as_a_user_would() {
        let words = words(&Peer::built_in("magent").unwrap(), Path::new("/none"));
        let expected = "/opt/magent -D -p 9000 -l 127.0.0.1 -n 4096 -s 127.0.0.1:1001 \
                        -s 127.0.0.1:1002 --threads 1 -k";
        assert_eq!(words.join(" "), expected);
    }

    #[test]
    fn backups_are_for_who_asks() {
        let peer = Peer::built_in(WITH_BACKUPS).unwrap();
        assert!(peer.needs_backups() && !Peer::built_in("magent").unwrap().needs_backups());
        let words = words(&peer, Path::new("/none")).join(" ");
        assert!(
            words.contains("-s 127.0.0.1:1002 -b 127.0.0.1:1003 --threads"),
            "{words}"
        );
    }

    #[test]
    fn nutcracker_gets_a_configuration_file() {
        let dir = tempfile::tempdir().unwrap();
        let words = words(&Peer::built_in("nutcracker").unwrap(), dir.path());
        let conf = fs::read_to_string(&words[2]).unwrap();
        for line in [
            "  listen: 127.0.0.1:9000",
            "  hash: md5",
            "   - 127.0.0.1:1002:1",
        ] {
            assert!(
                conf.lines().any(|have| have == line),
                "{line} not in\n{conf}"
            );
        }
    }

    #[test]
    fn peers_from_the_command_line() {
        let peer = Peer::parse("old=/tmp/old -p {port} --to={servers}").unwrap();
        assert_eq!(peer.meta, Meta::Known);
        let expected = "/tmp/old -p 9000 --to=127.0.0.1:1001,127.0.0.1:1002";
        assert_eq!(words(&peer, Path::new("/none")).join(" "), expected);
        let twin = Peer::parse("twin={nutcracker} -c {nutcracker-conf}").unwrap();
        assert_eq!(twin.meta, Meta::Unknown);
        for bad in [
            "old",
            "=x {port}",
            "a b=x {port}",
            "old=x",
            "direct=x {port}",
        ] {
            assert!(Peer::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_built_in_peer_is_known() {
        for name in Peer::names() {
            assert_eq!(Peer::built_in(name).unwrap().name, name);
        }
        assert!(Peer::built_in("nonsense").is_none());
    }
}
