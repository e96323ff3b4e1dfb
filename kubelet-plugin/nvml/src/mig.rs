//! The MIG side of one GPU.
//!
//! Somebody else may be cutting the GPU while it is looked at: an instance that is gone in the middle of
//! the look was not there. One that is there and does not tell what has to be known of it is named, and
//! hides no other.

use std::path::Path;

use nvml_wrapper::error::NvmlError as Code;
use nvml_wrapper::struct_wrappers::device::ProfileInfo;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{
    NVML_DEVICE_MIG_DISABLE, NVML_DEVICE_MIG_ENABLE, NVML_GPU_INSTANCE_PROFILE_COUNT,
};
use tessera_device::Bytes;
use tessera_device::mig::{
    Extras, MigEngines, MigInstance, MigMode, MigProfile, MigState, Placement,
};

use crate::error::{Fault, QueryError};
use crate::facts::asking;
use crate::{capabilities, names, raw};

/// The MIG side of a GPU, or nothing if it has none.
pub(crate) fn state(
    nvml: &Nvml,
    gpu: &Device<'_>,
    minor: u32,
    memory: Bytes,
    proc: &Path,
) -> Result<Option<MigState>, QueryError> {
    let call = "nvmlDeviceGetMigMode";
    let mode = match gpu.mig_mode() {
        // The GPU has no MIG, or the driver is older than that.
        Err(Code::NotSupported | Code::FunctionNotFound | Code::FailedToLoadSymbol(_)) => {
            return Ok(None);
        }
        answer => asking(call, answer)?,
    };
    let mut state = MigState::empty(asking(call, mode_of(mode.current))?);
    state.pending = asking(call, mode_of(mode.pending))?;
    if state.mode == MigMode::On {
        let gpu = Parent {
            nvml,
            gpu,
            minor,
            memory,
            proc,
        };
        gpu.look_at_devices(&mut state)?;
    }
    Ok(Some(state))
}

fn mode_of(number: u32) -> Result<MigMode, Fault> {
    match number {
        NVML_DEVICE_MIG_DISABLE => Ok(MigMode::Off),
        NVML_DEVICE_MIG_ENABLE => Ok(MigMode::On),
        _ => Err(Fault::OutOfRange(number.into())),
    }
}

/// A GPU in MIG mode.
struct Parent<'a> {
    nvml: &'a Nvml,
    gpu: &'a Device<'a>,
    minor: u32,
    memory: Bytes,
    proc: &'a Path,
}

/// A profile that the GPU has, and what it has beside others of its size.
struct Known {
    extras: Extras,
    info: ProfileInfo,
}

impl Parent<'_> {
    fn look_at_devices(&self, state: &mut MigState) -> Result<(), QueryError> {
        let call = "nvmlDeviceGetMaxMigDeviceCount";
        let most = asking(call, self.gpu.mig_device_count())?;
        let mut profiles = None;
        for index in 0..most {
            let call = "nvmlDeviceGetMigDeviceHandleByIndex";
            let found = match self.gpu.mig_device_by_index(index) {
                Err(Code::NotFound | Code::InvalidArg) => continue,
                answer => asking(call, answer),
            };
            let profiles = profiles.get_or_insert_with(|| self.profiles());
            match found.and_then(|device| self.instance(&device, profiles)) {
                Ok(instance) => state.instances.push(instance),
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

    fn instance(&self, device: &Device<'_>, profiles: &[Known]) -> Result<MigInstance, QueryError> {
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
            raw::gpu_instance(library, self.gpu, id),
        )?;
        let attributes = asking("nvmlDeviceGetAttributes_v2", device.attributes())?;
        let call = "nvmlDeviceGetGpuInstanceProfileInfo";
        let known = profiles.iter().find(|known| known.info.id == part.profile);
        let Known { extras, info } =
            asking(call, known.ok_or(Fault::OutOfRange(part.profile.into())))?;
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
            engines: MigEngines {
                copy: info.copy_engine_count,
                decoders: info.decoder_count,
                encoders: info.encoder_count,
                jpeg: info.jpeg_count,
                ofa: info.ofa_count,
            },
            access: asking("the capabilities of the MIG device", access)?,
        })
    }

    /// The profiles that the GPU has. NVML tells them one by one, and says of most that there is none.
    fn profiles(&self) -> Vec<Known> {
        let each = (0..NVML_GPU_INSTANCE_PROFILE_COUNT).filter_map(|index| {
            let info = self.gpu.profile_info(index).ok()?;
            let extras = names::extras(index);
            Some(Known { extras, info })
        });
        each.collect()
    }
}

/// A number that is as small as it must be.
fn small<T: TryFrom<u32>>(number: u32) -> Result<T, Fault> {
    T::try_from(number).map_err(|_| Fault::OutOfRange(number.into()))
}
