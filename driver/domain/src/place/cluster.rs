//! The cluster as the planner sees it: what is promised is held, and what is kept for the head of the queue is not given away.

use std::collections::BTreeSet;

use tessera_api::ComputeDomain;
use tessera_gang::head::Head;
use tessera_gang::{
    Blocked, CapacityType, CliqueId, Cluster, Demand, Health, NodeFacts as GangNode, Placement,
};

use super::{NotPlaced, Site, clique, gpus, nodes, taints};
use crate::facts::{FabricFacts, NodeFacts, ObjectName};
use crate::promised;
use crate::room::{self, Holder};
use crate::slots::Slots;

/// The first gang that waits for room.
#[derive(Debug)]
pub(crate) struct Ahead {
    pub(crate) name: ObjectName,
    pub(crate) head: Head,
}

impl Site<'_> {
    /// Where a gang goes, behind the one that waits before it if there is one.
    pub(crate) fn plan(
        &self,
        cluster: &mut Cluster,
        domain: &ComputeDomain,
        demand: &Demand,
    ) -> Result<Placement, NotPlaced> {
        let asked = self.asked(demand);
        let Some(Ahead { name, head }) = self.ahead else {
            let planned = tessera_gang::plan(cluster, &asked);
            return planned.map_err(|blocked| self.blocked(domain, blocked));
        };
        head.lay(cluster);
        let planned = head.plan(cluster, &asked);
        head.lift(cluster);
        planned.map_err(|blocked| match blocked {
            Blocked::BlockedByShadow { wanted, .. } => NotPlaced::Behind {
                wanted,
                ahead: name.clone(),
            },
            blocked => self.blocked(domain, blocked),
        })
    }

    /// The cluster as the planner sees it for `domain`: what is promised is held, and cliques that it cannot have for
    /// the sake of channels are left out.
    pub(crate) fn with_cluster<R>(
        &self,
        domain: &ComputeDomain,
        look: impl FnOnce(&mut Cluster) -> R,
    ) -> R {
        let excluded = self.excluded(domain, None);
        let uid = domain.metadata.uid.as_deref().unwrap_or_default();
        // Nodes that it has from before are not in its own way.
        let has_nodes = self.tenants.is_some_and(|tenants| tenants.has_any(uid));
        let own = has_nodes && !self.promised.is_offered(uid);
        let leaving: BTreeSet<String> = own.then(|| uid.to_owned()).into_iter().collect();
        let make = || self.cluster(&excluded, &leaving);
        if excluded.is_empty() && leaving.is_empty() {
            self.promised.with_cluster(make, look)
        } else {
            look(&mut make())
        }
    }

    /// The cluster as [`Self::with_cluster`] shows it, without what is kept for the gang that waits before this one.
    pub(crate) fn behind<R>(
        &self,
        domain: &ComputeDomain,
        demand: &Demand,
        look: impl FnOnce(&Cluster) -> R,
    ) -> R {
        self.with_cluster(domain, |cluster| {
            self.keep(cluster, demand);
            let seen = look(cluster);
            if let Some(ahead) = self.ahead {
                ahead.head.lift(cluster);
            }
            seen
        })
    }

    /// Keeps the nodes of the gang that waits before this one, if it may not use them.
    pub(crate) fn keep(&self, cluster: &mut Cluster, demand: &Demand) {
        if let Some(ahead) = self.ahead
            && !ahead.head.lets_pass(demand)
        {
            ahead.head.lay(cluster);
        }
    }

    /// The cluster as it will be for `domain` when these domains, by their UIDs, are ended.
    pub(crate) fn cluster_without(
        &self,
        domain: &ComputeDomain,
        leaving: &BTreeSet<String>,
    ) -> Cluster {
        self.cluster(&self.excluded(domain, None), leaving)
    }

    /// The cluster without these cliques, and without what these domains hold and use.
    fn cluster(&self, excluded: &BTreeSet<CliqueId>, leaving: &BTreeSet<String>) -> Cluster {
        let leaves = |slots: &Slots| leaving.contains(&slots.domain);
        let known = self.promised.known();
        let accounted = known.filter(|(slots, _)| slots.are_offered() || leaves(slots));
        let holders: Vec<Holder<'_>> = accounted.map(|held| self.holder(held)).collect();
        let used = room::used(self.world, &holders);
        let mut cluster = Cluster::new(self.levels.clone());
        for (node, fabric, _) in self.candidates() {
            if excluded.contains(&clique(node, fabric)) {
                continue;
            }
            cluster.upsert(GangNode {
                name: node.name.as_str().into(),
                clique: fabric.clique.as_deref().map(Into::into),
                capacity: CapacityType::of(&node.labels),
                gpus: gpus(node, fabric),
                used: used.get(&node.name).copied().unwrap_or(0),
                health: self.health(node, fabric),
                taints: taints(node),
                labels: node.labels.clone(),
            });
        }
        if let Some(tenants) = self.tenants {
            tenants.hold(&mut cluster, self.world, self.promised, leaving);
            return cluster;
        }
        for (slots, _) in self.promised.offered() {
            if !leaves(slots) {
                promised::hold(&mut cluster, self.world, slots);
            }
        }
        cluster
    }

    fn health(&self, node: &NodeFacts, fabric: &FabricFacts) -> Health {
        if node.unschedulable {
            Health::Draining
        } else if fabric.is_ready() && self.sessions.is_ready(&node.name) {
            Health::Healthy
        } else {
            Health::Unfit
        }
    }

    fn holder<'s>(&'s self, (slots, template): &'s (Slots, ObjectName)) -> Holder<'s> {
        Holder {
            namespace: &template.namespace,
            template: &template.name,
            nodes: nodes(self.world, slots)
                .map(|node| node.name.as_str())
                .collect(),
        }
    }
}
