//! Sets the time slices of GPUs.
//!
//! The lock of the GPU is the caller's business.

mod nvidia_smi;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tessera_api::Interval;
use tessera_device::GpuUuid;
use tessera_shell::logging::chain;
use thiserror::Error;
use tracing::{info, warn};

pub use self::nvidia_smi::NvidiaSmi;
use crate::blocking::{self, NoAnswer};
use crate::deadline::Deadline;
use crate::driver_root::{DriverRootError, Missing};

/// What can be done about the time slices of this node's GPUs. Every call may block until its limit.
pub trait TimeSliceOperations: Send + Sync + 'static {
    /// Lets any number of programs use the GPU.
    fn admit_all(&self, gpu: &GpuUuid, limit: Deadline) -> Result<(), TimeSliceError>;

    /// Sets the time slice of the GPU.
    fn set(&self, gpu: &GpuUuid, interval: Interval, limit: Deadline)
    -> Result<(), TimeSliceError>;
}

/// A time slice that was not set.
#[derive(Debug, Error)]
pub enum TimeSliceError {
    /// There is no driver to ask.
    #[error(transparent)]
    Driver(#[from] DriverRootError),
    /// The driver came without the program.
    #[error(
        "the time slice of a GPU is set by a program of the driver, but {}",
        Missing::Smi
    )]
    NoProgram,
    /// The program does not start.
    #[error("run {} to set the time slice of GPU {gpu}", program.display())]
    Start {
        /// The GPU.
        gpu: GpuUuid,
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The program ended without success.
    #[error(
        "nvidia-smi {arguments} ended with {} and said: {said}",
        code.map_or_else(|| "a signal".to_owned(), |code| format!("code {code}"))
    )]
    Refused {
        /// What it was called with.
        arguments: String,
        /// Its exit code, if a signal did not end it.
        code: Option<i32>,
        /// The beginning of what it printed.
        said: String,
    },
    /// The program did not end in time.
    #[error(
        "nvidia-smi has not set the time slice of GPU {gpu} in time; the kubelet will call again"
    )]
    TimedOut {
        /// The GPU.
        gpu: GpuUuid,
    },
    /// The call could not begin, or ended in a panic.
    #[error("the time slice of GPU {gpu} was not set: {problem}")]
    NotRun {
        /// The GPU.
        gpu: GpuUuid,
        /// Why not.
        problem: String,
    },
}

impl TimeSliceError {
    /// Whether there is nothing to set back: the GPU has no time slice, or is gone with its setting, or the
    /// whole driver is.
    ///
    /// By the codes of nvidia-smi's manual page: the operation is not available on the device (3), the GPU
    /// is not found (6), the driver is not loaded (9), its library knows no such function (13), the GPU has
    /// fallen off the bus (15).
    fn leaves_nothing(&self) -> bool {
        matches!(
            self,
            Self::Driver(DriverRootError::OpenRoot { .. } | DriverRootError::FindNvml { .. })
                | Self::Refused {
                    code: Some(3 | 6 | 9 | 13 | 15),
                    ..
                }
        )
    }
}

/// The same without blocking.
#[derive(Clone)]
pub struct TimeSlices(Arc<dyn TimeSliceOperations>);

impl fmt::Debug for TimeSlices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TimeSlices")
    }
}

impl TimeSlices {
    /// By these operations.
    pub fn by(operations: impl TimeSliceOperations) -> Self {
        Self(Arc::new(operations))
    }

    /// Sets the time slice of a GPU, and lets any number of programs use it: a GPU that is open to one alone
    /// has no turns.
    pub async fn set(
        &self,
        gpu: &GpuUuid,
        interval: Interval,
        limit: Deadline,
    ) -> Result<(), TimeSliceError> {
        self.run(gpu, limit, move |slices, gpu| {
            slices.admit_all(gpu, limit)?;
            slices.set(gpu, interval, limit)
        })
        .await?;
        info!(%gpu, interval = interval.as_str(), "time slice set");
        Ok(())
    }

    /// Sets the time slice of a GPU back to the NVIDIA driver's own.
    ///
    /// Where it is not certain that it was set, a program that refuses is taken at its word: the GPU may be
    /// one that cannot be set, and its claim must end.
    pub async fn reset(
        &self,
        gpu: &GpuUuid,
        was_set: bool,
        limit: Deadline,
    ) -> Result<(), TimeSliceError> {
        let done = self.run(gpu, limit, move |slices, gpu| {
            slices.set(gpu, Interval::Default, limit)
        });
        match done.await {
            Ok(()) => info!(%gpu, "time slice set back"),
            Err(error) if error.leaves_nothing() => {
                warn!(%gpu, error = %chain(&error), "there is no time slice to set back");
            }
            Err(error @ TimeSliceError::Refused { .. }) if !was_set => {
                warn!(%gpu, %error, "the time slice was not set back, and may not have been set before");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn run(
        &self,
        gpu: &GpuUuid,
        limit: Deadline,
        call: impl FnOnce(&dyn TimeSliceOperations, &GpuUuid) -> Result<(), TimeSliceError>
        + Send
        + 'static,
    ) -> Result<(), TimeSliceError> {
        let (operations, of) = (self.0.clone(), gpu.clone());
        let answer = blocking::run("time-slice", limit, move || call(&*operations, &of)).await;
        let gpu = gpu.clone();
        answer.map_err(|none| match none {
            NoAnswer::TimedOut => TimeSliceError::TimedOut { gpu },
            NoAnswer::NotRun(problem) => TimeSliceError::NotRun { gpu, problem },
        })?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use tessera_device::testing::gpu_uuid;

    use super::*;

    /// Notes what is done, and ends every setting with this code.
    #[derive(Clone, Default)]
    struct Noting(Arc<Mutex<Vec<String>>>, i32);

    impl TimeSliceOperations for Noting {
        fn admit_all(&self, _: &GpuUuid, _: Deadline) -> Result<(), TimeSliceError> {
            self.0.lock().unwrap().push("admit all".to_owned());
            Ok(())
        }

        fn set(&self, _: &GpuUuid, slice: Interval, _: Deadline) -> Result<(), TimeSliceError> {
            self.0.lock().unwrap().push(slice.as_str().to_owned());
            if self.1 == 0 {
                return Ok(());
            }
            Err(TimeSliceError::Refused {
                arguments: "compute-policy".to_owned(),
                code: Some(self.1),
                said: "no".to_owned(),
            })
        }
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(10))
    }

    #[tokio::test]
    async fn a_gpu_is_opened_to_all_before_it_is_set_and_left_so_when_it_is_set_back() {
        let noting = Noting::default();
        let slices = TimeSlices::by(noting.clone());
        slices
            .set(&gpu_uuid(0), Interval::Long, soon())
            .await
            .unwrap();
        slices.reset(&gpu_uuid(0), true, soon()).await.unwrap();
        let noted = noting.0.lock().unwrap().clone();
        assert_eq!(noted, ["admit all", "Long", "Default"]);
    }

    #[tokio::test]
    async fn a_refusal_to_set_back_is_an_error_only_where_something_may_be_left() {
        for (code, was_set, fails) in [
            (255, true, true),
            (4, true, true),
            (255, false, false),
            (3, true, false),
            (6, true, false),
            (9, true, false),
            (15, true, false),
        ] {
            let slices = TimeSlices::by(Noting(Arc::default(), code));
            let done = slices.reset(&gpu_uuid(0), was_set, soon()).await;
            assert_eq!(done.is_err(), fails, "{code} {was_set}");
            let done = slices.set(&gpu_uuid(0), Interval::Short, soon()).await;
            assert!(done.is_err(), "a refusal to set is always an error");
        }
    }

    /// A node whose driver has been removed.
    struct Nothing;

    impl TimeSliceOperations for Nothing {
        fn admit_all(&self, _: &GpuUuid, _: Deadline) -> Result<(), TimeSliceError> {
            Err(TimeSliceError::NoProgram)
        }

        fn set(&self, _: &GpuUuid, _: Interval, _: Deadline) -> Result<(), TimeSliceError> {
            Err(TimeSliceError::Driver(DriverRootError::FindNvml {
                mounted: "/driver-root".into(),
                host: "/".into(),
            }))
        }
    }

    #[tokio::test]
    async fn a_driver_that_was_removed_keeps_no_claim_from_ending_and_serves_none() {
        let slices = TimeSlices::by(Nothing);
        let gpu = gpu_uuid(0);
        slices.reset(&gpu, true, soon()).await.unwrap();
        assert!(slices.set(&gpu, Interval::Short, soon()).await.is_err());
    }

    #[tokio::test]
    async fn nothing_is_begun_when_no_time_is_left_for_it() {
        let noting = Noting::default();
        let slices = TimeSlices::by(noting.clone());
        let late = Deadline::after(Duration::ZERO);
        let set = slices.set(&gpu_uuid(0), Interval::Long, late).await;
        assert!(
            matches!(set, Err(TimeSliceError::TimedOut { .. })),
            "{set:?}"
        );
        assert!(noting.0.lock().unwrap().is_empty());
    }
}
