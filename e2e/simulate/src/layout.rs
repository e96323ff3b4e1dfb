//! How a simulated cluster is built.

use std::collections::BTreeMap;

use tessera_gang::node::{CapacityType, Health, NodeFacts};
use tessera_gang::{Cluster, Levels};

/// Labels of the simulated network, from broad to narrow.
pub const LEVELS: [&str; 2] = ["simulated/spine", "simulated/leaf"];

/// GPUs of a simulated node.
pub const GPUS: u32 = 4;

/// Nodes in cliques, cliques on leaf switches, these on spines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How many nodes.
    pub nodes: u32,
    /// Nodes of a clique. The last clique has what is left.
    pub clique: u32,
}

/// Cliques of a leaf, and leaves of a spine.
const FAN: u32 = 16;

impl Layout {
    /// How many cliques there are.
    pub fn cliques(self) -> u32 {
        self.nodes.div_ceil(self.clique)
    }

    /// The clique of a node.
    pub fn clique_of(self, node: u32) -> u32 {
        node / self.clique
    }

    /// A node's name.
    pub fn name(self, node: u32) -> String {
        format!("node-{node:06}")
    }

    /// A node without anything on it.
    pub fn facts(self, node: u32) -> NodeFacts {
        let clique = self.clique_of(node);
        let leaf = clique / FAN;
        let labels = [
            (LEVELS[0], format!("spine-{}", leaf / FAN)),
            (LEVELS[1], format!("leaf-{leaf}")),
        ];
        NodeFacts {
            name: self.name(node).into(),
            clique: Some(format!("rack-{clique:05}.0").into()),
            capacity: CapacityType::Unknown,
            gpus: GPUS,
            used: 0,
            health: Health::Healthy,
            taints: Vec::new(),
            labels: BTreeMap::from(labels.map(|(key, value)| (key.to_owned(), value))),
        }
    }

    /// The cluster with nothing on it.
    pub fn cluster(self) -> Cluster {
        let levels = Levels::new(LEVELS.map(str::to_owned));
        let mut cluster = Cluster::new(levels.expect("two different labels are levels"));
        for node in 0..self.nodes {
            cluster.upsert(self.facts(node));
        }
        cluster
    }
}
