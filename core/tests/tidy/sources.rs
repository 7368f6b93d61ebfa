//! Rules for sources that neither the compiler nor clippy checks.

use super::assert_none;
use super::files::{all, read};

/// A word that does not belong here.
struct Banned {
    /// Looked for as a whole word, in any case.
    word: &'static str,
    /// What to write.
    instead: &'static str,
    /// Files that need it, each with its reason in the row.
    except: &'static [&'static str],
}

const fn banned(
    word: &'static str,
    instead: &'static str,
    except: &'static [&'static str],
) -> Banned {
    Banned {
        word,
        instead,
        except,
    }
}

/// The words of the glossary that cannot be meant otherwise, and what must not be merged.
const BANNED: &[Banned] = &[
    banned("upstream", "backend", &[]),
    banned("downstream", "client", &[]),
    banned("continuum", "ring", &[]),
    banned("vnode", "point (of a ring)", &[]),
    banned("vnodes", "points (of a ring)", &[]),
    banned("tko", "mark down", &[]),
    banned("fixme", "the fix, or an issue and its number", &[]),
    banned(
        "unimplemented!",
        "the code, or a type that cannot ask for it",
        &[],
    ),
    // The one pause of a loop that looks for a condition until a deadline, in each of them.
    banned(
        "thread::sleep",
        "a wait for a condition with a deadline",
        &["magent/tests/e2e/harness.rs", "bench/src/process.rs"],
    ),
    banned(
        "#[ignore",
        "a test that runs, or none: what is skipped rots",
        &[],
    ),
];

/// This file holds the words that it looks for.
const OWN: &str = "core/tests/tidy/sources.rs";

#[test]
fn banned_words_are_absent() {
    let mut findings = Vec::new();
    for file in all(&[".rs"]).iter().filter(|file| file.path != OWN) {
        for (number, line) in file.lines() {
            let line = line.to_lowercase();
            for row in BANNED {
                if has_word(&line, row.word) && !row.except.contains(&file.path.as_str()) {
                    findings.push(format!(
                        "{}:{number}: \"{}\": say {}",
                        file.path, row.word, row.instead
                    ));
                }
            }
        }
    }
    assert_none("words that do not belong here", &findings);
}

/// An exception that nobody needs any more would hide the next one.
#[test]
fn exceptions_are_needed() {
    let findings: Vec<String> = BANNED
        .iter()
        .flat_map(|row| row.except.iter().map(move |path| (row.word, *path)))
        .filter(|(word, path)| !read(path).text.to_lowercase().contains(word))
        .map(|(word, path)| format!("{path} has no \"{word}\""))
        .collect();
    assert_none("exceptions that are not needed", &findings);
}

#[test]
fn every_source_says_what_it_is_for() {
    let findings: Vec<String> = all(&[".rs"])
        .into_iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| format!("{}: starts without //!", file.path))
        .collect();
    assert_none("sources without a purpose", &findings);
}

/// Where somebody built it is nobody else's business, and nobody else's path.
#[test]
fn no_path_of_a_build_machine() {
    const DIRS: &[&str] = &["/home/", "/root/", "/Users/"];
    const ENDINGS: &[&str] = &[".rs", ".md", ".toml", ".sh", ".py", ".txt", ".php", "run"];
    let mut findings = Vec::new();
    for file in all(ENDINGS).iter().filter(|file| file.path != OWN) {
        for (number, line) in file.lines() {
            if DIRS.iter().any(|dir| line.contains(dir)) {
                findings.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert_none("paths of a build machine", &findings);
}

/// Is `word` in `line`, not as a part of a longer one?
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |char: char| char.is_alphanumeric() || char == '_';
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let behind = line[start + word.len()..].chars().next();
        let open = |other: Option<char>| !other.is_some_and(is_part);
        let whole_end = !word.ends_with(is_part) || open(behind);
        let whole_start = !word.starts_with(is_part) || open(before);
        whole_start && whole_end
    })
}

#[test]
fn words_are_found_whole() {
    assert!(has_word("the upstream is", "upstream"));
    assert!(has_word("std::thread::sleep(x)", "thread::sleep"));
    assert!(has_word("#[ignore = \"x\"]", "#[ignore"));
    assert!(!has_word("upstreams", "upstream"));
    assert!(!has_word("ignore", "#[ignore"));
}
