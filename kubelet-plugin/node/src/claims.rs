//! Prepares and unprepares claims.
//!
//! # Flow
//! Prepare reads the claim from the API, finds the GPUs behind it, locks them, and only then reads
//! the journal: what it decides holds until the locks are released. Unprepare needs neither API nor
//! hardware: the record says what to take back.
//!
//! # Guarantees
//! A Prepare that meets a claim which is being let go waits for it, as long as the kubelet waits.
//! Both are idempotent by the claim's UID. Claims proceed side by side unless they touch the same
//! GPU. A failure concerns one claim.

mod accounting;
mod error;
mod release;
mod upkeep;

use std::collections::BTreeSet;
use std::time::Duration;

use tessera_claim::{Allocation, ClaimRef, allocation};
use tessera_device::GpuUuid;
use tessera_prepare::cdi::CdiKind;
use tessera_prepare::ledger::{Flaw, GpuGuard, Ledger};
use tessera_prepare::notice::{Happening, WaitingFor};
use tessera_prepare::plan::{
    self, ResolvedDevice, Standing, is_prepared_for, plan, resolve, standing,
};
use tessera_prepare::record::{BootId, Phase, PreparedDevice, Record};
use tessera_prepare::refusal::Refusal;
use tessera_prepare::step::{Step, undo_all};
use tokio::sync::watch;
use tracing::{info, warn};

pub use self::error::ClaimError;
pub use self::upkeep::{Grace, Outcome, Seen};
use crate::claim_reader::{ClaimReader, ReadError};
use crate::deadline::Deadline;
use crate::executor::{self, Node, StepError, execute, take_back, take_back_unreadable};
use crate::hardware::{Hardware, HardwareWatch};
use crate::journal::{Contents, Entry, JournalError, Records};
use crate::locks::{GpuLocks, HeldGpus};
use crate::metrics::Operation;
use crate::wait::Waits;

/// How long the API is asked about a claim that is prepared already, before the journal answers for it.
/// It should be asked, for the claim can have been allocated anew; but its pod is waiting.
const PATIENCE: Duration = Duration::from_secs(10);

/// What never changes while the process runs.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of the driver, e.g. `gpu.nvidia.com`.
    pub driver: String,
    /// Pool that this node publishes: its own name.
    pub pool: String,
    /// Kind of the CDI devices.
    pub cdi_kind: CdiKind,
    /// The boot that we run in.
    pub boot: BootId,
}

/// Prepares and unprepares the claims of one driver on one node.
pub struct Claims<A, R, N> {
    identity: Identity,
    api: A,
    records: R,
    node: N,
    locks: GpuLocks,
    hardware: HardwareWatch,
    waits: Waits,
    /// Rings at every unprepare.
    released: watch::Sender<()>,
}

impl<A: ClaimReader, R: Records, N: Node> Claims<A, R, N> {
    /// Puts the parts together.
    pub fn new(
        identity: Identity,
        api: A,
        records: R,
        node: N,
        locks: GpuLocks,
        hardware: HardwareWatch,
        waits: Waits,
    ) -> Self {
        Self {
            identity,
            api,
            records,
            node,
            locks,
            hardware,
            waits,
            released: watch::Sender::new(()),
        }
    }

    /// Prepares a claim and returns its devices.
    pub async fn prepare(
        &self,
        claim: &ClaimRef,
        deadline: Deadline,
    ) -> Result<Vec<PreparedDevice>, ClaimError> {
        let operation = Operation::prepare;
        let read = self.api.read(claim, self.patience(claim, deadline)?);
        let read = self
            .waits
            .during(operation, claim, || WaitingFor::Api, read)
            .await;
        let object = match read {
            Ok(Ok(object)) => object,
            Ok(Err(error @ ReadError::Unavailable { .. })) => {
                return self.known(claim, error.into());
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(interrupted) => return self.known(claim, interrupted.into()),
        };
        let allocation =
            allocation(&object, claim, &self.identity.driver).map_err(Refusal::from)?;
        if self.hardware.now().is_none()
            && let Some(devices) = self.prepared_before(&allocation, deadline).await?
        {
            return Ok(devices);
        }
        let ready = self.hardware.ready(deadline);
        let hardware = self
            .waits
            .during(operation, claim, || self.missing_driver(), ready)
            .await??;
        let resolved = resolve(&allocation, &self.identity.pool, &hardware.inventory);
        let devices = match resolved {
            Err(lost @ Refusal::GpuLost { .. }) => {
                let before = self.prepared_before(&allocation, deadline).await?;
                return before.ok_or_else(|| lost.into());
            }
            resolved => resolved?,
        };
        loop {
            let held = self
                .locked(operation, claim, gpus_of(&devices), deadline)
                .await?;
            match self.prepare_locked(claim, devices.clone(), &hardware, &held) {
                Err(ClaimError::Refused(refusal @ Refusal::GpuHeld { .. })) => {
                    drop(held);
                    self.await_release(refusal, deadline).await?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Takes back whatever was prepared of a claim. A claim that was not is no error.
    pub async fn unprepare(&self, claim: &ClaimRef, deadline: Deadline) -> Result<(), ClaimError> {
        let _held = self
            .locked(Operation::unprepare, claim, BTreeSet::new(), deadline)
            .await?;
        let (records, node) = (&self.records, &self.node);
        match records.read(&claim.uid)? {
            Some(Entry::Record(record)) => {
                take_back(&claim.uid, &undo_all(&record.effects), records, node)?;
            }
            Some(Entry::Unreadable(unreadable)) => {
                let copied = unreadable.copy.as_ref();
                let mut steps = copied.map_or_else(Vec::new, |copy| undo_all(&copy.effects));
                steps.extend(self.usual_leftovers(claim));
                take_back_unreadable(&unreadable, &steps, records, node)?;
            }
            // Without a record that says otherwise, what can be left is what every claim has.
            None => take_back(&claim.uid, &self.usual_leftovers(claim), records, node)?,
        }
        self.released.send_replace(());
        Ok(())
    }

    /// How long the API is asked about the claim: until the deadline, unless an answer is known here.
    fn patience(&self, claim: &ClaimRef, deadline: Deadline) -> Result<Deadline, JournalError> {
        Ok(match self.records.read(&claim.uid)? {
            Some(Entry::Record(record)) if record.phase == Phase::Prepared => {
                deadline.at_most(PATIENCE)
            }
            _ => deadline,
        })
    }

    /// Answers for a claim that the API cannot be asked about, if it is prepared already.
    fn known(
        &self,
        claim: &ClaimRef,
        error: ClaimError,
    ) -> Result<Vec<PreparedDevice>, ClaimError> {
        match self.records.read(&claim.uid)?.and_then(Entry::record) {
            Some(record)
                if record.phase == Phase::Prepared
                    && record.boot == self.identity.boot
                    && self.intact(&record)? =>
            {
                warn!("the API server is away; answered from the journal");
                Ok(record.devices)
            }
            _ => Err(error),
        }
    }

    /// The devices of a claim that is prepared already, where its GPUs cannot be looked at: its
    /// containers keep what they have, whatever has become of the driver or the GPU.
    async fn prepared_before(
        &self,
        allocation: &Allocation,
        deadline: Deadline,
    ) -> Result<Option<Vec<PreparedDevice>>, ClaimError> {
        let claim = &allocation.claim;
        let _held = self
            .locked(Operation::prepare, claim, BTreeSet::new(), deadline)
            .await?;
        let recorded = self.records.read(&claim.uid)?.and_then(Entry::record);
        let Some(record) = recorded else {
            return Ok(None);
        };
        let is_prepared = is_prepared_for(&record, allocation, &self.identity.boot);
        Ok((is_prepared && self.intact(&record)?).then_some(record.devices))
    }

    fn missing_driver(&self) -> WaitingFor {
        WaitingFor::Driver {
            why: self.hardware.problem().unwrap_or_default(),
        }
    }

    /// [`Self::lock`] for a call of the kubelet.
    async fn locked(
        &self,
        operation: Operation,
        claim: &ClaimRef,
        gpus: BTreeSet<GpuUuid>,
        deadline: Deadline,
    ) -> Result<HeldGpus, ClaimError> {
        let wanted = gpus.clone();
        let describe = || {
            let recorded = self.recorded_gpus(claim).unwrap_or_default();
            WaitingFor::GpuLock {
                gpus: wanted.iter().cloned().chain(recorded).collect(),
            }
        };
        let lock = self.lock(claim, gpus, deadline);
        self.waits.during(operation, claim, describe, lock).await?
    }

    /// Locks these GPUs and those that the claim's record names.
    ///
    /// The record can change while locks are waited for, so it is looked at again under them.
    async fn lock(
        &self,
        claim: &ClaimRef,
        mut gpus: BTreeSet<GpuUuid>,
        deadline: Deadline,
    ) -> Result<HeldGpus, ClaimError> {
        gpus.extend(self.recorded_gpus(claim)?);
        loop {
            let held = self.locks.acquire(&gpus, deadline).await?;
            let recorded = self.recorded_gpus(claim)?;
            if recorded.iter().all(|gpu| held.covers(gpu)) {
                return Ok(held);
            }
            gpus.extend(recorded);
        }
    }

    fn recorded_gpus(&self, claim: &ClaimRef) -> Result<Vec<GpuUuid>, JournalError> {
        let recorded = self.records.read(&claim.uid)?.and_then(Entry::record);
        let devices = recorded.into_iter().flat_map(|record| record.devices);
        Ok(devices.map(|device| device.gpu).collect())
    }

    /// Everything that must not be interrupted by another claim on the same GPUs.
    fn prepare_locked(
        &self,
        claim: &ClaimRef,
        devices: Vec<ResolvedDevice<'_>>,
        hardware: &Hardware,
        held: &HeldGpus,
    ) -> Result<Vec<PreparedDevice>, ClaimError> {
        let Identity { cdi_kind, boot, .. } = &self.identity;
        let mut contents = self.traces()?;
        self.find_own(claim, &devices, &mut contents, hardware)?;
        let own = contents
            .records
            .iter()
            .find(|record| record.claim.uid == claim.uid);
        match (standing(own, &devices, boot), own) {
            (Standing::Prepared, Some(record)) => return self.as_it_was(record, hardware),
            (Standing::Leftover(steps), _) => {
                info!("taking back what an earlier preparation left");
                take_back(&claim.uid, &steps, &self.records, &self.node)?;
            }
            (Standing::New | Standing::Prepared, _) => {}
        }
        let (accounted, unreadable) = self.account(contents.unreadable, hardware);
        let known = contents.records.iter().chain(&accounted);
        let admitted = Ledger::under(held, known, unreadable).admit(claim, devices)?;
        let plan = plan(&admitted, cdi_kind, &hardware.install, boot);
        let record = execute(plan, &self.records, &self.node)?;
        Ok(record.devices)
    }

    /// Puts the claim's own record back in its place, if that is damaged.
    ///
    /// One of a newer version is left: what that version did is not undone by forgetting it.
    fn find_own(
        &self,
        claim: &ClaimRef,
        devices: &[ResolvedDevice<'_>],
        contents: &mut Contents,
        hardware: &Hardware,
    ) -> Result<(), ClaimError> {
        let mut unreadable = contents.unreadable.iter();
        let Some(at) = unreadable.position(|unreadable| unreadable.claim == claim.uid) else {
            return Ok(());
        };
        let own = contents.unreadable.remove(at);
        if let (Flaw::Newer, Some(device)) = (own.flaw, devices.first()) {
            return Err(ClaimError::Refused(Refusal::Unaccounted {
                claim: claim.clone(),
                gpu: device.gpu.uuid.clone(),
                record: own.claim,
                problem: own.problem,
            }));
        }
        let record = self.accounted(&own, hardware);
        self.records.set_aside(&own, record.as_ref())?;
        if record.is_some() {
            self.waits.notices().tell(Happening::Rebuilt { claim });
        }
        contents.records.extend(record);
        Ok(())
    }

    /// The devices of a claim that is prepared already, its effects made anew where they are not as
    /// they were.
    fn as_it_was(
        &self,
        record: &Record,
        hardware: &Hardware,
    ) -> Result<Vec<PreparedDevice>, ClaimError> {
        if !self.intact(record)? {
            warn!("an effect of the prepared claim is missing or altered; made anew");
            self.restore(record, hardware)?;
        }
        Ok(record.devices.clone())
    }

    fn restore(&self, record: &Record, hardware: &Hardware) -> Result<(), ClaimError> {
        let Hardware { inventory, install } = hardware;
        let plan = plan::restore(record, inventory, &self.identity.cdi_kind, install)?;
        executor::restore(plan, &self.records, &self.node)?;
        Ok(())
    }

    fn intact(&self, record: &Record) -> Result<bool, StepError> {
        for effect in &record.effects {
            if !self.node.has(effect)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn usual_leftovers(&self, claim: &ClaimRef) -> Vec<Step> {
        let file = self.spec_file(&claim.uid);
        vec![Step::RemoveCdi { file }]
    }
}

fn gpus_of(devices: &[ResolvedDevice<'_>]) -> BTreeSet<GpuUuid> {
    devices
        .iter()
        .map(|device| device.gpu.uuid.clone())
        .collect()
}

#[cfg(test)]
mod tests;
