//! One lock for the channels of the node, across tasks and processes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tessera_prepare::channel::ChannelGuard;
use thiserror::Error;
use tokio::sync::Mutex;

use crate::claims::ClaimError;
use crate::deadline::Deadline;
use crate::lock_file::{self, Held};
use crate::locks::LockError;

/// Somebody else held the lock until the deadline.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the IMEX channels of this node are being worked on for another claim; the kubelet will call again"
)]
pub struct ChannelsBusy;

/// The lock of the node's channels.
#[derive(Debug)]
pub struct ChannelsLock {
    path: PathBuf,
    mutex: Arc<Mutex<()>>,
}

/// The lock, held until this is dropped.
#[derive(Debug)]
pub struct LockedChannels(#[expect(dead_code, reason = "it is held, not looked at")] Held);

impl ChannelGuard for LockedChannels {}

impl ChannelsLock {
    /// By a lock on a file in this directory.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            path: directory.join("channels.lock"),
            mutex: Arc::default(),
        }
    }

    /// Takes the lock, waiting until the deadline.
    pub async fn take(&self, deadline: Deadline) -> Result<LockedChannels, ClaimError> {
        let taken = lock_file::take(self.mutex.clone(), &self.path, deadline).await;
        let taken = taken.map_err(LockError::from)?;
        Ok(LockedChannels(taken.ok_or(ChannelsBusy)?))
    }
}
