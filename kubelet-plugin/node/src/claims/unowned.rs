//! Compares the MIG devices of GPUs that the driver cuts with the journal: destroys those that nobody
//! accounts for, and tells of those that are gone.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tessera_claim::allocates;
use tessera_device::GpuUuid;
use tessera_device::mig::{MigLayouts, MigState};
use tessera_prepare::notice::Happening;
use tessera_prepare::record::Record;
use tessera_prepare::step::{MigDevice, Step};
use tessera_prepare::unowned::{unowned, vanished};
use tokio::time::Instant;
use tracing::warn;

use super::upkeep::PER_CLAIM;
use super::{ClaimError, Claims, Grace, Identity, LetGo, Outcome, UnownedMig};
use crate::claim_reader::ClaimReader;
use crate::deadline::Deadline;
use crate::executor::Node;
use crate::hardware::Hardware;
use crate::journal::{Entry, Records};

/// Since when MIG devices have been seen that nobody accounts for.
///
/// It is not kept over a restart: to wait once more is safe.
#[derive(Clone, Debug, Default)]
pub(super) struct Unowned(Vec<(MigDevice, Instant)>);

impl Unowned {
    pub(super) fn is_waiting(&self) -> bool {
        !self.0.is_empty()
    }

    /// Takes in what is seen now, and returns what has been seen for as long as `grace`.
    fn ripe(&mut self, seen: Vec<MigDevice>, grace: Duration) -> Vec<MigDevice> {
        self.0.retain(|(device, _)| seen.contains(device));
        for device in seen {
            if !self.0.iter().any(|(known, _)| *known == device) {
                self.0.push((device, Instant::now()));
            }
        }
        let ripe = self.0.iter().filter(|(_, since)| since.elapsed() >= grace);
        ripe.map(|(device, _)| device.clone()).collect()
    }
}

impl<A: ClaimReader, R: Records, N: Node> Claims<A, R, N> {
    /// Tells of MIG devices of prepared claims that are gone, and destroys those that nobody has accounted
    /// for during the time of grace, the API's allocations included. One that a process uses is not destroyed: the driver refuses that.
    pub(super) async fn look_after_mig(
        &self,
        let_go: &mut LetGo,
        grace: Grace,
        hardware: &Hardware,
    ) -> Result<Vec<Outcome>, ClaimError> {
        if self.identity.mig_layouts == MigLayouts::Static {
            return Ok(Vec::new());
        }
        let limit = Deadline::after(PER_CLAIM);
        let states = self.node.mig_states(divisible(hardware), limit).await?;
        let mut outcomes = Vec::new();
        for (gpu, mig) in &states {
            self.tell_vanished(gpu, mig).await?;
        }
        if self.identity.unowned_mig == UnownedMig::Keep {
            return Ok(outcomes);
        }
        let seen = self.unowned_among(&states, hardware)?;
        for device in let_go.unowned.ripe(seen, grace.0) {
            let limit = Deadline::after(PER_CLAIM);
            let gpu = BTreeSet::from([device.gpu.clone()]);
            let _held = self.locks.acquire(&gpu, limit).await?;
            // What was seen without the lock may have been in the middle of something.
            let states = self.node.mig_states(gpu, limit).await?;
            if !self.unowned_among(&states, hardware)?.contains(&device) {
                continue;
            }
            if let Some(claim) = self.allocated_to(&device, hardware, limit).await? {
                warn!(%device, %claim, "nothing is recorded of the MIG device, but a claim is allocated it; left");
                continue;
            }
            let step = Step::DestroyMig(device.clone());
            outcomes.push(match self.node.apply(&step, limit).await {
                Ok(_) => {
                    warn!(%device, "nobody accounts for the MIG device; destroyed");
                    Outcome::Destroyed
                }
                Err(error) => super::failed(&error.into()),
            });
        }
        Ok(outcomes)
    }

    /// The claim that is allocated this device, if one is: its record may have been lost with all that could tell of
    /// it. What the API server does not tell is an error, and nothing is destroyed.
    async fn allocated_to(
        &self,
        device: &MigDevice,
        hardware: &Hardware,
        limit: Deadline,
    ) -> Result<Option<String>, ClaimError> {
        let Identity { driver, pool, .. } = &self.identity;
        let mut gpus = hardware.inventory.gpus().iter();
        let Some(gpu) = gpus.find(|gpu| gpu.uuid == device.gpu) else {
            return Ok(None);
        };
        let name = device.device_name(gpu.minor);
        let look = |claim: &ResourceClaim| {
            let ObjectMeta {
                namespace,
                name: of,
                ..
            } = &claim.metadata;
            let text = |part: &Option<String>| part.clone().unwrap_or_default();
            allocates(claim, driver, pool, &name)
                .then(|| format!("{}/{}", text(namespace), text(of)))
        };
        Ok(self.api.search(look, limit).await?)
    }

    /// Tells of prepared claims whose devices on this GPU are gone.
    async fn tell_vanished(&self, gpu: &GpuUuid, mig: &MigState) -> Result<(), ClaimError> {
        let records = self.records.read_all()?.records;
        let has_lost = |record: &&Record| vanished(gpu, mig, record).next().is_some();
        for record in records.iter().filter(has_lost) {
            let limit = Deadline::after(PER_CLAIM);
            let only = BTreeSet::from([gpu.clone()]);
            let _held = self.locks.acquire(&only, limit).await?;
            // What was seen without the lock may have been in the middle of something.
            let states = self.node.mig_states(only, limit).await?;
            let Some(Entry::Record(record)) = self.records.read(&record.claim.uid)? else {
                continue;
            };
            for (gpu, mig) in &states {
                for device in vanished(gpu, mig, &record) {
                    let claim = &record.claim;
                    warn!(claimUID = %claim.uid, %device, "the MIG device of a claim in use is gone");
                    let gone = Happening::MigDeviceGone { claim, device };
                    self.waits.notices().tell(gone);
                }
            }
        }
        Ok(())
    }

    /// Those among these of which no record tells. None, while a record cannot be read: it may tell of
    /// any.
    fn unowned_among(
        &self,
        states: &[(GpuUuid, MigState)],
        hardware: &Hardware,
    ) -> Result<Vec<MigDevice>, ClaimError> {
        let traces = self.traces()?;
        let (accounted, unreadable) = self.account(traces.unreadable, hardware);
        if !unreadable.is_empty() {
            return Ok(Vec::new());
        }
        let records: Vec<&Record> = traces.records.iter().chain(&accounted).collect();
        let each = states.iter();
        Ok(each
            .flat_map(|(gpu, mig)| unowned(gpu, mig, &records))
            .collect())
    }
}

/// The GPUs that can be cut.
pub(super) fn divisible(hardware: &Hardware) -> BTreeSet<GpuUuid> {
    let all = hardware.inventory.gpus().iter();
    all.filter(|gpu| gpu.mig.as_ref().is_some_and(|mig| !mig.profiles.is_empty()))
        .map(|gpu| gpu.uuid.clone())
        .collect()
}
