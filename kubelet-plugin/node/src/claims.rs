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
mod busy;
mod error;
mod let_go;
mod locking;
mod making;
mod own_mig;
mod prepared;
mod release;
mod takeover;
mod unowned;
mod upkeep;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use k8s_openapi::api::resource::v1::ResourceClaim;
use tessera_api::Feature;
use tessera_claim::{Allocation, ClaimRef, allocation};
use tessera_device::GpuUuid;
use tessera_device::mig::MigLayouts;
use tessera_prepare::cdi::CdiKind;
use tessera_prepare::ledger::Flaw;
use tessera_prepare::notice::Happening;
use tessera_prepare::plan;
use tessera_prepare::record::{BootId, PreparedDevice, Record};
use tessera_prepare::refusal::Refusal;
use tessera_prepare::resolve::ResolvedDevice;
use tessera_prepare::share::refuse_unheld;
use tessera_prepare::standing::{Standing, standing};
use tessera_prepare::step::Step;
use tessera_prepare::upkeep::has_name;
use tessera_prepare::waiting::WaitingFor;
use tessera_sharing::ConsumableShares;
use tokio::sync::watch;
use tracing::{Span, info, info_span, warn};

use self::busy::Busy;
pub use self::error::ClaimError;
pub use self::let_go::LetGo;
use self::locking::Locked;
use self::making::{Known, Locks};
pub use self::own_mig::OwnMigDevices;
pub(crate) use self::upkeep::failed;
pub use self::upkeep::{Grace, Outcome};
use crate::claim_reader::{ClaimReader, ReadError};
use crate::deadline::Deadline;
use crate::executor::{self, Node, take_back, take_back_recorded, take_back_unreadable};
use crate::hardware::{Hardware, HardwareWatch};
use crate::journal::{Contents, Entry, Records};
use crate::locks::GpuLocks;
use crate::metrics::Operation;
use crate::wait::Waits;

/// Time between two attempts to destroy a MIG device that somebody holds open.
const BUSY_PAUSE: Duration = Duration::from_millis(500);

/// What never changes while the process runs.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of the driver, e.g. `gpu.nvidia.com`.
    pub driver: String,
    /// Pool that this node publishes: its own name.
    pub pool: String,
    /// Kind of the CDI devices.
    pub cdi_kind: CdiKind,
    /// Who cuts the GPUs.
    pub mig_layouts: MigLayouts,
    /// What becomes of MIG devices that nobody accounts for, where the driver cuts the GPUs.
    pub unowned_mig: UnownedMig,
    /// The boot that we run in.
    pub boot: BootId,
    /// How claims may share devices.
    pub sharing: ConsumableShares,
    /// What configurations may ask for.
    pub features: &'static [Feature],
}

/// What becomes of a MIG device that nobody accounts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum UnownedMig {
    /// It is destroyed after a time of grace.
    #[default]
    Destroy,
    /// It is left: somebody else makes MIG devices too.
    Keep,
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
    busy: Busy,
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
            busy: Busy::default(),
        }
    }

    /// Prepares a claim and returns its devices.
    pub async fn prepare(
        &self,
        claim: &ClaimRef,
        deadline: Deadline,
    ) -> Result<Vec<PreparedDevice>, ClaimError> {
        let object = match self.read_claim(claim, deadline).await {
            Err(
                error @ (ClaimError::Read(ReadError::Unavailable { .. })
                | ClaimError::Interrupted(_)),
            ) => return self.without_api(claim, error),
            read => read?,
        };
        let allocation = allocation(
            &object,
            claim,
            &self.identity.driver,
            self.identity.features,
        )
        .map_err(Refusal::from)?;
        if self.hardware.now().is_none()
            && let Some(devices) = self.prepared_before(&allocation, deadline).await?
        {
            return Ok(devices);
        }
        let hardware = self.ready_hardware(claim, deadline).await?;
        let resolved = self.resolve(&allocation, &hardware);
        let devices = match resolved {
            // A device of another driver was prepared before this one took the node over.
            Err(
                gone @ (Refusal::GpuLost { .. }
                | Refusal::MigLayoutChanged { .. }
                | Refusal::UnknownDevice { .. }),
            ) => {
                let before = self.prepared_before(&allocation, deadline).await?;
                return before.ok_or_else(|| gone.into());
            }
            resolved => resolved?,
        };
        self.prepare_resolved(&allocation, gpus_of(&devices), &hardware, deadline)
            .await
    }

    /// Takes back whatever was prepared of a claim. A claim that was not is no error.
    ///
    /// A MIG device that somebody holds open, as monitoring does for a moment, is destroyed as soon as it
    /// is let go, if that comes in time. What is still held at the second attempt is told to the offer; before,
    /// it would cost a slice two writes for nothing.
    pub async fn unprepare(&self, claim: &ClaimRef, deadline: Deadline) -> Result<(), ClaimError> {
        let mut is_second = false;
        loop {
            let outcome = self.unprepare_now(claim, deadline).await;
            match &outcome {
                Err(error) if error.is_busy() && deadline.allows(BUSY_PAUSE) => {
                    info!(%error, "trying again to take the claim back");
                    if is_second {
                        self.busy.learn(&claim.uid, &outcome);
                    }
                }
                _ => {
                    self.busy.learn(&claim.uid, &outcome);
                    return outcome;
                }
            }
            tokio::time::sleep(BUSY_PAUSE).await;
            is_second = true;
        }
    }

    async fn unprepare_now(&self, claim: &ClaimRef, deadline: Deadline) -> Result<(), ClaimError> {
        let Locked { held: _held, entry } = self
            .locked(Operation::unprepare, claim, BTreeSet::new(), deadline)
            .await?;
        let (records, node) = (&self.records, &self.node);
        match entry {
            Some(Entry::Record(record)) => {
                take_back_recorded(&record, records, node, deadline).await?;
            }
            Some(Entry::Unreadable(unreadable)) => {
                let copied = unreadable.copy.as_ref();
                let undone = copied.map(|copy| executor::undo(copy, records));
                let mut steps = undone.transpose()?.unwrap_or_default();
                steps.extend(self.usual_leftovers(claim));
                take_back_unreadable(&unreadable, &steps, records, node, deadline).await?;
            }
            // Without a record that says otherwise, what can be left is what every claim has.
            None => {
                let steps = self.usual_leftovers(claim);
                take_back(&claim.uid, &steps, records, node, deadline).await?;
            }
        }
        self.released.send_replace(());
        Ok(())
    }

    async fn read_claim(
        &self,
        claim: &ClaimRef,
        deadline: Deadline,
    ) -> Result<ResourceClaim, ClaimError> {
        let read = self.api.read(claim, self.patience(claim, deadline)?);
        let read = self
            .waits
            .during(Operation::prepare, claim, || WaitingFor::Api, read);
        Ok(read.await??)
    }

    async fn ready_hardware(
        &self,
        claim: &ClaimRef,
        deadline: Deadline,
    ) -> Result<Arc<Hardware>, ClaimError> {
        let missing = || WaitingFor::Driver {
            why: self.hardware.problem().unwrap_or_default(),
        };
        let ready = self.hardware.ready(deadline);
        let ready = self.waits.during(Operation::prepare, claim, missing, ready);
        Ok(ready.await??)
    }

    /// Prepares the claim under the locks of its GPUs, once whoever lets them go has done so.
    async fn prepare_resolved(
        &self,
        allocation: &Allocation,
        gpus: BTreeSet<GpuUuid>,
        hardware: &Hardware,
        deadline: Deadline,
    ) -> Result<Vec<PreparedDevice>, ClaimError> {
        let claim = &allocation.claim;
        loop {
            let Locked { held, .. } = self
                .locked(Operation::prepare, claim, gpus.clone(), deadline)
                .await?;
            let looked_at = self.look_at(&gpus, hardware, deadline).await?;
            let under = Locks {
                hardware: looked_at.as_ref().unwrap_or(hardware),
                held: &held,
                deadline,
            };
            match self.prepare_locked(allocation, under).await {
                Ok(Some(devices)) => return Ok(devices),
                // What was seen of the GPUs was the state before something was taken back.
                Ok(None) => {}
                Err(ClaimError::Refused(
                    refusal @ (Refusal::GpuHeld { .. }
                    | Refusal::GpuOverdrawn { .. }
                    | Refusal::SettingConflict { .. }),
                )) => {
                    drop(held);
                    self.await_release(refusal, deadline).await?;
                }
                Err(error) if error.is_busy() && deadline.allows(BUSY_PAUSE) => {
                    drop(held);
                    info!(%error, "trying again to cut the GPU");
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Everything that must not be interrupted by another claim on the same GPUs. Nothing is returned if
    /// something was taken back first, so that the GPUs have to be looked at again.
    async fn prepare_locked(
        &self,
        allocation: &Allocation,
        under: Locks<'_>,
    ) -> Result<Option<Vec<PreparedDevice>>, ClaimError> {
        let boot = &self.identity.boot;
        let Locks {
            hardware, deadline, ..
        } = under;
        let claim = &allocation.claim;
        let devices = self.resolve(allocation, hardware)?;
        let mut contents = self.traces()?;
        self.mend_own(claim, &devices, &mut contents, hardware)?;
        let own = contents
            .records
            .iter()
            .find(|record| record.claim.uid == claim.uid);
        match (standing(own, &devices, boot), own) {
            (Standing::Prepared, Some(record)) => {
                self.learn_name(claim, record)?;
                return self.as_it_was(record, under).await.map(Some);
            }
            (Standing::Leftover, Some(record)) => {
                info!("taking back what an earlier preparation left");
                take_back_recorded(record, &self.records, &self.node, deadline).await?;
                if record.made().next().is_some() {
                    return Ok(None);
                }
                let remains = record.remains();
                contents
                    .records
                    .retain(|other| other.claim.uid != claim.uid);
                contents.records.extend(remains);
            }
            (Standing::New | Standing::Prepared | Standing::Leftover, _) => {}
        }
        refuse_unheld(claim, &devices, self.identity.sharing)?;
        let (accounted, unreadable) = self.account(contents.unreadable, hardware);
        let known = Known {
            records: contents.records.iter().chain(&accounted).collect(),
            unreadable,
            sharing: self.identity.sharing,
        };
        self.carry_out(allocation, known, under).await.map(Some)
    }

    /// Puts the claim's own record back in its place, if that is damaged.
    ///
    /// One of a newer version is left: what that version did is not undone by forgetting it.
    fn mend_own(
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

    /// Puts the claim's name into a record that was made without it, so that the API server can be asked
    /// about it from now on.
    fn learn_name(&self, claim: &ClaimRef, record: &Record) -> Result<(), ClaimError> {
        if has_name(&record.claim) {
            return Ok(());
        }
        let claim = claim.clone();
        let named = Record {
            claim,
            ..record.clone()
        };
        Ok(self.records.write(&named)?)
    }

    /// The devices of a claim that is prepared already, its effects made anew where they are not as
    /// they were.
    async fn as_it_was(
        &self,
        record: &Record,
        under: Locks<'_>,
    ) -> Result<Vec<PreparedDevice>, ClaimError> {
        if !self.intact(record)? {
            warn!("an effect of the prepared claim is missing or altered; made anew");
            self.restore(record, under.hardware, under.deadline).await?;
        }
        Ok(record.devices.clone())
    }

    async fn restore(
        &self,
        record: &Record,
        hardware: &Hardware,
        deadline: Deadline,
    ) -> Result<(), ClaimError> {
        let Hardware { inventory, install } = hardware;
        let plan = plan::restore(record, inventory, &self.identity.cdi_kind, install)?;
        executor::restore(plan, &self.records, &self.node, deadline).await?;
        Ok(())
    }

    fn usual_leftovers(&self, claim: &ClaimRef) -> Vec<Step> {
        let files = self.spec_names(&claim.uid).into_iter();
        files.map(|file| Step::RemoveCdi { file }).collect()
    }
}

/// What is logged within is about this claim.
pub(crate) fn span(claim: &ClaimRef) -> Span {
    info_span!(
        "claim",
        claim = %format!("{}/{}", claim.namespace, claim.name),
        claimUID = %claim.uid,
    )
}

fn gpus_of(devices: &[ResolvedDevice<'_>]) -> BTreeSet<GpuUuid> {
    devices
        .iter()
        .map(|device| device.gpu.uuid.clone())
        .collect()
}

#[cfg(test)]
mod tests;
