//! The cluster controller: what is planned for the cluster as a whole, by one leader at a time.
//!
//! It elects a leader, which serves compute [`domains`], and serves health and metrics. [`cleanup`] is what an uninstallation runs, and [`webhook`] a process of
//! its own that checks configurations.

pub mod args;
pub mod cleanup;
pub mod domains;
pub mod lease;
pub mod run;
pub mod webhook;
