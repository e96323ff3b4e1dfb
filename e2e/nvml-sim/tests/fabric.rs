//! The NVLink fabric of a GPU, in every version of the call, as a test changes it.
#![allow(unsafe_code, reason = "these tests call the C ABI as a C program does")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::sync::LazyLock;

use nvml_wrapper_sys::bindings::{
    NvmlLib, nvmlDevice_t, nvmlGpuFabricInfo_t, nvmlGpuFabricInfo_v2_t, nvmlGpuFabricInfo_v3_t,
    nvmlReturn_t,
};
use tempfile::TempDir;
use tessera_hw::{Artifacts, FabricChange, FabricHealth, FabricState, StateFile, install};

const SUCCESS: nvmlReturn_t = 0;
const INVALID_ARGUMENT: nvmlReturn_t = 2;
const VERSION_MISMATCH: nvmlReturn_t = 25;
const COMPLETED: u8 = 3;

static ARTIFACTS: LazyLock<Artifacts> = LazyLock::new(|| Artifacts::build().unwrap());

struct Machine {
    _directory: TempDir,
    lib: NvmlLib,
    state: StateFile,
}

/// Loads and initialises the library of a machine.
fn machine(profile: &str) -> Machine {
    let directory = TempDir::new().unwrap();
    let installed = install(directory.path(), profile, "node-1", &ARTIFACTS)
        .unwrap_or_else(|error| panic!("these tests need root with CAP_MKNOD: {error}: {error:?}"));
    let library = directory.path().join("usr/lib64/libnvidia-ml.so.1");
    // SAFETY: the library's initialisers do nothing.
    let lib = unsafe { NvmlLib::new(library) }.unwrap();
    // SAFETY: the call takes nothing.
    assert_eq!(unsafe { lib.nvmlInit_v2() }, SUCCESS);
    Machine {
        _directory: directory,
        lib,
        state: installed.state,
    }
}

impl Machine {
    fn gpu(&self) -> nvmlDevice_t {
        let mut device = std::ptr::null_mut();
        // SAFETY: the pointer is good for the call.
        let code = unsafe { self.lib.nvmlDeviceGetHandleByIndex_v2(0, &raw mut device) };
        assert_eq!(code, SUCCESS);
        device
    }

    fn third(&self, version: u32) -> (nvmlReturn_t, nvmlGpuFabricInfo_v3_t) {
        // SAFETY: zeros are good values of all fields.
        let mut info: nvmlGpuFabricInfo_v3_t = unsafe { std::mem::zeroed() };
        info.version = version;
        // SAFETY: the structure is of the newest version, which is the largest.
        let code = unsafe {
            self.lib
                .nvmlDeviceGetGpuFabricInfoV(self.gpu(), &raw mut info)
        };
        (code, info)
    }

    fn change(&self, change: &FabricChange) {
        self.state
            .update(|node| change.apply(node.gpus[0].fabric.as_mut().unwrap()))
            .unwrap();
    }
}

fn version<T>(number: u32) -> u32 {
    u32::try_from(size_of::<T>()).unwrap() | number << 24
}

#[test]
fn a_gb200_says_in_every_version_which_clique_it_is_in() {
    let machine = machine("gb200");
    let fabric = machine.state.read().unwrap().1.gpus[0]
        .fabric
        .clone()
        .unwrap();
    let (code, newest) = machine.third(version::<nvmlGpuFabricInfo_v3_t>(3));
    assert_eq!(code, SUCCESS);
    assert_eq!(newest.clusterUuid, fabric.cluster_uuid.0);
    assert_eq!(
        (
            newest.cliqueId,
            newest.state,
            newest.status,
            newest.healthSummary
        ),
        (32766, COMPLETED, SUCCESS, 1)
    );
    let (code, second) = machine.third(version::<nvmlGpuFabricInfo_v2_t>(2));
    assert_eq!((code, second.cliqueId), (SUCCESS, 32766));
    // SAFETY: zeros are good values of all fields.
    let mut first: nvmlGpuFabricInfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is the one that the call takes.
    let code = unsafe {
        machine
            .lib
            .nvmlDeviceGetGpuFabricInfo(machine.gpu(), &raw mut first)
    };
    assert_eq!((code, first.clusterUuid), (SUCCESS, fabric.cluster_uuid.0));
    assert_eq!(machine.third(7).0, VERSION_MISMATCH);
    // SAFETY: the call checks for null.
    let nowhere = unsafe {
        machine
            .lib
            .nvmlDeviceGetGpuFabricInfoV(machine.gpu(), std::ptr::null_mut())
    };
    assert_eq!(nowhere, INVALID_ARGUMENT);
}

#[test]
fn what_a_test_does_to_a_fabric_shows_at_once() {
    let machine = machine("gb200");
    let newest = version::<nvmlGpuFabricInfo_v3_t>(3);
    machine.change(&FabricChange {
        health: Some(FabricHealth::Unhealthy),
        ..FabricChange::default()
    });
    let (_, unhealthy) = machine.third(newest);
    // Bits 4 and 5 say whether a route is unhealthy; 1 is yes.
    assert_eq!(
        (unhealthy.healthSummary, unhealthy.healthMask >> 4 & 3),
        (2, 1)
    );
    machine.change(&FabricChange {
        state: Some(FabricState::InProgress),
        ..FabricChange::default()
    });
    let (_, joining) = machine.third(newest);
    assert_eq!((joining.state, joining.clusterUuid), (2, [0; 16]));
    machine.state.update(tessera_hw::Node::reset).unwrap();
    let (_, healed) = machine.third(newest);
    assert_eq!(
        (healed.state, healed.cliqueId, healed.healthSummary),
        (COMPLETED, 32766, 1)
    );
}

#[test]
fn a_machine_without_a_fabric_succeeds_and_says_so() {
    for (profile, state) in [("t4", 0), ("h100", COMPLETED)] {
        let (code, info) = machine(profile).third(version::<nvmlGpuFabricInfo_v3_t>(3));
        assert_eq!(
            (code, info.state, info.clusterUuid),
            (SUCCESS, state, [0; 16]),
            "{profile}"
        );
    }
}
