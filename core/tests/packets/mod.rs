//! Packets of the binary protocol, as a client writes and reads them.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::fmt;

/// A request: `opaque` 7 and no unique until it is told otherwise.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ask {
    pub(crate) code: u8,
    pub(crate) extras: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) opaque: u32,
    pub(crate) cas: u64,
}

impl Ask {
    pub(crate) fn new(code: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Self {
        Self {
            code,
            extras: extras.to_vec(),
            key: key.to_vec(),
            value: value.to_vec(),
            opaque: 7,
            cas: 0,
        }
    }

    pub(crate) fn cas(mut self, cas: u64) -> Self {
        self.cas = cas;
        self
    }

    pub(crate) fn opaque(mut self, opaque: u32) -> Self {
        self.opaque = opaque;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        let mut out = vec![0x80, self.code];
        out.extend(u16::try_from(self.key.len()).unwrap().to_be_bytes());
        out.extend([u8::try_from(self.extras.len()).unwrap(), 0, 0, 0]);
        let body_len = len(&self.extras) + len(&self.key) + len(&self.value);
        out.extend(body_len.to_be_bytes());
        out.extend(self.opaque.to_be_bytes());
        out.extend(self.cas.to_be_bytes());
        for part in [&self.extras, &self.key, &self.value] {
            out.extend(part);
        }
        out
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = &self.value[..self.value.len().min(30)];
        write!(f, "{:02x} e={:02x?}", self.code, self.extras)?;
        write!(
            f,
            " k={} v={}",
            self.key.escape_ascii(),
            value.escape_ascii()
        )?;
        write!(f, " c={:x}", self.cas)
    }
}

/// A command without extras: gets, delete, append, stat …
pub(crate) fn bare(code: u8, key: &str, value: &str) -> Ask {
    Ask::new(code, b"", key.as_bytes(), value.as_bytes())
}

/// Set, Add or Replace, with client flags 5.
pub(crate) fn store(code: u8, key: &str, value: &str) -> Ask {
    let extras = [5_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat();
    Ask::new(code, &extras, key.as_bytes(), value.as_bytes())
}

/// Touch and GAT.
pub(crate) fn touch(code: u8, key: &str, exptime: u32) -> Ask {
    Ask::new(code, &exptime.to_be_bytes(), key.as_bytes(), b"")
}

/// Increment and Decrement.
pub(crate) fn count(code: u8, key: &str, delta: u64, initial: u64, exptime: u32) -> Ask {
    let mut extras = delta.to_be_bytes().to_vec();
    extras.extend(initial.to_be_bytes());
    extras.extend(exptime.to_be_bytes());
    Ask::new(code, &extras, key.as_bytes(), b"")
}

pub(crate) fn noop() -> Ask {
    bare(0x0a, "", "")
}

/// An answer. As text: `0c:0 f=00000005 k=key v=value c`, where `c` says that there is a unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: u8,
    pub(crate) status: u16,
    pub(crate) opaque: u32,
    pub(crate) cas: u64,
    pub(crate) extras: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:x}", self.code, self.status)?;
        if !self.extras.is_empty() {
            write!(f, " f=")?;
            self.extras
                .iter()
                .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        }
        if !self.key.is_empty() {
            write!(f, " k={}", self.key.escape_ascii())?;
        }
        if !self.value.is_empty() {
            write!(f, " v={}", self.value.escape_ascii())?;
        }
        if self.cas != 0 {
            write!(f, " c")?;
        }
        Ok(())
    }
}

/// The answers in `bytes`, which must hold nothing else.
#[track_caller]
pub(crate) fn answers(bytes: &[u8]) -> Vec<Answer> {
    let mut rest = bytes;
    let mut answers = Vec::new();
    while !rest.is_empty() {
        let number = |at: usize, len: usize| {
            let digits = rest.get(at..at + len).expect("a header is complete");
            digits
                .iter()
                .fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte))
        };
        assert_eq!(number(0, 1), 0x81, "no packet: {}", rest.escape_ascii());
        let len = |at, bytes| usize::try_from(number(at, bytes)).unwrap();
        let (key_len, extras_len, body_len) = (len(2, 2), len(4, 1), len(8, 4));
        let body = rest.get(24..24 + body_len).expect("a body is complete");
        let (extras, body) = body.split_at(extras_len);
        let (key, value) = body.split_at(key_len);
        answers.push(Answer {
            code: u8::try_from(number(1, 1)).unwrap(),
            status: u16::try_from(number(6, 2)).unwrap(),
            opaque: u32::try_from(number(12, 4)).unwrap(),
            cas: number(16, 8),
            extras: extras.to_vec(),
            key: key.to_vec(),
            value: value.to_vec(),
        });
        rest = &rest[24 + extras_len + key_len + value.len()..];
    }
    answers
}

/// The same, as text.
#[track_caller]
pub(crate) fn shown(bytes: &[u8]) -> Vec<String> {
    answers(bytes).iter().map(ToString::to_string).collect()
}
