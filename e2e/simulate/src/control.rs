//! The control plane under faults: API server, watches, leaders, nodes and pods are models; what is
//! decided is decided by the product's planner and channel allocator.
//!
//! One event happens at a time, in virtual milliseconds. After each, [`check`] looks at the properties
//! that must hold.

mod check;
mod leader;
mod model;
mod world;

pub use check::Violation;
pub use model::{Faults, Setting};
pub use world::{CrashAt, Report, run};

#[cfg(test)]
mod tests;
