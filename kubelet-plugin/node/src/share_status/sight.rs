//! What the containers of shares have, as notes and the driver tell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tessera_device::GpuUuid;
use tessera_sharing::{Holding, Promised, ShareState, running, tenants};
use tessera_shell::logging::chain;
use thiserror::Error;
use tracing::debug;

use crate::blocking::{self, NoAnswer};
use crate::deadline::Deadline;
use crate::file_error::FileError;
use crate::locks::{GpuLocks, LockError};
use crate::memory_limits::{LimitOperations, SetError, Written};

/// How long a card is waited for that a hook or the agent works on, or a call that has not come back.
const LOCK_LIMIT: Duration = Duration::from_millis(200);

/// Bound of the calls of the driver for one card.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Looks at cards.
pub struct Sight<O> {
    operations: Arc<O>,
    notes: Written,
    locks: GpuLocks,
}

/// What was seen of the shares of a card.
#[derive(Debug, Default)]
pub(super) struct CardSight {
    running: BTreeMap<String, ShareState>,
    /// Nobody knows which container has these.
    unknown: Vec<String>,
}

/// What was seen of a share.
pub(super) enum Seen<'s> {
    /// Nothing.
    Unknown,
    /// No container has it.
    NoContainer,
    /// A container has it.
    Container(&'s ShareState),
}

/// A card was not looked at.
#[derive(Debug, Error)]
enum Unseen {
    #[error(transparent)]
    Locked(#[from] LockError),
    #[error(transparent)]
    Notes(#[from] FileError),
    #[error(transparent)]
    Driver(#[from] SetError),
    #[error("the NVIDIA driver has not answered: {0}")]
    NoAnswer(#[from] NoAnswer),
}

impl CardSight {
    pub(super) fn of(&self, share: &str) -> Seen<'_> {
        match self.running.get(share) {
            Some(state) => Seen::Container(state),
            None if self.unknown.iter().any(|unknown| unknown == share) => Seen::Unknown,
            None => Seen::NoContainer,
        }
    }
}

impl<O: LimitOperations> Sight<O> {
    /// Of the containers that notes name. `locks` are those of whoever sets limits.
    pub fn new(operations: Arc<O>, notes: Written, locks: GpuLocks) -> Self {
        Self {
            operations,
            notes,
            locks,
        }
    }

    /// Looks at the cards of these shares, all at the same time. One that cannot be looked at is not among what is
    /// returned, and is looked at again in the next round.
    pub(super) async fn look(&self, promised: &[Promised]) -> BTreeMap<GpuUuid, CardSight> {
        let gpus: BTreeSet<&GpuUuid> = promised.iter().map(|share| &share.gpu).collect();
        let looks = gpus.into_iter().map(|gpu| async move {
            let shares = promised.iter().filter(|share| share.gpu == *gpu);
            match self.card(gpu, shares.cloned().collect()).await {
                Ok(sight) => Some((gpu.clone(), sight)),
                Err(error) => {
                    debug!(%gpu, error = %chain(&error), "a card is not looked at in this round");
                    None
                }
            }
        });
        join_all(looks).await.into_iter().flatten().collect()
    }

    /// The card's lock is held until the driver has returned, however long whoever waits for it waits: so no call is
    /// begun beside one that hangs.
    async fn card(&self, gpu: &GpuUuid, promised: Vec<Promised>) -> Result<CardSight, Unseen> {
        let cards = BTreeSet::from([gpu.clone()]);
        let lock = self
            .locks
            .acquire(&cards, Deadline::after(LOCK_LIMIT))
            .await?;
        let (operations, notes, gpu) = (self.operations.clone(), self.notes.clone(), gpu.clone());
        let work = move || {
            let _lock = lock;
            seen(&*operations, &notes, &gpu, &promised)
        };
        blocking::run("share-status", Deadline::after(CALL_LIMIT), work).await?
    }
}

fn seen<O: LimitOperations>(
    operations: &O,
    notes: &Written,
    gpu: &GpuUuid,
    promised: &[Promised],
) -> Result<CardSight, Unseen> {
    let all = notes.all()?;
    let held = all.holdings.iter().filter(|held| held.gpu == *gpu);
    let held: Vec<Holding> = held.cloned().collect();
    let cgroups: BTreeSet<&String> = held.iter().map(|holding| &holding.cgroup).collect();
    let cgroups: Vec<String> = cgroups.into_iter().cloned().collect();
    let mut sight = CardSight {
        unknown: all.unreadable.clone(),
        ..CardSight::default()
    };
    // A driver that has nothing to tell is left alone.
    if !cgroups.is_empty() {
        let card = operations.look(gpu, &cgroups)?;
        sight.running = running(&held, &tenants(promised, &held, &card.containers));
    }
    Ok(sight)
}
