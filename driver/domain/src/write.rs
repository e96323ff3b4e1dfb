//! Writes to the API server, as data.

use serde_json::{Value, json};
use tessera_api::ComputeDomain;

use crate::facts::{ObjectName, PodFacts};
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
    /// A strategic merge patch: Kubernetes' own, which adds to a list of taints and takes out of it
    /// without a look at the others.
    Strategic(Value),
    /// A JSON merge patch of the status.
    Status(Value),
    /// It is deleted, if it still is the one of this UID.
    Delete(Option<String>),
}

impl Verb {
    /// How a label of a metric calls it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Merge(_) | Self::Strategic(_) => "patch",
            Self::Status(_) => "status",
            Self::Delete(_) => "delete",
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
pub(crate) fn taint(node: &str, domain: &str) -> Write {
    let taint = json!({"key": keys::TAINT, "value": domain, "effect": "NoSchedule"});
    taints(node, &taint)
}

/// Lets a node go.
pub(crate) fn untaint(node: &str) -> Write {
    taints(node, &json!({"key": keys::TAINT, "$patch": "delete"}))
}

fn taints(node: &str, taint: &Value) -> Write {
    Write {
        kind: Kind::Node,
        name: ObjectName::new("", node),
        verb: Verb::Strategic(json!({"spec": {"taints": [taint]}})),
    }
}

/// Lets a pod onto nodes that are held for a domain. Which of them it may go to is said by its slot.
///
/// The list is replaced as a whole; should another have added to it meanwhile, the API server refuses the
/// patch, since tolerations of a pod can only be added.
pub(crate) fn tolerate(pod: &PodFacts) -> Write {
    let ours = json!({"key": keys::TAINT, "operator": "Exists", "effect": "NoSchedule"});
    let all = pod.tolerations.iter().map(|toleration| json!(toleration));
    let all: Vec<Value> = all.chain([ours]).collect();
    Write {
        kind: Kind::Pod,
        name: pod.name.clone(),
        verb: Verb::Merge(json!({"metadata": {"uid": pod.uid}, "spec": {"tolerations": all}})),
    }
}
