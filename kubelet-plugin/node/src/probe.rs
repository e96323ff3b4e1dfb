//! The gRPC health service that Kubernetes' probes call.
//!
//! It answers only after it has itself called through both sockets, as the kubelet would: a process
//! that lives but cannot be called is not healthy.

use std::sync::Arc;
use std::time::Duration;

use tessera_proto::dra::v1::NodePrepareResourcesRequest;
use tessera_proto::dra::v1::dra_plugin_client::DraPluginClient;
use tessera_proto::pluginregistration::InfoRequest;
use tessera_proto::pluginregistration::registration_client::RegistrationClient;
use tessera_proto::{SocketPaths, client};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::codegen::BoxStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tracing::warn;

use crate::hardware::HardwareWatch;
use crate::publisher::PublishState;
use tessera_shell::logging::chain;

/// Bound of each step of a probe. Kubernetes' own default is one second for the whole.
const STEP: Duration = Duration::from_millis(900);

/// Service name for readiness; the empty name and `liveness` are the reference's.
const READINESS: &str = "readiness";

/// Answers probes.
#[derive(Clone, Debug)]
pub struct Probe {
    sockets: Arc<SocketPaths>,
    hardware: HardwareWatch,
    published: watch::Receiver<PublishState>,
}

impl Probe {
    /// Probes these sockets; readiness also wants a driver that answers and its slices to be
    /// published.
    pub fn new(
        sockets: SocketPaths,
        hardware: HardwareWatch,
        published: watch::Receiver<PublishState>,
    ) -> Self {
        Self {
            sockets: Arc::new(sockets),
            hardware,
            published,
        }
    }

    /// Serves until `stop` is cancelled.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        Server::builder()
            .add_service(HealthServer::new(self))
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.cancelled_owned())
            .await
    }

    async fn call_through(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let registration = self.sockets.registration.as_socket_path();
        let channel = client::connect(registration, STEP).await?;
        RegistrationClient::new(channel)
            .get_info(InfoRequest {})
            .await?;
        let channel = client::connect(&self.sockets.dra, STEP).await?;
        let nothing = NodePrepareResourcesRequest::default();
        DraPluginClient::new(channel)
            .node_prepare_resources(nothing)
            .await?;
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.hardware.problem().is_none()
            && matches!(*self.published.borrow(), PublishState::Published { .. })
    }
}

#[tonic::async_trait]
impl Health for Probe {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        let ready = match service.as_str() {
            "" | "liveness" => true,
            READINESS => self.is_ready(),
            _ => return Err(Status::not_found(format!("unknown service {service:?}"))),
        };
        let alive = match self.call_through().await {
            Ok(()) => true,
            Err(error) => {
                warn!(
                    error = %chain(error.as_ref()),
                    "the plugin's own sockets do not answer"
                );
                false
            }
        };
        let status = if alive && ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        Ok(Response::new(HealthCheckResponse {
            status: status.into(),
        }))
    }

    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("probes call Check"))
    }
}
