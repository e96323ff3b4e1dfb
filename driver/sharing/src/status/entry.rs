//! The entry of a share in its claim's `status.devices`.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::AllocatedDeviceStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Map, Value, json};
use tessera_device::Bytes;

use super::{Past, ShareStatus};
use crate::standing::Violation;
use crate::tier::Tier;

/// Whether something holds the share to its memory.
const ENFORCED: &str = "Enforced";
/// Whether its container has nearly all that it may have at the moment.
const NEAR_LIMIT: &str = "NearLimit";
/// Whether its container has what it must not have.
const VIOLATION: &str = "Violation";

/// The figures of `data`, in bytes.
pub(super) const SOFT: &str = "softBytes";
pub(super) const HARD: &str = "hardBytes";
pub(super) const USED: &str = "usedBytes";
pub(super) const PEAK: &str = "peakBytes";

/// Which entry is that of a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharePlace {
    /// The driver.
    pub driver: String,
    /// The pool of the device.
    pub pool: String,
    /// The device.
    pub device: String,
    /// Which share of it.
    pub share: Option<String>,
}

impl SharePlace {
    /// The entry of the share among these.
    pub fn find<'e>(
        &self,
        entries: &'e [AllocatedDeviceStatus],
    ) -> Option<&'e AllocatedDeviceStatus> {
        entries.iter().find(|entry| {
            entry.driver == self.driver
                && entry.pool == self.pool
                && entry.device == self.device
                && entry.share_id == self.share
        })
    }
}

impl Past {
    /// What an entry tells of former looks.
    pub fn told(entry: &AllocatedDeviceStatus) -> Self {
        let near = condition(entry, NEAR_LIMIT);
        Self {
            peak: Bytes(figure(entry, PEAK).unwrap_or(0)),
            near_limit: near.is_some_and(|near| near.status == "True"),
        }
    }
}

/// A condition without its time.
struct Said {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: &'static str,
}

/// The entry that says this of the share. Times of conditions that still hold are those of the entry `before`.
pub fn entry(
    place: &SharePlace,
    status: &ShareStatus,
    before: Option<&AllocatedDeviceStatus>,
    now: Timestamp,
) -> AllocatedDeviceStatus {
    let conditions = [enforced(status), near_limit(status), violation(status)];
    let conditions = conditions.map(|said| renewed(&said, before, now));
    AllocatedDeviceStatus {
        conditions: Some(conditions.to_vec()),
        data: figures(status).map(RawExtension),
        device: place.device.clone(),
        driver: place.driver.clone(),
        network_data: None,
        pool: place.pool.clone(),
        share_id: place.share.clone(),
    }
}

fn renewed(said: &Said, before: Option<&AllocatedDeviceStatus>, now: Timestamp) -> Condition {
    let before = before.and_then(|before| condition(before, said.kind));
    let since = before.filter(|before| before.status == said.status);
    Condition {
        last_transition_time: since.map_or_else(
            // The API stores whole seconds.
            || Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
            |since| since.last_transition_time.clone(),
        ),
        message: said.message.to_owned(),
        observed_generation: None,
        reason: said.reason.to_owned(),
        status: said.status.to_owned(),
        type_: said.kind.to_owned(),
    }
}

fn enforced(status: &ShareStatus) -> Said {
    let (status, reason, message) = match status.tier {
        Tier::Native => (
            "True",
            "Native",
            "the NVIDIA driver lets the container of the share have no more of the GPU's memory than its limit",
        ),
        Tier::Mps => (
            "True",
            "Mps",
            "an MPS server lets no process of the share have more of the GPU's memory than the limit",
        ),
        Tier::Shim => (
            "True",
            "Shim",
            "a library in the processes of the share lets them have no more of the GPU's memory than its limit; \
             who is hostile gets around it",
        ),
        Tier::None => (
            "False",
            "None",
            "nothing holds the share to its memory: the scheduler has counted it, and that is all",
        ),
    };
    Said {
        kind: ENFORCED,
        status,
        reason,
        message,
    }
}

/// What is said of anything that nobody measures, or that no container has.
fn unseen(status: &ShareStatus) -> Option<(&'static str, &'static str, &'static str)> {
    match (status.tier, status.container) {
        (Tier::None, _) => Some((
            "Unknown",
            "NotMeasured",
            "nothing measures the memory of a share that nothing holds to it",
        )),
        (_, None) => Some(("False", "NoContainer", "no container has the share")),
        (_, Some(_)) => None,
    }
}

fn near_limit(status: &ShareStatus) -> Said {
    let (status, reason, message) = unseen(status).unwrap_or(if status.standing.near_limit {
        (
            "True",
            "NearLimit",
            "the container has nearly all of the GPU's memory that it may have at the moment",
        )
    } else {
        (
            "False",
            "BelowLimit",
            "the container may have more of the GPU's memory",
        )
    });
    Said {
        kind: NEAR_LIMIT,
        status,
        reason,
        message,
    }
}

fn violation(status: &ShareStatus) -> Said {
    let seen = match status.standing.violation {
        None => (
            "False",
            "WithinLimit",
            "the container has no more of the GPU's memory than its limit",
        ),
        Some(kind @ Violation::AboveLimit) => (
            "True",
            kind.as_str(),
            "the container has more of the GPU's memory than its limit, which the NVIDIA driver should not let happen",
        ),
        Some(kind @ Violation::NoLimit) => (
            "True",
            kind.as_str(),
            "the container has no limit of the GPU's memory any more: somebody has taken it away",
        ),
    };
    let (status, reason, message) = unseen(status).unwrap_or(seen);
    Said {
        kind: VIOLATION,
        status,
        reason,
        message,
    }
}

/// Nothing is told of what nobody measures.
fn figures(status: &ShareStatus) -> Option<Value> {
    if status.tier == Tier::None {
        return None;
    }
    let used = status.container.map_or(0, |container| container.used.0);
    let mut figures = Map::new();
    figures.insert(SOFT.to_owned(), json!(status.guarantee.0));
    if let Some(Bytes(limit)) = status.container.and_then(|container| container.limit) {
        figures.insert(HARD.to_owned(), json!(limit));
    }
    figures.insert(USED.to_owned(), json!(used));
    figures.insert(PEAK.to_owned(), json!(status.peak.0));
    Some(Value::Object(figures))
}

pub(super) fn condition<'e>(entry: &'e AllocatedDeviceStatus, kind: &str) -> Option<&'e Condition> {
    let mut conditions = entry.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == kind)
}

pub(super) fn figure(entry: &AllocatedDeviceStatus, name: &str) -> Option<u64> {
    entry.data.as_ref()?.0.get(name)?.as_u64()
}
