//! Runs plans: the intent is recorded, the steps are done, the end is recorded.
//!
//! # Guarantees
//! No step runs before the record of its effect is written, and no success is reported before the
//! record that says so. Whatever call fails or whenever the process dies, the journal names every
//! effect that may exist, so that preparing the claim again or unpreparing it finds it.

use std::io;

use tessera_claim::ClaimUid;
use tessera_prepare::ledger::UnreadableOf;
use tessera_prepare::plan::PlanOf;
use tessera_prepare::record::{Phase, RecordOf, RecordedDevice};
use tessera_prepare::step::{Effect, Step, undo_all};
use thiserror::Error;
use tracing::warn;

use crate::cdi_dir::CdiDir;
use crate::file_error::FileError;
use crate::journal::{JournalError, Records};

/// What the steps act on.
pub trait Node {
    /// Does one step.
    fn apply(&self, step: &Step) -> Result<(), StepError>;
    /// Whether an effect is there, unaltered.
    fn has(&self, effect: &Effect) -> Result<bool, StepError>;
    /// The bytes of a CDI spec, if it is there.
    fn spec(&self, file: &str) -> Result<Option<Vec<u8>>, StepError>;
    /// The names of all files in the CDI directory.
    fn spec_files(&self) -> Result<Vec<String>, StepError>;
}

/// A step that could not be done.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct StepError(#[from] FileError);

/// A plan that was not carried out.
#[derive(Debug, Error)]
pub enum ExecuteError {
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] StepError),
}

/// The node itself.
#[derive(Clone, Debug)]
pub struct LocalNode {
    /// Where CDI specs go.
    pub cdi: CdiDir,
}

impl LocalNode {
    fn failed(
        &self,
        action: &'static str,
        file: &str,
    ) -> impl FnOnce(io::Error) -> StepError + use<> {
        let failed = FileError::of(action, &self.cdi.path(file));
        move |reason| failed(reason).into()
    }
}

impl Node for LocalNode {
    fn apply(&self, step: &Step) -> Result<(), StepError> {
        match step {
            Step::WriteCdi { file, contents } => self
                .cdi
                .write(file, contents)
                .map_err(self.failed("write CDI spec", file)),
            Step::RemoveCdi { file } => self
                .cdi
                .remove(file)
                .map_err(self.failed("remove CDI spec", file)),
        }
    }

    fn has(&self, effect: &Effect) -> Result<bool, StepError> {
        match effect {
            Effect::CdiFile { file, crc32 } => {
                let found = self.spec(file)?;
                Ok(found.is_some_and(|bytes| crc32fast::hash(&bytes) == *crc32))
            }
            // Nothing here knows how to look for it.
            Effect::Foreign { .. } => Ok(true),
        }
    }

    fn spec(&self, file: &str) -> Result<Option<Vec<u8>>, StepError> {
        self.cdi
            .read(file)
            .map_err(self.failed("read CDI spec", file))
    }

    fn spec_files(&self) -> Result<Vec<String>, StepError> {
        self.cdi
            .list()
            .map_err(self.failed("list CDI directory", ""))
    }
}

/// Carries a plan out and returns the record of the prepared claim.
///
/// If anything fails, what was done is taken back at once; what cannot be taken back stays recorded.
pub fn execute<D>(
    plan: PlanOf<D>,
    records: &impl Records<D>,
    node: &impl Node,
) -> Result<RecordOf<D>, ExecuteError> {
    let PlanOf { mut record, steps } = plan;
    let carried_out = carry_out(&mut record, &steps, records, node);
    if let Err(error) = carried_out {
        let claim_uid = record.claim.uid.as_str();
        let undone = take_back(&record.claim.uid, &undo_all(&record.effects), records, node);
        if let Err(undo) = undone {
            warn!(claim_uid, error = %undo, "what was begun is left for the next attempt");
        }
        return Err(error);
    }
    Ok(record)
}

fn carry_out<D>(
    record: &mut RecordOf<D>,
    steps: &[Step],
    records: &impl Records<D>,
    node: &impl Node,
) -> Result<(), ExecuteError> {
    records.write(record)?;
    for step in steps {
        node.apply(step)?;
    }
    record.phase = Phase::Prepared;
    records.write(record)?;
    Ok(())
}

/// Makes the effects of a prepared claim anew.
///
/// The claim is in use, so unlike in [`execute`] a failure takes nothing back: its record stays, and
/// with it the hold on its GPUs.
pub fn restore<D>(
    plan: PlanOf<D>,
    records: &impl Records<D>,
    node: &impl Node,
) -> Result<RecordOf<D>, ExecuteError> {
    let PlanOf { record, steps } = plan;
    records.write(&record)?;
    for step in &steps {
        node.apply(step)?;
    }
    Ok(record)
}

/// Takes back what is recorded of a claim, and forgets it but for what cannot be taken back.
pub fn take_back_recorded<D: RecordedDevice>(
    record: &RecordOf<D>,
    records: &impl Records<D>,
    node: &impl Node,
) -> Result<(), ExecuteError> {
    let steps = undo_all(&record.effects);
    let Some(remains) = record.remains() else {
        return take_back(&record.claim.uid, &steps, records, node);
    };
    for step in &steps {
        node.apply(step)?;
    }
    records.write(&remains)?;
    Ok(())
}

/// Takes a claim back: runs the undoing steps, then forgets the claim.
pub fn take_back<D>(
    claim: &ClaimUid,
    steps: &[Step],
    records: &impl Records<D>,
    node: &impl Node,
) -> Result<(), ExecuteError> {
    for step in steps {
        node.apply(step)?;
    }
    records.remove(claim)?;
    Ok(())
}

/// Takes a claim back whose record cannot be read, and sets that aside.
pub fn take_back_unreadable<D>(
    unreadable: &UnreadableOf<D>,
    steps: &[Step],
    records: &impl Records<D>,
    node: &impl Node,
) -> Result<(), ExecuteError> {
    for step in steps {
        node.apply(step)?;
    }
    records.set_aside(unreadable, None)?;
    Ok(())
}
