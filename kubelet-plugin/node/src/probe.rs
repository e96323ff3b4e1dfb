//! The gRPC health service that Kubernetes' probes call.
//!
//! It answers only after it has itself called through both sockets, as the kubelet would: a process
//! that lives but cannot be called is not healthy.
//!
//! The port is open to the network. A caller costs a place among [`CONNECTIONS`] for at most
//! [`CONNECTION_LIMIT`], and one look at our own sockets serves all who ask meanwhile, so that no
//! crowd here becomes a crowd there.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use tessera_connections::grpc::{self, Limits, WholeRequests};
use tessera_connections::{Places, Seated, tcp};
use tessera_proto::dra::v1::NodePrepareResourcesRequest;
use tessera_proto::dra::v1::dra_plugin_client::DraPluginClient;
use tessera_proto::pluginregistration::InfoRequest;
use tessera_proto::pluginregistration::registration_client::RegistrationClient;
use tessera_proto::{SocketPaths, client};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::codegen::BoxStream;
use tonic::{Extensions, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tracing::warn;

use crate::hardware::HardwareWatch;
use crate::publisher::PublishState;
use tessera_shell::logging::chain;

/// Bound of each step of a probe. Kubernetes' own default is one second for the whole.
const STEP: Duration = Duration::from_millis(900);

/// How long the outcome of a look at our own sockets answers for them. Kubelets probe every ten
/// seconds, and of those who ask at the same time one looks.
const FRESH: Duration = Duration::from_millis(500);

/// Connections at a time: the kubelet has one, for the time of a probe.
const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not zero");

/// How long a connection lasts, all in all. A probe takes at most five steps, and Kubernetes'
/// default limit is one second.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

/// Time for the last answers once the plugin stops; a caller that stays cannot delay the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a caller may ask: the longest service name that we know has nine letters.
const LIMITS: Limits = Limits {
    open_requests: 4,
    message_bytes: 1 << 10,
    reading: Duration::from_secs(2),
};

/// Service name for readiness; the empty name and `liveness` are the reference's.
const READINESS: &str = "readiness";

/// Answers probes.
#[derive(Clone, Debug)]
pub struct Probe {
    sockets: Arc<SocketPaths>,
    hardware: HardwareWatch,
    published: watch::Receiver<PublishState>,
    looked: Arc<Mutex<Option<Look>>>,
}

/// A look at our own sockets.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    alive: bool,
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
            looked: Arc::default(),
        }
    }

    /// Serves until `stop` is cancelled.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let places = Places::new(CONNECTIONS);
        let callers = callers(listener, places.clone());
        let serving = grpc::server(&LIMITS)
            .layer(WholeRequests::new(LIMITS, Extensions::get))
            .add_service(HealthServer::new(self))
            .serve_with_incoming_shutdown(callers, stop.clone().cancelled_owned());
        let dismissed = async {
            stop.cancelled().await;
            tokio::time::sleep(FAREWELL).await;
            places.dismiss();
            std::future::pending().await
        };
        tokio::select! {
            served = serving => served,
            never = dismissed => never,
        }
    }

    /// Whether our sockets answer now, as the last look tells if it is fresh.
    async fn is_alive(&self) -> bool {
        let mut looked = self.looked.lock().await;
        if let Some(look) = *looked
            && look.at.elapsed() < FRESH
        {
            return look.alive;
        }
        let called = self.call_through().await;
        if let Err(error) = &called {
            warn!(error = %chain(error.as_ref()), "the plugin's own sockets do not answer");
        }
        let (at, alive) = (Instant::now(), called.is_ok());
        *looked = Some(Look { at, alive });
        alive
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
        self.hardware.problem().is_none() && self.published.borrow().is_published()
    }
}

/// Whoever calls, each in a place.
fn callers(
    listener: TcpListener,
    places: Places,
) -> impl Stream<Item = io::Result<Seated<TcpStream>>> + Send {
    stream::unfold((listener, places), |(listener, places)| async move {
        let next = tcp::next(&listener, &places, CONNECTION_LIMIT).await;
        Some((next, (listener, places)))
    })
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
        let alive = self.is_alive().await;
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

#[cfg(test)]
mod tests;
