//! Who has a part of a card: what records promise, and what the driver says of the containers that are there.

use std::collections::{BTreeMap, BTreeSet};

use tessera_device::{Bytes, GpuUuid};

use crate::holder::Holder;
use crate::holding::Holding;
use crate::range::reclaim::{Pressed, Rungs};
use crate::range::{Card, Lending, Limit, ShareState};

/// A share that the node has prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promised {
    /// The share, by a name that is its own on the node.
    pub share: String,
    /// Whose it is. `None`: the record of it is lost.
    pub holder: Option<Holder>,
    /// The GPU.
    pub gpu: GpuUuid,
    /// What it always has.
    pub guarantee: Bytes,
    /// How far it may grow. Not below the guarantee.
    pub ceiling: Bytes,
}

/// What the driver says of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The most memory that it may have. `None`: all that is free.
    pub limit: Option<Bytes>,
    /// What it has.
    pub used: Bytes,
}

/// Somebody who has a part of a card.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tenant {
    /// The container with this cgroup: what it has of the card is limited as one.
    Container(String),
    /// This share, which no container has at the moment.
    Share(String),
}

impl Card {
    /// A card with so much memory, of which the driver has `reserved` for itself.
    ///
    /// The scheduler counts all of the memory, so claims may have been given the reserve too. Then it is theirs: a share that
    /// waited for it would wait without end.
    pub fn of(memory: Bytes, reserved: Bytes, shares: &BTreeMap<Tenant, ShareState>) -> Self {
        let guarantees = shares.values().map(|share| share.guarantee.0);
        let given = guarantees.fold(0, u64::saturating_add);
        Self {
            memory,
            reserve: Bytes(reserved.0.min(memory.0.saturating_sub(given))),
            lending: Lending::ToAll,
        }
    }
}

/// Everybody who has a part of a card: `promised` and `held` are all that is known of that one.
///
/// A container that is not measured is gone, and what it had is kept for its shares' next one.
pub fn tenants(
    promised: &[Promised],
    held: &[Holding],
    measured: &BTreeMap<String, Measured>,
) -> BTreeMap<Tenant, ShareState> {
    let mut containers: BTreeMap<&str, Vec<&Holding>> = BTreeMap::new();
    for holding in held {
        if measured.contains_key(&holding.cgroup) {
            let shares = containers.entry(&holding.cgroup).or_default();
            shares.push(holding);
        }
    }
    let running: BTreeSet<&str> = containers
        .values()
        .flatten()
        .map(|holding| holding.share.as_str())
        .collect();
    let waiting = promised
        .iter()
        .filter(|promised| !running.contains(promised.share.as_str()));
    let waiting = waiting.map(|promised| {
        let name = Tenant::Share(promised.share.clone());
        (name, unmoved(promised.guarantee, Bytes(0)))
    });
    let containers = containers.iter().map(|(cgroup, shares)| {
        let name = Tenant::Container((*cgroup).to_owned());
        (name, container(promised, shares, measured[*cgroup]))
    });
    waiting.chain(containers).collect()
}

/// A container that has these shares.
///
/// Of one whose record is missing it is not known how far it may grow. Its container keeps the limit that it has, which
/// counts as used.
fn container(promised: &[Promised], shares: &[&Holding], measured: Measured) -> ShareState {
    let Measured { limit, used } = measured;
    let (mut guarantee, mut ceiling, mut is_known) = (0_u64, 0_u64, true);
    for share in shares {
        let mut all = promised.iter();
        if let Some(known) = all.find(|promised| promised.share == share.share) {
            guarantee = guarantee.saturating_add(known.guarantee.0);
            ceiling = ceiling.saturating_add(known.ceiling.0);
        } else {
            guarantee = guarantee.saturating_add(share.memory.0);
            is_known = false;
        }
    }
    if !is_known {
        let counted = limit.map_or(used, |limit| limit.max(used));
        return unmoved(Bytes(guarantee), counted);
    }
    ShareState {
        guarantee: Bytes(guarantee),
        ceiling: Bytes(ceiling),
        used,
        limit: match limit {
            Some(limit) => Limit::At(limit),
            None if used == Bytes(0) => Limit::Unset,
            // It runs, and somebody has taken its limit away.
            None => Limit::At(Bytes(u64::MAX)),
        },
        rungs: Rungs::default(),
        pressed: Pressed::Not,
    }
}

/// Somebody whose limit is none or not to be changed, and who counts all the same.
fn unmoved(guarantee: Bytes, used: Bytes) -> ShareState {
    ShareState {
        guarantee,
        ceiling: guarantee,
        used,
        limit: Limit::Unenforced,
        rungs: Rungs::default(),
        pressed: Pressed::Not,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::decide;

    const GIB: u64 = 1 << 30;

    fn gpu() -> GpuUuid {
        "GPU-00000000-0000-0000-0000-000000000000".parse().unwrap()
    }

    fn promised(share: &str, guarantee: u64, ceiling: u64) -> Promised {
        Promised {
            share: share.to_owned(),
            holder: None,
            gpu: gpu(),
            guarantee: Bytes(guarantee * GIB),
            ceiling: Bytes(ceiling * GIB),
        }
    }

    fn holding(share: &str, memory: u64, cgroup: &str) -> Holding {
        Holding {
            share: share.to_owned(),
            gpu: gpu(),
            memory: Bytes(memory * GIB),
            cgroup: cgroup.to_owned(),
        }
    }

    fn measured<const N: usize>(of: [(&str, Option<u64>, u64); N]) -> BTreeMap<String, Measured> {
        of.map(|(cgroup, limit, used)| {
            let measured = Measured {
                limit: limit.map(|limit| Bytes(limit * GIB)),
                used: Bytes(used * GIB),
            };
            (cgroup.to_owned(), measured)
        })
        .into()
    }

    fn at(cgroup: &str) -> Tenant {
        Tenant::Container(cgroup.to_owned())
    }

    #[test]
    fn a_container_has_the_sum_of_its_shares_and_a_share_without_one_keeps_its_guarantee() {
        let promised = [
            promised("a", 5, 40),
            promised("b", 3, 3),
            promised("c", 7, 100),
            promised("d", 2, 9),
        ];
        let held = [
            holding("a", 5, "/1"),
            holding("b", 3, "/1"),
            holding("d", 2, "/gone"),
        ];
        let found = tenants(&promised, &held, &measured([("/1", Some(8), 6)]));
        let one = found[&at("/1")];
        assert_eq!((one.guarantee.0 / GIB, one.ceiling.0 / GIB), (8, 43));
        assert_eq!(
            (one.limit, one.used.0 / GIB),
            (Limit::At(Bytes(8 * GIB)), 6)
        );
        for (share, guarantee) in [("c", 7), ("d", 2)] {
            let waiting = found[&Tenant::Share(share.to_owned())];
            assert_eq!(waiting.limit, Limit::Unenforced);
            assert_eq!(waiting.guarantee.0 / GIB, guarantee);
        }
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_container_that_starts_has_no_limit_yet_and_one_that_runs_without_any_is_given_one() {
        let promised = [promised("a", 5, 100), promised("b", 5, 100)];
        let held = [holding("a", 5, "/1"), holding("b", 5, "/2")];
        let seen = measured([("/1", None, 0), ("/2", None, 50)]);
        let found = tenants(&promised, &held, &seen);
        assert_eq!(found[&at("/1")].limit, Limit::Unset);
        let card = Card::of(Bytes(140 * GIB), Bytes(0), &found);
        let decision = decide(&card, &found);
        let set: Vec<_> = decision.limits.iter().map(|change| change.share).collect();
        assert_eq!(set, [&at("/2")], "the other starts when that has a limit");
    }

    #[test]
    fn what_no_record_names_counts_and_is_left_alone() {
        let held = [holding("lost", 5, "/1"), holding("a", 5, "/2")];
        let promised = [promised("a", 5, 140)];
        let seen = measured([("/1", Some(60), 10), ("/2", Some(5), 5)]);
        let found = tenants(&promised, &held, &seen);
        let card = Card::of(Bytes(140 * GIB), Bytes(0), &found);
        let decision = decide(&card, &found);
        let [change] = decision.limits.as_slice() else {
            panic!("{decision:?}")
        };
        assert_eq!((change.share, change.to.0 / GIB), (&at("/2"), 80));
    }

    #[test]
    fn the_reserve_is_lent_to_nobody_and_kept_from_nobody_whose_guarantee_it_is() {
        let of = |guarantee| {
            let found = tenants(&[promised("a", guarantee, 140)], &[], &BTreeMap::new());
            Card::of(Bytes(140 * GIB), Bytes(2 * GIB), &found).reserve.0 / GIB
        };
        assert_eq!([of(5), of(138), of(139), of(140), of(200)], [2, 2, 1, 0, 0]);
    }
}
