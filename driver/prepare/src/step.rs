//! The things that preparing a claim does to a node, as data.
//!
//! A [`Step`] is something to do. Its [`Effect`] is what the journal keeps of it, before it is
//! done: enough to undo it after a crash, whether it had happened or not. A feature that touches
//! something new adds a variant to both; the loop that runs them stays as it is.

use serde::{Deserialize, Serialize};
use tessera_api::Interval;
use tessera_device::GpuUuid;
use tessera_device::mig::{MigInstance, MigMode};

pub use crate::mig_device::{MigDevice, MigIdentity};

/// One thing to do on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write a CDI spec, replacing what is there.
    WriteCdi {
        /// File name within the CDI directory.
        file: String,
        /// The bytes.
        contents: Vec<u8>,
    },
    /// Remove a CDI spec. It may be gone already.
    RemoveCdi {
        /// File name within the CDI directory.
        file: String,
    },
    /// Put a GPU into this MIG mode. Nobody uses it.
    SwitchMigMode {
        /// The GPU.
        gpu: GpuUuid,
        /// The mode.
        mode: MigMode,
    },
    /// Make a MIG device on a GPU in MIG mode.
    CreateMig(MigDevice),
    /// Destroy a MIG device, or what there is of it. It may be gone already.
    DestroyMig(MigDevice),
    /// Set the time slice of a GPU, and let any number of programs use it.
    SetTimeSlice {
        /// The GPU.
        gpu: GpuUuid,
        /// How long the slice is.
        interval: Interval,
    },
    /// Set the time slice of a GPU back to the NVIDIA driver's own. The GPU may be gone.
    ResetTimeSlice {
        /// The GPU.
        gpu: GpuUuid,
        /// Whether it is certain that it was set. If not, it may be one that cannot be set.
        was_set: bool,
    },
}

/// What came of a step that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// What the step says.
    AsPlanned,
    /// A MIG device, which has an identity from now on.
    Created(MigInstance),
}

/// What a step leaves on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Effect {
    /// A CDI spec.
    CdiFile {
        /// File name within the CDI directory.
        file: String,
        /// CRC-32 of its bytes, by which an altered file is noticed.
        crc32: u32,
    },
    /// A MIG device that was made for the claim. It is recorded without an identity before it is made,
    /// and with it at once after that.
    MigDevice(MigDevice),
    /// Something that another driver did for the claim before this one took the node over, and that
    /// this one cannot take back.
    Foreign {
        /// What it is, as users are told.
        what: String,
    },
}

impl Step {
    /// What the step leaves, if it leaves anything.
    pub fn effect(&self) -> Option<Effect> {
        match self {
            Self::WriteCdi { file, contents } => Some(Effect::CdiFile {
                file: file.clone(),
                crc32: crc32fast::hash(contents),
            }),
            Self::CreateMig(device) => Some(Effect::MigDevice(device.clone())),
            // The mode of a GPU that nobody uses is nobody's: whoever needs another switches it. The time
            // slice is that of all who want it, and stands with the device of each.
            Self::RemoveCdi { .. }
            | Self::SwitchMigMode { .. }
            | Self::DestroyMig(_)
            | Self::SetTimeSlice { .. }
            | Self::ResetTimeSlice { .. } => None,
        }
    }
}

impl Effect {
    /// The step that takes it back, if there is one. It succeeds where there is nothing to take back.
    pub fn undo(&self) -> Option<Step> {
        match self {
            Self::CdiFile { file, .. } => Some(Step::RemoveCdi { file: file.clone() }),
            Self::MigDevice(device) => Some(Step::DestroyMig(device.clone())),
            Self::Foreign { .. } => None,
        }
    }
}

/// The steps that take `effects` back, last one first.
pub fn undo_all(effects: &[Effect]) -> Vec<Step> {
    effects.iter().rev().filter_map(Effect::undo).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_leaves_is_taken_back_by_its_undo_and_the_undo_leaves_nothing() {
        let step = Step::WriteCdi {
            file: "a.json".to_owned(),
            contents: b"{}".to_vec(),
        };
        let effect = step.effect().unwrap();
        let undo = effect.undo().unwrap();
        assert_eq!(
            undo,
            Step::RemoveCdi {
                file: "a.json".to_owned()
            }
        );
        assert_eq!(undo.effect(), None);
    }

    #[test]
    fn effects_are_taken_back_in_reverse() {
        let effect = |file: &str| Effect::CdiFile {
            file: file.to_owned(),
            crc32: 0,
        };
        let undo = undo_all(&[effect("first"), effect("second")]);
        assert_eq!(
            undo,
            [
                Step::RemoveCdi {
                    file: "second".to_owned()
                },
                Step::RemoveCdi {
                    file: "first".to_owned()
                },
            ]
        );
    }
}
