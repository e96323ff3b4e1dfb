//! The cluster as its users hold it: brought up, looked at, kept or taken down.

mod bring_up;
mod cut;
mod error;
mod firsts;
mod node;
mod processes;
mod reboot;
mod record;
mod report;
mod turn;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;

pub use cut::{Cut, CutOff};
pub use error::ClusterError;
pub use node::Node;
pub use processes::Stopped;
pub(crate) use record::{ClusterId, Record};
pub use report::Report;

use crate::causes::with_causes;
use crate::gates::Gates;
use crate::materials::Materials;
use crate::paths::StateDir;
use crate::progress::Progress;
use crate::release::Release;
use crate::{control_plane, interrupt, supervisor, teardown};
use bring_up::Source;
use turn::Turn;

/// The part of the control plane that serves the API.
const API_SERVER: &str = "kube-apiserver";

/// The scheduler's.
const SCHEDULER: &str = "kube-scheduler";

/// What kind of cluster is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How many nodes, from one to [`MOST_NODES`](crate::MOST_NODES).
    pub nodes: u8,
    /// What GPUs they have.
    pub drivers: Drivers,
    /// Which Kubernetes.
    pub kubernetes: Release,
    /// The release of the last node's kubelet, if it is an older one.
    pub last_kubelet: Option<Release>,
    /// Feature gates of every Kubernetes component.
    pub gates: Gates,
    /// Into how many racks the nodes are divided, in order. GPUs with a fabric between nodes share it
    /// within their rack.
    pub racks: u8,
}

/// What GPUs the nodes have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drivers {
    /// No driver on any node: the driver root is empty.
    None,
    /// Profiles of simulated hardware, one per node; the last one repeats.
    Profiles(Vec<String>),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 1,
            drivers: Drivers::Profiles(vec!["h100".to_owned()]),
            kubernetes: Release::default(),
            last_kubelet: None,
            gates: Gates::default(),
            racks: 1,
        }
    }
}

impl Options {
    /// The release of the kubelet of the node at this place.
    pub(crate) fn kubelet_of(&self, place: usize) -> Release {
        let is_last = place + 1 == usize::from(self.nodes);
        let other = self.last_kubelet.filter(|_| is_last);
        other.unwrap_or(self.kubernetes)
    }

    /// The rack of the node at this place: each holds as many nodes as the others, or one less.
    pub(crate) fn rack_of(&self, place: usize) -> String {
        let (nodes, racks) = (
            usize::from(self.nodes.max(1)),
            usize::from(self.racks.max(1)),
        );
        (place * racks.min(nodes) / nodes).to_string()
    }
}

impl Drivers {
    /// The profile of the node at this place.
    pub(crate) fn of(&self, place: usize) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Profiles(profiles) => profiles.get(place).or(profiles.last()).map(String::as_str),
        }
    }
}

/// A running cluster.
///
/// One that this process brought up ends with this value, and with this process however that ends, unless it is
/// [kept](Cluster::keep). One that was [attached](Cluster::attach) to is left alone. A value never takes down another
/// cluster than its own.
#[derive(Debug)]
pub struct Cluster {
    dir: StateDir,
    id: ClusterId,
    kubernetes: Release,
    nodes: Vec<Node>,
    /// The first processes' standard inputs, by owner: they end when these close, until they are told otherwise.
    lifelines: Mutex<BTreeMap<String, ChildStdin>>,
    /// The turn of a cluster that ends with this process.
    turn: Option<Turn>,
}

impl Cluster {
    /// Brings a cluster up: builds what is missing, starts everything and returns when all nodes are ready.
    ///
    /// What an earlier run left behind is removed first. If anything fails, everything is taken down again.
    ///
    /// There is one cluster per machine: one that ends with another process is waited for, and one that is kept makes
    /// this fail.
    pub fn up(options: &Options, progress: &dyn Progress) -> Result<Self, ClusterError> {
        bring_up::bring_up(options, Source::Built, progress)
    }

    /// The same with these materials and their Kubernetes: nothing is built but a kubelet of another release, if one is wanted.
    pub fn up_of(
        materials: &Materials,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<Self, ClusterError> {
        bring_up::bring_up(options, Source::Given(materials), progress)
    }

    /// Fails if a cluster is up that is kept, for which [`up`](Cluster::up) would not wait. Good to ask before minutes
    /// are spent on building.
    pub fn refuse_kept() -> Result<(), ClusterError> {
        match bring_up::kept(&StateDir::of_environment()) {
            None => Ok(()),
            Some(dir) => Err(ClusterError::AlreadyUp { dir }),
        }
    }

    /// The cluster that runs on this machine.
    pub fn attach() -> Result<Self, ClusterError> {
        let dir = StateDir::of_environment();
        let record = Record::read(&dir).ok_or(ClusterError::NotUp)?;
        let nodes = firsts::nodes(&dir, &record).ok_or(ClusterError::NotUp)?;
        Ok(Self {
            dir,
            id: record.id,
            kubernetes: record.kubernetes,
            nodes,
            lifelines: Mutex::default(),
            turn: None,
        })
    }

    /// Which Kubernetes it runs.
    pub fn kubernetes(&self) -> Release {
        self.kubernetes
    }

    /// Lets the cluster outlive this value and this process.
    pub fn keep(mut self) -> Result<(), ClusterError> {
        if let Some(record) = Record::read(&self.dir).filter(|record| record.id == self.id) {
            let kept = Record {
                kept: true,
                ..record
            };
            kept.write(&self.dir).map_err(ClusterError::Keep)?;
        }
        for lifeline in self.lifelines().values_mut() {
            writeln!(lifeline, "{}", supervisor::KEEP).map_err(ClusterError::Keep)?;
        }
        self.turn = None;
        Ok(())
    }

    /// Takes this cluster down, whoever brought it up. Nothing happens if it is gone.
    pub fn down(mut self) -> Result<(), ClusterError> {
        // Until it is down, for the next one finds the machine as this one leaves it.
        let _turn = self.turn.take();
        teardown::down_only(&self.dir, &self.id).map_err(ClusterError::from)
    }

    /// The nodes, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Result<&Node, ClusterError> {
        let unknown = || ClusterError::NoSuchNode {
            name: name.to_owned(),
            known: self.names(),
        };
        self.nodes
            .iter()
            .find(|node| node.name() == name)
            .ok_or_else(unknown)
    }

    fn names(&self) -> Vec<String> {
        self.nodes
            .iter()
            .map(|node| node.name().to_owned())
            .collect()
    }

    /// A kubeconfig with every right, for programs on this machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.kubeconfig(bring_up::ADMIN)
    }

    /// The cluster's programs: `kubectl`, `helm`, `ctr` and the rest. Good for a PATH.
    pub fn bin_dir(&self) -> PathBuf {
        self.dir.bin()
    }

    /// The logs of every part, one file each.
    pub fn logs_dir(&self) -> PathBuf {
        self.dir.logs()
    }

    /// `kubectl` for this cluster.
    pub fn kubectl(&self) -> Command {
        kubectl(&self.dir)
    }

    /// `kubectl tessera` for this cluster, which kubectl finds as that of users does. It takes no flag before the
    /// plugin's name.
    pub fn plugin(&self) -> Command {
        let bin = self.dir.bin();
        let mut plugin = Command::new(bin.join("kubectl"));
        plugin
            .arg("tessera")
            .env("KUBECONFIG", self.kubeconfig())
            .env("PATH", bin);
        plugin
    }

    /// `helm` for this cluster.
    pub fn helm(&self) -> Command {
        let mut helm = Command::new(self.dir.bin().join("helm"));
        helm.arg("--kubeconfig").arg(self.kubeconfig());
        helm
    }

    /// Gives every node the image in this archive.
    pub fn import_image(&self, archive: &Path) -> Result<(), ClusterError> {
        node::on_every(&self.nodes, |node| node.import_image(archive))
    }

    /// Ends the node's kubelet and returns when another runs. It is not yet ready then.
    pub fn restart_kubelet(&self, name: &str) -> Result<(), ClusterError> {
        self.node(name)?.restart_kubelet()
    }

    /// Stops the API server's process: connections are taken, and nobody answers, until the value ends.
    pub fn stop_api_server(&self) -> Result<Stopped, ClusterError> {
        self.stop(API_SERVER)
    }

    /// Stops the scheduler's process until the value ends: pods wait that come meanwhile.
    pub fn stop_scheduler(&self) -> Result<Stopped, ClusterError> {
        self.stop(SCHEDULER)
    }

    /// Stops a process of the control plane.
    fn stop(&self, program: &str) -> Result<Stopped, ClusterError> {
        let pids = processes::beside(self.control_plane()?, program);
        if pids.is_empty() {
            return Err(ClusterError::NotUp);
        }
        Ok(Stopped::stop(pids))
    }

    /// Kills the API server and returns when another was started. It does not answer yet.
    pub fn restart_api_server(&self) -> Result<(), ClusterError> {
        let control = (control_plane::OWNER, self.control_plane()?);
        firsts::restart(&self.dir, control, API_SERVER, Signal::KILL)
    }

    /// The first process of the control plane.
    fn control_plane(&self) -> Result<u32, ClusterError> {
        firsts::pid(&self.dir, control_plane::OWNER).ok_or(ClusterError::NotUp)
    }

    fn lifelines(&self) -> MutexGuard<'_, BTreeMap<String, ChildStdin>> {
        // Each change is one insertion, so a panic elsewhere leaves nothing half done.
        self.lifelines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// How every part is.
    pub fn report(&self) -> Report {
        Report::read(&self.dir, &self.names())
    }
}

fn kubectl(dir: &StateDir) -> Command {
    let mut kubectl = Command::new(dir.bin().join("kubectl"));
    kubectl
        .arg("--kubeconfig")
        .arg(dir.kubeconfig(bring_up::ADMIN));
    kubectl
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.turn.is_some() {
            // An interrupt is why this happens, or it came too late to matter; what follows must run to its end.
            interrupt::taken();
            if let Err(error) = teardown::down_only(&self.dir, &self.id) {
                eprintln!("take the cluster down: {}", with_causes(&error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn racks_are_filled_in_order_and_none_is_empty() {
        let racks = |nodes, racks| {
            let options = Options {
                nodes,
                racks,
                ..Options::default()
            };
            let of = (0..usize::from(nodes)).map(|place| options.rack_of(place));
            of.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(racks(4, 1), "0 0 0 0");
        assert_eq!(racks(4, 2), "0 0 1 1");
        assert_eq!(racks(3, 2), "0 0 1");
        assert_eq!(racks(2, 5), "0 1");
    }

    #[test]
    fn only_the_last_node_has_a_kubelet_of_another_release() {
        let options = Options {
            nodes: 3,
            last_kubelet: Some(Release::V1_33),
            ..Options::default()
        };
        let kubelets = [0, 1, 2].map(|place| options.kubelet_of(place));
        assert_eq!(kubelets, [Release::V1_36, Release::V1_36, Release::V1_33]);
        let usual = Options::default();
        assert_eq!(usual.kubelet_of(0), Release::V1_36);
    }

    #[test]
    fn the_last_profile_repeats() {
        let two = Drivers::Profiles(vec!["h100".to_owned(), "t4".to_owned()]);
        let of = |drivers: &Drivers| {
            (0..4)
                .map(|i| drivers.of(i).map(str::to_owned))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of(&two),
            ["h100", "t4", "t4", "t4"].map(|p| Some(p.to_owned()))
        );
        assert_eq!(of(&Drivers::None), [const { None }; 4]);
    }
}
