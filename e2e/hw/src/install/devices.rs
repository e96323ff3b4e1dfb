//! The character devices of a driver.

use std::{fs, io, os::unix::fs::PermissionsExt};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::{InstallError, Tree};
use crate::state::Node;

/// The driver's major number, assigned in Linux' `Documentation/admin-guide/devices.txt`.
pub(super) const NVIDIA_MAJOR: u32 = 195;
/// `/dev/nvidiactl`, from `nv-chardev-numbers.h` of NVIDIA's open kernel modules.
const CONTROL_MINOR: u32 = 255;
/// `/dev/nvidia-modeset`, from the same file.
const MODESET_MINOR: u32 = 254;
/// The unified memory driver takes a free major at load time; 511 is the first that Linux hands out.
pub(super) const UVM_MAJOR: u32 = 511;
/// So does the one of the capabilities; the user guide shows 508.
pub(super) const CAPS_MAJOR: u32 = 508;

/// The driver's default for its nodes.
const MODE: u32 = 0o666;

/// Makes the nodes with the mode that the driver's `DeviceFileMode` defaults to.
pub(super) fn install(tree: &Tree<'_>, node: &Node) -> Result<(), InstallError> {
    for gpu in &node.gpus {
        let minor = gpu.facts.minor;
        let path = format!("dev/nvidia{minor}");
        make(tree, &path, NVIDIA_MAJOR, minor, MODE)?;
    }
    make(tree, "dev/nvidiactl", NVIDIA_MAJOR, CONTROL_MINOR, MODE)?;
    make(
        tree,
        "dev/nvidia-modeset",
        NVIDIA_MAJOR,
        MODESET_MINOR,
        MODE,
    )?;
    make(tree, "dev/nvidia-uvm", UVM_MAJOR, 0, MODE)?;
    make(tree, "dev/nvidia-uvm-tools", UVM_MAJOR, 1, MODE)
}

pub(super) fn make(
    tree: &Tree<'_>,
    relative: &str,
    major: u32,
    minor: u32,
    mode: u32,
) -> Result<(), InstallError> {
    let path = tree.prepare(relative)?;
    let error = |source: io::Error| InstallError::MakeDeviceNode {
        path: path.clone(),
        source,
    };
    mknodat(
        CWD,
        &path,
        FileType::CharacterDevice,
        Mode::from_raw_mode(mode),
        makedev(major, minor),
    )
    .map_err(|errno| error(errno.into()))?;
    // The umask has taken bits away.
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(error)
}
