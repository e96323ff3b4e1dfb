//! The MIG side of one GPU.
//!
//! Somebody else may be cutting the GPU while it is looked at: an instance that is gone in the middle of
//! the look was not there. One that is there and does not tell what has to be known of it is named, and
//! hides no other.

mod profiles;

use std::path::Path;
use std::rc::Rc;

use nvml_wrapper::error::NvmlError as Code;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{
    NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE_REV1, NVML_COMPUTE_INSTANCE_PROFILE_COUNT,
    NVML_DEVICE_MIG_DISABLE, NVML_DEVICE_MIG_ENABLE, NvmlLib,
};
use tessera_device::Bytes;
use tessera_device::mig::{
    MigInstance, MigMode, MigProfile, MigState, Placement, UnfinishedInstance,
};

use crate::error::{Fault, QueryError};
use crate::facts::asking;
use crate::raw::Part;
use crate::{capabilities, raw};

use profiles::Known;
pub(crate) use profiles::{Catalogue, Profiles};

/// The MIG side of a GPU, or nothing if it has none. `profiles` is asked where there is one.
pub(crate) fn state(
    gpu: &Parent<'_>,
    profiles: impl FnOnce() -> Rc<Profiles>,
) -> Result<Option<MigState>, QueryError> {
    let call = "nvmlDeviceGetMigMode";
    let mode = match gpu.gpu.mig_mode() {
        // The GPU has no MIG, or the driver is older than that.
        Err(Code::NotSupported | Code::FunctionNotFound | Code::FailedToLoadSymbol(_)) => {
            return Ok(None);
        }
        answer => asking(call, answer)?,
    };
    let mut state = MigState::empty(asking(call, mode_of(mode.current))?);
    state.pending = asking(call, mode_of(mode.pending))?;
    let profiles = profiles();
    if state.mode == MigMode::On {
        gpu.look_at_devices(&profiles, &mut state)?;
        state.unfinished = gpu.unfinished(&profiles.known, &state.instances);
    }
    state.profiles.clone_from(&profiles.options);
    Ok(Some(state))
}

pub(crate) fn mode_of(number: u32) -> Result<MigMode, Fault> {
    match number {
        NVML_DEVICE_MIG_DISABLE => Ok(MigMode::Off),
        NVML_DEVICE_MIG_ENABLE => Ok(MigMode::On),
        _ => Err(Fault::OutOfRange(number.into())),
    }
}

/// A GPU that has MIG.
pub(crate) struct Parent<'a> {
    pub(crate) nvml: &'a Nvml,
    pub(crate) gpu: &'a Device<'a>,
    pub(crate) minor: u32,
    pub(crate) memory: Bytes,
    pub(crate) proc: &'a Path,
}

impl Parent<'_> {
    /// The profiles that it has.
    pub(crate) fn profiles(&self) -> Profiles {
        Profiles::ask(self.nvml.lib(), self.gpu, self.memory)
    }

    fn look_at_devices(&self, profiles: &Profiles, state: &mut MigState) -> Result<(), QueryError> {
        let call = "nvmlDeviceGetMaxMigDeviceCount";
        let most = asking(call, self.gpu.mig_device_count())?;
        for index in 0..most {
            let call = "nvmlDeviceGetMigDeviceHandleByIndex";
            let found = match self.gpu.mig_device_by_index(index) {
                Err(Code::NotFound | Code::InvalidArg) => continue,
                answer => asking(call, answer),
            };
            match found.and_then(|device| self.instance(&device, profiles)) {
                Ok(instance) => {
                    // Indices move when the GPU is cut meanwhile, and so a device may be met twice, or
                    // one that was made in the place of another after it.
                    let place = |other: &MigInstance| (other.placement, other.compute_instance);
                    let is_met = |other: &MigInstance| {
                        other.uuid == instance.uuid || place(other) == place(&instance)
                    };
                    state.instances.retain(|other| !is_met(other));
                    state.instances.push(instance);
                }
                Err(error) if error.is_gpu_lost() => return Err(error),
                Err(error) if error.is_gone() => {
                    tracing::debug!(index, %error, "a MIG device was destroyed during the look");
                }
                Err(error) => {
                    let why = format!("MIG device {index}: {error}: {}", error.fault);
                    state.unusable.push(why);
                }
            }
        }
        let place = |instance: &MigInstance| (instance.placement, instance.compute_instance);
        state.instances.sort_by_key(place);
        Ok(())
    }

    /// What a MIG device of this GPU is.
    pub(crate) fn instance(
        &self,
        device: &Device<'_>,
        profiles: &Profiles,
    ) -> Result<MigInstance, QueryError> {
        let call = "nvmlDeviceGetUUID";
        let uuid = asking(call, asking(call, device.uuid())?.parse())?;
        let library = self.nvml.lib();
        let call = "nvmlDeviceGetGpuInstanceId";
        let id = asking(call, raw::gpu_instance_id(library, device))?;
        let gpu_instance = asking(call, small(id))?;
        let call = "nvmlDeviceGetComputeInstanceId";
        let compute = asking(call, raw::compute_instance_id(library, device))?;
        let compute_instance = asking(call, small(compute))?;
        let part = asking(
            "nvmlGpuInstanceGetInfo",
            raw::gpu_instance_by_id(library, self.gpu, id)
                .and_then(|part| raw::gpu_instance_info(library, part)),
        )?;
        let attributes = asking("nvmlDeviceGetAttributes_v2", device.attributes())?;
        let call = "nvmlDeviceGetGpuInstanceProfileInfo";
        let mut known = profiles.known.iter();
        let known = known.find(|known| known.info.id == part.profile);
        let known = asking(call, known.ok_or(Fault::OutOfRange(part.profile.into())))?;
        let Known { extras, info } = known;
        let memory = Bytes::from_mib(info.memory_size_mb);
        let slices = asking(call, small(info.slice_count))?;
        let call = "nvmlDeviceGetAttributes_v2";
        let compute_slices = asking(call, small(attributes.compute_instance_slice_count))?;
        let profile = MigProfile::of(slices, compute_slices, memory, self.memory, *extras);
        let access = capabilities::access(self.proc, self.minor, gpu_instance, compute_instance);
        Ok(MigInstance {
            gpu_instance,
            compute_instance,
            uuid,
            profile,
            profile_id: asking("nvmlGpuInstanceGetInfo", small(part.profile))?,
            placement: Placement {
                start: asking("nvmlGpuInstanceGetInfo", small(part.start))?,
                size: asking("nvmlGpuInstanceGetInfo", small(part.size))?,
            },
            memory,
            multiprocessors: if profile.is_all_of_its_gpu_instance() {
                info.multiprocessor_count
            } else {
                attributes.multiprocessor_count
            },
            engines: known.engines(),
            access: asking("the capabilities of the MIG device", access)?,
        })
    }

    /// The GPU instances without a compute instance. What cannot be asked for is not there.
    fn unfinished(&self, profiles: &[Known], instances: &[MigInstance]) -> Vec<UnfinishedInstance> {
        let library = self.nvml.lib();
        let parts = profiles.iter().flat_map(|known| {
            let parts = raw::gpu_instances(library, self.gpu, known.info.id);
            let parts = parts.unwrap_or_default().into_iter();
            parts.map(move |part| (known, part))
        });
        let described = parts.filter_map(|(known, part)| {
            let info = raw::gpu_instance_info(library, part).ok()?;
            let gpu_instance = info.id.try_into().ok()?;
            let mut whole = instances.iter();
            if whole.any(|instance| instance.gpu_instance == gpu_instance)
                || !matches!(is_bare(library, part), Ok(true))
            {
                return None;
            }
            Some(UnfinishedInstance {
                gpu_instance,
                profile: known.profile(self.memory)?,
                profile_id: known.id()?,
                placement: placement((info.start, info.size))?,
            })
        });
        let mut found: Vec<_> = described.collect();
        found.sort_by_key(|instance| instance.placement);
        found
    }
}

/// The profiles of compute instances that a GPU instance has, as numbers and slices. One that shares its
/// multiprocessors with others by its nature is left out.
pub(crate) fn compute_profiles(library: &NvmlLib, part: Part) -> impl Iterator<Item = (u32, u32)> {
    let indices = (0..NVML_COMPUTE_INSTANCE_PROFILE_COUNT)
        .filter(|index| *index != NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE_REV1);
    indices.filter_map(move |index| raw::compute_profile(library, part, index).ok())
}

/// Whether a GPU instance has no compute instance.
pub(crate) fn is_bare(library: &NvmlLib, part: Part) -> Result<bool, Code> {
    let indices = 0..NVML_COMPUTE_INSTANCE_PROFILE_COUNT;
    let profiles = indices.filter_map(|index| raw::compute_profile(library, part, index).ok());
    let mut any = false;
    for (id, _) in profiles {
        any = true;
        if !raw::compute_instances(library, part, id)?.is_empty() {
            return Ok(false);
        }
    }
    // One that has no profile is gone.
    if any { Ok(true) } else { Err(Code::NotFound) }
}

/// The place that NVML's numbers say, if it can be one.
pub(crate) fn placement((start, size): (u32, u32)) -> Option<Placement> {
    Some(Placement {
        start: start.try_into().ok()?,
        size: size.try_into().ok()?,
    })
}

/// A number that is as small as it must be.
fn small<T: TryFrom<u32>>(number: u32) -> Result<T, Fault> {
    T::try_from(number).map_err(|_| Fault::OutOfRange(number.into()))
}
