//! The tracer and the fuse on a shell that makes, changes, renames and removes a file.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tessera_crash::fuse::{Fuse, Kind, Point, When};
use tessera_crash::process::Process;

/// What a run takes at most.
const LIMIT: Duration = Duration::from_secs(30);

/// A file appears, is renamed and removed by three processes.
const SCRIPT: &str = "echo text > new && mv new file && echo else > /dev/null && rm file";

/// Lets the script die at a point; returns where it died and which files it has left.
fn die(point: Point) -> (Option<String>, Vec<String>) {
    let root = tempfile::tempdir().unwrap();
    let fuse = Arc::new(Fuse::new(Some(point)));
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", SCRIPT]).current_dir(root.path());
    let path = root.path().canonicalize().unwrap();
    let process = Process::start_traced(shell, path, fuse.clone(), true).unwrap();
    let begun = Instant::now();
    // The fuse burns before the fatal call has its effect: only the end of the process tells that it had.
    while !process.has_ended() {
        assert!(begun.elapsed() < LIMIT, "{point} is not reached");
        thread::sleep(Duration::from_millis(1));
    }
    drop(process);
    (fuse.burnt(), files(root.path()))
}

fn files(root: &Path) -> Vec<String> {
    let files = std::fs::read_dir(root).unwrap();
    files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_program_dies_before_and_after_each_of_its_changes_and_at_nothing_else() {
    let mut changes = Vec::new();
    for n in 1.. {
        let (before, left) = die(Point::Nth(Kind::Change, When::Before, n));
        let (after, left_after) = die(Point::Nth(Kind::Change, When::After, n));
        let (Some(before), Some(after)) = (before, after) else {
            break;
        };
        let change = before.strip_prefix("Before ").unwrap().to_owned();
        assert_eq!(after.strip_prefix("After "), Some(change.as_str()));
        changes.push((change, left.join(" "), left_after.join(" ")));
    }
    let without_calls_names = changes.iter().map(|(change, before, after)| {
        let (_, file) = change.rsplit_once(' ').unwrap();
        (file, before.as_str(), after.as_str())
    });
    let expected = [
        ("new", "", "new"),
        ("new", "new", "new"),
        ("file", "new", "file"),
        ("file", "file", ""),
    ];
    assert_eq!(
        without_calls_names.collect::<Vec<_>>(),
        expected,
        "{changes:?}"
    );
}
