//! Who was measured, where and when: what a figure means nothing without.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use serde::Serialize;

use crate::arena;
use crate::cli::Setup;
use crate::process::find_program;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Environment {
    date: String,
    cpu: String,
    cpu_count: usize,
    kernel: String,
    magent: String,
    nutcracker: String,
    memcached: String,
}

impl Environment {
    /// Asks the machine and the programs of `setup`.
    pub(crate) fn look(setup: &Setup) -> Self {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            date: now.split('T').next().unwrap_or_default().to_owned(),
            cpu: cpu_model(&read("/proc/cpuinfo")).unwrap_or_else(|| UNKNOWN.to_owned()),
            cpu_count: std::thread::available_parallelism().map_or(1, Into::into),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            magent: version(&arena::magent(setup)),
            nutcracker: version(&setup.nutcracker),
            memcached: version(&setup.memcached),
        }
    }

    /// As sentences, a line each.
    pub(crate) fn lines(&self) -> [String; 2] {
        let Self {
            date,
            cpu,
            cpu_count,
            kernel,
            magent,
            nutcracker,
            memcached,
        } = self;
        let cpus = if *cpu_count == 1 { "CPU" } else { "CPUs" };
        [
            format!("magent {magent}, nutcracker {nutcracker}, memcached {memcached}."),
            format!("{date}, {cpu_count} {cpus} of {cpu}, Linux {kernel}."),
        ]
    }
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// What `program -V` says.
fn version(program: &Path) -> String {
    let said = find_program(&program.to_string_lossy())
        .and_then(|program| Command::new(program).arg("-V").output().ok());
    let said = said.map(|output| [output.stdout, output.stderr].concat());
    let said = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
    version_in(&said).unwrap_or_else(|| UNKNOWN.to_owned())
}

/// The first number with a dot in it: `This is nutcracker-0.5.0` is 0.5.0.
fn version_in(text: &str) -> Option<String> {
    let mut parts = text.split(|char: char| !char.is_ascii_digit() && char != '.');
    let version = parts.find(|part| part.contains('.') && part.starts_with(char::is_numeric))?;
    Some(version.trim_end_matches('.').to_owned())
}

const UNKNOWN: &str = "of unknown version";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_wherever_they_stand() {
        for (text, version) in [
            ("memcached 1.6.18\n", "1.6.18"),
            ("This is nutcracker-0.5.0\nasync event backend", "0.5.0"),
            ("magent 0.1.0", "0.1.0"),
        ] {
            assert_eq!(version_in(text).as_deref(), Some(version));
        }
        assert_eq!(version_in("no idea. 7"), None);
    }

    #[test]
    fn the_model_of_the_cpu_is_found() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC 1\nmodel name\t: AMD EPYC 2\n";
        assert_eq!(cpu_model(cpuinfo).as_deref(), Some("AMD EPYC 1"));
        assert_eq!(cpu_model("processor : 0\n"), None);
    }
}
