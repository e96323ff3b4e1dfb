//! Runs the NVLink session of one node: supervises `nvidia-imex`.
//!
//! # Flow
//! [`follow`] reads from the API server in which clique the node is, and who else is. [`supervise`] does what
//! [`tessera_session::decide()`] says: it writes the daemon's files, starts it, tells it of changes, and asks
//! it how it is. What comes of that is told on a socket, to the plugin that prepares channels ([`socket`]),
//! and in the status of the `NVLinkClique` ([`publish`]).
//!
//! # What survives what
//! The session is the daemon's, and the daemon is a child in the container. It outlives a crash of the
//! process that supervises it: the container's first process, the keeper, does nothing else than to start
//! that process again, which finds the daemon by its record and goes on with it. It does not outlive the
//! container or the pod. So the DaemonSet is updated `OnDelete`, and there is no liveness probe.

pub mod args;
pub mod daemon;
pub mod files;
pub mod follow;
pub mod keeper;
pub mod metrics;
pub mod programs;
pub mod publish;
mod questions;
pub mod run;
pub mod socket;
pub mod supervise;
