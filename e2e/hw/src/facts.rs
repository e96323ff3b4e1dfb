//! What does not change about a GPU and its driver while the node is up.
//!
//! The words are those of NVML; the numbers behind them are the business of the library that
//! speaks its C ABI.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A version of two numbers: a compute capability or a CUDA version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

/// Why a text is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseError {
    text: String,
    expected: &'static str,
}

impl ParseError {
    pub(crate) fn new(text: &str, expected: &'static str) -> Self {
        Self {
            text: text.to_owned(),
            expected,
        }
    }
}

impl FromStr for Version {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (major, minor) = text.split_once('.')?;
            Some(Self {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
            })
        };
        parse().ok_or_else(|| ParseError::new(text, "a version like `13.0`"))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl TryFrom<String> for Version {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

/// The installed driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Driver {
    /// Its version, which is part of its files' names.
    pub version: String,
    /// The newest CUDA version that it supports.
    pub cuda: Version,
}

/// The brand that NVML reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Brand {
    /// `NVML_BRAND_TESLA`: data centre boards of older drivers.
    Tesla,
    /// `NVML_BRAND_NVIDIA`: data centre boards since the 470 branch.
    Nvidia,
}

/// The architecture that NVML reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// `NVML_DEVICE_ARCH_TURING`.
    Turing,
    /// `NVML_DEVICE_ARCH_AMPERE`.
    Ampere,
    /// `NVML_DEVICE_ARCH_ADA`.
    Ada,
    /// `NVML_DEVICE_ARCH_HOPPER`.
    Hopper,
    /// `NVML_DEVICE_ARCH_BLACKWELL`.
    Blackwell,
}

/// How the GPU sees host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressingMode {
    /// Neither of the two.
    None,
    /// Heterogeneous memory management by the kernel.
    Hmm,
    /// Address translation services of the hardware.
    Ats,
}

/// The address of a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciFunction {
    /// PCI domain.
    pub domain: u32,
    /// Bus number.
    pub bus: u8,
    /// Device number, at most 31.
    pub device: u8,
    /// Function number, at most 7.
    pub function: u8,
}

impl PciFunction {
    /// The address as NVML writes it: eight digits of domain, capital letters.
    pub fn nvml(&self) -> String {
        format!(
            "{:08X}:{:02X}:{:02X}.{:X}",
            self.domain, self.bus, self.device, self.function
        )
    }

    /// The address as NVML wrote it before version 2 of the structure: four digits of domain.
    pub fn nvml_legacy(&self) -> String {
        format!(
            "{:04X}:{:02X}:{:02X}.{:X}",
            self.domain, self.bus, self.device, self.function
        )
    }
}

/// The address as the kernel's sysfs writes it.
impl fmt::Display for PciFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl FromStr for PciFunction {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = |digits: &str| u32::from_str_radix(digits, 16).ok();
        let parse = || {
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            Some(Self {
                domain: hex(domain)?,
                bus: hex(bus)?.try_into().ok()?,
                device: u8::try_from(hex(device)?)
                    .ok()
                    .filter(|device| *device < 32)?,
                function: u8::try_from(hex(function)?)
                    .ok()
                    .filter(|function| *function < 8)?,
            })
        };
        parse().ok_or_else(|| ParseError::new(text, "a PCI address like `0000:4f:00.0`"))
    }
}

impl TryFrom<String> for PciFunction {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PciFunction> for String {
    fn from(function: PciFunction) -> Self {
        function.to_string()
    }
}

/// What is fixed about one GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// `GPU-` and a UUID.
    pub uuid: String,
    /// Minor number: the GPU's node is `/dev/nvidia<minor>`.
    pub minor: u32,
    /// Product name.
    pub name: String,
    /// Brand.
    pub brand: Brand,
    /// Architecture.
    pub architecture: Architecture,
    /// CUDA compute capability.
    pub compute_capability: Version,
    /// All memory, in MiB.
    pub memory_total_mib: u64,
    /// Memory that the driver keeps for itself, in MiB.
    pub memory_reserved_mib: u64,
    /// Where the GPU sits.
    pub pci: PciFunction,
    /// PCI device id, then vendor id: `0x233010DE`.
    pub pci_device_id: u32,
    /// PCI subsystem device id, then vendor id.
    pub pci_subsystem_id: u32,
    /// The host bridge above the GPU, as sysfs names it: `pci0000:15`.
    pub pcie_root: String,
    /// The bridges between the host bridge and the GPU, outermost first.
    pub pcie_bridges: Vec<PciFunction>,
    /// NUMA node of the CPUs that are near, or nothing if the firmware does not say.
    pub numa_node: Option<u32>,
    /// NUMA node that the GPU's own memory makes up, where it is part of the host's memory.
    pub memory_numa_node: Option<u32>,
    /// Board serial number.
    pub serial: String,
    /// VBIOS version.
    pub vbios: String,
    /// Board part number.
    pub board_part_number: String,
    /// How the GPU sees host memory; nothing where the driver cannot say.
    pub addressing_mode: Option<AddressingMode>,
    /// How many MIG devices the GPU can be cut into; 0 where it cannot.
    pub max_mig_devices: u32,
    /// The table that says how it can be cut; see [`crate::mig`].
    pub mig_table: Option<String>,
    /// Power limit in watts.
    pub power_limit_watts: u32,
    /// Power that it draws when idle, in watts.
    pub idle_power_watts: u32,
    /// Temperature when idle, in degrees Celsius.
    pub idle_temperature: u32,
}

/// Derives the UUID of the GPU at `index` of a node, so that no two nodes have a GPU in common and
/// a node has the same GPUs in every run.
pub fn derive_uuid(node: &str, index: usize) -> String {
    uuid("GPU", &identity(node, index))
}

/// Derives the UUID of the instance that is made on a GPU after so many others.
pub fn derive_mig_uuid(gpu: &str, created: u64) -> String {
    uuid(
        "MIG",
        &Sha256::digest(format!("simulated MIG device {created} of {gpu}")).into(),
    )
}

fn uuid(kind: &str, digest: &[u8; 32]) -> String {
    let bytes = digest
        .first_chunk()
        .expect("a SHA-256 digest is longer than a UUID");
    let hex = format!("{:032x}", u128::from_be_bytes(*bytes));
    let (head, tail) = (&hex[..16], &hex[16..]);
    format!(
        "{kind}-{}-{}-{}-{}-{}",
        &head[..8],
        &head[8..12],
        &head[12..],
        &tail[..4],
        &tail[4..]
    )
}

/// Derives the serial number of the GPU at `index` of a node: `prefix`, filled up to 13 digits.
pub fn derive_serial(prefix: &str, node: &str, index: usize) -> String {
    const DIGITS: usize = 13;
    let digest = identity(node, index);
    let digits = digest[16..].iter().map(|byte| char::from(b'0' + byte % 10));
    prefix.chars().chain(digits).take(DIGITS).collect()
}

fn identity(node: &str, index: usize) -> [u8; 32] {
    Sha256::digest(format!("simulated gpu {index} of node {node}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pci_address_is_read_in_every_notation_and_written_in_each() {
        for text in ["0000:4f:00.0", "00000000:4F:00.0", "0:4f:0.0"] {
            let address: PciFunction = text.parse().unwrap();
            assert_eq!(address.to_string(), "0000:4f:00.0");
            assert_eq!(address.nvml(), "00000000:4F:00.0");
            assert_eq!(address.nvml_legacy(), "0000:4F:00.0");
        }
    }

    #[test]
    fn what_is_no_pci_address_is_refused() {
        for text in [
            "",
            "4f:00.0",
            "0000:4f:00",
            "0000:4f:20.0",
            "0000:4f:00.8",
            "0000:100:00.0",
        ] {
            assert!(text.parse::<PciFunction>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_same_slot_of_two_nodes_holds_different_gpus() {
        assert_eq!(derive_uuid("a", 0), derive_uuid("a", 0));
        assert_ne!(derive_uuid("a", 0), derive_uuid("b", 0));
        assert_ne!(derive_uuid("a", 0), derive_uuid("a", 1));
        assert_ne!(derive_serial("16", "a", 0), derive_serial("16", "b", 0));
    }

    #[test]
    fn derived_identities_look_like_real_ones() {
        let uuid = derive_uuid("node-1", 3);
        assert_eq!(uuid.len(), "GPU-39cd9454-0976-646a-acef-01a35ad02034".len());
        assert!(uuid.starts_with("GPU-"), "{uuid}");
        let serial = derive_serial("16418", "node-1", 3);
        assert!(
            serial.starts_with("16418") && serial.len() == 13,
            "{serial}"
        );
    }
}
