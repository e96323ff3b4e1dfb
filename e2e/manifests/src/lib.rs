//! Renders the Helm chart with real Helm and reads manifests strictly.
//!
//! The tests of this crate hold the chart against what Kubernetes accepts, what the binaries
//! understand and what the plain manifests say. They need no cluster, only a `helm` program.

pub mod chart;
pub mod rendered;
pub mod sources;
pub mod strict;
