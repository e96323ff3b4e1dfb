//! The simulated driver installation of a node: what is built for it, and where it is put.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tessera_hw::{Artifacts, Gpu, InstallError, Node, install};

use crate::cargo::{self, CargoError, Linking, Profile};
use crate::platform::Platform;

/// What every simulated installation is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parts {
    nvml: PathBuf,
    nvidia_smi: PathBuf,
    hardware: PathBuf,
    imex: PathBuf,
    imex_ctl: PathBuf,
}

/// The program that changes the simulated hardware, as a node finds it among its programs.
pub(crate) const HARDWARE: &str = "tessera-hw";

/// The daemon of NVLink sessions, and the program that asks it. On real nodes they come in a package beside the driver.
pub const IMEX: [&str; 2] = ["nvidia-imex", "nvidia-imex-ctl"];

/// Installing failed.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// Its parts could not be built.
    #[error(transparent)]
    Build(#[from] CargoError),
    /// It could not be put in place.
    #[error("install the simulated driver {profile} on {node}")]
    Install {
        /// The profile.
        profile: String,
        /// The node.
        node: String,
        /// Why.
        source: InstallError,
    },
}

/// Builds what a simulated driver is made of, for an installation outside of a cluster.
pub fn simulated_driver() -> Result<Artifacts, CargoError> {
    Ok(Parts::build()?.artifacts())
}

/// Brings the GPUs of an installation through a reboot of their machine. One that is not there has none.
pub(crate) fn reboot(root: &Path) -> Result<(), InstallError> {
    let boot = |node: &mut Node| {
        node.gpus.iter_mut().for_each(Gpu::end_boot);
        Ok(())
    };
    match install::change(root, boot) {
        Err(InstallError::Absent { .. }) => Ok(()),
        outcome => outcome,
    }
}

impl Parts {
    /// Builds the simulated library, `nvidia-smi`, `nvidia-imex` and what stands for a kernel.
    pub(crate) fn build() -> Result<Self, CargoError> {
        let library = cargo::build(
            &["nvml-sim"],
            Profile::Dev,
            Linking::Dynamic,
            Platform::HERE,
        )?;
        let built = cargo::programs(&["nvidia-smi", HARDWARE, IMEX[0], IMEX[1]])?;
        Ok(Self {
            nvml: library.file("nvidia_ml")?.to_owned(),
            nvidia_smi: built.file("nvidia-smi")?.to_owned(),
            hardware: built.file(HARDWARE)?.to_owned(),
            imex: built.file(IMEX[0])?.to_owned(),
            imex_ctl: built.file(IMEX[1])?.to_owned(),
        })
    }

    fn artifacts(&self) -> Artifacts {
        Artifacts {
            nvml: self.nvml.clone(),
            nvidia_smi: self.nvidia_smi.clone(),
        }
    }

    /// A program as dynamically linked as what runs in workloads.
    pub(crate) fn nvidia_smi(&self) -> &Path {
        &self.nvidia_smi
    }

    /// Puts what stands for a kernel among the programs of the nodes.
    pub(crate) fn link_into(&self, bin: &Path) -> io::Result<()> {
        symlink(&self.hardware, bin.join(HARDWARE))
    }

    /// Installs the GPUs of `profile` for `node` of `rack` below `root`.
    pub(crate) fn install(
        &self,
        root: &Path,
        profile: &str,
        node: &str,
        rack: &str,
    ) -> Result<(), DriverError> {
        let artifacts = self.artifacts();
        let failed = |source| DriverError::Install {
            profile: profile.to_owned(),
            node: node.to_owned(),
            source,
        };
        install::install(root, profile, node, &artifacts)
            .and_then(|installed| {
                let [imex, imex_ctl] = IMEX;
                let programs = [(imex, &*self.imex), (imex_ctl, &*self.imex_ctl)];
                install::add_programs(root, &programs)?;
                Ok(installed.state.update(|node| node.join_rack(rack))?)
            })
            .map_err(failed)
    }
}
