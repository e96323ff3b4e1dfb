//! The capabilities of MIG: files below `/proc/driver/nvidia/capabilities`, and a device node for each.
//!
//! The kernel's driver makes the files when instances are made. The nodes are made by `nvidia-modprobe`,
//! which `nvidia-smi` calls; here they come and go with the files.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{InstallError, Tree, devices, kernel::PROC};
use crate::{
    mig::{CONFIG_CAPABILITY, MONITOR_CAPABILITY, capability},
    state::Node,
};

/// Where device nodes of capabilities are, below the root.
const NODES: &str = "dev/nvidia-caps";

/// What an owner may do (0400) and what everybody may (0444): the modes that the user guide shows for
/// `mig/config` and for all others.
const OWNER: u32 = 0o400;
const EVERYBODY: u32 = 0o444;

/// A capability: where its file is below `capabilities`, its minor number, its mode.
struct Capability {
    path: String,
    minor: u32,
    mode: u32,
}

/// Makes files and nodes for exactly the instances that the node has.
pub(super) fn sync(tree: &Tree<'_>, node: &Node) -> Result<(), InstallError> {
    let folder = format!("{PROC}/capabilities");
    if node.gpus.iter().all(|gpu| gpu.facts.max_mig_devices == 0) {
        return Ok(());
    }
    let wanted = capabilities(node);
    let nodes: BTreeMap<String, &Capability> = wanted
        .iter()
        .map(|capability| (format!("nvidia-cap{}", capability.minor), capability))
        .collect();
    // Nodes come first and go last, so that nobody finds an instance without its nodes.
    for (name, Capability { minor, mode, .. }) in &nodes {
        let path = format!("{NODES}/{name}");
        if !tree.root.join(&path).exists() {
            devices::make(tree, &path, devices::CAPS_MAJOR, *minor, *mode)?;
        }
    }
    let made: BTreeMap<PathBuf, &Capability> = wanted
        .iter()
        .map(|capability| (tree.root.join(&folder).join(&capability.path), capability))
        .collect();
    for (path, capability) in &made {
        if !path.exists() {
            tree.write(&format!("{folder}/{}", capability.path), text(capability))?;
        }
    }
    for gpu in &node.gpus {
        let mig = tree
            .root
            .join(format!("{folder}/gpu{}/mig", gpu.facts.minor));
        if gpu.condition.mig.enabled {
            fs::create_dir_all(&mig).map_err(|source| Tree::error("make", &mig, source))?;
            remove_others(&mig, &made)?;
        } else if let Some(gpu) = mig.parent() {
            super::remove(gpu)?;
        }
    }
    for entry in list(&tree.root.join(NODES))? {
        let name = entry.file_name().and_then(|name| name.to_str());
        if name.is_none_or(|name| !nodes.contains_key(name)) {
            fs::remove_file(&entry).map_err(|source| Tree::error("remove", &entry, source))?;
        }
    }
    Ok(())
}

fn capabilities(node: &Node) -> Vec<Capability> {
    let mut all = vec![
        Capability {
            path: "mig/config".to_owned(),
            minor: CONFIG_CAPABILITY,
            mode: OWNER,
        },
        Capability {
            path: "mig/monitor".to_owned(),
            minor: MONITOR_CAPABILITY,
            mode: EVERYBODY,
        },
    ];
    for gpu in &node.gpus {
        let minor = gpu.facts.minor;
        for part in gpu.condition.mig.parts() {
            all.push(Capability {
                path: format!("gpu{minor}/mig/gi{}/access", part.number),
                minor: capability(minor, part.number, None),
                mode: EVERYBODY,
            });
        }
        for instance in &gpu.condition.mig.instances {
            let (gi, ci) = (instance.gpu_instance, instance.compute_instance);
            all.push(Capability {
                path: format!("gpu{minor}/mig/gi{gi}/ci{ci}/access"),
                minor: capability(minor, gi, Some(ci)),
                mode: EVERYBODY,
            });
        }
    }
    all
}

fn text(capability: &Capability) -> String {
    let Capability { minor, mode, .. } = capability;
    format!("DeviceFileMinor: {minor}\nDeviceFileMode: {mode}\nDeviceFileModify: 1\n")
}

/// Removes what lies below `folder` and leads to none of these files.
fn remove_others(
    folder: &Path,
    files: &BTreeMap<PathBuf, &Capability>,
) -> Result<(), InstallError> {
    for entry in list(folder)? {
        if files.contains_key(&entry) {
            continue;
        }
        if files.keys().any(|file| file.starts_with(&entry)) {
            remove_others(&entry, files)?;
        } else if entry.is_dir() {
            super::remove(&entry)?;
        } else {
            fs::remove_file(&entry).map_err(|source| Tree::error("remove", &entry, source))?;
        }
    }
    Ok(())
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, InstallError> {
    let error = |source| Tree::error("list", folder, source);
    match fs::read_dir(folder) {
        Err(absent) if absent.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries
            .map_err(error)?
            .map(|entry| Ok(entry.map_err(error)?.path()))
            .collect(),
    }
}
