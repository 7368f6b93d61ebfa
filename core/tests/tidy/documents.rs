//! What documents refer to exists: files, sections, tests, flags, counters, crates.

use std::collections::BTreeSet;

use magent_core::breaks::Break;
use magent_core::keeper::Failure;
use magent_core::stats::Counter;

use super::files::{TextFile, all, code_spans, first_cells, outside_of_blocks, read, root};
use super::{assert_none, assert_same};

const README_LINES_MAX: usize = 200;

/// What operators read: every long option there is magent's, or one of `OTHERS_FLAGS`.
const FOR_OPERATORS: &[&str] = &[
    "CHANGELOG.md",
    "README.md",
    "SECURITY.md",
    "docs/architecture.md",
    "docs/failover.md",
    "docs/failures.md",
    "docs/limits.md",
    "docs/operations.md",
    "docs/performance.md",
    "docs/protocol-coverage.md",
];

/// Cargo's.
const OTHERS_FLAGS: &[&str] = &["--release"];

#[test]
fn readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(
        lines <= README_LINES_MAX,
        "README.md has {lines} lines, at most {README_LINES_MAX}: details belong in docs/"
    );
}

#[test]
fn readme_names_the_rust_version() {
    let manifest = read("Cargo.toml");
    let version = manifest
        .text
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .expect("Cargo.toml has a rust-version")
        .trim_matches('"');
    let wanted = format!("Rust {version}");
    for path in ["README.md", "CONTRIBUTING.md"] {
        assert!(
            read(path).text.contains(&wanted),
            "{path} does not say {wanted}"
        );
    }
}

#[test]
fn links_lead_somewhere() {
    let mut findings = Vec::new();
    for file in all(&[".md"]) {
        for link in links(&file.text) {
            if link.contains("://") {
                continue;
            }
            let (path, section) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() {
                file.path.clone()
            } else {
                beside(&file.path, path)
            };
            if !root().join(&target).exists() {
                findings.push(format!("{}: no {target}", file.path));
            } else if !section.is_empty() && !sections(&read(&target)).contains(section) {
                findings.push(format!("{}: no section {section} in {target}", file.path));
            }
        }
    }
    assert_none("dead links", &findings);
}

/// Files in backquotes, from the root of the repository.
#[test]
fn files_that_documents_name_exist() {
    const DIRS: &[&str] = &[
        "bench/", "contrib/", "core/", "docs/", "fuzz/", "magent/", "man/", "node/", "sim/",
    ];
    let mut findings = Vec::new();
    for file in all(&[".md"]) {
        for span in code_spans(&file.text) {
            let is_path = DIRS.iter().any(|dir| span.starts_with(dir))
                && span
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
            if is_path && !root().join(&span).exists() {
                findings.push(format!("{}: no {span}", file.path));
            }
        }
    }
    assert_none("documents name files that do not exist", &findings);
}

/// `file::test` in backquotes, with the name of a source file and of a test in it.
#[test]
fn tests_that_documents_name_exist() {
    let sources = all(&[".rs"]);
    let mut findings = Vec::new();
    for file in all(&[".md"]) {
        for (module, test) in tests_named(&file) {
            let ending = format!("/{module}.rs");
            let exists = sources
                .iter()
                .filter(|source| source.path.ends_with(&ending))
                .any(|source| tests(source).contains(&test));
            if !exists {
                findings.push(format!("{}: no test {module}::{test}", file.path));
            }
        }
    }
    assert_none("documents name tests that do not exist", &findings);
}

#[test]
fn every_known_failure_is_described() {
    let described = tests_named(&read("docs/failures.md"))
        .into_iter()
        .filter(|(module, _)| module == "known_failures")
        .map(|(_, test)| test)
        .collect();
    let source = read("magent/tests/e2e/known_failures.rs");
    assert_same(
        (&source.path, &tests(&source)),
        ("docs/failures.md", &described),
    );
}

#[test]
fn every_counter_has_advice() {
    let counters = Counter::ALL
        .iter()
        .map(|counter| counter.name().to_owned())
        .collect();
    let advised = cells("docs/operations.md", "counter");
    assert_same(
        ("core/src/stats.rs", &counters),
        ("docs/operations.md", &advised),
    );
}

#[test]
fn every_failure_of_a_backend_is_explained() {
    let failures = Failure::ALL
        .iter()
        .map(|failure| failure.name().to_owned())
        .collect();
    let explained = cells("docs/operations.md", "down:");
    assert_same(
        ("core/src/keeper.rs", &failures),
        ("docs/operations.md", &explained),
    );
}

#[test]
fn every_rule_says_what_it_is_for() {
    let rules = Break::ALL
        .iter()
        .map(|rule| rule.name().to_owned())
        .collect();
    let explained = cells("docs/failover.md", "switched off by");
    assert_same(
        ("core/src/breaks.rs", &rules),
        ("docs/failover.md", &explained),
    );
}

#[test]
fn every_dependency_has_a_reason() {
    let mut used = BTreeSet::new();
    for manifest in all(&["Cargo.toml"]) {
        used.extend(dependencies(&manifest.text));
    }
    let explained = cells("docs/dependencies.md", "crate");
    assert_same(
        ("the Cargo.toml files", &used),
        ("docs/dependencies.md", &explained),
    );
}

#[test]
fn flags_that_documents_name_exist() {
    let help: String = ["help", "help-route", "help-demo", "help-passwd"]
        .map(|name| read(&format!("magent/tests/golden/{name}.txt")).text)
        .concat();
    let known: BTreeSet<&str> = flags(&help).collect();
    let mut findings = Vec::new();
    for path in FOR_OPERATORS {
        for flag in flags(&read(path).text) {
            if !known.contains(flag) && !OTHERS_FLAGS.contains(&flag) {
                findings.push(format!("{path}: {flag}"));
            }
        }
    }
    assert_none("documents name flags that do not exist", &findings);
}

fn cells(path: &str, header: &str) -> BTreeSet<String> {
    let cells = first_cells(&read(path), header);
    let set: BTreeSet<String> = cells.iter().cloned().collect();
    assert_eq!(cells.len(), set.len(), "{path}: a row stands twice");
    set
}

/// Targets of inline links.
fn links(text: &str) -> impl Iterator<Item = &str> {
    outside_of_blocks(text).flat_map(|line| {
        line.split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
    })
}

/// Where `link` in the document at `from` leads.
fn beside(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Names of the sections of a document, as links write them.
fn sections(file: &TextFile) -> BTreeSet<String> {
    outside_of_blocks(&file.text)
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|char| char.is_alphanumeric() || " -_".contains(*char))
                .map(|char| if char == ' ' { '-' } else { char })
                .collect()
        })
        .collect()
}

fn tests_named(file: &TextFile) -> Vec<(String, String)> {
    let is_name = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    code_spans(&file.text)
        .iter()
        .filter_map(|span| span.split_once("::"))
        .filter(|(module, test)| is_name(module) && is_name(test))
        .map(|(module, test)| (module.to_owned(), test.to_owned()))
        .collect()
}

/// Names of the functions behind `#[test]`, other attributes in between.
fn tests(source: &TextFile) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in source.text.lines().map(str::trim_start) {
        inside |= line == "#[test]";
        if let Some(rest) = line.strip_prefix("fn ").filter(|_| inside) {
            names.insert(rest.split('(').next().unwrap().to_owned());
            inside = false;
        }
    }
    names
}

/// Names in the tables of dependencies, those of this workspace left out.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines() {
        if let Some(table) = line.strip_prefix('[') {
            inside = table.trim_end_matches(']').ends_with("dependencies");
        } else if inside
            && !line.starts_with('#')
            && let Some((name, _)) = line.split_once(['=', '.'])
        {
            names.insert(name.trim().to_owned());
        }
    }
    names.retain(|name| !name.starts_with("magent-") && name != "magent" && name != "sim");
    names
}

/// Long options.
fn flags(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.match_indices("--").filter_map(move |(start, _)| {
        let bytes = text.as_bytes();
        let alone = start == 0 || !(is_part(bytes[start - 1]) || bytes[start - 1] == b'!');
        let len = bytes[start..]
            .iter()
            .take_while(|&&byte| is_part(byte))
            .count();
        let flag = &text[start..start + len];
        let named = flag.len() > 2 && flag.as_bytes()[2].is_ascii_lowercase();
        (alone && named).then_some(flag)
    })
}
