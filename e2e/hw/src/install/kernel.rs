//! What the kernel says about the GPUs: `/proc/driver/nvidia` and the PCI part of `/sys`.
//!
//! Both stand below the driver root, because containers have a `/proc` and `/sys` of their own.

use super::{InstallError, SIMULATED, Tree, kernel_devices::IMEX_CHANNELS};
use crate::{
    facts::{Driver, Facts},
    state::Node,
};

pub(super) const PROC: &str = "proc/driver/nvidia";

pub(super) fn install(tree: &Tree<'_>, node: &Node) -> Result<(), InstallError> {
    install_versions(tree, &node.driver)?;
    tree.write(&format!("{PROC}/params"), params())?;
    for gpu in &node.gpus {
        let facts = &gpu.facts;
        tree.write(
            &format!("{PROC}/gpus/{}/information", facts.pci),
            information(facts),
        )?;
        install_pci(tree, facts)?;
    }
    Ok(())
}

/// What the loaded modules say of their version.
pub(super) fn install_versions(tree: &Tree<'_>, driver: &Driver) -> Result<(), InstallError> {
    tree.write(&format!("{PROC}/version"), version(driver))?;
    let line = format!("{}\n", driver.version);
    tree.write("sys/module/nvidia/version", line).map(drop)
}

/// The form is that of the open kernel modules since the 560 branch.
fn version(driver: &Driver) -> String {
    format!(
        "NVRM version: NVIDIA UNIX Open Kernel Module for {}  {}  Release Build  (simulated)\n\
         GCC version:  {SIMULATED}\n",
        std::env::consts::ARCH,
        driver.version
    )
}

/// The parameters that decide about device files and channels, at the driver's defaults. 438 is mode
/// 0666.
fn params() -> String {
    format!(
        "ModifyDeviceFiles: 1\n\
         DeviceFileUID: 0\n\
         DeviceFileGID: 0\n\
         DeviceFileMode: 438\n\
         ImexChannelCount: {IMEX_CHANNELS}\n\
         CreateImexChannel0: 0\n"
    )
}

fn information(facts: &Facts) -> String {
    format!(
        "Model: \t\t {name}\n\
         IRQ:   \t\t 0\n\
         GPU UUID: \t {uuid}\n\
         Video BIOS: \t {vbios}\n\
         Bus Type: \t PCIe\n\
         DMA Size: \t 52 bits\n\
         DMA Mask: \t 0xfffffffffffff\n\
         Bus Location: \t {pci}\n\
         Device Minor: \t {minor}\n\
         GPU Excluded:\t No\n",
        name = facts.name,
        uuid = facts.uuid,
        vbios = facts.vbios,
        pci = facts.pci,
        minor = facts.minor,
    )
}

fn install_pci(tree: &Tree<'_>, facts: &Facts) -> Result<(), InstallError> {
    let mut device = format!("devices/{}", facts.pcie_root);
    for function in facts.pcie_bridges.iter().chain([&facts.pci]) {
        device = format!("{device}/{function}");
    }
    // The kernel writes -1 where the firmware does not say.
    let numa = facts
        .numa_node
        .map_or("-1".to_owned(), |node| node.to_string());
    let files = [
        ("numa_node", numa),
        ("vendor", format!("{:#06x}", facts.pci_device_id & 0xffff)),
        ("device", format!("{:#06x}", facts.pci_device_id >> 16)),
        (
            "subsystem_vendor",
            format!("{:#06x}", facts.pci_subsystem_id & 0xffff),
        ),
        (
            "subsystem_device",
            format!("{:#06x}", facts.pci_subsystem_id >> 16),
        ),
        // PCI class 3 (display), subclass 2 (3D controller): the class of data centre GPUs.
        ("class", "0x030200".to_owned()),
    ];
    for (name, value) in files {
        tree.write(&format!("sys/{device}/{name}"), value + "\n")?;
    }
    tree.link(
        &format!("../../../{device}"),
        &format!("sys/bus/pci/devices/{}", facts.pci),
    )
}
