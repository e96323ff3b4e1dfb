//! One lock per GPU, across tasks and processes.
//!
//! During an upgrade two plugin processes run at once, so the lock is a lock file (`flock`), and
//! within a process a mutex in front of it, which wakes waiters in order instead of letting them
//! poll. Locks are taken in the order of the GPUs' UUIDs, so that no two holders wait for each
//! other. The kernel releases a file's lock when its process dies, whatever it was doing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tessera_device::GpuUuid;
use tessera_prepare::ledger::GpuGuard;
use thiserror::Error;

use crate::deadline::Deadline;
use crate::file_error::FileError;
use crate::lock_file::{self, Held};

/// A lock that was not obtained.
#[derive(Debug, Error)]
pub enum LockError {
    /// The lock file could not be opened or locked.
    #[error(transparent)]
    File(#[from] FileError),
    /// Somebody else held it until the deadline.
    #[error("GPU {gpu} is being worked on for another claim; the kubelet will call again")]
    Busy {
        /// The GPU.
        gpu: GpuUuid,
    },
}

/// The locks of a node's GPUs.
#[derive(Debug)]
pub struct GpuLocks {
    directory: PathBuf,
    mutexes: Mutex<BTreeMap<GpuUuid, Arc<tokio::sync::Mutex<()>>>>,
}

/// Locks that are held until this is dropped.
#[derive(Debug)]
pub struct HeldGpus {
    held: Vec<(GpuUuid, Held)>,
}

impl GpuGuard for HeldGpus {
    fn covers(&self, gpu: &GpuUuid) -> bool {
        self.held.iter().any(|(held, ..)| held == gpu)
    }
}

impl GpuLocks {
    /// Uses lock files in `directory`, making it if need be.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self::at(directory))
    }

    /// Uses lock files in `directory`, which is made when the first is needed.
    pub fn at(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            mutexes: Mutex::default(),
        }
    }

    /// Takes the locks of all `gpus`, waiting until the deadline.
    pub async fn acquire(
        &self,
        gpus: &BTreeSet<GpuUuid>,
        deadline: Deadline,
    ) -> Result<HeldGpus, LockError> {
        let mut held = Vec::with_capacity(gpus.len());
        for gpu in gpus {
            let path = self.directory.join(format!("{gpu}.lock"));
            let taken = lock_file::take(self.mutex(gpu), &path, deadline).await?;
            let taken = taken.ok_or_else(|| LockError::Busy { gpu: gpu.clone() })?;
            held.push((gpu.clone(), taken));
        }
        Ok(HeldGpus { held })
    }

    fn mutex(&self, gpu: &GpuUuid) -> Arc<tokio::sync::Mutex<()>> {
        let mut mutexes = self.mutexes.lock().unwrap_or_else(PoisonError::into_inner);
        mutexes.entry(gpu.clone()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tessera_device::testing::gpu_uuid;

    use super::*;

    fn set(minors: &[u32]) -> BTreeSet<GpuUuid> {
        minors.iter().map(|minor| gpu_uuid(*minor)).collect()
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_millis(30))
    }

    #[tokio::test]
    async fn what_one_task_holds_another_waits_for() {
        let directory = tempfile::tempdir().unwrap();
        let locks = GpuLocks::open(directory.path()).unwrap();
        let held = locks.acquire(&set(&[0, 1]), soon()).await.unwrap();
        assert!(held.covers(&gpu_uuid(0)) && !held.covers(&gpu_uuid(2)));
        locks.acquire(&set(&[2]), soon()).await.unwrap();
        assert!(matches!(
            locks.acquire(&set(&[1, 2]), soon()).await,
            Err(LockError::Busy { gpu }) if gpu == gpu_uuid(1)
        ));
        drop(held);
        locks.acquire(&set(&[1, 2]), soon()).await.unwrap();
    }

    #[tokio::test]
    async fn what_another_process_holds_is_waited_for_until_it_lets_go() {
        let directory = tempfile::tempdir().unwrap();
        // Two values share nothing but the files, as two processes do.
        let ours = GpuLocks::open(directory.path()).unwrap();
        let theirs = GpuLocks::open(directory.path()).unwrap();
        let held = theirs.acquire(&set(&[0]), soon()).await.unwrap();
        assert!(matches!(
            ours.acquire(&set(&[0]), soon()).await,
            Err(LockError::Busy { .. })
        ));
        let wait = tokio::spawn(async move {
            ours.acquire(&set(&[0]), Deadline::after(Duration::from_secs(10)))
                .await
                .is_ok()
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(held);
        assert!(wait.await.unwrap());
    }
}
