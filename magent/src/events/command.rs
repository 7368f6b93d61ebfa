//! `--on-event CMD`: a command of the operator's for each event.
//!
//! It is run by `sh -c`, with the event as one line of JSON on its standard input and as `MAGENT_*` in its
//! environment. What it writes to standard output goes nowhere; the beginning of its standard error is
//! logged if it fails.
//!
//! # Invariants
//!
//! - It cannot hang: a command that takes too long is killed with everything in its process group, one that reads
//!   no input or writes without end is not waited for.
//! - It is nobody's terminal job: it has its own process group, so that Ctrl-C ends the proxy alone. It
//!   inherits neither sockets nor locks (all descriptors are close-on-exec).
//!
//! What it starts in the background lives on, and has to send its standard error elsewhere.
//!
//! Not here: how many run at once, and how often (`events`).

use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Notice;

/// Standard error that is logged.
const STDERR_LEN_MAX: usize = 400;

/// How long what was written to standard error may take to arrive after the command's end.
const STDERR_WAIT: Duration = Duration::from_millis(100);

/// A command line for `sh`.
#[derive(Clone, Debug)]
pub(crate) struct EventCommand {
    line: String,
}

impl EventCommand {
    /// As given to `--on-event`.
    pub(crate) fn new(line: impl Into<String>) -> Self {
        Self { line: line.into() }
    }

    /// Runs it for one event.
    ///
    /// # Errors
    ///
    /// For the log: what went wrong.
    pub(super) async fn run(&self, notice: &Notice, limit: Duration) -> Result<(), String> {
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(&self.line)
            .envs(variables(notice))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|err| format!("cannot start sh: {err}"))?;
        let stdin = child.stdin.take().expect("it is piped");
        let stderr = child.stderr.take().expect("it is piped");
        let reader = tokio::spawn(beginning_of(stderr));
        let stop_reader = reader.abort_handle();
        let outcome = outcome(&mut child, stdin, reader, notice.json(), limit).await;
        // Something in the background may keep its end open for ever.
        stop_reader.abort();
        outcome
    }
}

async fn outcome(
    child: &mut Child,
    stdin: ChildStdin,
    reader: JoinHandle<String>,
    input: String,
    limit: Duration,
) -> Result<(), String> {
    let ended = async {
        feed(stdin, input).await;
        child.wait().await
    };
    let Ok(ended) = timeout(limit, ended).await else {
        kill_group(child).await;
        return Err(format!("killed, it took more than {limit:?}"));
    };
    let status = ended.map_err(|err| format!("cannot wait for sh: {err}"))?;
    if status.success() {
        return Ok(());
    }
    match timeout(STDERR_WAIT, reader).await {
        Ok(Ok(said)) if !said.is_empty() => Err(format!("{status}: {said}")),
        Ok(Ok(_) | Err(_)) | Err(_) => Err(status.to_string()),
    }
}

/// The event's facts as `MAGENT_*`. Every one is set, also to nothing, for scripts under `set -u`.
fn variables(notice: &Notice) -> Vec<(String, String)> {
    let Ok(Value::Object(fields)) = serde_json::to_value(notice) else {
        unreachable!("a notice is a JSON object");
    };
    let variable = |(name, value): (String, Value)| {
        let name = format!("MAGENT_{}", name.to_ascii_uppercase());
        (name, plain(&value))
    };
    fields.into_iter().map(variable).collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

async fn feed(mut stdin: ChildStdin, mut line: String) {
    line.push('\n');
    // A command that does not read its input closes it, and that is its right.
    drop(stdin.write_all(line.as_bytes()).await);
}

/// Reads to the end, so that the command can go on writing, and keeps the beginning.
async fn beginning_of(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(len @ 1..) = stderr.read(&mut buffer).await {
        let room = STDERR_LEN_MAX - kept.len();
        kept.extend_from_slice(&buffer[..len.min(room)]);
    }
    // Escaped, so that it cannot forge a line of the log.
    kept.trim_ascii().escape_ascii().to_string()
}

async fn kill_group(child: &mut Child) {
    // It has an id until it is waited for, so nobody else can have it.
    if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
        match killpg(Pid::from_raw(id), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(err) => tracing::warn!("events: cannot kill process group {id}: {err}"),
        }
    }
    // A command that has left its group is killed all the same, else this would wait for it.
    drop(child.kill().await);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::time::Instant;

    use super::super::tests::{notice, runtime};
    use super::*;

    /// Longer than anything takes here, on any machine.
    const LONG: Duration = Duration::from_secs(60);

    fn run(line: &str, limit: Duration) -> Result<(), String> {
        runtime().block_on(EventCommand::new(line).run(&notice(), limit))
    }

    #[test]
    fn facts_are_in_the_environment_and_on_standard_input() {
        let dir = tempfile::tempdir().unwrap();
        let out = |name| dir.path().join(name);
        let line = format!(
            "cat > '{}'; env -0 > '{}'",
            out("stdin").display(),
            out("env").display()
        );
        run(&line, LONG).unwrap();
        let stdin = fs::read_to_string(out("stdin")).unwrap();
        assert_eq!(stdin, notice().json() + "\n");
        let env = fs::read_to_string(out("env")).unwrap();
        let found: BTreeMap<_, _> = env
            .split_terminator('\0')
            .filter_map(|line| line.strip_prefix("MAGENT_")?.split_once('='))
            .collect();
        let expected = [
            ("BACKEND", "10.0.0.4:11211"),
            ("DOWNTIME_MS", "1500"),
            ("EVENT", "down"),
            ("HEALED_BYTES", ""),
            ("HEALED_ITEMS", ""),
            ("LISTEN", "0.0.0.0:11211"),
            ("PID", "4242"),
            ("REASON", "it said \"no\"\nand $(left) 'us'"),
            ("REMEMBERED_KEYS", "7"),
            ("ROLES", "primary,backup"),
            ("SUPPRESSED", "2"),
            (
                "TEXT",
                "backend 10.0.0.4:11211 is down: it said \"no\"\nand $(left) 'us'",
            ),
            ("TIME", "2026-01-02T03:04:05.678Z"),
        ];
        assert_eq!(found, expected.into());
    }

    #[test]
    fn a_failure_says_what_the_command_said() {
        assert_eq!(
            run("echo no such pager >&2; exit 3", LONG),
            Err("exit status: 3: no such pager".to_owned())
        );
        assert_eq!(run("exit 1", LONG), Err("exit status: 1".to_owned()));
        assert_eq!(
            run("printf 'a\\nb\\033[31m' >&2; exit 1", LONG),
            Err(r"exit status: 1: a\nb\x1b[31m".to_owned())
        );
        let long = run("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1", LONG).unwrap_err();
        assert_eq!(long, format!("exit status: 1: {}", "x".repeat(400)));
    }

    #[test]
    fn input_that_nobody_reads_and_output_without_end_are_no_failure() {
        run("exec <&-", LONG).unwrap();
        run("head -c 1000000 /dev/zero", LONG).unwrap();
        run("head -c 1000000 /dev/zero >&2", LONG).unwrap();
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let line = format!("sleep 1000 & echo $! > '{}'; wait", pid_file.display());
        let started = Instant::now();
        // Until there was time for its first command.
        let mut limit = Duration::from_millis(100);
        while !fs::read_to_string(&pid_file).is_ok_and(|pid| pid.ends_with('\n')) {
            limit *= 2;
            let killed = run(&line, limit);
            assert_eq!(killed, Err(format!("killed, it took more than {limit:?}")));
            assert!(started.elapsed() < LONG);
        }
        let pid: i32 = fs::read_to_string(&pid_file)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let deadline = Instant::now() + LONG;
        while is_running(pid) {
            assert!(Instant::now() < deadline, "{pid} is still there");
            std::thread::yield_now();
        }
    }

    /// A zombie whose parent has not looked yet is dead too.
    fn is_running(pid: i32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| stat.contains("(sleep)") && !stat.contains(") Z "))
    }

    #[test]
    fn what_it_starts_in_the_background_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let line = format!("sleep 1000 & echo $! > '{}'; exit 1", pid_file.display());
        let started = Instant::now();
        assert_eq!(run(&line, LONG), Err("exit status: 1".to_owned()));
        assert!(started.elapsed() < LONG);
        let pid: i32 = fs::read_to_string(&pid_file)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        assert!(is_running(pid));
        // Its standard error leads nowhere by then; see the module's page.
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }

    #[test]
    fn it_has_its_own_process_group() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        run(
            &format!("ps -o pgid= -p $$ > '{}'; echo $$ >> '{0}'", out.display()),
            LONG,
        )
        .unwrap();
        let text = fs::read_to_string(&out).unwrap();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert_eq!(lines[0], lines[1]);
    }
}
