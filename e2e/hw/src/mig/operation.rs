//! What a program asks the driver to do about MIG, and how the driver takes it.
//!
//! The rules are those of `nvml.h` and of the MIG user guide; where they leave something open, the
//! comment says what is assumed.

use serde::{Deserialize, Serialize};

use super::{GpuInstance, Instance, Mig, ModeSwitch, Profile, Table};
use crate::{
    facts::derive_mig_uuid,
    state::{Gpu, Node, Presence},
};

/// Something to be done to a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// `nvmlDeviceSetMigMode`.
    SetMode {
        /// Whether the mode is to be on.
        enabled: bool,
    },
    /// `nvmlDeviceCreateGpuInstance`, and `nvmlDeviceCreateGpuInstanceWithPlacement`.
    CreateGpuInstance {
        /// Number of the profile.
        profile: u32,
        /// First slice and number of slices, where the caller says.
        place: Option<(u32, u32)>,
    },
    /// `nvmlGpuInstanceDestroy`.
    DestroyGpuInstance {
        /// Number of the GPU instance.
        gpu_instance: u32,
    },
    /// `nvmlGpuInstanceCreateComputeInstance`.
    CreateComputeInstance {
        /// Number of the GPU instance.
        gpu_instance: u32,
        /// Number of the compute instance's profile.
        profile: u32,
    },
    /// `nvmlComputeInstanceDestroy`.
    DestroyComputeInstance {
        /// Number of the GPU instance.
        gpu_instance: u32,
        /// Number of the compute instance in it.
        compute_instance: u32,
    },
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// The driver knows the mode that is wanted.
    Mode(Activation),
    /// An instance of this number was made.
    Made(u32),
    /// An instance was destroyed.
    Destroyed,
}

/// Whether a mode that is wanted is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// It is.
    Now,
    /// It comes with the next reset, which the driver cannot make from here.
    ResetRequired,
    /// It comes with the next reset, because somebody uses the GPU.
    InUse,
}

/// Why nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The GPU has no MIG, or MIG mode is off, or there is no such profile.
    NotSupported,
    /// There is no such thing.
    InvalidArgument,
    /// The caller must not.
    NoPermission,
    /// Others have what it needs.
    InsufficientResources,
    /// Somebody uses it.
    InUse,
    /// The GPU does not answer.
    GpuIsLost,
}

impl Node {
    /// Does something to the GPU with this UUID.
    pub fn operate(&mut self, gpu: &str, operation: Operation) -> Result<Done, Refusal> {
        let mut gpus = self.gpus.iter_mut();
        let found = gpus.find(|other| other.facts.uuid == gpu);
        found.ok_or(Refusal::InvalidArgument)?.operate(operation)
    }
}

impl Gpu {
    /// Does something to the GPU.
    pub fn operate(&mut self, operation: Operation) -> Result<Done, Refusal> {
        if self.condition.presence != Presence::Present {
            return Err(Refusal::GpuIsLost);
        }
        let table = self.facts.mig_table().ok_or(Refusal::NotSupported)?;
        let mig = &mut self.condition.mig;
        match operation {
            Operation::SetMode { enabled } => Ok(Done::Mode(self.set_mode(table, enabled))),
            _ if !mig.enabled => Err(Refusal::NotSupported),
            Operation::CreateGpuInstance { profile, place } => {
                mig.create_part(table, profile, place)
            }
            Operation::DestroyGpuInstance { gpu_instance } => mig.destroy_part(gpu_instance),
            Operation::CreateComputeInstance {
                gpu_instance,
                profile,
            } => mig.create_compute(&self.facts.uuid, table, gpu_instance, profile),
            Operation::DestroyComputeInstance {
                gpu_instance,
                compute_instance,
            } => mig.destroy_compute(gpu_instance, compute_instance),
        }
    }

    /// The call itself succeeds: whether the mode is there is told beside it (`activationStatus`), and a
    /// wish that cannot be met waits for a reset. The reset of an Ampere GPU is taken to be out of the
    /// driver's reach, as in a virtual machine.
    fn set_mode(&mut self, table: &Table, enabled: bool) -> Activation {
        let is_used = self.is_used();
        let mig = &mut self.condition.mig;
        mig.pending = enabled;
        if mig.enabled == enabled {
            return Activation::Now;
        }
        match table.mode_switch {
            _ if is_used => Activation::InUse,
            ModeSwitch::WithReset => Activation::ResetRequired,
            ModeSwitch::AtOnce => {
                mig.enabled = enabled;
                Activation::Now
            }
        }
    }

    fn is_used(&self) -> bool {
        let condition = &self.condition;
        condition.held || self.memory_used() > 0 || !condition.mig.parts().is_empty()
    }
}

impl Mig {
    fn create_part(
        &mut self,
        table: &Table,
        profile: u32,
        place: Option<(u32, u32)>,
    ) -> Result<Done, Refusal> {
        let profile = table.profile(profile).ok_or(Refusal::InvalidArgument)?;
        let parts = self.parts();
        let start = match place {
            Some((start, size)) if !profile.starts.contains(&start) || size != profile.size => {
                return Err(Refusal::InvalidArgument);
            }
            Some((start, _)) => Some(start).filter(|at| table.has_room(&parts, profile, *at)),
            // The real driver prefers other places than the first.
            None => {
                let mut starts = profile.starts.iter().copied();
                starts.find(|at| table.has_room(&parts, profile, *at))
            }
        };
        let start = start.ok_or(Refusal::InsufficientResources)?;
        let made = GpuInstance::at(table, profile, start);
        self.bare.push(made);
        Ok(Done::Made(made.number))
    }

    fn destroy_part(&mut self, number: u32) -> Result<Done, Refusal> {
        if self
            .instances
            .iter()
            .any(|other| other.gpu_instance == number)
        {
            return Err(Refusal::InUse);
        }
        let mut bare = self.bare.iter();
        let at = bare.position(|part| part.number == number);
        let at = at.ok_or(Refusal::InvalidArgument)?;
        if self.held.contains(&number) {
            return Err(Refusal::InUse);
        }
        self.bare.remove(at);
        Ok(Done::Destroyed)
    }

    fn create_compute(
        &mut self,
        gpu: &str,
        table: &Table,
        number: u32,
        wanted: u32,
    ) -> Result<Done, Refusal> {
        let parts = self.parts();
        let part = parts.iter().find(|part| part.number == number);
        let part = part.ok_or(Refusal::InvalidArgument)?;
        let profile = table.profile(part.profile).ok_or(Refusal::NotSupported)?;
        let mut profiles = profile.compute_profiles();
        let (_, slices) = profiles
            .find(|(id, _)| *id == wanted)
            .ok_or(Refusal::NotSupported)?;
        let others = self.instances.iter();
        let others: Vec<_> = others
            .filter(|other| other.gpu_instance == number)
            .collect();
        let start = first_free(profile, &others, slices).ok_or(Refusal::InsufficientResources)?;
        let is_taken = |number: &u32| others.iter().any(|o| o.compute_instance == *number);
        let numbers = 0..super::COMPUTE_INSTANCES;
        let compute_instance = numbers
            .into_iter()
            .find(|number| !is_taken(number))
            .ok_or(Refusal::InsufficientResources)?;
        self.created += 1;
        let made = Instance {
            gpu_instance: number,
            compute_instance,
            uuid: derive_mig_uuid(gpu, self.created),
            profile: part.profile,
            start: part.start,
            compute_slices: slices,
            compute_start: start,
        };
        self.bare.retain(|part| part.number != number);
        self.instances.push(made);
        self.instances
            .sort_by_key(|instance| (instance.start, instance.compute_instance));
        Ok(Done::Made(compute_instance))
    }

    fn destroy_compute(&mut self, number: u32, compute_instance: u32) -> Result<Done, Refusal> {
        let mut instances = self.instances.iter();
        let at = instances.position(|instance| {
            (instance.gpu_instance, instance.compute_instance) == (number, compute_instance)
        });
        let at = at.ok_or(Refusal::InvalidArgument)?;
        if self.held.contains(&number) {
            return Err(Refusal::InUse);
        }
        let gone = self.instances.remove(at);
        if self
            .instances
            .iter()
            .all(|other| other.gpu_instance != number)
        {
            self.bare.push(GpuInstance::of(&gone));
        }
        Ok(Done::Destroyed)
    }
}

/// The first slice of multiprocessors from which so many are free in a GPU instance.
fn first_free(profile: &Profile, others: &[&Instance], slices: u32) -> Option<u32> {
    let is_free = |start: &u32| {
        let apart = |other: &&Instance| {
            start + slices <= other.compute_start
                || other.compute_start + other.compute_slices <= *start
        };
        start + slices <= profile.slices && others.iter().all(apart)
    };
    (0..profile.slices).find(is_free)
}

#[cfg(test)]
mod tests;
