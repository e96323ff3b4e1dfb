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

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{
    Device, DeviceAttribute, ResourcePool, ResourceSlice, ResourceSliceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::facts::{FabricFacts, HeldChannels, ObjectName};
use crate::keys;

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
    /// How many there are; none when they are withdrawn.
    pub count: u32,
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
    /// Whether pods can still get one.
    pub fn are_offered(&self) -> bool {
        self.released.is_none()
    }

    /// The same slots, withdrawn.
    #[must_use]
    pub fn withdrawn(&self, now: Timestamp) -> Self {
        Self {
            count: 0,
            released: Some(now),
            ..self.clone()
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
                devices: Some((first..end).map(|number| self.device(number)).collect()),
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
            name: format!("slot-{number}"),
            attributes: Some(
                attributes
                    .map(|(name, value)| (name.to_owned(), value))
                    .into(),
            ),
            ..Device::default()
        }
    }
}

/// The name of a domain's slice number `at`.
pub fn slice_name(domain: &str, at: u32) -> String {
    format!("{}-{at}", keys::pool(domain))
}

/// What a slice of the driver says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SliceFacts {
    /// Of a node, about its fabric.
    Node {
        /// The node.
        node: String,
        /// What it says; none where it has no device for that.
        fabric: Option<FabricFacts>,
    },
    /// Of a domain, about its slots: as much as this slice tells of them.
    Slots {
        /// The slots; `count` is that of this slice alone.
        slots: Slots,
        /// Generation of their pool.
        generation: i64,
    },
}

impl SliceFacts {
    /// Reads a slice of the driver; none if it is neither of a node nor of a domain.
    pub fn of(slice: &ResourceSlice) -> Option<Self> {
        let spec = &slice.spec;
        if spec.driver != keys::DRIVER {
            return None;
        }
        if let Some(node) = &spec.node_name {
            let mut devices = spec.devices.iter().flatten();
            let fabric = devices.find(|device| device.name == "fabric").map(fabric);
            return Some(Self::Node {
                node: node.clone(),
                fabric,
            });
        }
        slots(slice)
    }
}

fn fabric(device: &Device) -> FabricFacts {
    let attribute = |name: &str| device.attributes.as_ref()?.get(name);
    let text = |name: &str| {
        let text = attribute(name)?.string.clone();
        text.filter(|text| !text.is_empty())
    };
    let held = attribute("heldChannels").and_then(|held| held.string.as_deref());
    FabricFacts {
        clique: text("cliqueId"),
        state: text("fabricState"),
        gpus: attribute("gpus").and_then(|gpus| u32::try_from(gpus.int?).ok()),
        held: held.map(HeldChannels::parse),
    }
}

fn slots(slice: &ResourceSlice) -> Option<SliceFacts> {
    let spec = &slice.spec;
    let domain = keys::domain_of_pool(&spec.pool.name)?;
    let annotations = slice.metadata.annotations.as_ref()?;
    let (namespace, name) = annotations.get(keys::DOMAIN_ANNOTATION)?.split_once('/')?;
    let terms = &spec.node_selector.as_ref()?.node_selector_terms;
    let requirement = terms.first()?.match_expressions.as_ref()?.first()?;
    let released = annotations.get(keys::RELEASED_ANNOTATION);
    let hostnames = requirement.values.clone().unwrap_or_default();
    let listed = |key: &str| -> Vec<String> {
        let text = annotations.get(key).map(String::as_str);
        let entries = text.into_iter().flat_map(|text| text.split(','));
        entries
            .filter(|entry| !entry.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let clique_nodes: Result<Vec<usize>, _> = listed(keys::SHARES_ANNOTATION)
        .iter()
        .map(|nodes| nodes.parse())
        .collect();
    Some(SliceFacts::Slots {
        slots: Slots {
            domain: domain.to_owned(),
            name: ObjectName::new(namespace, name),
            clique_nodes: match clique_nodes {
                Ok(nodes) if !nodes.is_empty() => nodes,
                _ => vec![hostnames.len()],
            },
            hostnames,
            spares: listed(keys::SPARES_ANNOTATION),
            former: listed(keys::FORMER_ANNOTATION),
            channel: annotations.get(keys::CHANNEL_ANNOTATION)?.parse().ok()?,
            count: u32::try_from(spec.devices.as_ref().map_or(0, Vec::len)).unwrap_or(u32::MAX),
            gpus_per_node: annotations.get(keys::GPUS_ANNOTATION)?.parse().ok()?,
            holds: match annotations.get(keys::HOLDS_ANNOTATION)?.as_str() {
                "WholeNodes" => Holds::WholeNodes,
                _ => Holds::Slots,
            },
            // What cannot be read was long ago.
            offered: annotations
                .get(keys::OFFERED_ANNOTATION)
                .and_then(|time| time.parse().ok())
                .unwrap_or(Timestamp::UNIX_EPOCH),
            released: released.map(|time| time.parse().unwrap_or(Timestamp::UNIX_EPOCH)),
        },
        generation: spec.pool.generation,
    })
}

#[cfg(test)]
mod tests;
