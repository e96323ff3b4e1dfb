//! Chooses the nodes and the channel of a domain: the facts in the planner's terms, and its answer as slots.

mod cluster;
mod whole_nodes;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use tessera_api::{AllocationMode, ComputeDomain};
use tessera_gang::channels::{ChannelNumber, ChannelRefusal, Grant};
use tessera_gang::{
    Blocked, Channels, CliqueId, Demand, GangId, Levels, NodeName, Placement, Shape,
};
use thiserror::Error;

pub(crate) use self::cluster::Ahead;
use crate::cliques::Sessions;
use crate::demand::{self, Wanted};
use crate::facts::{FabricFacts, NodeFacts, ObjectName};
use crate::keys;
use crate::policy::{Chosen, PolicyRefusal};
use crate::promised::Promised;
use crate::slots::{Holds, MOST_SLOTS, Slots};
use crate::status;
use crate::tenants::Tenants;
use crate::world::World;

/// Slots beyond those of the pods that are there, so that one more pod is no write.
const SPARE_SLOTS: u32 = 8;

/// Why a domain has no nodes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotPlaced {
    /// The planner has no nodes for it.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// There are nodes, and they are kept for a domain that waits before it.
    #[error(
        "{wanted} nodes would fit, but they are kept for ComputeDomain {ahead}, which waits before this one; wait until \
         that one has its nodes, or give the pods of this one a higher priority"
    )]
    Behind {
        /// The least number of nodes that it wants.
        wanted: u32,
        /// Who waits before it.
        ahead: ObjectName,
    },
    /// The planner has none, where nodes that others have are out of the question however much room they have.
    #[error(
        "{blocked}; each domain has an nvidia-imex session of its own, so that a node is one domain's at a time: {}",
        .held.join(", ")
    )]
    NodesOfOthers {
        /// What the planner says.
        blocked: Blocked,
        /// Who has nodes, and which.
        held: Vec<String>,
    },
    /// There are nodes, and no channel on them.
    #[error(transparent)]
    Channel(#[from] ChannelRefusal),
    /// There are channels, and none that is free in each of its cliques.
    #[error(
        "no IMEX channel is free in all {cliques} NVLink cliques at once; wait for a domain to end, \
         or raise NVreg_ImexChannelCount on all nodes"
    )]
    NoCommonChannel {
        /// How many cliques.
        cliques: usize,
    },
    /// Nothing to be placed on.
    #[error(
        "no node offers NVLink fabric to this domain; check that the plugin's DaemonSet has pods that run, and \
         that no domain with allocationMode All has every clique; with resources.computeDomains.imex.mode=domain, that others \
         leave it a node"
    )]
    NoNodes,
    /// Nobody can say how it is to be placed.
    #[error(transparent)]
    Policy(#[from] PolicyRefusal),
}

impl NotPlaced {
    /// What the planner says, if it was asked.
    pub(crate) fn blocked(&self) -> Option<&Blocked> {
        match self {
            Self::Blocked(blocked) | Self::NodesOfOthers { blocked, .. } => Some(blocked),
            Self::Behind { .. }
            | Self::Channel(_)
            | Self::NoCommonChannel { .. }
            | Self::NoNodes
            | Self::Policy(_) => None,
        }
    }

    /// The machine-readable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Blocked(blocked) | Self::NodesOfOthers { blocked, .. } => blocked.reason(),
            Self::Behind { .. } => "BlockedByShadow",
            Self::Channel(_) | Self::NoCommonChannel { .. } => "NoChannel",
            Self::NoNodes => "NoEligibleNode",
            Self::Policy(refusal) => refusal.reason(),
        }
    }
}

/// Where a domain's template is.
pub(crate) fn template_name(domain: &ComputeDomain) -> ObjectName {
    ObjectName::new(
        domain.metadata.namespace.as_deref().unwrap_or_default(),
        &domain.spec.channel.resource_claim_template.name,
    )
}

/// A cluster in which a domain is to find its place.
pub(crate) struct Site<'a> {
    pub(crate) world: &'a World,
    pub(crate) fabric: &'a BTreeMap<&'a str, &'a FabricFacts>,
    pub(crate) sessions: &'a Sessions<'a>,
    pub(crate) promised: &'a Promised,
    pub(crate) ahead: Option<&'a Ahead>,
    pub(crate) tenants: Option<&'a Tenants<'a>>,
    pub(crate) levels: &'a Levels,
    pub(crate) now: Timestamp,
}

impl<'a> Site<'a> {
    /// Nodes that can serve a domain: the plugin runs there, and a slice can name them.
    fn candidates(&self) -> impl Iterator<Item = (&'a NodeFacts, &'a FabricFacts, &'a str)> {
        self.world.nodes().filter_map(|node| {
            let fabric = self.fabric.get(node.name.as_str())?;
            Some((node, *fabric, node.hostname()?))
        })
    }

    /// GPUs of the largest node.
    pub(crate) fn largest(&self) -> u32 {
        let gpus = self
            .candidates()
            .map(|(node, fabric, _)| gpus(node, fabric));
        gpus.max().unwrap_or(0)
    }

    /// What a gang asks for.
    pub(crate) fn demand(
        &self,
        domain: &ComputeDomain,
        chosen: &Chosen,
        wanted: &Wanted,
    ) -> Demand {
        Demand {
            gang: GangId::from(domain.metadata.uid.clone().unwrap_or_default()),
            nodes: chosen.nodes,
            shape: Shape::new(wanted.gpus_per_node, wanted.eligibility.clone()),
            policy: chosen.policy.clone(),
            priority: wanted.priority,
            waiting: status::waiting(domain, self.now),
            runs_for: None,
        }
    }

    /// The slots of a gang.
    pub(crate) fn gang(
        &self,
        domain: &ComputeDomain,
        demand: &Demand,
        earlier: Option<&Slots>,
    ) -> Result<Slots, NotPlaced> {
        let placement = self.with_cluster(domain, |cluster| self.plan(cluster, domain, demand))?;
        self.slots(domain, demand, &placement, earlier)
    }

    /// The slots on the nodes of a placement, after `earlier` ones of the same domain.
    pub(crate) fn slots(
        &self,
        domain: &ComputeDomain,
        demand: &Demand,
        placement: &Placement,
        earlier: Option<&Slots>,
    ) -> Result<Slots, NotPlaced> {
        let gpus_per_node = demand.shape.gpus_per_node();
        let chosen: Vec<_> = placement
            .nodes()
            .filter_map(|name| self.candidate(name))
            .collect();
        let mut cliques: BTreeSet<CliqueId> = chosen
            .iter()
            .map(|(node, fabric, _)| clique(node, fabric))
            .collect();
        // Where it may still be held under its number, it keeps that number.
        cliques.extend(earlier.iter().flat_map(|earlier| self.cliques(earlier)));
        let channel = self.channel(domain, &cliques)?;
        let whole = gpus_per_node > 0
            && chosen
                .iter()
                .all(|(node, fabric, _)| gpus(node, fabric) == gpus_per_node);
        let hostnames = |names: &mut dyn Iterator<Item = &NodeName>| -> Vec<String> {
            let found = names.filter_map(|name| self.candidate(name));
            found.map(|(.., hostname)| hostname.to_owned()).collect()
        };
        let shares = placement.cliques.iter();
        let slots = Slots {
            domain: domain.metadata.uid.clone().unwrap_or_default(),
            name: ObjectName::of(&domain.metadata),
            hostnames: hostnames(&mut placement.nodes()),
            clique_nodes: shares.map(|share| share.nodes.len()).collect(),
            spares: hostnames(&mut placement.spares()),
            former: Vec::new(),
            channel,
            count: slots_for(self.pods(domain).max(demand.nodes.max())),
            closed: None,
            awaits: Vec::new(),
            gpus_per_node,
            holds: if whole {
                Holds::WholeNodes
            } else {
                Holds::Slots
            },
            offered: self.now,
            released: None,
        };
        Ok(match earlier {
            Some(earlier) => slots.after(earlier),
            None => slots,
        })
    }

    fn candidate(&self, name: &NodeName) -> Option<(&'a NodeFacts, &'a FabricFacts, &'a str)> {
        let node = self.world.node(name.as_str())?;
        Some((node, *self.fabric.get(name.as_str())?, node.hostname()?))
    }

    /// The slots of a domain that follows its pods: on every node that can serve it.
    pub(crate) fn everywhere(
        &self,
        domain: &ComputeDomain,
        stored: Option<&Slots>,
    ) -> Result<Slots, NotPlaced> {
        let excluded = self.excluded(domain, stored.map(|stored| stored.channel));
        let of_others = self.nodes_of_others(domain);
        let open = |(node, fabric, _): &(&NodeFacts, &FabricFacts, &str)| {
            let free = fabric.clique.is_none() || !of_others.contains(node.name.as_str());
            free && !excluded.contains(&clique(node, fabric))
        };
        let candidates: Vec<_> = self.candidates().filter(open).collect();
        if candidates.is_empty() {
            return Err(NotPlaced::NoNodes);
        }
        let channel = if let Some(stored) = stored {
            stored.channel
        } else {
            let cliques = candidates.iter();
            let cliques = cliques.map(|(node, fabric, _)| clique(node, fabric));
            self.channel(domain, &cliques.collect())?
        };
        let needed = slots_for(self.pods(domain));
        let slots = Slots {
            domain: domain.metadata.uid.clone().unwrap_or_default(),
            name: ObjectName::of(&domain.metadata),
            hostnames: candidates
                .iter()
                .map(|(_, _, hostname)| (*hostname).to_owned())
                .collect(),
            clique_nodes: vec![candidates.len()],
            spares: Vec::new(),
            former: Vec::new(),
            channel,
            // A slot that a pod has is not taken away from under it.
            count: stored.map_or(needed, |stored| stored.count.max(needed)),
            awaits: Vec::new(),
            closed: None,
            gpus_per_node: 0,
            holds: Holds::Slots,
            offered: stored.map_or(self.now, |stored| stored.offered),
            released: None,
        };
        Ok(match stored {
            Some(stored) => slots.after(stored),
            None => slots,
        })
    }

    /// How many slots a domain should have for the pods that are there.
    pub(crate) fn slots_needed(&self, domain: &ComputeDomain) -> u32 {
        self.pods(domain).min(MOST_SLOTS)
    }

    /// How many slots to offer to a domain that has too few.
    pub(crate) fn slots_to_offer(&self, domain: &ComputeDomain) -> u32 {
        slots_for(self.pods(domain))
    }

    fn pods(&self, domain: &ComputeDomain) -> u32 {
        u32::try_from(self.world.pods_of(domain).count()).unwrap_or(u32::MAX)
    }

    /// Cliques that a domain cannot have for the sake of channels: those in which somebody has all; for a
    /// domain that wants all itself, those in which anybody has one; and those in which another has the
    /// channel that it must have.
    fn excluded(&self, domain: &ComputeDomain, channel: Option<u32>) -> BTreeSet<CliqueId> {
        let uid = domain.metadata.uid.as_deref().unwrap_or_default();
        let wants_all = takes_all(domain);
        let others = self.promised.all();
        let in_the_way = others.filter(|slots| {
            slots.domain != uid
                && (wants_all || slots.channel == ALL_CHANNELS || Some(slots.channel) == channel)
        });
        in_the_way.flat_map(|slots| self.cliques(slots)).collect()
    }

    /// The cliques in which somebody may have the channel.
    fn cliques(&self, slots: &Slots) -> BTreeSet<CliqueId> {
        slots
            .may_have_channel()
            .filter_map(|hostname| self.world.node_by_hostname(hostname))
            .filter_map(|node| Some(clique(node, self.fabric.get(node.name.as_str())?)))
            .collect()
    }

    /// The number that a domain gets in all of these cliques.
    fn channel(
        &self,
        domain: &ComputeDomain,
        cliques: &BTreeSet<CliqueId>,
    ) -> Result<u32, NotPlaced> {
        let gang = GangId::from(domain.metadata.uid.clone().unwrap_or_default());
        let mut channels = self.channels(cliques);
        if takes_all(domain) {
            for clique in cliques {
                channels.grant_all(&gang, clique)?;
            }
            return Ok(ALL_CHANNELS);
        }
        let cliques: Vec<CliqueId> = cliques.iter().cloned().collect();
        let granted = channels.grant(&gang, &cliques)?;
        let numbers: BTreeSet<ChannelNumber> = granted.into_values().collect();
        match numbers.first() {
            Some(number) if numbers.len() == 1 => Ok(number.get()),
            _ => Err(NotPlaced::NoCommonChannel {
                cliques: cliques.len(),
            }),
        }
    }

    /// The channels that are taken in these cliques, those in quarantine among them.
    fn channels(&self, within: &BTreeSet<CliqueId>) -> Channels {
        let mut channels = Channels::new();
        for slots in self.promised.all() {
            let gang = GangId::from(slots.domain.as_str());
            let cliques = self.promised.cliques(slots, || self.cliques(slots));
            for clique in cliques.intersection(within) {
                // Contradictions keep what was there first: nobody new gets either number.
                let grant = ChannelNumber::new(slots.channel).map_or(Grant::All, Grant::One);
                let _known = channels.restore(&gang, clique, grant, [], false);
            }
        }
        channels
    }
}

/// What stands for the channel of a domain that has them all: the number that no single domain gets.
pub const ALL_CHANNELS: u32 = 0;

fn takes_all(domain: &ComputeDomain) -> bool {
    domain.spec.channel.allocation_mode == AllocationMode::All
}

/// The nodes of slots that are there.
pub(crate) fn nodes<'a>(
    world: &'a World,
    slots: &'a Slots,
) -> impl Iterator<Item = &'a NodeFacts> + 'a {
    let hostnames = slots.hostnames.iter();
    hostnames.filter_map(|hostname| world.node_by_hostname(hostname))
}

/// How many slots to offer for so many pods: some more, in steps, so that a pod more is no write.
fn slots_for(pods: u32) -> u32 {
    let wanted = pods.saturating_add(SPARE_SLOTS).min(MOST_SLOTS);
    wanted.next_multiple_of(SPARE_SLOTS)
}

/// The clique whose channels a node has. A node that is in none is one of its own.
pub(crate) fn clique(node: &NodeFacts, fabric: &FabricFacts) -> CliqueId {
    match &fabric.clique {
        Some(clique) => clique.as_str().into(),
        None => format!("node {}", node.name).into(),
    }
}

/// GPUs of a node: as its plugin says, or GPU Feature Discovery, or the classic device plugin.
fn gpus(node: &NodeFacts, fabric: &FabricFacts) -> u32 {
    let label = || node.labels.get(keys::GPU_COUNT_LABEL)?.parse().ok();
    fabric.gpus.or_else(label).unwrap_or(node.classic_gpus)
}

fn taints(node: &NodeFacts) -> Vec<tessera_gang::node::Taint> {
    let others = node.taints.iter().filter(|taint| taint.key != keys::TAINT);
    others
        .filter_map(|taint| {
            Some(tessera_gang::node::Taint {
                key: taint.key.clone(),
                value: taint.value.clone().unwrap_or_default(),
                effect: demand::effect(&taint.effect)?,
            })
        })
        .collect()
}
