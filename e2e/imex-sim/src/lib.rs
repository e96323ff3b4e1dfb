//! A simulated `nvidia-imex`: the daemon through which the nodes of an NVLink fabric share memory.
//!
//! It moves no memory. What is here is what whoever supervises the daemon meets: its configuration, its
//! peers over TCP, its states, its retries, its signals, and `nvidia-imex-ctl`. It follows NVIDIA's "IMEX
//! Service for NVLink Networks" guide; what peers say to each other is a protocol of its own.
//!
//! # Simplifications
//! A peer that was connected counts as one that has imported memory, so a daemon that was killed waits
//! for all peers that it had. There is no authentication and no encryption: a configuration that asks for
//! them is refused.

pub mod config;
pub mod daemon;
pub mod nodes;
pub mod peer;
pub mod state;
pub mod status;
