//! What becomes of records that nobody is asking about.
//!
//! The kubelet asks to unprepare what it remembers. What it has forgotten (a lost checkpoint), what
//! somebody else deleted or altered, and records that cannot be read any more are found by looking:
//! [`repair`] says what to do about a record, and [`account`] finds out what a record said that
//! cannot be read.

use std::time::Duration;

use serde_json::Map;
use tessera_claim::{ClaimRef, ClaimUid};
use tessera_device::{Inventory, Offered};

use crate::cdi::{self, CdiKind, ClaimedDevice};
use crate::ledger::Unreadable;
use crate::record::{BootId, Phase, PreparedDevice, Record, RecordOf, RecordedDevice, View};
use crate::step::{Effect, MigDevice};

/// What a rebuilt record says in place of a name that is not known.
const UNKNOWN_NAME: &str = "unknown";

/// A claim of which only the UID is known.
pub(crate) fn nameless(uid: &ClaimUid) -> ClaimRef {
    ClaimRef {
        namespace: UNKNOWN_NAME.to_owned(),
        name: UNKNOWN_NAME.to_owned(),
        uid: uid.clone(),
    }
}

/// Whether the claim's name is known, so that the API server can be asked about it.
pub fn has_name(claim: &ClaimRef) -> bool {
    claim.namespace != UNKNOWN_NAME || claim.name != UNKNOWN_NAME
}

/// What the API server says about a recorded claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiView {
    /// It is there and allocates what the record says.
    Allocated,
    /// It is gone, another claim has its name, or it allocates something else. For so long it has
    /// been seen that way.
    LetGo(Duration),
    /// The API server does not answer, or the claim's name is not known.
    Unknown,
}

/// How the effects of a record are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effects {
    /// As they were made, for the driver that is installed or without a driver to compare with.
    Good,
    /// Missing or altered.
    Damaged,
    /// As they were made, but for another driver than is installed now.
    Outdated,
}

/// What to do about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// It is as it should be, or somebody will ask about it.
    Nothing,
    /// Its effects are not what they were, or not what containers need by now: make them anew. The
    /// claim is in use.
    Restore,
    /// Its claim is gone and nobody has asked to unprepare it: take it back.
    TakeBack,
}

/// Decides about one record.
///
/// A claim that was prepared before the driver was replaced has a spec that names files which are
/// gone. Its running containers keep the files that they have open and are not touched by a new
/// spec; a container that is started anew under the old one fails, under a new one it runs. So it
/// is made anew for the driver that is installed, and left alone as long as there is none.
///
/// A claim that has been let go is left alone for `grace`: the kubelet unprepares it when its
/// containers have ended, and until then they use the GPU. Processes on the GPU are not asked for:
/// NVML names them by the caller's PID namespace (`nvmlDeviceGetComputeRunningProcesses`), so a
/// plugin in a container may see none while a tenant computes, and a container that is between two
/// programs has none.
pub fn repair<D: RecordedDevice>(
    record: &RecordOf<D>,
    boot: &BootId,
    api: ApiView,
    effects: Effects,
    grace: Duration,
) -> Repair {
    if record.phase == Phase::Released {
        return Repair::Nothing;
    }
    match api {
        ApiView::LetGo(time) if time >= grace => Repair::TakeBack,
        ApiView::Allocated | ApiView::Unknown | ApiView::LetGo(_) => match effects {
            Effects::Damaged | Effects::Outdated if record.is_prepared_in(boot) => Repair::Restore,
            Effects::Good | Effects::Damaged | Effects::Outdated => Repair::Nothing,
        },
    }
}

/// A CDI spec that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSpec {
    /// File name within the CDI directory.
    pub file: String,
    /// Its bytes.
    pub contents: Vec<u8>,
}

impl FoundSpec {
    /// The effect that it is.
    pub fn effect(&self) -> Effect {
        Effect::CdiFile {
            file: self.file.clone(),
            crc32: crc32fast::hash(&self.contents),
        }
    }
}

/// The node on which a record is rebuilt.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Kind of its CDI devices.
    pub kind: &'a CdiKind,
    /// Its pool.
    pub pool: &'a str,
    /// Its GPUs.
    pub inventory: &'a Inventory,
    /// Its boot.
    pub boot: &'a BootId,
    /// Whether every MIG device there is one that the driver has made for a claim: nobody else makes any.
    pub owns_mig: bool,
}

/// The record of a claim whose own cannot be read: its copy, or what its CDI spec tells. `None` if
/// neither does: then the claim may hold any GPU.
pub fn account(
    unreadable: &Unreadable,
    spec: Option<&FoundSpec>,
    site: Site<'_>,
) -> Option<Record> {
    let from_spec = || rebuild(&unreadable.claim, spec?, site);
    unreadable.copy.clone().or_else(from_spec)
}

/// Makes the record of a claim from the CDI spec that was written for it, or nothing if the spec
/// cannot be read or names a device that is not here.
///
/// The spec says which devices the claim's containers have; that is what must not be given to
/// anybody else. The claim's name and requests stand in no spec and are left unknown: the next
/// Prepare of the claim puts them right, and its Unprepare needs neither.
///
/// No spec says either who has made a MIG device. Where only the driver does, it is destroyed with its claim.
pub(crate) fn rebuild(claim: &ClaimUid, spec: &FoundSpec, site: Site<'_>) -> Option<Record> {
    let Site {
        kind,
        pool,
        inventory,
        boot,
        owns_mig,
    } = site;
    let mut effects = Vec::new();
    let names = cdi::claimed_devices(&spec.contents, claim)?;
    let mut device = |ClaimedDevice { device, share_id }| {
        let name = cdi::device_name(claim, &device, share_id.as_deref());
        // Of a MIG device that the layout has no more it is not known where it was: it may have been
        // anywhere on its GPU.
        let (gpu, instance) = match inventory.seen_by_device_name(&device) {
            Some(Offered { gpu, instance }) => (gpu, instance),
            None => (inventory.gpu_of(&device)?, None),
        };
        let made = instance.filter(|_| owns_mig);
        effects
            .extend(made.map(|instance| Effect::MigDevice(MigDevice::found(&gpu.uuid, instance))));
        Some(PreparedDevice {
            request: String::new(),
            pool: pool.to_owned(),
            gpu: gpu.uuid.clone(),
            // Whether it was admin access is not known, nor how much a share has of it; that it was all
            // is the safe assumption.
            view: instance.map_or(View::Whole, |instance| View::Part(instance.part())),
            instance: instance.map(|instance| instance.uuid.clone()),
            // A spec does not tell. It is known again when the claim is asked for.
            time_slice: None,
            memory_limit: cdi::limit_in(&spec.contents, &name),
            memory_ceiling: cdi::ceiling_in(&spec.contents, &name),
            cdi_id: cdi::device_id(kind, claim, &device, share_id.as_deref()),
            share_id,
            device,
            unknown: Map::new(),
        })
    };
    let devices = names
        .into_iter()
        .map(&mut device)
        .collect::<Option<Vec<_>>>()?;
    effects.push(spec.effect());
    Some(Record {
        boot: boot.clone(),
        claim: nameless(claim),
        phase: Phase::Prepared,
        devices,
        effects,
        unknown: Map::new(),
    })
}

#[cfg(test)]
mod tests {
    use tessera_device::mig::MigLayouts;
    use tessera_device::testing::{cut, driver, gpu, inventory};
    use tessera_device::{DeviceName, DriverFacts, MemoryLimiting};

    use super::*;
    use crate::cdi::DriverInstall;
    use crate::ledger::{Flaw, Ledger};
    use crate::plan::plan;
    use crate::resolve::resolve;
    use crate::step::Step;
    use crate::testing::{AllLocked, allocation, boot, growing, record, share_allocation};

    const GRACE: Duration = Duration::from_mins(2);

    fn spec(contents: &[u8]) -> FoundSpec {
        FoundSpec {
            file: "k8s.gpu.nvidia.com-claim_a-uid.json".to_owned(),
            contents: contents.to_vec(),
        }
    }

    fn site<'a>(kind: &'a CdiKind, inventory: &'a Inventory, boot: &'a BootId) -> Site<'a> {
        Site {
            kind,
            pool: "node0",
            inventory,
            boot,
            owns_mig: false,
        }
    }

    #[test]
    fn a_rebuilt_record_holds_its_containers_as_the_spec_did() {
        let facts = DriverFacts {
            memory_limiting: MemoryLimiting::Moved,
            ..driver("615.71.09")
        };
        let inventory = Inventory::new(facts, vec![gpu(3)]).unwrap();
        let mut allocation = share_allocation("a", 3, &[("s-1", 20)]);
        allocation.devices[0].share_configuration = Some(growing());
        let devices = resolve(&allocation, "node0", &inventory, MigLayouts::Static).unwrap();
        let admitted = Ledger::under(&AllLocked, [], vec![])
            .admit(&allocation.claim, devices)
            .unwrap();
        let (kind, install, boot) = (CdiKind::claim(), DriverInstall::default(), boot());
        let plan = plan(&admitted, &kind, &install, &boot);
        let [Step::WriteCdi { contents, .. }] = plan.steps.as_slice() else {
            panic!("one step writes the spec")
        };
        let site = site(&kind, &inventory, &boot);
        let rebuilt = rebuild(&allocation.claim.uid, &spec(contents), site).unwrap();
        let range = |record: &Record| {
            let device = &record.devices[0];
            (device.memory_limit, device.memory_ceiling)
        };
        assert_eq!(range(&plan.record).1, Some(gpu(3).memory));
        assert_eq!(range(&rebuilt), range(&plan.record));
    }

    #[test]
    fn only_what_is_gone_for_long_is_taken_back_and_only_what_is_in_use_is_restored() {
        let boot = boot();
        let prepared = record("a", &[0]);
        let mut preparing = prepared.clone();
        preparing.phase = Phase::Preparing;
        let mut former_boot = prepared.clone();
        former_boot.boot = BootId("former".to_owned());
        let mut released = prepared.clone();
        released.phase = Phase::Released;
        let recent = ApiView::LetGo(Duration::from_secs(1));
        let old = ApiView::LetGo(GRACE);
        for (record, api, effects, expected) in [
            (
                &prepared,
                ApiView::Allocated,
                Effects::Good,
                Repair::Nothing,
            ),
            (
                &prepared,
                ApiView::Allocated,
                Effects::Damaged,
                Repair::Restore,
            ),
            (
                &prepared,
                ApiView::Unknown,
                Effects::Damaged,
                Repair::Restore,
            ),
            (
                &prepared,
                ApiView::Allocated,
                Effects::Outdated,
                Repair::Restore,
            ),
            (&prepared, old, Effects::Outdated, Repair::TakeBack),
            (
                &former_boot,
                ApiView::Unknown,
                Effects::Outdated,
                Repair::Nothing,
            ),
            // Its containers may still run, and may be restarted by the runtime.
            (&prepared, recent, Effects::Damaged, Repair::Restore),
            (&prepared, recent, Effects::Good, Repair::Nothing),
            (&prepared, old, Effects::Good, Repair::TakeBack),
            (&prepared, old, Effects::Damaged, Repair::TakeBack),
            (&prepared, ApiView::Unknown, Effects::Good, Repair::Nothing),
            // The kubelet calls again for what it has not been told of.
            (
                &preparing,
                ApiView::Allocated,
                Effects::Damaged,
                Repair::Nothing,
            ),
            (&preparing, old, Effects::Damaged, Repair::TakeBack),
            // What is left of it cannot be taken back.
            (&released, old, Effects::Good, Repair::Nothing),
            (
                &former_boot,
                ApiView::Allocated,
                Effects::Damaged,
                Repair::Nothing,
            ),
        ] {
            let found = repair(record, &boot, api, effects, GRACE);
            assert_eq!(found, expected, "{:?} {api:?} {effects:?}", record.phase);
        }
    }

    #[test]
    fn a_lost_record_is_rebuilt_from_the_spec_with_the_same_gpus_and_the_same_undo() {
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
        let [Step::WriteCdi { contents, .. }] = plan.steps.as_slice() else {
            panic!("one step writes the spec")
        };
        let lost = &plan.record;
        let found = rebuild(
            &lost.claim.uid,
            &spec(contents),
            site(&CdiKind::claim(), &inventory, &lost.boot),
        )
        .unwrap();
        assert_eq!(found.effects, lost.effects);
        let gpus = |record: &Record| -> Vec<_> {
            record
                .devices
                .iter()
                .map(|d| (d.gpu.clone(), d.cdi_id.clone()))
                .collect()
        };
        assert_eq!(gpus(&found), gpus(lost));
    }

    #[test]
    fn what_a_copy_says_goes_before_what_a_spec_says_and_without_either_nothing_is_known() {
        let inventory = inventory(0..8);
        let boot = boot();
        let spec = spec(br#"{"devices": [{"name": "a-uid-gpu-0"}]}"#);
        let found = |copy: Option<Record>, spec| {
            let unreadable = Unreadable {
                claim: "a-uid".parse().unwrap(),
                problem: "damage".to_owned(),
                flaw: Flaw::Damaged,
                copy,
            };
            let kind = CdiKind::claim();
            account(&unreadable, spec, site(&kind, &inventory, &boot))
        };
        let copy = record("a", &[3]);
        assert_eq!(found(Some(copy.clone()), Some(&spec)), Some(copy));
        let from_spec = found(None, Some(&spec)).unwrap();
        assert_eq!(from_spec.devices[0].device, DeviceName::whole_gpu(0));
        assert_eq!(found(None, None), None);
    }

    #[test]
    fn a_spec_that_says_nothing_certain_rebuilds_nothing() {
        let inventory = inventory(0..8);
        let uid: ClaimUid = "a-uid".parse().unwrap();
        let boot = boot();
        for bytes in [
            &b""[..],
            b"{}",
            br#"{"devices": []}"#,
            br#"{"devices": [{"name": "other-uid-gpu-0"}]}"#,
            br#"{"devices": [{"name": "a-uid-gpu-0"}, {"name": "a-uid-gpu-99"}]}"#,
        ] {
            let kind = CdiKind::claim();
            let found = rebuild(&uid, &spec(bytes), site(&kind, &inventory, &boot));
            assert_eq!(found, None, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn of_a_claim_with_mig_devices_the_parts_that_it_holds_are_found_and_else_the_whole_gpu() {
        let uid: ClaimUid = "a-uid".parse().unwrap();
        let found = |profiles: &[&str], owns_mig| {
            let spec_bytes = br#"{"devices": [{"name": "a-uid-gpu-0-mig-3g40gb-9-4"}]}"#;
            let gpus = vec![cut(gpu(0), profiles)];
            let inventory = Inventory::new(driver("580"), gpus).unwrap();
            let kind = CdiKind::claim();
            let boot = boot();
            let site = Site {
                owns_mig,
                ..site(&kind, &inventory, &boot)
            };
            rebuild(&uid, &spec(spec_bytes), site).unwrap()
        };
        let there = found(&["3g.40gb", "3g.40gb"], false);
        let View::Part(part) = there.devices[0].view else {
            panic!("{there:?}")
        };
        assert_eq!((part.placement.start, part.placement.size), (4, 4));
        assert!(there.devices[0].instance.is_some());
        // Where nobody else makes MIG devices it was made for the claim, and ends with it.
        assert_eq!(there.made().count(), 0);
        let ours = found(&["3g.40gb", "3g.40gb"], true);
        assert_eq!(ours.devices, there.devices);
        let made: Vec<_> = ours.made().collect();
        let identity = made[0].identity.as_ref();
        assert_eq!(
            identity.map(|identity| &identity.uuid),
            ours.devices[0].instance.as_ref()
        );
        assert_eq!((made.len(), made[0].placement.start), (1, 4));

        let gone = found(&["1g.10gb"], true);
        assert_eq!(gone.made().count(), 0);
        assert_eq!(gone.devices[0].view, View::Whole);
        assert_eq!(gone.devices[0].instance, None);
    }
}
