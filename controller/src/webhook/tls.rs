//! Accepts TLS connections for the HTTP server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::ResolvesServerCert;
use tokio_rustls::server::TlsStream;
use tracing::debug;

/// What a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Handshakes at one time. Beyond them, connections wait in the kernel.
const HANDSHAKES_MAX: usize = 64;

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

type Shaken = Option<(TlsStream<TcpStream>, SocketAddr)>;

/// Gives out connections whose handshake is done.
pub(super) struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    /// Handshakes on their way. They end with the listener.
    handshakes: JoinSet<Shaken>,
}

impl TlsListener {
    pub(super) fn new(tcp: TcpListener, config: Arc<ServerConfig>) -> Self {
        Self {
            tcp,
            acceptor: TlsAcceptor::from(config),
            handshakes: JoinSet::new(),
        }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                (stream, address) = Listener::accept(&mut self.tcp),
                    if self.handshakes.len() < HANDSHAKES_MAX =>
                {
                    self.handshakes.spawn(shake(self.acceptor.clone(), stream, address));
                }
                Some(ended) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = ended {
                        return connection;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

async fn shake(acceptor: TlsAcceptor, stream: TcpStream, address: SocketAddr) -> Shaken {
    match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some((stream, address)),
        Ok(Err(error)) => {
            debug!(%address, %error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            debug!(%address, "a TLS handshake took too long");
            None
        }
    }
}
