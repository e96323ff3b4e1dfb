//! `kubectl tessera`: where a compute domain would go, what else could be asked for, and why not.
//!
//! # Flow
//! What the controller watches is read once, by way of the user's `kubectl`, and the controller's own decision is asked.
//! Nothing is written.
//!
//! # Guarantees
//! The answer is the controller's at the moment of the reads, which are made one after the other: what changes
//! between them can be half seen.

pub mod args;
pub mod cluster;
pub mod manifest;
pub mod show;
