//! The file of users: one line each.
//!
//! ```text
//! # name:hash [prefix=PREFIX] [read-only]
//! shop:$argon2id$v=19$m=12288,t=3,p=1$c2FsdA$aGFzaA prefix=shop: read-only
//! ```
//!
//! # Invariants
//!
//! - A file is taken as a whole or not at all.
//! - No hash costs more than [`COST_MAX`]: it is checked for whoever connects.
//!
//! Not here: how the file is changed (`passwd`).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use magent_core::auth::{Access, PREFIX_LEN_MAX, Rights, Users};

use super::{FileError, read_secrets};

/// Longest name of a user.
const NAME_LEN_MAX: usize = 128;

/// Memory of a hash in KiB, and passes over it. One of the pairs that OWASP has for argon2id. A login takes 17 ms at
/// best on one core of a busy machine (2026-11), which nobody notices once a minute, and a guesser does; two threads
/// need 24 MiB.
const MEMORY_KIB: u32 = 12 * 1024;
const PASSES: u32 = 3;

/// Largest product of memory in KiB and passes that is taken from a file: about half a second.
const COST_MAX: u64 = 1 << 20;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) name: String,
    /// In the form of the password hashing competition.
    pub(super) hash: String,
    pub(super) prefix: String,
    pub(super) access: Access,
}

impl Line {
    /// Understands a line; `None` if it is empty or a comment.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, String> {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            return Ok(None);
        }
        let (name, rest) = text
            .split_once(':')
            .ok_or("expected NAME:HASH, as \"magent passwd\" writes it")?;
        let mut words = rest.split_whitespace();
        let hash = words.next().unwrap_or_default().to_owned();
        let mut line = Self {
            name: name.to_owned(),
            hash,
            prefix: String::new(),
            access: Access::Full,
        };
        for word in words {
            match word.split_once('=') {
                Some(("prefix", prefix)) => line.prefix = prefix.to_owned(),
                None if word == "read-only" => line.access = Access::ReadOnly,
                Some(_) | None => {
                    return Err(format!(
                        "\"{word}\" is no option: there are prefix=PREFIX and read-only"
                    ));
                }
            }
        }
        line.check()?;
        Ok(Some(line))
    }

    /// Whether other lines, and clients, can say it.
    pub(super) fn check(&self) -> Result<(), String> {
        check_name(&self.name)?;
        check_prefix(&self.prefix)?;
        parse_hash(&self.hash).map(drop)
    }

    /// As it stands in the file.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}:{}", self.name, self.hash);
        if !self.prefix.is_empty() {
            write!(text, " prefix={}", self.prefix).expect("a String takes all");
        }
        if self.access == Access::ReadOnly {
            text.push_str(" read-only");
        }
        text
    }
}

pub(super) fn check_name(name: &str) -> Result<(), String> {
    let usable = |byte: u8| byte.is_ascii_graphic() && byte != b':' || !byte.is_ascii();
    if name.is_empty()
        || name.len() > NAME_LEN_MAX
        || name.starts_with('#')
        || !name.bytes().all(usable)
    {
        return Err(format!(
            "\"{}\" is no name of a user: 1 to {NAME_LEN_MAX} bytes without blanks and colons, not beginning with #",
            name.escape_debug()
        ));
    }
    Ok(())
}

pub(super) fn check_prefix(prefix: &str) -> Result<(), String> {
    if prefix.len() > PREFIX_LEN_MAX || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "\"{}\" is no prefix: at most {PREFIX_LEN_MAX} visible ASCII characters",
            prefix.escape_debug()
        ));
    }
    Ok(())
}

fn parse_hash(text: &str) -> Result<PasswordHash, String> {
    let wrong = |problem: String| {
        format!("the hash is {problem}: expected argon2, as \"magent passwd\" writes it")
    };
    let hash = PasswordHash::new(text).map_err(|err| wrong(format!("wrong ({err})")))?;
    if Algorithm::try_from(hash.algorithm.as_str()).is_err()
        || hash.hash.is_none()
        || hash.salt.is_none()
    {
        return Err(wrong("of another kind".to_owned()));
    }
    let params = Params::try_from(&hash).map_err(|err| wrong(format!("wrong ({err})")))?;
    if u64::from(params.m_cost()) * u64::from(params.t_cost()) > COST_MAX {
        return Err(wrong("too expensive to check".to_owned()));
    }
    Ok(hash)
}

/// The hash of a password, with a salt of its own.
pub(super) fn hash(password: &[u8]) -> anyhow::Result<String> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).expect("they are within argon2's limits");
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash: PasswordHash = argon2
        .hash_password(password)
        .map_err(|err| anyhow::anyhow!("cannot hash the password: {err}"))?;
    Ok(hash.to_string())
}

/// A user, as far as a login needs it.
#[derive(Debug)]
pub(super) struct User {
    hash: PasswordHash,
    /// The same, as it stands in the file.
    pub(super) hash_text: String,
    pub(super) rights: Arc<Rights>,
}

impl User {
    /// Whether this is the password. Takes as long as the hash wants.
    pub(super) fn has_password(&self, password: &[u8]) -> bool {
        Argon2::default()
            .verify_password(password, &self.hash)
            .is_ok()
    }
}

/// Everybody in the file.
#[derive(Debug, Default)]
pub(crate) struct UserTable {
    users: Arc<Users>,
    by_name: HashMap<Vec<u8>, Arc<User>>,
    /// Stands in for users that do not exist, so that they cost as much.
    somebody: Option<Arc<User>>,
}

impl UserTable {
    /// Reads a file.
    pub(crate) fn load(path: &Path) -> Result<Self, FileError> {
        Self::parse(path, &read_secrets(path)?)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        let mut table = Self::default();
        let mut all = Vec::new();
        for (number, text) in (1..).zip(text.lines()) {
            let line = Line::parse(text).map_err(|err| FileError::of_line(path, number, err))?;
            let Some(line) = line else { continue };
            let name = line.name.as_bytes();
            let rights = Rights::new(name, line.prefix.as_bytes(), line.access, text.as_bytes());
            all.push(rights.clone());
            let user = Arc::new(User {
                hash: parse_hash(&line.hash).expect("the line was checked"),
                rights: Arc::new(rights),
                hash_text: line.hash,
            });
            table.somebody.get_or_insert_with(|| Arc::clone(&user));
            if table.by_name.insert(name.to_vec(), user).is_some() {
                let problem = format!("user \"{}\" is there twice", line.name);
                return Err(FileError::of_line(path, number, problem));
            }
        }
        table.users = Arc::new(all.into_iter().collect());
        Ok(table)
    }

    /// What the engine has to know.
    pub(crate) fn users(&self) -> &Arc<Users> {
        &self.users
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The user of that name.
    pub(super) fn get(&self, name: &[u8]) -> Option<&Arc<User>> {
        self.by_name.get(name)
    }

    /// Whom to check the password of nobody with.
    pub(super) fn somebody(&self) -> Option<&Arc<User>> {
        self.somebody.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<UserTable, String> {
        UserTable::parse(Path::new("users"), text).map_err(|err| err.to_string())
    }

    #[test]
    fn what_is_written_is_read() {
        let line = Line {
            name: "shop".to_owned(),
            hash: hash(b"secret").unwrap(),
            prefix: "shop:a=b".to_owned(),
            access: Access::ReadOnly,
        };
        let text = line.text();
        assert_eq!(Line::parse(&text).unwrap(), Some(line));
        let table = load(&format!("# users\n\n{text}\n")).unwrap();
        let user = table.get(b"shop").unwrap();
        assert!(user.has_password(b"secret"));
        assert!(!user.has_password(b"Secret"));
        assert_eq!(user.rights.prefix(), b"shop:a=b");
        assert_eq!(table.users().get(b"shop"), Some(&user.rights));
        assert_eq!((table.len(), table.get(b"bank").is_none()), (1, true));
        let again = hash(b"secret").unwrap();
        assert_ne!(again, user.hash_text, "salted");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let good = format!("joe:{}", hash(b"x").unwrap());
        for (text, expected) in [
            (
                "joe",
                "users:1: expected NAME:HASH, as \"magent passwd\" writes it",
            ),
            ("# a\njoe:secret", "users:2: the hash is wrong ("),
            (
                "joe:$scrypt$ln=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo",
                "users:1: the hash is of another kind",
            ),
            (
                "joe:$argon2id$v=19$m=4194304,t=3,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo",
                "users:1: the hash is too expensive",
            ),
            (":$argon2id$", "users:1: \"\" is no name of a user"),
            ("a b:$argon2id$", "users:1: \"a b\" is no name of a user"),
            (
                &format!("{good} readonly"),
                "users:1: \"readonly\" is no option",
            ),
            (
                &format!("{good} prefix=\u{fc}"),
                "users:1: \"\u{fc}\" is no prefix",
            ),
            (
                &format!("{good}\n{good}"),
                "users:2: user \"joe\" is there twice",
            ),
        ] {
            let err = load(text).unwrap_err();
            assert!(err.starts_with(expected), "{text}: {err}");
            assert!(!err.contains("secret"), "{err}");
        }
    }
}
