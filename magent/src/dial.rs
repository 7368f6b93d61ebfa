//! A connection of the control thread to a backend, within a time limit.
//!
//! Not here: the workers' connections (`worker`).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use magent_core::keeper::Failure;
use magent_core::server::Address;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::auth::backend::{self, BackendLogin};
use crate::worker::failure_of;

/// A new connection.
#[derive(Debug)]
pub(crate) enum Dialled {
    /// With the address that it comes from.
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// Connects, and logs in if there is a login. Closing the connection drops what has not left.
pub(crate) async fn dial(
    address: &Address,
    login: Option<&BackendLogin>,
    limit: Duration,
) -> Result<Dialled, Failure> {
    let ready = async {
        let mut dialled = connect(address).await?;
        if let Some(login) = login {
            match &mut dialled {
                Dialled::Tcp(stream, _) => log_in(stream, login).await?,
                Dialled::Unix(stream) => log_in(stream, login).await?,
            }
        }
        Ok(dialled)
    };
    timeout(limit, ready)
        .await
        .unwrap_or(Err(Failure::ConnectTimeout))
}

/// Says the password and reads the answer, and not a byte behind it.
async fn log_in(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    login: &BackendLogin,
) -> Result<(), Failure> {
    let failed = |err| failure_of(&err);
    stream.write_all(login.bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    loop {
        answer.push(stream.read_u8().await.map_err(failed)?);
        if let Some(judged) = backend::judge(&answer) {
            return judged;
        }
    }
}

async fn connect(address: &Address) -> Result<Dialled, Failure> {
    let failed = |err| failure_of(&err);
    match address {
        Address::Unix { path } => {
            let stream = UnixStream::connect(&**path).await.map_err(failed)?;
            Ok(Dialled::Unix(stream))
        }
        Address::Tcp { .. } => {
            let addresses = resolve(address).await?;
            let stream = TcpStream::connect(&*addresses).await.map_err(failed)?;
            let local = prepare(&stream).map_err(failed)?;
            Ok(Dialled::Tcp(stream, local))
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<SocketAddr> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
    stream.local_addr()
}

/// Addresses of a backend; none for a unix socket. Names are looked up every time, so that one that moves
/// is found again.
pub(crate) async fn resolve(address: &Address) -> Result<Vec<SocketAddr>, Failure> {
    match address {
        Address::Unix { .. } => Ok(Vec::new()),
        Address::Tcp { host, port } => {
            let found = tokio::net::lookup_host((&**host, *port)).await;
            found
                .map(Iterator::collect)
                .map_err(|_| Failure::Unresolved)
        }
    }
}
