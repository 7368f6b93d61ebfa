//! Where the state file lives: the directory of `--state-dir`.
//!
//! # Invariants
//!
//! - A directory that nobody asked for is used if it is there and never made: a proxy that somebody tries
//!   out leaves nothing behind.
//! - One that cannot be written is no reason to go on as if there were none: what an earlier process left in
//!   it still holds. So [`StateDir::path`] yields it all the same.
//!
//! Not here: what is in the file.

use std::convert::Infallible;
use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, lchown};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Error, Result};

use crate::sys::Identity;

/// Used if it is there. systemd makes it with `StateDirectory=magent`.
const DEFAULT: &str = "/var/lib/magent";

/// Who missed what is nobody else's business.
const MODE: u32 = 0o700;

/// What `--state-dir` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum StateDir {
    /// Nothing.
    #[default]
    Default,
    /// `none`.
    Off,
    /// A directory.
    At(PathBuf),
}

impl FromStr for StateDir {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "" | "none" => Self::Off,
            // Going to the background changes the directory.
            path => Self::At(std::path::absolute(path).unwrap_or_else(|_| path.into())),
        })
    }
}

impl StateDir {
    /// Makes a directory that was asked for, for the user that the process will be. Call it before the
    /// process gives up its rights.
    pub(crate) fn create(&self, identity: &Identity) -> Result<()> {
        let Self::At(path) = self else {
            return Ok(());
        };
        match DirBuilder::new().mode(MODE).create(path) {
            Err(err) if err.kind() == ErrorKind::AlreadyExists => return Ok(()),
            done => done.with_context(|| path.display().to_string())?,
        }
        if let Some((uid, gid)) = identity.owner() {
            lchown(path, uid, gid).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// The directory, whether it can be used or not.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Off => None,
            Self::At(path) => Some(path),
            Self::Default => Some(Path::new(DEFAULT)),
        }
    }

    /// Whether the directory can be written, if one is wanted. Call it as the user that will write.
    pub(crate) fn check(&self) -> Result<()> {
        let Some(path) = self.path() else {
            return Ok(());
        };
        match tempfile::tempfile_in(path) {
            Ok(_) => Ok(()),
            // Its kind alone: the whole error names the file that was tried.
            Err(err) => {
                Err(io::Error::from(err.kind())).with_context(|| path.display().to_string())
            }
        }
    }

    /// What the operator should hear if it cannot be used.
    pub(crate) fn notice(err: &Error) -> String {
        format!(
            "which backends missed writes is not kept over a restart: {err:#}; --state-dir names a \
             directory for it, or none"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn none_or_nothing_switches_it_off() {
        for text in ["", "none"] {
            assert_eq!(StateDir::from_str(text), Ok(StateDir::Off));
        }
        assert_eq!(StateDir::Off.path(), None);
        StateDir::Off.check().unwrap();
        let relative = std::env::current_dir().unwrap().join("state");
        assert_eq!(StateDir::from_str("state"), Ok(StateDir::At(relative)));
    }

    #[test]
    fn a_directory_that_was_asked_for_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("magent");
        let state_dir = StateDir::At(path.clone());
        for _ in 0..2 {
            state_dir.create(&Identity::default()).unwrap();
            state_dir.check().unwrap();
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        let left = fs::read_dir(&path).unwrap().count();
        assert_eq!(left, 0, "trying it leaves nothing behind");
    }

    #[test]
    fn what_cannot_be_written_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let state_dir = StateDir::At(file.clone());
        state_dir.create(&Identity::default()).unwrap();
        let notice = StateDir::notice(&state_dir.check().unwrap_err());
        let said = format!("restart: {}: not a directory;", file.display());
        assert!(notice.contains(&said), "{notice}");

        let state_dir = StateDir::At(dir.path().join("no/parent"));
        let err = state_dir.create(&Identity::default()).unwrap_err();
        let said = format!("{err:#}");
        assert!(said.contains("no/parent: No such file"), "{said}");
    }
}
