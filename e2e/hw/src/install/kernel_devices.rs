//! `/proc/devices`: which major numbers the driver was given.
//!
//! It stands below the driver root like the rest of `/proc`: the machine's own has no NVIDIA driver.

use super::{InstallError, Tree, devices};

/// The major number of IMEX channels, as it was on a GB200 tray. The kernel gives out a free one, and
/// another after the next boot.
pub(super) const IMEX_CHANNELS_MAJOR: u32 = 234;

/// How many IMEX channels there are: the default of the module parameter `NVreg_ImexChannelCount`
/// (`nv-reg.h` of NVIDIA's open kernel modules).
pub(super) const IMEX_CHANNELS: u32 = 2048;

/// Character devices of any Linux that are there besides.
const OTHERS: [(u32, &str); 3] = [(1, "mem"), (5, "/dev/tty"), (10, "misc")];

/// Writes the file, in the order in which the kernel does.
pub(super) fn install(tree: &Tree<'_>) -> Result<(), InstallError> {
    let ours = [
        (devices::NVIDIA_MAJOR, "nvidia"),
        (devices::NVIDIA_MAJOR, "nvidiactl"),
        (IMEX_CHANNELS_MAJOR, "nvidia-caps-imex-channels"),
        (devices::CAPS_MAJOR, "nvidia-caps"),
        (devices::UVM_MAJOR, "nvidia-uvm"),
    ];
    let lines = OTHERS.iter().chain(&ours);
    let lines: Vec<String> = lines
        .map(|(major, name)| format!("{major:>3} {name}"))
        .collect();
    let text = format!(
        "Character devices:\n{}\n\nBlock devices:\n  8 sd\n259 blkext\n",
        lines.join("\n")
    );
    tree.write("proc/devices", text).map(drop)
}
