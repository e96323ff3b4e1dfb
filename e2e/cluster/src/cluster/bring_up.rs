//! Brings a cluster up, step by step; whatever fails, the way back is taken.

mod dns;
mod objects;
mod reads;
mod ready;
mod write;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::record::{ClusterId, NodeRecord, Record};
use super::turn::Turn;
use super::{Cluster, ClusterError, Node, Options, firsts, node};
use crate::cgroup::Hierarchies;
use crate::materials::Materials;
use crate::names::NodeIndex;
use crate::paths::{StateDir, checkout};
use crate::process::LOOK_AGAIN;
use crate::progress::{Progress, step};
use crate::release::Release;
use crate::{control_plane, images, interrupt, network, node as node_plan, programs, teardown};

/// The user of the machine's own kubeconfig.
pub(super) const ADMIN: &str = "admin";

/// How long the processes of a cluster may take to end once the process that brought it up has: they are killed then.
const DYING_LIMIT: Duration = Duration::from_secs(40);

/// `f_type` of an overlay in `statfs`, from the kernel's `magic.h`.
const OVERLAY_MAGIC: i64 = 0x794c_7630;

/// Where the materials of a cluster come from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// What is missing is built, once it is certain that the cluster can come up.
    Built,
    /// They are there.
    Given(&'a Materials),
}

/// What a cluster is made of.
struct Given<'a> {
    materials: &'a Materials,
    /// The program of [`Options::last_kubelet`].
    last_kubelet: Option<PathBuf>,
}

pub(super) fn bring_up(
    options: &Options,
    source: Source<'_>,
    progress: &dyn Progress,
) -> Result<Cluster, ClusterError> {
    try_bring_up(options, source, progress).map_err(told)
}

/// Whatever an interrupt made fail, it is the interrupt that is to be told.
fn told(error: ClusterError) -> ClusterError {
    if interrupt::requested() {
        ClusterError::Interrupted
    } else {
        error
    }
}

fn try_bring_up(
    options: &Options,
    source: Source<'_>,
    progress: &dyn Progress,
) -> Result<Cluster, ClusterError> {
    if !rustix::process::geteuid().is_root() {
        return Err(ClusterError::NotRoot);
    }
    let nodes = NodeIndex::first(options.nodes).ok_or(ClusterError::NodeCount {
        asked: options.nodes,
    })?;
    let dir = StateDir::of_environment();
    let turn = Turn::take(progress)?;
    let lock = teardown::lock(&dir)?;
    refuse_second(&dir)?;
    refuse_overlay(&dir)?;
    let built;
    let materials = match source {
        Source::Given(materials) => materials,
        Source::Built => {
            built = Materials::obtain(options.kubernetes, progress)?;
            &built
        }
    };
    let kubelet = options.last_kubelet.map(|release| {
        let modules = checkout().join("e2e/programs");
        programs::kubelet(&modules, release, progress)
    });
    let given = Given {
        materials,
        last_kubelet: kubelet.transpose()?,
    };
    let options = &Options {
        kubernetes: materials.kubernetes,
        gates: materials.kubernetes.gates(&options.gates),
        ..options.clone()
    };
    teardown::sweep(&dir)?;
    // From here on there is something to take down, and dropping the value does it. The lock must be free by then.
    let mut cluster = Cluster {
        dir,
        id: ClusterId::new().map_err(ClusterError::Identity)?,
        kubernetes: materials.kubernetes,
        nodes: Vec::new(),
        lifelines: Mutex::default(),
        turn: Some(turn),
    };
    match start(&mut cluster, options, &nodes, &given, progress) {
        Ok(()) => Ok(cluster),
        Err(error) => {
            // Asked before the cluster is dropped, which forgets the interrupt.
            let error = told(error);
            drop(lock);
            drop(cluster);
            Err(error)
        }
    }
}

/// Holds if no cluster is up that could stay. The caller has the turn, so another one is kept, or its process died and it
/// is on its way out; this directory's own is swept in that case, and one elsewhere is waited for.
fn refuse_second(dir: &StateDir) -> Result<(), ClusterError> {
    let deadline = Instant::now() + DYING_LIMIT;
    loop {
        if let Some(dir) = kept(dir) {
            return Err(ClusterError::AlreadyUp { dir });
        }
        let elsewhere = roots().into_iter().find(|root| root != dir.root());
        match elsewhere {
            None => return Ok(()),
            Some(dir) if Instant::now() >= deadline => return Err(ClusterError::AlreadyUp { dir }),
            Some(_) if interrupt::requested() => return Err(ClusterError::Interrupted),
            Some(_) => thread::sleep(LOOK_AGAIN),
        }
    }
}

/// Where a cluster is up that outlives the process that brought it up.
pub(super) fn kept(ours: &StateDir) -> Option<PathBuf> {
    let is_kept = |root: &PathBuf| {
        let dir = StateDir::at(root);
        match Record::read(&dir) {
            // One of ours that is not whole any more is of no use to anybody.
            Some(record) if dir == *ours => record.kept && firsts::nodes(&dir, &record).is_some(),
            Some(record) => record.kept,
            None => dir != *ours,
        }
    };
    roots().into_iter().find(is_kept)
}

/// The directories of all clusters of which something runs.
fn roots() -> BTreeSet<PathBuf> {
    let firsts = teardown::find_firsts().into_iter();
    firsts.map(|first| first.root().to_owned()).collect()
}

fn refuse_overlay(dir: &StateDir) -> Result<(), ClusterError> {
    let root = dir.root();
    let system = rustix::fs::statfs(root).map_err(|error| ClusterError::Write {
        path: root.to_owned(),
        source: error.into(),
    })?;
    if system.f_type == OVERLAY_MAGIC {
        return Err(ClusterError::Overlay {
            dir: root.to_owned(),
        });
    }
    Ok(())
}

fn start(
    cluster: &mut Cluster,
    options: &Options,
    nodes: &[NodeIndex],
    given: &Given<'_>,
    progress: &dyn Progress,
) -> Result<(), ClusterError> {
    let dir = cluster.dir.clone();
    let materials = given.materials;
    let archives = write_files(cluster, options, nodes, given)?;
    step(progress, "start the control plane", || {
        let control = start_control(cluster, options, materials)?;
        for index in nodes {
            start_node(cluster, options, materials, *index, control, nodes)?;
        }
        ready::api_server(&dir)?;
        reads::permit(&dir)?;
        dns::announce(&dir)
    })?;
    step(progress, "give the nodes their images", || {
        ready::runtimes(&dir, &cluster.nodes)?;
        node::on_every(&cluster.nodes, |node| {
            archives
                .iter()
                .try_for_each(|archive| node.import_image(archive))
        })
    })?;
    step(progress, "wait for the nodes", || {
        ready::nodes(&dir, &cluster.nodes)
    })?;
    if interrupt::requested() {
        Err(ClusterError::Interrupted)
    } else {
        Ok(())
    }
}

fn start_control(
    cluster: &mut Cluster,
    options: &Options,
    materials: &Materials,
) -> Result<u32, ClusterError> {
    let owner = control_plane::OWNER;
    let plan = control_plane::plan(&cluster.dir, &options.gates);
    let mut started = firsts::launch(&cluster.dir, &materials.init, owner, &plan)?;
    connect(owner, &network::of_control(started.pid))?;
    firsts::go(&mut started, owner)?;
    let lifeline = started.lifeline;
    cluster.lifelines().insert(owner.to_owned(), lifeline);
    Ok(started.pid)
}

fn start_node(
    cluster: &mut Cluster,
    options: &Options,
    materials: &Materials,
    index: NodeIndex,
    control: u32,
    all: &[NodeIndex],
) -> Result<(), ClusterError> {
    let owner = index.name();
    let profile = options.drivers.of(index.number()).map(ToOwned::to_owned);
    Hierarchies::of_machine().make(&index.cgroup())?;
    let kubelet = options.kubelet_of(index.number());
    let program = if kubelet == options.kubernetes {
        "kubelet".to_owned()
    } else {
        kubelet_program(kubelet)
    };
    let plan = node_plan::plan(&cluster.dir, index, &program, profile.is_some());
    let mut started = firsts::launch(&cluster.dir, &materials.init, &owner, &plan)?;
    connect(&owner, &network::of_node(index, started.pid, control, all))?;
    firsts::go(&mut started, &owner)?;
    let lifeline = started.lifeline;
    cluster.lifelines().insert(owner, lifeline);
    cluster.nodes.push(Node::new(
        &cluster.dir,
        &NodeRecord {
            index,
            profile,
            kubelet,
        },
        started.pid,
    ));
    Ok(())
}

/// Where the last node's kubelet is among the cluster's programs, if it is of another release than the others: in a directory,
/// because it is found by the name of its process, which is that of its file.
fn kubelet_program(release: Release) -> String {
    format!("{release}/kubelet")
}

fn connect(owner: &str, commands: &[(network::Within, Vec<String>)]) -> Result<(), ClusterError> {
    network::apply(commands).map_err(|source| ClusterError::Network {
        owner: owner.to_owned(),
        source,
    })
}

/// Writes everything that is read by what is started later. Returns the archives of the nodes' images.
fn write_files(
    cluster: &Cluster,
    options: &Options,
    nodes: &[NodeIndex],
    given: &Given<'_>,
) -> Result<Vec<PathBuf>, ClusterError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ClusterError::Write { path, source }
    };
    let dir = &cluster.dir;
    let (logs, bin) = (dir.logs(), dir.bin());
    if logs.exists() {
        fs::remove_dir_all(&logs).map_err(failed(&logs))?;
    }
    fs::create_dir_all(&logs).map_err(failed(&logs))?;
    write::record(cluster, options, nodes)?;
    let materials = given.materials;
    materials.programs.link_into(&bin).map_err(failed(&bin))?;
    if let (Some(release), Some(kubelet)) = (options.last_kubelet, &given.last_kubelet) {
        let link = bin.join(kubelet_program(release));
        let directory = link.parent().unwrap_or(&bin);
        fs::create_dir_all(directory).map_err(failed(directory))?;
        symlink(kubelet, &link).map_err(failed(&link))?;
    }
    let plugin = &materials.plugin;
    plugin.link_into(&bin).map_err(failed(&bin))?;
    let parts = &materials.driver;
    parts.link_into(&bin).map_err(failed(&bin))?;
    write::certificates(dir, nodes)?;
    let corefile = control_plane::corefile(dir);
    fs::create_dir_all(dir.of(control_plane::OWNER))
        .and_then(|()| fs::write(&corefile, control_plane::dns(dir)))
        .map_err(failed(&corefile))?;
    for index in nodes {
        let name = index.name();
        let gates = options.kubelet_of(index.number()).gates(&options.gates);
        node_plan::write_configuration(dir, *index, &gates).map_err(failed(&dir.of(&name)))?;
        if let Some(profile) = options.drivers.of(index.number()) {
            let rack = options.rack_of(index.number());
            parts.install(&dir.driver_root(&name), profile, &name, &rack)?;
        }
    }
    let archive = |image: &images::oci::Image| {
        let short = image
            .name()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .replace(':', "-");
        let archive = dir.images().join(format!("{short}.tar"));
        image
            .write(&archive)
            .map(|()| archive)
            .map_err(ClusterError::from)
    };
    materials.images.iter().map(archive).collect()
}
