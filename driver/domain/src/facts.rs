//! The facts that decisions are made from, each parsed once from an object.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Affinity, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use tessera_api::{ConfigError, DomainPolicySpec, DomainPolicyStatus};
use tessera_device::quantity;

use crate::keys;
use crate::seen::{
    SeenClaim, SeenContainer, SeenExactly, SeenNode, SeenPod, SeenPolicy, SeenRequest,
};

/// Namespace and name of an object; the namespace of cluster-wide ones is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectName {
    /// Of an object's metadata.
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }

    /// In a namespace.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// How far a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodStage {
    /// No node has it yet.
    Pending,
    /// A node has it.
    Bound,
}

/// What is known of a pod that names a template of claims, asks for GPUs or hosts a session, and has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct PodFacts {
    /// Its name.
    pub name: ObjectName,
    /// Its UID.
    pub uid: String,
    /// How far it is.
    pub stage: PodStage,
    /// Whether it is being ended: its containers have their grace period, or less.
    pub ending: bool,
    /// Its node.
    pub node: Option<String>,
    /// The templates that it names.
    pub templates: BTreeSet<String>,
    /// Those of them whose claim is not made yet.
    pub awaited: BTreeSet<String>,
    /// The claims that it has, each with the template that it was made from; but for the one that stands
    /// for its limits.
    pub claims: Vec<(String, Option<String>)>,
    /// GPUs that it asks for by limits.
    pub gpus: u32,
    /// Whether a claim was made for these limits: then that claim says which GPUs they are.
    pub limits_have_claim: bool,
    /// Labels that its node must have.
    pub node_selector: BTreeMap<String, String>,
    /// What else its node must be.
    pub affinity: Option<Affinity>,
    /// The taints that it bears.
    pub tolerations: Vec<Toleration>,
    /// The value of its priority class.
    pub priority: i32,
    /// Whether its priority class says that nobody is ended for it (`preemptionPolicy: Never`).
    pub never_preempts: bool,
    /// Whose pod it is.
    pub owner: Option<OwnerReference>,
    /// What is known of it as a session host, if it is one.
    pub session_host: Option<SessionHost>,
}

/// What is known of a pod that a DaemonSet has as a session host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionHost {
    /// Its label [`keys::DOMAIN_LABEL`].
    pub domain: Option<String>,
}

impl PodFacts {
    /// What matters of the pod; none if nothing does.
    pub fn of(pod: SeenPod) -> Option<Self> {
        let name = ObjectName::of(&pod.metadata);
        let (spec, status) = (pod.spec, pod.status);
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let gpus = gpus_by_limits(&spec.containers, &spec.init_containers);
        let made: BTreeMap<&str, &String> = status
            .resource_claim_statuses
            .iter()
            .filter_map(|status| Some((status.name.as_str(), status.resource_claim_name.as_ref()?)))
            .collect();
        let (mut templates, mut awaited) = (BTreeSet::new(), BTreeSet::new());
        let mut claims = Vec::new();
        for claim in spec.resource_claims {
            let template = claim.resource_claim_template_name;
            templates.extend(template.clone());
            let direct = claim.resource_claim_name;
            match direct.or_else(|| made.get(claim.name.as_str()).map(|name| (*name).clone())) {
                Some(name) => claims.push((name, template)),
                None => awaited.extend(template),
            }
        }
        let owners = pod.metadata.owner_references.unwrap_or_default();
        let owner = owners
            .into_iter()
            .find(|owner| owner.controller == Some(true));
        let labels = pod.metadata.labels.unwrap_or_default();
        let hosts = labels.get(keys::COMPONENT_LABEL).map(String::as_str)
            == Some(keys::SESSION_HOST)
            && owner
                .as_ref()
                .is_some_and(|owner| owner.kind == "DaemonSet");
        if templates.is_empty() && gpus == 0 && !hosts {
            return None;
        }
        Some(Self {
            name,
            uid: pod.metadata.uid.unwrap_or_default(),
            ending: pod.metadata.deletion_timestamp.is_some(),
            stage: match spec.node_name {
                Some(_) => PodStage::Bound,
                None => PodStage::Pending,
            },
            node: spec.node_name,
            templates,
            awaited,
            claims,
            gpus,
            limits_have_claim: status
                .extended_resource_claim_status
                .is_some_and(|status| !status.resource_claim_name.is_empty()),
            node_selector: spec.node_selector,
            affinity: spec.affinity,
            tolerations: spec.tolerations,
            priority: spec.priority.unwrap_or(0),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            owner,
            session_host: hosts.then(|| SessionHost {
                domain: labels.get(keys::DOMAIN_LABEL).cloned(),
            }),
        })
    }

    /// Whether the pod may be put on nodes that are held for a domain.
    pub fn tolerates_reservation(&self) -> bool {
        self.tolerations.iter().any(|toleration| {
            let key = toleration.key.as_deref().unwrap_or_default();
            let any_value = toleration.operator.as_deref() == Some("Exists");
            let effect = toleration.effect.as_deref().unwrap_or_default();
            any_value
                && (key == keys::TAINT || key.is_empty())
                && (effect == "NoSchedule" || effect.is_empty())
        })
    }
}

/// GPUs that a pod asks for by limits: init containers run before the others, one after another.
fn gpus_by_limits(containers: &[SeenContainer], init: &[SeenContainer]) -> u32 {
    let gpus = |container: &SeenContainer| {
        let limit = container.resources.limits.get(keys::GPU_RESOURCE);
        limit.map_or(0, |limit| whole(&limit.0))
    };
    let together = containers
        .iter()
        .fold(0_u32, |sum, container| sum.saturating_add(gpus(container)));
    init.iter().map(gpus).fold(together, u32::max)
}

/// The whole units of a quantity; 0 for what is none.
fn whole(quantity: &str) -> u32 {
    let nanos = quantity::nanos(quantity).unwrap_or(0).max(0);
    u32::try_from(nanos / quantity::ONE).unwrap_or(u32::MAX)
}

/// GPUs that a claim asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// How many.
    pub gpus: u32,
    /// All of a node, whatever their number.
    pub all: bool,
}

/// A device that a claim has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldDevice {
    /// Its pool: the node for a GPU, [`keys::pool`] for a slot.
    pub pool: String,
    /// Its name.
    pub device: String,
}

/// What is known of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimFacts {
    /// Its name.
    pub name: ObjectName,
    /// GPUs that it asks for.
    pub asks: Asks,
    /// GPUs that it has.
    pub gpus: Vec<HeldDevice>,
    /// Slots and channels that it has.
    pub slots: Vec<HeldDevice>,
    /// The pods that use it.
    pub users: Vec<String>,
}

impl ClaimFacts {
    /// What matters of the claim. One that concerns neither GPUs nor slots is kept as well, so that it is
    /// told apart from one that is not seen yet.
    pub fn of(claim: SeenClaim) -> Self {
        let asks = claim.spec.devices.requests.iter().filter_map(asked).fold(
            Asks::default(),
            |sum, one| Asks {
                gpus: sum.gpus.saturating_add(one.gpus),
                all: sum.all || one.all,
            },
        );
        let (mut gpus, mut slots) = (Vec::new(), Vec::new());
        let allocation = claim.status.allocation.unwrap_or_default();
        for result in allocation.devices.results {
            let held = HeldDevice {
                pool: result.pool,
                device: result.device,
            };
            match result.driver.as_str() {
                // Whoever only watches takes nothing away from others.
                keys::GPU_DRIVER if result.admin_access != Some(true) => gpus.push(held),
                keys::DRIVER => slots.push(held),
                _ => {}
            }
        }
        Self {
            name: ObjectName::of(&claim.metadata),
            asks,
            gpus,
            slots,
            users: claim
                .status
                .reserved_for
                .into_iter()
                .map(|user| user.name)
                .collect(),
        }
    }
}

/// GPUs that a request asks for; of alternatives the first, which is what its author prefers.
fn asked(request: &SeenRequest) -> Option<Asks> {
    let exactly: &SeenExactly = request
        .exactly
        .as_ref()
        .or_else(|| request.first_available.first())?;
    if exactly.device_class_name != keys::GPU_CLASS || exactly.admin_access == Some(true) {
        return None;
    }
    let all = exactly.allocation_mode.as_deref() == Some("All");
    let count = exactly.count.unwrap_or(1).max(0);
    Some(Asks {
        gpus: if all {
            0
        } else {
            u32::try_from(count).unwrap_or(u32::MAX)
        },
        all,
    })
}

/// What is known of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Whether it is closed to new pods.
    pub unschedulable: bool,
    /// GPUs that the classic device plugin offers on it.
    pub classic_gpus: u32,
}

impl NodeFacts {
    /// What matters of the node.
    pub fn of(node: SeenNode) -> Self {
        let classic = node.status.allocatable.get(keys::GPU_RESOURCE);
        Self {
            name: node.metadata.name.unwrap_or_default(),
            labels: node.metadata.labels.unwrap_or_default(),
            taints: node.spec.taints,
            unschedulable: node.spec.unschedulable,
            classic_gpus: classic.map_or(0, |classic| whole(&classic.0)),
        }
    }

    /// By which a slice's node selector names it.
    pub fn hostname(&self) -> Option<&str> {
        self.labels.get(keys::HOSTNAME_LABEL).map(String::as_str)
    }

    /// The domain for which it is held.
    pub fn held_for(&self) -> Option<&str> {
        let taint = self.taints.iter().find(|taint| taint.key == keys::TAINT)?;
        Some(taint.value.as_deref().unwrap_or_default())
    }
}

/// What is known of a template of claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateFacts {
    /// Its UID.
    pub uid: String,
    /// The UID of the domain that it is of.
    pub domain: Option<String>,
    /// What keeps it.
    pub finalizers: Vec<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
}

impl TemplateFacts {
    /// From the metadata.
    pub fn of(metadata: ObjectMeta) -> Self {
        let labels = metadata.labels.unwrap_or_default();
        Self {
            uid: metadata.uid.unwrap_or_default(),
            domain: labels.get(keys::DOMAIN_LABEL).cloned(),
            finalizers: metadata.finalizers.unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
        }
    }
}

/// What is known of a policy.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyFacts {
    /// What it says, or what is wrong with it.
    pub spec: Result<DomainPolicySpec, ConfigError>,
    /// Which of its versions that is.
    pub generation: Option<i64>,
    /// Its status; none where there is none, or one that cannot be read.
    pub status: Option<DomainPolicyStatus>,
}

impl PolicyFacts {
    /// What matters of the policy.
    pub fn of(policy: SeenPolicy) -> Self {
        Self {
            spec: DomainPolicySpec::decode(&policy.spec),
            generation: policy.metadata.generation,
            status: serde_json::from_value(policy.status).ok(),
        }
    }
}

/// Which channels a node has given to containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldChannels {
    /// These and no others.
    These(BTreeSet<u32>),
    /// More than it could tell.
    Any,
}

impl HeldChannels {
    /// Reads the attribute: numbers with a comma between them.
    pub fn parse(text: &str) -> Self {
        let numbers = text.split(',').filter(|number| !number.is_empty());
        let parsed: Result<BTreeSet<u32>, _> = numbers.map(str::parse).collect();
        parsed.map_or(Self::Any, Self::These)
    }

    /// Whether the node has none.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::These(channels) if channels.is_empty())
    }

    /// Whether the node may still have the channel.
    pub fn may_have(&self, channel: u32) -> bool {
        match self {
            Self::These(channels) => channels.contains(&channel),
            Self::Any => true,
        }
    }
}

/// What a node's own slice says of its NVLink fabric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FabricFacts {
    /// `<cluster UUID>.<clique>`; none without fabric.
    pub clique: Option<String>,
    /// The fabric's state as NVML has it.
    pub state: Option<String>,
    /// How many GPUs the node has.
    pub gpus: Option<u32>,
    /// The channels that containers have.
    pub held: Option<HeldChannels>,
}

impl FabricFacts {
    /// Whether the node is part of no fabric that other nodes are part of, which lasts.
    pub fn is_none_between_nodes(&self) -> bool {
        self.clique.is_none() && self.state.as_deref() == Some("NotSupported")
    }

    /// Whether it is up. A node without fabric shares memory with nobody, and is ready for that.
    pub fn is_ready(&self) -> bool {
        let state = self.state.as_deref();
        let completed = state.is_none_or(|state| state.eq_ignore_ascii_case("completed"));
        self.clique.is_none() || completed
    }
}

/// The time of an object's deletion or creation.
pub(crate) fn time(
    time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
) -> Timestamp {
    time.map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}
