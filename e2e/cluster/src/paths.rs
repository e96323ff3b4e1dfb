//! Where a cluster keeps its files: one directory that teardown empties, but for the logs of the last run.

use std::path::{Path, PathBuf};

/// The checkout that this program was built from.
pub fn checkout() -> &'static Path {
    // Compiled in: this crate builds other crates of the same workspace and is of no use without it.
    const HERE: &str = env!("CARGO_MANIFEST_DIR");
    let root = Path::new(HERE).ancestors().nth(2);
    root.expect("this crate lies two folders below the workspace's root")
}

/// The directory of the machine's one cluster.
///
/// Nodes keep their images and containers there, so it must not lie on an overlay file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateDir(PathBuf);

impl StateDir {
    /// `TESSERA_CLUSTER_DIR`, or the usual place.
    pub(crate) fn of_environment() -> Self {
        let named = std::env::var_os("TESSERA_CLUSTER_DIR").map(PathBuf::from);
        Self(
            named
                .filter(|path| path.is_absolute())
                .unwrap_or_else(|| PathBuf::from("/var/lib/tessera-cluster")),
        )
    }

    /// That of a cluster somewhere else.
    pub(crate) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.0
    }

    /// What is known of the running cluster.
    pub(crate) fn record(&self) -> PathBuf {
        self.0.join("cluster.json")
    }

    /// Held by whoever brings up or tears down.
    pub(crate) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Links to all programs.
    pub(crate) fn bin(&self) -> PathBuf {
        self.0.join("bin")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("log")
    }

    /// The log of one part of the control plane, or of one part of a node (`node0-kubelet`).
    pub(crate) fn log(&self, part: &str) -> PathBuf {
        self.logs().join(format!("{part}.log"))
    }

    pub(crate) fn pki(&self, file: &str) -> PathBuf {
        self.0.join("pki").join(file)
    }

    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.0.join(format!("{user}.kubeconfig"))
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    /// What belongs to one node or to the control plane.
    pub(crate) fn of(&self, owner: &str) -> PathBuf {
        self.0.join(owner)
    }

    /// The plan of a first process.
    pub(crate) fn plan(&self, owner: &str) -> PathBuf {
        self.of(owner).join("plan.json")
    }

    /// What a first process says of its parts.
    pub(crate) fn status(&self, owner: &str) -> PathBuf {
        self.of(owner).join("status.json")
    }

    /// A node's simulated driver installation.
    pub(crate) fn driver_root(&self, node: &str) -> PathBuf {
        self.of(node).join("driver")
    }
}
