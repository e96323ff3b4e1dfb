//! What is written down of a cluster while it is there, for processes that come later.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::names::NodeIndex;
use crate::paths::StateDir;
use crate::release::Release;

/// Which cluster: no two ever have the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ClusterId(String);

impl ClusterId {
    /// A new one.
    pub(crate) fn new() -> io::Result<Self> {
        let random = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        Ok(Self(random.trim().to_owned()))
    }
}

/// A cluster's record. Written before anything is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: ClusterId,
    /// Which Kubernetes it runs.
    #[serde(default)]
    pub(crate) kubernetes: Release,
    /// Whether it outlives the process that brought it up.
    pub(crate) kept: bool,
    pub(crate) nodes: Vec<NodeRecord>,
    /// Directories of the machine that were made as mount points, and are removed at the end.
    pub(crate) made: Vec<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    pub(crate) index: NodeIndex,
    pub(crate) profile: Option<String>,
    /// The release of its kubelet.
    #[serde(default)]
    pub(crate) kubelet: Release,
}

impl Record {
    /// The record in this directory. None where there is no cluster, or one that died before it wrote a whole record.
    pub(crate) fn read(dir: &StateDir) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.record()).ok()?).ok()
    }

    pub(crate) fn write(&self, dir: &StateDir) -> io::Result<()> {
        fs::write(dir.record(), serde_json::to_vec_pretty(self)?)
    }
}
