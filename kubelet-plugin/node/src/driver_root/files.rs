//! Which names belong to the driver: the tables, and decisions over listings. Touches no file.

use std::collections::BTreeSet;
use std::fmt;

use tessera_device::{DriverVersion, PciAddress};
use tessera_driver_root::folders::{BINARY_FOLDERS, NVML};
use tessera_prepare::cdi::{DriverFile, DriverInstall, DriverLink};

/// Programs that tenants call. The daemons among them serve MPS and IMEX inside a container.
pub(super) const PROGRAMS: [&str; 7] = [
    NVIDIA_SMI,
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-imex",
    "nvidia-imex-ctl",
];

/// The program that tells of GPUs, and sets what NVML has no call for.
pub(super) const NVIDIA_SMI: &str = "nvidia-smi";

/// By which nvidia-imex is asked how it is.
pub(super) const IMEX_CONTROL: &str = "nvidia-imex-ctl";

/// Folders with a subfolder of firmware for each driver version.
pub(super) const FIRMWARE_FOLDERS: [&str; 2] = ["lib/firmware/nvidia", "usr/lib/firmware/nvidia"];

/// Sockets of the driver's daemons. The pipe folder of MPS is not among them: a node-wide MPS
/// daemon would join tenants that were given a GPU each.
pub(super) const SOCKETS: [&str; 4] = [
    "run/nvidia-persistenced/socket",
    "var/run/nvidia-persistenced/socket",
    "run/nvidia-fabricmanager/socket",
    "var/run/nvidia-fabricmanager/socket",
];

/// Where `ldconfig` is. On Ubuntu the plain name is a shell script around the other.
pub(super) const LDCONFIGS: [&str; 4] = [
    "sbin/ldconfig.real",
    "usr/sbin/ldconfig.real",
    "sbin/ldconfig",
    "usr/sbin/ldconfig",
];

/// Device nodes that serve all GPUs.
pub(super) const CONTROL_NODES: [&str; 4] = [
    "dev/nvidiactl",
    UVM_NODE,
    "dev/nvidia-uvm-tools",
    "dev/nvidia-modeset",
];

const UVM_NODE: &str = "dev/nvidia-uvm";

/// Links that a container gets where the installation lacks them: the link's name, and the stem of
/// the library that it leads to, in the same folder. Programs load `libcuda.so` by its bare name,
/// which some packages leave to their development part.
pub(super) const ALWAYS_LINKED: [(&str, &str); 3] = [
    ("libcuda.so.1", "libcuda.so."),
    ("libcuda.so", "libcuda.so."),
    (NVML, "libnvidia-ml.so."),
];

/// Libraries that come with the driver and have a version of their own.
const OTHER_VERSIONS: [&str; 5] = [
    "libnvidia-api.so.",
    "libnvidia-egl-gbm.so.",
    "libnvidia-egl-wayland.so.",
    "libnvidia-egl-xcb.so.",
    "libnvidia-egl-xlib.so.",
];

/// A part of the driver that containers go without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// `nvidia-smi`.
    Smi,
    /// The CUDA driver library.
    Cuda,
    /// The node through which CUDA manages memory.
    UvmNode,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Smi => write!(
                f,
                "{NVIDIA_SMI} is in none of {} below the driver root; install the driver's tools",
                BINARY_FOLDERS.join(", ")
            ),
            Self::Cuda => f.write_str(
                "no libcuda.so of the loaded driver's version is below the driver root, so CUDA \
                 programs do not run; install the driver's compute libraries",
            ),
            Self::UvmNode => write!(
                f,
                "/{UVM_NODE} is missing, so CUDA programs do not run; load the module nvidia-uvm \
                 (nvidia-modprobe -u -c 0)"
            ),
        }
    }
}

/// What an installation lacks.
pub(super) fn missing(install: &DriverInstall) -> Vec<Missing> {
    let ends =
        |files: &[DriverFile], end: &str| files.iter().any(|file| file.container.ends_with(end));
    let cuda = install
        .libraries
        .iter()
        .any(|library| library.container.contains("/libcuda.so."));
    [
        (!ends(&install.binaries, NVIDIA_SMI), Missing::Smi),
        (!cuda, Missing::Cuda),
        (!ends(&install.control_nodes, UVM_NODE), Missing::UvmNode),
    ]
    .into_iter()
    .filter_map(|(lacks, what)| lacks.then_some(what))
    .collect()
}

/// The libraries of this driver version among the names of a folder.
///
/// Of the libraries with a version of their own only the files are taken, which have a version of
/// several numbers, or no link that names one.
pub(super) fn libraries<'a>(names: &'a [String], version: &DriverVersion) -> Vec<&'a str> {
    let of_version = format!(".so.{version}");
    let other = |name: &str| {
        OTHER_VERSIONS.iter().any(|stem| {
            name.strip_prefix(stem).is_some_and(|rest| {
                let longer = format!("{name}.");
                is_version(rest) && !names.iter().any(|other| other.starts_with(&longer))
            })
        })
    };
    names
        .iter()
        .map(String::as_str)
        .filter(|name| name.starts_with("lib"))
        .filter(|name| name.ends_with(&of_version) || other(name))
        .collect()
}

fn is_version(text: &str) -> bool {
    text.split('.')
        .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

/// The names that may be links to the chosen libraries: the same name with a shorter version or
/// none.
pub(super) fn link_candidates<'a>(names: &'a [String], chosen: &[&str]) -> Vec<&'a str> {
    let stems: BTreeSet<&str> = chosen
        .iter()
        .filter_map(|name| name.find(".so.").map(|at| &name[..at + 3]))
        .collect();
    names
        .iter()
        .map(String::as_str)
        .filter(|name| !chosen.contains(name))
        .filter(|name| {
            name.find(".so").is_some_and(|at| {
                let (stem, version) = name.split_at(at + 3);
                stems.contains(stem)
                    && (version.is_empty() || version.strip_prefix('.').is_some_and(is_version))
            })
        })
        .collect()
}

/// The link to make for one that the installation has. A bare name is kept, so that chains of links
/// stay as they are; any other text is replaced by the file's path in the container.
pub(super) fn link(path: String, text: &str, leads_to: String) -> DriverLink {
    let target = if text.contains('/') {
        leads_to
    } else {
        text.to_owned()
    };
    DriverLink { target, link: path }
}

/// The links of a table that a folder lacks although it has the library.
pub(super) fn missing_links(
    folder: &str,
    table: &[(&str, &str)],
    libraries: &[String],
    links: &[DriverLink],
) -> Vec<DriverLink> {
    let path = |name: &str| format!("{}/{name}", folder.trim_end_matches('/'));
    table
        .iter()
        .filter_map(|(name, stem)| {
            let stem = path(stem);
            let target = libraries
                .iter()
                .find(|library| library.starts_with(&stem))?;
            let link = path(name);
            let there = links.iter().any(|other| other.link == link) || libraries.contains(&link);
            (!there).then(|| DriverLink {
                target: target.rsplit('/').next().unwrap_or(target).to_owned(),
                link,
            })
        })
        .collect()
}

/// Whether a name in a version's firmware folder is that of a GPU system processor's firmware.
pub(super) fn is_firmware(name: &str) -> bool {
    name.strip_prefix("gsp")
        .and_then(|rest| rest.strip_suffix(".bin"))
        .is_some()
}

/// The PCI device that an entry of `/dev/dri/by-path` belongs to, if it is one.
pub(super) fn drm_owner(name: &str) -> Option<PciAddress> {
    let name = name.strip_prefix("pci-")?;
    let address = name
        .strip_suffix("-card")
        .or_else(|| name.strip_suffix("-render"))?;
    address.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn libraries_of_the_loaded_version_and_the_few_with_their_own_are_taken() {
        let names = names(&[
            "libc.so.6",
            "libcuda.so",
            "libcuda.so.1",
            "libcuda.so.570.10.01",
            "libcuda.so.580.95.05",
            "libnvidia-api.so.1",
            "libnvidia-egl-gbm.so.1",
            "libnvidia-egl-gbm.so.1.1.2",
            "libnvidia-ml.so.580.95.05",
            "libnvidia-ml.so.580.95.05.bak",
            "nvidia.so.580.95.05",
        ]);
        let version = DriverVersion::new("580.95.05");
        let chosen = libraries(&names, &version);
        assert_eq!(
            chosen,
            [
                "libcuda.so.580.95.05",
                "libnvidia-api.so.1",
                "libnvidia-egl-gbm.so.1.1.2",
                "libnvidia-ml.so.580.95.05",
            ]
        );
        assert_eq!(
            link_candidates(&names, &chosen),
            [
                "libcuda.so",
                "libcuda.so.1",
                "libcuda.so.570.10.01",
                "libnvidia-egl-gbm.so.1"
            ]
        );
    }

    #[test]
    fn a_link_by_bare_name_is_kept_and_another_leads_to_the_file() {
        let file = || "/usr/lib64/libcuda.so.580.95.05".to_owned();
        let at = || "/usr/lib64/libcuda.so".to_owned();
        assert_eq!(link(at(), "libcuda.so.1", file()).target, "libcuda.so.1");
        assert_eq!(
            link(at(), "/etc/alternatives/libcuda.so", file()).target,
            file()
        );
    }

    #[test]
    fn a_drm_node_belongs_to_the_pci_device_in_its_link() {
        let address = "0000:1b:00.0".parse().ok();
        for (name, owner) in [
            ("pci-0000:1b:00.0-card", address),
            ("pci-0000:1b:00.0-render", address),
            ("pci-0000:00:14.0-usb-0:1:1.0-card", None),
            ("platform-simple-framebuffer.0-card", None),
            ("pci-0000:1b:00.0", None),
        ] {
            assert_eq!(drm_owner(name), owner, "{name}");
        }
    }
}
