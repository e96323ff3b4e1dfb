//! Why a gang waits: the constraint that binds, and what would help.

use std::fmt;
use std::num::NonZeroU32;

use thiserror::Error;

use crate::cluster::Cluster;
use crate::demand::Demand;
use crate::names::{CliqueId, GangId};
use crate::policy::CliquePolicy;
use crate::view::Ineligible;

/// Why a gang has no nodes.
///
/// Its text is what a person reads in the domain's condition: what is wanted, what is missing, the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Blocked {
    /// A topology level that the cluster does not know.
    #[error("topology level {level:?} is not among the cluster's levels [{}]; name one of these in the policy, or add it to the controller's levels", known.join(", "))]
    UnknownLevel {
        /// The label that the policy names.
        level: String,
        /// The labels that the cluster knows.
        known: Vec<String>,
    },
    /// No node could ever take a member of the gang.
    #[error(
        "no node can take a pod of this domain: {census}; change the pods' selectors, tolerations or GPUs, or the policy's capacity types"
    )]
    NoEligibleNode {
        /// What speaks against the nodes.
        census: Census,
    },
    /// The gang would not fit into the cluster if nothing else were on it.
    #[error("{wanted} nodes are wanted {}, and with everything free at most {possible} fit ({census}); ask for {possible} nodes at most, or let the policy take more than one clique or group", place_wanted(*policy, level.as_ref()))]
    TooLarge {
        /// The least number of nodes that the gang wants.
        wanted: u32,
        /// The largest gang of the same policy that the cluster could take.
        possible: u32,
        /// How nodes must relate to cliques.
        policy: CliquePolicy,
        /// The level in whose one group they must be.
        level: Option<String>,
        /// What speaks against nodes.
        census: Census,
    },
    /// Others are where the gang would be.
    #[error("{wanted} nodes with {gpus_per_node} free GPUs each are wanted {}, and {fits} fit now{}; wait until others end, or {}", place_wanted(*policy, None), best_clique(best.as_ref()), remedy(*fits, alternative.as_ref()))]
    InsufficientFree {
        /// The least number of nodes that the gang wants.
        wanted: u32,
        /// GPUs wanted on each.
        gpus_per_node: u32,
        /// The largest gang of the same policy that would fit now.
        fits: u32,
        /// How nodes must relate to cliques.
        policy: CliquePolicy,
        /// The clique with most room, and how many nodes that is.
        best: Option<(CliqueId, u32)>,
        /// A policy under which the gang would fit now.
        alternative: Option<Alternative>,
    },
    /// It would fit, on nodes that are kept for a gang that waits before it.
    #[error(
        "{wanted} nodes would fit, but they are kept for domain {ahead}, which waits before this one; wait for that domain, or raise the priority of this one"
    )]
    BlockedByShadow {
        /// The least number of nodes that the gang wants.
        wanted: u32,
        /// For whom nodes are kept.
        ahead: GangId,
    },
}

impl Blocked {
    /// The machine-readable reason, as a condition has it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownLevel { .. } => "UnknownTopologyLevel",
            Self::NoEligibleNode { .. } => "NoEligibleNode",
            Self::TooLarge { .. } => "NoCliqueLargeEnough",
            Self::InsufficientFree { .. } => "InsufficientFree",
            Self::BlockedByShadow { .. } => "BlockedByShadow",
        }
    }

    /// Whether the end of other gangs can help.
    pub fn passes(&self) -> bool {
        match self {
            Self::UnknownLevel { .. } | Self::NoEligibleNode { .. } | Self::TooLarge { .. } => {
                false
            }
            Self::InsufficientFree { .. } | Self::BlockedByShadow { .. } => true,
        }
    }
}

/// A policy under which a gang would fit now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alternative {
    /// Fewer nodes share a clique: so many, as the policy's segment.
    Segment(NonZeroU32),
    /// Cliques are preferred instead of required.
    Preferred,
    /// Every type of capacity is allowed.
    AnyCapacity,
    /// No topology level is required.
    AnyLevel,
}

impl fmt::Display for Alternative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(nodes) => write!(f, "segments of {nodes} nodes"),
            Self::Preferred => f.write_str("clique policy Preferred"),
            Self::AnyCapacity => f.write_str("every capacity type allowed"),
            Self::AnyLevel => f.write_str("no required topology level"),
        }
    }
}

/// How many nodes there are, and what speaks against them. Each is counted once, under the first that applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// All nodes.
    pub nodes: u32,
    /// Their labels do not match the pods' selectors.
    pub selector: u32,
    /// They have a taint that the pods do not tolerate.
    pub taint: u32,
    /// Their capacity type is not allowed.
    pub capacity: u32,
    /// They have too few GPUs, free or not.
    pub gpus: u32,
    /// They are not healthy.
    pub health: u32,
}

impl Census {
    pub(crate) fn take(cluster: &Cluster, demand: &Demand) -> Self {
        let mut census = Self::default();
        let capacity = &demand.policy.capacity;
        cluster.with_filter(&demand.shape, capacity, |filter, strings| {
            for node in cluster.nodes.iter().flatten() {
                census.nodes += 1;
                match filter.objection(node, strings) {
                    None => {}
                    Some(Ineligible::Selector) => census.selector += 1,
                    Some(Ineligible::Taint) => census.taint += 1,
                    Some(Ineligible::Capacity) => census.capacity += 1,
                    Some(Ineligible::Gpus) => census.gpus += 1,
                    Some(Ineligible::Health) => census.health += 1,
                }
            }
        });
        census
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "of {} nodes", self.nodes)?;
        let mut separator = ", ";
        for (count, what) in [
            (self.selector, "do not match the selectors"),
            (self.taint, "have a taint that is not tolerated"),
            (self.capacity, "are of another capacity type"),
            (self.gpus, "have too few GPUs"),
            (self.health, "are not healthy"),
        ] {
            if count > 0 {
                write!(f, "{separator}{count} {what}")?;
                separator = ", ";
            }
        }
        if separator == ", " && self.nodes > 0 {
            let against = self.selector + self.taint + self.capacity + self.gpus + self.health;
            if against == 0 {
                f.write_str(", all eligible")?;
            }
        }
        Ok(())
    }
}

fn place_wanted(policy: CliquePolicy, level: Option<&String>) -> String {
    let cliques = match policy {
        CliquePolicy::Required => "in one NVLink clique each segment",
        CliquePolicy::Preferred => "in whatever cliques",
        CliquePolicy::Spread => "spread over cliques",
    };
    match level {
        Some(level) => format!("{cliques}, in one group of {level}"),
        None => cliques.to_owned(),
    }
}

fn best_clique(best: Option<&(CliqueId, u32)>) -> String {
    match best {
        Some((clique, room)) => format!(" (the clique with most room, {clique}, has {room})"),
        None => String::new(),
    }
}

fn remedy(fits: u32, alternative: Option<&Alternative>) -> String {
    match (fits, alternative) {
        (0, None) => "add nodes".to_owned(),
        (0, Some(alternative)) => format!("use {alternative}, with which it fits now"),
        (fits, None) => format!("ask for at most {fits} nodes"),
        (fits, Some(alternative)) => {
            format!("ask for at most {fits} nodes, or use {alternative}, with which it fits now")
        }
    }
}
