//! Is each request that asks for an answer given exactly one, of its kind, in order?
//!
//! The strictest client there could be: every byte of the stream must belong to an answer that the oldest
//! request can have. What the values say is not looked at here (`check`).

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::binary::{take_packet, understand};
use crate::workload::{Key, Op, Outcome, Quiet, Verb};

/// An item as a client was given it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub value: Vec<u8>,
    pub client_flags: Option<u32>,
    pub cas: Option<u64>,
}

/// A request that has its answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub op: u32,
    pub outcome: Outcome,
    /// By key of the request: what was found. Empty if it is not a read, or was refused.
    pub found: Vec<(usize, Option<Found>)>,
    /// The number that was answered.
    pub number: Option<u64>,
    /// Whether the answer is an error of the proxy or a backend.
    pub failed: bool,
}

/// The answers that a connection owes.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    queue: VecDeque<Owed>,
    /// Whether one of the quiet requests at the head was answered with an error: errors do not say whose
    /// they are.
    quiet_error: bool,
}

#[derive(Debug)]
struct Owed {
    op: u32,
    found: Vec<(usize, Option<Found>)>,
}

/// A piece of the stream that means something by itself.
#[derive(Debug, Clone, Copy)]
enum Unit<'a> {
    Line(&'a [u8]),
    Value {
        key: &'a [u8],
        client_flags: u32,
        cas: Option<u64>,
        data: &'a [u8],
    },
    MetaValue {
        flags: &'a [u8],
        data: &'a [u8],
    },
}

/// Longer than any line that a proxy answers.
const LINE_LEN_MAX: usize = 4_096;

impl Expected {
    pub(crate) fn push(&mut self, op: &Op) {
        self.queue.push_back(Owed {
            op: op.id,
            found: Vec::new(),
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// The oldest request that is not answered.
    pub(crate) fn oldest(&self) -> Option<u32> {
        self.queue.front().map(|owed| owed.op)
    }

    /// Gives up: nobody will answer any more.
    pub(crate) fn drain(&mut self) -> Vec<u32> {
        self.quiet_error = false;
        self.queue.drain(..).map(|owed| owed.op).collect()
    }

    /// Takes what is complete at the beginning of `bytes`; yields how much that was.
    pub(crate) fn receive(
        &mut self,
        ops: &[Op],
        keys: &[Key],
        bytes: &[u8],
        answers: &mut Vec<Answer>,
    ) -> Result<usize, String> {
        let mut used = 0;
        while let Some((unit, len)) = take_unit(&bytes[used..])? {
            self.on_unit(ops, keys, unit, answers)?;
            used += len;
        }
        Ok(used)
    }

    /// The same of a binary client.
    pub(crate) fn receive_packets(
        &mut self,
        ops: &[Op],
        keys: &[Key],
        bytes: &[u8],
        answers: &mut Vec<Answer>,
    ) -> Result<usize, String> {
        let mut used = 0;
        while let Some((packet, len)) = take_packet(&bytes[used..])? {
            used += len;
            loop {
                let Some(owed) = self.queue.front() else {
                    return Err(format!("an answer that nobody asked for: {packet:?}"));
                };
                let op = &ops[owed.op as usize];
                if op.id == packet.opaque {
                    if let Some(answer) = understand(op, keys, &packet)? {
                        answers.push(answer);
                        self.queue.pop_front();
                    }
                    break;
                }
                if op.quiet != Quiet::Meta {
                    return Err(format!("not the answer of request {}: {packet:?}", op.id));
                }
                answers.push(silence(op, false));
                self.queue.pop_front();
            }
        }
        Ok(used)
    }

    fn on_unit(
        &mut self,
        ops: &[Op],
        keys: &[Key],
        unit: Unit<'_>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), String> {
        loop {
            let Some(owed) = self.queue.front_mut() else {
                return Err(format!("an answer that nobody asked for: {}", shown(unit)));
            };
            let op = &ops[owed.op as usize];
            if op.quiet == Quiet::Meta {
                if is_error(unit) {
                    self.quiet_error = true;
                    return Ok(());
                }
                if opaque_of(unit) != Some(op.id) {
                    answers.push(silence(op, self.quiet_error));
                    self.queue.pop_front();
                    continue;
                }
            } else {
                self.quiet_error = false;
            }
            if let Verb::Get { cas } = op.verb {
                if !on_get_unit(op, keys, cas, owed, unit)? {
                    return Ok(());
                }
                let found = std::mem::take(&mut owed.found);
                answers.push(read(op, found, is_error(unit)));
            } else if op.verb == Verb::Stats {
                if !stats_end(unit)? {
                    return Ok(());
                }
                answers.push(plain(op, Outcome::Done));
            } else {
                answers.push(single(op, keys, unit)?);
            }
            self.queue.pop_front();
            return Ok(());
        }
    }
}

fn plain(op: &Op, outcome: Outcome) -> Answer {
    Answer {
        op: op.id,
        outcome,
        found: Vec::new(),
        number: None,
        failed: false,
    }
}

fn read(op: &Op, mut found: Vec<(usize, Option<Found>)>, failed: bool) -> Answer {
    if failed {
        found.clear();
    }
    Answer {
        found,
        failed,
        ..plain(
            op,
            if failed {
                Outcome::Unknown
            } else {
                Outcome::Done
            },
        )
    }
}

/// What it means that a quiet request was not answered.
fn silence(op: &Op, error: bool) -> Answer {
    if error {
        return Answer {
            failed: true,
            ..plain(op, Outcome::Unknown)
        };
    }
    // A quiet classic get is a packet.
    if matches!(op.verb, Verb::MetaGet | Verb::Get { .. }) {
        return read(op, vec![(op.keys[0], None)], false);
    }
    plain(op, Outcome::Done)
}

/// A unit that answers a classic get. Yields whether it was the last.
fn on_get_unit(
    op: &Op,
    keys: &[Key],
    cas: bool,
    owed: &mut Owed,
    unit: Unit<'_>,
) -> Result<bool, String> {
    match unit {
        Unit::Value {
            key,
            client_flags,
            cas: token,
            data,
        } => {
            if token.is_some() != cas {
                return Err(format!(
                    "a CAS token where none was asked for, or none: {}",
                    shown(unit)
                ));
            }
            // What was asked for in between was not found.
            while let Some(&asked) = op.keys.get(owed.found.len()) {
                if keys[asked].bytes == key {
                    let found = Found {
                        value: data.to_vec(),
                        client_flags: Some(client_flags),
                        cas: token,
                    };
                    owed.found.push((asked, Some(found)));
                    return Ok(false);
                }
                owed.found.push((asked, None));
            }
            Err(format!(
                "a value that request {} did not ask for: {}",
                op.id,
                shown(unit)
            ))
        }
        Unit::Line(b"END") => {
            for &asked in &op.keys[owed.found.len()..] {
                owed.found.push((asked, None));
            }
            Ok(true)
        }
        Unit::Line(_) if is_error(unit) => {
            if op.keys.len() == 1 && owed.found.is_empty() {
                Ok(true)
            } else {
                Err(format!(
                    "an error among the values of request {}: {}",
                    op.id,
                    shown(unit)
                ))
            }
        }
        Unit::Line(_) | Unit::MetaValue { .. } => Err(format!(
            "not the answer of a get (request {}): {}",
            op.id,
            shown(unit)
        )),
    }
}

fn stats_end(unit: Unit<'_>) -> Result<bool, String> {
    match unit {
        Unit::Line(b"END" | b"RESET") => Ok(true),
        Unit::Line(line) if line.starts_with(b"STAT ") => Ok(false),
        Unit::Line(_) | Unit::Value { .. } | Unit::MetaValue { .. } => {
            Err(format!("not a statistic: {}", shown(unit)))
        }
    }
}

/// A request that is answered with one line, or a line and a value.
fn single(op: &Op, keys: &[Key], unit: Unit<'_>) -> Result<Answer, String> {
    let wrong = || {
        Err(format!(
            "not the answer of {:?} (request {}): {}",
            op.verb,
            op.id,
            shown(unit)
        ))
    };
    if let Unit::Line(line) = unit
        && is_error(unit)
    {
        let outcome = match (op.verb, line.starts_with(b"SERVER_ERROR")) {
            (Verb::MetaNoop | Verb::Version, _) => return wrong(),
            (_, true) => Outcome::Unknown,
            (_, false) => Outcome::Refused,
        };
        return Ok(Answer {
            failed: true,
            ..plain(op, outcome)
        });
    }
    let (line, data) = match unit {
        Unit::Line(line) => (line, None),
        Unit::MetaValue { flags, data } => (flags, Some(data)),
        Unit::Value { .. } => return wrong(),
    };
    use Outcome::{Declined, Done};
    let outcome = match (op.verb, line) {
        (Verb::Set, b"STORED") => Done,
        (Verb::Add | Verb::Replace | Verb::Append, b"STORED") => Done,
        (Verb::Add | Verb::Replace | Verb::Append, b"NOT_STORED") => Declined,
        (Verb::Cas, b"STORED") => Done,
        (Verb::Cas, b"EXISTS" | b"NOT_FOUND") => Declined,
        (Verb::Delete, b"DELETED") | (Verb::Touch, b"TOUCHED") => Done,
        (Verb::Delete | Verb::Touch | Verb::Arith, b"NOT_FOUND") => Declined,
        (Verb::Arith, _) => {
            return match number(line) {
                Some(number) => Ok(Answer {
                    number: Some(number),
                    ..plain(op, Done)
                }),
                None => wrong(),
            };
        }
        (Verb::Flush | Verb::Verbosity, b"OK") | (Verb::MetaNoop, b"MN") => Done,
        (Verb::Version, _) if line.starts_with(b"VERSION ") => Done,
        (Verb::MetaDebug, _) if line.starts_with(b"ME ") || line == b"EN" => Done,
        (Verb::MetaGet | Verb::MetaSet | Verb::MetaDelete | Verb::MetaArith, _) => {
            return meta(op, keys, line, data, unit);
        }
        _ => return wrong(),
    };
    if data.is_some() {
        return wrong();
    }
    Ok(plain(op, outcome))
}

fn meta(
    op: &Op,
    keys: &[Key],
    line: &[u8],
    data: Option<&[u8]>,
    unit: Unit<'_>,
) -> Result<Answer, String> {
    let wrong = |what: &str| {
        Err(format!(
            "{what} (request {}, {:?}): {}",
            op.id,
            op.verb,
            shown(unit)
        ))
    };
    let mut words = line
        .split(|&byte| byte == b' ')
        .filter(|word| !word.is_empty());
    let code = if data.is_some() {
        &b"VA"[..]
    } else {
        words.next().unwrap_or_default()
    };
    let outcome = match (op.verb, code) {
        (_, b"HD") | (Verb::MetaGet | Verb::MetaArith, b"VA") => Outcome::Done,
        (Verb::MetaGet, b"EN") => Outcome::Done,
        (Verb::MetaSet, b"NS" | b"EX" | b"NF") => Outcome::Declined,
        (Verb::MetaDelete, b"NF" | b"EX") => Outcome::Declined,
        (Verb::MetaArith, b"NF" | b"NS" | b"EX") => Outcome::Declined,
        _ => return wrong("not an answer of this command"),
    };
    let hidden = if matches!(op.verb, Verb::MetaGet) {
        code == b"EN"
    } else {
        code == b"HD" || (op.verb == Verb::MetaArith && code == b"VA")
    };
    if op.quiet == Quiet::Meta && hidden {
        return wrong("an answer that q should have hidden");
    }
    let (client_flags, cas) = match echoes(op, keys, words, code) {
        Ok(found) => found,
        Err(what) => return wrong(&what),
    };
    if op.verb == Verb::MetaGet {
        let found = match (code, data) {
            (b"EN", _) => Some((op.keys[0], None)),
            (_, Some(data)) => Some((
                op.keys[0],
                Some(Found {
                    value: data.to_vec(),
                    client_flags,
                    cas,
                }),
            )),
            // A hit whose value was not asked for says nothing about it.
            (_, None) => None,
        };
        return Ok(read(op, found.into_iter().collect(), false));
    }
    Ok(Answer {
        number: data.and_then(number),
        ..plain(op, outcome)
    })
}

/// Looks at what an answer repeats; yields the client flags and the CAS token if they are there.
fn echoes<'a>(
    op: &Op,
    keys: &[Key],
    words: impl Iterator<Item = &'a [u8]>,
    code: &[u8],
) -> Result<(Option<u32>, Option<u64>), String> {
    let mut expected = op.echoes.iter().copied().peekable();
    let (mut client_flags, mut cas) = (None, None);
    let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
    let only_names = matches!(code, b"EN" | b"NF" | b"NS" | b"EX");
    let mut binary = false;
    let mut named = None;
    for word in words {
        let (letter, token) = (word[0], &word[1..]);
        match letter {
            b'b' => {
                binary = true;
                continue;
            }
            b'W' | b'X' | b'Z' if token.is_empty() => continue,
            _ => {}
        }
        while only_names
            && expected
                .peek()
                .is_some_and(|letter| !b"Ok".contains(letter))
        {
            expected.next();
        }
        if expected.next() != Some(letter) {
            return Err(format!("flag {} is not the one asked for", text(word)));
        }
        let parsed = std::str::from_utf8(token).unwrap_or_default();
        match letter {
            b'O' if parsed.parse() != Ok(op.id) => {
                return Err("another request's opaque".to_owned());
            }
            b'k' => named = Some(token.to_vec()),
            b'f' => client_flags = parsed.parse().ok(),
            b'c' => cas = parsed.parse().ok(),
            _ => {}
        }
    }
    if let Some(left) = expected.find(|letter| !only_names || b"Ok".contains(letter)) {
        return Err(format!(
            "flag {} was asked for and is not there",
            char::from(left)
        ));
    }
    if let Some(named) = named {
        let named = if binary {
            STANDARD.decode(&named).unwrap_or_default()
        } else {
            named
        };
        if named != keys[op.keys[0]].bytes {
            return Err("another request's key".to_owned());
        }
    }
    Ok((client_flags, cas))
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text)
        .ok()?
        .trim_end_matches(' ')
        .parse()
        .ok()
}

fn opaque_of(unit: Unit<'_>) -> Option<u32> {
    let (Unit::Line(line) | Unit::MetaValue { flags: line, .. }) = unit else {
        return None;
    };
    let word = line
        .split(|&byte| byte == b' ')
        .find(|word| word.first() == Some(&b'O'))?;
    std::str::from_utf8(&word[1..]).ok()?.parse().ok()
}

fn is_error(unit: Unit<'_>) -> bool {
    let Unit::Line(line) = unit else {
        return false;
    };
    [&b"ERROR"[..], b"CLIENT_ERROR ", b"SERVER_ERROR "]
        .iter()
        .any(|error| line.starts_with(error))
}

fn shown(unit: Unit<'_>) -> String {
    match unit {
        Unit::Line(line) => String::from_utf8_lossy(line).into_owned(),
        Unit::Value { key, data, .. } => {
            format!(
                "VALUE {} ({} bytes)",
                String::from_utf8_lossy(key),
                data.len()
            )
        }
        Unit::MetaValue { flags, data } => {
            format!(
                "VA {} ({} bytes)",
                String::from_utf8_lossy(flags),
                data.len()
            )
        }
    }
}

fn take_unit(bytes: &[u8]) -> Result<Option<(Unit<'_>, usize)>, String> {
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        return if bytes.len() > LINE_LEN_MAX {
            Err("a line without an end".to_owned())
        } else {
            Ok(None)
        };
    };
    let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
    let line = bytes[..end]
        .strip_suffix(b"\r")
        .ok_or_else(|| format!("a line without CR: {}", text(&bytes[..end])))?;
    let after = end + 1;
    let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let parse = |word: &[u8]| -> Result<u64, String> {
        std::str::from_utf8(word)
            .ok()
            .and_then(|word| word.parse().ok())
            .ok_or_else(|| format!("not a number in {}", text(line)))
    };
    let data_of = |len: u64| -> Result<Option<(&[u8], usize)>, String> {
        let len = usize::try_from(len).map_err(|_| "a length beyond memory".to_owned())?;
        let Some(data) = bytes.get(after..after + len + 2) else {
            return Ok(None);
        };
        match data.strip_suffix(b"\r\n") {
            Some(data) => Ok(Some((data, after + len + 2))),
            None => Err(format!("a value without its end: {}", text(line))),
        }
    };
    match words[..] {
        [b"VALUE", key, client_flags, len] | [b"VALUE", key, client_flags, len, _] => {
            let Some((data, used)) = data_of(parse(len)?)? else {
                return Ok(None);
            };
            let client_flags = u32::try_from(parse(client_flags)?).map_err(|_| text(line))?;
            let cas = words.get(4).map(|word| parse(word)).transpose()?;
            Ok(Some((
                Unit::Value {
                    key,
                    client_flags,
                    cas,
                    data,
                },
                used,
            )))
        }
        [b"VA", len, ..] => {
            let Some((data, used)) = data_of(parse(len)?)? else {
                return Ok(None);
            };
            let flags = &line[b"VA ".len() + len.len()..];
            Ok(Some((Unit::MetaValue { flags, data }, used)))
        }
        _ => Ok(Some((Unit::Line(line), after))),
    }
}
