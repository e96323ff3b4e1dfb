//! What a node offers for compute domains: the reference driver's two devices, and one that tells of the
//! node.
//!
//! The reference's devices keep their names, `type` and `id`, so that its device classes select them. The
//! device `fabric` is given to no claim: its attributes say in which NVLink clique the node is and which
//! channels its containers have, so that the controller learns both without asking the node. The slots by
//! which pods of a domain get their channels are not among these devices: they are the controller's.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute};
use tessera_device::Inventory;
use tessera_device::fabric::NodeFabric;

use crate::limits::ATTRIBUTE_VALUE_BYTES;
use crate::offer::{Node, Offer};
use crate::plan::nothing;

/// The reference driver's devices, by their type. One of each: so it does.
const DEVICES: [(&str, &str); 2] = [("channel-0", "channel"), ("daemon-0", "daemon")];

/// What is said where the channels cannot be listed. It is no number, so that whoever reads it knows that
/// any may be held.
const MANY: &str = "many";

/// The channels that containers of the node have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldChannels {
    /// These and no others.
    These(BTreeSet<u32>),
    /// It is not known, or it is all of them.
    Any,
}

impl HeldChannels {
    /// Numbers with commas between them, or one word where they would not fit an attribute.
    fn text(&self) -> String {
        let Self::These(numbers) = self else {
            return MANY.to_owned();
        };
        let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        let text = numbers.join(",");
        if text.len() <= ATTRIBUTE_VALUE_BYTES {
            text
        } else {
            MANY.to_owned()
        }
    }
}

/// Offers the node to compute domains; nothing where no GPU answers.
pub fn channels(inventory: &Inventory, held: &HeldChannels, node: &Node, driver: &str) -> Offer {
    if inventory.gpus().is_empty() {
        return nothing(node, driver);
    }
    let devices = DEVICES.map(|(name, kind)| {
        let attributes = [("type", string(kind)), ("id", int(0))];
        device(name, attributes.into())
    });
    let slice = devices.into_iter().chain([fabric(inventory, held)]);
    Offer::new(driver, node, vec![slice.collect()], Vec::new())
}

fn fabric(inventory: &Inventory, held: &HeldChannels) -> Device {
    let fabric = NodeFabric::of(inventory.gpus());
    let gpus = i64::try_from(inventory.gpus().len()).unwrap_or(i64::MAX);
    let mut attributes = vec![
        ("type", string("fabric")),
        ("gpus", int(gpus)),
        ("fabricState", string(fabric.state())),
        ("heldChannels", string(&held.text())),
    ];
    if let NodeFabric::Member { clique, health } = fabric {
        attributes.push(("cliqueId", string(&clique.to_string())));
        attributes.push(("fabricHealth", string(health.as_str())));
    }
    device("fabric", attributes)
}

fn device(name: &str, attributes: Vec<(&str, DeviceAttribute)>) -> Device {
    let named = attributes
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    Device {
        name: name.to_owned(),
        attributes: Some(named.collect::<BTreeMap<_, _>>()),
        ..Device::default()
    }
}

fn string(value: &str) -> DeviceAttribute {
    DeviceAttribute {
        string: Some(value.to_owned()),
        ..DeviceAttribute::default()
    }
}

fn int(value: i64) -> DeviceAttribute {
    DeviceAttribute {
        int: Some(value),
        ..DeviceAttribute::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tessera_device::fabric::GpuFabric;
    use tessera_device::testing::{clique, driver, gpu, inventory, inventory_in_clique};
    use tessera_device::{Gpu, Inventory};

    use super::*;

    fn held(numbers: impl IntoIterator<Item = u32>) -> HeldChannels {
        HeldChannels::These(numbers.into_iter().collect())
    }

    fn devices(inventory: &Inventory, held: &HeldChannels) -> Value {
        let node = Node {
            name: "node-a".to_owned(),
            uid: "0c5cbc2e-1d0f-4a46-9b1c-3b1f0f5f7d11".to_owned(),
        };
        let slices = channels(inventory, held, &node, "compute-domain.nvidia.com").slices(1);
        assert_eq!(slices.len(), 1);
        serde_json::to_value(&slices[0].spec.devices).unwrap()
    }

    #[test]
    fn a_node_of_a_clique_offers_the_reference_drivers_devices_and_names_the_clique() {
        let of_reference = |name: &str, kind: &str| json!({"name": name, "attributes": {"type": {"string": kind}, "id": {"int": 0}}});
        let fabric = json!({"name": "fabric", "attributes": {
            "type": {"string": "fabric"},
            "gpus": {"int": 4},
            "fabricState": {"string": "Completed"},
            "fabricHealth": {"string": "Healthy"},
            "cliqueId": {"string": clique(7).to_string()},
            "heldChannels": {"string": "3,17"},
        }});
        assert_eq!(
            devices(&inventory_in_clique(7, 0..4), &held([17, 3])),
            json!([
                of_reference("channel-0", "channel"),
                of_reference("daemon-0", "daemon"),
                fabric
            ])
        );
    }

    #[test]
    fn a_node_without_a_clique_says_why_and_offers_itself_all_the_same() {
        let joining = Gpu {
            fabric: GpuFabric::Joining,
            ..gpu(0)
        };
        let joining = Inventory::new(driver("580.95.05"), vec![joining]).unwrap();
        for (inventory, state) in [(inventory(0..8), "NotSupported"), (joining, "InProgress")] {
            let devices = devices(&inventory, &held([]));
            let attributes = devices[2]["attributes"].as_object().unwrap();
            assert_eq!(attributes["fabricState"], json!({"string": state}));
            assert_eq!(attributes["heldChannels"], json!({"string": ""}));
            assert!(!attributes.contains_key("cliqueId"), "{attributes:?}");
        }
    }

    #[test]
    fn channels_that_cannot_be_listed_are_not_listed_in_part() {
        for many in [HeldChannels::Any, held(1000..1100)] {
            let devices = devices(&inventory(0..1), &many);
            let said = &devices[2]["attributes"]["heldChannels"]["string"];
            assert!(said.as_str().unwrap().parse::<u32>().is_err(), "{said}");
            assert!(said.as_str().unwrap().len() <= ATTRIBUTE_VALUE_BYTES);
        }
    }

    #[test]
    fn a_node_whose_gpus_do_not_answer_offers_nothing() {
        assert_eq!(devices(&inventory([]), &held([])), json!([]));
    }
}
