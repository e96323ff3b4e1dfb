//! Connects to the API server over a connector of our own.
//!
//! The stack differs from kube's default in five points, each with its reason:
//!
//! - `TCP_NODELAY` is on. kube speaks HTTP/1.1, so a request beside an open watch needs a second
//!   connection. With a resumed TLS session its last handshake flight and the request leave as two
//!   small writes, and Nagle's algorithm holds the second one until the server's delayed
//!   acknowledgement: 48–51 ms for a claim read, against 7–8 ms without delay.
//! - There is no retry layer. kube's default backs off for up to 1000 s, and the kubelet gives
//!   `NodePrepareResources` 45 s. Who calls knows its deadline and decides about retries.
//! - The connect timeout covers the TLS handshake too, because an API server that accepts and then
//!   stays silent is as dead as one that does not accept.
//! - Certificates and tokens are our own part (`credentials`), because kube's brings what no node uses.
//! - A connection whose peer is silent is given up after half a minute, and none is kept unused for
//!   longer than some seconds.
//!
//! # Guarantees
//! [`connect`] sends no request, so it succeeds while the API server is down. A request has no
//! timeout of its own, since watches last for minutes: wrap every other call in a deadline.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::USER_AGENT;
use axum::http::{HeaderValue, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, Service as _, ServiceBuilder, service_fn};

pub use self::credentials::CredentialsError;
use self::credentials::{Bearer, Trust, refuse_other_methods};

mod credentials;

/// Bounds TCP connect and TLS handshake together. A handshake on a loaded control plane takes
/// hundreds of milliseconds; the kubelet's 45 s leave room for a second try.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Idle time before TCP probes the peer, and the time between two probes. A watch is silent for
/// minutes, so nothing else would tell that its peer is gone.
const KEEPALIVE: Duration = Duration::from_secs(15);
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// How long a connection outlives the last sign of its peer, as `TCP_USER_TIMEOUT`: a watch on an API
/// server that lost its power, or behind a firewall that forgot it, ends within it. The kernel's own
/// patience is eleven minutes for an idle connection and a quarter of an hour for one that is
/// written to. A server that is merely slow still acknowledges, and is waited for.
const SILENCE: Duration = Duration::from_secs(30);

/// How many unused connections are kept, and for how long. A burst of requests that follows another
/// finds as many as a node has GPUs and need not shake hands. When a firewall forgets them all, each
/// is a request that gets no answer, so they are soon too old to be tried.
const SPARE_CONNECTIONS: usize = 8;
const SPARE_FOR: Duration = Duration::from_secs(10);

/// Where the API server and our credentials are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSource {
    /// A kubeconfig file; `None` means the service account of the pod we run in.
    pub kubeconfig: Option<PathBuf>,
    /// The program's name, which stands in the user agent and so in audit logs.
    pub program: &'static str,
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig file is missing or malformed.
    #[error("read kubeconfig {path}: check that the file exists and names a current context")]
    ReadKubeconfig {
        /// The file as it was given.
        path: PathBuf,
        /// What kube says about it.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// The kubeconfig asks for a proxy, which this client does not speak.
    #[error(
        "kubeconfig {path} reaches its cluster through proxy {proxy}: proxies are not supported, \
         use a direct address"
    )]
    UseProxy {
        /// The file as it was given.
        path: PathBuf,
        /// The `proxy-url` of its cluster.
        proxy: String,
    },
    /// Neither a kubeconfig nor a pod's service account was found.
    #[error("find the pod's service account: outside a cluster, give --kubeconfig")]
    FindServiceAccount(#[source] kube::config::InClusterError),
    /// The certificates or credentials cannot be used.
    #[error("set up TLS and credentials for {server}: check certificates and token")]
    UseCredentials {
        /// URL of the API server.
        server: String,
        /// What is wrong with them.
        #[source]
        source: CredentialsError,
    },
}

/// Makes a client for the API server that `source` names; needs a tokio runtime.
///
/// Bearer tokens from files, as service accounts have them, are read again once a minute, and their
/// cluster's CA with each new connection. Environment variables for proxies are ignored: what runs on
/// a node must reach the API server when the proxy is down.
pub async fn connect(source: &ApiSource) -> Result<Client, ConnectError> {
    let config = match &source.kubeconfig {
        Some(path) => read_kubeconfig(path).await?,
        None => Config::incluster().map_err(ConnectError::FindServiceAccount)?,
    };
    build(&config, source.program).map_err(|source| ConnectError::UseCredentials {
        server: config.cluster_url.to_string(),
        source,
    })
}

async fn read_kubeconfig(path: &Path) -> Result<Config, ConnectError> {
    let read = |source| ConnectError::ReadKubeconfig {
        path: path.to_owned(),
        source,
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(read)?;
    if let Some(proxy) = proxy_of_current_cluster(&kubeconfig) {
        return Err(ConnectError::UseProxy {
            path: path.to_owned(),
            proxy,
        });
    }
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(read)
}

fn proxy_of_current_cluster(kubeconfig: &Kubeconfig) -> Option<String> {
    let current = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig
        .contexts
        .iter()
        .find(|context| &context.name == current)?;
    let name = &context.context.as_ref()?.cluster;
    let cluster = kubeconfig
        .clusters
        .iter()
        .find(|cluster| &cluster.name == name)?;
    cluster
        .cluster
        .as_ref()?
        .proxy_url
        .clone()
        .filter(|proxy| !proxy.is_empty())
}

fn build(config: &Config, program: &str) -> Result<Client, CredentialsError> {
    refuse_other_methods(&config.auth_info)?;
    let bearer = Bearer::of(&config.auth_info)?;
    let trust = Arc::new(Trust::of(config)?);
    let tcp = tcp();
    let connect = move |server: Uri| HttpsConnector::from((tcp.clone(), trust.now())).call(server);
    let connector = ServiceBuilder::new()
        // hyper wants a future that may move; the one that races a timer may not.
        .map_future(Box::pin)
        .timeout(CONNECT_TIMEOUT)
        .service(service_fn(connect));
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .pool_max_idle_per_host(SPARE_CONNECTIONS)
        .pool_idle_timeout(SPARE_FOR)
        .build(connector);

    let mut identified = config.clone();
    identified.headers.push((USER_AGENT, user_agent(program)));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .map_request(move |request| bearer.sign(request))
        .layer(identified.extra_headers_layer().map_err(Box::new)?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    // The TLS layer above decides about the scheme.
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(PROBE_EVERY));
    tcp.set_tcp_user_timeout(Some(SILENCE));
    tcp
}

fn user_agent(program: &str) -> HeaderValue {
    HeaderValue::try_from(format!("{program}/{}", crate::VERSION))
        .unwrap_or(HeaderValue::from_static("tessera"))
}

#[cfg(test)]
mod tests;
