//! The directory in which the container runtime looks for CDI specs.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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

    /// Writes a spec in one step: the runtime scans the directory at any time.
    pub fn write(&self, file: &str, contents: &[u8]) -> io::Result<()> {
        let path = self.directory.join(file);
        replace(&path, SPEC_MODE, |file| file.write_all(contents))
    }

    /// The bytes of a spec, if it is there.
    pub fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.directory.join(file)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names of all files.
    pub fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for file in fs::read_dir(&self.directory)? {
            names.extend(file?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    /// Removes a spec. It may be gone already.
    pub fn remove(&self, file: &str) -> io::Result<()> {
        match fs::remove_file(self.directory.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
