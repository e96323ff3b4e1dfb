//! What one gang asks for.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::eligibility::Eligibility;
use crate::names::GangId;
use crate::policy::Policy;

/// One gang that waits for its nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Which gang.
    pub gang: GangId,
    /// How many nodes.
    pub nodes: NodeCount,
    /// What each of them must be.
    pub shape: Shape,
    /// How they are to be chosen.
    pub policy: Policy,
    /// The value of the pods' `PriorityClass`.
    pub priority: i32,
    /// How long it has been waiting.
    pub waiting: Duration,
    /// How long it will run at most, if its workload has a deadline.
    pub runs_for: Option<Duration>,
}

/// How many nodes a gang wants: as many as there are, from `min` to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeCount {
    min: u32,
    max: u32,
}

/// Numbers of nodes that no gang can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a gang of {min} to {max} nodes is impossible; write a least number from 1 to the greatest number, \
     and at most {MOST_NODES}"
)]
pub struct NodeCountError {
    /// The least number asked for.
    pub min: u32,
    /// The greatest number asked for.
    pub max: u32,
}

/// Most nodes of a gang: more than any cluster has (Kubernetes is tested with 100,000), and far from
/// where sums of nodes overflow.
pub const MOST_NODES: u32 = 1_000_000;

impl NodeCount {
    /// From `min` to `max` nodes.
    pub fn new(min: u32, max: u32) -> Result<Self, NodeCountError> {
        let possible = 1 <= min && min <= max && max <= MOST_NODES;
        possible
            .then_some(Self { min, max })
            .ok_or(NodeCountError { min, max })
    }

    /// Just so many nodes.
    pub fn exactly(nodes: u32) -> Result<Self, NodeCountError> {
        Self::new(nodes, nodes)
    }

    /// The least number.
    pub fn min(self) -> u32 {
        self.min
    }

    /// The greatest number.
    pub fn max(self) -> u32 {
        self.max
    }
}

/// What every node of a gang must be: eligible, with so many free GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    fingerprint: u64,
    gpus_per_node: u32,
    eligibility: Arc<Eligibility>,
}

impl Shape {
    /// A shape. Gangs that ask for the same share the index that answers them quickly.
    pub fn new(gpus_per_node: u32, eligibility: Eligibility) -> Self {
        let mut hasher = DefaultHasher::new();
        (gpus_per_node, &eligibility).hash(&mut hasher);
        Self {
            fingerprint: hasher.finish(),
            gpus_per_node,
            eligibility: Arc::new(eligibility),
        }
    }

    /// GPUs that the gang's pods use on each node.
    pub fn gpus_per_node(&self) -> u32 {
        self.gpus_per_node
    }

    /// Which nodes are eligible.
    pub fn eligibility(&self) -> &Eligibility {
        &self.eligibility
    }
}
