//! What is kept of damaged records, for whoever wants to know how they came about.
//!
//! # Guarantees
//! The newest [`KEPT`] are kept, each with the reason beside it, none larger than [`LARGEST`]: the
//! tmpfs is the node's memory. Keeping is a service to people: where it fails, the claim goes on.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use prometheus_client::metrics::counter::Counter;
use tessera_claim::ClaimUid;
use tracing::warn;

use crate::file_error::if_there;

/// How many are kept.
const KEPT: usize = 16;

/// Bytes of the largest that is kept. A record of a claim with many GPUs has a few thousand.
const LARGEST: u64 = 64 * 1024;

/// Ending of the file that says why a record was set aside.
const REASON: &str = "reason";

/// The directory of damaged records.
#[derive(Clone, Debug)]
pub(super) struct Damaged {
    directory: PathBuf,
    count: Counter,
}

impl Damaged {
    pub(super) fn at(directory: PathBuf) -> Self {
        Self {
            directory,
            count: Counter::default(),
        }
    }

    /// Counts them.
    pub(super) fn count(&self) -> &Counter {
        &self.count
    }

    /// Removes what a killed process left: files that it had no time to give a reason.
    pub(super) fn sweep(&self) {
        let swept = self.files().and_then(|files| {
            let alone = |file: &&PathBuf| !is_reason(file) && !with_reason(file).exists();
            files
                .iter()
                .filter(alone)
                .try_for_each(|file| remove_whatever(file))
        });
        if let Err(error) = if_there(swept) {
            warn!(%error, "files are left beside the damaged records");
        }
    }

    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let files = fs::read_dir(&self.directory)?;
        files.map(|file| Ok(file?.path())).collect()
    }

    /// A free place for a damaged record of this claim.
    pub(super) fn place(&self, claim: &ClaimUid) -> io::Result<PathBuf> {
        fs::create_dir_all(&self.directory)?;
        // One more than are kept: one of these names is free.
        let names = (0..=KEPT).map(|n| self.directory.join(format!("{claim}.{n}")));
        let free = names
            .into_iter()
            .find(|path| fs::symlink_metadata(path).is_err());
        free.ok_or_else(|| io::ErrorKind::AlreadyExists.into())
    }

    /// Reports what has been moved to `place`, and keeps it within the bounds.
    pub(super) fn report(&self, claim: &ClaimUid, problem: &str, place: &Path) {
        self.count.inc();
        let kept = self.keep(problem, place);
        match kept {
            Ok(true) => {
                warn!(claimUID = %claim, problem, kept = %place.display(), "a damaged record was set aside");
            }
            Ok(false) => {
                warn!(claimUID = %claim, problem, "a damaged record was removed: it is no small file");
            }
            Err(error) => {
                warn!(claimUID = %claim, problem, %error, "a damaged record was set aside, but not well kept");
            }
        }
    }

    /// Reports a damaged record that could not be kept and was removed.
    pub(super) fn report_lost(&self, claim: &ClaimUid, problem: &str, error: &io::Error) {
        self.count.inc();
        warn!(claimUID = %claim, problem, %error, "a damaged record was removed: it could not be set aside");
    }

    fn keep(&self, problem: &str, place: &Path) -> io::Result<bool> {
        let small = |file: &Metadata| file.is_file() && file.len() <= LARGEST;
        let keep = small(&fs::symlink_metadata(place)?);
        if keep {
            fs::write(with_reason(place), format!("{problem}\n"))?;
        } else {
            remove_whatever(place)?;
        }
        self.prune()?;
        Ok(keep)
    }

    /// Removes the oldest beyond [`KEPT`], by the time at which their reason was written.
    fn prune(&self) -> io::Result<()> {
        let mut reasons = Vec::new();
        for path in self.files()?.into_iter().filter(|path| is_reason(path)) {
            reasons.push((fs::metadata(&path)?.modified()?, path));
        }
        reasons.sort();
        let excess = reasons.len().saturating_sub(KEPT);
        for (_, reason) in reasons.into_iter().take(excess) {
            remove_whatever(&reason.with_extension(""))?;
            fs::remove_file(reason)?;
        }
        Ok(())
    }
}

fn is_reason(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == REASON)
}

fn with_reason(place: &Path) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(".");
    name.push(REASON);
    PathBuf::from(name)
}

/// Removes what lies at `path`, a directory with all that is in it. It may be gone already, whatever state its directory is
/// in: a read-only file system refuses a removal before it looks for the file.
pub(super) fn remove_whatever(path: &Path) -> io::Result<()> {
    // Nearly always it is a file, and then nothing else is to be asked.
    let Err(error) = fs::remove_file(path) else {
        return Ok(());
    };
    match if_there(fs::symlink_metadata(path))? {
        None => Ok(()),
        Some(found) if found.is_dir() => if_there(fs::remove_dir_all(path)).map(drop),
        Some(_) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_aside(damaged: &Damaged, claim: &ClaimUid, bytes: &[u8]) -> PathBuf {
        let place = damaged.place(claim).unwrap();
        fs::write(&place, bytes).unwrap();
        damaged.report(claim, "a reason", &place);
        place
    }

    #[test]
    fn only_the_newest_are_kept_each_with_its_reason() {
        let directory = tempfile::tempdir().unwrap();
        let damaged = Damaged::at(directory.path().join("damaged"));
        let claim = "a-uid".parse().unwrap();
        for n in 0..KEPT + 3 {
            let place = set_aside(&damaged, &claim, n.to_string().as_bytes());
            let reason = fs::read_to_string(with_reason(&place)).unwrap();
            assert_eq!(reason, "a reason\n");
        }
        let files = fs::read_dir(directory.path().join("damaged")).unwrap();
        assert_eq!(files.count(), 2 * KEPT);
        assert_eq!(damaged.count().get(), u64::try_from(KEPT).unwrap() + 3);
    }

    #[test]
    fn what_a_killed_process_left_is_swept_and_what_has_a_reason_stays() {
        let directory = tempfile::tempdir().unwrap();
        let damaged = Damaged::at(directory.path().join("damaged"));
        damaged.sweep();
        let claim = "a-uid".parse().unwrap();
        let kept = set_aside(&damaged, &claim, b"kept");
        let left = damaged.place(&claim).unwrap();
        fs::write(&left, "left").unwrap();
        damaged.sweep();
        assert!(kept.exists() && !left.exists());
    }

    #[test]
    fn what_is_large_or_no_file_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let damaged = Damaged::at(directory.path().to_owned());
        let claim = "a-uid".parse().unwrap();
        let large = vec![0; usize::try_from(LARGEST).unwrap() + 1];
        let place = set_aside(&damaged, &claim, &large);
        assert!(!place.exists());
        let place = damaged.place(&claim).unwrap();
        fs::create_dir_all(place.join("full/of/things")).unwrap();
        damaged.report(&claim, "a directory", &place);
        assert!(!place.exists());
    }
}
