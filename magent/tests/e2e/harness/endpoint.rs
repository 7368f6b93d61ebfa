//! Addresses that nobody else on this machine uses.
//!
//! Every test process has loopback addresses of its own, made from its pid, and hands out each port
//! once. So a port stays free between looking for it and binding it, also while a killed backend is
//! away: outgoing connections start at 127.0.0.1, and no other process binds these addresses.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;

use super::DEADLINE;
use super::tls::{TlsClient, TlsStream};

/// Where a memcached protocol is spoken, written as `-s` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
    /// TCP with TLS.
    Tls(SocketAddr, TlsClient),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tls(address, _) => write!(f, "tls:{address}"),
        }
    }
}

impl Endpoint {
    /// Connects; reads and writes that take longer than [`DEADLINE`] fail.
    pub(crate) fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(address) => Ok(Stream::Tcp(connect_tcp(*address)?)),
            Self::Tls(address, client) => {
                let stream = client.connect(*address)?;
                Ok(Stream::Tls(Box::new(stream)))
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                stream.set_write_timeout(Some(DEADLINE))?;
                Ok(Stream::Unix(stream))
            }
        }
    }

    /// The socket address, of an endpoint that is one.
    #[track_caller]
    pub(crate) fn tcp(&self) -> SocketAddr {
        match self {
            Self::Tcp(address) | Self::Tls(address, _) => *address,
            Self::Unix(path) => panic!("{} has no port", path.display()),
        }
    }
}

pub(super) fn connect_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// A connection to an [`Endpoint`].
#[derive(Debug)]
pub(crate) enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// TLS.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Says that no more bytes will come from this side.
    pub(crate) fn shutdown_write(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
            Self::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.flush()
            }
        }
    }

    /// A second handle to the same connection.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
            Self::Tls(_) => return Err(io::ErrorKind::Unsupported.into()),
        })
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Unix(stream) => stream.read(buf),
            Self::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buf),
            Self::Unix(stream) => stream.write(buf),
            Self::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// An IPv4 loopback address that belongs to this test process; `index` is below 64.
pub(crate) fn loopback(index: u8) -> Ipv4Addr {
    assert!(index < 64, "index {index} leaves 127.128.0.0/10");
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 128 + index, high, low)
}

/// A free TCP endpoint on this process's first loopback address.
pub(crate) fn free_endpoint() -> Endpoint {
    free_endpoint_on(loopback(0).into())
}

/// A free TCP endpoint on `[::1]`, which all processes share: looked for and bound quickly after.
pub(crate) fn free_endpoint_v6() -> Endpoint {
    free_endpoint_on(Ipv6Addr::LOCALHOST.into())
}

/// A free TCP endpoint on 127.0.0.1, for names that resolve to it.
pub(crate) fn free_endpoint_localhost() -> Endpoint {
    free_endpoint_on(Ipv4Addr::LOCALHOST.into())
}

/// A free TCP endpoint on this address of the machine.
pub(crate) fn free_endpoint_on(ip: IpAddr) -> Endpoint {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        if GIVEN.lock().unwrap().insert(address.port()) {
            return Endpoint::Tcp(address);
        }
    }
}
