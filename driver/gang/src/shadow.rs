//! For which nodes the gang at the head of the queue waits.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::cluster::Cluster;
use crate::demand::Demand;
use crate::fill::Vacancy;
use crate::names::{GangId, NodeName};
use crate::plan::Bounds;
use crate::policy::CliquePolicy;
use crate::running::Running;

/// The nodes that a waiting gang is to have when they are free.
///
/// Gangs behind it may use them only if they end before it can begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// Who waits.
    pub gang: GangId,
    /// For which nodes.
    pub nodes: Vec<NodeName>,
    /// When the last of them is free at the latest; none if a gang without a deadline is on one.
    pub begins_in: Option<Duration>,
}

/// A node as the shadow sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seat {
    /// When it is free: zero now, `MAX` if nobody knows.
    free_in: Duration,
    /// Its place among its clique's nodes, which are in the order of names.
    order: usize,
    at: u32,
}

/// A segment's nodes in one clique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    free_in: Duration,
    /// How many of its nodes are not free now.
    busy: usize,
    /// What breaks ties.
    order: u64,
    clique: usize,
}

/// A clique's eligible nodes, those that are free soonest first.
struct Seats {
    order: u64,
    path: Box<[Option<u32>]>,
    nodes: Vec<Seat>,
}

impl Shadow {
    /// The nodes that are free soonest for a gang that does not fit now; none if it never fits.
    ///
    /// Where nobody knows when nodes are free, those cliques are taken in which fewest are missing.
    pub(crate) fn of(cluster: &Cluster, demand: &Demand, running: &[Running]) -> Option<Self> {
        let bounds = Bounds::of(cluster, &demand.policy).ok()?;
        let ends = ends(cluster, running);
        let (cliques, largest) =
            cluster.with_view(&demand.shape, &demand.policy.capacity, |view| {
                let vacancy = Vacancy { cluster, view };
                (seats(vacancy, &ends), view.largest_size())
            });
        let nodes = demand.nodes.min();
        let cut = if nodes > largest { largest } else { nodes };
        let usual = match demand.policy.clique {
            CliquePolicy::Required | CliquePolicy::Preferred => cut,
            CliquePolicy::Spread => 1,
        };
        let segment = demand
            .policy
            .segment
            .map_or(usual, std::num::NonZeroU32::get);
        // By their values, so that the order in which nodes came does not matter.
        let groups: BTreeMap<Vec<&str>, Option<u32>> = match bounds.required() {
            None => BTreeMap::from([(Vec::new(), None)]),
            Some(level) => {
                let groups = cliques.iter().filter_map(|clique| clique.path[level]);
                groups
                    .map(|group| (cluster.group_values(group), Some(group)))
                    .collect()
            }
        };
        let chosen = groups.into_values().filter_map(|group| {
            let inside = |clique: &&Seats| group.is_none() || clique.path.contains(&group);
            let cliques: Vec<&Seats> = cliques.iter().filter(inside).collect();
            soonest(&cliques, nodes as usize, (segment as usize).max(1))
        });
        let best = chosen.min_by_key(|seats| (last(seats), busy(seats)))?;
        let begins_in = Some(last(&best)).filter(|time| *time < Duration::MAX);
        let nodes = best.iter().map(|seat| cluster.node(seat.at).name.clone());
        Some(Self {
            gang: demand.gang.clone(),
            nodes: nodes.collect(),
            begins_in,
        })
    }

    /// Whether it still says which nodes its gang waits for: all are still eligible.
    pub(crate) fn holds(&self, cluster: &Cluster, demand: &Demand) -> bool {
        self.gang == demand.gang
            && self.nodes.len() >= demand.nodes.min() as usize
            && cluster.with_view(&demand.shape, &demand.policy.capacity, |view| {
                let mut nodes = self.nodes.iter().map(|name| cluster.number(name));
                nodes.all(|at| at.is_some_and(|at| view.is_eligible(at)))
            })
    }
}

/// When each held node is free.
fn ends(cluster: &Cluster, running: &[Running]) -> HashMap<u32, Duration> {
    let mut ends: HashMap<u32, Duration> = HashMap::new();
    for gang in running {
        let end = gang.ends_in.unwrap_or(Duration::MAX);
        for (at, _) in cluster.held_nodes(&gang.gang) {
            let latest = ends.entry(at).or_default();
            *latest = end.max(*latest);
        }
    }
    ends
}

fn seats(vacancy: Vacancy<'_>, ends: &HashMap<u32, Duration>) -> Vec<Seats> {
    let cluster = vacancy.cluster;
    let cliques = cluster.cliques.iter().flatten();
    let mut all: Vec<Seats> = cliques
        .map(|clique| {
            let members = clique.members.iter().enumerate();
            let eligible = members.filter(|(_, at)| vacancy.view.is_eligible(**at));
            let mut seats: Vec<Seat> = eligible
                .map(|(order, &at)| {
                    let fits = vacancy.view.fits(at, cluster.node(at));
                    let free_in = if fits {
                        Duration::ZERO
                    } else {
                        ends.get(&at).copied().unwrap_or(Duration::MAX)
                    };
                    Seat { free_in, order, at }
                })
                .collect();
            seats.sort_unstable();
            Seats {
                order: clique.order,
                path: clique.path.clone(),
                nodes: seats,
            }
        })
        .filter(|clique| !clique.nodes.is_empty())
        .collect();
    all.sort_by_key(|clique| clique.order);
    all
}

/// The seats of a gang in segments: whole segments where they are free soonest, and the rest beside them or alone.
fn soonest(cliques: &[&Seats], nodes: usize, segment: usize) -> Option<Vec<Seat>> {
    let mut blocks: Vec<Block> = Vec::new();
    for (clique, seats) in cliques.iter().enumerate() {
        for block in seats.nodes.chunks_exact(segment) {
            blocks.push(Block {
                free_in: last(block),
                busy: busy(block),
                order: seats.order,
                clique,
            });
        }
    }
    let whole = nodes / segment;
    if blocks.len() < whole {
        return None;
    }
    blocks.sort_unstable();
    let mut taken = vec![0; cliques.len()];
    for block in &blocks[..whole] {
        taken[block.clique] += segment;
    }
    let rest = nodes % segment;
    if rest > 0 {
        let beside = cliques.iter().enumerate().filter_map(|(clique, seats)| {
            let seats = seats.nodes.get(taken[clique]..taken[clique] + rest)?;
            Some((last(seats), busy(seats), cliques[clique].order, clique))
        });
        let (.., clique) = beside.min()?;
        taken[clique] += rest;
    }
    let seats = cliques.iter().zip(taken);
    Some(
        seats
            .flat_map(|(seats, taken)| seats.nodes[..taken].iter().copied())
            .collect(),
    )
}

fn last(seats: &[Seat]) -> Duration {
    seats
        .iter()
        .map(|seat| seat.free_in)
        .max()
        .unwrap_or_default()
}

fn busy(seats: &[Seat]) -> usize {
    seats
        .iter()
        .filter(|seat| seat.free_in > Duration::ZERO)
        .count()
}
