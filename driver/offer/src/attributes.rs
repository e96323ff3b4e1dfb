//! Attributes and capacities as the API takes them, and what had to be left out.
//!
//! Selectors that people wrote for the reference driver read these values, so each is spelled as it
//! spells them. Names without a domain belong to the driver.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, DeviceCapacity};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tessera_device::{AddressingMode, Bytes, DeviceName, DriverFacts, Gpu};
use tessera_sharing::{ConsumableShares, MEMORY, Mechanisms, Tier};

use crate::engines::Engines;
use crate::limits::{ATTRIBUTE_VALUE_BYTES, ATTRIBUTES_AND_CAPACITIES_PER_DEVICE};
use crate::offer::{DropReason, Dropped};
use crate::shareable::{additions, is_shareable, share};

/// Attributes that Kubernetes itself defines, so that a claim can match devices of two drivers.
const PCI_BUS_ID: &str = "resource.kubernetes.io/pciBusID";
const PCIE_ROOT: &str = "resource.kubernetes.io/pcieRoot";
const NUMA_NODE: &str = "resource.kubernetes.io/numaNode";

/// A device that is being described.
pub(crate) struct Description {
    device: DeviceName,
    attributes: BTreeMap<String, DeviceAttribute>,
    capacity: BTreeMap<String, DeviceCapacity>,
    shares: ConsumableShares,
    tier: Tier,
    grows: Option<bool>,
    memory: Option<Bytes>,
    dropped: Vec<Dropped>,
}

impl Description {
    /// A device that can be shared like this, if it has memory. Nothing holds its shares.
    pub(crate) fn of(device: DeviceName, shares: ConsumableShares) -> Self {
        Self {
            device,
            attributes: BTreeMap::new(),
            capacity: BTreeMap::new(),
            shares,
            tier: Tier::None,
            grows: None,
            memory: None,
            dropped: Vec::new(),
        }
    }

    /// The device as the API has it. What cannot be said is added to `dropped`.
    pub(crate) fn finish(mut self, dropped: &mut Vec<Dropped>) -> Device {
        dropped.append(&mut self.dropped);
        let (mut attributes, mut capacity) = (self.attributes, self.capacity);
        let shared = self
            .memory
            .filter(|_| is_shareable(self.memory, self.shares));
        if let Some(memory) = shared {
            share(
                memory,
                self.shares,
                (self.tier, self.grows),
                &mut attributes,
                &mut capacity,
            );
        }
        Device {
            name: self.device.as_str().to_owned(),
            attributes: Some(attributes),
            capacity: Some(capacity),
            allow_multiple_allocations: shared.map(|_| true),
            ..Device::default()
        }
    }

    /// What the parts of a GPU have in common with it.
    pub(crate) fn gpu(&mut self, gpu: &Gpu, driver: &DriverFacts) {
        self.string("productName", &gpu.product_name);
        self.string("brand", &gpu.brand);
        self.string("architecture", gpu.architecture.as_str());
        self.version("cudaComputeCapability", gpu.compute_capability.semver());
        match driver.version.semver() {
            Some(version) => self.version("driverVersion", version),
            None => self.not_semver("driverVersion", driver.version.as_str()),
        }
        self.version("cudaDriverVersion", driver.cuda.semver());
        if let Some(mode) = gpu.addressing_mode {
            self.string("addressingMode", AddressingMode::as_str(mode));
        }
        self.string(PCI_BUS_ID, &gpu.pci.to_string());
        if let Some(root) = &gpu.pcie_root {
            self.string(PCIE_ROOT, root.as_str());
        }
        if let Some(node) = gpu.numa_node {
            self.int(NUMA_NODE, i64::from(node));
        }
    }

    pub(crate) fn string(&mut self, name: &'static str, value: &str) {
        self.text(name, value.len(), || DeviceAttribute {
            string: Some(value.to_owned()),
            ..DeviceAttribute::default()
        });
    }

    pub(crate) fn capacity(&mut self, name: impl Into<String>, amount: &impl ToString) {
        let capacity = DeviceCapacity {
            value: Quantity(amount.to_string()),
            request_policy: None,
        };
        self.capacity.insert(name.into(), capacity);
    }

    /// A capacity for each kind of engine.
    pub(crate) fn engines(&mut self, engines: Engines) {
        for (name, amount) in engines.capacities() {
            self.capacity(name, &amount);
        }
    }

    /// Its memory, by which it is shared.
    pub(crate) fn memory(&mut self, memory: Bytes) {
        self.memory = Some(memory);
        self.capacity(MEMORY, &memory);
    }

    /// What holds its shares to their memory, where it is shared.
    pub(crate) fn held_by(&mut self, mechanisms: &Mechanisms) {
        self.tier = mechanisms.strongest();
    }

    /// Whether its shares can grow, where it is shared.
    pub(crate) fn grows_by(&mut self, mechanisms: &Mechanisms) {
        self.grows = Some(mechanisms.grows());
    }

    /// Capacities of one each, all or none of them: `what` is what they are called together.
    pub(crate) fn ones(&mut self, what: &'static str, names: impl Iterator<Item = String>) {
        let names: Vec<String> = names.collect();
        let described = self.attributes.len() + self.capacity.len();
        let count = described + additions(self.shares) + names.len();
        if count > ATTRIBUTES_AND_CAPACITIES_PER_DEVICE {
            self.drop_it(what, DropReason::TooMany { count });
            return;
        }
        for name in names {
            self.capacity(name, &1);
        }
    }

    fn version(&mut self, name: &'static str, value: String) {
        self.text(name, value.len(), || DeviceAttribute {
            version: Some(value),
            ..DeviceAttribute::default()
        });
    }

    fn int(&mut self, name: &'static str, value: i64) {
        let attribute = DeviceAttribute {
            int: Some(value),
            ..DeviceAttribute::default()
        };
        self.attributes.insert(name.to_owned(), attribute);
    }

    fn not_semver(&mut self, name: &'static str, text: &str) {
        let text = text.to_owned();
        self.drop_it(name, DropReason::NotSemver { text });
    }

    fn text(
        &mut self,
        name: &'static str,
        bytes: usize,
        attribute: impl FnOnce() -> DeviceAttribute,
    ) {
        if bytes <= ATTRIBUTE_VALUE_BYTES {
            self.attributes.insert(name.to_owned(), attribute());
        } else {
            self.drop_it(name, DropReason::TooLong { bytes });
        }
    }

    fn drop_it(&mut self, attribute: &'static str, reason: DropReason) {
        self.dropped.push(Dropped {
            device: self.device.clone(),
            attribute,
            reason,
        });
    }
}
