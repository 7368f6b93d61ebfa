//! Lock keys that are placed as the data which they lock.
//!
//! A session of PHP is two keys, its data and its lock, which any scheme puts on two servers as a rule: each of
//! them can fail alone, and a page view needs both. With a rule of this module the lock is where the data is.
//!
//! # Invariants
//!
//! - A key that no rule is about stays where it is.
//! - The data's key is no lock key itself, as PHP's session ids have no dot.
//! - Nothing is allocated.
//!
//! Not here: what is hashed of a key (`options`).

use super::SchemeError;
use crate::proto::KEY_LEN_MAX;
use std::ops::Deref;
use std::str::FromStr;

/// The rules of a configuration; none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockKeys(Box<[LockRule]>);

/// What `--lock-with-data` is given: a handler, or `php` for both as they are by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockRules(Box<[LockRule]>);

/// How a session handler names the lock of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LockRule {
    /// php-memcached's: with `memcached.sess_prefix` P, the data of session S is `PS` and its lock `Plock.S`.
    Memcached(Box<[u8]>),
    /// pecl-memcache's: the data of session S is `S`, behind any prefix, and its lock `S.lock`.
    Memcache,
}

impl LockKeys {
    /// All of these rules; the first one that is about a key counts.
    #[must_use]
    pub fn new<'a>(rules: impl Iterator<Item = &'a LockRules>) -> Self {
        Self(rules.flat_map(|rules| &rules.0).cloned().collect())
    }

    /// Whether there are no rules.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key of the data that `key` locks; `key` itself if it is no lock's.
    #[must_use]
    pub fn data_key<'a>(&self, key: &'a [u8]) -> DataKey<'a> {
        let data_key = self.0.iter().find_map(|rule| rule.data_key(key));
        data_key.unwrap_or(DataKey::Part(key))
    }
}

impl LockRule {
    /// php-memcached's with its default prefix.
    fn memcached() -> Self {
        Self::Memcached(Box::from(*b"memc.sess.key."))
    }

    fn data_key<'a>(&self, key: &'a [u8]) -> Option<DataKey<'a>> {
        match self {
            Self::Memcached(prefix) => {
                let id = key.strip_prefix(&**prefix)?.strip_prefix(b"lock.")?;
                DataKey::joined(&key[..prefix.len()], id)
            }
            Self::Memcache => {
                let data_key = key.strip_suffix(b".lock")?;
                ends_in_session_id(data_key).then_some(DataKey::Part(data_key))
            }
        }
    }
}

impl FromStr for LockRules {
    type Err = SchemeError;

    fn from_str(text: &str) -> Result<Self, SchemeError> {
        let (handler, prefix) = match text.split_once(':') {
            Some((handler, prefix)) => (handler, Some(prefix)),
            None => (text, None),
        };
        let is_valid =
            |prefix: &str| prefix.len() < KEY_LEN_MAX && prefix.bytes().all(|byte| byte > b' ');
        let rules = match (handler, prefix) {
            ("php", None) => vec![LockRule::memcached(), LockRule::Memcache],
            ("memcache", None) => vec![LockRule::Memcache],
            ("memcached", None) => vec![LockRule::memcached()],
            ("memcached", Some(prefix)) if is_valid(prefix) => {
                vec![LockRule::Memcached(prefix.as_bytes().into())]
            }
            _ => return Err(SchemeError::LockRules { text: text.into() }),
        };
        Ok(Self(rules.into()))
    }
}

/// PHP's `session.sid_length` is at least this, and its ids are made of these characters. Sites have
/// locks of their own that end in `.lock`: those behind shorter names are left alone.
const SESSION_ID_LEN_MIN: usize = 22;

fn ends_in_session_id(key: &[u8]) -> bool {
    let is_of_id = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b',' | b'-');
    let start = key.len().checked_sub(SESSION_ID_LEN_MIN);
    start.is_some_and(|start| key[start..].iter().all(is_of_id))
}

/// A key that another one is placed as.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for one look-up, and nothing is to be allocated for that"
)]
pub enum DataKey<'a> {
    /// Part of that one, or all of it.
    Part(&'a [u8]),
    /// Made of two parts of it.
    Joined {
        /// The key, and room behind it.
        buffer: [u8; KEY_LEN_MAX],
        /// Its length.
        len: usize,
    },
}

impl DataKey<'_> {
    /// None if it were longer than any key.
    fn joined(start: &[u8], end: &[u8]) -> Option<Self> {
        let len = start.len() + end.len();
        let mut buffer = [0; KEY_LEN_MAX];
        let (before, behind) = buffer.get_mut(..len)?.split_at_mut(start.len());
        before.copy_from_slice(start);
        behind.copy_from_slice(end);
        Some(Self::Joined { buffer, len })
    }
}

impl Deref for DataKey<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Part(key) => key,
            Self::Joined { buffer, len } => &buffer[..*len],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(option: &str, key: &str, expected: &str) {
        let keys = LockKeys::new([option.parse().unwrap()].iter());
        let data_key = keys.data_key(key.as_bytes());
        assert_eq!(
            data_key.escape_ascii().to_string(),
            expected,
            "{option}: {key}"
        );
    }

    const ID: &str = "2kq5ssnh3lo7rfl6dq3p6v9e5m";

    #[test]
    fn locks_of_both_handlers() {
        for option in ["php", "memcached"] {
            check(
                option,
                &format!("memc.sess.key.lock.{ID}"),
                &format!("memc.sess.key.{ID}"),
            );
            check(option, "memc.sess.key.lock.short", "memc.sess.key.short");
            check(option, "memc.sess.key.lock.", "memc.sess.key.");
        }
        for option in ["php", "memcache"] {
            check(option, &format!("{ID}.lock"), ID);
            check(
                option,
                &format!("www.example.com{ID}.lock"),
                &format!("www.example.com{ID}"),
            );
        }
        check("memcached:shop.", "shop.lock.a", "shop.a");
        check("memcached:", "lock.a", "a");
        check("memcached:a:b", "a:block.c", "a:bc");
    }

    #[test]
    fn all_others_stay() {
        for key in [
            "",
            "lock.a",
            "memc.sess.key.a",
            "memc.sess.key.locka",
            "amemc.sess.key.lock.a",
            "memc.sess.key",
            ID,
            "cron.lock",
            ".lock",
            "twenty-one-characters.lock",
            "user:sixteen-characters-.lock",
            "2kq5ssnh3lo7rfl6dq3p6v9e5m.locked",
        ] {
            check("php", key, key);
        }
        check("memcache", "memc.sess.key.lock.a", "memc.sess.key.lock.a");
        let pecl = format!("{ID}.lock");
        check("memcached", &pecl, &pecl);
        check(
            "memcached:shop.",
            "memc.sess.key.lock.a",
            "memc.sess.key.lock.a",
        );
        // Longer than any key: whatever it is, it is nobody's lock.
        let long = format!("memc.sess.key.lock.{}", "a".repeat(240));
        check("php", &long, &long);
    }

    #[test]
    fn what_is_no_rule() {
        for text in [
            "",
            "PHP",
            "php:",
            "memcache:a",
            "memcached:a b",
            "memcached:a\n",
            "redis",
        ] {
            text.parse::<LockRules>().unwrap_err();
        }
    }

    #[test]
    fn several_rules() {
        let rules = ["memcached:a.", "memcached:b.", "memcache"].map(|text| text.parse().unwrap());
        let keys = LockKeys::new(rules.iter());
        for (key, expected) in [
            ("a.lock.x", "a.x"),
            ("b.lock.x", "b.x"),
            ("c.lock.x", "c.lock.x"),
        ] {
            assert_eq!(&*keys.data_key(key.as_bytes()), expected.as_bytes());
        }
    }
}
