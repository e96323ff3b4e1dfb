//! Which processes of the driver are at work on this node.
//!
//! During an upgrade two are, and the files that they share must not be removed by the first that
//! ends. So each holds a shared lock on one file while it works, and only who gets the exclusive one
//! at its end is the last and may tidy up. The kernel releases the lock of a process that dies.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::deadline::Deadline;
use crate::file_error::if_there;
use crate::lock_file;

/// How long somebody else may tidy up: a few files.
const TIDYING: Duration = Duration::from_secs(10);

/// Time between two attempts while somebody else tidies up.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The process could not say that it is there.
#[derive(Debug, Error)]
pub enum PresenceError {
    /// The file could not be made or locked.
    #[error("lock {path}")]
    Lock {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// Another process tidies up, and does not end.
    #[error("another process has held {path} for {} s; end it", TIDYING.as_secs())]
    Held {
        /// The file.
        path: PathBuf,
    },
}

/// A process that is at work.
#[derive(Debug)]
pub struct Presence(File);

/// The knowledge that no other process is at work, and that none begins while this value lives.
#[derive(Debug)]
pub struct Alone {
    _locked: File,
}

impl Presence {
    /// Says by a file at `path` that this process is at work, from now on.
    pub async fn enter(path: &Path) -> Result<Self, PresenceError> {
        let deadline = Deadline::after(TIDYING);
        loop {
            match lock_shared(path) {
                Ok(Some(file)) => return Ok(Self(file)),
                Ok(None) if deadline.allows(LOOK_AGAIN) => tokio::time::sleep(LOOK_AGAIN).await,
                Ok(None) => {
                    let path = path.to_owned();
                    return Err(PresenceError::Held { path });
                }
                Err(source) => {
                    let path = path.to_owned();
                    return Err(PresenceError::Lock { path, source });
                }
            }
        }
    }

    /// Ends the presence. If no other process is there, the answer says so for as long as it lives.
    pub fn leave(self) -> Option<Alone> {
        // The kernel gives up the shared lock before it tries the other, so of two processes that
        // leave at once the later one is the last.
        self.0.try_lock().ok().map(|()| Alone { _locked: self.0 })
    }
}

/// A lock on the file that is at the path now: who tidies up removes the file that it has locked.
fn lock_shared(path: &Path) -> io::Result<Option<File>> {
    let file = lock_file::open(path)?;
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let locked = file.metadata()?;
    let Some(there) = if_there(fs::metadata(path))? else {
        return Ok(None);
    };
    let same = (locked.dev(), locked.ino()) == (there.dev(), there.ino());
    Ok(same.then_some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_last_that_leaves_is_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/plugins.lock");
        let [first, second] = [(), ()].map(|()| Presence::enter(&path));
        let (first, second) = (first.await.unwrap(), second.await.unwrap());
        assert!(first.leave().is_none());
        assert!(second.leave().is_some());
    }

    #[tokio::test]
    async fn a_process_that_begins_while_another_tidies_up_waits_and_has_a_file_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/plugins.lock");
        let alone = Presence::enter(&path).await.unwrap().leave().unwrap();
        let entering = tokio::spawn({
            let path = path.clone();
            async move { Presence::enter(&path).await }
        });
        tokio::task::yield_now().await;
        assert!(!entering.is_finished());
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        drop(alone);
        let entered = entering.await.unwrap().unwrap();
        assert!(path.exists());
        assert!(entered.leave().is_some());
    }
}
