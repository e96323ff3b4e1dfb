//! The directories of one driver, and what may stay in them.

use std::fs;
use std::path::{Path, PathBuf};

use tessera_prepare::record::RecordedDevice;
use tracing::warn;

use crate::hook_file;
use crate::journal::{JournalOf, Records};
use crate::presence::Presence;
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

    /// The file by which processes of the driver know of each other.
    pub fn presence(&self) -> PathBuf {
        self.state.join("plugins.lock")
    }

    /// The file that is locked by the process that publishes.
    pub fn publisher(&self) -> PathBuf {
        self.state.join("publisher.lock")
    }

    /// The file that is locked by the process that writes the status of claims.
    pub fn share_status(&self) -> PathBuf {
        self.state.join("share-status.lock")
    }

    /// The socket at which hooks ask for memory limits: where the host has it too.
    pub fn limit_socket(&self) -> PathBuf {
        self.plugin.join("memory.sock")
    }

    /// One note per share to which a container is held.
    pub fn limits(&self) -> PathBuf {
        self.state.join("limits")
    }

    /// One lock file per GPU on which limits are set.
    pub fn limit_locks(&self) -> PathBuf {
        self.state.join("limit-locks")
    }

    /// One lock file per GPU.
    pub fn locks(&self) -> PathBuf {
        self.state.join("locks")
    }
}

/// Where no claim is prepared, nothing of ours is needed until the next start: an uninstalled
/// driver leaves no file behind. Where one is, its record and the hook that its containers run at
/// a restart must stay; and where another process of the driver is at work, everything.
pub fn leave_nothing_unneeded<D: RecordedDevice>(
    directories: &Directories,
    journal: &JournalOf<D>,
    presence: Presence,
) {
    let Some(_alone) = presence.leave() else {
        return;
    };
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

#[cfg(test)]
mod tests {
    use tessera_prepare::cdi::CdiKind;

    use super::*;
    use crate::journal::Journal;

    #[tokio::test]
    async fn the_last_process_removes_what_nobody_needs_and_an_earlier_one_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (plugins, state) = (root.path().join("plugins"), root.path().join("state"));
        let directories = Directories::of("gpu.nvidia.com", &plugins, &state);
        let journal = Journal::open(&directories.journal(), CdiKind::claim()).unwrap();
        fs::create_dir_all(&directories.plugin).unwrap();
        let old = Presence::enter(&directories.presence()).await.unwrap();
        let new = Presence::enter(&directories.presence()).await.unwrap();
        leave_nothing_unneeded(&directories, &journal, old);
        assert!(directories.journal().exists() && directories.plugin.exists());
        leave_nothing_unneeded(&directories, &journal, new);
        assert!(!state.exists() && !directories.plugin.exists());
    }
}
