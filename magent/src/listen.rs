//! The sockets that clients connect to.
//!
//! # Invariants
//!
//! - Of two processes that want one TCP address, exactly one gets it. The kernel would let both
//!   have it if both asked with `SO_REUSEPORT`, and each would get half of the clients. So the first
//!   listener of an address takes it without that option, which fails if anybody else listens, and
//!   lets its siblings in only then.
//! - A unix socket's file is removed only if nobody answers on it.
//!
//! Not here: accepting (`worker`).

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::sys::Identity;

/// Connections that the kernel may keep until a worker accepts them. It lowers this to
/// `net.core.somaxconn`, whose default has been 4096 since Linux 5.4.
const BACKLOG: i32 = 4_096;

/// Where to listen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListenOptions {
    /// TCP addresses, each once.
    pub(crate) tcp: Vec<TcpOptions>,
    /// Unix sockets, each once.
    pub(crate) unix: Vec<UnixOptions>,
    /// Whose PROXY headers are believed.
    pub(crate) trusted_proxies: Vec<IpNet>,
}

impl ListenOptions {
    /// Whether any listener speaks TLS.
    pub(crate) fn has_tls(&self) -> bool {
        self.tcp.iter().any(|tcp| tcp.greeting.tls == Tls::Spoken)
    }

    /// Whether any listener expects a PROXY header.
    pub(crate) fn has_proxy_header(&self) -> bool {
        let required = |tcp: &TcpOptions| tcp.greeting.proxy_header == ProxyHeader::Required;
        self.tcp.iter().any(required)
    }
}

impl fmt::Display for ListenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tcp = self.tcp.iter().map(ToString::to_string);
        let unix = self.unix.iter().map(|unix| unix.path.display().to_string());
        f.write_str(&tcp.chain(unix).collect::<Vec<_>>().join(" "))
    }
}

/// A TCP port to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpOptions {
    /// Where.
    pub(crate) address: SocketAddr,
    /// What its connections begin with.
    pub(crate) greeting: Greeting,
}

impl From<SocketAddr> for TcpOptions {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            greeting: Greeting::default(),
        }
    }
}

impl fmt::Display for TcpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = match self.greeting.tls {
            Tls::Spoken => "tls:",
            Tls::NotSpoken => "",
        };
        write!(f, "{tls}{}", self.address)?;
        match self.greeting.proxy_header {
            ProxyHeader::Required => f.write_str(",proxy-protocol"),
            ProxyHeader::NotExpected => Ok(()),
        }
    }
}

/// What a connection begins with, ahead of its first request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// First a header that says for whom the connection is.
    pub(crate) proxy_header: ProxyHeader,
    /// Then a handshake.
    pub(crate) tls: Tls,
}

/// Does a load balancer say where clients come from?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ProxyHeader {
    /// Each connection is a client's own.
    #[default]
    NotExpected,
    /// Each connection begins with a header, and comes from an address that is trusted to send one.
    Required,
}

/// Is a listener's port one for TLS?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tls {
    /// Plain.
    #[default]
    NotSpoken,
    /// TLS alone.
    Spoken,
}

/// A unix socket to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnixOptions {
    /// Absolute.
    pub(crate) path: PathBuf,
    /// Permissions of the file; connecting takes the right to write.
    pub(crate) mode: u32,
}

/// One listening socket of one worker, non-blocking.
#[derive(Debug)]
pub(crate) enum Listener {
    /// A TCP port. Each worker has its own, and the kernel deals connections out to them.
    Tcp(TcpListener, Greeting),
    /// A unix socket, the same for all workers.
    Unix(UnixListener),
}

/// Everything that listens, until it is dropped.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// A set for each worker, each with one listener per address.
    pub(crate) per_worker: Vec<Vec<Listener>>,
    /// Remove the unix sockets' files.
    pub(crate) socket_files: Vec<SocketFile>,
}

/// Listens on every address, with a set of listeners for each of `workers`.
///
/// The unix sockets' files are given to `owner`.
pub(crate) fn listeners(
    options: &ListenOptions,
    workers: u16,
    owner: &Identity,
) -> Result<Listeners> {
    let mut per_worker: Vec<_> = (0..workers).map(|_| Vec::new()).collect();
    for tcp in &options.tcp {
        let sockets =
            tcp_listeners(tcp.address, workers).map_err(|err| explain_tcp(tcp.address, &err))?;
        for (set, socket) in per_worker.iter_mut().zip(sockets) {
            set.push(Listener::Tcp(socket.into(), tcp.greeting));
        }
    }
    let mut socket_files = Vec::new();
    for unix in &options.unix {
        let (listener, file) = unix_listener(unix, owner)
            .with_context(|| format!("cannot listen on {}", unix.path.display()))?;
        for set in &mut per_worker {
            set.push(Listener::Unix(listener.try_clone().context("unix socket")?));
        }
        socket_files.push(file);
    }
    Ok(Listeners {
        per_worker,
        socket_files,
    })
}

fn tcp_listeners(address: SocketAddr, count: u16) -> io::Result<Vec<Socket>> {
    let first = tcp_socket(address)?;
    first.bind(&address.into())?;
    // Between two sockets that are bound but do not listen there is no conflict (that is what
    // SO_REUSEADDR says), so it is `listen` that decides who has the address.
    first.listen(BACKLOG)?;
    first.set_reuse_port(true)?;
    // With port 0, which tests use, the siblings need the port that was found.
    let bound = first.local_addr()?;
    let mut sockets = vec![first];
    while sockets.len() < usize::from(count) {
        let sibling = tcp_socket(address)?;
        sibling.set_reuse_port(true)?;
        sibling.bind(&bound)?;
        sibling.listen(BACKLOG)?;
        sockets.push(sibling);
    }
    Ok(sockets)
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    // A restart must not wait for the last process' connections to time out.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `::` means IPv6 alone, whatever the system's default, so that `-l 0.0.0.0,::` works.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kernel has errors without end"
)]
fn explain_tcp(address: SocketAddr, err: &io::Error) -> anyhow::Error {
    let port = address.port();
    let why = match err.kind() {
        ErrorKind::AddrInUse => format!(
            "the port is taken, perhaps by another magent or a memcached; \
             \"ss -ltnp sport = :{port}\" shows by whom"
        ),
        ErrorKind::AddrNotAvailable => {
            "this machine has no such address; \"ip addr\" shows those it has".to_owned()
        }
        ErrorKind::PermissionDenied => "ports below 1024 take root to listen on".to_owned(),
        _ => err.to_string(),
    };
    anyhow::anyhow!("cannot listen on {address}: {why}")
}

fn unix_listener(options: &UnixOptions, owner: &Identity) -> Result<(UnixListener, SocketFile)> {
    let path = &options.path;
    // Two processes could both find a stale file, and the later one would remove the earlier
    // one's fresh socket. A directory that cannot be locked is no reason not to listen.
    let dir = File::open(path.parent().unwrap_or_else(|| Path::new("/")));
    let _lock = dir.and_then(|dir| dir.lock().map(|()| dir));
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // The file must not be open to others for even a moment. Linux gives it the mode that the
    // socket has; a umask would do so too, but for all threads.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile { path: path.clone() };
    if let Some((uid, gid)) = owner.owner() {
        chown(path, uid, gid).context("cannot change its owner")?;
    }
    fs::set_permissions(path, Permissions::from_mode(options.mode))?;
    socket.listen(BACKLOG)?;
    Ok((socket.into(), file))
}

fn remove_stale(path: &Path) -> Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(err.into()),
    };
    if !kind.is_socket() {
        bail!("the file exists and is not a socket; magent does not overwrite it");
    }
    match UnixStream::connect(path) {
        Ok(_) => bail!("another program answers on it, perhaps another magent"),
        Err(err) if err.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).context("cannot remove the stale socket")
        }
        Err(err) => Err(err).context("cannot tell whether anybody uses it"),
    }
}

/// The file of a unix socket; dropping this removes it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // After giving up root this may be refused. The next start finds that nobody answers.
        drop(fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    fn tcp(address: &str) -> ListenOptions {
        ListenOptions {
            tcp: vec![address.parse::<SocketAddr>().unwrap().into()],
            ..ListenOptions::default()
        }
    }

    fn open(options: &ListenOptions, workers: u16) -> Result<Listeners> {
        listeners(options, workers, &Identity::default())
    }

    fn bound(listeners: &Listeners) -> SocketAddr {
        match &listeners.per_worker[0][0] {
            Listener::Tcp(listener, _) => listener.local_addr().unwrap(),
            Listener::Unix(_) => panic!("not TCP"),
        }
    }

    #[test]
    fn every_worker_gets_connections() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listeners = open(&tcp(address), 3).unwrap();
            let bound = bound(&listeners);
            assert_eq!(listeners.per_worker.len(), 3);
            let mut seen = [false; 3];
            // The kernel picks by a hash of the client's port: a worker that is left out of 1,000
            // has a chance of (2/3)^1000.
            for _ in 0..1_000 {
                let client = TcpStream::connect(bound).unwrap();
                for (set, seen) in listeners.per_worker.iter().zip(&mut seen) {
                    let Listener::Tcp(listener, _) = &set[0] else {
                        panic!("not TCP")
                    };
                    *seen |= listener.accept().is_ok();
                }
                drop(client);
                if seen == [true; 3] {
                    break;
                }
            }
            assert_eq!(seen, [true; 3], "{address}");
        }
    }

    #[test]
    fn an_address_has_one_owner() {
        for workers in [1, 4] {
            let first = open(&tcp("127.0.0.1:0"), workers).unwrap();
            let address = bound(&first);
            let err = open(&tcp(&address.to_string()), workers)
                .unwrap_err()
                .to_string();
            let expected = format!("cannot listen on {address}: the port is taken");
            assert!(err.starts_with(&expected), "{err}");
            drop(first);
            open(&tcp(&address.to_string()), workers).unwrap();
        }
    }

    /// The race that a check before the real bind would lose.
    #[test]
    #[expect(
        clippy::needless_collect,
        reason = "all start before one is waited for"
    )]
    fn of_many_starters_at_once_one_wins() {
        for _ in 0..50 {
            let address = bound(&open(&tcp("127.0.0.1:0"), 1).unwrap()).to_string();
            let options = tcp(&address);
            let start = std::sync::Barrier::new(4);
            let won: Vec<_> = std::thread::scope(|scope| {
                let starter = || {
                    start.wait();
                    open(&options, 2).ok()
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(starter)).collect();
                threads
                    .into_iter()
                    .filter_map(|thread| thread.join().unwrap())
                    .collect()
            });
            assert_eq!(won.len(), 1, "{address}");
        }
    }

    #[test]
    fn a_foreign_address_is_explained() {
        let err = open(&tcp("192.0.2.1:0"), 1).unwrap_err().to_string();
        assert!(
            err.starts_with("cannot listen on 192.0.2.1:0: this machine has no"),
            "{err}"
        );
    }

    #[test]
    fn unix_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("magent.sock");
        let unix = UnixOptions {
            path: path.clone(),
            mode: 0o750,
        };
        let options = ListenOptions {
            unix: vec![unix],
            ..ListenOptions::default()
        };

        let first = open(&options, 2).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o750
        );
        let err = format!("{:#}", open(&options, 1).unwrap_err());
        assert!(
            err.ends_with("another program answers on it, perhaps another magent"),
            "{err}"
        );
        drop(first);
        assert!(!path.exists());

        // As a kill -9 leaves it.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(open(&options, 1).unwrap());

        fs::write(&path, "precious").unwrap();
        let err = format!("{:#}", open(&options, 1).unwrap_err());
        assert!(err.contains("is not a socket"), "{err}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    /// Each of them finds the stale file of the one before.
    #[test]
    #[expect(
        clippy::needless_collect,
        reason = "all start before one is waited for"
    )]
    fn of_many_starters_at_once_one_gets_the_unix_socket() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..100 {
            let path = dir.path().join(format!("{round}.sock"));
            drop(UnixListener::bind(&path).unwrap());
            let options = ListenOptions {
                unix: vec![UnixOptions { path, mode: 0o700 }],
                ..ListenOptions::default()
            };
            let start = std::sync::Barrier::new(4);
            let won: Vec<_> = std::thread::scope(|scope| {
                let starter = || {
                    start.wait();
                    open(&options, 1).ok()
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(starter)).collect();
                threads
                    .into_iter()
                    .filter_map(|thread| thread.join().unwrap())
                    .collect()
            });
            assert_eq!(won.len(), 1);
        }
    }
}
