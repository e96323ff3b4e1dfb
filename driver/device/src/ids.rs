//! Identities of devices, each parsed once.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::mig::{MigProfile, Part};

/// What tells the name of a MIG device from others.
const MIG: &str = "-mig-";

/// Longest device name that the API takes: a DNS label (RFC 1123).
const DEVICE_NAME_MAX: usize = 63;

/// A value that is not the identity it claims to be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdError {
    /// Not of the form `GPU-<uuid>`.
    #[error("GPU UUID {0:?} is not of the form GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")]
    GpuUuid(String),
    /// Not of the form `MIG-<uuid>`.
    #[error("MIG UUID {0:?} is not of the form MIG-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")]
    MigUuid(String),
    /// Not of the form `dddd:bb:dd.f`, or with the longer domain that NVML prints.
    #[error("PCI address {0:?} is not of the form dddd:bb:dd.f (hexadecimal)")]
    PciAddress(String),
    /// Not a DNS label.
    #[error(
        "device name {0:?} is not a DNS label: 1 to 63 of a-z, 0-9 and '-', \
         with a letter or digit at both ends"
    )]
    DeviceName(String),
    /// Not of the form `<cluster UUID>.<clique id>`.
    #[error("NVLink clique {0:?} is not of the form <cluster UUID>.<clique id>")]
    Clique(String),
    /// Not of the form `pci<domain>:<bus>`.
    #[error("PCIe root {0:?} is not of the form pcidddd:bb (hexadecimal)")]
    PcieRoot(String),
}

/// The UUID of a physical GPU as NVML prints it: `GPU-` and a lower-case UUID.
///
/// It names the board, whatever its minor number or PCI address is after the next boot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GpuUuid(String);

impl GpuUuid {
    /// The UUID with its `GPU-` prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GpuUuid {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        uuid_after("GPU-", text)
            .map(Self)
            .ok_or_else(|| IdError::GpuUuid(text.to_owned()))
    }
}

impl fmt::Display for GpuUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The UUID of a MIG device as NVML prints it since R470: `MIG-` and a lower-case UUID.
///
/// It names one instance from its creation to its end; one that is made again in its place has
/// another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MigUuid(String);

impl MigUuid {
    /// The UUID with its `MIG-` prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MigUuid {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        uuid_after("MIG-", text)
            .map(Self)
            .ok_or_else(|| IdError::MigUuid(text.to_owned()))
    }
}

impl fmt::Display for MigUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text in lower case, if it is this prefix and a UUID.
fn uuid_after(prefix: &str, text: &str) -> Option<String> {
    let uuid = text.strip_prefix(prefix)?;
    let valid = uuid.len() == 36
        && uuid.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    valid.then(|| format!("{prefix}{}", uuid.to_ascii_lowercase()))
}

/// A PCI function: domain, bus, device, function.
///
/// Displays as the extended form that `resource.kubernetes.io/pciBusID` wants, lower case
/// `dddd:bb:dd.f`. Parses that form and NVML's, whose domain has eight digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    /// PCI domain (segment).
    pub domain: u32,
    /// Bus within the domain.
    pub bus: u8,
    /// Device on the bus, 0 to 31.
    pub device: u8,
    /// Function of the device, 0 to 7.
    pub function: u8,
}

impl FromStr for PciAddress {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_pci(text).ok_or_else(|| IdError::PciAddress(text.to_owned()))
    }
}

fn parse_pci(text: &str) -> Option<PciAddress> {
    let hex = |part: &str, digits: std::ops::RangeInclusive<usize>| {
        let well_formed =
            digits.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
        well_formed
            .then(|| u32::from_str_radix(part, 16).ok())
            .flatten()
    };
    let (domain, rest) = text.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let address = PciAddress {
        domain: hex(domain, 4..=8)?,
        bus: u8::try_from(hex(bus, 2..=2)?).ok()?,
        device: u8::try_from(hex(device, 2..=2)?).ok()?,
        function: u8::try_from(hex(function, 1..=1)?).ok()?,
    };
    (address.device < 32 && address.function < 8).then_some(address)
}

impl fmt::Display for PciAddress {
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

/// The PCIe root complex above a device, `pci<domain>:<bus>`, as sysfs names it.
///
/// It is the value of `resource.kubernetes.io/pcieRoot`, by which claims ask for a GPU and a
/// network card under one root.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PcieRoot(String);

impl PcieRoot {
    /// The root as sysfs spells it, e.g. `pci0000:16`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PcieRoot {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let valid = text
            .strip_prefix("pci")
            .and_then(|rest| rest.split_once(':'))
            .is_some_and(|(domain, bus)| {
                let hex = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit());
                (4..=8).contains(&domain.len()) && bus.len() == 2 && hex(domain) && hex(bus)
            });
        valid
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| IdError::PcieRoot(text.to_owned()))
    }
}

impl fmt::Display for PcieRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a device in a `ResourceSlice`: a DNS label, unique in its pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceName(String);

impl DeviceName {
    /// The name of a whole GPU, `gpu-<minor>`, as the reference driver spells it.
    pub fn whole_gpu(minor: u32) -> Self {
        Self(format!("gpu-{minor}"))
    }

    /// The name of a MIG device, `gpu-<minor>-mig-<profile>-<profile id>-<start>`, as the reference
    /// driver spells it.
    ///
    /// The reference has one name for all compute instances of a GPU instance that holds several. Here
    /// the number of the compute instance stands behind the profile, `…-1c3g20gb-ci2-9-0`, where those
    /// who take such names apart by their ends pass over it.
    pub fn mig(minor: u32, profile: MigProfile, profile_id: u16, part: Part) -> Self {
        let size = profile.in_device_names();
        let sibling = match part.compute_instance {
            Some(number) => format!("-ci{number}"),
            None => String::new(),
        };
        let start = part.placement.start;
        Self(format!(
            "gpu-{minor}{MIG}{size}{sibling}-{profile_id}-{start}"
        ))
    }

    /// The minor number of the GPU that a MIG device of this name is a part of; nothing if this is the
    /// name of no MIG device.
    pub fn mig_parent(&self) -> Option<u32> {
        let (gpu, _) = self.0.split_once(MIG)?;
        gpu.strip_prefix("gpu-")?.parse().ok()
    }

    /// Whether it names a whole GPU, and not a part of one or another kind of device.
    pub fn is_whole_gpu(&self) -> bool {
        let minor = self.0.strip_prefix("gpu-");
        minor.is_some_and(|minor| !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit()))
    }

    /// The name as the API carries it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        let valid = (1..=DEVICE_NAME_MAX).contains(&bytes.len())
            && bytes.iter().all(|b| inner(*b) || *b == b'-')
            && inner(bytes[0])
            && inner(bytes[bytes.len() - 1]);
        valid
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| IdError::DeviceName(text.to_owned()))
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mig::{Extras, Placement};

    #[test]
    fn mig_devices_have_the_names_of_the_reference_driver() {
        for (minor, profile, id, start, sibling, name) in [
            (0, "1g.5gb", 19, 0, None, "gpu-0-mig-1g5gb-19-0"),
            (3, "1g.5gb+me", 20, 4, None, "gpu-3-mig-1g5gb-me-20-4"),
            (7, "7g.141gb", 0, 0, None, "gpu-7-mig-7g141gb-0-0"),
            (1, "1c.3g.20gb", 9, 4, Some(2), "gpu-1-mig-1c3g20gb-ci2-9-4"),
        ] {
            let part = Part {
                placement: Placement { start, size: 1 },
                compute_instance: sibling,
            };
            let found = DeviceName::mig(minor, profile.parse().unwrap(), id, part);
            assert_eq!(found.as_str(), name);
            assert_eq!(found.mig_parent(), Some(minor));
        }
        for other in ["gpu-0", "gpu-vfio-1", "channel-0", "gpu-x-mig-1g5gb-19-0"] {
            assert_eq!(other.parse::<DeviceName>().unwrap().mig_parent(), None);
        }
    }

    #[test]
    fn nvml_and_sysfs_spellings_of_a_pci_address_are_the_same_device() {
        let from_nvml: PciAddress = "00000000:1B:00.0".parse().unwrap();
        let from_sysfs: PciAddress = "0000:1b:00.0".parse().unwrap();
        assert_eq!(from_nvml, from_sysfs);
        assert_eq!(from_nvml.to_string(), "0000:1b:00.0");
    }

    #[test]
    fn a_value_that_is_no_identity_is_refused_with_the_value_in_the_message() {
        for bad in [
            "",
            "0000:1b:00",
            "0000:1b:20.0",
            "0000:1b:00.8",
            "zz:1b:00.0",
            "0000:+b:00.0",
        ] {
            let error = bad.parse::<PciAddress>().unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", &"a".repeat(64)] {
            assert!(bad.parse::<DeviceName>().is_err(), "{bad:?}");
        }
        for other in ["gpu", "gpu-vfio-0", "gpu-0-mig-1g5gb-19-0", "channel-0"] {
            assert!(
                !other.parse::<DeviceName>().unwrap().is_whole_gpu(),
                "{other}"
            );
        }
        for bad in [
            "GPU-",
            "MIG-5dcdd1a3-5d1a-4b4a-9c4c-0b1a2c3d4e5f",
            "5dcdd1a3",
        ] {
            assert!(bad.parse::<GpuUuid>().is_err(), "{bad:?}");
        }
        for bad in [
            "MIG-",
            "GPU-5dcdd1a3-5d1a-4b4a-9c4c-0b1a2c3d4e5f",
            "MIG-GPU-5dcdd1a3-5d1a-4b4a-9c4c-0b1a2c3d4e5f/1/0",
        ] {
            assert!(bad.parse::<MigUuid>().is_err(), "{bad:?}");
        }
        for bad in ["", "pci", "pci0000", "pci0000:zz", "0000:16"] {
            assert!(bad.parse::<PcieRoot>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_pci_address_survives_its_own_text(domain: u32, bus: u8, device in 0u8..32, function in 0u8..8) {
            let address = PciAddress { domain, bus, device, function };
            prop_assert_eq!(address.to_string().parse::<PciAddress>(), Ok(address));
        }

        #[test]
        fn no_text_panics_a_parser(text: String) {
            let _ = text.parse::<PciAddress>();
            let _ = text.parse::<DeviceName>();
            let _ = text.parse::<GpuUuid>();
            let _ = text.parse::<MigUuid>();
            let _ = text.parse::<DeviceName>().map(|name| name.mig_parent());
            let _ = text.parse::<PcieRoot>();
        }

        #[test]
        fn every_mig_device_has_a_valid_device_name(minor: u32, slices: u8, compute: u8, gigabytes: u16, id: u16, start: u8, number: u8) {
            let profile = MigProfile { slices, compute, gigabytes, extras: Extras::AllMedia };
            let part = Part {
                placement: Placement { start, size: 1 },
                compute_instance: (!profile.is_all_of_its_gpu_instance()).then_some(number),
            };
            let name = DeviceName::mig(minor, profile, id, part);
            prop_assert_eq!(name.as_str().parse::<DeviceName>(), Ok(name.clone()));
            prop_assert_eq!(name.mig_parent(), Some(minor));
        }

        #[test]
        fn every_whole_gpu_has_a_valid_device_name(minor: u32) {
            let name = DeviceName::whole_gpu(minor);
            prop_assert!(name.is_whole_gpu());
            prop_assert_eq!(name.as_str().parse::<DeviceName>(), Ok(name.clone()));
        }
    }
}
