//! The journal: one record per claim, on the node's tmpfs.
//!
//! What a record describes dies with the boot, so it lies on a tmpfs and is not synced to a disk:
//! the rename makes a write atomic against a crash of this process, and nothing else can tear it.
//! Each record has a copy in a directory beside: what damages the one leaves the other. A mere intent has none
//! ([`RecordOf::is_mere_intent`]): before it is the record of anything that a container can have, it is written again.
//!
//! # Guarantees
//! A reader sees the former record or the new one, never a part. A damaged record hides no other,
//! and is replaced only by being set aside. A directory that has vanished is made again. Calls are
//! short file operations in memory, so they are made in place.
//!
//! Record and copy hold to two rules, at whichever call this process dies:
//! - A copy is made after its record and removed before it. So a copy alone is a record that was lost.
//! - Whatever lies in a record's place is replaced after the copy. So no record is ahead of its copy,
//!   and what the copy tells of a damaged one is not out of date.

mod damaged;
mod entry;
mod remembered;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tessera_claim::ClaimUid;
use tessera_prepare::cdi::CdiKind;
use tessera_prepare::ledger::{Flaw, UnreadableOf};
use tessera_prepare::record::{PreparedDevice, RecordOf, RecordedDevice};
use thiserror::Error;

use self::damaged::{Damaged, remove_whatever};
use self::remembered::{Identity, Remembered};
use crate::file_error::{FileError, concerns_the_file, if_there};
use crate::replace::{replace, sweep};

/// Ending of a record's file name. A file with another name is no record.
const EXTENSION: &str = "record";

/// Mode of a record: only the driver reads it.
const RECORD_MODE: u32 = 0o600;

/// A record that could not be read, written or removed.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct JournalError(#[from] FileError);

/// What the journal has of one claim for GPUs.
pub type Entry = EntryOf<PreparedDevice>;

/// What the journal has of one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryOf<D> {
    /// A record.
    Record(RecordOf<D>),
    /// A file that is no record that this version can use, or a record that is lost.
    Unreadable(UnreadableOf<D>),
}

impl<D> EntryOf<D> {
    /// The record, or what its copy says.
    pub fn record(&self) -> Option<&RecordOf<D>> {
        match self {
            Self::Record(record) => Some(record),
            Self::Unreadable(unreadable) => unreadable.copy.as_ref(),
        }
    }

    /// What there is of a claim that has a CDI spec and no record.
    pub fn lost(claim: &ClaimUid) -> Self {
        Self::Unreadable(UnreadableOf {
            claim: claim.clone(),
            problem: "there is none, but a CDI spec of the claim".to_owned(),
            flaw: Flaw::Damaged,
            copy: None,
        })
    }
}

/// All that the journal of claims for GPUs has.
pub type Contents = ContentsOf<PreparedDevice>;

/// All that a journal has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentsOf<D> {
    /// The records, by claim UID.
    pub records: Vec<RecordOf<D>>,
    /// The files that are none.
    pub unreadable: Vec<UnreadableOf<D>>,
}

impl<D> ContentsOf<D> {
    /// The same, and what `trace` finds of those of these claims that the journal does not have: another
    /// process may have prepared or unprepared one since the journal was read.
    pub fn with(
        mut self,
        claims: impl IntoIterator<Item = ClaimUid>,
        trace: impl Fn(&ClaimUid) -> Result<Option<EntryOf<D>>, JournalError>,
    ) -> Result<Self, JournalError> {
        for claim in claims {
            let recorded = self.records.iter().any(|r| r.claim.uid == claim)
                || self.unreadable.iter().any(|u| u.claim == claim);
            if recorded {
                continue;
            }
            match trace(&claim)? {
                Some(EntryOf::Record(record)) => self.records.push(record),
                Some(EntryOf::Unreadable(unreadable)) => self.unreadable.push(unreadable),
                None => {}
            }
        }
        Ok(self)
    }
}

impl<D> Default for ContentsOf<D> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            unreadable: Vec::new(),
        }
    }
}

/// Where records are kept, seen by those who keep them. Which devices they are of is the driver's.
pub trait Records<D = PreparedDevice> {
    /// What there is of one claim, if anything.
    fn read(&self, claim: &ClaimUid) -> Result<Option<EntryOf<D>>, JournalError>;
    /// Everything.
    fn read_all(&self) -> Result<ContentsOf<D>, JournalError>;
    /// Puts a record in the place of the claim's former one.
    fn write(&self, record: &RecordOf<D>) -> Result<(), JournalError>;
    /// Removes a claim's record. It may be gone already.
    fn remove(&self, claim: &ClaimUid) -> Result<(), JournalError>;
    /// Puts a note in the place of the record of a claim of which there is none, and of which it is not
    /// known what it holds: a record that cannot be read.
    fn mark(&self, claim: &ClaimUid, why: &str) -> Result<(), JournalError>;
    /// Takes what cannot be read out of the way and reports it, with a record in its place or
    /// nothing.
    fn set_aside(
        &self,
        unreadable: &UnreadableOf<D>,
        replacement: Option<&RecordOf<D>>,
    ) -> Result<(), JournalError>;
}

/// The journal of claims for GPUs.
pub type Journal = JournalOf<PreparedDevice>;

/// The journal in a directory.
#[derive(Clone, Debug)]
pub struct JournalOf<D> {
    directory: PathBuf,
    copies: PathBuf,
    damaged: Damaged,
    kind: CdiKind,
    remembered: Arc<Remembered<D>>,
}

impl<D: RecordedDevice> JournalOf<D> {
    /// Opens the journal of the driver whose CDI devices are of this kind, making its directory if
    /// need be.
    pub fn open(directory: &Path, kind: CdiKind) -> Result<Self, JournalError> {
        let copies = directory.join("copies");
        fs::create_dir_all(&copies).map_err(FileError::of("create", &copies))?;
        sweep(directory);
        sweep(&copies);
        let damaged = Damaged::at(directory.join("damaged"));
        damaged.sweep();
        Ok(Self {
            directory: directory.to_owned(),
            copies,
            damaged,
            kind,
            remembered: Arc::default(),
        })
    }

    /// The same for who only reads. Nothing is made or swept.
    pub fn reading(directory: &Path, kind: CdiKind) -> Self {
        Self {
            directory: directory.to_owned(),
            copies: directory.join("copies"),
            damaged: Damaged::at(directory.join("damaged")),
            kind,
            remembered: Arc::default(),
        }
    }

    /// The directories of records and of their copies: what is put into the journal or taken out of it changes both.
    pub fn directories(&self) -> [&Path; 2] {
        [&self.directory, &self.copies]
    }

    /// Counts the damaged records that were set aside.
    pub fn damaged(&self) -> &Counter {
        self.damaged.count()
    }

    /// Where the record of a claim lies.
    pub fn path(&self, claim: &ClaimUid) -> PathBuf {
        path(&self.directory, claim)
    }

    /// Whether anything lies in the place of the claim's record.
    fn is_there(&self, claim: &ClaimUid) -> bool {
        is_anything(&self.path(claim))
    }

    /// What lies at `path`, or `None` where nothing does, and what tells the file from another one.
    fn read_at(
        &self,
        claim: &ClaimUid,
        path: &Path,
    ) -> Result<(Option<EntryOf<D>>, Option<Identity>), JournalError> {
        match if_there(entry::bytes_at(path)) {
            Ok(None) => Ok((None, None)),
            Ok(Some((bytes, file))) => Ok((Some(entry::of(claim, &self.kind, &bytes)), file)),
            Err(reason) if concerns_the_file(&reason) => {
                Ok((Some(entry::damaged(claim, reason.to_string())), None))
            }
            Err(reason) => Err(FileError::of("read", path)(reason).into()),
        }
    }

    /// The claim's copy, if it can be read.
    fn copy(&self, claim: &ClaimUid) -> Result<Option<RecordOf<D>>, JournalError> {
        let (found, _) = self.read_at(claim, &path(&self.copies, claim))?;
        Ok(match found {
            Some(EntryOf::Record(record)) => Some(record),
            Some(EntryOf::Unreadable(_)) | None => None,
        })
    }

    /// Exchanges what lies in the record's place with the replacement in one step, so that no
    /// moment is without either, or only moves it.
    fn move_aside(
        &self,
        unreadable: &UnreadableOf<D>,
        replacement: Option<&RecordOf<D>>,
    ) -> Result<(), JournalError> {
        let claim = &unreadable.claim;
        let path = self.path(claim);
        let moved = self.damaged.place(claim).and_then(|place| {
            match replacement {
                Some(record) => {
                    write_at(&place, &record.encode())?;
                    exchange(&place, &path).inspect_err(|_| {
                        // What is there is our own unused replacement.
                        let _ = fs::remove_file(&place);
                    })?;
                }
                None => fs::rename(&path, &place)?,
            }
            Ok(place)
        });
        match (moved, replacement) {
            (Ok(place), _) => self.damaged.report(claim, &unreadable.problem, &place),
            (Err(reason), Some(_)) => {
                return Err(FileError::of("set aside and replace", &path)(reason).into());
            }
            (Err(reason), None) => {
                remove_whatever(&path).map_err(FileError::of("remove", &path))?;
                self.damaged
                    .report_lost(claim, &unreadable.problem, &reason);
            }
        }
        Ok(())
    }
}

impl<D: RecordedDevice> Records<D> for JournalOf<D> {
    fn read(&self, claim: &ClaimUid) -> Result<Option<EntryOf<D>>, JournalError> {
        let path = self.path(claim);
        let found = || {
            fs::symlink_metadata(&path)
                .ok()
                .as_ref()
                .and_then(Identity::of)
        };
        if let Some(record) = self.remembered.recall(claim, found) {
            return Ok(Some(EntryOf::Record(record)));
        }
        let (found, file) = self.read_at(claim, &path)?;
        match found {
            Some(EntryOf::Record(record)) => {
                if let Some(file) = file {
                    self.remembered.remember(claim, file, &record);
                }
                Ok(Some(EntryOf::Record(record)))
            }
            Some(EntryOf::Unreadable(mut unreadable)) => {
                unreadable.copy = self.copy(claim)?;
                Ok(Some(EntryOf::Unreadable(unreadable)))
            }
            None => Ok(self.copy(claim)?.map(entry::lost)),
        }
    }

    fn read_all(&self) -> Result<ContentsOf<D>, JournalError> {
        let mut claims = list(&self.directory)?;
        claims.append(&mut list(&self.copies)?);
        self.remembered.retain(|claim| claims.contains(claim));
        let mut contents = ContentsOf::default();
        for claim in claims {
            match self.read(&claim)? {
                Some(EntryOf::Record(record)) => contents.records.push(record),
                Some(EntryOf::Unreadable(unreadable)) => contents.unreadable.push(unreadable),
                // Another process removed it between the listing and the read.
                None => {}
            }
        }
        Ok(contents)
    }

    fn write(&self, record: &RecordOf<D>) -> Result<(), JournalError> {
        let (claim, bytes) = (&record.claim.uid, record.encode());
        let copy = || -> Result<(), JournalError> {
            // A copy that is there must not tell of what was before.
            if !record.is_mere_intent() || is_anything(&path(&self.copies, claim)) {
                put(&self.copies, claim, &bytes)?;
            }
            Ok(())
        };
        let file = if self.is_there(claim) {
            copy()?;
            put(&self.directory, claim, &bytes)?
        } else {
            let file = put(&self.directory, claim, &bytes)?;
            copy()?;
            file
        };
        // What cannot be looked at is read when it is asked for.
        if let Some(file) = file.metadata().ok().as_ref().and_then(Identity::of) {
            self.remembered.remember(claim, file, record);
        }
        Ok(())
    }

    fn remove(&self, claim: &ClaimUid) -> Result<(), JournalError> {
        remove(&self.copies, claim)?;
        remove(&self.directory, claim)
    }

    fn mark(&self, claim: &ClaimUid, why: &str) -> Result<(), JournalError> {
        let path = self.path(claim);
        let note = |file: &mut fs::File| writeln!(file, "{why}");
        replace(&path, RECORD_MODE, note).map_err(FileError::of("write", &path))?;
        Ok(())
    }

    fn set_aside(
        &self,
        unreadable: &UnreadableOf<D>,
        replacement: Option<&RecordOf<D>>,
    ) -> Result<(), JournalError> {
        let claim = &unreadable.claim;
        match replacement {
            Some(record) if !self.is_there(claim) => return self.write(record),
            Some(record) => drop(put(&self.copies, claim, &record.encode())?),
            None => remove(&self.copies, claim)?,
        }
        if self.is_there(claim) {
            self.move_aside(unreadable, replacement)?;
        }
        Ok(())
    }
}

fn is_anything(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn path(directory: &Path, claim: &ClaimUid) -> PathBuf {
    directory.join(format!("{claim}.{EXTENSION}"))
}

/// The claims that have a record in this directory.
fn list(directory: &Path) -> Result<BTreeSet<ClaimUid>, JournalError> {
    let listing = if_there(fs::read_dir(directory)).map_err(FileError::of("list", directory))?;
    let mut claims = BTreeSet::new();
    for file in listing.into_iter().flatten() {
        let path = file.map_err(FileError::of("list", directory))?.path();
        claims.extend(claim_of(&path));
    }
    Ok(claims)
}

/// Puts a record in the place of what the directory has of its claim, and returns its file.
fn put(directory: &Path, claim: &ClaimUid, record: &[u8]) -> Result<File, JournalError> {
    let path = path(directory, claim);
    Ok(write_at(&path, record).map_err(FileError::of("write", &path))?)
}

/// Removes what the directory has of the claim, if anything.
fn remove(directory: &Path, claim: &ClaimUid) -> Result<(), JournalError> {
    let path = path(directory, claim);
    remove_whatever(&path).map_err(FileError::of("remove", &path))?;
    Ok(())
}

fn write_at(path: &Path, record: &[u8]) -> io::Result<File> {
    replace(path, RECORD_MODE, |file| file.write_all(record))
}

fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
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

#[cfg(test)]
mod tests;
