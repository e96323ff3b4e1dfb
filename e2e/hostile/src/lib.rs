//! Peers that are hostile or broken, on the kubelet's sockets.
//!
//! The program of this crate is a driver that does nothing but serve, in a process of its own, so that
//! a test can count what peers make it hold.

pub mod driver;
pub mod wire;
