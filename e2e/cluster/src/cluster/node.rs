//! A node of a running cluster, with what a test wants to see and do on it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::cut::{Cut, CutOff};
use super::processes::Stopped;
use super::record::NodeRecord;
use super::{ClusterError, firsts, processes};
use crate::names::NodeIndex;
use crate::node::RUNTIME_SOCKET;
use crate::paths::StateDir;
use crate::process::run;
use crate::release::Release;

const IMPORT_LIMIT: Duration = Duration::from_mins(2);

/// A node of a running cluster.
#[derive(Debug, Clone)]
pub struct Node {
    dir: StateDir,
    index: NodeIndex,
    name: String,
    profile: Option<String>,
    kubelet: Release,
    /// Another after a reboot, for whoever holds a copy of this value too.
    pid: Arc<AtomicU32>,
}

impl Node {
    pub(super) fn new(dir: &StateDir, record: &NodeRecord, pid: u32) -> Self {
        let (index, profile) = (record.index, record.profile.clone());
        Self {
            dir: dir.clone(),
            index,
            name: index.name(),
            profile,
            kubelet: record.kubelet,
            pid: Arc::new(AtomicU32::new(pid)),
        }
    }

    pub(super) fn index(&self) -> NodeIndex {
        self.index
    }

    /// The node has another first process by now.
    pub(super) fn began_anew(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// Its name in Kubernetes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its own address.
    pub fn address(&self) -> Ipv4Addr {
        self.index.address()
    }

    /// The profile of its simulated hardware, if it has a driver.
    pub fn profile(&self) -> Option<&str> {
        self.profile.as_deref()
    }

    /// The release of its kubelet, which can be older than the control plane's.
    pub fn kubelet(&self) -> Release {
        self.kubelet
    }

    /// Its first process, as the machine counts processes.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Its simulated driver installation, which it sees at `/run/nvidia/driver`. Empty without a driver.
    pub fn driver_root(&self) -> PathBuf {
        self.dir.driver_root(&self.name)
    }

    /// Where a file of the node lies for a process of the machine: `/var/run/cdi`, `/run/tessera`, `/var/lib/kubelet`, …
    ///
    /// The path leads through the node's mounts, so it is good while the node runs. Absolute symbolic links on the node
    /// would lead to the machine's files; only `/var/run` is followed as the node means it.
    pub fn path(&self, on_node: impl AsRef<Path>) -> PathBuf {
        let on_node = on_node.as_ref();
        let plain = match on_node.strip_prefix("/var/run") {
            Ok(rest) => Path::new("run").join(rest),
            Err(_) => on_node.strip_prefix("/").unwrap_or(on_node).to_owned(),
        };
        PathBuf::from(format!("/proc/{}/root", self.pid())).join(plain)
    }

    /// Where CDI specifications are, for a process of the machine.
    pub fn cdi_dir(&self) -> PathBuf {
        self.path("/var/run/cdi")
    }

    /// The kubelet's directory, for a process of the machine.
    pub fn kubelet_dir(&self) -> PathBuf {
        self.path("/var/lib/kubelet")
    }

    /// Where the driver keeps what does not outlive a boot, for a process of the machine.
    pub fn run_dir(&self) -> PathBuf {
        self.path("/run/tessera")
    }

    /// The log of a part of the node (`kubelet`, `containerd`, `init`).
    pub fn log(&self, part: &str) -> PathBuf {
        self.dir.log(&format!("{}-{part}", self.name))
    }

    /// Runs a program of the machine on the node: in its mounts, network, host name and processes.
    pub fn enter(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.pid()))
            .args(["--mount", "--net", "--uts", "--pid", "--"]);
        command.arg(program);
        command
    }

    /// `ctr` for the node's container runtime, in the namespace of Kubernetes.
    pub fn ctr(&self) -> Command {
        let mut command = Command::new(self.dir.bin().join("ctr"));
        command
            .arg("--address")
            .arg(self.path(RUNTIME_SOCKET))
            .args(["--namespace", "k8s.io"]);
        command
    }

    /// Gives the node the image in this archive.
    pub fn import_image(&self, archive: &Path) -> Result<(), ClusterError> {
        let mut command = self.ctr();
        command.args(["images", "import"]).arg(archive);
        run(&mut command, IMPORT_LIMIT)
            .map(drop)
            .map_err(|source| ClusterError::Import {
                archive: archive.to_owned(),
                node: self.name.clone(),
                source,
            })
    }

    /// The processes on the node with this name that are not in a container, as the machine counts processes.
    pub fn processes(&self, name: &str) -> Vec<u32> {
        processes::beside(self.pid(), name)
    }

    /// The processes in the node's containers that run the program of this name, as the machine counts processes.
    pub fn contained(&self, program: &str) -> Vec<u32> {
        processes::below(&self.index.cgroup(), program)
    }

    /// Kills these processes, of the node or of its containers: SIGKILL, nothing is said goodbye to.
    pub fn kill(&self, pids: &[u32]) {
        processes::send(pids, Signal::KILL);
    }

    /// Tells these processes to end: SIGTERM.
    pub fn end(&self, pids: &[u32]) {
        processes::send(pids, Signal::TERM);
    }

    /// Stops these processes as long as the value lives: SIGSTOP, then SIGCONT.
    pub fn stop(&self, pids: Vec<u32>) -> Stopped {
        Stopped::stop(pids)
    }

    /// Cuts the way between a pod of the node and the API server. `process` is one in the pod, `address` the pod's.
    pub fn cut_off(
        &self,
        address: Ipv4Addr,
        process: u32,
        cut: Cut,
    ) -> Result<CutOff, ClusterError> {
        let made = CutOff::make(self.pid(), address, process, cut);
        made.map_err(|source| ClusterError::Cut {
            node: self.name.clone(),
            source,
        })
    }

    /// Ends the kubelet and returns when another runs. It is not yet ready then.
    pub fn restart_kubelet(&self) -> Result<(), ClusterError> {
        let part = (self.name.as_str(), self.pid());
        firsts::restart(&self.dir, part, "kubelet", Signal::TERM)
    }

    /// How often a part of the node was started since it booted.
    pub(super) fn starts(&self, part: &str) -> u32 {
        firsts::starts(&self.dir, &self.name, part)
    }
}

/// Does the same on every node at once, and reports the first node's failure.
pub(super) fn on_every(
    nodes: &[Node],
    work: impl Fn(&Node) -> Result<(), ClusterError> + Sync,
) -> Result<(), ClusterError> {
    thread::scope(|scope| {
        let running: Vec<_> = nodes
            .iter()
            .map(|node| scope.spawn(|| work(node)))
            .collect();
        let results: Vec<_> = running
            .into_iter()
            .map(|thread| thread.join().unwrap_or(Err(ClusterError::Interrupted)))
            .collect();
        results.into_iter().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_node_is_reached_through_its_first_process() {
        let record = NodeRecord {
            index: NodeIndex::first(1).unwrap()[0],
            profile: None,
            kubelet: Release::default(),
        };
        let node = Node::new(&StateDir::at(Path::new("/state")), &record, 42);
        for (on_node, here) in [
            ("/var/run/cdi", "/proc/42/root/run/cdi"),
            ("/run/tessera/x", "/proc/42/root/run/tessera/x"),
            ("/var/lib/kubelet", "/proc/42/root/var/lib/kubelet"),
            ("/var/running", "/proc/42/root/var/running"),
        ] {
            assert_eq!(node.path(on_node), PathBuf::from(here));
        }
        assert_eq!(node.driver_root(), PathBuf::from("/state/node0/driver"));
    }
}
