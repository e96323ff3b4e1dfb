use std::sync::{Arc, Mutex};

use axum::http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use tower::{BoxError, service_fn};

use super::*;
use crate::testing::claim;

/// A server of one claim. It keeps what is applied, as a server does whose feature gate is on.
#[derive(Clone)]
struct Server(Arc<Mutex<State>>);

struct State {
    uid: &'static str,
    devices: Value,
    keeps: bool,
    answer: StatusCode,
    /// Path and query, content type and body of each write.
    writes: Vec<(String, String, Value)>,
}

impl Server {
    fn of(uid: &'static str) -> Self {
        Self(Arc::new(Mutex::new(State {
            uid,
            devices: json!([]),
            keeps: true,
            answer: StatusCode::OK,
            writes: Vec::new(),
        })))
    }

    fn statuses(&self, version: Version) -> KubeStatuses {
        let server = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { server.answer(request).await }
        });
        let client = Client::new(service, "default");
        KubeStatuses::new(ResourceApi::new(client, Some(version)))
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let mut state = self.0.lock().unwrap();
        if parts.method == Method::PATCH {
            let body: Value = serde_json::from_slice(&body)?;
            if state.keeps {
                state.devices = body["status"]["devices"].clone();
            }
            let kind = parts.headers["content-type"].to_str()?.to_owned();
            state.writes.push((parts.uri.to_string(), kind, body));
        }
        let object = if state.answer == StatusCode::OK {
            json!({
                "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
                "metadata": {"namespace": "default", "name": "a", "uid": state.uid},
                "spec": {}, "status": {"devices": state.devices},
            })
        } else {
            json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                "message": "told", "code": state.answer.as_u16(),
                "details": {"name": "a", "kind": "resourceclaims"},
            })
        };
        let answer = Response::builder().status(state.answer);
        Ok(answer.body(Body::from(object.to_string().into_bytes()))?)
    }
}

fn entry(share: &str) -> AllocatedDeviceStatus {
    AllocatedDeviceStatus {
        driver: "gpu.nvidia.com".to_owned(),
        pool: "node0".to_owned(),
        device: "gpu-0".to_owned(),
        share_id: Some(share.to_owned()),
        ..AllocatedDeviceStatus::default()
    }
}

#[tokio::test]
async fn our_entries_of_a_claim_are_applied_in_the_version_that_is_served_and_read_back() {
    for version in Version::ALL {
        let server = Server::of("a-uid");
        let statuses = server.statuses(version);
        let entries = [entry("s1"), entry("s2")];
        assert_eq!(statuses.read(&claim("a")).await.unwrap(), []);
        statuses.apply(&claim("a"), &entries).await.unwrap();
        assert_eq!(statuses.read(&claim("a")).await.unwrap(), entries);
        let state = server.0.lock().unwrap();
        let [(uri, kind, body)] = state.writes.as_slice() else {
            panic!("{:?}", state.writes)
        };
        let path =
            format!("/apis/resource.k8s.io/{version}/namespaces/default/resourceclaims/a/status?");
        let query = uri.strip_prefix(&path).unwrap_or_else(|| panic!("{uri}"));
        assert!(query.contains("fieldManager=tessera-gpu") && query.contains("force=true"));
        assert_eq!(kind, "application/apply-patch+yaml");
        assert_eq!(
            *body,
            json!({
                "apiVersion": version.api_version(), "kind": "ResourceClaim",
                "metadata": {"name": "a", "namespace": "default", "uid": "a-uid"},
                "status": {"devices": [
                    {"driver": "gpu.nvidia.com", "pool": "node0", "device": "gpu-0", "shareID": "s1"},
                    {"driver": "gpu.nvidia.com", "pool": "node0", "device": "gpu-0", "shareID": "s2"},
                ]},
            })
        );
    }
}

#[tokio::test]
async fn a_claim_that_was_made_anew_is_another_one() {
    let server = Server::of("other-uid");
    let read = server.statuses(Version::V1).read(&claim("a")).await;
    assert!(matches!(read, Err(StatusError::Gone)), "{read:?}");
}

#[tokio::test]
async fn what_the_server_takes_and_drops_is_told() {
    let server = Server::of("a-uid");
    server.0.lock().unwrap().keeps = false;
    let statuses = server.statuses(Version::V1);
    let applied = statuses.apply(&claim("a"), &[entry("s1")]).await;
    assert!(matches!(applied, Err(StatusError::NotKept)));
}

#[tokio::test]
async fn a_refusal_is_told_from_an_absence() {
    let server = Server::of("a-uid");
    let statuses = server.statuses(Version::V1);
    for (code, expected) in [
        (403, "Forbidden"),
        (404, "Gone"),
        (409, "Refused"),
        (422, "Refused"),
        (429, "Unavailable"),
        (500, "Unavailable"),
        (503, "Unavailable"),
    ] {
        server.0.lock().unwrap().answer = StatusCode::from_u16(code).unwrap();
        let error = statuses
            .apply(&claim("a"), &[entry("s1")])
            .await
            .unwrap_err();
        assert!(
            format!("{error:?}").starts_with(expected),
            "{code}: {error:?}"
        );
    }
}
