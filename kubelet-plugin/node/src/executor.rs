//! Runs plans: the intent is recorded, the steps are done, the end is recorded.
//!
//! # Guarantees
//! No step runs before the record of its effect is written, and no success is reported before the
//! record that says so. Whatever call fails or whenever the process dies, the journal names every
//! effect that may exist, so that preparing the claim again or unpreparing it finds it.

use std::io;

use tessera_claim::ClaimUid;
use tessera_prepare::plan::Plan;
use tessera_prepare::record::{Phase, Record};
use tessera_prepare::step::{Effect, Step, undo_all};
use thiserror::Error;
use tracing::warn;

use crate::cdi_dir::CdiDir;
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
#[error("{action} {object}")]
pub struct StepError {
    action: &'static str,
    object: String,
    #[source]
    source: io::Error,
}

#[cfg(test)]
impl StepError {
    /// The failure of a process that died in the step.
    pub(crate) fn injected() -> Self {
        let source = io::Error::other("injected");
        Self {
            action: "die in",
            object: "a step".to_owned(),
            source,
        }
    }
}

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

impl Node for LocalNode {
    fn apply(&self, step: &Step) -> Result<(), StepError> {
        let (action, object, result) = match step {
            Step::WriteCdi { file, contents } => {
                ("write CDI spec", file, self.cdi.write(file, contents))
            }
            Step::RemoveCdi { file } => ("remove CDI spec", file, self.cdi.remove(file)),
        };
        result.map_err(|source| StepError {
            action,
            object: object.clone(),
            source,
        })
    }

    fn has(&self, effect: &Effect) -> Result<bool, StepError> {
        match effect {
            Effect::CdiFile { file, crc32 } => self
                .cdi
                .read(file)
                .map(|bytes| bytes.is_some_and(|bytes| crc32fast::hash(&bytes) == *crc32))
                .map_err(|source| StepError {
                    action: "read CDI spec",
                    object: file.clone(),
                    source,
                }),
        }
    }

    fn spec(&self, file: &str) -> Result<Option<Vec<u8>>, StepError> {
        let object = file.to_owned();
        self.cdi.read(file).map_err(|source| StepError {
            action: "read CDI spec",
            object,
            source,
        })
    }

    fn spec_files(&self) -> Result<Vec<String>, StepError> {
        let object = "directory".to_owned();
        self.cdi.list().map_err(|source| StepError {
            action: "list CDI",
            object,
            source,
        })
    }
}

/// Carries a plan out and returns the record of the prepared claim.
///
/// If a step fails, what was done is taken back at once; what cannot be taken back stays recorded.
pub fn execute(
    plan: Plan,
    records: &impl Records,
    node: &impl Node,
) -> Result<Record, ExecuteError> {
    let Plan { mut record, steps } = plan;
    records.write(&record)?;
    for step in &steps {
        if let Err(error) = node.apply(step) {
            if let Err(undo) =
                take_back(&record.claim.uid, &undo_all(&record.effects), records, node)
            {
                let claim_uid = record.claim.uid.as_str();
                warn!(claim_uid, error = %undo, "what was begun is left for the next attempt");
            }
            return Err(error.into());
        }
    }
    record.phase = Phase::Prepared;
    records.write(&record)?;
    Ok(record)
}

/// Makes the effects of a prepared claim anew.
///
/// The claim is in use, so unlike in [`execute`] a failure takes nothing back: its record stays, and
/// with it the hold on its GPUs.
pub fn restore(
    plan: Plan,
    records: &impl Records,
    node: &impl Node,
) -> Result<Record, ExecuteError> {
    let Plan { record, steps } = plan;
    records.write(&record)?;
    for step in &steps {
        node.apply(step)?;
    }
    Ok(record)
}

/// Takes a claim back: runs the undoing steps, then forgets the claim.
pub fn take_back(
    claim: &ClaimUid,
    steps: &[Step],
    records: &impl Records,
    node: &impl Node,
) -> Result<(), ExecuteError> {
    for step in steps {
        node.apply(step)?;
    }
    records.remove(claim)?;
    Ok(())
}
