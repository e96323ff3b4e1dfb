//! What this node has: its GPUs and its driver installation, as long as the process runs.
//!
//! The driver may be installed after the plugin has started (by a driver container), be replaced by
//! another version and go away, and GPUs are lost and reset. So what is known is a state that is
//! followed and not a fact of the start: [`HardwareProbe`] looks, [`tessera_device::follow`] decides
//! what a look means, and [`HardwareWatch`] shows it to everybody else.

mod metrics;
mod probe;
mod sight;

use std::sync::Arc;

use tessera_device::Inventory;
use tessera_device::follow::Known;
use tessera_prepare::cdi::DriverInstall;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;

pub use self::metrics::HardwareMetrics;
pub use self::probe::{HardwareProbe, Pace};
pub use self::sight::{LocalSight, Places, Seen, Sight};
use crate::deadline::Deadline;

/// The GPUs and the files that a container needs to use them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// The GPUs.
    pub inventory: Inventory,
    /// The driver installation.
    pub install: DriverInstall,
}

/// The driver was not up by the deadline.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the NVIDIA driver is not ready on this node: {0}")]
pub struct NotReady(String);

#[cfg(test)]
impl NotReady {
    /// A driver that is not up for this reason.
    pub(crate) fn new(why: &str) -> Self {
        Self(why.to_owned())
    }
}

/// What is known at present.
#[derive(Clone, Debug, Default)]
struct View {
    known: Known,
    /// The same with the installation, while there is a driver.
    hardware: Option<Arc<Hardware>>,
    /// Since when a look has not come back, if that is longer than it may take.
    silent_since: Option<Instant>,
}

impl View {
    fn problem(&self) -> Option<String> {
        let silence = self.silent_since.map(|since| {
            format!(
                "the NVIDIA driver has not answered for {} s (a call of NVML hangs)",
                since.elapsed().as_secs()
            )
        });
        let absence = match &self.known {
            Known::Unseen => Some("it has not been looked for yet".to_owned()),
            Known::Absent { why, .. } => Some(why.clone()),
            Known::Present(_) => None,
        };
        match (silence, absence) {
            (Some(silence), None) => Some(format!("{silence}; what was known is still served")),
            (Some(silence), Some(absence)) => Some(format!("{silence}; before that: {absence}")),
            (None, absence) => absence,
        }
    }
}

/// Shows the hardware as it is known.
#[derive(Clone, Debug)]
pub struct HardwareWatch(watch::Receiver<View>);

impl HardwareWatch {
    /// The hardware, waiting for it until the deadline.
    pub async fn ready(&self, deadline: Deadline) -> Result<Arc<Hardware>, NotReady> {
        let mut views = self.0.clone();
        // Whatever ends the wait, what is known then is the answer.
        let _ = deadline
            .run(views.wait_for(|view| view.hardware.is_some()))
            .await;
        let view = self.0.borrow();
        let found = view.hardware.clone();
        found.ok_or_else(|| NotReady(view.problem().unwrap_or_default()))
    }

    /// Waits until it is known whether there is a driver, or known that this takes long.
    pub async fn settled(&self) {
        let is_settled = |view: &View| view.known != Known::Unseen || view.silent_since.is_some();
        // The probe ends without a result only when the process ends.
        let _ = self.0.clone().wait_for(is_settled).await;
    }

    /// Waits until something else is known than when this value was last asked to wait.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The probe has ended, so the process is ending as well.
            std::future::pending::<()>().await;
        }
    }

    /// The hardware, if there is a driver.
    pub fn now(&self) -> Option<Arc<Hardware>> {
        self.0.borrow().hardware.clone()
    }

    /// What is known of the driver and its GPUs.
    pub fn known(&self) -> Known {
        self.0.borrow().known.clone()
    }

    /// What is wrong with the driver as a whole, if anything is.
    pub fn problem(&self) -> Option<String> {
        self.0.borrow().problem()
    }

    /// Since when a look hangs, if one does.
    pub fn silent_since(&self) -> Option<Instant> {
        self.0.borrow().silent_since
    }

    /// Hardware that never changes.
    #[cfg(test)]
    pub(crate) fn fixed(hardware: Hardware) -> Self {
        let (views, watch) = Self::test();
        views.set(Some(hardware));
        watch
    }

    /// Hardware that a test changes.
    #[cfg(test)]
    pub(crate) fn test() -> (TestHardware, Self) {
        let (views, watch) = watch::channel(View::default());
        (TestHardware(views), Self(watch))
    }
}

/// The hand of a test on what is known.
#[cfg(test)]
pub(crate) struct TestHardware(watch::Sender<View>);

#[cfg(test)]
impl TestHardware {
    pub(crate) fn set(&self, hardware: Option<Hardware>) {
        self.0.send_modify(|view| {
            view.known = match &hardware {
                Some(hardware) => Known::Present(hardware.inventory.clone()),
                None => Known::Absent {
                    why: "a test took it away".to_owned(),
                    last: view.known.last().cloned(),
                },
            };
            view.hardware = hardware.map(Arc::new);
        });
    }
}
