//! The status of a domain: its situation as Kubernetes' conventions have it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use tessera_api::{ComputeDomain, ComputeDomainNode, ComputeDomainStatus, Readiness};

use crate::situation::{Said, Situation};

/// The condition that is all others in one.
pub const READY: &str = "Ready";

/// The condition that says whether it has nodes.
const PLACED: &str = "Placed";

/// The condition that says whether pods of the domain are there.
pub const IN_USE: &str = "InUse";

/// The status of `domain`, if it is not the one that is stored. Times of conditions that still hold stay.
pub(crate) fn status(
    domain: &ComputeDomain,
    situation: &Situation,
    in_use: bool,
    nodes: Vec<ComputeDomainNode>,
    now: Timestamp,
) -> Option<ComputeDomainStatus> {
    let used = if in_use {
        said(true, "Pods", "pods name its template or hold a slot")
    } else {
        said(false, "NoPods", "no pod names its template or holds a slot")
    };
    let ready = situation.ready();
    let said = [
        (READY, ready.clone()),
        (PLACED, situation.placed()),
        ("Reserved", situation.reserved()),
        ("FabricReady", situation.fabric()),
        (IN_USE, used),
    ];
    let stored = domain.status.as_ref();
    let conditions = said
        .into_iter()
        .map(|(kind, said)| {
            let before = stored.and_then(|status| condition(status, kind));
            renewed(kind, said, before, domain.metadata.generation, now)
        })
        .collect();
    let status = ComputeDomainStatus {
        status: Readiness::when(ready.holds),
        nodes,
        conditions,
        observed_generation: domain.metadata.generation,
    };
    (stored != Some(&status)).then_some(status)
}

fn said(holds: bool, reason: &'static str, message: &str) -> Said {
    Said {
        holds,
        reason,
        message: message.to_owned(),
    }
}

/// How long a domain has been without nodes while its pods are there: as the stored status says, or from now on.
pub(crate) fn waiting(domain: &ComputeDomain, now: Timestamp) -> Duration {
    let since = |kind: &str, status: &str| {
        let condition = condition(domain.status.as_ref()?, kind)?;
        (condition.status == status).then_some(condition.last_transition_time.0)
    };
    let began = since(PLACED, "False").zip(since(IN_USE, "True"));
    let began = began.map_or(now, |(placed, in_use)| placed.max(in_use));
    Duration::try_from(now.duration_since(began)).unwrap_or_default()
}

/// The condition of a kind.
pub(crate) fn condition<'a>(status: &'a ComputeDomainStatus, kind: &str) -> Option<&'a Condition> {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind)
}

pub(crate) fn renewed(
    kind: &str,
    said: Said,
    before: Option<&Condition>,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let status = if said.holds { "True" } else { "False" };
    let since = before.filter(|before| before.status == status);
    Condition {
        last_transition_time: since.map_or_else(
            // The API stores whole seconds, and what is stored is compared with what should be.
            || Time(whole_seconds(now)),
            |since| since.last_transition_time.clone(),
        ),
        message: said.message,
        observed_generation: generation,
        reason: said.reason.to_owned(),
        status: status.to_owned(),
        type_: kind.to_owned(),
    }
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
