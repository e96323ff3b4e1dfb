//! The NVML adapter: asks the installed driver for the GPUs of this node and returns owned facts.
//!
//! The library is loaded from a path at run time; nothing is linked. Every call blocks, some for
//! seconds on a node in trouble, so callers keep it off the threads that serve others. [`Nvml`] can
//! be moved to such a thread and shared between threads.
//!
//! # Guarantees
//! - A GPU that fails to answer becomes a [`GpuProblem`] and hides no other GPU.
//! - A fact that is optional costs only itself when it cannot be had.
//! - No panic, whatever the library returns or lacks.
//!
//! # Assumptions
//! NVML finds the GPUs when it is initialized. A GPU that comes later is seen by the next
//! [`Nvml::load`], not by the next [`Nvml::inventory`].

mod capabilities;
mod error;
mod fabric;
mod facts;
mod limits;
mod mig;
mod names;
mod operate;
mod raw;
mod scan;
mod sysfs;

pub use capabilities::Listing;
pub use error::{CapabilityError, Fault, GpuProblem, NvmlError, QueryError};
pub use limits::{CardMemory, LimitError, LimitErrorReason, MemoryLimits};
pub use operate::{Destroyed, MigError, MigErrorReason, MigSwitch};
pub use scan::Scan;

use std::fmt;
use std::mem;
use std::path::{Path, PathBuf};

use nvml_wrapper::bitmasks::InitFlags;
use nvml_wrapper::error::NvmlError as Code;

/// Where the kernel's own files about GPUs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFiles {
    /// The sysfs in which the GPUs' PCI devices and the cgroups are, usually `/sys`.
    pub sysfs: PathBuf,
    /// The procfs in which the driver's capabilities are, usually `/proc`.
    pub proc: PathBuf,
}

/// An initialized NVML library; shut down on drop.
pub struct Nvml {
    library: nvml_wrapper::Nvml,
}

impl fmt::Debug for Nvml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nvml").finish_non_exhaustive()
    }
}

impl Nvml {
    /// Loads and initializes the library at a path (`nvmlInitWithFlags`).
    ///
    /// `library` is the file itself and no link: the loader takes a path that it has open for the
    /// same library, whatever lies there by now.
    ///
    /// A node without GPUs is no error (flag `NO_GPUS`): all of them may be given to virtual
    /// machines.
    pub fn load(library: &Path) -> Result<Self, NvmlError> {
        let opened = nvml_wrapper::Nvml::builder()
            .lib_path(library.as_os_str())
            .flags(InitFlags::NO_GPUS)
            .init()
            .map_err(|source| NvmlError::of_start(library, source))?;
        if let Err(missing) = &opened.lib().nvmlShutdown {
            let source = Code::FailedToLoadSymbol(missing.to_string());
            // Its drop would call the missing function and panic.
            mem::forget(opened);
            return Err(NvmlError::Initialize {
                library: library.to_owned(),
                source,
            });
        }
        Ok(Self { library: opened })
    }

    /// The driver, and every GPU with what can be known of it.
    ///
    /// `kernel` is where the kernel says of the same GPUs what NVML does not.
    pub fn inventory(&self, kernel: &KernelFiles) -> Result<Scan, NvmlError> {
        scan::scan(&self.library, kernel)
    }
}
