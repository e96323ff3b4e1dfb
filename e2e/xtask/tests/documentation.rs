//! Holds the crates to having no tests in their documentation, because nobody would run them.

#![allow(
    clippy::unwrap_used,
    reason = "a test's own functions fail by panic, as the test does"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// All files of Rust below a directory, but for what is built.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The lines that open a block which rustdoc would compile.
fn tested(text: &str) -> Vec<usize> {
    let mut open = false;
    let mut tested = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let documented = line
            .strip_prefix("///")
            .or_else(|| line.strip_prefix("//!"));
        let Some(fence) = documented.and_then(|text| text.trim_start().strip_prefix("```")) else {
            continue;
        };
        if !open && !["text", "ignore"].contains(&fence.trim()) {
            tested.push(at + 1);
        }
        open = !open;
    }
    tested
}

#[test]
fn no_documentation_has_a_test_that_nobody_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(root.ancestors().nth(2).unwrap(), &mut files);
    assert!(files.len() > 100, "only {} files were found", files.len());
    for file in files {
        let lines = tested(&fs::read_to_string(&file).unwrap());
        assert!(
            lines.is_empty(),
            "{}: lines {lines:?}: the tests run without those of the documentation; make it a test of the crate, or say `text`",
            file.display()
        );
    }
}

#[test]
fn a_block_without_a_word_would_be_compiled() {
    let fence = "```";
    let text = format!(
        "/// {fence}\n/// let a;\n/// {fence}\n//! {fence}text\n//! b\n//! {fence}\n/// {fence}rust\n/// c\n/// {fence}\n"
    );
    assert_eq!(tested(&text), [1, 7]);
}
