//! Memory limits of cgroups, as drivers from R615 on take and keep them.
//!
//! The rules are those of NVIDIA's page "MPS v3 Memory Partitioning" (for release 615) and of `nvml.h` of
//! CUDA 13.4. Nobody here has tried them on hardware; where both leave something open, the comment says what
//! is assumed. Which cgroups have files of the controller `dmem` is read from the file system by whoever asks,
//! as the real library does.

use serde::{Deserialize, Serialize};

use crate::{
    mig::Refusal,
    state::{Gpu, Node, Presence},
};

const MIB: u64 = 1 << 20;

/// The first branch of the driver that takes limits.
const FIRST_BRANCH: u32 = 615;

/// A hard limit that is none (`NVML_DEVICE_MEMORY_LIMIT_MAX`).
pub const UNLIMITED: u64 = u64::MAX;

/// Who keeps count. A real driver chooses when it is loaded: the kernel where it has the controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accounting {
    /// The driver by itself, on kernels without the controller `dmem` (before 6.14). Limits do not nest: what
    /// counts is the nearest cgroup upwards that has one.
    #[default]
    Misc,
    /// The kernel's controller `dmem`. A charge must fit into every cgroup upwards.
    Dmem,
}

/// A cgroup that the driver knows something of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cgroup {
    /// Its directory, as callers name it.
    pub path: String,
    /// Bytes that are reserved for it: what was set, and on ancestors what was set below.
    pub soft: u64,
    /// The most bytes that it may have.
    pub hard: u64,
    /// Bytes that its own processes have, without those of cgroups below it.
    pub charged: u64,
}

/// What a call says of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that are reserved.
    pub soft: u64,
    /// The most bytes.
    pub hard: u64,
    /// Bytes that it and those below it have.
    pub used: u64,
}

/// New limits of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewLimits {
    /// Its directory.
    pub cgroup: String,
    /// The directories above it that have files of `dmem`, up to the first that has none. Nothing without the
    /// controller.
    pub above: Vec<String>,
    /// Bytes to reserve.
    pub soft: u64,
    /// The most bytes.
    pub hard: u64,
}

/// There was no room for an allocation (`CUDA_ERROR_OUT_OF_MEMORY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl Node {
    /// Whether the installed driver has the calls.
    pub fn takes_memory_limits(&self) -> bool {
        let branch = self.driver.version.split('.').next();
        let branch = branch.and_then(|branch| branch.parse::<u32>().ok());
        branch.is_some_and(|branch| branch >= FIRST_BRANCH)
    }

    /// Sets limits on the GPU with this UUID (`nvmlDeviceSetMemoryLimits_v1`).
    pub fn set_memory_limits(&mut self, gpu: &str, new: &NewLimits) -> Result<(), Refusal> {
        let mut gpus = self.gpus.iter_mut();
        let found = gpus.find(|other| other.facts.uuid == gpu);
        found
            .ok_or(Refusal::InvalidArgument)?
            .set_memory_limits(new)
    }
}

impl Gpu {
    /// Sets limits (`nvmlDeviceSetMemoryLimits_v1`).
    ///
    /// A hard limit below what the cgroup has is refused, and so is a reservation above the hard limit. That the
    /// refusal is `NVML_ERROR_INVALID_ARGUMENT` is assumed: no page names the code.
    pub fn set_memory_limits(&mut self, new: &NewLimits) -> Result<(), Refusal> {
        if self.condition.presence != Presence::Present {
            return Err(Refusal::GpuIsLost);
        }
        if self.condition.mig.enabled {
            return Err(Refusal::NotSupported);
        }
        if new.soft > new.hard || new.hard < self.charged_below(&new.cgroup) {
            return Err(Refusal::InvalidArgument);
        }
        let cgroup = self.cgroup_mut(&new.cgroup);
        let before = cgroup.soft;
        (cgroup.soft, cgroup.hard) = (new.soft, new.hard);
        // The reservation of an ancestor is the sum of those below it.
        for path in &new.above {
            let above = self.cgroup_mut(path);
            above.soft = above.soft.saturating_add(new.soft).saturating_sub(before);
        }
        self.forget_unlimited();
        Ok(())
    }

    /// The limits of a cgroup. One of which nothing is known has none.
    pub fn memory_limits(&self, path: &str) -> Limits {
        let known = self.condition.cgroups.iter().find(|own| own.path == path);
        Limits {
            soft: known.map_or(0, |own| own.soft),
            hard: known.map_or(UNLIMITED, |own| own.hard),
            used: self.charged_below(path),
        }
    }

    /// The nearest cgroup upwards from `path`, itself first, that has a hard limit.
    pub fn nearest_limited(&self, path: &str) -> Option<&Cgroup> {
        upwards(path).find_map(|path| {
            let mut all = self.condition.cgroups.iter();
            all.find(|own| own.path == path && own.hard != UNLIMITED)
        })
    }

    /// A process in a cgroup takes so many bytes.
    pub fn allocate(
        &mut self,
        path: &str,
        bytes: u64,
        accounting: Accounting,
    ) -> Result<(), OutOfMemory> {
        let room = self.room();
        let fits = |limited: &Cgroup| {
            let used = self.charged_below(&limited.path);
            used.saturating_add(bytes) <= limited.hard
        };
        let limits_hold = match accounting {
            Accounting::Misc => self.nearest_limited(path).is_none_or(fits),
            Accounting::Dmem => upwards(path)
                .filter_map(|path| self.condition.cgroups.iter().find(|own| own.path == path))
                .all(fits),
        };
        if bytes > room || !limits_hold {
            return Err(OutOfMemory);
        }
        self.cgroup_mut(path).charged += bytes;
        Ok(())
    }

    /// A process in a cgroup gives back so many bytes, or ends with them.
    pub fn free(&mut self, path: &str, bytes: u64) {
        let own = self.cgroup_mut(path);
        own.charged = own.charged.saturating_sub(bytes);
        self.forget_unlimited();
    }

    /// The directory of a cgroup is removed, which the driver does not see: its limits are gone, and what was
    /// reserved for it stays reserved above it.
    pub fn remove_cgroup(&mut self, path: &str) {
        self.condition.cgroups.retain(|own| own.path != path);
    }

    /// Bytes that programs have, those of no cgroup included.
    pub fn memory_used(&self) -> u64 {
        let charged = self.condition.cgroups.iter().map(|own| own.charged);
        let loose = self.condition.memory_used_mib.saturating_mul(MIB);
        charged.fold(loose, u64::saturating_add)
    }

    /// Bytes that nobody has.
    fn room(&self) -> u64 {
        let total = self
            .facts
            .memory_total_mib
            .saturating_sub(self.facts.memory_reserved_mib);
        total.saturating_mul(MIB).saturating_sub(self.memory_used())
    }

    fn charged_below(&self, path: &str) -> u64 {
        let below = |own: &&Cgroup| upwards(&own.path).any(|above| above == path);
        let all = self.condition.cgroups.iter().filter(below);
        all.map(|own| own.charged).fold(0, u64::saturating_add)
    }

    fn cgroup_mut(&mut self, path: &str) -> &mut Cgroup {
        let all = &mut self.condition.cgroups;
        let known = all.iter().position(|own| own.path == path);
        let at = known.unwrap_or(all.len());
        if known.is_none() {
            all.push(Cgroup {
                path: path.to_owned(),
                soft: 0,
                hard: UNLIMITED,
                charged: 0,
            });
        }
        &mut all[at]
    }

    /// Keeps the state as small as what there is to know.
    fn forget_unlimited(&mut self) {
        let is_known = |own: &Cgroup| own.soft > 0 || own.hard != UNLIMITED || own.charged > 0;
        self.condition.cgroups.retain(is_known);
    }
}

/// A path and those above it.
fn upwards(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| {
        let (above, _) = path.rsplit_once('/')?;
        (!above.is_empty()).then_some(above)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::profile::Profile;

    const POD: &str = "/sys/fs/cgroup/pod";
    const LEAF: &str = "/sys/fs/cgroup/pod/leaf";
    const OTHER: &str = "/sys/fs/cgroup/pod/other";
    const GIB: u64 = 1 << 30;

    fn gpu() -> Gpu {
        let mut node = Profile::load("h200").unwrap().instantiate("node-1");
        node.gpus.swap_remove(0)
    }

    fn set(gpu: &mut Gpu, cgroup: &str, soft: u64, hard: u64) -> Result<(), Refusal> {
        gpu.set_memory_limits(&NewLimits {
            cgroup: cgroup.to_owned(),
            above: Vec::new(),
            soft,
            hard,
        })
    }

    #[test]
    fn drivers_from_r615_on_take_limits() {
        for (version, takes) in [
            ("580.95.05", false),
            ("610.10", false),
            ("615.71.09", true),
            ("700.1", true),
            ("odd", false),
        ] {
            let mut node = Profile::load("h200").unwrap().instantiate("node-1");
            node.driver.version = version.to_owned();
            assert_eq!(node.takes_memory_limits(), takes, "{version}");
        }
    }

    #[test]
    fn an_allocation_above_the_hard_limit_fails_and_one_at_it_does_not() {
        let mut gpu = gpu();
        set(&mut gpu, LEAF, 0, 5 * GIB).unwrap();
        let accounting = Accounting::Misc;
        gpu.allocate(LEAF, 5 * GIB, accounting).unwrap();
        assert_eq!(gpu.allocate(LEAF, 1, accounting), Err(OutOfMemory));
        gpu.allocate(OTHER, 100 * GIB, accounting).unwrap();
        gpu.free(LEAF, GIB);
        gpu.allocate(LEAF, GIB, accounting).unwrap();
        assert_eq!(gpu.memory_limits(LEAF).used, 5 * GIB);
        assert_eq!(gpu.memory_used(), 105 * GIB);
    }

    #[test]
    fn nobody_has_more_than_the_card_whatever_the_limits_say() {
        let mut gpu = gpu();
        let all = gpu.room();
        let accounting = Accounting::Misc;
        gpu.allocate(LEAF, all, accounting).unwrap();
        assert_eq!(gpu.allocate(OTHER, 1, accounting), Err(OutOfMemory));
    }

    #[test]
    fn limits_nest_where_the_kernel_counts_and_do_not_where_the_driver_does() {
        for (accounting, outcome) in [
            (Accounting::Dmem, Err(OutOfMemory)),
            (Accounting::Misc, Ok(())),
        ] {
            let mut gpu = gpu();
            set(&mut gpu, POD, 0, 4 * GIB).unwrap();
            set(&mut gpu, LEAF, 0, 8 * GIB).unwrap();
            let got = gpu.allocate(LEAF, 6 * GIB, accounting);
            assert_eq!(got, outcome, "{accounting:?}");
            // A leaf without a limit of its own is bound by the pod's either way.
            assert_eq!(
                gpu.allocate(OTHER, 5 * GIB, accounting),
                Err(OutOfMemory),
                "{accounting:?}"
            );
        }
    }

    #[test]
    fn a_limit_below_the_use_a_reservation_above_it_a_cut_and_a_lost_gpu_are_refused() {
        let mut gpu = gpu();
        gpu.allocate(LEAF, 2 * GIB, Accounting::Misc).unwrap();
        let refused = Err(Refusal::InvalidArgument);
        assert_eq!(set(&mut gpu, LEAF, 0, GIB), refused);
        assert_eq!(set(&mut gpu, LEAF, 4 * GIB, 3 * GIB), refused);
        set(&mut gpu, LEAF, 0, 2 * GIB).unwrap();
        gpu.condition.presence = Presence::Lost;
        assert_eq!(set(&mut gpu, LEAF, 0, UNLIMITED), Err(Refusal::GpuIsLost));
        gpu.condition.presence = Presence::Present;
        gpu.condition.mig.enabled = true;
        let refused = Err(Refusal::NotSupported);
        assert_eq!(set(&mut gpu, LEAF, 0, UNLIMITED), refused);
    }

    #[test]
    fn a_reservation_is_summed_above_and_stays_there_if_its_cgroup_is_removed_first() {
        let mut gpu = gpu();
        let reserve = |gpu: &mut Gpu, leaf: &str, soft| {
            gpu.set_memory_limits(&NewLimits {
                cgroup: leaf.to_owned(),
                above: vec![POD.to_owned()],
                soft,
                hard: UNLIMITED,
            })
            .unwrap();
        };
        reserve(&mut gpu, LEAF, 2 * GIB);
        reserve(&mut gpu, OTHER, 3 * GIB);
        reserve(&mut gpu, OTHER, GIB);
        assert_eq!(gpu.memory_limits(POD).soft, 3 * GIB);
        reserve(&mut gpu, OTHER, 0);
        gpu.remove_cgroup(OTHER);
        assert_eq!(gpu.memory_limits(POD).soft, 2 * GIB);
        gpu.remove_cgroup(LEAF);
        assert_eq!(gpu.memory_limits(POD).soft, 2 * GIB, "nobody took it back");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        /// Containers whose hard limits divide the card, and whose processes take, give back and are killed in any
        /// order: nobody has more than its limit, and nobody is denied what it has not used up of it.
        #[test]
        fn hard_limits_that_divide_the_card_are_guarantees(
            steps in prop::collection::vec((0..3_usize, 0..6_u64, any::<bool>()), 2_000),
            dmem in any::<bool>(),
        ) {
            const LIMITS: [u64; 3] = [5 * GIB, 20 * GIB, 100 * GIB];
            let accounting = if dmem { Accounting::Dmem } else { Accounting::Misc };
            let mut gpu = gpu();
            let card = gpu.room();
            let paths = ["a", "b", "c"].map(|name| format!("{POD}/{name}"));
            for (path, limit) in paths.iter().zip(LIMITS) {
                set(&mut gpu, path, 0, limit).unwrap();
            }
            for (who, gib, takes) in steps {
                let (path, limit) = (&paths[who], LIMITS[who]);
                let used = gpu.memory_limits(path).used;
                match (takes, gib) {
                    (true, gib) => {
                        let taken = gpu.allocate(path, gib * GIB, accounting);
                        prop_assert_eq!(taken.is_ok(), used + gib * GIB <= limit);
                    }
                    // Killed.
                    (false, 0) => gpu.free(path, used),
                    (false, gib) => gpu.free(path, gib * GIB),
                }
                prop_assert!(gpu.memory_limits(path).used <= limit);
                prop_assert!(gpu.memory_used() <= card);
            }
        }
    }

    #[test]
    fn what_is_unlimited_and_unused_is_forgotten() {
        let mut gpu = gpu();
        set(&mut gpu, LEAF, 0, GIB).unwrap();
        set(&mut gpu, LEAF, 0, UNLIMITED).unwrap();
        assert!(gpu.condition.cgroups.is_empty());
        assert_eq!(gpu.memory_limits(LEAF).hard, UNLIMITED);
    }
}
