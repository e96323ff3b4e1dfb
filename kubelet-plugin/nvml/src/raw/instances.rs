//! Calls that make and destroy GPU instances and compute instances, and find them by their numbers.
//!
//! Handles are good until the instance is destroyed or the library is shut down. The library checks each
//! one that it is given, so that one whose instance is gone is an error and nothing worse.

use std::ffi::c_uint;
use std::ptr;

use nvml_wrapper::Device;
use nvml_wrapper::error::{NvmlError as Code, nvml_sym, nvml_try};
use nvml_wrapper_sys::bindings::{
    NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED as SHARED, NvmlLib, nvmlComputeInstance_t,
    nvmlComputeInstanceInfo_t, nvmlComputeInstancePlacement_t, nvmlComputeInstanceProfileInfo_t,
    nvmlGpuInstance_t, nvmlGpuInstanceInfo_t, nvmlGpuInstancePlacement_t,
};

use super::GpuInstance;

/// More instances than any GPU or GPU instance can have: the last of the driver's capabilities for MIG is
/// that of compute instance 7 in GPU instance 14 (MIG user guide, "Device Nodes and Capabilities").
const MOST: usize = 64;

/// A GPU instance.
#[derive(Clone, Copy)]
pub(crate) struct Part(nvmlGpuInstance_t);

/// A compute instance.
#[derive(Clone, Copy)]
pub(crate) struct Compute(nvmlComputeInstance_t);

/// What NVML says of a compute instance.
pub(crate) struct ComputeInstance<'n> {
    /// Its number in its GPU instance.
    pub(crate) id: u32,
    /// The device that NVML names with it. The reference driver takes it for the MIG device; the header
    /// calls it the parent.
    pub(crate) device: Device<'n>,
}

/// `nvmlDeviceGetGpuInstancePossiblePlacements_v2`: first slice and number of slices of each place.
/// `nvml-wrapper` has the call and returns no placement.
pub(crate) fn possible_placements(
    library: &NvmlLib,
    gpu: &Device<'_>,
    profile: u32,
) -> Result<Vec<(u32, u32)>, Code> {
    let call = nvml_sym(
        library
            .nvmlDeviceGetGpuInstancePossiblePlacements_v2
            .as_ref(),
    )?;
    let mut placements = [nvmlGpuInstancePlacement_t { start: 0, size: 0 }; MOST];
    let mut count = c_uint::try_from(MOST).unwrap_or(c_uint::MAX);
    // SAFETY: the handle comes from the same initialized library and `gpu` keeps that alive; the array
    // has room for more placements than a profile can have, and `count` is a live, writable number.
    nvml_try(unsafe {
        call(
            gpu.handle(),
            profile,
            placements.as_mut_ptr(),
            &raw mut count,
        )
    })?;
    let count = usize::try_from(count).map_or(MOST, |count| count.min(MOST));
    let found = placements[..count].iter();
    Ok(found.map(|place| (place.start, place.size)).collect())
}

/// `nvmlDeviceGetGpuInstances`: the GPU instances of this profile.
pub(crate) fn gpu_instances(
    library: &NvmlLib,
    gpu: &Device<'_>,
    profile: u32,
) -> Result<Vec<Part>, Code> {
    let call = nvml_sym(library.nvmlDeviceGetGpuInstances.as_ref())?;
    let mut found: [nvmlGpuInstance_t; MOST] = [ptr::null_mut(); MOST];
    let mut count = 0;
    // SAFETY: the handle comes from the same initialized library and `gpu` keeps that alive; the array
    // has room for more instances than a GPU can have, and `count` is a live, writable number.
    nvml_try(unsafe { call(gpu.handle(), profile, found.as_mut_ptr(), &raw mut count) })?;
    let count = usize::try_from(count).map_or(MOST, |count| count.min(MOST));
    Ok(found[..count].iter().map(|handle| Part(*handle)).collect())
}

/// `nvmlDeviceGetGpuInstanceById`: the GPU instance with this number.
pub(crate) fn gpu_instance_by_id(
    library: &NvmlLib,
    gpu: &Device<'_>,
    id: u32,
) -> Result<Part, Code> {
    let call = nvml_sym(library.nvmlDeviceGetGpuInstanceById.as_ref())?;
    let mut handle: nvmlGpuInstance_t = ptr::null_mut();
    // SAFETY: the handle comes from the same initialized library and `gpu` keeps that alive; `handle` is
    // a live, writable pointer.
    nvml_try(unsafe { call(gpu.handle(), id, &raw mut handle) })?;
    Ok(Part(handle))
}

/// `nvmlGpuInstanceGetInfo`: what a GPU instance is.
pub(crate) fn gpu_instance_info(library: &NvmlLib, part: Part) -> Result<GpuInstance, Code> {
    let call = nvml_sym(library.nvmlGpuInstanceGetInfo.as_ref())?;
    let mut info = nvmlGpuInstanceInfo_t {
        device: ptr::null_mut(),
        id: 0,
        profileId: 0,
        placement: nvmlGpuInstancePlacement_t { start: 0, size: 0 },
    };
    // SAFETY: the library gave out the handle and checks it; `info` is a live, writable struct.
    nvml_try(unsafe { call(part.0, &raw mut info) })?;
    Ok(GpuInstance {
        id: info.id,
        profile: info.profileId,
        start: info.placement.start,
        size: info.placement.size,
    })
}

/// `nvmlDeviceCreateGpuInstanceWithPlacement`: makes a GPU instance of this profile at this place.
pub(crate) fn create_gpu_instance(
    library: &NvmlLib,
    gpu: &Device<'_>,
    profile: u32,
    (start, size): (u32, u32),
) -> Result<Part, Code> {
    let call = nvml_sym(library.nvmlDeviceCreateGpuInstanceWithPlacement.as_ref())?;
    let placement = nvmlGpuInstancePlacement_t { start, size };
    let mut handle: nvmlGpuInstance_t = ptr::null_mut();
    // SAFETY: the handle comes from the same initialized library and `gpu` keeps that alive; `placement`
    // is a live struct and `handle` a live, writable pointer.
    nvml_try(unsafe { call(gpu.handle(), profile, &raw const placement, &raw mut handle) })?;
    Ok(Part(handle))
}

/// `nvmlGpuInstanceDestroy`.
pub(crate) fn destroy_gpu_instance(library: &NvmlLib, part: Part) -> Result<(), Code> {
    let call = nvml_sym(library.nvmlGpuInstanceDestroy.as_ref())?;
    // SAFETY: the library gave out the handle and checks it.
    nvml_try(unsafe { call(part.0) })
}

/// `nvmlGpuInstanceGetComputeInstanceProfileInfo`: number and slices of the profile with this index, whose
/// engines are those of the GPU instance.
pub(crate) fn compute_profile(
    library: &NvmlLib,
    part: Part,
    index: u32,
) -> Result<(u32, u32), Code> {
    let call = nvml_sym(
        library
            .nvmlGpuInstanceGetComputeInstanceProfileInfo
            .as_ref(),
    )?;
    let mut info = nvmlComputeInstanceProfileInfo_t {
        id: 0,
        sliceCount: 0,
        instanceCount: 0,
        multiprocessorCount: 0,
        sharedCopyEngineCount: 0,
        sharedDecoderCount: 0,
        sharedEncoderCount: 0,
        sharedJpegCount: 0,
        sharedOfaCount: 0,
    };
    // SAFETY: the library gave out the handle and checks it; `info` is a live, writable struct.
    nvml_try(unsafe { call(part.0, index, SHARED, &raw mut info) })?;
    Ok((info.id, info.sliceCount))
}

/// `nvmlGpuInstanceGetComputeInstances`: the compute instances of this profile.
pub(crate) fn compute_instances(
    library: &NvmlLib,
    part: Part,
    profile: u32,
) -> Result<Vec<Compute>, Code> {
    let call = nvml_sym(library.nvmlGpuInstanceGetComputeInstances.as_ref())?;
    let mut found: [nvmlComputeInstance_t; MOST] = [ptr::null_mut(); MOST];
    let mut count = 0;
    // SAFETY: the library gave out the handle and checks it; the array has room for more instances than
    // a GPU instance can have, and `count` is a live, writable number.
    nvml_try(unsafe { call(part.0, profile, found.as_mut_ptr(), &raw mut count) })?;
    let count = usize::try_from(count).map_or(MOST, |count| count.min(MOST));
    let found = found[..count].iter();
    Ok(found.map(|handle| Compute(*handle)).collect())
}

/// `nvmlGpuInstanceGetComputeInstanceById`: the compute instance with this number.
pub(crate) fn compute_instance_by_id(
    library: &NvmlLib,
    part: Part,
    id: u32,
) -> Result<Compute, Code> {
    let call = nvml_sym(library.nvmlGpuInstanceGetComputeInstanceById.as_ref())?;
    let mut handle: nvmlComputeInstance_t = ptr::null_mut();
    // SAFETY: the library gave out the handle and checks it; `handle` is a live, writable pointer.
    nvml_try(unsafe { call(part.0, id, &raw mut handle) })?;
    Ok(Compute(handle))
}

/// `nvmlComputeInstanceGetInfo_v2`: what a compute instance on this GPU is.
pub(crate) fn compute_instance_info<'n>(
    library: &NvmlLib,
    gpu: &Device<'n>,
    compute: Compute,
) -> Result<ComputeInstance<'n>, Code> {
    let call = nvml_sym(library.nvmlComputeInstanceGetInfo_v2.as_ref())?;
    let mut info = nvmlComputeInstanceInfo_t {
        device: ptr::null_mut(),
        gpuInstance: ptr::null_mut(),
        id: 0,
        profileId: 0,
        placement: nvmlComputeInstancePlacement_t { start: 0, size: 0 },
    };
    // SAFETY: the library gave out the handle and checks it; `info` is a live, writable struct.
    nvml_try(unsafe { call(compute.0, &raw mut info) })?;
    // SAFETY: the library has given out this handle of a device right now.
    let device = unsafe { Device::new(info.device, gpu.nvml()) };
    Ok(ComputeInstance {
        id: info.id,
        device,
    })
}

/// `nvmlGpuInstanceCreateComputeInstance`: makes a compute instance of this profile.
pub(crate) fn create_compute_instance(
    library: &NvmlLib,
    part: Part,
    profile: u32,
) -> Result<Compute, Code> {
    let call = nvml_sym(library.nvmlGpuInstanceCreateComputeInstance.as_ref())?;
    let mut handle: nvmlComputeInstance_t = ptr::null_mut();
    // SAFETY: the library gave out the handle and checks it; `handle` is a live, writable pointer.
    nvml_try(unsafe { call(part.0, profile, &raw mut handle) })?;
    Ok(Compute(handle))
}

/// `nvmlComputeInstanceDestroy`.
pub(crate) fn destroy_compute_instance(library: &NvmlLib, compute: Compute) -> Result<(), Code> {
    let call = nvml_sym(library.nvmlComputeInstanceDestroy.as_ref())?;
    // SAFETY: the library gave out the handle and checks it.
    nvml_try(unsafe { call(compute.0) })
}
