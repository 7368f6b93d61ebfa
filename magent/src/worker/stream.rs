//! A connection to a client or a backend, whatever its kind.
//!
//! Not here: when it is read and written (`worker`).

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::AsFd;

use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Poll, Token};
use rustix::net::{RecvFlags, SendFlags};
use socket2::SockRef;

use super::tls::{CipherBuffer, TlsStream};

/// Non-blocking.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream>),
}

/// What a read has brought.
pub(super) struct Received {
    /// Bytes in the buffer; 0 is the end.
    pub(super) len: usize,
    /// Whether there may be more that no edge will tell of.
    pub(super) more: bool,
}

/// Where a read's bytes go to.
pub(super) struct Buffers {
    pub(super) plain: Box<[u8]>,
    cipher: CipherBuffer,
}

impl Buffers {
    pub(super) fn new(len: usize) -> Self {
        Self {
            plain: vec![0; len].into_boxed_slice(),
            cipher: CipherBuffer::default(),
        }
    }
}

/// Sets up a socket to a backend at `peer`.
pub(super) fn tune_backend(socket: &TcpStream, peer: IpAddr) {
    // Requests leave whole; waiting for more to send only delays them.
    drop(socket.set_nodelay(true));
    if peer.is_loopback() {
        // Nothing is congested within one machine, but BBR, where that is the system's choice, paces with a timer
        // all the same: a large set cost 1.3 times as much with it. Every kernel has reno and lets everybody use it.
        // Not towards clients: there the pauses between the parts of a large value let small answers pass.
        drop(SockRef::from(socket).set_tcp_congestion(b"reno"));
    }
}

impl Stream {
    /// Reads once: to `room` if there is some, else at most `len_max` bytes to `buffers`.
    #[inline]
    pub(super) fn read(
        &mut self,
        room: Option<&mut Vec<u8>>,
        buffers: &mut Buffers,
        len_max: usize,
    ) -> io::Result<Received> {
        if let Some(room) = room {
            return self.read_to(room);
        }
        let len_max = len_max.min(buffers.plain.len());
        let plain = &mut buffers.plain[..len_max];
        let len = match self {
            Self::Tcp(stream) => rustix::net::recv(stream, plain, RecvFlags::empty())?.0,
            Self::Unix(stream) => rustix::net::recv(stream, plain, RecvFlags::empty())?.0,
            Self::Tls(stream) => return stream.read(&mut buffers.plain, &mut buffers.cipher),
        };
        Ok(Received {
            len,
            more: len == len_max,
        })
    }

    /// Reads once into the spare capacity of `room`. Not for TLS, whose bytes are not those of the socket: see
    /// [`Self::is_plain`].
    #[inline]
    fn read_to(&self, room: &mut Vec<u8>) -> io::Result<Received> {
        let spare = room.capacity() - room.len();
        let buffer = rustix::buffer::spare_capacity(room);
        let len = match self {
            Self::Tcp(stream) => rustix::net::recv(stream, buffer, RecvFlags::empty())?.0,
            Self::Unix(stream) => rustix::net::recv(stream, buffer, RecvFlags::empty())?.0,
            Self::Tls(_) => return Err(ErrorKind::Unsupported.into()),
        };
        Ok(Received {
            len,
            more: len == spare,
        })
    }

    /// Whether the socket has the bytes as they are.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => true,
            Self::Tls(_) => false,
        }
    }

    /// Writes once.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write_vectored(&[IoSlice::new(bytes)]),
        }
    }

    /// Writes once, from several places. What TLS has taken may not have left yet: see [`Self::flush`].
    #[inline]
    pub(super) fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => write_plain(stream, slices),
            Self::Unix(stream) => write_plain(stream, slices),
            Self::Tls(stream) => stream.write_vectored(slices),
        }
    }

    /// Sends what is held back; an error that would block if that is not all. Only TLS holds anything back.
    #[inline]
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
            Self::Tls(stream) => stream.flush(),
        }
    }

    /// Whether anything is held back.
    #[inline]
    pub(super) fn has_unsent(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => false,
            Self::Tls(stream) => stream.has_unsent(),
        }
    }

    /// Goes on with the handshake, of a stream that begins with one; whether it is over.
    pub(super) fn handshake(&mut self) -> io::Result<bool> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Ok(true),
            Self::Tls(stream) => stream.handshake(),
        }
    }

    /// Events of it are told with this token from now on.
    pub(super) fn register(&mut self, poll: &Poll, token: Token) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => poll.registry().register(stream, token, INTEREST),
            Self::Unix(stream) => poll.registry().register(stream, token, INTEREST),
            Self::Tls(stream) => {
                let socket = &mut stream.socket;
                poll.registry().register(socket, token, INTEREST)
            }
        }
    }

    /// The same, of one that had another token. What is ready already is told again.
    pub(super) fn reregister(&mut self, poll: &Poll, token: Token) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => poll.registry().reregister(stream, token, INTEREST),
            Self::Unix(stream) => poll.registry().reregister(stream, token, INTEREST),
            Self::Tls(stream) => {
                let socket = &mut stream.socket;
                poll.registry().reregister(socket, token, INTEREST)
            }
        }
    }

    /// Whether a connection that was begun is there.
    pub(super) fn is_connected(&self) -> io::Result<bool> {
        let tcp = |stream: &TcpStream| {
            io::Result::Ok((stream.take_error()?, stream.peer_addr().map(drop)))
        };
        let (error, peer) = match self {
            Self::Tcp(stream) => tcp(stream)?,
            Self::Tls(stream) => tcp(&stream.socket)?,
            Self::Unix(stream) => (stream.take_error()?, stream.peer_addr().map(drop)),
        };
        if let Some(err) = error {
            return Err(err);
        }
        match peer {
            Ok(()) => Ok(true),
            Err(err) if err.kind() == ErrorKind::NotConnected => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Unless it is a unix socket.
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Tls(stream) => stream.socket.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Closes without losing the last answer: a socket closed with bytes unread is reset, and the peer then
    /// drops what it has not read yet.
    pub(super) fn close(mut self, buffers: &mut Buffers) {
        let shut = match &mut self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
            Self::Tls(stream) => stream.shutdown(),
        };
        const READS_MAX: usize = 16;
        let buffer = &mut buffers.plain;
        for _ in 0..READS_MAX {
            let read = match &mut self {
                Self::Tcp(stream) => stream.read(buffer),
                Self::Unix(stream) => stream.read(buffer),
                // What it says does not matter any more.
                Self::Tls(stream) => stream.socket.read(buffer),
            };
            if shut.is_err() || !matches!(read, Ok(len) if len > 0) {
                break;
            }
        }
    }
}

/// One piece, which nearly all answers are, goes a shorter way through the kernel than several.
#[inline]
fn write_plain(socket: &impl AsFd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(match slices {
        [slice] => rustix::net::send(socket, slice, SendFlags::NOSIGNAL)?,
        slices => rustix::io::writev(socket, slices)?,
    })
}

pub(super) const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// The congestion control of a fresh socket after [`tune_backend`], its zeros left out.
    fn congestion_control_towards(peer: &str) -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        tune_backend(&socket, peer.parse().unwrap());
        assert!(socket.nodelay().unwrap());
        let mut name = SockRef::from(&socket).tcp_congestion().unwrap();
        name.retain(|&byte| byte != 0);
        name
    }

    #[test]
    fn what_paces_for_a_network_is_not_used_within_a_machine() {
        let system = std::fs::read("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
        let system = system.trim_ascii_end();
        assert_eq!(congestion_control_towards("127.0.0.1"), b"reno");
        assert_eq!(congestion_control_towards("::1"), b"reno");
        assert_eq!(congestion_control_towards("192.0.2.1"), system);
    }
}
