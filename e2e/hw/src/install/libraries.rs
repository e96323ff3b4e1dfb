//! The libraries and programs of a driver.
//!
//! The management library and `nvidia-smi` are the simulated ones. Of the others only the file
//! matters here: a real shared object with the real name, so that the loader's cache takes it up
//! and a container that was given it can open it. They have no functions.

use super::{InstallError, SIMULATED, Tree, elf};
use crate::artifacts::Artifacts;

const LIBRARY_DIR: &str = "usr/lib64";

/// Compute libraries of a Linux driver, from the list of installed components in its README:
/// the name without `.so`, and the interface version that the name in use ends with.
const LIBRARIES: &[(&str, &str)] = &[
    ("libcuda", "1"),
    ("libcudadebugger", "1"),
    ("libnvcuvid", "1"),
    ("libnvidia-allocator", "1"),
    ("libnvidia-cfg", "1"),
    ("libnvidia-encode", "1"),
    ("libnvidia-nvvm", "4"),
    ("libnvidia-opencl", "1"),
    ("libnvidia-opticalflow", "1"),
    ("libnvidia-ptxjitcompiler", "1"),
];

const PROGRAMS: [&str; 4] = [
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-debugdump",
    "nvidia-persistenced",
];

pub(super) fn install(
    tree: &Tree<'_>,
    version: &str,
    artifacts: &Artifacts,
) -> Result<(), InstallError> {
    tree.copy_program(
        &artifacts.nvml,
        &format!("{LIBRARY_DIR}/libnvidia-ml.so.{version}"),
    )?;
    link(tree, "libnvidia-ml", "1", version)?;
    for (stem, interface) in LIBRARIES {
        let object = elf::shared_object(&format!("{stem}.so.{interface}"), SIMULATED);
        tree.write_program(&format!("{LIBRARY_DIR}/{stem}.so.{version}"), object)?;
        link(tree, stem, interface, version)?;
    }
    tree.copy_program(&artifacts.nvidia_smi, "usr/bin/nvidia-smi")?;
    for name in PROGRAMS {
        let script = format!("#!/bin/sh\necho '{name}: {SIMULATED}' >&2\nexit 1\n");
        tree.write_program(&format!("usr/bin/{name}"), script)?;
    }
    // The image for Turing. Later ones share the file in which the state stands.
    tree.write(
        &format!("{}/{version}/gsp_tu10x.bin", super::FIRMWARE),
        SIMULATED,
    )?;
    Ok(())
}

fn link(tree: &Tree<'_>, stem: &str, interface: &str, version: &str) -> Result<(), InstallError> {
    let used = format!("{stem}.so.{interface}");
    tree.link(
        &format!("{stem}.so.{version}"),
        &format!("{LIBRARY_DIR}/{used}"),
    )?;
    tree.link(&used, &format!("{LIBRARY_DIR}/{stem}.so"))
}
