//! Life in the background: the parent that waits for the start's outcome, and the pid file.
//!
//! ```text
//! shell ── magent ──fork── child: listens, drops root, writes the pid file
//!            │ waits           │
//!            │<── one byte ────┤ ready
//!         exit 0               └─ serves
//! ```
//!
//! A child that fails says so on the standard error that it still shares, and the parent exits with
//! the child's status: the shell or init script sees a failed start as one.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};
use tempfile::Builder;

use crate::sys::{self, Forked};

/// Which side of the split this process is on.
#[derive(Debug)]
pub(crate) enum Side {
    /// Its work is done; the child's outcome is its own.
    Parent(ExitCode),
    /// Goes on with the start.
    Child(Detaching),
}

/// A process in the background that somebody still waits for.
#[derive(Debug)]
pub(crate) struct Detaching {
    ready: PipeWriter,
}

/// Splits off a process that outlives the terminal. Must come before any thread.
pub(crate) fn split() -> Result<Side> {
    let (outcome, ready) = io::pipe().context("pipe")?;
    match sys::fork().context("cannot go to the background")? {
        Forked::Parent { child } => {
            // Else this process would wait for itself.
            drop(ready);
            Ok(Side::Parent(wait_for(child, outcome)))
        }
        Forked::Child => {
            setsid().context("cannot leave the terminal")?;
            Ok(Side::Child(Detaching { ready }))
        }
    }
}

fn wait_for(child: Pid, mut outcome: PipeReader) -> ExitCode {
    // An error counts as the end of the pipe: the child is gone or about to be.
    if let Ok(1) = outcome.read(&mut [0]) {
        return ExitCode::SUCCESS;
    }
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, code)) => {
            ExitCode::from(u8::try_from(code).unwrap_or(crate::EXIT_FAILURE))
        }
        died => {
            crate::log::tell(format_args!("the start ended unexpectedly: {died:?}"));
            ExitCode::from(crate::EXIT_FAILURE)
        }
    }
}

impl Detaching {
    /// Lets go of the terminal and tells the parent that all is well.
    pub(crate) fn ready(mut self) -> Result<()> {
        sys::detach_from_terminal()?;
        // Nobody reads it if the parent was killed meanwhile; that is no reason to stop.
        drop(self.ready.write_all(&[1]));
        Ok(())
    }
}

/// A file with this process' id, locked as long as the process lives.
///
/// It appears at once with its content. Dropping this removes it.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Writes `path`, unless another process holds it.
    ///
    /// A file that nobody has locked was left behind, and is replaced.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        Self::try_create(path).with_context(|| format!("pid file {}", path.display()))
    }

    fn try_create(path: &Path) -> Result<Self> {
        let dir = path.parent().unwrap_or_else(|| Path::new("/"));
        let mut file = Builder::new()
            .prefix(".magent-pid-")
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(dir)?;
        writeln!(file, "{}", std::process::id())?;
        file.as_file().try_lock()?;
        loop {
            match file.persist_noclobber(path) {
                Ok(file) => {
                    return Ok(Self {
                        path: path.to_owned(),
                        file,
                    });
                }
                Err(err) if err.error.kind() == ErrorKind::AlreadyExists => file = err.file,
                Err(err) => return Err(err.error.into()),
            }
            let old = match File::open(path) {
                Ok(old) => old,
                Err(err) if err.kind() == ErrorKind::NotFound => continue,
                Err(err) => return Err(err.into()),
            };
            match old.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let pid = io::read_to_string(&old).unwrap_or_default();
                    bail!("another magent holds it, pid {}", pid.trim());
                }
                Err(TryLockError::Error(err)) => return Err(err.into()),
            }
            // Whoever holds the lock on the file of that name may replace it.
            if is_same_file(&old, path) {
                let file = file.persist(path)?;
                return Ok(Self {
                    path: path.to_owned(),
                    file,
                });
            }
        }
    }
}

fn is_same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if is_same_file(&self.file, &self.path) && fs::remove_file(&self.path).is_err() {
            // The directory is root's and we are no longer. An empty file names nobody.
            drop(self.file.set_len(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_file_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("magent.pid");
        let own = format!("{}\n", std::process::id());

        let first = PidFile::create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o644
        );
        let err = format!("{:#}", PidFile::create(&path).unwrap_err());
        let holder = format!("another magent holds it, pid {}", own.trim());
        assert!(err.ends_with(&holder), "{err}");
        drop(first);
        assert!(!path.exists());

        fs::write(&path, "4242\n").unwrap();
        let second = PidFile::create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own);
        drop(second);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing is left behind"
        );
    }

    #[test]
    #[expect(
        clippy::needless_collect,
        reason = "all start before one is waited for"
    )]
    fn of_many_starters_at_once_one_gets_the_pid_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("magent.pid");
        for _ in 0..2_000 {
            fs::write(&path, "4242\n").unwrap();
            let start = std::sync::Barrier::new(4);
            let won: Vec<_> = std::thread::scope(|scope| {
                let starter = || {
                    start.wait();
                    PidFile::create(&path).ok()
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(starter)).collect();
                threads
                    .into_iter()
                    .filter_map(|thread| thread.join().unwrap())
                    .collect()
            });
            assert_eq!(won.len(), 1);
        }
    }
}
