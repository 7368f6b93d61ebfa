//! How the proxy logs in at its backends: `memcached -Y`.
//!
//! The login is the first thing on every connection, and nothing else is sent before it is answered.
//!
//! # Invariants
//!
//! - A memcached that wants no password takes a login for a value to store. It is told one that has expired
//!   already, so nobody can read it there.
//! - The password is never printed.
//!
//! Not here: logins of clients (`verify`).

use std::path::Path;

use magent_core::auth::Secret;
use magent_core::keeper::Failure;

use super::{FileError, read_secrets};

/// Longest answer to a login.
pub(crate) const ANSWER_LEN_MAX: usize = 256;

/// What backends are told.
#[derive(Clone, Debug)]
pub(crate) struct BackendLogin(Secret);

impl BackendLogin {
    /// Reads the file of `--backend-auth-file`: the first line counts, as `memcached -Y` has it (`user:password`) or
    /// as clients say it (`user password`).
    pub(crate) fn load(path: &Path) -> Result<Self, FileError> {
        Self::parse(path, &read_secrets(path)?)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        let mut lines = (1..).zip(text.lines());
        let first = lines.find(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        let Some((number, line)) = first else {
            return Err(FileError::new(path, "holds no line USER:PASSWORD"));
        };
        let line = line.trim_end_matches('\r');
        let split = line.split_once(':').or_else(|| line.split_once(' '));
        // memcached takes the words of a login apart at blanks.
        let is_word = |word: &str| {
            !word.is_empty() && word.len() <= WORD_LEN_MAX && !word.bytes().any(|byte| byte <= b' ')
        };
        match split {
            Some((user, password)) if is_word(user) && is_word(password) => {
                Ok(Self::new(user, password))
            }
            Some(_) | None => Err(FileError::of_line(
                path,
                number,
                "expected USER:PASSWORD, without blanks",
            )),
        }
    }

    fn new(user: &str, password: &str) -> Self {
        let len = user.len() + 1 + password.len();
        let line = format!("set magent.login 0 -1 {len}\r\n{user} {password}\r\n");
        let line = zeroize::Zeroizing::new(line);
        Self(Secret::new(line.as_bytes()))
    }

    /// The first bytes of a connection.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.expose()
    }
}

/// Longest user and password that memcached reads from its file.
const WORD_LEN_MAX: usize = 250;

/// What the answer to a login says; `None` if it is not complete.
pub(crate) fn judge(answer: &[u8]) -> Option<Result<(), Failure>> {
    match answer {
        b"STORED\r\n" => Some(Ok(())),
        _ if answer.ends_with(b"\n") => Some(Err(failure_of_answer(answer))),
        _ if answer.len() >= ANSWER_LEN_MAX => Some(Err(Failure::BadProbe)),
        _ => None,
    }
}

/// What a line says of the one who was to give another answer.
pub(crate) fn failure_of_answer(line: &[u8]) -> Failure {
    if line.starts_with(b"CLIENT_ERROR authentication failure") {
        Failure::LoginRefused
    } else if line.starts_with(b"CLIENT_ERROR unauthenticated") {
        Failure::LoginWanted
    } else {
        Failure::BadProbe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(text: &str) -> Result<Vec<u8>, String> {
        let login = BackendLogin::parse(Path::new("file"), text);
        login
            .map(|login| login.bytes().to_vec())
            .map_err(|err| err.to_string())
    }

    #[test]
    fn the_first_line_counts() {
        let expected = b"set magent.login 0 -1 10\r\njoe secret\r\n".to_vec();
        for text in ["joe:secret", "joe secret\n", "# a\n\njoe:secret\r\nann:x\n"] {
            assert_eq!(login(text), Ok(expected.clone()), "{text}");
        }
        for text in ["joe", "joe:", ":secret", "joe:se cret", "a b:secret"] {
            let err = login(text).unwrap_err();
            assert_eq!(err, "file:1: expected USER:PASSWORD, without blanks");
        }
        assert_eq!(
            login("\n").unwrap_err(),
            "file: holds no line USER:PASSWORD"
        );
    }

    #[test]
    fn answers_are_understood() {
        assert_eq!(judge(b"STORED\r\n"), Some(Ok(())));
        assert_eq!(judge(b"STOR"), None);
        let refused = judge(b"CLIENT_ERROR authentication failure\r\n");
        assert_eq!(refused, Some(Err(Failure::LoginRefused)));
        assert_eq!(judge(b"HTTP/1.1 400\r\n"), Some(Err(Failure::BadProbe)));
        assert_eq!(judge(&[b'x'; 300]), Some(Err(Failure::BadProbe)));
    }
}
