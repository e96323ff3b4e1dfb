//! What peers may cost: how many connections and calls there are, and which give way.
//!
//! # Guarantees
//! - A socket never holds more connections than it has places.
//! - Whoever connects gets a place at once: where all are taken, the connection that has done least
//!   to deserve its place loses it. One that only sits there is never in the way of one that asks.
//! - Nothing is closed before somebody else needs the place, except where a socket gives its
//!   connections a time limit.
//!
//! What a connection has done is known where its server reports calls ([`Guest::begin_call`]), which the gRPC
//! servers do. On ports of HTTP alone the connection that came first yields first.
//!
//! # Assumptions
//! The protocol's server drops a connection whose reads and writes fail.

pub mod accept;
#[cfg(feature = "grpc")]
pub mod grpc;
mod places;
mod seated;
pub mod tcp;

pub use places::{Call, Guest, Place, Places};
pub use seated::Seated;
