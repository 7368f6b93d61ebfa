//! docs/limits.md, from the table of limits.

use std::fmt::Write as _;

use magent_core::config::{BACKENDS_MAX, LIMITS, Limit};
use magent_core::proto::KEY_LEN_MAX;
use magent_core::proto::meta::{FLAGS_MAX, OPAQUE_LEN_MAX};
use magent_core::proto::response::RESPONSE_LINE_LEN_MAX;

use super::files::assert_generated;

#[test]
fn limits_are_documented() {
    assert_generated("docs/limits.md", &document());
}

fn document() -> String {
    let mut out = String::from(
        "# Limits and timeouts\n\n\
         <!-- Generated from core/src/config.rs by core/tests/tidy.rs; UPDATE_GOLDEN=1 writes it anew. -->\n\n\
         Everything that can grow has a bound with a name. \
         What exceeds it gets a clear error, or waits; what was accepted before is not lost.\n\
         The last part of a name is its unit: `_ms`, `_us`, `_len` (bytes), `_keys`.\n\
         Byte counts of flags may end in `k`, `m` or `g`.\n\
         What magent cannot do at all is in the [README](../README.md#limits).\n\n",
    );
    section(
        &mut out,
        "Set by a flag",
        "These may be changed. `magent --help` says the same.",
        |row| row.flag.is_some(),
    );
    section(
        &mut out,
        "Fixed",
        "No flag sets these: nobody has needed another value. The range is what the code was written for.",
        |row| row.flag.is_none(),
    );
    out.push_str("## From the protocol and the code\n\n");
    out.push_str("| what | limit | reason |\n| --- | ---: | --- |\n");
    let fixed = [
        ("key, in bytes", KEY_LEN_MAX, "memcached's own."),
        (
            "opaque of a meta command, in bytes",
            OPAQUE_LEN_MAX,
            "memcached's own.",
        ),
        (
            "flags of a meta command",
            FLAGS_MAX,
            "memcached's own; one less for `ms`.",
        ),
        (
            "line of a backend's answer, in bytes",
            RESPONSE_LINE_LEN_MAX,
            "Longer than any that memcached sends. Beyond it the answer is out of step.",
        ),
        (
            "backends",
            BACKENDS_MAX,
            "More than anyone runs behind one proxy.",
        ),
    ];
    for (what, limit, reason) in fixed {
        let limit = grouped(limit as u64);
        writeln!(out, "| {what} | {limit} | {reason} |").unwrap();
    }
    out
}

fn section(out: &mut String, title: &str, intro: &str, wanted: impl Fn(&Limit) -> bool) {
    writeln!(out, "## {title}\n\n{intro}\n").unwrap();
    out.push_str("| limit | flag | default | range | what and why |\n");
    out.push_str("| --- | --- | ---: | --- | --- |\n");
    for row in LIMITS.iter().filter(|row| wanted(row)) {
        writeln!(
            out,
            "| `{}` | {} | {} | {} to {} | {} |",
            row.name,
            row.flag
                .map_or_else(|| "–".to_owned(), |flag| format!("`{flag}`")),
            grouped(row.default),
            grouped(row.min),
            grouped(row.max),
            row.reason
        )
        .unwrap();
    }
    out.push('\n');
}

/// 1048576 as 1,048,576.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
