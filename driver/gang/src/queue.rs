//! Plans all gangs that wait, in their order.
//!
//! Gangs of higher priority come first, of those with the same priority the one that has waited longest; and before all of
//! these whoever has waited for [`Rules::aged_after`]. The order is total, and a gang takes all its nodes in one step or none, so
//! no two gangs wait for each other (properties L1 and L2). The first that does not fit, though others' ends could help it, is the
//! [`Head`] and casts a [`Shadow`]: the nodes that it is to have. Those behind it may take other nodes freely, and its nodes only
//! if they end before it can begin; or, as long as nobody knows when that is, until it has waited for [`Rules::promote_after`].
//! From then on its nodes are kept as they become free.

use std::cmp::Reverse;
use std::time::Duration;

use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::demand::Demand;
use crate::head::Head;
use crate::names::GangId;
use crate::placement::Placement;
use crate::plan::plan;
use crate::running::Running;
use crate::shadow::Shadow;

/// How the queue is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long the head of the queue waits before nodes are kept for it whose end nobody knows.
    pub promote_after: Duration,
    /// How long a gang waits before it comes first, whatever its priority: so that no stream of more important ones makes
    /// it wait for ever.
    pub aged_after: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            promote_after: Duration::from_mins(10),
            aged_after: Duration::from_hours(12),
        }
    }
}

/// When it is a gang's turn: the least comes first. Of one turn, who has waited longest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// It has waited so long that its priority does not matter.
    Aged,
    /// By priority.
    Young(Reverse<i32>),
}

impl Rules {
    /// The turn of a gang of this priority that has waited so long.
    pub fn turn(&self, priority: i32, waiting: Duration) -> Turn {
        if waiting >= self.aged_after {
            Turn::Aged
        } else {
            Turn::Young(Reverse(priority))
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
        let turn = rules.turn(demand.priority, demand.waiting);
        (turn, Reverse(demand.waiting), &demand.gang)
    });
    let mut round = Round::default();
    let mut head: Option<Head> = None;
    let mut running = running.to_vec();
    let mut known: Vec<(&Demand, bool, Blocked)> = Vec::new();
    for demand in queue {
        let may_pass = head.as_ref().is_none_or(|head| head.lets_pass(demand));
        let alike = |(other, passed, _): &&(&Demand, bool, Blocked)| {
            *passed == may_pass && asks_the_same(other, demand)
        };
        let planned = match (known.iter().find(alike), &head) {
            (Some((.., blocked)), _) => Err(blocked.clone()),
            (None, Some(head)) => head.plan(cluster, demand),
            (None, None) => plan(cluster, demand),
        };
        let blocked = match planned {
            Ok(placement) => {
                hold(cluster, head.as_ref(), demand, &placement);
                round.placed.push((demand.gang.clone(), placement));
                running.push(Running::begun(demand));
                continue;
            }
            Err(blocked) => blocked,
        };
        if head.is_none() && blocked.passes() {
            head = Head::of(cluster, demand, &running, before, rules);
            if let Some(head) = &head {
                head.lay(cluster);
            }
            // What a shadow covers changes the answer for those behind it.
            known.clear();
        } else {
            known.push((demand, may_pass, blocked.clone()));
        }
        round.waiting.push((demand.gang.clone(), blocked));
    }
    round.shadow = head.map(|head| {
        head.lift(cluster);
        head.shadow().clone()
    });
    round
}

fn asks_the_same(one: &Demand, other: &Demand) -> bool {
    (one.nodes, &one.shape, &one.policy) == (other.nodes, &other.shape, &other.policy)
}

/// Holds what was planned, where the head's shadow may lie on it.
fn hold(cluster: &mut Cluster, head: Option<&Head>, demand: &Demand, placement: &Placement) {
    if let Some(head) = head {
        head.lift(cluster);
    }
    let taken = cluster.hold(&demand.gang, placement);
    taken.expect("a plan takes only what is free, and nothing came between");
    if let Some(head) = head {
        head.lay(cluster);
    }
}
