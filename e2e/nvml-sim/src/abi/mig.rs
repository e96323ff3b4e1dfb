//! MIG: modes, profiles, MIG devices.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    NVML_DEVICE_MIG_DISABLE as DISABLED, NVML_DEVICE_MIG_ENABLE as ENABLED,
    NVML_GPU_INSTANCE_PROFILE_COUNT as PROFILES, nvmlDevice_t, nvmlDeviceAttributes_t,
    nvmlGpuInstancePlacement_t, nvmlGpuInstanceProfileInfo_t, nvmlGpuInstanceProfileInfo_v2_t,
    nvmlReturn_enum_NVML_ERROR_RESET_REQUIRED as RESET_REQUIRED,
    nvmlReturn_enum_NVML_SUCCESS as SUCCESS, nvmlReturn_t,
};
use tessera_hw::mig::{Activation, Done, Operation, Profile, Table};

use super::{Out, array, check_version, export, put, put_all};
use crate::{
    fault::Fault,
    library::{Any, Device, MigDevice, operate, with_any, with_device, with_facts, with_session},
};

export! {
    fn nvmlDeviceGetMigMode(device: nvmlDevice_t, now: Out<'_, c_uint>, pending: Out<'_, c_uint>) {
        with_device(device, |device| {
            table(&device)?;
            let mig = &device.gpu.condition.mig;
            put(now, mode(mig.enabled))?;
            put(pending, mode(mig.pending))
        })
    }
    // The call succeeds where the driver took the wish; beside it stands whether the mode is there.
    fn nvmlDeviceSetMigMode(
        device: nvmlDevice_t,
        wanted: c_uint,
        activation: Out<'_, nvmlReturn_t>,
    ) {
        let activation = activation.ok_or(Fault::InvalidArgument)?;
        let enabled = match wanted {
            ENABLED => true,
            DISABLED => false,
            _ => return Err(Fault::InvalidArgument),
        };
        let gpu = with_facts(device, |facts| Ok(facts.uuid.clone()))?;
        let Done::Mode(reached) = operate(gpu, Operation::SetMode { enabled })? else {
            return Err(Fault::Unknown);
        };
        activation.write(match reached {
            Activation::Now => SUCCESS,
            Activation::ResetRequired => RESET_REQUIRED,
            Activation::InUse => Fault::InUse.code(),
        });
        Ok(())
    }
    // Documented to be zero where MIG is not supported or not enabled.
    fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: Out<'_, c_uint>) {
        with_device(device, |device| {
            let gpu = device.gpu;
            put(count, if gpu.condition.mig.enabled { gpu.facts.max_mig_devices } else { 0 })
        })
    }
    fn nvmlDeviceIsMigDeviceHandle(device: nvmlDevice_t, is_mig: Out<'_, c_uint>) {
        with_any(device, |any| put(is_mig, c_uint::from(matches!(any, Any::Mig(..)))))
    }
    fn nvmlDeviceGetMigDeviceHandleByIndex(
        device: nvmlDevice_t,
        index: c_uint,
        mig: Out<'_, nvmlDevice_t>,
    ) {
        with_session(|session| {
            let device = session.device(device)?.present()?;
            table(&device)?;
            let found = session.mig_devices(&device).into_iter().nth(index as usize);
            put(mig, found.ok_or(Fault::NotFound)?.handle)
        })
    }
    fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(
        mig: nvmlDevice_t,
        device: Out<'_, nvmlDevice_t>,
    ) {
        with_any(mig, |any| put(device, any.mig()?.0.handle))
    }
    fn nvmlDeviceGetGpuInstanceId(mig: nvmlDevice_t, id: Out<'_, c_uint>) {
        with_any(mig, |any| put(id, any.mig()?.1.instance.gpu_instance))
    }
    fn nvmlDeviceGetComputeInstanceId(mig: nvmlDevice_t, id: Out<'_, c_uint>) {
        with_any(mig, |any| put(id, any.mig()?.1.instance.compute_instance))
    }
    fn nvmlDeviceGetAttributes(mig: nvmlDevice_t, attributes: Out<'_, nvmlDeviceAttributes_t>) {
        with_any(mig, |any| put(attributes, attributes_of(&any.mig()?.1)))
    }
    fn nvmlDeviceGetAttributes_v2(mig: nvmlDevice_t, attributes: Out<'_, nvmlDeviceAttributes_t>) {
        with_any(mig, |any| put(attributes, attributes_of(&any.mig()?.1)))
    }

    fn nvmlDeviceGetGpuInstanceProfileInfo(
        device: nvmlDevice_t,
        index: c_uint,
        info: Out<'_, nvmlGpuInstanceProfileInfo_t>,
    ) {
        with_device(device, |device| put(info, info_of(by_index(&device, index)?)))
    }
    fn nvmlDeviceGetGpuInstanceProfileInfoV(
        device: nvmlDevice_t,
        index: c_uint,
        info: Option<&mut nvmlGpuInstanceProfileInfo_v2_t>,
    ) {
        let info = info.ok_or(Fault::InvalidArgument)?;
        check_version::<nvmlGpuInstanceProfileInfo_v2_t>(info.version, 2)?;
        with_device(device, |device| {
            *info = named_info_of(info.version, by_index(&device, index)?);
            Ok(())
        })
    }
    fn nvmlDeviceGetGpuInstancePossiblePlacements(
        device: nvmlDevice_t,
        id: c_uint,
        placements: *mut nvmlGpuInstancePlacement_t,
        count: Option<&mut c_uint>,
    ) { possible_placements(device, id, placements, count) }
    fn nvmlDeviceGetGpuInstancePossiblePlacements_v2(
        device: nvmlDevice_t,
        id: c_uint,
        placements: *mut nvmlGpuInstancePlacement_t,
        count: Option<&mut c_uint>,
    ) { possible_placements(device, id, placements, count) }
}

fn mode(enabled: bool) -> c_uint {
    if enabled { ENABLED } else { DISABLED }
}

pub(super) fn table(device: &Device<'_>) -> Result<&'static Table, Fault> {
    device.gpu.facts.mig_table().ok_or(Fault::NotSupported)
}

/// The profile with an index of `NVML_GPU_INSTANCE_PROFILE_*`.
fn by_index(device: &Device<'_>, index: c_uint) -> Result<&'static Profile, Fault> {
    let profiles = &table(device)?.profiles;
    if index >= PROFILES {
        return Err(Fault::InvalidArgument);
    }
    let found = profiles.iter().find(|profile| profile.index == index);
    found.ok_or(Fault::NotSupported)
}

/// The profile with the number that `nvidia-smi` lists.
pub(super) fn by_id(device: &Device<'_>, id: c_uint) -> Result<&'static Profile, Fault> {
    table(device)?.profile(id).ok_or(Fault::InvalidArgument)
}

fn possible_placements(
    device: nvmlDevice_t,
    id: c_uint,
    placements: *mut nvmlGpuInstancePlacement_t,
    count: Option<&mut c_uint>,
) -> Result<(), Fault> {
    with_device(device, |device| {
        let profile = by_id(&device, id)?;
        let starts = profile.starts.iter();
        let all = starts.map(|start| nvmlGpuInstancePlacement_t {
            start: *start,
            size: profile.size,
        });
        put_all(placements, count, all.collect())
    })
}

fn attributes_of(mig: &MigDevice<'_>) -> nvmlDeviceAttributes_t {
    let MigDevice {
        instance, profile, ..
    } = mig;
    nvmlDeviceAttributes_t {
        multiprocessorCount: profile.multiprocessors * instance.compute_slices / profile.slices,
        sharedCopyEngineCount: profile.copy_engines,
        sharedDecoderCount: profile.decoders,
        sharedEncoderCount: profile.encoders,
        sharedJpegCount: profile.jpeg,
        sharedOfaCount: profile.ofa,
        gpuInstanceSliceCount: profile.slices,
        computeInstanceSliceCount: instance.compute_slices,
        memorySizeMB: profile.memory_mib,
    }
}

fn info_of(profile: &Profile) -> nvmlGpuInstanceProfileInfo_t {
    nvmlGpuInstanceProfileInfo_t {
        id: profile.id,
        isP2pSupported: 0,
        sliceCount: profile.slices,
        instanceCount: profile.count(),
        multiprocessorCount: profile.multiprocessors,
        copyEngineCount: profile.copy_engines,
        decoderCount: profile.decoders,
        encoderCount: profile.encoders,
        jpegCount: profile.jpeg,
        ofaCount: profile.ofa,
        memorySizeMB: profile.memory_mib,
    }
}

fn named_info_of(version: c_uint, profile: &Profile) -> nvmlGpuInstanceProfileInfo_v2_t {
    let info = info_of(profile);
    nvmlGpuInstanceProfileInfo_v2_t {
        version,
        id: info.id,
        isP2pSupported: info.isP2pSupported,
        sliceCount: info.sliceCount,
        instanceCount: info.instanceCount,
        multiprocessorCount: info.multiprocessorCount,
        copyEngineCount: info.copyEngineCount,
        decoderCount: info.decoderCount,
        encoderCount: info.encoderCount,
        jpegCount: info.jpegCount,
        ofaCount: info.ofaCount,
        memorySizeMB: info.memorySizeMB,
        name: array(&format!("MIG {}", profile.name)),
    }
}
