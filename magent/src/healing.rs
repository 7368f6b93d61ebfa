//! The healer's connections: bytes between backends and `magent_core::heal`.
//!
//! Each connection is a task on a thread of its own. It hands what it reads to the control thread, which hands it
//! to the healer. A backend that is being walked holds up its clients while nobody reads what it says, so its
//! connection is read however busy the control thread is.
//!
//! # Invariants
//!
//! - What a walk says waits behind all else ([`Events`]): answers to copies never lie unread for so long that their
//!   backend would be taken for silent.
//! - Nothing is heard of a connection after it was closed from here ([`Links::is_open`]).
//! - Closing is abortive: what has not left is dropped, not delivered later.
//! - What was read and not yet looked at, and what waits to be written, is bounded. A walk that exceeds it is broken
//!   off, never held up; it begins again.
//!
//! Not here: what is asked and stored (`magent_core::heal`).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use magent_core::config::Config;
use magent_core::heal::{HealConnection, Role};
use magent_core::keeper::Failure;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

use crate::auth::backend::BackendLogin;
use crate::dial::{Destination, Dialled, dial};
use crate::tls::Tls;
use crate::worker::failure_of;

/// Bytes of one read.
const READ_LEN: usize = 64 * 1024;

/// Bytes that wait for the control thread, of all connections.
const UNREAD_LEN_MAX: usize = 64 << 20;

/// How long a connection that is not walked waits when there are so many.
const UNREAD_PAUSE: Duration = Duration::from_millis(5);

/// Bytes that wait for a backend to take them. The healer itself has far fewer in flight.
const UNWRITTEN_LEN_MAX: usize = 64 << 20;

/// Something has happened to a connection.
#[derive(Debug)]
pub(crate) enum Event {
    /// It is there, with this local address unless it is a unix socket.
    Connected(HealConnection, Option<SocketAddr>),
    /// Bytes have come.
    Data(HealConnection, Vec<u8>),
    /// It could not be made, or is gone.
    Lost(HealConnection, Failure),
}

/// What has happened to connections, in the order of each.
#[derive(Debug)]
pub(crate) struct Events {
    copies: UnboundedReceiver<Event>,
    walks: UnboundedReceiver<Event>,
}

impl Events {
    /// The next one. Nothing is lost if the future is dropped.
    pub(crate) async fn recv(&mut self) -> Option<Event> {
        tokio::select! {
            biased;
            event = self.copies.recv() => event,
            event = self.walks.recv() => event,
        }
    }
}

/// The healer's connections.
pub(crate) struct Links {
    config: Arc<Config>,
    tls: Arc<Tls>,
    login: Option<Arc<BackendLogin>>,
    open: HashMap<HealConnection, Link>,
    copies: UnboundedSender<Event>,
    walks: UnboundedSender<Event>,
    unread: Arc<AtomicUsize>,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Links {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Link {
    writes: UnboundedSender<Vec<u8>>,
    /// Bytes in `writes`.
    unwritten: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Links {
    /// None yet, and where events of later ones come out.
    ///
    /// # Errors
    ///
    /// If there is no room for a thread.
    pub(crate) fn new(
        config: Arc<Config>,
        tls: Arc<Tls>,
        login: Option<Arc<BackendLogin>>,
    ) -> io::Result<(Self, Events)> {
        let (copies, of_copies) = unbounded_channel();
        let (walks, of_walks) = unbounded_channel();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("healing")
            .enable_all()
            .build()?;
        let this = Self {
            config,
            tls,
            login,
            open: HashMap::new(),
            copies,
            walks,
            unread: Arc::default(),
            runtime: Some(runtime),
        };
        let events = Events {
            copies: of_copies,
            walks: of_walks,
        };
        Ok((this, events))
    }

    /// The control thread has looked at so many bytes.
    pub(crate) fn was_read(&self, len: usize) {
        self.unread.fetch_sub(len, Ordering::Relaxed);
    }

    /// Begins to connect.
    pub(crate) fn connect(&mut self, connection: HealConnection) {
        let (writes, queue) = unbounded_channel();
        let unwritten = Arc::new(AtomicUsize::new(0));
        let task = Task {
            connection,
            events: match connection.role {
                Role::Copy => self.copies.clone(),
                Role::Walk => self.walks.clone(),
            },
            queue,
            unwritten: Arc::clone(&unwritten),
            unread: Arc::clone(&self.unread),
        };
        let to = Destination {
            backend: connection.backend,
            address: self.config.backends[connection.backend.index()].clone(),
            tls: Arc::clone(&self.tls),
            login: self.login.clone(),
        };
        let limit = Duration::from_millis(self.config.limits.fail_ms);
        let runtime = self.runtime.as_ref().expect("it lives as long as this");
        let task = runtime.spawn(task.run(to, limit)).abort_handle();
        let link = Link {
            writes,
            unwritten,
            task,
        };
        self.open.insert(connection, link);
    }

    /// Whether events of this connection still mean something.
    pub(crate) fn is_open(&self, connection: HealConnection) -> bool {
        self.open.contains_key(&connection)
    }

    /// Closes it, or forgets one that is gone.
    pub(crate) fn close(&mut self, connection: HealConnection) {
        self.open.remove(&connection);
    }

    /// Writes these bytes as soon as the backend takes them; an error if it takes none, while more and more wait.
    pub(crate) fn write(&self, connection: HealConnection, bytes: Vec<u8>) -> Result<(), Failure> {
        let Some(link) = self.open.get(&connection) else {
            return Ok(());
        };
        let before = link.unwritten.fetch_add(bytes.len(), Ordering::Relaxed);
        if before > UNWRITTEN_LEN_MAX {
            return Err(Failure::Silent);
        }
        // One that has just been lost says so itself.
        drop(link.writes.send(bytes));
        Ok(())
    }
}

/// What one connection does.
struct Task {
    connection: HealConnection,
    events: UnboundedSender<Event>,
    queue: UnboundedReceiver<Vec<u8>>,
    unwritten: Arc<AtomicUsize>,
    unread: Arc<AtomicUsize>,
}

impl Task {
    async fn run(self, to: Destination, limit: Duration) {
        let (events, connection) = (self.events.clone(), self.connection);
        let Err(failure) = self.connect(&to, limit).await else {
            return;
        };
        // The control thread only stops listening when the process ends.
        drop(events.send(Event::Lost(connection, failure)));
    }

    /// `Ok` if nobody listens any more.
    async fn connect(self, to: &Destination, limit: Duration) -> Result<(), Failure> {
        match dial(to, limit).await? {
            Dialled::Tls(stream, local) => self.carry(stream, Some(local)).await,
            Dialled::Tcp(stream, local) => self.carry(stream, Some(local)).await,
            Dialled::Unix(stream) => self.carry(stream, None).await,
        }
    }

    async fn carry(
        mut self,
        stream: impl AsyncRead + AsyncWrite,
        local: Option<SocketAddr>,
    ) -> Result<(), Failure> {
        let connected = Event::Connected(self.connection, local);
        if self.events.send(connected).is_err() {
            return Ok(());
        }
        let (mut reader, mut writer) = tokio::io::split(stream);
        let writing = async {
            while let Some(bytes) = self.queue.recv().await {
                writer.write_all(&bytes).await?;
                // TLS may hold it back.
                writer.flush().await?;
                self.unwritten.fetch_sub(bytes.len(), Ordering::Relaxed);
            }
            // Closed from here: this task is about to be ended.
            std::future::pending().await
        };
        let reading = async {
            loop {
                let mut bytes = Vec::with_capacity(READ_LEN);
                if reader.read_buf(&mut bytes).await? == 0 {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                let unread = self.unread.fetch_add(bytes.len(), Ordering::Relaxed);
                let data = Event::Data(self.connection, bytes);
                if self.events.send(data).is_err() {
                    return Ok(());
                }
                if unread <= UNREAD_LEN_MAX {
                    continue;
                }
                if self.connection.role == Role::Walk {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                while self.unread.load(Ordering::Relaxed) > UNREAD_LEN_MAX {
                    tokio::time::sleep(UNREAD_PAUSE).await;
                }
            }
        };
        let over: io::Result<()> = tokio::select! {
            over = reading => over,
            over = writing => over,
        };
        over.map_err(|err| failure_of(&err))
    }
}

#[cfg(test)]
mod tests {
    use magent_core::BackendId;
    use magent_core::scheme::{Scheme, SchemeOptions};
    use magent_core::server::ServerSpec;
    use tokio::net::TcpListener;

    use super::*;
    use crate::options::TlsOptions;

    fn links(port: u16) -> (Links, Events) {
        let primary: ServerSpec = format!("127.0.0.1:{port}").parse().unwrap();
        let options = SchemeOptions::default();
        let config = Config::new(vec![primary], Vec::new(), Scheme::magent(), options);
        let config = config.unwrap();
        let tls = Tls::load(&TlsOptions::default(), &config).unwrap();
        Links::new(Arc::new(config), Arc::new(tls), None).unwrap()
    }

    fn connection(generation: u32) -> HealConnection {
        HealConnection {
            backend: BackendId(0),
            role: Role::Copy,
            generation,
        }
    }

    fn run(test: impl Future<Output = ()>) {
        Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test);
    }

    #[test]
    fn bytes_go_both_ways() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (mut links, mut events) = links(listener.local_addr().unwrap().port());
            links.connect(connection(1));
            let (mut stream, peer) = listener.accept().await.unwrap();
            let event = events.recv().await;
            assert!(
                matches!(event, Some(Event::Connected(of, Some(local))) if of == connection(1) && local == peer)
            );
            links.write(connection(1), b"mn\r\n".to_vec()).unwrap();
            let mut asked = [0; 4];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"mn\r\n");
            stream.write_all(b"MN\r\n").await.unwrap();
            let event = events.recv().await;
            assert!(matches!(event, Some(Event::Data(_, bytes)) if bytes == b"MN\r\n"));
            drop(stream);
            let event = events.recv().await;
            assert!(matches!(event, Some(Event::Lost(_, Failure::Reset))));
        });
    }

    #[test]
    fn closing_drops_what_has_not_left() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (mut links, mut events) = links(listener.local_addr().unwrap().port());
            links.connect(connection(1));
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(matches!(events.recv().await, Some(Event::Connected(..))));
            links.close(connection(1));
            assert!(!links.is_open(connection(1)));
            let closed = stream.read(&mut [0; 1]).await;
            assert_eq!(
                closed.map_err(|err| err.kind()),
                Err(io::ErrorKind::ConnectionReset)
            );
        });
    }

    #[test]
    fn a_walk_waits_behind_copies() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (mut links, mut events) = links(listener.local_addr().unwrap().port());
            let walk = HealConnection {
                role: Role::Walk,
                ..connection(1)
            };
            let mut streams = Vec::new();
            for connection in [walk, connection(2)] {
                links.connect(connection);
                streams.push(listener.accept().await.unwrap().0);
                assert!(matches!(events.recv().await, Some(Event::Connected(..))));
            }
            streams[0].write_all(&[b'w'; 4 * READ_LEN]).await.unwrap();
            // All of the walk has come, and nobody has looked at it.
            while links.unread.load(Ordering::Relaxed) < 4 * READ_LEN {
                tokio::task::yield_now().await;
            }
            streams[1].write_all(b"HD\r\n").await.unwrap();
            while links.unread.load(Ordering::Relaxed) == 4 * READ_LEN {
                tokio::task::yield_now().await;
            }
            let event = tokio::time::timeout(Duration::from_secs(60), events.recv()).await;
            assert!(
                matches!(&event, Ok(Some(Event::Data(of, _))) if of.role == Role::Copy),
                "{event:?}"
            );
        });
    }

    #[test]
    fn nobody_there() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (mut links, mut events) = links(listener.local_addr().unwrap().port());
            drop(listener);
            links.connect(connection(1));
            let event = events.recv().await;
            assert!(matches!(event, Some(Event::Lost(_, Failure::Refused))));
        });
    }
}
