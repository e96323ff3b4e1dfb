//! Keeps the Lease in the API server.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};

use super::{Record, Stored};

/// HTTP status for both an outdated version and a name that exists.
const CONFLICT: u16 = 409;

/// Where the contenders meet. Versions are opaque and change with every write.
pub trait LeaseStore {
    /// Reads the Lease; `None` when there is none.
    fn read(&self) -> impl Future<Output = Result<Option<Stored>, StoreError>> + Send;

    /// Writes `record` if the Lease still has `version`, or creates it where that is `None`.
    fn write(
        &self,
        version: Option<&str>,
        record: &Record,
    ) -> impl Future<Output = Result<Stored, StoreError>> + Send;
}

/// Why a call on the Lease had no result.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote first: read again.
    #[error("the lease was changed by somebody else meanwhile")]
    Raced,
    /// No usable answer; whether a write happened is unknown.
    #[error(
        "access lease {name}: check the API server, and that RBAC allows get, create and patch"
    )]
    Access {
        /// Namespace and name of the Lease.
        name: String,
        /// What kube says.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server stores a Lease that the election cannot use.
    #[error("lease {name} carries no {field}: delete it, it will be made anew")]
    Incomplete {
        /// Namespace and name of the Lease.
        name: String,
        /// What is missing.
        field: &'static str,
    },
}

/// One Lease object.
#[derive(Clone)]
pub struct KubeLeases {
    leases: Api<Lease>,
    namespace: String,
    name: String,
}

impl KubeLeases {
    /// The Lease `name` in `namespace`.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn qualified(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn access(&self, error: kube::Error) -> StoreError {
        match &error {
            kube::Error::Api(status) if status.code == CONFLICT => StoreError::Raced,
            _ => StoreError::Access {
                name: self.qualified(),
                source: Box::new(error),
            },
        }
    }

    fn parse(&self, lease: Lease) -> Result<Stored, StoreError> {
        let missing = |field| StoreError::Incomplete {
            name: self.qualified(),
            field,
        };
        let spec = lease.spec.unwrap_or_default();
        let seconds = spec.lease_duration_seconds.unwrap_or(0);
        Ok(Stored {
            version: lease
                .metadata
                .resource_version
                .ok_or_else(|| missing("resourceVersion"))?,
            record: Record {
                // client-go releases a lease by writing an empty holder.
                holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
                // None stands in a Lease that the chart made and nobody has taken yet.
                duration: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
                transitions: spec.lease_transitions.unwrap_or(0),
                acquired: spec.acquire_time.map(|MicroTime(time)| time),
            },
        })
    }

    fn render(&self, version: Option<&str>, record: &Record, now: Timestamp) -> Lease {
        Lease {
            metadata: ObjectMeta {
                namespace: Some(self.namespace.clone()),
                name: Some(self.name.clone()),
                resource_version: version.map(str::to_owned),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(record.holder.clone().unwrap_or_default()),
                lease_duration_seconds: Some(
                    i32::try_from(record.duration.as_secs())
                        .unwrap_or(i32::MAX)
                        .max(1),
                ),
                lease_transitions: Some(record.transitions),
                acquire_time: Some(MicroTime(record.acquired.unwrap_or(now))),
                renew_time: Some(MicroTime(now)),
                ..LeaseSpec::default()
            }),
        }
    }
}

impl LeaseStore for KubeLeases {
    async fn read(&self) -> Result<Option<Stored>, StoreError> {
        let lease = self
            .leases
            .get_opt(&self.name)
            .await
            .map_err(|error| self.access(error))?;
        lease.map(|lease| self.parse(lease)).transpose()
    }

    async fn write(&self, version: Option<&str>, record: &Record) -> Result<Stored, StoreError> {
        let lease = self.render(version, record, Timestamp::now());
        let answer = match version {
            // A patch leaves labels and annotations alone, which belong to whoever installed us.
            // The version in it makes the API server refuse it where a replacement would fail.
            Some(_) => {
                let patch = Patch::Merge(&lease);
                self.leases
                    .patch(&self.name, &PatchParams::default(), &patch)
                    .await
            }
            None => self.leases.create(&PostParams::default(), &lease).await,
        };
        self.parse(answer.map_err(|error| self.access(error))?)
    }
}

#[cfg(test)]
mod tests;
