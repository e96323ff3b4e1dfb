//! Where a gang is put.

use std::num::NonZeroU32;

use crate::names::{CliqueId, NodeName};

/// The nodes of a gang, in the order of its ranks: nodes of one clique follow each other, and cliques
/// that are near each other do too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The cliques, each with its nodes.
    pub cliques: Vec<CliqueShare>,
    /// GPUs held on each node.
    pub gpus_per_node: u32,
    /// How many nodes share a clique: those of a segment. All of the gang's, if it is in one clique.
    pub segment: u32,
    /// The label of the narrowest level that all nodes share, if the cluster has levels and they share one.
    pub level: Option<String>,
    /// Set where the policy `Preferred` had to give way: how many nodes should have shared a clique.
    pub relaxed_from: Option<NonZeroU32>,
}

/// A gang's nodes in one clique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliqueShare {
    /// The clique; none for a node without fabric, which is alone in its share.
    pub clique: Option<CliqueId>,
    /// The nodes that the gang runs on. Every [`Placement::segment`] of them is one segment.
    pub nodes: Vec<Member>,
    /// Nodes that are held against a loss.
    pub spares: Vec<Member>,
}

/// A node of a placement.
#[derive(Clone, Debug, Eq)]
pub struct Member {
    /// The node.
    pub name: NodeName,
    /// Where the cluster that planned keeps the node; only a hint, which a look at the name confirms.
    pub(crate) at: u32,
}

impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl From<NodeName> for Member {
    fn from(name: NodeName) -> Self {
        Self { name, at: u32::MAX }
    }
}

impl Placement {
    /// The nodes that the gang runs on, by rank.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        let members = self.cliques.iter().flat_map(|share| &share.nodes);
        members.map(|member| &member.name)
    }

    /// How many nodes the gang runs on.
    pub fn size(&self) -> usize {
        self.cliques.iter().map(|share| share.nodes.len()).sum()
    }

    /// The nodes that are held against a loss.
    pub fn spares(&self) -> impl Iterator<Item = &NodeName> {
        let members = self.cliques.iter().flat_map(|share| &share.spares);
        members.map(|member| &member.name)
    }

    /// All nodes that are held.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        let shares = self.cliques.iter();
        shares.flat_map(|share| share.nodes.iter().chain(&share.spares))
    }
}
