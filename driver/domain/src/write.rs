//! Writes to the API server, as data.

use serde_json::{Value, json};
use tessera_api::ComputeDomain;

use crate::facts::{NodeFacts, ObjectName, PodFacts};
use crate::keys;
use crate::world::Kind;

/// A write to one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// The kind.
    pub kind: Kind,
    /// The object.
    pub name: ObjectName,
    /// What is done to it.
    pub verb: Verb,
}

/// What is done to an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Verb {
    /// It is made, with this content.
    Create(Value),
    /// A JSON merge patch (RFC 7386).
    Merge(Value),
    /// A JSON patch (RFC 6902), which adds to a list and takes out of it without a word on the others: lists
    /// of taints and tolerations are of more than one author, and no merge patch of either kind merges them.
    Json(Value),
    /// A JSON merge patch of the status.
    Status(Value),
    /// It is deleted, if it still is the one of this UID.
    Delete(Option<String>),
    /// A pod is evicted, if it still is the one of this UID: it is deleted, unless a `PodDisruptionBudget` keeps it
    /// (<https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/>).
    Evict(String),
}

impl Verb {
    /// How a label of a metric calls it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Merge(_) | Self::Json(_) => "patch",
            Self::Status(_) => "status",
            Self::Delete(_) => "delete",
            Self::Evict(_) => "evict",
        }
    }
}

/// Sets the finalizers of a domain, unless it was changed meanwhile.
pub(crate) fn finalizers(domain: &ComputeDomain, finalizers: &[&str]) -> Write {
    let version = domain.metadata.resource_version.clone();
    let metadata = json!({"finalizers": finalizers, "resourceVersion": version});
    Write {
        kind: Kind::Domain,
        name: ObjectName::of(&domain.metadata),
        verb: Verb::Merge(json!({"metadata": metadata})),
    }
}

/// Holds a node for a domain.
pub(crate) fn taint(node: &NodeFacts, domain: &str) -> Write {
    let taint = json!({"key": keys::TAINT, "value": domain, "effect": "NoSchedule"});
    let patch = match ours(node) {
        Some(at) => {
            let path = format!("{TAINTS}/{at}");
            json!([is_ours(at), {"op": "replace", "path": path, "value": taint}])
        }
        None => added(TAINTS, node.taints.is_empty(), &taint),
    };
    of_node(node, patch)
}

/// Lets a node go.
pub(crate) fn untaint(node: &NodeFacts) -> Write {
    let at = ours(node).unwrap_or_default();
    let path = format!("{TAINTS}/{at}");
    of_node(node, json!([is_ours(at), {"op": "remove", "path": path}]))
}

const TAINTS: &str = "/spec/taints";

/// Which of a node's taints is ours.
fn ours(node: &NodeFacts) -> Option<usize> {
    node.taints
        .iter()
        .position(|taint| taint.key == keys::TAINT)
}

/// Makes the API server refuse the patch where another taint is in that place by now.
fn is_ours(at: usize) -> Value {
    json!({"op": "test", "path": format!("{TAINTS}/{at}/key"), "value": keys::TAINT})
}

fn of_node(node: &NodeFacts, patch: Value) -> Write {
    Write {
        kind: Kind::Node,
        name: ObjectName::new("", &node.name),
        verb: Verb::Json(patch),
    }
}

/// Lets a pod onto nodes that are held for a domain. Which of them it may go to is said by its slot.
pub(crate) fn tolerate(pod: &PodFacts) -> Write {
    let toleration = json!({"key": keys::TAINT, "operator": "Exists", "effect": "NoSchedule"});
    let none = pod.tolerations.is_empty();
    Write {
        kind: Kind::Pod,
        name: pod.name.clone(),
        verb: Verb::Json(added("/spec/tolerations", none, &toleration)),
    }
}

/// Ends a pod, as far as its budget allows.
pub(crate) fn evict(pod: &PodFacts) -> Write {
    Write {
        kind: Kind::Pod,
        name: pod.name.clone(),
        verb: Verb::Evict(pod.uid.clone()),
    }
}

/// A patch that adds to the list at `path`; to one that is `absent`, unless somebody has begun it meanwhile.
fn added(path: &str, absent: bool, value: &Value) -> Value {
    if absent {
        json!([
            {"op": "test", "path": path, "value": null},
            {"op": "add", "path": path, "value": [value]},
        ])
    } else {
        json!([{"op": "add", "path": format!("{path}/-"), "value": value}])
    }
}
