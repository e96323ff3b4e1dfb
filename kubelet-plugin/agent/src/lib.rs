//! Moves the memory limits of shares that are in use on one node.
//!
//! # Flow
//! At each tick ([`mover`]) it reads which containers have which shares from the notes of the kubelet plugin, what the
//! shares are promised from its records, and what the containers use from the driver; asks
//! [`tessera_sharing::decide()`]; and has the driver set what that says. What it saw is shown as metrics ([`shown`]).
//!
//! # What it is not
//! It takes no requests and knows no API server. It writes no file: notes and records are the plugin's. It keeps nothing
//! that matters, so that its end at any moment leaves limits that hold, and the next process goes on from them. It sets
//! no limit of a cgroup that no note of the plugin names.
//!
//! It shares the lock of each card with the plugin, which sets the first limit of a container. So no two processes
//! give away the same memory.

pub mod args;
pub mod mover;
pub mod pace;
pub mod run;
pub mod shown;
