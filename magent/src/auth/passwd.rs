//! `magent passwd`: writes the file of users.
//!
//! # Invariants
//!
//! - The file is replaced as a whole, or left as it is; comments, and lines of others, stay.
//! - A new file can be read by its owner alone; another keeps its mode and owner.
//! - No password is taken from the command line, where every user of the machine sees it.
//!
//! Not here: what a line says (`file`).

use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use magent_core::auth::Access;
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::file::{self, Line};
use crate::cli;

/// What is to be done with the file.
#[derive(Clone, Debug)]
pub(crate) struct PasswdOptions {
    pub(crate) file: PathBuf,
    pub(crate) task: Task,
}

#[derive(Clone, Debug)]
pub(crate) enum Task {
    /// Adds a user, or gives it another password. `None`: as it has been.
    Set {
        user: String,
        prefix: Option<String>,
        access: Option<Access>,
    },
    Delete {
        user: String,
    },
    List,
}

/// Longest password: a login has to fit into what a client may send before it is known.
const PASSWORD_LEN_MAX: usize = 512;

/// Does it.
pub(crate) fn run(options: &PasswdOptions) -> Result<ExitCode> {
    let path = &options.file;
    match &options.task {
        Task::List => return cli::print(list(path)?.as_bytes()),
        Task::Delete { user } => {
            let mut lines = read(path)?;
            let count = lines.len();
            lines.retain(|line| name_of(line) != Some(user));
            ensure!(
                lines.len() < count,
                "{}: there is no user \"{user}\"",
                path.display()
            );
            write(path, &lines)?;
        }
        Task::Set {
            user,
            prefix,
            access,
        } => {
            file::check_name(user).map_err(anyhow::Error::msg)?;
            let mut lines = if path.exists() {
                read(path)?
            } else {
                Vec::new()
            };
            let at = lines.iter().position(|line| name_of(line) == Some(user));
            let before = match at {
                Some(at) => Line::parse(&lines[at]).map_err(anyhow::Error::msg)?,
                None => None,
            };
            let (old_prefix, old_access) = before.map_or_else(
                || (String::new(), Access::Full),
                |line| (line.prefix, line.access),
            );
            let mut line = Line {
                name: user.clone(),
                hash: String::new(),
                prefix: prefix.clone().unwrap_or(old_prefix),
                access: access.unwrap_or(old_access),
            };
            file::check_prefix(&line.prefix).map_err(anyhow::Error::msg)?;
            line.hash = file::hash(password(user)?.as_bytes())?;
            match at {
                Some(at) => lines[at] = line.text(),
                None => lines.push(line.text()),
            }
            write(path, &lines)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The user that a line is about.
fn name_of(line: &str) -> Option<&str> {
    let line = line.trim();
    let name = line.split_once(':')?.0;
    (!line.starts_with('#')).then_some(name)
}

fn read(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn list(path: &Path) -> Result<String> {
    let mut text = String::new();
    for (number, line) in (1..).zip(read(path)?) {
        let line = Line::parse(&line)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("{}:{number}", path.display()))?;
        let Some(line) = line else { continue };
        text.push_str(&line.name);
        if !line.prefix.is_empty() {
            text.push_str(&format!(" prefix={}", line.prefix));
        }
        if line.access == Access::ReadOnly {
            text.push_str(" read-only");
        }
        text.push('\n');
    }
    Ok(text)
}

/// Replaces the file.
fn write(path: &Path, lines: &[String]) -> Result<()> {
    // A link is followed: it is the file that is to be another.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let dir = match target.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) | None => Path::new("."),
    };
    let failed = || format!("{}: cannot be written", path.display());
    let mut new = NamedTempFile::new_in(dir).with_context(failed)?;
    for line in lines {
        writeln!(new, "{line}").with_context(failed)?;
    }
    if let Ok(old) = std::fs::metadata(&target) {
        let mode = old.permissions().mode() & 0o777;
        let owner = std::os::unix::fs::fchown(new.as_file(), Some(old.uid()), Some(old.gid()));
        owner.with_context(|| format!("{}: cannot keep its owner", path.display()))?;
        new.as_file()
            .set_permissions(std::fs::Permissions::from_mode(mode))
            .with_context(failed)?;
    }
    new.as_file().sync_all().with_context(failed)?;
    new.persist(&target).with_context(failed)?;
    Ok(())
}

/// Asks for the password twice, or reads the first line of what is not a terminal.
fn password(user: &str) -> Result<Zeroizing<String>> {
    let password = if io::stdin().is_terminal() {
        let ask = |prompt: String| rpassword::prompt_password(prompt).map(Zeroizing::new);
        let first = ask(format!("Password for {user}: ")).context("cannot ask for the password")?;
        let second = ask("Again: ".to_owned()).context("cannot ask for the password")?;
        ensure!(
            first == second,
            "the two passwords differ: nothing was changed"
        );
        first
    } else {
        let mut line = Zeroizing::new(String::new());
        io::stdin()
            .read_line(&mut line)
            .context("cannot read the password from standard input")?;
        Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned())
    };
    check_password(&password)?;
    Ok(password)
}

fn check_password(password: &str) -> Result<()> {
    if password.is_empty() || password.len() > PASSWORD_LEN_MAX {
        bail!("a password has 1 to {PASSWORD_LEN_MAX} bytes");
    }
    ensure!(
        password.trim_matches(' ') == password && !password.chars().any(char::is_control),
        "a password has no blank at its ends and no control character: not every client could say it"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_anew_and_keeps_what_it_had() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        write(&path, &["# mine".to_owned(), "a:b".to_owned()]).unwrap();
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let mut lines = read(&path).unwrap();
        lines.push("c:d".to_owned());
        write(&path, &lines).unwrap();
        assert_eq!(mode(), 0o640);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "# mine\na:b\nc:d\n"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn passwords_that_a_client_can_say() {
        for good in ["x", "two words", "p:w", "\u{fc}"] {
            assert!(check_password(good).is_ok(), "{good}");
        }
        for bad in ["", " x", "x ", "a\tb", "a\0b", &"x".repeat(513)] {
            assert!(check_password(bad).is_err(), "{bad}");
        }
    }
}
