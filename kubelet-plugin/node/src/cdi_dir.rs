//! The directory in which the container runtime looks for CDI specs.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::file_error::if_there;
use crate::replace::{replace, sweep};

/// Mode of a spec: the runtime reads it as root, and so may anybody who debugs it.
const SPEC_MODE: u32 = 0o644;

/// The directory of transient CDI specs, usually `/var/run/cdi`.
#[derive(Clone, Debug)]
pub struct CdiDir {
    directory: PathBuf,
}

impl CdiDir {
    /// Uses `directory`, making it if need be.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        sweep(directory);
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// Where a spec lies.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// Writes a spec in one step: the runtime scans the directory at any time.
    pub fn write(&self, file: &str, contents: &[u8]) -> io::Result<()> {
        replace(&self.path(file), SPEC_MODE, |file| file.write_all(contents)).map(drop)
    }

    /// The bytes of a spec, if it is there.
    pub fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        if_there(fs::read(self.path(file)))
    }

    /// The names of all files.
    pub fn list(&self) -> io::Result<Vec<String>> {
        let files = if_there(fs::read_dir(&self.directory))?;
        let mut names = Vec::new();
        for file in files.into_iter().flatten() {
            names.extend(file?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    /// Removes a spec. It may be gone already, whatever state the directory is in: a read-only file
    /// system refuses a removal before it looks for the file.
    pub fn remove(&self, file: &str) -> io::Result<()> {
        let path = self.path(file);
        match fs::remove_file(&path) {
            Err(error) if is_there(&path) => Err(error),
            _ => Ok(()),
        }
    }
}

fn is_there(path: &Path) -> bool {
    !matches!(if_there(fs::symlink_metadata(path)), Ok(None))
}
