//! Whom to end for a gang of higher priority.
//!
//! The default scheduler does not preempt users of claims (KEP-5690 is to change that for devices of
//! one node), so that a `PriorityClass` on GPUs would mean nothing.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::demand::Demand;
use crate::fill::Vacancy;
use crate::names::GangId;
use crate::placement::Placement;
use crate::plan::{Bounds, needs_one_clique, place, place_on};
use crate::running::{Running, given_back};

/// Gangs to be ended, and where the gang is put when they are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// Who is ended. Without any one of them there would be no room.
    pub victims: Vec<GangId>,
    /// Where the gang is put.
    pub placement: Placement,
}

/// What it costs to end gangs: first how many are disturbed, then how important they are, then how
/// much work is lost, in GPU seconds, then how many nodes they leave.
type Cost = (usize, i64, u64, usize);

struct Victim<'a> {
    running: &'a Running,
    nodes: Vec<u32>,
    lost: u64,
}

/// Whom to end so that a gang fits: fewest gangs first, and only if the whole gang fits then.
///
/// None if the gang's policy does not preempt, if it fits as things are, or if ending every gang of
/// lower priority would not help. Exact for a gang in one clique on whole nodes; for others a set
/// from which nobody can be left out, found from the largest gangs on.
pub fn preempt(cluster: &Cluster, demand: &Demand, running: &[Running]) -> Option<Preemption> {
    if !demand.policy.preempts || place(cluster, demand).is_some() {
        return None;
    }
    let lower = running
        .iter()
        .filter(|other| other.may_be_ended && other.priority < demand.priority);
    let victims: Vec<Victim<'_>> = lower.map(|running| Victim::of(cluster, running)).collect();
    let exact = in_one_clique(cluster, demand, &victims);
    let chosen = exact.or_else(|| largest_first(cluster, demand, &victims))?;
    let placement = after(cluster, demand, &victims, &chosen)?;
    let victims = chosen
        .into_iter()
        .map(|at| victims[at].running.gang.clone());
    Some(Preemption {
        victims: victims.collect(),
        placement,
    })
}

impl<'a> Victim<'a> {
    fn of(cluster: &Cluster, running: &'a Running) -> Self {
        let held: Vec<(u32, u32)> = cluster.held_nodes(&running.gang).collect();
        let gpus: u64 = held.iter().map(|(_, gpus)| u64::from(*gpus)).sum();
        Self {
            running,
            nodes: held.into_iter().map(|(at, _)| at).collect(),
            lost: gpus.saturating_mul(running.ran_for.as_secs()),
        }
    }
}

/// Where the gang would be put if these were gone.
fn after(
    cluster: &Cluster,
    demand: &Demand,
    victims: &[Victim<'_>],
    gone: &[usize],
) -> Option<Placement> {
    let gangs = gone.iter().map(|at| &victims[*at].running.gang);
    place_on(cluster, demand, &given_back(cluster, gangs))
}

/// The cheapest victims for a gang that must be in one clique.
fn in_one_clique(cluster: &Cluster, demand: &Demand, victims: &[Victim<'_>]) -> Option<Vec<usize>> {
    let bounds = Bounds::of(cluster, &demand.policy).ok()?;
    let capacity = &demand.policy.capacity;
    cluster.with_view(&demand.shape, capacity, |view| {
        let vacancy = Vacancy { cluster, view };
        if !needs_one_clique(vacancy, demand) {
            return None;
        }
        // Per clique: who would free how many nodes.
        let mut offers: BTreeMap<u32, Vec<(usize, usize)>> = BTreeMap::new();
        for (number, victim) in victims.iter().enumerate() {
            let freed = given_back(cluster, [&victim.running.gang]);
            let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
            for at in &victim.nodes {
                let node = cluster.node(*at);
                let gains = !view.fits(*at, node) && view.would_fit(*at, node.free_with(freed[at]));
                if gains {
                    *counts.entry(node.clique).or_default() += 1;
                }
            }
            for (clique, nodes) in counts {
                offers.entry(clique).or_default().push((number, nodes));
            }
        }
        let wanted = demand.nodes.min() as usize;
        let best = offers
            .iter()
            .filter(|(clique, _)| vacancy.is_within(**clique, bounds.required()))
            .filter_map(|(clique, offers)| {
                let missing = wanted.saturating_sub(view.room(*clique) as usize);
                let (cost, chosen) = cheapest(offers, missing, victims)?;
                Some((cost, cluster.clique(*clique).order, chosen))
            });
        best.min().map(|(.., chosen)| chosen)
    })
}

/// The cheapest of the offers that together free so many nodes: a knapsack by how many nodes are freed.
fn cheapest(
    offers: &[(usize, usize)],
    missing: usize,
    victims: &[Victim<'_>],
) -> Option<(Cost, Vec<usize>)> {
    let mut best: Vec<Option<(Cost, Vec<usize>)>> = vec![None; missing + 1];
    best[0] = Some(((0, 0, 0, 0), Vec::new()));
    for &(number, nodes) in offers {
        let victim = &victims[number];
        for freed in (0..missing).rev() {
            let Some((cost, chosen)) = best[freed].clone() else {
                continue;
            };
            let next = (freed + nodes).min(missing);
            let cost = (
                cost.0 + 1,
                cost.1 + i64::from(victim.running.priority),
                cost.2.saturating_add(victim.lost),
                cost.3 + victim.nodes.len(),
            );
            if best[next].as_ref().is_none_or(|(other, _)| cost < *other) {
                let chosen = chosen.into_iter().chain([number]).collect();
                best[next] = Some((cost, chosen));
            }
        }
    }
    best.pop().flatten()
}

/// Ends the largest gangs until it fits, then spares whoever need not end.
fn largest_first(cluster: &Cluster, demand: &Demand, victims: &[Victim<'_>]) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = (0..victims.len()).collect();
    order.sort_by_key(|at| {
        let victim = &victims[*at];
        (
            Reverse(victim.nodes.len()),
            victim.running.priority,
            victim.lost,
            &victim.running.gang,
        )
    });
    let fits = |gone: &[usize]| after(cluster, demand, victims, gone).is_some();
    if !fits(&order) {
        return None;
    }
    // Whoever more is ended, it does not fit worse: the least number of them is found by halving.
    let (mut too_few, mut enough) = (0, order.len());
    while too_few + 1 < enough {
        let middle = usize::midpoint(too_few, enough);
        if fits(&order[..middle]) {
            enough = middle;
        } else {
            too_few = middle;
        }
    }
    let mut chosen = order[..enough].to_vec();
    let mut at = chosen.len();
    while at > 0 {
        at -= 1;
        let spared = chosen.remove(at);
        if !fits(&chosen) {
            chosen.insert(at, spared);
        }
    }
    Some(chosen)
}
