//! From a claim's GPUs and the driver installation to the claim's spec.

use std::collections::{BTreeMap, BTreeSet};

use tessera_device::mig::{DeviceNumber, MigAccess, MigInstance};
use tessera_device::{Bytes, Gpu};

use super::limit::limit_hook;
use super::{
    CdiKind, ContainerEdits, Device, DeviceNode, DriverFile, DriverInstall, Hook, Mount, Spec,
};

/// Driver files are read-only to tenants and can neither raise privileges nor act as devices.
const FILE_OPTIONS: [&str; 5] = ["ro", "nosuid", "nodev", "rbind", "rprivate"];

/// A read-only mount of a socket still takes connections.
const SOCKET_OPTIONS: [&str; 6] = ["ro", "nosuid", "nodev", "noexec", "rbind", "rprivate"];

/// Keeps runc from handing the image's environment to a hook, `LD_PRELOAD` included.
const HOOK_ENV: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

/// Seconds. Longer than the hook's own limit, so that it is the hook that says what took so long.
const HOOK_TIMEOUT: u32 = 60;

/// One GPU, or MIG device of one, that a claim gives to containers.
#[derive(Clone, Debug)]
pub struct GpuEdits<'a> {
    /// Its name within the spec.
    pub name: String,
    /// The GPU behind it.
    pub gpu: &'a Gpu,
    /// The MIG device of the GPU, where it is one.
    pub instance: Option<&'a MigInstance>,
    /// The variable that says what the container has of it, where it is a share.
    pub variable: Option<String>,
    /// The most memory that the container may have of it, where the driver is to hold it to that.
    pub memory_limit: Option<Bytes>,
}

/// The spec of a claim that holds these GPUs. There must be at least one.
///
/// One that it has twice, as with admin access beside its own use, is the same device of the spec.
///
/// What all GPUs need stands at the level of the spec, because the runtime applies that once per
/// container; each device adds its own nodes.
pub fn claim_spec(kind: &CdiKind, gpus: &[GpuEdits<'_>], install: &DriverInstall) -> Spec {
    let mut named = BTreeSet::new();
    let devices = gpus
        .iter()
        .filter(|edits| named.insert(&edits.name))
        .map(|edits| Device {
            name: edits.name.clone(),
            annotations: BTreeMap::new(),
            container_edits: gpu_edits(edits, install),
        })
        .collect();
    Spec::new(kind, devices, common_edits(install))
}

/// A MIG device needs the nodes of its GPU as well: the capabilities say what of the GPU a program may
/// use (MIG user guide, "Device Nodes and Capabilities").
fn gpu_edits(edits: &GpuEdits<'_>, install: &DriverInstall) -> ContainerEdits {
    let GpuEdits { gpu, instance, .. } = edits;
    let name = format!("nvidia{}", gpu.minor);
    let own = DeviceNode::new(
        format!("/dev/{name}"),
        format!("{}/{name}", install.gpu_nodes.trim_end_matches('/')),
    );
    let drm = install.drm_nodes.get(&gpu.pci).into_iter().flatten();
    let capabilities = instance.iter().flat_map(|instance| {
        let MigAccess {
            gpu_instance,
            compute_instance,
        } = instance.access;
        [gpu_instance, compute_instance].map(capability)
    });
    ContainerEdits {
        env: edits.variable.iter().cloned().collect(),
        device_nodes: std::iter::once(own)
            .chain(drm.map(device_node))
            .chain(capabilities)
            .collect(),
        hooks: limit_hook(edits, install).into_iter().collect(),
        ..ContainerEdits::default()
    }
}

/// The node of a capability. The host's may be missing: `nvidia-modprobe` makes it when a program there
/// asks for it.
fn capability(number: DeviceNumber) -> DeviceNode {
    let path = format!("/dev/nvidia-caps/nvidia-cap{}", number.minor);
    DeviceNode::numbered(path, number)
}

fn common_edits(install: &DriverInstall) -> ContainerEdits {
    let files = install
        .libraries
        .iter()
        .chain(&install.binaries)
        .chain(&install.firmware)
        .map(|file| mount(file, &FILE_OPTIONS));
    let sockets = install
        .sockets
        .iter()
        .map(|socket| mount(socket, &SOCKET_OPTIONS));
    ContainerEdits {
        env: vec!["NVIDIA_VISIBLE_DEVICES=void".to_owned()],
        device_nodes: install.control_nodes.iter().map(device_node).collect(),
        mounts: files.chain(sockets).collect(),
        hooks: hooks(install),
        ..ContainerEdits::default()
    }
}

fn device_node(node: &DriverFile) -> DeviceNode {
    DeviceNode::new(&node.container, &node.host)
}

fn mount(file: &DriverFile, options: &[&'static str]) -> Mount {
    Mount {
        host_path: file.host.clone(),
        container_path: file.container.clone(),
        options: options.to_vec(),
    }
}

/// The links come first: the loader cache lists them.
///
/// The arguments are spelled as NVIDIA's own `nvidia-cdi-hook` takes them, so that either program
/// can stand at the hook's path.
fn hooks(install: &DriverInstall) -> Vec<Hook> {
    let Some(program) = &install.hook else {
        return Vec::new();
    };
    let mut hooks = Vec::new();
    if !install.links.is_empty() {
        let links = install
            .links
            .iter()
            .map(|link| format!("{}::{}", link.target, link.link));
        hooks.push(hook(program, "create-symlinks", pairs("--link", links)));
    }
    if !install.libraries.is_empty() {
        let folders = install.library_folders().into_iter().map(str::to_owned);
        let mut arguments = pairs("--folder", folders);
        arguments.extend(pairs("--ldconfig-path", install.ldconfig.iter().cloned()));
        hooks.push(hook(program, "update-ldcache", arguments));
    }
    hooks
}

fn pairs(flag: &str, values: impl Iterator<Item = String>) -> Vec<String> {
    values.flat_map(|value| [flag.to_owned(), value]).collect()
}

pub(super) fn hook(program: &str, command: &str, arguments: Vec<String>) -> Hook {
    let name = program.rsplit('/').next().unwrap_or(program);
    let mut args = vec![name.to_owned(), command.to_owned()];
    args.extend(arguments);
    Hook {
        hook_name: "createContainer",
        path: program.to_owned(),
        args,
        env: vec![HOOK_ENV.to_owned()],
        timeout: Some(HOOK_TIMEOUT),
    }
}

#[cfg(test)]
mod tests;
