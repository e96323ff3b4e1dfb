//! The directories of one driver, and what may stay in them.

use std::fs;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::hook_file;
use crate::journal::{Journal, Records};
use tessera_shell::logging::chain;

/// Directories of one driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// What must have the same path on the host: sockets and the hook.
    pub plugin: PathBuf,
    /// What dies with the boot: journal and lock files.
    pub state: PathBuf,
}

impl Directories {
    /// Those of `driver` below the directories of all plugins and of all state.
    pub fn of(driver: &str, plugins: &Path, state: &Path) -> Self {
        Self {
            plugin: plugins.join(driver),
            state: state.join(driver),
        }
    }

    /// One record per claim.
    pub fn journal(&self) -> PathBuf {
        self.state.join("claims")
    }

    /// One lock file per GPU.
    pub fn locks(&self) -> PathBuf {
        self.state.join("locks")
    }
}

/// Where no claim is prepared, nothing of ours is needed until the next start: an uninstalled
/// driver leaves no file behind. Where one is, its record and the hook that its containers run at
/// a restart must stay.
pub fn leave_nothing_unneeded(directories: &Directories, journal: &Journal) {
    match journal.read_all() {
        Ok(contents) if contents.records.is_empty() && contents.unreadable.is_empty() => {}
        Ok(_) => return,
        Err(error) => {
            warn!(
                error = %chain(&error),
                "files are left, because the journal cannot be read"
            );
            return;
        }
    }
    remove(&directories.state, fs::remove_dir_all(&directories.state));
    remove(&directories.plugin, hook_file::remove(&directories.plugin));
    // Not empty: another process of ours, newer or of another driver, uses it.
    let _ = fs::remove_dir(&directories.plugin);
    let _ = directories.state.parent().map(fs::remove_dir);
}

fn remove(path: &Path, outcome: std::io::Result<()>) {
    if let Err(error) = outcome {
        warn!(path = %path.display(), %error, "files are left");
    }
}
