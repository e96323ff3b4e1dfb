//! Plans all gangs that wait, in their order.
//!
//! Gangs of higher priority come first, of those with the same priority the one that has waited longest;
//! the order is total, and a gang takes all its nodes in one step or none, so no two gangs wait for each
//! other (properties L1 and L2). The first that does not fit, though others' ends could help it, casts a [`Shadow`]: the nodes that
//! it is to have. Those behind it may take other nodes freely, and its nodes only if they end before it
//! can begin; or, as long as nobody knows when that is, until it has waited for [`Rules::promote_after`].
//! From then on its nodes are kept as they become free.

use std::cmp::Reverse;
use std::time::Duration;

use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::demand::Demand;
use crate::names::{GangId, NodeName};
use crate::placement::Placement;
use crate::plan::{place, why};
use crate::running::Running;
use crate::shadow::Shadow;

/// How the queue is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long the head of the queue waits before nodes are kept for it whose end nobody knows.
    pub promote_after: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            promote_after: Duration::from_mins(10),
        }
    }
}

/// What became of the gangs that waited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Those that have nodes now: the cluster holds them. Who does not go through with one releases it.
    pub placed: Vec<(GangId, Placement)>,
    /// Those that go on waiting, and why.
    pub waiting: Vec<(GangId, Blocked)>,
    /// The nodes for which the head of the queue waits: to be given to the next round, so that it goes
    /// on waiting for the same.
    pub shadow: Option<Shadow>,
}

/// Plans all gangs that wait.
pub fn plan_all(
    cluster: &mut Cluster,
    waiting: &[Demand],
    running: &[Running],
    before: Option<&Shadow>,
    rules: Rules,
) -> Round {
    let mut queue: Vec<&Demand> = waiting.iter().collect();
    queue.sort_by_key(|demand| {
        (
            Reverse(demand.priority),
            Reverse(demand.waiting),
            &demand.gang,
        )
    });
    let mut round = Round::default();
    let mut kept = Kept {
        cluster,
        shadow: None,
    };
    let mut running = running.to_vec();
    let mut known: Vec<(&Demand, bool, Blocked)> = Vec::new();
    for demand in queue {
        let may_pass = kept.may_pass(demand);
        let alike = |(other, passed, _): &&(&Demand, bool, Blocked)| {
            *passed == may_pass && asks_the_same(other, demand)
        };
        let blocked = if let Some((.., blocked)) = known.iter().find(alike) {
            blocked.clone()
        } else if let Some(placement) = kept.place(demand, may_pass) {
            round.placed.push((demand.gang.clone(), placement));
            running.push(Running::begun(demand));
            continue;
        } else {
            kept.why(demand, may_pass)
        };
        if kept.shadow.is_none() && blocked.passes() {
            kept.cast(demand, &running, before, rules);
            // What a shadow covers changes the answer for those behind it.
            known.clear();
        } else {
            known.push((demand, may_pass, blocked.clone()));
        }
        round.waiting.push((demand.gang.clone(), blocked));
    }
    round.shadow = kept.shadow.take().map(|cast| cast.shadow);
    if let Some(shadow) = &round.shadow {
        cluster.release(&shadow.gang);
    }
    round
}

fn asks_the_same(one: &Demand, other: &Demand) -> bool {
    (one.nodes, &one.shape, &one.policy) == (other.nodes, &other.shape, &other.policy)
}

/// A cluster in which nodes may be kept for the head of the queue.
struct Kept<'a> {
    cluster: &'a mut Cluster,
    shadow: Option<Cast>,
}

/// A shadow that lies on the cluster: what is free of its nodes is held for its gang.
struct Cast {
    shadow: Shadow,
    gpus_per_node: u32,
    /// Whether its nodes are kept although nobody knows when it begins.
    promoted: bool,
}

impl Kept<'_> {
    /// Whether a gang may use nodes of the shadow.
    fn may_pass(&self, demand: &Demand) -> bool {
        self.shadow
            .as_ref()
            .is_none_or(|cast| match cast.shadow.begins_in {
                Some(begins_in) => demand
                    .runs_for
                    .is_some_and(|runs_for| runs_for <= begins_in),
                None => !cast.promoted,
            })
    }

    /// Finds nodes, outside of the shadow if there are such, and holds them.
    fn place(&mut self, demand: &Demand, may_pass: bool) -> Option<Placement> {
        let outside = place(self.cluster, demand);
        match outside {
            None if may_pass && self.shadow.is_some() => {
                self.lift();
                let inside = place(self.cluster, demand);
                self.hold(demand, inside.as_ref());
                self.lay();
                inside
            }
            outside => {
                self.hold(demand, outside.as_ref());
                outside
            }
        }
    }

    fn hold(&mut self, demand: &Demand, placement: Option<&Placement>) {
        if let Some(placement) = placement {
            let held = self.cluster.hold(&demand.gang, placement);
            held.expect("a plan takes only what is free, and nothing came between");
        }
    }

    fn why(&mut self, demand: &Demand, may_pass: bool) -> Blocked {
        let Some(cast) = &self.shadow else {
            return why(self.cluster, demand);
        };
        let ahead = cast.shadow.gang.clone();
        self.lift();
        let in_the_way = !may_pass && place(self.cluster, demand).is_some();
        let blocked = if in_the_way {
            Blocked::BlockedByShadow {
                wanted: demand.nodes.min(),
                ahead,
            }
        } else {
            why(self.cluster, demand)
        };
        self.lay();
        blocked
    }

    /// Lets the head of the queue wait for nodes: for the same as before, if they can still be had.
    fn cast(&mut self, head: &Demand, running: &[Running], before: Option<&Shadow>, rules: Rules) {
        let same = before.filter(|before| before.holds(self.cluster, head));
        let anew = Shadow::of(self.cluster, head, running);
        let shadow = match (same, anew) {
            (Some(same), Some(anew)) if anew.begins_in.is_none() || same.nodes == anew.nodes => {
                Some(Shadow {
                    begins_in: anew.begins_in,
                    ..same.clone()
                })
            }
            (_, anew) => anew,
        };
        self.shadow = shadow.map(|shadow| Cast {
            shadow,
            gpus_per_node: head.shape.gpus_per_node(),
            promoted: head.waiting >= rules.promote_after,
        });
        self.lay();
    }

    fn lift(&mut self) {
        if let Some(cast) = &self.shadow {
            self.cluster.release(&cast.shadow.gang);
        }
    }

    fn lay(&mut self) {
        if let Some(cast) = &self.shadow {
            let free =
                |name: &&NodeName| self.cluster.free(name) >= Some(cast.gpus_per_node.max(1));
            let nodes: Vec<NodeName> = cast.shadow.nodes.iter().filter(free).cloned().collect();
            self.cluster
                .restore(&cast.shadow.gang, nodes, cast.gpus_per_node);
        }
    }
}
