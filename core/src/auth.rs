//! Users: who may come in, and what each of them may do.
//!
//! # Invariants
//!
//! - A password is never printed, and its bytes are wiped when it is dropped ([`Secret`]).
//! - Rights that two connections share are equal only if they came from the same line of the users' file: whoever
//!   has older ones has to log in again.
//!
//! Not here: when a client is asked for its password (`engine`), how one is checked, which takes long and a thread
//! (`magent/src/auth.rs`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

/// Bytes that nobody may see.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// A copy of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// The bytes, for whoever compares or sends them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// What a client says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Any bytes.
    pub user: Box<[u8]>,
    /// Any bytes.
    pub password: Secret,
}

impl Credentials {
    /// Reads `user password`, the value of memcached's text login. What follows the first blanks is the password:
    /// memcached would take its first word.
    #[must_use]
    pub fn from_text(value: &[u8]) -> Option<Self> {
        let value = trim_blanks(value);
        let blank = memchr::memchr(b' ', value)?;
        let password = trim_blanks(&value[blank..]);
        Some(Self {
            user: value[..blank].into(),
            password: Secret::new(password),
        })
    }

    /// Reads the message of SASL PLAIN: whom to act for, who it is, and the password. To act for somebody else is
    /// not allowed. RFC 4616.
    #[must_use]
    pub fn from_plain(value: &[u8]) -> Option<Self> {
        let mut parts = value.split(|&byte| byte == 0);
        let (acts_for, user, password) = (parts.next()?, parts.next()?, parts.next()?);
        let own = acts_for.is_empty() || acts_for == user;
        if !own || user.is_empty() || parts.next().is_some() {
            return None;
        }
        Some(Self {
            user: user.into(),
            password: Secret::new(password),
        })
    }
}

fn trim_blanks(mut bytes: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = bytes {
        bytes = rest;
    }
    bytes
}

/// May a user write?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It may.
    Full,
    /// It may read.
    ReadOnly,
}

/// What a user may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    user: Box<[u8]>,
    prefix: Box<[u8]>,
    access: Access,
    /// Of the line in the users' file.
    stamp: u64,
}

/// Longest prefix: keys need room as well.
pub const PREFIX_LEN_MAX: usize = 128;

impl Rights {
    /// Those of `user`, as `line` of the users' file has them.
    ///
    /// # Panics
    ///
    /// If the prefix is longer than [`PREFIX_LEN_MAX`] or holds anything but visible ASCII characters.
    #[must_use]
    pub fn new(user: &[u8], prefix: &[u8], access: Access, line: &[u8]) -> Self {
        assert!(prefix.len() <= PREFIX_LEN_MAX && prefix.iter().all(u8::is_ascii_graphic));
        Self {
            user: user.into(),
            prefix: prefix.into(),
            access,
            stamp: xxhash_rust::xxh3::xxh3_64(line),
        }
    }

    /// Whose they are.
    #[must_use]
    pub const fn user(&self) -> &[u8] {
        &self.user
    }

    /// What its keys begin with on the backends.
    #[must_use]
    pub const fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Whether it may write.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.access
    }

    /// Whether there is anything that it may not do.
    pub(crate) fn are_limited(&self) -> bool {
        !self.prefix.is_empty() || self.access == Access::ReadOnly
    }
}

/// Everybody who may come in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Users(BTreeMap<Box<[u8]>, Arc<Rights>>);

impl Users {
    /// The rights of `user`.
    #[must_use]
    pub fn get(&self, user: &[u8]) -> Option<&Arc<Rights>> {
        self.0.get(user)
    }

    /// Whether these rights still hold.
    #[must_use]
    pub fn grant(&self, rights: &Rights) -> bool {
        self.get(rights.user())
            .is_some_and(|granted| **granted == *rights)
    }
}

impl FromIterator<Rights> for Users {
    fn from_iter<T: IntoIterator<Item = Rights>>(rights: T) -> Self {
        let rights = rights.into_iter();
        Self(
            rights
                .map(|rights| (rights.user.clone(), Arc::new(rights)))
                .collect(),
        )
    }
}

/// What came of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// It is who it says.
    Granted(Arc<Rights>),
    /// No such user, or another password.
    Denied,
    /// Not looked at: too many log in, or too many have failed.
    Busy,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        split(Credentials::from_text(value))
    }

    fn plain(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        split(Credentials::from_plain(value))
    }

    fn split(credentials: Option<Credentials>) -> Option<(Vec<u8>, Vec<u8>)> {
        credentials.map(|found| (found.user.to_vec(), found.password.expose().to_vec()))
    }

    #[test]
    fn user_and_password_in_text() {
        let joe = Some((b"joe".to_vec(), b"secret".to_vec()));
        for value in ["joe secret", " joe secret ", "joe  secret"] {
            assert_eq!(text(value.as_bytes()), joe, "{value}");
        }
        let phrase = Some((b"joe".to_vec(), b"two words".to_vec()));
        assert_eq!(text(b"joe two words"), phrase);
        for value in ["", " ", "joe", "joe ", "joe\tsecret", "joe:secret"] {
            assert_eq!(text(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn user_and_password_in_sasl_plain() {
        let joe = Some((b"joe".to_vec(), b"secret".to_vec()));
        assert_eq!(plain(b"\0joe\0secret"), joe);
        assert_eq!(plain(b"joe\0joe\0secret"), joe);
        for value in [
            &b""[..],
            b"joe",
            b"\0joe",
            b"\0\0secret",
            b"ann\0joe\0secret",
            b"\0joe\0secret\0",
            b"\0joe\0se\0cret",
        ] {
            assert_eq!(plain(value), None, "{value:?}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let credentials = Credentials::from_text(b"joe hunter2").unwrap();
        let printed = format!("{credentials:?}");
        assert!(printed.contains("<secret>") && !printed.contains("hunter2"));
    }

    #[test]
    fn rights_hold_while_their_line_does() {
        let of = |line: &[u8]| Rights::new(b"joe", b"", Access::Full, line);
        let users: Users = [of(b"joe:1")].into_iter().collect();
        assert!(users.grant(&of(b"joe:1")));
        assert!(!users.grant(&of(b"joe:2")));
        assert!(!Users::default().grant(&of(b"joe:1")));
    }
}
