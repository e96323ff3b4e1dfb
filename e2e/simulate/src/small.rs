//! Small cases against the best that trying everything finds.

use tessera_gang::{Cluster, Levels, place};

use crate::chance::Chance;
use crate::layout::Layout;
use crate::placers::demand;

/// How many nodes were put to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// By the planner, which takes gangs as they come and knows none that come later.
    pub planned: u32,
    /// By somebody who knows them all and tries everything.
    pub best: u32,
}

/// Cliques of an empty cluster and gangs that arrive one after the other and stay; a gang that does not fit leaves.
pub fn case(seed: u64) -> Case {
    let mut chance = Chance::new(seed);
    let sizes: Vec<u32> = (0..chance.between(2, 4))
        .map(|_| chance.between(2, 6) as u32)
        .collect();
    let gangs: Vec<u32> = (0..chance.between(4, 8))
        .map(|_| chance.between(1, 5) as u32)
        .collect();
    Case {
        planned: planned(&sizes, &gangs),
        best: best(&mut sizes.clone(), &gangs),
    }
}

fn planned(sizes: &[u32], gangs: &[u32]) -> u32 {
    let mut cluster = Cluster::new(Levels::default());
    let largest = sizes.iter().copied().max().unwrap_or(0);
    for (clique, size) in sizes.iter().enumerate() {
        let layout = Layout {
            nodes: *size,
            clique: *size,
        };
        for node in 0..*size {
            let mut facts = layout.facts(node);
            facts.name = format!("node-{clique}-{node}").into();
            facts.clique = Some(format!("rack-{clique}").as_str().into());
            cluster.upsert(facts);
        }
    }
    let mut used = 0;
    for (number, nodes) in gangs.iter().enumerate() {
        let wanted = demand(number.to_string().into(), *nodes);
        // A gang that is larger than any clique would be cut into cliques; here it leaves.
        let placement = if *nodes <= largest {
            place(&cluster, &wanted)
        } else {
            None
        };
        if let Some(placement) = placement {
            cluster
                .hold(&wanted.gang, &placement)
                .expect("a plan takes only what is free");
            used += nodes;
        }
    }
    used
}

fn best(room: &mut [u32], gangs: &[u32]) -> u32 {
    let Some((first, others)) = gangs.split_first() else {
        return 0;
    };
    let mut most = best(room, others);
    for at in 0..room.len() {
        // Cliques with the same room are alike.
        if room[at] >= *first && !room[..at].contains(&room[at]) {
            room[at] -= first;
            most = most.max(first + best(room, others));
            room[at] += first;
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_plan_is_better_than_trying_everything_and_few_are_much_worse() {
        let cases: Vec<Case> = (0..300).map(case).collect();
        assert!(cases.iter().all(|case| case.planned <= case.best));
        let (planned, best) = cases.iter().fold((0, 0), |(planned, best), case| {
            (planned + case.planned, best + case.best)
        });
        assert!(
            f64::from(planned) > 0.9 * f64::from(best),
            "{planned} of {best}"
        );
        assert!(
            cases.iter().any(|case| case.planned < case.best),
            "else the bound shows nothing"
        );
    }
}
