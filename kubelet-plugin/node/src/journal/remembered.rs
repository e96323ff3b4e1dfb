//! Records that were read before.
//!
//! Each Prepare looks at all records under the locks of its GPUs. A record is replaced and never written
//! to, so what was read of a file holds as long as the file is the same by what the kernel says of it.
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

impl From<Metadata> for Identity {
    fn from(file: Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// The records of one journal that were read last.
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
    /// What was read of the claim's file, if that is still this one.
    pub(super) fn recall(&self, claim: &ClaimUid, file: Identity) -> Option<RecordOf<D>> {
        let records = self.records();
        let (known, record) = records.get(claim)?;
        (*known == file).then(|| record.clone())
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
