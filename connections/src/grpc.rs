//! Bounds on what a gRPC peer can make a server keep.
//!
//! # Guarantees
//! A request is read whole, within a limit of bytes and time, before its handler hears of it; only
//! a few requests of one connection are read at once, so that what unfinished requests hold is
//! bounded per connection, and a peer that sends half of one is in nobody's way but its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Extensions, Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tokio::net::TcpStream;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tower::{Layer, Service};

use crate::{Guest, Seated};

/// Bytes of a stream that wait to be read: HTTP/2's own initial value.
const STREAM_WINDOW: u32 = 65_535;

/// Bytes of a connection that wait to be read. Four streams at their windows.
const CONNECTION_WINDOW: u32 = 256 << 10;

/// Bytes of a request's headers. The kubelet sends about 300, most of it the percent-encoded socket
/// path, which is at most 324 long.
const HEADER_BYTES: u32 = 8 << 10;

/// Streams that a peer opened and reset before anybody looked at them: HTTP/2's rapid reset. h2
/// closes the connection beyond that.
const RESETS_UNSEEN: usize = 20;

/// Streams that had to be reset for the peer's errors before the connection is closed.
const RESETS_FOR_ERRORS: usize = 64;

/// What goes before a message on the wire: a flag and a length.
const MESSAGE_PREFIX: usize = 5;

/// What one peer may ask.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests of one connection that have not been answered; a peer that follows the protocol
    /// keeps the others back.
    pub open_requests: u32,
    /// Bytes of a request's message.
    pub message_bytes: usize,
    /// Time from a request's headers to its last byte.
    pub reading: Duration,
}

/// A server whose transport keeps to `limits`. Its connections must tell their [`Guest`] to
/// [`WholeRequests`].
pub fn server(limits: &Limits) -> Server {
    Server::builder()
        .max_concurrent_streams(limits.open_requests)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(RESETS_UNSEEN))
        .http2_max_local_error_reset_streams(Some(RESETS_FOR_ERRORS))
}

/// Finds the guest among the extensions of a request.
pub type FindGuest = fn(&Extensions) -> Option<&Guest>;

/// Reads requests whole before they are handled.
#[derive(Clone, Copy, Debug)]
pub struct WholeRequests {
    limits: Limits,
    guest: FindGuest,
}

impl WholeRequests {
    /// Reads them within `limits`.
    pub fn new(limits: Limits, guest: FindGuest) -> Self {
        Self { limits, guest }
    }
}

impl<S> Layer<S> for WholeRequests {
    type Service = Whole<S>;

    fn layer(&self, inner: S) -> Whole<S> {
        Whole { inner, rule: *self }
    }
}

/// A service that hears only of whole requests.
#[derive(Clone, Debug)]
pub struct Whole<S> {
    inner: S,
    rule: WholeRequests,
}

impl<S> Service<Request<Body>> for Whole<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that was asked whether it is ready is the one that is called.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let rule = self.rule;
        async move {
            let (parts, body) = request.into_parts();
            let Some(guest) = (rule.guest)(&parts.extensions).cloned() else {
                return Ok(Status::internal("the connection has no place").into_http());
            };
            let reading = read(&guest, body, &rule.limits);
            match tokio::time::timeout(rule.limits.reading, reading).await {
                Ok(Ok(body)) => {
                    let _call = guest.begin_call();
                    inner.call(Request::from_parts(parts, body)).await
                }
                Ok(Err(refusal)) => Ok(refusal.into_http()),
                Err(_) => Ok(late(&rule.limits).into_http()),
            }
        }
        .boxed()
    }
}

fn late(limits: &Limits) -> Status {
    let seconds = limits.reading.as_secs();
    Status::deadline_exceeded(format!(
        "the request was not complete within {seconds} s; send it in one go"
    ))
}

async fn read(guest: &Guest, body: Body, limits: &Limits) -> Result<Body, Status> {
    let _permit = Arc::clone(guest.reads())
        .acquire_owned()
        .await
        .map_err(|_| Status::unavailable("the connection is over"))?;
    let body = Limited::new(body, limits.message_bytes + MESSAGE_PREFIX);
    match body.collect().await {
        Ok(whole) => Ok(Body::new(Full::new(whole.to_bytes()))),
        Err(error) if error.is::<LengthLimitError>() => Err(Status::resource_exhausted(format!(
            "the request is longer than {} bytes",
            limits.message_bytes
        ))),
        Err(error) => Err(Status::cancelled(format!(
            "the request ended before its time: {error}"
        ))),
    }
}

impl Connected for Seated<TcpStream> {
    type ConnectInfo = Guest;

    fn connect_info(&self) -> Guest {
        self.guest().clone()
    }
}
