//! What a device has to hold shares with, from what was found on its node.

use std::fmt;

use tessera_api::{ComputeMode, OWN_GROUP};
use tessera_device::{DriverFacts, MemoryLimiting};

use crate::consumable::ConsumableShares;
use crate::tier::{
    Attribute, DYNAMIC_MEMORY, MEMORY_ENFORCEMENT, SWAP_MECHANISM, SwapMechanism, Tier,
};

/// What asking the node's libraries and kernel has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Whether the driver can hold containers to limits.
    pub native: MemoryLimiting,
    /// How devices can be shared.
    pub sharing: ConsumableShares,
    /// Whether somebody moves the limits of shares that are in use.
    pub moves_limits: bool,
    /// Whether an MPS daemon can be run.
    pub mps: bool,
    /// Whether a library of ours can take the place of `libcuda` in containers.
    pub shim: bool,
    /// What can swap.
    pub swap: SwapMechanism,
    /// How fast it brings memory back, in MiB per second, if that was measured.
    pub restore_mib_per_second: Option<u64>,
}

impl NodeFacts {
    /// What this version makes use of: the driver's limits, set when a container starts, and moved while it runs
    /// where somebody does.
    pub fn of(driver: &DriverFacts, sharing: ConsumableShares) -> Self {
        Self {
            native: driver.memory_limiting,
            sharing,
            moves_limits: driver.memory_limiting == MemoryLimiting::Moved,
            mps: false,
            shim: false,
            swap: SwapMechanism::None,
            restore_mib_per_second: None,
        }
    }
}

/// What part of the hardware a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A whole GPU.
    Whole,
    /// A MIG device.
    Mig,
}

/// Why the kernel's driver does not hold the shares of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoNative {
    /// The driver cannot.
    Driver,
    /// It counts by cgroups of version 2 only.
    CgroupV1,
    /// It takes no limits for MIG devices.
    Mig,
    /// A claim may have a share without asking for memory, and there is no limit for such a share.
    Uncounted,
}

impl fmt::Display for NoNative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Driver => "its driver takes no memory limits, which R615 and later do",
            Self::CgroupV1 => "its containers are in cgroups of version 1",
            Self::Uncounted => {
                "consumableShares is not memory, so that a share beside it may have no limit"
            }
            Self::Mig => "the driver takes no memory limits for MIG devices",
        })
    }
}

/// What one device has to hold shares with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mechanisms {
    native: Result<(), NoNative>,
    moves_limits: bool,
    mps: bool,
    shim: bool,
    swap: SwapMechanism,
    restore_mib_per_second: Option<u64>,
}

impl Mechanisms {
    /// Those of a device of this form.
    pub fn of(facts: &NodeFacts, form: Form) -> Self {
        let native = match (facts.native, form, facts.sharing) {
            (MemoryLimiting::NoCall, _, _) => Err(NoNative::Driver),
            (_, Form::Mig, _) => Err(NoNative::Mig),
            (MemoryLimiting::CgroupV1, Form::Whole, _) => Err(NoNative::CgroupV1),
            (_, _, ConsumableShares::Unlimited | ConsumableShares::Number(_)) => {
                Err(NoNative::Uncounted)
            }
            (MemoryLimiting::PerCgroup | MemoryLimiting::Moved, Form::Whole, _) => Ok(()),
        };
        // The driver refuses to checkpoint processes on MIG devices.
        let swap = match (facts.swap, form) {
            (SwapMechanism::Checkpoint | SwapMechanism::CheckpointCustom, Form::Mig) => {
                SwapMechanism::None
            }
            (SwapMechanism::Cooperative, _) if !facts.shim => SwapMechanism::None,
            (swap, _) => swap,
        };
        Self {
            native,
            moves_limits: facts.moves_limits,
            mps: facts.mps,
            shim: facts.shim,
            swap,
            restore_mib_per_second: facts.restore_mib_per_second,
        }
    }

    /// Whether the device has this tier.
    pub fn has(&self, tier: Tier) -> bool {
        match tier {
            Tier::Native => self.native.is_ok(),
            Tier::Mps => self.mps,
            Tier::Shim => self.shim,
            Tier::None => true,
        }
    }

    /// Whether the shares of the device can take turns in this way.
    pub fn can(&self, mode: ComputeMode) -> bool {
        match mode {
            ComputeMode::TimeSlicing => true,
            ComputeMode::TimeWindows => self.shim,
            ComputeMode::Mps => self.mps,
        }
    }

    /// The tiers that it has, the strongest first.
    pub fn tiers(&self) -> impl Iterator<Item = Tier> {
        let all = Tier::STRONGEST_FIRST.into_iter();
        all.filter(|tier| self.has(*tier))
    }

    /// Whether the limit of a share that this holds can change while the share is in use.
    pub fn moves(&self, tier: Tier) -> bool {
        self.moves_limits && tier.is_dynamic()
    }

    /// Whether its shares can grow above their guarantee.
    pub fn grows(&self) -> bool {
        self.tiers().any(|tier| self.moves(tier))
    }

    /// The strongest.
    pub fn strongest(&self) -> Tier {
        self.tiers().next().unwrap_or_default()
    }

    /// Why the strongest is not the kernel's driver, if it is not.
    pub fn no_native(&self) -> Option<NoNative> {
        self.native.err()
    }

    /// What can swap.
    pub fn swap(&self) -> SwapMechanism {
        self.swap
    }

    /// Seconds that it takes to bring back so many MiB, rounded up, if the speed was measured.
    pub fn restore_seconds(&self, mib: u64) -> Option<u64> {
        let speed = self.restore_mib_per_second.filter(|speed| *speed > 0)?;
        Some(mib.div_ceil(speed))
    }

    /// The attributes by which a claim can select the device. Their names stand in the domain
    /// [`OWN_GROUP`].
    pub fn attributes(&self) -> [(&'static str, Attribute); 3] {
        [
            (
                MEMORY_ENFORCEMENT,
                Attribute::Text(self.strongest().as_str()),
            ),
            (DYNAMIC_MEMORY, Attribute::Flag(self.grows())),
            (SWAP_MECHANISM, Attribute::Text(self.swap.as_str())),
        ]
    }

    /// The domain of the attributes' names.
    pub const DOMAIN: &'static str = OWN_GROUP;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bare, everything};

    #[test]
    fn the_driver_holds_shares_of_whole_gpus_on_cgroups_of_version_2() {
        let new = everything();
        let old = NodeFacts {
            native: MemoryLimiting::CgroupV1,
            ..new
        };
        let uncounted = NodeFacts {
            sharing: ConsumableShares::Unlimited,
            ..new
        };
        for (facts, form, missing) in [
            (new, Form::Whole, None),
            (new, Form::Mig, Some(NoNative::Mig)),
            (old, Form::Whole, Some(NoNative::CgroupV1)),
            (uncounted, Form::Whole, Some(NoNative::Uncounted)),
            (bare(), Form::Whole, Some(NoNative::Driver)),
        ] {
            let mechanisms = Mechanisms::of(&facts, form);
            assert_eq!(mechanisms.no_native(), missing, "{facts:?} {form:?}");
            assert_eq!(mechanisms.has(Tier::Native), missing.is_none());
        }
    }

    #[test]
    fn attributes_say_what_the_device_has() {
        let shim = NodeFacts {
            shim: true,
            moves_limits: true,
            ..bare()
        };
        let unmoved = NodeFacts {
            moves_limits: false,
            ..everything()
        };
        let mps = NodeFacts {
            mps: true,
            ..bare()
        };
        for (facts, form, tier, dynamic, swap) in [
            (everything(), Form::Whole, "native", true, "checkpoint"),
            (unmoved, Form::Whole, "native", false, "checkpoint"),
            (everything(), Form::Mig, "mps", true, "none"),
            (mps, Form::Whole, "mps", false, "none"),
            (shim, Form::Whole, "shim", true, "none"),
            (bare(), Form::Whole, "none", false, "none"),
        ] {
            let expected = [
                ("memoryEnforcement", Attribute::Text(tier)),
                ("dynamicMemory", Attribute::Flag(dynamic)),
                ("swapMechanism", Attribute::Text(swap)),
            ];
            let mechanisms = Mechanisms::of(&facts, form);
            assert_eq!(mechanisms.attributes(), expected, "{facts:?} {form:?}");
        }
    }

    #[test]
    fn what_needs_the_library_in_the_process_is_not_there_without_it() {
        let facts = NodeFacts {
            swap: SwapMechanism::Cooperative,
            ..bare()
        };
        let without = Mechanisms::of(&facts, Form::Whole);
        assert_eq!(without.swap(), SwapMechanism::None);
        assert!(!without.can(ComputeMode::TimeWindows));
        let facts = NodeFacts {
            shim: true,
            ..facts
        };
        let with = Mechanisms::of(&facts, Form::Mig);
        assert_eq!(with.swap(), SwapMechanism::Cooperative);
        assert!(with.can(ComputeMode::TimeWindows) && !with.can(ComputeMode::Mps));
    }
}
