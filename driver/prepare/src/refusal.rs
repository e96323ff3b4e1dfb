//! Why a claim cannot be prepared.

use tessera_claim::{ClaimRef, ClaimRefusal, ClaimUid, ConfigurationRefusal};
use tessera_device::follow::Absence;
use tessera_device::mig::MigState;
use tessera_device::{DeviceName, GpuUuid};
use tessera_sharing::{Conflict, Overdrawn};
use thiserror::Error;

use crate::channel::ChannelRefusal;
use crate::reason::Reason;

/// A claim that cannot be prepared as things are.
///
/// Its text is what a person reads in the pod's event: what, which value, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The claim itself.
    #[error(transparent)]
    Claim(#[from] ClaimRefusal),
    /// A channel of a compute domain.
    #[error(transparent)]
    Channel(#[from] ChannelRefusal),
    /// A device that this node does not have.
    #[error(
        "claim {claim} was allocated device {device} of pool {pool}, which this node does not \
         have; its ResourceSlice was out of date: delete the pod to have it scheduled again"
    )]
    UnknownDevice {
        /// The claim.
        claim: ClaimRef,
        /// The pool.
        pool: String,
        /// The device.
        device: DeviceName,
    },
    /// A GPU that was offered and does not serve any more.
    #[error(
        "claim {claim} was allocated {device}, but its GPU {gpu} {absence}; it is withdrawn from \
         the ResourceSlice: delete the pod to have it scheduled again"
    )]
    GpuLost {
        /// The claim.
        claim: ClaimRef,
        /// The device.
        device: DeviceName,
        /// The GPU behind it.
        gpu: GpuUuid,
        /// What has become of the GPU.
        absence: Absence,
    },
    /// A device that the GPU had in another MIG layout.
    #[error(
        "claim {claim} was allocated {device}, but GPU {gpu} is cut another way by now: {mig}; its \
         ResourceSlice was out of date: delete the pod to have it scheduled again"
    )]
    MigLayoutChanged {
        /// The claim.
        claim: ClaimRef,
        /// The device.
        device: DeviceName,
        /// The GPU that it was a part of, or that it was.
        gpu: GpuUuid,
        /// How the GPU is cut now.
        mig: Box<MigState>,
    },
    /// A GPU that another claim holds.
    #[error(
        "claim {claim} was allocated {device}, but its GPU {gpu} is held by claim {by}; it can \
         be prepared once that claim is released"
    )]
    GpuHeld {
        /// The claim.
        claim: ClaimRef,
        /// The device.
        device: DeviceName,
        /// The GPU behind it.
        gpu: GpuUuid,
        /// Who holds it.
        by: ClaimRef,
        /// The device as which that claim holds it: of a GPU that was cut anew, another one.
        held_as: DeviceName,
    },
    /// A share for which a device has no room.
    #[error(
        "claim {claim} was allocated a share of {device}, but its GPU {gpu} has no room for it: \
         {overdrawn}"
    )]
    GpuOverdrawn {
        /// The claim.
        claim: ClaimRef,
        /// The device.
        device: DeviceName,
        /// The GPU behind it.
        gpu: GpuUuid,
        /// What is wanted, what is left, and who has the rest.
        overdrawn: Box<Overdrawn>,
        /// Everybody else who has shares of it, and the device as which they have them.
        held_by: Vec<(ClaimRef, DeviceName)>,
    },
    /// A device that the claim wants to be set otherwise than others have it.
    #[error("claim {claim} cannot have {device} (GPU {gpu}) as it wants it: {conflict}")]
    SettingConflict {
        /// The claim.
        claim: ClaimRef,
        /// The device.
        device: DeviceName,
        /// The GPU behind it.
        gpu: GpuUuid,
        /// What is wanted, and who has what.
        conflict: Box<Conflict>,
        /// Who has it otherwise, and the device as which: another claim, if it is not this one.
        held_by: Option<(ClaimRef, DeviceName)>,
    },
    /// A share that must be held to what nothing here holds it to.
    #[error("claim {claim} cannot have its share of {device} (GPU {gpu}): {refusal}")]
    ShareNotHeld {
        /// The claim.
        claim: ClaimRef,
        /// The device.
        device: DeviceName,
        /// The GPU behind it.
        gpu: GpuUuid,
        /// What it asks for and what there is.
        refusal: tessera_sharing::Refusal,
    },
    /// A GPU whose former claim has been let go, but not been unprepared in time.
    #[error(
        "claim {claim} was allocated {device}, but its GPU {gpu} is still being released by \
         claim {by}, whose pod has not ended yet; the kubelet will call again"
    )]
    GpuBeingReleased {
        /// The claim.
        claim: ClaimRef,
        /// The device.
        device: DeviceName,
        /// The GPU behind it.
        gpu: GpuUuid,
        /// Who is releasing it.
        by: ClaimRef,
    },
    /// A GPU on which something was left that this driver cannot take back.
    #[error(
        "claim {claim} was allocated {device}, but its GPU {gpu} still has what another driver \
         made on it for claim UID {by}: {what}; reboot the node, or take it back as \
         docs/migration.md says"
    )]
    Unclean {
        /// The claim.
        claim: ClaimRef,
        /// The device.
        device: DeviceName,
        /// The GPU behind it.
        gpu: GpuUuid,
        /// For which claim it was made.
        by: ClaimUid,
        /// What it is.
        what: String,
    },
    /// A record that cannot be read might hold any GPU.
    #[error(
        "claim {claim} is not given GPU {gpu}, because the record of claim UID {record} cannot \
         be read and may hold it: {problem}; that passes once that claim's pod has ended"
    )]
    Unaccounted {
        /// The claim.
        claim: ClaimRef,
        /// The GPU that was wanted.
        gpu: GpuUuid,
        /// Whose record it is.
        record: ClaimUid,
        /// What is wrong with the record.
        problem: String,
    },
}

impl Refusal {
    /// The machine-readable reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Claim(ClaimRefusal::Replaced { .. }) => Reason::ClaimReplaced,
            Self::Claim(ClaimRefusal::NotAllocated { .. }) => Reason::ClaimNotAllocated,
            Self::Claim(ClaimRefusal::NoDevice { .. }) => Reason::ClaimWithoutDevice,
            Self::Claim(ClaimRefusal::BadDevice { .. }) => Reason::ImpossibleDevice,
            Self::Claim(ClaimRefusal::BadShare { .. }) => Reason::ImpossibleShare,
            Self::Claim(ClaimRefusal::Configuration { refusal, .. }) => configuration(refusal),
            Self::Channel(refusal) => refusal.reason(),
            Self::UnknownDevice { .. } => Reason::UnknownDevice,
            Self::GpuLost { .. } => Reason::GpuLost,
            Self::MigLayoutChanged { .. } => Reason::MigLayoutChanged,
            Self::GpuHeld { .. } => Reason::GpuHeld,
            Self::GpuOverdrawn { .. } => Reason::GpuOverdrawn,
            Self::SettingConflict { .. } => Reason::SettingConflict,
            Self::ShareNotHeld { .. } => Reason::ShareNotHeld,
            Self::GpuBeingReleased { .. } => Reason::GpuBeingReleased,
            Self::Unclean { .. } => Reason::GpuUnclean,
            Self::Unaccounted { .. } => Reason::GpuUnaccounted,
        }
    }
}

fn configuration(refusal: &ConfigurationRefusal) -> Reason {
    match refusal {
        ConfigurationRefusal::Unsupported { .. } => Reason::UnsupportedConfiguration,
        ConfigurationRefusal::Invalid { .. } | ConfigurationRefusal::NoKinds { .. } => {
            Reason::InvalidConfiguration
        }
        ConfigurationRefusal::Mismatched { .. } => Reason::MismatchedConfiguration,
    }
}
