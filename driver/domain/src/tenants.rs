//! Which domain has the NVLink session of each node, where each domain has a session of its own.
//!
//! One `nvidia-imex` can run on a node, and is in one session. So a node of a clique is one domain's at a time,
//! whatever room is left on it. A node in no clique shares memory with nobody, and is everybody's.
//!
//! # Guarantees
//! - A node that a domain has stays its own until nothing can use the session any more: until the domain's slots are
//!   gone, whose quarantine waits for its claims, and the node itself says that no container has a channel. One that
//!   says nothing stays.
//! - No node is two domains'. Of several it is that which has it; then one whose slots name it; then one whose pod
//!   is there.

use std::collections::{BTreeMap, BTreeSet};

use tessera_api::DomainSize;
use tessera_gang::cluster::WHOLE_NODE;
use tessera_gang::{Cluster, NodeName};

use crate::facts::{FabricFacts, PodStage};
use crate::promised::Promised;
use crate::situation::Names;
use crate::slots::Slots;
use crate::world::{StoredSlots, World};

/// Whether a container of the node may have a channel, as far as the node says.
pub(crate) fn may_be_used(fabric: Option<&FabricFacts>) -> bool {
    let held = fabric.and_then(|fabric| fabric.held.as_ref());
    held.is_none_or(|held| !held.is_none())
}

/// The domains that have nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tenants<'w> {
    /// UIDs of domains, by the names of their nodes.
    of: BTreeMap<&'w str, &'w str>,
    /// Nodes in a clique.
    in_clique: BTreeSet<&'w str>,
    /// UIDs of the domains that follow their pods: not every node is theirs on which they have slots.
    followers: BTreeSet<&'w str>,
}

impl<'w> Tenants<'w> {
    /// Of everything that is known; `stored` are the slots that are stored.
    pub(crate) fn of(world: &'w World, stored: &BTreeMap<&'w str, StoredSlots>) -> Self {
        let fabric = world.fabric();
        let in_clique = fabric.iter().filter(|(_, fabric)| fabric.clique.is_some());
        let following = world.domains().filter(|domain| {
            let living = domain.metadata.deletion_timestamp.is_none();
            living && domain.spec.size() == DomainSize::FollowsPods
        });
        let following: BTreeMap<&str, _> = following
            .filter_map(|domain| Some((domain.metadata.uid.as_deref()?, domain)))
            .collect();
        let mut tenants = Self {
            of: BTreeMap::new(),
            in_clique: in_clique.map(|(node, _)| *node).collect(),
            followers: following.keys().copied().collect(),
        };
        let members = world.cliques().flat_map(|clique| &clique.spec.members);
        for member in members.filter(|member| !member.domain.is_empty()) {
            let (node, domain) = (member.node_name.as_str(), member.domain.as_str());
            if stored.contains_key(domain) || may_be_used(fabric.get(node).copied()) {
                tenants.of.insert(node, domain);
            }
        }
        for (domain, stored) in stored {
            if tenants.has_what_its_slots_name(&stored.slots) {
                for node in named(world, &stored.slots) {
                    tenants.settle(node, domain);
                }
            }
        }
        for (uid, domain) in &following {
            let pods = world.pods_of(domain);
            let bound = pods.filter(|pod| pod.stage == PodStage::Bound);
            for node in bound.filter_map(|pod| pod.node.as_deref()) {
                tenants.settle(node, uid);
            }
        }
        tenants
    }

    fn settle(&mut self, node: &'w str, domain: &'w str) {
        if self.in_clique.contains(node) {
            self.of.entry(node).or_insert(domain);
        }
    }

    fn has_what_its_slots_name(&self, slots: &Slots) -> bool {
        slots.are_offered() && !self.followers.contains(slots.domain.as_str())
    }

    /// Whether any node is in a clique, so that domains have sessions.
    pub(crate) fn are_needed(&self) -> bool {
        !self.in_clique.is_empty()
    }

    /// UID of the domain that has a node.
    pub(crate) fn of_node(&self, node: &str) -> Option<&'w str> {
        self.of.get(node).copied()
    }

    /// Whether a domain has a node.
    pub(crate) fn has_any(&self, domain: &str) -> bool {
        self.of.values().any(|other| *other == domain)
    }

    /// The nodes that domains have, with what was decided since; by the UIDs of domains.
    pub(crate) fn nodes<'a>(
        &'a self,
        world: &'a World,
        promised: &'a Promised,
    ) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
        let mut nodes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (node, domain) in &self.of {
            nodes.entry(domain).or_default().insert(node);
        }
        let offered = promised.offered().map(|(slots, _)| slots);
        for slots in offered.filter(|slots| self.has_what_its_slots_name(slots)) {
            let own = nodes.entry(&slots.domain).or_default();
            own.extend(named(world, slots));
        }
        nodes
    }

    /// Holds in `cluster` what domains have, but for those in `leaving`: a node in a clique as a whole.
    pub(crate) fn hold(
        &self,
        cluster: &mut Cluster,
        world: &World,
        promised: &Promised,
        leaving: &BTreeSet<String>,
    ) {
        for (domain, nodes) in self.nodes(world, promised) {
            if leaving.contains(domain) {
                continue;
            }
            // Nodes of a gang without a clique beside others of it are held as these are.
            let whole = nodes.iter().any(|node| self.in_clique.contains(node));
            let gpus = match promised.offered_to(domain) {
                Some(slots) if !whole => slots.gpus_per_node,
                _ => WHOLE_NODE,
            };
            let names = nodes.into_iter().map(NodeName::from);
            cluster.restore(&domain.into(), names, gpus);
        }
    }

    /// Who other than `domain` has nodes of cliques, for people.
    pub(crate) fn others(&self, world: &World, promised: &Promised, domain: &str) -> Vec<String> {
        let nodes = self.nodes(world, promised).into_iter();
        let others = nodes.filter(|(other, _)| *other != domain);
        let put = others.filter_map(|(other, nodes)| {
            let nodes = nodes.into_iter();
            let nodes = nodes.filter(|node| self.in_clique.contains(node));
            let nodes: Vec<String> = nodes.map(str::to_owned).collect();
            let name = promised.name_of(other).unwrap_or_else(|| other.to_owned());
            (!nodes.is_empty()).then(|| format!("{name} ({})", Names("node", &nodes)))
        });
        put.collect()
    }
}

/// The nodes that slots name, spares among them, as far as they are there.
fn named<'w>(world: &'w World, slots: &Slots) -> Vec<&'w str> {
    let hostnames = slots.hostnames.iter().chain(&slots.spares);
    let nodes = hostnames.filter_map(|hostname| world.node_by_hostname(hostname));
    nodes.map(|node| node.name.as_str()).collect()
}
