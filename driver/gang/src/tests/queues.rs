//! Queues, shadows, preemption and recovery.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::spec;
use crate::node::Health;
use crate::policy::{CliquePolicy, Replacement};
use crate::preempt::preempt;
use crate::queue::{Round, Rules, plan_all};
use crate::recover::{Recovery, Source, Substitute, recover, regrow};
use crate::running::Running;
use crate::testing::{cliques, demand, node};
use crate::{Blocked, Cluster, Demand, GangId, NodeCount, NodeName, Placement, place};

const MINUTE: Duration = Duration::from_mins(1);

fn waits(gang: &str, nodes: u32, minutes: u32) -> Demand {
    Demand {
        waiting: MINUTE * minutes,
        ..demand(gang, nodes)
    }
}

fn runs(gang: &str, priority: i32, ends_in: Option<Duration>) -> Running {
    Running {
        gang: gang.into(),
        priority,
        ran_for: MINUTE,
        ends_in,
        may_be_ended: true,
    }
}

fn hold(cluster: &mut Cluster, gang: &str, nodes: u32) -> Placement {
    let placement = place(cluster, &demand(gang, nodes)).unwrap();
    cluster.hold(&gang.into(), &placement).unwrap();
    placement
}

fn placed(round: &Round) -> Vec<&str> {
    round.placed.iter().map(|(gang, _)| gang.as_str()).collect()
}

fn reason(round: &Round, gang: &str) -> String {
    let found = round
        .waiting
        .iter()
        .find(|(waiting, _)| waiting.as_str() == gang);
    found
        .map_or("placed", |(_, blocked)| blocked.reason())
        .to_owned()
}

#[test]
fn higher_priority_comes_first_then_the_longest_wait() {
    let mut cluster = cliques(&[4]);
    let urgent = Demand {
        priority: 9,
        ..waits("urgent", 2, 0)
    };
    let queue = [waits("young", 2, 1), waits("old", 2, 5), urgent];
    let round = plan_all(&mut cluster, &queue, &[], None, Rules::default());
    assert_eq!(placed(&round), ["urgent", "old"]);
    assert_eq!(reason(&round, "young"), "InsufficientFree");
}

#[test]
fn small_gangs_pass_a_large_one_until_it_has_waited_long_enough() {
    let mut cluster = cliques(&[4, 4]);
    hold(&mut cluster, "a", 3);
    hold(&mut cluster, "b", 3);
    let running = [runs("a", 0, None), runs("b", 0, None)];
    let go = |cluster: &mut Cluster, minutes| {
        let queue = [
            waits("large", 4, minutes),
            waits("s1", 1, 0),
            waits("s2", 1, 0),
        ];
        plan_all(cluster, &queue, &running, None, Rules::default())
    };
    let mut early = cluster_copy();
    assert_eq!(placed(&go(&mut early, 5)), ["s1", "s2"]);
    // From then on one free node is kept for it, and the other can be had.
    let late = go(&mut cluster, 10);
    assert_eq!(placed(&late).len(), 1);
    assert_eq!(reason(&late, "large"), "InsufficientFree");
    assert_eq!(reason(&late, "s2"), "BlockedByShadow");
    assert_eq!(late.shadow.as_ref().unwrap().nodes.len(), 4);
    assert!(
        cluster.held(&"large".into()).is_none(),
        "a shadow is no hold"
    );
    // As soon as the nodes of the shadow are free, it runs.
    let clique = late.shadow.as_ref().unwrap().nodes[0].as_str()[..2].to_owned();
    let holder = ["a", "b"].into_iter().find(|gang| {
        let (mut nodes, _) = cluster.held(&GangId::from(*gang)).unwrap();
        nodes.any(|name| name.as_str().starts_with(&clique))
    });
    cluster.release(&holder.unwrap().into());
    let queue = [waits("large", 4, 11), waits("s2", 1, 1)];
    let round = plan_all(
        &mut cluster,
        &queue,
        &running,
        late.shadow.as_ref(),
        Rules::default(),
    );
    assert_eq!(placed(&round), ["large"]);
}

fn cluster_copy() -> Cluster {
    let mut cluster = cliques(&[4, 4]);
    hold(&mut cluster, "a", 3);
    hold(&mut cluster, "b", 3);
    cluster
}

#[test]
fn a_gang_passes_the_head_of_the_queue_if_it_ends_before_that_can_begin() {
    let queue = |runs_for: Option<Duration>| {
        let filler = Demand {
            runs_for,
            ..waits("filler", 1, 0)
        };
        [waits("large", 4, 1), filler]
    };
    for (runs_for, passes) in [
        (Some(MINUTE * 30), true),
        (Some(MINUTE * 90), false),
        (None, false),
    ] {
        let mut cluster = cliques(&[4]);
        hold(&mut cluster, "a", 3);
        let running = [runs("a", 0, Some(MINUTE * 60))];
        let round = plan_all(
            &mut cluster,
            &queue(runs_for),
            &running,
            None,
            Rules::default(),
        );
        assert_eq!(placed(&round).contains(&"filler"), passes, "{runs_for:?}");
        assert_eq!(round.shadow.unwrap().begins_in, Some(MINUTE * 60));
    }
}

#[test]
fn a_gang_that_never_fits_keeps_nobody_waiting() {
    let mut cluster = cliques(&[4]);
    let impossible = Demand {
        priority: 9,
        ..waits("impossible", 9, 60)
    };
    let round = plan_all(
        &mut cluster,
        &[impossible, waits("b", 4, 0)],
        &[],
        None,
        Rules::default(),
    );
    assert_eq!(placed(&round), ["b"]);
    assert_eq!(reason(&round, "impossible"), "NoCliqueLargeEnough");
    assert_eq!(round.shadow, None);
}

#[test]
fn the_fewest_gangs_of_lower_priority_are_ended_and_the_least_important_of_these() {
    let mut cluster = cliques(&[6, 6]);
    for (gang, nodes) in [("a", 2), ("b", 2), ("c", 2), ("d", 3), ("e", 3)] {
        hold(&mut cluster, gang, nodes);
    }
    let wants = |nodes| {
        let mut demand = demand("urgent", nodes);
        demand.priority = 10;
        demand.policy.preempts = true;
        demand
    };
    let mut running = [
        runs("a", 1, None),
        runs("b", 1, None),
        runs("c", 1, None),
        runs("d", 5, None),
        runs("e", 4, None),
    ];
    let victims = |running: &[Running], wanted: &Demand| {
        let preemption = preempt(&cluster, wanted, running)?;
        assert_eq!(preemption.placement.size(), wanted.nodes.min() as usize);
        let victims = preemption
            .victims
            .iter()
            .map(|gang| gang.as_str().to_owned());
        Some(victims.collect::<Vec<_>>())
    };
    assert_eq!(
        victims(&running, &wants(3)),
        Some(vec!["e".to_owned()]),
        "one, the least important"
    );
    let six = victims(&running, &wants(6)).unwrap();
    assert_eq!(six, ["d", "e"], "two instead of three");
    running[4].may_be_ended = false;
    assert_eq!(victims(&running, &wants(6)).unwrap().len(), 3);
    let mut modest = wants(6);
    modest.priority = 1;
    assert_eq!(victims(&running, &modest), None, "only lower priorities");
    modest = wants(6);
    modest.policy.preempts = false;
    assert_eq!(victims(&running, &modest), None);
    let twelve = victims(&running, &wants(12));
    assert_eq!(twelve, None, "nobody is ended for a plan that is not whole");
}

#[test]
fn a_lost_node_is_replaced_by_a_spare_then_by_a_free_node_of_the_clique() {
    let mut cluster = cliques(&[6, 6]);
    let mut wanted = demand("d", 4);
    wanted.policy.spares = 1;
    let placement = place(&cluster, &wanted).unwrap();
    cluster.hold(&"d".into(), &placement).unwrap();
    let nodes: Vec<NodeName> = placement.nodes().cloned().collect();
    let lost = BTreeSet::from([nodes[0].clone(), nodes[1].clone()]);
    let clique = placement.cliques[0].clique.clone().unwrap();
    for name in &lost {
        let mut facts = node(name.as_str(), Some(clique.as_str()));
        facts.health = Health::Unfit;
        cluster.upsert(facts);
    }
    let Recovery::Replace(substitutes) =
        recover(&cluster, &wanted, &placement, &lost, Duration::ZERO)
    else {
        panic!("there are a spare and a free node");
    };
    let from: Vec<Source> = substitutes
        .iter()
        .map(|substitute| substitute.from)
        .collect();
    assert_eq!(from, [Source::Spare, Source::Clique]);
    assert!(
        substitutes
            .iter()
            .all(|Substitute { by, .. }| cluster.clique_of(by) == Some(&clique))
    );
    assert_eq!(
        regrow(&cluster, &wanted, &placement),
        Vec::<NodeName>::new(),
        "it wants no more"
    );
}

#[test]
fn without_a_node_in_the_clique_the_policy_decides() {
    let mut cluster = cliques(&[4, 4]);
    let mut wanted = demand("d", 4);
    let placement = place(&cluster, &wanted).unwrap();
    cluster.hold(&"d".into(), &placement).unwrap();
    let name = placement.nodes().next().unwrap().clone();
    let clique = placement.cliques[0].clique.clone().unwrap();
    let mut facts = node(name.as_str(), Some(clique.as_str()));
    facts.health = Health::Unfit;
    cluster.upsert(facts);
    let lost = BTreeSet::from([name]);
    let decide = |wanted: &Demand, minutes: u32| {
        recover(&cluster, wanted, &placement, &lost, MINUTE * minutes)
    };
    assert_eq!(
        decide(&wanted, 0),
        Recovery::Wait {
            missing: 1,
            again_in: None
        }
    );
    wanted.policy.replacement = Replacement {
        migrate: true,
        ..Replacement::default()
    };
    assert_eq!(
        decide(&wanted, 4),
        Recovery::Wait {
            missing: 1,
            again_in: Some(MINUTE * 6)
        }
    );
    let Recovery::Migrate(moved) = decide(&wanted, 10) else {
        panic!("the other clique is free");
    };
    assert_ne!(moved.cliques[0].clique, Some(clique.clone()));
    wanted.policy.clique = CliquePolicy::Preferred;
    let Recovery::Replace(wider) = decide(&wanted, 0) else {
        panic!("a node of the other clique is free");
    };
    assert_eq!(wider[0].from, Source::Wider);
    wanted.policy.clique = CliquePolicy::Required;
    wanted.nodes = NodeCount::new(3, 4).unwrap();
    let shrunk = Recovery::Shrink {
        substitutes: Vec::new(),
        nodes: 3,
    };
    assert_eq!(decide(&wanted, 0), shrunk);
}

#[test]
fn an_elastic_gang_grows_again_in_its_clique() {
    let mut cluster = cliques(&[4]);
    let mut wanted = demand("d", 3);
    let placement = place(&cluster, &wanted).unwrap();
    cluster.hold(&"d".into(), &placement).unwrap();
    wanted.nodes = NodeCount::new(3, 4).unwrap();
    let more = regrow(&cluster, &wanted, &placement);
    assert_eq!(more.len(), 1);
    assert!(placement.nodes().all(|name| *name != more[0]));
}

proptest! {
    /// L1 and L2: as gangs end one after the other, every gang that fits an empty cluster gets its turn, and
    /// nobody who waits holds a node.
    #[test]
    fn l1_l2_every_gang_that_can_run_gets_its_turn(
        nodes in spec::nodes(12),
        gangs in prop::collection::vec((spec::gang(), 0..3i32, 0..30u32), 1..8),
    ) {
        let nodes: Vec<_> = nodes.into_iter().map(|node| spec::Spec { used: 0, ..node }).collect();
        let mut cluster = spec::cluster(&nodes);
        let mut waiting: Vec<Demand> = gangs.into_iter().enumerate().map(|(number, (demand, priority, minutes))| Demand {
            gang: format!("g{number}").into(),
            priority,
            waiting: MINUTE * minutes,
            ..demand
        }).collect();
        let possible: BTreeSet<GangId> = waiting.iter()
            .filter(|demand| place(&cluster, demand).is_some())
            .map(|demand| demand.gang.clone())
            .collect();
        let mut ran = BTreeSet::new();
        let mut running: BTreeMap<GangId, Running> = BTreeMap::new();
        let mut shadow = None;
        for _ in 0..=2 * waiting.len() {
            let list: Vec<Running> = running.values().cloned().collect();
            let round = plan_all(&mut cluster, &waiting, &list, shadow.as_ref(), Rules::default());
            shadow = round.shadow.clone();
            for (gang, _) in &round.placed {
                ran.insert(gang.clone());
                let demand = waiting.iter().find(|demand| demand.gang == *gang).unwrap();
                running.insert(gang.clone(), runs(gang.as_str(), demand.priority, None));
            }
            waiting.retain(|demand| !running.contains_key(&demand.gang));
            for demand in &mut waiting {
                prop_assert!(cluster.held(&demand.gang).is_none(), "who waits holds nothing");
                demand.waiting += MINUTE;
            }
            let told: BTreeSet<&GangId> = round.waiting.iter().map(|(gang, _)| gang).collect();
            prop_assert_eq!(told, waiting.iter().map(|demand| &demand.gang).collect(), "everybody who waits is told why");
            if let Some(gang) = running.keys().next().cloned() {
                running.remove(&gang);
                cluster.release(&gang);
            }
        }
        prop_assert_eq!(ran, possible);
    }

    /// Whoever is ended is of lower priority, with all of them gone the gang fits, and without any one it would not.
    #[test]
    fn nobody_is_ended_in_vain(
        nodes in spec::nodes(12),
        others in prop::collection::vec((spec::gang(), 0..4i32), 1..6),
        wanted in spec::gang(),
        priority in 0..5i32,
    ) {
        let mut cluster = spec::cluster(&nodes);
        let mut running = Vec::new();
        for (number, (other, priority)) in others.iter().enumerate() {
            let gang = format!("g{number}");
            if let Some(placement) = place(&cluster, other) {
                cluster.hold(&gang.as_str().into(), &placement).unwrap();
                running.push(runs(&gang, *priority, None));
            }
        }
        let mut wanted = Demand { gang: "urgent".into(), priority, ..wanted };
        wanted.policy.preempts = true;
        let fits_without = |gone: &[GangId]| {
            let mut other = spec::cluster(&nodes);
            for running in running.iter().filter(|running| !gone.contains(&running.gang)) {
                let (held, gpus) = cluster.held(&running.gang).unwrap();
                other.restore(&running.gang, held.cloned(), gpus);
            }
            place(&other, &wanted)
        };
        let lower: Vec<GangId> = running.iter()
            .filter(|running| running.priority < priority)
            .map(|running| running.gang.clone())
            .collect();
        match preempt(&cluster, &wanted, &running) {
            None => prop_assert!(place(&cluster, &wanted).is_some() || fits_without(&lower).is_none()),
            Some(preemption) => {
                prop_assert!(preemption.victims.iter().all(|victim| lower.contains(victim)));
                prop_assert_eq!(fits_without(&preemption.victims), Some(preemption.placement));
                for spared in &preemption.victims {
                    let others: Vec<GangId> = preemption.victims.iter().filter(|gang| *gang != spared).cloned().collect();
                    prop_assert!(fits_without(&others).is_none(), "{} is ended in vain", spared);
                }
            }
        }
    }
}

#[test]
fn a_reason_names_who_is_ahead() {
    let blocked = Blocked::BlockedByShadow {
        wanted: 2,
        ahead: "d1".into(),
    };
    assert!(blocked.to_string().contains("kept for domain d1"));
}
