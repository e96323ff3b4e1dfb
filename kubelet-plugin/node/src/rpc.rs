//! Translates between the kubelet's messages and claims.
//!
//! Every claim of a request is worked on in a task of its own: they proceed side by side, and a
//! panic in one is that one's error (invariant I7).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tessera_claim::{ClaimRef, UidError};
use tessera_prepare::record::PreparedDevice;
use tessera_proto::DraPlugin;
use tessera_proto::dra::v1::{
    Claim, Device, NodePrepareResourceResponse, NodeUnprepareResourceResponse,
};
use tokio::task::JoinError;
use tracing::{Instrument, info, info_span, warn};

use crate::claim_reader::ClaimReader;
use crate::claims::{ClaimError, Claims};
use crate::deadline::Deadline;
use crate::executor::Node;
use crate::journal::Records;
use crate::metrics::{Metrics, Operation};
use tessera_shell::logging::chain;

/// What is kept of the kubelet's time for the answer to travel: an answer that comes after the
/// kubelet has hung up costs the pod a minute, until it calls again.
const MARGIN: Duration = Duration::from_secs(3);

/// The plugin behind the DRA socket.
pub struct Plugin<A, R, N> {
    claims: Arc<Claims<A, R, N>>,
    metrics: Metrics,
}

impl<A, R, N> Plugin<A, R, N>
where
    A: ClaimReader,
    R: Records + Send + Sync + 'static,
    N: Node + Send + Sync + 'static,
{
    /// Answers with `claims`.
    pub fn new(claims: Arc<Claims<A, R, N>>, metrics: Metrics) -> Self {
        Self { claims, metrics }
    }

    /// Works on one claim in a task of its own and returns the text of the error, if any.
    async fn run<T, F, W>(&self, operation: Operation, claim: &Claim, work: F) -> Result<T, String>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Claims<A, R, N>>, ClaimRef) -> W,
        W: Future<Output = Result<T, ClaimError>> + Send + 'static,
    {
        let claim = claim_ref(claim)?;
        let span = info_span!(
            "claim",
            claim = %format!("{}/{}", claim.namespace, claim.name),
            claimUID = %claim.uid,
        );
        let _inflight = self.metrics.begin(operation);
        let begun = Instant::now();
        let task = tokio::spawn(work(self.claims.clone(), claim).instrument(span.clone()));
        let outcome = task.await;
        let time = begun.elapsed();
        span.in_scope(|| self.report(operation, time, outcome))
    }

    fn report<T>(
        &self,
        operation: Operation,
        time: Duration,
        outcome: Result<Result<T, ClaimError>, JoinError>,
    ) -> Result<T, String> {
        let seconds = time.as_secs_f64();
        match outcome {
            Ok(Ok(done)) => {
                self.metrics.end(operation, time, Ok(()));
                info!(?operation, seconds, "done");
                Ok(done)
            }
            Ok(Err(error)) => {
                let text = chain(&error).to_string();
                self.metrics.end(operation, time, Err(error.label()));
                warn!(
                    ?operation,
                    seconds,
                    reason = error.label(),
                    error = text,
                    "not done"
                );
                Err(text)
            }
            Err(panic) => {
                self.metrics.end(operation, time, Err("Defect"));
                tracing::error!(?operation, seconds, error = %panic, "a defect of the plugin");
                Err(
                    "the plugin met a defect of its own while it worked on this claim; its log \
                     has the details"
                        .to_owned(),
                )
            }
        }
    }
}

impl<A, R, N> DraPlugin for Plugin<A, R, N>
where
    A: ClaimReader,
    R: Records + Send + Sync + 'static,
    N: Node + Send + Sync + 'static,
{
    async fn node_prepare_resources(
        &self,
        claims: Vec<Claim>,
        deadline: Instant,
    ) -> BTreeMap<String, NodePrepareResourceResponse> {
        let deadline = Deadline::at(deadline).sooner_by(MARGIN);
        let each = claims.iter().map(async |claim| {
            let outcome = self
                .run(Operation::prepare, claim, async move |claims, claim| {
                    claims.prepare(&claim, deadline).await
                })
                .await;
            (claim.uid.clone(), prepare_response(outcome))
        });
        join_all(each).await.into_iter().collect()
    }

    async fn node_unprepare_resources(
        &self,
        claims: Vec<Claim>,
        deadline: Instant,
    ) -> BTreeMap<String, NodeUnprepareResourceResponse> {
        let deadline = Deadline::at(deadline).sooner_by(MARGIN);
        let each = claims.iter().map(async |claim| {
            let outcome = self
                .run(Operation::unprepare, claim, async move |claims, claim| {
                    claims.unprepare(&claim, deadline).await
                })
                .await;
            let error = outcome.err().unwrap_or_default();
            (claim.uid.clone(), NodeUnprepareResourceResponse { error })
        });
        join_all(each).await.into_iter().collect()
    }
}

fn claim_ref(claim: &Claim) -> Result<ClaimRef, String> {
    let uid = claim
        .uid
        .parse()
        .map_err(|error: UidError| error.to_string())?;
    Ok(ClaimRef {
        namespace: claim.namespace.clone(),
        name: claim.name.clone(),
        uid,
    })
}

fn prepare_response(outcome: Result<Vec<PreparedDevice>, String>) -> NodePrepareResourceResponse {
    match outcome {
        Ok(devices) => NodePrepareResourceResponse {
            devices: devices.into_iter().map(device).collect(),
            error: String::new(),
        },
        Err(error) => NodePrepareResourceResponse {
            devices: Vec::new(),
            error,
        },
    }
}

fn device(prepared: PreparedDevice) -> Device {
    Device {
        request_names: vec![prepared.request],
        pool_name: prepared.pool,
        device_name: prepared.device.to_string(),
        cdi_device_ids: vec![prepared.cdi_id],
        share_id: prepared.share_id,
    }
}

#[cfg(test)]
mod tests;
