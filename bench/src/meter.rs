//! What a process has cost so far: CPU time and memory.
//!
//! CPU time is the process's own clock (`clock_getcpuclockid`): the scheduler's sum over all its
//! threads, ended ones included, in nanoseconds and up to date. The ticks of `/proc/PID/stat` are
//! too coarse for short runs, and `schedstat` is per thread and up to a tick old. It holds user
//! and kernel time, and on loopback nearly all of TCP's work, for that is done by whoever sends.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// CPU time of `pid` since its start.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let raw = i32::try_from(pid).context("a process id")?;
    let clock = clock_getcpuclockid(Pid::from_raw(raw))
        .with_context(|| format!("CPU clock of process {pid}"))?;
    let time = clock_gettime(clock).with_context(|| format!("CPU time of process {pid}"))?;
    Ok(time.into())
}

/// The most memory that `pid` ever had resident, in KiB.
pub(crate) fn peak_memory_kib(pid: u32) -> Result<u64> {
    status_kib(pid, "VmHWM:")
}

/// The memory that `pid` has resident, in KiB.
pub(crate) fn memory_kib(pid: u32) -> Result<u64> {
    status_kib(pid, "VmRSS:")
}

fn status_kib(pid: u32, line: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    parse_status(&text, line).with_context(|| format!("{path} has no {line}"))
}

fn parse_status(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found() {
        let status = "VmPeak:\t   20 kB\nVmHWM:\t    1688 kB\nVmRSS:\t 5 kB\n";
        assert_eq!(parse_status(status, "VmHWM:"), Some(1_688));
        assert_eq!(parse_status(status, "VmRSS:"), Some(5));
        assert_eq!(parse_status("VmRSS:\t 5 kB\n", "VmHWM:"), None);
    }

    #[test]
    fn own_cost_grows() {
        let before = cpu_time(std::process::id()).unwrap();
        let mut block = vec![1_u8; 1 << 20];
        while cpu_time(std::process::id()).unwrap() == before {
            block
                .iter_mut()
                .for_each(|byte| *byte = byte.wrapping_mul(3));
        }
        assert!(
            peak_memory_kib(std::process::id()).unwrap() >= 1 << 10,
            "{}",
            block[7]
        );
    }
}
