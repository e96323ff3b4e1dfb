//! MIG: how the GPUs of each model can be cut, and how one is cut right now.
//!
//! Which numbers instances get follows the listings of NVIDIA's MIG user guide: those of one size are
//! numbered by their place, behind all larger ones.

mod operation;
mod room;
mod table;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::{
    operation::{Activation, Done, Operation, Refusal},
    room::GpuInstance,
    table::{ModeSwitch, Profile, Table, table, tables},
};
use crate::{
    facts::{Facts, derive_mig_uuid},
    state::{Gpu, Presence},
};

/// Numbers that GPU and compute instances can have on one GPU: the last of the driver's capabilities for
/// MIG is `gpu31/gi14/ci7` (MIG user guide, "Device Nodes and Capabilities").
pub const GPU_INSTANCES: u32 = 15;
/// See [`GPU_INSTANCES`].
pub const COMPUTE_INSTANCES: u32 = 8;

/// The capability with which instances are made.
pub const CONFIG_CAPABILITY: u32 = 1;
/// The capability with which all instances are looked at.
pub const MONITOR_CAPABILITY: u32 = 2;

impl Facts {
    /// How the GPU can be cut, if it can.
    pub fn mig_table(&self) -> Option<&'static Table> {
        table(self.mig_table.as_ref()?)
    }
}

/// How a GPU is cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mig {
    /// Whether MIG mode is on.
    pub enabled: bool,
    /// Whether it will be after the next reset.
    pub pending: bool,
    /// The MIG devices, in the order of their placements.
    pub instances: Vec<Instance>,
    /// The GPU instances that hold no MIG device.
    #[serde(default)]
    pub bare: Vec<GpuInstance>,
    /// Numbers of the GPU instances that another client holds, as monitoring does.
    #[serde(default)]
    pub held: BTreeSet<u32>,
    /// How many instances there have ever been, so that none gets the UUID of another.
    pub created: u64,
}

/// A MIG device: a GPU instance and a compute instance in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// Number of the GPU instance.
    pub gpu_instance: u32,
    /// Number of the compute instance in it.
    pub compute_instance: u32,
    /// `MIG-` and a UUID.
    pub uuid: String,
    /// Number of the GPU instance's profile.
    pub profile: u32,
    /// First memory slice.
    pub start: u32,
    /// Slices of multiprocessors of the compute instance.
    pub compute_slices: u32,
    /// The first of them, among those of the GPU instance.
    #[serde(default)]
    pub compute_start: u32,
}

impl Instance {
    /// What `nvidia-smi` calls it on a GPU with this table.
    pub fn name(&self, profile: &Profile) -> String {
        if self.compute_slices == profile.slices {
            profile.name.clone()
        } else {
            format!("{}c.{}", self.compute_slices, profile.name)
        }
    }
}

/// Why a GPU cannot be cut in a way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// It cannot be cut at all.
    #[error("cut the GPU {gpu}: its model has no MIG")]
    NoMig {
        /// The GPU.
        gpu: String,
    },
    /// Its model has no such profile.
    #[error("cut the GPU {gpu} into {profile}: its profiles are {known}")]
    Unknown {
        /// The GPU.
        gpu: String,
        /// The profile asked for.
        profile: String,
        /// Those that there are.
        known: String,
    },
    /// There is no room for all of them.
    #[error(
        "cut the GPU {gpu} into {profile} beside those before it: no place is left; name large \
         profiles first, as mig-parted does"
    )]
    NoRoom {
        /// The GPU.
        gpu: String,
        /// The profile that does not fit any more.
        profile: String,
    },
}

/// The minor number of a GPU instance's capability, or of a compute instance's in it. The order is that
/// of `/proc/driver/nvidia-caps/mig-minors`.
pub fn capability(gpu_minor: u32, gpu_instance: u32, compute_instance: Option<u32>) -> u32 {
    let each = 1 + COMPUTE_INSTANCES;
    let first = MONITOR_CAPABILITY + 1 + (gpu_minor * GPU_INSTANCES + gpu_instance) * each;
    compute_instance.map_or(first, |number| first + 1 + number)
}

impl Gpu {
    /// Cuts the GPU into instances of these profiles, each at the first place that is free, with one
    /// compute instance in each. Former instances are destroyed first. The GPU stays as it is where that
    /// cannot be.
    ///
    /// As after `nvidia-mig-parted apply`: the mode is on, whether that needed a reset or not.
    pub fn cut(&mut self, profiles: &[&str]) -> Result<(), LayoutError> {
        let table = self.table()?;
        let mut created = self.condition.mig.created;
        let mut parts = Vec::new();
        let mut instances = Vec::new();
        for name in profiles {
            let profile = find(table, name).ok_or_else(|| self.unknown(table, name))?;
            let mut starts = profile.starts.iter().copied();
            let free = starts.find(|start| table.has_room(&parts, profile, *start));
            let start = free.ok_or_else(|| LayoutError::NoRoom {
                gpu: self.facts.uuid.clone(),
                profile: (*name).to_owned(),
            })?;
            let part = GpuInstance::at(table, profile, start);
            parts.push(part);
            created += 1;
            instances.push(Instance {
                gpu_instance: part.number,
                compute_instance: 0,
                uuid: derive_mig_uuid(&self.facts.uuid, created),
                profile: profile.id,
                start,
                compute_slices: profile.slices,
                compute_start: 0,
            });
        }
        instances.sort_by_key(|instance| instance.start);
        self.condition.mig = Mig {
            enabled: true,
            pending: true,
            instances,
            created,
            ..Mig::default()
        };
        Ok(())
    }

    /// Destroys all instances and switches MIG mode off.
    pub fn uncut(&mut self) -> Result<(), LayoutError> {
        self.table()?;
        let created = self.condition.mig.created;
        self.condition.mig = Mig {
            created,
            ..Mig::default()
        };
        Ok(())
    }

    /// Asks for a mode that cannot be switched to before a reset, as where another program has the GPU
    /// open.
    pub fn await_mode(&mut self, enabled: bool) -> Result<(), LayoutError> {
        self.table()?;
        self.condition.mig.pending = enabled;
        Ok(())
    }

    /// Ends a reset: instances are gone, nobody holds anything, and the mode that was waited for is on.
    pub fn end_reset(&mut self) {
        self.condition.presence = Presence::Present;
        self.condition.held = false;
        self.condition.forget_policies();
        self.condition.cgroups.clear();
        let Mig {
            pending, created, ..
        } = self.condition.mig;
        self.condition.mig = Mig {
            enabled: pending,
            pending,
            created,
            ..Mig::default()
        };
    }

    /// Ends a boot of the machine: instances are gone. Ampere keeps the mode in the GPU; from Hopper on it
    /// is off again (MIG user guide, "Enable MIG Mode").
    pub fn end_boot(&mut self) {
        let table = self.facts.mig_table();
        if table.is_some_and(|table| table.mode_switch == ModeSwitch::AtOnce) {
            self.condition.mig.pending = false;
        }
        self.end_reset();
    }

    fn table(&self) -> Result<&'static Table, LayoutError> {
        self.facts.mig_table().ok_or_else(|| LayoutError::NoMig {
            gpu: self.facts.uuid.clone(),
        })
    }

    fn unknown(&self, table: &Table, profile: &str) -> LayoutError {
        let known: Vec<_> = table.profiles.iter().map(|p| p.name.as_str()).collect();
        LayoutError::Unknown {
            gpu: self.facts.uuid.clone(),
            profile: profile.to_owned(),
            known: known.join(", "),
        }
    }
}

fn find<'t>(table: &'t Table, name: &str) -> Option<&'t Profile> {
    table.profiles.iter().find(|profile| profile.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile as Machine;

    fn gpu(profile: &str) -> Gpu {
        let node = Machine::load(profile).unwrap().instantiate("node-1");
        node.gpus[0].clone()
    }

    fn cut(profiles: &[&str]) -> Vec<(u32, u32)> {
        let mut gpu = gpu("a100-40g");
        gpu.cut(profiles).unwrap();
        let instances = gpu.condition.mig.instances;
        instances
            .iter()
            .map(|instance| (instance.gpu_instance, instance.start))
            .collect()
    }

    #[test]
    fn every_table_can_be_read_and_no_two_of_its_profiles_are_one() {
        for name in tables() {
            let table = table(name).unwrap();
            for (at, profile) in table.profiles.iter().enumerate() {
                let before = &table.profiles[..at];
                assert!(before.iter().all(|p| p.id != profile.id
                    && p.index != profile.index
                    && p.name != profile.name));
                for start in &profile.starts {
                    assert!(
                        start + profile.size <= table.slices,
                        "{name} {}",
                        profile.name
                    );
                }
            }
        }
    }

    #[test]
    fn instances_are_numbered_as_in_the_listings_of_the_user_guide() {
        // "Creating GPU Instances": examples 1 and 3; the guide's driver prefers other places.
        assert_eq!(cut(&["3g.20gb", "3g.20gb"]), [(1, 0), (2, 4)]);
        let found = cut(&["2g.10gb", "1g.5gb", "1g.5gb", "1g.5gb", "1g.5gb", "1g.5gb"]);
        assert_eq!(found, [(3, 0), (9, 2), (10, 3), (11, 4), (12, 5), (13, 6)]);
        assert_eq!(cut(&["7g.40gb"]), [(0, 0)]);
    }

    #[test]
    fn capabilities_have_the_minor_numbers_of_the_user_guide() {
        for (gpu, gi, ci, minor) in [
            (0, 0, None, 3),
            (0, 0, Some(0), 4),
            (0, 0, Some(2), 6),
            (0, 1, None, 12),
            (0, 1, Some(2), 15),
            (31, 14, Some(6), 4321),
            (31, 14, Some(7), 4322),
        ] {
            assert_eq!(capability(gpu, gi, ci), minor);
        }
    }

    #[test]
    fn a_layout_that_cannot_be_is_refused_with_the_reason_and_changes_nothing() {
        let mut a100 = gpu("a100-40g");
        a100.cut(&["7g.40gb"]).unwrap();
        let before = a100.clone();
        for (profiles, reason) in [
            (&["1g.10gb+me"][..], "its profiles are 1g.5gb, 1g.5gb+me"),
            (&["4g.20gb", "4g.20gb"], "no place is left"),
            (&["1g.5gb+me", "1g.5gb+me"], "no place is left"),
            (&["7g.40gb", "1g.5gb"], "no place is left"),
        ] {
            let error = a100.cut(profiles).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
            assert_eq!(a100, before);
        }
        let error = gpu("t4").cut(&[]).unwrap_err();
        assert!(matches!(error, LayoutError::NoMig { .. }), "{error}");
    }

    #[test]
    fn an_instance_that_is_made_again_has_another_uuid() {
        let mut gpu = gpu("h100");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            gpu.cut(&["1g.10gb", "1g.10gb"]).unwrap();
            for instance in &gpu.condition.mig.instances {
                assert!(seen.insert(instance.uuid.clone()));
                assert_eq!(
                    instance.uuid.len(),
                    "MIG-c7384736-a75d-5afc-978f-d2f1294409fd".len()
                );
            }
            gpu.uncut().unwrap();
        }
    }

    #[test]
    fn no_instance_outlives_the_boot_and_from_hopper_on_neither_does_the_mode() {
        for (profile, size, stays) in [("a100-40g", "7g.40gb", true), ("h100", "7g.80gb", false)] {
            let mut gpu = gpu(profile);
            gpu.cut(&[size]).unwrap();
            gpu.end_boot();
            let mig = &gpu.condition.mig;
            assert_eq!((mig.enabled, mig.pending), (stays, stays), "{profile}");
            assert!(mig.parts().is_empty());
        }
    }

    #[test]
    fn a_mode_that_is_waited_for_comes_with_the_reset_which_ends_all_instances() {
        let mut gpu = gpu("a100-40g");
        gpu.await_mode(true).unwrap();
        assert!(!gpu.condition.mig.enabled);
        gpu.end_reset();
        assert!(gpu.condition.mig.enabled);
        gpu.cut(&["7g.40gb"]).unwrap();
        gpu.end_reset();
        assert!(gpu.condition.mig.enabled && gpu.condition.mig.instances.is_empty());
    }
}
