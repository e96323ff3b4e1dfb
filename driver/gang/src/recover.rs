//! What to do about nodes that a running gang has lost, or is about to lose.
//!
//! A planned drain (a Spot notice, the end of a capacity block) is a loss that is known before: the same
//! decision, carried out before the node goes. The replacement touches neither the domain's template
//! nor other nodes: the clique's session covers the new node already.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use crate::cluster::Cluster;
use crate::demand::Demand;
use crate::names::NodeName;
use crate::placement::{CliqueShare, Placement};
use crate::plan::{Bounds, place_on};
use crate::policy::CliquePolicy;
use crate::running::given_back;
use crate::view::View;

/// A node that takes the place of a lost one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Substitute {
    /// The lost node.
    pub lost: NodeName,
    /// The node that takes its rank.
    pub by: NodeName,
    /// Where it comes from.
    pub from: Source,
}

/// Where a substitute comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The gang's spares in the same clique.
    Spare,
    /// The free nodes of the same clique.
    Clique,
    /// The free nodes that are nearest.
    Wider,
}

/// What becomes of a gang that has lost nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// It is whole again with these.
    Replace(Vec<Substitute>),
    /// It goes on with fewer nodes, and grows again when there are some.
    Shrink {
        /// The lost nodes that are replaced.
        substitutes: Vec<Substitute>,
        /// How many nodes it has then.
        nodes: u32,
    },
    /// It is moved as a whole.
    Migrate(Placement),
    /// It is degraded and waits: for a node, or for the time after which it may be moved.
    Wait {
        /// How many nodes are missing.
        missing: u32,
        /// How long until the next thing can be tried, if there is one besides waiting for a node.
        again_in: Option<Duration>,
    },
}

/// Decides about the loss of nodes: a spare, a free node of the same clique, fewer nodes, a node farther
/// away, another place, as the policy allows.
///
/// `placement` is what the gang has and the cluster holds for it; `lost_for` is how long it has been
/// without the first of the nodes.
pub fn recover(
    cluster: &Cluster,
    demand: &Demand,
    placement: &Placement,
    lost: &BTreeSet<NodeName>,
    lost_for: Duration,
) -> Recovery {
    let policy = &demand.policy;
    let mut near = Near::of(cluster, demand, lost);
    let mut substitutes = Vec::new();
    let mut missing: Vec<(&NodeName, &CliqueShare)> = Vec::new();
    for share in &placement.cliques {
        let mut spares = share.spares.iter().map(|spare| &spare.name);
        for member in share
            .nodes
            .iter()
            .filter(|member| lost.contains(&member.name))
        {
            let spare = spares.find(|spare| near.is_usable_spare(spare));
            let spare = spare.map(|spare| (spare.clone(), Source::Spare));
            match spare.or_else(|| {
                near.take_in_clique(share)
                    .map(|name| (name, Source::Clique))
            }) {
                Some((by, from)) => substitutes.push(Substitute {
                    lost: member.name.clone(),
                    by,
                    from,
                }),
                None => missing.push((&member.name, share)),
            }
        }
    }
    if missing.is_empty() {
        return Recovery::Replace(substitutes);
    }
    let absent = u32::try_from(missing.len()).unwrap_or(u32::MAX);
    let left = u32::try_from(placement.size())
        .unwrap_or(u32::MAX)
        .saturating_sub(absent);
    if policy.replacement.shrink && left >= demand.nodes.min() {
        return Recovery::Shrink {
            substitutes,
            nodes: left,
        };
    }
    if policy.clique != CliquePolicy::Required {
        let wider = missing.iter().map(|(lost, share)| {
            let by = near.take_nearest(share)?;
            Some(Substitute {
                lost: (*lost).clone(),
                by,
                from: Source::Wider,
            })
        });
        if let Some(wider) = wider.collect::<Option<Vec<_>>>() {
            substitutes.extend(wider);
            return Recovery::Replace(substitutes);
        }
    }
    let left = policy.replacement.timeout.saturating_sub(lost_for);
    if policy.replacement.migrate && left.is_zero() {
        let own = given_back(cluster, [&demand.gang]);
        let moved = place_on(cluster, demand, &own);
        let clear = |moved: &Placement| moved.nodes().all(|name| !lost.contains(name));
        if let Some(moved) = moved.filter(clear) {
            return Recovery::Migrate(moved);
        }
    }
    Recovery::Wait {
        missing: absent,
        again_in: (policy.replacement.migrate && !left.is_zero()).then_some(left),
    }
}

/// Nodes by which a gang that has fewer nodes than it wants can grow: free nodes of the cliques in
/// which it is, in the order of its shares.
pub fn regrow(cluster: &Cluster, demand: &Demand, placement: &Placement) -> Vec<NodeName> {
    let size = u32::try_from(placement.size()).unwrap_or(u32::MAX);
    let none = BTreeSet::new();
    let mut near = Near::of(cluster, demand, &none);
    let wanted = demand.nodes.max().saturating_sub(size) as usize;
    let shares = placement.cliques.iter();
    let free = shares
        .flat_map(|share| std::iter::from_fn(|| near.take_in_clique(share)).collect::<Vec<_>>());
    free.take(wanted).collect()
}

/// Free nodes near those of a gang.
struct Near<'a> {
    cluster: &'a Cluster,
    demand: &'a Demand,
    lost: &'a BTreeSet<NodeName>,
    taken: HashSet<u32>,
    required: Option<usize>,
}

impl<'a> Near<'a> {
    fn of(cluster: &'a Cluster, demand: &'a Demand, lost: &'a BTreeSet<NodeName>) -> Self {
        let bounds = Bounds::of(cluster, &demand.policy).ok();
        Self {
            cluster,
            demand,
            lost,
            taken: HashSet::new(),
            required: bounds.and_then(Bounds::required),
        }
    }

    fn with_view<R>(&self, look: impl FnOnce(&View) -> R) -> R {
        let (shape, capacity) = (&self.demand.shape, &self.demand.policy.capacity);
        self.cluster.with_view(shape, capacity, look)
    }

    /// Whether a spare, which is held for the gang already, is still what it was.
    fn is_usable_spare(&self, name: &NodeName) -> bool {
        let at = self.cluster.number(name);
        !self.lost.contains(name)
            && at.is_some_and(|at| self.with_view(|view| view.is_eligible(at)))
    }

    fn is_free(&self, view: &View, at: u32) -> bool {
        let node = self.cluster.node(at);
        view.fits(at, node) && !self.taken.contains(&at) && !self.lost.contains(&node.name)
    }

    /// A free node of a share's clique.
    fn take_in_clique(&mut self, share: &CliqueShare) -> Option<NodeName> {
        let cluster = self.cluster;
        let clique = cluster.clique(cluster.clique_number(share.clique.as_ref()?)?);
        let found = self.with_view(|view| {
            let members = clique.members.iter().copied();
            let free = members.filter(|at| self.is_free(view, *at));
            free.min_by_key(|at| {
                let node = cluster.node(*at);
                (node.health, node.free())
            })
        })?;
        self.taken.insert(found);
        Some(cluster.node(found).name.clone())
    }

    /// The free node that shares the narrowest level with a share's nodes.
    fn take_nearest(&mut self, share: &CliqueShare) -> Option<NodeName> {
        let cluster = self.cluster;
        let own = share
            .nodes
            .iter()
            .find_map(|member| cluster.number(&member.name));
        let own = own.map(|at| cluster.clique(cluster.node(at).clique).path.clone());
        let own = own.unwrap_or_default();
        let shared = |path: &[Option<u32>]| {
            let mut pairs = own.iter().zip(path);
            pairs.rposition(|(own, other)| own.is_some() && own == other)
        };
        let found = self.with_view(|view| {
            let cliques = view
                .by_room()
                .map(|(room, place)| (cluster.clique(place.clique), room));
            let near = cliques.filter_map(|(clique, room)| {
                let level = shared(&clique.path);
                let inside = self.required.is_none_or(|required| level >= Some(required));
                let mut members = clique.members.iter().copied();
                let at = members.find(|at| inside && self.is_free(view, *at))?;
                Some((level, room, clique.order, at))
            });
            near.min_by_key(|(level, room, order, _)| (std::cmp::Reverse(*level), *room, *order))
        })?;
        self.taken.insert(found.3);
        Some(cluster.node(found.3).name.clone())
    }
}
