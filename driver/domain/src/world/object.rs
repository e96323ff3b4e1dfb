//! The kinds that are watched, and their objects as watches bring them.

use k8s_openapi::api::resource::v1::ResourceSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tessera_api::{ComputeDomain, NVLinkClique};

use crate::seen::{SeenClaim, SeenNode, SeenPod, SeenPolicy};

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `ComputeDomain`.
    Domain,
    /// `ResourceClaimTemplate`, its metadata.
    Template,
    /// `ResourceSlice` of the driver of domains.
    Slice,
    /// `Node`.
    Node,
    /// `Pod`.
    Pod,
    /// `ResourceClaim`.
    Claim,
    /// `NVLinkClique`.
    Clique,
    /// `DomainPolicy`.
    Policy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Domain,
        Self::Template,
        Self::Slice,
        Self::Node,
        Self::Pod,
        Self::Claim,
        Self::Clique,
        Self::Policy,
    ];

    /// How a label of a metric calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Domain => "computedomain",
            Self::Template => "resourceclaimtemplate",
            Self::Slice => "resourceslice",
            Self::Node => "node",
            Self::Pod => "pod",
            Self::Claim => "resourceclaim",
            Self::Clique => "nvlinkclique",
            Self::Policy => "domainpolicy",
        }
    }
}

/// An object as a watch or an answer brings it.
#[derive(Clone, Debug)]
pub enum Object {
    /// A domain.
    Domain(Box<ComputeDomain>),
    /// The metadata of a template.
    Template(Box<ObjectMeta>),
    /// A slice.
    Slice(Box<ResourceSlice>),
    /// A node.
    Node(Box<SeenNode>),
    /// A pod.
    Pod(Box<SeenPod>),
    /// A claim.
    Claim(Box<SeenClaim>),
    /// A clique.
    Clique(Box<NVLinkClique>),
    /// A policy.
    Policy(Box<SeenPolicy>),
}

impl Object {
    /// An object of a kind as the API server writes it.
    pub fn read(kind: Kind, mut object: serde_json::Value) -> serde_json::Result<Self> {
        use serde_json::from_value as typed;
        Ok(match kind {
            Kind::Domain => Self::Domain(Box::new(typed(object)?)),
            Kind::Template => Self::Template(Box::new(typed(object["metadata"].take())?)),
            Kind::Slice => Self::Slice(Box::new(typed(object)?)),
            Kind::Node => Self::Node(Box::new(typed(object)?)),
            Kind::Pod => Self::Pod(Box::new(typed(object)?)),
            Kind::Claim => Self::Claim(Box::new(typed(object)?)),
            Kind::Clique => Self::Clique(Box::new(typed(object)?)),
            Kind::Policy => Self::Policy(Box::new(typed(object)?)),
        })
    }
}
