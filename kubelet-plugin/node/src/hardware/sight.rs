//! One look at the driver: cheap to see whether anything is new, dear to see what there is.
//!
//! NVML is loaded for the look and let go at its end. A handle that stays open holds the kernel's
//! modules, so that nobody could replace the driver under a running plugin, and it would go on
//! speaking for a library that is gone.

use tessera_device::follow::{Absence, Look, SilentGpu};
use tessera_nvml::{GpuProblem, KernelFiles, Listing, Nvml, NvmlError};
use tessera_prepare::cdi::{DriverInstall, LimitHook};
use tessera_shell::logging::chain;
use thiserror::Error;

use crate::driver_root::{self, DriverRoot, DriverRootError, Fingerprint};

/// How the probe sees the node. Both calls may block for long.
pub trait Sight: Send + Sync + 'static {
    /// What is compared to know whether another look may see something else.
    type Print: PartialEq + Send + 'static;

    /// A cheap look.
    fn print(&self) -> Self::Print;

    /// A look at everything.
    fn look(&self) -> Seen;
}

/// What a look saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The driver and its GPUs.
    pub look: Look,
    /// The driver's files, where there is a driver.
    pub install: DriverInstall,
    /// What containers will miss. For the log.
    pub lacks: Vec<String>,
}

/// Where to look.
#[derive(Clone, Debug)]
pub struct Places {
    /// The driver installation, as this process and as the host sees it.
    pub driver_root: DriverRoot,
    /// Where the kernel's own files about GPUs are.
    pub kernel: KernelFiles,
    /// The CDI hook, as the host sees it.
    pub hook: Option<String>,
    /// The hook that has containers limited in their memory, as the host sees it.
    pub limit_hook: LimitHook,
    /// The loader's cache builder, as the host sees it; `None`: to be found.
    pub ldconfig: Option<String>,
    /// Whether a process of the node moves the memory limits of containers that run.
    pub moves_limits: bool,
}

/// The node that this process runs on.
#[derive(Clone, Debug)]
pub struct LocalSight(pub Places);

/// Why there is no driver.
#[derive(Debug, Error)]
enum LookError {
    #[error(transparent)]
    Driver(#[from] DriverRootError),
    #[error(transparent)]
    Nvml(#[from] NvmlError),
}

impl Sight for LocalSight {
    /// The driver's files, and the MIG devices that the kernel has: whoever cuts a GPU under us changes
    /// no file of the driver.
    type Print = (Option<Fingerprint>, Listing);

    fn print(&self) -> Self::Print {
        let Places {
            driver_root,
            kernel,
            ..
        } = &self.0;
        let files = driver_root::fingerprint(driver_root).ok();
        (files, Listing::of(&kernel.proc))
    }

    fn look(&self) -> Seen {
        look(&self.0).unwrap_or_else(|error| Seen {
            look: Look::NoDriver {
                why: chain(&error).to_string(),
            },
            install: DriverInstall::default(),
            lacks: Vec::new(),
        })
    }
}

fn look(places: &Places) -> Result<Seen, LookError> {
    let library = driver_root::find_nvml(&places.driver_root)?;
    let scan = Nvml::load(&library)?.inventory(&places.kernel)?;
    let discovery = driver_root::discover(&places.driver_root, &scan.inventory.driver().version)?;
    let install = DriverInstall {
        hook: places.hook.clone(),
        limit_hook: places.limit_hook.clone(),
        ldconfig: places.ldconfig.clone().or(discovery.install.ldconfig),
        ..discovery.install
    };
    let inventory = if places.moves_limits {
        scan.inventory.with_moved_limits()
    } else {
        scan.inventory
    };
    Ok(Seen {
        look: Look::Found {
            inventory,
            silent: scan.problems.iter().map(silent).collect(),
        },
        install,
        lacks: discovery.missing.iter().map(ToString::to_string).collect(),
    })
}

fn silent(problem: &GpuProblem) -> SilentGpu {
    let absence = if problem.error.is_gpu_lost() {
        Absence::Lost
    } else {
        Absence::NoAnswer {
            why: problem.to_string(),
        }
    };
    SilentGpu {
        uuid: problem.uuid.clone(),
        absence,
    }
}
