//! All that is known of the cluster, as watches tell it.
//!
//! # Guarantees
//! What the API server answered to a write is known at once, and an older state that a watch brings later
//! does not replace it: decisions are never made on less than this process has itself brought about.
//!
//! # Assumptions
//! Resource versions are numbers that grow with each change, as Kubernetes promises since 1.35
//! (KEP-5504) and has had it with etcd at all times. Where one is none, the last that came is taken.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::ResourceSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tessera_api::{ComputeDomain, ConfigError, DomainPolicySpec, NVLinkClique};

use crate::facts::{
    ClaimFacts, FabricFacts, NodeFacts, ObjectName, PodFacts, PodStage, TemplateFacts,
};
use crate::seen::{SeenClaim, SeenNode, SeenPod, SeenPolicy};
use crate::slots::{SliceFacts, Slots};

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

/// Facts of one kind, by name.
#[derive(Clone, Debug)]
struct Shelf<T> {
    facts: BTreeMap<ObjectName, (u64, T)>,
    /// The names that a list has brought so far.
    listing: Option<BTreeSet<ObjectName>>,
    /// Whether a list was once complete.
    listed: bool,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self {
            facts: BTreeMap::new(),
            listing: None,
            listed: false,
        }
    }
}

impl<T> Shelf<T> {
    fn put(&mut self, name: ObjectName, version: u64, fact: Option<T>) {
        if let Some(listing) = &mut self.listing {
            listing.insert(name.clone());
        }
        let newer = self.facts.get(&name).map_or(0, |(version, _)| *version);
        if version != 0 && version < newer {
            return;
        }
        match fact {
            Some(fact) => drop(self.facts.insert(name, (version, fact))),
            None => drop(self.facts.remove(&name)),
        }
    }

    fn end_list(&mut self) {
        if let Some(listing) = self.listing.take() {
            self.facts.retain(|name, _| listing.contains(name));
        }
        self.listed = true;
    }

    fn get(&self, name: &ObjectName) -> Option<&T> {
        self.facts.get(name).map(|(_, fact)| fact)
    }

    fn iter(&self) -> impl Iterator<Item = (&ObjectName, &T)> {
        self.facts.iter().map(|(name, (_, fact))| (name, fact))
    }
}

/// The slots of a domain as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSlots {
    /// The slots, with their whole number.
    pub slots: Slots,
    /// Generation of their pool.
    pub generation: i64,
    /// The names of their slices.
    pub slices: Vec<String>,
}

/// All that is known.
#[derive(Clone, Debug, Default)]
pub struct World {
    domains: Shelf<ComputeDomain>,
    templates: Shelf<TemplateFacts>,
    slices: Shelf<SliceFacts>,
    nodes: Shelf<NodeFacts>,
    pods: Shelf<PodFacts>,
    claims: Shelf<ClaimFacts>,
    cliques: Shelf<NVLinkClique>,
    policies: Shelf<Result<DomainPolicySpec, ConfigError>>,
}

macro_rules! on_shelf {
    ($world:expr, $kind:expr, $shelf:ident => $do:expr) => {
        match $kind {
            Kind::Domain => {
                let $shelf = &mut $world.domains;
                $do
            }
            Kind::Template => {
                let $shelf = &mut $world.templates;
                $do
            }
            Kind::Slice => {
                let $shelf = &mut $world.slices;
                $do
            }
            Kind::Node => {
                let $shelf = &mut $world.nodes;
                $do
            }
            Kind::Pod => {
                let $shelf = &mut $world.pods;
                $do
            }
            Kind::Claim => {
                let $shelf = &mut $world.claims;
                $do
            }
            Kind::Clique => {
                let $shelf = &mut $world.cliques;
                $do
            }
            Kind::Policy => {
                let $shelf = &mut $world.policies;
                $do
            }
        }
    };
}

impl World {
    /// An object is there, or is not as it was.
    pub fn apply(&mut self, object: Object) {
        match object {
            Object::Domain(mut domain) => {
                domain.metadata.managed_fields = None;
                let (name, version) = identity(&domain.metadata);
                self.domains.put(name, version, Some(*domain));
            }
            Object::Template(metadata) => {
                let (name, version) = identity(&metadata);
                let facts = TemplateFacts::of(*metadata);
                self.templates.put(name, version, Some(facts));
            }
            Object::Slice(slice) => {
                let (name, version) = identity(&slice.metadata);
                self.slices.put(name, version, SliceFacts::of(&slice));
            }
            Object::Node(node) => {
                let (name, version) = identity(&node.metadata);
                self.nodes.put(name, version, Some(NodeFacts::of(*node)));
            }
            Object::Pod(pod) => {
                let (name, version) = identity(&pod.metadata);
                self.pods.put(name, version, PodFacts::of(*pod));
            }
            Object::Claim(claim) => {
                let (name, version) = identity(&claim.metadata);
                self.claims.put(name, version, Some(ClaimFacts::of(*claim)));
            }
            Object::Clique(mut clique) => {
                clique.metadata.managed_fields = None;
                let (name, version) = identity(&clique.metadata);
                self.cliques.put(name, version, Some(*clique));
            }
            Object::Policy(policy) => {
                let (name, version) = identity(&policy.metadata);
                let spec = DomainPolicySpec::decode(&policy.spec);
                self.policies.put(name, version, Some(spec));
            }
        }
    }

    /// An object is gone.
    pub fn remove(&mut self, kind: Kind, name: &ObjectName) {
        on_shelf!(self, kind, shelf => drop(shelf.facts.remove(name)));
    }

    /// A list of everything of a kind begins.
    pub fn begin_list(&mut self, kind: Kind) {
        on_shelf!(self, kind, shelf => shelf.listing = Some(BTreeSet::new()));
    }

    /// The list is complete: what it did not have is gone.
    pub fn end_list(&mut self, kind: Kind) {
        on_shelf!(self, kind, shelf => shelf.end_list());
    }

    /// Whether every kind was listed once. Before, nothing may be decided: what is not known would be
    /// taken for gone.
    pub fn is_complete(&self) -> bool {
        self.domains.listed
            && self.templates.listed
            && self.slices.listed
            && self.nodes.listed
            && self.pods.listed
            && self.claims.listed
            && self.cliques.listed
            && self.policies.listed
    }

    /// Every domain.
    pub fn domains(&self) -> impl Iterator<Item = &ComputeDomain> {
        self.domains.iter().map(|(_, domain)| domain)
    }

    /// The template of a name.
    pub fn template(&self, name: &ObjectName) -> Option<&TemplateFacts> {
        self.templates.get(name)
    }

    /// Every node.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeFacts> {
        self.nodes.iter().map(|(_, node)| node)
    }

    /// The node of a name.
    pub fn node(&self, name: &str) -> Option<&NodeFacts> {
        self.nodes.get(&ObjectName::new("", name))
    }

    /// The node that a slice's node selector names so.
    pub fn node_by_hostname(&self, hostname: &str) -> Option<&NodeFacts> {
        // It is the node's name nearly everywhere.
        let same = |node: &&NodeFacts| node.hostname() == Some(hostname);
        self.node(hostname)
            .filter(same)
            .or_else(|| self.nodes().find(same))
    }

    /// What each node's slice says, by node.
    pub fn fabric(&self) -> BTreeMap<&str, &FabricFacts> {
        let slices = self.slices.iter().filter_map(|(_, slice)| match slice {
            SliceFacts::Node { node, fabric } => Some((node.as_str(), fabric.as_ref()?)),
            SliceFacts::Slots { .. } => None,
        });
        slices.collect()
    }

    /// The slots of every domain that has some, by the domain's UID. Of a pool's slices those of the
    /// highest generation count, as for the scheduler.
    pub fn slots(&self) -> BTreeMap<&str, StoredSlots> {
        let mut all: BTreeMap<&str, StoredSlots> = BTreeMap::new();
        for (name, slice) in self.slices.iter() {
            let SliceFacts::Slots { slots, generation } = slice else {
                continue;
            };
            let new = || StoredSlots {
                slots: slots.clone(),
                generation: *generation,
                slices: Vec::new(),
            };
            match all.get_mut(slots.domain.as_str()) {
                None => drop(all.insert(&slots.domain, new())),
                Some(stored) if stored.generation < *generation => {
                    let slices = std::mem::take(&mut stored.slices);
                    *stored = new();
                    stored.slices = slices;
                }
                Some(stored) if stored.generation == *generation => {
                    stored.slots.count = stored.slots.count.saturating_add(slots.count);
                }
                Some(_) => {}
            }
            if let Some(stored) = all.get_mut(slots.domain.as_str()) {
                stored.slices.push(name.name.clone());
            }
        }
        all
    }

    /// Every pod that matters.
    pub fn pods(&self) -> impl Iterator<Item = &PodFacts> {
        self.pods.iter().map(|(_, pod)| pod)
    }

    /// The pods that name a domain's template.
    pub fn pods_of<'a>(&'a self, domain: &'a ComputeDomain) -> impl Iterator<Item = &'a PodFacts> {
        let namespace = domain.metadata.namespace.as_deref().unwrap_or_default();
        let template = &domain.spec.channel.resource_claim_template.name;
        self.pods()
            .filter(move |pod| pod.name.namespace == namespace && pod.templates.contains(template))
    }

    /// Every claim that matters.
    pub fn claims(&self) -> impl Iterator<Item = &ClaimFacts> {
        self.claims.iter().map(|(_, claim)| claim)
    }

    /// The claim of a name.
    pub fn claim(&self, name: &ObjectName) -> Option<&ClaimFacts> {
        self.claims.get(name)
    }

    /// Every clique.
    pub fn cliques(&self) -> impl Iterator<Item = &NVLinkClique> {
        self.cliques.iter().map(|(_, clique)| clique)
    }

    /// The clique of a name.
    pub fn clique(&self, name: &ObjectName) -> Option<&NVLinkClique> {
        self.cliques.get(name)
    }

    /// What the policy of a name says, or what is wrong with it.
    pub fn policy(&self, name: &ObjectName) -> Option<&Result<DomainPolicySpec, ConfigError>> {
        self.policies.get(name)
    }

    /// The pods that hold a slot of each domain, by the domain's UID.
    pub fn users(&self) -> BTreeMap<&str, Vec<String>> {
        let mut users: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for claim in self.claims() {
            for slot in &claim.slots {
                let Some(domain) = crate::keys::domain_of_pool(&slot.pool) else {
                    continue;
                };
                let of = users.entry(domain).or_default();
                if claim.users.is_empty() {
                    // Allocated and used by nobody: about to be used, or about to be let go.
                    of.push(claim.name.to_string());
                }
                of.extend(claim.users.iter().cloned());
            }
        }
        users
    }

    /// How many pods of a domain wait for a node, and how many have one.
    pub fn stages(&self, domain: &ComputeDomain) -> (usize, usize) {
        self.pods_of(domain)
            .fold((0, 0), |(pending, bound), pod| match pod.stage {
                PodStage::Pending => (pending + 1, bound),
                PodStage::Bound => (pending, bound + 1),
            })
    }
}

fn identity(metadata: &ObjectMeta) -> (ObjectName, u64) {
    let version = metadata.resource_version.as_deref();
    let version = version.and_then(|version| version.parse().ok());
    (ObjectName::of(metadata), version.unwrap_or(0))
}
