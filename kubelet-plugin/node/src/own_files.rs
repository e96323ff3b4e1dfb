//! Notices that files by which the node reaches the plugin were removed from under it.
//!
//! A socket without a name takes no new connection and a hook without a file fails every container,
//! while the process itself is well. Its end repairs that: a start makes all of them anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::file_error::if_there;

/// Time between two looks. The probe notices a missing socket too, but only after a minute and more.
const INTERVAL: Duration = Duration::from_secs(2);

/// A file that somebody removed.
#[derive(Debug, Error)]
#[error("{} was removed from under the plugin, which starts anew to make it again", path.display())]
pub struct Removed {
    path: PathBuf,
}

/// Looks until `stop` is cancelled, and fails when one of `files` is gone.
pub async fn watch(files: Vec<PathBuf>, stop: CancellationToken) -> Result<(), Removed> {
    let looking = async {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Some(path) = files.iter().find(|path| is_gone(path)) {
                return Err(Removed { path: path.clone() });
            }
        }
    };
    stop.run_until_cancelled(looking).await.unwrap_or(Ok(()))
}

/// A path that cannot be looked at may be there.
fn is_gone(path: &Path) -> bool {
    matches!(if_there(fs::symlink_metadata(path)), Ok(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_removed_file_is_noticed_and_a_stop_is_no_removal() {
        let directory = tempfile::tempdir().unwrap();
        let (kept, removed) = (
            directory.path().join("kept"),
            directory.path().join("removed"),
        );
        fs::write(&kept, "").unwrap();
        fs::write(&removed, "").unwrap();
        let stop = CancellationToken::new();
        let watching = tokio::spawn(watch(vec![kept.clone(), removed.clone()], stop));
        tokio::time::sleep(INTERVAL * 3).await;
        assert!(!watching.is_finished());
        fs::remove_file(&removed).unwrap();
        let error = watching.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("removed"), "{error}");

        let stop = CancellationToken::new();
        stop.cancel();
        watch(vec![removed], stop).await.unwrap();
    }
}
