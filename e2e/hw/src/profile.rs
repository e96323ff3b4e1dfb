//! Real machines, one YAML file each.
//!
//! Every value in `profiles/` has its source in a comment beside it. A profile becomes a [`Node`]
//! once a node's name is known: the identities of its GPUs are derived from that name.

use serde::Deserialize;

use crate::{
    fabric::Fabric,
    facts::{
        AddressingMode, Architecture, Brand, Driver, Facts, PciFunction, Version, derive_serial,
        derive_uuid,
    },
    memory::Accounting,
    state::{Condition, Gpu, Node},
};

const PROFILES: &[(&str, &str)] = &[
    ("a100-40g", include_str!("../profiles/a100-40g.yaml")),
    ("gb200", include_str!("../profiles/gb200.yaml")),
    ("h100", include_str!("../profiles/h100.yaml")),
    ("h200", include_str!("../profiles/h200.yaml")),
    ("p5", include_str!("../profiles/p5.yaml")),
    ("t4", include_str!("../profiles/t4.yaml")),
];

/// Why there is no such profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// No profile has this name.
    #[error("find the profile `{name}`: there are {}", names().collect::<Vec<_>>().join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The profile's text is wrong.
    #[error("read the profile `{name}`")]
    Parse {
        /// The profile.
        name: String,
        /// What is wrong.
        source: serde_yaml_ng::Error,
    },
}

/// The names of all profiles.
pub fn names() -> impl Iterator<Item = &'static str> {
    PROFILES.iter().map(|(name, _)| *name)
}

/// A machine with GPUs of one model.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The profile's own name.
    #[serde(skip)]
    pub name: String,
    /// The machine that it describes.
    pub machine: String,
    /// The driver installed on it.
    pub driver: Driver,
    /// What its GPUs have in common.
    pub model: Model,
    /// The NVLink fabric that all of its GPUs are part of.
    #[serde(default)]
    pub fabric: Option<Fabric>,
    /// Where they sit, in the order of their PCI addresses.
    pub slots: Vec<Slot>,
}

/// What the GPUs of a machine have in common. The fields are those of [`Facts`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "each field is documented at the field of Facts that it becomes"
)]
pub struct Model {
    pub name: String,
    pub brand: Brand,
    pub architecture: Architecture,
    pub compute_capability: Version,
    pub memory_total_mib: u64,
    pub memory_reserved_mib: u64,
    pub pci_device_id: u32,
    pub pci_subsystem_id: u32,
    /// The digits that serial numbers of this product begin with.
    pub serial_prefix: String,
    pub vbios: String,
    pub board_part_number: String,
    pub addressing_mode: Option<AddressingMode>,
    pub max_mig_devices: u32,
    pub mig_table: Option<String>,
    pub power_limit_watts: u32,
    pub idle_power_watts: u32,
    pub idle_temperature: u32,
}

/// Where one GPU sits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Its PCI address.
    pub pci: PciFunction,
    /// Its minor number.
    pub minor: u32,
    /// The host bridge above it.
    pub root: String,
    /// The bridges in between, outermost first.
    #[serde(default)]
    pub bridges: Vec<PciFunction>,
    /// The NUMA node of the CPUs near it.
    pub numa_node: Option<u32>,
    /// The NUMA node that its own memory makes up.
    pub memory_numa_node: Option<u32>,
}

impl Profile {
    /// Reads the profile with this name.
    pub fn load(name: &str) -> Result<Self, ProfileError> {
        let (_, text) = PROFILES
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| ProfileError::Unknown {
                name: name.to_owned(),
            })?;
        let profile: Self =
            serde_yaml_ng::from_str(text).map_err(|source| ProfileError::Parse {
                name: name.to_owned(),
                source,
            })?;
        Ok(Self {
            name: name.to_owned(),
            ..profile
        })
    }

    /// The state of a node that is such a machine: all GPUs healthy and idle.
    pub fn instantiate(&self, node: &str) -> Node {
        let gpus = self.slots.iter().enumerate().map(|(index, slot)| {
            let facts = self.facts(node, index, slot);
            Gpu {
                condition: Condition::idle(&facts),
                fabric: self.fabric.clone(),
                facts,
            }
        });
        Node {
            name: node.to_owned(),
            profile: self.name.clone(),
            driver: self.driver.clone(),
            memory_accounting: Accounting::default(),
            gpus: gpus.collect(),
            injections: Vec::new(),
            injected: 0,
        }
    }

    fn facts(&self, node: &str, index: usize, slot: &Slot) -> Facts {
        let model = self.model.clone();
        Facts {
            uuid: derive_uuid(node, index),
            minor: slot.minor,
            name: model.name,
            brand: model.brand,
            architecture: model.architecture,
            compute_capability: model.compute_capability,
            memory_total_mib: model.memory_total_mib,
            memory_reserved_mib: model.memory_reserved_mib,
            pci: slot.pci,
            pci_device_id: model.pci_device_id,
            pci_subsystem_id: model.pci_subsystem_id,
            pcie_root: slot.root.clone(),
            pcie_bridges: slot.bridges.clone(),
            numa_node: slot.numa_node,
            memory_numa_node: slot.memory_numa_node,
            serial: derive_serial(&model.serial_prefix, node, index),
            vbios: model.vbios,
            board_part_number: model.board_part_number,
            addressing_mode: model.addressing_mode,
            max_mig_devices: model.max_mig_devices,
            mig_table: model.mig_table,
            power_limit_watts: model.power_limit_watts,
            idle_power_watts: model.idle_power_watts,
            idle_temperature: model.idle_temperature,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_profile_can_be_read_and_describes_a_possible_machine() {
        for name in names() {
            let profile = Profile::load(name).unwrap_or_else(|error| panic!("{name}: {error:?}"));
            let slots = &profile.slots;
            assert!(
                slots.is_sorted_by_key(|slot| slot.pci),
                "{name}: NVML orders by PCI address"
            );
            let minors: BTreeSet<_> = slots.iter().map(|slot| slot.minor).collect();
            assert_eq!(
                minors,
                (0..slots.len())
                    .map(|n| u32::try_from(n).unwrap())
                    .collect(),
                "{name}"
            );
            let functions: BTreeSet<_> = slots.iter().map(|slot| slot.pci).collect();
            assert_eq!(functions.len(), slots.len(), "{name}: one address, one GPU");
            let model = &profile.model;
            assert!(model.memory_reserved_mib < model.memory_total_mib, "{name}");
            let table = model
                .mig_table
                .as_ref()
                .map(|table| crate::mig::table(table));
            assert_eq!(table.is_some(), model.max_mig_devices > 0, "{name}");
            assert!(
                table.is_none_or(|table| table.is_some()),
                "{name}: no such table"
            );
            assert_eq!(
                model.pci_device_id & 0xffff,
                0x10de,
                "{name}: made by NVIDIA"
            );
        }
    }

    #[test]
    fn the_machines_have_as_many_gpus_as_the_real_ones() {
        let count = |name| Profile::load(name).unwrap().slots.len();
        assert_eq!(
            ["h100", "t4", "a100-40g", "h200", "gb200", "p5"].map(count),
            [8, 4, 8, 8, 4, 8]
        );
    }

    #[test]
    fn an_unknown_profile_is_refused_with_the_known_ones() {
        let message = Profile::load("h1000").unwrap_err().to_string();
        assert!(message.contains("h100, h200"), "{message}");
    }
}
