//! What is written down of containers that are held to shares: one small file for each share, on the node's tmpfs.
//!
//! A note lasts as long as the cgroup that it names. One that cannot be understood stays: which container has its share
//! is not known, so nobody else gets it.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tessera_device::Bytes;
use tessera_sharing::Holding;

use crate::file_error::{FileError, if_there};
use crate::replace::{replace, sweep};
use crate::unchanged::Unchanged;

/// Mode of a note: only the driver reads it.
const MODE: u32 = 0o600;

/// Ending of a note's name. A file with another name is no note.
const EXTENSION: &str = ".limit";

/// The hierarchy of cgroups (version 2) of the node.
#[derive(Clone, Debug)]
pub struct Cgroups(pub PathBuf);

impl Cgroups {
    /// Whether processes are in the cgroup. One of which the kernel does not say is taken to have some.
    fn is_populated(&self, cgroup: &str) -> bool {
        let directory = self.0.join(cgroup.trim_start_matches('/'));
        match fs::read_to_string(directory.join("cgroup.events")) {
            Ok(events) => !events.lines().any(|line| line == "populated 0"),
            Err(_) => directory.exists(),
        }
    }
}

/// A note.
#[derive(Serialize, Deserialize)]
struct Note {
    gpu: String,
    bytes: u64,
    cgroup: String,
}

/// What the notes say.
#[derive(Debug, Default)]
pub struct Held {
    /// The containers that are there.
    pub holdings: Vec<Holding>,
    /// The shares whose notes cannot be understood.
    pub unreadable: Vec<String>,
    /// The shares whose containers are gone.
    gone: Vec<String>,
}

/// The notes.
#[derive(Clone, Debug)]
pub struct Written {
    directory: PathBuf,
    cgroups: Cgroups,
    known: Arc<Unchanged<Arc<Held>>>,
}

impl Written {
    /// Those in a directory, of containers in this hierarchy.
    pub fn new(directory: PathBuf, cgroups: Cgroups) -> Self {
        Self {
            known: Arc::new(Unchanged::of(vec![directory.clone()])),
            directory,
            cgroups,
        }
    }

    /// The containers that are there. The notes of those that are gone are removed.
    pub(super) fn held(&self) -> Result<Held, FileError> {
        let held = self.noted(|holding| self.cgroups.is_populated(&holding.cgroup))?;
        if self.directory.exists() {
            sweep(&self.directory);
        }
        for share in &held.gone {
            self.remove(share)?;
        }
        Ok(held)
    }

    /// All containers that are noted, whether they are there or not. Nothing is removed.
    ///
    /// Notes are only ever replaced as a whole, so they are read again when one was, and not before.
    pub fn all(&self) -> Result<Arc<Held>, FileError> {
        self.known.get(|| self.noted(|_| true).map(Arc::new))
    }

    fn noted(&self, is_there: impl Fn(&Holding) -> bool) -> Result<Held, FileError> {
        let listed = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Held::default()),
            listed => listed.map_err(FileError::of("list", &self.directory))?,
        };
        let mut held = Held::default();
        for entry in listed {
            let name = entry
                .map_err(FileError::of("list", &self.directory))?
                .file_name();
            let Some(share) = name.to_str().and_then(|name| name.strip_suffix(EXTENSION)) else {
                continue;
            };
            match self.read(share) {
                Some(holding) if is_there(&holding) => {
                    held.holdings.push(holding);
                }
                Some(_) => held.gone.push(share.to_owned()),
                None => held.unreadable.push(share.to_owned()),
            }
        }
        Ok(held)
    }

    /// Writes down that this container is held to this share, in place of a former one.
    pub(super) fn write(&self, holding: &Holding) -> Result<(), FileError> {
        let note = Note {
            gpu: holding.gpu.to_string(),
            bytes: holding.memory.0,
            cgroup: holding.cgroup.clone(),
        };
        let path = self.path(&holding.share);
        let note = serde_json::to_vec(&note)
            .expect("a note is texts and a number under names, which JSON can always hold");
        replace(&path, MODE, |file| file.write_all(&note))
            .map(drop)
            .map_err(FileError::of("write", &path))
    }

    fn read(&self, share: &str) -> Option<Holding> {
        let note = fs::read(self.path(share)).ok()?;
        let Note { gpu, bytes, cgroup } = serde_json::from_slice(&note).ok()?;
        Some(Holding {
            share: share.to_owned(),
            gpu: gpu.parse().ok()?,
            memory: Bytes(bytes),
            cgroup,
        })
    }

    fn remove(&self, share: &str) -> Result<(), FileError> {
        let path = self.path(share);
        if_there(fs::remove_file(&path))
            .map(drop)
            .map_err(FileError::of("remove", &path))
    }

    /// Where the note of a share is.
    pub(super) fn path(&self, share: &str) -> PathBuf {
        self.directory.join(format!("{share}{EXTENSION}"))
    }
}
