//! Reads claims from the API server.

use k8s_openapi::api::resource::v1::ResourceClaim;
use tessera_claim::ClaimRef;
use tessera_resource_api::claim_from;
use tessera_shell::resource_api::{Kind, ResourceApi};
use thiserror::Error;

use crate::api_read::{self, NoAnswer};
use crate::deadline::Deadline;

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
        let (version, object) = self
            .api
            .get(Kind::Claim, &claim.namespace, &claim.name)
            .await?;
        claim_from(version, object).map_err(|error| kube::Error::Service(error.into()))
    }
}

impl ClaimReader for ApiClaimReader {
    async fn read(&self, claim: &ClaimRef, deadline: Deadline) -> Result<ResourceClaim, ReadError> {
        let read = api_read::read(claim, deadline, || self.get(claim));
        let claim = || claim.clone();
        read.await.map_err(|none| match none {
            NoAnswer::Absent => ReadError::NotFound { claim: claim() },
            NoAnswer::Refused(source) => ReadError::Refused {
                claim: claim(),
                source,
            },
            NoAnswer::Unavailable(source) => ReadError::Unavailable {
                claim: claim(),
                source,
            },
        })
    }
}

#[cfg(test)]
mod tests;
