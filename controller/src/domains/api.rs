//! What the writer needs of the API server.

use std::time::Duration;

use http::{Method, Request, header};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::core::Status;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use serde_json::Value;
use tessera_domain::notice::{About, Notice};
use tessera_domain::{Kind, Object, ObjectName, Verb, Write, keys};
use tessera_shell::logging::chain;
use thiserror::Error;
use tokio::time::timeout;

/// Bound of one call. Shorter than the time between a leader's end and the next one's beginning
/// (lease duration less renew deadline), so that no write of the old one comes after one of the new.
pub const ATTEMPT: Duration = Duration::from_secs(4);

/// Under which name the API server notes who owns which field.
const FIELD_MANAGER: &str = "tessera-controller";

/// Longest name of a reporting instance (`ReportingInstanceLengthLimit` in
/// `pkg/apis/core/validation/events.go`).
const LONGEST_INSTANCE: usize = 128;

/// What came of a write.
#[derive(Clone, Debug)]
pub enum Written {
    /// The object is so now.
    Stored(Object),
    /// It is gone.
    Gone,
    /// It is a pod that is being ended.
    Ending,
}

/// Why a write had no effect, or none that is known.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The object exists already, or was changed meanwhile (409).
    #[error("it changed or exists already: {0}")]
    Conflict(String),
    /// The object is gone (404).
    #[error("it is gone: {0}")]
    Missing(String),
    /// Not allowed (401, 403).
    #[error(
        "not allowed: {0}; the controller's account needs the rights of the chart's cluster role"
    )]
    Forbidden(String),
    /// The API server finds it wrong (400, 422).
    #[error("the API server finds it invalid: {0}")]
    Invalid(String),
    /// A `PodDisruptionBudget` keeps the pod (429 with the cause `DisruptionBudget`).
    #[error("a PodDisruptionBudget keeps the pod: {0}")]
    Budget(String),
    /// No answer, or one that says to come back later.
    #[error("the API server is not available: {0}")]
    Unavailable(String),
    /// No answer in time.
    #[error("the API server did not answer within {ATTEMPT:?}")]
    TimedOut,
    /// An answer that is not what was asked for.
    #[error("the API server's answer cannot be read: {0}")]
    Unreadable(String),
}

impl WriteError {
    /// The reason as the label of a metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Conflict(_) => "conflict",
            Self::Missing(_) => "missing",
            Self::Forbidden(_) => "forbidden",
            Self::Invalid(_) => "invalid",
            Self::Budget(_) => "budget",
            Self::Unavailable(_) => "unavailable",
            Self::TimedOut => "timeout",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

/// Where writes go.
pub trait Api {
    /// Does one write.
    fn write(&self, write: &Write) -> impl Future<Output = Result<Written, WriteError>>;

    /// Writes one event.
    fn tell(&self, notice: &Notice) -> impl Future<Output = Result<(), WriteError>>;
}

/// The API server.
#[derive(Clone)]
pub struct KubeApi {
    client: Client,
    recorder: Recorder,
}

impl KubeApi {
    /// Writes through `client`, as the pod `instance`.
    pub fn new(client: Client, instance: &str) -> Self {
        let instance = instance[..instance.floor_char_boundary(LONGEST_INSTANCE)].to_owned();
        let reporter = Reporter {
            controller: keys::DRIVER.to_owned(),
            instance: Some(instance),
        };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
        }
    }
}

impl Api for KubeApi {
    async fn write(&self, write: &Write) -> Result<Written, WriteError> {
        let request = request(write);
        let answer = timeout(ATTEMPT, self.client.request::<Value>(request)).await;
        let answer = answer.map_err(|_late| WriteError::TimedOut)?;
        let ends = matches!(write.verb, Verb::Delete(_) | Verb::Evict(_));
        match answer.map_err(|error| refusal(&error)) {
            Err(WriteError::Missing(_)) if ends => Ok(Written::Gone),
            Ok(_) if ends => Ok(match write.verb {
                Verb::Evict(_) => Written::Ending,
                _ => Written::Gone,
            }),
            Ok(object) => read(write.kind, object).map(Written::Stored),
            Err(error) => Err(error),
        }
    }

    async fn tell(&self, notice: &Notice) -> Result<(), WriteError> {
        let event = Event {
            type_: if notice.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: notice.reason.to_owned(),
            note: Some(notice.note.clone()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let about = reference(&notice.about);
        let told = timeout(ATTEMPT, self.recorder.publish(&event, &about)).await;
        let told = told.map_err(|_late| WriteError::TimedOut)?;
        told.map_err(|error| refusal(&error))
    }
}

fn reference(about: &About) -> ObjectReference {
    ObjectReference {
        api_version: Some(about.api_version.clone()),
        kind: Some(about.kind.clone()),
        namespace: Some(about.name.namespace.clone()),
        name: Some(about.name.name.clone()),
        uid: Some(about.uid.clone()),
        ..ObjectReference::default()
    }
}

/// A write as the API server takes it.
pub fn request(write: &Write) -> Request<Vec<u8>> {
    let collection = collection(write);
    let object = || format!("{collection}/{}", write.name.name);
    let (method, path, content, body) = match &write.verb {
        Verb::Create(object) => (Method::POST, collection, "application/json", object.clone()),
        Verb::Merge(patch) => (Method::PATCH, object(), MERGE, patch.clone()),
        Verb::Json(patch) => (
            Method::PATCH,
            object(),
            "application/json-patch+json",
            patch.clone(),
        ),
        Verb::Status(patch) => (
            Method::PATCH,
            format!("{}/status", object()),
            MERGE,
            patch.clone(),
        ),
        Verb::Delete(uid) => {
            let preconditions = uid.as_ref().map(|uid| serde_json::json!({"uid": uid}));
            let options = serde_json::json!({
                "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions,
            });
            (Method::DELETE, object(), "application/json", options)
        }
        Verb::Evict(uid) => {
            let ObjectName { namespace, name } = &write.name;
            let eviction = serde_json::json!({
                "apiVersion": "policy/v1", "kind": "Eviction",
                "metadata": {"name": name, "namespace": namespace},
                "deleteOptions": {"preconditions": {"uid": uid}},
            });
            let path = format!("{}/eviction", object());
            (Method::POST, path, "application/json", eviction)
        }
    };
    let query = match write.verb {
        Verb::Delete(_) | Verb::Evict(_) => String::new(),
        _ => format!("?fieldManager={FIELD_MANAGER}"),
    };
    Request::builder()
        .method(method)
        .uri(format!("{path}{query}"))
        .header(header::CONTENT_TYPE, content)
        .body(body.to_string().into_bytes())
        .expect("names of objects are made of letters that a path may have")
}

const MERGE: &str = "application/merge-patch+json";

fn collection(write: &Write) -> String {
    let namespace = &write.name.namespace;
    match write.kind {
        Kind::Domain => {
            format!("/apis/resource.nvidia.com/v1beta1/namespaces/{namespace}/computedomains")
        }
        Kind::Template => {
            format!("/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaimtemplates")
        }
        Kind::Claim => format!("/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims"),
        Kind::Slice => "/apis/resource.k8s.io/v1/resourceslices".to_owned(),
        Kind::Clique => "/apis/tessera-dra.github.io/v1alpha1/nvlinkcliques".to_owned(),
        Kind::Policy => {
            format!("/apis/tessera-dra.github.io/v1alpha1/namespaces/{namespace}/domainpolicies")
        }
        Kind::Node => "/api/v1/nodes".to_owned(),
        Kind::Pod => format!("/api/v1/namespaces/{namespace}/pods"),
    }
}

/// The object in an answer.
pub fn read(kind: Kind, object: Value) -> Result<Object, WriteError> {
    let read = Object::read(kind, object);
    read.map_err(|error| WriteError::Unreadable(error.to_string()))
}

fn refusal(error: &kube::Error) -> WriteError {
    let kube::Error::Api(status) = error else {
        return WriteError::Unavailable(chain(error).to_string());
    };
    let message = status.message.clone();
    match status.code {
        409 => WriteError::Conflict(message),
        404 | 410 => WriteError::Missing(message),
        401 | 403 => WriteError::Forbidden(message),
        400 | 422 => WriteError::Invalid(message),
        429 if is_of_a_budget(status) => WriteError::Budget(message),
        _ => WriteError::Unavailable(message),
    }
}

/// Whether an eviction is refused for the sake of a budget: the API server says so in the cause
/// (`pkg/registry/core/pod/storage/eviction.go`). Without it, it has too much to do.
fn is_of_a_budget(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes
        .into_iter()
        .any(|cause| cause.reason == "DisruptionBudget")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(kind: Kind, namespace: &str, verb: Verb) -> String {
        let name = ObjectName::new(namespace, "a");
        let request = request(&Write { kind, name, verb });
        let content = &request.headers()[header::CONTENT_TYPE];
        format!(
            "{} {} {}",
            request.method(),
            request.uri(),
            content.to_str().unwrap()
        )
    }

    #[test]
    fn each_write_goes_where_the_api_server_takes_it() {
        let body = || json!({});
        for (said, expected) in [
            (
                line(Kind::Domain, "n", Verb::Status(body())),
                "PATCH /apis/resource.nvidia.com/v1beta1/namespaces/n/computedomains/a/status\
                 ?fieldManager=tessera-controller application/merge-patch+json",
            ),
            (
                line(Kind::Template, "n", Verb::Create(body())),
                "POST /apis/resource.k8s.io/v1/namespaces/n/resourceclaimtemplates\
                 ?fieldManager=tessera-controller application/json",
            ),
            (
                line(Kind::Slice, "", Verb::Delete(None)),
                "DELETE /apis/resource.k8s.io/v1/resourceslices/a application/json",
            ),
            (
                line(Kind::Node, "", Verb::Json(body())),
                "PATCH /api/v1/nodes/a?fieldManager=tessera-controller \
                 application/json-patch+json",
            ),
            (
                line(Kind::Pod, "n", Verb::Evict("7b1c".to_owned())),
                "POST /api/v1/namespaces/n/pods/a/eviction application/json",
            ),
            (
                line(Kind::Pod, "n", Verb::Merge(body())),
                "PATCH /api/v1/namespaces/n/pods/a?fieldManager=tessera-controller \
                 application/merge-patch+json",
            ),
        ] {
            assert_eq!(said, expected);
        }
    }

    #[test]
    fn a_deletion_is_of_the_object_that_was_seen() {
        let name = ObjectName::new("n", "a");
        let verb = Verb::Delete(Some("7b1c".to_owned()));
        let kind = Kind::Template;
        let request = request(&Write { kind, name, verb });
        let options: Value = serde_json::from_slice(request.body()).unwrap();
        assert_eq!(options["preconditions"]["uid"], "7b1c");
    }

    #[test]
    fn an_eviction_is_of_the_pod_that_was_seen() {
        let name = ObjectName::new("n", "a");
        let verb = Verb::Evict("7b1c".to_owned());
        let kind = Kind::Pod;
        let request = request(&Write { kind, name, verb });
        let eviction: Value = serde_json::from_slice(request.body()).unwrap();
        assert_eq!(
            eviction,
            json!({
                "apiVersion": "policy/v1", "kind": "Eviction",
                "metadata": {"name": "a", "namespace": "n"},
                "deleteOptions": {"preconditions": {"uid": "7b1c"}},
            })
        );
    }

    /// What Kubernetes 1.36 answers, the one to an eviction and the other to anything.
    #[test]
    fn a_budget_that_keeps_a_pod_is_told_from_a_server_that_is_busy() {
        let said = |details: Value| {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "m", "reason": "TooManyRequests", "details": details, "code": 429,
            });
            let status: Status = serde_json::from_value(status).unwrap();
            refusal(&kube::Error::Api(Box::new(status))).reason()
        };
        let cause = json!({"reason": "DisruptionBudget", "message": "The disruption budget b needs 2 healthy pods and has 2 currently"});
        assert_eq!(said(json!({"causes": [cause]})), "budget");
        assert_eq!(said(json!({"retryAfterSeconds": 1})), "unavailable");
    }
}
