//! The nodes' cgroups: one directory per node and hierarchy, made at bring-up and removed with all below it at teardown.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::names::PREFIX;

/// A node's cgroup could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("{attempt} the cgroup {}", path.display())]
pub struct CgroupError {
    attempt: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The machine's cgroup hierarchies: several of version 1, or the one of version 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hierarchies {
    /// One root per controller. A hybrid machine's `unified` is among them: runc makes directories there too.
    V1(Vec<PathBuf>),
    /// The one root.
    V2(PathBuf),
}

const ROOT: &str = "/sys/fs/cgroup";

impl Hierarchies {
    /// What is mounted on this machine.
    pub(crate) fn of_machine() -> Self {
        Self::at(Path::new(ROOT))
    }

    fn at(root: &Path) -> Self {
        // The file exists at the root of a version 2 hierarchy and nowhere else.
        if root.join("cgroup.controllers").exists() {
            return Self::V2(root.to_owned());
        }
        let entries: Vec<_> = fs::read_dir(root).into_iter().flatten().flatten().collect();
        // Links such as `cpu -> cpu,cpuacct` name a hierarchy a second time.
        let is_hierarchy = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        let mut roots: Vec<_> = entries
            .iter()
            .filter(|e| is_hierarchy(e))
            .map(fs::DirEntry::path)
            .collect();
        roots.sort();
        Self::V1(roots)
    }

    fn roots(&self) -> &[PathBuf] {
        match self {
            Self::V1(roots) => roots,
            Self::V2(root) => std::slice::from_ref(root),
        }
    }

    /// Makes a node's cgroup in every hierarchy, ready for pods below it.
    pub(crate) fn make(&self, name: &str) -> Result<(), CgroupError> {
        self.roots().iter().try_for_each(|root| {
            let path = root.join(name);
            let failed = |source| CgroupError {
                attempt: "make",
                path: path.clone(),
                source,
            };
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other.map_err(failed)?,
            }
            match self {
                Self::V1(_) => inherit_cpuset(root, &path).map_err(failed),
                Self::V2(_) => delegate(root, &path).map_err(failed),
            }
        })
    }

    /// Removes a node's cgroup and everything below it. Its processes must be dead or dying.
    pub(crate) fn remove(&self, name: &str, deadline: Instant) -> Result<(), CgroupError> {
        self.roots().iter().try_for_each(|root| {
            let path = root.join(name);
            loop {
                match remove_tree(&path) {
                    Ok(()) => return Ok(()),
                    // A killed process leaves its cgroup a moment after it is gone from everywhere else.
                    Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
                    Err(source) => {
                        return Err(CgroupError {
                            attempt: "remove",
                            path,
                            source,
                        });
                    }
                }
            }
        })
    }

    /// Names of node cgroups that are there now, from whatever run.
    pub(crate) fn ours(&self) -> Vec<String> {
        let in_root = |root: &PathBuf| fs::read_dir(root).into_iter().flatten().flatten();
        let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
        let mut names: Vec<_> = self
            .roots()
            .iter()
            .flat_map(in_root)
            .filter_map(name)
            .filter(|n| n.starts_with(PREFIX))
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// A new cpuset admits no processor and no memory node, so no process either, until it is given its parent's.
fn inherit_cpuset(root: &Path, path: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if root.join(file).exists() {
            fs::write(path.join(file), fs::read(root.join(file))?)?;
        }
    }
    Ok(())
}

/// Lets the node's cgroup limit what its pods' cgroups may use. Controllers that the machine keeps for itself are left.
fn delegate(root: &Path, path: &Path) -> io::Result<()> {
    for level in [root, path] {
        for controller in fs::read_to_string(level.join("cgroup.controllers"))?.split_whitespace() {
            // Refused where the machine's own manager holds it; the kubelet names a controller that it misses.
            let _ = fs::write(
                level.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in ["memory", "cpuset"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        fs::write(root.path().join("cpuset/cpuset.cpus"), "0-1\n").unwrap();
        fs::write(root.path().join("cpuset/cpuset.mems"), "0\n").unwrap();
        std::os::unix::fs::symlink("memory", root.path().join("mem")).unwrap();
        root
    }

    #[test]
    fn the_version_is_told_by_the_roots_files_and_links_are_not_hierarchies() {
        let one = v1();
        assert_eq!(
            Hierarchies::at(one.path()),
            Hierarchies::V1(vec![one.path().join("cpuset"), one.path().join("memory")])
        );
        let two = tempfile::tempdir().unwrap();
        fs::write(two.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        assert_eq!(
            Hierarchies::at(two.path()),
            Hierarchies::V2(two.path().to_owned())
        );
    }

    #[test]
    fn a_nodes_cgroup_inherits_processors_and_goes_with_its_children() {
        let root = v1();
        let hierarchies = Hierarchies::at(root.path());
        hierarchies.make("tess-node0").unwrap();
        hierarchies.make("tess-node0").unwrap();
        assert_eq!(
            fs::read_to_string(root.path().join("cpuset/tess-node0/cpuset.cpus")).unwrap(),
            "0-1\n"
        );
        assert_eq!(hierarchies.ours(), ["tess-node0"]);
        // Files of a cgroup cannot be removed and need not be; here they stand in the way.
        fs::remove_file(root.path().join("cpuset/tess-node0/cpuset.cpus")).unwrap();
        fs::remove_file(root.path().join("cpuset/tess-node0/cpuset.mems")).unwrap();
        fs::create_dir_all(root.path().join("memory/tess-node0/kubepods/pod1")).unwrap();
        hierarchies.remove("tess-node0", Instant::now()).unwrap();
        assert_eq!(hierarchies.ours(), [""; 0]);
        hierarchies.remove("tess-node0", Instant::now()).unwrap();
    }

    #[test]
    fn a_version_2_node_gets_the_controllers_of_the_root() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpu\n").unwrap();
        fs::create_dir(root.path().join("tess-node0")).unwrap();
        fs::write(root.path().join("tess-node0/cgroup.controllers"), "cpu\n").unwrap();
        Hierarchies::at(root.path()).make("tess-node0").unwrap();
        for at in [
            "cgroup.subtree_control",
            "tess-node0/cgroup.subtree_control",
        ] {
            assert_eq!(fs::read_to_string(root.path().join(at)).unwrap(), "+cpu");
        }
    }
}
