//! The magent binary under test.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::endpoint::free_endpoint;
use super::process::Process;
use super::{Client, Endpoint, wait_for, wait_until};

/// A proxy in the foreground, its log kept in a file.
///
/// Dropping it checks that it is alive unless the test ended it, and that it logged no panic.
#[derive(Debug)]
pub(crate) struct Magent {
    /// Where clients connect.
    pub(crate) endpoint: Endpoint,
    args: Vec<String>,
    process: Process,
    expected_to_live: bool,
    dir: TempDir,
}

/// The binary; `MAGENT_BIN` names another, such as a release build.
pub(crate) fn magent_path() -> PathBuf {
    std::env::var_os("MAGENT_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_magent").into(), PathBuf::from)
}

/// How a command ended that was not expected to serve, or not in the foreground.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it wrote to its standard output.
    pub(crate) stdout: String,
    /// What it wrote to its standard error.
    pub(crate) stderr: String,
}

/// Runs the binary to its end: for start-up errors, `-h`, and the background.
#[track_caller]
pub(crate) fn run_magent(args: &[&str]) -> Ended {
    // Files, not pipes: a daemon that kept a pipe open would hold up whoever reads it to the end.
    let dir = TempDir::new().unwrap();
    let [stdout, stderr] = ["stdout", "stderr"].map(|name| dir.path().join(name));
    let mut process = Process::start(&magent_path(), |command| {
        command.args(args);
        command
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap());
    });
    let status = wait_for(&format!("magent {} ends", args.join(" ")), || {
        process.exited()
    });
    let [stdout, stderr] = [stdout, stderr].map(|path| fs::read_to_string(path).unwrap());
    Ended {
        code: status.code(),
        stdout,
        stderr,
    }
}

impl Magent {
    /// In front of `primaries` and `backups`, with `extra` arguments; returns once it listens.
    pub(crate) fn start(primaries: &[&Endpoint], backups: &[&Endpoint], extra: &[&str]) -> Self {
        Self::start_named(primaries, backups, extra)
    }

    /// The same, of servers by any name that leads to them.
    pub(crate) fn start_named(
        primaries: &[impl ToString],
        backups: &[impl ToString],
        extra: &[&str],
    ) -> Self {
        let mut args = vec!["--threads".to_owned(), "2".to_owned()];
        let primaries = primaries.iter().map(|server| ("-s", server.to_string()));
        let backups = backups.iter().map(|server| ("-b", server.to_string()));
        for (flag, server) in primaries.chain(backups) {
            args.extend([flag.to_owned(), server]);
        }
        args.extend(extra.iter().map(ToString::to_string));
        Self::start_at(free_endpoint(), &args)
    }

    /// With `args` and nothing else but where to listen.
    pub(crate) fn start_at(endpoint: Endpoint, args: &[String]) -> Self {
        let all = [&["-D".to_owned()], &listen_args(&endpoint)[..], args].concat();
        Self::start_command(
            endpoint,
            &all.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    }

    /// With exactly `args`, which make it listen at `endpoint` in the foreground.
    pub(crate) fn start_command(endpoint: Endpoint, args: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let process = spawn(&args, &dir);
        let mut magent = Self {
            endpoint,
            args,
            process,
            expected_to_live: true,
            dir,
        };
        magent.wait_until_listening();
        magent
    }

    /// A client of the proxy.
    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.endpoint)
    }

    /// Each backend's state, as `stats magent` has it.
    #[track_caller]
    pub(crate) fn states(&self) -> BTreeMap<String, String> {
        let stats = self.client().stats("magent");
        let state = |(name, value): (String, String)| {
            let name = name.strip_prefix("backend:")?.strip_suffix(":state")?;
            Some((name.to_owned(), value))
        };
        stats.into_iter().filter_map(state).collect()
    }

    /// Waits until this backend is in one of `states`, and says in which.
    #[track_caller]
    pub(crate) fn wait_until_state(&self, backend: &impl ToString, states: &[&str]) -> String {
        let backend = backend.to_string();
        wait_for(&format!("{backend} is {states:?}"), || {
            let state = self
                .states()
                .remove(&backend)
                .expect("a backend of this proxy");
            states.contains(&state.as_str()).then_some(state)
        })
    }

    /// Waits until every backend has what it should have, and is read.
    #[track_caller]
    pub(crate) fn wait_until_healed(&self) {
        wait_until("all backends are up", || {
            self.states().values().all(|state| state == "up")
        });
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.dir.path().join("log")).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// CPU time used so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.process.cpu_time()
    }

    /// Most memory held so far, in bytes.
    pub(crate) fn memory_max(&self) -> u64 {
        self.process.memory_max()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// SIGSTOP, and waits until it stands still.
    pub(crate) fn stop(&self) {
        self.process.stop();
    }

    /// SIGCONT.
    pub(crate) fn cont(&self) {
        self.process.cont();
    }

    /// `kill -9`.
    pub(crate) fn kill9(&mut self) {
        self.expected_to_live = false;
        self.process.kill9();
    }

    /// Starts it again as it was started, after its end. The log goes on in the same file.
    pub(crate) fn restart(&mut self) {
        assert!(self.process.exited().is_some(), "restarted while it runs");
        self.process = spawn(&self.args, &self.dir);
        self.expected_to_live = true;
        self.wait_until_listening();
    }

    /// SIGHUP.
    pub(crate) fn hang_up(&self) {
        self.process.signal(Signal::SIGHUP);
    }

    /// Waits until the log has `text`, and yields the line.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        wait_for(&format!("the log has \"{text}\""), || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains(text));
            line.map(str::to_owned)
        })
    }

    /// SIGTERM, without waiting.
    pub(crate) fn terminate(&mut self) {
        self.expected_to_live = false;
        self.process.signal(Signal::SIGTERM);
    }

    /// Waits for the end after [`Self::terminate`].
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        wait_for("magent exits", || self.process.exited())
    }

    fn wait_until_listening(&mut self) {
        wait_until("magent listens", || {
            if let Some(status) = self.process.exited() {
                self.expected_to_live = false;
                panic!("magent ended before it listened: {status}");
            }
            // It says so when all of its listeners are there; the first one is there before the others.
            self.log().contains(" starts: ") && self.endpoint.connect().is_ok()
        });
    }
}

impl Drop for Magent {
    fn drop(&mut self) {
        let log = self.log();
        if std::thread::panicking() {
            eprintln!(
                "--- last lines of magent's log\n{}---",
                last_lines(&log, 40)
            );
            return;
        }
        if self.expected_to_live {
            let ended = self.process.exited();
            assert!(
                ended.is_none(),
                "magent ended: {ended:?}\n{}",
                last_lines(&log, 40)
            );
        }
        assert!(
            !log.contains("panicked at"),
            "magent panicked:\n{}",
            last_lines(&log, 40)
        );
    }
}

fn spawn(args: &[String], dir: &TempDir) -> Process {
    let path = dir.path().join("log");
    let log = File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    Process::start(&magent_path(), |command| {
        command.args(args);
        command.stdout(log.try_clone().unwrap()).stderr(log);
    })
}

fn listen_args(endpoint: &Endpoint) -> Vec<String> {
    match endpoint {
        Endpoint::Tcp(address) => {
            vec![
                "-l".into(),
                address.ip().to_string(),
                "-p".into(),
                address.port().to_string(),
            ]
        }
        Endpoint::Tls(..) => panic!("needs certificates as well: tell it by arguments"),
        Endpoint::Unix(path) => vec!["-p".into(), "0".into(), "-f".into(), path_str(path)],
    }
}

fn path_str(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn last_lines(log: &str, count: usize) -> String {
    let mut lines: Vec<&str> = log.lines().rev().take(count).collect();
    lines.reverse();
    lines.iter().flat_map(|line| [*line, "\n"]).collect()
}
