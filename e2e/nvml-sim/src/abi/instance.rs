//! GPU instances and compute instances: making, finding and destroying them.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_COUNT as ENGINE_PROFILES,
    NVML_COMPUTE_INSTANCE_PROFILE_COUNT as PROFILES, nvmlComputeInstance_t,
    nvmlComputeInstanceInfo_t, nvmlComputeInstancePlacement_t, nvmlComputeInstanceProfileInfo_t,
    nvmlComputeInstanceProfileInfo_v2_t, nvmlDevice_t, nvmlGpuInstance_t, nvmlGpuInstanceInfo_t,
    nvmlGpuInstancePlacement_t,
};
use tessera_hw::mig::{Done, Operation, Profile};

use super::{
    Out, array, check_version, export,
    mig::{by_id, table},
    put, put_all,
};
use crate::{
    fault::Fault,
    library::{
        Device, Part, compute_handle, operate, part_handle, with_compute, with_device, with_part,
        with_session,
    },
};

export! {
    fn nvmlDeviceGetGpuInstanceRemainingCapacity(
        device: nvmlDevice_t,
        id: c_uint,
        count: Out<'_, c_uint>,
    ) {
        with_device(device, |device| {
            let profile = by_id(&device, id)?;
            let mig = enabled(&device)?;
            put(count, table(&device)?.remaining(&mig.parts(), profile))
        })
    }
    fn nvmlDeviceCreateGpuInstance(
        device: nvmlDevice_t,
        id: c_uint,
        part: Out<'_, nvmlGpuInstance_t>,
    ) { create_part(device, id, None, part) }
    fn nvmlDeviceCreateGpuInstanceWithPlacement(
        device: nvmlDevice_t,
        id: c_uint,
        placement: Option<&nvmlGpuInstancePlacement_t>,
        part: Out<'_, nvmlGpuInstance_t>,
    ) {
        let place = placement.ok_or(Fault::InvalidArgument)?;
        create_part(device, id, Some((place.start, place.size)), part)
    }
    fn nvmlGpuInstanceDestroy(part: nvmlGpuInstance_t) {
        let (gpu, gpu_instance) = part_names(part)?;
        operate(gpu, Operation::DestroyGpuInstance { gpu_instance }).map(drop)
    }
    fn nvmlDeviceGetGpuInstances(
        device: nvmlDevice_t,
        id: c_uint,
        parts: *mut nvmlGpuInstance_t,
        count: Option<&mut c_uint>,
    ) {
        with_session(|session| {
            let device = session.device(device)?.present()?;
            by_id(&device, id)?;
            enabled(&device)?;
            let all = session.parts(&device).into_iter();
            let found = all.filter(|part| part.profile.id == id);
            put_all(parts, count, found.map(|part| part.handle).collect())
        })
    }
    fn nvmlDeviceGetGpuInstanceById(
        device: nvmlDevice_t,
        id: c_uint,
        part: Out<'_, nvmlGpuInstance_t>,
    ) {
        with_session(|session| {
            let device = session.device(device)?.present()?;
            table(&device)?;
            enabled(&device)?;
            let mut all = session.parts(&device).into_iter();
            let found = all.find(|other| other.instance.number == id);
            put(part, found.ok_or(Fault::NotFound)?.handle)
        })
    }
    fn nvmlGpuInstanceGetInfo(part: nvmlGpuInstance_t, info: Out<'_, nvmlGpuInstanceInfo_t>) {
        with_part(part, |_, parent, Part { instance, profile, .. }| {
            put(info, nvmlGpuInstanceInfo_t {
                device: parent.handle,
                id: instance.number,
                profileId: profile.id,
                placement: nvmlGpuInstancePlacement_t {
                    start: instance.start,
                    size: profile.size,
                },
            })
        })
    }

    fn nvmlGpuInstanceGetComputeInstanceProfileInfo(
        part: nvmlGpuInstance_t,
        index: c_uint,
        engines: c_uint,
        info: Out<'_, nvmlComputeInstanceProfileInfo_t>,
    ) {
        put(info, compute_profile(part, index, engines)?)
    }
    fn nvmlGpuInstanceGetComputeInstanceProfileInfoV(
        part: nvmlGpuInstance_t,
        index: c_uint,
        engines: c_uint,
        info: Option<&mut nvmlComputeInstanceProfileInfo_v2_t>,
    ) {
        let info = info.ok_or(Fault::InvalidArgument)?;
        check_version::<nvmlComputeInstanceProfileInfo_v2_t>(info.version, 2)?;
        let found = compute_profile(part, index, engines)?;
        let whole = with_part(part, |_, _, part| {
            let Profile { slices, name, .. } = part.profile;
            let name = if *slices == found.sliceCount {
                name.clone()
            } else {
                format!("{}c.{name}", found.sliceCount)
            };
            Ok(format!("MIG {name}"))
        })?;
        *info = nvmlComputeInstanceProfileInfo_v2_t {
            version: info.version,
            id: found.id,
            sliceCount: found.sliceCount,
            instanceCount: found.instanceCount,
            multiprocessorCount: found.multiprocessorCount,
            sharedCopyEngineCount: found.sharedCopyEngineCount,
            sharedDecoderCount: found.sharedDecoderCount,
            sharedEncoderCount: found.sharedEncoderCount,
            sharedJpegCount: found.sharedJpegCount,
            sharedOfaCount: found.sharedOfaCount,
            name: array(&whole),
        };
        Ok(())
    }
    fn nvmlGpuInstanceCreateComputeInstance(
        part: nvmlGpuInstance_t,
        profile: c_uint,
        compute: Out<'_, nvmlComputeInstance_t>,
    ) {
        let compute = compute.ok_or(Fault::InvalidArgument)?;
        let (gpu, gpu_instance) = part_names(part)?;
        let Done::Made(number) =
            operate(gpu, Operation::CreateComputeInstance { gpu_instance, profile })?
        else {
            return Err(Fault::Unknown);
        };
        let handle = with_part(part, |_, parent, part| {
            compute_handle(&parent, part.instance.number, number).ok_or(Fault::Unknown)
        })?;
        compute.write(handle);
        Ok(())
    }
    fn nvmlComputeInstanceDestroy(compute: nvmlComputeInstance_t) {
        let (gpu, operation) = with_compute(compute, |parent, mig| {
            let operation = Operation::DestroyComputeInstance {
                gpu_instance: mig.instance.gpu_instance,
                compute_instance: mig.instance.compute_instance,
            };
            Ok((parent.gpu.facts.uuid.clone(), operation))
        })?;
        operate(gpu, operation).map(drop)
    }
    fn nvmlGpuInstanceGetComputeInstances(
        part: nvmlGpuInstance_t,
        profile: c_uint,
        all: *mut nvmlComputeInstance_t,
        count: Option<&mut c_uint>,
    ) {
        with_part(part, |session, parent, part| {
            let mut profiles = part.profile.compute_profiles();
            let wanted = profiles.find(|(id, _)| *id == profile);
            let (_, slices) = wanted.ok_or(Fault::NotSupported)?;
            let devices = session.mig_devices(&parent).into_iter();
            let found = devices.filter(|mig| {
                mig.part == part.handle && mig.instance.compute_slices == slices
            });
            put_all(all, count, found.map(|mig| mig.compute).collect())
        })
    }
    fn nvmlGpuInstanceGetComputeInstanceById(
        part: nvmlGpuInstance_t,
        id: c_uint,
        compute: Out<'_, nvmlComputeInstance_t>,
    ) {
        with_part(part, |session, parent, part| {
            let mut devices = session.mig_devices(&parent).into_iter();
            let found = devices
                .find(|mig| mig.part == part.handle && mig.instance.compute_instance == id);
            put(compute, found.ok_or(Fault::NotFound)?.compute)
        })
    }
    // The header calls the device the parent. The reference driver takes the UUID of a MIG device from
    // it, so that is what it is.
    fn nvmlComputeInstanceGetInfo_v2(
        compute: nvmlComputeInstance_t,
        info: Out<'_, nvmlComputeInstanceInfo_t>,
    ) {
        with_compute(compute, |_, mig| {
            let instance = mig.instance;
            let mut profiles = mig.profile.compute_profiles();
            let profile = profiles.find(|(_, slices)| *slices == instance.compute_slices);
            put(info, nvmlComputeInstanceInfo_t {
                device: mig.handle,
                gpuInstance: mig.part,
                id: instance.compute_instance,
                profileId: profile.ok_or(Fault::Unknown)?.0,
                placement: nvmlComputeInstancePlacement_t {
                    start: instance.compute_start,
                    size: instance.compute_slices,
                },
            })
        })
    }
}

/// How the GPU is cut, if it is in MIG mode.
fn enabled<'a>(device: &Device<'a>) -> Result<&'a tessera_hw::mig::Mig, Fault> {
    let mig = &device.gpu.condition.mig;
    if mig.enabled {
        Ok(mig)
    } else {
        Err(Fault::NotSupported)
    }
}

fn create_part(
    device: nvmlDevice_t,
    profile: c_uint,
    place: Option<(u32, u32)>,
    part: Out<'_, nvmlGpuInstance_t>,
) -> Result<(), Fault> {
    let part = part.ok_or(Fault::InvalidArgument)?;
    let gpu = with_device(device, |device| Ok(device.gpu.facts.uuid.clone()))?;
    let Done::Made(number) = operate(gpu, Operation::CreateGpuInstance { profile, place })? else {
        return Err(Fault::Unknown);
    };
    let handle = with_device(device, |device| {
        part_handle(&device, number).ok_or(Fault::Unknown)
    })?;
    part.write(handle);
    Ok(())
}

/// The UUID of the GPU and the number of the GPU instance behind a handle.
fn part_names(part: nvmlGpuInstance_t) -> Result<(String, u32), Fault> {
    with_part(part, |_, parent, part| {
        Ok((parent.gpu.facts.uuid.clone(), part.instance.number))
    })
}

fn compute_profile(
    part: nvmlGpuInstance_t,
    index: c_uint,
    engines: c_uint,
) -> Result<nvmlComputeInstanceProfileInfo_t, Fault> {
    if index >= PROFILES || engines >= ENGINE_PROFILES {
        return Err(Fault::InvalidArgument);
    }
    with_part(part, |_, _, part| {
        let profile = part.profile;
        let mut profiles = profile.compute_profiles();
        let (id, slices) = profiles
            .find(|(id, _)| *id == index)
            .ok_or(Fault::NotSupported)?;
        Ok(nvmlComputeInstanceProfileInfo_t {
            id,
            sliceCount: slices,
            instanceCount: profile.slices / slices,
            multiprocessorCount: profile.multiprocessors * slices / profile.slices,
            sharedCopyEngineCount: profile.copy_engines,
            sharedDecoderCount: profile.decoders,
            sharedEncoderCount: profile.encoders,
            sharedJpegCount: profile.jpeg,
            sharedOfaCount: profile.ofa,
        })
    })
}
