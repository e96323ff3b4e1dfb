//! What a slice of the driver says, read back.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::{Device, ResourceSlice};

use super::{Holds, Slots, slot_number};
use crate::facts::{FabricFacts, HeldChannels, ObjectName};
use crate::keys;

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
    let devices = spec.devices.iter().flatten();
    let numbers = devices.filter_map(|device| slot_number(&device.name));
    let closed = annotations.contains_key(keys::CLOSED_ANNOTATION);
    let closed: Option<BTreeSet<u32>> = closed.then(|| numbers.collect());
    let count = match &closed {
        Some(left) => left.last().map_or(0, |last| last.saturating_add(1)),
        None => u32::try_from(spec.devices.as_ref().map_or(0, Vec::len)).unwrap_or(u32::MAX),
    };
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
            awaits: listed(keys::AWAITS_ANNOTATION),
            count,
            closed,
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
