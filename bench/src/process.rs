//! Backends and proxies as child processes that cannot outlive us.
//!
//! # Invariants
//!
//! - Only processes started here are ever signalled, through their own `Child`.
//! - However we end, they end: by `Drop` in the ordinary way; by the kernel (`setpriv
//!   --pdeathsig`) after a panic, which aborts in release builds, or a SIGKILL.
//!
//! Not here: which command a proxy needs (`peer`), what it costs (`meter`).

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

use crate::interrupt;

/// A running child that listens on `address`; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts `words(port)` with a free port and waits until it listens there. Its output goes
    /// to a file in `dir`, shown if it fails to start.
    pub(crate) fn start(
        name: &str,
        dir: &Path,
        mut words: impl FnMut(u16) -> Result<Vec<OsString>>,
    ) -> Result<Self> {
        let mut tries = 0;
        loop {
            let port = free_port()?;
            let words = words(port)?;
            let log = dir.join(format!("{name}-{port}.log"));
            let started = Self::spawn(&words, &log, port).and_then(|mut process| {
                process.wait_listening(&log)?;
                Ok(process)
            });
            tries += 1;
            match started {
                // Someone else may have taken the port since it was free.
                Err(_) if tries < TRIES_MAX && interrupt::check().is_ok() => {}
                other => return other.with_context(|| format!("start {name}: {words:?}")),
            }
        }
    }

    fn spawn(words: &[OsString], log: &Path, port: u16) -> Result<Self> {
        let (program, arguments) = words.split_first().context("an empty command")?;
        let mut command = match find_program("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        let output = File::create(log)?;
        command.args(arguments).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        let child = command.spawn()?;
        Ok(Self {
            child,
            address: loopback(port),
        })
    }

    fn wait_listening(&mut self, log: &Path) -> Result<()> {
        let start = Instant::now();
        loop {
            let listens = TcpStream::connect_timeout(&self.address, CONNECT_MAX).is_ok();
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "it ended with {status}; its last words:\n{}",
                    last_lines(log)
                );
            }
            if listens {
                return Ok(());
            }
            ensure!(
                start.elapsed() < START_MAX,
                "not listening on {} after 10 s",
                self.address
            );
            interrupt::check()?;
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended: then whatever was measured last means nothing.
    pub(crate) fn check_alive(&mut self, name: &str) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{name} has ended with {status}"),
            None => Ok(()),
        }
    }

    /// Keeps all its threads to `cpus`.
    pub(crate) fn pin(&self, cpus: &[usize]) -> Result<()> {
        let set = cpu_set(cpus)?;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let tid: i32 = task?.file_name().to_string_lossy().parse()?;
            sched_setaffinity(Pid::from_raw(tid), &set)?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended and was waited for, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Which CPUs the proxy gets and which everything else: the proxy has one to itself, so that what
/// it is charged with (cache misses, soft interrupts) is its own doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pinning {
    pub(crate) proxy: Vec<usize>,
    pub(crate) rest: Vec<usize>,
}

impl Pinning {
    /// The last CPU for the proxy, the others for the rest; `None` with a single CPU.
    pub(crate) fn of(cpus: &[usize]) -> Option<Self> {
        let (last, rest) = cpus.split_last()?;
        (!rest.is_empty()).then(|| Self {
            proxy: vec![*last],
            rest: rest.to_vec(),
        })
    }
}

/// The CPUs that this process may use.
pub(crate) fn cpus() -> Result<Vec<usize>> {
    let set = sched_getaffinity(CALLER)?;
    Ok((0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu) == Ok(true))
        .collect())
}

/// Keeps the calling thread, the load generator, to `cpus`.
pub(crate) fn pin_self(cpus: &[usize]) -> Result<()> {
    Ok(sched_setaffinity(CALLER, &cpu_set(cpus)?)?)
}

fn cpu_set(cpus: &[usize]) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu)?;
    }
    Ok(set)
}

/// Raises the limit on open files as far as it goes, for us and all children, and fails if
/// `needed` is above that.
pub(crate) fn raise_open_files(needed: u64) -> Result<()> {
    let (_, maximum) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, maximum, maximum)?;
    ensure!(
        needed <= maximum,
        "{needed} open files are needed but only {maximum} allowed: raise the hard limit \
         (ulimit -Hn) or use fewer --connections"
    );
    Ok(())
}

/// The most files that a process may have open here.
pub(crate) fn open_files_max() -> Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.1)
}

/// The program `name` from PATH or the directories of system daemons, which a user's PATH leaves
/// out; a path stays as it is.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let mut candidates = std::env::split_paths(&path)
        .chain(daemons)
        .map(|dir| dir.join(name));
    candidates.find(|candidate| candidate.is_file())
}

pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(loopback(0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

/// The calling thread, for the scheduler.
const CALLER: Pid = Pid::from_raw(0);

/// Starts of one process, each with another port.
const TRIES_MAX: u32 = 3;

/// Longest time from the start of a process until it listens.
const START_MAX: Duration = Duration::from_secs(10);

const CONNECT_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinning_gives_the_proxy_a_cpu_of_its_own() {
        assert_eq!(Pinning::of(&[]), None);
        assert_eq!(Pinning::of(&[3]), None);
        let three = Pinning::of(&[0, 2, 5]).unwrap();
        assert_eq!((three.proxy, three.rest), (vec![5], vec![0, 2]));
    }

    #[test]
    fn a_process_that_ends_at_once_tells_why() {
        let dir = tempfile::tempdir().unwrap();
        let words = |_| {
            Ok(["sh", "-c", "echo no such luck >&2; exit 3"]
                .map(Into::into)
                .into())
        };
        let err = format!(
            "{:#}",
            Process::start("failing", dir.path(), words).unwrap_err()
        );
        assert!(
            err.contains("no such luck") && err.contains("exit status: 3"),
            "{err}"
        );
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("log");
        let words = ["sleep", "60"].map(OsString::from);
        let process = Process::spawn(&words, &output, 1).unwrap();
        let proc_dir = PathBuf::from(format!("/proc/{}", process.pid()));
        assert!(proc_dir.exists());
        drop(process);
        assert!(!proc_dir.exists());
    }

    #[test]
    fn programs_are_found_where_daemons_live() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program").is_none());
        assert!(find_program("/no/such/program").is_none());
    }
}
