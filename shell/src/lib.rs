//! What the programs need to run: arguments that they share, API client, version of the resource API, logs, HTTP endpoint, signals.
//!
//! The kubelet plugin, the session host and the controller share these, and nothing else: no policy, no retry
//! and no Kubernetes object is decided here.

pub mod args;
pub mod client;
pub mod feature_gates;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod program;
pub mod resource_api;
pub mod shutdown;

/// The release that this binary was built from, as in `tessera_build_info{version}`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
