//! A GPU's fabric, by the newest call that the library has.
//!
//! `nvmlDeviceGetGpuFabricInfoV` takes a structure that has grown twice, and a library refuses one that
//! is newer than it. `nvmlDeviceGetGpuFabricInfo` is the call of the first version; drivers before R525
//! have neither.

use nvml_wrapper::Device;
use nvml_wrapper::error::{NvmlError as Code, nvml_sym, nvml_try};
use nvml_wrapper_sys::bindings::{
    NvmlLib, nvmlGpuFabricInfo_t, nvmlGpuFabricInfo_v2_t, nvmlGpuFabricInfo_v3_t,
    nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH as VERSION_MISMATCH,
    nvmlReturn_enum_NVML_ERROR_FUNCTION_NOT_FOUND as FUNCTION_NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT, nvmlReturn_t,
};

use super::struct_version;

/// What the versions have in common, and what only the later ones say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FabricInfo {
    /// All zero where there is no fabric between machines.
    pub(crate) cluster_uuid: [u8; 16],
    /// Return code that joining ended with. It counts once the state is completed.
    pub(crate) status: u32,
    /// Partition of the fabric.
    pub(crate) clique_id: u32,
    /// `NVML_GPU_FABRIC_STATE_*`.
    pub(crate) state: u8,
    /// `NVML_GPU_FABRIC_HEALTH_MASK_*`; 0 where the library does not say.
    pub(crate) health_mask: u32,
    /// `NVML_GPU_FABRIC_HEALTH_SUMMARY_*`; 0 where the library does not say.
    pub(crate) health_summary: u8,
}

/// Asks in the newest version that the library knows.
pub(crate) fn fabric_info(library: &NvmlLib, device: &Device<'_>) -> Result<FabricInfo, Code> {
    for ask in [third, second] {
        match ask(library, device) {
            // An old library says one or the other of a version that it does not know.
            Some((VERSION_MISMATCH | INVALID_ARGUMENT | FUNCTION_NOT_FOUND, _)) | None => {}
            Some((code, info)) => return nvml_try(code).map(|()| info),
        }
    }
    first(library, device)
}

fn third(library: &NvmlLib, device: &Device<'_>) -> Option<(nvmlReturn_t, FabricInfo)> {
    let call = library.nvmlDeviceGetGpuFabricInfoV.as_ref().ok()?;
    let mut info = nvmlGpuFabricInfo_v3_t {
        version: struct_version::<nvmlGpuFabricInfo_v3_t>(3),
        clusterUuid: [0; 16],
        status: 0,
        cliqueId: 0,
        state: 0,
        healthMask: 0,
        healthSummary: 0,
    };
    // SAFETY: the handle comes from the same initialized library and `device` keeps that alive;
    // `info` is a live, writable struct of the version that its first field declares.
    let code = unsafe { call(device.handle(), &raw mut info) };
    let info = FabricInfo {
        cluster_uuid: info.clusterUuid,
        status: info.status,
        clique_id: info.cliqueId,
        state: info.state,
        health_mask: info.healthMask,
        health_summary: info.healthSummary,
    };
    Some((code, info))
}

fn second(library: &NvmlLib, device: &Device<'_>) -> Option<(nvmlReturn_t, FabricInfo)> {
    let call = library.nvmlDeviceGetGpuFabricInfoV.as_ref().ok()?;
    let mut info = nvmlGpuFabricInfo_v2_t {
        version: struct_version::<nvmlGpuFabricInfo_v2_t>(2),
        clusterUuid: [0; 16],
        status: 0,
        cliqueId: 0,
        state: 0,
        healthMask: 0,
    };
    let pointer = (&raw mut info).cast::<nvmlGpuFabricInfo_v3_t>();
    // SAFETY: as above. The call takes any version by the newest one's type, and writes no further
    // than the version declared by the first field goes.
    let code = unsafe { call(device.handle(), pointer) };
    let info = FabricInfo {
        cluster_uuid: info.clusterUuid,
        status: info.status,
        clique_id: info.cliqueId,
        state: info.state,
        health_mask: info.healthMask,
        health_summary: 0,
    };
    Some((code, info))
}

fn first(library: &NvmlLib, device: &Device<'_>) -> Result<FabricInfo, Code> {
    let call = nvml_sym(library.nvmlDeviceGetGpuFabricInfo.as_ref())?;
    let mut info = nvmlGpuFabricInfo_t {
        clusterUuid: [0; 16],
        status: 0,
        cliqueId: 0,
        state: 0,
    };
    // SAFETY: the handle is good as above, and `info` is a live, writable struct of the call's type.
    nvml_try(unsafe { call(device.handle(), &raw mut info) })?;
    Ok(FabricInfo {
        cluster_uuid: info.clusterUuid,
        status: info.status,
        clique_id: info.cliqueId,
        state: info.state,
        ..FabricInfo::default()
    })
}
