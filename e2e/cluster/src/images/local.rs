//! The two images that every node has: what holds a pod's namespaces, and what pods of demo and scenarios run.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::ImageError;
use super::libraries::add_libraries;
use super::oci::Image;
use crate::cargo::{self, Linking, Profile};
use crate::packages::{self, Package};
use crate::platform::Platform;
use crate::process::{self, run};
use crate::progress::Progress;

/// The sandbox image.
pub const PAUSE: &str = "docker.io/tessera/pause:1";
/// A C library and the tools of busybox: a place in which driver libraries and `nvidia-smi` run.
pub const WORKLOAD: &str = "docker.io/tessera/workload:1";

/// The workload image with the variable that images for GPUs have: the classic container runtime of NVIDIA
/// takes it as the wish for every GPU of the node.
pub const WORKLOAD_ALL_GPUS: &str = "docker.io/tessera/workload-all-gpus:1";

/// The sandbox image: one static program.
pub fn pause() -> Result<Image, ImageError> {
    let built = cargo::build(
        &["tessera-pause"],
        Profile::Dev,
        Linking::Static,
        Platform::HERE,
    )?;
    Image::new(PAUSE)
        .entrypoint(&["/pause"])
        .program("/pause", built.file("tessera-pause")?)
}

/// The image of workloads that asks for all GPUs.
pub fn asking_for_all_gpus(workload: &Image) -> Image {
    workload
        .clone()
        .named(WORKLOAD_ALL_GPUS)
        .variable("NVIDIA_VISIBLE_DEVICES", "all")
}

/// The image of workloads. `like` is a dynamically linked program whose libraries it shall hold.
pub fn workload(like: &Path, progress: &dyn Progress) -> Result<Image, ImageError> {
    packages::ensure(&[Package::Busybox], progress)?;
    let busybox = process::find("busybox").unwrap_or_else(|| "/bin/busybox".into());
    let tools = run(
        Command::new(&busybox).arg("--list"),
        Duration::from_secs(10),
    )
    .map_err(ImageError::Busybox)?;
    let image = Image::new(WORKLOAD)
        .command(&["/bin/sh"])
        .program("/bin/busybox", &busybox)?
        .directory("/tmp", 0o1777)
        .directory("/proc", 0o555)
        .directory("/sys", 0o555)
        .directory("/dev", 0o755)
        .file("/etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n")
        .file("/etc/group", 0o644, "root:x:0:\n");
    let with_tools = tools
        .lines()
        .filter(|tool| *tool != "busybox")
        .fold(image, |image, tool| {
            image.link(&format!("/bin/{tool}"), "busybox")
        });
    add_libraries(with_tools, &[like, &busybox], Platform::HERE)
}
