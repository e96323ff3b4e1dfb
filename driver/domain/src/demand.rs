//! What the pods of a domain ask of each node.

use std::num::NonZeroU32;

use k8s_openapi::api::core::v1::{
    Affinity, NodeSelectorRequirement, NodeSelectorTerm, Toleration as PodToleration,
};
use tessera_api::ComputeDomain;
use tessera_gang::Eligibility;
use tessera_gang::eligibility::{Key, Operator, Requirement, Term, Toleration};
use tessera_gang::node::TaintEffect;

use crate::facts::{ObjectName, PodFacts};
use crate::world::World;

/// What each node of a gang must have for its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// GPUs of a node.
    pub(crate) gpus_per_node: u32,
    /// Where the pods may go.
    pub(crate) eligibility: Eligibility,
    /// The highest priority among them.
    pub(crate) priority: i32,
}

/// A pod whose claims are not made yet, so that nobody knows how many GPUs it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    pub(crate) pod: ObjectName,
}

/// What the pods of `domain` want of each of its `nodes`. Pods of a gang are alike: where one may go, all
/// may, and each gets as many GPUs as the one that wants most.
///
/// `largest` is the number of GPUs of the largest node, for pods that want all that there are.
pub(crate) fn wanted(
    world: &World,
    domain: &ComputeDomain,
    nodes: NonZeroU32,
    largest: u32,
) -> Result<Option<Wanted>, Unknown> {
    let mut wanted: Option<Wanted> = None;
    let (mut pods, mut most) = (0_u32, 0);
    for pod in world.pods_of(domain) {
        pods = pods.saturating_add(1);
        most = most.max(gpus(world, domain, pod, largest)?);
        let priority = pod.priority;
        let first = wanted.get_or_insert_with(|| Wanted {
            gpus_per_node: 0,
            eligibility: eligibility(pod),
            priority,
        });
        first.priority = first.priority.max(priority);
    }
    let pods_per_node = pods.div_ceil(nodes.get());
    Ok(wanted.map(|wanted| Wanted {
        gpus_per_node: most.saturating_mul(pods_per_node),
        ..wanted
    }))
}

fn gpus(
    world: &World,
    domain: &ComputeDomain,
    pod: &PodFacts,
    largest: u32,
) -> Result<u32, Unknown> {
    let own = &domain.spec.channel.resource_claim_template.name;
    let unknown = || Unknown {
        pod: pod.name.clone(),
    };
    if pod.awaited.iter().any(|template| template != own) {
        return Err(unknown());
    }
    let others = pod
        .claims
        .iter()
        .filter(|(_, template)| template.as_ref() != Some(own));
    others
        .map(|(claim, _)| claim)
        .try_fold(pod.gpus, |sum, claim| {
            let claim = ObjectName::new(&pod.name.namespace, claim);
            let asks = world.claim(&claim).ok_or_else(unknown)?.asks;
            let gpus = if asks.all { largest } else { asks.gpus };
            Ok(sum.saturating_add(gpus))
        })
}

/// Where a pod may go, as far as its node selector, required affinity and tolerations say.
fn eligibility(pod: &PodFacts) -> Eligibility {
    let terms = pod
        .affinity
        .as_ref()
        .and_then(required)
        .into_iter()
        .flatten()
        .map(term)
        .collect();
    Eligibility {
        labels: pod.node_selector.clone(),
        terms,
        tolerations: pod.tolerations.iter().map(toleration).collect(),
    }
}

fn required(affinity: &Affinity) -> Option<&[NodeSelectorTerm]> {
    let node = affinity.node_affinity.as_ref()?;
    let required = node
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    Some(&required.node_selector_terms)
}

fn term(term: &NodeSelectorTerm) -> Term {
    let labels = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let labels = labels.map(|wanted| requirement(Key::Label(wanted.key.clone()), wanted));
    let fields = fields.map(|wanted| requirement(Key::Name, wanted));
    Term(labels.chain(fields).collect())
}

fn requirement(key: Key, wanted: &NodeSelectorRequirement) -> Requirement {
    let values = wanted.values.clone().unwrap_or_default();
    let number = || values.first().and_then(|value| value.parse().ok());
    // The API server takes no other operators, and whole numbers alone.
    let operator = match wanted.operator.as_str() {
        "In" => Operator::In(values),
        "NotIn" => Operator::NotIn(values),
        "Exists" => Operator::Exists,
        "Gt" => Operator::Gt(number().unwrap_or(i64::MAX)),
        "Lt" => Operator::Lt(number().unwrap_or(i64::MIN)),
        _ => Operator::DoesNotExist,
    };
    Requirement { key, operator }
}

fn toleration(toleration: &PodToleration) -> Toleration {
    let exists = toleration.operator.as_deref() == Some("Exists");
    Toleration {
        key: toleration.key.clone().filter(|key| !key.is_empty()),
        value: (!exists).then(|| toleration.value.clone().unwrap_or_default()),
        effect: toleration.effect.as_deref().and_then(effect),
    }
}

/// The effect of a taint or toleration; none for any.
pub(crate) fn effect(text: &str) -> Option<TaintEffect> {
    Some(match text {
        "NoSchedule" => TaintEffect::NoSchedule,
        "PreferNoSchedule" => TaintEffect::PreferNoSchedule,
        "NoExecute" => TaintEffect::NoExecute,
        _ => return None,
    })
}
