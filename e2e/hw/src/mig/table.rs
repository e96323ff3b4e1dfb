//! The tables: how the GPUs of each model can be cut.
//!
//! They are files in `mig/`, with the source of every value beside it.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;

const TABLES: &[(&str, &str)] = &[
    ("a100-40g", include_str!("../../mig/a100-40g.yaml")),
    ("a100-80g", include_str!("../../mig/a100-80g.yaml")),
    ("a30", include_str!("../../mig/a30.yaml")),
    ("b200", include_str!("../../mig/b200.yaml")),
    ("gb200", include_str!("../../mig/gb200.yaml")),
    ("h100", include_str!("../../mig/h100.yaml")),
    ("h200", include_str!("../../mig/h200.yaml")),
];

static PARSED: LazyLock<BTreeMap<&str, Table>> = LazyLock::new(|| {
    let parse = |(name, text): &(&'static str, &str)| {
        let table = serde_yaml_ng::from_str(text).expect("the tables are part of the program");
        (*name, table)
    };
    TABLES.iter().map(parse).collect()
});

/// Number and slices of the profiles of compute instances that share nothing but engines: the listing of
/// `nvidia-smi mig -lcip` in the MIG user guide, "Creating Compute Instances", numbers those of `3g.20gb`
/// 0, 1 and 2, in the order of `NVML_COMPUTE_INSTANCE_PROFILE_*` of `nvml.h`, and so on. Which of them an
/// instance of four or seven slices has follows listings of A100; 2g is taken to be like them.
const COMPUTE_PROFILES: [(u32, u32); 5] = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 7)];

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
    /// Its engines, kind by kind.
    pub(super) fn engines(&self) -> [u32; 5] {
        [
            self.copy_engines,
            self.decoders,
            self.encoders,
            self.jpeg,
            self.ofa,
        ]
    }

    /// The profiles of compute instances that an instance of it has: number and slices of each. The
    /// number is the index of `NVML_COMPUTE_INSTANCE_PROFILE_*` too.
    pub fn compute_profiles(&self) -> impl Iterator<Item = (u32, u32)> {
        let parts: &[u32] = match self.slices {
            1 => &[1],
            2 => &[1, 2],
            3 => &[1, 2, 3],
            4 => &[1, 2, 4],
            _ => &[1, 2, 3, 4, 7],
        };
        let numbered = COMPUTE_PROFILES.iter();
        numbered
            .filter(move |(_, slices)| parts.contains(slices))
            .copied()
    }

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

    /// The engines of the whole GPU, kind by kind: those of the instance that has all.
    pub(super) fn engines(&self) -> [u32; 5] {
        let mut all = [0; 5];
        for profile in &self.profiles {
            for (most, engines) in all.iter_mut().zip(profile.engines()) {
                *most = engines.max(*most);
            }
        }
        all
    }
}
