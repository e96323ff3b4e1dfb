//! Makes a directory look like the root of an installed driver.
//!
//! The layout is that of a driver container's root: libraries in `usr/lib64`, programs in
//! `usr/bin`, device nodes in `dev`, and the parts of `/proc` and `/sys` that say something about
//! GPUs. The state of the GPUs stands where a driver keeps the firmware of its GPUs, because
//! container runtimes mount that into containers like any other driver file: so the library finds
//! the node's state wherever it is mounted, and nobody needs to know of it.
//!
//! # Guarantees
//! A directory that holds anything else is not touched: a marker file says which are ours.

mod devices;
mod elf;
mod kernel;
mod libraries;

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use crate::{
    artifacts::Artifacts,
    profile::{Profile, ProfileError},
    state::{StateError, StateFile},
};

const MARKER: &str = "SIMULATED-DRIVER";
/// Directories that uninstalling removes. `etc` is where `ldconfig -r` puts a cache of the libraries.
const OWNED: [&str; 6] = ["dev", "etc", "lib", "proc", "sys", "usr"];
/// Where the state stands below a root, for one driver version.
const FIRMWARE: &str = "lib/firmware/nvidia";
/// The firmware image of Ampere and later in a real driver.
const STATE_NAME: &str = "gsp_ga10x.bin";

/// An installed driver.
#[derive(Clone, Debug)]
pub struct Installed {
    /// Its root.
    pub root: PathBuf,
    /// Its version.
    pub driver_version: String,
    /// The state of its GPUs.
    pub state: StateFile,
}

/// Why installing or uninstalling failed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The profile is not there.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The directory has other contents.
    #[error(
        "use {root} as a simulated driver root: it holds files but no {MARKER}; name an empty directory"
    )]
    Foreign {
        /// The directory.
        root: PathBuf,
    },
    /// A device node could not be made.
    #[error("make the device node {path}: run as root with CAP_MKNOD")]
    MakeDeviceNode {
        /// The node.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The state could not be stored.
    #[error("store the state of the simulated GPUs")]
    State(#[from] StateError),
    /// A file could not be made.
    #[error("{attempt} {path}")]
    Io {
        /// What was tried.
        attempt: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is no installation.
    #[error(
        "find a simulated driver below {root}; install one with `tessera-hw --root {root} install`"
    )]
    Absent {
        /// The directory.
        root: PathBuf,
    },
}

/// Installs the driver and the GPUs of a profile under `root`, in place of an earlier installation.
///
/// Needs the right to make device nodes.
pub fn install(
    root: &Path,
    profile: &str,
    node: &str,
    artifacts: &Artifacts,
) -> Result<Installed, InstallError> {
    let node = Profile::load(profile)?.instantiate(node);
    let version = &node.driver.version;
    uninstall(root)?;
    let tree = Tree { root };
    tree.write(
        MARKER,
        format!("{SIMULATED}\n{} {}\n", node.name, node.profile),
    )?;
    let state = StateFile::create(tree.prepare(&state_path(version))?, &node)?;
    libraries::install(&tree, version, artifacts)?;
    kernel::install(&tree, &node)?;
    devices::install(&tree, &node)?;
    Ok(Installed {
        root: root.to_owned(),
        driver_version: version.clone(),
        state,
    })
}

/// Removes what [`install`] made. The root itself stays, because it may be mounted somewhere.
pub fn uninstall(root: &Path) -> Result<(), InstallError> {
    let io = |attempt, path: &Path| {
        let path = path.to_owned();
        move |source| InstallError::Io {
            attempt,
            path,
            source,
        }
    };
    fs::create_dir_all(root).map_err(io("make", root))?;
    let mut entries = fs::read_dir(root).map_err(io("list", root))?;
    let marker = root.join(MARKER);
    match (entries.next().is_some(), marker.exists()) {
        (false, _) => return Ok(()),
        (true, false) => {
            return Err(InstallError::Foreign {
                root: root.to_owned(),
            });
        }
        (true, true) => {}
    }
    for owned in OWNED.map(|name| root.join(name)) {
        match fs::remove_dir_all(&owned) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome.map_err(io("remove", &owned))?,
        }
    }
    fs::remove_file(&marker).map_err(io("remove", &marker))
}

/// Finds the state of the GPUs whose driver is installed under `root`.
pub fn find_state(root: &Path) -> Result<StateFile, InstallError> {
    let versions = fs::read_dir(root.join(FIRMWARE))
        .into_iter()
        .flatten()
        .flatten();
    versions
        .map(|version| version.path().join(STATE_NAME))
        .find(|path| path.is_file())
        .map(StateFile::new)
        .ok_or_else(|| InstallError::Absent {
            root: root.to_owned(),
        })
}

/// The sentence by which people recognise what is not real.
const SIMULATED: &str = "This is a simulated NVIDIA driver. No GPU is behind it.";

fn state_path(version: &str) -> String {
    format!("{FIRMWARE}/{version}/{STATE_NAME}")
}

/// Writes below one root; missing directories are made on the way.
struct Tree<'a> {
    root: &'a Path,
}

impl Tree<'_> {
    /// The absolute path of `relative`, with its directory made.
    fn prepare(&self, relative: &str) -> Result<PathBuf, InstallError> {
        let path = self.root.join(relative);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|source| Self::error("make", parent, source))?;
        }
        Ok(path)
    }

    fn write(&self, relative: &str, contents: impl AsRef<[u8]>) -> Result<PathBuf, InstallError> {
        let path = self.prepare(relative)?;
        fs::write(&path, contents).map_err(|source| Self::error("write", &path, source))?;
        Ok(path)
    }

    fn write_program(
        &self,
        relative: &str,
        contents: impl AsRef<[u8]>,
    ) -> Result<(), InstallError> {
        let path = self.write(relative, contents)?;
        Self::make_executable(&path)
    }

    fn copy_program(&self, from: &Path, relative: &str) -> Result<(), InstallError> {
        let path = self.prepare(relative)?;
        fs::copy(from, &path).map_err(|source| Self::error("copy", from, source))?;
        Self::make_executable(&path)
    }

    fn link(&self, target: &str, relative: &str) -> Result<(), InstallError> {
        let path = self.prepare(relative)?;
        symlink(target, &path).map_err(|source| Self::error("link", &path, source))
    }

    fn make_executable(path: &Path) -> Result<(), InstallError> {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .map_err(|source| Self::error("make executable", path, source))
    }

    fn error(attempt: &'static str, path: &Path, source: io::Error) -> InstallError {
        InstallError::Io {
            attempt,
            path: path.to_owned(),
            source,
        }
    }
}
