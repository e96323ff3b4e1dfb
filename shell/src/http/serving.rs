//! The endpoint's connections: how many, how long, and how much of a request is read.

use std::convert::Infallible;
use std::io;
use std::num::NonZeroUsize;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tessera_connections::{Places, tcp};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{GRACE, HttpError, Pages};

/// Connections at a time. A kubelet's probes and a few scrapers have one each, for milliseconds.
pub const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(32).expect("32 is not zero");

/// How long a connection lasts, all in all: Prometheus waits ten seconds for a page by default.
pub const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

/// Bytes of a request's head; hyper wants no less.
pub const REQUEST_BYTES: usize = 8 << 10;

/// Serves `pages` until `shutdown` is cancelled.
pub async fn serve(
    listener: TcpListener,
    pages: Pages,
    shutdown: CancellationToken,
) -> Result<(), HttpError> {
    let mut connections = JoinSet::new();
    let accepting = accept(listener, &pages, &mut connections);
    if let Some(broken) = shutdown.run_until_cancelled(accepting).await {
        return Err(HttpError::Serve(broken));
    }
    let ending = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, ending).await.is_err() {
        tracing::debug!("HTTP requests were still open at the end");
    }
    Ok(())
}

/// Serves whoever connects; the result is why nobody can any more.
async fn accept(listener: TcpListener, pages: &Pages, connections: &mut JoinSet<()>) -> io::Error {
    let places = Places::new(CONNECTIONS);
    loop {
        while connections.try_join_next().is_some() {}
        match tcp::next(&listener, &places, CONNECTION_LIMIT).await {
            Ok(seated) => drop(connections.spawn(serve_one(seated, pages.clone()))),
            Err(error) => return error,
        }
    }
}

async fn serve_one<S>(stream: S, pages: Pages)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answer = service_fn(move |request| {
        let answer = answer(&pages, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(REQUEST_BYTES)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an HTTP connection ended before its time");
    }
}

/// The answer to a request, whose body is not looked at.
pub(super) fn answer<B>(pages: &Pages, request: &Request<B>) -> Response<Body> {
    match *request.method() {
        Method::GET | Method::HEAD => pages.page(request.uri().path()),
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
