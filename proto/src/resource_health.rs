//! The health service, written once for both of its versions.

use std::fmt;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::health::v1::{DeviceHealth, NodeWatchResourcesRequest, NodeWatchResourcesResponse};
use crate::health::{v1, v1alpha1};

/// What a DRA driver tells the kubelet about the health of its devices.
pub trait DraResourceHealth: Send + Sync + 'static {
    /// The health of all devices: once at the start, at every change, and again before the timeout
    /// that the entries name passes, because the kubelet forgets then. Each kubelet connection has
    /// a stream of its own; it ends when the stream ends, the kubelet leaves or the driver stops.
    fn watch(&self) -> BoxStream<'static, Vec<DeviceHealth>>;
}

/// Serves a [`DraResourceHealth`] as `v1` and as `v1alpha1`, until it is told to stop.
///
/// The kubelet never ends the stream by itself, so a server that waits for open calls before it
/// exits has to end it.
pub struct HealthService<H> {
    health: Arc<H>,
    stop: CancellationToken,
}

impl<H> Clone for HealthService<H> {
    fn clone(&self) -> Self {
        Self {
            health: Arc::clone(&self.health),
            stop: self.stop.clone(),
        }
    }
}

impl<H> fmt::Debug for HealthService<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthService").finish_non_exhaustive()
    }
}

impl<H: DraResourceHealth> HealthService<H> {
    /// Serves health until `stop` is cancelled.
    pub fn new(health: Arc<H>, stop: CancellationToken) -> Self {
        Self { health, stop }
    }

    fn stream(&self) -> ReportStream {
        self.health
            .watch()
            .map(|devices| Ok(NodeWatchResourcesResponse { devices }))
            .take_until(self.stop.clone().cancelled_owned())
            .boxed()
    }
}

type ReportStream = BoxStream<'static, Result<NodeWatchResourcesResponse, Status>>;

#[tonic::async_trait]
impl<H: DraResourceHealth> v1::dra_resource_health_server::DraResourceHealth for HealthService<H> {
    type NodeWatchResourcesStream = ReportStream;

    async fn node_watch_resources(
        &self,
        _: Request<NodeWatchResourcesRequest>,
    ) -> Result<Response<ReportStream>, Status> {
        Ok(Response::new(self.stream()))
    }
}

#[tonic::async_trait]
impl<H: DraResourceHealth> v1alpha1::dra_resource_health_server::DraResourceHealth
    for HealthService<H>
{
    type NodeWatchResourcesStream = ReportStream;

    async fn node_watch_resources(
        &self,
        _: Request<NodeWatchResourcesRequest>,
    ) -> Result<Response<ReportStream>, Status> {
        Ok(Response::new(self.stream()))
    }
}
