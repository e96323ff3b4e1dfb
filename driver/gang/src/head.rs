//! The gang at the head of a queue, and what is kept for it.

use std::time::Duration;

use crate::blocked::Blocked;
use crate::cluster::{Cluster, WHOLE_NODE};
use crate::demand::Demand;
use crate::names::{GangId, NodeName};
use crate::placement::Placement;
use crate::plan::{place, why};
use crate::queue::Rules;
use crate::running::Running;
use crate::shadow::Shadow;

/// The first gang of a queue that waits for others to end, and its [`Shadow`].
///
/// The shadow lies on a cluster as a hold of the head, on nodes that others use too: what becomes free of them, a single
/// GPU even, is not given to anybody behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    shadow: Shadow,
    /// Under which name the shadow lies on a cluster: apart from what the gang may still hold there.
    holder: GangId,
    /// GPUs of each node that the shadow covers.
    gpus_per_node: u32,
    /// Whether its nodes are kept although nobody knows when it begins.
    promoted: bool,
}

impl Head {
    /// A gang for which there is no room now, on a cluster on which no shadow lies. It waits for the same nodes as `before`, if
    /// these can still be had. None if it never fits.
    pub fn of(
        cluster: &Cluster,
        demand: &Demand,
        running: &[Running],
        before: Option<&Shadow>,
        rules: Rules,
    ) -> Option<Self> {
        let same = before.filter(|before| before.holds(cluster, demand));
        let anew = Shadow::of(cluster, demand, running);
        let shadow = match (same, anew) {
            (Some(same), Some(anew)) if anew.begins_in.is_none() || same.nodes == anew.nodes => {
                Shadow {
                    begins_in: anew.begins_in,
                    ..same.clone()
                }
            }
            (_, anew) => anew?,
        };
        let promoted = demand.waiting >= rules.promote_after;
        Some(Self::waiting_for(shadow, demand, promoted))
    }

    /// A gang that has room as soon as those have gone who are on their way out: its nodes are kept at once.
    pub fn about_to_begin(demand: &Demand, placement: &Placement) -> Self {
        let shadow = Shadow {
            gang: demand.gang.clone(),
            nodes: placement.nodes().cloned().collect(),
            begins_in: Some(Duration::ZERO),
        };
        Self::waiting_for(shadow, demand, false)
    }

    fn waiting_for(shadow: Shadow, demand: &Demand, promoted: bool) -> Self {
        Self {
            holder: GangId::from(format!("shadow of {}", shadow.gang)),
            shadow,
            gpus_per_node: demand.shape.gpus_per_node(),
            promoted,
        }
    }

    /// The same where a node is one gang's at a time: nobody is to have a part of one that is kept.
    #[must_use]
    pub fn keeping_whole_nodes(self) -> Self {
        Self {
            gpus_per_node: WHOLE_NODE,
            ..self
        }
    }

    /// For which nodes it waits.
    pub fn shadow(&self) -> &Shadow {
        &self.shadow
    }

    /// Which gang it is.
    pub fn gang(&self) -> &GangId {
        &self.shadow.gang
    }

    /// Whether a gang behind it may use nodes of the shadow: it ends before the head can begin; or nobody knows when that
    /// is, and the head has not waited for long.
    pub fn lets_pass(&self, demand: &Demand) -> bool {
        match self.shadow.begins_in {
            Some(begins_in) => demand
                .runs_for
                .is_some_and(|runs_for| runs_for <= begins_in),
            None => !self.promoted,
        }
    }

    /// Puts the shadow on a cluster.
    pub fn lay(&self, cluster: &mut Cluster) {
        let nodes: Vec<NodeName> = self.shadow.nodes.clone();
        cluster.restore(&self.holder, nodes, self.gpus_per_node);
    }

    /// Takes the shadow off again.
    pub fn lift(&self, cluster: &mut Cluster) {
        cluster.release(&self.holder);
    }

    /// Where a gang behind it is to be put, or why it is not, on a cluster on which the shadow lies: on other nodes if there
    /// are such, else on those of the shadow if it may use them.
    pub fn plan(&self, cluster: &mut Cluster, demand: &Demand) -> Result<Placement, Blocked> {
        if let Some(outside) = place(cluster, demand) {
            return Ok(outside);
        }
        let passes = self.lets_pass(demand);
        self.lift(cluster);
        let inside = place(cluster, demand);
        let blocked = (passes && inside.is_none()).then(|| why(cluster, demand));
        self.lay(cluster);
        match inside {
            Some(inside) if passes => Ok(inside),
            Some(_) => Err(Blocked::BlockedByShadow {
                wanted: demand.nodes.min(),
                ahead: self.shadow.gang.clone(),
            }),
            // What is kept is no room for it: the size that is said to fit must fit beside it.
            None => Err(blocked.unwrap_or_else(|| why(cluster, demand))),
        }
    }
}
