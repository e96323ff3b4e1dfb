//! What can go wrong with the library, and with one GPU.

use std::fmt;
use std::path::{Path, PathBuf};

use nvml_wrapper::error::NvmlError as Code;
use tessera_device::{DeviceName, GpuUuid, IdError, InventoryError, PciAddress};
use thiserror::Error;

pub use crate::capabilities::CapabilityError;

/// The library or the driver cannot be used at all.
#[derive(Debug, Error)]
pub enum NvmlError {
    /// No library, or not one that can be loaded here.
    #[error("loading NVML from {library}; is the NVIDIA driver installed under this root?", library = library.display())]
    Open {
        /// The library.
        library: PathBuf,
        /// What the loader says.
        source: Code,
    },
    /// The library is there and does not start.
    #[error(
        "initializing NVML from {library}; `nvidia-smi` on the node tells whether the kernel \
         driver is loaded and of the same version",
        library = library.display()
    )]
    Initialize {
        /// The library.
        library: PathBuf,
        /// What NVML says.
        source: Code,
    },
    /// The kernel's driver is not loaded (`NVML_ERROR_DRIVER_NOT_LOADED`).
    #[error(
        "the kernel's NVIDIA driver is not loaded (NVML from {library} says so); load the nvidia \
         modules, or wait if a driver is being installed", library = library.display()
    )]
    NotLoaded {
        /// The library.
        library: PathBuf,
    },
    /// The kernel's driver is of another version than the library
    /// (`NVML_ERROR_LIB_RM_VERSION_MISMATCH`), as after an upgrade of the files alone.
    #[error(
        "the NVIDIA driver that the kernel has loaded is of another version than NVML at \
         {library}; reload the nvidia modules or reboot the node", library = library.display()
    )]
    VersionMismatch {
        /// The library.
        library: PathBuf,
    },
    /// The driver did not answer for itself.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// What the GPUs say of themselves contradicts itself.
    #[error("taking stock of the GPUs that NVML lists")]
    Inventory(#[from] InventoryError),
}

impl NvmlError {
    /// What it means that NVML could not be opened or initialized.
    pub(crate) fn of_start(library: &Path, source: Code) -> Self {
        let library = library.to_owned();
        match source {
            Code::LibloadingError(_) => Self::Open { library, source },
            Code::DriverNotLoaded => Self::NotLoaded { library },
            Code::LibRmVersionMismatch => Self::VersionMismatch { library },
            source => Self::Initialize { library, source },
        }
    }
}

/// One question that NVML did not answer.
#[derive(Debug, Error)]
#[error("{call}")]
pub struct QueryError {
    /// The NVML function.
    pub call: &'static str,
    /// Why.
    #[source]
    pub fault: Fault,
}

impl QueryError {
    /// Whether NVML says that the GPU is gone from the bus. It does not come back without a reset
    /// or a reboot.
    pub fn is_gpu_lost(&self) -> bool {
        matches!(self.fault, Fault::Code(Code::GpuLost))
    }

    /// Whether NVML does not know the thing any more that it was asked about.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.fault, Fault::Code(Code::NotFound | Code::InvalidArg))
    }
}

/// Why a question was not answered.
#[derive(Debug, Error)]
pub enum Fault {
    /// NVML returned an error, or text that is none, or lacks the function.
    #[error(transparent)]
    Code(#[from] Code),
    /// The answer is not the identity that it should be.
    #[error(transparent)]
    Identity(#[from] IdError),
    /// The kernel's files do not say which device nodes belong to a MIG device.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// The answer is a number that cannot be.
    #[error("{0} is out of range")]
    OutOfRange(i64),
}

/// A GPU that NVML lists and that did not tell what has to be known of it.
#[derive(Debug)]
pub struct GpuProblem {
    /// Its index in NVML, which is not its minor number.
    pub index: u32,
    /// Its UUID, if it still said so much.
    pub uuid: Option<GpuUuid>,
    /// Its minor number, if it still said so much.
    pub minor: Option<u32>,
    /// Its PCI address, if it still said so much.
    pub pci: Option<PciAddress>,
    /// The question that it did not answer.
    pub error: QueryError,
}

impl GpuProblem {
    /// The name under which the GPU is offered when it answers.
    pub fn device_name(&self) -> Option<DeviceName> {
        self.minor.map(DeviceName::whole_gpu)
    }
}

impl fmt::Display for GpuProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GPU with NVML index {}", self.index)?;
        if let Some(uuid) = &self.uuid {
            write!(f, " ({uuid})")?;
        }
        if let Some(pci) = &self.pci {
            write!(f, " at {pci}")?;
        }
        write!(
            f,
            " cannot be offered: {}: {}",
            self.error, self.error.fault
        )
    }
}
