//! Reads claims from the API server.

use std::time::Duration;

use k8s_openapi::api::resource::v1::ResourceClaim;
use tessera_claim::ClaimRef;
use tessera_resource_api::claim_from;
use tessera_shell::resource_api::{Kind, ResourceApi};
use thiserror::Error;
use tracing::debug;

use crate::deadline::Deadline;

/// Bound of the first attempt. A read takes 2 ms; one that takes longer than this likely hangs on a
/// connection that is dead, and a new one is worth more than patience.
const FIRST_ATTEMPT: Duration = Duration::from_secs(2);

/// Bound of later attempts, which double up to it: a busy server gets its time.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(10);

/// First pause between attempts, doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long a refusal is not believed. An API server that has just started refuses what it will allow
/// a moment later, when it has read its policies and accounts.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(5);

/// Why a claim could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The API server says that there is no such claim.
    #[error("claim {claim} does not exist any more")]
    NotFound {
        /// The claim.
        claim: ClaimRef,
    },
    /// The API server refuses the read.
    #[error("the API server refuses to show claim {claim}: check the plugin's RBAC")]
    Refused {
        /// The claim.
        claim: ClaimRef,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server could not be reached in time.
    #[error("claim {claim} could not be read: the API server did not answer in time")]
    Unavailable {
        /// The claim.
        claim: ClaimRef,
        /// The last failure, unless it was silence.
        #[source]
        source: Option<Box<kube::Error>>,
    },
}

/// Where claims are read.
pub trait ClaimReader: Send + Sync + 'static {
    /// The claim that has this name now. Its UID may be another; the caller compares.
    fn read(
        &self,
        claim: &ClaimRef,
        deadline: Deadline,
    ) -> impl Future<Output = Result<ResourceClaim, ReadError>> + Send;
}

/// Reads from the API server, trying again until the deadline.
#[derive(Clone)]
pub struct ApiClaimReader {
    api: ResourceApi,
}

impl ApiClaimReader {
    /// Reads through `api`.
    pub fn new(api: ResourceApi) -> Self {
        Self { api }
    }

    /// Reads once.
    async fn get(&self, claim: &ClaimRef) -> Result<ResourceClaim, kube::Error> {
        let (version, claims) = self
            .api
            .objects(Kind::Claim, Some(&claim.namespace))
            .await?;
        let found = claims.get(&claim.name).await;
        let found = found.inspect_err(|error| {
            self.api.notice(version, error);
        })?;
        let object = serde_json::to_value(found).map_err(kube::Error::SerdeError)?;
        claim_from(version, object).map_err(|error| kube::Error::Service(error.into()))
    }
}

impl ClaimReader for ApiClaimReader {
    async fn read(&self, claim: &ClaimRef, deadline: Deadline) -> Result<ResourceClaim, ReadError> {
        let (mut pause, mut attempt) = (FIRST_PAUSE, FIRST_ATTEMPT);
        let patience = deadline.at_most(REFUSAL_PATIENCE);
        loop {
            let last = match deadline.at_most(attempt).run(self.get(claim)).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error)) => match verdict(&error) {
                    Verdict::Absent => {
                        return Err(ReadError::NotFound {
                            claim: claim.clone(),
                        });
                    }
                    Verdict::Refused if !patience.allows(pause) => {
                        let source = Box::new(error);
                        return Err(ReadError::Refused {
                            claim: claim.clone(),
                            source,
                        });
                    }
                    Verdict::Refused | Verdict::TryAgain => Some(Box::new(error)),
                },
                Err(_passed) => None,
            };
            if !deadline.allows(pause) {
                return Err(ReadError::Unavailable {
                    claim: claim.clone(),
                    source: last,
                });
            }
            debug!(claim = %claim, error = ?last, "reading the claim again");
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
            attempt = LONGEST_ATTEMPT.min(attempt * 2);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Absent,
    Refused,
    TryAgain,
}

/// What a failure says about another attempt.
///
/// A refusal by RBAC is tried again for a few seconds only: a policy that is missing can be installed,
/// but not within one call, so it is soon told.
fn verdict(error: &kube::Error) -> Verdict {
    match error {
        kube::Error::Api(status) => match status.code {
            404 if status.reason == "NotFound" => Verdict::Absent,
            // There is no such path: the server does not serve this version, and is asked which it does.
            400 | 401 | 403 | 405 | 422 => Verdict::Refused,
            _ => Verdict::TryAgain,
        },
        _ => Verdict::TryAgain,
    }
}

#[cfg(test)]
mod tests;
