//! Files of the repository, and what is found in their text.

use std::fs;
use std::path::{Path, PathBuf};

/// A text file.
pub(crate) struct TextFile {
    /// From the root of the repository, with `/`.
    pub path: String,
    pub text: String,
}

impl TextFile {
    /// Its lines, numbered from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

pub(crate) fn read(path: &str) -> TextFile {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|err| panic!("{path}: {err}"));
    TextFile {
        path: path.to_owned(),
        text,
    }
}

/// All files whose name ends in one of `endings`, in order of their paths. What builds and fuzz runs
/// leave behind is left out.
pub(crate) fn all(endings: &[&str]) -> Vec<TextFile> {
    let mut paths = Vec::new();
    walk(root(), &mut paths);
    let mut files: Vec<TextFile> = paths
        .iter()
        .map(|path| {
            path.strip_prefix(root())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .filter(|path| endings.iter().any(|ending| path.ends_with(ending)))
        .map(|path| read(&path))
        .collect();
    files.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(!files.is_empty(), "no file ends in {endings:?}");
    files
}

fn walk(dir: &Path, paths: &mut Vec<PathBuf>) {
    const SKIPPED: &[&str] = &[".git", "target", "node_modules", "corpus", "artifacts"];
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && !SKIPPED.iter().any(|skipped| name == *skipped) {
            walk(&entry.path(), paths);
        } else if kind.is_file() {
            paths.push(entry.path());
        }
    }
}

/// What stands between single backquotes, code blocks left out. A line may end in between, a paragraph not.
pub(crate) fn code_spans(text: &str) -> Vec<String> {
    let lines: Vec<&str> = outside_of_blocks(text).collect();
    lines
        .split(|line| line.trim().is_empty())
        .flat_map(|paragraph| {
            let paragraph = paragraph.join(" ");
            let spans = paragraph.split('`').skip(1).step_by(2);
            spans.map(ToOwned::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

/// Lines outside of fenced code blocks.
pub(crate) fn outside_of_blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    })
}

/// The first cells of the rows of every table whose header starts with `| header |`, without backquotes.
pub(crate) fn first_cells(file: &TextFile, header: &str) -> Vec<String> {
    let start = format!("| {header} |");
    let mut cells = Vec::new();
    let mut inside = false;
    for line in file.text.lines() {
        if line.starts_with(&start) {
            inside = true;
        } else if !line.starts_with('|') {
            inside = false;
        } else if inside && !line.starts_with("| ---") {
            let cell = line[1..].split('|').next().unwrap();
            cells.push(cell.trim().trim_matches('`').to_owned());
        }
    }
    assert!(!cells.is_empty(), "{}: no table {start}", file.path);
    cells
}

/// Compares a generated document with the file, or writes it if asked to.
#[track_caller]
pub(crate) fn assert_generated(path: &str, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(root().join(path), text).unwrap();
        return;
    }
    let found = fs::read_to_string(root().join(path)).unwrap_or_default();
    let differs = found
        .lines()
        .zip(text.lines())
        .find(|(found, expected)| found != expected);
    assert!(
        found == text,
        "{path} is out of date: UPDATE_GOLDEN=1 cargo test -p magent-core --test tidy\n{differs:?}"
    );
}
