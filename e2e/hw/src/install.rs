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
mod kernel_devices;
mod libraries;
mod mig;

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use crate::{
    artifacts::Artifacts,
    mig::LayoutError,
    profile::{Profile, ProfileError},
    state::{Node, StateError, StateFile},
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
    /// A GPU cannot be cut in this way.
    #[error(transparent)]
    Layout(#[from] LayoutError),
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
    kernel_devices::install(&tree)?;
    devices::install(&tree, &node)?;
    mig::sync(&tree, &node)?;
    Ok(Installed {
        root: root.to_owned(),
        driver_version: version.clone(),
        state,
    })
}

/// Puts further programs among those of the installation under `root`, each under its name: such as come with
/// a driver in packages of their own.
pub fn add_programs(root: &Path, programs: &[(&str, &Path)]) -> Result<(), InstallError> {
    let tree = Tree { root };
    for (name, program) in programs {
        tree.copy_program(program, &format!("usr/bin/{name}"))?;
    }
    Ok(())
}

/// What a new version is installed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// The files and the kernel's modules.
    Everything,
    /// The files alone, as a package does while the old modules stay loaded until the next boot:
    /// the library finds another version in the kernel and refuses to start.
    Files,
}

/// Installs another version of the driver in place of the one under `root`. The GPUs stay as they
/// are, and so do the injections.
///
/// The programs are those of the present installation under the new version's names. While it runs,
/// files are missing, as they are while a real driver is being installed.
pub fn upgrade(root: &Path, version: &str, replaced: Replaced) -> Result<Installed, InstallError> {
    let tree = Tree { root };
    let former = find_state(root)?;
    let kept = Kept::of(root)?;
    let node = match replaced {
        Replaced::Files => former.read()?.1,
        // Whoever still has the old library open is told that the kernel's driver is another one.
        Replaced::Everything => former.update(|node| {
            version.clone_into(&mut node.driver.version);
            node.clone()
        })?,
    };
    for owned in ["etc", "lib", "usr"] {
        remove(&root.join(owned))?;
    }
    let state = StateFile::create(tree.prepare(&state_path(version))?, &node)?;
    libraries::install(&tree, version, &kept.artifacts)?;
    kernel::install_versions(&tree, &node.driver)?;
    Ok(Installed {
        root: root.to_owned(),
        driver_version: version.to_owned(),
        state,
    })
}

/// Copies the programs of the installation under `root` to where these artifacts are to be.
pub fn keep(root: &Path, kept: &Artifacts) -> Result<(), InstallError> {
    let installed = [
        ("usr/lib64/libnvidia-ml.so.1", &kept.nvml),
        ("usr/bin/nvidia-smi", &kept.nvidia_smi),
    ];
    for (from, to) in installed {
        let from = root.join(from);
        fs::copy(&from, to).map_err(|source| Tree::error("copy", &from, source))?;
    }
    Ok(())
}

/// The programs of an installation, kept beside it while its files are replaced.
struct Kept {
    artifacts: Artifacts,
}

impl Kept {
    fn of(root: &Path) -> Result<Self, InstallError> {
        let kept = Self {
            artifacts: Artifacts {
                nvml: root.join(".libnvidia-ml.kept"),
                nvidia_smi: root.join(".nvidia-smi.kept"),
            },
        };
        keep(root, &kept.artifacts)?;
        Ok(kept)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let Artifacts { nvml, nvidia_smi } = &self.artifacts;
        for file in [nvml, nvidia_smi] {
            // One that was not copied is not there.
            let _ = fs::remove_file(file);
        }
    }
}

fn remove(directory: &Path) -> Result<(), InstallError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.map_err(|source| Tree::error("remove", directory, source)),
    }
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
    let _turn = turn(root);
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
    for owned in OWNED {
        remove(&root.join(owned))?;
    }
    fs::remove_file(&marker).map_err(io("remove", &marker))
}

/// Keeps others who ask for it from making and removing files of the root, until it is dropped. Nothing
/// where there is no such root.
pub(crate) fn turn(root: &Path) -> Option<fs::File> {
    let root = fs::File::open(root).ok()?;
    root.lock().ok()?;
    Some(root)
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

/// Changes the state of the GPUs whose driver is installed under `root`, and with it the files and nodes
/// that the kernel has for MIG devices. Nobody sees the one without the other.
pub fn change<T, E: From<InstallError>>(
    root: &Path,
    change: impl FnOnce(&mut Node) -> Result<T, E>,
) -> Result<T, E> {
    let state = find_state(root)?;
    let changed = state.update(|node| {
        let mut changed = node.clone();
        let outcome = change(&mut changed)?;
        mig::sync(&Tree { root }, &changed)?;
        *node = changed;
        Ok(outcome)
    });
    changed.map_err(InstallError::from)?
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
