//! What the first process of a node, or of the control plane, is told: where it mounts what and which
//! programs it keeps running.
//!
//! It owns namespaces of its own (processes, mounts, network, host name), so its end is the end of everything in them:
//! processes are killed and mounts, links and network namespaces go by the kernel's hand. That is what teardown relies on.

mod init;
mod launch;
mod parts;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use init::run;
pub use launch::launch;

/// The program's name, by which teardown finds its processes.
pub const PROGRAM: &str = "tessera-init";
/// Read from standard input: the network is there, start the programs.
pub const START: &str = "start";
/// Read from standard input: outlive whoever started this. Without it, the end of input is the end of everything.
pub const KEEP: &str = "keep";

/// One set of namespaces and what runs in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Its host name.
    pub host_name: String,
    /// Mounted in this order, before anything runs.
    pub mounts: Vec<Mount>,
    /// The cgroups that it removes at its end, relative to each hierarchy's root.
    pub cgroup: Option<String>,
    /// What runs, started in this order.
    pub parts: Vec<Part>,
    /// Where it writes what runs, for whoever waits: a [`Status`].
    pub status: PathBuf,
}

/// A mount in the namespace. A directory that is missing at either end is made; a file must be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mount {
    /// An empty file system in memory.
    Tmpfs {
        /// Where.
        at: PathBuf,
    },
    /// The processes of the namespace itself.
    Proc {
        /// Where.
        at: PathBuf,
    },
    /// A directory or file of the machine, seen at another place.
    Bind {
        /// Which.
        from: PathBuf,
        /// Where.
        at: PathBuf,
    },
}

/// A program that is kept running: started again when it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name in logs and errors.
    pub name: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its whole environment: nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// Where its output goes, appended.
    pub log: PathBuf,
    /// What must take connections before it starts.
    pub after: Option<Endpoint>,
}

/// Where a part listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// An address in the namespace.
    Tcp(SocketAddr),
}

/// How the parts are, as the first process sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// By the part's name.
    pub parts: BTreeMap<String, PartStatus>,
    /// Why it gave up, if it did.
    pub failure: Option<String>,
}

/// How one part is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartStatus {
    /// Its process in the namespace; none while it is down.
    pub pid: Option<i32>,
    /// How often it was started.
    pub starts: u32,
    /// How it ended last.
    pub last_end: Option<String>,
}

/// The first process could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// It was started by hand, outside namespaces of its own.
    #[error(
        "run a plan: only as the first process of a process namespace; use `cargo xtask cluster up`"
    )]
    NotFirst,
    /// The plan is missing or not one.
    #[error("read the plan {}", path.display())]
    ReadPlan {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A mount failed.
    #[error("mount {}", at.display())]
    Mount {
        /// The mount point.
        at: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host name could not be set.
    #[error("set the host name {name}")]
    HostName {
        /// The name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("start {name}")]
    Start {
        /// The part.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// Signals cannot be caught.
    #[error("catch signals")]
    Signals(#[source] io::Error),
    /// The first process could not be started in its namespaces.
    #[error("start the first process of {}", plan.display())]
    Launch {
        /// Its plan.
        plan: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Plan {
    /// Reads a plan from its file.
    pub fn read(path: &Path) -> Result<Self, InitError> {
        let failed = |source| InitError::ReadPlan {
            path: path.to_owned(),
            source,
        };
        let text = std::fs::read(path).map_err(failed)?;
        serde_json::from_slice(&text).map_err(|error| failed(error.into()))
    }

    /// Writes it where [`Plan::read`] will look.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        std::fs::write(path, serde_json::to_vec_pretty(self)?)
    }
}

impl Status {
    /// Reads the status last written; none before the first.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let next = path.with_extension("next");
        std::fs::write(&next, serde_json::to_vec(self)?)?;
        std::fs::rename(next, path)
    }
}
