//! The DRA service, written once for both of its versions.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use crate::dra::v1::{
    Claim, NodePrepareResourceResponse, NodePrepareResourcesRequest, NodePrepareResourcesResponse,
    NodeUnprepareResourceResponse, NodeUnprepareResourcesRequest, NodeUnprepareResourcesResponse,
};
use crate::dra::{v1, v1beta1};
use crate::limits::{CLAIMS_AT_ONCE, CLAIMS_PER_CALL};

/// How long the kubelet waits for either call (`pkg/kubelet/cm/dra/plugin`), and the deadline of a
/// caller that names none.
pub const CALL_LIMIT: Duration = Duration::from_secs(45);

/// What a DRA driver does for the claims of a pod.
///
/// The kubelet calls for several pods at once, and again for a claim whose earlier call has not
/// ended, so an implementation is safe to call concurrently and idempotent by claim UID.
///
/// A call is not cancelled when the kubelet hangs up or its deadline passes: half a preparation is
/// worse than a late one. It should end by itself a little before the deadline, with an error for
/// the claims that are not done.
pub trait DraPlugin: Send + Sync + 'static {
    /// Makes the devices of claims ready; the outcomes are keyed by claim UID.
    fn node_prepare_resources(
        &self,
        claims: Vec<Claim>,
        deadline: Instant,
    ) -> impl Future<Output = BTreeMap<String, NodePrepareResourceResponse>> + Send;

    /// Releases the devices of claims; the outcomes are keyed by claim UID.
    fn node_unprepare_resources(
        &self,
        claims: Vec<Claim>,
        deadline: Instant,
    ) -> impl Future<Output = BTreeMap<String, NodeUnprepareResourceResponse>> + Send;
}

/// Serves a [`DraPlugin`] as `v1` and as `v1beta1`.
///
/// The reply has exactly the claims of the request: a claim without an outcome fails with an error
/// of its own, because the kubelet would fail all of them for a missing or an unknown one.
///
/// A call of more than [`CLAIMS_PER_CALL`] claims, or one beyond [`CLAIMS_AT_ONCE`] that are being
/// worked on, is refused before the plugin hears of it.
pub struct DraService<P> {
    plugin: Arc<P>,
    calls: TaskTracker,
    claims: Arc<Semaphore>,
}

impl<P> Clone for DraService<P> {
    fn clone(&self) -> Self {
        Self {
            plugin: Arc::clone(&self.plugin),
            calls: self.calls.clone(),
            claims: Arc::clone(&self.claims),
        }
    }
}

impl<P> fmt::Debug for DraService<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DraService").finish_non_exhaustive()
    }
}

impl<P: DraPlugin> DraService<P> {
    /// Serves a plugin.
    pub fn new(plugin: Arc<P>) -> Self {
        Self {
            plugin,
            calls: TaskTracker::new(),
            claims: Arc::new(Semaphore::new(CLAIMS_AT_ONCE)),
        }
    }

    /// The calls that have not ended, including those that nobody waits for any more.
    pub fn calls(&self) -> &TaskTracker {
        &self.calls
    }

    async fn prepare(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        let deadline = deadline(request.metadata());
        let claims = request.into_inner().claims;
        let uids = uids(&claims);
        let plugin = Arc::clone(&self.plugin);
        let outcomes = self
            .run(uids.len(), async move {
                plugin.node_prepare_resources(claims, deadline).await
            })
            .await?;
        Ok(Response::new(NodePrepareResourcesResponse {
            claims: complete(uids, outcomes, |error| NodePrepareResourceResponse {
                devices: Vec::new(),
                error,
            }),
        }))
    }

    async fn unprepare(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        let deadline = deadline(request.metadata());
        let claims = request.into_inner().claims;
        let uids = uids(&claims);
        let plugin = Arc::clone(&self.plugin);
        let outcomes = self
            .run(uids.len(), async move {
                plugin.node_unprepare_resources(claims, deadline).await
            })
            .await?;
        Ok(Response::new(NodeUnprepareResourcesResponse {
            claims: complete(uids, outcomes, |error| NodeUnprepareResourceResponse {
                error,
            }),
        }))
    }

    /// Runs a call in a task of its own, which outlives the request; a panic gives no outcomes.
    async fn run<T: Send + 'static>(
        &self,
        claims: usize,
        call: impl Future<Output = BTreeMap<String, T>> + Send + 'static,
    ) -> Result<BTreeMap<String, T>, Status> {
        // A call without claims is how the probe asks whether anybody answers.
        let permits = u32::try_from(claims)
            .ok()
            .filter(|_| claims <= CLAIMS_PER_CALL)
            .ok_or_else(|| too_many(claims))?;
        let permit = Arc::clone(&self.claims)
            .try_acquire_many_owned(permits)
            .map_err(|_| busy())?;
        // Held by the call, which may run longer than its caller waits.
        let call = async move {
            let _permit = permit;
            call.await
        };
        match self.calls.spawn(call.in_current_span()).await {
            Ok(outcomes) => Ok(outcomes),
            Err(error) => {
                tracing::error!(%error, "a call of the kubelet ended without an outcome");
                Ok(BTreeMap::new())
            }
        }
    }
}

fn too_many(claims: usize) -> Status {
    Status::invalid_argument(format!(
        "the call names {claims} claims; one pod's are at most {CLAIMS_PER_CALL}"
    ))
}

fn busy() -> Status {
    Status::resource_exhausted(format!(
        "{CLAIMS_AT_ONCE} claims are being worked on already; call again when some have ended"
    ))
}

fn uids(claims: &[Claim]) -> Vec<String> {
    claims.iter().map(|claim| claim.uid.clone()).collect()
}

/// Exactly one outcome per claim of the request.
fn complete<T>(
    uids: Vec<String>,
    mut outcomes: BTreeMap<String, T>,
    failed: impl Fn(String) -> T,
) -> BTreeMap<String, T> {
    let no_outcome = "the driver ended the call without an outcome for this claim; \
                      its log has the cause, and the kubelet will try again";
    uids.into_iter()
        .map(|uid| {
            let outcome = outcomes.remove(&uid);
            (
                uid,
                outcome.unwrap_or_else(|| failed(no_outcome.to_owned())),
            )
        })
        .collect()
}

fn deadline(metadata: &MetadataMap) -> Instant {
    let asked = metadata
        .get("grpc-timeout")
        .and_then(|value| value.to_str().ok())
        .and_then(timeout);
    Instant::now() + asked.unwrap_or(CALL_LIMIT).min(CALL_LIMIT)
}

/// Reads a `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[tonic::async_trait]
impl<P: DraPlugin> v1::dra_plugin_server::DraPlugin for DraService<P> {
    async fn node_prepare_resources(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        self.prepare(request).await
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        self.unprepare(request).await
    }
}

#[tonic::async_trait]
impl<P: DraPlugin> v1beta1::dra_plugin_server::DraPlugin for DraService<P> {
    async fn node_prepare_resources(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        self.prepare(request).await
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        self.unprepare(request).await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        for (text, expected) in [
            ("45S", Some(Duration::from_secs(45))),
            ("44999948u", Some(Duration::from_micros(44_999_948))),
            ("1H", Some(Duration::from_hours(1))),
            ("2M", Some(Duration::from_mins(2))),
            ("500m", Some(Duration::from_millis(500))),
            ("7n", Some(Duration::from_nanos(7))),
            ("", None),
            ("S", None),
            ("45", None),
            ("-5S", None),
            ("+5S", None),
            ("123456789S", None),
            ("4\u{e9}", None),
        ] {
            assert_eq!(timeout(text), expected, "{text:?}");
        }
    }

    /// A driver whose calls last until they are let go.
    struct Slow {
        go: Semaphore,
    }

    impl DraPlugin for Slow {
        async fn node_prepare_resources(
            &self,
            claims: Vec<Claim>,
            _: Instant,
        ) -> BTreeMap<String, NodePrepareResourceResponse> {
            drop(self.go.acquire().await);
            let done = |claim: Claim| (claim.uid, NodePrepareResourceResponse::default());
            claims.into_iter().map(done).collect()
        }

        async fn node_unprepare_resources(
            &self,
            _: Vec<Claim>,
            _: Instant,
        ) -> BTreeMap<String, NodeUnprepareResourceResponse> {
            BTreeMap::new()
        }
    }

    fn call(claims: usize) -> Request<NodePrepareResourcesRequest> {
        let claims = vec![Claim::default(); claims];
        Request::new(NodePrepareResourcesRequest { claims })
    }

    #[tokio::test]
    async fn calls_whose_callers_left_count_until_they_end() {
        let driver = Arc::new(Slow {
            go: Semaphore::new(0),
        });
        let service = DraService::new(Arc::clone(&driver));
        for _ in 0..CLAIMS_AT_ONCE / CLAIMS_PER_CALL {
            let left = service.prepare(call(CLAIMS_PER_CALL)).now_or_never();
            assert!(left.is_none(), "the call goes on, and its caller is gone");
        }
        let refused = service.prepare(call(1)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
        driver.go.add_permits(1);
        service.prepare(call(0)).await.unwrap();
        service.calls.close();
        service.calls.wait().await;
        assert!(service.prepare(call(CLAIMS_PER_CALL)).await.is_ok());
    }

    #[test]
    fn a_reply_has_exactly_the_claims_of_the_request() {
        let outcomes = BTreeMap::from([
            ("a".to_owned(), "done".to_owned()),
            ("x".to_owned(), String::new()),
        ]);
        let reply = complete(vec!["a".to_owned(), "b".to_owned()], outcomes, |error| {
            error
        });
        assert_eq!(reply.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(reply["a"], "done");
        assert!(reply["b"].contains("without an outcome"));
    }
}
