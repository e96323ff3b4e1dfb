//! What NVML says of the MIG side of one GPU at one moment.

use std::fmt;

use super::{MigOption, MigProfile, Part, Placement, UnfinishedInstance};
use crate::{Bytes, DeviceName, MigUuid};

/// Whether a GPU is cut into instances (`nvmlDeviceGetMigMode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigMode {
    /// It is used as a whole.
    Off,
    /// It is used through instances alone.
    On,
}

impl fmt::Display for MigMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::On => "on",
        })
    }
}

/// The MIG side of a GPU that has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigState {
    /// The mode that it is in.
    pub mode: MigMode,
    /// The mode that it will be in after its next reset. Different from `mode` where somebody asked for
    /// a switch that could not be made at once.
    pub pending: MigMode,
    /// Its MIG devices, in the order of their placements.
    pub instances: Vec<MigInstance>,
    /// MIG devices that NVML lists and that cannot be given to anybody: which, and why.
    pub unusable: Vec<String>,
    /// GPU instances that have no compute instance, in the order of their placements.
    pub unfinished: Vec<UnfinishedInstance>,
    /// What instances it can have, in the order of NVML's indices. Drivers tell it whether MIG mode is on
    /// or not (NVML's reference on possible placements); nothing where an old one does not while it is
    /// off.
    pub profiles: Vec<MigOption>,
}

impl MigState {
    /// A GPU in this mode, with no instance.
    pub fn empty(mode: MigMode) -> Self {
        Self {
            mode,
            pending: mode,
            instances: Vec::new(),
            unusable: Vec::new(),
            unfinished: Vec::new(),
            profiles: Vec::new(),
        }
    }

    /// Whether the two are cut alike, or wait for a reset alike. What a GPU could have besides does not
    /// count.
    pub fn is_cut_like(&self, other: &Self) -> bool {
        let Self {
            mode,
            pending,
            instances,
            unusable,
            unfinished,
            profiles: _,
        } = self;
        (mode, pending) == (&other.mode, &other.pending)
            && *instances == other.instances
            && *unusable == other.unusable
            && *unfinished == other.unfinished
    }

    /// The mode that waits for a reset, if one does.
    pub fn waiting(&self) -> Option<MigMode> {
        (self.pending != self.mode).then_some(self.pending)
    }

    /// Whether the GPU serves nobody: it is used through instances alone, and there is none.
    pub fn is_stranded(&self) -> bool {
        self.mode == MigMode::On && self.instances.is_empty()
    }
}

/// For people: what somebody who asks for the layout wants to know.
impl fmt::Display for MigState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MIG mode is {}", self.mode)?;
        for (at, instance) in self.instances.iter().enumerate() {
            let before = if at == 0 { ", with" } else { "," };
            write!(f, "{before} {} at {}", instance.profile, instance.placement)?;
        }
        if self.is_stranded() {
            f.write_str(
                ", and there is no MIG device: the GPU serves nobody until one is created or the mode \
                 is switched off",
            )?;
        }
        for unusable in &self.unusable {
            write!(f, "; not usable: {unusable}")?;
        }
        for UnfinishedInstance {
            profile, placement, ..
        } in &self.unfinished
        {
            write!(
                f,
                "; a GPU instance {profile} at {placement} has no compute instance"
            )?;
        }
        match self.waiting() {
            Some(mode) => write!(f, "; to be {mode} after a reset of the GPU"),
            None => Ok(()),
        }
    }
}

/// Engines of a GPU instance, as its profile has them (`nvmlGpuInstanceProfileInfo_t`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MigEngines {
    /// Copy engines.
    pub copy: u32,
    /// Video decoders.
    pub decoders: u32,
    /// Video encoders.
    pub encoders: u32,
    /// JPEG decoders.
    pub jpeg: u32,
    /// Optical flow accelerators.
    pub ofa: u32,
}

/// A device number of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceNumber {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

/// The capabilities without which a program cannot use a MIG device, as device numbers: a process needs
/// the nodes of both (MIG user guide, "Device Nodes and Capabilities").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MigAccess {
    /// That of its GPU instance.
    pub gpu_instance: DeviceNumber,
    /// That of its compute instance.
    pub compute_instance: DeviceNumber,
}

/// A MIG device: a GPU instance and a compute instance in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigInstance {
    /// Number of the GPU instance on its GPU.
    pub gpu_instance: u8,
    /// Number of the compute instance in that.
    pub compute_instance: u8,
    /// Identity. One that is destroyed and made again has another.
    pub uuid: MigUuid,
    /// Its size.
    pub profile: MigProfile,
    /// NVML's number of the GPU instance's profile on this model, as `nvidia-smi mig -lgip` lists it.
    pub profile_id: u16,
    /// Where the GPU instance lies.
    pub placement: Placement,
    /// Memory of the GPU instance, as its profile has it.
    pub memory: Bytes,
    /// Multiprocessors of the compute instance.
    pub multiprocessors: u32,
    /// Engines of the GPU instance.
    pub engines: MigEngines,
    /// What a container needs to use it.
    pub access: MigAccess,
}

impl MigInstance {
    /// The part of the GPU that it is.
    pub fn part(&self) -> Part {
        let whole = self.profile.is_all_of_its_gpu_instance();
        Part {
            placement: self.placement,
            compute_instance: (!whole).then_some(self.compute_instance),
        }
    }

    /// The name under which it is offered, on the GPU with this minor number.
    pub fn device_name(&self, minor: u32) -> DeviceName {
        DeviceName::mig(minor, self.profile, self.profile_id, self.part())
    }
}
