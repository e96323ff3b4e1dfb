//! NVML calls that `nvml-wrapper` does not have: one function each, owned values out.

#![allow(
    unsafe_code,
    reason = "calls into NVML's C interface; no other module of the product needs unsafe"
)]

mod fabric;
mod instances;
mod limits;

use nvml_wrapper::Device;
use nvml_wrapper::error::{NvmlError as Code, nvml_sym, nvml_try};
use nvml_wrapper_sys::bindings::{NvmlLib, nvmlDeviceAddressingMode_t};

pub(crate) use fabric::{FabricInfo, fabric_info};
pub(crate) use instances::{
    Compute, Part, compute_instance_by_id, compute_instance_info, compute_instances,
    compute_profile, create_compute_instance, create_gpu_instance, destroy_compute_instance,
    destroy_gpu_instance, gpu_instance_by_id, gpu_instance_info, gpu_instances,
    possible_placements,
};
pub(crate) use limits::{Limits, has_memory_limits, memory_limits, set_memory_limit};

/// `nvmlDeviceGetAddressingMode`: the number of the mode. Drivers before R535 lack the function.
pub(crate) fn addressing_mode(library: &NvmlLib, device: &Device<'_>) -> Result<u32, Code> {
    let call = nvml_sym(library.nvmlDeviceGetAddressingMode.as_ref())?;
    let mut mode = nvmlDeviceAddressingMode_t {
        version: struct_version::<nvmlDeviceAddressingMode_t>(1),
        value: 0,
    };
    // SAFETY: the handle comes from the same initialized library and `device` keeps that alive;
    // `mode` is a live, writable struct of the version that its first field declares.
    nvml_try(unsafe { call(device.handle(), &raw mut mode) })?;
    Ok(mode.value)
}

/// `nvmlDeviceGetGpuInstanceId`: the number of a MIG device's GPU instance.
pub(crate) fn gpu_instance_id(library: &NvmlLib, mig: &Device<'_>) -> Result<u32, Code> {
    let call = nvml_sym(library.nvmlDeviceGetGpuInstanceId.as_ref())?;
    let mut id = 0;
    // SAFETY: the handle comes from the same initialized library and `mig` keeps that alive; `id` is a
    // live, writable number.
    nvml_try(unsafe { call(mig.handle(), &raw mut id) })?;
    Ok(id)
}

/// `nvmlDeviceGetComputeInstanceId`: the number of a MIG device's compute instance.
pub(crate) fn compute_instance_id(library: &NvmlLib, mig: &Device<'_>) -> Result<u32, Code> {
    let call = nvml_sym(library.nvmlDeviceGetComputeInstanceId.as_ref())?;
    let mut id = 0;
    // SAFETY: as in `gpu_instance_id`.
    nvml_try(unsafe { call(mig.handle(), &raw mut id) })?;
    Ok(id)
}

/// What NVML says of a GPU instance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GpuInstance {
    /// Its number on its GPU.
    pub(crate) id: u32,
    /// Number of its profile.
    pub(crate) profile: u32,
    /// Its first memory slice.
    pub(crate) start: u32,
    /// How many memory slices it has.
    pub(crate) size: u32,
}

/// NVML's `NVML_STRUCT_VERSION`: the size of a struct, and its version in the top byte.
const fn struct_version<T>(version: u32) -> u32 {
    let size = size_of::<T>();
    assert!(size < 1 << 24, "the size has three bytes");
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    let size = size as u32;
    size | version << 24
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_struct_version_has_the_version_above_the_size() {
        assert_eq!(struct_version::<nvmlDeviceAddressingMode_t>(1), 0x0100_0008);
    }
}
