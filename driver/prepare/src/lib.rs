//! Decides how an allocation becomes devices in a container.
//!
//! Everything here is a function from values to values: what to write, in which order, and how to
//! take it back. The node shell holds the locks, the files and the clock, and does as it is told.

pub mod cdi;
pub mod channel;
pub mod checkpoint;
#[cfg(test)]
mod fuzz;
pub mod ledger;
pub mod making;
mod mig_device;
pub mod notice;
pub mod plan;
pub mod reason;
pub mod record;
pub mod refusal;
pub mod resolve;
pub mod share;
pub mod standing;
pub mod step;
pub mod takeover;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time_slice;
pub mod unowned;
pub mod upkeep;
pub mod waiting;
