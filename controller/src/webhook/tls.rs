//! Accepts TLS connections for the HTTP server.

use std::future::pending;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tessera_connections::{Places, Seated, tcp};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::ResolvesServerCert;
use tokio_rustls::server::TlsStream;
use tracing::{debug, error};

/// What a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Connections at a time. An API server keeps one or two.
const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not zero");

/// How long a connection lasts, all in all. An API server that meets the end makes another.
const CONNECTION_LIMIT: Duration = Duration::from_hours(1);

/// TLS with the certificates that `certificates` gives.
pub(super) fn config(
    certificates: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, tokio_rustls::rustls::Error> {
    // The provider is named, because a process-wide default is somebody else's to set.
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    Ok(Arc::new(config))
}

type Stream = TlsStream<Seated<TcpStream>>;

/// Gives out connections whose handshake is done.
pub(super) struct TlsListener {
    tcp: TcpListener,
    places: Places,
    acceptor: TlsAcceptor,
    /// Handshakes on their way, at most one in each place. They end with the listener.
    handshakes: JoinSet<Option<Stream>>,
}

impl TlsListener {
    pub(super) fn new(tcp: TcpListener, config: Arc<ServerConfig>) -> Self {
        Self {
            tcp,
            places: Places::new(CONNECTIONS),
            acceptor: TlsAcceptor::from(config),
            handshakes: JoinSet::new(),
        }
    }
}

impl Listener for TlsListener {
    type Io = Stream;
    /// Nobody asks for the peers' addresses.
    type Addr = ();

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                next = tcp::next(&self.tcp, &self.places, CONNECTION_LIMIT) => match next {
                    Ok(stream) => {
                        self.handshakes.spawn(shake(self.acceptor.clone(), stream));
                    }
                    Err(error) => {
                        // Only the pod's readiness tells from here on: this trait has no way out.
                        error!(%error, "the webhook's socket does not listen any more");
                        return pending().await;
                    }
                },
                Some(ended) = self.handshakes.join_next() => {
                    if let Ok(Some(stream)) = ended {
                        return (stream, ());
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr().map(drop)
    }
}

async fn shake(acceptor: TlsAcceptor, stream: Seated<TcpStream>) -> Option<Stream> {
    match timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            debug!("a TLS handshake took too long");
            None
        }
    }
}
