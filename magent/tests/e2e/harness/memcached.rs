//! A real memcached.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::endpoint::free_endpoint;
use super::items::unix_now;
use super::process::{Process, program};
use super::{Client, Endpoint, wait_until};

/// A memcached of its own for one test.
#[derive(Debug)]
pub(crate) struct Memcached {
    /// Where it listens; kept over restarts.
    pub(crate) endpoint: Endpoint,
    /// Where tests ask it, if `endpoint` speaks TLS.
    plain: Option<Endpoint>,
    /// What becomes memcached, if not memcached itself.
    command: Vec<String>,
    options: Vec<String>,
    process: Process,
    memory: Option<MemoryFile>,
}

impl Memcached {
    /// On a free port of this process's loopback address.
    pub(crate) fn start() -> Self {
        Self::start_at(free_endpoint(), &[])
    }

    /// At `endpoint`, with more `options` than the usual.
    pub(crate) fn start_at(endpoint: Endpoint, options: &[&str]) -> Self {
        Self::start_as(&[], endpoint, options)
    }

    /// With TLS at its endpoint; its other `options` name certificates.
    pub(crate) fn start_tls(options: &[&str]) -> Self {
        let plain = free_endpoint();
        let notls = format!("notls:{plain}");
        let options = [&["-Z", "-l", notls.as_str()], options].concat();
        Self::start_with(&[], free_endpoint(), &options, Some(plain))
    }

    /// At `endpoint`, by a command that becomes memcached.
    pub(crate) fn start_through(command: &[&str], endpoint: Endpoint) -> Self {
        Self::start_as(command, endpoint, &[])
    }

    /// Both.
    pub(crate) fn start_as(command: &[&str], endpoint: Endpoint, options: &[&str]) -> Self {
        Self::start_with(command, endpoint, options, None)
    }

    fn start_with(
        command: &[&str],
        endpoint: Endpoint,
        options: &[&str],
        plain: Option<Endpoint>,
    ) -> Self {
        let [command, options] = [command, options]
            .map(|words| words.iter().map(ToString::to_string).collect::<Vec<_>>());
        let process = spawn(&command, &endpoint, &options);
        let mut memcached = Self {
            endpoint,
            plain,
            command,
            options,
            process,
            memory: None,
        };
        memcached.wait_until_ready();
        memcached
    }

    /// On a unix socket.
    pub(crate) fn start_unix(path: PathBuf) -> Self {
        Self::start_at(Endpoint::Unix(path), &[])
    }

    /// One whose items outlive a restart ([`Self::restart_warm`]).
    pub(crate) fn start_warm() -> Self {
        let memory = MemoryFile::new();
        let options = memory.options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let mut memcached = Self::start_at(free_endpoint(), &options);
        memcached.memory = Some(memory);
        memcached
    }

    /// Stops it as for an upgrade of memcached itself, and starts it again with its items; `meanwhile` is
    /// done while it is away.
    pub(crate) fn restart_warm(&mut self, meanwhile: impl FnOnce()) {
        self.end_warm();
        meanwhile();
        self.wait_until_memory_is_valid();
        self.restart();
    }

    /// Another memcached, which was started warm, at this one's address, with the items of the other.
    /// This one must have been killed.
    pub(crate) fn replace_by(&mut self, mut other: Self) {
        assert!(self.process.exited().is_some(), "replaced while it runs");
        other.end_warm();
        self.memory = other.memory.take();
        self.options.clone_from(&other.options);
        self.wait_until_memory_is_valid();
        self.restart();
    }

    fn end_warm(&mut self) {
        self.process.signal(Signal::SIGUSR1);
        wait_until("memcached has put its memory in order", || {
            self.process.exited().is_some()
        });
    }

    /// It refuses memory that was left in a second that is not over yet.
    fn wait_until_memory_is_valid(&self) {
        let left_at = self.memory.as_ref().expect("started warm").left_at();
        wait_until("the second is over", || unix_now() > left_at);
    }

    /// A client that talks to it without the proxy.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.asked_at())
    }

    fn asked_at(&self) -> &Endpoint {
        self.plain.as_ref().unwrap_or(&self.endpoint)
    }

    /// `kill -9`.
    pub(crate) fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again, empty, where it was. It must have been killed.
    pub(crate) fn restart(&mut self) {
        assert!(self.process.exited().is_some(), "restarted while it runs");
        self.process = spawn(&self.command, &self.endpoint, &self.options);
        self.wait_until_ready();
    }

    /// SIGSTOP: its port goes on accepting, nothing is answered.
    pub(crate) fn stop(&self) {
        self.process.stop();
    }

    /// SIGCONT.
    pub(crate) fn cont(&self) {
        self.process.cont();
    }

    /// What it holds under `key`, the proxy not asked.
    pub(crate) fn value(&self, key: &str) -> Option<Vec<u8>> {
        self.client().get(key)
    }

    /// One number of its `stats`.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let stats = self.client().stats("");
        stats
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {stats:?}"))
            .parse()
            .unwrap()
    }

    /// Until it answers. Once in a few thousand starts the first connection was reset; one that has ended
    /// is started again.
    fn wait_until_ready(&mut self) {
        wait_until("memcached answers", || {
            if self.process.exited().is_some() {
                self.process = spawn(&self.command, &self.endpoint, &self.options);
            }
            // One that wants a password answers nobody.
            if self
                .options
                .iter()
                .any(|option| matches!(&**option, "-Y" | "-S"))
            {
                return self.endpoint.connect().is_ok();
            }
            Client::try_connect(self.asked_at()).is_ok_and(|mut client| {
                client.try_send(b"mn\r\n").is_ok()
                    && client
                        .until_meta_noop()
                        .is_ok_and(|before| before.is_empty())
            })
        });
    }
}

/// Where a memcached keeps its items over a restart (`-e`).
#[derive(Debug)]
struct MemoryFile {
    dir: TempDir,
}

impl MemoryFile {
    /// In memory where the system has a place for that: all of it is written to.
    fn new() -> Self {
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() {
            TempDir::new_in(shm)
        } else {
            TempDir::new()
        };
        Self { dir: dir.unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("memory")
    }

    fn options(&self) -> [String; 2] {
        ["-e".to_owned(), self.path().display().to_string()]
    }

    /// In seconds since 1970, as memcached wrote it down when it stopped.
    fn left_at(&self) -> u64 {
        let path = self.path().with_extension("meta");
        let meta = fs::read_to_string(&path).unwrap();
        let line = meta
            .lines()
            .find_map(|line| line.strip_prefix("Kstop_time "));
        line.unwrap_or_else(|| panic!("no stop_time in {meta}"))
            .parse()
            .unwrap()
    }
}

fn spawn(through: &[String], endpoint: &Endpoint, options: &[String]) -> Process {
    let memcached = program("memcached");
    let first = through
        .first()
        .map_or_else(|| memcached.clone(), |name| program(name));
    Process::start(&first, |command| {
        if let [_, args @ ..] = through {
            command.args(args).arg(&memcached);
        }
        command.args(["-t", "1", "-U", "0"]);
        if nix::unistd::geteuid().is_root() {
            // It refuses to run as root unless told so.
            command.args(["-u", "root"]);
        }
        match endpoint {
            Endpoint::Tcp(address) => {
                command.args([
                    "-l",
                    &address.ip().to_string(),
                    "-p",
                    &address.port().to_string(),
                ]);
            }
            Endpoint::Unix(path) => {
                command.arg("-s").arg(path);
            }
            Endpoint::Tls(..) => panic!("start_tls does this"),
        }
        command.args(options);
    })
}
