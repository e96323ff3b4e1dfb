//! Switches MIG modes, and makes and destroys MIG devices.
//!
//! Each call loads NVML for itself, as looks at the hardware do, and runs on a thread of its own: one
//! that hangs holds up nobody but its caller, and that one until its deadline. The lock of the GPU is the
//! caller's business.

mod nvml;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tessera_device::mig::{MigInstance, MigMode, MigState};
use tessera_device::{GpuUuid, MigUuid};
use tessera_nvml::{MigErrorReason, NvmlError};
use tessera_prepare::step::MigDevice;
use thiserror::Error;

pub use self::nvml::NvmlMig;
use crate::blocking::{self, NoAnswer};
use crate::deadline::Deadline;
use crate::driver_root::DriverRootError;

/// What can be done to the MIG side of this node's GPUs. Every call may block for long.
pub trait MigOperations: Send + Sync + 'static {
    /// The MIG sides of those of these GPUs that have one.
    fn states(&self, gpus: &BTreeSet<GpuUuid>) -> Result<Vec<(GpuUuid, MigState)>, MigError>;

    /// Puts a GPU into a mode. One that is in it stays as it is.
    fn switch(&self, gpu: &GpuUuid, mode: MigMode) -> Result<(), MigError>;

    /// Makes a device. If this fails, nothing is left of it but what [`Self::destroy`] finds.
    fn create(&self, device: &MigDevice) -> Result<MigInstance, MigError>;

    /// Destroys a device: the one with its identity, or else what lies at its place. It may be gone.
    fn destroy(&self, device: &MigDevice) -> Result<(), MigError>;
}

/// Something that was not done to a GPU's MIG side.
#[derive(Debug, Error)]
pub enum MigError {
    /// There is no driver to ask.
    #[error(transparent)]
    Driver(#[from] DriverRootError),
    /// NVML does not start.
    #[error(transparent)]
    Nvml(#[from] NvmlError),
    /// NVML refused.
    #[error(transparent)]
    Refused(#[from] tessera_nvml::MigError),
    /// The mode would change with a reset, which ends what runs on the GPU.
    #[error(
        "MIG mode of GPU {gpu} would be {mode} only after a reset; reset the GPU or reboot the node"
    )]
    NeedsReset {
        /// The GPU.
        gpu: GpuUuid,
        /// The mode that was asked for.
        mode: MigMode,
    },
    /// The call did not come back.
    #[error(
        "the NVIDIA driver has not come back from {action} in time; the kubelet will call again"
    )]
    TimedOut {
        /// What it was asked for.
        action: &'static str,
    },
    /// The call could not begin, or ended in a panic.
    #[error("{action} was not done: {problem}")]
    NotRun {
        /// What was to be done.
        action: &'static str,
        /// Why not.
        problem: String,
    },
}

impl MigError {
    /// Whether somebody uses what was to be changed, so that a later attempt may succeed.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Refused(error) if error.reason == MigErrorReason::InUse)
    }
}

/// How long it is known that a device was destroyed: longer than a look at the hardware takes, which may
/// still show it.
const REMEMBERED: Duration = Duration::from_mins(5);

/// The same without blocking.
#[derive(Clone)]
pub struct Mig {
    operations: Arc<dyn MigOperations>,
    destroyed: Arc<Mutex<Vec<(Instant, MigUuid)>>>,
}

impl fmt::Debug for Mig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mig")
    }
}

impl Mig {
    /// By these operations.
    pub fn by(operations: impl MigOperations) -> Self {
        Self {
            operations: Arc::new(operations),
            destroyed: Arc::default(),
        }
    }

    /// The devices that were destroyed a short while ago, or are being destroyed.
    pub fn destroyed(&self) -> BTreeSet<MigUuid> {
        let mut destroyed = self.lock_destroyed();
        destroyed.retain(|(begun, _)| begun.elapsed() < REMEMBERED);
        destroyed.iter().map(|(_, device)| device.clone()).collect()
    }

    fn lock_destroyed(&self) -> MutexGuard<'_, Vec<(Instant, MigUuid)>> {
        self.destroyed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`MigOperations::states`].
    pub async fn states(
        &self,
        gpus: BTreeSet<GpuUuid>,
        limit: Deadline,
    ) -> Result<Vec<(GpuUuid, MigState)>, MigError> {
        let action = "a look at the GPU's MIG mode";
        self.run(action, limit, move |mig| mig.states(&gpus)).await
    }

    /// See [`MigOperations::switch`].
    pub async fn switch(
        &self,
        gpu: GpuUuid,
        mode: MigMode,
        limit: Deadline,
    ) -> Result<(), MigError> {
        let action = "the switch of a GPU's MIG mode";
        self.run(action, limit, move |mig| mig.switch(&gpu, mode))
            .await
    }

    /// See [`MigOperations::create`].
    pub async fn create(
        &self,
        device: MigDevice,
        limit: Deadline,
    ) -> Result<MigInstance, MigError> {
        let action = "the creation of a MIG device";
        self.run(action, limit, move |mig| mig.create(&device))
            .await
    }

    /// See [`MigOperations::destroy`].
    pub async fn destroy(&self, device: MigDevice, limit: Deadline) -> Result<(), MigError> {
        let action = "the destruction of a MIG device";
        // Before it is: what a look shows from then on may be gone when it is read.
        let identity = device.identity.as_ref();
        self.lock_destroyed()
            .extend(identity.map(|identity| (Instant::now(), identity.uuid.clone())));
        self.run(action, limit, move |mig| mig.destroy(&device))
            .await
    }

    async fn run<T: Send + 'static>(
        &self,
        action: &'static str,
        limit: Deadline,
        call: impl FnOnce(&dyn MigOperations) -> Result<T, MigError> + Send + 'static,
    ) -> Result<T, MigError> {
        let operations = self.operations.clone();
        let answer = blocking::run("mig", limit, move || call(&*operations)).await;
        answer.map_err(|none| match none {
            NoAnswer::TimedOut => MigError::TimedOut { action },
            NoAnswer::NotRun(problem) => MigError::NotRun { action, problem },
        })?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tessera_device::testing::gpu_uuid;

    use super::*;

    /// Counts the switches that are begun.
    #[derive(Clone, Default)]
    struct Counting(Arc<AtomicUsize>);

    impl MigOperations for Counting {
        fn states(&self, _: &BTreeSet<GpuUuid>) -> Result<Vec<(GpuUuid, MigState)>, MigError> {
            Ok(Vec::new())
        }

        fn switch(&self, _: &GpuUuid, _: MigMode) -> Result<(), MigError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }

        fn create(&self, _: &MigDevice) -> Result<MigInstance, MigError> {
            unreachable!("nothing is created")
        }

        fn destroy(&self, _: &MigDevice) -> Result<(), MigError> {
            unreachable!("nothing is destroyed")
        }
    }

    #[tokio::test]
    async fn nothing_is_begun_when_no_time_is_left_for_it() {
        let begun = Counting::default();
        let mig = Mig::by(begun.clone());
        let switch = |limit| mig.switch(gpu_uuid(0), MigMode::On, limit);
        let late = switch(Deadline::after(Duration::ZERO)).await;
        assert!(matches!(late, Err(MigError::TimedOut { .. })), "{late:?}");
        switch(Deadline::after(Duration::from_secs(10)))
            .await
            .unwrap();
        assert_eq!(begun.0.load(Ordering::SeqCst), 1);
    }
}
