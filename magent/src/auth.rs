//! Users: their file, the command that writes it, and the threads that check passwords.
//!
//! | question | module |
//! | --- | --- |
//! | What does a line say? | `file` |
//! | How does one get there? | `passwd` |
//! | Is this password right? | `verify` |
//! | And what do backends hear from us? | `backend` |
//!
//! Not here: when a client is asked for its password, and what it may do then (`magent_core::engine`).

pub(crate) mod backend;
mod file;
pub(crate) mod passwd;
mod verify;

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::options::RunOptions;
use backend::BackendLogin;
pub(crate) use file::UserTable;
pub(crate) use verify::Verifier;

/// What is wrong with a file of users or passwords. Names the file and, where there is one, the line.
#[derive(Debug)]
pub(crate) struct FileError(String);

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FileError {}

impl FileError {
    fn new(path: &Path, problem: impl fmt::Display) -> Self {
        Self(format!("{}: {problem}", path.display()))
    }

    fn of_line(path: &Path, number: usize, problem: impl fmt::Display) -> Self {
        Self(format!("{}:{number}: {problem}", path.display()))
    }
}

/// Longest file of users or passwords: 100,000 users.
const FILE_LEN_MAX: u64 = 32 << 20;

/// Reads a file that holds secrets.
fn read_secrets(path: &Path) -> Result<Zeroizing<String>, FileError> {
    let failed = |err: io::Error| FileError::new(path, format_args!("cannot be read: {err}"));
    let len = std::fs::metadata(path).map_err(failed)?.len();
    if len > FILE_LEN_MAX {
        return Err(FileError::new(
            path,
            format_args!("has more than {FILE_LEN_MAX} bytes"),
        ));
    }
    std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(failed)
}

/// What is read from files before anybody is served, as the user that reads them again on SIGHUP.
pub(crate) struct Secrets {
    /// `None` where nobody has to log in.
    pub(crate) users: Option<UserTable>,
    /// What backends are told.
    pub(crate) backend_login: Option<Arc<BackendLogin>>,
}

impl Secrets {
    /// Reads what the options name.
    pub(crate) fn load(run: &RunOptions, notices: &mut Vec<String>) -> Result<Self, FileError> {
        let files = [&run.auth_file, &run.backend_auth_file];
        notices.extend(
            files
                .into_iter()
                .flatten()
                .filter_map(|path| permission_notice(path)),
        );
        let users = run.auth_file.as_deref().map(UserTable::load).transpose()?;
        if users.as_ref().is_some_and(|users| users.len() == 0) {
            notices.push("--auth-file names no user, so nobody can come in".to_owned());
        }
        let login = run
            .backend_auth_file
            .as_deref()
            .map(BackendLogin::load)
            .transpose()?;
        Ok(Self {
            users,
            backend_login: login.map(Arc::new),
        })
    }
}

/// What is to be said if others can read a file that holds secrets.
fn permission_notice(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o007 != 0).then(|| {
        format!(
            "{} can be read or written by every user of this machine: chmod o= {0}",
            path.display()
        )
    })
}
