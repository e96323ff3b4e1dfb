//! `ComputeDomain`: nodes whose GPUs share memory over NVLink, for the pods that name its template.
//!
//! The kind is the reference driver's, field by field. Beside its fields, the status has conditions and
//! the observed generation, as Kubernetes' API conventions want them; under the CRD of the reference they
//! would be pruned, and nothing else would change.

use std::num::NonZeroU32;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::{Deserialize, Deserializer, Serialize};

use crate::compute_domain::AllocationMode;
use crate::group::{API_VERSION, GROUP, VERSION};
use crate::object::custom_resource;

/// Nodes that the status lists at most. A larger domain would rewrite hundreds of kilobytes with each
/// change; its conditions have the counts.
pub const NODES_IN_STATUS: usize = 128;

/// A compute domain.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ComputeDomain {
    /// Name, namespace and the like.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What the user wants. The API server lets nobody change it.
    pub spec: ComputeDomainSpec,
    /// How it fares.
    #[serde(default)]
    pub status: Option<ComputeDomainStatus>,
}

custom_resource!(
    ComputeDomain,
    "computedomains",
    NamespaceResourceScope,
    GROUP,
    VERSION,
    API_VERSION
);

/// What a domain is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComputeDomainSpec {
    /// Size of the gang in nodes; 0: wherever its pods go.
    #[serde(default, deserialize_with = "saturated")]
    pub num_nodes: u32,
    /// How its pods get at the channel.
    pub channel: ComputeDomainChannelSpec,
}

/// The CRD of the reference has no upper bound, and one domain must not break the list of all.
fn saturated<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let number = i64::deserialize(deserializer)?;
    Ok(u32::try_from(number.max(0)).unwrap_or(u32::MAX))
}

/// How many nodes a domain has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainSize {
    /// As many as its pods go to, and whichever.
    FollowsPods,
    /// So many, of which each is chosen before a pod starts.
    Gang(NonZeroU32),
}

impl ComputeDomainSpec {
    /// The size that `numNodes` means.
    pub fn size(&self) -> DomainSize {
        NonZeroU32::new(self.num_nodes).map_or(DomainSize::FollowsPods, DomainSize::Gang)
    }
}

/// How pods of a domain get at its channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComputeDomainChannelSpec {
    /// The template that the controller makes.
    pub resource_claim_template: ComputeDomainTemplate,
    /// How many channels a container gets.
    #[serde(default)]
    pub allocation_mode: AllocationMode,
}

/// The `ResourceClaimTemplate` of a domain, which its pods name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputeDomainTemplate {
    /// Its name, in the domain's namespace.
    pub name: String,
}

/// How a domain fares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComputeDomainStatus {
    /// All in one word.
    #[serde(default)]
    pub status: Readiness,
    /// The nodes of the domain, [`NODES_IN_STATUS`] at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<ComputeDomainNode>,
    /// What holds and what does not, each with a reason for programs and a sentence for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The `metadata.generation` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Whether something is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    /// It can be used.
    Ready,
    /// It cannot be used, or not yet.
    #[default]
    NotReady,
}

impl Readiness {
    /// [`Readiness::Ready`] when `ready`.
    pub fn when(ready: bool) -> Self {
        if ready { Self::Ready } else { Self::NotReady }
    }
}

/// A node of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComputeDomainNode {
    /// Name of the node.
    pub name: String,
    /// Where the node's NVLink session listens; empty where that is not known.
    #[serde(default)]
    pub ip_address: String,
    /// `<cluster UUID>.<clique>`; empty for a node without NVLink fabric.
    #[serde(rename = "cliqueID", default)]
    pub clique_id: String,
    /// Place among the nodes of its clique in this domain; -1 for a node without NVLink fabric.
    #[serde(default)]
    pub index: i32,
    /// Whether its fabric and its session are up.
    #[serde(default)]
    pub status: Readiness,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(spec: &serde_json::Value) -> Result<ComputeDomain, serde_json::Error> {
        serde_json::from_value(json!({
            "apiVersion": API_VERSION, "kind": "ComputeDomain",
            "metadata": {"name": "a", "namespace": "b"}, "spec": spec,
        }))
    }

    #[test]
    fn a_manifest_of_the_guide_is_read_with_the_defaults_of_the_reference() {
        let channel = json!({"resourceClaimTemplate": {"name": "imex-channel-0"}});
        let domain = parse(&json!({"numNodes": 1, "channel": channel})).unwrap();
        assert_eq!(domain.spec.channel.allocation_mode, AllocationMode::Single);
        assert_eq!(domain.spec.size(), DomainSize::Gang(NonZeroU32::MIN));
        let elastic = parse(&json!({"channel": channel})).unwrap();
        assert_eq!(elastic.spec.size(), DomainSize::FollowsPods);
        assert!(parse(&json!({"numNodes": 1})).is_err());
        let huge = parse(&json!({"numNodes": i64::MAX, "channel": channel})).unwrap();
        assert_eq!(huge.spec.num_nodes, u32::MAX);
    }

    #[test]
    fn a_domain_survives_being_written_and_read() {
        let all = json!({"resourceClaimTemplate": {"name": "t"}, "allocationMode": "All"});
        let mut domain = parse(&json!({"numNodes": 2, "channel": all})).unwrap();
        domain.status = Some(ComputeDomainStatus {
            nodes: vec![ComputeDomainNode::default()],
            ..ComputeDomainStatus::default()
        });
        let json = serde_json::to_value(&domain).unwrap();
        assert_eq!(json["apiVersion"], API_VERSION);
        assert_eq!(json["status"]["status"], "NotReady");
        assert_eq!(json["status"]["nodes"][0]["cliqueID"], "");
        assert_eq!(
            serde_json::from_value::<ComputeDomain>(json).unwrap(),
            domain
        );
    }
}
