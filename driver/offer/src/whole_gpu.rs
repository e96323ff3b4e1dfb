//! A whole GPU as a device: the reference driver's names, attributes and capacity.
//!
//! Selectors that people wrote for the reference driver read these values, so each is spelled as
//! it spells them. Names without a domain belong to the driver.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, DeviceCapacity};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tessera_device::{AddressingMode, DeviceName, DriverFacts, Gpu};

use crate::limits::ATTRIBUTE_VALUE_BYTES;
use crate::offer::{DropReason, Dropped};

/// Attributes that Kubernetes itself defines, so that a claim can match devices of two drivers.
const PCI_BUS_ID: &str = "resource.kubernetes.io/pciBusID";
const PCIE_ROOT: &str = "resource.kubernetes.io/pcieRoot";
const NUMA_NODE: &str = "resource.kubernetes.io/numaNode";

/// The device under which the whole GPU is offered. What cannot be said is added to `dropped`.
pub(crate) fn device(gpu: &Gpu, driver: &DriverFacts, dropped: &mut Vec<Dropped>) -> Device {
    let mut attributes = Attributes::of(gpu.device_name());
    attributes.string("type", "gpu");
    attributes.string("uuid", gpu.uuid.as_str());
    attributes.string("productName", &gpu.product_name);
    attributes.string("brand", &gpu.brand);
    attributes.string("architecture", gpu.architecture.as_str());
    attributes.version("cudaComputeCapability", gpu.compute_capability.semver());
    match driver.version.semver() {
        Some(version) => attributes.version("driverVersion", version),
        None => attributes.not_semver("driverVersion", driver.version.as_str()),
    }
    attributes.version("cudaDriverVersion", driver.cuda.semver());
    if let Some(mode) = gpu.addressing_mode {
        attributes.string("addressingMode", AddressingMode::as_str(mode));
    }
    attributes.string(PCI_BUS_ID, &gpu.pci.to_string());
    if let Some(root) = &gpu.pcie_root {
        attributes.string(PCIE_ROOT, root.as_str());
    }
    if let Some(node) = gpu.numa_node {
        attributes.int(NUMA_NODE, i64::from(node));
    }
    dropped.append(&mut attributes.dropped);
    Device {
        name: attributes.device.as_str().to_owned(),
        attributes: Some(attributes.kept),
        capacity: Some(BTreeMap::from([(
            "memory".to_owned(),
            DeviceCapacity {
                value: Quantity(gpu.memory.to_string()),
                request_policy: None,
            },
        )])),
        ..Device::default()
    }
}

/// Attributes within the limits of the API, and what did not fit.
struct Attributes {
    device: DeviceName,
    kept: BTreeMap<String, DeviceAttribute>,
    dropped: Vec<Dropped>,
}

impl Attributes {
    fn of(device: DeviceName) -> Self {
        Self {
            device,
            kept: BTreeMap::new(),
            dropped: Vec::new(),
        }
    }

    fn string(&mut self, name: &'static str, value: &str) {
        self.text(name, value.len(), || DeviceAttribute {
            string: Some(value.to_owned()),
            ..DeviceAttribute::default()
        });
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
        self.kept.insert(name.to_owned(), attribute);
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
            self.kept.insert(name.to_owned(), attribute());
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
