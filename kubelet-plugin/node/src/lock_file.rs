//! Files by whose locks the driver's processes on a node know of each other.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use crate::file_error::if_there;

/// Opens the file at `path`, made if need be.
///
/// So is its directory: most lie on a tmpfs, from which anybody who cleans up may have removed it.
pub fn open(path: &Path) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
    };
    match (if_there(open())?, path.parent()) {
        (Some(file), _) => Ok(file),
        (None, Some(directory)) => fs::create_dir_all(directory).and_then(|()| open()),
        (None, None) => Err(io::ErrorKind::NotFound.into()),
    }
}
