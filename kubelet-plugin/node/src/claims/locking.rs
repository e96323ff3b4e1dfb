//! Locks the GPUs of a claim: those that are wanted for it and those that its record names.

use std::collections::BTreeSet;

use tessera_claim::ClaimRef;
use tessera_device::GpuUuid;
use tessera_prepare::ledger::GpuGuard;
use tessera_prepare::waiting::WaitingFor;

use super::{ClaimError, Claims};
use crate::claim_reader::ClaimReader;
use crate::deadline::Deadline;
use crate::executor::Node;
use crate::journal::{Entry, Records};
use crate::locks::HeldGpus;
use crate::metrics::Operation;

/// The locks of a claim's GPUs.
pub(super) struct Locked {
    /// The locks themselves.
    pub(super) held: HeldGpus,
    /// What the journal has of the claim, as long as they are held.
    pub(super) entry: Option<Entry>,
}

impl<A: ClaimReader, R: Records, N: Node> Claims<A, R, N> {
    /// [`Self::lock`] for a call of the kubelet.
    pub(super) async fn locked(
        &self,
        operation: Operation,
        claim: &ClaimRef,
        gpus: BTreeSet<GpuUuid>,
        deadline: Deadline,
    ) -> Result<Locked, ClaimError> {
        let wanted = gpus.clone();
        let describe = || {
            let entry = self.records.read(&claim.uid).ok().flatten();
            let recorded = recorded_gpus(entry.as_ref());
            WaitingFor::GpuLock {
                gpus: wanted.iter().chain(recorded).cloned().collect(),
            }
        };
        let lock = self.lock(claim, gpus, deadline);
        self.waits.during(operation, claim, describe, lock).await?
    }

    /// Locks these GPUs and those that the claim's record names.
    ///
    /// What a record says can change while locks are waited for, so it counts as read under them.
    pub(super) async fn lock(
        &self,
        claim: &ClaimRef,
        mut gpus: BTreeSet<GpuUuid>,
        deadline: Deadline,
    ) -> Result<Locked, ClaimError> {
        loop {
            let held = self.locks.acquire(&gpus, deadline).await?;
            let entry = self.records.read(&claim.uid)?;
            if recorded_gpus(entry.as_ref()).all(|gpu| held.covers(gpu)) {
                return Ok(Locked { held, entry });
            }
            gpus.extend(recorded_gpus(entry.as_ref()).cloned());
        }
    }
}

fn recorded_gpus(entry: Option<&Entry>) -> impl Iterator<Item = &GpuUuid> {
    let record = entry.and_then(Entry::record);
    let devices = record.into_iter().flat_map(|record| &record.devices);
    devices.map(|device| &device.gpu)
}
