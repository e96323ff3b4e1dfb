//! The admission webhook: decodes configurations when they are applied.
//!
//! It says what the node would say, before anything is scheduled: both decode with the same crate.
//! Path, flags and answers are those of the reference driver's webhook.
//!
//! # Guarantees
//! A peer costs a bounded number of connections, of which the oldest yields to whoever comes, and a
//! bounded body; one that does not finish its handshake holds nobody else up. A renewed certificate is
//! served from the next connection on; one that cannot be read leaves the former in use.

mod certificate;
mod review;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use clap::Args;
use tessera_api::{Feature, available};
use tessera_shell::feature_gates::FeatureGates;
use tessera_shell::http::{self, HttpError, ListenAddress};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::certificate::{CertificateError, Renewed};
use self::tls::TlsListener;

/// Where the API server sends reviews.
pub const PATH: &str = "/validate-resource-claim-parameters";

/// Largest review: etcd holds no object above 1.5 MiB, and an update comes with the former one.
const BODY_MAX: usize = 4 << 20;

/// What the webhook is told.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct WebhookArgs {
    /// File with the certificate for HTTPS, and whatever certificates it is signed by after it.
    #[arg(long, env = "TLS_CERT_FILE")]
    pub tls_cert_file: PathBuf,

    /// File with the private key of the certificate.
    #[arg(long, env = "TLS_PRIVATE_KEY_FILE")]
    pub tls_private_key_file: PathBuf,

    /// Port for HTTPS.
    #[arg(long, env = "WEBHOOK_PORT", default_value_t = 443)]
    pub port: u16,

    /// Features that are on or off, as the reference driver names them: what the plugins of the nodes are
    /// told, so that configurations are judged as they judge them.
    #[arg(long, env = "FEATURE_GATES", default_value = "")]
    pub feature_gates: FeatureGates,
}

/// Why the webhook does not run.
#[derive(Debug, Error)]
pub enum WebhookError {
    /// The certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// No TLS configuration can be made.
    #[error("set up TLS")]
    Tls(#[from] tokio_rustls::rustls::Error),
    /// The port cannot be had.
    #[error(transparent)]
    Listen(#[from] HttpError),
    /// The listening socket broke.
    #[error("serve HTTPS")]
    Serve(#[source] std::io::Error),
}

/// Serves until `stop`.
pub async fn run(args: &WebhookArgs, stop: CancellationToken) -> Result<(), WebhookError> {
    let certificate = Renewed::load(&args.tls_cert_file, &args.tls_private_key_file)?;
    let config = tls::config(Arc::new(certificate))?;
    let tcp = http::listen(&ListenAddress::Everywhere(args.port)).await?;
    let Some(tcp) = tcp else { return Ok(()) };
    info!(port = args.port, "the webhook listens");
    let features = available(args.feature_gates.time_slicing_settings);
    serve(TlsListener::new(tcp, config), features, stop).await
}

async fn serve(
    listener: TlsListener,
    features: &'static [Feature],
    stop: CancellationToken,
) -> Result<(), WebhookError> {
    let serving = axum::serve(listener, router(features))
        .with_graceful_shutdown(stop.clone().cancelled_owned());
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(http::GRACE).await;
    };
    tokio::select! {
        served = serving => served.map_err(WebhookError::Serve),
        () = overdue => Ok(()),
    }
}

fn router(features: &'static [Feature]) -> Router {
    let admit = move |body: Bytes| async move { admit(&body, features) };
    Router::new()
        .route(PATH, post(admit))
        .route(http::READYZ, get(|| async { "ok" }))
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

fn admit(body: &[u8], features: &[Feature]) -> Response {
    match review::answer(body, features) {
        Ok(answer) => {
            if let Some(refused) = answer.refused() {
                info!(reason = refused, "refused a configuration");
            }
            let json = [(header::CONTENT_TYPE, "application/json")];
            (json, answer.to_json()).into_response()
        }
        Err(error) => {
            warn!(%error, "cannot answer a review");
            (StatusCode::BAD_REQUEST, error.to_string()).into_response()
        }
    }
}

#[cfg(test)]
mod tests;
