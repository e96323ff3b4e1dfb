//! Lets calls to the ports of a node fail, one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use rustix::io::Errno;
use tessera_api::Interval;
use tessera_claim::ClaimUid;
use tessera_device::GpuUuid;
use tessera_device::mig::MigState;
use tessera_prepare::ledger::UnreadableOf;
use tessera_prepare::record::{PreparedDevice, RecordOf, RecordedDevice};
use tessera_prepare::step::{Done, Effect, Step};

use super::cutting::Cutting;
use crate::deadline::Deadline;
use crate::executor::{LocalNode, Node, StepError};
use crate::file_error::FileError;
use crate::journal::{ContentsOf, EntryOf, JournalError, JournalOf, Records};
use crate::mig::{MigOperations, OwnMig};

/// Counts calls to the ports and lets one of them fail.
#[derive(Default)]
pub(crate) struct Fuse {
    pub(crate) calls: AtomicUsize,
    /// The call that fails.
    pub(crate) burns_at: Option<usize>,
    /// Whether that call still has its effect.
    pub(crate) effect_first: bool,
    pub(crate) fault: Fault,
}

/// What fails, and for how long.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The process: every later call fails too. Only calls that change something count.
    #[default]
    Death,
    /// The call alone, with this error. Calls that only look count too.
    Error(Errno),
}

/// Whether a call changes anything.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Looks,
    Changes,
}

impl Fuse {
    fn guard<T, E: From<FileError>>(
        &self,
        kind: Call,
        act: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        // What is done at once is done when it is first polled.
        let done = self.guarding(kind, async || act()).now_or_never();
        done.expect("nothing is waited for")
    }

    async fn guarding<T, E: From<FileError>>(
        &self,
        kind: Call,
        act: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let reason = match (self.fault, kind) {
            (Fault::Death, Call::Looks) => return act().await,
            (Fault::Death, Call::Changes) => io::Error::other("the process is dead"),
            (Fault::Error(errno), _) => errno.into(),
        };
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let Some(fatal) = self.burns_at.filter(|fatal| call >= *fatal) else {
            return act().await;
        };
        let failed = || Err(FileError::of("do", Path::new("a call"))(reason).into());
        match self.fault {
            _ if call == fatal && self.effect_first => act().await.and_then(|_| failed()),
            Fault::Error(_) if call > fatal => act().await,
            _ => failed(),
        }
    }
}

pub(crate) struct FusedRecords<D = PreparedDevice>(pub(crate) JournalOf<D>, pub(crate) Arc<Fuse>);

impl<D: RecordedDevice> Records<D> for FusedRecords<D> {
    fn read(&self, claim: &ClaimUid) -> Result<Option<EntryOf<D>>, JournalError> {
        self.1.guard(Call::Looks, || self.0.read(claim))
    }
    fn read_all(&self) -> Result<ContentsOf<D>, JournalError> {
        self.1.guard(Call::Looks, || self.0.read_all())
    }
    fn write(&self, record: &RecordOf<D>) -> Result<(), JournalError> {
        self.1.guard(Call::Changes, || self.0.write(record))
    }
    fn remove(&self, claim: &ClaimUid) -> Result<(), JournalError> {
        self.1.guard(Call::Changes, || self.0.remove(claim))
    }
    fn mark(&self, claim: &ClaimUid, why: &str) -> Result<(), JournalError> {
        self.1.guard(Call::Changes, || self.0.mark(claim, why))
    }
    fn set_aside(
        &self,
        unreadable: &UnreadableOf<D>,
        replacement: Option<&RecordOf<D>>,
    ) -> Result<(), JournalError> {
        self.1
            .guard(Call::Changes, || self.0.set_aside(unreadable, replacement))
    }
}

pub(crate) struct FusedNode(
    pub(crate) LocalNode,
    pub(crate) Arc<Fuse>,
    pub(crate) Cutting,
    pub(crate) Slices,
);

/// The time slices of the GPUs that are set to another than their own.
pub(crate) type Slices = Arc<Mutex<BTreeMap<GpuUuid, Interval>>>;

impl FusedNode {
    /// GPUs are cut without a thread: a test's clock does not wait for one.
    async fn apply_unguarded(&self, step: &Step, limit: Deadline) -> Result<Done, StepError> {
        let Self(files, _, cutting, slices) = self;
        match step {
            Step::SwitchMigMode { gpu, mode } => cutting.switch(gpu, *mode)?,
            Step::CreateMig(device) => return Ok(Done::Created(cutting.create(device)?)),
            Step::DestroyMig(device) => cutting.destroy(device)?,
            Step::SetTimeSlice { gpu, interval } => {
                slices.lock().unwrap().insert(gpu.clone(), *interval);
            }
            Step::ResetTimeSlice { gpu, .. } => {
                slices.lock().unwrap().remove(gpu);
            }
            Step::WriteCdi { .. } | Step::RemoveCdi { .. } => {
                return files.apply(step, limit).await;
            }
        }
        Ok(Done::AsPlanned)
    }
}

impl Node for FusedNode {
    async fn apply(&self, step: &Step, limit: Deadline) -> Result<Done, StepError> {
        let apply = async || self.apply_unguarded(step, limit).await;
        self.1.guarding(Call::Changes, apply).await
    }
    async fn mig_states(
        &self,
        gpus: BTreeSet<GpuUuid>,
        _: Deadline,
    ) -> Result<Vec<(GpuUuid, MigState)>, StepError> {
        let look = || self.2.states(&gpus).map_err(StepError::from);
        self.1.guard(Call::Looks, look)
    }
    fn own_mig(&self, recorded: OwnMig) -> OwnMig {
        let mut own = self.2.own.lock().unwrap();
        own.devices.extend(recorded.devices);
        own.places.extend(recorded.places);
        own.clone()
    }
    fn has(&self, effect: &Effect) -> Result<bool, StepError> {
        self.1.guard(Call::Looks, || self.0.has(effect))
    }
    fn spec(&self, file: &str) -> Result<Option<Vec<u8>>, StepError> {
        self.1.guard(Call::Looks, || self.0.spec(file))
    }
    fn spec_files(&self) -> Result<Vec<String>, StepError> {
        self.1.guard(Call::Looks, || self.0.spec_files())
    }
}
