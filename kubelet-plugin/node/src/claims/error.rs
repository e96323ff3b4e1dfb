//! Why a claim was not prepared or unprepared: one type, one text, one name for each cause.

use tessera_claim::UidError;
use tessera_prepare::reason::Reason;
use tessera_prepare::refusal::Refusal;
use thiserror::Error;

use crate::channels::{ChannelsBusy, DomainReadError, SessionNotReady};
use crate::claim_reader::{ReadError, SearchError};
use crate::executor::{ExecuteError, StepError};
use crate::hardware::NotReady;
use crate::journal::JournalError;
use crate::locks::LockError;
use crate::wait::Interrupted;

/// Why a claim was not prepared or unprepared.
#[derive(Debug, Error)]
pub enum ClaimError {
    /// The kubelet's request names no claim.
    #[error(transparent)]
    Named(#[from] UidError),
    /// It cannot be, as things are.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The claim could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// All claims could not be searched.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// The compute domain could not be read.
    #[error(transparent)]
    Domain(#[from] DomainReadError),
    /// The GPUs are not known yet.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// A GPU's lock was not obtained.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The lock of the node's channels was not obtained.
    #[error(transparent)]
    ChannelsBusy(#[from] ChannelsBusy),
    /// The node's NVLink session was not ready in time.
    #[error(transparent)]
    Session(#[from] SessionNotReady),
    /// The plugin is ending.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The node could not be looked at.
    #[error(transparent)]
    Look(#[from] StepError),
    /// A plan could not be carried out.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// The work on the claim panicked.
    #[error(
        "the plugin met a defect of its own while it worked on this claim; its log has the \
         details: please report it"
    )]
    Defect,
}

impl ClaimError {
    /// The name of the cause: reason of the event, label of the metric, heading in `docs/errors.md`.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Named(_) => Reason::InvalidClaim,
            Self::Refused(refusal) => refusal.reason(),
            Self::Read(ReadError::NotFound { .. }) => Reason::ClaimNotFound,
            Self::Read(ReadError::Refused { .. })
            | Self::Search(SearchError::Refused(_))
            | Self::Domain(DomainReadError::Refused { .. }) => Reason::ApiAccessDenied,
            Self::Read(ReadError::Unavailable { .. })
            | Self::Search(SearchError::Unavailable)
            | Self::Domain(DomainReadError::Unavailable { .. }) => Reason::ApiUnavailable,
            Self::NotReady(_) => Reason::DriverNotReady,
            Self::Lock(LockError::Busy { .. }) => Reason::GpuBusy,
            Self::ChannelsBusy(_) => Reason::ChannelsBusy,
            Self::Session(_) => Reason::SessionNotReady,
            Self::Lock(LockError::File { .. }) => Reason::LockFailed,
            Self::Interrupted(_) => Reason::PluginStopping,
            Self::Journal(_) | Self::Execute(ExecuteError::Journal(_)) => Reason::JournalFailed,
            Self::Look(error) | Self::Execute(ExecuteError::Step(error)) => match error {
                StepError::Mig(error) if error.is_busy() => Reason::MigDeviceBusy,
                StepError::Mig(_) => Reason::MigFailed,
                StepError::TimeSlice(_) => Reason::TimeSliceFailed,
                StepError::File(_) | StepError::NotOurs { .. } => Reason::StepFailed,
            },
            Self::Defect => Reason::Defect,
        }
    }

    /// Whether somebody uses what was to be changed, so that a later attempt may succeed.
    pub(super) fn is_busy(&self) -> bool {
        match self {
            Self::Look(error) | Self::Execute(ExecuteError::Step(error)) => error.is_busy(),
            _ => false,
        }
    }

    /// The reason as the label of a metric.
    pub fn label(&self) -> &'static str {
        self.reason().as_str()
    }
}
