//! A program that a test started, and its end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::wait_until;

/// A running program; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts `program`. The kernel kills it if the calling thread ends first, so that a test process
    /// that is killed leaves nothing behind, not even a stopped backend.
    pub(crate) fn start(program: &Path, setup: impl FnOnce(&mut Command)) -> Self {
        // `setpriv` execs, so the pid is the program's own. Doing the same through `pre_exec` would
        // need unsafe code.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .stdin(Stdio::null());
        setup(&mut command);
        let child = command
            .spawn()
            .unwrap_or_else(|err| panic!("{}: {err}", program.display()));
        Self { child }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().try_into().unwrap()), signal).unwrap();
    }

    /// `kill -9`, and waits for the end.
    pub(crate) fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGSTOP, and waits until the process stands still.
    pub(crate) fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        wait_until("the process is stopped", || {
            self.stat_field(STAT_STATE) == "T"
        });
    }

    /// SIGCONT.
    pub(crate) fn cont(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// How it ended, if it has.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// CPU time used so far, user and system.
    pub(crate) fn cpu_time(&self) -> Duration {
        let ticks: u64 = [STAT_UTIME, STAT_STIME]
            .iter()
            .map(|&field| self.stat_field(field).parse::<u64>().unwrap())
            .sum();
        let per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
        Duration::from_millis(ticks * 1_000 / u64::try_from(per_second).unwrap())
    }

    /// Most memory held so far, in bytes.
    pub(crate) fn memory_max(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
    }

    /// One field of `/proc/<pid>/stat`, counted as in proc(5) from 1.
    fn stat_field(&self, field: usize) -> String {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The second field is the name in brackets and may hold blanks.
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        rest.split(' ').nth(field - 3).unwrap().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const STAT_STATE: usize = 3;
const STAT_UTIME: usize = 14;
const STAT_STIME: usize = 15;

/// Path of a program on `$PATH`.
#[track_caller]
pub(crate) fn program(name: &str) -> PathBuf {
    find_program(name).unwrap_or_else(|| panic!("{name} is not installed: run ./test.sh setup"))
}

/// The same of one that may be missing.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

/// Runs `tests/e2e/<script>` with `args`; its output if it exits 0.
#[track_caller]
pub(crate) fn run_script(script: &str, args: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/e2e")
        .join(script);
    let output = Command::new(&path)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(
        output.status.success(),
        "{script}: {}\n{said}",
        output.status
    );
    said
}
