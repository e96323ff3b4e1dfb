//! Where on a GPU an instance lies.

use std::fmt;

/// The memory slices that a GPU instance occupies (`nvmlGpuInstancePlacement_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Placement {
    /// The first of them.
    pub start: u8,
    /// How many.
    pub size: u8,
}

impl Placement {
    /// The slices, in order.
    pub fn slices(self) -> impl Iterator<Item = u16> {
        self.start.into()..self.end()
    }

    /// Whether the two have a slice in common.
    pub fn overlaps(self, other: Self) -> bool {
        u16::from(self.start) < other.end() && u16::from(other.start) < self.end()
    }

    fn end(self) -> u16 {
        u16::from(self.start) + u16::from(self.size)
    }
}

/// As `nvidia-smi mig -lgi` writes it: `4:2`.
impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.start, self.size)
    }
}

/// The part of a GPU that a MIG device is: the place of its GPU instance, and which compute instance it
/// is where that place holds several.
///
/// It says what overlaps, whether the instance is there already or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Part {
    /// The place of the GPU instance.
    pub placement: Placement,
    /// The compute instance, or nothing if it has all of the GPU instance.
    pub compute_instance: Option<u8>,
}

impl Part {
    /// Whether the two have something in common that each would have for itself. Compute instances of
    /// one GPU instance share its memory by their nature, and do not count as overlapping.
    pub fn overlaps(self, other: Self) -> bool {
        let siblings = self.placement == other.placement
            && match (self.compute_instance, other.compute_instance) {
                (Some(one), Some(other)) => one != other,
                (None, _) | (_, None) => false,
            };
        self.placement.overlaps(other.placement) && !siblings
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A placement has a slice at least: NVML knows no other.
    fn placement() -> impl Strategy<Value = Placement> {
        (any::<u8>(), 1..=u8::MAX).prop_map(|(start, size)| Placement { start, size })
    }

    proptest! {
        #[test]
        fn placements_overlap_exactly_if_a_slice_is_in_both(one in placement(), other in placement()) {
            let common = one.slices().any(|slice| other.slices().any(|theirs| theirs == slice));
            prop_assert_eq!(one.overlaps(other), common);
            prop_assert_eq!(other.overlaps(one), common);
        }
    }

    #[test]
    fn compute_instances_of_one_gpu_instance_are_apart_and_nothing_else_of_it_is() {
        let part = |start, compute_instance| Part {
            placement: Placement { start, size: 4 },
            compute_instance,
        };
        assert!(!part(0, Some(0)).overlaps(part(0, Some(1))));
        assert!(part(0, Some(0)).overlaps(part(0, Some(0))));
        assert!(part(0, None).overlaps(part(0, Some(1))));
        assert!(part(0, None).overlaps(part(0, None)));
        assert!(part(0, Some(0)).overlaps(part(2, Some(1))));
        assert!(!part(0, None).overlaps(part(4, None)));
    }
}
