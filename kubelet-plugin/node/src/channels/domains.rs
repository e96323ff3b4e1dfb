//! Reads what the API server says of compute domains.

use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams};
use tessera_device::DeviceName;
use tessera_resource_api::{Version, slice_from};
use tessera_shell::resource_api::{Kind, ResourceApi, is_unserved};
use thiserror::Error;

use crate::api_read::{self, NoAnswer};
use crate::deadline::Deadline;

/// How many slots the controller puts into one slice: as many devices as one takes.
const SLOTS_PER_SLICE: u32 = 128;

/// Why a domain could not be read.
#[derive(Debug, Error)]
pub enum DomainReadError {
    /// The API server refuses the read.
    #[error("the API server refuses to show {what}: check the plugin's RBAC")]
    Refused {
        /// What was asked for.
        what: String,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server could not be reached in time.
    #[error("{what} could not be read: the API server did not answer in time")]
    Unavailable {
        /// What was asked for.
        what: String,
        /// The last failure, unless it was silence.
        #[source]
        source: Option<Box<kube::Error>>,
    },
}

/// Where domains are read.
pub trait DomainReader: Send + Sync + 'static {
    /// The slices that may hold this slot of this pool; others may be among them.
    fn slices(
        &self,
        pool: &str,
        slot: &DeviceName,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Vec<ResourceSlice>, DomainReadError>> + Send;

    /// The UIDs of the `ComputeDomain`s in a namespace.
    fn domains_in(
        &self,
        namespace: &str,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Vec<String>, DomainReadError>> + Send;
}

/// Reads from the API server, trying again until the deadline.
#[derive(Clone)]
pub struct ApiDomains {
    api: ResourceApi,
    driver: &'static str,
}

impl ApiDomains {
    /// Reads through `api` what concerns `driver`.
    pub fn new(api: ResourceApi, driver: &'static str) -> Self {
        Self { api, driver }
    }

    /// Reads a slice once.
    async fn slice(&self, name: &str) -> kube::Result<ResourceSlice> {
        let (version, slices) = self.api.objects(Kind::Slice).await?;
        let found = slices.get(name).await;
        read(version, self.noticed(version, found)?)
    }

    /// Reads the slices that a field selector selects, once.
    async fn selected(&self, selector: &str) -> kube::Result<Vec<ResourceSlice>> {
        let (version, slices) = self.api.objects(Kind::Slice).await?;
        let params = ListParams::default().fields(selector);
        let found = slices.list(&params).await;
        let list = self.noticed(version, found)?;
        list.items.into_iter().map(|it| read(version, it)).collect()
    }

    fn noticed<T>(&self, version: Version, answer: kube::Result<T>) -> kube::Result<T> {
        answer.inspect_err(|error| {
            self.api.notice(version, error);
        })
    }
}

impl DomainReader for ApiDomains {
    /// The controller names slices after their pool and the slots that they hold, so one read by name is
    /// enough. Where another writer names them otherwise, the slices of the driver that belong to no node
    /// are listed: one or more for each domain of the cluster.
    async fn slices(
        &self,
        pool: &str,
        slot: &DeviceName,
        deadline: Deadline,
    ) -> Result<Vec<ResourceSlice>, DomainReadError> {
        let name = slice_of_slot(pool, slot);
        let what = format!("ResourceSlice {name}");
        match api_read::read(&what, deadline, || self.slice(&name)).await {
            Ok(slice) if slice.spec.pool.name == pool => return Ok(vec![slice]),
            Ok(_) | Err(NoAnswer::Absent) => {}
            Err(none) => return Err(failure(what, none)),
        }
        let selector = format!("spec.driver={},spec.nodeName=", self.driver);
        let what = format!("the ResourceSlices of {}", self.driver);
        match api_read::read(&what, deadline, || self.selected(&selector)).await {
            Ok(found) => Ok(found),
            Err(NoAnswer::Absent) => Ok(Vec::new()),
            Err(none) => Err(failure(what, none)),
        }
    }

    async fn domains_in(
        &self,
        namespace: &str,
        deadline: Deadline,
    ) -> Result<Vec<String>, DomainReadError> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.api.client().clone(), namespace, &compute_domain());
        let params = ListParams::default();
        let what = format!("the ComputeDomains of namespace {namespace}");
        let ask = || async {
            match api.list_metadata(&params).await {
                Ok(list) => Ok(list.items),
                // The cluster does not have the kind.
                Err(error) if is_unserved(&error) => Ok(Vec::new()),
                Err(error) => Err(error),
            }
        };
        match api_read::read(&what, deadline, ask).await {
            Ok(found) => Ok(found.into_iter().filter_map(|it| it.metadata.uid).collect()),
            Err(NoAnswer::Absent) => Ok(Vec::new()),
            Err(none) => Err(failure(what, none)),
        }
    }
}

/// The name of the slice that holds a slot: its pool's, and a number.
fn slice_of_slot(pool: &str, slot: &DeviceName) -> String {
    let number = slot.as_str().rsplit('-').next();
    let number: u32 = number.and_then(|number| number.parse().ok()).unwrap_or(0);
    format!("{pool}-{}", number / SLOTS_PER_SLICE)
}

/// The reference driver's kind, of which only the metadata is read.
fn compute_domain() -> ApiResource {
    let (group, version) = (tessera_api::GROUP, tessera_api::VERSION);
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: tessera_api::API_VERSION.to_owned(),
        kind: "ComputeDomain".to_owned(),
        plural: "computedomains".to_owned(),
    }
}

/// The slice that the server sent.
fn read(version: Version, object: DynamicObject) -> kube::Result<ResourceSlice> {
    let object = serde_json::to_value(object).map_err(kube::Error::SerdeError)?;
    slice_from(version, object).map_err(|error| kube::Error::Service(error.into()))
}

fn failure(what: String, none: NoAnswer) -> DomainReadError {
    match none {
        NoAnswer::Refused(source) => DomainReadError::Refused { what, source },
        NoAnswer::Unavailable(source) => DomainReadError::Unavailable { what, source },
        NoAnswer::Absent => DomainReadError::Unavailable { what, source: None },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::{Request, Response};
    use kube::Client;
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::{BoxError, service_fn};

    use super::*;

    /// A server that serves one version of the resource API, no compute domains, and one slice of slots.
    fn server(version: &'static str) -> ApiDomains {
        let service = service_fn(move |request: Request<Body>| async move {
            let path = request.uri().path();
            let slices = format!("/apis/resource.k8s.io/{version}/resourceslices");
            let group_version = format!("resource.k8s.io/{version}");
            let slice = json!({
                "apiVersion": group_version, "kind": "ResourceSlice",
                "metadata": {"name": "domain-d1-0"},
                "spec": {"driver": "compute-domain.nvidia.com",
                         "pool": {"name": "domain-d1", "generation": 1, "resourceSliceCount": 1}},
            });
            let answer: Option<Value> = if path == "/apis/resource.k8s.io" {
                let versions = [json!({"groupVersion": group_version, "version": version})];
                Some(
                    json!({"kind": "APIGroup", "apiVersion": "v1", "name": "resource.k8s.io",
                            "versions": versions}),
                )
            } else if path == format!("{slices}/domain-d1-0") {
                Some(slice)
            } else if path == slices {
                Some(
                    json!({"apiVersion": group_version, "kind": "ResourceSliceList",
                            "metadata": {}, "items": [slice]}),
                )
            } else if path.starts_with(&slices) {
                Some(
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "code": 404,
                            "status": "Failure", "reason": "NotFound", "message": "not found"}),
                )
            } else {
                None
            };
            let is_missing = |answer: &Value| answer["code"] == 404;
            let code = if answer.as_ref().is_none_or(is_missing) {
                404
            } else {
                200
            };
            let text = answer.map_or_else(|| "404 page not found".to_owned(), |it| it.to_string());
            let response = Response::builder().status(code);
            Ok::<_, BoxError>(response.body(Body::from(text.into_bytes()))?)
        });
        let api = ResourceApi::new(Client::new(service, "default"), None);
        ApiDomains::new(api, "compute-domain.nvidia.com")
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(30))
    }

    #[tokio::test(start_paused = true)]
    async fn slots_are_read_in_the_version_that_is_served() {
        for version in ["v1", "v1beta2", "v1beta1"] {
            let domains = server(version);
            // The second is in no slice of its name, so that all are listed.
            for slot in ["slot-0", "slot-128"] {
                let slot = slot.parse().unwrap();
                let found = domains.slices("domain-d1", &slot, soon()).await.unwrap();
                assert_eq!(found.len(), 1, "{version}");
                assert_eq!(found[0].spec.pool.name, "domain-d1");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_without_the_kind_has_no_domains() {
        let found = server("v1").domains_in("default", soon()).await.unwrap();
        assert!(found.is_empty());
    }

    #[test]
    fn a_slot_is_looked_for_in_the_slice_that_holds_its_number() {
        for (slot, slice) in [
            ("slot-0", "domain-d1-0"),
            ("slot-127", "domain-d1-0"),
            ("slot-128", "domain-d1-1"),
            ("slot-x", "domain-d1-0"),
        ] {
            assert_eq!(slice_of_slot("domain-d1", &slot.parse().unwrap()), slice);
        }
    }
}
