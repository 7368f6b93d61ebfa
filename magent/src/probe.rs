//! Is somebody there, is it a memcached, which one, and what has it kept of our earlier connections? Asked on a
//! fresh connection.
//!
//! # Invariants
//!
//! - Who speaks the protocol is there, whatever its statistics lack: `version` decides, all else may be missing.
//! - Every question is answered within the limit, and no answer is kept whole: a backend cannot fill our memory.
//! - That a connection is *not* listed says something only where this probe's own one is: between us and a backend
//!   behind an address translation, addresses mean nothing.
//!
//! Not here: which connections are looked for (`fence`), what an answer means (`magent_core::keeper`).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use magent_core::keeper::{Failure, Identity, ProbeAnswer};
use magent_core::known::Process;
use magent_core::placement::Version;
use magent_core::proto::binary::{HEADER_LEN, REQUEST_MAGIC, RESPONSE_MAGIC};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::time::sleep;

use crate::auth::backend::failure_of_answer;
use crate::dial::{Destination, Dialled, dial};
use crate::fence::LookFor;
use crate::stall;
use crate::worker::failure_of;

/// Longest line of an answer. A unix socket's path is the longest thing in `stats conns`.
const LINE_LEN_MAX: u64 = 1_024;

/// Most lines of an answer: four for each of 65,000 connections, and many more.
const LINES_MAX: usize = 1 << 20;

/// Bytes of a mark's value, its line end included: two numbers of 20 digits.
const MARK_LEN_MAX: u64 = 64;

/// A memcached that has just gone on may not have looked yet at what its kernel has accepted: so it is asked
/// twice, with this pause.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Connects and asks. Connecting, and each answer, may take up to `limit`.
pub(crate) async fn probe(
    to: &Destination,
    look_for: &LookFor,
    mark_key: Option<&[u8]>,
    limit: Duration,
) -> Result<ProbeAnswer, Failure> {
    let asked = match dial(to, limit).await {
        Ok(Dialled::Tls(stream, local)) => {
            ask(stream, Some(local), (look_for, mark_key), limit).await
        }
        Ok(Dialled::Tcp(stream, local)) => {
            ask(stream, Some(local), (look_for, mark_key), limit).await
        }
        Ok(Dialled::Unix(stream)) => ask(stream, None, (look_for, mark_key), limit).await,
        Err(failure) => Err(failure),
    };
    match asked {
        Err(Failure::Reset | Failure::Silent) if speaks_binary(to, limit / 4).await => {
            Err(Failure::BinaryOnly)
        }
        asked => asked,
    }
}

/// Whether one who has no answer to text answers a packet. memcached -S waits for 24 bytes and then hangs up on all
/// that is none.
async fn speaks_binary(to: &Destination, limit: Duration) -> bool {
    let stranger = Destination {
        login: None,
        ..to.clone()
    };
    match dial(&stranger, limit).await {
        Ok(Dialled::Tls(stream, _)) => answers_packet(stream, limit).await,
        Ok(Dialled::Tcp(stream, _)) => answers_packet(stream, limit).await,
        Ok(Dialled::Unix(stream)) => answers_packet(stream, limit).await,
        Err(_) => false,
    }
}

async fn answers_packet(mut stream: impl AsyncRead + AsyncWrite + Unpin, limit: Duration) -> bool {
    const VERSION: u8 = 0x0b;
    let mut packet = [0; HEADER_LEN];
    packet[..2].copy_from_slice(&[REQUEST_MAGIC, VERSION]);
    let asking = async {
        stream.write_all(&packet).await?;
        stream.read_u8().await
    };
    matches!(stall::within(limit, asking).await, Some(Ok(RESPONSE_MAGIC)))
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    local: Option<SocketAddr>,
    (look_for, mark_key): (&LookFor, Option<&[u8]>),
    limit: Duration,
) -> Result<ProbeAnswer, Failure> {
    let mut session = Session::new(stream);
    let version = within(limit, session.version()).await?;
    let stats = within(limit, session.stats()).await?;
    let known = match mark_key {
        Some(key) => within(limit, session.mark(key)).await?,
        None => None,
    };
    let explicit_cas = within(limit, session.explicit_cas()).await?;
    let mut lingering = match look_for {
        LookFor::Nothing => Some(false),
        LookFor::Addresses(_) => None,
        LookFor::Unknowable => None,
    };
    if let (LookFor::Addresses(old), Some(own)) = (look_for, local) {
        for again in [false, true] {
            if again {
                sleep(LOOK_AGAIN).await;
            }
            lingering = within(limit, session.connections(own, old)).await?;
            if lingering != Some(false) {
                break;
            }
        }
    }
    Ok(ProbeAnswer {
        version,
        identity: stats.identity(),
        items: stats.items,
        known,
        explicit_cas,
        flushes: stats.flushes,
        lingering,
    })
}

async fn within<T>(
    limit: Duration,
    asking: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let asked = stall::within(limit, asking).await;
    asked.unwrap_or(Err(Failure::Silent))
}

/// One connection and the answers on it.
struct Session<S> {
    stream: BufReader<S>,
    line: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    fn new(stream: S) -> Self {
        Self {
            stream: BufReader::new(stream),
            line: Vec::new(),
        }
    }

    async fn send(&mut self, command: &[u8]) -> Result<(), Failure> {
        let failed = |err| failure_of(&err);
        self.stream.write_all(command).await.map_err(failed)?;
        // TLS may hold it back.
        self.stream.flush().await.map_err(failed)
    }

    /// The next line, without its end.
    async fn line(&mut self) -> Result<&[u8], Failure> {
        self.line.clear();
        let mut bounded = (&mut self.stream).take(LINE_LEN_MAX);
        let read = bounded.read_until(b'\n', &mut self.line).await;
        match read.map_err(|err| failure_of(&err))? {
            0 => Err(Failure::Reset),
            _ => {
                let line = self.line.strip_suffix(b"\n").ok_or(Failure::BadProbe)?;
                Ok(line.strip_suffix(b"\r").unwrap_or(line))
            }
        }
    }

    /// A version that cannot be read is none, but a memcached answers.
    async fn version(&mut self) -> Result<Option<Version>, Failure> {
        self.send(b"version\r\n").await?;
        let line = self.line().await?;
        let Some(version) = line.strip_prefix(b"VERSION ") else {
            return Err(failure_of_answer(line));
        };
        Ok(Version::parse(version))
    }

    /// Whether it takes an item's CAS unique from its client. Nothing is deleted: no item has this unique.
    async fn explicit_cas(&mut self) -> Result<bool, Failure> {
        self.send(b"md magent.probe E1 C18446744073709551615\r\n")
            .await?;
        let line = self.line().await?;
        Ok(line.starts_with(b"NF") || line.starts_with(b"EX"))
    }

    /// The process that the mark of the pool names. What cannot be read is none: any client may have stored it.
    async fn mark(&mut self, key: &[u8]) -> Result<Option<Process>, Failure> {
        self.send(&[b"get ", key, b"\r\n"].concat()).await?;
        let line = self.line().await?;
        if !line.starts_with(b"VALUE ") {
            return Ok(None);
        }
        let mut words = str::from_utf8(line).unwrap_or_default().split(' ');
        let len: u64 = words
            .nth(3)
            .and_then(|len| len.parse().ok())
            .ok_or(Failure::BadProbe)?;
        let mut value = Vec::new();
        let mut rest = (&mut self.stream).take(len + 2);
        let failed = |err| failure_of(&err);
        (&mut rest)
            .take(MARK_LEN_MAX)
            .read_to_end(&mut value)
            .await
            .map_err(failed)?;
        tokio::io::copy(&mut rest, &mut tokio::io::sink())
            .await
            .map_err(failed)?;
        match self.line().await? {
            b"END" => Ok(value.strip_suffix(b"\r\n").and_then(Process::parse)),
            _ => Err(Failure::BadProbe),
        }
    }

    async fn stats(&mut self) -> Result<Stats, Failure> {
        self.send(b"stats\r\n").await?;
        let mut stats = Stats::default();
        for _ in 0..LINES_MAX {
            match stat(self.line().await?) {
                Some((name, value)) => stats.note(name, value),
                None => return Ok(stats),
            }
        }
        Err(Failure::BadProbe)
    }

    /// Whether one of the `old` connections is there; `None` if not even ours is.
    async fn connections(
        &mut self,
        own: SocketAddr,
        old: &[SocketAddr],
    ) -> Result<Option<bool>, Failure> {
        self.send(b"stats conns\r\n").await?;
        let (mut sees_own, mut sees_old) = (false, false);
        for _ in 0..LINES_MAX {
            let Some((name, value)) = stat(self.line().await?) else {
                return Ok((sees_own || sees_old).then_some(sees_old));
            };
            if name.ends_with(b":addr")
                && let Some(peer) = peer(value)
            {
                sees_own |= is_same(own, peer);
                sees_old |= old.iter().any(|&old| is_same(old, peer));
            }
        }
        Err(Failure::BadProbe)
    }
}

/// `STAT name value`; anything else is the end of the answer.
fn stat(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_prefix(b"STAT ")?;
    let space = line.iter().position(|&byte| byte == b' ')?;
    Some((&line[..space], &line[space + 1..]))
}

/// `tcp:127.0.0.1:47326`, `tcp6:[::1]:47326`.
fn peer(value: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(value).ok()?;
    let (kind, address) = text.split_once(':')?;
    matches!(kind, "tcp" | "tcp6")
        .then(|| address.parse().ok())
        .flatten()
}

/// A server that listens on `::` shows IPv4 as a kind of IPv6, and nobody shows scopes.
fn is_same(a: SocketAddr, b: SocketAddr) -> bool {
    let ip = |address: SocketAddr| -> IpAddr { address.ip().to_canonical() };
    a.port() == b.port() && ip(a) == ip(b)
}

/// What is taken from `stats`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stats {
    pid: Option<u64>,
    uptime: Option<i64>,
    time: Option<i64>,
    connections: u64,
    sets: u64,
    items_stored: u64,
    items: u64,
    flushes: u64,
}

impl Stats {
    fn note(&mut self, name: &[u8], value: &[u8]) {
        let Some(text) = std::str::from_utf8(value).ok() else {
            return;
        };
        let number = || text.parse().unwrap_or(0);
        match name {
            b"pid" => self.pid = text.parse().ok(),
            b"uptime" => self.uptime = text.parse().ok(),
            b"time" => self.time = text.parse().ok(),
            b"total_connections" => self.connections = number(),
            b"cmd_set" => self.sets = number(),
            b"total_items" => self.items_stored = number(),
            b"curr_items" => self.items = number(),
            b"cmd_flush" => self.flushes = number(),
            _ => {}
        }
    }

    fn identity(&self) -> Option<Identity> {
        Some(Identity {
            pid: self.pid?,
            started_unix_s: self.time?.checked_sub(self.uptime?)?,
            uptime_s: u64::try_from(self.uptime?).ok()?,
            connections: self.connections,
            sets: self.sets,
            items_stored: self.items_stored,
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const OWN: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 47326);
    const LIMIT: Duration = Duration::from_secs(60);

    /// Answers each line with the next of `answers`.
    async fn serve(stream: DuplexStream, answers: &[&str]) {
        let mut stream = BufReader::new(stream);
        for answer in answers {
            let mut line = String::new();
            let read = stream.read_line(&mut line).await;
            if !read.is_ok_and(|len| len > 0) || stream.write_all(answer.as_bytes()).await.is_err()
            {
                // The other side has heard enough.
                return;
            }
        }
        let more = stream.read_line(&mut String::new()).await;
        assert_eq!(more.unwrap(), 0, "asked more than there are answers");
    }

    fn asked(answers: &[&str], look_for: &LookFor) -> Result<ProbeAnswer, Failure> {
        asked_for(answers, look_for, None)
    }

    fn asked_for(
        answers: &[&str],
        look_for: &LookFor,
        mark_key: Option<&[u8]>,
    ) -> Result<ProbeAnswer, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let (ours, theirs) = duplex(64);
        runtime.block_on(async {
            let asking = ask(ours, Some(OWN), (look_for, mark_key), LIMIT);
            tokio::join!(asking, serve(theirs, answers)).0
        })
    }

    const VERSION: &str = "VERSION 1.6.18\r\n";
    const NO_E: &str = "CLIENT_ERROR invalid flag\r\n";
    /// Of a real 1.6.18, shortened.
    const STATS: &str = "STAT pid 24344\r\nSTAT uptime 2\r\nSTAT time 1795345068\r\n\
        STAT version 1.6.18\r\nSTAT total_connections 2\r\nSTAT cmd_set 7\r\nSTAT cmd_flush 1\r\n\
        STAT curr_items 5\r\nSTAT total_items 9\r\nEND\r\n";

    fn conns(peers: &[&str]) -> String {
        let mut text = String::from(
            "STAT 23:addr tcp:127.0.0.1:36053\r\nSTAT 23:state conn_listening\r\n\
             STAT 23:secs_since_last_cmd 0\r\n",
        );
        for peer in peers {
            text.push_str(&format!(
                "STAT 24:addr {peer}\r\nSTAT 24:listen_addr tcp:127.0.0.1:36053\r\n\
                 STAT 24:state conn_parse_cmd\r\nSTAT 24:secs_since_last_cmd 0\r\n"
            ));
        }
        text + "END\r\n"
    }

    #[test]
    fn who_answers() {
        let answer = asked(&[VERSION, STATS, NO_E], &LookFor::Nothing).unwrap();
        let identity = Identity {
            pid: 24344,
            started_unix_s: 1_795_345_066,
            uptime_s: 2,
            connections: 2,
            sets: 7,
            items_stored: 9,
        };
        assert_eq!(answer.identity, Some(identity));
        assert_eq!((answer.items, answer.flushes), (5, 1));
        assert_eq!(answer.version, Version::parse(b"1.6.18"));
        assert_eq!(answer.lingering, Some(false));
        assert!(!answer.explicit_cas);
        let answer = asked(&["VERSION 1.6.45\r\n", STATS, "NF\r\n"], &LookFor::Nothing);
        assert!(answer.unwrap().explicit_cas);
    }

    #[test]
    fn who_says_little_is_there_all_the_same() {
        for stats in ["ERROR\r\n", "END\r\n", "STAT pid x\r\nEND\r\n"] {
            let answer =
                asked(&["VERSION new\r\n", stats, "ERROR\r\n"], &LookFor::Nothing).unwrap();
            assert_eq!((answer.version, answer.identity), (None, None));
        }
        let bad = asked(&["HTTP/1.1 400 Bad Request\r\n"], &LookFor::Nothing);
        assert_eq!(bad, Err(Failure::BadProbe));
        let long = "V".repeat(2_000);
        assert_eq!(asked(&[&long], &LookFor::Nothing), Err(Failure::BadProbe));
    }

    #[test]
    fn the_mark_of_the_pool() {
        let marked = |answer: &str| {
            let answers = [VERSION, STATS, answer, NO_E];
            asked_for(&answers, &LookFor::Nothing, Some(b"m")).map(|answer| answer.known)
        };
        let process = Process {
            pid: 7,
            started_unix_s: 1_795_345_066,
        };
        let value = "VALUE m 0 12\r\n7 1795345066\r\nEND\r\n";
        assert_eq!(marked(value), Ok(Some(process)));
        // Nobody has set it, it is not ours, the backend has other things to say.
        let long = "7 1\r\n".repeat(1_000);
        let long = format!("VALUE m 0 {}\r\n{long}\r\nEND\r\n", long.len());
        for other in [
            "END\r\n",
            "VALUE m 0 1\r\nx\r\nEND\r\n",
            "VALUE m 0 0\r\n\r\nEND\r\n",
            &long,
            "SERVER_ERROR busy\r\n",
        ] {
            assert_eq!(marked(other), Ok(None));
        }
        assert_eq!(marked("VALUE m 0\r\n"), Err(Failure::BadProbe));
        let endless = "VALUE m 0 3\r\n7 1\r\nVALUE m 0 3\r\n";
        assert_eq!(marked(endless), Err(Failure::BadProbe));
    }

    #[test]
    fn an_old_connection_is_found() {
        let old = LookFor::Addresses(vec![SocketAddr::from(([127, 0, 0, 1], 1_000))]);
        let own = "tcp:127.0.0.1:47326";
        let lingering = |listings: &[&str]| {
            let answers = [&[VERSION, STATS, NO_E], listings].concat();
            asked(&answers, &old).unwrap().lingering
        };
        let clean = conns(&[own]);
        assert_eq!(lingering(&[&clean, &clean]), Some(false));
        let found = conns(&["tcp:127.0.0.1:1000", own]);
        assert_eq!(lingering(&[&found]), Some(true));
        // It had not been taken in yet when it was looked for first.
        assert_eq!(lingering(&[&clean, &found]), Some(true));
        let mapped = conns(&[
            "tcp6:[::ffff:127.0.0.1]:1000",
            "tcp6:[::ffff:127.0.0.1]:47326",
        ]);
        assert_eq!(lingering(&[&mapped]), Some(true));
        // Our own connection is not listed under the address that we know.
        assert_eq!(lingering(&[&conns(&["tcp:10.0.0.1:47326"])]), None);
        assert_eq!(lingering(&["ERROR\r\n"]), None);
        let answer = asked(&[VERSION, STATS, NO_E], &LookFor::Unknowable).unwrap();
        assert_eq!(answer.lingering, None);
    }
}
