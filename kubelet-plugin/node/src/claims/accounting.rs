//! Accounts for GPUs whose claims have no record that can be read.
//!
//! # Guarantees
//! Whoever decides on a GPU sees every claim of which the node has a trace: a record, a copy of one,
//! or a CDI spec. What a trace says counts as held; a trace that says nothing may hold any GPU.

use tessera_claim::ClaimUid;
use tessera_device::mig::MigLayouts;
use tessera_prepare::cdi;
use tessera_prepare::ledger::Unreadable;
use tessera_prepare::record::Record;
use tessera_prepare::upkeep::{self, FoundSpec, Site};
use tracing::warn;

use super::{ClaimError, Claims, Identity, UnownedMig};
use crate::claim_reader::ClaimReader;
use crate::executor::{Node, StepError};
use crate::hardware::Hardware;
use crate::journal::{Contents, Entry, JournalError, Records};
use tessera_shell::logging::chain;

impl<A: ClaimReader, R: Records, N: Node> Claims<A, R, N> {
    /// All that the journal has, and the claims of which there is only a CDI spec.
    pub(super) fn traces(&self) -> Result<Contents, ClaimError> {
        let contents = self.records.read_all()?;
        let files = self.node.spec_files()?;
        let claims = files
            .iter()
            .filter_map(|file| cdi::claim_of_file(&self.identity.cdi_kind, file));
        Ok(contents.with(claims, |claim| self.trace(claim))?)
    }

    /// What there is of one claim: what the journal has, or a CDI spec without a record.
    ///
    /// A record is removed after the spec and written before it, so there is never a spec alone
    /// unless the record was lost.
    pub(super) fn trace(&self, claim: &ClaimUid) -> Result<Option<Entry>, JournalError> {
        let found = self.records.read(claim)?;
        if found.is_some() || matches!(self.found_spec(claim), Ok(None)) {
            return Ok(found);
        }
        Ok(Some(Entry::lost(claim)))
    }

    /// The record that was, as far as its copy or the CDI spec tells.
    pub(super) fn accounted(&self, unreadable: &Unreadable, hardware: &Hardware) -> Option<Record> {
        let Identity {
            pool,
            cdi_kind,
            boot,
            mig_layouts,
            unowned_mig,
            ..
        } = &self.identity;
        let spec = self.found_spec(&unreadable.claim).unwrap_or_else(|error| {
            warn!(error = %chain(&error), "a CDI spec does not tell whose GPUs these are");
            None
        });
        let spec = spec.as_ref();
        let site = Site {
            kind: cdi_kind,
            pool,
            inventory: &hardware.inventory,
            boot,
            owns_mig: *mig_layouts == MigLayouts::Dynamic && *unowned_mig == UnownedMig::Destroy,
        };
        upkeep::account(unreadable, spec, site)
    }

    /// The records of claims whose own cannot be read, and those that nothing accounts for.
    pub(super) fn account(
        &self,
        unreadable: Vec<Unreadable>,
        hardware: &Hardware,
    ) -> (Vec<Record>, Vec<Unreadable>) {
        let (mut accounted, mut unaccounted) = (Vec::new(), Vec::new());
        for entry in unreadable {
            match self.accounted(&entry, hardware) {
                Some(record) => accounted.push(record),
                None => unaccounted.push(entry),
            }
        }
        (accounted, unaccounted)
    }

    /// The claim's CDI spec, whoever wrote it.
    pub(super) fn found_spec(&self, claim: &ClaimUid) -> Result<Option<FoundSpec>, StepError> {
        for file in self.spec_names(claim) {
            if let Some(contents) = self.node.spec(&file)? {
                return Ok(Some(FoundSpec { file, contents }));
            }
        }
        Ok(None)
    }

    /// The names that the claim's CDI spec can have: ours, and that of the reference driver.
    pub(super) fn spec_names(&self, claim: &ClaimUid) -> [String; 2] {
        let kind = &self.identity.cdi_kind;
        [
            cdi::file_name(kind, claim),
            cdi::reference_file_name(kind, claim),
        ]
    }
}
