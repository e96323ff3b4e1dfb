//! What this node has: its GPUs and its driver installation.
//!
//! The driver may be installed after the plugin has started (by a driver container), so its absence
//! is a state with a reason and not an error that ends the process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tessera_device::Inventory;
use tessera_nvml::{GpuProblem, Nvml, NvmlError};
use tessera_prepare::cdi::DriverInstall;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::deadline::Deadline;
use crate::driver_root::{self, DriverRoot, DriverRootError};
use tessera_shell::logging::chain;

/// Time between two looks for a driver that is not there. A driver container takes minutes to
/// install; a look is a few directory reads.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The GPUs and the files that a container needs to use them.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// The GPUs.
    pub inventory: Inventory,
    /// The driver installation.
    pub install: DriverInstall,
}

/// Where to look.
#[derive(Clone, Debug)]
pub struct Places {
    /// The driver installation, as this process and as the host sees it.
    pub driver_root: DriverRoot,
    /// The sysfs in which the GPUs' PCI devices are.
    pub sysfs: PathBuf,
    /// The CDI hook, as the host sees it.
    pub hook: Option<String>,
    /// The loader's cache builder, as the host sees it; `None`: to be found.
    pub ldconfig: Option<String>,
}

/// Why the hardware is not known.
#[derive(Debug, Error)]
enum LookError {
    #[error(transparent)]
    Driver(#[from] DriverRootError),
    #[error(transparent)]
    Nvml(#[from] NvmlError),
}

/// The driver was not up by the deadline.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the NVIDIA driver is not ready on this node: {0}")]
pub struct NotReady(String);

/// What is known at present.
#[derive(Clone, Debug)]
enum Known {
    Nothing { why: String },
    Hardware(Arc<Hardware>),
}

/// Shows the hardware once it is known.
#[derive(Clone, Debug)]
pub struct HardwareWatch(watch::Receiver<Known>);

impl HardwareWatch {
    /// The hardware, waiting for it until the deadline.
    pub async fn ready(&self, deadline: Deadline) -> Result<Arc<Hardware>, NotReady> {
        let mut known = self.0.clone();
        let arrived = deadline
            .run(known.wait_for(|known| matches!(known, Known::Hardware(_))))
            .await
            .is_ok_and(|changed| changed.is_ok());
        match (&*self.0.borrow(), arrived) {
            (Known::Hardware(hardware), _) => Ok(hardware.clone()),
            (Known::Nothing { why }, _) => Err(NotReady(why.clone())),
        }
    }

    /// The hardware, waiting for it as long as it takes.
    pub async fn arrival(&self) -> Arc<Hardware> {
        let mut known = self.0.clone();
        loop {
            if let Some(hardware) = self.now() {
                return hardware;
            }
            if known.changed().await.is_err() {
                // The probe has ended without a result, so the process is ending as well.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The hardware, if it is known.
    pub fn now(&self) -> Option<Arc<Hardware>> {
        match &*self.0.borrow() {
            Known::Hardware(hardware) => Some(hardware.clone()),
            Known::Nothing { .. } => None,
        }
    }

    /// Why the hardware is not known, if it is not.
    pub fn problem(&self) -> Option<String> {
        match &*self.0.borrow() {
            Known::Hardware(_) => None,
            Known::Nothing { why } => Some(why.clone()),
        }
    }

    /// Hardware that never changes.
    #[cfg(test)]
    pub(crate) fn fixed(hardware: Hardware) -> Self {
        Self(watch::channel(Known::Hardware(Arc::new(hardware))).1)
    }
}

/// Makes what is known known.
#[derive(Debug)]
pub struct HardwareProbe {
    places: Places,
    known: watch::Sender<Known>,
}

impl HardwareProbe {
    /// Will look in `places`.
    pub fn new(places: Places) -> (Self, HardwareWatch) {
        let nothing = Known::Nothing {
            why: "it has not been looked for yet".to_owned(),
        };
        let (known, watch) = watch::channel(nothing);
        (Self { places, known }, HardwareWatch(watch))
    }

    /// Looks until the hardware is found.
    pub async fn run(self, stop: CancellationToken) {
        while let Err(why) = self.look_once().await {
            if self.note(&why) {
                warn!(error = %why, "no GPUs to offer; looking again every {LOOK_AGAIN:?}");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Looks on a thread of its own: NVML calls block, for seconds on a bad day.
    async fn look_once(&self) -> Result<(), String> {
        let places = self.places.clone();
        let found = tokio::task::spawn_blocking(move || look(&places))
            .await
            .map_err(|error| error.to_string())?;
        let (hardware, problems) = found.map_err(|error| chain(&error).to_string())?;
        for problem in problems {
            warn!(error = %problem, "a GPU is left out");
        }
        info!(
            gpus = hardware.inventory.gpus().len(),
            driver_version = %hardware.inventory.driver().version,
            "hardware found"
        );
        self.known.send_replace(Known::Hardware(Arc::new(hardware)));
        Ok(())
    }

    /// Keeps the reason; says whether it is a new one.
    fn note(&self, why: &str) -> bool {
        self.known.send_if_modified(|known| {
            let new = !matches!(known, Known::Nothing { why: former } if former == why);
            if new {
                *known = Known::Nothing {
                    why: why.to_owned(),
                };
            }
            new
        })
    }
}

fn look(places: &Places) -> Result<(Hardware, Vec<GpuProblem>), LookError> {
    let library = driver_root::find_nvml(&places.driver_root)?;
    let scan = Nvml::load(&library)?.inventory(&places.sysfs)?;
    let discovery = driver_root::discover(&places.driver_root, &scan.inventory.driver().version)?;
    for missing in &discovery.missing {
        warn!(%missing, "containers go without a part of the driver");
    }
    let install = DriverInstall {
        hook: places.hook.clone(),
        ldconfig: places.ldconfig.clone().or(discovery.install.ldconfig),
        ..discovery.install
    };
    Ok((
        Hardware {
            inventory: scan.inventory,
            install,
        },
        scan.problems,
    ))
}
