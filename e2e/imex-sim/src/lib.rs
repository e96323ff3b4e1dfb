//! A simulated `nvidia-imex`: the daemon through which the nodes of an NVLink fabric share memory.
//!
//! It moves no memory. What is here is what whoever supervises the daemon meets: its configuration, its
//! peers over TCP, its states, its retries, its signals, and `nvidia-imex-ctl`. It follows NVIDIA's "IMEX
//! Service for NVLink Networks" guide; what peers say to each other is a protocol of its own.
//!
//! # Simplifications
//! A peer that was connected counts as one that has imported memory, so a daemon that was killed waits
//! for all peers that it had. Nothing is encrypted, and no certificate is checked: daemons that are to use TLS
//! (`SSL_TLS` with files, nothing else is taken) read their credentials, and talk to those that have the same
//! authority and expect the same name.

pub mod config;
pub mod daemon;
pub mod nodes;
pub mod peer;
pub mod state;
pub mod status;
