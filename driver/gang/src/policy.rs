//! How a gang wants to be placed: the values of a `DomainPolicy`, without its Kubernetes type.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::node::CapacityType;

/// How a gang wants to be placed.
///
/// [`Policy::default`] is what a domain without a `DomainPolicy` has: one clique.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// How nodes relate to cliques.
    pub clique: CliquePolicy,
    /// How many nodes must share a clique. Without it, all nodes of the gang must; a gang that is
    /// larger than any clique is cut into segments of the largest clique's size.
    pub segment: Option<NonZeroU32>,
    /// The label of the level in whose one group all nodes must be.
    pub required_level: Option<String>,
    /// The label of the level that is tried first.
    pub preferred_level: Option<String>,
    /// Types of capacity that the gang may use, the preferred first; empty means all alike. Nodes of
    /// a later type are used only if the earlier ones do not suffice.
    pub capacity: Vec<CapacityType>,
    /// How many more nodes of the same cliques are held against the loss of nodes. A gang does not
    /// wait for its spares.
    pub spares: u32,
    /// How long nodes are held for pods that do not come.
    pub bind_timeout: Duration,
    /// What may be done about a lost node.
    pub replacement: Replacement,
    /// Whether gangs of lower priority may be ended for this one.
    pub preempts: bool,
}

/// How a gang's nodes relate to cliques.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CliquePolicy {
    /// The gang, or each of its segments, is in one clique, or waits.
    #[default]
    Required,
    /// As `Required` where that fits; else in segments of a half, a quarter and so on, to single nodes.
    Preferred,
    /// Over as many cliques as possible.
    Spread,
}

/// What may be done about a lost node, in this order: a spare, a free node of the same clique, and then:
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Replacement {
    /// An elastic gang goes on with fewer nodes, not below its least number.
    pub shrink: bool,
    /// The whole gang is moved to where it fits.
    pub migrate: bool,
    /// How long a gang that needs it waits for a node before it is moved.
    pub timeout: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            clique: CliquePolicy::default(),
            segment: None,
            required_level: None,
            preferred_level: None,
            capacity: Vec::new(),
            spares: 0,
            bind_timeout: Duration::from_mins(5),
            replacement: Replacement::default(),
            preempts: false,
        }
    }
}

impl Default for Replacement {
    fn default() -> Self {
        Self {
            shrink: true,
            migrate: false,
            timeout: Duration::from_mins(10),
        }
    }
}
