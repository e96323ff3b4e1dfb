//! Slices that are captured, and simulated machines to hold them against.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use k8s_openapi::List;
use k8s_openapi::api::resource::v1::ResourceSlice;
use tempfile::TempDir;
use tessera_device::Inventory;
use tessera_hw::{Artifacts, InstallError, Node as Simulated, install};
use tessera_nvml::{KernelFiles, Nvml};
use tessera_offer::{Node, Offer};
use tessera_sharing::ConsumableShares;

static ARTIFACTS: LazyLock<Artifacts> = LazyLock::new(|| Artifacts::build().unwrap());

/// The slices of one node as the reference driver publishes them.
pub(crate) struct Capture(Vec<ResourceSlice>);

impl Capture {
    pub(crate) fn read(text: &str) -> Self {
        let list: List<ResourceSlice> = serde_yaml_ng::from_str(text).unwrap();
        Self(list.items)
    }

    /// The slices of this driver, of which there is one at least.
    pub(crate) fn of(&self, driver: &str) -> Vec<ResourceSlice> {
        let slices = self.0.iter().filter(|slice| slice.spec.driver == driver);
        let slices: Vec<_> = slices.cloned().collect();
        assert!(!slices.is_empty(), "{driver} has slices");
        slices
    }

    pub(crate) fn node(&self) -> Node {
        let slice = &self.0[0];
        let owners = slice.metadata.owner_references.iter().flatten();
        Node {
            name: slice.spec.node_name.clone().unwrap(),
            uid: owners
                .map(|owner| owner.uid.clone())
                .next()
                .unwrap_or_default(),
        }
    }
}

/// A simulated machine.
pub(crate) struct Machine {
    _directory: TempDir,
    pub(crate) root: PathBuf,
}

impl Machine {
    pub(crate) fn new(profile: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("driver");
        install(&root, profile, "node-1", &ARTIFACTS)
            .unwrap_or_else(|error| panic!("these tests need root with CAP_MKNOD: {error:?}"));
        Self {
            _directory: directory,
            root,
        }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Simulated)) {
        let changed = |node: &mut Simulated| {
            change(node);
            Ok::<_, InstallError>(())
        };
        tessera_hw::install::change(&self.root, changed).unwrap();
    }

    pub(crate) fn inventory(&self) -> Inventory {
        let library = fs::canonicalize(self.root.join("usr/lib64/libnvidia-ml.so.1")).unwrap();
        let kernel = KernelFiles {
            sysfs: self.root.join("sys"),
            proc: self.root.join("proc"),
        };
        let scan = Nvml::load(&library).unwrap().inventory(&kernel).unwrap();
        assert!(scan.problems.is_empty(), "{:?}", scan.problems);
        scan.inventory
    }
}

/// What the driver for GPUs offers of them as they are found.
pub(crate) fn gpus(inventory: &Inventory, node: &Node, shares: ConsumableShares) -> Offer {
    tessera_offer::plan(inventory, node, "gpu.nvidia.com", shares)
}
