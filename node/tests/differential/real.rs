//! A real memcached on a free port, killed at the end, and one connection to it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) struct Memcached {
    child: Child,
    addr: SocketAddr,
    stream: TcpStream,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) closed: bool,
}

impl Memcached {
    /// Starts with these options besides port and address.
    pub(crate) fn start(options: &[&str]) -> Self {
        for _ in 0..STARTS_MAX {
            if let Some(memcached) = Self::try_start(options) {
                return memcached;
            }
        }
        panic!("memcached did not start on any of {STARTS_MAX} free ports");
    }

    /// `None` if another process took the port in between.
    fn try_start(options: &[&str]) -> Option<Self> {
        let addr = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let port = addr.port().to_string();
        let child = Command::new("memcached")
            .args(["-u", "root", "-l", "127.0.0.1", "-p", &port, "-U", "0"])
            .args(options)
            .stderr(Stdio::null())
            .spawn();
        let mut child = child.unwrap_or_else(|error| {
            panic!("cannot start memcached ({error}); install it with: apt-get install memcached")
        });
        let started = Instant::now();
        loop {
            if let Ok(stream) = TcpStream::connect(addr) {
                set_up(&stream);
                return Some(Self {
                    child,
                    addr,
                    stream,
                });
            }
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "memcached does not listen on {addr}"
            );
            std::thread::yield_now();
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn own_addr(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Sends and reads until `terminator` or the end of the connection.
    pub(crate) fn ask(&mut self, bytes: &[u8], terminator: &[u8]) -> Answer {
        self.ask_until(bytes, |answer| answer.ends_with(terminator))
    }

    /// A dump, or the one line that refuses it.
    pub(crate) fn ask_for_dump(&mut self, bytes: &[u8]) -> Answer {
        self.ask_until(bytes, |answer| {
            answer.ends_with(b"END\r\n") || answer.starts_with(b"BUSY") && answer.ends_with(b"\r\n")
        })
    }

    fn ask_until(&mut self, bytes: &[u8], ended: impl Fn(&[u8]) -> bool) -> Answer {
        // A server that closes without reading everything resets the connection.
        let sent = self.stream.write_all(bytes);
        let mut answer = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = match self.stream.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
                Err(error) => panic!(
                    "no end of the answer ({error}), sent {}, so far {}",
                    bytes[..bytes.len().min(200)].escape_ascii(),
                    answer.escape_ascii()
                ),
            };
            if count == 0 {
                return Answer {
                    bytes: answer,
                    closed: true,
                };
            }
            answer.extend_from_slice(&buffer[..count]);
            if ended(&answer) {
                sent.unwrap();
                return Answer {
                    bytes: answer,
                    closed: false,
                };
            }
        }
    }

    pub(crate) fn reconnect(&mut self) {
        self.stream = TcpStream::connect(self.addr).unwrap();
        set_up(&self.stream);
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn set_up(stream: &TcpStream) {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const STARTS_MAX: usize = 5;
