//! What the bytes in a record's place are.

use tessera_claim::ClaimUid;
use tessera_prepare::cdi::CdiKind;
use tessera_prepare::ledger::{Flaw, UnreadableOf};
use tessera_prepare::record::{RecordError, RecordOf, RecordedDevice};

use super::EntryOf;

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
