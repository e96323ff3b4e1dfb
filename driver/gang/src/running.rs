//! Gangs that hold nodes already, as far as plans for others need to know them.

use std::collections::HashMap;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::demand::Demand;
use crate::names::GangId;

/// A gang that holds nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Which gang. What it holds is in the cluster.
    pub gang: GangId,
    /// The value of its pods' `PriorityClass`.
    pub priority: i32,
    /// How long it has been running: what is lost if it is ended.
    pub ran_for: Duration,
    /// When it ends at the latest, if its workload has a deadline.
    pub ends_in: Option<Duration>,
    /// Whether it may be ended for a gang of higher priority.
    pub may_be_ended: bool,
}

impl Running {
    /// A gang that has just been given its nodes.
    pub(crate) fn begun(demand: &Demand) -> Self {
        Self {
            gang: demand.gang.clone(),
            priority: demand.priority,
            ran_for: Duration::ZERO,
            ends_in: demand.runs_for,
            may_be_ended: false,
        }
    }
}

/// GPUs by node that gangs would give back.
pub(crate) fn given_back<'a>(
    cluster: &Cluster,
    gangs: impl IntoIterator<Item = &'a GangId>,
) -> HashMap<u32, u32> {
    let mut freed: HashMap<u32, u32> = HashMap::new();
    for gang in gangs {
        for (at, gpus) in cluster.held_nodes(gang) {
            let sum = freed.entry(at).or_default();
            *sum = sum.saturating_add(gpus);
        }
    }
    freed
}
