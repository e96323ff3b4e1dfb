//! The operations as the installed driver does them.

use std::collections::BTreeSet;

use tessera_device::GpuUuid;
use tessera_device::mig::{MigInstance, MigMode, MigState};
use tessera_nvml::{Destroyed, KernelFiles, MigErrorReason, MigSwitch, Nvml};
use tessera_prepare::step::{MigDevice, MigIdentity};
use tracing::info;

use super::{MigError, MigOperations};
use crate::driver_root::{self, DriverRoot};

/// The driver that is installed at the time of the call.
#[derive(Clone, Debug)]
pub struct NvmlMig {
    /// Where it is.
    pub driver_root: DriverRoot,
    /// Where the kernel's own files about GPUs are.
    pub kernel: KernelFiles,
}

impl NvmlMig {
    fn nvml(&self) -> Result<Nvml, MigError> {
        let library = driver_root::find_nvml(&self.driver_root)?;
        Ok(Nvml::load(&library)?)
    }
}

impl MigOperations for NvmlMig {
    fn states(&self, gpus: &BTreeSet<GpuUuid>) -> Result<Vec<(GpuUuid, MigState)>, MigError> {
        let nvml = self.nvml()?;
        let mut states = Vec::new();
        for gpu in gpus {
            let state = nvml.mig_state(gpu, &self.kernel)?;
            states.extend(state.map(|state| (gpu.clone(), state)));
        }
        Ok(states)
    }

    fn switch(&self, gpu: &GpuUuid, mode: MigMode) -> Result<(), MigError> {
        match self.nvml()?.set_mig_mode(gpu, mode)? {
            MigSwitch::Done => {
                info!(%gpu, %mode, "MIG mode switched");
                Ok(())
            }
            MigSwitch::AfterReset => Err(MigError::NeedsReset {
                gpu: gpu.clone(),
                mode,
            }),
        }
    }

    fn create(&self, device: &MigDevice) -> Result<MigInstance, MigError> {
        let MigDevice {
            gpu,
            profile,
            profile_id,
            placement,
            ..
        } = device;
        let nvml = self.nvml()?;
        let made = nvml.create_mig_device(gpu, *profile, *profile_id, *placement, &self.kernel)?;
        info!(%gpu, %profile, %placement, uuid = %made.uuid, "MIG device made");
        Ok(made)
    }

    fn destroy(&self, device: &MigDevice) -> Result<(), MigError> {
        let gone = destroy_all(&self.nvml()?, device, &self.kernel);
        match gone {
            // With the GPU its instances are gone: they do not outlive a reset.
            Err(MigError::Refused(error))
                if matches!(
                    error.reason,
                    MigErrorReason::NoSuchGpu | MigErrorReason::Lost
                ) =>
            {
                info!(%device, %error, "the MIG device is gone with its GPU");
                Ok(())
            }
            gone => gone,
        }
    }
}

/// Destroys what there is of a device.
fn destroy_all(nvml: &Nvml, device: &MigDevice, kernel: &KernelFiles) -> Result<(), MigError> {
    let MigDevice { gpu, placement, .. } = device;
    let identity = if let Some(identity) = &device.identity {
        Some(identity.clone())
    } else {
        what_lies_there(nvml, device, kernel)?
    };
    let Some(MigIdentity {
        uuid,
        gpu_instance,
        compute_instance,
    }) = identity
    else {
        return Ok(());
    };
    match nvml.destroy_mig_device(gpu, gpu_instance, compute_instance, &uuid)? {
        Destroyed::Bare(place) if place == *placement => {
            nvml.destroy_gpu_instance(gpu, gpu_instance, place)?;
            info!(%device, "the rest of the MIG device is destroyed");
        }
        Destroyed::Now => info!(%device, "MIG device destroyed"),
        Destroyed::Absent | Destroyed::Bare(_) => {}
    }
    Ok(())
}

/// The device at the place of one whose maker died before its identity was put down. What is only half
/// made there is destroyed.
fn what_lies_there(
    nvml: &Nvml,
    device: &MigDevice,
    kernel: &KernelFiles,
) -> Result<Option<MigIdentity>, MigError> {
    let MigDevice {
        gpu,
        placement,
        profile_id,
        ..
    } = device;
    let Some(state) = nvml.mig_state(gpu, kernel)? else {
        return Ok(None);
    };
    let half = state.unfinished.iter();
    for bare in half.filter(|bare| (&bare.placement, &bare.profile_id) == (placement, profile_id)) {
        nvml.destroy_gpu_instance(gpu, bare.gpu_instance, *placement)?;
        info!(%device, "a MIG device that was half made is destroyed");
    }
    let mut instances = state.instances.iter();
    let found = instances.find(|instance| device.is(instance));
    Ok(found.map(MigIdentity::of))
}
