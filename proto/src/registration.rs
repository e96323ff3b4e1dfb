//! The registration service: answers from memory and tells what the kubelet did.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::task::JoinSet;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

use crate::limits::CONNECTIONS;
use crate::pluginregistration::registration_server::Registration;
use crate::pluginregistration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};
use crate::uds::{Connection, ConnectionInfo, Peer, SocketPath};

/// The services behind the DRA socket, newest first: the kubelet takes the first that it knows.
pub const SUPPORTED_VERSIONS: [&str; 4] = [
    "v1.DRAPlugin",
    "v1beta1.DRAPlugin",
    "v1.DRAResourceHealth",
    "v1alpha1.DRAResourceHealth",
];

/// How long an accepted connection may take to its first request before that is worth a warning.
/// The kubelet sends the request with its first packet and waits one second for the answer.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(2);

/// What the kubelet did about the registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistrationEvent {
    /// A peer connected and no request of it reached us within [`SILENCE_LIMIT`]. If it is the
    /// kubelet, the driver is not registered and nothing else will say so: h2 resets requests whose
    /// authority it does not like, below any handler.
    Unheard {
        /// Who connected.
        peer: Peer,
    },
    /// The kubelet asked who we are. It does so on every start of its own.
    InfoRead,
    /// The kubelet accepted the driver and will call it.
    Registered,
    /// Somebody other than this process connected to the DRA socket. The kubelet does so for a
    /// driver that it has registered, and again at once when its connection breaks
    /// (`pkg/kubelet/cm/dra/plugin`): a process that took the very sockets of a dead one over hears
    /// of its registration by nothing else. On a socket that is new at its path it means nothing.
    Connected,
    /// The kubelet refused the driver; it will try again.
    Refused {
        /// The kubelet's words.
        reason: String,
    },
}

impl fmt::Display for RegistrationEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unheard { peer } => {
                let pid = peer.pid.unwrap_or(0);
                write!(
                    f,
                    "process {pid} of user {} connected to the registration socket and no request \
                     arrived within {} s; if it is the kubelet, it cannot register this driver: \
                     look for RegisterPlugin in its log",
                    peer.uid,
                    SILENCE_LIMIT.as_secs()
                )
            }
            Self::InfoRead => f.write_str("the kubelet asked for the driver's registration"),
            Self::Registered => f.write_str("the kubelet registered the driver"),
            Self::Connected => f.write_str("a connection to the DRA socket was opened"),
            Self::Refused { reason } => {
                write!(f, "the kubelet refused to register the driver: {reason}")
            }
        }
    }
}

/// Is told of each event, on the task that serves the kubelet: it must not block.
pub type Observer = Arc<dyn Fn(RegistrationEvent) + Send + Sync>;

/// What the kubelet is told about a driver whose services are behind `endpoint`.
pub fn plugin_info(driver: &str, endpoint: &SocketPath) -> PluginInfo {
    PluginInfo {
        r#type: "DRAPlugin".to_owned(),
        name: driver.to_owned(),
        endpoint: endpoint.as_str().to_owned(),
        supported_versions: SUPPORTED_VERSIONS.map(str::to_owned).to_vec(),
    }
}

/// Serves a [`PluginInfo`] and passes on what the kubelet reports.
#[derive(Clone)]
pub struct RegistrationService {
    info: PluginInfo,
    observer: Observer,
}

impl fmt::Debug for RegistrationService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationService")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl RegistrationService {
    /// Serves `info` and reports to `observer`.
    pub fn new(info: PluginInfo, observer: Observer) -> Self {
        Self { info, observer }
    }

    /// Passes connections through and reports each that stays unheard.
    pub fn watch_silence<S>(
        &self,
        connections: S,
    ) -> impl Stream<Item = Result<Connection, Infallible>> + Send + use<S>
    where
        S: Stream<Item = Result<Connection, Infallible>> + Send,
    {
        let observer = Arc::clone(&self.observer);
        // Owned by the stream, so that the timers end with the server.
        let mut timers = JoinSet::new();
        connections.inspect(move |accepted| {
            while timers.try_join_next().is_some() {}
            if timers.len() >= CONNECTIONS.get() {
                // A crowd is told of by some of it; a line for each would only fill the log.
                return;
            }
            if let Ok(connection) = accepted {
                timers.spawn(report_silence(
                    connection.connect_info(),
                    Arc::clone(&observer),
                ));
            }
        })
    }
}

async fn report_silence(connection: ConnectionInfo, observer: Observer) {
    tokio::time::sleep(SILENCE_LIMIT).await;
    if connection.is_unheard() {
        observer(RegistrationEvent::Unheard {
            peer: connection.peer(),
        });
    }
}

fn mark_served<T>(request: &Request<T>) {
    if let Some(connection) = request.extensions().get::<ConnectionInfo>() {
        connection.mark_served();
    }
}

#[tonic::async_trait]
impl Registration for RegistrationService {
    async fn get_info(
        &self,
        request: Request<InfoRequest>,
    ) -> Result<Response<PluginInfo>, Status> {
        mark_served(&request);
        (self.observer)(RegistrationEvent::InfoRead);
        Ok(Response::new(self.info.clone()))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        mark_served(&request);
        let status = request.into_inner();
        (self.observer)(if status.plugin_registered {
            RegistrationEvent::Registered
        } else {
            RegistrationEvent::Refused {
                reason: status.error,
            }
        });
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use tessera_connections::Places;
    use tokio::net::{UnixListener, UnixStream};

    use super::*;
    use crate::uds::{Peers, incoming};

    fn service() -> RegistrationService {
        RegistrationService::new(PluginInfo::default(), Arc::new(|_| {}))
    }

    /// A request that came over `connection`.
    fn over<T>(connection: &ConnectionInfo, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(connection.clone());
        request
    }

    #[tokio::test]
    async fn either_request_takes_its_connection_out_of_the_unheard_ones() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut connections = Box::pin(incoming(
            listener,
            Peers::root_and_self(),
            Places::new(CONNECTIONS),
        ));
        let mut accepted = Vec::new();
        let mut clients = Vec::new();
        for _ in 0..2 {
            clients.push(UnixStream::connect(&path).await.unwrap());
            let Ok(connection) = connections.next().await.unwrap();
            accepted.push(connection);
        }
        let [first, second] = [0, 1].map(|at| accepted[at].connect_info());
        assert!(first.is_unheard() && second.is_unheard());

        let info = service().get_info(over(&first, InfoRequest {})).await;
        assert!(info.is_ok() && !first.is_unheard() && second.is_unheard());

        let status = over(&second, RegistrationStatus::default());
        let answer = service().notify_registration_status(status).await;
        assert!(answer.is_ok() && !second.is_unheard());
    }
}
