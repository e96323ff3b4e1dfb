//! What is written down of a cluster while it is there, for processes that come later.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::names::NodeIndex;
use crate::paths::StateDir;

/// A cluster's record. Written before anything is started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) nodes: Vec<NodeRecord>,
    /// Directories of the machine that were made as mount points, and are removed at the end.
    pub(crate) made: Vec<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    pub(crate) index: NodeIndex,
    pub(crate) profile: Option<String>,
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
