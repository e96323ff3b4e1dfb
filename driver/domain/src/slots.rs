//! The slots of a domain: the right of a pod to hold its channel, as devices of a slice.
//!
//! The slice is the decision itself and its only record: which nodes a domain has, and which channel.
//! Its node selector names exactly these nodes, so that the scheduler binds a pod with a slot to none
//! other. One write makes the reservation, and whoever reads the slice knows it.
//!
//! # Withdrawn slots
//! Slots that are taken back stay as a slice without devices: nobody gets one any more, and the channel is
//! in quarantine until each node has let go of it. A pod that is deleted by force is gone from the API
//! before the kubelet has unprepared its claim, so that no claim says it.
//!
//! # Slots that wait
//! Where domains of lower priority are ended to make room, the slice is there before they are: it holds the nodes, has no
//! devices, and names whose end it waits for. Who decides after a crash knows by it what has begun.
//!
//! # Closed slots
//! A gang that has lost a node gets other nodes when none of its pods runs any more. A pod that took one of its free
//! slots in the meantime would keep it where it is. So the free ones are taken back with the loss, and those that
//! claims hold stay.

mod read;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{
    Device, DeviceAttribute, ResourcePool, ResourceSlice, ResourceSliceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use self::read::SliceFacts;
use crate::facts::ObjectName;
use crate::keys;

/// Before the number in the name of a slot.
const SLOT: &str = "slot-";

/// Devices in one slice (`ResourceSliceMaxDevices` in `pkg/apis/resource/types.go`).
const DEVICES_PER_SLICE: u32 = 128;

/// Most slots of a domain: as many slices as are still one round of writes.
pub const MOST_SLOTS: u32 = 32 * DEVICES_PER_SLICE;

/// What keeps others from what a domain has planned with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A taint on each node: the domain has all of its GPUs.
    WholeNodes,
    /// Nothing: pods of others may come first.
    Slots,
}

impl Holds {
    fn as_str(self) -> &'static str {
        match self {
            Self::WholeNodes => "WholeNodes",
            Self::Slots => "Slots",
        }
    }
}

/// The slots of one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// UID of the domain.
    pub domain: String,
    /// Name of the domain.
    pub name: ObjectName,
    /// The nodes, as the label [`keys::HOSTNAME_LABEL`] names them, in the order of ranks.
    pub hostnames: Vec<String>,
    /// How many of these nodes were planned to share a clique, one number for each clique and in the same order.
    /// [`Slots::shares`] tells which they are.
    pub clique_nodes: Vec<usize>,
    /// Nodes that are held against the loss of others, as the same label names them.
    pub spares: Vec<String>,
    /// Nodes of earlier plans on which a container may still have the channel.
    pub former: Vec<String>,
    /// The channel.
    pub channel: u32,
    /// How many there are; none when they are withdrawn, or wait.
    pub count: u32,
    /// UIDs of the domains that are being ended to make room. As long as there are some, no pod gets a slot.
    pub awaits: Vec<String>,
    /// The numbers of those that are there, where nobody may take one more.
    pub closed: Option<BTreeSet<u32>>,
    /// GPUs of each node that its pods are planned to use.
    pub gpus_per_node: u32,
    /// What keeps others from them.
    pub holds: Holds,
    /// Since when they are offered on these nodes.
    pub offered: Timestamp,
    /// Since when they are withdrawn.
    pub released: Option<Timestamp>,
}

impl Slots {
    /// Whether the nodes are the domain's: pods can get a slot, or will when those are gone that it waits for.
    pub fn are_offered(&self) -> bool {
        self.released.is_none()
    }

    /// Whether others are being ended to make room.
    pub fn wait(&self) -> bool {
        self.are_offered() && !self.awaits.is_empty()
    }

    /// The same slots, withdrawn.
    #[must_use]
    pub fn withdrawn(&self, now: Timestamp) -> Self {
        Self {
            count: 0,
            awaits: Vec::new(),
            closed: None,
            released: Some(now),
            ..self.clone()
        }
    }

    /// The same slots, of which nobody gets one any more: only those are left that claims hold, which are `held`.
    #[must_use]
    pub fn closed(&self, held: &BTreeSet<u32>) -> Self {
        let earlier = self.closed.iter().flatten();
        // A number that was never offered is no slot, whatever a claim says.
        let known = |number: &u32| *number < MOST_SLOTS;
        let left: BTreeSet<u32> = earlier.chain(held).copied().filter(known).collect();
        Self {
            count: left.last().map_or(0, |last| last.saturating_add(1)),
            closed: Some(left),
            ..self.clone()
        }
    }

    /// The same slots, at least so many of them, each of which is to be had.
    #[must_use]
    pub fn opened(&self, count: u32) -> Self {
        Self {
            count: count.max(self.count),
            closed: None,
            ..self.clone()
        }
    }

    /// What two slices of one generation tell together.
    pub(crate) fn join(&mut self, other: &Self) {
        match (&mut self.closed, &other.closed) {
            (Some(left), Some(more)) => {
                left.extend(more);
                self.count = self.count.max(other.count);
            }
            _ => self.count = self.count.saturating_add(other.count),
        }
    }

    /// The nodes by the clique that they were planned to share. All are of one where that is not known: slots of a
    /// version that did not write it.
    pub fn shares(&self) -> impl Iterator<Item = &[String]> {
        let all = self.hostnames.len();
        let counted = self
            .clique_nodes
            .iter()
            .try_fold(0_usize, |sum, nodes| sum.checked_add(*nodes));
        let known = counted == Some(all);
        let counts = if known {
            &self.clique_nodes[..]
        } else {
            std::slice::from_ref(&usize::MAX)
        };
        let mut rest = &self.hostnames[..];
        counts.iter().map(move |nodes| {
            let (share, others) = rest.split_at((*nodes).min(rest.len()));
            rest = others;
            share
        })
    }

    /// Every node on which a container may have the channel.
    pub fn may_have_channel(&self) -> impl Iterator<Item = &str> {
        self.hostnames
            .iter()
            .chain(&self.former)
            .map(String::as_str)
    }

    /// The same slots after `earlier` ones of the domain, whose nodes may still have the channel.
    #[must_use]
    pub fn after(self, earlier: &Self) -> Self {
        let gone = |hostname: &&str| !self.hostnames.iter().any(|own| own == hostname);
        let mut former: Vec<String> = earlier
            .may_have_channel()
            .filter(gone)
            .map(str::to_owned)
            .collect();
        former.sort();
        former.dedup();
        Self { former, ..self }
    }

    /// How many slices it takes to offer them.
    pub fn slices(&self) -> u32 {
        self.count.div_ceil(DEVICES_PER_SLICE).max(1)
    }

    /// The slice number `at` of them, of this generation of their pool.
    pub fn render(&self, at: u32, generation: i64) -> ResourceSlice {
        let first = at.saturating_mul(DEVICES_PER_SLICE);
        let end = first.saturating_add(DEVICES_PER_SLICE).min(self.count);
        let there = |number: &u32| {
            let closed = self.closed.as_ref();
            closed.is_none_or(|left| left.contains(number))
        };
        let selector = NodeSelectorTerm {
            match_expressions: Some(vec![NodeSelectorRequirement {
                key: keys::HOSTNAME_LABEL.to_owned(),
                operator: "In".to_owned(),
                values: Some(self.hostnames.clone()),
            }]),
            match_fields: None,
        };
        ResourceSlice {
            metadata: ObjectMeta {
                name: Some(slice_name(&self.domain, at)),
                annotations: Some(self.annotations()),
                ..ObjectMeta::default()
            },
            spec: ResourceSliceSpec {
                driver: keys::DRIVER.to_owned(),
                pool: ResourcePool {
                    name: keys::pool(&self.domain),
                    generation,
                    resource_slice_count: self.slices().into(),
                },
                node_selector: Some(NodeSelector {
                    node_selector_terms: vec![selector],
                }),
                devices: Some(
                    (first..end)
                        .filter(there)
                        .map(|number| self.device(number))
                        .collect(),
                ),
                ..ResourceSliceSpec::default()
            },
        }
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        let mut annotations = BTreeMap::from([
            (keys::DOMAIN_ANNOTATION.to_owned(), self.name.to_string()),
            (
                keys::CHANNEL_ANNOTATION.to_owned(),
                self.channel.to_string(),
            ),
            (
                keys::GPUS_ANNOTATION.to_owned(),
                self.gpus_per_node.to_string(),
            ),
            (
                keys::HOLDS_ANNOTATION.to_owned(),
                self.holds.as_str().to_owned(),
            ),
            (
                keys::OFFERED_ANNOTATION.to_owned(),
                self.offered.to_string(),
            ),
        ]);
        if !self.former.is_empty() {
            let former = self.former.join(",");
            annotations.insert(keys::FORMER_ANNOTATION.to_owned(), former);
        }
        if self.clique_nodes.len() > 1 {
            let numbers: Vec<String> = self.clique_nodes.iter().map(usize::to_string).collect();
            annotations.insert(keys::SHARES_ANNOTATION.to_owned(), numbers.join(","));
        }
        if !self.spares.is_empty() {
            annotations.insert(keys::SPARES_ANNOTATION.to_owned(), self.spares.join(","));
        }
        if !self.awaits.is_empty() {
            annotations.insert(keys::AWAITS_ANNOTATION.to_owned(), self.awaits.join(","));
        }
        if self.closed.is_some() {
            annotations.insert(keys::CLOSED_ANNOTATION.to_owned(), "true".to_owned());
        }
        if let Some(released) = self.released {
            annotations.insert(keys::RELEASED_ANNOTATION.to_owned(), released.to_string());
        }
        annotations
    }

    fn device(&self, number: u32) -> Device {
        let text = |value: &str| DeviceAttribute {
            string: Some(value.to_owned()),
            ..DeviceAttribute::default()
        };
        let int = |value: u32| DeviceAttribute {
            int: Some(value.into()),
            ..DeviceAttribute::default()
        };
        let attributes = [
            ("type", text("channel")),
            // The reference's class asks for it: of its channels only the first is ever offered.
            ("id", int(0)),
            ("domain", text(&self.domain)),
            ("namespace", text(&self.name.namespace)),
            ("channel", int(self.channel)),
        ];
        Device {
            name: format!("{SLOT}{number}"),
            attributes: Some(
                attributes
                    .map(|(name, value)| (name.to_owned(), value))
                    .into(),
            ),
            ..Device::default()
        }
    }
}

/// The number of a slot, from its name.
pub fn slot_number(device: &str) -> Option<u32> {
    device.strip_prefix(SLOT)?.parse().ok()
}

/// The name of a domain's slice number `at`.
pub fn slice_name(domain: &str, at: u32) -> String {
    format!("{}-{at}", keys::pool(domain))
}

#[cfg(test)]
mod tests;
