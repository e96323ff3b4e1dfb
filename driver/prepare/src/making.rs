//! What has to be made of GPUs before a claim's devices are there.
//!
//! A MIG device gets its identity when it is made, and the CDI spec needs that. So a claim is prepared in
//! two rounds: [`make`] decides which modes to switch and which devices to make; when that is done,
//! [`plan`](crate::plan::plan) goes on with what is there then.
//!
//! # Guarantees
//! No mode is switched under anybody: the ledger has admitted the claim, and nothing lies on the GPU that
//! it knows nothing of.

use std::collections::BTreeMap;

use serde_json::Map;
use tessera_claim::ClaimRef;
use tessera_device::mig::{MigMode, MigState, Slot};
use tessera_device::{GpuUuid, Inventory, InventoryError};

use crate::cdi::CdiKind;
use crate::ledger::Admitted;
use crate::plan::{Plan, prepared_device};
use crate::record::{BootId, Phase, Record, View};
use crate::refusal::Refusal;
use crate::resolve::ResolvedDevice;
use crate::share::Share;
use crate::step::{Done, MigDevice, Step};

/// What to make for devices that the ledger has admitted; nothing if all are there.
///
/// The devices must have been resolved from GPUs that were looked at under the locks.
pub fn make<G>(
    admitted: &Admitted<'_, '_, G>,
    kind: &CdiKind,
    boot: &BootId,
) -> Result<Option<Plan>, Refusal> {
    let Admitted { claim, devices, .. } = admitted;
    let mut modes: BTreeMap<&GpuUuid, MigMode> = BTreeMap::new();
    let mut created = Vec::new();
    for device in devices {
        let gpu = device.gpu;
        let Some(mig) = &gpu.mig else { continue };
        let wanted = match (device.view(), device.slot) {
            (View::Whole | View::Share(Share { of: None, .. }), _) => MigMode::Off,
            (View::Part(_), Some(_)) => MigMode::On,
            (View::Admin | View::Part(_) | View::Share(_), None) => continue,
            // There is nothing to look at, and a device that is made is destroyed with its claim: no other
            // can have a share of it.
            (View::Admin | View::Share(_), Some(_)) => return Err(device.changed(claim)),
        };
        if is_obstructed(mig, device.slot) {
            return Err(device.changed(claim));
        }
        if mig.mode != wanted {
            modes.insert(&gpu.uuid, wanted);
        }
        let planned = device.slot.map(|slot| MigDevice::planned(gpu, slot));
        created.extend(planned.map(Step::CreateMig));
    }
    let modes = modes.into_iter().map(|(gpu, mode)| Step::SwitchMigMode {
        gpu: gpu.clone(),
        mode,
    });
    let steps: Vec<Step> = modes.chain(created).collect();
    if steps.is_empty() {
        return Ok(None);
    }
    let devices = devices.iter();
    let record = Record {
        boot: boot.clone(),
        claim: claim.clone(),
        phase: Phase::Preparing,
        devices: devices
            .map(|device| prepared_device(claim, device, kind))
            .collect(),
        effects: steps.iter().filter_map(Step::effect).collect(),
        unknown: Map::new(),
    };
    Ok(Some(Plan { record, steps }))
}

/// The GPUs as they are once these steps are done.
pub fn after(inventory: &Inventory, done: &[(Step, Done)]) -> Result<Inventory, InventoryError> {
    let mut after = inventory.clone();
    for (step, done) in done {
        let (gpu, change): (_, &dyn Fn(&mut MigState)) = match (step, done) {
            (Step::SwitchMigMode { gpu, mode }, _) => (gpu, &|mig| {
                mig.mode = *mode;
                mig.pending = *mode;
            }),
            (Step::CreateMig(device), Done::Created(instance)) => (&device.gpu, &|mig| {
                mig.instances.push(instance.clone());
                mig.instances.sort_by_key(|instance| instance.placement);
            }),
            _ => continue,
        };
        let mut gpus = after.gpus().iter();
        let found = gpus.find(|other| other.uuid == *gpu);
        if let Some(mut mig) = found.and_then(|gpu| gpu.mig.clone()) {
            change(&mut mig);
            after = after.with_mig(gpu, mig)?;
        }
    }
    Ok(after)
}

/// Whether something lies where the device is to be. Other claims have been ruled out by the ledger, so
/// it is something that no claim has.
fn is_obstructed(mig: &MigState, slot: Option<Slot<'_>>) -> bool {
    let instances = mig.instances.iter().map(|instance| instance.placement);
    let unfinished = mig.unfinished.iter().map(|unfinished| unfinished.placement);
    let mut places = instances.chain(unfinished);
    places.any(|place| slot.is_none_or(|slot| slot.placement.overlaps(place)))
}

impl ResolvedDevice<'_> {
    /// The refusal of a device that its GPU cannot be made into as it is.
    fn changed(&self, claim: &ClaimRef) -> Refusal {
        let mig = self.gpu.mig.clone();
        Refusal::MigLayoutChanged {
            claim: claim.clone(),
            device: self.allocated.device.clone(),
            gpu: self.gpu.uuid.clone(),
            mig: Box::new(mig.unwrap_or_else(|| MigState::empty(MigMode::Off))),
        }
    }
}

#[cfg(test)]
mod tests;
