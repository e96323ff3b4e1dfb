//! The logs of the running or the last cluster. They stay until the next one comes up.

use std::fs;
use std::path::PathBuf;

use crate::paths::StateDir;

/// The parts that have a log, by name.
pub fn names() -> Vec<String> {
    let entries = fs::read_dir(StateDir::of_environment().logs())
        .into_iter()
        .flatten()
        .flatten();
    let stem = |entry: fs::DirEntry| entry.path().file_stem()?.to_str().map(ToOwned::to_owned);
    let mut names: Vec<_> = entries.filter_map(stem).collect();
    names.sort();
    names
}

/// Where a part's log is.
pub fn path(part: &str) -> PathBuf {
    StateDir::of_environment().log(part)
}
