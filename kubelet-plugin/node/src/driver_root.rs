//! Which files of the driver installation a container needs, and where they are.
//!
//! The driver may be installed on the host itself, in a folder of it, or by a driver container that
//! keeps it in its own root. All three are a *driver root*: a folder that looks like the root of a
//! file system. This process sees it at one path and the host at another; containers get the files
//! at their path below the root.
//!
//! # Guarantees
//! - Links are resolved as if the driver root were `/`. None leads outside.
//! - Same installation, same answer, in the same order.

mod files;
mod look;

use std::io;
use std::path::PathBuf;

use tessera_device::DriverVersion;
pub use tessera_driver_root::Fingerprint;
use tessera_driver_root::folders::{BINARY_FOLDERS, LIBRARY_FOLDERS, NVML};
use tessera_prepare::cdi::DriverInstall;
use thiserror::Error;

pub use self::files::Missing;
use self::files::{FIRMWARE_FOLDERS, SOCKETS};
use self::look::Look;

/// Where the driver installation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverRoot {
    mounted: PathBuf,
    host: PathBuf,
}

impl DriverRoot {
    /// A driver root that this process sees at `mounted` (`--container-driver-root`) and the host
    /// at `host` (`--nvidia-driver-root`).
    pub fn new(mounted: impl Into<PathBuf>, host: impl Into<PathBuf>) -> Self {
        let (mounted, host) = (mounted.into(), host.into());
        Self { mounted, host }
    }
}

/// What was found in a driver root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// What containers get. Its hook is not part of the driver and not set.
    pub install: DriverInstall,
    /// What they go without. For the log: none of it keeps a GPU from being offered.
    pub missing: Vec<Missing>,
}

/// Why a driver root is of no use.
#[derive(Debug, Error)]
pub enum DriverRootError {
    /// The root itself.
    #[error(
        "open the driver root {} (the host's {})", mounted.display(), host.display()
    )]
    OpenRoot {
        /// Where this process expects it.
        mounted: PathBuf,
        /// Where the host has it.
        host: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No NVML.
    #[error(
        "{NVML} is in none of {} below the driver root {} (mounted at {}); install the driver, or \
         set nvidiaDriverRoot to the host folder that has it (/run/nvidia/driver for a driver \
         container)", LIBRARY_FOLDERS.join(", "), host.display(), mounted.display()
    )]
    FindNvml {
        /// Where this process has the root.
        mounted: PathBuf,
        /// Where the host has it.
        host: PathBuf,
    },
    /// No library of the loaded driver.
    #[error(
        "no library below the driver root {} is of version {version}, which the kernel has \
         loaded; reload the kernel's driver, or set nvidiaDriverRoot to the host folder that has \
         the libraries of this version", host.display()
    )]
    FindLibraries {
        /// Where the host has the root.
        host: PathBuf,
        /// Version of the kernel's driver.
        version: DriverVersion,
    },
    /// A folder or file below the root.
    #[error("look at {path} below the driver root {}", host.display())]
    Look {
        /// Where the host has the root.
        host: PathBuf,
        /// The path below it.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// The NVML library, as this process sees it: the file itself, without links, so that opening it
/// does not resolve an absolute link outside the driver root.
pub fn find_nvml(root: &DriverRoot) -> Result<PathBuf, DriverRootError> {
    let look = Look::into_root(root)?;
    let found = look.nvml()?.map(|path| look.local(&path));
    found.ok_or_else(|| DriverRootError::FindNvml {
        mounted: root.mounted.clone(),
        host: root.host.clone(),
    })
}

/// The program `nvidia-smi` as this process sees it, without links as [`find_nvml`]; nothing if the driver
/// came without it.
pub fn find_smi(root: &DriverRoot) -> Result<Option<PathBuf>, DriverRootError> {
    let look = Look::into_root(root)?;
    Ok(look.smi()?.map(|path| look.local(&path)))
}

/// The program `nvidia-imex-ctl`, in the same way.
pub fn find_imex_control(root: &DriverRoot) -> Result<Option<PathBuf>, DriverRootError> {
    let look = Look::into_root(root)?;
    Ok(look.imex_control()?.map(|path| look.local(&path)))
}

/// Finds what containers need of the driver of this version.
pub fn discover(root: &DriverRoot, version: &DriverVersion) -> Result<Discovery, DriverRootError> {
    let look = Look::into_root(root)?;
    let mut install = DriverInstall::default();
    look.libraries(version, &mut install)?;
    if install.libraries.is_empty() {
        return Err(DriverRootError::FindLibraries {
            host: root.host.clone(),
            version: version.clone(),
        });
    }
    install.binaries = look.programs()?;
    install.firmware = look.firmware(version)?;
    install.sockets = look.sockets()?;
    install.ldconfig = look.ldconfig()?;
    // A root that is a mere folder of libraries has no device nodes; then the host's are meant.
    if look.has_devices()? {
        look.devices(&mut install)?;
    } else {
        Look::into_root(&DriverRoot::new("/", "/"))?.devices(&mut install)?;
    }
    let missing = files::missing(&install);
    Ok(Discovery { install, missing })
}

/// A value that changes when another discovery may find something else: for a caller that asks
/// often and discovers seldom. It costs about twenty `open` and `stat` calls.
pub fn fingerprint(root: &DriverRoot) -> Result<Fingerprint, DriverRootError> {
    let paths = LIBRARY_FOLDERS
        .iter()
        .chain(&BINARY_FOLDERS)
        .chain(&FIRMWARE_FOLDERS)
        .chain(&SOCKETS)
        .chain(&["dev", "dev/dri"]);
    Ok(Look::into_root(root)?.fingerprint(paths.copied()))
}

#[cfg(test)]
mod tests;
