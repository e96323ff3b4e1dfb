//! Holds containers to their shares of a GPU's memory, when their hooks ask for it.
//!
//! # Order
//! Which container is held to what is written down before the driver is told, and the hook hears of success after.
//! So a process that dies in between leaves a limit that is known, or a wish that the hook repeats; a hook that
//! hears nothing lets no container start. A limit disappears with its cgroup, and what was written down is removed
//! when that is gone.
//!
//! # Assumptions
//! What comes over the socket comes from root on this node: the socket is nobody else's to open. It names no file but
//! below the directory of these notes, and no cgroup but below the root of the hierarchy.

mod nvml;
mod socket;
mod written;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tessera_device::{Bytes, GpuUuid, IdError};
use tessera_limit_call::{Answer, Request, RequestError};
use tessera_nvml::{LimitError, NvmlError};
use tessera_sharing::{Holding, InUse, hold};
use tessera_shell::logging::chain;
use thiserror::Error;
use tokio::sync::Mutex;
use tracing::{info, warn};

pub use self::nvml::NvmlLimits;
pub use self::socket::serve;
pub use self::written::Cgroups;
use self::written::Written;
use crate::blocking::{self, NoAnswer};
use crate::deadline::Deadline;
use crate::driver_root::DriverRootError;
use crate::file_error::FileError;

/// Bound of one call of the driver.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// What can be done about the limits of this node's containers. Every call may block for long.
pub trait LimitOperations: Send + Sync + 'static {
    /// Lets the container with this cgroup, below the root of the hierarchy, have no more of the GPU.
    fn limit(&self, gpu: &GpuUuid, cgroup: &str, memory: Bytes) -> Result<(), SetError>;
}

/// The driver was not told.
#[derive(Debug, Error)]
pub enum SetError {
    /// There is no driver to ask.
    #[error(transparent)]
    Driver(#[from] DriverRootError),
    /// It cannot be asked.
    #[error(transparent)]
    Nvml(#[from] NvmlError),
    /// It refuses.
    #[error(transparent)]
    Refused(#[from] LimitError),
}

/// Why a container is not held to its share.
#[derive(Debug, Error)]
pub enum NotHeld {
    /// The wish is none.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The GPU is none.
    #[error(transparent)]
    Gpu(#[from] IdError),
    /// Another container has the share.
    #[error(transparent)]
    InUse(#[from] InUse),
    /// It is not known which container has the share.
    #[error(
        "{} cannot be understood, and says which container has the share; remove it when none has", path.display()
    )]
    Unreadable {
        /// The note.
        path: PathBuf,
    },
    /// It could not be written down.
    #[error(transparent)]
    File(#[from] FileError),
    /// The driver was not told.
    #[error(transparent)]
    Set(#[from] SetError),
    /// The driver has not answered.
    #[error("the NVIDIA driver has not answered: {0}")]
    NoAnswer(#[from] NoAnswer),
}

/// Holds the containers of this node.
pub struct MemoryLimits<O> {
    operations: Arc<O>,
    /// One wish at a time: what a container may have depends on what else is held.
    written: Mutex<Written>,
}

impl<O: LimitOperations> MemoryLimits<O> {
    /// With what is written down in `directory`, which is made when it is needed.
    pub fn new(operations: O, directory: PathBuf, cgroups: Cgroups) -> Self {
        Self {
            operations: Arc::new(operations),
            written: Mutex::new(Written::new(directory, cgroups)),
        }
    }

    /// Does what a line of the socket asks for.
    pub async fn answer(&self, line: &str) -> Answer {
        match self.hold(line).await {
            Ok(()) => Answer::Held,
            Err(error) => {
                let error = chain(&error).to_string();
                warn!(
                    error,
                    "a container is not held to its share and will not start"
                );
                Answer::Refused(error)
            }
        }
    }

    async fn hold(&self, line: &str) -> Result<(), NotHeld> {
        let Request {
            share,
            gpu,
            bytes,
            cgroup,
        } = Request::parse(line)?;
        let wanted = Holding {
            share,
            gpu: gpu.parse()?,
            memory: Bytes(bytes),
            cgroup,
        };
        let written = self.written.lock().await;
        let held = written.held()?;
        if held.unreadable.contains(&wanted.share) {
            let path = written.path(&wanted.share);
            return Err(NotHeld::Unreadable { path });
        }
        let memory = hold(&wanted, held.holdings.iter())?;
        written.write(&wanted)?;
        let Holding {
            share, gpu, cgroup, ..
        } = wanted;
        let operations = self.operations.clone();
        let (of, at) = (gpu.clone(), cgroup.clone());
        let call = move || operations.limit(&of, &at, memory);
        blocking::run("memory-limit", Deadline::after(CALL_LIMIT), call).await??;
        info!(share, %gpu, cgroup, %memory, "a container is held to its share");
        Ok(())
    }

    /// Removes the notes of containers that are gone.
    pub async fn tidy(&self) {
        if let Err(error) = self.written.lock().await.held() {
            warn!(error = %chain(&error), "what is written down of memory limits cannot be read");
        }
    }
}

#[cfg(test)]
mod tests;
