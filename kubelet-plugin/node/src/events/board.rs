//! Where events are written: the API group `events.k8s.io`.
//!
//! The recorder is that of the Kubernetes client. It makes one event of what has the same reason,
//! action and object within six minutes, and counts on it. The first note stays: the API server
//! lets nobody change it.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tessera_claim::{ClaimRef, PodRef};
use tessera_prepare::notice::{Notice, Severity};
use tessera_resource_api::Version;
use tessera_shell::resource_api::ResourceApi;
use thiserror::Error;

/// Longest name of a reporting instance (`ReportingInstanceLengthLimit` in
/// `pkg/apis/core/validation/events.go`).
const LONGEST_INSTANCE: usize = 128;

/// The object that an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// A claim.
    Claim(ClaimRef),
    /// A pod that uses it.
    Pod {
        /// The pod.
        pod: PodRef,
        /// The claim.
        claim: ClaimRef,
    },
    /// This node.
    Node,
}

/// Why an event was not written.
#[derive(Debug, Error)]
pub enum PostError {
    /// The API server refuses it, and would refuse it again.
    #[error("write an event: the API server refuses it; check the plugin's RBAC")]
    Refused(#[source] Box<kube::Error>),
    /// The API server could not be reached, or asks for patience.
    #[error("write an event: the API server is not available")]
    Unavailable(#[source] Box<kube::Error>),
    /// No answer in time.
    #[error("write an event: the API server did not answer in time")]
    Silent,
}

/// Where events are written.
pub trait Board: Send + Sync + 'static {
    /// Writes the notice as an event about one object.
    fn post(
        &self,
        about: &About,
        notice: &Notice,
    ) -> impl Future<Output = Result<(), PostError>> + Send;
}

/// The API server.
#[derive(Clone)]
pub struct KubeBoard {
    api: ResourceApi,
    recorder: Recorder,
    node: String,
}

impl KubeBoard {
    /// Writes as `driver` on `node`.
    pub fn new(api: ResourceApi, driver: &str, node: &str) -> Self {
        let instance = node[..node.floor_char_boundary(LONGEST_INSTANCE)].to_owned();
        let reporter = Reporter {
            controller: driver.to_owned(),
            instance: Some(instance),
        };
        Self {
            recorder: Recorder::new(api.client().clone(), reporter),
            api,
            node: node.to_owned(),
        }
    }
}

impl Board for KubeBoard {
    async fn post(&self, about: &About, notice: &Notice) -> Result<(), PostError> {
        // Whoever has a claim to tell of has read it, so that the version is known.
        let version = self.api.known().unwrap_or(Version::V1);
        let (regarding, related) = references(about, &self.node, version);
        let event = Event {
            type_: match notice.severity {
                Severity::Normal => EventType::Normal,
                Severity::Warning => EventType::Warning,
            },
            reason: notice.reason.to_owned(),
            note: Some(notice.note.clone()),
            action: notice.action.as_str().to_owned(),
            secondary: related,
        };
        let posted = self.recorder.publish(&event, &regarding).await;
        posted.map_err(failure)
    }
}

/// The object that the event is about, and the one that it is related to.
fn references(
    about: &About,
    node: &str,
    version: Version,
) -> (ObjectReference, Option<ObjectReference>) {
    match about {
        About::Claim(claim) => (claim_reference(claim, version), None),
        About::Pod { pod, claim } => {
            let pod = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectReference::default()
            };
            (pod, Some(claim_reference(claim, version)))
        }
        About::Node => {
            let node = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                // As the kubelet does: `kubectl describe node` looks for the name as UID.
                uid: Some(node.to_owned()),
                ..ObjectReference::default()
            };
            (node, None)
        }
    }
}

fn claim_reference(claim: &ClaimRef, version: Version) -> ObjectReference {
    ObjectReference {
        api_version: Some(version.api_version()),
        kind: Some("ResourceClaim".to_owned()),
        namespace: Some(claim.namespace.clone()),
        name: Some(claim.name.clone()),
        uid: Some(claim.uid.as_str().to_owned()),
        ..ObjectReference::default()
    }
}

fn failure(error: kube::Error) -> PostError {
    match &error {
        kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
            PostError::Refused(Box::new(error))
        }
        _ => PostError::Unavailable(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;
    use crate::testing::claim;

    #[test]
    fn an_event_of_a_pod_names_the_claim_and_one_of_a_node_is_found_by_kubectl() {
        let pod = PodRef {
            namespace: "default".to_owned(),
            name: "pod".to_owned(),
            uid: "1".to_owned(),
        };
        let claim = claim("a");
        let (about, related) = references(&About::Pod { pod, claim }, "node0", Version::V1beta1);
        assert_eq!(about.kind.as_deref(), Some("Pod"));
        assert_eq!(about.uid.as_deref(), Some("1"));
        let related = related.unwrap();
        assert_eq!(related.uid.as_deref(), Some("a-uid"));
        assert_eq!(
            related.api_version.as_deref(),
            Some("resource.k8s.io/v1beta1")
        );
        let (about, related) = references(&About::Node, "node0", Version::V1);
        assert_eq!((about.uid.as_deref(), related), (Some("node0"), None));
    }

    #[test]
    fn only_what_would_be_refused_again_is_given_up() {
        for (code, refused) in [
            (403, true),
            (404, true),
            (422, true),
            (429, false),
            (503, false),
        ] {
            let status = Status {
                code,
                ..Status::default()
            };
            let error = failure(kube::Error::Api(Box::new(status)));
            assert_eq!(matches!(error, PostError::Refused(_)), refused, "{code}");
        }
        let broken = failure(kube::Error::Service("connection reset".into()));
        assert!(matches!(broken, PostError::Unavailable(_)));
    }
}
