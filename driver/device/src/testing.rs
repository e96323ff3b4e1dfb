//! GPUs for the tests of whoever handles them.

#![allow(
    clippy::unwrap_used,
    reason = "a test's own values fail by panic, as the test does"
)]

use crate::fabric::{Clique, ClusterUuid, FabricHealth, GpuFabric};
use crate::follow::{Absence, Known, Look, SilentGpu};
use crate::mig::{
    DeviceNumber, MODELS, MigAccess, MigInstance, MigMode, MigOption, MigProfile, MigState,
    Placement,
};
use crate::{
    Architecture, Bytes, CudaVersion, DriverFacts, DriverVersion, Gpu, GpuUuid, Inventory,
    MemoryLimiting,
};

/// The UUID of the test GPU with this minor number.
pub fn gpu_uuid(minor: u32) -> GpuUuid {
    format!("GPU-{minor:08x}-0000-0000-0000-000000000000")
        .parse()
        .unwrap()
}

/// An H100 of which sysfs tells nothing.
pub fn gpu(minor: u32) -> Gpu {
    Gpu {
        uuid: gpu_uuid(minor),
        minor,
        pci: format!("0000:{:02x}:00.0", (0x1b + minor) % 0x100)
            .parse()
            .unwrap(),
        product_name: "NVIDIA H100 80GB HBM3".to_owned(),
        brand: "Nvidia".to_owned(),
        architecture: Architecture::Hopper,
        compute_capability: CudaVersion { major: 9, minor: 0 },
        memory: Bytes::from_mib(81559),
        addressing_mode: None,
        pcie_root: None,
        numa_node: None,
        mig: Some(MigState::empty(MigMode::Off)),
        fabric: GpuFabric::None,
    }
}

/// What instances an H100 can have.
pub fn h100_profiles() -> Vec<MigOption> {
    let h100 = MODELS.iter().find(|model| model.name.starts_with("H100"));
    h100.unwrap().rows.iter().map(MigOption::from).collect()
}

/// The same GPU, cut into these instances of an H100's profiles: each at the first place that is free.
pub fn cut(gpu: Gpu, profiles: &[&str]) -> Gpu {
    let mut mig = MigState::empty(MigMode::On);
    for profile in profiles {
        let profile: MigProfile = profile.parse().unwrap();
        let row = MODELS
            .iter()
            .filter(|model| model.name.starts_with("H100"))
            .flat_map(|model| model.rows)
            .find(|row| row.profile == profile)
            .unwrap();
        let taken = |placement: &Placement| {
            let mut others = mig.instances.iter();
            others.any(|other| other.placement.overlaps(*placement))
        };
        let placement = row.placements().find(|place| !taken(place)).unwrap();
        let number = u32::from(placement.start);
        let capability = |minor| DeviceNumber { major: 511, minor };
        mig.instances.push(MigInstance {
            gpu_instance: placement.start,
            compute_instance: 0,
            uuid: format!("MIG-{:08x}-0000-0000-0000-{number:012x}", gpu.minor)
                .parse()
                .unwrap(),
            profile,
            profile_id: row.id,
            placement,
            memory: row.memory,
            multiprocessors: row.multiprocessors,
            engines: row.engines,
            access: MigAccess {
                gpu_instance: capability(1000 * gpu.minor + 10 * number),
                compute_instance: capability(1000 * gpu.minor + 10 * number + 1),
            },
        });
    }
    mig.instances.sort_by_key(|instance| instance.placement);
    Gpu {
        mig: Some(mig),
        ..gpu
    }
}

/// An NVLink clique: another one for each number.
pub fn clique(number: u32) -> Clique {
    Clique {
        cluster: ClusterUuid::new([7; 16]).unwrap(),
        id: number,
    }
}

/// A node with these GPUs, all of them healthy members of the clique of this number.
pub fn inventory_in_clique(number: u32, minors: impl IntoIterator<Item = u32>) -> Inventory {
    let member = |minor| Gpu {
        fabric: GpuFabric::Member {
            clique: clique(number),
            health: FabricHealth::Healthy,
        },
        ..gpu(minor)
    };
    let gpus = minors.into_iter().map(member).collect();
    Inventory::new(driver("580.95.05"), gpus).unwrap()
}

/// A driver of this version.
pub fn driver(version: &str) -> DriverFacts {
    DriverFacts {
        memory_limiting: MemoryLimiting::default(),
        version: DriverVersion::new(version),
        cuda: CudaVersion {
            major: 13,
            minor: 0,
        },
    }
}

/// A node with these GPUs.
pub fn inventory(minors: impl IntoIterator<Item = u32>) -> Inventory {
    let gpus = minors.into_iter().map(gpu).collect();
    Inventory::new(driver("580.95.05"), gpus).unwrap()
}

/// The same node, on which one of these GPUs has fallen off the bus.
pub fn inventory_that_lost(lost: u32, minors: impl IntoIterator<Item = u32> + Clone) -> Inventory {
    let left = minors.clone().into_iter().filter(|minor| *minor != lost);
    let look = Look::Found {
        inventory: inventory(left),
        silent: vec![SilentGpu {
            uuid: None,
            absence: Absence::Lost,
        }],
    };
    let (known, _) = Known::Present(inventory(minors)).next(look);
    known.last().unwrap().clone()
}
