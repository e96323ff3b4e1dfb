//! How a domain finds its place where each has its nodes to itself, for the sake of an NVLink session of its own.

use std::collections::BTreeSet;

use tessera_api::ComputeDomain;
use tessera_gang::{Blocked, Demand, Shape};

use super::{NotPlaced, Site};
use crate::tenants::Tenants;

impl<'a> Site<'a> {
    /// What the planner is asked for: where domains have nodes as a whole, a free GPU at least, so that a domain whose pods
    /// ask for none is not put on a node that another has.
    pub(crate) fn asked(&self, demand: &Demand) -> Demand {
        let mut asked = demand.clone();
        let whole = self.tenants.is_some_and(Tenants::are_needed);
        if whole && demand.shape.gpus_per_node() == 0 {
            asked.shape = Shape::new(1, demand.shape.eligibility().clone());
        }
        asked
    }

    /// Why it has no nodes, with those that others have.
    pub(super) fn blocked(&self, domain: &ComputeDomain, blocked: Blocked) -> NotPlaced {
        let uid = domain.metadata.uid.as_deref().unwrap_or_default();
        let others = self
            .tenants
            .map(|tenants| tenants.others(self.world, self.promised, uid));
        match others {
            Some(held) if blocked.passes() && !held.is_empty() => {
                NotPlaced::NodesOfOthers { blocked, held }
            }
            _ => blocked.into(),
        }
    }

    /// The nodes that other domains have, where each has a session of its own.
    pub(super) fn nodes_of_others(&self, domain: &ComputeDomain) -> BTreeSet<&'a str> {
        let uid = domain.metadata.uid.as_deref().unwrap_or_default();
        let nodes = self
            .tenants
            .map(|tenants| tenants.nodes(self.world, self.promised));
        let others = nodes.into_iter().flatten();
        let others = others.filter(|(other, _)| *other != uid);
        others.flat_map(|(_, nodes)| nodes).collect()
    }
}
