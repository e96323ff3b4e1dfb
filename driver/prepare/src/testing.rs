//! Claims, their records and their locks for the tests of whoever handles them.

#![allow(
    clippy::unwrap_used,
    reason = "a test's own values fail by panic, as the test does"
)]

use serde_json::Map;
use tessera_claim::{AllocatedDevice, Allocation, ClaimRef};
use tessera_device::testing::gpu_uuid;
use tessera_device::{DeviceName, GpuUuid};

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
