//! Takes a cluster away, from whatever process and in whatever state it was left.
//!
//! It goes by what is there, not by what was written down: first processes are found by their command line, cgroups and
//! links by their prefix. The end of a first process is the end of its namespaces and of all that is in them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup::{CgroupError, Hierarchies};
use crate::cluster::{ClusterId, Record};
use crate::network;
use crate::paths::StateDir;
use crate::process::{LOOK_AGAIN, RunError};
use crate::supervisor;

/// How long a first process gets to end what is in its namespaces by itself.
const STOP_LIMIT: Duration = Duration::from_secs(25);
/// How long the kernel gets for what it does on its own: ending a killed namespace, emptying its cgroups.
const KERNEL_LIMIT: Duration = Duration::from_secs(15);

/// Something of the cluster is still there.
#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    /// A first process lives on.
    #[error(
        "stop the processes {pids:?}: they live on after SIGKILL; look at their state in /proc/PID/stack"
    )]
    Stop {
        /// The first processes.
        pids: Vec<u32>,
    },
    /// A cgroup is still there.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The host's link is still there.
    #[error("remove the host's link")]
    Link(#[source] RunError),
    /// Something is mounted where the cluster keeps its files.
    #[error("unmount {}", at.display())]
    Unmount {
        /// The mount point.
        at: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The files are still there.
    #[error("remove {}", path.display())]
    Remove {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else is at work.
    #[error(
        "take the cluster down: another process is bringing it up or taking it down; wait for it or stop it"
    )]
    Busy,
    /// The lock could not be had.
    #[error("lock {} (bringing a cluster up and down needs root)", path.display())]
    Lock {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A first process that runs now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct First {
    pub(crate) pid: u32,
    /// Its plan's file, by which it is known whose it is.
    pub(crate) plan: PathBuf,
}

impl First {
    /// The node, or the control plane, that it is first of.
    pub(crate) fn owner(&self) -> String {
        let parent = self.plan.parent().and_then(Path::file_name);
        parent
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// The directory of its cluster.
    pub(crate) fn root(&self) -> &Path {
        let mut above = self.plan.ancestors();
        above.nth(2).unwrap_or(&self.plan)
    }

    /// Whether it belongs to the cluster of this directory.
    pub(crate) fn is_of(&self, dir: &StateDir) -> bool {
        self.plan.starts_with(dir.root())
    }
}

/// Every first process on this machine, of whatever cluster.
pub(crate) fn find_firsts() -> Vec<First> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let first = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let plan = plan_of(&fs::read(entry.path().join("cmdline")).ok()?)?;
        Some(First { pid, plan })
    };
    processes.flatten().filter_map(first).collect()
}

/// The plan that a command line of `/proc` runs, if it is that of a first process.
fn plan_of(command_line: &[u8]) -> Option<PathBuf> {
    let text = std::str::from_utf8(command_line).ok()?;
    let mut words = text.split('\0');
    let is_ours =
        Path::new(words.next()?).file_name()? == supervisor::PROGRAM && words.next()? == "run";
    is_ours.then(|| words.next().map(PathBuf::from))?
}

/// Takes the machine's cluster down. Nothing happens where there is none; the logs of the last run stay.
pub fn down() -> Result<(), TeardownError> {
    let dir = StateDir::of_environment();
    let _lock = lock(&dir)?;
    sweep(&dir)
}

/// Takes down the cluster of this identity. Nothing happens if another is there by now, or none.
pub(crate) fn down_only(dir: &StateDir, id: &ClusterId) -> Result<(), TeardownError> {
    let _lock = lock(dir)?;
    match Record::read(dir) {
        Some(record) if record.id == *id => sweep(dir),
        _ => Ok(()),
    }
}

/// Held while a cluster comes up or goes down.
pub(crate) fn lock(dir: &StateDir) -> Result<fs::File, TeardownError> {
    let path = dir.lock();
    let failed = |source| TeardownError::Lock {
        path: path.clone(),
        source,
    };
    fs::create_dir_all(dir.root()).map_err(failed)?;
    let file = fs::File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(TeardownError::Busy),
        Err(fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Removes everything of this directory's cluster. The caller holds the lock.
pub(crate) fn sweep(dir: &StateDir) -> Result<(), TeardownError> {
    stop_firsts(dir)?;
    // The names on the machine are those of whatever cluster runs; one in another directory keeps its own.
    if find_firsts().is_empty() {
        remove_cgroups()?;
        remove_link()?;
    }
    unmount_below(dir.root())?;
    for made in Record::read(dir)
        .map(|record| record.made)
        .unwrap_or_default()
    {
        // Not empty means that somebody else uses it by now.
        let _ = fs::remove_dir(made);
    }
    remove_files(dir)
}

fn remove_cgroups() -> Result<(), TeardownError> {
    let hierarchies = Hierarchies::of_machine();
    hierarchies.ours().iter().try_for_each(|name| {
        hierarchies
            .remove(name, Instant::now() + KERNEL_LIMIT)
            .map_err(TeardownError::from)
    })
}

/// The kernel takes the link away with its other end's namespace, but in its own time, which may be many seconds.
fn remove_link() -> Result<(), TeardownError> {
    if !network::host_link_exists() {
        return Ok(());
    }
    match network::remove_host_link() {
        Err(source) if network::host_link_exists() => Err(TeardownError::Link(source)),
        // Removed here, or by the kernel in this very moment.
        _ => Ok(()),
    }
}

fn stop_firsts(dir: &StateDir) -> Result<(), TeardownError> {
    let ours = || {
        find_firsts()
            .into_iter()
            .filter(|first| first.is_of(dir))
            .collect::<Vec<_>>()
    };
    for (signal, limit) in [(Signal::TERM, STOP_LIMIT), (Signal::KILL, KERNEL_LIMIT)] {
        for first in ours() {
            // It may have ended since it was found.
            if let Some(pid) = i32::try_from(first.pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, signal);
            }
        }
        if wait_until(Instant::now() + limit, || ours().is_empty()) {
            return Ok(());
        }
    }
    Err(TeardownError::Stop {
        pids: ours().into_iter().map(|first| first.pid).collect(),
    })
}

fn wait_until(deadline: Instant, done: impl Fn() -> bool) -> bool {
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Mounts of a cluster lie in namespaces of its own. Should one be here, removing files must not reach through it.
fn unmount_below(root: &Path) -> Result<(), TeardownError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for at in mount_points_below(&mounts, root).into_iter().rev() {
        unmount(&at, UnmountFlags::DETACH).map_err(|error| TeardownError::Unmount {
            at: at.clone(),
            source: error.into(),
        })?;
    }
    Ok(())
}

/// Mount points strictly below `root`, in the order in which they were mounted.
fn mount_points_below(mountinfo: &str, root: &Path) -> Vec<PathBuf> {
    let points = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from);
    points
        .filter(|point| point.starts_with(root) && point != root)
        .collect()
}

fn remove_files(dir: &StateDir) -> Result<(), TeardownError> {
    let keep = [dir.logs(), dir.lock()];
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| TeardownError::Remove { path, source }
    };
    let entries = fs::read_dir(dir.root()).map_err(failed(dir.root()))?;
    for path in entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| !keep.contains(path))
    {
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(failed(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_process_is_known_by_its_command_line_and_nothing_else_is() {
        let line = |words: &[&str]| words.join("\0").into_bytes();
        let plan = PathBuf::from("/state/node0/plan.json");
        for (words, found) in [
            (
                &["/t/debug/tessera-init", "run", "/state/node0/plan.json", ""][..],
                Some(plan),
            ),
            (
                &[
                    "/t/debug/tessera-init",
                    "launch",
                    "/state/node0/plan.json",
                    "",
                ],
                None,
            ),
            (&["vim", "run", "/state/node0/plan.json", ""], None),
            (&["tessera-init", ""], None),
            (&[""], None),
        ] {
            assert_eq!(plan_of(&line(words)), found, "{words:?}");
        }
    }

    #[test]
    fn a_first_process_belongs_to_the_owner_and_the_directory_of_its_plan() {
        let first = First {
            pid: 7,
            plan: "/state/node0/plan.json".into(),
        };
        assert_eq!(first.owner(), "node0");
        assert_eq!(first.root(), Path::new("/state"));
        assert!(first.is_of(&StateDir::at(Path::new("/state"))));
        assert!(!first.is_of(&StateDir::at(Path::new("/state/other"))));
    }

    #[test]
    fn mounts_below_the_directory_are_found_and_the_directory_itself_is_not_one() {
        let info = "22 1 254:0 / / rw - ext4 /dev/vda rw\n\
                    90 22 0:5 / /state rw - tmpfs x rw\n\
                    91 90 0:6 / /state/node0/a rw - tmpfs x rw\n\
                    92 90 0:7 / /stateful rw - tmpfs x rw\n";
        assert_eq!(
            mount_points_below(info, Path::new("/state")),
            [PathBuf::from("/state/node0/a")]
        );
    }

    #[test]
    fn whoever_holds_a_former_cluster_leaves_the_present_one_alone() {
        let root = tempfile::tempdir().unwrap();
        let dir = StateDir::at(root.path());
        let present = Record {
            id: ClusterId::new().unwrap(),
            kubernetes: crate::release::Release::default(),
            kept: false,
            nodes: Vec::new(),
            made: Vec::new(),
        };
        present.write(&dir).unwrap();
        down_only(&dir, &ClusterId::new().unwrap()).unwrap();
        assert_eq!(Record::read(&dir), Some(present));
    }

    #[test]
    fn files_go_and_logs_stay() {
        let root = tempfile::tempdir().unwrap();
        let dir = StateDir::at(root.path());
        fs::create_dir_all(dir.of("node0").join("deep")).unwrap();
        fs::create_dir_all(dir.logs()).unwrap();
        fs::write(dir.log("etcd"), "end").unwrap();
        fs::write(dir.record(), "{}").unwrap();
        remove_files(&dir).unwrap();
        let left: Vec<_> = fs::read_dir(root.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["log"]);
        assert!(dir.log("etcd").exists());
    }
}
