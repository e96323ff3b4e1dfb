//! Switches MIG modes, and makes and destroys MIG devices.
//!
//! Each call loads NVML for itself, as looks at the hardware do, and runs on a thread of its own: one
//! that hangs holds up nobody but its caller, and that one until its deadline. The lock of the GPU is the
//! caller's business.
//!
//! # Guarantees
//! What is begun on a GPU cannot be stopped, and goes on when its caller has given up and let go of the
//! GPU's lock. So the next change of that GPU begins only when the former has come to its end: whoever
//! takes back a device that was not made in time finds it.

mod nvml;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tessera_device::mig::{MigInstance, MigMode, MigState, Placement};
use tessera_device::{GpuUuid, MigUuid};
use tessera_nvml::{MigErrorReason, NvmlError};
use tessera_prepare::step::MigDevice;
use thiserror::Error;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

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

/// How long a device counts as the driver's own after no record tells of it any more: longer than a look at
/// the hardware takes, which may still show it.
const REMEMBERED: Duration = Duration::from_mins(5);

/// MIG devices that the driver has made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnMig {
    /// Which.
    pub devices: BTreeSet<MigUuid>,
    /// Where they lie, or lay.
    pub places: BTreeSet<(GpuUuid, Placement)>,
}

impl OwnMig {
    /// Adds a device.
    pub fn add(&mut self, device: &MigDevice) {
        let identity = device.identity.as_ref();
        let uuid = identity.map(|identity| identity.uuid.clone());
        self.devices.extend(uuid);
        self.places.insert((device.gpu.clone(), device.placement));
    }
}

/// The devices that the driver has made, and until when each was one of them for certain.
#[derive(Default)]
struct Remembered {
    devices: BTreeMap<MigUuid, Instant>,
    places: BTreeMap<(GpuUuid, Placement), Instant>,
}

impl Remembered {
    /// Takes these in, and returns all that are not too long ago.
    fn with(&mut self, recorded: OwnMig) -> OwnMig {
        OwnMig {
            devices: lately(&mut self.devices, recorded.devices),
            places: lately(&mut self.places, recorded.places),
        }
    }
}

fn lately<T: Clone + Ord>(known: &mut BTreeMap<T, Instant>, now: BTreeSet<T>) -> BTreeSet<T> {
    let seen = Instant::now();
    known.extend(now.into_iter().map(|one| (one, seen)));
    known.retain(|_, seen| seen.elapsed() < REMEMBERED);
    known.keys().cloned().collect()
}

/// The same without blocking.
#[derive(Clone)]
pub struct Mig {
    operations: Arc<dyn MigOperations>,
    own: Arc<Mutex<Remembered>>,
    /// Whose turn it is to change a GPU.
    turns: Arc<Mutex<BTreeMap<GpuUuid, Arc<Turn<()>>>>>,
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
            own: Arc::default(),
            turns: Arc::default(),
        }
    }

    /// The devices that the driver has made: those that records tell of now, and those that they told of,
    /// or that were destroyed, a short while ago.
    pub fn own(&self, recorded: OwnMig) -> OwnMig {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.with(recorded)
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
        let of = gpu.clone();
        self.change(&of, action, limit, move |mig| mig.switch(&gpu, mode))
            .await
    }

    /// See [`MigOperations::create`].
    pub async fn create(
        &self,
        device: MigDevice,
        limit: Deadline,
    ) -> Result<MigInstance, MigError> {
        let action = "the creation of a MIG device";
        let gpu = device.gpu.clone();
        self.change(&gpu, action, limit, move |mig| mig.create(&device))
            .await
    }

    /// See [`MigOperations::destroy`].
    pub async fn destroy(&self, device: MigDevice, limit: Deadline) -> Result<(), MigError> {
        let action = "the destruction of a MIG device";
        // Before it is: what a look shows from then on may be gone when it is read.
        let mut ending = OwnMig::default();
        ending.add(&device);
        self.own(ending);
        let gpu = device.gpu.clone();
        self.change(&gpu, action, limit, move |mig| mig.destroy(&device))
            .await
    }

    /// Runs a call that changes the GPU, once what was begun on it before has ended.
    async fn change<T: Send + 'static>(
        &self,
        gpu: &GpuUuid,
        action: &'static str,
        limit: Deadline,
        call: impl FnOnce(&dyn MigOperations) -> Result<T, MigError> + Send + 'static,
    ) -> Result<T, MigError> {
        let turn = limit.run(self.turn_of(gpu)).await;
        let turn = turn.map_err(|_| MigError::TimedOut { action })?;
        let call = move |mig: &dyn MigOperations| {
            // It ends with the call, and not with whoever waits for that.
            let _turn = turn;
            call(mig)
        };
        self.run(action, limit, call).await
    }

    fn turn_of(&self, gpu: &GpuUuid) -> impl Future<Output = OwnedMutexGuard<()>> + use<> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(gpu.clone()).or_default().clone().lock_owned()
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
    use std::sync::mpsc::{Receiver, Sender, channel};
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

    /// Begins a switch of the first GPU and ends it when it is told to; others are switched at once.
    struct Slow(Counting, Mutex<Receiver<()>>);

    impl Slow {
        fn new() -> (Self, Counting, Sender<()>) {
            let (end, ends) = channel();
            let counting = Counting::default();
            (Self(counting.clone(), Mutex::new(ends)), counting, end)
        }
    }

    impl MigOperations for Slow {
        fn states(&self, gpus: &BTreeSet<GpuUuid>) -> Result<Vec<(GpuUuid, MigState)>, MigError> {
            self.0.states(gpus)
        }

        fn switch(&self, gpu: &GpuUuid, mode: MigMode) -> Result<(), MigError> {
            self.0.switch(gpu, mode)?;
            if *gpu == gpu_uuid(0) {
                self.1.lock().unwrap().recv().unwrap();
            }
            Ok(())
        }

        fn create(&self, device: &MigDevice) -> Result<MigInstance, MigError> {
            self.0.create(device)
        }

        fn destroy(&self, device: &MigDevice) -> Result<(), MigError> {
            self.0.destroy(device)
        }
    }

    #[tokio::test]
    async fn what_outlives_its_caller_keeps_its_gpu_from_changes_and_no_other() {
        let (slow, begun, end) = Slow::new();
        let mig = Mig::by(slow);
        let switch = |gpu, limit| mig.switch(gpu_uuid(gpu), MigMode::On, Deadline::after(limit));
        let (short, long) = (Duration::from_millis(50), Duration::from_secs(10));
        for _ in 0..2 {
            let late = switch(0, short).await;
            assert!(matches!(late, Err(MigError::TimedOut { .. })), "{late:?}");
        }
        assert_eq!(begun.0.load(Ordering::SeqCst), 1);
        switch(1, long).await.unwrap();
        let next = switch(0, long);
        end.send(()).unwrap();
        end.send(()).unwrap();
        next.await.unwrap();
        assert_eq!(begun.0.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn what_was_recorded_or_destroyed_of_late_is_the_drivers_own() {
        let uuid = |number: u32| -> MigUuid {
            format!("MIG-{number:08x}-0000-0000-0000-000000000000")
                .parse()
                .unwrap()
        };
        let own = |numbers: &[u8]| OwnMig {
            devices: numbers
                .iter()
                .map(|number| uuid((*number).into()))
                .collect(),
            places: numbers
                .iter()
                .map(|start| {
                    (
                        gpu_uuid(0),
                        Placement {
                            start: *start,
                            size: 1,
                        },
                    )
                })
                .collect(),
        };
        let mig = Mig::by(Counting::default());
        assert_eq!(mig.own(own(&[1])), own(&[1]));
        // Its record has gone, and another has come.
        assert_eq!(mig.own(own(&[2])), own(&[1, 2]));
        assert_eq!(mig.own(own(&[])), own(&[1, 2]));
    }
}
