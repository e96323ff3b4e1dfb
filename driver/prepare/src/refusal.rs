//! Why a claim cannot be prepared.

use std::fmt;

use tessera_claim::{ClaimRef, ClaimRefusal, ClaimUid};
use tessera_device::follow::Absence;
use tessera_device::{DeviceName, GpuUuid};
use thiserror::Error;

/// A claim that cannot be prepared as things are.
///
/// Its text is what a person reads in the pod's event: what, which value, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The claim itself.
    #[error(transparent)]
    Claim(#[from] ClaimRefusal),
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
    /// A record that cannot be read might hold any GPU.
    #[error(
        "claim {claim} is not given GPU {gpu}, because the record of claim UID {record} cannot \
         be read and may hold it: {problem}"
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

/// Declares the reasons, so that none can be missing in [`Reason::ALL`].
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The machine-readable name of a refusal: event reason, condition reason, metric label.
        ///
        /// `docs/refusals.md` lists each with its meaning and remedy.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The name, in the CamelCase of Kubernetes' reasons.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

reasons! {
    /// The claim's name belongs to another claim now.
    ClaimReplaced,
    /// The claim has no allocation.
    ClaimNotAllocated,
    /// The claim allocates no device of this driver.
    ClaimWithoutDevice,
    /// The claim names a device that cannot exist.
    ImpossibleDevice,
    /// The claim carries a configuration that is not supported.
    UnsupportedConfiguration,
    /// The node does not have the device.
    UnknownDevice,
    /// The GPU has fallen off the bus, is being reset or does not answer.
    GpuLost,
    /// Another claim holds the GPU.
    GpuHeld,
    /// Another claim is releasing the GPU and has not done so in time.
    GpuBeingReleased,
    /// It is not known who holds the GPU.
    GpuUnaccounted,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Refusal {
    /// The machine-readable reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Claim(ClaimRefusal::Replaced { .. }) => Reason::ClaimReplaced,
            Self::Claim(ClaimRefusal::NotAllocated { .. }) => Reason::ClaimNotAllocated,
            Self::Claim(ClaimRefusal::NoDevice { .. }) => Reason::ClaimWithoutDevice,
            Self::Claim(ClaimRefusal::BadDevice { .. }) => Reason::ImpossibleDevice,
            Self::Claim(ClaimRefusal::UnsupportedConfiguration { .. }) => {
                Reason::UnsupportedConfiguration
            }
            Self::UnknownDevice { .. } => Reason::UnknownDevice,
            Self::GpuLost { .. } => Reason::GpuLost,
            Self::GpuHeld { .. } => Reason::GpuHeld,
            Self::GpuBeingReleased { .. } => Reason::GpuBeingReleased,
            Self::Unaccounted { .. } => Reason::GpuUnaccounted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_docs_explain_every_reason_and_no_other() {
        let docs = include_str!("../../../docs/refusals.md");
        let explained: Vec<&str> = docs
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let all: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(explained, all);
    }
}
