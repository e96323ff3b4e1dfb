//! Objects of Kubernetes, as little of them as is looked at.
//!
//! A watch of all pods brings every pod of the cluster past the controller. These types have the fields
//! that decisions need, so that the others are never kept.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Node, Pod, Taint, Toleration};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use serde::Deserialize;
use tessera_api::{Document, DomainPolicy};

/// A pod.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct SeenPod {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: SeenPodSpec,
    #[serde(default)]
    pub(crate) status: SeenPodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SeenPodSpec {
    pub(crate) node_name: Option<String>,
    pub(crate) containers: Vec<SeenContainer>,
    pub(crate) init_containers: Vec<SeenContainer>,
    pub(crate) resource_claims: Vec<SeenPodClaim>,
    pub(crate) node_selector: BTreeMap<String, String>,
    pub(crate) affinity: Option<Affinity>,
    pub(crate) tolerations: Vec<Toleration>,
    pub(crate) priority: Option<i32>,
    pub(crate) preemption_policy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SeenContainer {
    pub(crate) resources: SeenResources,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SeenResources {
    pub(crate) limits: BTreeMap<String, Quantity>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SeenPodClaim {
    pub(crate) name: String,
    pub(crate) resource_claim_template_name: Option<String>,
    pub(crate) resource_claim_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SeenPodStatus {
    pub(crate) phase: Option<String>,
    pub(crate) resource_claim_statuses: Vec<SeenClaimStatus>,
    pub(crate) extended_resource_claim_status: Option<SeenExtended>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SeenClaimStatus {
    pub(crate) name: String,
    pub(crate) resource_claim_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SeenExtended {
    pub(crate) resource_claim_name: String,
}

/// A claim.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct SeenClaim {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: SeenClaimSpec,
    #[serde(default)]
    pub(crate) status: SeenClaimState,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SeenClaimSpec {
    pub(crate) devices: SeenDeviceClaim,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SeenDeviceClaim {
    pub(crate) requests: Vec<SeenRequest>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SeenRequest {
    pub(crate) exactly: Option<SeenExactly>,
    pub(crate) first_available: Vec<SeenExactly>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SeenExactly {
    pub(crate) device_class_name: String,
    pub(crate) allocation_mode: Option<String>,
    pub(crate) count: Option<i64>,
    pub(crate) admin_access: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SeenClaimState {
    pub(crate) allocation: Option<SeenAllocation>,
    pub(crate) reserved_for: Vec<SeenConsumer>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SeenConsumer {
    pub(crate) name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SeenAllocation {
    pub(crate) devices: SeenAllocated,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SeenAllocated {
    pub(crate) results: Vec<SeenResult>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SeenResult {
    pub(crate) driver: String,
    pub(crate) pool: String,
    pub(crate) device: String,
    pub(crate) admin_access: Option<bool>,
}

/// A node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct SeenNode {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: SeenNodeSpec,
    #[serde(default)]
    pub(crate) status: SeenNodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SeenNodeSpec {
    pub(crate) unschedulable: bool,
    pub(crate) taints: Vec<Taint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SeenNodeStatus {
    pub(crate) allocatable: BTreeMap<String, Quantity>,
}

/// A policy. What it says is kept as it was written: one that cannot be read must not keep others from
/// being read.
#[derive(Clone, Debug, Deserialize)]
pub struct SeenPolicy {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default = "nothing")]
    pub(crate) spec: Document,
    #[serde(default)]
    pub(crate) status: serde_json::Value,
}

fn nothing() -> Document {
    Document::Null
}

macro_rules! seen {
    ($seen:ident of $kind:ident) => {
        impl Resource for $seen {
            const API_VERSION: &'static str = $kind::API_VERSION;
            const GROUP: &'static str = $kind::GROUP;
            const KIND: &'static str = $kind::KIND;
            const VERSION: &'static str = $kind::VERSION;
            const URL_PATH_SEGMENT: &'static str = $kind::URL_PATH_SEGMENT;
            type Scope = <$kind as Resource>::Scope;
        }

        impl Metadata for $seen {
            type Ty = ObjectMeta;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

seen!(SeenPod of Pod);
seen!(SeenClaim of ResourceClaim);
seen!(SeenNode of Node);
seen!(SeenPolicy of DomainPolicy);
