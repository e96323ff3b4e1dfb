//! Reads claims from the API server.

use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::ListParams;
use tessera_claim::ClaimRef;
use tessera_resource_api::claim_from;
use tessera_shell::resource_api::{Kind, ResourceApi};
use thiserror::Error;

use crate::api_read::{self, NoAnswer};
use crate::deadline::Deadline;

/// How many claims are listed at once: each is a few kilobytes, and a cluster has thousands.
const PAGE: u32 = 200;

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

/// Why the claims could not be searched.
#[derive(Debug, Error)]
pub enum SearchError {
    /// The API server does not tell.
    #[error(
        "the API server does not list claims; where GPUs are cut for them the plugin needs that right"
    )]
    Refused(#[source] Box<kube::Error>),
    /// It did not answer in time.
    #[error("the claims could not be listed: the API server did not answer in time")]
    Unavailable,
}

/// Where claims are read.
pub trait ClaimReader: Send + Sync + 'static {
    /// The claim that has this name now. Its UID may be another; the caller compares.
    fn read(
        &self,
        claim: &ClaimRef,
        deadline: Deadline,
    ) -> impl Future<Output = Result<ResourceClaim, ReadError>> + Send;

    /// The first that is found of all claims that there are, of every namespace.
    fn search<T: Send>(
        &self,
        look: impl FnMut(&ResourceClaim) -> Option<T> + Send,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Option<T>, SearchError>> + Send;
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

    /// One page of all claims, and what leads to the next.
    async fn list(
        &self,
        page: &ListParams,
    ) -> Result<(Vec<ResourceClaim>, Option<String>), kube::Error> {
        let (version, api) = self.api.objects(Kind::Claim).await?;
        let listed = api.list(page).await;
        let listed = listed.inspect_err(|error| {
            self.api.notice(version, error);
        })?;
        let claims = listed.items.into_iter().map(|claim| {
            let object = serde_json::to_value(claim).map_err(kube::Error::SerdeError)?;
            claim_from(version, object).map_err(|error| kube::Error::Service(error.into()))
        });
        Ok((claims.collect::<Result<_, _>>()?, listed.metadata.continue_))
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

    async fn search<T: Send>(
        &self,
        mut look: impl FnMut(&ResourceClaim) -> Option<T> + Send,
        deadline: Deadline,
    ) -> Result<Option<T>, SearchError> {
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let listed = deadline.run(self.list(&page)).await;
            let listed = listed.map_err(|_| SearchError::Unavailable)?;
            let (claims, next) = listed.map_err(|error| SearchError::Refused(Box::new(error)))?;
            if let Some(found) = claims.iter().find_map(&mut look) {
                return Ok(Some(found));
            }
            match next {
                Some(token) if !token.is_empty() => page = page.continue_token(&token),
                Some(_) | None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests;
