//! Where log lines go, how many of them, and how keys look in them.
//!
//! # Invariants
//!
//! - Lines go somewhere that somebody can read: in the background without a syslog, to a file.
//! - A key is not written in full unless the operator asked for it with `-vv`: it can be a session
//!   id, and whoever knows that is logged in.
//!
//! Not here: what is logged, and in which words.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::env;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::hash::Hash;
use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::os::unix::fs::{OpenOptionsExt as _, fchown};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock};

use anyhow::{Context as _, Result};
use magent_core::Time;
use nix::libc::O_NOFOLLOW;
use syslog_tracing::{Facility, Options, Syslog};
use tracing::Level;

use crate::sys::Identity;

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogTarget {
    /// Standard error: `-D`.
    Stderr,
    /// The system's log: the default in the background.
    Syslog,
    /// `--log-file`, absolute.
    File(PathBuf),
}

/// How much is logged: how often `-v` was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbosity {
    /// What the operator should know.
    Normal,
    /// `-v`: the route of every request too, with short keys.
    Routes,
    /// `-vv`: with whole keys.
    Keys,
}

impl Verbosity {
    /// The verbosity for that many `-v`.
    pub(crate) const fn from_count(count: u8) -> Self {
        match count {
            0 => Self::Normal,
            1 => Self::Routes,
            2.. => Self::Keys,
        }
    }

    const fn level(self) -> Level {
        match self {
            Self::Normal => Level::INFO,
            Self::Routes => Level::DEBUG,
            Self::Keys => Level::TRACE,
        }
    }
}

/// Sends log lines to `target`; to be called once. Returns where they go instead if there is no
/// syslog.
///
/// A file made here is given to `owner`, so that it can be opened again later.
pub(crate) fn init(
    target: &LogTarget,
    verbosity: Verbosity,
    owner: &Identity,
) -> Result<Option<PathBuf>> {
    let lines = tracing_subscriber::fmt()
        .with_max_level(verbosity.level())
        .with_target(false);
    let mut instead = None;
    match target {
        LogTarget::Stderr => {
            let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
            lines.with_ansi(colour).with_writer(io::stderr).init();
        }
        LogTarget::File(path) => {
            let file = LogFile::open(path.clone(), Links::Follow, owner)
                .with_context(|| format!("log file {}", path.display()))?;
            let file: &'static LogFile = LOG_FILE.get_or_init(|| file);
            lines.with_ansi(false).with_writer(move || file).init();
        }
        LogTarget::Syslog if syslog_answers() => {
            let syslog = Syslog::new(c"magent", Options::LOG_PID, Facility::Daemon)
                .expect("the only one, as `init` is called once");
            lines
                .with_ansi(false)
                .without_time()
                .with_writer(syslog)
                .init();
        }
        LogTarget::Syslog => {
            let file = fallback_file(owner)?;
            instead = Some(file.path.clone());
            let file: &'static LogFile = LOG_FILE.get_or_init(|| file);
            lines.with_ansi(false).with_writer(move || file).init();
        }
    }
    LOGS_TO_STDERR.store(*target == LogTarget::Stderr, Ordering::Relaxed);
    // A crash must leave a trace, and in the background standard error leaves none.
    // It ends the process in debug builds too: a proxy with a dead worker that still accepts is worse than
    // a restart.
    std::panic::set_hook(Box::new(|panic| {
        last_words(panic);
        std::process::abort();
    }));
    Ok(instead)
}

static LOGS_TO_STDERR: AtomicBool = AtomicBool::new(false);

/// Says something on standard error, which in the background is there until the start is over.
///
/// Unlike `eprintln!`, this does not take a reader who has gone for a reason to panic.
pub(crate) fn tell(text: impl fmt::Display) {
    drop(writeln!(io::stderr(), "magent: {text}"));
}

/// Says why the process ends, wherever somebody may look.
pub(crate) fn last_words(text: impl fmt::Display) {
    if !LOGS_TO_STDERR.load(Ordering::Relaxed) {
        tracing::error!("{text}");
    }
    tell(text);
}

/// The C library drops what it cannot send, so this has to be found out before.
fn syslog_answers() -> bool {
    UnixDatagram::unbound().is_ok_and(|socket| socket.connect("/dev/log").is_ok())
}

fn fallback_file(owner: &Identity) -> Result<LogFile> {
    let temporary = env::temp_dir().join(format!("magent-{}.log", nix::unistd::geteuid()));
    let mut reasons = String::new();
    for path in [PathBuf::from("/var/log/magent.log"), temporary] {
        match LogFile::open(path.clone(), Links::Refuse, owner) {
            Ok(file) => return Ok(file),
            Err(err) => reasons.push_str(&format!("; {}: {err}", path.display())),
        }
    }
    anyhow::bail!("nothing listens on /dev/log{reasons}; give a file with --log-file")
}

static LOG_FILE: OnceLock<LogFile> = OnceLock::new();

/// Opens the log file again, after something moved it away; does nothing if there is none.
///
/// # Errors
///
/// If it cannot be opened. The file that was open stays in use.
pub(crate) fn reopen() -> io::Result<()> {
    LOG_FILE.get().map_or(Ok(()), LogFile::reopen)
}

/// A log file that can be opened again while it is written to.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    links: Links,
    // Writers share it: each line is one `write` to the file's end, which the kernel keeps whole.
    file: RwLock<File>,
}

impl LogFile {
    fn open(path: PathBuf, links: Links, owner: &Identity) -> io::Result<Self> {
        let file = match links.append_options().create_new(true).open(&path) {
            Ok(file) => {
                if let Some((uid, gid)) = owner.owner() {
                    fchown(&file, uid, gid)?;
                }
                file
            }
            Err(err) if err.kind() == ErrorKind::AlreadyExists => {
                links.append_options().open(&path)?
            }
            Err(err) => return Err(err),
        };
        Ok(Self {
            path,
            links,
            file: RwLock::new(file),
        })
    }

    fn reopen(&self) -> io::Result<()> {
        let file = self.links.append_options().create(true).open(&self.path)?;
        *self.file.write().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }
}

/// Whether the last part of a log file's path may be a symbolic link.
#[derive(Clone, Copy, Debug)]
enum Links {
    /// The operator's own path; `/dev/stdout` is such a link.
    Follow,
    /// A path of our choice, in a directory where others may plant a link before root writes.
    Refuse,
}

impl Links {
    fn append_options(self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.append(true).mode(0o640).custom_flags(match self {
            Self::Follow => 0,
            Self::Refuse => O_NOFOLLOW,
        });
        options
    }
}

impl Write for &LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        (&*self.file.read().unwrap_or_else(PoisonError::into_inner)).write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes of a key that are shown without `-vv`.
const SHORT_KEY_LEN: usize = 8;

/// A key for the log: its beginning and its length, or all of it with `-vv`. What is not printable
/// ASCII is escaped, so that a key cannot forge a line.
pub(crate) fn short_key(key: &[u8], verbosity: Verbosity) -> impl fmt::Display + '_ {
    ShortKey {
        key,
        len_max: if verbosity < Verbosity::Keys {
            SHORT_KEY_LEN
        } else {
            usize::MAX
        },
    }
}

struct ShortKey<'a> {
    key: &'a [u8],
    len_max: usize,
}

impl fmt::Display for ShortKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.key[..self.key.len().min(self.len_max)];
        write!(f, "{}", shown.escape_ascii())?;
        if shown.len() < self.key.len() {
            write!(f, "…({} bytes)", self.key.len())
        } else {
            Ok(())
        }
    }
}

/// Lets through a few similar events per interval and counts the rest.
///
/// A backend that refuses 10,000 connections a second is one fact, and a log that says it 10,000
/// times hides the others.
#[derive(Debug)]
pub(crate) struct RateLimiter<K> {
    events_max: u32,
    interval_ms: u64,
    windows: HashMap<K, Window>,
}

/// What happened since the first event of one kind.
#[derive(Clone, Copy, Debug)]
struct Window {
    started_at: Time,
    events: u32,
    suppressed: u64,
}

/// What to do with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Log it.
    Log {
        /// Similar events that were not logged before it; 0 or worth mentioning.
        suppressed: u64,
    },
    /// Don't.
    Suppress,
}

impl<K: Eq + Hash> RateLimiter<K> {
    /// At most `events_max` events of a kind in `interval_ms`.
    pub(crate) fn new(events_max: u32, interval_ms: u64) -> Self {
        Self {
            events_max,
            interval_ms,
            windows: HashMap::new(),
        }
    }

    /// One more event of the kind `key`. Kinds must be few: backends, not clients.
    pub(crate) fn on_event(&mut self, now: Time, key: K) -> Verdict {
        let window = match self.windows.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Window {
                started_at: now,
                events: 0,
                suppressed: 0,
            }),
        };
        let mut suppressed = 0;
        if now.ms_since(window.started_at) >= self.interval_ms {
            suppressed = window.suppressed;
            *window = Window {
                started_at: now,
                events: 0,
                suppressed: 0,
            };
        }
        if window.events < self.events_max {
            window.events += 1;
            return Verdict::Log { suppressed };
        }
        window.suppressed += 1;
        Verdict::Suppress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_short_and_harmless() {
        let check = |key: &[u8], short: &str, whole: &str| {
            assert_eq!(short_key(key, Verbosity::Normal).to_string(), short);
            assert_eq!(short_key(key, Verbosity::Routes).to_string(), short);
            assert_eq!(short_key(key, Verbosity::Keys).to_string(), whole);
        };
        check(b"snsgou1", "snsgou1", "snsgou1");
        check(b"12345678", "12345678", "12345678");
        check(
            b"memc.sess.key.0123",
            "memc.ses…(18 bytes)",
            "memc.sess.key.0123",
        );
        check(b"a\nb\x1b[31m", "a\\nb\\x1b[31m", "a\\nb\\x1b[31m");
        check(
            "ключ".as_bytes(),
            r"\xd0\xba\xd0\xbb\xd1\x8e\xd1\x87",
            r"\xd0\xba\xd0\xbb\xd1\x8e\xd1\x87",
        );
        check(b"", "", "");
    }

    #[test]
    fn two_a_second_and_the_rest_is_counted() {
        const AT: fn(u64) -> Time = |ms| Time(ms * 1_000_000);
        let mut limiter = RateLimiter::new(2, 1_000);
        let log = |suppressed| Verdict::Log { suppressed };
        assert_eq!(limiter.on_event(AT(0), "a"), log(0));
        assert_eq!(limiter.on_event(AT(999), "a"), log(0));
        assert_eq!(limiter.on_event(AT(999), "a"), Verdict::Suppress);
        assert_eq!(limiter.on_event(AT(999), "b"), log(0));
        assert_eq!(limiter.on_event(AT(999), "a"), Verdict::Suppress);
        assert_eq!(limiter.on_event(AT(1_000), "a"), log(2));
        assert_eq!(limiter.on_event(AT(1_001), "a"), log(0));
        assert_eq!(limiter.on_event(AT(1_002), "a"), Verdict::Suppress);
        assert_eq!(limiter.on_event(AT(9_000), "a"), log(1));
    }

    #[test]
    fn reopen_follows_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("magent.log");
        let log = LogFile::open(path.clone(), Links::Follow, &Identity::default()).unwrap();
        writeln!(&log, "one").unwrap();
        std::fs::rename(&path, dir.path().join("magent.log.1")).unwrap();
        writeln!(&log, "two").unwrap();
        log.reopen().unwrap();
        writeln!(&log, "three").unwrap();
        let read = |name| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("magent.log.1"), "one\ntwo\n");
        assert_eq!(read("magent.log"), "three\n");
    }

    #[test]
    fn a_planted_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        std::fs::write(&precious, "").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&precious, &link).unwrap();
        LogFile::open(link.clone(), Links::Refuse, &Identity::default()).unwrap_err();
        LogFile::open(link, Links::Follow, &Identity::default()).unwrap();
    }
}
