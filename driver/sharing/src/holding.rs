//! Which containers are held to which shares by the kernel's driver, and how much each may have.
//!
//! A limit is one of a cgroup and a GPU, and each container has a cgroup of its own. So a share is held by
//! limiting the one container that has it; a second one at the same time would have as much again. A container
//! that has several shares of one GPU may have their sum.

use tessera_device::{Bytes, GpuUuid};
use thiserror::Error;

/// A container that is held to a share, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The share, by a name that is its own on the node.
    pub share: String,
    /// The GPU.
    pub gpu: GpuUuid,
    /// The most memory for this share.
    pub memory: Bytes,
    /// The container's cgroup, below the root of the hierarchy.
    pub cgroup: String,
}

/// Another container has the share.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "another container has the share at this moment (its cgroup is {cgroup}), and the NVIDIA driver limits each \
     container by itself; give each container a request of its own"
)]
pub struct InUse {
    /// The cgroup of the other.
    pub cgroup: String,
}

/// The most memory that the container may have of the GPU, once it has the share too. `held` are the containers that
/// are there.
pub fn hold<'h>(
    wanted: &Holding,
    held: impl Iterator<Item = &'h Holding> + Clone,
) -> Result<Bytes, InUse> {
    let mut others = held.clone().filter(|other| other.share == wanted.share);
    if let Some(other) = others.find(|other| other.cgroup != wanted.cgroup) {
        return Err(InUse {
            cgroup: other.cgroup.clone(),
        });
    }
    let beside = held.filter(|other| {
        other.share != wanted.share && other.cgroup == wanted.cgroup && other.gpu == wanted.gpu
    });
    let memory = beside.fold(wanted.memory, |sum, other| {
        Bytes(sum.0.saturating_add(other.memory.0))
    });
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holding(share: u8, gpu: u8, memory: u64, cgroup: u8) -> Holding {
        Holding {
            share: format!("share-{share}"),
            gpu: format!("GPU-{gpu:08x}-0000-0000-0000-000000000000")
                .parse()
                .unwrap(),
            memory: Bytes(memory),
            cgroup: format!("/kubepods/{cgroup}"),
        }
    }

    #[test]
    fn a_container_may_have_the_sum_of_its_shares_of_a_gpu_and_a_repeated_wish_counts_once() {
        let held = [
            holding(1, 0, 5, 1),
            holding(2, 0, 7, 1),
            holding(3, 1, 100, 1),
            holding(4, 0, 1000, 2),
        ];
        for (wanted, expected) in [
            (holding(5, 0, 1, 1), 13),
            (holding(1, 0, 5, 1), 12),
            (holding(5, 1, 1, 1), 101),
            (holding(5, 2, 1, 1), 1),
            (holding(5, 0, u64::MAX, 1), u64::MAX),
        ] {
            assert_eq!(hold(&wanted, held.iter()), Ok(Bytes(expected)));
        }
    }

    #[test]
    fn a_share_has_one_container_at_a_time() {
        let held = [holding(1, 0, 5, 1)];
        let refused = hold(&holding(1, 0, 5, 2), held.iter()).unwrap_err();
        assert_eq!(refused.cgroup, "/kubepods/1");
        assert!(hold(&holding(1, 0, 5, 2), [].iter()).is_ok());
    }

    proptest! {
        /// However containers ask, the limits that are in force on a GPU are together what their shares are.
        #[test]
        fn limits_are_never_more_than_the_shares(
            wishes in prop::collection::vec((0..6_u8, 0..3_u8, 1..100_u64, 0..4_u8), 0..24)
        ) {
            // A share is one of one GPU and has one size.
            let wishes = wishes.iter().map(|(share, _, _, cgroup)| {
                holding(*share, *share % 2, u64::from(*share) + 1, *cgroup)
            });
            let mut held: Vec<Holding> = Vec::new();
            let mut limits = std::collections::BTreeMap::new();
            for wanted in wishes {
                let Ok(limit) = hold(&wanted, held.iter()) else { continue };
                limits.insert((wanted.gpu.clone(), wanted.cgroup.clone()), limit.0);
                held.retain(|other| other.share != wanted.share);
                held.push(wanted);
            }
            for gpu in [0, 1].map(|gpu| holding(0, gpu, 1, 0).gpu) {
                let limit: u64 = limits
                    .iter()
                    .filter(|((of, _), _)| *of == gpu)
                    .map(|(_, limit)| *limit)
                    .sum();
                let shares: u64 = held
                    .iter()
                    .filter(|held| held.gpu == gpu)
                    .map(|held| held.memory.0)
                    .sum();
                prop_assert_eq!(limit, shares);
            }
        }
    }
}
