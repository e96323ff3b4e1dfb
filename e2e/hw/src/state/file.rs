//! The file in which the processes of a simulated node share its state.
//!
//! # Format
//! A first line of fixed length, `tessera-hw-state <format> <generation>`, then one JSON document,
//! then blanks up to a fixed size. The generation grows with every change, so a reader that kept
//! the last document needs 41 bytes to know whether it still holds.
//!
//! # Guarantees
//! - The file is changed in place, never replaced: bind mounts in containers pin its inode.
//! - Changes happen one at a time under an exclusive `flock`, readers hold a shared one, so nothing
//!   is lost or seen half written. Each operation opens the file anew, because a lock belongs to an
//!   open file and threads of one process must exclude each other too.
//! - A file on a read-only mount can be read; changing it is an error that says so.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::Node;

const MAGIC: &str = "tessera-hw-state";
/// The format of the document. A reader refuses any other.
const FORMAT: u32 = 3;
/// Magic, blank, three digits of format, blank, twenty digits of generation (all of a `u64`), newline.
const HEADER_LEN: usize = MAGIC.len() + 1 + 3 + 1 + 20 + 1;
/// Eight GPUs take about 10 KiB; there is room for their MIG devices.
const FILE_LEN: usize = 256 * 1024;
/// A holder needs the lock for well under a millisecond.
const LOCK_DEADLINE: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(1);

/// Why the state could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file could not be opened.
    #[error("open the GPU state {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is on a read-only mount or not ours to write.
    #[error("change the GPU state {path}: it is read-only here; change it on the node's host side")]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody held the lock for too long.
    #[error(
        "lock the GPU state {path}: another process has held it for {LOCK_DEADLINE:?}; find it with fuser"
    )]
    Lock {
        /// The file.
        path: PathBuf,
    },
    /// Reading, writing or locking failed.
    #[error("{attempt} the GPU state {path}")]
    Io {
        /// What was tried.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not a state file of this format.
    #[error("understand the GPU state {path}: {reason}; install the simulated driver anew")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The document has outgrown the file.
    #[error("store {len} bytes of GPU state in {path}: it holds {FILE_LEN}; remove injections")]
    Full {
        /// The file.
        path: PathBuf,
        /// Size of the document.
        len: usize,
    },
}

/// The state file of one node.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// Names the file; nothing is opened yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Makes the file, which must not exist yet.
    pub fn create(path: impl Into<PathBuf>, node: &Node) -> Result<Self, StateError> {
        let state = Self::new(path);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&state.path)
            .map_err(|source| StateError::Open {
                path: state.path.clone(),
                source,
            })?;
        state.store(&file, 1, node)?;
        Ok(state)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file for repeated looks at its generation.
    pub fn watch(&self) -> Result<Watch, StateError> {
        Ok(Watch {
            state: self.clone(),
            file: self.open_to_read()?,
        })
    }

    /// Reads the generation and the state that belongs to it.
    pub fn read(&self) -> Result<(u64, Node), StateError> {
        self.read_from(&self.open_to_read()?)
    }

    fn read_from(&self, file: &File) -> Result<(u64, Node), StateError> {
        self.lock(|| file.try_lock_shared())?;
        let loaded = self.load(file);
        file.unlock().map_err(|source| self.io("unlock", source))?;
        loaded
    }

    /// Changes the state. Nobody else reads or changes it meanwhile.
    pub fn update<T>(&self, change: impl FnOnce(&mut Node) -> T) -> Result<T, StateError> {
        let opened = OpenOptions::new().read(true).write(true).open(&self.path);
        let file = opened.map_err(|source| match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                StateError::ReadOnly {
                    path: self.path.clone(),
                    source,
                }
            }
            _ => StateError::Open {
                path: self.path.clone(),
                source,
            },
        })?;
        self.lock(|| file.try_lock())?;
        let (generation, mut node) = self.load(&file)?;
        let outcome = change(&mut node);
        self.store(&file, generation + 1, &node)?;
        Ok(outcome)
    }

    fn open_to_read(&self) -> Result<File, StateError> {
        File::open(&self.path).map_err(|source| StateError::Open {
            path: self.path.clone(),
            source,
        })
    }

    fn lock(
        &self,
        mut attempt: impl FnMut() -> Result<(), TryLockError>,
    ) -> Result<(), StateError> {
        let deadline = Instant::now() + LOCK_DEADLINE;
        loop {
            match attempt() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(LOCK_POLL);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(StateError::Lock {
                        path: self.path.clone(),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(self.io("lock", source)),
            }
        }
    }

    fn load(&self, file: &File) -> Result<(u64, Node), StateError> {
        let mut bytes = vec![0; FILE_LEN];
        file.read_exact_at(&mut bytes, 0)
            .map_err(|source| self.io("read", source))?;
        let (header, document) = bytes.split_at(HEADER_LEN);
        let generation = self.parse_header(header)?;
        let node =
            serde_json::from_slice(document).map_err(|error| self.parse(error.to_string()))?;
        Ok((generation, node))
    }

    fn store(&self, file: &File, generation: u64, node: &Node) -> Result<(), StateError> {
        let document =
            serde_json::to_vec_pretty(node).map_err(|error| self.parse(error.to_string()))?;
        let mut bytes = format!("{MAGIC} {FORMAT:03} {generation:020}\n").into_bytes();
        bytes.extend(document);
        if bytes.len() >= FILE_LEN {
            return Err(StateError::Full {
                path: self.path.clone(),
                len: bytes.len(),
            });
        }
        bytes.resize(FILE_LEN - 1, b' ');
        bytes.push(b'\n');
        file.write_all_at(&bytes, 0)
            .map_err(|source| self.io("write", source))
    }

    fn parse_header(&self, header: &[u8]) -> Result<u64, StateError> {
        let text = String::from_utf8_lossy(header);
        let mut words = text.split_ascii_whitespace();
        match (words.next(), words.next(), words.next().map(str::parse)) {
            (Some(MAGIC), Some(format), Some(Ok(generation))) if format.parse() == Ok(FORMAT) => {
                Ok(generation)
            }
            (Some(MAGIC), Some(format), _) => Err(self.parse(format!(
                "its format is {format}, this program's is {FORMAT}"
            ))),
            _ => Err(self.parse("it does not start like one".to_owned())),
        }
    }

    fn io(&self, attempt: &'static str, source: io::Error) -> StateError {
        StateError::Io {
            attempt,
            path: self.path.clone(),
            source,
        }
    }

    fn parse(&self, reason: String) -> StateError {
        StateError::Parse {
            path: self.path.clone(),
            reason,
        }
    }
}

/// An open state file whose generation is cheap to look at.
#[derive(Debug)]
pub struct Watch {
    state: StateFile,
    file: File,
}

impl Watch {
    /// The generation right now: one system call.
    ///
    /// Read without the lock. A reader that sees a half-written number differs from the one it
    /// remembers, reads again under the lock, and is right then.
    pub fn generation(&self) -> Result<u64, StateError> {
        let mut header = [0; HEADER_LEN];
        self.file
            .read_exact_at(&mut header, 0)
            .map_err(|source| self.state.io("read", source))?;
        self.state.parse_header(&header)
    }

    /// Reads the generation and the state of the file that was opened, even if another is at its
    /// path by now. One thread at a time: the lock belongs to the open file.
    pub fn read(&mut self) -> Result<(u64, Node), StateError> {
        self.state.read_from(&self.file)
    }
}
