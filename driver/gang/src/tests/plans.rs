//! Plans of chance against the oracle.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::oracle;
use super::spec::{self, Spec};
use crate::blocked::Alternative;
use crate::policy::CliquePolicy;
use crate::{Blocked, Cluster, Demand, GangId, NodeCount, NodeName, Placement, place, plan};

fn sized(demand: &Demand, nodes: u32) -> Demand {
    Demand {
        nodes: NodeCount::exactly(nodes).unwrap(),
        ..demand.clone()
    }
}

/// What must hold of every placement.
fn check(nodes: &[Spec], demand: &Demand, placement: &Placement) -> Result<(), TestCaseError> {
    let size = u32::try_from(placement.size()).unwrap();
    prop_assert!((demand.nodes.min()..=demand.nodes.max()).contains(&size));
    let all: Vec<&NodeName> = placement.nodes().chain(placement.spares()).collect();
    let distinct: BTreeSet<_> = all.iter().collect();
    prop_assert_eq!(distinct.len(), all.len(), "no node twice");
    prop_assert!(placement.spares().count() <= demand.policy.spares as usize);
    let spec = |name: &NodeName| &nodes[name.as_str()[1..].parse::<usize>().unwrap()];
    for name in &all {
        let node = spec(name);
        prop_assert!(node.health.takes_gangs());
        prop_assert!(node.free() >= demand.shape.gpus_per_node());
    }
    let mut beside = 0;
    for share in &placement.cliques {
        let cliques: BTreeSet<_> = share
            .nodes
            .iter()
            .map(|member| spec(&member.name).clique)
            .collect();
        prop_assert_eq!(cliques.len(), 1, "a share is of one clique");
        let clique = spec(&share.nodes[0].name)
            .clique
            .map(|number| format!("c{number}"));
        prop_assert_eq!(
            share.clique.as_ref().map(crate::CliqueId::as_str),
            clique.as_deref()
        );
        prop_assert!(
            clique.is_some() || share.nodes.len() == 1,
            "no NVLink without fabric"
        );
        let whole = share.nodes.len().is_multiple_of(placement.segment as usize);
        beside += u32::from(!whole);
    }
    prop_assert!(beside <= 1, "whole segments, but for one");
    if let Some(level) = &demand.policy.required_level {
        let groups: BTreeSet<_> = placement
            .nodes()
            .map(|name| {
                let facts = spec(name).facts(0);
                (
                    facts.labels["block"].clone(),
                    facts.labels.get(level).cloned(),
                )
            })
            .collect();
        prop_assert!(groups.len() == 1 && groups.iter().all(|(_, group)| group.is_some()));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// S2 and S4 of plans: every plan keeps its policy and takes only what is free; and there is one
    /// exactly when trying everything finds one, with as many nodes as possible.
    #[test]
    fn s2_s4_a_plan_keeps_its_policy_and_is_found_whenever_there_is_one(
        nodes in spec::nodes(12),
        demand in spec::gang(),
    ) {
        let cluster = spec::cluster(&nodes);
        let fits = |wanted: u32| oracle::fewest_cliques(&nodes, &demand, wanted).is_some();
        match plan(&cluster, &demand) {
            Ok(placement) => {
                check(&nodes, &demand, &placement)?;
                let size = u32::try_from(placement.size()).unwrap();
                prop_assert!(fits(size));
            }
            Err(_) => prop_assert!(!fits(demand.nodes.min())),
        }
    }

    /// Q1: in one clique the plan leaves least over; over cliques it uses at most one more than needed.
    #[test]
    fn q1_plans_are_as_good_as_trying_everything_finds(
        nodes in spec::nodes(24),
        mut demand in spec::gang(),
    ) {
        demand.policy.preferred_level = None;
        demand.policy.spares = 0;
        demand.nodes = NodeCount::exactly(demand.nodes.min()).unwrap();
        if demand.policy.clique == CliquePolicy::Spread {
            demand.policy.clique = CliquePolicy::Required;
        }
        let cluster = spec::cluster(&nodes);
        let Some(placement) = place(&cluster, &demand) else { return Ok(()) };
        let used = u32::try_from(placement.cliques.len()).unwrap();
        let mut as_planned = demand.clone();
        as_planned.policy.segment = std::num::NonZeroU32::new(placement.segment);
        as_planned.policy.clique = CliquePolicy::Required;
        let fewest = oracle::fewest_cliques(&nodes, &as_planned, demand.nodes.min()).unwrap();
        prop_assert!(used <= fewest + 1, "{used} cliques, where {fewest} suffice");
        if used == 1 && fewest == 1 {
            let room = |number: Option<u32>| nodes.iter().filter(|node| {
                node.clique == number && node.health.takes_gangs() && node.free() >= demand.shape.gpus_per_node()
            }).count();
            let wanted = demand.nodes.min() as usize;
            let taken = placement.nodes().next().unwrap().as_str()[1..].parse::<usize>().unwrap();
            let left = |number: Option<u32>| match number {
                None => 1usize,
                some => room(some),
            };
            let rack = demand.policy.required_level.as_deref() == Some("rack");
            let possible = nodes.iter().filter(|node| {
                node.health.takes_gangs() && node.free() >= demand.shape.gpus_per_node()
                    && left(node.clique) >= wanted && !(rack && node.clique.is_none())
            });
            let least = possible.map(|node| left(node.clique)).min().unwrap();
            prop_assert_eq!(left(nodes[taken].clique), least, "the best fit leaves least over");
        }
    }

    /// S9: the order in which facts arrive, and what came and went before, change no plan.
    #[test]
    fn s9_the_order_in_which_facts_arrive_does_not_matter(
        nodes in spec::nodes(16),
        demands in prop::collection::vec(spec::gang(), 1..4),
        order in any::<u32>(),
        seed in prop::collection::vec(any::<u32>(), 16),
    ) {
        let one = spec::cluster(&nodes);
        let mut shuffled: Vec<usize> = (0..nodes.len()).collect();
        shuffled.sort_by_key(|at| seed[*at % seed.len()]);
        let mut other = Cluster::new(spec::levels());
        let gone = spec::Spec { clique: Some(order % 5), used: 0, health: crate::Health::Healthy };
        other.upsert(gone.facts(99));
        for at in shuffled {
            // A plan in between makes the indices that later facts must keep true.
            let _between = place(&other, &demands[0]);
            other.upsert(nodes[at].facts(at));
        }
        other.remove(&"n99".into());
        for demand in &demands {
            prop_assert_eq!(plan(&one, demand), plan(&other, demand));
        }
    }

    /// L4: a gang that waits is told the largest size that fits now, the largest that could ever fit, and only
    /// alternatives that help.
    #[test]
    fn l4_reasons_name_the_largest_size_that_fits_and_what_would_help(
        nodes in spec::nodes(12),
        mut demand in spec::gang(),
    ) {
        demand.nodes = NodeCount::exactly(demand.nodes.max()).unwrap();
        let cluster = spec::cluster(&nodes);
        let now = |wanted: u32| oracle::fewest_cliques(&nodes, &demand, wanted).is_some();
        let ever = |wanted: u32| oracle::fits_if_all_were_free(&nodes, &demand, wanted);
        match plan(&cluster, &demand) {
            Ok(_) => {}
            Err(blocked @ Blocked::NoEligibleNode { census }) => {
                let usable = nodes.iter().filter(|node| node.health.takes_gangs()).count();
                prop_assert_eq!(usable, 0);
                prop_assert_eq!(census.nodes as usize, nodes.len());
                prop_assert!(!blocked.passes());
            }
            Err(blocked @ Blocked::TooLarge { possible, .. }) => {
                prop_assert!(!ever(demand.nodes.min()));
                prop_assert!(possible == 0 || ever(possible));
                prop_assert!(!ever(possible + 1));
                prop_assert!(!blocked.passes());
            }
            Err(blocked @ Blocked::InsufficientFree { fits, alternative, .. }) => {
                prop_assert!(ever(demand.nodes.min()));
                prop_assert!(fits < demand.nodes.min());
                prop_assert!(fits == 0 || now(fits), "{fits} should fit");
                prop_assert!(!now(fits + 1), "{} fits too", fits + 1);
                prop_assert!(blocked.to_string().contains(&demand.nodes.min().to_string()));
                prop_assert!(blocked.passes());
                if fits > 0 {
                    prop_assert!(place(&cluster, &sized(&demand, fits)).is_some());
                }
                let mut other = demand.clone();
                match alternative {
                    Some(Alternative::Segment(nodes)) => other.policy.segment = Some(nodes),
                    Some(Alternative::Preferred) => other.policy.clique = CliquePolicy::Preferred,
                    Some(Alternative::AnyCapacity) => other.policy.capacity.clear(),
                    Some(Alternative::AnyLevel) => other.policy.required_level = None,
                    None => return Ok(()),
                }
                prop_assert!(place(&cluster, &other).is_some());
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    /// S4: whatever is held, released, changed and lost, no node has more held on it than it has, and the index
    /// answers as one that is made anew.
    #[test]
    fn s4_holds_never_exceed_what_a_node_has_and_the_index_follows(
        nodes in spec::nodes(16),
        steps in prop::collection::vec((0..5u8, spec::gang(), any::<prop::sample::Index>(), 0..=4u32), 1..24),
    ) {
        let mut cluster = spec::cluster(&nodes);
        let mut now: Vec<Option<Spec>> = nodes.iter().cloned().map(Some).collect();
        let mut holds: BTreeMap<GangId, (Vec<NodeName>, u32)> = BTreeMap::new();
        for (number, (kind, demand, which, used)) in steps.iter().enumerate() {
            let at = which.index(nodes.len());
            let name: NodeName = format!("n{at}").into();
            match kind {
                0 | 1 => {
                    let gang = GangId::from(format!("g{number}"));
                    if let Some(placement) = place(&cluster, demand) {
                        let gpus = placement.gpus_per_node;
                        for name in placement.nodes().chain(placement.spares()) {
                            prop_assert!(cluster.free(name).unwrap() >= gpus);
                        }
                        cluster.hold(&gang, &placement).unwrap();
                        let names = placement.nodes().chain(placement.spares()).cloned().collect();
                        holds.insert(gang, (names, gpus));
                    }
                }
                2 => {
                    let gang = holds.keys().nth(which.index(holds.len().max(1))).cloned();
                    if let Some(gang) = gang {
                        prop_assert!(cluster.release(&gang));
                        holds.remove(&gang);
                    }
                }
                3 => {
                    cluster.remove(&name);
                    now[at] = None;
                }
                _ => {
                    let spec = Spec { used: *used, ..nodes[at].clone() };
                    if now[at].is_some() && *used < 3 {
                        cluster.set_used(&name, *used);
                        now[at].as_mut().unwrap().used = *used;
                    } else {
                        cluster.upsert(spec.facts(at));
                        now[at] = Some(spec);
                    }
                }
            }
            let mut anew = Cluster::new(spec::levels());
            for (gang, (names, gpus)) in &holds {
                anew.restore(gang, names.iter().cloned(), *gpus);
            }
            for (at, node) in now.iter().enumerate() {
                if let Some(node) = node {
                    anew.upsert(node.facts(at));
                }
            }
            prop_assert_eq!(plan(&cluster, demand), plan(&anew, demand));
        }
    }
}
