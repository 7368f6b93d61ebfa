//! A small blocking client of the text protocols: exact bytes where a test is about bytes, and a few
//! commands where it is about values.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use super::Endpoint;
use super::endpoint::Stream;

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<Stream>,
}

/// Flags and value, and the version that `cas` takes.
pub(crate) type Versioned = ((u32, Vec<u8>), u64);

/// What a command ended in, or the error line or connection error instead.
pub(crate) type Outcome<T> = Result<T, String>;

impl Client {
    #[track_caller]
    pub(crate) fn connect(endpoint: &Endpoint) -> Self {
        Self::try_connect(endpoint).unwrap()
    }

    pub(crate) fn try_connect(endpoint: &Endpoint) -> Outcome<Self> {
        let stream = endpoint
            .connect()
            .map_err(|err| format!("connect to {endpoint}: {err}"))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// On a socket that is connected already.
    pub(crate) fn from_tcp(stream: TcpStream) -> Self {
        Self {
            stream: BufReader::new(Stream::Tcp(stream)),
        }
    }

    /// The socket beneath, of a client that is connected by TCP and has nothing left unread.
    #[track_caller]
    pub(crate) fn into_tcp(self) -> TcpStream {
        assert!(self.stream.buffer().is_empty(), "answers would be lost");
        match self.stream.into_inner() {
            Stream::Tcp(stream) => stream,
            Stream::Unix(_) | Stream::Tls(_) => panic!("not connected by plain TCP"),
        }
    }

    /// Sends `bytes` as they are.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    /// Reads as many bytes as `expected` has, and compares.
    #[track_caller]
    pub(crate) fn expect(&mut self, expected: &[u8]) {
        let mut answer = Vec::with_capacity(expected.len());
        // Line by line, so that a shorter answer fails at once and not at the deadline.
        while answer.len() < expected.len() {
            let line = self.try_line().unwrap_or_else(|err| {
                panic!(
                    "{err}\n so far: {}\nexpected: {}",
                    shown(&answer),
                    shown(expected)
                )
            });
            answer.extend_from_slice(&line);
            answer.extend_from_slice(b"\r\n");
            let compared = answer.len().min(expected.len());
            if answer[..compared] != expected[..compared] || answer.len() > expected.len() {
                panic!(
                    "  answer: {}\nexpected: {}",
                    shown(&answer),
                    shown(expected)
                );
            }
        }
    }

    /// Sends `request`, expects `answer`.
    #[track_caller]
    pub(crate) fn ask(&mut self, request: &[u8], answer: &[u8]) {
        self.send(request);
        self.expect(answer);
    }

    /// Sends `request` and reads one line, its end not included.
    #[track_caller]
    pub(crate) fn ask_line(&mut self, request: &[u8]) -> String {
        self.send(request);
        String::from_utf8(self.try_line().unwrap()).unwrap()
    }

    /// The next line, its end not included.
    #[track_caller]
    pub(crate) fn line(&mut self) -> Vec<u8> {
        self.try_line().unwrap()
    }

    /// Says that no more requests will come.
    #[track_caller]
    pub(crate) fn half_close(&mut self) {
        self.stream.get_mut().shutdown_write().unwrap();
    }

    /// Everything up to the end of the connection, whether closed or reset.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        read_to_end(&mut self.stream)
    }

    /// Everything up to the next `MN` line, or why it did not come. Values
    /// are skipped by their length, so they may hold such a line.
    pub(crate) fn until_meta_noop(&mut self) -> Outcome<Vec<u8>> {
        let mut answer = Vec::new();
        loop {
            let line = self
                .try_line()
                .map_err(|err| format!("{err}\nso far: {}", shown(&answer)))?;
            if line == b"MN" {
                return Ok(answer);
            }
            let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
            let value_len = match words[..] {
                [b"VALUE", _, _, len, ..] | [b"VA", len, ..] => Some(len),
                _ => None,
            };
            let value_len: Option<usize> =
                value_len.and_then(|len| std::str::from_utf8(len).ok()?.parse().ok());
            answer.extend_from_slice(&line);
            answer.extend_from_slice(b"\r\n");
            if let Some(value_len) = value_len {
                let start = answer.len();
                answer.resize(start + value_len + 2, 0);
                let read = self.stream.read_exact(&mut answer[start..]);
                read.map_err(|err| format!("{err}\nso far: {}", shown(&answer)))?;
            }
        }
    }

    /// The value of `key`.
    #[track_caller]
    pub(crate) fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        self.try_get(key).unwrap()
    }

    /// The values of `keys`, without the misses.
    #[track_caller]
    pub(crate) fn get_many(&mut self, keys: &[&str]) -> BTreeMap<String, Vec<u8>> {
        self.try_get_many(keys).unwrap()
    }

    /// Stores, and expects that to succeed.
    #[track_caller]
    pub(crate) fn set(&mut self, key: &str, value: &[u8]) {
        assert_eq!(
            self.try_store("set", key, value).unwrap(),
            "STORED",
            "set {key}"
        );
    }

    /// Deletes, and expects the key to have been there.
    #[track_caller]
    pub(crate) fn delete(&mut self, key: &str) {
        self.ask(format!("delete {key}\r\n").as_bytes(), b"DELETED\r\n");
    }

    /// `stats` with `args`, by name.
    #[track_caller]
    pub(crate) fn stats(&mut self, args: &str) -> BTreeMap<String, String> {
        self.send(format!("stats {args}\r\n").as_bytes());
        let mut stats = BTreeMap::new();
        loop {
            let line = String::from_utf8(self.line()).unwrap();
            if line == "END" {
                return stats;
            }
            let (name, value) = line
                .strip_prefix("STAT ")
                .map(|stat| stat.split_once(' ').unwrap_or((stat, "")))
                .unwrap_or_else(|| panic!("not a STAT line: {line}"));
            stats.insert(name.to_owned(), value.to_owned());
        }
    }

    /// What time a memcached, or the proxy, says it is: in seconds since 1970.
    #[track_caller]
    pub(crate) fn server_time(&mut self) -> u64 {
        self.stats("")["time"].parse().unwrap()
    }

    pub(crate) fn try_get(&mut self, key: &str) -> Outcome<Option<Vec<u8>>> {
        Ok(self.try_get_many(&[key])?.remove(key))
    }

    pub(crate) fn try_get_many(&mut self, keys: &[&str]) -> Outcome<BTreeMap<String, Vec<u8>>> {
        let items = self.try_get_items(keys)?;
        let value = |(key, (_client_flags, value))| (key, value);
        Ok(items.into_iter().map(value).collect())
    }

    /// Flags and values of `keys`, without the misses.
    pub(crate) fn try_get_items(
        &mut self,
        keys: &[&str],
    ) -> Outcome<BTreeMap<String, (u32, Vec<u8>)>> {
        self.try_send(format!("get {}\r\n", keys.join(" ")).as_bytes())?;
        let mut items = BTreeMap::new();
        loop {
            let line = String::from_utf8_lossy(&self.try_line()?).into_owned();
            if line == "END" {
                return Ok(items);
            }
            let words: Vec<&str> = line.split(' ').collect();
            let ["VALUE", key, client_flags, len] = words[..] else {
                return Err(line);
            };
            let client_flags = client_flags.parse().map_err(|_| line.clone())?;
            let mut value = vec![0; len.parse::<usize>().map_err(|_| line.clone())? + 2];
            self.stream
                .read_exact(&mut value)
                .map_err(|err| err.to_string())?;
            value.truncate(value.len() - 2);
            items.insert(key.to_owned(), (client_flags, value));
        }
    }

    /// Flags and value of `key`, and its version for `cas`.
    pub(crate) fn try_gets(&mut self, key: &str) -> Outcome<Option<Versioned>> {
        self.try_send(format!("gets {key}\r\n").as_bytes())?;
        let line = String::from_utf8_lossy(&self.try_line()?).into_owned();
        if line == "END" {
            return Ok(None);
        }
        let words: Vec<&str> = line.split(' ').collect();
        let ["VALUE", _, client_flags, len, version] = words[..] else {
            return Err(line);
        };
        let bad = |_| line.clone();
        let mut value = vec![0; len.parse::<usize>().map_err(bad)? + 2];
        let client_flags = client_flags.parse().map_err(bad)?;
        let version = version.parse().map_err(bad)?;
        self.stream
            .read_exact(&mut value)
            .map_err(|err| err.to_string())?;
        value.truncate(value.len() - 2);
        match self.try_line()?.as_slice() {
            b"END" => Ok(Some(((client_flags, value), version))),
            other => Err(shown(other)),
        }
    }

    /// A storage command; its answer if that is no error.
    pub(crate) fn try_store(&mut self, verb: &str, key: &str, value: &[u8]) -> Outcome<String> {
        self.try_store_item(verb, key, 0, 0, value)
    }

    /// The same with flags and an expiry.
    pub(crate) fn try_store_item(
        &mut self,
        verb: &str,
        key: &str,
        client_flags: u32,
        exptime: u64,
        value: &[u8],
    ) -> Outcome<String> {
        let head = format!("{verb} {key} {client_flags} {exptime} {}\r\n", value.len());
        self.try_send(&[head.as_bytes(), value, b"\r\n"].concat())?;
        self.try_answer()
    }

    /// A command of one line; its answer if that is no error.
    pub(crate) fn try_command(&mut self, line: &str) -> Outcome<String> {
        self.try_send(format!("{line}\r\n").as_bytes())?;
        self.try_answer()
    }

    fn try_answer(&mut self) -> Outcome<String> {
        let line = String::from_utf8_lossy(&self.try_line()?).into_owned();
        if line.contains("ERROR") {
            Err(line)
        } else {
            Ok(line)
        }
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.stream
            .get_mut()
            .write_all(bytes)
            .map_err(|err| format!("send: {err}"))
    }

    fn try_line(&mut self) -> Outcome<Vec<u8>> {
        let mut line = Vec::new();
        let read = self.stream.read_until(b'\n', &mut line);
        read.map_err(|err| format!("receive: {err}, after {}", shown(&line)))?;
        if line.pop() != Some(b'\n') {
            return Err(format!("the connection was closed after {}", shown(&line)));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(line)
    }
}

/// Everything that is answered to `bytes` and then a half-close.
#[track_caller]
pub(crate) fn transcript(endpoint: &Endpoint, bytes: &[u8]) -> Vec<u8> {
    let mut stream = endpoint.connect().unwrap();
    let mut writer = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        // From a thread, or both sides would wait for the other to read.
        scope.spawn(move || {
            // A server may close before it has read everything: what it answered is what counts.
            writer
                .write_all(bytes)
                .and_then(|()| writer.shutdown_write())
                .ok();
        });
        read_to_end(&mut stream)
    })
}

#[track_caller]
fn read_to_end(stream: &mut impl Read) -> Vec<u8> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        // A close with unread bytes is a reset; what came before it has been kept.
        Err(err) if err.kind() == io::ErrorKind::ConnectionReset => {}
        Err(err) => panic!("the connection stays open: {err}, after {}", shown(&answer)),
    }
    answer
}

/// Bytes for a message: escaped, the middle left out.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const SHOWN_LEN_MAX: usize = 1_000;
    if bytes.len() <= SHOWN_LEN_MAX {
        return bytes.escape_ascii().to_string();
    }
    let (head, tail) = (
        &bytes[..SHOWN_LEN_MAX / 2],
        &bytes[bytes.len() - SHOWN_LEN_MAX / 2..],
    );
    format!(
        "{} … {} ({} bytes)",
        head.escape_ascii(),
        tail.escape_ascii(),
        bytes.len()
    )
}
