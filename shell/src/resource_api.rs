//! Finds out in which version of the resource API this server is spoken to.
//!
//! The server is asked when somebody first wants something of it, and again when it says that it does
//! not serve what it did: a control plane is upgraded under a running process, and takes an old version
//! out of service. Nothing is concluded from its release, which says little about what is switched on.

mod sent;

use std::sync::{Arc, Mutex, PoisonError};

use axum::http::Request;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup;
use kube::api::{Api, DynamicObject, GetParams};
use kube::core::GroupVersionKind;
use kube::core::discovery::ApiResource;
use kube::core::response::StatusDetails;
use kube::error::DiscoveryError;
use kube::{Client, Error, Resource};
use serde_json::Value;
use tessera_resource_api::{GROUP, Version};

use self::sent::Sent;

/// The resource API of one server.
#[derive(Clone)]
pub struct ResourceApi {
    client: Client,
    chosen: Option<Version>,
    found: Arc<Mutex<Option<Version>>>,
}

/// A kind of object of the resource API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ResourceClaim`.
    Claim,
    /// `ResourceSlice`.
    Slice,
}

impl ResourceApi {
    /// That of the client's server, in the version that somebody has chosen, or the newest that
    /// both sides know.
    pub fn new(client: Client, chosen: Option<Version>) -> Self {
        Self {
            client,
            chosen,
            found: Arc::default(),
        }
    }

    /// The version to speak.
    pub async fn version(&self) -> Result<Version, Error> {
        if let Some(version) = self.known() {
            return Ok(version);
        }
        let request = Request::get(format!("/apis/{GROUP}"))
            .body(Vec::new())
            .map_err(Error::HttpError)?;
        let group: APIGroup = self.client.request(request).await?;
        let served = group
            .versions
            .iter()
            .map(|version| version.version.as_str());
        let missing = || Error::Discovery(DiscoveryError::MissingApiGroup(GROUP.to_owned()));
        let version = Version::newest(served).ok_or_else(missing)?;
        tracing::info!(%version, "the API server serves {GROUP}");
        *self.lock() = Some(version);
        Ok(version)
    }

    /// The version that is spoken, if it is known yet.
    pub fn known(&self) -> Option<Version> {
        self.chosen.or(*self.lock())
    }

    /// The objects of a kind, of all namespaces, and the version in which they are written.
    pub async fn objects(&self, kind: Kind) -> Result<(Version, Api<DynamicObject>), Error> {
        let version = self.version().await?;
        let resource = resource(version, kind);
        Ok((version, Api::all_with(self.client.clone(), &resource)))
    }

    /// An object of a namespace as the server sends it, and the version in which it is written.
    ///
    /// As plain JSON, without its `managedFields`: a [`DynamicObject`] would take its metadata apart first, which costs
    /// more than the rest of the reading together, and whoever wants it typed does so again.
    pub async fn get(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<(Version, Value), Error> {
        let version = self.version().await?;
        let path = DynamicObject::url_path(&resource(version, kind), Some(namespace));
        let request = kube::core::Request::new(path).get(name, &GetParams::default());
        let found = self
            .client
            .request(request.map_err(Error::BuildRequest)?)
            .await;
        found
            .inspect_err(|error| {
                self.notice(version, error);
            })
            .map(|Sent(object)| (version, object))
    }

    /// The client itself.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Looks at an error of the server: whether it means that `version` is not served any more. Then
    /// the server is asked anew next time.
    pub fn notice(&self, version: Version, error: &Error) -> bool {
        let unserved = is_unserved(error);
        if unserved {
            let mut found = self.lock();
            // Somebody else may have found another by now.
            if *found == Some(version) {
                *found = None;
            }
        }
        unserved
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Version>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the server is asked for a kind in a version.
pub fn resource(version: Version, kind: Kind) -> ApiResource {
    let (kind, plural) = match kind {
        Kind::Claim => ("ResourceClaim", "resourceclaims"),
        Kind::Slice => ("ResourceSlice", "resourceslices"),
    };
    let kind = GroupVersionKind::gvk(GROUP, version.as_str(), kind);
    ApiResource::from_gvk_with_plural(&kind, plural)
}

/// Whether the server has no such path.
///
/// Of an object that is not there the server says which it is, with the reason `NotFound`. Of a version that it does not
/// serve it says `NotFound` too, of nothing (Kubernetes 1.33), or writes a page without a status.
pub fn is_unserved(error: &Error) -> bool {
    let Error::Api(status) = error else {
        return false;
    };
    let of_nothing = |details: &StatusDetails| details.name.is_empty() && details.kind.is_empty();
    status.code == 404
        && (status.reason != "NotFound" || status.details.as_ref().is_some_and(of_nothing))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::Response;
    use kube::client::Body;
    use kube::core::Status;
    use tower::{BoxError, service_fn};

    use super::*;

    /// A server that serves these versions, and how often it was asked for them.
    fn server(served: &Arc<Mutex<Vec<&'static str>>>) -> (Client, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let (served, counted) = (served.clone(), asked.clone());
        let service = service_fn(move |request: Request<Body>| {
            assert_eq!(request.uri().path(), "/apis/resource.k8s.io");
            counted.fetch_add(1, Ordering::Relaxed);
            let served = served.lock().unwrap().clone();
            async move {
                let versions: Vec<String> = served
                    .iter()
                    .map(|v| {
                        format!(r#"{{"groupVersion": "resource.k8s.io/{v}", "version": "{v}"}}"#)
                    })
                    .collect();
                let group = format!(
                    r#"{{"kind": "APIGroup", "apiVersion": "v1", "name": "resource.k8s.io", "versions": [{}]}}"#,
                    versions.join(", ")
                );
                Ok::<_, BoxError>(Response::new(Body::from(group.into_bytes())))
            }
        });
        (Client::new(service, "default"), asked)
    }

    fn page_not_found() -> Error {
        let text = "Failed to parse error data";
        Error::Api(
            Status::failure("404 page not found", text)
                .with_code(404)
                .boxed(),
        )
    }

    #[tokio::test]
    async fn the_server_is_asked_once_and_again_when_it_does_not_serve_that_version_any_more() {
        let served = Arc::new(Mutex::new(vec!["v1beta1", "v1beta2"]));
        let (client, asked) = server(&served);
        let api = ResourceApi::new(client, None);
        assert_eq!(api.known(), None);
        for _ in 0..2 {
            assert_eq!(api.version().await.unwrap(), Version::V1beta2);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);

        *served.lock().unwrap() = vec!["v1"];
        let gone = Error::Api(
            Status::failure("no such claim", "NotFound")
                .with_code(404)
                .boxed(),
        );
        assert!(
            !api.notice(Version::V1beta2, &gone),
            "a claim that is gone says nothing"
        );
        assert_eq!(api.version().await.unwrap(), Version::V1beta2);
        assert!(api.notice(Version::V1beta2, &page_not_found()));
        assert_eq!(api.version().await.unwrap(), Version::V1);
        assert!(
            api.notice(Version::V1beta2, &page_not_found()),
            "an answer that comes late"
        );
        assert_eq!(api.known(), Some(Version::V1));
    }

    #[tokio::test]
    async fn a_chosen_version_is_spoken_whatever_the_server_serves() {
        let (client, asked) = server(&Arc::default());
        let api = ResourceApi::new(client, Some(Version::V1beta1));
        assert!(api.notice(Version::V1beta1, &page_not_found()));
        assert_eq!(api.version().await.unwrap(), Version::V1beta1);
        assert_eq!(asked.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_server_without_a_version_that_is_spoken_here_is_an_error() {
        let served = Arc::new(Mutex::new(vec!["v1alpha3"]));
        let error = ResourceApi::new(server(&served).0, None)
            .version()
            .await
            .unwrap_err();
        assert!(error.to_string().contains("resource.k8s.io"), "{error}");
    }

    /// What Kubernetes 1.33 and 1.36 write.
    #[test]
    fn a_path_that_is_not_served_is_told_from_an_object_that_is_not_there() {
        let details = |details: &str| {
            let text = format!(
                r#"{{"kind": "Status", "apiVersion": "v1", "metadata": {{}}, "status": "Failure",
                    "message": "told", "reason": "NotFound", "details": {details}, "code": 404}}"#
            );
            Error::Api(serde_json::from_str::<Status>(&text).unwrap().boxed())
        };
        let gone = r#"{"name": "a", "group": "resource.k8s.io", "kind": "resourceclaims"}"#;
        for (error, expected) in [
            (page_not_found(), true),
            (details("{}"), true),
            (details(gone), false),
            (details("null"), false),
            (
                Error::Api(Status::failure("no", "Forbidden").with_code(403).boxed()),
                false,
            ),
        ] {
            assert_eq!(is_unserved(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn objects_are_asked_for_under_the_path_of_their_version() {
        let slices = resource(Version::V1beta1, Kind::Slice);
        assert_eq!(slices.api_version, "resource.k8s.io/v1beta1");
        assert_eq!(slices.plural, "resourceslices");
        assert_eq!(resource(Version::V1, Kind::Claim).plural, "resourceclaims");
    }
}
