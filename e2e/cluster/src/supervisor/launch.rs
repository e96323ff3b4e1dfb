//! Starts the first process inside namespaces that already exist, and tells its process id.

use std::io;
use std::path::Path;
use std::process::Command;

use super::InitError;

/// Starts `run PLAN` as the first process of the process namespace that this program's children are in, and returns
/// its id as this program sees it.
///
/// Run by `unshare --pid`, which moves children only, never the caller: so the child is first in the new namespace and
/// its id is one of the machine's. Standard input is the child's lifeline and is handed on.
pub fn launch(plan: &Path) -> Result<u32, InitError> {
    let failed = |source: io::Error| InitError::Launch {
        plan: plan.to_owned(),
        source,
    };
    let this = std::env::current_exe().map_err(failed)?;
    let child = Command::new(this)
        .arg("run")
        .arg(plan)
        .stdout(std::io::stderr())
        .spawn()
        .map_err(failed)?;
    Ok(child.id())
}
