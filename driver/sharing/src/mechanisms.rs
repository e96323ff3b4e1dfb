//! What a device has to hold shares with, from what was found on its node.

use std::fmt;

use tessera_api::{ComputeMode, OWN_GROUP};

use crate::tier::{
    Attribute, DYNAMIC_MEMORY, MEMORY_ENFORCEMENT, SWAP_MECHANISM, SwapMechanism, Tier,
};

/// What asking the node's libraries and kernel has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Whether the driver takes memory limits (`nvmlDeviceSetMemoryLimits_v1`).
    pub native_limits: bool,
    /// Which cgroups containers are in.
    pub cgroup: CgroupVersion,
    /// Whether an MPS daemon can be run.
    pub mps: bool,
    /// Whether a library of ours can take the place of `libcuda` in containers.
    pub shim: bool,
    /// What can swap.
    pub swap: SwapMechanism,
    /// How fast it brings memory back, in MiB per second, if that was measured.
    pub restore_mib_per_second: Option<u64>,
}

/// The version of the kernel's cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVersion {
    /// The former.
    V1,
    /// The unified one.
    V2,
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
    /// Nobody asks it to.
    Unused,
}

impl fmt::Display for NoNative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Driver => "its driver takes no memory limits, which R615 and later do",
            Self::CgroupV1 => "its containers are in cgroups of version 1",
            Self::Unused => "this version sets no limits yet",
            Self::Mig => "the driver takes no memory limits for MIG devices",
        })
    }
}

/// What one device has to hold shares with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mechanisms {
    native: Result<(), NoNative>,
    mps: bool,
    shim: bool,
    swap: SwapMechanism,
    restore_mib_per_second: Option<u64>,
}

impl Mechanisms {
    /// Those of every device, as long as nothing in this version holds shares.
    pub const NONE: Self = Self {
        native: Err(NoNative::Unused),
        mps: false,
        shim: false,
        swap: SwapMechanism::None,
        restore_mib_per_second: None,
    };

    /// Those of a device of this form.
    pub fn of(facts: &NodeFacts, form: Form) -> Self {
        let native = match (facts.native_limits, facts.cgroup, form) {
            (false, _, _) => Err(NoNative::Driver),
            (true, _, Form::Mig) => Err(NoNative::Mig),
            (true, CgroupVersion::V1, Form::Whole) => Err(NoNative::CgroupV1),
            (true, CgroupVersion::V2, Form::Whole) => Ok(()),
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
        let dynamic = self.tiers().any(Tier::is_dynamic);
        [
            (
                MEMORY_ENFORCEMENT,
                Attribute::Text(self.strongest().as_str()),
            ),
            (DYNAMIC_MEMORY, Attribute::Flag(dynamic)),
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
            cgroup: CgroupVersion::V1,
            ..new
        };
        for (facts, form, missing) in [
            (new, Form::Whole, None),
            (new, Form::Mig, Some(NoNative::Mig)),
            (old, Form::Whole, Some(NoNative::CgroupV1)),
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
            ..bare()
        };
        let mps = NodeFacts {
            mps: true,
            ..bare()
        };
        for (facts, form, tier, dynamic, swap) in [
            (everything(), Form::Whole, "native", true, "checkpoint"),
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
