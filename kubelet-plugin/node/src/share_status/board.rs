//! Where the status of claims is written: the API server, by server-side apply.
//!
//! A field manager of our own keeps our entries apart from what other drivers say of their devices in the same claim, and
//! from the allocation, which is the scheduler's. The API server takes entries of allocated devices alone, and removes
//! them when the claim is deallocated.

use k8s_openapi::api::resource::v1::AllocatedDeviceStatus;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Error, Resource};
use serde_json::{Value, json};
use tessera_claim::ClaimRef;
use tessera_resource_api::{Version, claim_from};
use tessera_shell::resource_api::{Kind, ResourceApi, resource};
use thiserror::Error;

/// Who we are to server-side apply.
const MANAGER: &str = "tessera-gpu";

/// Why a claim was not read, or its status not written.
#[derive(Debug, Error)]
pub enum StatusError {
    /// There is no such claim any more, or another one has its name.
    #[error("the claim does not exist any more")]
    Gone,
    /// The plugin may not read claims, or not write their status.
    #[error("the API server forbids it; check the plugin's RBAC for resourceclaims/status")]
    Forbidden(#[source] Box<Error>),
    /// The API server does not want this claim to say that.
    #[error(
        "the API server refuses it; check the plugin's RBAC for resourceclaims/driver (associated-node:patch)"
    )]
    Refused(#[source] Box<Error>),
    /// The API server has taken it and has not kept it.
    #[error(
        "the API server keeps no status of devices: its feature gate DRAResourceClaimDeviceStatus is off; none is written \
         until the plugin is started again"
    )]
    NotKept,
    /// The API server could not be reached, or asks for patience.
    #[error("the API server is not available")]
    Unavailable(#[source] Option<Box<Error>>),
}

impl StatusError {
    /// No answer in time.
    pub(super) fn silent() -> Self {
        Self::Unavailable(None)
    }
}

/// Where the status of claims is.
pub trait StatusBoard: Send + Sync + 'static {
    /// What the claim says of its devices, as long as it is this very object.
    fn read(
        &self,
        claim: &ClaimRef,
    ) -> impl Future<Output = Result<Vec<AllocatedDeviceStatus>, StatusError>> + Send;

    /// Lets the claim say this of our devices, in place of all that we said of them before.
    fn apply(
        &self,
        claim: &ClaimRef,
        entries: &[AllocatedDeviceStatus],
    ) -> impl Future<Output = Result<(), StatusError>> + Send;
}

/// The API server.
#[derive(Clone)]
pub struct KubeStatuses {
    api: ResourceApi,
}

impl KubeStatuses {
    /// In whichever version it serves claims.
    pub fn new(api: ResourceApi) -> Self {
        Self { api }
    }
}

impl StatusBoard for KubeStatuses {
    async fn read(&self, claim: &ClaimRef) -> Result<Vec<AllocatedDeviceStatus>, StatusError> {
        let found = self
            .api
            .get(Kind::Claim, &claim.namespace, &claim.name)
            .await;
        let (version, object) = found.map_err(failure)?;
        devices(claim, version, object)
    }

    async fn apply(
        &self,
        claim: &ClaimRef,
        entries: &[AllocatedDeviceStatus],
    ) -> Result<(), StatusError> {
        let version = self.api.version().await.map_err(failure)?;
        let path = DynamicObject::url_path(&resource(version, Kind::Claim), Some(&claim.namespace));
        let request = kube::core::Request::new(path).patch_subresource(
            "status",
            &claim.name,
            // An entry of a share of ours is nobody else's.
            &PatchParams::apply(MANAGER).force(),
            &Patch::Apply(applied(version, claim, entries)),
        );
        let request = request.map_err(|error| failure(Error::BuildRequest(error)))?;
        let stored = self.api.client().request::<Value>(request).await;
        let stored = stored.map_err(|error| {
            self.api.notice(version, &error);
            failure(error)
        })?;
        let kept = devices(claim, version, stored)?;
        let is_kept = |entry: &AllocatedDeviceStatus| {
            kept.iter()
                .any(|kept| kept.device == entry.device && kept.share_id == entry.share_id)
        };
        if entries.iter().all(is_kept) {
            Ok(())
        } else {
            Err(StatusError::NotKept)
        }
    }
}

/// What is applied. A claim that was made anew under the name has another UID, which the server refuses to change.
fn applied(version: Version, claim: &ClaimRef, entries: &[AllocatedDeviceStatus]) -> Value {
    json!({
        "apiVersion": version.api_version(),
        "kind": "ResourceClaim",
        "metadata": {"name": claim.name, "namespace": claim.namespace, "uid": claim.uid.as_str()},
        "status": {"devices": entries},
    })
}

/// What the claim that the server sent says of its devices.
fn devices(
    claim: &ClaimRef,
    version: Version,
    object: Value,
) -> Result<Vec<AllocatedDeviceStatus>, StatusError> {
    let object =
        claim_from(version, object).map_err(|error| failure(Error::Service(error.into())))?;
    if object.metadata.uid.as_deref() != Some(claim.uid.as_str()) {
        return Err(StatusError::Gone);
    }
    let status = object.status.unwrap_or_default();
    Ok(status.devices.unwrap_or_default())
}

fn failure(error: Error) -> StatusError {
    match &error {
        Error::Api(status) => match status.code {
            404 if !tessera_shell::resource_api::is_unserved(&error) => StatusError::Gone,
            429 | 404 => StatusError::Unavailable(Some(Box::new(error))),
            401 | 403 => StatusError::Forbidden(Box::new(error)),
            400..500 => StatusError::Refused(Box::new(error)),
            _ => StatusError::Unavailable(Some(Box::new(error))),
        },
        _ => StatusError::Unavailable(Some(Box::new(error))),
    }
}

#[cfg(test)]
mod tests;
