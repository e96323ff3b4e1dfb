//! Claims, their records and their locks for the tests of whoever handles them.

#![allow(
    clippy::unwrap_used,
    reason = "a test's own values fail by panic, as the test does"
)]

use serde_json::Map;
use tessera_api::{
    Config, GpuConfig, GpuSharing, Interval, MemoryConfig, MemoryLimit, ShareConfig,
};
use tessera_claim::{AllocatedDevice, Allocation, ClaimRef, Consumed};
use tessera_device::testing::{cut, gpu, gpu_uuid};
use tessera_device::{Bytes, DeviceName, GpuUuid, Offered};

use crate::cdi::{self, CdiKind};
use crate::ledger::GpuGuard;
use crate::record::{BootId, Phase, PreparedDevice, Record, View};
use crate::share::Share;
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
            time_slice: None,
            memory_limit: None,
            memory_ceiling: None,
            cdi_id: cdi::device_id(&kind, &claim.uid, &device, None),
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
            cdi_id: cdi::device_id(&CdiKind::claim(), &record.claim.uid, &device, None),
            device,
            ..record.devices[0].clone()
        }
    };
    Record {
        devices: gpu.offered().map(device).collect(),
        ..record.clone()
    }
}

/// The record of a prepared claim that has these shares of one GPU, each by its id and its memory in GiB.
pub fn share_record(name: &str, minor: u32, shares: &[(&str, u64)]) -> Record {
    let record = record(name, &[minor]);
    let device = |(id, gib): &(&str, u64)| {
        let of = record.devices[0].clone();
        let uid = &record.claim.uid;
        let amounts = tessera_sharing::Part {
            memory: Bytes::from_mib(gib << 10),
            compute_share: 0,
            shares: 1,
        };
        PreparedDevice {
            share_id: Some((*id).to_owned()),
            view: View::Share(Share { of: None, amounts }),
            cdi_id: cdi::device_id(&CdiKind::claim(), uid, &of.device, Some(id)),
            ..of
        }
    };
    Record {
        devices: shares.iter().map(device).collect(),
        ..record.clone()
    }
}

/// The allocation of which [`share_record`] is the record.
pub fn share_allocation(name: &str, minor: u32, shares: &[(&str, u64)]) -> Allocation {
    let mut allocation = allocation(name, &[minor]);
    let of = allocation.devices.remove(0);
    let device = |(id, gib): &(&str, u64)| AllocatedDevice {
        share_id: Some((*id).to_owned()),
        consumed: Consumed {
            memory: Some(Bytes::from_mib(gib << 10)),
            compute_share: Some(0),
            shares: Some(1),
        },
        ..of.clone()
    };
    allocation.devices = shares.iter().map(device).collect();
    allocation
}

/// Of a share that may grow to all of its device.
pub fn growing() -> ShareConfig {
    ShareConfig {
        memory: MemoryConfig {
            limit: Some(MemoryLimit::Percent(100)),
            ..MemoryConfig::default()
        },
        ..ShareConfig::default()
    }
}

/// The same record, of a claim that wants this time slice of its GPUs.
pub fn slicing(mut record: Record, interval: Interval) -> Record {
    for device in &mut record.devices {
        device.time_slice = Some(interval);
    }
    record
}

/// The same allocation, of a claim that wants this time slice of its GPUs.
pub fn wants_slices(mut allocation: Allocation, interval: Interval) -> Allocation {
    for device in &mut allocation.devices {
        let sharing = Some(GpuSharing::TimeSlicing(interval));
        device.configuration = Some(Config::Gpu(GpuConfig { sharing }));
    }
    allocation
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
        consumed: Consumed::default(),
        configuration: None,
        share_configuration: None,
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

/// The file in which the reference driver keeps what it has prepared, made from what is known of its
/// format.
pub mod checkpoint {
    use serde_json::{Value, json};
    use tessera_device::testing::{cut, gpu as a_gpu, gpu_uuid};

    /// As it is written now: both versions, with whatever checksums.
    pub fn v2(boot: &str, claims: &Value) -> Value {
        json!({
            "checksum": 3_735_928_559_u32,
            "v1": {"preparedClaims": claims},
            "v2": {"checksum": 48_879, "nodeBootID": boot, "preparedClaims": claims},
        })
    }

    /// As it was written before there was a second version.
    pub fn v1(claims: &Value) -> Value {
        json!({"checksum": 3_735_928_559_u32, "v1": {"preparedClaims": claims}})
    }

    /// A claim whose preparation ended with these devices.
    pub fn completed(name: &str, devices: &[Value]) -> Value {
        let results: Vec<Value> = devices
            .iter()
            .filter_map(|device| {
                let mut kinds = device.as_object()?.values();
                let prepared = kinds.find_map(|kind| kind.get("device"))?;
                Some(result(prepared["DeviceName"].as_str()?))
            })
            .collect();
        json!({
            "checkpointState": "PrepareCompleted",
            "status": {
                "allocation": {"devices": {"results": results}},
                "reservedFor": [{"resource": "pods", "name": format!("{name}-pod"), "uid": "p"}],
            },
            "preparedDevices": [{
                "devices": devices,
                "configState": {"mpsControlDaemonID": "", "timeSliceApplied": null},
            }],
        })
    }

    /// A claim whose preparation has begun, for devices of these names.
    pub fn begun(name: &str, devices: &[&str]) -> Value {
        let results: Vec<Value> = devices.iter().map(|device| result(device)).collect();
        json!({
            "checkpointState": "PrepareStarted",
            "status": {"allocation": {"devices": {"results": results}}},
            "name": name,
            "namespace": "default",
        })
    }

    fn result(device: &str) -> Value {
        json!({"request": "gpu", "driver": "gpu.nvidia.com", "pool": "node0", "device": device})
    }

    /// A whole GPU that was prepared for the claim of this name.
    pub fn gpu(claim: &str, minor: u32) -> Value {
        let info = json!({"uuid": gpu_uuid(minor).as_str()});
        json!({
            "gpu": {"info": info, "device": device(claim, &format!("gpu-{minor}"))},
            "mig": null,
        })
    }

    /// The first MIG device of this GPU when it is cut into one of this profile
    /// ([`tessera_device::testing::cut`]).
    pub fn mig(claim: &str, minor: u32, profile: &str) -> Value {
        let cut = cut(a_gpu(minor), &[profile]);
        let part = cut.offered().next().unwrap();
        let instance = part.instance.unwrap();
        let concrete = json!({
            "parentMinor": minor, "parentUUID": gpu_uuid(minor).as_str(),
            "giId": instance.gpu_instance, "ciId": instance.compute_instance,
            "migUUID": instance.uuid.as_str(),
        });
        let device = device(claim, part.name().as_str());
        json!({"gpu": null, "mig": {"concrete": concrete, "device": device}})
    }

    /// The same as releases before dynamic MIG wrote it.
    pub fn old_mig(claim: &str, minor: u32, profile: &str) -> Value {
        let mut device = mig(claim, minor, profile);
        let concrete = device["mig"]["concrete"].take();
        device["mig"]["info"] = json!({
            "uuid": concrete["migUUID"], "profile": profile, "parentUUID": concrete["parentUUID"],
        });
        device["mig"].as_object_mut().unwrap().remove("concrete");
        device
    }

    /// A GPU that was passed through to a virtual machine.
    pub fn vfio(claim: &str, uuid: &str) -> Value {
        let vfio = json!({"info": {"uuid": uuid}, "device": device(claim, "gpu-vfio-0")});
        json!({"gpu": null, "mig": null, "vfio": vfio})
    }

    fn device(claim: &str, name: &str) -> Value {
        json!({
            "Requests": ["gpu"],
            "PoolName": "node0",
            "DeviceName": name,
            "CDIDeviceIDs": [format!("k8s.gpu.nvidia.com/claim={claim}-uid-{name}")],
        })
    }
}
