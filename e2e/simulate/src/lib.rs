//! Simulates clusters in which gangs come and go.
//!
//! Everything here is simulated but the planner, which is the product's: hardware, API server, nodes and
//! time are models, and `docs/placement.md` says which. Chance comes from a seed, so that a run can be repeated.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a model's counts are far below 2^31, and its times need no more digits than a double has"
)]

pub mod chance;
pub mod control;
pub mod layout;
pub mod loss;
pub mod placers;
pub mod plot;
pub mod queueing;
pub mod small;
pub mod stats;
pub mod workload;
