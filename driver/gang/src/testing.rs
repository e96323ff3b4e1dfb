//! Clusters and demands for tests, those of other crates too.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Cluster;
use crate::demand::{Demand, NodeCount, Shape};
use crate::eligibility::Eligibility;
use crate::names::GangId;
use crate::node::{CapacityType, Health, NodeFacts};
use crate::policy::Policy;
use crate::topology::Levels;

/// A healthy node with four free GPUs in a clique.
pub fn node(name: &str, clique: Option<&str>) -> NodeFacts {
    NodeFacts {
        name: name.into(),
        clique: clique.map(Into::into),
        capacity: CapacityType::Unknown,
        gpus: 4,
        used: 0,
        health: Health::Healthy,
        taints: Vec::new(),
        labels: BTreeMap::from([("kubernetes.io/hostname".to_owned(), name.to_owned())]),
    }
}

/// A cluster without topology levels, with cliques `c0`, `c1`, … of these sizes; nodes are `c0-0`, ….
pub fn cliques(sizes: &[u32]) -> Cluster {
    let mut cluster = Cluster::new(Levels::default());
    for (number, size) in sizes.iter().enumerate() {
        for at in 0..*size {
            let clique = format!("c{number}");
            cluster.upsert(node(&format!("{clique}-{at}"), Some(&clique)));
        }
    }
    cluster
}

/// A gang of whole nodes of four GPUs.
pub fn demand(gang: &str, nodes: u32) -> Demand {
    Demand {
        gang: GangId::from(gang),
        nodes: NodeCount::exactly(nodes).expect("tests ask for gangs that can be"),
        shape: Shape::new(4, Eligibility::default()),
        policy: Policy::default(),
        priority: 0,
        waiting: Duration::ZERO,
        runs_for: None,
    }
}
