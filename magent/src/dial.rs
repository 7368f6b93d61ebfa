//! A connection of the control thread to a backend, within a time limit.
//!
//! Not here: the workers' connections (`worker`).

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use magent_core::BackendId;
use magent_core::keeper::Failure;
use magent_core::server::Address;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::auth::backend::{self, BackendLogin};
use crate::stall::within;
use crate::tls::backends::Target;
use crate::tls::{Tls, tls_error};
use crate::worker::failure_of;

/// Where to connect to, and how.
#[derive(Clone)]
pub(crate) struct Destination {
    pub(crate) backend: BackendId,
    pub(crate) address: Address,
    pub(crate) tls: Arc<Tls>,
    /// What it is told first.
    pub(crate) login: Option<Arc<BackendLogin>>,
}

/// A new connection.
#[derive(Debug)]
pub(crate) enum Dialled {
    /// With the address that it comes from.
    Tcp(TcpStream, SocketAddr),
    /// The same.
    Tls(Box<TlsStream<TcpStream>>, SocketAddr),
    Unix(UnixStream),
}

/// Connects, and logs in if there is a login. Closing the connection drops what has not left. Each step may take up to
/// `limit`.
pub(crate) async fn dial(to: &Destination, limit: Duration) -> Result<Dialled, Failure> {
    let connected = within(limit, connect(&to.address)).await;
    let dialled = connected.unwrap_or(Err(Failure::ConnectTimeout))?;
    let mut dialled = match (dialled, to.tls.backends.target(to.backend)) {
        (Dialled::Tcp(stream, local), Some(target)) => {
            let stream = shake_hands(stream, target, to, limit).await?;
            Dialled::Tls(Box::new(stream), local)
        }
        (dialled, _) => dialled,
    };
    if let Some(login) = &to.login {
        let logging_in = async {
            match &mut dialled {
                Dialled::Tcp(stream, _) => log_in(stream, login).await,
                Dialled::Tls(stream, _) => log_in(stream, login).await,
                Dialled::Unix(stream) => log_in(stream, login).await,
            }
        };
        let logged_in = within(limit, logging_in).await;
        logged_in.unwrap_or(Err(Failure::Silent))?;
    }
    Ok(dialled)
}

/// Says the password and reads the answer, and not a byte behind it.
async fn log_in(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    login: &BackendLogin,
) -> Result<(), Failure> {
    let failed = |err| failure_of(&err);
    stream.write_all(login.bytes()).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let mut answer = Vec::new();
    loop {
        answer.push(stream.read_u8().await.map_err(failed)?);
        if let Some(judged) = backend::judge(&answer) {
            return judged;
        }
    }
}

async fn shake_hands(
    stream: TcpStream,
    target: Target,
    to: &Destination,
    limit: Duration,
) -> Result<TlsStream<TcpStream>, Failure> {
    let connector = TlsConnector::from(target.config);
    let shaking = connector.connect(target.name, stream);
    let (failure, detail) = match within(limit, shaking).await {
        Some(Ok(stream)) => return Ok(stream),
        Some(Err(err)) if err.kind() == ErrorKind::UnexpectedEof => (Failure::TlsFailed, None),
        Some(Err(err)) => (failure_of(&err), tls_error(&err).cloned()),
        None => (Failure::TlsSilent, None),
    };
    let tls = &to.tls.backends;
    tls.on_failed(to.backend, failure, detail.as_ref());
    Err(failure)
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
