//! The order of the two sockets.
//!
//! # Flow
//! The DRA socket listens before the registration socket exists, because the kubelet calls it
//! within milliseconds of finding the other.
//!
//! On the way out calls in flight end first, then the registration socket is unlinked, then the
//! kubelet hangs up, then the DRA socket goes. The kubelet looks at its registration directory once
//! a second and closes its connection to a driver whose socket is gone, which cancels every call on
//! it (`pkg/kubelet/cm/dra/plugin/dra_plugin_manager.go`, `remove`): so no call may be in flight
//! when the socket goes, and until then one that arrives is still answered.
//!
//! # Guarantees
//! A [`RegistrationSocket`] comes only out of a bound [`DraSocket`], and [`Sockets`] takes both
//! away in the right order however it is dropped.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use http::Extensions;
use tessera_connections::grpc::{self, WholeRequests};
use tessera_connections::{Guest, Places};
use thiserror::Error;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tower::layer::util::{Identity, Stack};

use crate::dra;
use crate::health;
use crate::limits::{self, CONNECTIONS};
use crate::names::{RegistrationSocketPath, SocketPaths};
use crate::plugin::{DraPlugin, DraService};
use crate::pluginregistration::registration_server::RegistrationServer;
use crate::registration::{Observer, RegistrationEvent, RegistrationService, plugin_info};
use crate::resource_health::{DraResourceHealth, HealthService};
use crate::uds::{
    self, BindError, BoundSocket, Connection, ConnectionInfo, Peers, SocketFile, SocketPath,
};

/// The bound DRA socket. The kernel queues connections from here on.
#[derive(Debug)]
pub struct DraSocket(BoundSocket);

impl DraSocket {
    /// Binds it.
    pub fn bind(path: &SocketPath) -> Result<Self, BindError> {
        uds::bind(path).map(Self)
    }

    /// Binds the registration socket by which the kubelet finds this one.
    pub fn register(&self, path: &RegistrationSocketPath) -> Result<RegistrationSocket, BindError> {
        Ok(RegistrationSocket {
            bound: uds::bind(path.as_socket_path())?,
            endpoint: self.0.path().clone(),
        })
    }
}

/// The bound registration socket of a DRA socket.
#[derive(Debug)]
pub struct RegistrationSocket {
    bound: BoundSocket,
    endpoint: SocketPath,
}

/// Both sockets of a driver, bound.
#[derive(Debug)]
pub struct Sockets {
    // The order of the fields is the order in which they are dropped.
    registration: RegistrationSocket,
    dra: DraSocket,
}

/// What is served on them.
pub struct Served<P, H> {
    /// Name of the driver, e.g. `gpu.nvidia.com`.
    pub driver: String,
    /// Answers for claims.
    pub plugin: Arc<P>,
    /// Answers for health.
    pub health: Arc<H>,
    /// Is told about the registration.
    pub observer: Observer,
}

impl<P, H> fmt::Debug for Served<P, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served")
            .field("driver", &self.driver)
            .finish_non_exhaustive()
    }
}

/// How serving ends.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Cancelled when the driver is to leave. A stop without it is a failure of some part of the
    /// driver: registration sockets of another process then stay, for the process that is started
    /// next.
    pub told: CancellationToken,
    /// How long calls may take to end. The driver stays registered meanwhile.
    pub calls: Duration,
    /// How long the kubelet may take to hang up once the registration socket is gone.
    pub hang_up: Duration,
}

/// Serving ended, and not well.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The runtime did not take a socket.
    #[error("listening on socket {path}")]
    Listen {
        /// The socket.
        path: SocketPath,
        /// Why.
        source: io::Error,
    },
    /// A server broke.
    #[error("serving socket {path}")]
    Serve {
        /// The socket.
        path: SocketPath,
        /// Why.
        source: tonic::transport::Error,
    },
    /// Calls did not end in time after the driver was told to stop. Their claims are in the state
    /// that the driver's own records say.
    #[error("calls of the kubelet were still running {} ms after the stop", grace.as_millis())]
    Unfinished {
        /// The time they were given.
        grace: Duration,
    },
}

impl Sockets {
    /// Binds the DRA socket, then the registration socket.
    pub fn bind(paths: &SocketPaths) -> Result<Self, BindError> {
        let dra = DraSocket::bind(&paths.dra)?;
        let registration = dra.register(&paths.registration)?;
        Ok(Self { registration, dra })
    }

    /// What another process needs to serve the sockets in place of this one.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 4] {
        let [dra_file, dra] = self.dra.0.descriptors();
        let [file, listener] = self.registration.bound.descriptors();
        [dra_file, dra, file, listener]
    }

    /// Whether both can be reached at their paths, which others may have taken away.
    pub fn are_in_place(&self) -> bool {
        self.dra.0.is_in_place() && self.registration.bound.is_in_place()
    }

    /// The sockets that another process bound at `paths`, by the [descriptors](Self::descriptors)
    /// that it gave. They are still that process's to take away.
    pub fn inherited(paths: &SocketPaths, descriptors: [OwnedFd; 4]) -> Self {
        let [dra_file, dra, file, listener] = descriptors;
        let path = paths.registration.as_socket_path();
        Self {
            registration: RegistrationSocket {
                bound: BoundSocket::inherited(path, [file, listener]),
                endpoint: paths.dra.clone(),
            },
            dra: DraSocket(BoundSocket::inherited(&paths.dra, [dra_file, dra])),
        }
    }

    /// Serves both until `stop` is cancelled, and then as long as [`Ending`] says.
    ///
    /// If one server breaks, the other one ends as if told to stop.
    pub async fn serve<P: DraPlugin, H: DraResourceHealth>(
        self,
        served: Served<P, H>,
        stop: CancellationToken,
        ending: Ending,
    ) -> Result<(), ServeError> {
        let Self { registration, dra } = self;
        let [registering, calling] = [0; 2].map(|_| Places::new(CONNECTIONS));
        let (dra_file, dra_connections) = listen(dra.0, calling.clone())?;
        let (file, connections) = listen(registration.bound, registering.clone())?;
        let info = plugin_info(&served.driver, &registration.endpoint);
        let dra_connections = observed(dra_connections, served.observer.clone());
        let registration_service = RegistrationService::new(info, served.observer);
        // A child: the end of our servers is no reason to stop what else hangs on the token.
        let stop = stop.child_token();
        let (left, deregistered) = (CancellationToken::new(), CancellationToken::new());
        let plugin_service = DraService::new(served.plugin);
        let calls = plugin_service.calls().clone();
        let health_service = HealthService::new(served.health, deregistered.clone());

        // A farewell on either socket.
        let grace = ending.calls + ending.hang_up + 2 * limits::FAREWELL;
        let both = Box::pin(async {
            let (registered, called) = tokio::join!(
                async {
                    let _over = deregistered.clone().drop_guard();
                    let path = file.path().clone();
                    let until = async {
                        let _left = left.clone().drop_guard();
                        leave(file, &stop, &calls, &ending.told).await;
                    };
                    let registered =
                        serve_registration(path, connections, registration_service, until).await;
                    if ending.told.is_cancelled() {
                        hung_up(&calling, ending.hang_up).await;
                    }
                    registered
                },
                async {
                    let _over = stop.clone().drop_guard();
                    let path = dra_file.path();
                    let until = deregistered.clone().cancelled_owned();
                    serve_dra(path, dra_connections, plugin_service, health_service, until).await
                }
            );
            ended(&calls).await;
            registered.and(called)
        });
        let over = async {
            deregistered.cancelled().await;
            ended(&calls).await;
        };
        let servers = async {
            tokio::select! {
                ended = both => ended,
                never = dismiss_after(left.cancelled(), &registering) => match never {},
                never = dismiss_after(over, &calling) => match never {},
            }
        };
        until_grace(servers, &stop, grace).await
    }
}

fn server() -> Server<Stack<WholeRequests, Identity>> {
    grpc::server(&limits::PEER).layer(WholeRequests::new(limits::PEER, guest))
}

fn guest(extensions: &Extensions) -> Option<&Guest> {
    let connection: Option<&ConnectionInfo> = extensions.get();
    connection.map(ConnectionInfo::guest)
}

/// Tells of connections by others than this process, whose probe connects as well.
fn observed(
    connections: impl Stream<Item = Result<Connection, Infallible>> + Send,
    observer: Observer,
) -> impl Stream<Item = Result<Connection, Infallible>> + Send {
    let own = i32::try_from(std::process::id()).ok();
    connections.map(move |Ok(connection)| {
        if connection.connect_info().peer().pid != own {
            observer(RegistrationEvent::Connected);
        }
        Ok(connection)
    })
}

/// Waits for the first moment in which no call is in flight.
async fn ended(calls: &TaskTracker) {
    calls.close();
    calls.wait().await;
}

/// Waits until nobody is connected any more, but not for ever.
async fn hung_up(places: &Places, limit: Duration) {
    if tokio::time::timeout(limit, places.all_free())
        .await
        .is_err()
    {
        tracing::debug!(connections = places.taken(), "not everybody has hung up");
    }
}

/// Waits for the stop and the end of the calls in flight, then takes the registration socket away.
async fn leave(
    file: SocketFile,
    stop: &CancellationToken,
    calls: &TaskTracker,
    told: &CancellationToken,
) {
    stop.cancelled().await;
    ended(calls).await;
    if told.is_cancelled() {
        file.unlink();
    }
}

async fn serve_registration(
    path: SocketPath,
    connections: impl Stream<Item = Result<Connection, Infallible>> + Send,
    service: RegistrationService,
    until: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let connections = service.watch_silence(connections);
    server()
        .add_service(RegistrationServer::new(service))
        .serve_with_incoming_shutdown(connections, until)
        .await
        .map_err(|source| ServeError::Serve { path, source })
}

async fn serve_dra<P: DraPlugin, H: DraResourceHealth>(
    path: &SocketPath,
    connections: impl Stream<Item = Result<Connection, Infallible>> + Send,
    plugin: DraService<P>,
    health: HealthService<H>,
    until: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    server()
        .add_service(dra::v1::dra_plugin_server::DraPluginServer::new(
            plugin.clone(),
        ))
        .add_service(dra::v1beta1::dra_plugin_server::DraPluginServer::new(
            plugin,
        ))
        .add_service(
            health::v1::dra_resource_health_server::DraResourceHealthServer::new(health.clone()),
        )
        .add_service(
            health::v1alpha1::dra_resource_health_server::DraResourceHealthServer::new(health),
        )
        .serve_with_incoming_shutdown(connections, until)
        .await
        .map_err(|source| ServeError::Serve {
            path: path.clone(),
            source,
        })
}

/// Closes the connections of a socket a moment after `over`: a peer that does not hear that it is
/// over would keep its server for as long as it likes.
async fn dismiss_after(over: impl Future<Output = ()>, places: &Places) -> Infallible {
    over.await;
    tokio::time::sleep(limits::FAREWELL).await;
    places.dismiss();
    futures::future::pending().await
}

/// Awaits the servers, but only for the time of `grace` once they were told to stop.
async fn until_grace(
    servers: impl Future<Output = Result<(), ServeError>>,
    stop: &CancellationToken,
    grace: Duration,
) -> Result<(), ServeError> {
    let out_of_time = async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        // A server that ended in the last moment has ended.
        biased;
        ended = servers => ended,
        () = out_of_time => Err(ServeError::Unfinished { grace }),
    }
}

/// Starts accepting on a bound socket; needs a runtime.
fn listen(
    bound: BoundSocket,
    places: Places,
) -> Result<
    (
        SocketFile,
        impl Stream<Item = Result<Connection, Infallible>> + Send,
    ),
    ServeError,
> {
    let (file, listener) = bound.into_parts();
    match UnixListener::from_std(listener) {
        Ok(listener) => Ok((
            file,
            uds::incoming(listener, Peers::root_and_self(), places),
        )),
        Err(source) => Err(ServeError::Listen {
            path: file.path().clone(),
            source,
        }),
    }
}
