//! Where a GPU sits, as the kernel's sysfs tells: facts that are optional, because virtual machines
//! and simulated trees may not have them.

use std::fs;
use std::path::{Component, Path};

use tessera_device::{PciAddress, PcieRoot};

/// The surroundings of one PCI function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The PCIe root above it.
    pub(crate) pcie_root: Option<PcieRoot>,
    /// The NUMA node next to it.
    pub(crate) numa_node: Option<u32>,
}

/// Looks a function up below a sysfs mount.
pub(crate) fn place(sysfs: &Path, address: PciAddress) -> Place {
    let device = sysfs.join("bus/pci/devices").join(address.to_string());
    Place {
        pcie_root: fs::canonicalize(&device)
            .ok()
            .and_then(|path| pcie_root(&path)),
        numa_node: fs::read_to_string(device.join("numa_node"))
            .ok()
            .and_then(|text| numa_node(&text)),
    }
}

/// The outermost PCIe root in the real path of a device.
///
/// It is the first component below `devices` on x86 (`…/devices/pci0000:16/0000:16:01.0/…`) and
/// stands deeper on platforms whose firmware tables put a host bridge above it.
fn pcie_root(real_path: &Path) -> Option<PcieRoot> {
    real_path
        .components()
        .find_map(|component| match component {
            Component::Normal(name) => name.to_str()?.parse().ok(),
            _ => None,
        })
}

/// The content of a `numa_node` file: -1 where the firmware names no node.
fn numa_node(text: &str) -> Option<u32> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_root_is_the_first_component_that_names_one() {
        for (path, root) in [
            (
                "/sys/devices/pci0000:15/0000:15:01.0/0000:16:00.0",
                Some("pci0000:15"),
            ),
            (
                "/driver-root/sys/devices/pci0009:01/0009:01:00.0",
                Some("pci0009:01"),
            ),
            (
                "/sys/devices/platform/4000.pcie/pci0000:00/0000:01:00.0",
                Some("pci0000:00"),
            ),
            (
                "/sys/devices/pci0000:80/0000:80:05.5/pci10000:00/10000:00:02.0",
                Some("pci0000:80"),
            ),
            ("/sys/devices/virtual/0000:16:00.0", None),
            ("/", None),
        ] {
            let found = pcie_root(Path::new(path));
            assert_eq!(found.as_ref().map(PcieRoot::as_str), root, "{path}");
        }
    }

    #[test]
    fn a_numa_node_is_a_number_and_minus_one_is_none() {
        for (text, node) in [
            ("0\n", Some(0)),
            ("1", Some(1)),
            ("-1\n", None),
            ("", None),
            ("zero", None),
        ] {
            assert_eq!(numa_node(text), node, "{text:?}");
        }
    }

    #[test]
    fn a_device_is_found_through_its_link_and_a_missing_one_costs_only_its_facts() {
        let sysfs = tempfile::tempdir().unwrap();
        let real = "devices/pci0000:15/0000:15:01.0/0000:18:00.0";
        fs::create_dir_all(sysfs.path().join(real)).unwrap();
        fs::write(sysfs.path().join(real).join("numa_node"), "1\n").unwrap();
        let links = sysfs.path().join("bus/pci/devices");
        fs::create_dir_all(&links).unwrap();
        symlink(Path::new("../../..").join(real), links.join("0000:18:00.0")).unwrap();

        let found = place(sysfs.path(), "00000000:18:00.0".parse().unwrap());
        assert_eq!(
            found,
            Place {
                pcie_root: Some("pci0000:15".parse().unwrap()),
                numa_node: Some(1),
            }
        );
        let missing = place(sysfs.path(), "0000:19:00.0".parse().unwrap());
        assert_eq!(missing, Place::default());
    }
}
