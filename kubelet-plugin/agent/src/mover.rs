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
    promises: P,
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

/// Nothing is known of any card.
#[derive(Debug, Error)]
pub enum TickError {
    /// The notes could not be read.
    #[error(transparent)]
    Notes(#[from] FileError),
    /// The records could not be read.
    #[error(transparent)]
    Records(#[from] JournalError),
}

/// Limits of a card were not moved.
#[derive(Debug, Error)]
pub enum CardError {
    /// Somebody else sets limits on it.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// The notes could not be read.
    #[error(transparent)]
    Notes(#[from] FileError),
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
            promises,
            notes,
            locks,
        }
    }

    /// Looks at every card on which containers have shares, all at the same time: one that does not answer holds up no
    /// other.
    ///
    /// What is promised is read once, and before any lock is held. A claim that is prepared meanwhile waits for what is lent
    /// in this tick as it would wait for what was lent in the last one; a container that starts meanwhile is in the notes, and
    /// counts with all that it may have.
    pub async fn tick(&self) -> Result<Vec<CardReport>, TickError> {
        let held = self.notes.all()?;
        let gpus: BTreeSet<&GpuUuid> = held.holdings.iter().map(|holding| &holding.gpu).collect();
        if gpus.is_empty() {
            return Ok(Vec::new());
        }
        let promised = self.promises.promised()?;
        let cards = gpus.into_iter().map(|gpu| async {
            let own = promised.iter().filter(|share| share.gpu == *gpu);
            let outcome = self.card(gpu, own.cloned().collect()).await;
            let gpu = gpu.clone();
            CardReport { gpu, outcome }
        });
        Ok(join_all(cards).await)
    }

    async fn card(&self, gpu: &GpuUuid, promised: Vec<Promised>) -> Result<Seen, CardError> {
        let wait = Deadline::after(LOCK_LIMIT);
        let cards = BTreeSet::from([gpu.clone()]);
        let lock = self.locks.acquire(&cards, wait).await?;
        let (operations, notes, gpu) = (self.operations.clone(), self.notes.clone(), gpu.clone());
        let work = move || {
            // Held until this returns, however long whoever waits for it waits.
            let _lock = lock;
            moved(&*operations, &promised, &notes, &gpu)
        };
        blocking::run("memory-card", Deadline::after(CALL_LIMIT), work).await?
    }
}

/// Moves the limits of a card until nothing is to be moved any more. Its lock is held, so notes are asked for again: a hook
/// may have written one. Where none was, that is one system call.
fn moved<O: LimitOperations>(
    operations: &O,
    promised: &[Promised],
    notes: &Written,
    gpu: &GpuUuid,
) -> Result<Seen, CardError> {
    let held = notes.all()?;
    let held = held.holdings.iter().filter(|holding| holding.gpu == *gpu);
    let held: Vec<Holding> = held.cloned().collect();
    let mut card = Seen::default();
    let mut last = Round::default();
    for _ in 0..ROUNDS {
        last = round(operations, gpu, promised, &held)?;
        card.moved += u64::try_from(last.set.len()).unwrap_or(u64::MAX);
        card.refused.append(&mut last.refused);
        if last.set.is_empty() {
            break;
        }
    }
    card.missing = last.missing;
    card.containers = containers(&last, promised, &held);
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
