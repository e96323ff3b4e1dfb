//! What the driver has on a node for its claims, and what it leaves there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tessera_cluster::Node;

use crate::failure::Failure;
use crate::gpus::DRIVER;

/// Where the journal of a node is.
pub(crate) fn journal(node: &Node) -> PathBuf {
    node.run_dir().join(DRIVER).join("claims")
}

/// The journal's records on a node, by file name: one per claim that is prepared or being prepared.
pub(crate) fn records(node: &Node) -> Result<Vec<String>, Failure> {
    let mut names = names(&journal(node))?;
    names.retain(|name| has_extension(name, "record"));
    Ok(names)
}

/// The CDI specifications of claims on a node, by file name.
pub(crate) fn specs(node: &Node) -> Result<Vec<String>, Failure> {
    let mut names = names(&node.cdi_dir())?;
    names.retain(|name| name.starts_with("k8s.gpu.nvidia.com-claim_"));
    Ok(names)
}

/// The CDI specifications of claims for channels of compute domains on a node, by file name.
pub(crate) fn channels(node: &Node) -> Result<Vec<String>, Failure> {
    let mut names = names(&node.cdi_dir())?;
    names.retain(|name| name.starts_with("k8s.compute-domain.nvidia.com-claim_"));
    Ok(names)
}

/// How many records and CDI specifications of claims a node has.
pub(crate) fn left_on(node: &Node) -> Result<(usize, usize), Failure> {
    Ok((records(node)?.len(), specs(node)?.len()))
}

fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|e| e == extension)
}

/// Every file and socket that an installed driver has on a node.
pub(crate) fn everything(node: &Node) -> Result<Vec<PathBuf>, Failure> {
    let kubelet = node.kubelet_dir();
    let mut found = Vec::new();
    for dir in [
        node.run_dir(),
        node.cdi_dir(),
        kubelet.join("plugins_registry"),
        kubelet.join("plugins").join(DRIVER),
    ] {
        walk(&dir, &mut found)?;
    }
    Ok(found)
}

/// Directories do not count: some are mount points of the plugin's own pod, made by the kubelet.
fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    for name in names(dir)? {
        let path = dir.join(name);
        let metadata = fs::symlink_metadata(&path).map_err(|reason| Failure::File {
            path: path.clone(),
            reason,
        })?;
        if metadata.is_dir() {
            walk(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

fn names(dir: &Path) -> Result<Vec<String>, Failure> {
    let failed = |reason| Failure::File {
        path: dir.to_owned(),
        reason,
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn files_and_sockets_are_found_at_any_depth_and_directories_are_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), "").unwrap();
        let _socket = UnixListener::bind(dir.path().join("a/socket")).unwrap();
        let mut found = Vec::new();
        walk(dir.path(), &mut found).unwrap();
        assert_eq!(
            found,
            [dir.path().join("a/b/file"), dir.path().join("a/socket")]
        );
    }

    #[test]
    fn a_directory_that_is_not_there_holds_nothing() {
        assert_eq!(names(Path::new("/no/such/directory")).unwrap(), [""; 0]);
    }
}
