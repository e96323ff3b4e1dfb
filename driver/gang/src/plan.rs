//! Plans one gang.

use std::collections::HashMap;
use std::num::NonZeroU32;

use crate::blocked::{Alternative, Blocked, Census};
use crate::cluster::Cluster;
use crate::demand::{Demand, NodeCount};
use crate::fill::{Choice, Share, Vacancy};
use crate::node::{CapacityType, Health};
use crate::placement::{CliqueShare, Member, Placement};
use crate::policy::{CliquePolicy, Policy};

/// Where a gang is to be put, or why it is not.
pub fn plan(cluster: &Cluster, demand: &Demand) -> Result<Placement, Blocked> {
    place(cluster, demand).ok_or_else(|| why(cluster, demand))
}

/// Where a gang is to be put. As [`plan`], without the work of finding out why not.
pub fn place(cluster: &Cluster, demand: &Demand) -> Option<Placement> {
    let bounds = Bounds::of(cluster, &demand.policy).ok()?;
    capacity_steps(&demand.policy.capacity).find_map(|capacity| {
        cluster.with_view(&demand.shape, capacity, |view| {
            bounds.place(Vacancy { cluster, view }, demand)
        })
    })
}

/// Where a gang would be put if so many GPUs of these nodes were given back.
pub(crate) fn place_on(
    cluster: &Cluster,
    demand: &Demand,
    freed: &HashMap<u32, u32>,
) -> Option<Placement> {
    let bounds = Bounds::of(cluster, &demand.policy).ok()?;
    capacity_steps(&demand.policy.capacity).find_map(|capacity| {
        cluster.with_view(&demand.shape, capacity, |view| {
            let view = view.with_freed(freed.clone(), &cluster.nodes, &cluster.cliques);
            let view = &view;
            bounds.place(Vacancy { cluster, view }, demand)
        })
    })
}

/// Why a gang cannot be put anywhere as things are. Meant for gangs that [`place`] has no place for.
pub fn why(cluster: &Cluster, demand: &Demand) -> Blocked {
    let within = match Bounds::of(cluster, &demand.policy) {
        Ok(bounds) => bounds.required,
        Err(blocked) => return blocked,
    };
    let (policy, wanted) = (&demand.policy, demand.nodes.min());
    let census = || Census::take(cluster, demand);
    let (barren, possible, now, best) =
        cluster.with_view(&demand.shape, &policy.capacity, |view| {
            let vacancy = Vacancy { cluster, view };
            let emptied = view.emptied(&cluster.cliques);
            let empty = Vacancy {
                cluster,
                view: &emptied,
            };
            (
                view.is_barren(),
                largest(empty, policy, within),
                largest(vacancy, policy, within),
                vacancy.roomiest(within),
            )
        });
    if barren {
        return Blocked::NoEligibleNode { census: census() };
    }
    if possible < wanted {
        return Blocked::TooLarge {
            wanted,
            possible,
            policy: policy.clique,
            level: policy.required_level.clone(),
            census: census(),
        };
    }
    Blocked::InsufficientFree {
        wanted,
        gpus_per_node: demand.shape.gpus_per_node(),
        fits: now,
        policy: policy.clique,
        best: best.and_then(|(clique, room)| Some((cluster.clique(clique).id.clone()?, room))),
        alternative: alternative(cluster, demand),
    }
}

/// The levels that a policy names, by their numbers.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    required: Option<usize>,
    preferred: Option<usize>,
}

impl Bounds {
    pub(crate) fn of(cluster: &Cluster, policy: &Policy) -> Result<Self, Blocked> {
        let number = |level: &Option<String>| match level {
            None => Ok(None),
            Some(key) => match cluster.levels().position(key) {
                Some(number) => Ok(Some(number)),
                None => Err(Blocked::UnknownLevel {
                    level: key.clone(),
                    known: cluster.levels().keys().to_vec(),
                }),
            },
        };
        Ok(Self {
            required: number(&policy.required_level)?,
            preferred: number(&policy.preferred_level)?,
        })
    }

    pub(crate) fn required(self) -> Option<usize> {
        self.required
    }

    fn place(self, vacancy: Vacancy<'_>, demand: &Demand) -> Option<Placement> {
        let mut steps = self.steps();
        let choice =
            steps.find_map(|within| choose(vacancy, &demand.policy, demand.nodes, within))?;
        Some(vacancy.placement(&choice, demand))
    }

    /// The levels to be tried one after the other. A preferred level that is broader than the required one says nothing.
    fn steps(self) -> impl Iterator<Item = Option<usize>> {
        let first = self
            .preferred
            .filter(|preferred| self.required.is_none_or(|required| *preferred > required));
        first.map(Some).into_iter().chain([self.required])
    }
}

/// The types of capacity to be tried one after the other: the first alone, the first two, and so on.
fn capacity_steps(capacity: &[CapacityType]) -> impl Iterator<Item = &[CapacityType]> {
    let any = capacity.is_empty().then_some(capacity);
    any.into_iter()
        .chain((1..=capacity.len()).map(|to| &capacity[..to]))
}

/// Whether a gang must be in one clique, whichever.
pub(crate) fn needs_one_clique(vacancy: Vacancy<'_>, demand: &Demand) -> bool {
    let policy = &demand.policy;
    policy.clique == CliquePolicy::Required
        && required_segment(vacancy, policy, demand.nodes.min()).is_none()
}

fn choose(
    vacancy: Vacancy<'_>,
    policy: &Policy,
    count: NodeCount,
    within: Option<usize>,
) -> Option<Choice> {
    match policy.clique {
        CliquePolicy::Required => required(vacancy, policy, count, within),
        CliquePolicy::Preferred => required(vacancy, policy, count, within)
            .or_else(|| relaxed(vacancy, policy, count, within)),
        CliquePolicy::Spread => vacancy.most_cliques(count, segment_or(policy, 1), within),
    }
}

fn required(
    vacancy: Vacancy<'_>,
    policy: &Policy,
    count: NodeCount,
    within: Option<usize>,
) -> Option<Choice> {
    match required_segment(vacancy, policy, count.min()) {
        Some(segment) => vacancy.fewest_cliques(count, segment, within),
        None => vacancy.one_clique(count, policy.spares, within),
    }
}

/// How many nodes must share a clique; none if all must.
///
/// A gang that is larger than any clique is cut into whole cliques. Where no clique has two nodes
/// there is no NVLink between nodes, and nothing to be cut.
fn required_segment(vacancy: Vacancy<'_>, policy: &Policy, nodes: u32) -> Option<u32> {
    let largest = vacancy.view.largest_size();
    let cut = (nodes > largest && largest >= 2).then_some(largest);
    policy.segment.map(NonZeroU32::get).or(cut)
}

/// Halves what should share a clique until it fits.
fn relaxed(
    vacancy: Vacancy<'_>,
    policy: &Policy,
    count: NodeCount,
    within: Option<usize>,
) -> Option<Choice> {
    let whole = required_segment(vacancy, policy, count.min()).unwrap_or(count.min());
    let halves = std::iter::successors(Some(whole / 2), |half| Some(half / 2));
    let mut halves = halves.take_while(|half| *half > 0);
    let choice = halves.find_map(|half| vacancy.fewest_cliques(count, half, within))?;
    Some(Choice {
        relaxed_from: NonZeroU32::new(whole),
        ..choice
    })
}

fn segment_or(policy: &Policy, default: u32) -> u32 {
    policy.segment.map_or(default, NonZeroU32::get)
}

fn largest(vacancy: Vacancy<'_>, policy: &Policy, within: Option<usize>) -> u32 {
    let in_segments = |segment: u32| {
        let nodes = vacancy.largest_in_segments(segment, within);
        u32::try_from(nodes).unwrap_or(u32::MAX)
    };
    match policy.clique {
        CliquePolicy::Required => {
            // Beyond the largest clique a gang is cut into pieces of that size.
            match required_segment(vacancy, policy, u32::MAX) {
                Some(segment) => in_segments(segment),
                None => vacancy.roomiest(within).map_or(0, |(_, room)| room),
            }
        }
        CliquePolicy::Preferred => in_segments(1),
        CliquePolicy::Spread => in_segments(segment_or(policy, 1)),
    }
}

/// A change of a policy.
type Change<'a> = &'a dyn Fn(&mut Policy);

/// A policy under which the gang would fit now.
fn alternative(cluster: &Cluster, demand: &Demand) -> Option<Alternative> {
    let would_fit = |change: &dyn Fn(&mut Policy)| {
        let mut other = demand.clone();
        change(&mut other.policy);
        other.policy != demand.policy && place(cluster, &other).is_some()
    };
    let halved = |segment: &NonZeroU32| NonZeroU32::new(segment.get() / 2);
    let segments = std::iter::successors(demand.policy.segment, halved).skip(1);
    let fits_in =
        |segment: &NonZeroU32| would_fit(&|policy: &mut Policy| policy.segment = Some(*segment));
    if let Some(segment) = { segments }.find(fits_in) {
        return Some(Alternative::Segment(segment));
    }
    let candidates: [(Alternative, Change<'_>); 3] = [
        (Alternative::Preferred, &|policy| {
            policy.clique = CliquePolicy::Preferred;
        }),
        (Alternative::AnyCapacity, &|policy| policy.capacity.clear()),
        (Alternative::AnyLevel, &|policy| {
            policy.required_level = None;
        }),
    ];
    let found = candidates.into_iter().find(|(_, change)| would_fit(change));
    found.map(|(alternative, _)| alternative)
}

impl Vacancy<'_> {
    /// The nodes of a choice, in the order of ranks.
    pub(crate) fn placement(self, choice: &Choice, demand: &Demand) -> Placement {
        let mut shares = choice.shares.clone();
        if shares.len() > 1 {
            shares.sort_by_cached_key(|share| self.neighbourhood(share.clique));
        }
        let mut wanted = demand.policy.spares;
        let cliques = shares
            .iter()
            .map(|share| {
                let more = wanted.min(share.room - share.nodes);
                wanted -= more;
                self.nodes(*share, more)
            })
            .collect();
        Placement {
            cliques,
            gpus_per_node: demand.shape.gpus_per_node(),
            segment: choice.segment,
            level: self.shared_level(&shares),
            relaxed_from: choice.relaxed_from,
        }
    }

    /// What orders cliques: their groups from broad to narrow, then their names.
    fn neighbourhood(self, clique: u32) -> (Vec<Option<Vec<String>>>, String) {
        let cluster = self.cluster;
        let clique = cluster.clique(clique);
        let groups = clique.path.iter().map(|group| {
            let values = cluster.group_values((*group)?);
            Some(values.into_iter().map(str::to_owned).collect())
        });
        let id = clique.id.as_ref().map(ToString::to_string);
        let name = id.unwrap_or_else(|| cluster.node(clique.members[0]).name.to_string());
        (groups.collect(), name)
    }

    fn shared_level(self, shares: &[Share]) -> Option<String> {
        let (first, others) = shares.split_first()?;
        let path = &self.cluster.clique(first.clique).path;
        let level = path.iter().enumerate().rposition(|(level, group)| {
            let same = |share: &Share| self.cluster.clique(share.clique).path[level] == *group;
            group.is_some() && others.iter().all(same)
        })?;
        Some(self.cluster.levels().keys()[level].clone())
    }

    /// Takes nodes of a clique: those without suspicion, then those that are fullest, so that whole
    /// nodes stay whole, then by name.
    fn nodes(self, share: Share, spares: u32) -> CliqueShare {
        let clique = self.cluster.clique(share.clique);
        let mut fitting: Vec<(bool, u32, u32)> = Vec::with_capacity(share.room as usize);
        for &at in &clique.members {
            if self.view.is_taken(at) {
                continue;
            }
            let node = self.cluster.node(at);
            if self.view.fits(at, node) {
                fitting.push((node.health == Health::Suspect, self.view.free(at, node), at));
            }
        }
        fitting.sort_by_key(|(suspect, free, _)| (*suspect, *free));
        let member = |at: u32| Member {
            name: self.cluster.node(at).name.clone(),
            at,
        };
        let mut all = fitting.into_iter().map(|(.., at)| member(at));
        let mut nodes: Vec<Member> = all.by_ref().take(share.nodes as usize).collect();
        let spares = all.take(spares as usize).collect();
        if !nodes.is_sorted_by(|a, b| a.name <= b.name) {
            nodes.sort_by(|a, b| a.name.cmp(&b.name));
        }
        CliqueShare {
            clique: clique.id.clone(),
            nodes,
            spares,
        }
    }
}
