//! Channels to our own sockets, for the liveness probe, benchmarks and tests.
//!
//! The kubelet's dial differs in the authority that it sends: that these clients get an answer does
//! not show that the kubelet would.

use std::time::Duration;

use thiserror::Error;
use tonic::transport::{Channel, Endpoint};

use crate::uds::SocketPath;

/// A socket that nobody answers on.
#[derive(Debug, Error)]
#[error("connecting to socket {path}")]
pub struct ConnectError {
    /// The socket.
    path: SocketPath,
    /// Why.
    source: tonic::transport::Error,
}

/// Connects to a socket; `limit` bounds the connection and then each call over the channel.
pub async fn connect(path: &SocketPath, limit: Duration) -> Result<Channel, ConnectError> {
    let failed = |source| ConnectError {
        path: path.clone(),
        source,
    };
    Endpoint::from_shared(format!("unix://{path}"))
        .map_err(failed)?
        .connect_timeout(limit)
        .timeout(limit)
        .connect()
        .await
        .map_err(failed)
}
