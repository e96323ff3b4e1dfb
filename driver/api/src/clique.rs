//! `NVLinkClique`: the nodes of one NVLink clique, and the session among them.
//!
//! There is one for each clique of the cluster, as long as a node of it is there. An IMEX session lists its
//! peers in an order that must be the same on each of them and must not change under it, so the order is
//! kept here and not derived from what is there at the moment.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::{Deserialize, Serialize};

use crate::group::{OWN_API_VERSION, OWN_GROUP, OWN_VERSION};
use crate::object::custom_resource;

/// A clique.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct NVLinkClique {
    /// Its name, among others.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Who is in it.
    pub spec: NVLinkCliqueSpec,
    /// How the session fares.
    #[serde(default)]
    pub status: Option<NVLinkCliqueStatus>,
}

custom_resource!(
    NVLinkClique,
    "nvlinkcliques",
    ClusterResourceScope,
    OWN_GROUP,
    OWN_VERSION,
    OWN_API_VERSION
);

/// Who is in a clique.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NVLinkCliqueSpec {
    /// `<cluster UUID>.<clique>`, as the node label `nvidia.com/gpu.clique` has it.
    #[serde(rename = "cliqueID")]
    pub clique_id: String,
    /// Grows with each change of a member's index or address, of which every peer must learn.
    pub epoch: i64,
    /// For how many members the session's list of peers has a place. Every peer must have the same list, and a
    /// daemon reads it once; so this never shrinks.
    #[serde(default)]
    pub room: u32,
    /// Whose the sessions of its members are.
    #[serde(default)]
    pub sessions_of: SessionsOf,
    /// The members.
    #[serde(default)]
    pub members: Vec<NVLinkCliqueMember>,
}

/// Whose a session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionsOf {
    /// One is that of all members.
    #[default]
    Clique,
    /// Each domain has one of its own, among the members that it has. A member that no domain has is in none.
    Domain,
}

/// A member of a clique.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NVLinkCliqueMember {
    /// Name of the node.
    pub node_name: String,
    /// Its place in the session's list of peers, which it keeps as long as it is a member.
    pub index: u32,
    /// Where its session listens; empty where that is not known yet.
    #[serde(default)]
    pub address: String,
    /// UID of the domain that has the node, where each domain has a session of its own; empty where none has it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
}

/// How the session of a clique fares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NVLinkCliqueStatus {
    /// The session on each node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<NVLinkCliqueSession>,
    /// What holds and what does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The `metadata.generation` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// The session on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NVLinkCliqueSession {
    /// Name of the node.
    pub node_name: String,
    /// What `nvidia-imex-ctl` says of it, such as READY, or why there is nothing to ask, such as
    /// `NOT_INSTALLED`.
    pub state: String,
    /// The epoch of the members that it was configured with; 0 of a session that is that of a domain.
    #[serde(default)]
    pub epoch: i64,
    /// Where it listens.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Nodes of other members to which it has no connection.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<String>,
    /// UID of the domain whose session it is, where each domain has one of its own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
}
