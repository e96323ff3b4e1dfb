//! What instances a GPU can have, and those that are half made.

use super::{MigEngines, MigProfile, Placement, Row};
use crate::Bytes;

/// A size that a GPU can be cut into, with the places where an instance of it can lie: what NVML says of
/// the GPU itself (`nvmlDeviceGetGpuInstanceProfileInfo`, `nvmlDeviceGetGpuInstancePossiblePlacements_v2`).
///
/// It is about GPU instances that one compute instance has all of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigOption {
    /// The size.
    pub profile: MigProfile,
    /// NVML's number of it on this model.
    pub profile_id: u16,
    /// How many instances of it there can be at once. Fewer than there are places where the instances
    /// share engines that the GPU has once, as those with `+me` do.
    pub instances: u32,
    /// Memory of an instance.
    pub memory: Bytes,
    /// Multiprocessors of an instance.
    pub multiprocessors: u32,
    /// Engines of an instance.
    pub engines: MigEngines,
    /// Where an instance can lie, in order.
    pub placements: Vec<Placement>,
}

impl From<&Row> for MigOption {
    fn from(row: &Row) -> Self {
        Self {
            profile: row.profile,
            profile_id: row.id,
            instances: row.instances.into(),
            memory: row.memory,
            multiprocessors: row.multiprocessors,
            engines: row.engines,
            placements: row.placements().collect(),
        }
    }
}

/// A GPU instance without a compute instance: nobody can use it, and it takes its place from others.
///
/// It is what is left where somebody has died between making the one and the other, or between
/// destroying them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnfinishedInstance {
    /// Number of the GPU instance on its GPU.
    pub gpu_instance: u8,
    /// Its size.
    pub profile: MigProfile,
    /// NVML's number of the size on this model.
    pub profile_id: u16,
    /// Where it lies.
    pub placement: Placement,
}
