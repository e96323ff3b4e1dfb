//! What the bytes in a record's place are.

use tessera_claim::ClaimUid;
use tessera_prepare::cdi::CdiKind;
use tessera_prepare::ledger::{Flaw, Unreadable};
use tessera_prepare::record::{Record, RecordError};

use super::Entry;

/// Reads the bytes that lie in the place of this claim's record.
pub(super) fn of(claim: &ClaimUid, kind: &CdiKind, bytes: &[u8]) -> Entry {
    match Record::decode(bytes) {
        Ok(record) if record.claim.uid != *claim => {
            damaged(claim, format!("it is the record of claim {}", record.claim))
        }
        Ok(record) if !record.is_of(kind) => {
            damaged(claim, "it is the record of another driver".to_owned())
        }
        Ok(record) => Entry::Record(record),
        Err(error @ RecordError::NewerFormat { .. }) => {
            unreadable(claim, error.to_string(), Flaw::Newer)
        }
        Err(error) => damaged(claim, error.to_string()),
    }
}

/// Something that is no record.
pub(super) fn damaged(claim: &ClaimUid, problem: String) -> Entry {
    unreadable(claim, problem, Flaw::Damaged)
}

/// A record of which only the copy is left.
pub(super) fn lost(copy: Record) -> Entry {
    Entry::Unreadable(Unreadable {
        claim: copy.claim.uid.clone(),
        problem: "it is gone, and its copy is not".to_owned(),
        flaw: Flaw::Damaged,
        copy: Some(copy),
    })
}

fn unreadable(claim: &ClaimUid, problem: String, flaw: Flaw) -> Entry {
    Entry::Unreadable(Unreadable {
        claim: claim.clone(),
        problem,
        flaw,
        copy: None,
    })
}
