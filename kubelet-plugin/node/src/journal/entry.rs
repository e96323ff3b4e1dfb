//! What the bytes in a record's place are.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use tessera_claim::ClaimUid;
use tessera_prepare::cdi::CdiKind;
use tessera_prepare::ledger::{Flaw, UnreadableOf};
use tessera_prepare::record::{RecordError, RecordOf, RecordedDevice};

use super::EntryOf;
use super::remembered::Identity;

/// Bytes of a record that are read. The API allows a claim 32 devices, of which a record has a few hundred bytes each; what is
/// larger is not ours, and is taken for damaged.
const LARGEST: u64 = 1024 * 1024;

/// The bytes of the file at `path`. What tells it from another one is taken before, so that it is never newer than the bytes.
pub(super) fn bytes_at(path: &Path) -> io::Result<(Vec<u8>, Option<Identity>)> {
    let file = File::open(path)?;
    let found = file.metadata()?;
    // A little more than it has, or the end of the file is looked for with another call.
    let size = usize::try_from(found.len().min(LARGEST)).unwrap_or_default();
    let mut bytes = Vec::with_capacity(size + 64);
    // A file that is read as it is would be asked for its size and place again.
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok((bytes, Identity::of(&found)))
}

/// Reads the bytes that lie in the place of this claim's record.
pub(super) fn of<D: RecordedDevice>(claim: &ClaimUid, kind: &CdiKind, bytes: &[u8]) -> EntryOf<D> {
    match RecordOf::decode(bytes) {
        Ok(record) if record.claim.uid != *claim => {
            damaged(claim, format!("it is the record of claim {}", record.claim))
        }
        Ok(record) if !record.is_of(kind) => {
            damaged(claim, "it is the record of another driver".to_owned())
        }
        Ok(record) => EntryOf::Record(record),
        Err(error @ RecordError::NewerFormat { .. }) => {
            unreadable(claim, error.to_string(), Flaw::Newer)
        }
        Err(error) => damaged(claim, error.to_string()),
    }
}

/// Something that is no record.
pub(super) fn damaged<D>(claim: &ClaimUid, problem: String) -> EntryOf<D> {
    unreadable(claim, problem, Flaw::Damaged)
}

/// A record of which only the copy is left.
pub(super) fn lost<D>(copy: RecordOf<D>) -> EntryOf<D> {
    EntryOf::Unreadable(UnreadableOf {
        claim: copy.claim.uid.clone(),
        problem: "it is gone, and its copy is not".to_owned(),
        flaw: Flaw::Damaged,
        copy: Some(copy),
    })
}

fn unreadable<D>(claim: &ClaimUid, problem: String, flaw: Flaw) -> EntryOf<D> {
    EntryOf::Unreadable(UnreadableOf {
        claim: claim.clone(),
        problem,
        flaw,
        copy: None,
    })
}
