//! The profiles of the GPUs that have MIG: what NVML says on them.
//!
//! What a node offers comes from its NVML and not from here. The table says which profiles there can be
//! at all, before any node is asked: the chart has a class for each.
//!
//! # Sources
//! Sizes, numbers and engines are those that `nvidia-smi mig -lgip` prints, whose GiB are rounded to two
//! digits of whole MiB; placements those of `nvidia-smi mig -lgipp`. Where no listing was found, the row
//! says that it is assumed.

use super::{Extras, MigEngines, MigProfile, Placement};
use crate::{Architecture, Bytes};

use Extras::{Media, None as Plain};

/// When a switch of the MIG mode takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeSwitch {
    /// At once, on a GPU that nobody uses.
    AtOnce,
    /// With a reset of the GPU. The driver makes it where it may; where a hypervisor forbids it, the mode
    /// is pending until the machine is started anew.
    WithReset,
}

impl ModeSwitch {
    /// MIG user guide, "Enable MIG Mode": GPUs from Hopper on need no reset.
    pub fn of(architecture: &Architecture) -> Self {
        match architecture {
            Architecture::Hopper | Architecture::Blackwell => Self::AtOnce,
            Architecture::Kepler
            | Architecture::Maxwell
            | Architecture::Pascal
            | Architecture::Volta
            | Architecture::Turing
            | Architecture::Ampere
            | Architecture::Ada
            | Architecture::Unknown => Self::WithReset,
        }
    }
}

/// A model of GPU that can be cut.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Its name for people.
    pub name: &'static str,
    /// All memory that NVML reports of it.
    pub memory: Bytes,
    /// Its profiles.
    pub rows: &'static [Row],
}

/// One profile of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The profile.
    pub profile: MigProfile,
    /// Its number on this model.
    pub id: u16,
    /// How many instances of it fit on an empty GPU.
    pub instances: u8,
    /// Memory.
    pub memory: Bytes,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Engines.
    pub engines: MigEngines,
    /// Where an instance can begin.
    pub starts: &'static [u8],
    /// How many memory slices it occupies.
    pub size: u8,
}

impl Row {
    /// Where an instance can lie.
    pub fn placements(self) -> impl Iterator<Item = Placement> {
        let Self { starts, size, .. } = self;
        starts.iter().map(move |start| Placement {
            start: *start,
            size,
        })
    }
}

/// The models.
pub const MODELS: &[Model] = &[A100_40GB, A100_80GB, A30, H100_80GB, H200, B200, GB200];

/// `slices gigabytes extras: id, instances, MiB, SM, [CE DEC ENC JPEG OFA], starts of size`
macro_rules! rows {
    ($($slices:literal $gb:literal $extras:ident: $id:literal, $instances:literal, $mib:literal, $sm:literal,
       [$copy:literal $dec:literal $enc:literal $jpeg:literal $ofa:literal], [$($start:literal)*] of $size:literal;)*) => {
        &[$(Row {
            profile: MigProfile { slices: $slices, compute: $slices, gigabytes: $gb, extras: $extras },
            id: $id,
            instances: $instances,
            memory: Bytes::from_mib($mib),
            multiprocessors: $sm,
            engines: MigEngines { copy: $copy, decoders: $dec, encoders: $enc, jpeg: $jpeg, ofa: $ofa },
            starts: &[$($start),*],
            size: $size,
        }),*]
    };
}

// MIG user guide, "Getting Started with MIG" (both listings) and "Supported MIG Profiles"; 1g.10gb, which
// the listing there is too old for: NVIDIA/go-nvml, pkg/nvml/mock.
const A100_40GB: Model = Model {
    name: "A100 40GB",
    memory: Bytes::from_mib(40_960),
    rows: rows! {
        1  5 Plain: 19, 7,  4_864, 14, [1 0 0 0 0], [0 1 2 3 4 5 6] of 1;
        1  5 Media: 20, 1,  4_864, 14, [1 1 0 1 1], [0 1 2 3 4 5 6] of 1;
        1 10 Plain: 15, 4,  9_856, 14, [1 1 0 0 0], [0 2 4 6] of 2;
        2 10 Plain: 14, 3,  9_856, 28, [2 1 0 0 0], [0 2 4] of 2;
        3 20 Plain:  9, 2, 19_968, 42, [3 2 0 0 0], [0 4] of 4;
        4 20 Plain:  5, 1, 19_968, 56, [4 2 0 0 0], [0] of 4;
        7 40 Plain:  0, 1, 40_192, 98, [7 5 0 1 1], [0] of 8;
    },
};

// Listings of A100-SXM4-80GB (driver 525 and later); placements as on the A100 with 40 GB.
const A100_80GB: Model = Model {
    name: "A100 80GB",
    memory: Bytes::from_mib(81_920),
    rows: rows! {
        1 10 Plain: 19, 7,  9_728, 14, [1 0 0 0 0], [0 1 2 3 4 5 6] of 1;
        1 10 Media: 20, 1,  9_728, 14, [1 1 0 1 1], [0 1 2 3 4 5 6] of 1;
        1 20 Plain: 15, 4, 19_968, 14, [1 1 0 0 0], [0 2 4 6] of 2;
        2 20 Plain: 14, 3, 19_968, 28, [2 1 0 0 0], [0 2 4] of 2;
        3 40 Plain:  9, 2, 40_192, 42, [3 2 0 0 0], [0 4] of 4;
        4 40 Plain:  5, 1, 40_192, 56, [4 2 0 0 0], [0] of 4;
        7 80 Plain:  0, 1, 80_896, 98, [7 5 0 1 1], [0] of 8;
    },
};

// Listings of an A30 (-lgip); placements: MIG user guide, "A30 MIG Profiles".
const A30: Model = Model {
    name: "A30",
    memory: Bytes::from_mib(24_576),
    rows: rows! {
        1  6 Plain: 14, 4,  5_952, 14, [1 1 0 0 0], [0 1 2 3] of 1;
        1  6 Media: 21, 1,  5_952, 14, [1 1 0 1 1], [0 1 2 3] of 1;
        2 12 Plain:  5, 2, 11_968, 28, [2 2 0 0 0], [0 2] of 2;
        2 12 Media:  6, 1, 11_968, 28, [2 2 0 1 1], [0 2] of 2;
        4 24 Plain:  0, 1, 24_000, 56, [4 4 0 1 1], [0] of 4;
    },
};

// Listings of an HGX H100 (both).
const H100_80GB: Model = Model {
    name: "H100 80GB",
    memory: Bytes::from_mib(81_559),
    rows: rows! {
        1 10 Plain: 19, 7,  9_984,  16, [1 1 0 1 0], [0 1 2 3 4 5 6] of 1;
        1 10 Media: 20, 1,  9_984,  16, [1 1 0 1 1], [0 1 2 3 4 5 6] of 1;
        1 20 Plain: 15, 4, 20_096,  26, [1 1 0 1 0], [0 2 4 6] of 2;
        2 20 Plain: 14, 3, 20_096,  32, [2 2 0 2 0], [0 2 4] of 2;
        3 40 Plain:  9, 2, 40_448,  60, [3 3 0 3 0], [0 4] of 4;
        4 40 Plain:  5, 1, 40_448,  64, [4 4 0 4 0], [0] of 4;
        7 80 Plain:  0, 1, 81_152, 132, [8 7 0 7 1], [0] of 8;
    },
};

// NVIDIA/mig-parted#120 (-lgip); placements as on the H100.
const H200: Model = Model {
    name: "H200",
    memory: Bytes::from_mib(143_771),
    rows: rows! {
        1  18 Plain: 19, 7,  16_384,  16, [1 1 0 1 0], [0 1 2 3 4 5 6] of 1;
        1  18 Media: 20, 1,  16_384,  16, [1 1 0 1 1], [0 1 2 3 4 5 6] of 1;
        1  35 Plain: 15, 4,  33_024,  26, [1 1 0 1 0], [0 2 4 6] of 2;
        2  35 Plain: 14, 3,  33_024,  32, [2 2 0 2 0], [0 2 4] of 2;
        3  71 Plain:  9, 2,  71_168,  60, [3 3 0 3 0], [0 4] of 4;
        4  71 Plain:  5, 1,  71_168,  64, [4 4 0 4 0], [0] of 4;
        7 141 Plain:  0, 1, 143_104, 132, [8 7 0 7 1], [0] of 8;
    },
};

// NVIDIA/mig-parted#166 up to 2g.45gb. Above that, engines: MIG user guide, "B200 MIG Profiles"; memory is
// assumed to be twice and four times that of 2g.45gb, multiprocessors to be half and all of the GPU's 148.
// Placements as on the H100.
const B200: Model = Model {
    name: "B200",
    memory: Bytes::from_mib(183_359),
    rows: rows! {
        1  23 Plain: 19, 7,  22_528,  18, [ 2 1 0 1 0], [0 1 2 3 4 5 6] of 1;
        1  23 Media: 20, 1,  22_528,  18, [ 2 1 0 1 1], [0 1 2 3 4 5 6] of 1;
        1  45 Plain: 15, 4,  45_312,  30, [ 2 1 0 1 0], [0 2 4 6] of 2;
        2  45 Plain: 14, 3,  45_312,  36, [ 4 2 0 2 0], [0 2 4] of 2;
        3  90 Plain:  9, 2,  90_624,  70, [ 6 3 0 3 0], [0 4] of 4;
        4  90 Plain:  5, 1,  90_624,  74, [ 8 4 0 4 0], [0] of 4;
        7 180 Plain:  0, 1, 181_248, 148, [16 7 0 7 1], [0] of 8;
    },
};

// NVIDIA/mig-parted#227 up to 2g.47gb, and the same assumptions as for the B200, with 152 multiprocessors.
// The names above that are those of Amazon's SageMaker HyperPod for this GPU.
const GB200: Model = Model {
    name: "GB200",
    memory: Bytes::from_mib(189_471),
    rows: rows! {
        1  23 Plain: 19, 7,  22_528,  18, [ 2 1 0 1 0], [0 1 2 3 4 5 6] of 1;
        1  23 Media: 20, 1,  22_528,  18, [ 2 1 0 1 1], [0 1 2 3 4 5 6] of 1;
        1  47 Plain: 15, 4,  46_592,  32, [ 2 1 0 1 0], [0 2 4 6] of 2;
        2  47 Plain: 14, 3,  46_592,  38, [ 4 2 0 2 0], [0 2 4] of 2;
        3  93 Plain:  9, 2,  93_184,  70, [ 6 3 0 3 0], [0 4] of 4;
        4  93 Plain:  5, 1,  93_184,  76, [ 8 4 0 4 0], [0] of 4;
        7 186 Plain:  0, 1, 186_368, 152, [16 7 0 7 1], [0] of 8;
    },
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_name_of_every_profile_follows_from_its_memory() {
        for model in MODELS {
            for row in model.rows {
                let MigProfile {
                    slices,
                    compute,
                    extras,
                    ..
                } = row.profile;
                let found = MigProfile::of(slices, compute, row.memory, model.memory, extras);
                assert_eq!(found, row.profile, "{}", model.name);
            }
        }
    }

    #[test]
    fn no_two_profiles_of_a_model_have_one_name_or_one_number() {
        for model in MODELS {
            let names: BTreeSet<_> = model.rows.iter().map(|row| row.profile).collect();
            let ids: BTreeSet<_> = model.rows.iter().map(|row| row.id).collect();
            assert_eq!(
                (names.len(), ids.len()),
                (model.rows.len(), model.rows.len())
            );
        }
    }

    #[test]
    fn as_many_instances_fit_side_by_side_as_a_model_has_at_most() {
        for model in MODELS {
            for row in model.rows.iter().filter(|row| row.profile.extras == Plain) {
                let placements: Vec<_> = row.placements().collect();
                assert_eq!(
                    placements.len(),
                    usize::from(row.instances),
                    "{}",
                    model.name
                );
                let apart = |(at, one): (usize, &Placement)| {
                    placements[..at].iter().all(|other| !one.overlaps(*other))
                };
                assert!(placements.iter().enumerate().all(apart), "{}", row.profile);
            }
        }
    }

    #[test]
    fn from_hopper_on_the_mode_is_switched_at_once() {
        for (architecture, switch) in [
            (Architecture::Ampere, ModeSwitch::WithReset),
            (Architecture::Hopper, ModeSwitch::AtOnce),
            (Architecture::Blackwell, ModeSwitch::AtOnce),
            (Architecture::Unknown, ModeSwitch::WithReset),
        ] {
            assert_eq!(ModeSwitch::of(&architecture), switch);
        }
    }
}
