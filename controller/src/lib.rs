//! The cluster controller: what is planned for the cluster as a whole, by one leader at a time.
//!
//! It holds no work of its own yet: it elects a leader, so that everything that comes later has one,
//! and serves health and metrics. Its second duty is [`cleanup`], which an uninstallation runs.

pub mod args;
pub mod cleanup;
pub mod lease;
pub mod run;
