//! Objects that a new cluster has from its start, as an installer of Kubernetes would make them.

use std::fs;
use std::time::Duration;

use super::super::{ClusterError, kubectl};
use crate::control_plane;
use crate::paths::StateDir;
use crate::process::run;

const LIMIT: Duration = Duration::from_secs(30);

/// Creates the objects that `yaml` describes; the API server must be ready. `name` is that of the file that holds them.
pub(super) fn make(dir: &StateDir, name: &str, yaml: &str) -> Result<(), ClusterError> {
    let path = dir.of(control_plane::OWNER).join(name);
    fs::write(&path, yaml).map_err(|source| ClusterError::Write {
        path: path.clone(),
        source,
    })?;
    let mut command = kubectl(dir);
    command
        .args(["apply", "--server-side", "--filename"])
        .arg(&path);
    run(&mut command, LIMIT)
        .map(drop)
        .map_err(|source| ClusterError::FirstObjects { source })
}
