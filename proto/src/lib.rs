//! The kubelet's gRPC surface over Unix sockets: messages, services, sockets and their order.
//!
//! A DRA driver has two sockets. The kubelet finds the registration socket, asks over it who the
//! driver is, and from then on calls the DRA socket. This crate knows that protocol and nothing of
//! GPUs: it takes a [`DraPlugin`] and a [`DraResourceHealth`] and keeps them registered.
//!
//! # Flow
//! [`SocketPaths`] names both sockets by the kubelet's rules, [`Sockets::bind`] binds the DRA
//! socket and then the registration socket, [`Sockets::serve`] serves both until it is told to
//! stop, and takes them away in the reverse order. One process can bind and another one serve:
//! [`Sockets::descriptors`], [`Sockets::inherited`].
//!
//! # Guarantees
//! - Every claim of a request has an entry in the reply, also when its handler panics.
//! - A handler runs to its end, even if the kubelet hangs up.
//! - No peer but root and our own user reaches a handler.
//! - What a peer does to its connection harms no other one, and what all of them together make us
//!   keep is bounded ([`limits`]).
//! - A socket of another process is neither replaced nor removed.

#[cfg(feature = "client")]
pub mod client;
mod dead;
mod generated;
pub mod limits;
mod names;
mod plugin;
mod registration;
mod resource_health;
mod sockets;
pub mod uds;

pub use dead::remove_dead_instances;
pub use generated::{dra, health, pluginregistration};
pub use names::{NameError, RegistrationSocketName, RegistrationSocketPath, SocketPaths};
pub use plugin::{CALL_LIMIT, DraPlugin, DraService};
pub use registration::{
    Observer, RegistrationEvent, RegistrationService, SILENCE_LIMIT, SUPPORTED_VERSIONS,
    plugin_info,
};
pub use resource_health::{DraResourceHealth, HealthService};
pub use sockets::{DraSocket, Ending, RegistrationSocket, ServeError, Served, Sockets};
