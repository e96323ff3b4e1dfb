//! The Rust files of the repository, for tests that hold tables and pages against the code.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::chart::repository;

/// The Rust files below these folders of the repository: path and contents.
pub fn rust_files(folders: &[&str]) -> io::Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for folder in folders {
        walk(&repository().join(folder), &mut files)?;
    }
    Ok(files)
}

fn walk(folder: &Path, into: &mut Vec<(PathBuf, String)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            into.push((path, text));
        }
    }
    Ok(())
}
