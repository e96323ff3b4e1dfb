//! `DomainPolicy`: how the nodes of compute domains are chosen, beyond what the reference's kind can say.
//!
//! A domain names its policy by the annotation [`POLICY_ANNOTATION`], since the kind is the reference's.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::error::ConfigError;
use crate::fields::{Field, Fields};
use crate::group::{OWN_API_VERSION, OWN_GROUP, OWN_VERSION};
use crate::object::custom_resource;
use crate::path::FieldPath;

/// On a `ComputeDomain`, as an annotation or as a label: the name of the `DomainPolicy` in its namespace. The
/// annotation counts where both are there.
pub const POLICY_ANNOTATION: &str = "tessera-dra.github.io/policy";

/// The `DomainPolicy` of domains that name none, in namespaces that have one of this name.
pub const DEFAULT_POLICY: &str = "default";

/// Largest least number of nodes: more than any cluster has.
const MOST_NODES: u32 = 1_000_000;

/// Most nodes of a segment or of spares: those of the largest clique by far.
const MOST_OF_A_CLIQUE: u32 = 1024;

/// Longest time in a policy, in seconds: a day.
const LONGEST: u32 = 86_400;

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
    /// The least number of nodes with which a domain can run, if that is less than its `numNodes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_nodes: Option<u32>,
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
    /// Whether this one may be ended for domains of higher priority; without it, it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemptible: Option<bool>,
}

impl DomainPolicySpec {
    const FIELDS: &'static [&'static str] = &[
        "minNodes",
        "cliquePolicy",
        "segmentNodes",
        "topology",
        "capacityTypes",
        "spareNodes",
        "bindTimeoutSeconds",
        "replacement",
        "preempts",
        "preemptible",
    ];

    /// Decodes what stands in the field `spec` of a policy. Strictly: the API server has checked what it stores
    /// against a definition that may be of another version.
    pub fn decode(spec: &Document) -> Result<Self, ConfigError> {
        let at = FieldPath::parameters("spec");
        let fields = Fields::of(at, spec)?.only(Self::FIELDS)?;
        let nodes = |name: &str, what, least, most| {
            let field = fields.get(name);
            field
                .map(|field| field.whole(what, least, most))
                .transpose()
        };
        let flag = |name: &str| fields.get(name).map(|field| field.boolean()).transpose();
        let clique_policy = fields
            .get("cliquePolicy")
            .map(|field| field.one_of("clique policy", &CliquePolicy::ALL, CliquePolicy::as_str));
        let capacity_types = match fields.get("capacityTypes") {
            None => Vec::new(),
            Some(list) => {
                let one = |field: Field<'_>| {
                    field.one_of("capacity type", &CapacityType::ALL, CapacityType::as_str)
                };
                list.list()?.map(one).collect::<Result<_, _>>()?
            }
        };
        Ok(Self {
            min_nodes: nodes("minNodes", "the least number of nodes", 1, MOST_NODES)?,
            clique_policy: clique_policy.transpose()?.unwrap_or_default(),
            segment_nodes: nodes("segmentNodes", "a segment", 1, MOST_OF_A_CLIQUE)?,
            topology: fields.get("topology").map(Topology::decode).transpose()?,
            capacity_types,
            spare_nodes: nodes("spareNodes", "the number of spares", 0, MOST_OF_A_CLIQUE)?,
            bind_timeout_seconds: nodes("bindTimeoutSeconds", "the time", 1, LONGEST)?,
            replacement: fields
                .get("replacement")
                .map(Replacement::decode)
                .transpose()?,
            preempts: flag("preempts")?,
            preemptible: flag("preemptible")?,
        })
    }
}

impl CliquePolicy {
    const ALL: [Self; 3] = [Self::Required, Self::Preferred, Self::Spread];

    /// The name that users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "Required",
            Self::Preferred => "Preferred",
            Self::Spread => "Spread",
        }
    }
}

impl CapacityType {
    const ALL: [Self; 5] = [
        Self::Reserved,
        Self::CapacityBlock,
        Self::OnDemand,
        Self::Spot,
        Self::Unknown,
    ];

    /// The name that users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "Reserved",
            Self::CapacityBlock => "CapacityBlock",
            Self::OnDemand => "OnDemand",
            Self::Spot => "Spot",
            Self::Unknown => "Unknown",
        }
    }
}

impl Topology {
    fn decode(field: Field<'_>) -> Result<Self, ConfigError> {
        let fields = field.fields()?.only(&["requiredLevel", "preferredLevel"])?;
        let level = |name: &str| -> Result<Option<String>, ConfigError> {
            let field = fields.get(name);
            let text = field.map(|field| field.text()).transpose()?;
            Ok(text.map(str::to_owned))
        };
        Ok(Self {
            required_level: level("requiredLevel")?,
            preferred_level: level("preferredLevel")?,
        })
    }
}

impl Replacement {
    fn decode(field: Field<'_>) -> Result<Self, ConfigError> {
        let known = &["shrink", "migrate", "timeoutSeconds"];
        let fields = field.fields()?.only(known)?;
        let flag = |name: &str| fields.get(name).map(|field| field.boolean()).transpose();
        let timeout = fields.get("timeoutSeconds");
        Ok(Self {
            shrink: flag("shrink")?,
            migrate: flag("migrate")?,
            timeout_seconds: timeout
                .map(|field| field.whole("the time", 0, LONGEST))
                .transpose()?,
        })
    }
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
    /// How many compute domains have this policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domains: Option<u32>,
    /// The `metadata.generation` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn decode(spec: &Value) -> Result<DomainPolicySpec, ConfigError> {
        DomainPolicySpec::decode(&Document::from(spec))
    }

    #[test]
    fn what_is_decoded_is_what_is_encoded() {
        let spec = json!({
            "minNodes": 2, "cliquePolicy": "Preferred", "segmentNodes": 8,
            "topology": {"requiredLevel": "a", "preferredLevel": "b"},
            "capacityTypes": ["Reserved", "Spot"], "spareNodes": 1, "bindTimeoutSeconds": 60,
            "replacement": {"shrink": false, "migrate": true, "timeoutSeconds": 0}, "preempts": true,
            "preemptible": false,
        });
        let decoded = decode(&spec).unwrap();
        assert_eq!(serde_json::to_value(&decoded).unwrap(), spec);
        assert_eq!(
            serde_json::from_value::<DomainPolicySpec>(spec).unwrap(),
            decoded
        );
        assert_eq!(decode(&json!({})).unwrap(), DomainPolicySpec::default());
    }

    #[test]
    fn what_is_wrong_is_told_with_field_value_and_remedy() {
        for (spec, words) in [
            (
                json!({"cliquePolicy": "Sometimes"}),
                ["spec.cliquePolicy", "Sometimes", "Required"],
            ),
            (
                json!({"capacityTypes": ["Spot", "Gift"]}),
                ["spec.capacityTypes[1]", "Gift", "Reserved"],
            ),
            (
                json!({"capacityTypes": "Spot"}),
                ["spec.capacityTypes", "a list", "Spot"],
            ),
            (
                json!({"segmentNodes": 0}),
                ["spec.segmentNodes", "0", "from 1 to 1024"],
            ),
            (
                json!({"minNodes": -1}),
                ["spec.minNodes", "-1", "from 1 to"],
            ),
            (
                json!({"topology": {"requiredLevel": 3}}),
                ["spec.topology.requiredLevel", "3", "a string"],
            ),
            (
                json!({"replacement": {"moves": true}}),
                ["spec.replacement.moves", "unknown field", "migrate"],
            ),
            (
                json!({"spares": 1}),
                ["spec.spares", "unknown field", "spareNodes"],
            ),
            (json!([]), ["spec", "a list", "an object"]),
        ] {
            let told = decode(&spec).unwrap_err().to_string();
            for word in words {
                assert!(told.contains(word), "{told}: {word}");
            }
        }
    }
}
