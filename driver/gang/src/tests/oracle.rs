//! What is possible, found by trying everything.

use std::collections::BTreeMap;

use super::spec::Spec;
use crate::Demand;
use crate::policy::{CliquePolicy, Policy};

/// Nodes by clique: how many there are, how many are healthy, and how many of these have room. A node
/// without fabric is a clique of its own.
#[derive(Clone, Copy, Debug)]
struct Pile {
    size: u32,
    healthy: u32,
    room: u32,
    block: u32,
    rack: Option<u32>,
}

fn piles(nodes: &[Spec], gpus: u32) -> Vec<Pile> {
    let mut cliques: BTreeMap<u32, Pile> = BTreeMap::new();
    let mut alone = Vec::new();
    for node in nodes {
        let fresh = Pile {
            size: 0,
            healthy: 0,
            room: 0,
            block: node.clique.unwrap_or(0) / 2,
            rack: node.clique.map(|clique| clique % 2),
        };
        let mut single = fresh;
        let pile = match node.clique {
            Some(clique) => cliques.entry(clique).or_insert(fresh),
            None => &mut single,
        };
        pile.size += 1;
        let healthy = node.health.takes_gangs();
        pile.healthy += u32::from(healthy);
        pile.room += u32::from(healthy && node.free() >= gpus);
        if node.clique.is_none() {
            alone.push(single);
        }
    }
    cliques.into_values().chain(alone).collect()
}

/// The fewest cliques for just so many nodes; none if they do not fit.
pub(super) fn fewest_cliques(nodes: &[Spec], demand: &Demand, wanted: u32) -> Option<u32> {
    let piles = piles(nodes, demand.shape.gpus_per_node());
    search(&piles, &demand.policy, wanted)
}

/// The same if nobody used anything.
pub(super) fn fits_if_all_were_free(nodes: &[Spec], demand: &Demand, wanted: u32) -> bool {
    let mut piles = piles(nodes, demand.shape.gpus_per_node());
    for pile in &mut piles {
        pile.room = pile.healthy;
    }
    search(&piles, &demand.policy, wanted).is_some()
}

fn search(piles: &[Pile], policy: &Policy, wanted: u32) -> Option<u32> {
    let groups: Vec<Vec<Pile>> = match policy.required_level.as_deref() {
        None => vec![piles.to_vec()],
        Some(level) => {
            let mut groups: BTreeMap<(u32, u32), Vec<Pile>> = BTreeMap::new();
            for pile in piles {
                let group = match level {
                    "block" => Some((pile.block, 0)),
                    _ => pile.rack.map(|rack| (pile.block, rack)),
                };
                if let Some(group) = group {
                    groups.entry(group).or_default().push(*pile);
                }
            }
            groups.into_values().collect()
        }
    };
    let largest = piles.iter().map(|pile| pile.size).max().unwrap_or(0);
    let segments: Vec<u32> = match (policy.clique, policy.segment) {
        (CliquePolicy::Required, Some(segment)) => vec![segment.get()],
        (CliquePolicy::Required, None) if wanted > largest && largest >= 2 => vec![largest],
        (CliquePolicy::Required, None) => vec![wanted],
        // A single node is always a segment.
        (CliquePolicy::Preferred, _) => vec![1],
        (CliquePolicy::Spread, segment) => vec![segment.map_or(1, std::num::NonZeroU32::get)],
    };
    let each = groups.iter().flat_map(|group| {
        let segments = segments.iter();
        segments.filter_map(|segment| deal(group, wanted, *segment, wanted % *segment))
    });
    each.min()
}

/// Tries every number of nodes for every clique: all but one are whole segments, and that one may have
/// the rest beside its own.
fn deal(piles: &[Pile], wanted: u32, segment: u32, rest: u32) -> Option<u32> {
    let Some((first, others)) = piles.split_first() else {
        return (wanted == 0).then_some(0);
    };
    let takes = (0..=first.room.min(wanted)).filter_map(|nodes| {
        let left = match nodes % segment {
            0 => rest,
            beside if beside == rest => 0,
            _ => return None,
        };
        let others = deal(others, wanted - nodes, segment, left)?;
        Some(others + u32::from(nodes > 0))
    });
    takes.min()
}
