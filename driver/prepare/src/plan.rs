//! From an allocation to the steps that prepare it.
//!
//! # Flow
//! [`resolve`](crate::resolve::resolve) finds the GPUs behind the allocated devices. The shell locks
//! them and reads the records. [`standing`](crate::standing::standing) says what is already there of
//! this very claim; the ledger admits the rest; [`plan`] gives the record to write first and the steps
//! to run after it.

use serde_json::Map;
use tessera_claim::{AllocatedDevice, ClaimRef};
use tessera_device::mig::{MigInstance, MigMode, MigState};
use tessera_device::{DeviceName, Gpu, Inventory};

use crate::cdi::{self, CdiKind, DriverInstall, GpuEdits};
use crate::ledger::Admitted;
use crate::record::{BootId, Phase, PreparedDevice, Record, RecordOf, View};
use crate::refusal::Refusal;
use crate::resolve::ResolvedDevice;
use crate::share::{self, Held};
use crate::step::{Effect, MigDevice, Step};
use crate::time_slice;

/// What to do to prepare a claim for GPUs.
pub type Plan = PlanOf<PreparedDevice>;

/// What to do to prepare a claim whose devices are of this kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanOf<D> {
    /// The record of the intent. It is written before the first step; with [`Phase::Prepared`] in
    /// place of [`Phase::Preparing`] it is written after the last.
    pub record: RecordOf<D>,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

impl Plan {
    /// The same for devices of which these were made for the claim: they are taken back last.
    #[must_use]
    pub fn after_making<'m>(mut self, made: impl Iterator<Item = &'m MigDevice>) -> Self {
        let made = made.cloned().map(Effect::MigDevice);
        self.record.effects.splice(0..0, made);
        self
    }
}

/// Plans the preparation of devices that the ledger has admitted and that are there.
pub fn plan<G>(
    admitted: &Admitted<'_, '_, G>,
    kind: &CdiKind,
    install: &DriverInstall,
    boot: &BootId,
) -> Plan {
    let Admitted { claim, devices, .. } = admitted;
    let gpus: Vec<GpuEdits<'_>> = devices
        .iter()
        .map(|device| {
            let AllocatedDevice {
                device: name,
                share_id,
                ..
            } = &device.allocated;
            GpuEdits {
                name: cdi::device_name(&claim.uid, name, share_id.as_deref()),
                gpu: device.gpu,
                instance: device.instance,
                variable: variable(
                    name,
                    share_id.as_deref(),
                    device.gpu,
                    device.view(),
                    Held::of(device.memory_limit(), device.memory_ceiling()),
                ),
                memory_limit: device.memory_limit(),
            }
        })
        .collect();
    let devices: Vec<PreparedDevice> = devices
        .iter()
        .map(|device| prepared_device(claim, device, kind))
        .collect();
    let file = cdi::file_name(kind, &claim.uid);
    let mut steps = time_slice::set(&devices);
    steps.push(write_cdi(file, &gpus, kind, install));
    let record = Record {
        boot: boot.clone(),
        claim: claim.clone(),
        phase: Phase::Preparing,
        devices,
        effects: steps.iter().filter_map(Step::effect).collect(),
        unknown: Map::new(),
    };
    Plan { record, steps }
}

/// Plans the effects of a claim that is prepared anew, for the devices that its record names.
///
/// The claim is in use, so nothing of it is taken back: the new effects replace the old, and so a spec
/// keeps the name of its file. (The reference driver's are YAML, of which JSON is a part.) A GPU that
/// is missing at present is described as it was last. A device that another driver made of a GPU
/// cannot be described.
pub fn restore(
    record: &Record,
    inventory: &Inventory,
    kind: &CdiKind,
    install: &DriverInstall,
) -> Result<Plan, Refusal> {
    let gpu = |prepared: &PreparedDevice| {
        let gpu = inventory.ever_seen().find(|gpu| gpu.uuid == prepared.gpu);
        let is_ours = prepared.instance.is_some() || prepared.device.is_whole_gpu();
        let gpu = gpu
            .filter(|_| is_ours)
            .ok_or_else(|| Refusal::UnknownDevice {
                claim: record.claim.clone(),
                pool: prepared.pool.clone(),
                device: prepared.device.clone(),
            })?;
        let share = prepared.share_id.as_deref();
        Ok(GpuEdits {
            name: cdi_name(&record.claim, prepared, kind),
            gpu,
            instance: instance(&record.claim, prepared, gpu)?,
            variable: variable(
                &prepared.device,
                share,
                gpu,
                prepared.view,
                Held::of(prepared.memory_limit, prepared.memory_ceiling),
            ),
            memory_limit: prepared.memory_limit,
        })
    };
    let gpus = record
        .devices
        .iter()
        .map(gpu)
        .collect::<Result<Vec<_>, Refusal>>()?;
    let file = record.effects.iter().find_map(|effect| match effect {
        Effect::CdiFile { file, .. } => Some(file.clone()),
        Effect::MigDevice(_) | Effect::Foreign { .. } => None,
    });
    let file = file.unwrap_or_else(|| cdi::file_name(kind, &record.claim.uid));
    // A driver that was replaced has forgotten how its GPUs were set.
    let is_there = |device: &&PreparedDevice| {
        let mut there = inventory.gpus().iter();
        there.any(|gpu| gpu.uuid == device.gpu)
    };
    let there = record.devices.iter().filter(is_there).cloned();
    let mut steps = time_slice::set(&there.collect::<Vec<_>>());
    steps.push(write_cdi(file, &gpus, kind, install));
    let is_spec = |effect: &&Effect| matches!(effect, Effect::CdiFile { .. });
    let others = record.effects.iter().filter(|effect| !is_spec(effect));
    // What was made before the spec was written is taken back after it.
    let (before, after): (Vec<_>, Vec<_>) =
        others.partition(|effect| matches!(effect, Effect::MigDevice(_)));
    let effects = before.into_iter().cloned();
    let effects = effects.chain(steps.iter().filter_map(Step::effect));
    let record = Record {
        effects: effects.chain(after.into_iter().cloned()).collect(),
        ..record.clone()
    };
    Ok(Plan { record, steps })
}

/// The name that the kubelet was told, within its kind: shares are not told apart by the reference
/// driver, whose names stay.
fn cdi_name(claim: &ClaimRef, prepared: &PreparedDevice, kind: &CdiKind) -> String {
    let told = prepared.cdi_id.strip_prefix(&kind.to_string());
    match told.and_then(|rest| rest.strip_prefix('=')) {
        Some(name) => name.to_owned(),
        None => cdi::device_name(&claim.uid, &prepared.device, prepared.share_id.as_deref()),
    }
}

/// What a container is told of its share, where it has one and it is known what that is.
fn variable(
    device: &DeviceName,
    share_id: Option<&str>,
    gpu: &Gpu,
    view: View,
    held: Held,
) -> Option<String> {
    match (share_id, view) {
        (Some(id), View::Share(share)) => Some(share::variable(id, device, &gpu.uuid, share, held)),
        (_, View::Share(_) | View::Whole | View::Part(_) | View::Admin) => None,
    }
}

/// The MIG device that was prepared, where it was one and is there still.
fn instance<'i>(
    claim: &ClaimRef,
    prepared: &PreparedDevice,
    gpu: &'i Gpu,
) -> Result<Option<&'i MigInstance>, Refusal> {
    let Some(uuid) = &prepared.instance else {
        return Ok(None);
    };
    let mut instances = gpu.mig.iter().flat_map(|mig| &mig.instances);
    let found = instances.find(|instance| instance.uuid == *uuid);
    found.map(Some).ok_or_else(|| Refusal::MigLayoutChanged {
        claim: claim.clone(),
        device: prepared.device.clone(),
        gpu: gpu.uuid.clone(),
        mig: Box::new(
            gpu.mig
                .clone()
                .unwrap_or_else(|| MigState::empty(MigMode::Off)),
        ),
    })
}

pub(crate) fn prepared_device(
    claim: &ClaimRef,
    device: &ResolvedDevice<'_>,
    kind: &CdiKind,
) -> PreparedDevice {
    let AllocatedDevice {
        request,
        pool,
        device: name,
        share_id,
        ..
    } = device.allocated.clone();
    let cdi_id = cdi::device_id(kind, &claim.uid, &name, share_id.as_deref());
    let gpu = device.gpu.uuid.clone();
    let view = device.view();
    let instance = device.mig().cloned();
    let time_slice = time_slice::wanted(claim, device);
    let memory_limit = device.memory_limit();
    let memory_ceiling = device.memory_ceiling();
    PreparedDevice {
        request,
        pool,
        device: name,
        share_id,
        gpu,
        view,
        instance,
        time_slice,
        memory_limit,
        memory_ceiling,
        cdi_id,
        unknown: Map::new(),
    }
}

fn write_cdi(file: String, gpus: &[GpuEdits<'_>], kind: &CdiKind, install: &DriverInstall) -> Step {
    let spec = cdi::claim_spec(kind, gpus, install);
    Step::WriteCdi {
        file,
        contents: spec.to_json(),
    }
}

#[cfg(test)]
mod tests {
    use tessera_device::mig::MigLayouts;
    use tessera_device::testing::{driver, gpu, inventory, inventory_that_lost};
    use tessera_device::{Bytes, DriverFacts, MemoryLimiting};
    use tessera_sharing::ConsumableShares;

    use super::*;
    use crate::ledger::Ledger;
    use crate::resolve::resolve;
    use crate::testing::{
        AllLocked, allocation, boot, growing, record, share_allocation, share_record,
    };

    #[test]
    fn the_record_names_the_effect_of_every_step_before_it_is_done() {
        let inventory = inventory(0..8);
        let allocation = allocation("a", &[0, 3]);
        let devices = resolve(&allocation, "node0", &inventory, MigLayouts::Static).unwrap();
        let admitted = Ledger::under(&AllLocked, [], vec![])
            .admit(&allocation.claim, devices)
            .unwrap();
        let boot = boot();
        let plan = plan(
            &admitted,
            &CdiKind::claim(),
            &DriverInstall::default(),
            &boot,
        );
        assert_eq!(plan.record.phase, Phase::Preparing);
        let effects: Vec<_> = plan.steps.iter().filter_map(Step::effect).collect();
        assert_eq!(plan.record.effects, effects);
        assert_eq!(effects.len(), plan.steps.len());
        let ids: Vec<&str> = plan
            .record
            .devices
            .iter()
            .map(|d| d.cdi_id.as_str())
            .collect();
        assert_eq!(
            ids,
            [
                "k8s.gpu.nvidia.com/claim=a-uid-gpu-0",
                "k8s.gpu.nvidia.com/claim=a-uid-gpu-3"
            ]
        );
    }

    #[test]
    fn each_share_is_a_device_of_its_own_that_says_what_it_is_and_is_made_anew_the_same() {
        let inventory = inventory(0..8);
        let shares = [("s-1", 20), ("s-2", 5)];
        let allocation = share_allocation("a", 3, &shares);
        let devices = resolve(&allocation, "node0", &inventory, MigLayouts::Static).unwrap();
        let admitted = Ledger::under(&AllLocked, [], vec![])
            .admit(&allocation.claim, devices)
            .unwrap();
        let (kind, install) = (CdiKind::claim(), DriverInstall::default());
        let plan = plan(&admitted, &kind, &install, &boot());
        assert_eq!(plan.record.devices, share_record("a", 3, &shares).devices);
        let ids: Vec<&str> = plan
            .record
            .devices
            .iter()
            .map(|d| d.cdi_id.as_str())
            .collect();
        assert_eq!(
            ids,
            [
                "k8s.gpu.nvidia.com/claim=a-uid-gpu-3_s-1",
                "k8s.gpu.nvidia.com/claim=a-uid-gpu-3_s-2"
            ]
        );
        assert!(plan.record.is_of(&kind));
        let [Step::WriteCdi { contents, .. }] = plan.steps.as_slice() else {
            panic!("one step writes the spec")
        };
        let spec: serde_json::Value = serde_json::from_slice(contents).unwrap();
        let variable = &spec["devices"][0]["containerEdits"]["env"][0];
        let gpu = tessera_device::testing::gpu_uuid(3);
        assert_eq!(
            variable.as_str().unwrap(),
            format!(
                "TESSERA_SHARE_S_1=device=gpu-3,gpu={gpu},memory=21474836480,computeShare=0,shares=1,\
                 memoryEnforcement=none"
            )
        );
        let restored = restore(&plan.record, &inventory, &kind, &install).unwrap();
        assert_eq!(restored, plan);
    }

    #[test]
    fn a_share_is_held_where_the_driver_can_unless_it_is_all_of_its_gpu() {
        let (kind, install) = (CdiKind::claim(), DriverInstall::default());
        let plan_with = |memory_limiting, memory, config| {
            let limiting = DriverFacts {
                memory_limiting,
                ..driver("615.71.09")
            };
            let inventory = Inventory::new(limiting, vec![gpu(3)]).unwrap();
            let mut allocation = share_allocation("a", 3, &[("s-1", 0)]);
            allocation.devices[0].consumed.memory = Some(memory);
            allocation.devices[0].share_configuration = config;
            let devices = resolve(&allocation, "node0", &inventory, MigLayouts::Static).unwrap();
            let admitted = Ledger::under(&AllLocked, [], vec![])
                .admit(&allocation.claim, devices)
                .unwrap();
            let plan = plan(&admitted, &kind, &install, &boot());
            // A driver that was replaced by one that cannot hold does not undo what was promised.
            let older = Inventory::new(driver("580.95.05"), vec![gpu(3)]).unwrap();
            let restored = restore(&plan.record, &older, &kind, &install).unwrap();
            assert_eq!(restored, plan);
            let [Step::WriteCdi { contents, .. }] = plan.steps.as_slice() else {
                panic!("one step writes the spec")
            };
            let spec: serde_json::Value = serde_json::from_slice(contents).unwrap();
            let edits = &spec["devices"][0]["containerEdits"];
            let told = edits["env"][0].as_str().unwrap().to_owned();
            let hooked = edits["hooks"][0]["hookName"] == "createRuntime";
            (plan.record.devices[0].memory_limit, told, hooked)
        };
        let part = Bytes::from_mib(20 << 10);
        let all = ConsumableShares::Memory.capacity(gpu(3).memory).memory;
        for (limiting, memory, expected) in [
            (MemoryLimiting::PerCgroup, part, Some(part)),
            (MemoryLimiting::PerCgroup, all, None),
            (MemoryLimiting::CgroupV1, part, None),
            (MemoryLimiting::NoCall, part, None),
        ] {
            let (limit, told, hooked) = plan_with(limiting, memory, None);
            assert_eq!(limit, expected, "{limiting:?} {memory}");
            assert_eq!(hooked, expected.is_some(), "{limiting:?} {memory}");
            let tier = if hooked { "native" } else { "none" };
            assert!(
                told.ends_with(&format!("memoryEnforcement={tier}")),
                "{told}"
            );
        }
        let (_, told, _) = plan_with(MemoryLimiting::Moved, part, Some(growing()));
        let ceiling = gpu(3).memory.0;
        assert!(
            told.ends_with(&format!("memoryEnforcement=native,memoryLimit={ceiling}")),
            "{told}"
        );
        let (_, told, _) = plan_with(MemoryLimiting::PerCgroup, part, Some(growing()));
        assert!(told.ends_with("memoryEnforcement=native"), "{told}");
    }

    #[test]
    fn what_was_prepared_on_a_gpu_that_is_lost_can_still_be_made_anew() {
        let inventory = inventory_that_lost(0, 0..8);
        let install = DriverInstall::default();
        let restored = restore(&record("a", &[0]), &inventory, &CdiKind::claim(), &install);
        assert!(restored.is_ok(), "{restored:?}");
    }

    #[test]
    fn a_spec_that_is_made_anew_keeps_its_file_and_what_is_not_ours_stays_recorded() {
        let inventory = inventory(0..8);
        let install = DriverInstall::default();
        let mut taken = record("a", &[0]);
        taken.effects = vec![
            Effect::CdiFile {
                file: "a.yaml".to_owned(),
                crc32: 0,
            },
            Effect::Foreign {
                what: "an MPS control daemon".to_owned(),
            },
        ];
        let restored = restore(&taken, &inventory, &CdiKind::claim(), &install).unwrap();
        let [Step::WriteCdi { file, .. }] = restored.steps.as_slice() else {
            panic!("one step writes the spec")
        };
        assert_eq!(file, "a.yaml");
        let effects = restored.record.effects;
        assert_eq!(effects[1..], taken.effects[1..]);
        assert_eq!(Some(&effects[0]), restored.steps[0].effect().as_ref());
    }

    #[test]
    fn a_part_of_a_gpu_is_not_made_anew_as_the_whole_gpu() {
        let mut taken = record("a", &[0]);
        taken.devices[0].device = "gpu-0-mig-1g5gb-19-0".parse().unwrap();
        let install = DriverInstall::default();
        let restored = restore(&taken, &inventory(0..8), &CdiKind::claim(), &install);
        assert!(
            matches!(restored, Err(Refusal::UnknownDevice { .. })),
            "{restored:?}"
        );
    }
}
