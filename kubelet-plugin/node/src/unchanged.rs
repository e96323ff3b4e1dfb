//! What was read of directories, as long as nothing was put into them or taken out.
//!
//! Whoever reads the same small files twice a second pays for that alone. Files that are only ever replaced as a whole
//! leave a trace in their directory, and to ask for that is one system call for all of them.
//!
//! The trace is the time of the directory's last change, which the kernel takes from a clock that ticks some hundred times
//! a second (`ktime_get_coarse_real_ts64`). A second change within one tick leaves none. So what is read so soon after a
//! change that another one could have its time is not kept.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longer than a tick of that clock.
const TICK: Duration = Duration::from_millis(100);

/// What tells a directory from another one, and from itself after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    /// Seconds and nanoseconds.
    changed: (i64, i64),
}

impl Stamp {
    /// `None`: there is no such directory.
    fn of(directory: &Path) -> Option<Self> {
        let found = fs::metadata(directory).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    /// Whether a change at this time, or later, would show.
    fn is_settled(self, now: SystemTime) -> bool {
        let (Ok(seconds), Ok(nanos)) =
            (u64::try_from(self.changed.0), u32::try_from(self.changed.1))
        else {
            return false;
        };
        let changed = UNIX_EPOCH + Duration::new(seconds, nanos);
        now.duration_since(changed).is_ok_and(|since| since > TICK)
    }
}

/// Something that follows from the files of some directories.
#[derive(Debug)]
pub struct Unchanged<T> {
    directories: Vec<PathBuf>,
    last: Mutex<Option<(Vec<Stamp>, T)>>,
}

impl<T: Clone> Unchanged<T> {
    /// From the files of these, which are only ever replaced as a whole.
    pub fn of(directories: Vec<PathBuf>) -> Self {
        Self {
            directories,
            last: Mutex::default(),
        }
    }

    /// What follows from the files now: what did so before, if they are the same, or else what `read` finds.
    pub fn get<E>(&self, read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let now = SystemTime::now();
        let stamps: Option<Vec<Stamp>> = self.directories.iter().map(|it| Stamp::of(it)).collect();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(stamps), Some((known, found))) = (&stamps, &*last)
            && stamps == known
        {
            return Ok(found.clone());
        }
        *last = None;
        let found = read()?;
        if let Some(stamps) = stamps
            && stamps.iter().all(|stamp| stamp.is_settled(now))
        {
            *last = Some((stamps, found.clone()));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn stamp(changed: Duration) -> Stamp {
        Stamp {
            device: 1,
            inode: 2,
            changed: (
                i64::try_from(changed.as_secs()).unwrap(),
                i64::from(changed.subsec_nanos()),
            ),
        }
    }

    #[test]
    fn what_is_read_so_soon_that_a_second_change_could_have_the_same_time_is_not_kept() {
        let changed = Duration::new(1_800_000_000, 999_999_999);
        let at = |after: Duration| stamp(changed).is_settled(UNIX_EPOCH + changed + after);
        assert!(!at(Duration::ZERO));
        assert!(!at(TICK));
        assert!(at(TICK + Duration::from_nanos(1)));
        // The clock was set back.
        assert!(!stamp(changed).is_settled(UNIX_EPOCH + changed - TICK));
    }

    #[test]
    fn files_are_read_again_when_one_of_their_directories_has_changed() {
        let root = tempfile::tempdir().unwrap();
        let directories = ["a", "b"].map(|name| root.path().join(name));
        let unchanged = Unchanged::of(directories.to_vec());
        let read = || Ok::<_, Infallible>(directories.each_ref().map(|it| it.exists()));
        assert_eq!(unchanged.get(read), Ok([false, false]));
        for directory in &directories {
            fs::create_dir(directory).unwrap();
        }
        assert_eq!(unchanged.get(read), Ok([true, true]));
        // As if it had been read long after the change.
        let stamps = directories
            .iter()
            .map(|it| Stamp::of(it).unwrap())
            .collect();
        *unchanged.last.lock().unwrap() = Some((stamps, [true, true]));
        let unread = || -> Result<_, Infallible> { panic!("it is known") };
        assert_eq!(unchanged.get(unread), Ok([true, true]));
        let before = Stamp::of(&directories[1]);
        let (file, note) = (root.path().join("new"), directories[1].join("note"));
        // Again and again until the clock has ticked.
        while Stamp::of(&directories[1]) == before {
            fs::write(&file, "new").unwrap();
            fs::rename(&file, &note).unwrap();
        }
        let mut reads = 0;
        let counted = || {
            reads += 1;
            read()
        };
        assert_eq!(unchanged.get(counted), Ok([true, true]));
        assert_eq!(reads, 1);
    }
}
