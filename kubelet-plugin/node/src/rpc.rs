//! Translates between the kubelet's messages and claims.
//!
//! Every claim of a request is worked on in a task of its own: they proceed side by side, and a
//! panic in one is that one's error (invariant I7).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tessera_claim::{ClaimRef, UidError};
use tessera_prepare::channel::PreparedChannel;
use tessera_prepare::notice::Happening;
use tessera_prepare::record::PreparedDevice;
use tessera_proto::DraPlugin;
use tessera_proto::dra::v1::{
    Claim, Device, NodePrepareResourceResponse, NodeUnprepareResourceResponse,
};
use tracing::{Instrument, info, warn};

use crate::channels::{ChannelClaims, DomainReader, Kernel};
use crate::claim_reader::ClaimReader;
use crate::claims::{ClaimError, Claims, span};
use crate::deadline::Deadline;
use crate::events::Notices;
use crate::executor::Node;
use crate::journal::Records;
use crate::metrics::{Metrics, Operation};
use tessera_shell::logging::chain;

/// What is kept of the kubelet's time for the answer to travel: an answer that comes after the
/// kubelet has hung up costs the pod a minute, until it calls again.
const MARGIN: Duration = Duration::from_secs(3);

/// Who prepares and unprepares the claims of one driver.
pub trait ClaimWork: Send + Sync + 'static {
    /// A prepared device, as the kubelet is told of it.
    type Prepared: Into<Answered> + Send + 'static;

    /// Prepares a claim and returns its devices.
    fn prepare(
        &self,
        claim: &ClaimRef,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Vec<Self::Prepared>, ClaimError>> + Send;

    /// Takes back whatever was prepared of a claim.
    fn unprepare(
        &self,
        claim: &ClaimRef,
        deadline: Deadline,
    ) -> impl Future<Output = Result<(), ClaimError>> + Send;
}

/// A prepared device in the kubelet's words.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered(Device);

/// The plugin behind the DRA socket.
pub struct Plugin<C> {
    claims: Arc<C>,
    metrics: Metrics,
    notices: Notices,
}

impl<C: ClaimWork> Plugin<C> {
    /// Answers with `claims`; what fails is told to `notices`.
    pub fn new(claims: Arc<C>, metrics: Metrics, notices: Notices) -> Self {
        Self {
            claims,
            metrics,
            notices,
        }
    }

    /// Works on one claim in a task of its own and returns the text of the error, if any.
    async fn run<T, F, W>(&self, operation: Operation, claim: &Claim, work: F) -> Result<T, String>
    where
        T: Send + 'static,
        F: FnOnce(Arc<C>, ClaimRef) -> W,
        W: Future<Output = Result<T, ClaimError>> + Send + 'static,
    {
        let _inflight = self.metrics.begin(operation);
        let begun = Instant::now();
        let named = match claim_ref(claim) {
            Ok(claim) => claim,
            Err(error) => return Err(self.failed(operation, begun, None, &error.into())),
        };
        let span = span(&named);
        let task = tokio::spawn(work(self.claims.clone(), named.clone()).instrument(span.clone()));
        let outcome = task.await;
        let _entered = span.entered();
        let outcome = outcome.unwrap_or_else(|panic| {
            tracing::error!(error = %panic, "a defect of the plugin");
            Err(ClaimError::Defect)
        });
        match outcome {
            Ok(done) => {
                let time = begun.elapsed();
                self.metrics.end(operation, time, Ok(()));
                info!(?operation, seconds = time.as_secs_f64(), "done");
                Ok(done)
            }
            Err(error) => Err(self.failed(operation, begun, Some(&named), &error)),
        }
    }

    /// Counts, logs and tells a failure; returns its text.
    fn failed(
        &self,
        operation: Operation,
        begun: Instant,
        claim: Option<&ClaimRef>,
        error: &ClaimError,
    ) -> String {
        let (time, reason) = (begun.elapsed(), error.reason());
        let text = chain(error).to_string();
        self.metrics.end(operation, time, Err(reason));
        let seconds = time.as_secs_f64();
        warn!(?operation, seconds, %reason, error = text, "not done");
        if let Some(claim) = claim {
            self.notices.tell(Happening::Failed {
                claim,
                action: operation.action(),
                reason,
                text: &text,
            });
        }
        text
    }
}

impl<C: ClaimWork> DraPlugin for Plugin<C> {
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

fn claim_ref(claim: &Claim) -> Result<ClaimRef, UidError> {
    Ok(ClaimRef {
        namespace: claim.namespace.clone(),
        name: claim.name.clone(),
        uid: claim.uid.parse()?,
    })
}

fn prepare_response<P: Into<Answered>>(
    outcome: Result<Vec<P>, String>,
) -> NodePrepareResourceResponse {
    match outcome {
        Ok(devices) => NodePrepareResourceResponse {
            devices: devices.into_iter().map(|device| device.into().0).collect(),
            error: String::new(),
        },
        Err(error) => NodePrepareResourceResponse {
            devices: Vec::new(),
            error,
        },
    }
}

impl From<PreparedDevice> for Answered {
    fn from(prepared: PreparedDevice) -> Self {
        Self(Device {
            request_names: vec![prepared.request],
            pool_name: prepared.pool,
            device_name: prepared.device.to_string(),
            cdi_device_ids: vec![prepared.cdi_id],
            share_id: prepared.share_id,
        })
    }
}

impl From<PreparedChannel> for Answered {
    fn from(prepared: PreparedChannel) -> Self {
        Self(Device {
            request_names: vec![prepared.request],
            pool_name: prepared.pool,
            device_name: prepared.device.to_string(),
            cdi_device_ids: vec![prepared.cdi_id],
            share_id: prepared.share_id,
        })
    }
}

impl<A, R, N> ClaimWork for Claims<A, R, N>
where
    A: ClaimReader,
    R: Records + Send + Sync + 'static,
    N: Node + Send + Sync + 'static,
{
    type Prepared = PreparedDevice;

    async fn prepare(
        &self,
        claim: &ClaimRef,
        deadline: Deadline,
    ) -> Result<Vec<PreparedDevice>, ClaimError> {
        Claims::prepare(self, claim, deadline).await
    }

    async fn unprepare(&self, claim: &ClaimRef, deadline: Deadline) -> Result<(), ClaimError> {
        Claims::unprepare(self, claim, deadline).await
    }
}

impl<A, D, R, N, K> ClaimWork for ChannelClaims<A, D, R, N, K>
where
    A: ClaimReader,
    D: DomainReader,
    R: Records<PreparedChannel> + Send + Sync + 'static,
    N: Node + Send + Sync + 'static,
    K: Kernel + Send + Sync + 'static,
{
    type Prepared = PreparedChannel;

    async fn prepare(
        &self,
        claim: &ClaimRef,
        deadline: Deadline,
    ) -> Result<Vec<PreparedChannel>, ClaimError> {
        ChannelClaims::prepare(self, claim, deadline).await
    }

    async fn unprepare(&self, claim: &ClaimRef, deadline: Deadline) -> Result<(), ClaimError> {
        ChannelClaims::unprepare(self, claim, deadline).await
    }
}

#[cfg(test)]
mod tests;
