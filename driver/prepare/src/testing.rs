//! Claims, their records and their locks for the tests of whoever handles them.

#![allow(
    clippy::unwrap_used,
    reason = "a test's own values fail by panic, as the test does"
)]

use serde_json::Map;
use tessera_claim::{AllocatedDevice, Allocation, ClaimRef};
use tessera_device::testing::{cut, gpu, gpu_uuid};
use tessera_device::{DeviceName, GpuUuid, Offered};

use crate::cdi::{self, CdiKind};
use crate::ledger::GpuGuard;
use crate::record::{BootId, Phase, PreparedDevice, Record, View};
use crate::step::Effect;

/// A claim whose UID is made from its name.
pub fn claim(name: &str) -> ClaimRef {
    ClaimRef {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: format!("{name}-uid").parse().unwrap(),
    }
}

/// The boot in which [`record`] was written.
pub fn boot() -> BootId {
    BootId("boot".to_owned())
}

/// The record of a prepared claim that holds these GPUs.
pub fn record(name: &str, minors: &[u32]) -> Record {
    let (claim, kind) = (claim(name), CdiKind::claim());
    let device = |minor: &u32| {
        let device = DeviceName::whole_gpu(*minor);
        PreparedDevice {
            request: "gpu".to_owned(),
            pool: "node0".to_owned(),
            share_id: None,
            gpu: gpu_uuid(*minor),
            view: View::Whole,
            instance: None,
            cdi_id: cdi::device_id(&kind, &claim.uid, &device),
            device,
            unknown: Map::new(),
        }
    };
    Record {
        boot: boot(),
        phase: Phase::Prepared,
        devices: minors.iter().map(device).collect(),
        effects: vec![Effect::CdiFile {
            file: cdi::file_name(&kind, &claim.uid),
            crc32: 7,
        }],
        unknown: Map::new(),
        claim,
    }
}

/// The record of a prepared claim that holds these instances of a GPU which is cut into them and no
/// others, as [`tessera_device::testing::cut`] does it.
pub fn mig_record(name: &str, minor: u32, profiles: &[&str]) -> Record {
    let gpu = cut(gpu(minor), profiles);
    let record = record(name, &[minor]);
    let device = |part: Offered<'_>| {
        let device = part.name();
        PreparedDevice {
            view: View::Part(part.instance.unwrap().part()),
            instance: Some(part.instance.unwrap().uuid.clone()),
            cdi_id: cdi::device_id(&CdiKind::claim(), &record.claim.uid, &device),
            device,
            ..record.devices[0].clone()
        }
    };
    Record {
        devices: gpu.offered().map(device).collect(),
        ..record.clone()
    }
}

/// An allocation of the devices with these names.
pub fn named(devices: &[&str]) -> Allocation {
    let mut allocation = allocation("a", &[0]);
    let of = allocation.devices.remove(0);
    let device = |name: &&str| AllocatedDevice {
        device: name.parse().unwrap(),
        ..of.clone()
    };
    allocation.devices = devices.iter().map(device).collect();
    allocation
}

/// The allocation of which [`record`] is the record.
pub fn allocation(name: &str, minors: &[u32]) -> Allocation {
    let device = |minor: &u32| AllocatedDevice {
        request: "gpu".to_owned(),
        pool: "node0".to_owned(),
        device: DeviceName::whole_gpu(*minor),
        admin_access: false,
        share_id: None,
        configuration: None,
    };
    Allocation {
        claim: claim(name),
        devices: minors.iter().map(device).collect(),
    }
}

/// A guard where nothing is about locks.
#[derive(Debug)]
pub struct AllLocked;

impl GpuGuard for AllLocked {
    fn covers(&self, _: &GpuUuid) -> bool {
        true
    }
}
