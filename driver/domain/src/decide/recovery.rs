//! Gangs that have lost nodes, or can have more: other nodes in the place of lost ones while the others' pods run.
//!
//! Only for domains whose policy says what may be done. For all others new nodes are chosen when none of their pods
//! runs any more.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::SignedDuration;
use tessera_api::ComputeDomain;
use tessera_gang::recover::{Recovery, Source, Substitute, recover, regrow};
use tessera_gang::{CliqueId, CliqueShare, Demand, Member, NodeName, Placement};

use super::{Round, after};
use crate::demand;
use crate::facts::{NodeFacts, PodStage};
use crate::policy::Chosen;
use crate::slots::Slots;
use crate::status::{self, READY};

impl Round<'_> {
    /// The slots of a gang with other nodes in the place of those that it has lost, without them, or with more; none
    /// where nothing is to be done or can be.
    pub(super) fn recovered(
        &mut self,
        domain: &ComputeDomain,
        slots: &Slots,
        chosen: &Chosen,
    ) -> Option<Slots> {
        if !chosen.replaces {
            return None;
        }
        let lost = self.lost(domain, slots);
        let size = u32::try_from(slots.hostnames.len()).unwrap_or(u32::MAX);
        if lost.is_empty() && size >= chosen.nodes.max() {
            return None;
        }
        let demand = self.demand_of(domain, slots, chosen)?;
        let placement = self.placement(slots);
        let next = if lost.is_empty() {
            self.grown(domain, &demand, placement)?
        } else {
            self.replaced(domain, &demand, placement, &lost)?
        };
        let next = self
            .site()
            .slots(domain, &demand, &next, Some(slots))
            .ok()?;
        // Its pods that run have this channel.
        (next.channel == slots.channel && !next.hostnames.is_empty()).then_some(next)
    }

    /// What the gang asks for, of nodes as it has them.
    fn demand_of(&self, domain: &ComputeDomain, slots: &Slots, chosen: &Chosen) -> Option<Demand> {
        let nodes = NonZeroU32::new(chosen.nodes.max())?;
        let wanted = demand::wanted(self.world, domain, nodes, slots.gpus_per_node).ok()??;
        let wanted = demand::Wanted {
            gpus_per_node: slots.gpus_per_node,
            ..wanted
        };
        Some(self.site().demand(domain, chosen, &wanted))
    }

    /// The nodes of a gang that left the cluster, or are being emptied and have no pod of it any more.
    fn lost(&self, domain: &ComputeDomain, slots: &Slots) -> BTreeSet<NodeName> {
        let pods = self.world.pods_of(domain);
        let bound = pods.filter(|pod| pod.stage == PodStage::Bound);
        let in_use: BTreeSet<&str> = bound.filter_map(|pod| pod.node.as_deref()).collect();
        let lost = |hostname: &&String| {
            let node = self.world.node_by_hostname(hostname);
            node.is_none_or(|node| is_emptied(node) && !in_use.contains(node.name.as_str()))
        };
        let hostnames = slots.hostnames.iter().filter(lost);
        hostnames.map(|hostname| self.name_of(hostname)).collect()
    }

    /// The name of a node; of one that is gone what a slice's node selector calls it, which is the same nearly
    /// everywhere.
    fn name_of(&self, hostname: &str) -> NodeName {
        let node = self.world.node_by_hostname(hostname);
        node.map_or(hostname, |node| &node.name).into()
    }

    fn clique_of(&self, node: &NodeName) -> Option<CliqueId> {
        let clique = self.fabric.get(node.as_str())?.clique.as_deref()?;
        Some(clique.into())
    }

    /// Slots as the planner placed them.
    fn placement(&self, slots: &Slots) -> Placement {
        let names = |hostnames: &[String]| -> Vec<NodeName> {
            hostnames.iter().map(|it| self.name_of(it)).collect()
        };
        let mut kept = names(&slots.spares);
        let shares = slots.shares().map(|share| {
            let nodes = names(share);
            let clique = nodes.iter().find_map(|node| self.clique_of(node));
            let near = |node: &NodeName| clique.is_some() && self.clique_of(node) == clique;
            let (own, others) = kept.drain(..).partition(near);
            kept = others;
            CliqueShare {
                clique,
                nodes: nodes.into_iter().map(Member::from).collect(),
                spares: members(own),
            }
        });
        Placement {
            cliques: shares.collect(),
            gpus_per_node: slots.gpus_per_node,
            segment: u32::try_from(slots.hostnames.len()).unwrap_or(u32::MAX),
            level: None,
            relaxed_from: None,
        }
    }

    fn replaced(
        &mut self,
        domain: &ComputeDomain,
        demand: &Demand,
        placement: Placement,
        lost: &BTreeSet<NodeName>,
    ) -> Option<Placement> {
        let lost_for = self.lost_for(domain);
        let site = self.site();
        let asked = site.asked(demand);
        let recovery = site.with_cluster(domain, |cluster| {
            recover(cluster, &asked, &placement, lost, lost_for)
        });
        match recovery {
            Recovery::Replace(substitutes) | Recovery::Shrink { substitutes, .. } => {
                Some(with(placement, lost, substitutes))
            }
            // Its pods run elsewhere: it is moved when none of them does, as a domain without a policy is.
            Recovery::Migrate(_) => None,
            Recovery::Wait { again_in, .. } => {
                if let Some(pause) = again_in.and_then(|pause| SignedDuration::try_from(pause).ok())
                {
                    self.due(after(self.now, pause));
                }
                None
            }
        }
    }

    /// How long the domain has been without a node: as the stored status says, or from now on.
    fn lost_for(&self, domain: &ComputeDomain) -> Duration {
        let stored = domain.status.as_ref();
        let ready = stored.and_then(|status| status::condition(status, READY));
        let since = ready.filter(|ready| ready.reason == "NodeLost");
        let since = since.map_or(self.now, |ready| ready.last_transition_time.0);
        Duration::try_from(self.now.duration_since(since)).unwrap_or_default()
    }

    fn grown(
        &self,
        domain: &ComputeDomain,
        demand: &Demand,
        mut placement: Placement,
    ) -> Option<Placement> {
        let site = self.site();
        let asked = site.asked(demand);
        let more = site.behind(domain, &asked, |cluster| {
            regrow(cluster, &asked, &placement)
        });
        if more.is_empty() {
            return None;
        }
        for node in more {
            let clique = self.clique_of(&node);
            let mut shares = placement.cliques.iter_mut();
            let share = shares.find(|share| share.clique.is_some() && share.clique == clique);
            share?.nodes.push(Member::from(node));
        }
        Some(placement)
    }
}

fn members(names: Vec<NodeName>) -> Vec<Member> {
    names.into_iter().map(Member::from).collect()
}

/// The placement without the lost nodes, and with what takes their place: a node of the same clique at the same
/// rank, one of another clique at the end, in a share of its own.
fn with(
    mut placement: Placement,
    lost: &BTreeSet<NodeName>,
    substitutes: Vec<Substitute>,
) -> Placement {
    let mut farther = Vec::new();
    let mut near: HashMap<NodeName, NodeName> = HashMap::new();
    for substitute in substitutes {
        match substitute.from {
            Source::Spare | Source::Clique => drop(near.insert(substitute.lost, substitute.by)),
            Source::Wider => farther.push(substitute.by),
        }
    }
    for share in &mut placement.cliques {
        let nodes = std::mem::take(&mut share.nodes).into_iter();
        let nodes = nodes.filter_map(|member| match near.remove(&member.name) {
            Some(by) => Some(Member::from(by)),
            None => (!lost.contains(&member.name)).then_some(member),
        });
        share.nodes = nodes.collect();
        let taken = |spare: &Member| share.nodes.iter().any(|node| node.name == spare.name);
        share
            .spares
            .retain(|spare| !taken(spare) && !lost.contains(&spare.name));
    }
    placement.cliques.retain(|share| !share.nodes.is_empty());
    placement
        .cliques
        .extend(farther.into_iter().map(|node| CliqueShare {
            clique: None,
            nodes: vec![Member::from(node)],
            spares: Vec::new(),
        }));
    placement
}

/// Whether a node takes no pods any more, so that one that ends there does not come back: it is closed, or evicts.
fn is_emptied(node: &NodeFacts) -> bool {
    node.unschedulable || node.taints.iter().any(|taint| taint.effect == "NoExecute")
}
