//! What a GPU can be given as, where instances are made when claims need them.

use std::fmt;

use super::{MigInstance, MigMode, MigOption, ModeSwitch, Part, Placement};
use crate::{DeviceName, Gpu, MigUuid};

/// Who makes the layouts of a node's GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MigLayouts {
    /// Somebody else: GPUs are offered as they are found to be cut.
    #[default]
    Static,
    /// The driver: GPUs are offered in every way in which they could be cut, and are cut for claims.
    Dynamic,
}

/// A MIG device that can be made: an instance of one of the GPU's sizes, at one of its places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot<'g> {
    /// The size.
    pub option: &'g MigOption,
    /// The place.
    pub placement: Placement,
}

impl Slot<'_> {
    /// The part of the GPU that it takes.
    pub fn part(self) -> Part {
        Part {
            placement: self.placement,
            compute_instance: None,
        }
    }

    /// The name under which it is offered, on the GPU with this minor number. The instance that is made
    /// there has the same.
    pub fn device_name(self, minor: u32) -> DeviceName {
        let MigOption {
            profile,
            profile_id,
            ..
        } = self.option;
        DeviceName::mig(minor, *profile, *profile_id, self.part())
    }
}

/// Why a GPU is offered in the mode that it is in, and in no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Its mode changes with a reset only, which would end whatever runs on it.
    NeedsReset(MigMode),
    /// Somebody has asked for the other mode, and the GPU waits for a reset.
    Pending(MigMode),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeedsReset(mode) => write!(
                f,
                "MIG mode is {mode} and is left so, because a change needs a reset of this GPU; \
                 change it with nvidia-smi -mig and reset the GPU or reboot the node"
            ),
            Self::Pending(mode) => write!(
                f,
                "MIG mode is {mode} and is left so, because another is pending; reset the GPU or \
                 reboot the node"
            ),
        }
    }
}

/// All that a GPU can be given as.
///
/// No two of these devices may be given away at once that overlap: the whole GPU overlaps everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choices<'g> {
    /// The GPU.
    pub gpu: &'g Gpu,
    /// Whether it can be given as a whole, if nothing else of it is.
    pub whole: bool,
    /// What can be made of it, in the order of preference.
    pub slots: Vec<Slot<'g>>,
    /// Instances that somebody else has made. They can be given away as they are.
    pub others: Vec<&'g MigInstance>,
    /// Why it can be given in one mode only, if so.
    pub bound: Option<Bound>,
}

impl<'g> Choices<'g> {
    /// What this GPU can be given as; `None` if nothing can be made of it, because it has no MIG or does
    /// not tell its profiles.
    ///
    /// `is_ours` says of what lies at a place whether the driver made it. What it made hinders nothing
    /// from being offered: it goes with its claim, and until then counters keep others away. What
    /// somebody else made stays, and hinders what it overlaps.
    pub fn of(gpu: &'g Gpu, is_ours: impl Fn(Placement, Option<&MigUuid>) -> bool) -> Option<Self> {
        let mig = gpu.mig.as_ref().filter(|mig| !mig.profiles.is_empty())?;
        let others: Vec<&MigInstance> = mig
            .instances
            .iter()
            .filter(|instance| !is_ours(instance.placement, Some(&instance.uuid)))
            .collect();
        let unfinished = mig.unfinished.iter().map(|unfinished| unfinished.placement);
        let taken: Vec<Placement> = unfinished
            .filter(|placement| !is_ours(*placement, None))
            .chain(others.iter().map(|other| other.placement))
            .collect();
        let bound = match (mig.waiting(), ModeSwitch::of(&gpu.architecture)) {
            (Some(_), _) => Some(Bound::Pending(mig.mode)),
            (None, ModeSwitch::WithReset) => Some(Bound::NeedsReset(mig.mode)),
            (None, ModeSwitch::AtOnce) => None,
        };
        let can_be = |mode| mig.mode == mode || bound.is_none();
        let mut slots = Vec::new();
        if can_be(MigMode::On) {
            let free = slots_of(&mig.profiles)
                .filter(|slot| !taken.iter().any(|taken| taken.overlaps(slot.placement)));
            slots.extend(free);
            slots.sort_by_key(|slot| preference(*slot));
        }
        Some(Self {
            gpu,
            whole: can_be(MigMode::Off) && taken.is_empty(),
            slots,
            others,
            bound,
        })
    }

    /// Whether it can be given as a whole, or will be without a reset once nothing is in the way.
    pub fn is_ever_whole(&self) -> bool {
        self.is_ever(MigMode::Off)
    }

    /// How many MIG devices it can be given as, or will be without a reset once nothing is in the way.
    pub fn places(&self) -> usize {
        let mig = self.gpu.mig.iter();
        let mig = mig.filter(|_| self.is_ever(MigMode::On));
        mig.flat_map(|mig| slots_of(&mig.profiles)).count()
    }

    fn is_ever(&self, mode: MigMode) -> bool {
        let has_mode = self.gpu.mig.as_ref().map(|mig| mig.mode) == Some(mode);
        has_mode || ModeSwitch::of(&self.gpu.architecture) == ModeSwitch::AtOnce
    }

    /// The slot of this name.
    pub fn slot(&self, name: &DeviceName) -> Option<Slot<'g>> {
        let mut slots = self.slots.iter();
        slots
            .find(|slot| slot.device_name(self.gpu.minor) == *name)
            .copied()
    }
}

fn slots_of(options: &[MigOption]) -> impl Iterator<Item = Slot<'_>> {
    let made = |option: &&MigOption| option.profile.is_all_of_its_gpu_instance();
    options.iter().filter(made).flat_map(|option| {
        let placements = option.placements.iter();
        placements.map(move |placement| Slot {
            option,
            placement: *placement,
        })
    })
}

/// The scheduler takes the first device that fits. So the smallest size comes first, for requests that
/// more than one satisfies; and of a size the last place, because the larger sizes have more places at
/// the beginning of a GPU.
fn preference(slot: Slot<'_>) -> impl Ord {
    let Slot { option, placement } = slot;
    let size = (placement.size, option.multiprocessors, option.profile);
    (size, std::cmp::Reverse(placement.start), option.profile_id)
}

#[cfg(test)]
mod tests;
