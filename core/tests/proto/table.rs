//! Reads the captured tables of `tests/tables`; the format is in its README.

use std::{fs, path::Path};

/// One request and what memcached made of it.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// `get.txt:12`.
    pub(super) place: String,
    /// The bytes sent: a line and perhaps a payload.
    pub(super) request: Vec<u8>,
    /// The bytes that came back.
    pub(super) answer: Vec<u8>,
    /// The first line that `noreply` hid.
    pub(super) hidden: Option<Vec<u8>>,
    /// `closed` or `waits`: memcached hung up, or did not answer the next request.
    pub(super) end: Option<String>,
    /// Where we differ: what we do, and the name of the reason.
    pub(super) deviation: Option<(String, String)>,
}

/// The rows of one file.
pub(super) fn rows(name: &str) -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/tables")
        .join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    let mut rows: Vec<Row> = Vec::new();
    for (line_index, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", line_index + 1);
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        if mark == ">" {
            rows.push(Row {
                place,
                request: unescape(rest),
                ..Row::default()
            });
            continue;
        }
        match (mark, rows.last_mut()) {
            ("" | "#" | "=", _) => {}
            ("<", Some(row)) => row.answer = unescape(rest),
            ("~", Some(row)) => {
                row.hidden
                    .get_or_insert_with(|| [&unescape(rest)[..], b"\r\n"].concat());
            }
            ("*", Some(row)) => row.end = Some(rest.to_owned()),
            ("!", Some(row)) => {
                let (ours, reason) = rest.split_once(" : ").expect("`! <what we do> : <reason>`");
                row.deviation = Some((ours.to_owned(), reason.to_owned()));
            }
            _ => panic!("{place}: {line:?}"),
        }
    }
    assert!(!rows.is_empty(), "{name} has no rows");
    rows
}

/// `\r`, `\n`, `\t`, `\\`, `\x00`, and `{250*k}` for 250 times `k`.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (bytes, len) = match first {
            '{' => {
                let (run, _) = rest[1..].split_once('}').expect("a run ends with }");
                let (count, byte) = run.split_once('*').expect("a run is {count*byte}");
                (
                    byte.repeat(count.parse().expect("a count")).into_bytes(),
                    run.len() + 2,
                )
            }
            '\\' => match rest.as_bytes()[1] {
                b'r' => (b"\r".to_vec(), 2),
                b'n' => (b"\n".to_vec(), 2),
                b't' => (b"\t".to_vec(), 2),
                b'\\' => (b"\\".to_vec(), 2),
                b'x' => (
                    vec![u8::from_str_radix(&rest[2..4], 16).expect("two hex digits")],
                    4,
                ),
                other => panic!("escape {other:?} in {text:?}"),
            },
            other => (other.to_string().into_bytes(), other.len_utf8()),
        };
        out.extend(bytes);
        rest = &rest[len..];
    }
    out
}
