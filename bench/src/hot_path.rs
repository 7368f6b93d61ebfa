//! The engine without sockets: from the bytes of requests to the bytes of answers, and what that costs in
//! instructions.
//!
//! Times on a busy machine say little; the number of instructions is the same again and again. `bench instructions`
//! runs this program under `valgrind --tool=callgrind`, which counts only what happens within [`in_engine`], so that
//! the stand-ins for clients and backends cost nothing. Each path runs twice, for different numbers of rounds: the
//! difference leaves out the start.
//!
//! Not here: what the kernel costs, which is four fifths of a proxy's time (`compare`).

use std::io::IoSlice;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use magent_core::config::Config;
use magent_core::engine::{ClientId, ConnectionId, Engine, Input, Output, Shared};
use magent_core::keeper::Report;
use magent_core::{Time, WorkerId};
use magent_node::{Next, Session, Store, StoreConfig};

/// One way through the engine.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Clients whose requests arrive in one turn.
    clients: u32,
    /// Requests of each, in one piece.
    depth: u32,
    request: Request,
    backups: u16,
    /// Instructions for a request, with Rust 1.95 on x86-64.
    pub(crate) expected: u64,
}

#[derive(Clone, Copy, Debug)]
enum Request {
    Get { keys: u32 },
    MetaGet,
    BinaryGet,
    Set,
}

/// Every path. A change that makes one dearer has to say why here.
pub(crate) const PATHS: &[Path] = &[
    Path {
        name: "get",
        about: "get, 8 clients",
        clients: 8,
        depth: 1,
        request: Request::Get { keys: 1 },
        backups: 0,
        expected: 5_022,
    },
    Path {
        name: "get-pipelined",
        about: "get, 8 clients, 16 requests in one packet",
        clients: 8,
        depth: 16,
        request: Request::Get { keys: 1 },
        backups: 0,
        expected: 3_468,
    },
    Path {
        name: "multiget",
        about: "get of 50 keys, 4 clients",
        clients: 4,
        depth: 1,
        request: Request::Get { keys: 50 },
        backups: 0,
        expected: 110_600,
    },
    Path {
        name: "multiget-backups",
        about: "the same, with two backups",
        clients: 4,
        depth: 1,
        request: Request::Get { keys: 50 },
        backups: 2,
        expected: 116_244,
    },
    Path {
        name: "meta-get",
        about: "mg with value and flags, 8 clients",
        clients: 8,
        depth: 1,
        request: Request::MetaGet,
        backups: 0,
        expected: 5_937,
    },
    Path {
        name: "binary-get",
        about: "binary get, 8 clients",
        clients: 8,
        depth: 1,
        request: Request::BinaryGet,
        backups: 0,
        expected: 6_451,
    },
    Path {
        name: "set",
        about: "set of 100 B, 8 clients",
        clients: 8,
        depth: 1,
        request: Request::Set,
        backups: 0,
        expected: 6_141,
    },
    Path {
        name: "set-backups",
        about: "the same, with a copy on one of two backups",
        clients: 8,
        depth: 1,
        request: Request::Set,
        backups: 2,
        expected: 7_813,
    },
];

/// Rounds of the shorter and the longer run.
const ROUNDS: [u32; 2] = [200, 400];

const PRIMARIES: u16 = 3;
const KEYS: u32 = 2_000;
const VALUE: [u8; 100] = [b'v'; 100];

impl Path {
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        PATHS.iter().find(|path| path.name == name)
    }

    /// Runs the path once, as what valgrind looks at.
    pub(crate) fn run(&self, rounds: u32) -> Result<()> {
        let mut bench = Bench::new(self)?;
        for _ in 0..rounds {
            bench.round(self)?;
        }
        Ok(())
    }

    /// Instructions of the engine for one request, counted by valgrind.
    pub(crate) fn instructions(&self) -> Result<u64> {
        let [short, long] = ROUNDS;
        let more = self.count(long)?.saturating_sub(self.count(short)?);
        let requests = u64::from((long - short) * self.clients * self.depth);
        Ok(more / requests)
    }

    fn count(&self, rounds: u32) -> Result<u64> {
        let dir = tempfile::tempdir().context("no temporary directory")?;
        let out = dir.path().join("callgrind.out");
        let program = std::env::current_exe().context("where is this program?")?;
        let output = Command::new("valgrind")
            .arg("--tool=callgrind")
            .arg("--toggle-collect=*in_engine*")
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(program)
            .args(["hot-path", self.name, "--rounds", &rounds.to_string()])
            .output()
            .context("cannot run valgrind: install the package of that name")?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {told}", self.name);
        let collected = told
            .lines()
            .find_map(|line| line.split_once("Collected : "));
        let (_, count) = collected.with_context(|| format!("valgrind says no count: {told}"))?;
        let count: u64 = count.trim().parse().context("valgrind's count")?;
        ensure!(count > 0, "valgrind saw no call of the engine");
        Ok(count)
    }
}

/// An engine, and buffers in place of sockets.
struct Bench {
    engine: Engine,
    clients: Vec<ClientId>,
    /// By backend.
    nodes: Vec<Node>,
    next_key: u32,
    /// Bytes that clients were answered.
    answered: u64,
    requests: Vec<u8>,
    sent: Vec<u8>,
}

struct Node {
    session: Session,
    store: Store,
}

impl Node {
    /// It has every key, also those that live elsewhere.
    fn new() -> Self {
        let mut this = Self {
            session: Session::new(),
            store: Store::new(StoreConfig::default()),
        };
        let mut sets = Vec::new();
        for number in 0..KEYS {
            sets.extend_from_slice(b"set ");
            write_key(number, &mut sets);
            sets.extend_from_slice(b" 0 0 100 noreply\r\n");
            sets.extend_from_slice(&VALUE);
            sets.extend_from_slice(b"\r\n");
        }
        let next = this
            .session
            .receive(&mut this.store, NODE_NOW, &sets, &mut Vec::new());
        assert_eq!(next, Next::Continue, "a node takes what is right");
        this
    }
}

fn write_key(number: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("bench:key:{number:06}").as_bytes());
}

/// Takes what leaves for a backend.
fn sent_to_backend(engine: &mut Engine, connection: ConnectionId, out: &mut Vec<u8>) {
    let mut slices = [IoSlice::new(&[]); 64];
    let count = engine.backend_slices(connection, &mut slices);
    for slice in &slices[..count] {
        out.extend_from_slice(slice);
    }
    engine.backend_sent(NOW, connection, out.len());
}

/// What valgrind counts.
#[inline(never)]
fn in_engine<R>(call: impl FnOnce() -> R) -> R {
    call()
}

const NOW: Time = Time(1_000_000_000);
const NODE_NOW: magent_node::Time = magent_node::Time(NOW.0);

impl Bench {
    fn new(path: &Path) -> Result<Self> {
        let servers = |first: u16, count: u16| {
            let server = |port: u16| format!("10.0.0.1:{port}").parse();
            (first..first + count).map(server).collect::<Result<_, _>>()
        };
        let mut config = Config::new(
            servers(11_211, PRIMARIES).context("primaries")?,
            servers(11_221, path.backups).context("backups")?,
            magent_core::scheme::Scheme::ketama_md5(),
            magent_core::scheme::SchemeOptions::default(),
        )
        .context("servers")?;
        // No time passes here, so nothing may wait for it.
        config.limits.gather_hold_us = 0;
        let mut engine = Engine::new(WorkerId(0), &config, Shared::new(&config), NOW);
        engine.connect_all(NOW);
        let backend_count = PRIMARIES + path.backups;
        let clients = (0..path.clients).map(|_| engine.open_client()).collect();
        let mut this = Self {
            engine,
            clients,
            nodes: (0..backend_count).map(|_| Node::new()).collect(),
            next_key: 0,
            answered: 0,
            requests: Vec::new(),
            sent: Vec::new(),
        };
        this.turn();
        Ok(this)
    }

    /// All clients ask, and are answered.
    fn round(&mut self, path: &Path) -> Result<()> {
        for index in 0..self.clients.len() {
            let mut requests = std::mem::take(&mut self.requests);
            requests.clear();
            for _ in 0..path.depth {
                self.write_request(path.request, &mut requests);
            }
            let client = self.clients[index];
            let engine = &mut self.engine;
            in_engine(|| engine.handle(NOW, Input::ClientData(client, &requests)));
            self.requests = requests;
        }
        let before = self.answered;
        self.turn();
        if self.answered == before {
            bail!("{}: no answer", path.name);
        }
        Ok(())
    }

    fn write_request(&mut self, request: Request, out: &mut Vec<u8>) {
        match request {
            Request::Get { keys } => {
                out.extend_from_slice(b"get");
                for _ in 0..keys {
                    out.push(b' ');
                    self.write_key(out);
                }
            }
            Request::MetaGet => {
                out.extend_from_slice(b"mg ");
                self.write_key(out);
                out.extend_from_slice(b" f v");
            }
            Request::BinaryGet => {
                let start = out.len();
                out.extend_from_slice(&[0; 24]);
                self.write_key(out);
                let key_len = u16::try_from(out.len() - start - 24).unwrap_or_default();
                out[start] = 0x80;
                out[start + 2..start + 4].copy_from_slice(&key_len.to_be_bytes());
                out[start + 10..start + 12].copy_from_slice(&key_len.to_be_bytes());
                return;
            }
            Request::Set => {
                out.extend_from_slice(b"set ");
                self.write_key(out);
                out.extend_from_slice(b" 0 0 100\r\n");
                out.extend_from_slice(&VALUE);
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    fn write_key(&mut self, out: &mut Vec<u8>) {
        self.next_key = (self.next_key + 1) % KEYS;
        write_key(self.next_key, out);
    }

    /// Turns, until nothing is left to do.
    fn turn(&mut self) {
        loop {
            let engine = &mut self.engine;
            in_engine(|| engine.handle(NOW, Input::TurnEnd));
            let mut idle = true;
            loop {
                let engine = &mut self.engine;
                let output = in_engine(|| engine.poll(NOW));
                if matches!(output, Output::Wait(_)) {
                    break;
                }
                idle = false;
                self.perform(&output);
            }
            if idle {
                return;
            }
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "nothing else happens to an engine that has all it wants"
    )]
    fn perform(&mut self, output: &Output) {
        let engine = &mut self.engine;
        match *output {
            Output::Connect(connection) => {
                engine.handle(NOW, Input::BackendConnected(connection));
            }
            Output::Report(Report::Connected { connection, .. }) => {
                engine.handle(NOW, Input::Verified(connection));
            }
            Output::WriteBackend(connection) => {
                let node = &mut self.nodes[connection.backend.index()];
                let mut answer = Vec::new();
                in_engine(|| sent_to_backend(engine, connection, &mut self.sent));
                let next = node
                    .session
                    .receive(&mut node.store, NODE_NOW, &self.sent, &mut answer);
                assert_eq!(next, Next::Continue, "the engine says what is right");
                self.sent.clear();
                in_engine(|| engine.handle(NOW, Input::BackendData(connection, &answer)));
            }
            Output::WriteClient(client) => {
                let len = in_engine(|| {
                    let mut slices = [IoSlice::new(&[]); 64];
                    let count = engine.client_slices(client, &mut slices);
                    let len = slices[..count].iter().map(|slice| slice.len()).sum();
                    engine.client_sent(client, len);
                    len
                });
                self.answered += len as u64;
            }
            _ => {}
        }
    }
}
