//! A MIG device that is made for a claim, as the journal keeps it.

use std::fmt;

use serde::{Deserialize, Serialize};
use tessera_device::mig::{MigInstance, MigProfile, Part, Placement, Slot};
use tessera_device::{DeviceName, Gpu, GpuUuid, MigUuid};

use crate::record::{placement, text};

/// A MIG device that is made for a claim and destroyed after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigDevice {
    /// The GPU of which it is a part.
    #[serde(with = "text")]
    pub gpu: GpuUuid,
    /// Its size.
    #[serde(with = "text")]
    pub profile: MigProfile,
    /// NVML's number of the size.
    pub profile_id: u16,
    /// Where it lies.
    #[serde(with = "placement")]
    pub placement: Placement,
    /// Which it is. Nothing, if it has not been made, or whoever made it died before this was written:
    /// then it is what lies at the place, for the record keeps everybody else from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<MigIdentity>,
}

/// By what a MIG device is found again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigIdentity {
    /// Its UUID. Numbers are given anew to other instances; a UUID never is.
    #[serde(with = "text")]
    pub uuid: MigUuid,
    /// Number of its GPU instance.
    pub gpu_instance: u8,
    /// Number of its compute instance in that.
    pub compute_instance: u8,
}

impl MigDevice {
    /// The device that is to be made here.
    pub fn planned(gpu: &Gpu, slot: Slot<'_>) -> Self {
        Self {
            gpu: gpu.uuid.clone(),
            profile: slot.option.profile,
            profile_id: slot.option.profile_id,
            placement: slot.placement,
            identity: None,
        }
    }

    /// The device that was found here.
    pub fn found(gpu: &GpuUuid, instance: &MigInstance) -> Self {
        Self {
            gpu: gpu.clone(),
            profile: instance.profile,
            profile_id: instance.profile_id,
            placement: instance.placement,
            identity: Some(MigIdentity::of(instance)),
        }
    }

    /// The name under which it is offered, on the GPU with this minor number.
    pub fn device_name(&self, minor: u32) -> DeviceName {
        let part = Part {
            placement: self.placement,
            compute_instance: None,
        };
        DeviceName::mig(minor, self.profile, self.profile_id, part)
    }

    /// Whether an instance of its GPU is this one.
    pub fn is(&self, instance: &MigInstance) -> bool {
        match &self.identity {
            Some(identity) => identity.uuid == instance.uuid,
            None => (self.placement, self.profile_id) == (instance.placement, instance.profile_id),
        }
    }
}

impl fmt::Display for MigDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            gpu,
            profile,
            placement,
            identity,
            ..
        } = self;
        match identity {
            Some(MigIdentity { uuid, .. }) => {
                write!(f, "MIG device {uuid} ({profile}) on GPU {gpu}")
            }
            None => write!(f, "MIG device {profile} at {placement} on GPU {gpu}"),
        }
    }
}

impl MigIdentity {
    /// The identity of an instance that was made.
    pub fn of(instance: &MigInstance) -> Self {
        Self {
            uuid: instance.uuid.clone(),
            gpu_instance: instance.gpu_instance,
            compute_instance: instance.compute_instance,
        }
    }
}
