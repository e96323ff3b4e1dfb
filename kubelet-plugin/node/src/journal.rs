//! The journal: one record per claim, on the node's tmpfs.
//!
//! What a record describes dies with the boot, so it lies on a tmpfs and is not synced to a disk:
//! the rename makes a write atomic against a crash of this process, and nothing else can tear it.
//!
//! # Guarantees
//! A reader sees the former record or the new one, never a part. A damaged record is reported and
//! hides no other. Calls are short file operations in memory, so they are made in place.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tessera_claim::ClaimUid;
use tessera_prepare::ledger::{Flaw, Unreadable};
use tessera_prepare::record::{Record, RecordError};
use thiserror::Error;

use crate::replace::{replace, sweep};

/// Ending of a record's file name. A file with another name is no record.
const EXTENSION: &str = "record";

/// Mode of a record: only the driver reads it.
const RECORD_MODE: u32 = 0o600;

/// A record that could not be read, written or removed.
#[derive(Debug, Error)]
#[error("{action} {path}")]
pub struct JournalError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

#[cfg(test)]
impl JournalError {
    /// The failure of a process that died in the call.
    pub(crate) fn injected() -> Self {
        let source = io::Error::other("injected");
        Self {
            action: "die in",
            path: PathBuf::new(),
            source,
        }
    }
}

/// What the journal has of one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A record.
    Record(Record),
    /// A file that is no record that this version can use.
    Unreadable(Unreadable),
}

/// All that the journal has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The records, by claim UID.
    pub records: Vec<Record>,
    /// The files that are none.
    pub unreadable: Vec<Unreadable>,
}

/// Where records are kept, seen by those who keep them.
pub trait Records {
    /// The record of one claim, if there is one.
    fn read(&self, claim: &ClaimUid) -> Result<Option<Entry>, JournalError>;
    /// Everything.
    fn read_all(&self) -> Result<Contents, JournalError>;
    /// Puts a record in the place of the claim's former one.
    fn write(&self, record: &Record) -> Result<(), JournalError>;
    /// Removes a claim's record. It may be gone already.
    fn remove(&self, claim: &ClaimUid) -> Result<(), JournalError>;
}

/// The journal in a directory.
#[derive(Clone, Debug)]
pub struct Journal {
    directory: PathBuf,
}

impl Journal {
    /// Opens the journal, making its directory if need be.
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        fs::create_dir_all(directory).map_err(failed("create", directory))?;
        sweep(directory);
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    fn path(&self, claim: &ClaimUid) -> PathBuf {
        self.directory.join(format!("{claim}.{EXTENSION}"))
    }
}

impl Records for Journal {
    fn read(&self, claim: &ClaimUid) -> Result<Option<Entry>, JournalError> {
        let path = self.path(claim);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(entry(claim, &bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    fn read_all(&self) -> Result<Contents, JournalError> {
        let listing = fs::read_dir(&self.directory).map_err(failed("list", &self.directory))?;
        let mut contents = Contents::default();
        for file in listing {
            let path = file.map_err(failed("list", &self.directory))?.path();
            let Some(claim) = claim_of(&path) else {
                continue;
            };
            match self.read(&claim)? {
                Some(Entry::Record(record)) => contents.records.push(record),
                Some(Entry::Unreadable(unreadable)) => contents.unreadable.push(unreadable),
                // Another process removed it between the listing and the read.
                None => {}
            }
        }
        contents
            .records
            .sort_by(|a, b| a.claim.uid.cmp(&b.claim.uid));
        contents.unreadable.sort_by(|a, b| a.claim.cmp(&b.claim));
        Ok(contents)
    }

    fn write(&self, record: &Record) -> Result<(), JournalError> {
        let path = self.path(&record.claim.uid);
        let write = |file: &mut fs::File| file.write_all(&record.encode());
        replace(&path, RECORD_MODE, write).map_err(failed("write", &path))
    }

    fn remove(&self, claim: &ClaimUid) -> Result<(), JournalError> {
        let path = self.path(claim);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// The claim whose record lies at `path`, if it is one.
fn claim_of(path: &Path) -> Option<ClaimUid> {
    let record = path
        .extension()
        .is_some_and(|extension| extension == EXTENSION);
    record
        .then(|| path.file_stem()?.to_str()?.parse().ok())
        .flatten()
}

fn entry(claim: &ClaimUid, bytes: &[u8]) -> Entry {
    let unreadable = |problem: String, flaw: Flaw| {
        Entry::Unreadable(Unreadable {
            claim: claim.clone(),
            problem,
            flaw,
        })
    };
    match Record::decode(bytes) {
        Ok(record) if record.claim.uid == *claim => Entry::Record(record),
        Ok(record) => unreadable(
            format!("it is the record of claim {}", record.claim),
            Flaw::Damaged,
        ),
        Err(error @ RecordError::NewerFormat { .. }) => unreadable(error.to_string(), Flaw::Newer),
        Err(error) => unreadable(error.to_string(), Flaw::Damaged),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::record;

    #[test]
    fn a_record_is_found_again_and_removing_it_twice_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(&directory.path().join("claims")).unwrap();
        let record = record("a", &[0]);
        journal.write(&record).unwrap();
        let uid = record.claim.uid.clone();
        assert_eq!(journal.read(&uid).unwrap(), Some(Entry::Record(record)));
        journal.remove(&uid).unwrap();
        journal.remove(&uid).unwrap();
        assert_eq!(journal.read(&uid).unwrap(), None);
    }

    #[test]
    fn a_damaged_record_is_reported_under_its_claim_and_hides_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        journal.write(&record("a", &[0])).unwrap();
        fs::write(directory.path().join("b-uid.record"), b"garbage").unwrap();
        let moved = record("c", &[1]).encode();
        fs::write(directory.path().join("d-uid.record"), moved).unwrap();
        fs::write(directory.path().join("note.txt"), b"not a record").unwrap();

        let contents = journal.read_all().unwrap();
        assert_eq!(contents.records, [record("a", &[0])]);
        let unreadable: Vec<&str> = contents
            .unreadable
            .iter()
            .map(|unreadable| unreadable.claim.as_str())
            .collect();
        assert_eq!(unreadable, ["b-uid", "d-uid"]);
    }

    #[test]
    fn a_write_leaves_no_other_file_behind() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        journal.write(&record("a", &[0])).unwrap();
        journal.write(&record("a", &[1])).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
