//! A TCP connection with TLS on it.
//!
//! # Invariants
//!
//! - All that was decrypted is handed out by the read that decrypted it, except right after the handshake: so nothing
//!   waits inside for an edge that has passed. What stays inside between turns is a part of one record.
//! - Bytes that are encrypted leave before more are taken: of a peer that does not read, one buffer is held.
//!
//! Not here: certificates (`crate::tls`).

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::net::Shutdown;

use mio::net::TcpStream;
use rustls::{Connection, HandshakeKind};

use super::stream::Received;

/// Encrypted bytes of one read. With the part of a record from before, which is at most 18 KiB, they decrypt to less
/// than the worker's buffer holds.
const CIPHER_LEN: usize = 40 * 1024;

/// See the module's page.
pub(super) struct TlsStream {
    pub(super) socket: TcpStream,
    tls: Connection,
    /// Whether the socket has come to its end.
    ended: bool,
    /// Whether TLS itself has failed: then nothing more is said than the alert.
    failed: bool,
}

/// Where encrypted bytes are read to, of all connections.
pub(super) struct CipherBuffer(Box<[u8]>);

impl Default for CipherBuffer {
    fn default() -> Self {
        Self(vec![0; CIPHER_LEN].into_boxed_slice())
    }
}

impl TlsStream {
    pub(super) fn new(socket: TcpStream, tls: impl Into<Connection>) -> Self {
        Self {
            socket,
            tls: tls.into(),
            ended: false,
            failed: false,
        }
    }

    /// Goes on with the handshake; whether it is over. An error of TLS itself has been told to the peer.
    pub(super) fn handshake(&mut self) -> io::Result<bool> {
        loop {
            match self.flush() {
                Ok(()) if !self.tls.is_handshaking() => return Ok(true),
                Ok(()) => {}
                Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(err) => return Err(err),
            }
            match self.tls.read_tls(&mut self.socket) {
                Ok(0) => return Err(broken(rustls::Error::General(CUT.to_owned()))),
                Ok(_) => self.decrypt()?,
                Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
    }

    /// Whether the handshake took up an earlier session.
    pub(super) fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Reads the socket once, or more often if that yields no whole record.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        cipher: &mut CipherBuffer,
    ) -> io::Result<Received> {
        // What came right behind the handshake.
        let early = self.take_plain(buffer)?;
        if early > 0 {
            return Ok(Received {
                len: early,
                more: true,
            });
        }
        let mut len = 0;
        while !self.ended {
            let count = match self.socket.read(&mut cipher.0) {
                Ok(count) => count,
                Err(err) if err.kind() == ErrorKind::Interrupted => continue,
                Err(err) => return Err(err),
            };
            self.ended = count == 0;
            let mut rest = &cipher.0[..count];
            while !rest.is_empty() {
                if self.tls.read_tls(&mut rest)? == 0 {
                    // The peer has said that nothing more will come.
                    self.ended = true;
                    break;
                }
                self.decrypt()?;
                len += self.take_plain(&mut buffer[len..])?;
            }
            if len > 0 {
                let more = self.ended || count == cipher.0.len();
                return Ok(Received { len, more });
            }
        }
        Ok(Received {
            len: 0,
            more: false,
        })
    }

    fn decrypt(&mut self) -> io::Result<()> {
        match self.tls.process_new_packets() {
            Ok(state) => {
                self.ended |= state.peer_has_closed();
                if self.tls.wants_write() && !self.tls.is_handshaking() {
                    // An answer of TLS itself, such as to a change of keys. It has time.
                    drop(self.flush());
                }
                Ok(())
            }
            Err(err) => {
                self.failed = true;
                if !self.tls.wants_write() && self.tls.is_handshaking() {
                    // Of what is no TLS at all the library says nothing.
                    drop(self.socket.write(DECODE_ERROR));
                }
                // The alert that says what is wrong.
                drop(self.flush());
                Err(broken(err))
            }
        }
    }

    fn take_plain(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut len = 0;
        loop {
            match self.tls.reader().read(&mut buffer[len..]) {
                Ok(0) => return Ok(len),
                Ok(count) => len += count,
                Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(len),
                Err(err) => return Err(err),
            }
        }
    }

    /// Encrypts as much as the buffer takes, and sends as much as the socket takes.
    pub(super) fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.flush()?;
        let len = self.tls.writer().write_vectored(slices)?;
        match self.flush() {
            Err(err) if err.kind() != ErrorKind::WouldBlock => Err(err),
            Ok(()) | Err(_) => Ok(len),
        }
    }

    /// Sends what is encrypted; an error that would block if that is not all.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    /// Whether something that is encrypted has not left.
    pub(super) fn has_unsent(&self) -> bool {
        self.tls.wants_write()
    }

    /// Says that nothing more will come.
    pub(super) fn shutdown(&mut self) -> io::Result<()> {
        if !self.failed {
            self.tls.send_close_notify();
        }
        drop(self.flush());
        self.socket.shutdown(Shutdown::Write)
    }
}

/// An alert, fatal, without encryption: decode_error (RFC 8446, section 6).
const DECODE_ERROR: &[u8] = &[0x15, 0x03, 0x03, 0, 2, 2, 50];

/// What is wrong with a handshake that ended before it was over.
const CUT: &str = "closed in the middle of the handshake";

fn broken(err: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, err)
}
