//! What can be asked of any scheme beside its name: which part of a key is hashed, and the seed.
//!
//! Two programs cut the hashed part out of a key, and differ in one case: between `{` and `}`
//! there may be nothing. twemproxy then hashes the whole key, memcached's proxy the empty one.

use super::{LockKeys, SchemeError};
use std::fmt;
use std::str::FromStr;
use xxhash_rust::xxh3::xxh3_64;

/// Options of a scheme; all off by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchemeOptions {
    /// `--lock-with-data`: keys that are placed as others are.
    pub lock_keys: LockKeys,
    /// `--hash-tag`: twemproxy's.
    pub hash_tag: Option<HashTag>,
    /// `--hash-seed`: memcached proxy's, for schemes that hash keys with xxh3.
    pub hash_seed: Option<HashSeed>,
    /// `--hash-filter`: memcached proxy's.
    pub hash_filter: Option<HashFilter>,
}

/// twemproxy's `hash_tag`: two characters, and only what is between the first of one and the next
/// of the other is hashed. Nothing between them, or no such pair: the whole key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashTag([u8; 2]);

impl FromStr for HashTag {
    type Err = SchemeError;

    fn from_str(text: &str) -> Result<Self, SchemeError> {
        <[u8; 2]>::try_from(text.as_bytes())
            .map(Self)
            .map_err(|_| SchemeError::HashTag { text: text.into() })
    }
}

impl fmt::Display for HashTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_tag(self.0, f)
    }
}

/// memcached proxy's `seed`: a string whose own hash seeds the hash of every key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashSeed(u64);

impl HashSeed {
    /// The seed that memcached makes of this string.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(xxh3_64(text.as_bytes()))
    }

    pub(super) const fn as_u64(self) -> u64 {
        self.0
    }
}

/// memcached proxy's `filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashFilter {
    /// `stop:STRING`: what precedes the first STRING is hashed. mcrouter always does that with
    /// `|#|`.
    Stop(Box<[u8]>),
    /// `tags:XY`: what is between the first X and the next Y is hashed, even if it is nothing.
    Tags([u8; 2]),
}

impl FromStr for HashFilter {
    type Err = SchemeError;

    fn from_str(text: &str) -> Result<Self, SchemeError> {
        let tags = |xy: &str| <[u8; 2]>::try_from(xy.as_bytes()).ok().map(Self::Tags);
        match text.split_once(':') {
            Some(("stop", stop)) if !stop.is_empty() => Some(Self::Stop(stop.as_bytes().into())),
            Some(("tags", xy)) => tags(xy),
            Some(_) | None => None,
        }
        .ok_or_else(|| SchemeError::HashFilter { text: text.into() })
    }
}

impl fmt::Display for HashFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stop(stop) => write!(f, "stop:{}", String::from_utf8_lossy(stop)),
            Self::Tags(tags) => {
                f.write_str("tags:")?;
                fmt_tag(*tags, f)
            }
        }
    }
}

fn fmt_tag(tag: [u8; 2], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(&String::from_utf8_lossy(&tag))
}

/// The part of a key that is hashed.
#[derive(Debug)]
pub(super) enum KeyPart {
    Whole,
    NonEmptyTag([u8; 2]),
    Tag([u8; 2]),
    UpTo(Box<[u8]>),
}

impl KeyPart {
    pub(super) fn new(options: &SchemeOptions) -> Result<Self, SchemeError> {
        match (options.hash_tag, &options.hash_filter) {
            (None, None) => Ok(Self::Whole),
            (Some(HashTag(tag)), None) => Ok(Self::NonEmptyTag(tag)),
            (None, Some(HashFilter::Tags(tag))) => Ok(Self::Tag(*tag)),
            (None, Some(HashFilter::Stop(stop))) => Ok(Self::UpTo(stop.clone())),
            (Some(_), Some(_)) => Err(SchemeError::TagAndFilter),
        }
    }

    pub(super) fn of<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Whole => key,
            Self::NonEmptyTag(tag) => between(key, *tag)
                .filter(|part| !part.is_empty())
                .unwrap_or(key),
            Self::Tag(tag) => between(key, *tag).unwrap_or(key),
            Self::UpTo(stop) => {
                let end = key.windows(stop.len()).position(|window| window == &**stop);
                end.map_or(key, |end| &key[..end])
            }
        }
    }
}

/// What is between the first `open` and the next `close`.
fn between(key: &[u8], [open, close]: [u8; 2]) -> Option<&[u8]> {
    let start = key.iter().position(|&byte| byte == open)? + 1;
    let len = key[start..].iter().position(|&byte| byte == close)?;
    Some(&key[start..start + len])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hashed part under twemproxy's tag and memcached's filter of the same characters.
    #[track_caller]
    fn check_tag(key: &str, hash_tag: &str, filter: &str) {
        let options = SchemeOptions {
            hash_tag: Some("{}".parse().unwrap()),
            ..SchemeOptions::default()
        };
        let part = KeyPart::new(&options).unwrap();
        assert_eq!(part.of(key.as_bytes()), hash_tag.as_bytes(), "{key}");
        let options = SchemeOptions {
            hash_filter: Some("tags:{}".parse().unwrap()),
            ..SchemeOptions::default()
        };
        let part = KeyPart::new(&options).unwrap();
        assert_eq!(part.of(key.as_bytes()), filter.as_bytes(), "{key}");
    }

    #[test]
    fn tags() {
        check_tag("a{b}c", "b", "b");
        check_tag("a{b}{c}", "b", "b");
        check_tag("}a{b}", "b", "b");
        check_tag("{{b}}", "{b", "{b");
        check_tag("a{}c{d}", "a{}c{d}", "");
        check_tag("a{b", "a{b", "a{b");
        check_tag("a{", "a{", "a{");
        check_tag("", "", "");
    }

    #[test]
    fn stop() {
        let options = SchemeOptions {
            hash_filter: Some("stop:|#|".parse().unwrap()),
            ..SchemeOptions::default()
        };
        let part = KeyPart::new(&options).unwrap();
        for (key, expected) in [
            ("a|#|b", "a"),
            ("a|#|b|#|c", "a"),
            ("|#|b", ""),
            ("a|#", "a|#"),
            ("", ""),
        ] {
            assert_eq!(part.of(key.as_bytes()), expected.as_bytes(), "{key}");
        }
    }

    #[test]
    fn parse_and_print() {
        for text in ["stop:|#|", "stop:a:b", "tags:{}", "tags:::"] {
            assert_eq!(text.parse::<HashFilter>().unwrap().to_string(), text);
        }
        for text in [
            "", "stop", "stop:", "tags:{", "tags:{}x", "tag:{}", "tags:é}",
        ] {
            text.parse::<HashFilter>().unwrap_err();
        }
        assert_eq!("{}".parse::<HashTag>().unwrap().to_string(), "{}");
        for text in ["", "{", "{}}"] {
            text.parse::<HashTag>().unwrap_err();
        }
    }

    #[test]
    fn not_both() {
        let options = SchemeOptions {
            hash_tag: Some("{}".parse().unwrap()),
            hash_filter: Some("tags:{}".parse().unwrap()),
            ..SchemeOptions::default()
        };
        assert_eq!(
            KeyPart::new(&options).unwrap_err(),
            SchemeError::TagAndFilter
        );
    }
}
