//! Runs plans: the intent is recorded, the steps are done, the end is recorded.
//!
//! # Guarantees
//! No step runs before the record of its effect is written, and no success is reported before the
//! record that says so. Whatever call fails or whenever the process dies, the journal names every
//! effect that may exist, so that preparing the claim again or unpreparing it finds it.

use std::collections::BTreeSet;
use std::io;

use tessera_claim::ClaimUid;
use tessera_device::GpuUuid;
use tessera_device::mig::MigState;
use tessera_prepare::ledger::UnreadableOf;
use tessera_prepare::plan::PlanOf;
use tessera_prepare::record::{Phase, RecordOf, RecordedDevice};
use tessera_prepare::step::{Done, Effect, Step, undo_all};
use tessera_prepare::time_slice::set_back;
use thiserror::Error;
use tracing::warn;

use crate::cdi_dir::CdiDir;
use crate::deadline::Deadline;
use crate::file_error::FileError;
use crate::journal::{JournalError, Records};
use crate::mig::{Mig, MigError, OwnMig};
use crate::time_slice::{TimeSliceError, TimeSlices};

/// What the steps act on.
pub trait Node {
    /// Does one step, and says what came of it.
    fn apply(
        &self,
        step: &Step,
        limit: Deadline,
    ) -> impl Future<Output = Result<Done, StepError>> + Send;
    /// The MIG sides of those of these GPUs that have one, at this moment.
    fn mig_states(
        &self,
        gpus: BTreeSet<GpuUuid>,
        limit: Deadline,
    ) -> impl Future<Output = Result<Vec<(GpuUuid, MigState)>, StepError>> + Send;
    /// The MIG devices that the driver has made, of which these are recorded: a look at the GPUs may still show
    /// others that were of late.
    fn own_mig(&self, recorded: OwnMig) -> OwnMig;
    /// Whether an effect is there, unaltered.
    fn has(&self, effect: &Effect) -> Result<bool, StepError>;
    /// The bytes of a CDI spec, if it is there.
    fn spec(&self, file: &str) -> Result<Option<Vec<u8>>, StepError>;
    /// The names of all files in the CDI directory.
    fn spec_files(&self) -> Result<Vec<String>, StepError>;
}

/// A step that could not be done.
#[derive(Debug, Error)]
pub enum StepError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something was not done to a GPU's MIG side.
    #[error(transparent)]
    Mig(#[from] MigError),
    /// The time slice of a GPU was not set.
    #[error(transparent)]
    TimeSlice(#[from] TimeSliceError),
    /// Another driver's claims have no GPUs.
    #[error("{what} is not this driver's to change; please report this as a bug")]
    NotOurs {
        /// The GPU or MIG device.
        what: String,
    },
}

impl StepError {
    /// Whether somebody uses what was to be changed, so that a later attempt may succeed.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Mig(error) if error.is_busy())
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
    /// What is done to GPUs, for a driver that has some.
    pub mig: Option<Mig>,
    /// What sets their time slices, for the same driver.
    pub time_slices: Option<TimeSlices>,
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

    fn mig(&self, what: &impl ToString) -> Result<&Mig, StepError> {
        self.mig.as_ref().ok_or_else(|| StepError::NotOurs {
            what: what.to_string(),
        })
    }

    fn time_slices(&self, gpu: &GpuUuid) -> Result<&TimeSlices, StepError> {
        let ours = self.time_slices.as_ref();
        ours.ok_or_else(|| StepError::NotOurs {
            what: gpu.to_string(),
        })
    }
}

impl Node for LocalNode {
    async fn apply(&self, step: &Step, limit: Deadline) -> Result<Done, StepError> {
        match step {
            Step::WriteCdi { file, contents } => self
                .cdi
                .write(file, contents)
                .map_err(self.failed("write CDI spec", file))?,
            Step::RemoveCdi { file } => self
                .cdi
                .remove(file)
                .map_err(self.failed("remove CDI spec", file))?,
            Step::SwitchMigMode { gpu, mode } => {
                self.mig(gpu)?.switch(gpu.clone(), *mode, limit).await?;
            }
            Step::CreateMig(device) => {
                let made = self.mig(device)?.create(device.clone(), limit).await?;
                return Ok(Done::Created(made));
            }
            Step::DestroyMig(device) => self.mig(device)?.destroy(device.clone(), limit).await?,
            Step::SetTimeSlice { gpu, interval } => {
                self.time_slices(gpu)?.set(gpu, *interval, limit).await?;
            }
            Step::ResetTimeSlice { gpu, was_set } => {
                self.time_slices(gpu)?.reset(gpu, *was_set, limit).await?;
            }
        }
        Ok(Done::AsPlanned)
    }

    async fn mig_states(
        &self,
        gpus: BTreeSet<GpuUuid>,
        limit: Deadline,
    ) -> Result<Vec<(GpuUuid, MigState)>, StepError> {
        match &self.mig {
            Some(mig) if !gpus.is_empty() => Ok(mig.states(gpus, limit).await?),
            Some(_) | None => Ok(Vec::new()),
        }
    }

    fn own_mig(&self, recorded: OwnMig) -> OwnMig {
        match &self.mig {
            Some(mig) => mig.own(recorded),
            None => recorded,
        }
    }

    fn has(&self, effect: &Effect) -> Result<bool, StepError> {
        match effect {
            Effect::CdiFile { file, crc32 } => {
                let found = self.spec(file)?;
                Ok(found.is_some_and(|bytes| crc32fast::hash(&bytes) == *crc32))
            }
            // What has become of a MIG device is seen by the looks at the hardware; nothing here knows how
            // to look for what another driver has made.
            Effect::MigDevice(_) | Effect::Foreign { .. } => Ok(true),
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
pub async fn execute<D: RecordedDevice>(
    plan: PlanOf<D>,
    records: &impl Records<D>,
    node: &impl Node,
    limit: Deadline,
) -> Result<RecordOf<D>, ExecuteError> {
    let (mut record, _) = begin(plan, records, node, limit).await?;
    record.phase = Phase::Prepared;
    if let Err(error) = records.write(&record) {
        give_up(&record, records, node, limit).await;
        return Err(error.into());
    }
    Ok(record)
}

/// Carries a plan out after which the claim is not prepared yet, and returns its record and what came of
/// each step. If anything fails, what was done is taken back at once.
pub async fn begin<D: RecordedDevice>(
    plan: PlanOf<D>,
    records: &impl Records<D>,
    node: &impl Node,
    limit: Deadline,
) -> Result<(RecordOf<D>, Vec<(Step, Done)>), ExecuteError> {
    let PlanOf { mut record, steps } = plan;
    match carry_out(&mut record, steps, records, node, limit).await {
        Ok(done) => Ok((record, done)),
        Err(error) => {
            give_up(&record, records, node, limit).await;
            Err(error)
        }
    }
}

/// Takes back what was begun of a claim, as far as that can be done now.
pub async fn give_up<D: RecordedDevice>(
    record: &RecordOf<D>,
    records: &impl Records<D>,
    node: &impl Node,
    limit: Deadline,
) {
    let undone = async {
        let steps = undo(record, records)?;
        take_back(&record.claim.uid, &steps, records, node, limit).await
    };
    if let Err(undo) = undone.await {
        let claim_uid = record.claim.uid.as_str();
        warn!(claim_uid, error = %undo, "what was begun is left for the next attempt");
    }
}

async fn carry_out<D: RecordedDevice>(
    record: &mut RecordOf<D>,
    steps: Vec<Step>,
    records: &impl Records<D>,
    node: &impl Node,
    limit: Deadline,
) -> Result<Vec<(Step, Done)>, ExecuteError> {
    records.write(record)?;
    let mut all = Vec::with_capacity(steps.len());
    for step in steps {
        let done = node.apply(&step, limit).await?;
        if record.learn(&step, &done) {
            records.write(record)?;
        }
        all.push((step, done));
    }
    Ok(all)
}

async fn apply_all(steps: &[Step], node: &impl Node, limit: Deadline) -> Result<(), StepError> {
    for step in steps {
        node.apply(step, limit).await?;
    }
    Ok(())
}

/// Makes the effects of a prepared claim anew.
///
/// The claim is in use, so unlike in [`execute`] a failure takes nothing back: its record stays, and
/// with it the hold on its GPUs.
pub async fn restore<D>(
    plan: PlanOf<D>,
    records: &impl Records<D>,
    node: &impl Node,
    limit: Deadline,
) -> Result<RecordOf<D>, ExecuteError> {
    let PlanOf { record, steps } = plan;
    records.write(&record)?;
    apply_all(&steps, node, limit).await?;
    Ok(record)
}

/// The steps that take back what is recorded of a claim.
///
/// Whether the time slice of a GPU is set back depends on the claims beside it. Their records are read
/// here, where the locks of the claim's GPUs are held: one that cannot be read counts by its copy.
pub fn undo<D: RecordedDevice>(
    record: &RecordOf<D>,
    records: &impl Records<D>,
) -> Result<Vec<Step>, JournalError> {
    let mut steps = undo_all(&record.effects);
    if record
        .devices
        .iter()
        .any(|device| device.time_slice().is_some())
    {
        let all = records.read_all()?;
        let unreadable = all.unreadable.iter();
        let copies = unreadable.filter_map(|unreadable| unreadable.copy.as_ref());
        steps.extend(set_back(record, all.records.iter().chain(copies)));
    }
    Ok(steps)
}

/// Takes back what is recorded of a claim, and forgets it but for what cannot be taken back.
pub async fn take_back_recorded<D: RecordedDevice>(
    record: &RecordOf<D>,
    records: &impl Records<D>,
    node: &impl Node,
    limit: Deadline,
) -> Result<(), ExecuteError> {
    let steps = undo(record, records)?;
    let Some(remains) = record.remains() else {
        return take_back(&record.claim.uid, &steps, records, node, limit).await;
    };
    apply_all(&steps, node, limit).await?;
    records.write(&remains)?;
    Ok(())
}

/// Takes a claim back: runs the undoing steps, then forgets the claim.
pub async fn take_back<D>(
    claim: &ClaimUid,
    steps: &[Step],
    records: &impl Records<D>,
    node: &impl Node,
    limit: Deadline,
) -> Result<(), ExecuteError> {
    apply_all(steps, node, limit).await?;
    records.remove(claim)?;
    Ok(())
}

/// Takes a claim back whose record cannot be read, and sets that aside.
pub async fn take_back_unreadable<D>(
    unreadable: &UnreadableOf<D>,
    steps: &[Step],
    records: &impl Records<D>,
    node: &impl Node,
    limit: Deadline,
) -> Result<(), ExecuteError> {
    apply_all(steps, node, limit).await?;
    records.set_aside(unreadable, None)?;
    Ok(())
}
