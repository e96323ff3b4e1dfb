//! Accounts for channels whose claims have no record that can be read.
//!
//! # Guarantees
//! Whoever decides on a channel sees every claim of which the node has a trace: a record, a copy of one,
//! or a CDI spec. What a trace says counts as held; a trace that says nothing may hold any channel.

use tessera_claim::{ClaimRef, ClaimUid};
use tessera_prepare::cdi;
use tessera_prepare::channel::{
    self, ChannelRecord, ChannelRefusal, Granted, PreparedChannel, UnreadableChannel,
};
use tessera_prepare::ledger::Flaw;
use tessera_prepare::notice::Happening;
use tessera_prepare::refusal::Refusal;
use tessera_prepare::step::Effect;
use tessera_shell::logging::chain;
use tracing::warn;

use super::{ChannelClaims, DomainReader, Entry, Kernel};
use crate::claim_reader::ClaimReader;
use crate::claims::{ClaimError, Identity};
use crate::executor::{Node, StepError};
use crate::journal::{ContentsOf, JournalError, Records};

/// All that the journal has.
type Contents = ContentsOf<PreparedChannel>;

impl<A, D, R, N, K> ChannelClaims<A, D, R, N, K>
where
    A: ClaimReader,
    D: DomainReader,
    R: Records<PreparedChannel>,
    N: Node,
    K: Kernel,
{
    /// All that the journal has, and the claims of which there is only a CDI spec.
    pub(super) fn traces(&self) -> Result<Contents, ClaimError> {
        let contents = self.ports.records.read_all()?;
        let files = self.ports.node.spec_files()?;
        let claims = files
            .iter()
            .filter_map(|file| cdi::claim_of_file(&self.identity.cdi_kind, file));
        Ok(contents.with(claims, |claim| self.trace(claim))?)
    }

    /// What there is of one claim: what the journal has, or a CDI spec without a record.
    pub(super) fn trace(&self, claim: &ClaimUid) -> Result<Option<Entry>, JournalError> {
        let found = self.ports.records.read(claim)?;
        if found.is_some() || matches!(self.ports.node.spec(&self.spec_file(claim)), Ok(None)) {
            return Ok(found);
        }
        Ok(Some(Entry::lost(claim)))
    }

    /// The record that was, as far as its copy or the CDI spec tells.
    pub(super) fn accounted(&self, unreadable: &UnreadableChannel) -> Option<ChannelRecord> {
        let Identity {
            pool,
            cdi_kind,
            boot,
            ..
        } = &self.identity;
        let spec = self.ports.node.spec(&self.spec_file(&unreadable.claim));
        let spec = spec.unwrap_or_else(|error| {
            warn!(error = %chain(&error), "a CDI spec does not tell whose channels these are");
            None
        });
        channel::account(unreadable, spec.as_deref(), cdi_kind, pool, boot)
    }

    /// The records of claims whose own cannot be read, and those that nothing accounts for.
    pub(super) fn account(
        &self,
        unreadable: Vec<UnreadableChannel>,
    ) -> (Vec<ChannelRecord>, Vec<UnreadableChannel>) {
        let (mut accounted, mut unaccounted) = (Vec::new(), Vec::new());
        for entry in unreadable {
            match self.accounted(&entry) {
                Some(record) => accounted.push(record),
                None => unaccounted.push(entry),
            }
        }
        (accounted, unaccounted)
    }

    /// Puts the claim's own record back in its place, if that is damaged. One of a newer version is left:
    /// what that version did is not undone by forgetting it.
    pub(super) fn mend_own(
        &self,
        claim: &ClaimRef,
        granted: &[Granted],
        contents: &mut Contents,
    ) -> Result<(), ClaimError> {
        let mut unreadable = contents.unreadable.iter();
        let Some(at) = unreadable.position(|unreadable| unreadable.claim == claim.uid) else {
            return Ok(());
        };
        let own = contents.unreadable.remove(at);
        if let (Flaw::Newer, Some(device)) = (own.flaw, granted.first()) {
            let refusal = ChannelRefusal::Unaccounted {
                claim: claim.clone(),
                channels: device.channels,
                record: own.claim,
                problem: own.problem,
            };
            return Err(Refusal::from(refusal).into());
        }
        let record = self.accounted(&own);
        self.ports.records.set_aside(&own, record.as_ref())?;
        if record.is_some() {
            let notices = self.ports.waits.notices();
            notices.tell(Happening::Rebuilt { claim });
        }
        contents.records.extend(record);
        Ok(())
    }

    /// Whether everything that was made for the claim is there, unaltered.
    pub(super) fn intact(&self, record: &ChannelRecord) -> Result<bool, StepError> {
        for effect in &record.effects {
            if !self.ports.node.has(effect)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether what was made for the claim has the kernel's numbers of this moment.
    pub(super) fn is_current(&self, record: &ChannelRecord) -> Result<bool, StepError> {
        let channels = self.ports.kernel.channels()?;
        for effect in &record.effects {
            let Effect::CdiFile { file, .. } = effect else {
                continue;
            };
            let spec = self.ports.node.spec(file)?;
            if spec.is_some_and(|spec| !channel::is_current(&spec, channels)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The name of the claim's CDI spec.
    pub(super) fn spec_file(&self, claim: &ClaimUid) -> String {
        cdi::file_name(&self.identity.cdi_kind, claim)
    }
}
