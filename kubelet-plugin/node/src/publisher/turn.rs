//! Which of a driver's processes on a node writes to the API server what concerns the node.
//!
//! During an upgrade there are two. Whoever has locked one file writes; the other one waits until the
//! first gives the lock up, which it does when it is told to stop, or when it dies. Slices have one file, and the status of
//! claims has another.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use crate::lock_file;

/// Time between two looks at a lock that another process holds. What is written stays as it is while
/// it changes hands, so nobody waits for it.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The right to write, held until this is dropped.
#[derive(Debug)]
pub struct Turn {
    _locked: File,
}

/// Where processes take turns.
#[derive(Clone, Debug)]
pub struct Turns {
    path: PathBuf,
}

impl Turns {
    /// By a lock on the file at `path`.
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// A turn, if no other process has it.
    pub(crate) fn now(&self) -> Option<Turn> {
        match self.lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(error)) => {
                warn!(path = %self.path.display(), %error, "the lock of who writes cannot be used");
                None
            }
        }
    }

    /// A turn, waiting for it as long as it takes.
    pub(crate) async fn next(&self) -> Turn {
        loop {
            sleep(LOOK_AGAIN).await;
            if let Some(turn) = self.now() {
                return turn;
            }
        }
    }

    fn lock(&self) -> Result<Turn, TryLockError> {
        let file = lock_file::open(&self.path).map_err(TryLockError::Error)?;
        file.try_lock()?;
        Ok(Turn { _locked: file })
    }
}
