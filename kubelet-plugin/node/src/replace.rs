//! Replaces a file in one step, and removes what dead processes have left of such steps.
//!
//! A file is written under a temporary name and renamed, so a reader sees the former contents or the
//! new ones. A process that is killed in between leaves the temporary file. Its writer holds a shared lock
//! on it, which ends with the writer: so what can be locked for oneself is nobody's, although two plugin
//! processes may write into one directory during an upgrade.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tempfile::{Builder, NamedTempFile};
use tracing::{info, warn};

use crate::file_error::if_there;

/// Beginning and ending of a temporary file's name: container runtimes take it for no CDI spec, and the
/// journal for no record.
const NAME: (&str, &str) = (".tessera-", ".tmp");

/// The bits of a mode that say who may run a file, and all that can be set.
const ANYBODY_RUNS: u32 = 0o111;
const MODE_BITS: u32 = 0o7777;

/// Each attempt fails only if another process starts in the very moment between two system calls.
const ATTEMPTS: usize = 10;

/// Puts what `write` writes in the place of the file at `path`, if there is one, with this mode. Its
/// directory is made if it is not there: most lie on a tmpfs, from which anybody who cleans up may have
/// removed it.
///
/// The new file is given back, still open: what the kernel says of it tells it from whatever takes its place later.
pub fn replace(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<File> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut temporary = match temporary(directory, mode) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(directory)?;
            temporary(directory, mode)?
        }
        other => other?,
    };
    write(temporary.as_file_mut())?;
    if mode & ANYBODY_RUNS == 0 {
        // Closed, and so unlocked, after the renaming.
        return Ok(temporary.persist(path)?);
    }
    // A program that somebody still writes to cannot be run, so it is closed first, and another lock
    // holds it until it is renamed.
    let reader = File::open(temporary.path())?;
    reader.try_lock_shared()?;
    temporary.into_temp_path().persist(path)?;
    Ok(reader)
}

/// An empty file, locked so that a [`sweep`] knows that it is somebody's.
fn temporary(directory: &Path, mode: u32) -> io::Result<NamedTempFile> {
    let (prefix, suffix) = NAME;
    for _ in 0..ATTEMPTS {
        let temporary = Builder::new()
            .prefix(prefix)
            .suffix(suffix)
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(directory)?;
        let file = temporary.as_file();
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let found = file.metadata()?;
        // It may have been swept away between its making and the lock.
        if found.nlink() == 0 {
            continue;
        }
        // A mode that is given at creation is cut by the umask.
        if found.mode() & MODE_BITS != mode {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        return Ok(temporary);
    }
    Err(io::Error::other("each temporary file was swept away"))
}

/// Removes the temporary files of dead processes. What cannot be removed harms nobody, so it is only
/// told.
pub fn sweep(directory: &Path) {
    let swept = files(directory).and_then(|names| {
        let mut count = 0;
        for name in names {
            count += usize::from(remove_if_nobodys(&directory.join(name))?);
        }
        Ok(count)
    });
    let directory = directory.display();
    match swept {
        Ok(0) => {}
        Ok(files) => info!(%directory, files, "removed what a killed process had begun to write"),
        Err(error) => warn!(%directory, %error, "temporary files are left"),
    }
}

fn files(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for file in fs::read_dir(directory)? {
        names.extend(file?.file_name().into_string());
    }
    let (prefix, suffix) = NAME;
    names.retain(|name| name.starts_with(prefix) && name.ends_with(suffix));
    Ok(names)
}

fn remove_if_nobodys(path: &Path) -> io::Result<bool> {
    let Some(file) = if_there(File::open(path))? else {
        return Ok(false);
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // Its writer may have renamed it in this moment, and another sweep removed it.
    Ok(if_there(fs::remove_file(path))?.is_some())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_takes_the_place_of_the_former_one_with_its_mode_and_leaves_no_other() {
        let directory = tempfile::tempdir().unwrap();
        for text in ["one", "two"] {
            let write = |file: &mut File| file.write_all(text.as_bytes());
            let file = directory.path().join("file");
            replace(&file, 0o644, write).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o644);
        }
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[test]
    fn a_write_that_fails_leaves_the_former_file_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "former").unwrap();
        let full = |_: &mut File| Err(io::ErrorKind::StorageFull.into());
        replace(&file, 0o644, full).unwrap_err();
        assert_eq!(fs::read_to_string(&file).unwrap(), "former");
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[test]
    fn what_a_dead_process_left_is_swept_and_what_is_being_written_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let dead = ".tessera-dead.tmp";
        for name in [dead, "file", ".tessera-file", "note.tmp"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let write = |_: &mut File| {
            sweep(directory.path());
            Ok(())
        };
        replace(&directory.path().join("written"), 0o600, write).unwrap();
        let left = [".tessera-file", "file", "note.tmp", "written"];
        assert_eq!(names(directory.path()), left);
    }

    #[test]
    fn a_program_can_be_run_at_once_and_is_not_swept_before_it_is_in_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        let write = |file: &mut File| {
            sweep(directory.path());
            file.write_all(b"#!/bin/sh\nexit 7\n")
        };
        replace(&program, 0o755, write).unwrap();
        let ended = std::process::Command::new(&program).status().unwrap();
        assert_eq!(ended.code(), Some(7));
        assert_eq!(names(directory.path()), ["program"]);
    }

    #[test]
    fn a_directory_that_is_not_there_is_swept_without_a_failure() {
        sweep(Path::new("/nonexistent"));
    }
}
