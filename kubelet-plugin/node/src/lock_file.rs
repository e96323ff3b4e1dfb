//! Files by whose locks the driver's processes on a node know of each other.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::deadline::Deadline;
use crate::file_error::{FileError, if_there};

/// Time between two looks at a lock that another process holds. Only an upgrade has two processes,
/// and a Prepare takes milliseconds.
const FOREIGN_HOLDER_POLL: Duration = Duration::from_millis(5);

/// A lock across tasks and processes, held until this is dropped.
#[derive(Debug)]
pub struct Held {
    // The file comes first: a waiter in this process must find the file unlocked.
    _file: File,
    _turn: OwnedMutexGuard<()>,
}

/// Takes the lock of the file at `path`, waiting until the deadline; `None` if somebody else held it
/// until then.
///
/// The tasks of this process wait in front of `mutex`, which wakes them in order instead of letting
/// them poll.
pub async fn take(
    mutex: Arc<Mutex<()>>,
    path: &Path,
    deadline: Deadline,
) -> Result<Option<Held>, FileError> {
    let Ok(turn) = deadline.run(mutex.lock_owned()).await else {
        return Ok(None);
    };
    let file = open(path).map_err(FileError::of("open the lock file", path))?;
    loop {
        match file.try_lock() {
            Ok(()) => {
                return Ok(Some(Held {
                    _file: file,
                    _turn: turn,
                }));
            }
            Err(TryLockError::WouldBlock) if deadline.allows(FOREIGN_HOLDER_POLL) => {
                tokio::time::sleep(FOREIGN_HOLDER_POLL).await;
            }
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(FileError::of("lock", path)(error)),
        }
    }
}

/// Opens the file at `path`, made if need be.
///
/// So is its directory: most lie on a tmpfs, from which anybody who cleans up may have removed it. Where this process may
/// only read, the file that is there does: a lock (`flock`) needs no right to write.
pub fn open(path: &Path) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
    };
    let opened = match open() {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(path),
        opened => opened,
    };
    match (if_there(opened)?, path.parent()) {
        (Some(file), _) => Ok(file),
        (None, Some(directory)) => fs::create_dir_all(directory).and_then(|()| open()),
        (None, None) => Err(io::ErrorKind::NotFound.into()),
    }
}
