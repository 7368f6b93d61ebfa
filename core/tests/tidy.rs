//! The documents say what the code says, and the sources keep to the rules that no compiler checks.
//!
//! `UPDATE_GOLDEN=1 cargo test -p magent-core --test tidy` writes the generated documents anew:
//! docs/limits.md and docs/protocol-coverage.md. All others are written by hand and compared here.
//!
//! Not here: what the documents say in words, `--help` and the man pages (`magent/tests/cli.rs`).
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "tidy/coverage.rs"]
mod coverage;
#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/files.rs"]
mod files;
#[path = "tidy/limits.rs"]
mod limits;
mod packets;
mod rig;
#[path = "tidy/sources.rs"]
mod sources;

/// Fails with one line per finding.
#[track_caller]
fn assert_none(what: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{what}:\n{}", findings.join("\n"));
}

/// Every name is on both sides.
#[track_caller]
fn assert_same(
    (here, ours): (&str, &std::collections::BTreeSet<String>),
    (there, theirs): (&str, &std::collections::BTreeSet<String>),
) {
    let only_ours = ours
        .difference(theirs)
        .map(|name| format!("{name}: in {here} only"));
    let only_theirs = theirs
        .difference(ours)
        .map(|name| format!("{name}: in {there} only"));
    assert_none(
        &format!("{here} and {there} differ"),
        &only_ours.chain(only_theirs).collect::<Vec<_>>(),
    );
}
