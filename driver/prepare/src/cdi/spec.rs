//! The Container Device Interface's own format, as far as this driver writes it.
//!
//! Loaders refuse unknown fields, and a declared version that is lower than the fields in use, so
//! the version is computed from the content and only fields that are in use are written.

use std::collections::BTreeMap;

use serde::Serialize;
use tessera_device::mig::DeviceNumber;

use super::CdiKind;

/// A version of the CDI format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum CdiVersion {
    /// Device names may start with a digit, as UIDs do, and device nodes may have a host path.
    #[serde(rename = "0.5.0")]
    V050,
    /// Annotations.
    #[serde(rename = "0.6.0")]
    V060,
    /// Supplementary groups.
    #[serde(rename = "0.7.0")]
    V070,
}

/// A CDI spec: one file in the CDI directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    cdi_version: CdiVersion,
    kind: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    devices: Vec<Device>,
    #[serde(skip_serializing_if = "ContainerEdits::is_empty")]
    container_edits: ContainerEdits,
}

impl Spec {
    /// Puts a spec together and declares the lowest version that has all it uses.
    ///
    /// `edits` are applied to a container that uses any of the devices. The format wants at least
    /// one device.
    pub fn new(kind: &CdiKind, devices: Vec<Device>, edits: ContainerEdits) -> Self {
        let mut spec = Self {
            cdi_version: CdiVersion::V050,
            kind: kind.to_string(),
            annotations: BTreeMap::new(),
            devices,
            container_edits: edits,
        };
        spec.cdi_version = spec.lowest_version();
        spec
    }

    /// The same spec with an annotation, for people who read the file.
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self.cdi_version = self.lowest_version();
        self
    }

    /// The version that the spec declares.
    pub fn version(&self) -> CdiVersion {
        self.cdi_version
    }

    /// The devices.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The edits that all devices have in common.
    pub fn container_edits(&self) -> &ContainerEdits {
        &self.container_edits
    }

    /// The file's content: indented JSON with a newline at its end.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self)
            .expect("all map keys are strings and no field's serialization fails");
        text.push(b'\n');
        text
    }

    fn lowest_version(&self) -> CdiVersion {
        let annotated = !self.annotations.is_empty()
            || self
                .devices
                .iter()
                .any(|device| !device.annotations.is_empty());
        let groups = std::iter::once(&self.container_edits)
            .chain(self.devices.iter().map(|device| &device.container_edits))
            .any(|edits| !edits.additional_gids.is_empty());
        match (groups, annotated) {
            (true, _) => CdiVersion::V070,
            (false, true) => CdiVersion::V060,
            (false, false) => CdiVersion::V050,
        }
    }
}

/// A device that a container can be given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Name, unique among the devices of the kind on the node.
    pub name: String,
    /// For people who read the file.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What the device changes in a container. The format wants at least one edit.
    pub container_edits: ContainerEdits,
}

/// Changes to a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerEdits {
    /// Variables, each `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Device nodes to create.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_nodes: Vec<DeviceNode>,
    /// Files and folders to mount.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Programs to run while the container is made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    /// Supplementary groups of the container's process. The runtimes pass over group 0.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

impl ContainerEdits {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A device node. Without numbers of its own they are left to the runtime, which reads them off the
/// host's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceNode {
    /// Path in the container.
    pub path: String,
    /// Path on the host where it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_path: Option<String>,
    /// What the runtime makes, where the host need not have such a node.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub numbers: Option<NodeNumbers>,
}

/// A character device by its numbers. They are in all versions of the format that runtimes read; a runtime
/// that finds only one of them looks at the host's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename = "c")]
pub struct NodeNumbers {
    /// Major number; a runtime takes 0 for none.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Mode of the node in the container. `None`: the runtime's default.
    #[serde(rename = "fileMode", skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

impl DeviceNode {
    /// A node of these numbers at a path of the container.
    pub fn of_numbers(container: impl Into<String>, numbers: NodeNumbers) -> Self {
        Self {
            path: container.into(),
            host_path: None,
            numbers: Some(numbers),
        }
    }

    /// A node of the host at a path of the container.
    pub fn new(container: impl Into<String>, host: impl Into<String>) -> Self {
        let (path, host) = (container.into(), host.into());
        let host_path = (host != path).then_some(host);
        Self {
            path,
            host_path,
            numbers: None,
        }
    }

    /// A character device with this number, whether the host has a node for it or not.
    pub fn numbered(container: impl Into<String>, number: DeviceNumber) -> Self {
        let DeviceNumber { major, minor } = number;
        Self::of_numbers(
            container,
            NodeNumbers {
                major,
                minor,
                mode: None,
            },
        )
    }
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Path on the host.
    pub host_path: String,
    /// Path in the container.
    pub container_path: String,
    /// Mount options.
    pub options: Vec<&'static str>,
}

/// A program that the runtime runs while it makes the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    /// When it runs, by the OCI runtime specification's name.
    pub hook_name: &'static str,
    /// The program, on the host.
    pub path: String,
    /// Its arguments, the program's own name first.
    pub args: Vec<String>,
    /// Its environment. If this is empty, runc lets the hook inherit its own environment, which in
    /// a createContainer hook is the image's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Seconds after which the runtime gives up on the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(edits: ContainerEdits) -> Device {
        Device {
            name: "0-gpu-0".to_owned(),
            annotations: BTreeMap::new(),
            container_edits: edits,
        }
    }

    #[test]
    fn the_declared_version_is_the_lowest_that_has_the_fields_in_use() {
        let kind = CdiKind::claim();
        let spec = |device_edits, edits| Spec::new(&kind, vec![device(device_edits)], edits);
        let none = ContainerEdits::default;
        let groups = || ContainerEdits {
            additional_gids: vec![44],
            ..ContainerEdits::default()
        };
        assert_eq!(spec(none(), none()).version(), CdiVersion::V050);
        assert_eq!(
            spec(none(), none()).with_annotation("a", "b").version(),
            CdiVersion::V060
        );
        assert_eq!(spec(groups(), none()).version(), CdiVersion::V070);
        assert_eq!(
            spec(none(), groups()).with_annotation("a", "b").version(),
            CdiVersion::V070
        );
    }

    #[test]
    fn a_node_with_numbers_says_its_kind_too_and_names_no_host() {
        let number = DeviceNumber {
            major: 508,
            minor: 66,
        };
        let node = DeviceNode::numbered("/dev/nvidia-caps/nvidia-cap66", number);
        assert_eq!(
            serde_json::to_value(node).unwrap(),
            serde_json::json!({
                "path": "/dev/nvidia-caps/nvidia-cap66", "type": "c", "major": 508, "minor": 66,
            })
        );
    }

    #[test]
    fn a_field_that_is_not_in_use_is_not_written() {
        let node = DeviceNode::new("/dev/nvidia0", "/dev/nvidia0");
        let edits = ContainerEdits {
            device_nodes: vec![node],
            ..ContainerEdits::default()
        };
        let spec = Spec::new(
            &CdiKind::claim(),
            vec![device(edits)],
            ContainerEdits::default(),
        );
        let json: serde_json::Value = serde_json::from_slice(&spec.to_json()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "cdiVersion": "0.5.0",
                "kind": "k8s.gpu.nvidia.com/claim",
                "devices": [{
                    "name": "0-gpu-0",
                    "containerEdits": { "deviceNodes": [{ "path": "/dev/nvidia0" }] },
                }],
            })
        );
    }
}
