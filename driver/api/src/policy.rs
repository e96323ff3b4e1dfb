//! `DomainPolicy`: how the nodes of compute domains are chosen, beyond what the reference's kind can say.
//!
//! A domain names its policy by the annotation [`POLICY_ANNOTATION`], since the kind is the reference's.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::{Deserialize, Serialize};

use crate::group::{OWN_API_VERSION, OWN_GROUP, OWN_VERSION};
use crate::object::custom_resource;

/// On a `ComputeDomain`: the name of the `DomainPolicy` in its namespace.
pub const POLICY_ANNOTATION: &str = "tessera-dra.github.io/policy";

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct DomainPolicy {
    /// Name, namespace and the like.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it says.
    pub spec: DomainPolicySpec,
    /// Whether it can be followed.
    #[serde(default)]
    pub status: Option<DomainPolicyStatus>,
}

custom_resource!(
    DomainPolicy,
    "domainpolicies",
    NamespaceResourceScope,
    OWN_GROUP,
    OWN_VERSION,
    OWN_API_VERSION
);

/// How nodes are chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainPolicySpec {
    /// How the nodes relate to cliques.
    #[serde(default)]
    pub clique_policy: CliquePolicy,
    /// Nodes that must share a clique where the domain as a whole need not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment_nodes: Option<u32>,
    /// Where in the network the nodes should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
    /// How the nodes may have been bought, the preferred first; empty: all alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capacity_types: Vec<CapacityType>,
    /// Nodes that are held beyond those that the pods need, against the loss of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare_nodes: Option<u32>,
    /// How long the pods may take to be bound before the nodes are let go, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind_timeout_seconds: Option<u32>,
    /// What may be done about a lost node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Replacement>,
    /// Whether domains of lower priority may be ended for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preempts: Option<bool>,
}

/// How the nodes of a domain relate to cliques.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CliquePolicy {
    /// They share one, or nothing is placed.
    #[default]
    Required,
    /// They share one where there is room; else as few as possible.
    Preferred,
    /// They are of as many as possible.
    Spread,
}

/// How a node was bought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CapacityType {
    /// Reserved for a longer time.
    Reserved,
    /// Reserved from one day to another.
    CapacityBlock,
    /// As long as one likes.
    OnDemand,
    /// As long as nobody pays more.
    Spot,
    /// No label tells.
    Unknown,
}

/// Where in the network nodes should be, as node labels from the broadest to the narrowest tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    /// The label in whose value all nodes must agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_level: Option<String>,
    /// The label in whose value they should agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_level: Option<String>,
}

/// What may be done about a lost node, once no spare and no free node of its clique is left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replacement {
    /// Go on with fewer nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shrink: Option<bool>,
    /// Move the whole domain to where it fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrate: Option<bool>,
    /// How long to wait for a node before it is moved, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
}

/// Whether a policy can be followed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainPolicyStatus {
    /// What holds and what does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The `metadata.generation` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
