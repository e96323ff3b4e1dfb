//! Which instances there can be beside others.

use serde::{Deserialize, Serialize};

use super::{Instance, Mig, Profile, Table};

/// A GPU instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuInstance {
    /// Its number on its GPU.
    pub number: u32,
    /// Number of its profile.
    pub profile: u32,
    /// First memory slice.
    pub start: u32,
}

impl GpuInstance {
    /// One of this profile that begins at this slice.
    ///
    /// The user guide's listings number a GPU instance of all eight slices 0, those of four 1 and 2,
    /// those of two 3 to 6, those of one 7 to 14.
    pub(super) fn at(table: &Table, profile: &Profile, start: u32) -> Self {
        Self {
            number: (table.slices / profile.size - 1) + start / profile.size,
            profile: profile.id,
            start,
        }
    }

    /// The one that a MIG device is in.
    pub(super) fn of(instance: &Instance) -> Self {
        Self {
            number: instance.gpu_instance,
            profile: instance.profile,
            start: instance.start,
        }
    }
}

impl Mig {
    /// The GPU instances that there are, in the order of their places.
    pub fn parts(&self) -> Vec<GpuInstance> {
        let holding = self.instances.iter().map(GpuInstance::of);
        let mut parts: Vec<_> = holding.chain(self.bare.iter().copied()).collect();
        parts.sort_by_key(|part| part.start);
        parts.dedup();
        parts
    }
}

impl Table {
    /// Whether there is room for an instance beside these: no slice of memory belongs to two, no engine
    /// that the GPU has is given away twice, and there are not more of a profile than it allows.
    pub(super) fn has_room(&self, parts: &[GpuInstance], profile: &Profile, start: u32) -> bool {
        let mut free = self.engines();
        for part in parts {
            let Some(other) = self.profile(part.profile) else {
                return false;
            };
            if part.start < start + profile.size && start < part.start + other.size {
                return false;
            }
            for (free, taken) in free.iter_mut().zip(other.engines()) {
                *free = free.saturating_sub(taken);
            }
        }
        let same = parts.iter().filter(|part| part.profile == profile.id);
        let fits = |(wanted, free): (u32, u32)| wanted <= free;
        same.count() < profile.count() as usize && profile.engines().into_iter().zip(free).all(fits)
    }

    /// How many more instances of this profile there can be beside these.
    pub fn remaining(&self, parts: &[GpuInstance], profile: &Profile) -> u32 {
        let mut parts = parts.to_vec();
        let before = parts.len();
        for start in &profile.starts {
            if self.has_room(&parts, profile, *start) {
                parts.push(GpuInstance::at(self, profile, *start));
            }
        }
        u32::try_from(parts.len() - before).unwrap_or(u32::MAX)
    }
}
