//! The facts of a cluster, and an index that answers plans quickly.

mod facts;
mod holds;
mod index;

use std::collections::HashMap;
use std::sync::Mutex;

use crate::eligibility::Labels;
use crate::intern::Interner;
use crate::names::{CliqueId, GangId, NodeName};
use crate::node::{CapacityType, Health, Taint};
use crate::topology::Levels;

use holds::Hold;
use index::Index;

pub use holds::{HoldRefusal, WHOLE_NODE};
pub use index::MOST_VIEWS;

/// The nodes of a cluster, what holds them, and indices over both.
///
/// Plans read it; it changes only by facts and holds. The indices inside are made when a shape is
/// first asked for (a look at every node) and then follow every change.
#[derive(Debug)]
pub struct Cluster {
    levels: Levels,
    pub(crate) groups: Interner<Group>,
    pub(crate) nodes: Vec<Option<Node>>,
    vacant_nodes: Vec<u32>,
    by_name: HashMap<NodeName, u32>,
    pub(crate) cliques: Vec<Option<Clique>>,
    vacant_cliques: Vec<u32>,
    by_clique: HashMap<CliqueId, u32>,
    holds: HashMap<GangId, Hold>,
    /// GPUs that are held on nodes of which nothing is known (yet, or any more).
    absent: HashMap<NodeName, u32>,
    index: Mutex<Index>,
}

/// A node as it is kept.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) clique: u32,
    path: Box<[Option<u32>]>,
    pub(crate) capacity: CapacityType,
    pub(crate) gpus: u32,
    used: u32,
    held: u32,
    pub(crate) health: Health,
    pub(crate) taints: Box<[Taint]>,
    pub(crate) labels: Labels,
}

impl Node {
    pub(crate) fn free(&self) -> u32 {
        self.free_with(0)
    }

    /// What would be free if so many GPUs were given back. A node on which more is used than it has
    /// has to be given back the excess first.
    pub(crate) fn free_with(&self, back: u32) -> u32 {
        let taken = u64::from(self.used) + u64::from(self.held);
        let taken = taken.saturating_sub(u64::from(back));
        let free = u64::from(self.gpus).saturating_sub(taken);
        u32::try_from(free).expect("it is at most the node's GPUs, a u32")
    }
}

/// A clique as it is kept. A node without fabric has one of its own.
#[derive(Debug)]
pub(crate) struct Clique {
    pub(crate) id: Option<CliqueId>,
    /// Breaks ties.
    pub(crate) order: u64,
    /// Its nodes by name.
    pub(crate) members: Vec<u32>,
    /// The group of each level that all its nodes are in.
    pub(crate) path: Box<[Option<u32>]>,
    /// How many of its nodes are suspect.
    pub(crate) suspects: u32,
}

/// A group of a topology level: the nodes with one value of its label in one group of the level above.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Group {
    pub(crate) parent: Option<u32>,
    pub(crate) level: usize,
    pub(crate) value: Box<str>,
}

impl From<&Group> for Group {
    fn from(group: &Group) -> Self {
        group.clone()
    }
}

impl Cluster {
    /// A cluster without nodes, with these topology levels.
    pub fn new(levels: Levels) -> Self {
        Self {
            levels,
            groups: Interner::new(),
            nodes: Vec::new(),
            vacant_nodes: Vec::new(),
            by_name: HashMap::new(),
            cliques: Vec::new(),
            vacant_cliques: Vec::new(),
            by_clique: HashMap::new(),
            holds: HashMap::new(),
            absent: HashMap::new(),
            index: Mutex::new(Index::new()),
        }
    }

    /// The topology levels.
    pub fn levels(&self) -> &Levels {
        &self.levels
    }

    /// How many nodes are known.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether no node is known.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The number of a node that is there.
    pub(crate) fn number(&self, name: &NodeName) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The number of a clique that has nodes.
    pub(crate) fn clique_number(&self, id: &CliqueId) -> Option<u32> {
        self.by_clique.get(id).copied()
    }

    /// The free GPUs of a node: neither held nor used by others.
    pub fn free(&self, name: &NodeName) -> Option<u32> {
        let at = self.by_name.get(name)?;
        Some(self.node(*at).free())
    }

    /// The clique of a node, if both are known.
    pub fn clique_of(&self, name: &NodeName) -> Option<&CliqueId> {
        let node = self.node(*self.by_name.get(name)?);
        self.clique(node.clique).id.as_ref()
    }

    pub(crate) fn node(&self, at: u32) -> &Node {
        let node = self.nodes[at as usize].as_ref();
        node.expect("numbers of nodes are those of nodes that are there")
    }

    pub(crate) fn clique(&self, number: u32) -> &Clique {
        let clique = self.cliques[number as usize].as_ref();
        clique.expect("numbers of cliques are those of cliques that have nodes")
    }

    /// The values of a group and of those around it, from broad to narrow.
    pub(crate) fn group_values(&self, group: u32) -> Vec<&str> {
        let mut values = Vec::new();
        let mut next = Some(group);
        while let Some(number) = next {
            let group = self.groups.key(number);
            values.push(&*group.value);
            next = group.parent;
        }
        values.reverse();
        values
    }
}
