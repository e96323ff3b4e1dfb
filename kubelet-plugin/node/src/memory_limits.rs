//! Holds containers to their shares of a GPU's memory.
//!
//! A hook asks when a container starts ([`MemoryLimits`], [`serve`]). What the container may have follows from all that is
//! known of the card ([`round`]), because others may have more than they are guaranteed. Whoever moves limits later does
//! the same rounds under the same lock of the card, from the same notes and records.
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

pub mod nvml;
mod open;
mod promises;
mod round;
mod socket;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tessera_device::{Bytes, GpuUuid, IdError};
use tessera_limit_call::{Answer, Request, RequestError};
use tessera_nvml::{LimitError, NvmlError};
use tessera_sharing::{
    Holder, Holding, InUse, Limit, Measured, Promised, ShareState, Tenant, hold,
};
use tessera_shell::logging::chain;
use thiserror::Error;
use tokio::sync::Mutex;
use tracing::{info, warn};

pub use self::nvml::NvmlLimits;
pub use self::open::OpenDriver;
pub use self::promises::{KnownPromises, Promises, promised_by};
pub use self::round::{ROUNDS, Round, round};
pub use self::socket::serve;
pub use self::written::{Cgroups, Held, Written};
use crate::blocking::{self, NoAnswer};
use crate::deadline::Deadline;
use crate::driver_root::DriverRootError;
use crate::file_error::FileError;
use crate::journal::JournalError;
use crate::locks::{GpuLocks, HeldGpus, LockError};

/// Bound of the calls of the driver for one container.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// How long a container waits for a guarantee that others have. Shorter than its hook waits for an answer
/// (`tessera-cdi-hook`), so that the answer says for whom.
const PATIENCE: Duration = Duration::from_secs(20);

/// Time between two looks at whether it is free.
const PAUSE: Duration = Duration::from_millis(250);

/// How many of those who have a guarantee a refusal names.
const NAMED: usize = 3;

/// What can be done about the limits of this node's containers. Every call may block for long.
pub trait LimitOperations: Send + Sync + 'static {
    /// The card and those of these containers that are there.
    fn look(&self, gpu: &GpuUuid, cgroups: &[String]) -> Result<Card, SetError>;

    /// Lets the container with this cgroup, below the root of the hierarchy, have no more of the GPU.
    fn limit(&self, gpu: &GpuUuid, cgroup: &str, memory: Bytes) -> Result<(), SetError>;
}

/// What the driver says of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its memory.
    pub memory: Bytes,
    /// What the driver has for itself of that.
    pub reserved: Bytes,
    /// Its containers, by cgroup.
    pub containers: BTreeMap<String, Measured>,
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
    /// What others are guaranteed cannot be read.
    #[error(transparent)]
    Records(#[from] JournalError),
    /// Somebody else sets limits on the GPU.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// Others have what it is guaranteed.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The driver was not told.
    #[error(transparent)]
    Set(#[from] SetError),
    /// The driver has not answered.
    #[error("the NVIDIA driver has not answered: {0}")]
    NoAnswer(#[from] NoAnswer),
}

/// A guarantee that is not free.
#[derive(Debug, Error)]
#[error(
    "{guarantee} of GPU {gpu} are guaranteed to the container, and {missing} of the GPU's guarantees are in use by shares that \
     have more than theirs ({by}); it can start when they have freed that, or end", by = self.named()
)]
pub struct NoRoom {
    /// The GPU.
    pub gpu: GpuUuid,
    /// What the container is guaranteed.
    pub guarantee: Bytes,
    /// How much of all guarantees is not free.
    pub missing: Bytes,
    /// Who has more than is guaranteed, those who have most of it first.
    pub by: Vec<Holder>,
}

impl NoRoom {
    fn named(&self) -> String {
        let names: Vec<_> = self.by.iter().take(NAMED).map(Holder::to_string).collect();
        let others = self.by.len().saturating_sub(NAMED);
        match (names.is_empty(), others) {
            (true, _) => "none of a claim that is known".to_owned(),
            (false, 0) => names.join("; "),
            (false, more) => format!("{} and {more} more", names.join("; ")),
        }
    }
}

/// Holds the containers of this node.
pub struct MemoryLimits<O, P> {
    operations: Arc<O>,
    promises: P,
    locks: GpuLocks,
    /// Only this process writes them.
    written: Mutex<Written>,
}

impl<O: LimitOperations, P: Promises> MemoryLimits<O, P> {
    /// With what is written down in `directory`, and locks that those who set limits have in common. Both are made when they
    /// are needed.
    pub fn new(operations: O, promises: P, notes: Written, locks: GpuLocks) -> Self {
        Self {
            operations: Arc::new(operations),
            promises,
            locks,
            written: Mutex::new(notes),
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
        self.hold_within(line, PATIENCE).await
    }

    /// Holds the container of a line of the socket to its share. A guarantee that others have is waited for so long.
    pub async fn hold_within(&self, line: &str, patience: Duration) -> Result<(), NotHeld> {
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
        let deadline = Deadline::after(patience);
        loop {
            match self.attempt(&wanted).await {
                Ok(memory) => {
                    let Holding {
                        share, gpu, cgroup, ..
                    } = wanted;
                    info!(share, %gpu, cgroup, %memory, "a container is held to its share");
                    return Ok(());
                }
                Err(NotHeld::NoRoom(_)) if deadline.allows(PAUSE) => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Has the container limited, if what it is guaranteed is free.
    async fn attempt(&self, wanted: &Holding) -> Result<Bytes, NotHeld> {
        let deadline = Deadline::after(CALL_LIMIT);
        let gpus = BTreeSet::from([wanted.gpu.clone()]);
        let lock = self.locks.acquire(&gpus, deadline).await?;
        let held = self.write_down(wanted).await?;
        let mut promised = self.promises.promised()?;
        promised.retain(|promised| promised.gpu == wanted.gpu);
        // Whatever has become of its records: what the hook says stands in the spec.
        for holding in held.iter().filter(|held| held.cgroup == wanted.cgroup) {
            if !promised.iter().any(|found| found.share == holding.share) {
                promised.push(unrecorded(holding));
            }
        }
        let operations = self.operations.clone();
        let wanted = wanted.clone();
        let call = move || limited(&*operations, &wanted, &promised, &held, &lock);
        blocking::run("memory-limit", deadline, call).await?
    }

    /// Notes that the container has the share, and says who has shares of its GPU.
    async fn write_down(&self, wanted: &Holding) -> Result<Vec<Holding>, NotHeld> {
        let written = self.written.lock().await;
        let mut held = written.held()?;
        if held.unreadable.contains(&wanted.share) {
            let path = written.path(&wanted.share);
            return Err(NotHeld::Unreadable { path });
        }
        hold(wanted, held.holdings.iter())?;
        written.write(wanted)?;
        let others = |held: &Holding| held.gpu == wanted.gpu && held.share != wanted.share;
        held.holdings.retain(others);
        held.holdings.push(wanted.clone());
        Ok(held.holdings)
    }

    /// Removes the notes of containers that are gone.
    pub async fn tidy(&self) {
        if let Err(error) = self.written.lock().await.held() {
            warn!(error = %chain(&error), "what is written down of memory limits cannot be read");
        }
    }
}

/// A share of which only the hook tells: held to what that says, and no more.
fn unrecorded(holding: &Holding) -> Promised {
    Promised {
        share: holding.share.clone(),
        holder: None,
        gpu: holding.gpu.clone(),
        guarantee: holding.memory,
        ceiling: holding.memory,
    }
}

/// The limit of the container that wants one, once it has it. Others are lowered for it as far as they can be.
///
/// The lock is held until this returns, however long whoever waits for it waits.
fn limited<O: LimitOperations>(
    operations: &O,
    wanted: &Holding,
    promised: &[Promised],
    held: &[Holding],
    _lock: &HeldGpus,
) -> Result<Bytes, NotHeld> {
    let (gpu, cgroup) = (&wanted.gpu, &wanted.cgroup);
    let own = Tenant::Container(cgroup.clone());
    let mut last = Round::default();
    for _ in 0..ROUNDS {
        let mut done = round(operations, gpu, promised, held)?;
        if let Some(memory) = done.set.get(cgroup) {
            return Ok(*memory);
        }
        if let Some(at) = done
            .refused
            .iter()
            .position(|(refused, _)| refused == cgroup)
        {
            return Err(done.refused.swap_remove(at).1.into());
        }
        match done.tenants.get(&own) {
            Some(ShareState {
                guarantee,
                limit: Limit::At(limit),
                ..
            }) if limit >= guarantee => return Ok(*limit),
            _ => {}
        }
        let is_last = done.set.is_empty();
        last = done;
        if is_last {
            break;
        }
    }
    if !last.tenants.contains_key(&own) {
        // The driver knows no such cgroup; it says so when it is to set something.
        operations.limit(gpu, cgroup, wanted.memory)?;
    }
    Err(no_room(wanted, promised, held, &last).into())
}

fn no_room(wanted: &Holding, promised: &[Promised], held: &[Holding], last: &Round) -> NoRoom {
    let borrowed = |cgroup: &str| {
        let share = last.tenants.get(&Tenant::Container(cgroup.to_owned()));
        share.map_or(0, |share| share.used.0.saturating_sub(share.guarantee.0))
    };
    let mut borrowers: Vec<_> = held
        .iter()
        .map(|held| (borrowed(&held.cgroup), &held.share))
        .filter(|(borrowed, _)| *borrowed > 0)
        .collect();
    borrowers.sort_by_key(|(borrowed, _)| std::cmp::Reverse(*borrowed));
    let holder = |share: &String| {
        let mut promised = promised.iter();
        promised
            .find(|promised| promised.share == *share)?
            .holder
            .clone()
    };
    NoRoom {
        gpu: wanted.gpu.clone(),
        guarantee: wanted.memory,
        missing: last.missing,
        by: borrowers
            .iter()
            .filter_map(|(_, share)| holder(share))
            .collect(),
    }
}

#[cfg(test)]
mod tests;
