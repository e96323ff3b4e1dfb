//! Kills the kubelet plugin at every point of its work and compares what comes of it with a life without a crash.
//!
//! The plugin is the program as it is shipped. It runs on directories of its own, with a simulated driver, a stand-in for
//! the API server and a stand-in for the kubelet. An [`Operation`] is run once unharmed; then once for each of its points,
//! with the process killed at that point, started again, and the kubelet's calls repeated, until a run has fewer points.
//! So the crash space is enumerated and not sampled. Three kinds of points are all that a process can leave a trace by:
//!
//! - each system call that may change a file of the node, killed before and after its effect;
//! - each request to the API server, killed before and after its effect;
//! - each NVML call, at which the simulated driver kills its caller.
//!
//! What must hold is in [`Operation`] and [`Failure`].

pub mod api;
pub mod changes;
pub mod claims;
pub mod enumerate;
pub mod failure;
pub mod fuse;
pub mod kubelet;
pub mod node;
pub mod operation;
pub mod process;
pub mod tracer;

pub use enumerate::{Points, enumerate};
pub use failure::Failure;
pub use node::{Place, Programs};
pub use operation::Operation;
