//! What users are told about a domain as events.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use tessera_api::{API_VERSION, ComputeDomain};

use crate::facts::{ObjectName, PodFacts};
use crate::situation::{SESSION_STARTING, Situation};
use crate::status::{READY, condition};
use crate::world::World;

/// Longest note of an event in bytes (`NoteLengthLimit` in `pkg/apis/core/validation/events.go`).
const LONGEST_NOTE: usize = 1024;

/// Workloads that are told beside the domain: its pods are those of one workload, or of few.
const WORKLOADS_TOLD: usize = 4;

/// An object that an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct About {
    /// Its API version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: ObjectName,
    /// Its UID.
    pub uid: String,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What it is about.
    pub about: About,
    /// Whether somebody should do something.
    pub warning: bool,
    /// The reason.
    pub reason: &'static str,
    /// The sentence.
    pub note: String,
}

/// What is to be told now that the domain stands so: nothing, unless its reason is another than before.
pub(crate) fn notices(world: &World, domain: &ComputeDomain, situation: &Situation) -> Vec<Notice> {
    let before = domain
        .status
        .as_ref()
        .and_then(|status| condition(status, READY));
    let ready = situation.ready();
    let told = before.is_some_and(|before| before.reason == ready.reason);
    let warning = match situation {
        Situation::TemplateNameTaken { .. }
        | Situation::TemplateNotOurs { .. }
        | Situation::NotPlaced(_)
        | Situation::Preempted { .. }
        | Situation::InUse { .. } => true,
        Situation::Preempting(preempting) => preempting.kept.is_some(),
        // Each domain with a session of its own begins so.
        Situation::Placed(_) if ready.reason == SESSION_STARTING => {
            before.is_some_and(|before| before.status == "True")
        }
        Situation::Placed(_) => !ready.holds,
        Situation::AwaitingPods { .. } | Situation::AwaitingClaims { .. } | Situation::Ending => {
            return Vec::new();
        }
    };
    if told {
        return Vec::new();
    }
    let notice = |about| Notice {
        about,
        warning,
        reason: ready.reason,
        note: bounded(&ready.message),
    };
    let mut all = vec![notice(of_domain(domain))];
    if warning {
        all.extend(workloads(world, domain).into_iter().map(notice));
    }
    all
}

fn of_domain(domain: &ComputeDomain) -> About {
    About {
        api_version: API_VERSION.to_owned(),
        kind: "ComputeDomain".to_owned(),
        name: ObjectName::of(&domain.metadata),
        uid: domain.metadata.uid.clone().unwrap_or_default(),
    }
}

/// The owners of the domain's pods; of a pod without an owner, the pod.
fn workloads(world: &World, domain: &ComputeDomain) -> Vec<About> {
    let mut all: Vec<About> = world
        .pods_of(domain)
        .map(|pod| {
            pod.owner
                .as_ref()
                .map_or_else(|| of_pod(pod), |owner| of_owner(pod, owner))
        })
        .collect();
    all.sort();
    all.dedup();
    all.truncate(WORKLOADS_TOLD);
    all
}

fn of_pod(pod: &PodFacts) -> About {
    About {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
    }
}

fn of_owner(pod: &PodFacts, owner: &OwnerReference) -> About {
    About {
        api_version: owner.api_version.clone(),
        kind: owner.kind.clone(),
        name: ObjectName::new(&pod.name.namespace, &owner.name),
        uid: owner.uid.clone(),
    }
}

fn bounded(text: &str) -> String {
    let text = text.replace(char::is_control, " ");
    text[..text.floor_char_boundary(LONGEST_NOTE)].to_owned()
}
