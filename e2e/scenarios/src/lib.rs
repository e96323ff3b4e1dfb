//! What must hold on a real cluster, scenario by scenario, and the means to look at it.
//!
//! [`SCENARIOS`] is the one list: each entry is a function in [`groups`], named as the statement that it proves, in a
//! namespace of its own. The product is there as users install it ([`release`]), and everything is seen as users see it:
//! by `kubectl` ([`kubernetes`]), in a pod's log, in the files of a node.

mod account;
mod agreement;
mod calls;
mod churn;
mod context;
mod diagnosis;
pub mod failure;
pub mod gpus;
mod ground;
mod groups;
mod installation;
mod kubelet_log;
pub mod kubernetes;
mod leftovers;
mod lines;
mod list;
mod mpi;
mod need;
mod pause;
mod plugin_pod;
mod presence;
pub mod release;
mod scenario;
mod simulated;
mod wish;

pub use failure::Failure;
pub use ground::Ground;
pub use installation::{Installation, Installed};
pub use list::SCENARIOS;
pub use need::{Need, NotServed};
pub use scenario::{Form, LeftOut, Outcome, Scenario, Trouble};
