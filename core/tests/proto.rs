//! The parsers against a real memcached: every row of `tests/tables` was captured from 1.6.18.
//!
//! Each row is parsed whole, with the next pipelined request behind it, and cut at every byte of its
//! line. What memcached refuses must be refused with its words; what it accepts must come out as the
//! fields that stand at that place of the line. Where we differ, the row says so (`!`) and names one
//! of [`REASONS`].
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "most checks concern few kinds of requests"
)]

#[path = "proto/properties.rs"]
mod properties;
#[path = "proto/table.rs"]
mod table;

use std::collections::BTreeSet;

use magent_core::proto::response::{BadLine, Line, RESPONSE_LINE_LEN_MAX, parse_line};
use magent_core::proto::{
    Bad, GetVerb, Meta, MetaVerb, ParseLimits, Parsed, ProtoError, Request, Told, encode_decimal,
    meta, parse_request,
};
use table::{Row, rows};

/// memcached's own, as far as it has them.
const LIMITS: ParseLimits = ParseLimits {
    request_line_len_max: 2_048,
    get_line_len_max: 1 << 20,
    value_len_max: 1_000_000,
};

const NEXT: &[u8] = b"get next\r\n";

/// Why we answer differently from memcached 1.6.18.
const REASONS: &[(&str, &str)] = &[
    (
        "payload-as-commands",
        "1.6.18 reads the payload of a refused storage command as commands, so that who chooses a \
         value chooses commands. We swallow it, as 1.6.45 does; where its length is in doubt we \
         close.",
    ),
    (
        "length-32-bits",
        "1.6.18 takes the low 32 bits of a length, other versions refuse it: no length that \
         servers read differently is passed on.",
    ),
    (
        "payload-end",
        "The line is accepted; that its payload ends in CR LF is the engine's to check.",
    ),
    (
        "nul",
        "1.6.18 ends a line at a NUL and loses what stands behind it without a word, keys of other \
         clients included once gets are joined.",
    ),
    (
        "newer-flags",
        "E and x exist since 1.6.27. A backend that lacks them says so itself.",
    ),
    (
        "base64",
        "1.6.18 skips what is no base64 and takes padding anywhere, so that a key has many \
         spellings. We refuse what is not base64.",
    ),
    (
        "gat-no-key",
        "1.6.18 answers END, 1.6.45 an error, as every version does to get.",
    ),
    (
        "line-too-long",
        "memcached hangs up without a word, or takes the line, depending on how it \
         arrives. We answer and close, however it arrives.",
    ),
    (
        "long-lists",
        "memcached hangs up on a long gat that arrives in pieces, and on a long get with \
         over 100 leading blanks. We take them.",
    ),
    (
        "never-forwarded",
        "The command acts on one server; a proxy has no one server.",
    ),
    (
        "stats-here",
        "Stats are answered by the engine, which knows the arguments.",
    ),
    (
        "binary",
        "memcached takes a first byte of 0x80 for the binary protocol; the caller looks at it.",
    ),
];

fn find(input: &[u8]) -> Parsed<Request<'_>> {
    parse_request(input, &LIMITS)
}

/// All that is checked of a row.
fn check(row: &Row) -> Result<(), String> {
    let request = &row.request[..];
    let line_len = request
        .iter()
        .position(|&byte| byte == b'\n')
        .map_or(request.len(), |at| at + 1);
    let payload_len = request.len() - line_len;
    let ours = find(request);

    let expected = match &row.deviation {
        Some((ours, _)) => ours.clone(),
        None => captured(row, line_len),
    };
    let outcome = describe(&ours);
    if outcome != expected {
        return Err(format!("is {outcome}, not {expected}"));
    }

    // The same with the next request behind it, which is then found.
    let piped = [request, NEXT].concat();
    if find(&piped) != ours && ours != Parsed::NeedMore {
        return Err("is something else with a request behind it".to_owned());
    }
    let next_at = match ours {
        Parsed::Item { item, used } => {
            check_fields(row, item, &request[..line_len])?;
            Some(used + payload_of(&item))
        }
        Parsed::Bad(bad) if bad.error.keeps_framing() => {
            Some(bad.used + usize::try_from(bad.swallow).unwrap())
        }
        Parsed::Bad(_) => None,
        Parsed::NeedMore => return Ok(()),
    };
    let mends_payload = row
        .deviation
        .as_ref()
        .is_some_and(|(_, reason)| reason == "payload-end");
    if next_at.is_some_and(|at| piped.get(at..) != Some(NEXT)) && !mends_payload {
        return Err(format!(
            "leads to {next_at:?}, the payload ends at {}",
            line_len + payload_len
        ));
    }

    for cut in 0..line_len {
        let part = find(&request[..cut]);
        let too_long = matches!(
            part,
            Parsed::Bad(Bad {
                error: ProtoError::LineTooLong,
                ..
            })
        );
        if part != Parsed::NeedMore && !(too_long && part == ours) {
            return Err(format!("cut at {cut} it is {part:?}"));
        }
    }
    Ok(())
}

fn payload_of(request: &Request<'_>) -> usize {
    match request {
        Request::Store(store) => store.value_len as usize + 2,
        Request::Meta(meta) if meta.verb == MetaVerb::Set => meta.value_len as usize + 2,
        _ => 0,
    }
}

/// What the parser made of a row, as it is written behind `!`.
fn describe(parsed: &Parsed<Request<'_>>) -> String {
    match parsed {
        Parsed::NeedMore => "incomplete".to_owned(),
        Parsed::Item { .. } => "accepted".to_owned(),
        Parsed::Bad(Bad {
            error,
            swallow,
            told,
            ..
        }) => {
            let hidden = if *told == Told::No { " hidden" } else { "" };
            let swallow = if *swallow > 0 {
                format!(" swallow {swallow}")
            } else {
                String::new()
            };
            format!("{error:?}{swallow}{hidden}")
        }
    }
}

/// What the parser must make of a row: what memcached did.
fn captured(row: &Row, line_len: usize) -> String {
    let (line, hidden) = match &row.hidden {
        Some(line) if row.answer.is_empty() => (line, " hidden"),
        Some(_) | None => (&row.answer, ""),
    };
    if line.is_empty()
        && row.end.as_deref() == Some("closed")
        && !row.request.trim_ascii().starts_with(b"quit")
    {
        return format!("{:?}", ProtoError::HttpRequest);
    }
    // Errors that depend on the item, not on the request.
    let by_item = line.starts_with(b"CLIENT_ERROR cannot increment or decrement non-numeric value");
    let is_error = [&b"ERROR"[..], b"CLIENT_ERROR", b"SERVER_ERROR"]
        .iter()
        .any(|error| line.starts_with(error));
    if !is_error || by_item {
        return "accepted".to_owned();
    }
    let Some(error) = ProtoError::ALL
        .iter()
        .find(|error| error.keeps_framing() && error.wire() == line.as_slice())
    else {
        return format!(
            "an error with this answer: {:?}",
            String::from_utf8_lossy(line)
        );
    };
    let payload_len = row.request.len() - line_len;
    let swallow = if payload_len > 0 {
        format!(" swallow {payload_len}")
    } else {
        String::new()
    };
    format!("{error:?}{swallow}{hidden}")
}

/// The fields of an accepted request are the arguments at that place of its line.
fn check_fields(row: &Row, request: Request<'_>, line: &[u8]) -> Result<(), String> {
    let line = line.strip_suffix(b"\n").unwrap();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let args: Vec<&[u8]> = line
        .split(|&byte| byte == b' ')
        .filter(|arg| !arg.is_empty())
        .collect();
    let quiet = row.hidden.is_some();
    let (written, noreply) = rewritten(&request);
    let mut expected = args.clone();
    let behind = match args[0] {
        // What stands behind the last argument is ignored, unless it is `noreply`.
        b"cas" => 6,
        b"set" | b"add" | b"replace" | b"append" | b"prepend" => 5,
        b"incr" | b"decr" | b"touch" => 3,
        b"flush_all" => 2,
        b"verbosity" | b"version" | b"quit" | b"mn" => 1,
        // The 0.
        b"delete" => 2,
        b"me" => {
            if args.get(2) == Some(&&b"b"[..]) {
                3
            } else {
                2
            }
        }
        _ => args.len(),
    };
    expected.truncate(behind);
    if args[0] == b"flush_all" && args.len() == 2 && quiet {
        expected.truncate(1);
    }
    if args[0] == b"bget" {
        expected[0] = b"get";
    }
    let expected = expected.join(&b' ');
    // Numbers of bytes are written anew.
    let same = match request {
        Request::Store(_) => same_but_length(&written, &expected, 4),
        Request::Meta(Meta {
            verb: MetaVerb::Set,
            ..
        }) => same_but_length(&written, &expected, 2),
        _ => written == expected,
    };
    if !same || noreply != quiet {
        return Err(format!(
            "was read as {:?}, noreply {noreply}",
            String::from_utf8_lossy(&written)
        ));
    }
    if let Request::Meta(meta) = request {
        check_meta(&meta)?;
    }
    Ok(())
}

/// Each argument is the same, and the one at `index` the same number.
fn same_but_length(written: &[u8], expected: &[u8], index: usize) -> bool {
    let number = |arg: &[u8]| {
        let text = String::from_utf8_lossy(arg).into_owned();
        let text = text.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
        let end = text.find(|c: char| c.is_ascii_whitespace() || c == '\x0b');
        text[..end.unwrap_or(text.len())].parse::<i64>().ok()
    };
    let written: Vec<_> = written.split(|&byte| byte == b' ').collect();
    let expected: Vec<_> = expected.split(|&byte| byte == b' ').collect();
    written.len() == expected.len()
        && written
            .iter()
            .zip(&expected)
            .enumerate()
            .all(|(at, (ours, theirs))| {
                if at == index {
                    number(ours) == number(theirs)
                } else {
                    ours == theirs
                }
            })
}

#[expect(clippy::too_many_lines, reason = "one arm per kind of request")]
/// The request written from its fields, with single blanks and no `noreply`, and whether it had one.
fn rewritten(request: &Request<'_>) -> (Vec<u8>, bool) {
    let mut args: Vec<Vec<u8>> = Vec::new();
    let mut put = |arg: &[u8]| args.push(arg.to_vec());
    let mut quiet = false;
    match *request {
        Request::Get { verb, keys } => {
            put(if verb == GetVerb::Get {
                b"get"
            } else {
                b"gets"
            });
            keys.for_each(put);
        }
        Request::GetAndTouch {
            verb,
            exptime,
            keys,
        } => {
            put(if verb == GetVerb::Get {
                b"gat"
            } else {
                b"gats"
            });
            put(exptime);
            keys.for_each(put);
        }
        Request::Store(store) => {
            let mut len = Vec::new();
            encode_decimal(store.value_len.into(), &mut len);
            let parts = [
                store.verb.wire(),
                store.key,
                store.client_flags,
                store.exptime,
                &len,
            ];
            parts.into_iter().for_each(&mut put);
            if !store.cas.is_empty() {
                put(store.cas);
            }
            quiet = store.noreply;
        }
        Request::Delete { key, noreply } => {
            put(b"delete");
            put(key);
            quiet = noreply;
        }
        Request::Arith {
            verb,
            key,
            delta,
            noreply,
        } => {
            let verb = if format!("{verb:?}") == "Incr" {
                "incr"
            } else {
                "decr"
            };
            [verb.as_bytes(), key, delta].into_iter().for_each(put);
            quiet = noreply;
        }
        Request::Touch {
            key,
            exptime,
            noreply,
        } => {
            [b"touch", key, exptime].into_iter().for_each(put);
            quiet = noreply;
        }
        Request::FlushAll { delay, noreply } => {
            put(b"flush_all");
            if !delay.is_empty() {
                put(delay);
            }
            quiet = noreply;
        }
        Request::Version => put(b"version"),
        Request::Verbosity { noreply } => {
            put(b"verbosity");
            quiet = noreply;
        }
        Request::Stats { args } => {
            put(b"stats");
            args.split(|&byte| byte == b' ')
                .filter(|arg| !arg.is_empty())
                .for_each(put);
        }
        Request::Quit => put(b"quit"),
        Request::Config { key } => {
            [&b"config"[..], b"get", key].into_iter().for_each(put);
        }
        Request::MetaNoop => put(b"mn"),
        Request::Meta(meta) => {
            put(meta.verb.wire());
            put(meta.key);
            if meta.verb == MetaVerb::Set {
                let mut len = Vec::new();
                encode_decimal(meta.value_len.into(), &mut len);
                put(&len);
            }
            for (letter, token) in meta.meta_flags() {
                assert!(meta.letters.has(letter));
                put(&[&[letter], token].concat());
            }
        }
    }
    (args.join(&b' '), quiet)
}

/// What is written to a backend reads as the same command, less what is left out.
fn check_meta(meta: &Meta<'_>) -> Result<(), String> {
    type Encode = fn(&Meta<'_>, &mut Vec<u8>);
    let kept: [(Encode, &[u8]); 3] = [
        (meta::encode_forward, b"bcfhklstuvxCDEFIJLMNOPRT"),
        (meta::encode_outcome, b"bFT"),
        (meta::encode_repeat, b"buxDFILMPRT"),
    ];
    for (encode, kept) in kept {
        let mut line = Vec::new();
        encode(meta, &mut line);
        let Parsed::Item {
            item: Request::Meta(again),
            used,
        } = find(&line)
        else {
            return Err(format!(
                "is written as {:?}",
                String::from_utf8_lossy(&line)
            ));
        };
        let flags = meta
            .meta_flags()
            .filter(|(letter, _)| kept.contains(letter));
        if used != line.len()
            || (again.verb, again.key, again.value_len) != (meta.verb, meta.key, meta.value_len)
            || !again.meta_flags().eq(flags)
        {
            return Err(format!(
                "is written as {:?}",
                String::from_utf8_lossy(&line)
            ));
        }
    }
    Ok(())
}

fn check_table(name: &str) {
    let failed: Vec<String> = rows(name)
        .iter()
        .filter_map(|row| check(row).err().map(|err| format!("{}: {err}", row.place)))
        .collect();
    assert!(
        failed.is_empty(),
        "{} rows:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

macro_rules! tables {
    ($($name:ident)+) => {
        $(#[test] fn $name() { check_table(concat!(stringify!($name), ".txt")); })+
        const TABLES: &[&str] = &[$(concat!(stringify!($name), ".txt"),)+ "response.txt"];
    };
}

tables! {
    get gets bget gat gats set add replace append prepend cas delete incr decr touch flush_all
    version verbosity stats quit lines never_forwarded mg ms md ma me mn
}

#[test]
fn every_table_is_checked_and_every_reason_used() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tables");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".txt"))
        .collect();
    assert_eq!(files, TABLES.iter().map(|&name| name.to_owned()).collect());

    let known: BTreeSet<String> = REASONS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let used: BTreeSet<String> = TABLES
        .iter()
        .flat_map(|name| rows(name))
        .filter_map(|row| Some(row.deviation?.1))
        .collect();
    assert_eq!(known, used);
}

/// What memcached says to a row, line by line and cut at every byte of a line.
#[test]
fn responses() {
    let mut seen = BTreeSet::new();
    // What is never forwarded is never answered.
    let asked = TABLES.iter().filter(|&&name| name != "never_forwarded.txt");
    for row in asked.flat_map(|name| rows(name)) {
        let mut rest = &row.answer[..];
        while !rest.is_empty() {
            let Parsed::Item { item, used } = parse_line(rest) else {
                panic!("{}: {:?}", row.place, String::from_utf8_lossy(rest));
            };
            let line = &rest[..used];
            assert_eq!(written_response(&item), squeezed(line), "{}", row.place);
            for cut in 0..used {
                assert_eq!(
                    parse_line(&line[..cut]),
                    Parsed::NeedMore,
                    "{}: cut at {cut}",
                    row.place
                );
            }
            rest = &rest[used..];
            if let Line::Value { value_len, .. } | Line::MetaValue { value_len, .. } = item {
                rest = &rest[value_len as usize + 2..];
            }
            let name = format!("{item:?}");
            seen.insert(name.split([' ', '(']).next().unwrap().to_owned());
        }
    }
    assert_eq!(seen.len(), 24, "kinds of lines: {seen:?}");
}

/// What no server sends is not guessed at.
#[test]
fn no_responses() {
    let key_251 = "k".repeat(251);
    let endless = "x".repeat(RESPONSE_LINE_LEN_MAX);
    let too_long = format!("STAT {endless}\r\n");
    for line in [
        "\r\n",
        " \r\n",
        "END\n",
        "END \r\n",
        "END x\r\n",
        "end\r\n",
        "ENDING\r\n",
        "STORED x\r\n",
        "OK OK\r\n",
        "MN x\r\n",
        "1 2\r\n",
        "-1\r\n",
        "+1\r\n",
        "1x\r\n",
        "18446744073709551616\r\n",
        "VALUE\r\n",
        "VALUE a\r\n",
        "VALUE a 0\r\n",
        "VALUE a x 1\r\n",
        "VALUE a 0 x\r\n",
        "VALUE a 0 -1\r\n",
        "VALUE a 0 4294967296\r\n",
        "VALUE a 0 1 x\r\n",
        "VALUE a 0 1 2 3\r\n",
        "VA\r\n",
        "VA x\r\n",
        "VA -1 k\r\n",
        "STAT\r\n",
        "HDk\r\n",
        "get a\r\n",
        "\u{81}\r\n",
        &format!("VALUE {key_251} 0 1\r\n"),
        &too_long,
        &endless,
    ] {
        assert_eq!(
            parse_line(line.as_bytes()),
            Parsed::Bad(BadLine),
            "{line:?}"
        );
    }
    let longest = format!("STAT {}\r\n", "x".repeat(RESPONSE_LINE_LEN_MAX - 7));
    assert!(matches!(
        parse_line(longest.as_bytes()),
        Parsed::Item { .. }
    ));
}

/// A limit is the longest that is allowed.
#[test]
fn limits() {
    let len_max = LIMITS.value_len_max;
    let outcome = |line: String| describe(&find(line.as_bytes()));
    assert_eq!(outcome(format!("set k 0 0 {len_max}\r\n")), "accepted");
    assert_eq!(outcome(format!("ms k {len_max}\r\n")), "accepted");
    assert_eq!(
        outcome(format!("set k 0 0 {}\r\n", len_max + 1)),
        "TooLarge swallow 1000003"
    );
    assert_eq!(
        outcome(format!("ms k {} q\r\n", len_max + 1)),
        "TooLarge swallow 1000003"
    );

    let padded =
        |verb: &str, len: usize| format!("{verb}{}a\r\n", " ".repeat(len - verb.len() - 3));
    for (verb, len_max) in [
        ("delete", LIMITS.request_line_len_max),
        ("mg", LIMITS.request_line_len_max),
        ("get", LIMITS.get_line_len_max),
        ("gats 0", LIMITS.get_line_len_max),
    ] {
        assert_eq!(outcome(padded(verb, len_max)), "accepted", "{verb}");
        assert_eq!(outcome(padded(verb, len_max + 1)), "LineTooLong", "{verb}");
    }
}

/// The line without what the parser does not keep: the client flags of a `VALUE`.
fn squeezed(line: &[u8]) -> Vec<u8> {
    let mut words: Vec<&[u8]> = line
        .strip_suffix(b"\r\n")
        .unwrap()
        .split(|&byte| byte == b' ')
        .collect();
    if words[0] == b"VALUE" {
        words.remove(2);
    }
    words.join(&b' ')
}

fn written_response(line: &Line<'_>) -> Vec<u8> {
    let with = |word: &str, text: &[u8]| {
        let blank: &[u8] = if text.is_empty() { b"" } else { b" " };
        [word.as_bytes(), blank, text].concat()
    };
    match *line {
        Line::Value {
            key,
            value_len,
            cas,
        } => {
            let len = value_len.to_string();
            let line = [b"VALUE ", key, b" ", len.as_bytes()].concat();
            if cas.is_empty() {
                line
            } else {
                [&line, &b" "[..], cas].concat()
            }
        }
        Line::End => b"END".to_vec(),
        Line::Stored => b"STORED".to_vec(),
        Line::NotStored => b"NOT_STORED".to_vec(),
        Line::Exists => b"EXISTS".to_vec(),
        Line::NotFound => b"NOT_FOUND".to_vec(),
        Line::Deleted => b"DELETED".to_vec(),
        Line::Touched => b"TOUCHED".to_vec(),
        Line::Ok => b"OK".to_vec(),
        Line::Reset => b"RESET".to_vec(),
        Line::Number(digits) => digits.to_vec(),
        Line::Version(text) => with("VERSION", text),
        Line::Stat { name, value } => with("STAT", &with(&String::from_utf8_lossy(name), value)),
        Line::MetaValue { value_len, flags } => with(&format!("VA {value_len}"), flags),
        Line::MetaHeader(flags) => with("HD", flags),
        Line::MetaMiss(flags) => with("EN", flags),
        Line::MetaNotStored(flags) => with("NS", flags),
        Line::MetaExists(flags) => with("EX", flags),
        Line::MetaNotFound(flags) => with("NF", flags),
        Line::MetaNoop => b"MN".to_vec(),
        Line::MetaDebug(text) => with("ME", text),
        Line::Error => b"ERROR".to_vec(),
        Line::ClientError(text) => with("CLIENT_ERROR", text),
        Line::ServerError(text) => with("SERVER_ERROR", text),
    }
}
