//! How things stand with a domain, and how that is put: a reason for programs, a sentence for people.

use std::fmt;

use crate::facts::ObjectName;
use crate::place::NotPlaced;
use crate::slots::Holds;

/// Names that a sentence has at most; the others are counted.
const NAMES: usize = 3;

/// The reason of a domain whose own session is not ready.
pub(crate) const SESSION_STARTING: &str = "SessionStarting";

/// How things stand with a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Situation {
    /// Another domain has the template's name.
    TemplateNameTaken {
        /// The name that both want.
        template: ObjectName,
        /// The domain that had it first.
        by: ObjectName,
    },
    /// A template of that name is there that no controller made for this domain.
    TemplateNotOurs {
        /// The name.
        template: ObjectName,
    },
    /// No pod names the template yet.
    AwaitingPods {
        /// The name.
        template: ObjectName,
    },
    /// Claims of a pod are not made yet, so that nobody knows how many GPUs it needs.
    AwaitingClaims {
        /// The pod.
        pod: ObjectName,
    },
    /// There is no place for it.
    NotPlaced(NotPlaced),
    /// Others of lower priority are being ended to make room for it.
    Preempting(Preempting),
    /// It is being ended for another.
    Preempted {
        /// The other.
        by: ObjectName,
    },
    /// It has its slots.
    Placed(Placed),
    /// It is deleted, and pods use it.
    InUse {
        /// The pods.
        pods: Vec<String>,
    },
    /// It is deleted, and nothing of it is in use.
    Ending,
}

/// A domain that has its slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// How many nodes; none for one that follows its pods.
    pub gang: Option<usize>,
    /// Of how many NVLink cliques these nodes are.
    pub cliques: usize,
    /// What keeps others from its GPUs.
    pub holds: Holds,
    /// GPUs of each node that its pods use.
    pub gpus_per_node: u32,
    /// Nodes of it that are gone.
    pub lost: Vec<String>,
    /// Nodes of it whose fabric or session is not ready.
    pub unready: Vec<String>,
    /// Nodes of it on which its own session is not ready yet, where each domain has one.
    pub starting: Vec<String>,
    /// Nodes of a gang that are in another NVLink clique than the rest of it.
    pub apart: Vec<String>,
}

/// A domain that has its nodes when others are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preempting {
    /// How many nodes.
    pub nodes: usize,
    /// The domains that are being ended.
    pub victims: Vec<String>,
    /// A pod that a `PodDisruptionBudget` keeps, with what the API server says.
    pub kept: Option<(ObjectName, String)>,
}

/// One sentence with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Whether it holds.
    pub holds: bool,
    /// The reason.
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
}

impl Said {
    fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            holds: true,
            reason,
            message: message.into(),
        }
    }

    fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            holds: false,
            reason,
            message: message.into(),
        }
    }
}

impl Situation {
    /// Whether the domain can be used.
    pub fn ready(&self) -> Said {
        match self {
            Self::TemplateNameTaken { template, by } => Said::no(
                "TemplateNameTaken",
                format!(
                    "ResourceClaimTemplate {template} is that of ComputeDomain {by}; delete one of the two \
                     domains, and give it another spec.channel.resourceClaimTemplate.name"
                ),
            ),
            Self::TemplateNotOurs { template } => Said::no(
                "TemplateNotOurs",
                format!(
                    "a ResourceClaimTemplate {template} exists that was not made for this domain; delete \
                     it, or make the domain anew with another spec.channel.resourceClaimTemplate.name"
                ),
            ),
            Self::AwaitingPods { template } => Said::no(
                "AwaitingPods",
                format!(
                    "no pod names ResourceClaimTemplate {template}; nodes are chosen when one does"
                ),
            ),
            Self::AwaitingClaims { pod } => Said::no(
                "AwaitingClaims",
                format!("claims of pod {pod} are not made yet, so that its GPUs are not known"),
            ),
            Self::NotPlaced(why) => Said::no(why.reason(), why.to_string()),
            Self::Preempting(preempting) => preempting.ready(),
            // Nothing of what changes with each pod, so that its status is written once.
            Self::Preempted { by } => Said::no(
                "Preempted",
                format!(
                    "ComputeDomain {by} of higher priority gets its nodes, and its pods are evicted; it gets others \
                     when there is room"
                ),
            ),
            Self::Placed(placed) => placed.ready(),
            Self::InUse { pods } => Said::no(
                "InUse",
                format!(
                    "the domain is deleted and waits for {}, which use it; it goes when they are gone",
                    Names("pod", pods)
                ),
            ),
            Self::Ending => Said::no("Deleted", "the domain is deleted"),
        }
    }

    /// Whether it has its nodes.
    pub fn placed(&self) -> Said {
        match self {
            Self::Placed(placed) => match placed.gang {
                Some(nodes) if placed.cliques > 1 => Said::yes(
                    "NodesChosen",
                    format!("it has {nodes} nodes in {} NVLink cliques", placed.cliques),
                ),
                Some(nodes) => Said::yes("NodesChosen", format!("it has its {nodes} nodes")),
                None => Said::yes("FollowsPods", "its pods may go to every node"),
            },
            _ => self.ready(),
        }
    }

    /// Whether its GPUs are kept for it.
    pub fn reserved(&self) -> Said {
        let placed = match self {
            Self::Placed(placed) => placed,
            Self::Preempting(_) => return self.ready(),
            _ => return Said::no("NotPlaced", "it has no nodes"),
        };
        match (placed.gang, placed.holds, placed.gpus_per_node) {
            (None, ..) => Said::no(
                "FollowsPods",
                "with numNodes 0 nothing is kept: pods compete for GPUs one by one",
            ),
            (Some(_), Holds::WholeNodes, gpus) => Said::yes(
                "NodesTainted",
                format!("all {gpus} GPUs of each node are kept for its pods by a taint"),
            ),
            (Some(_), Holds::Slots, 0) => Said::yes("NoGpusWanted", "its pods ask for no GPU"),
            (Some(_), Holds::Slots, gpus) => Said::no(
                "PartOfNodes",
                format!(
                    "its pods use {gpus} GPUs of each node and not all of them, and pods of others may \
                     take these first; only whole nodes are kept"
                ),
            ),
        }
    }

    /// Whether NVLink works among its nodes.
    pub fn fabric(&self) -> Said {
        let Self::Placed(placed) = self else {
            return Said::no("NotPlaced", "it has no nodes");
        };
        if !placed.unready.is_empty() {
            return Said::no(
                "FabricNotReady",
                format!(
                    "NVLink or its session is not up on {}",
                    Names("node", &placed.unready)
                ),
            );
        }
        if !placed.apart.is_empty() {
            return Said::no(
                "CliqueChanged",
                format!(
                    "its nodes are not in the NVLink cliques any more in which they were chosen, see {}; new nodes are chosen when none of \
                     its pods runs any more",
                    Names("node", &placed.apart)
                ),
            );
        }
        if !placed.starting.is_empty() {
            return Said::no(
                SESSION_STARTING,
                format!(
                    "the NVLink session of this domain is being started, and its pods wait for it on {}",
                    Names("node", &placed.starting)
                ),
            );
        }
        Said::yes("FabricReady", "NVLink is up on its nodes")
    }
}

impl Placed {
    /// Whether its nodes cannot be those of a gang any more.
    pub(crate) fn is_broken(&self) -> bool {
        !(self.lost.is_empty() && self.apart.is_empty())
    }

    fn ready(&self) -> Said {
        if !self.lost.is_empty() {
            return Said::no(
                "NodeLost",
                format!(
                    "{} of this domain left the cluster; its pods that run go on, others wait, and new nodes are \
                     chosen when none runs any more",
                    Names("node", &self.lost)
                ),
            );
        }
        // A domain that follows its pods is ready where it is ready.
        if let Some(nodes) = self.gang {
            if !(self.unready.is_empty() && self.apart.is_empty() && self.starting.is_empty()) {
                return Situation::Placed(self.clone()).fabric();
            }
            return Said::yes(
                "NodesReady",
                format!("{nodes} nodes are ready for its pods"),
            );
        }
        Said::yes(
            "FollowsPods",
            "pods may go to every node with NVLink fabric",
        )
    }
}

impl Preempting {
    fn ready(&self) -> Said {
        let nodes = self.nodes;
        let victims = Names("ComputeDomain", &self.victims);
        match &self.kept {
            None => Said::no(
                "Preempting",
                format!(
                    "{nodes} nodes are held for its pods, which get them when the pods of {victims} of lower \
                     priority are gone; these are being evicted"
                ),
            ),
            Some((pod, why)) => Said::no(
                "PreemptionRefused",
                format!(
                    "{nodes} nodes are held for its pods, which get them when {victims} of lower priority end; a \
                     PodDisruptionBudget keeps pod {pod}: {why}; end the pod, or let its budget allow it"
                ),
            ),
        }
    }
}

/// Some names in a sentence.
pub(crate) struct Names<'a>(pub(crate) &'static str, pub(crate) &'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(noun, names) = self;
        let plural = if names.len() == 1 { "" } else { "s" };
        let first = &names[..names.len().min(NAMES)];
        write!(f, "{noun}{plural} {}", first.join(", "))?;
        match names.len().saturating_sub(NAMES) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
