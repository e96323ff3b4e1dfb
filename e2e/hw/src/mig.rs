//! MIG: how the GPUs of each model can be cut, and how one is cut right now.
//!
//! The tables are files in `mig/`, with the source of every value beside it. Which numbers instances get
//! follows the listings of NVIDIA's MIG user guide: those of one size are numbered by their place, behind
//! all larger ones.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::{Deserialize, Serialize};

use crate::{
    facts::{Facts, derive_mig_uuid},
    state::{Gpu, Presence},
};

const TABLES: &[(&str, &str)] = &[
    ("a100-40g", include_str!("../mig/a100-40g.yaml")),
    ("a100-80g", include_str!("../mig/a100-80g.yaml")),
    ("a30", include_str!("../mig/a30.yaml")),
    ("b200", include_str!("../mig/b200.yaml")),
    ("gb200", include_str!("../mig/gb200.yaml")),
    ("h100", include_str!("../mig/h100.yaml")),
    ("h200", include_str!("../mig/h200.yaml")),
];

static PARSED: LazyLock<BTreeMap<&str, Table>> = LazyLock::new(|| {
    let parse = |(name, text): &(&'static str, &str)| {
        let table = serde_yaml_ng::from_str(text).expect("the tables are part of the program");
        (*name, table)
    };
    TABLES.iter().map(parse).collect()
});

/// Numbers that GPU and compute instances can have on one GPU: the last of the driver's capabilities for
/// MIG is `gpu31/gi14/ci7` (MIG user guide, "Device Nodes and Capabilities").
pub const GPU_INSTANCES: u32 = 15;
/// See [`GPU_INSTANCES`].
pub const COMPUTE_INSTANCES: u32 = 8;

/// The capability with which instances are made.
pub const CONFIG_CAPABILITY: u32 = 1;
/// The capability with which all instances are looked at.
pub const MONITOR_CAPABILITY: u32 = 2;

/// How a model can be cut.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// How many slices its memory has.
    pub slices: u32,
    /// When a switch of the mode takes effect.
    pub mode_switch: ModeSwitch,
    /// Its profiles.
    pub profiles: Vec<Profile>,
}

/// When a switch of the mode takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModeSwitch {
    /// At once.
    AtOnce,
    /// When the GPU is reset.
    WithReset,
}

/// A size that an instance can have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Its index in `nvmlDeviceGetGpuInstanceProfileInfo`.
    pub index: u32,
    /// Its number on this model.
    pub id: u32,
    /// Slices of multiprocessors.
    pub slices: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Copy engines.
    pub copy_engines: u32,
    /// Video decoders.
    pub decoders: u32,
    /// Video encoders.
    pub encoders: u32,
    /// JPEG decoders.
    pub jpeg: u32,
    /// Optical flow accelerators.
    pub ofa: u32,
    /// Where an instance can begin.
    pub starts: Vec<u32>,
    /// How many memory slices it occupies.
    pub size: u32,
}

impl Profile {
    /// How many instances of it there can be. The media engines that `+me` means are there once.
    pub fn count(&self) -> u32 {
        if self.name.contains("+me") {
            1
        } else {
            u32::try_from(self.starts.len()).unwrap_or(u32::MAX)
        }
    }
}

/// The names of all tables.
pub fn tables() -> impl Iterator<Item = &'static str> {
    TABLES.iter().map(|(name, _)| *name)
}

/// The table of this name.
pub fn table(name: &str) -> Option<&'static Table> {
    PARSED.get(name)
}

impl Table {
    /// The profile with this number.
    pub fn profile(&self, id: u32) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.id == id)
    }
}

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
        let mut taken = vec![false; table.slices as usize];
        let mut instances = Vec::new();
        for name in profiles {
            let profile = find(table, name).ok_or_else(|| self.unknown(table, name))?;
            let same = instances
                .iter()
                .filter(|other: &&Instance| other.profile == profile.id);
            let room = (same.count() < profile.count() as usize)
                .then(|| first_free(profile, &taken))
                .flatten();
            let start = room.ok_or_else(|| LayoutError::NoRoom {
                gpu: self.facts.uuid.clone(),
                profile: (*name).to_owned(),
            })?;
            taken[place(start, profile.size)].fill(true);
            created += 1;
            instances.push(Instance {
                gpu_instance: number(table, profile.size, start),
                compute_instance: 0,
                uuid: derive_mig_uuid(&self.facts.uuid, created),
                profile: profile.id,
                start,
                compute_slices: profile.slices,
            });
        }
        instances.sort_by_key(|instance| instance.start);
        self.condition.mig = Mig {
            enabled: true,
            pending: true,
            instances,
            created,
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

    /// Ends a reset: instances are gone, and the mode that was waited for is on.
    pub fn end_reset(&mut self) {
        self.condition.presence = Presence::Present;
        let mig = &mut self.condition.mig;
        mig.enabled = mig.pending;
        mig.instances.clear();
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

fn first_free(profile: &Profile, taken: &[bool]) -> Option<u32> {
    let free = |start: &&u32| {
        let slices = taken.get(place(**start, profile.size));
        slices.is_some_and(|slices| !slices.contains(&true))
    };
    profile.starts.iter().find(free).copied()
}

fn place(start: u32, size: u32) -> std::ops::Range<usize> {
    start as usize..(start + size) as usize
}

/// The user guide's listings number a GPU instance of all eight slices 0, those of four 1 and 2, those of
/// two 3 to 6, those of one 7 to 14.
fn number(table: &Table, size: u32, start: u32) -> u32 {
    (table.slices / size - 1) + start / size
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
