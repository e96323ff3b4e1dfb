//! The shipped program, started beside the real plugin.
//!
//! It has directories of its own, the cluster's API server and the node's driver. So the moment of its start is known to the
//! microsecond, which nothing keeps for a container's process, and two versions can run at once. No kubelet finds it, so it
//! offers nothing.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Context as _;
use tempfile::TempDir;
use tessera_cluster::Node;
use tessera_proto::SocketPaths;
use tessera_proto::uds::SocketPath;
use tessera_scenarios::gpus::DRIVER;

use crate::shipped::{HOOK, PLUGIN};

/// A process that ends with this value.
pub(super) struct Standalone {
    process: Child,
    sockets: SocketPaths,
    /// Everything that it writes.
    _dir: TempDir,
}

impl Standalone {
    /// Starts the program that lies in `programs`.
    pub(super) fn start(programs: &Path, node: &Node, kubeconfig: &Path) -> anyhow::Result<Self> {
        // On a node too, records and CDI specs lie in memory.
        let dir = tempfile::tempdir_in("/dev/shm").context("make a directory for the plugin")?;
        for name in ["registrar", "plugins", "state", "cdi"] {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let (registrar, plugins) = (dir.path().join("registrar"), dir.path().join("plugins"));
        let sockets = SocketPaths::new(&registrar, &plugins, DRIVER, None)?;
        let process = command(programs, node, kubeconfig, dir.path()).spawn();
        let process = process.with_context(|| format!("start {}", programs.display()))?;
        Ok(Self {
            process,
            sockets,
            _dir: dir,
        })
    }

    /// Where it says who it is.
    pub(super) fn registration(&self) -> &SocketPath {
        self.sockets.registration.as_socket_path()
    }

    /// Where it prepares claims.
    pub(super) fn dra(&self) -> &SocketPath {
        &self.sockets.dra
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.process.try_wait().context("look at the plugin")
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        // What it leaves lies in a temporary directory.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// By the environment, of which a version ignores what it does not know.
fn command(programs: &Path, node: &Node, kubeconfig: &Path, dir: &Path) -> Command {
    let driver = node.driver_root();
    let mut command = Command::new(programs.join(PLUGIN));
    command
        .env_clear()
        .env("NODE_NAME", node.name())
        .env("KUBECONFIG", kubeconfig)
        .env("NVIDIA_DRIVER_ROOT", &driver)
        .env("DRIVER_ROOT_CTR_PATH", &driver)
        .env("SYSFS_ROOT", driver.join("sys"))
        .env("PROC_ROOT", driver.join("proc"))
        .env("BUNDLED_CDI_HOOK", programs.join(HOOK))
        .env("CDI_ROOT", dir.join("cdi"))
        .env("STATE_DIRECTORY_PATH", dir.join("state"))
        .env("KUBELET_REGISTRAR_DIRECTORY_PATH", dir.join("registrar"))
        .env("KUBELET_PLUGINS_DIRECTORY_PATH", dir.join("plugins"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}
