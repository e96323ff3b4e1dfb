//! What both processes need to run: API client, logs, HTTP endpoint, signals.
//!
//! The kubelet plugin and the controller share these four, and nothing else: no policy, no retry
//! and no Kubernetes object is decided here.

pub mod client;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod shutdown;

/// The release that this binary was built from, as in `tessera_build_info{version}`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
