//! Answers for claims that are prepared already, where API or hardware cannot be asked.
//!
//! What a claim's containers have stays theirs, whatever has become of the API server, the driver or
//! the GPU. So the journal's word is enough, as long as what it says is there.

use std::collections::BTreeSet;
use std::time::Duration;

use tessera_claim::{Allocation, ClaimRef};
use tessera_prepare::record::{Phase, PreparedDevice, Record};
use tessera_prepare::standing::is_prepared_for;
use tracing::warn;

use super::{ClaimError, Claims, Locked};
use crate::claim_reader::ClaimReader;
use crate::deadline::Deadline;
use crate::executor::{Node, StepError};
use crate::journal::{Entry, JournalError, Records};
use crate::metrics::Operation;

/// How long the API is asked about a claim that is prepared already, before the journal answers for it.
/// It should be asked, for the claim can have been allocated anew; but its pod is waiting.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

impl<A: ClaimReader, R: Records, N: Node> Claims<A, R, N> {
    /// How long the API is asked about the claim: until the deadline, unless an answer is known here.
    pub(super) fn patience(
        &self,
        claim: &ClaimRef,
        deadline: Deadline,
    ) -> Result<Deadline, JournalError> {
        Ok(match self.records.read(&claim.uid)? {
            Some(Entry::Record(record)) if record.phase == Phase::Prepared => {
                deadline.at_most(PATIENCE)
            }
            _ => deadline,
        })
    }

    /// Answers for a claim that the API cannot be asked about; with `error` unless it is prepared.
    pub(super) fn without_api(
        &self,
        claim: &ClaimRef,
        error: ClaimError,
    ) -> Result<Vec<PreparedDevice>, ClaimError> {
        let entry = self.records.read(&claim.uid)?;
        match entry.as_ref().and_then(Entry::record) {
            Some(record)
                if record.is_prepared_in(&self.identity.boot) && self.intact(record)? =>
            {
                warn!("the API server is away; answered from the journal");
                Ok(record.devices.clone())
            }
            _ => Err(error),
        }
    }

    /// The devices of a claim that is prepared for this allocation, whose GPUs cannot be looked at.
    pub(super) async fn prepared_before(
        &self,
        allocation: &Allocation,
        deadline: Deadline,
    ) -> Result<Option<Vec<PreparedDevice>>, ClaimError> {
        let claim = &allocation.claim;
        let Locked { held: _held, entry } = self
            .locked(Operation::prepare, claim, BTreeSet::new(), deadline)
            .await?;
        let Some(record) = entry.as_ref().and_then(Entry::record) else {
            return Ok(None);
        };
        let is_prepared = is_prepared_for(record, allocation, &self.identity.boot);
        if !is_prepared || !self.intact(record)? {
            return Ok(None);
        }
        self.learn_name(claim, record)?;
        Ok(Some(record.devices.clone()))
    }

    /// Whether everything that was made for the claim is there, unaltered.
    pub(super) fn intact(&self, record: &Record) -> Result<bool, StepError> {
        for effect in &record.effects {
            if !self.node.has(effect)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
