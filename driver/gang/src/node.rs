//! The facts of one node.

use std::collections::BTreeMap;

use crate::names::{CliqueId, NodeName};

/// What is known of one node. A later [`NodeFacts`] of the same name replaces the earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: NodeName,
    /// The NVLink clique of its GPUs. A node without one works as a clique of one.
    pub clique: Option<CliqueId>,
    /// How it was bought; [`CapacityType::of`] reads it from labels.
    pub capacity: CapacityType,
    /// How many GPUs it has.
    pub gpus: u32,
    /// How many of them are used by others than the gangs that hold nodes: pods without a slot, and
    /// pods that the classic device plugin serves.
    pub used: u32,
    /// Whether gangs may be put on it.
    pub health: Health,
    /// Its taints, without the one by which gangs hold nodes.
    pub taints: Vec<Taint>,
    /// Its labels; the topology levels are among them.
    pub labels: BTreeMap<String, String>,
}

/// Whether gangs may be put on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Health {
    /// Nothing is known against it.
    #[default]
    Healthy,
    /// It had faults of the kind that pass: taken only when nothing better is as good a fit.
    Suspect,
    /// It is to be emptied (a Spot notice, the end of a capacity block, maintenance): what runs may
    /// end, nothing new comes.
    Draining,
    /// It cannot serve a gang: not ready, a GPU is lost, or its NVLink is down.
    Unfit,
}

impl Health {
    /// Whether a new gang may be put on such a node.
    pub fn takes_gangs(self) -> bool {
        matches!(self, Self::Healthy | Self::Suspect)
    }
}

/// A node's taint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value, empty if it has none.
    pub value: String,
    /// What it does to pods that do not tolerate it.
    pub effect: TaintEffect,
}

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TaintEffect {
    /// They are not put on the node.
    NoSchedule,
    /// They are put elsewhere if there is an elsewhere. The planner does not look at such taints.
    PreferNoSchedule,
    /// They are not put on the node, and are evicted from it.
    NoExecute,
}

/// How the capacity behind a node was bought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CapacityType {
    /// Reserved for a longer time.
    Reserved,
    /// Reserved from one day to another (a capacity block).
    CapacityBlock,
    /// As long as one likes.
    OnDemand,
    /// As long as nobody pays more.
    Spot,
    /// No label tells.
    #[default]
    Unknown,
}

/// Labels that tell how a node was bought, with the values that mean something.
const CAPACITY_LABELS: [(&str, &str, CapacityType); 11] = {
    use CapacityType::{CapacityBlock, OnDemand, Reserved, Spot};
    [
        ("karpenter.sh/capacity-type", "reserved", Reserved),
        ("karpenter.sh/capacity-type", "on-demand", OnDemand),
        ("karpenter.sh/capacity-type", "spot", Spot),
        (
            "eks.amazonaws.com/capacityType",
            "CAPACITY_BLOCK",
            CapacityBlock,
        ),
        ("eks.amazonaws.com/capacityType", "ON_DEMAND", OnDemand),
        ("eks.amazonaws.com/capacityType", "SPOT", Spot),
        ("cloud.google.com/gke-spot", "true", Spot),
        ("cloud.google.com/gke-preemptible", "true", Spot),
        ("cloud.google.com/gke-provisioning", "standard", OnDemand),
        ("cloud.google.com/gke-provisioning", "spot", Spot),
        ("kubernetes.azure.com/scalesetpriority", "spot", Spot),
    ]
};

impl CapacityType {
    /// What a node's labels tell; the first label of the table that says something decides.
    pub fn of(labels: &BTreeMap<String, String>) -> Self {
        CAPACITY_LABELS
            .iter()
            .find(|(key, value, _)| labels.get(*key).is_some_and(|found| found == value))
            .map_or(Self::Unknown, |(.., capacity)| *capacity)
    }

    /// The name as a `DomainPolicy` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reserved => "Reserved",
            Self::CapacityBlock => "CapacityBlock",
            Self::OnDemand => "OnDemand",
            Self::Spot => "Spot",
            Self::Unknown => "Unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_the_providers_tell_how_a_node_was_bought() {
        let of = |key: &str, value: &str| {
            CapacityType::of(&BTreeMap::from([(key.to_owned(), value.to_owned())]))
        };
        assert_eq!(
            of("eks.amazonaws.com/capacityType", "CAPACITY_BLOCK"),
            CapacityType::CapacityBlock
        );
        assert_eq!(of("karpenter.sh/capacity-type", "spot"), CapacityType::Spot);
        assert_eq!(of("cloud.google.com/gke-spot", "true"), CapacityType::Spot);
        assert_eq!(
            of("cloud.google.com/gke-spot", "false"),
            CapacityType::Unknown
        );
        assert_eq!(CapacityType::of(&BTreeMap::new()), CapacityType::Unknown);
    }
}
