//! Plans on which nodes a gang of pods runs, and with which IMEX channel.
//!
//! [`Cluster`] holds the facts, a [`Demand`] is one gang, and [`plan`] answers with a [`Placement`]
//! or with the reason why there is none. The same facts and the same demand give the same plan, in
//! whatever order the facts arrived.
//!
//! # Guarantees
//! A plan is all or nothing: it has at least the demand's least number of nodes, each eligible, healthy
//! and with room for the gang's GPUs beside everything that is held. It takes no node twice.

pub mod blocked;
pub mod channels;
pub mod cluster;
pub mod demand;
pub mod eligibility;
mod fill;
pub mod head;
mod intern;
pub mod names;
pub mod node;
pub mod placement;
mod plan;
pub mod policy;
pub mod preempt;
pub mod queue;
pub mod recover;
pub mod running;
pub mod shadow;
pub mod survey;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod topology;
mod view;

pub use blocked::Blocked;
pub use channels::Channels;
pub use cluster::Cluster;
pub use demand::{Demand, NodeCount, Shape};
pub use eligibility::Eligibility;
pub use names::{CliqueId, GangId, NodeName};
pub use node::{CapacityType, Health, NodeFacts};
pub use placement::{CliqueShare, Member, Placement};
pub use plan::{place, plan, why};
pub use policy::{CliquePolicy, Policy};
pub use queue::plan_all;
pub use topology::Levels;

#[cfg(test)]
mod tests;
