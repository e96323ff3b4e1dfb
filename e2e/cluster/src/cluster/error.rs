//! What can go wrong with a cluster, in words for whoever asked for it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::cargo::CargoError;
use crate::cgroup::CgroupError;
use crate::driver::DriverError;
use crate::images::ImageError;
use crate::names::MOST_NODES;
use crate::packages::PackagesError;
use crate::pki::PkiError;
use crate::process::RunError;
use crate::programs::ProgramsError;
use crate::teardown::TeardownError;

/// Something about the cluster failed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Not run as root.
    #[error(
        "bring a cluster up: it makes namespaces, links and cgroups, which needs root; run it with sudo"
    )]
    NotRoot,
    /// So many nodes do not fit.
    #[error(
        "bring up {asked} nodes: between 1 and {MOST_NODES} fit on one machine's cluster network"
    )]
    NodeCount {
        /// How many were asked for.
        asked: u8,
    },
    /// One is up already.
    #[error("bring a cluster up: one is up in {} that is kept; there is one per machine, take it down first with `{}cargo xtask cluster down`", dir.display(), elsewhere(dir))]
    AlreadyUp {
        /// Whose.
        dir: PathBuf,
    },
    /// The cluster of another process does not end.
    #[error(
        "bring a cluster up: that of {whose} has not ended after {} minutes, and there is one per machine; wait for it, or stop that process",
        limit.as_secs() / 60
    )]
    NoTurn {
        /// The process.
        whose: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// It could not be found out whether another process has a cluster.
    #[error("look whether another process has a cluster on this machine")]
    Turn(#[source] io::Error),
    /// The kernel gave no random identity.
    #[error("give the cluster an identity: read /proc/sys/kernel/random/uuid")]
    Identity(#[source] io::Error),
    /// None is up.
    #[error("find the cluster: none is up; bring one up with `cargo xtask cluster up`")]
    NotUp,
    /// No such node.
    #[error("find the node {name}: the cluster has {}", known.join(", "))]
    NoSuchNode {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Containers cannot be kept there.
    #[error("keep the cluster in {}: it lies on an overlay file system, in which containers cannot have theirs; set TESSERA_CLUSTER_DIR to a directory on a disk", dir.display())]
    Overlay {
        /// Where.
        dir: PathBuf,
    },
    /// A file could not be written.
    #[error("write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The API server did not take what a new cluster has from its start.
    #[error("make the objects that a cluster has from its start")]
    FirstObjects {
        /// Why.
        source: RunError,
    },
    /// A part of the cluster does not come up.
    #[error("start {part}{}: {reason}\n--- end of {} ---\n{tail}", of_owner(owner), log.display())]
    Part {
        /// The program.
        part: String,
        /// The node, or the control plane.
        owner: String,
        /// What is known.
        reason: String,
        /// Its log.
        log: PathBuf,
        /// The log's end.
        tail: String,
    },
    /// A wait ended without what was waited for, and no part looks broken.
    #[error("wait for {what}: {reason}\n--- end of {} ---\n{tail}", log.display())]
    Wait {
        /// What for.
        what: String,
        /// Why it ended.
        reason: String,
        /// The log that is likeliest to tell.
        log: PathBuf,
        /// Its end.
        tail: String,
    },
    /// A first process was not started.
    #[error("start the first process of {owner}")]
    Launch {
        /// The node, or the control plane.
        owner: String,
        /// Why.
        source: io::Error,
    },
    /// The network was not made.
    #[error("set up the network of {owner}")]
    Network {
        /// The node, or the control plane.
        owner: String,
        /// Why.
        source: RunError,
    },
    /// An image did not get to a node.
    #[error("import {} on {node}", archive.display())]
    Import {
        /// The archive.
        archive: PathBuf,
        /// The node.
        node: String,
        /// Why.
        source: RunError,
    },
    /// A program that was ended did not come back.
    #[error("restart {part}: {reason}")]
    Restart {
        /// Which, and of which node.
        part: String,
        /// What is known.
        reason: String,
    },
    /// A pod's way to the API server could not be cut.
    #[error("cut a pod on {node} off from the API server")]
    Cut {
        /// The node.
        node: String,
        /// Why.
        source: RunError,
    },
    /// A node did not end or did not come back.
    #[error("reboot {node}: {reason}")]
    Reboot {
        /// The node.
        node: String,
        /// What is known.
        reason: String,
    },
    /// The first processes did not hear that they shall stay.
    #[error("keep the cluster")]
    Keep(#[source] io::Error),
    /// A signal came.
    #[error("interrupted")]
    Interrupted,
    /// See there.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// See there.
    #[error(transparent)]
    Packages(#[from] PackagesError),
    /// See there.
    #[error(transparent)]
    Cargo(#[from] CargoError),
    /// See there.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// See there.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// See there.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// See there.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// See there.
    #[error(transparent)]
    Teardown(#[from] TeardownError),
}

fn of_owner(owner: &str) -> String {
    if owner == crate::control_plane::OWNER {
        String::new()
    } else {
        format!(" on {owner}")
    }
}

fn elsewhere(dir: &std::path::Path) -> String {
    if dir == crate::paths::StateDir::of_environment().root() {
        String::new()
    } else {
        format!("TESSERA_CLUSTER_DIR={} ", dir.display())
    }
}
