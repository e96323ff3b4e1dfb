//! Who comes first, and what is kept for whom.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::spec;
use crate::queue::{Rules, Turn, plan_all};
use crate::running::Running;
use crate::testing::{cliques, demand};
use crate::{Cluster, Demand, Eligibility, GangId, NodeName, Shape, place};

const MINUTE: Duration = Duration::from_mins(1);

fn runs(gang: &GangId, ends_in: Option<Duration>) -> Running {
    Running {
        gang: gang.clone(),
        priority: 0,
        ran_for: MINUTE,
        ends_in,
        may_be_ended: true,
    }
}

/// The gangs in the order of their turns.
fn in_order(waiting: &[Demand]) -> Vec<&Demand> {
    let mut queue: Vec<&Demand> = waiting.iter().collect();
    let turn = |demand: &Demand| Rules::default().turn(demand.priority, demand.waiting);
    queue.sort_by_key(|demand| {
        (
            turn(demand),
            std::cmp::Reverse(demand.waiting),
            &demand.gang,
        )
    });
    queue
}

#[test]
fn whoever_has_waited_long_enough_comes_first_whatever_its_priority() {
    let rules = Rules::default();
    let young = rules.aged_after / 2;
    let order = [
        rules.turn(-5, rules.aged_after),
        rules.turn(9, young),
        rules.turn(3, MINUTE),
        rules.turn(-5, young),
    ];
    assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
    assert_eq!(rules.turn(i32::MAX, rules.aged_after), Turn::Aged);
}

/// In how many minutes a large gang of low priority begins where every second minute one of high priority comes that has
/// half of the nodes for four minutes.
fn begins_after(rules: Rules, most: u32) -> Option<u32> {
    let mut cluster = cliques(&[4]);
    let (mut waiting, mut shadow) = (vec![demand("large", 4)], None);
    let mut ends: Vec<(GangId, u32)> = Vec::new();
    for minute in 0..most {
        if minute % 2 == 0 {
            let urgent = demand(&format!("urgent-{minute:04}"), 2);
            waiting.push(Demand {
                priority: 9,
                ..urgent
            });
        }
        let (over, on): (Vec<_>, Vec<_>) = ends.into_iter().partition(|(_, end)| *end <= minute);
        for (gang, _) in over {
            cluster.release(&gang);
        }
        ends = on;
        let running: Vec<Running> = ends.iter().map(|(gang, _)| runs(gang, None)).collect();
        let round = plan_all(&mut cluster, &waiting, &running, shadow.as_ref(), rules);
        shadow = round.shadow;
        for (gang, _) in round.placed {
            if gang.as_str() == "large" {
                return Some(minute);
            }
            waiting.retain(|demand| demand.gang != gang);
            ends.push((gang, minute + 4));
        }
        for demand in &mut waiting {
            demand.waiting += MINUTE;
        }
    }
    None
}

#[test]
fn l1_a_stream_of_more_important_gangs_lets_nobody_wait_for_ever() {
    let rules = Rules::default();
    let aged = u32::try_from(rules.aged_after.as_secs() / 60).unwrap();
    let begun = begins_after(rules, aged + 60).expect("it begins at last");
    assert!((aged..aged + 6).contains(&begun), "{begun}");
    let never = Rules {
        aged_after: Duration::MAX,
        ..rules
    };
    assert_eq!(begins_after(never, aged + 60), None, "by priority alone");
}

#[test]
fn a_single_free_gpu_of_a_kept_node_is_kept() {
    let of_gpus = |gang: &str, gpus: u32, minutes: u32| Demand {
        shape: Shape::new(gpus, Eligibility::default()),
        waiting: MINUTE * minutes,
        ..demand(gang, 1)
    };
    let mut cluster = cliques(&[1]);
    let part = of_gpus("part", 3, 0);
    let placement = place(&cluster, &part).unwrap();
    cluster.hold(&part.gang, &placement).unwrap();
    let running = [runs(&part.gang, None)];
    for (minutes, placed) in [(1, 1), (10, 0)] {
        let queue = [of_gpus("whole", 4, minutes), of_gpus("single", 1, 0)];
        let round = plan_all(&mut cluster, &queue, &running, None, Rules::default());
        assert_eq!(round.placed.len(), placed, "{minutes} minutes");
        cluster.release(&"single".into());
    }
}

/// A cluster in which some gangs run, and who they are.
fn in_use(nodes: &[spec::Spec], gangs: &[(Demand, Option<u32>)]) -> (Cluster, Vec<Running>) {
    let mut cluster = spec::cluster(nodes);
    let mut running = Vec::new();
    for (number, (demand, minutes)) in gangs.iter().enumerate() {
        let gang = GangId::from(format!("r{number}"));
        if let Some(placement) = place(&cluster, demand) {
            cluster.hold(&gang, &placement).unwrap();
            running.push(runs(&gang, minutes.map(|minutes| MINUTE * minutes)));
        }
    }
    (cluster, running)
}

fn queue(gangs: Vec<(Demand, i32, u32, Option<u32>)>) -> Vec<Demand> {
    let named = gangs.into_iter().enumerate();
    let demands = named.map(|(number, (demand, priority, minutes, runs_for))| Demand {
        gang: format!("g{number}").into(),
        priority,
        waiting: MINUTE * minutes,
        runs_for: runs_for.map(|minutes| MINUTE * minutes),
        ..demand
    });
    demands.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// Whoever is put before the head of the queue out of turn is off the head's nodes when it can begin: with all gone whose
    /// turn is before it, or who end by then, every node that it waits for is free.
    #[test]
    fn l1_nobody_behind_the_head_delays_it(
        nodes in spec::nodes(12),
        others in prop::collection::vec((spec::gang(), prop::option::of(1..60u32)), 0..5),
        gangs in prop::collection::vec((spec::gang(), 0..3i32, 0..20u32, prop::option::of(1..60u32)), 1..8),
    ) {
        let nodes: Vec<_> = nodes.into_iter().map(|node| spec::Spec { used: 0, ..node }).collect();
        let (mut cluster, running) = in_use(&nodes, &others);
        let waiting = queue(gangs);
        let rules = Rules::default();
        let round = plan_all(&mut cluster, &waiting, &running, None, rules);
        let Some(shadow) = round.shadow else { return Ok(()) };
        let order = in_order(&waiting);
        let at = order.iter().position(|demand| demand.gang == shadow.gang).unwrap();
        if shadow.begins_in.is_none() && order[at].waiting < rules.promote_after {
            return Ok(());
        }
        for gang in running.iter().map(|running| &running.gang).chain(order[..at].iter().map(|demand| &demand.gang)) {
            cluster.release(gang);
        }
        for demand in &order[at + 1..] {
            if shadow.begins_in.is_some_and(|begins_in| demand.runs_for.is_some_and(|runs_for| runs_for <= begins_in)) {
                cluster.release(&demand.gang);
            }
        }
        let wanted = order[at].shape.gpus_per_node();
        for name in &shadow.nodes {
            prop_assert!(cluster.free(name) >= Some(wanted), "{} waits for {name}", shadow.gang);
        }
    }

    /// The order in which facts and gangs are told changes nothing.
    #[test]
    fn s9_the_order_in_which_gangs_are_told_does_not_matter(
        nodes in spec::nodes(12),
        others in prop::collection::vec((spec::gang(), prop::option::of(1..60u32)), 0..4),
        gangs in prop::collection::vec((spec::gang(), 0..2i32, 0..20u32, Just(None)), 1..6),
    ) {
        let (mut cluster, running) = in_use(&nodes, &others);
        let mut waiting = queue(gangs);
        let mut other = Cluster::new(spec::levels());
        for (at, node) in nodes.iter().enumerate().rev() {
            other.upsert(node.facts(at));
        }
        for gang in running.iter().rev() {
            let (held, gpus) = cluster.held(&gang.gang).unwrap();
            let held: BTreeSet<NodeName> = held.cloned().collect();
            other.restore(&gang.gang, held, gpus);
        }
        let one = plan_all(&mut cluster, &waiting, &running, None, Rules::default());
        waiting.reverse();
        let reversed: Vec<Running> = running.into_iter().rev().collect();
        prop_assert_eq!(one, plan_all(&mut other, &waiting, &reversed, None, Rules::default()));
    }
}
