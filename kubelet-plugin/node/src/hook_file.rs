//! The CDI hook on the host.
//!
//! The container runtime runs it on the host, so it must lie where the host can reach it: in the
//! plugin's own directory, which has the same path on both sides.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::file_error::if_there;
use crate::replace::{replace, sweep};

/// File name in the plugin's directory.
const NAME: &str = "tessera-cdi-hook";

/// Executable by the runtime, writable by root alone.
const MODE: u32 = 0o755;

/// The hook could not be put in place.
#[derive(Debug, Error)]
#[error("copy the CDI hook from {from} to {to}")]
pub struct HookFileError {
    from: PathBuf,
    to: PathBuf,
    #[source]
    source: io::Error,
}

/// Copies the hook into the plugin's directory and returns its path there.
///
/// It replaces a former copy in one step, so that a container that is being created meets one
/// version or the other.
pub fn install(bundled: &Path, plugin_directory: &Path) -> Result<PathBuf, HookFileError> {
    let to = installed(plugin_directory);
    let copy = || -> io::Result<()> {
        fs::create_dir_all(plugin_directory)?;
        sweep(plugin_directory);
        let mut bundled = fs::File::open(bundled)?;
        replace(&to, MODE, |file| io::copy(&mut bundled, file).map(drop))?;
        Ok(())
    };
    copy().map_err(|source| HookFileError {
        from: bundled.to_owned(),
        to: to.clone(),
        source,
    })?;
    Ok(to)
}

/// Where the copy is once it is installed.
pub fn installed(plugin_directory: &Path) -> PathBuf {
    plugin_directory.join(NAME)
}

/// Removes the copy, when nothing on the node needs it any more.
pub fn remove(plugin_directory: &Path) -> io::Result<()> {
    if_there(fs::remove_file(plugin_directory.join(NAME))).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_hook_is_copied_executable_and_a_newer_one_takes_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let plugin = directory.path().join("gpu.nvidia.com");
        let bundled = directory.path().join("bundled");
        for version in ["one", "two"] {
            fs::write(&bundled, version).unwrap();
            let hook = install(&bundled, &plugin).unwrap();
            assert_eq!(fs::read_to_string(&hook).unwrap(), version);
            assert_eq!(
                fs::metadata(&hook).unwrap().permissions().mode() & 0o777,
                0o755
            );
        }
        assert_eq!(fs::read_dir(&plugin).unwrap().count(), 1);
        remove(&plugin).unwrap();
        remove(&plugin).unwrap();
    }
}
