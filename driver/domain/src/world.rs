//! All that is known of the cluster, as watches tell it.
//!
//! # Guarantees
//! What the API server answered to a write is known at once, and an older state that a watch brings later
//! does not replace it: decisions are never made on less than this process has itself brought about.
//!
//! # Assumptions
//! Resource versions are numbers that grow with each change, as Kubernetes promises since 1.35
//! (KEP-5504) and has had it with etcd at all times. Where one is none, the last that came is taken.

mod held;
mod hostnames;
mod index;
mod object;
mod shelf;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tessera_api::{ComputeDomain, ConfigError, DomainPolicySpec, NVLinkClique, SessionsOf};

pub use self::held::StoredSlots;
use self::hostnames::Hostnames;
use self::index::Index;
pub use self::object::{Kind, Object};
use self::shelf::Shelf;
use crate::facts::{
    ClaimFacts, FabricFacts, NodeFacts, ObjectName, PodFacts, PodStage, PolicyFacts, TemplateFacts,
};
use crate::place::template_name;
use crate::slots::SliceFacts;

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
    policies: Shelf<PolicyFacts>,
    hostnames: Hostnames,
    index: Index,
    /// Pods that a `PodDisruptionBudget` keeps, with what the API server said.
    budgets: BTreeMap<ObjectName, String>,
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
                self.change_domains(&name.clone(), |domains| {
                    domains.put(name, version, Some(*domain));
                });
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
                self.change_nodes(&name.clone(), |nodes| {
                    nodes.put(name, version, Some(NodeFacts::of(*node)));
                });
            }
            Object::Pod(pod) => {
                let (name, version) = identity(&pod.metadata);
                self.change_pods(&name.clone(), |pods| {
                    pods.put(name, version, PodFacts::of(*pod));
                });
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
                let facts = PolicyFacts::of(*policy);
                self.policies.put(name, version, Some(facts));
            }
        }
    }

    /// The version of an object that is known.
    pub fn version(&mut self, kind: Kind, name: &ObjectName) -> Option<u64> {
        on_shelf!(self, kind, shelf => shelf.facts.get(name).map(|(version, _)| *version))
    }

    /// An object is gone.
    pub fn remove(&mut self, kind: Kind, name: &ObjectName) {
        match kind {
            Kind::Node => self.change_nodes(name, |nodes| drop(nodes.facts.remove(name))),
            Kind::Domain => self.change_domains(name, |domains| drop(domains.facts.remove(name))),
            Kind::Pod => {
                self.budgets.remove(name);
                self.change_pods(name, |pods| drop(pods.facts.remove(name)));
            }
            _ => {}
        }
        on_shelf!(self, kind, shelf => drop(shelf.facts.remove(name)));
    }

    /// Changes what is known of a node, and by which label it is found.
    fn change_nodes(&mut self, name: &ObjectName, change: impl FnOnce(&mut Shelf<NodeFacts>)) {
        let label = |nodes: &Shelf<NodeFacts>| {
            let hostname = nodes.get(name).and_then(NodeFacts::hostname);
            hostname.map(str::to_owned)
        };
        let before = label(&self.nodes);
        change(&mut self.nodes);
        let now = label(&self.nodes);
        self.hostnames
            .change(&name.name, before.as_deref(), now.as_deref());
    }

    /// Changes what is known of a pod, and by which templates it is found.
    fn change_pods(&mut self, name: &ObjectName, change: impl FnOnce(&mut Shelf<PodFacts>)) {
        let templates = |pods: &Shelf<PodFacts>| {
            let pod = pods.get(name);
            pod.map(|pod| pod.templates.clone()).unwrap_or_default()
        };
        let before = templates(&self.pods);
        change(&mut self.pods);
        let now = templates(&self.pods);
        self.index.change_pod(name, &before, &now);
    }

    /// Changes what is known of a domain, and by which UID it is found.
    fn change_domains(
        &mut self,
        name: &ObjectName,
        change: impl FnOnce(&mut Shelf<ComputeDomain>),
    ) {
        let uid = |domains: &Shelf<ComputeDomain>| domains.get(name)?.metadata.uid.clone();
        let before = uid(&self.domains);
        change(&mut self.domains);
        let now = uid(&self.domains);
        self.index.change_domain(name, before, now);
    }

    /// The API server has begun to end a pod, as it was asked to.
    pub fn evicted(&mut self, pod: &ObjectName) {
        self.budgets.remove(pod);
        if let Some((_, facts)) = self.pods.facts.get_mut(pod) {
            facts.ending = true;
        }
    }

    /// The API server does not end a pod, for the sake of a `PodDisruptionBudget`.
    pub fn kept_by_budget(&mut self, pod: &ObjectName, why: String) {
        self.budgets.insert(pod.clone(), why);
    }

    /// What the API server said when it did not end a pod for the sake of a `PodDisruptionBudget`.
    pub fn budget(&self, pod: &ObjectName) -> Option<&str> {
        self.budgets.get(pod).map(String::as_str)
    }

    /// A list of everything of a kind begins.
    pub fn begin_list(&mut self, kind: Kind) {
        on_shelf!(self, kind, shelf => shelf.listing = Some(BTreeSet::new()));
    }

    /// The list is complete: what it did not have is gone.
    pub fn end_list(&mut self, kind: Kind) {
        on_shelf!(self, kind, shelf => shelf.end_list());
        match kind {
            Kind::Node => {
                self.hostnames = Hostnames::default();
                for (name, (_, node)) in &self.nodes.facts {
                    self.hostnames.change(&name.name, None, node.hostname());
                }
            }
            Kind::Domain => self.index.list_domains(&self.domains),
            Kind::Pod => {
                let pods = &self.pods;
                self.index.list_pods(pods);
                self.budgets.retain(|pod, _| pods.get(pod).is_some());
            }
            _ => {}
        }
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

    /// The domain of a UID.
    pub fn domain_of_uid(&self, uid: &str) -> Option<&ComputeDomain> {
        self.domains.get(self.index.domain(uid)?)
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
            .or_else(|| self.node(self.hostnames.node(hostname)?))
    }

    /// What each node's slice says, by node.
    pub fn fabric(&self) -> BTreeMap<&str, &FabricFacts> {
        let slices = self.slices.iter().filter_map(|(_, slice)| match slice {
            SliceFacts::Node { node, fabric } => Some((node.as_str(), fabric.as_ref()?)),
            SliceFacts::Slots { .. } => None,
        });
        slices.collect()
    }

    /// Every pod that matters.
    pub fn pods(&self) -> impl Iterator<Item = &PodFacts> {
        self.pods.iter().map(|(_, pod)| pod)
    }

    /// The pods that name a domain's template.
    pub fn pods_of<'a>(&'a self, domain: &'a ComputeDomain) -> impl Iterator<Item = &'a PodFacts> {
        let named = self.index.pods(&template_name(domain));
        named.filter_map(|pod| self.pods.get(pod))
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

    /// Whose sessions the controller keeps, as its cliques tell.
    pub fn sessions_of(&self) -> SessionsOf {
        let mut cliques = self.cliques();
        let apart = cliques.any(|clique| clique.spec.sessions_of == SessionsOf::Domain);
        if apart {
            SessionsOf::Domain
        } else {
            SessionsOf::Clique
        }
    }

    /// The clique of a name.
    pub fn clique(&self, name: &ObjectName) -> Option<&NVLinkClique> {
        self.cliques.get(name)
    }

    /// What the policy of a name says, or what is wrong with it.
    pub fn policy(&self, name: &ObjectName) -> Option<&Result<DomainPolicySpec, ConfigError>> {
        self.policies.get(name).map(|policy| &policy.spec)
    }

    /// Every policy.
    pub fn policies(&self) -> impl Iterator<Item = (&ObjectName, &PolicyFacts)> {
        self.policies.iter()
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
