//! The NVLink fabric of a GPU, in each version of its structure.

use std::ffi::{c_uchar, c_uint};

use nvml_wrapper_sys::bindings::{
    NVML_GPU_FABRIC_HEALTH_MASK_DEGRADED_BW_FALSE, NVML_GPU_FABRIC_HEALTH_MASK_DEGRADED_BW_TRUE,
    NVML_GPU_FABRIC_HEALTH_MASK_INCORRECT_CONFIGURATION_NONE,
    NVML_GPU_FABRIC_HEALTH_MASK_ROUTE_UNHEALTHY_FALSE,
    NVML_GPU_FABRIC_HEALTH_MASK_ROUTE_UNHEALTHY_TRUE,
    NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_DEGRADED_BW,
    NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_INCORRECT_CONFIGURATION,
    NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_ROUTE_UNHEALTHY, NVML_GPU_FABRIC_HEALTH_SUMMARY_HEALTHY,
    NVML_GPU_FABRIC_HEALTH_SUMMARY_LIMITED_CAPACITY, NVML_GPU_FABRIC_HEALTH_SUMMARY_NOT_SUPPORTED,
    NVML_GPU_FABRIC_HEALTH_SUMMARY_UNHEALTHY, NVML_GPU_FABRIC_STATE_COMPLETED,
    NVML_GPU_FABRIC_STATE_IN_PROGRESS, NVML_GPU_FABRIC_STATE_NOT_STARTED,
    NVML_GPU_FABRIC_STATE_NOT_SUPPORTED, nvmlDevice_t, nvmlGpuFabricInfo_t, nvmlGpuFabricInfo_v2_t,
    nvmlGpuFabricInfo_v3_t,
};
use tessera_hw::{Fabric, FabricHealth, FabricState};

use super::{Out, check_version, export, put};
use crate::{fault::Fault, library::with_device};

export! {
    fn nvmlDeviceGetGpuFabricInfo(device: nvmlDevice_t, info: Out<'_, nvmlGpuFabricInfo_t>) {
        let now = Answer::of(device)?;
        put(info, nvmlGpuFabricInfo_t {
            clusterUuid: now.cluster_uuid,
            status: now.status,
            cliqueId: now.clique_id,
            state: now.state,
        })
    }
    // The structure grows from version to version; its first field tells which the caller has.
    fn nvmlDeviceGetGpuFabricInfoV(device: nvmlDevice_t, info: *mut c_uint) {
        if info.is_null() {
            return Err(Fault::InvalidArgument);
        }
        // SAFETY: the caller says that a structure is there, and each version begins with this field.
        let version = unsafe { info.read() };
        if version >> 24 == 2 {
            check_version::<nvmlGpuFabricInfo_v2_t>(version, 2)?;
            let answer = Answer::of(device)?.second(version);
            // SAFETY: the version field says that there is room for this structure.
            unsafe { info.cast::<nvmlGpuFabricInfo_v2_t>().write(answer) };
        } else {
            check_version::<nvmlGpuFabricInfo_v3_t>(version, 3)?;
            let answer = Answer::of(device)?.third(version);
            // SAFETY: as above.
            unsafe { info.cast::<nvmlGpuFabricInfo_v3_t>().write(answer) };
        }
        Ok(())
    }
}

/// What all versions are made of.
struct Answer {
    cluster_uuid: [c_uchar; 16],
    clique_id: c_uint,
    state: c_uchar,
    status: c_uint,
    health_mask: c_uint,
    health_summary: c_uchar,
}

impl Answer {
    fn of(device: nvmlDevice_t) -> Result<Self, Fault> {
        with_device(device, |device| {
            Ok(device
                .gpu
                .fabric
                .as_ref()
                .map_or_else(Self::none, Self::part))
        })
    }

    /// A GPU without a fabric succeeds and says that it supports none.
    fn none() -> Self {
        Self {
            cluster_uuid: [0; 16],
            clique_id: 0,
            state: byte(NVML_GPU_FABRIC_STATE_NOT_SUPPORTED),
            status: 0,
            health_mask: 0,
            health_summary: byte(NVML_GPU_FABRIC_HEALTH_SUMMARY_NOT_SUPPORTED),
        }
    }

    fn part(fabric: &Fabric) -> Self {
        // What a fabric is called is known when it has been joined.
        let joined = fabric.state == FabricState::Completed && fabric.status == 0;
        Self {
            cluster_uuid: if joined {
                fabric.cluster_uuid.0
            } else {
                [0; 16]
            },
            clique_id: if joined { fabric.clique_id } else { 0 },
            state: byte(state(fabric.state)),
            status: fabric.status,
            health_mask: health_mask(fabric.health),
            health_summary: byte(health_summary(fabric.health)),
        }
    }

    fn second(self, version: c_uint) -> nvmlGpuFabricInfo_v2_t {
        nvmlGpuFabricInfo_v2_t {
            version,
            clusterUuid: self.cluster_uuid,
            status: self.status,
            cliqueId: self.clique_id,
            state: self.state,
            healthMask: self.health_mask,
        }
    }

    fn third(self, version: c_uint) -> nvmlGpuFabricInfo_v3_t {
        nvmlGpuFabricInfo_v3_t {
            version,
            clusterUuid: self.cluster_uuid,
            status: self.status,
            cliqueId: self.clique_id,
            state: self.state,
            healthMask: self.health_mask,
            healthSummary: self.health_summary,
        }
    }
}

/// The header gives these numbers as `int`s and the structure as bytes.
fn byte(number: u32) -> c_uchar {
    c_uchar::try_from(number).unwrap_or(c_uchar::MAX)
}

fn state(state: FabricState) -> u32 {
    match state {
        FabricState::NotSupported => NVML_GPU_FABRIC_STATE_NOT_SUPPORTED,
        FabricState::NotStarted => NVML_GPU_FABRIC_STATE_NOT_STARTED,
        FabricState::InProgress => NVML_GPU_FABRIC_STATE_IN_PROGRESS,
        FabricState::Completed => NVML_GPU_FABRIC_STATE_COMPLETED,
    }
}

fn health_summary(health: FabricHealth) -> u32 {
    match health {
        FabricHealth::NotSupported => NVML_GPU_FABRIC_HEALTH_SUMMARY_NOT_SUPPORTED,
        FabricHealth::Healthy => NVML_GPU_FABRIC_HEALTH_SUMMARY_HEALTHY,
        FabricHealth::Unhealthy => NVML_GPU_FABRIC_HEALTH_SUMMARY_UNHEALTHY,
        FabricHealth::LimitedCapacity => NVML_GPU_FABRIC_HEALTH_SUMMARY_LIMITED_CAPACITY,
    }
}

/// An unhealthy part has an unhealthy route, one of limited capacity less bandwidth.
fn health_mask(health: FabricHealth) -> c_uint {
    let (bandwidth, route) = match health {
        FabricHealth::NotSupported => return 0,
        FabricHealth::Healthy => (
            NVML_GPU_FABRIC_HEALTH_MASK_DEGRADED_BW_FALSE,
            NVML_GPU_FABRIC_HEALTH_MASK_ROUTE_UNHEALTHY_FALSE,
        ),
        FabricHealth::Unhealthy => (
            NVML_GPU_FABRIC_HEALTH_MASK_DEGRADED_BW_FALSE,
            NVML_GPU_FABRIC_HEALTH_MASK_ROUTE_UNHEALTHY_TRUE,
        ),
        FabricHealth::LimitedCapacity => (
            NVML_GPU_FABRIC_HEALTH_MASK_DEGRADED_BW_TRUE,
            NVML_GPU_FABRIC_HEALTH_MASK_ROUTE_UNHEALTHY_FALSE,
        ),
    };
    bandwidth << NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_DEGRADED_BW
        | route << NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_ROUTE_UNHEALTHY
        | NVML_GPU_FABRIC_HEALTH_MASK_INCORRECT_CONFIGURATION_NONE
            << NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_INCORRECT_CONFIGURATION
}
