//! What must survive a crash of the proxy: which backends are not in step, in a small file.
//!
//! ```text
//! <state-dir>/magent-0.0.0.0-11211.json       the state, replaced whole by a rename
//! <state-dir>/magent-0.0.0.0-11211.json.new   the next one while it is written; stale after a crash
//! <state-dir>/magent-0.0.0.0-11211.lock       locked by the process that owns the state; never removed
//! ```
//!
//! The names come from the first listener as configured, so that two proxies on one host do not meet. A proxy
//! that is given another first listener starts with a new file, hence with every backend in step.
//!
//! # Invariants
//!
//! - Whoever reads the file sees one whole state, before or after a write: [`StateFile::write`] returns when
//!   the file and its name are on the disk, and until then the old content stays.
//! - One process at a time owns the file ([`StateError::Held`] for the next one).
//! - What cannot be read is not guessed. No file means that every backend is in step. A file that is damaged, of
//!   another version or out of reach ([`StateError::Unknown`]) means neither that (old data could be
//!   served) nor that every backend missed writes (all of them would be flushed, although perhaps nothing was
//!   wrong): the start fails, and the operator, who is told how, decides.
//!
//! # Order of calls
//!
//! 1. `StateDir::create` (`options`) while still root: the directory is made for the user of `-u`.
//! 2. `Identity::assume`: everything below is done, and every file owned, by the user that serves.
//! 3. [`StateFile::open`], after going to the background, because the lock belongs to the process.
//! 4. [`StateFile::write`] before the first diverted write is acknowledged. It waits for the disk: call it where
//!    nobody waits for the thread (`spawn_blocking`).
//!
//! Not here: when a backend is in step, what is remembered for it (`magent_core::keeper`).

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::libc::O_NOFOLLOW;
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use serde::{Deserialize, Serialize};

use crate::listen::ListenOptions;

/// Of the file's format. A file of another version is not understood, not even in part.
const VERSION: u32 = 1;

/// Longest file that is written or read. 100 backends with 1,000 connections each fit.
const FILE_LEN_MAX: u64 = 16 << 20;

/// Characters of a socket's path that do not go into a file's name as they are.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'/').add(b'%').add(b' ');

/// Everything that is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// The proxy that wrote it.
    pub(crate) pid: u32,
    /// By address, as `Display` of `magent_core::server::Address` writes it. One that is missing is in step.
    pub(crate) backends: BTreeMap<String, BackendState>,
}

/// What is kept about one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackendState {
    /// It missed acknowledged writes, or may have.
    pub(crate) missed: bool,
    /// The process that was last seen behind the address.
    pub(crate) identity: Option<BackendIdentity>,
    /// Local addresses of the proxy's connections to it that may still hold writes which it has not executed.
    pub(crate) connections: Vec<String>,
}

/// Which memcached process it is, as far as its `stats` tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackendIdentity {
    /// Its process id; in a container always 1.
    pub(crate) pid: u64,
    /// `time - uptime`, in seconds since 1970. Off by one now and then.
    pub(crate) started: i64,
    /// Only grows while the process lives.
    pub(crate) total_connections: u64,
    /// Only grows while the process lives.
    pub(crate) cmd_set: u64,
    /// Only grows while the process lives.
    pub(crate) total_items: u64,
}

/// The file: the version first, so that it can be looked at before anything else.
#[derive(Serialize)]
struct Versioned<'a> {
    version: u32,
    #[serde(flatten)]
    state: &'a State,
}

/// Why there is no [`StateFile`]. Each is another decision of the caller.
#[derive(Debug)]
pub(crate) enum StateError {
    /// The directory cannot be used, and no state is known to be in it. Warn, and serve without: after a crash
    /// of the proxy, a backend that is away then counts as in step.
    NoMemory {
        /// What was tried on what.
        what: String,
        /// How it failed.
        source: io::Error,
    },
    /// Another process has it. Do not start: the two would overwrite what the other remembers.
    Held {
        /// The lock.
        lock: PathBuf,
        /// Whose it is, as far as that can be read.
        pid: String,
    },
    /// There is a state, but it cannot be read, understood or replaced. Do not start.
    Unknown {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory { what, source } => {
                write!(f, "{what}: {source}; a crash would be forgotten")
            }
            Self::Held { lock, pid } => write!(
                f,
                "{}: held by another magent with the same listener, pid {pid}",
                lock.display()
            ),
            Self::Unknown { path, why } => write!(
                f,
                "{}: {why}; it says which backends may hold old data, so look at them, flush those \
                 that may, then remove the file",
                path.display()
            ),
        }
    }
}

impl std::error::Error for StateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoMemory { source, .. } => Some(source),
            Self::Held { .. } | Self::Unknown { .. } => None,
        }
    }
}

/// The state file of this process, locked as long as this exists.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    /// The next content.
    new: PathBuf,
    /// For the names in it to reach the disk.
    dir: File,
    /// What the file holds; `None` if that is not known or nothing.
    written: Option<State>,
    _lock: File,
}

impl StateFile {
    /// Takes the state file that belongs to `listen`, and reads what is in it: `None` if there is none, which means
    /// that every backend is in step.
    ///
    /// Waits up to `wait` for a predecessor that still drains: its last writes are news for its successor. The
    /// drain's own limit (`drain_ms`) and a second is right.
    pub(crate) fn open(
        dir: &Path,
        listen: &ListenOptions,
        wait: Duration,
    ) -> Result<(Self, Option<State>), StateError> {
        let name = file_name(listen);
        let path = dir.join(format!("{name}.json"));
        let new = dir.join(format!("{name}.json.new"));
        // Whether there is a state decides what an unusable directory means.
        let exists = path.try_exists().unwrap_or(false);
        let unusable = |what: String, source: io::Error| {
            if exists {
                let path = path.clone();
                let why = format!("{what}: {source}");
                StateError::Unknown { path, why }
            } else {
                StateError::NoMemory { what, source }
            }
        };
        let about_dir = format!("state directory {}", dir.display());
        let dir = File::open(dir).map_err(|err| unusable(about_dir.clone(), err))?;
        let lock = lock(&path.with_extension("lock"), wait, &unusable)?;
        let state = read(&path)?;
        // The directory may be writable to others: what is left there of a crash, or planted, is removed, not followed.
        let probed = create_new(&new).and_then(|_| fs::remove_file(&new));
        probed.map_err(|err| unusable(format!("cannot write {}", new.display()), err))?;
        let file = Self {
            path,
            new,
            dir,
            written: state.clone(),
            _lock: lock,
        };
        Ok((file, state))
    }

    /// Where the state is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts `state` on the disk, unless it is there already. Waits for the disk.
    ///
    /// # Errors
    ///
    /// If it is not known to be there. The old state may be there, or this one, but nothing in between.
    pub(crate) fn write(&mut self, state: &State) -> io::Result<()> {
        if self.written.as_ref() == Some(state) {
            return Ok(());
        }
        self.written = None;
        let text = encode(state)?;
        let mut file = create_new(&self.new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&self.new, &self.path)?;
        self.dir.sync_all()?;
        self.written = Some(state.clone());
        Ok(())
    }
}

/// The name for a listener, without ending. Different listeners have different names.
fn file_name(listen: &ListenOptions) -> String {
    match (listen.tcp.first(), listen.unix.first()) {
        (Some(tcp), _) => format!("magent-{}-{}", tcp.address.ip(), tcp.address.port()),
        (None, Some(unix)) => {
            let path = percent_encode(unix.path.as_os_str().as_bytes(), ESCAPED);
            format!("magent-unix-{path}")
        }
        (None, None) => "magent".to_owned(),
    }
}

fn create_new(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != ErrorKind::NotFound => return Err(err),
        Ok(()) | Err(_) => {}
    }
    // Fails if something is there, a symbolic link included.
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// The lock is not on the state file itself, which every write replaces by another one.
fn lock(
    path: &Path,
    wait: Duration,
    unusable: &dyn Fn(String, io::Error) -> StateError,
) -> Result<File, StateError> {
    let failed = |err| unusable(format!("cannot lock {}", path.display()), err);
    let file = no_links()
        .read(true)
        .write(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let mut file = match wait_for_lock(file, wait) {
        Some(locked) => locked.map_err(failed)?,
        None => {
            let pid = fs::read_to_string(path).unwrap_or_default();
            return Err(StateError::Held {
                lock: path.to_owned(),
                pid: pid.trim().to_owned(),
            });
        }
    };
    let signed = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    signed.map_err(failed)?;
    Ok(file)
}

/// `None` if somebody else has the lock until `wait` is over.
///
/// The kernel knows no limit for this wait, so a thread waits in our place. One that comes too late finds nobody
/// to give the file to, and closes it.
fn wait_for_lock(file: File, wait: Duration) -> Option<io::Result<File>> {
    match file.try_lock() {
        Ok(()) => return Some(Ok(file)),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(err)) => return Some(Err(err)),
    }
    let (sender, locked) = mpsc::channel();
    let waiter = move || {
        let result = file.lock().map(|()| file);
        drop(sender.send(result));
    };
    let thread = thread::Builder::new().name("state lock".to_owned());
    match thread.spawn(waiter) {
        Ok(_) => locked.recv_timeout(wait).ok(),
        Err(err) => Some(Err(err)),
    }
}

fn no_links() -> OpenOptions {
    let mut options = File::options();
    options.custom_flags(O_NOFOLLOW);
    options
}

fn read(path: &Path) -> Result<Option<State>, StateError> {
    let unknown = |why: String| StateError::Unknown {
        path: path.to_owned(),
        why,
    };
    let file = match no_links().read(true).open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(unknown(format!("cannot read it: {err}"))),
    };
    let mut text = Vec::new();
    file.take(FILE_LEN_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|err| unknown(format!("cannot read it: {err}")))?;
    decode(&text).map(Some).map_err(unknown)
}

fn encode(state: &State) -> io::Result<Vec<u8>> {
    let version = VERSION;
    let mut text = serde_json::to_vec_pretty(&Versioned { version, state })?;
    text.push(b'\n');
    if text.len() as u64 > FILE_LEN_MAX {
        return Err(io::Error::new(ErrorKind::FileTooLarge, "state too long"));
    }
    Ok(text)
}

fn decode(text: &[u8]) -> Result<State, String> {
    if text.len() as u64 > FILE_LEN_MAX {
        return Err(format!("longer than {FILE_LEN_MAX} bytes"));
    }
    let damaged = |err: serde_json::Error| format!("damaged: {err}");
    let mut file: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(text).map_err(damaged)?;
    match file.remove("version") {
        Some(version) if version == VERSION => {}
        Some(version) => {
            return Err(format!(
                "version {version}, this magent reads version {VERSION}"
            ));
        }
        None => return Err("damaged: no version".to_owned()),
    }
    serde_json::from_value(file.into_iter().collect()).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use nix::unistd::{Uid, setfsuid};
    use tempfile::TempDir;

    use super::*;
    use crate::listen::UnixOptions;

    /// Long enough for a lock that is free or about to be, on any machine.
    const LONG: Duration = Duration::from_secs(60);
    /// For a lock that stays held.
    const SHORT: Duration = Duration::from_millis(1);

    fn tcp(address: &str) -> ListenOptions {
        ListenOptions {
            tcp: vec![address.parse::<std::net::SocketAddr>().unwrap().into()],
            ..ListenOptions::default()
        }
    }

    fn unix(path: &str) -> ListenOptions {
        ListenOptions {
            unix: vec![UnixOptions {
                path: PathBuf::from(path),
                mode: 0o600,
            }],
            ..ListenOptions::default()
        }
    }

    fn open(dir: &TempDir) -> Result<(StateFile, Option<State>), StateError> {
        StateFile::open(dir.path(), &tcp("0.0.0.0:11211"), SHORT)
    }

    fn opened(dir: &TempDir) -> (StateFile, Option<State>) {
        StateFile::open(dir.path(), &tcp("0.0.0.0:11211"), LONG).unwrap()
    }

    fn path(dir: &TempDir) -> PathBuf {
        dir.path().join("magent-0.0.0.0-11211.json")
    }

    fn one_away() -> State {
        let away = BackendState {
            missed: true,
            identity: Some(BackendIdentity {
                pid: 1,
                started: 1_700_000_000,
                total_connections: 12,
                cmd_set: u64::MAX,
                total_items: 34,
            }),
            connections: vec!["10.0.0.1:40001".to_owned()],
        };
        let well = BackendState::default();
        State {
            pid: 4242,
            backends: [
                ("10.0.0.4:11211".to_owned(), away),
                ("10.0.0.5:11211".to_owned(), well),
            ]
            .into(),
        }
    }

    #[test]
    fn what_was_written_is_read_by_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, before) = opened(&dir);
        assert_eq!(before, None, "no file: everything is in step");
        assert!(!path(&dir).exists(), "nothing to say, nothing written");
        file.write(&one_away()).unwrap();
        assert_eq!(file.path(), path(&dir));
        let mode = fs::metadata(path(&dir)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(file);
        assert_eq!(opened(&dir).1, Some(one_away()));
    }

    /// Somebody who looks at it in an incident understands it.
    #[test]
    fn the_file_is_for_people_too() {
        let dir = tempfile::tempdir().unwrap();
        opened(&dir).0.write(&one_away()).unwrap();
        let expected = r#"{
  "version": 1,
  "pid": 4242,
  "backends": {
    "10.0.0.4:11211": {
      "missed": true,
      "identity": {
        "pid": 1,
        "started": 1700000000,
        "total_connections": 12,
        "cmd_set": 18446744073709551615,
        "total_items": 34
      },
      "connections": [
        "10.0.0.1:40001"
      ]
    },
    "10.0.0.5:11211": {
      "missed": false,
      "identity": null,
      "connections": []
    }
  }
}
"#;
        assert_eq!(fs::read_to_string(path(&dir)).unwrap(), expected);
    }

    #[test]
    fn what_is_there_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, _) = opened(&dir);
        file.write(&one_away()).unwrap();
        // Removed, so that a write would be seen.
        fs::remove_file(path(&dir)).unwrap();
        file.write(&one_away()).unwrap();
        assert!(!path(&dir).exists());
        file.write(&State::default()).unwrap();
        assert!(path(&dir).exists());
    }

    #[test]
    fn what_was_read_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        opened(&dir).0.write(&one_away()).unwrap();
        let (mut file, _) = opened(&dir);
        fs::remove_file(path(&dir)).unwrap();
        file.write(&one_away()).unwrap();
        assert!(!path(&dir).exists());
    }

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_state() {
        let dir = tempfile::tempdir().unwrap();
        opened(&dir).0.write(&one_away()).unwrap();
        let half = &encode(&State::default()).unwrap()[..20];
        let new = dir.path().join("magent-0.0.0.0-11211.json.new");
        fs::write(&new, half).unwrap();
        let (mut file, state) = opened(&dir);
        assert_eq!(state, Some(one_away()));
        file.write(&State::default()).unwrap();
        assert!(!new.exists());
        drop(file);
        assert_eq!(opened(&dir).1, Some(State::default()));
    }

    #[test]
    fn a_failed_write_leaves_the_old_state_and_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, _) = opened(&dir);
        file.write(&one_away()).unwrap();
        // Not even root can put a file where a directory is.
        let obstacle = dir.path().join("magent-0.0.0.0-11211.json.new");
        fs::create_dir(&obstacle).unwrap();
        file.write(&State::default()).unwrap_err();
        assert_eq!(read(&path(&dir)).unwrap(), Some(one_away()));
        // The disk's content is not known after a failure, so what was there before is written too.
        file.write(&one_away()).unwrap_err();
        fs::remove_dir(&obstacle).unwrap();
        file.write(&State::default()).unwrap();
        assert_eq!(read(&path(&dir)).unwrap(), Some(State::default()));
    }

    #[test]
    fn what_is_not_understood_is_not_guessed() {
        let whole = encode(&one_away()).unwrap();
        // The last bytes are the closing brace and the line's end.
        for cut in 0..whole.len() - 1 {
            decode(&whole[..cut]).unwrap_err();
        }
        assert_eq!(decode(&whole), Ok(one_away()));
        let check = |text: &str, why: &str| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(path(&dir), text).unwrap();
            let err = open(&dir).unwrap_err();
            assert!(matches!(err, StateError::Unknown { .. }), "{err:?}");
            let message = err.to_string();
            let start = format!("{}: {why}", path(&dir).display());
            assert!(message.starts_with(&start), "{message}");
            assert_eq!(fs::read_to_string(path(&dir)).unwrap(), text, "still there");
        };
        check("", "damaged: EOF while parsing");
        check("\0\0\0\0", "damaged: expected value");
        check(r#"{"pid":1,"backends":{}}"#, "damaged: no version");
        check(r#"{"version":2,"hosts":[]}"#, "version 2, this magent");
        check(r#"{"version":1,"pid":1}"#, "damaged: missing field");
        check(
            r#"{"version":1,"pid":1,"backends":{},"more":1}"#,
            "damaged: unknown field",
        );
        check(
            r#"{"version":1,"pid":1,"backends":{"a":{"missed":1}}}"#,
            "damaged: invalid type",
        );
    }

    #[test]
    fn a_state_that_is_a_link_or_a_directory_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(path(&dir)).unwrap();
        assert!(matches!(open(&dir), Err(StateError::Unknown { .. })));
        fs::remove_dir(path(&dir)).unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, encode(&one_away()).unwrap()).unwrap();
        symlink(&elsewhere, path(&dir)).unwrap();
        assert!(matches!(open(&dir), Err(StateError::Unknown { .. })));
    }

    #[test]
    fn a_planted_link_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        fs::write(&precious, "mine").unwrap();
        symlink(&precious, dir.path().join("magent-0.0.0.0-11211.json.new")).unwrap();
        opened(&dir).0.write(&one_away()).unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "mine");
        let lock = dir.path().join("magent-0.0.0.0-11211.lock");
        fs::remove_file(&lock).unwrap();
        symlink(&precious, &lock).unwrap();
        open(&dir).unwrap_err();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "mine");
    }

    #[test]
    fn one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (mut first, _) = opened(&dir);
        let err = open(&dir).unwrap_err();
        assert!(matches!(err, StateError::Held { .. }), "{err:?}");
        let lock = dir.path().join("magent-0.0.0.0-11211.lock");
        let expected = format!(
            "{}: held by another magent with the same listener, pid {}",
            lock.display(),
            std::process::id()
        );
        assert_eq!(err.to_string(), expected);
        // Another listener, another file.
        let other = StateFile::open(dir.path(), &tcp("0.0.0.0:11212"), LONG).unwrap();
        drop(other);
        first.write(&one_away()).unwrap();
    }

    #[test]
    fn a_successor_waits_and_reads_what_its_predecessor_wrote_last() {
        let dir = tempfile::tempdir().unwrap();
        let (mut first, _) = opened(&dir);
        thread::scope(|scope| {
            let second = scope.spawn(|| opened(&dir).1);
            first.write(&one_away()).unwrap();
            drop(first);
            assert_eq!(second.join().unwrap(), Some(one_away()));
        });
    }

    #[test]
    fn of_many_starters_at_once_one_gets_the_state() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..50 {
            let start = std::sync::Barrier::new(4);
            let done = std::sync::Barrier::new(4);
            let won = thread::scope(|scope| {
                let starter = || {
                    start.wait();
                    let got = open(&dir);
                    done.wait();
                    got.is_ok()
                };
                let threads = [(); 4].map(|()| scope.spawn(starter));
                threads.map(|thread| usize::from(thread.join().unwrap()))
            });
            // One who gave up may have held the lock for a moment, too late for himself: then nobody wins.
            assert!(won.iter().sum::<usize>() <= 1, "{won:?}");
        }
    }

    #[test]
    fn without_a_directory_there_is_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let err = StateFile::open(&gone, &tcp("0.0.0.0:11211"), SHORT).unwrap_err();
        assert!(matches!(err, StateError::NoMemory { .. }), "{err:?}");
        let expected = format!(
            "state directory {}: No such file or directory (os error 2); a crash would be forgotten",
            gone.display()
        );
        assert_eq!(err.to_string(), expected);
        fs::create_dir(&gone).unwrap();
        StateFile::open(&gone, &tcp("0.0.0.0:11211"), LONG).unwrap();
    }

    #[test]
    fn a_state_that_cannot_be_replaced_is_not_ignored() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("magent-0.0.0.0-11211.json.new")).unwrap();
        assert!(matches!(
            StateFile::open(dir.path(), &tcp("0.0.0.0:11211"), LONG),
            Err(StateError::NoMemory { .. })
        ));
        fs::write(path(&dir), encode(&one_away()).unwrap()).unwrap();
        assert!(matches!(
            StateFile::open(dir.path(), &tcp("0.0.0.0:11211"), LONG),
            Err(StateError::Unknown { .. })
        ));
    }

    #[test]
    fn permissions_decide() {
        let nobody = Uid::from_raw(65_534);
        let open_as_nobody = |dir: &TempDir, mode| {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            thread::scope(|scope| {
                let opener = scope.spawn(|| {
                    // Of this thread alone. Nothing to do for one who is not root: permissions stop him anyway.
                    setfsuid(nobody);
                    open(dir)
                });
                opener.join().unwrap()
            })
        };
        let dir = tempfile::tempdir().unwrap();
        if Uid::effective().is_root() {
            chown(dir.path(), Some(nobody.as_raw()), None).unwrap();
        }
        let unknown = |result| matches!(result, Err(StateError::Unknown { .. }));
        let no_memory = |result| matches!(result, Err(StateError::NoMemory { .. }));
        assert!(no_memory(open_as_nobody(&dir, 0o500)), "not writable");
        open_as_nobody(&dir, 0o700).unwrap();
        fs::write(path(&dir), encode(&one_away()).unwrap()).unwrap();
        assert!(unknown(open_as_nobody(&dir, 0o500)), "not writable");
        fs::set_permissions(path(&dir), fs::Permissions::from_mode(0o000)).unwrap();
        assert!(unknown(open_as_nobody(&dir, 0o700)), "not readable");
        fs::set_permissions(path(&dir), fs::Permissions::from_mode(0o444)).unwrap();
        assert!(open_as_nobody(&dir, 0o700).unwrap().1.is_some());
    }

    #[test]
    fn each_listener_has_its_own_name() {
        let check = |listen: &ListenOptions, name: &str| assert_eq!(file_name(listen), name);
        check(&tcp("0.0.0.0:11211"), "magent-0.0.0.0-11211");
        check(&tcp("[::1]:11211"), "magent-::1-11211");
        check(&unix("/run/m.sock"), "magent-unix-%2Frun%2Fm.sock");
        check(&unix("/run%2Fm.sock"), "magent-unix-%2Frun%252Fm.sock");
        check(&unix("/a b\n"), "magent-unix-%2Fa%20b%0A");
        let mut both = unix("/run/m.sock");
        both.tcp = tcp("10.0.0.1:1").tcp;
        check(&both, "magent-10.0.0.1-1");
    }
}
