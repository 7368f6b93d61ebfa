//! `magent demo`: the whole topology in one process, nothing to install.
//!
//! Five small in-memory nodes stand in for memcacheds; the proxy in front is the real one, started with the
//! command line that the banner shows. Typing `stop 1` takes a node away as a crash would, so that failover
//! and return can be watched.
//!
//! Not here: what a node answers (`magent_node`), the proxy (`control`, `worker`).

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::BufRead as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use magent_node::{ConnectionAddrs, Keep, Next, Session, Store, StoreConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

use crate::cli::{self, Action};
use crate::log::Verbosity;
use crate::options::{DemoOptions, Options, StateDir};

/// As in the drawing of the README: three primaries, two backups.
const PRIMARIES: usize = 3;
const NODES: usize = 5;

/// Memory of each node.
const NODE_MEMORY: u64 = 64 << 20;

/// A node whose place is free listens again at once, or after its old connections are gone.
const LISTEN_TRIES: u32 = 50;

/// Starts the nodes and yields the options of the proxy in front of them.
pub(crate) fn start(options: &DemoOptions) -> Result<Options> {
    let listeners: Vec<std::net::TcpListener> = (0..NODES)
        .map(|_| listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))
        .collect::<Result<_>>()?;
    let addresses: Vec<SocketAddr> = listeners
        .iter()
        .map(std::net::TcpListener::local_addr)
        .collect::<std::io::Result<_>>()?;
    let port = match options.port {
        0 => listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?
            .local_addr()?
            .port(),
        port => port,
    };
    let command = command_line(port, options.verbosity, &addresses);
    let mut proxy = match cli::parse(command.iter().map(OsString::from)) {
        Ok(Action::Serve(options)) => *options,
        Ok(_) | Err(_) => bail!(
            "the demo's command line is not understood: {}",
            command.join(" ")
        ),
    };
    // The nodes end with the proxy, so that there is nothing to remember.
    proxy.run.state_dir = StateDir::Off;
    std::thread::Builder::new()
        .name("nodes".to_owned())
        .spawn(move || {
            if let Err(err) = run_nodes(listeners, &addresses, port, &command) {
                tracing::error!("the demo's nodes have ended: {err:#}");
            }
        })
        .context("cannot start the nodes' thread")?;
    Ok(proxy)
}

fn command_line(port: u16, verbosity: Verbosity, addresses: &[SocketAddr]) -> Vec<String> {
    let mut words: Vec<String> = ["magent", "-D", "-l", "127.0.0.1", "-p"]
        .iter()
        .map(ToString::to_string)
        .collect();
    words.push(port.to_string());
    for (index, address) in addresses.iter().enumerate() {
        words.push(if index < PRIMARIES { "-s" } else { "-b" }.to_owned());
        words.push(address.to_string());
    }
    match verbosity {
        Verbosity::Normal => {}
        Verbosity::Routes => words.push("-v".to_owned()),
        Verbosity::Keys => words.push("-vv".to_owned()),
    }
    words
}

fn listen(address: SocketAddr) -> Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)
        .with_context(|| format!("cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Typed {
    Stop(usize),
    Start(usize),
    Show,
    Unknown,
}

fn understand(line: &str) -> Typed {
    let mut words = line.split_whitespace();
    let verb = words.next();
    let node = words
        .next()
        .and_then(|word| word.parse::<usize>().ok())
        .filter(|number| (1..=NODES).contains(number))
        .map(|number| number - 1);
    match (verb, node) {
        (Some("stop"), Some(node)) => Typed::Stop(node),
        (Some("start"), Some(node)) => Typed::Start(node),
        (Some("show"), None) => Typed::Show,
        _ => Typed::Unknown,
    }
}

fn run_nodes(
    listeners: Vec<std::net::TcpListener>,
    addresses: &[SocketAddr],
    port: u16,
    command: &[String],
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (sender, typed) = unbounded_channel();
    std::thread::Builder::new()
        .name("keyboard".to_owned())
        .spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if sender.send(understand(&line)).is_err() {
                    return;
                }
            }
        })?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut nodes: Vec<Node> = addresses
            .iter()
            .map(|&address| Node::new(address))
            .collect();
        for (node, listener) in nodes.iter_mut().zip(listeners) {
            node.start(listener)?;
        }
        wait_for_proxy(port).await;
        println!("{}", banner(port, addresses, command));
        follow_keyboard(&mut nodes, typed).await
    })
}

async fn wait_for_proxy(port: u16) {
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .is_err()
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn banner(port: u16, addresses: &[SocketAddr], command: &[String]) -> String {
    let mut text = String::from(
        "\nThis is a demo: five in-memory nodes in this process stand in for memcacheds.\n\
         For real use, run real memcacheds and start magent with their addresses.\n\n",
    );
    for (index, address) in addresses.iter().enumerate() {
        let role = if index < PRIMARIES {
            "primary"
        } else {
            "backup "
        };
        text.push_str(&format!("  node {}  {role}  {address}\n", index + 1));
    }
    text.push_str(&format!(
        "\nThe proxy is what this command would start:\n  {}\n\n\
         Try in another terminal:\n  \
         printf 'set hello 0 0 5\\r\\nworld\\r\\nget hello\\r\\nquit\\r\\n' | nc 127.0.0.1 {port}\n  \
         printf 'stats magent\\r\\nquit\\r\\n' | nc 127.0.0.1 {port}\n\n\
         Type here:\n  \
         stop 1    node 1 is gone, with all that it held: its keys are read from their backups\n  \
         start 1   it returns, empty\n  \
         show      items of each node\n  \
         Ctrl-C    ends\n",
        command.join(" "),
    ));
    text
}

async fn follow_keyboard(nodes: &mut [Node], mut typed: UnboundedReceiver<Typed>) -> Result<()> {
    while let Some(typed) = typed.recv().await {
        match typed {
            Typed::Stop(index) => println!("{}", nodes[index].stop(index)),
            Typed::Start(index) => println!("{}", nodes[index].start_again(index).await),
            Typed::Show => {
                for (index, node) in nodes.iter().enumerate() {
                    println!("{}", node.show(index));
                }
            }
            Typed::Unknown => println!("type: stop N, start N, show (N is 1 to {NODES})"),
        }
    }
    // Nobody types; the nodes go on.
    std::future::pending().await
}

/// One in-memory memcached and its connections.
struct Node {
    address: SocketAddr,
    store: Rc<RefCell<Store>>,
    started: Instant,
    /// Its listener and connections; `None` while it is stopped.
    tasks: Option<JoinSet<()>>,
}

impl Node {
    fn new(address: SocketAddr) -> Self {
        let store = Store::new(StoreConfig {
            memory_max_bytes: NODE_MEMORY,
            unix_start_s: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |age| age.as_secs()),
            pid: std::process::id(),
            listen: address,
            ..StoreConfig::default()
        });
        let store = Rc::new(RefCell::new(store));
        Self {
            address,
            store,
            started: Instant::now(),
            tasks: None,
        }
    }

    fn start(&mut self, listener: std::net::TcpListener) -> Result<()> {
        let listener = TcpListener::from_std(listener)?;
        let (store, started) = (Rc::clone(&self.store), self.started);
        let mut tasks = JoinSet::new();
        tasks.spawn_local(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, peer)) => {
                            let store = Rc::clone(&store);
                            connections.spawn_local(serve(stream, peer, store, started));
                        }
                        Err(err) => tracing::debug!("a node cannot accept: {err}"),
                    },
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        self.tasks = Some(tasks);
        Ok(())
    }

    fn stop(&mut self, index: usize) -> String {
        match self.tasks.take() {
            Some(_) => format!("node {} is gone", index + 1),
            None => format!("node {} was gone already", index + 1),
        }
    }

    async fn start_again(&mut self, index: usize) -> String {
        if self.tasks.is_some() {
            return format!("node {} is there already", index + 1);
        }
        let now = time_of(self.started);
        let pid = std::process::id();
        self.store.borrow_mut().restart(now, Keep::Nothing, pid);
        for _ in 0..LISTEN_TRIES {
            if let Ok(listener) = listen(self.address)
                && self.start(listener).is_ok()
            {
                return format!("node {} is back, empty", index + 1);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        format!("node {} cannot listen on {}", index + 1, self.address)
    }

    fn show(&self, index: usize) -> String {
        let state = if self.tasks.is_some() { "up  " } else { "gone" };
        let store = self.store.borrow();
        let items = if self.tasks.is_some() {
            store.items(time_of(self.started)).count()
        } else {
            0
        };
        format!(
            "node {}  {state}  {}  {items} items",
            index + 1,
            self.address
        )
    }
}

fn time_of(started: Instant) -> magent_node::Time {
    magent_node::Time(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// One connection to a node.
async fn serve(
    mut stream: TcpStream,
    peer: SocketAddr,
    store: Rc<RefCell<Store>>,
    started: Instant,
) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let mut session = Session::open(
        &mut store.borrow_mut(),
        time_of(started),
        ConnectionAddrs { peer, local },
    );
    let mut input = vec![0; 16 * 1024];
    let mut out = Vec::new();
    while let Ok(len @ 1..) = stream.read(&mut input).await {
        let next = session.receive(
            &mut store.borrow_mut(),
            time_of(started),
            &input[..len],
            &mut out,
        );
        if stream.write_all(&out).await.is_err() || next == Next::Close {
            break;
        }
        out.clear();
    }
    session.close(&mut store.borrow_mut());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed() {
        assert_eq!(understand("stop 1"), Typed::Stop(0));
        assert_eq!(understand("  start   5 "), Typed::Start(4));
        assert_eq!(understand("show"), Typed::Show);
        for line in ["", "stop", "stop 0", "stop 6", "stop x", "help"] {
            assert_eq!(understand(line), Typed::Unknown, "{line}");
        }
    }
}
