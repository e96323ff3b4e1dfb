//! Records that were read or written before.
//!
//! Each Prepare looks at all records under the locks of its GPUs. A record is replaced and never written
//! to, so what was read or written of a file holds as long as the file is the same by what the kernel says of it.
//! Asking for that is one system call; to open, read and decode it would be five and most of the time.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tessera_claim::ClaimUid;
use tessera_prepare::record::RecordOf;

/// What tells a file from another one, and from itself after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds: unlike the time of the last write, nobody can set it.
    changed: (i64, i64),
}

impl Identity {
    /// Of a regular file. Other things change without a trace in what is said of them.
    pub(super) fn of(file: &Metadata) -> Option<Self> {
        file.is_file().then(|| Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

/// The records of one journal that were read or written last.
#[derive(Debug)]
pub(super) struct Remembered<D> {
    records: Mutex<BTreeMap<ClaimUid, (Identity, RecordOf<D>)>>,
}

impl<D> Default for Remembered<D> {
    fn default() -> Self {
        Self {
            records: Mutex::default(),
        }
    }
}

impl<D: Clone> Remembered<D> {
    /// What is known of the claim's record, if `found`, which is asked only where something is known, says that the file is
    /// still the same.
    pub(super) fn recall(
        &self,
        claim: &ClaimUid,
        found: impl FnOnce() -> Option<Identity>,
    ) -> Option<RecordOf<D>> {
        let records = self.records();
        let (known, record) = records.get(claim)?;
        (found()? == *known).then(|| record.clone())
    }

    pub(super) fn remember(&self, claim: &ClaimUid, file: Identity, record: &RecordOf<D>) {
        let remembered = (file, record.clone());
        self.records().insert(claim.clone(), remembered);
    }

    /// Forgets what is kept of the claims for which this does not hold.
    pub(super) fn retain(&self, holds: impl Fn(&ClaimUid) -> bool) {
        self.records().retain(|claim, _| holds(claim));
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<ClaimUid, (Identity, RecordOf<D>)>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
