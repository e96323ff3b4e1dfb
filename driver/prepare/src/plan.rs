//! From an allocation to the steps that prepare it.
//!
//! # Flow
//! [`resolve`] finds the GPUs behind the allocated devices. The shell locks them and reads the
//! records. [`standing`] says what is already there of this very claim; the ledger admits the
//! rest; [`plan`] gives the record to write first and the steps to run after it.

use serde_json::Map;
use tessera_claim::{AllocatedDevice, Allocation, ClaimRef};
use tessera_device::follow::MissingGpu;
use tessera_device::{Gpu, Inventory};

use crate::cdi::{self, CdiKind, DriverInstall, GpuEdits};
use crate::ledger::Admitted;
use crate::record::{BootId, Phase, PreparedDevice, Record, View};
use crate::refusal::Refusal;
use crate::step::{Step, undo_all};

/// An allocated device and the GPU behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedDevice<'i> {
    /// What the scheduler allocated.
    pub allocated: AllocatedDevice,
    /// The GPU that serves it.
    pub gpu: &'i Gpu,
    /// How the claim uses that GPU.
    pub view: View,
}

/// Finds the GPU behind each device of the allocation.
///
/// `pool` is the pool that this node publishes; a device of another pool is not here, whatever
/// its name.
pub fn resolve<'i>(
    allocation: &Allocation,
    pool: &str,
    inventory: &'i Inventory,
) -> Result<Vec<ResolvedDevice<'i>>, Refusal> {
    let find = |allocated: &AllocatedDevice| {
        let gpu = (allocated.pool == pool)
            .then(|| inventory.by_device_name(&allocated.device))
            .flatten()
            .ok_or_else(|| not_here(&allocation.claim, allocated, pool, inventory))?;
        Ok(ResolvedDevice {
            allocated: allocated.clone(),
            gpu,
            view: view(allocated),
        })
    };
    allocation.devices.iter().map(find).collect()
}

fn not_here(
    claim: &ClaimRef,
    allocated: &AllocatedDevice,
    pool: &str,
    inventory: &Inventory,
) -> Refusal {
    let claim = claim.clone();
    let device = allocated.device.clone();
    let missing = inventory.missing_by_device_name(&device);
    match missing.filter(|_| allocated.pool == pool) {
        Some(MissingGpu { gpu, absence }) => Refusal::GpuLost {
            claim,
            device,
            gpu: gpu.uuid.clone(),
            absence: absence.clone(),
        },
        None => Refusal::UnknownDevice {
            claim,
            pool: allocated.pool.clone(),
            device,
        },
    }
}

/// Whether the record is that of a claim which was prepared in this boot for exactly this
/// allocation.
///
/// For a claim whose GPUs cannot be looked at, because the driver is away or the GPU is lost: what
/// its containers were given stays theirs. Where the GPUs are known, [`standing`] decides.
pub fn is_prepared_for(record: &Record, allocation: &Allocation, boot: &BootId) -> bool {
    let is_for = |(prepared, allocated): (&PreparedDevice, &AllocatedDevice)| {
        prepared.pool == allocated.pool
            && prepared.device == allocated.device
            && prepared.request == allocated.request
            && prepared.share_id == allocated.share_id
            && prepared.view == view(allocated)
    };
    record.phase == Phase::Prepared
        && record.boot == *boot
        && record.claim.uid == allocation.claim.uid
        && record.devices.len() == allocation.devices.len()
        && record.devices.iter().zip(&allocation.devices).all(is_for)
}

fn view(allocated: &AllocatedDevice) -> View {
    if allocated.admin_access {
        View::Admin
    } else {
        View::Whole
    }
}

/// What the journal already has of a claim that is to be prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    New,
    /// It is prepared, with these devices, in this boot.
    Prepared,
    /// Something else: a preparation that did not end, an allocation that has changed, or a former
    /// boot. These steps take it back.
    Leftover(Vec<Step>),
}

/// Compares the record of a claim with what is to be prepared now.
pub fn standing(
    record: Option<&Record>,
    devices: &[ResolvedDevice<'_>],
    boot: &BootId,
) -> Standing {
    let Some(record) = record else {
        return Standing::New;
    };
    let same_devices = record.devices.len() == devices.len()
        && record
            .devices
            .iter()
            .zip(devices)
            .all(|(prepared, device)| {
                prepared.gpu == device.gpu.uuid
                    && prepared.view == device.view
                    && prepared.device == device.allocated.device
                    && prepared.request == device.allocated.request
                    && prepared.share_id == device.allocated.share_id
            });
    if record.phase == Phase::Prepared && record.boot == *boot && same_devices {
        Standing::Prepared
    } else {
        Standing::Leftover(undo_all(&record.effects))
    }
}

/// What to do to prepare a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The record of the intent. It is written before the first step; with [`Phase::Prepared`] in
    /// place of [`Phase::Preparing`] it is written after the last.
    pub record: Record,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// Plans the preparation of devices that the ledger has admitted.
pub fn plan<G>(
    admitted: &Admitted<'_, '_, G>,
    kind: &CdiKind,
    install: &DriverInstall,
    boot: &BootId,
) -> Plan {
    let Admitted { claim, devices, .. } = admitted;
    let gpus: Vec<GpuEdits<'_>> = devices
        .iter()
        .map(|device| GpuEdits {
            device: device.allocated.device.clone(),
            gpu: device.gpu,
        })
        .collect();
    let steps = vec![write_cdi(claim, &gpus, kind, install)];
    let record = Record {
        boot: boot.clone(),
        claim: claim.clone(),
        phase: Phase::Preparing,
        devices: devices
            .iter()
            .map(|device| prepared_device(claim, device, kind))
            .collect(),
        effects: steps.iter().filter_map(Step::effect).collect(),
        unknown: Map::new(),
    };
    Plan { record, steps }
}

/// Plans the effects of a claim that is prepared anew, for the devices that its record names.
///
/// The claim is in use, so nothing of it is taken back: the new effects replace the old. A GPU that
/// is missing at present is described as it was last.
pub fn restore(
    record: &Record,
    inventory: &Inventory,
    kind: &CdiKind,
    install: &DriverInstall,
) -> Result<Plan, Refusal> {
    let gpu = |prepared: &PreparedDevice| {
        let gpu = inventory.ever_seen().find(|gpu| gpu.uuid == prepared.gpu);
        gpu.map(|gpu| GpuEdits {
            device: prepared.device.clone(),
            gpu,
        })
        .ok_or_else(|| Refusal::UnknownDevice {
            claim: record.claim.clone(),
            pool: prepared.pool.clone(),
            device: prepared.device.clone(),
        })
    };
    let gpus = record
        .devices
        .iter()
        .map(gpu)
        .collect::<Result<Vec<_>, _>>()?;
    let steps = vec![write_cdi(&record.claim, &gpus, kind, install)];
    let effects = steps.iter().filter_map(Step::effect).collect();
    let record = Record {
        effects,
        ..record.clone()
    };
    Ok(Plan { record, steps })
}

fn prepared_device(
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
    let cdi_id = cdi::device_id(kind, &claim.uid, &name);
    let gpu = device.gpu.uuid.clone();
    let view = device.view;
    PreparedDevice {
        request,
        pool,
        device: name,
        share_id,
        gpu,
        view,
        cdi_id,
        unknown: Map::new(),
    }
}

fn write_cdi(
    claim: &ClaimRef,
    gpus: &[GpuEdits<'_>],
    kind: &CdiKind,
    install: &DriverInstall,
) -> Step {
    let spec = cdi::claim_spec(kind, &claim.uid, gpus, install);
    Step::WriteCdi {
        file: cdi::file_name(kind, &claim.uid),
        contents: spec.to_json(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tessera_device::follow::{Absence, Known, Look, SilentGpu};
    use tessera_device::{
        Architecture, Bytes, CudaVersion, DeviceName, DriverFacts, DriverVersion,
    };

    use super::*;
    use crate::record::tests::{gpu_uuid, record};

    pub(crate) fn gpu(minor: u32) -> Gpu {
        Gpu {
            uuid: gpu_uuid(minor),
            minor,
            pci: format!("0000:{:02x}:00.0", 0x1b + minor).parse().unwrap(),
            product_name: "NVIDIA H100 80GB HBM3".to_owned(),
            brand: "Nvidia".to_owned(),
            architecture: Architecture::Hopper,
            compute_capability: CudaVersion { major: 9, minor: 0 },
            memory: Bytes::from_mib(81559),
            addressing_mode: None,
            pcie_root: None,
            numa_node: None,
        }
    }

    pub(crate) fn inventory() -> Inventory {
        let driver = DriverFacts {
            version: DriverVersion::new("580.95.05"),
            cuda: CudaVersion {
                major: 13,
                minor: 0,
            },
        };
        Inventory::new(driver, (0..8).map(gpu).collect()).unwrap()
    }

    pub(crate) fn allocation(claim: &str, minors: &[u32]) -> Allocation {
        Allocation {
            claim: record(claim, &[]).claim,
            devices: minors
                .iter()
                .map(|minor| AllocatedDevice {
                    request: "gpu".to_owned(),
                    pool: "node0".to_owned(),
                    device: DeviceName::whole_gpu(*minor),
                    admin_access: false,
                    share_id: None,
                    configuration: None,
                })
                .collect(),
        }
    }

    /// A guard for tests that are not about locks.
    pub(crate) fn everything_locked() -> impl crate::ledger::GpuGuard + std::fmt::Debug {
        #[derive(Debug)]
        struct AllLocked;
        impl crate::ledger::GpuGuard for AllLocked {
            fn covers(&self, _: &tessera_device::GpuUuid) -> bool {
                true
            }
        }
        AllLocked
    }

    #[test]
    fn a_device_of_another_pool_or_without_a_gpu_is_unknown_here() {
        let inventory = inventory();
        assert!(resolve(&allocation("a", &[0, 7]), "node0", &inventory).is_ok());
        for (minors, pool) in [(&[8][..], "node0"), (&[0][..], "node1")] {
            let error = resolve(&allocation("a", minors), pool, &inventory).unwrap_err();
            assert!(matches!(error, Refusal::UnknownDevice { .. }), "{error}");
        }
    }

    #[test]
    fn a_gpu_that_does_not_serve_any_more_is_refused_with_what_has_become_of_it() {
        let (known, _) = Known::Present(inventory()).next(Look::Found {
            inventory: Inventory::new(inventory().driver().clone(), (1..8).map(gpu).collect())
                .unwrap(),
            silent: vec![SilentGpu {
                uuid: None,
                absence: Absence::Lost,
            }],
        });
        let inventory = known.last().unwrap();
        let error = resolve(&allocation("a", &[1, 0]), "node0", inventory).unwrap_err();
        let Refusal::GpuLost { gpu, absence, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!((gpu, absence), (&gpu_uuid(0), &Absence::Lost));
        assert!(error.to_string().contains("fallen off the bus"), "{error}");
        // What was prepared on it before can still be made anew.
        let install = DriverInstall::default();
        let restored = restore(&record("a", &[0]), inventory, &CdiKind::claim(), &install);
        assert!(restored.is_ok(), "{restored:?}");
    }

    #[test]
    fn without_the_gpus_a_claim_is_prepared_for_the_allocation_that_its_record_names() {
        let boot = BootId("4f1c".to_owned());
        let prepared = record("a", &[0, 3]);
        assert!(is_prepared_for(&prepared, &allocation("a", &[0, 3]), &boot));
        let mut begun = prepared.clone();
        begun.phase = Phase::Preparing;
        let other_boot = BootId("former".to_owned());
        for (record, allocation, boot) in [
            (&begun, allocation("a", &[0, 3]), &boot),
            (&prepared, allocation("a", &[0, 3]), &other_boot),
            (&prepared, allocation("a", &[0]), &boot),
            (&prepared, allocation("a", &[0, 4]), &boot),
            (&prepared, allocation("b", &[0, 3]), &boot),
        ] {
            assert!(
                !is_prepared_for(record, &allocation, boot),
                "{record:?} {allocation:?}"
            );
        }
    }

    #[test]
    fn only_the_same_devices_of_the_same_boot_count_as_prepared() {
        let inventory = inventory();
        let boot = BootId("4f1c".to_owned());
        let allocation = allocation("a", &[0, 3]);
        let devices = resolve(&allocation, "node0", &inventory).unwrap();
        let prepared = record("a", &[0, 3]);
        let undo = undo_all(&prepared.effects);
        assert_eq!(standing(None, &devices, &boot), Standing::New);
        assert_eq!(
            standing(Some(&prepared), &devices, &boot),
            Standing::Prepared
        );

        let mut begun = prepared.clone();
        begun.phase = Phase::Preparing;
        let mut former_boot = prepared.clone();
        former_boot.boot = BootId("former".to_owned());
        let mut admin = prepared.clone();
        admin.devices[0].view = View::Admin;
        for other in [
            begun,
            former_boot,
            admin,
            record("a", &[0, 4]),
            record("a", &[0]),
        ] {
            assert_eq!(
                standing(Some(&other), &devices, &boot),
                Standing::Leftover(undo.clone()),
                "{other:?}"
            );
        }
    }

    #[test]
    fn the_record_names_the_effect_of_every_step_before_it_is_done() {
        let inventory = inventory();
        let allocation = allocation("a", &[0, 3]);
        let devices = resolve(&allocation, "node0", &inventory).unwrap();
        let guard = everything_locked();
        let admitted = crate::ledger::Ledger::under(&guard, [], vec![])
            .admit(&allocation.claim, devices)
            .unwrap();
        let boot = BootId("4f1c".to_owned());
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
}
