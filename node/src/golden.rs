//! Reviewed files that tests hold equal to the code.
//!
//! A test only compares. With `CHANCERY_BLESS=1` in the environment it writes
//! the file instead, so that a wanted change is reviewed as a diff.

use std::path::PathBuf;

fn repository_path(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
}

fn settle(path: &str, found: &str, expected: &str) {
    if found == expected {
        return;
    }
    if std::env::var_os("CHANCERY_BLESS").is_some_and(|v| v == "1") {
        std::fs::write(repository_path(path), expected).unwrap();
        return;
    }
    let difference = found
        .lines()
        .zip(expected.lines())
        .enumerate()
        .find(|(_, (a, b))| a != b);
    let (line, found, expected) = match difference {
        Some((at, (a, b))) => (at + 1, a, b),
        None => (
            found.lines().count().min(expected.lines().count()) + 1,
            "",
            "",
        ),
    };
    panic!(
        "{path} differs from the code from line {line} on\n  file: {found}\n  code: {expected}\n\
         if the code is right: CHANCERY_BLESS=1 cargo test -p chancery-node, then review the diff"
    );
}

/// The whole file at `path` (from the repository's root) reads `expected`.
pub(crate) fn check_file(path: &str, expected: &str) {
    let found = std::fs::read_to_string(repository_path(path)).unwrap_or_default();
    settle(path, &found, expected);
}

/// The Markdown table in `path` whose header is the first line of `expected`
/// reads `expected`.
pub(crate) fn check_table(path: &str, expected: &str) {
    let found = std::fs::read_to_string(repository_path(path)).unwrap();
    let header = expected.lines().next().expect("a table has a header");
    let start = found
        .find(header)
        .unwrap_or_else(|| panic!("{path} has no table with the header {header}"));
    let length: usize = found[start..]
        .split_inclusive('\n')
        .take_while(|line| line.starts_with('|'))
        .map(str::len)
        .sum();
    let renewed = format!("{}{expected}{}", &found[..start], &found[start + length..]);
    settle(path, &found, &renewed);
}
