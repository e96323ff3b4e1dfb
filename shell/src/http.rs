//! Serves metrics and health over HTTP.
//!
//! `/healthz` says whether the process should go on living, `/readyz` whether it does its work,
//! both with the reason in the body when they say no; the metrics page is `OpenMetrics` text.
//!
//! # Guarantees
//! Shutdown takes at most [`GRACE`], whatever a client does. The endpoint is open to the network, so
//! a client costs one of [`CONNECTIONS`] for at most [`CONNECTION_LIMIT`] and [`REQUEST_BYTES`], and
//! whoever connects is served, however many others sit there. Each connection serves one request,
//! whose body is never read. Nothing here blocks: the two closures are called on the runtime's thread
//! and must return at once.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

mod address;
mod serving;

pub use address::{AddressError, ListenAddress};
pub use serving::{CONNECTION_LIMIT, CONNECTIONS, REQUEST_BYTES, serve};

/// How long open requests may still run once shutdown has begun.
pub const GRACE: Duration = Duration::from_secs(2);

/// Path of the liveness page.
pub const HEALTHZ: &str = "/healthz";
/// Path of the readiness page.
pub const READYZ: &str = "/readyz";

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// The answer of a health page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Status 200.
    Ok,
    /// Status 503 with the reason as its body.
    Failing(Cow<'static, str>),
}

impl Health {
    /// `Ok` when `good`, else `Failing` for `reason`.
    pub fn when(good: bool, reason: &'static str) -> Self {
        if good {
            Self::Ok
        } else {
            Self::Failing(Cow::Borrowed(reason))
        }
    }
}

type Check = Arc<dyn Fn() -> Health + Send + Sync>;

/// What the endpoint shows.
#[derive(Clone)]
pub struct Pages {
    metrics_path: Arc<str>,
    registry: Arc<Registry>,
    healthy: Check,
    ready: Check,
}

impl Pages {
    /// Shows `registry` at `metrics_path`; health and readiness are good until told otherwise.
    pub fn new(registry: Registry, metrics_path: &str) -> Self {
        Self {
            metrics_path: metrics_path.into(),
            registry: Arc::new(registry),
            healthy: Arc::new(|| Health::Ok),
            ready: Arc::new(|| Health::Ok),
        }
    }

    /// Asks `check` at each request for `/healthz`.
    #[must_use]
    pub fn healthy_when(mut self, check: impl Fn() -> Health + Send + Sync + 'static) -> Self {
        self.healthy = Arc::new(check);
        self
    }

    /// Asks `check` at each request for `/readyz`.
    #[must_use]
    pub fn ready_when(mut self, check: impl Fn() -> Health + Send + Sync + 'static) -> Self {
        self.ready = Arc::new(check);
        self
    }

    fn page(&self, path: &str) -> Response {
        match path {
            HEALTHZ => health_page((self.healthy)()),
            READYZ => health_page((self.ready)()),
            _ if *path == *self.metrics_path => self.metrics_page(),
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    }

    fn metrics_page(&self) -> Response {
        let mut page = String::new();
        match text::encode(&mut page, &self.registry) {
            Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], page).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

fn health_page(health: Health) -> Response {
    let plain = [(header::CONTENT_TYPE, PLAIN_TEXT)];
    match health {
        Health::Ok => (plain, "ok\n").into_response(),
        Health::Failing(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            plain,
            format!("{reason}\n"),
        )
            .into_response(),
    }
}

/// Why the endpoint could not be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No socket could be opened for the address.
    #[error("listen on {address} for HTTP: choose a free port or turn the endpoint off")]
    Listen {
        /// The address that was tried last.
        address: SocketAddr,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The listening socket no longer listens.
    #[error("serve HTTP")]
    Serve(#[source] io::Error),
}

/// Opens the listening socket, so that a port in use is reported before anything else starts.
///
/// `None` when `address` is off.
pub async fn listen(address: &ListenAddress) -> Result<Option<TcpListener>, HttpError> {
    let mut refused = None;
    for address in address.candidates() {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(Some(listener)),
            Err(source) => refused = Some(HttpError::Listen { address, source }),
        }
    }
    refused.map_or(Ok(None), Err)
}

#[cfg(test)]
mod tests;
