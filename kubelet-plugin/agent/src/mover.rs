//! One tick: every card on which containers have shares is looked at, and its limits are moved.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tessera_device::{Bytes, GpuUuid};
use tessera_kubelet_plugin::blocking::{self, NoAnswer};
use tessera_kubelet_plugin::deadline::Deadline;
use tessera_kubelet_plugin::file_error::FileError;
use tessera_kubelet_plugin::journal::JournalError;
use tessera_kubelet_plugin::locks::{GpuLocks, LockError};
use tessera_kubelet_plugin::memory_limits::{
    LimitOperations, Promises, ROUNDS, Round, SetError, Written, round,
};
use tessera_sharing::{Holder, Holding, Limit, Promised, ShareState, Tenant};
use thiserror::Error;

/// How long a card is waited for that a hook works on, or a call that has not come back: then the next tick tries.
const LOCK_LIMIT: Duration = Duration::from_millis(200);

/// Bound of the calls of the driver for one card.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Moves limits.
pub struct Mover<O, P> {
    operations: Arc<O>,
    promises: Arc<P>,
    notes: Written,
    locks: GpuLocks,
}

/// What a tick saw of one card.
#[derive(Debug)]
pub struct CardReport {
    /// The card.
    pub gpu: GpuUuid,
    /// What was there when the tick was done with it.
    pub outcome: Result<Seen, CardError>,
}

/// A card after its limits were moved.
#[derive(Debug, Default)]
pub struct Seen {
    /// Its containers.
    pub containers: Vec<SeenContainer>,
    /// What guarantees lack because others have it.
    pub missing: Bytes,
    /// Limits that were set.
    pub moved: u64,
    /// Limits that could not be set, each with its cgroup.
    pub refused: Vec<(String, SetError)>,
}

/// A container that has shares of a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenContainer {
    /// Its cgroup.
    pub cgroup: String,
    /// Whose share it has, or the first of them. `None`: no record tells.
    pub holder: Option<Holder>,
    /// What it has, and may have.
    pub state: ShareState,
}

/// The notes could not be read, so nothing is known of any card.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct TickError(#[from] FileError);

/// Limits of a card were not moved.
#[derive(Debug, Error)]
pub enum CardError {
    /// Somebody else sets limits on it.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// The notes could not be read.
    #[error(transparent)]
    Notes(#[from] FileError),
    /// The records could not be read.
    #[error(transparent)]
    Records(#[from] JournalError),
    /// The driver does not tell of it.
    #[error(transparent)]
    Driver(#[from] SetError),
    /// The driver has not answered.
    #[error("the NVIDIA driver has not answered: {0}")]
    NoAnswer(#[from] NoAnswer),
}

impl<O: LimitOperations, P: Promises> Mover<O, P> {
    /// Of the containers that notes name, and by the promises of records. `locks` are those of whoever else sets limits.
    pub fn new(operations: Arc<O>, promises: P, notes: Written, locks: GpuLocks) -> Self {
        Self {
            operations,
            promises: Arc::new(promises),
            notes,
            locks,
        }
    }

    /// Looks at every card on which containers have shares, all at the same time: one that does not answer holds up no
    /// other.
    pub async fn tick(&self) -> Result<Vec<CardReport>, TickError> {
        let held = self.notes.all()?.holdings;
        let gpus: BTreeSet<GpuUuid> = held.into_iter().map(|holding| holding.gpu).collect();
        let cards = gpus.into_iter().map(|gpu| async {
            let outcome = self.card(&gpu).await;
            CardReport { gpu, outcome }
        });
        Ok(join_all(cards).await)
    }

    async fn card(&self, gpu: &GpuUuid) -> Result<Seen, CardError> {
        let wait = Deadline::after(LOCK_LIMIT);
        let cards = BTreeSet::from([gpu.clone()]);
        let lock = self.locks.acquire(&cards, wait).await?;
        let (operations, promises) = (self.operations.clone(), self.promises.clone());
        let (notes, gpu) = (self.notes.clone(), gpu.clone());
        let work = move || {
            // Held until this returns, however long whoever waits for it waits.
            let _lock = lock;
            moved(&*operations, &*promises, &notes, &gpu)
        };
        blocking::run("memory-card", Deadline::after(CALL_LIMIT), work).await?
    }
}

/// Moves the limits of a card until nothing is to be moved any more. Its lock is held, so notes are read again: a hook may
/// have written one.
fn moved<O: LimitOperations, P: Promises>(
    operations: &O,
    promises: &P,
    notes: &Written,
    gpu: &GpuUuid,
) -> Result<Seen, CardError> {
    let mut held = notes.all()?.holdings;
    held.retain(|holding| holding.gpu == *gpu);
    let mut shares = promises.promised()?;
    shares.retain(|share| share.gpu == *gpu);
    let mut card = Seen::default();
    let mut last = Round::default();
    for _ in 0..ROUNDS {
        last = round(operations, gpu, &shares, &held)?;
        card.moved += u64::try_from(last.set.len()).unwrap_or(u64::MAX);
        card.refused.append(&mut last.refused);
        if last.set.is_empty() {
            break;
        }
    }
    card.missing = last.missing;
    card.containers = containers(&last, &shares, &held);
    Ok(card)
}

fn containers(last: &Round, promised: &[Promised], held: &[Holding]) -> Vec<SeenContainer> {
    let holder = |cgroup: &str| {
        let mut shares = held.iter().filter(|held| held.cgroup == cgroup);
        shares.find_map(|held| {
            let mut promised = promised.iter();
            let found = promised.find(|promised| promised.share == held.share)?;
            found.holder.clone()
        })
    };
    let container = |(tenant, state): (&Tenant, &ShareState)| {
        let Tenant::Container(cgroup) = tenant else {
            return None;
        };
        let set = last.set.get(cgroup).copied();
        Some(SeenContainer {
            cgroup: cgroup.clone(),
            holder: holder(cgroup),
            state: ShareState {
                limit: set.map_or(state.limit, Limit::At),
                ..*state
            },
        })
    };
    last.tenants.iter().filter_map(container).collect()
}

#[cfg(test)]
mod tests;
