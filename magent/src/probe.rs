//! Is somebody there, and is it a memcached? Asked on a fresh connection.

use std::net::SocketAddr;
use std::time::Duration;

use magent_core::keeper::{Failure, ProbeAnswer};
use magent_core::placement::Version;
use magent_core::server::Address;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::worker::failure_of;

/// An answer to `version` is a short line.
const ANSWER_LEN_MAX: usize = 256;

/// Connects and asks for the version, within `limit`.
pub(crate) async fn probe(
    address: &Address,
    addresses: &[SocketAddr],
    limit: Duration,
) -> Result<ProbeAnswer, Failure> {
    let asked = async {
        match address {
            Address::Unix { path } => {
                let stream = UnixStream::connect(&**path)
                    .await
                    .map_err(|err| failure_of(&err))?;
                ask(stream).await
            }
            Address::Tcp { .. } => {
                let stream = TcpStream::connect(addresses)
                    .await
                    .map_err(|err| failure_of(&err))?;
                ask(stream).await
            }
        }
    };
    timeout(limit, asked).await.unwrap_or(Err(Failure::Silent))
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<ProbeAnswer, Failure> {
    stream
        .write_all(b"version\r\n")
        .await
        .map_err(|err| failure_of(&err))?;
    let mut answer = [0; ANSWER_LEN_MAX];
    let mut len = 0;
    loop {
        let count = stream
            .read(&mut answer[len..])
            .await
            .map_err(|err| failure_of(&err))?;
        len += count;
        if let Some(line) = answer[..len].strip_suffix(b"\r\n") {
            let version = line.strip_prefix(b"VERSION ").ok_or(Failure::BadProbe)?;
            return Ok(ProbeAnswer {
                version: Version::parse(version),
            });
        }
        if count == 0 || len == answer.len() {
            return Err(Failure::BadProbe);
        }
    }
}
