//! What holds a share to its memory, what can swap it out, and the names under which a device says so.

use std::fmt;

/// What keeps a share within its memory, from the weakest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Nothing does. The scheduler counts, and that is all.
    #[default]
    None,
    /// A library in the tenant's process. Who is hostile gets around it.
    Shim,
    /// An MPS server. It limits each process, not the share as a whole.
    Mps,
    /// The kernel's driver, per cgroup (NVIDIA driver R615 and later).
    Native,
}

impl Tier {
    /// All of them that hold, the strongest first.
    pub const STRONGEST_FIRST: [Self; 3] = [Self::Native, Self::Mps, Self::Shim];

    /// The value of the attribute [`MEMORY_ENFORCEMENT`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Shim => "shim",
            Self::Mps => "mps",
            Self::Native => "native",
        }
    }

    /// Whether a limit can change while the share is in use. The limit of an MPS client can only be
    /// lowered, and by the client.
    pub fn is_dynamic(self) -> bool {
        match self {
            Self::Native | Self::Shim => true,
            Self::Mps | Self::None => false,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What can take a share's memory out of the GPU and bring it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SwapMechanism {
    /// Nothing.
    #[default]
    None,
    /// The driver's checkpoint of a process, into host memory of the process (`cuCheckpointProcess…`).
    Checkpoint,
    /// The same into memory of the node's agent (CUDA 13.4 and later).
    CheckpointCustom,
    /// The library in the process, for the memory that it allocated itself.
    Cooperative,
}

impl SwapMechanism {
    /// The value of the attribute [`SWAP_MECHANISM`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Checkpoint => "checkpoint",
            Self::CheckpointCustom => "checkpointCustom",
            Self::Cooperative => "cooperative",
        }
    }
}

/// Name of the attribute that says what holds shares: the strongest [`Tier`] of the device.
///
/// It stands in our own group's domain, as the others here do.
pub const MEMORY_ENFORCEMENT: &str = "memoryEnforcement";

/// Name of the attribute that says whether shares can grow above their guarantee.
pub const DYNAMIC_MEMORY: &str = "dynamicMemory";

/// Name of the attribute that says what can swap shares out.
pub const SWAP_MECHANISM: &str = "swapMechanism";

/// The value of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// `string`
    Text(&'static str),
    /// `bool`
    Flag(bool),
}

#[cfg(test)]
mod tests {
    use tessera_api::OWN_GROUP;

    use super::*;

    /// `resource.k8s.io` wants a DNS subdomain of at most 63 characters and a C identifier of at most 32
    /// (`validateQualifiedName` of its validation).
    #[test]
    fn names_of_attributes_are_what_the_api_takes() {
        for name in [MEMORY_ENFORCEMENT, DYNAMIC_MEMORY, SWAP_MECHANISM] {
            let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            assert!(letters && name.len() <= 32, "{name}");
            assert!(!name.as_bytes()[0].is_ascii_digit(), "{name}");
        }
        assert!(OWN_GROUP.len() <= 63);
    }

    #[test]
    fn a_stronger_tier_is_greater() {
        assert!(Tier::STRONGEST_FIRST.is_sorted_by(|a, b| a > b));
        assert!(Tier::STRONGEST_FIRST.iter().all(|tier| *tier > Tier::None));
    }
}
