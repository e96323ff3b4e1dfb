//! What is where: settings, the API server's objects, the nodes' truth.

use std::collections::{BTreeMap, BTreeSet};

use tessera_gang::CliquePolicy;

use crate::layout::Layout;

/// Milliseconds of virtual time.
pub(crate) type Time = u64;

/// How long nodes are held for pods that do not come.
pub(crate) const BIND_TIMEOUT: Time = 60_000;

/// How long a gang waits for a node before it gives the others up.
pub(crate) const REPLACE_TIMEOUT: Time = 120_000;

/// How long a node may be silent before it counts as lost.
pub(crate) const NODE_GRACE: Time = 20_000;

/// The longest that a write to the API server can be under way.
pub(crate) const WRITE_DEADLINE: Time = 5_000;

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The cluster.
    pub layout: Layout,
    /// Where chance begins.
    pub seed: u64,
    /// How many events happen before the cluster is left to come to rest.
    pub events: u64,
    /// How many domains there are at most; none arrive beyond.
    pub domains: u32,
    /// The mean time between arrivals.
    pub gap: Time,
    /// The mean time that a domain runs.
    pub runs: Time,
    /// What goes wrong.
    pub faults: Faults,
}

/// What goes wrong. Probabilities are per write or per watched change; means are times between events of the whole cluster.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// The greatest latency of a write or a watched change.
    pub latency: Time,
    /// A write is refused by the API server for its load (429), or lost on the way.
    pub refused: f64,
    /// A write is done, and its answer is lost.
    pub answer_lost: f64,
    /// A watch breaks, with what was under way on it.
    pub watch_dropped: f64,
    /// Leaders die.
    pub leader_dies: Option<Time>,
    /// Nodes are lost: half of them with everything on them, half only cut off.
    pub node_lost: Option<Time>,
    /// A pod does not come, as long as its domain is not planned anew.
    pub pod_missing: f64,
    /// Others change a domain's object.
    pub touched: Option<Time>,
    /// Pods of others come that take GPUs without a claim.
    pub strangers: Option<Time>,
}

impl Faults {
    /// Nothing goes wrong; only latency is left.
    pub const NONE: Self = Self {
        latency: 50,
        refused: 0.0,
        answer_lost: 0.0,
        watch_dropped: 0.0,
        pod_missing: 0.0,
        touched: None,
        leader_dies: None,
        node_lost: None,
        strangers: None,
    };

    /// Everything goes wrong, often.
    pub const ALL: Self = Self {
        latency: 500,
        refused: 0.05,
        answer_lost: 0.03,
        watch_dropped: 0.002,
        pod_missing: 0.01,
        touched: Some(1_000),
        leader_dies: Some(120_000),
        node_lost: Some(30_000),
        strangers: Some(10_000),
    };
}

/// Where a domain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It holds nothing.
    Pending,
    /// It holds nodes, and its pods are coming.
    Reserved,
    /// All its pods were there.
    Ready,
    /// Its pods are going, and it will be planned anew.
    Unbinding,
    /// It has ended, and its pods are going.
    Releasing,
}

/// A domain as the API server has it: one object, written with a precondition on its version.
#[derive(Clone, Debug)]
pub(crate) struct Domain {
    pub(crate) version: u64,
    pub(crate) min: u32,
    pub(crate) max: u32,
    pub(crate) policy: CliquePolicy,
    pub(crate) spares_wanted: u32,
    pub(crate) priority: i32,
    pub(crate) arrived: Time,
    /// The user has deleted it.
    pub(crate) ended: bool,
    pub(crate) phase: Phase,
    /// Counts plans.
    pub(crate) generation: u64,
    pub(crate) nodes: Vec<u32>,
    pub(crate) spares: Vec<u32>,
    pub(crate) reserved_at: Time,
    /// The channel in each clique that it has ever been in.
    pub(crate) channels: BTreeMap<u32, u32>,
    /// Nodes whose pods are prepared, as the nodes have said.
    pub(crate) bound: BTreeSet<u32>,
    /// Nodes that may have its channel in a container, with the last plan that put it there. Only the
    /// node's own word takes one away.
    pub(crate) unconfirmed: BTreeMap<u32, u64>,
}

impl Domain {
    /// Whether its pods may run on a node.
    pub(crate) fn is_planned_on(&self, node: u32) -> bool {
        matches!(self.phase, Phase::Reserved | Phase::Ready) && self.nodes.contains(&node)
    }

    /// Whether every planned node has said that its pod is prepared.
    pub(crate) fn is_whole(&self) -> bool {
        self.nodes.iter().all(|node| self.bound.contains(node))
    }

    /// Every node that is held for it: planned, spare, or not yet let go.
    pub(crate) fn held(&self) -> BTreeSet<u32> {
        let planned = self.nodes.iter().chain(&self.spares).copied();
        planned.chain(self.unconfirmed.keys().copied()).collect()
    }
}

/// A change that the leader writes.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    /// New nodes: a first plan, or one that replaces lost nodes.
    Plan {
        nodes: Vec<u32>,
        spares: Vec<u32>,
        channels: BTreeMap<u32, u32>,
        first: bool,
    },
    /// All pods are there.
    Ready,
    /// Its pods are to go, because they did not all come, or one was lost.
    Unbind,
    /// Its pods are gone, and it may be planned anew.
    Pend,
    /// It has ended, its pods are to go.
    Release,
    /// Its pods are gone.
    Delete,
}

/// A node as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    /// It is cut off, or down.
    pub(crate) away_since: Option<Time>,
    /// GPUs that pods without claims use.
    pub(crate) strangers: u32,
    /// Pods without a slot are kept off.
    pub(crate) tainted: bool,
    /// Containers of domains: the channel in them, and whether the container runs already.
    pub(crate) containers: BTreeMap<u32, Container>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) channel: u32,
    pub(crate) running: bool,
    /// It has been told to end.
    pub(crate) ending: bool,
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Domain(u32, Box<Domain>),
    Gone(u32),
    Node(u32),
}
