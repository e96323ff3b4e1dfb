//! What of a driver installation a container needs.

use std::collections::BTreeMap;

use tessera_device::PciAddress;

/// A file of the driver installation, or a device node beside it.
///
/// Both paths are absolute and without symbolic links, dots or a trailing slash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DriverFile {
    /// Where the host has it.
    pub host: String,
    /// Where the container gets it.
    pub container: String,
}

/// A symbolic link that the container needs beside the driver's files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DriverLink {
    /// Absolute path of the link in the container.
    pub link: String,
    /// What the link says: a name in the link's own folder, or an absolute path in the container.
    pub target: String,
}

/// The driver installation of a node, as far as containers need it.
///
/// It is found by the shell, once for each state of the driver root, and is the same for all GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriverInstall {
    /// Libraries of this driver version.
    pub libraries: Vec<DriverFile>,
    /// Links to them: the names that programs are linked with and the loader looks for.
    pub links: Vec<DriverLink>,
    /// Programs such as `nvidia-smi`.
    pub binaries: Vec<DriverFile>,
    /// Firmware of the GPU system processor, which user-space parts of the driver read.
    pub firmware: Vec<DriverFile>,
    /// Sockets of the driver's daemons.
    pub sockets: Vec<DriverFile>,
    /// Device nodes that serve all GPUs, such as `/dev/nvidiactl`.
    pub control_nodes: Vec<DriverFile>,
    /// The host's folder with the nodes `nvidia<minor>`.
    pub gpu_nodes: String,
    /// DRM nodes by the GPU that they belong to.
    pub drm_nodes: BTreeMap<PciAddress, Vec<DriverFile>>,
    /// Host path of the CDI hook. Without it a container gets files but neither links nor a loader
    /// cache, so its programs find no driver library by name.
    pub hook: Option<String>,
    /// Host path of the `ldconfig` that came with the driver. Without one the hook looks where the
    /// host itself keeps it, because only the hook sees the host's file system.
    pub ldconfig: Option<String>,
    /// The hook that has containers limited in their memory.
    pub limit_hook: LimitHook,
}

/// The hook that has containers limited in their memory: without it no container with a limit can start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitHook {
    /// Host path of the program.
    pub program: String,
    /// Host path of the socket at which it asks for the limit.
    pub socket: String,
}

impl DriverInstall {
    /// The folders, in the container, that the loader must know. Sorted, each once.
    pub fn library_folders(&self) -> Vec<&str> {
        let mut folders: Vec<&str> = self
            .libraries
            .iter()
            .filter_map(|library| library.container.rsplit_once('/'))
            .map(|(folder, _)| if folder.is_empty() { "/" } else { folder })
            .collect();
        folders.sort_unstable();
        folders.dedup();
        folders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_learns_each_folder_once_and_the_root_by_its_name() {
        let library = |path: &str| DriverFile {
            host: format!("/run/nvidia/driver{path}"),
            container: path.to_owned(),
        };
        let install = DriverInstall {
            libraries: vec![
                library("/usr/lib64/libcuda.so.580.95.05"),
                library("/usr/lib64/libnvidia-ml.so.580.95.05"),
                library("/libnvidia-nvvm.so.580.95.05"),
            ],
            ..DriverInstall::default()
        };
        assert_eq!(install.library_folders(), ["/", "/usr/lib64"]);
    }
}
