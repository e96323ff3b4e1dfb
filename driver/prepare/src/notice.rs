//! What users are told about their claims, and how it is put.
//!
//! # Guarantees
//! A success is not among what can happen: it would be a write to the API server for each pod. What
//! is told fits an event: a text of bounded length without control characters, whatever a claim holds.

use tessera_claim::ClaimRef;
use tessera_device::DeviceName;
use tessera_device::follow::Change;

use crate::reason::{News, Reason};
use crate::takeover::Report;
use crate::upkeep::has_name;
use crate::waiting::WaitingFor;

/// Longest note of an event in bytes (`NoteLengthLimit` in `pkg/apis/core/validation/events.go`).
pub const LONGEST_NOTE: usize = 1024;

/// Ends a note that was cut.
const CUT: &str = "…";

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A claim was being prepared.
    Prepare,
    /// A claim was being unprepared.
    Unprepare,
    /// Somebody looked after what nobody asks about.
    Reconcile,
    /// Somebody looked for the hardware.
    Discover,
}

impl Action {
    /// The action of an event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "Prepare",
            Self::Unprepare => "Unprepare",
            Self::Reconcile => "Reconcile",
            Self::Discover => "Discover",
        }
    }
}

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub enum Happening<'a> {
    /// A claim was not prepared or not unprepared.
    Failed {
        /// The claim.
        claim: &'a ClaimRef,
        /// What was tried.
        action: Action,
        /// Why it failed.
        reason: Reason,
        /// The error's text.
        text: &'a str,
    },
    /// A claim has been waiting for long.
    Waiting {
        /// The claim.
        claim: &'a ClaimRef,
        /// What is being tried.
        action: Action,
        /// What it waits for.
        on: &'a WaitingFor,
    },
    /// A claim's record was lost or damaged and has been rebuilt.
    Rebuilt {
        /// The claim; its name may be unknown.
        claim: &'a ClaimRef,
    },
    /// What a prepared claim had on the node was missing or altered and has been made anew.
    Restored {
        /// The claim.
        claim: &'a ClaimRef,
    },
    /// A claim was let go, the kubelet never asked to unprepare it, and it has been taken back.
    TakenBack {
        /// The claim.
        claim: &'a ClaimRef,
    },
    /// Somebody has destroyed the MIG device of a prepared claim.
    MigDeviceGone {
        /// The claim.
        claim: &'a ClaimRef,
        /// The device.
        device: &'a DeviceName,
    },
    /// The node was taken over from the reference driver.
    TakenOver {
        /// How it went.
        report: &'a Report,
    },
    /// The NVIDIA driver or a GPU is not as it was.
    Changed {
        /// In which way.
        change: &'a Change,
        /// Whether this comes of the first look at all: it finds what is there, and that is no news.
        first_look: bool,
    },
}

/// Whom a notice concerns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A claim, and the pods that use it.
    Claim(ClaimRef),
    /// The node.
    Node,
}

/// Whether somebody should act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// For information.
    Normal,
    /// Something is not as it should be.
    Warning,
}

/// Something that users are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whom it concerns.
    pub subject: Subject,
    /// Whether somebody should act.
    pub severity: Severity,
    /// The reason's name: a [`Reason`] or a [`News`].
    pub reason: &'static str,
    /// What was being done.
    pub action: Action,
    /// The text, within [`LONGEST_NOTE`].
    pub note: String,
}

/// What users are told about a happening, if anything.
pub fn notice(happening: Happening<'_>) -> Option<Notice> {
    happening.is_told().then(|| Notice {
        subject: happening.subject(),
        severity: happening.severity(),
        reason: happening.reason(),
        action: happening.action(),
        note: bounded(&happening.text()),
    })
}

impl Happening<'_> {
    fn is_told(&self) -> bool {
        match self {
            // Another plugin takes over within seconds, and the kubelet tells the pod.
            Self::Failed { reason, .. } => *reason != Reason::PluginStopping,
            Self::Changed { change, first_look } => {
                change.is_loss() || change.waits_for_reset() || !first_look
            }
            Self::TakenOver { report } => report.is_news(),
            Self::Waiting { .. }
            | Self::Rebuilt { .. }
            | Self::Restored { .. }
            | Self::TakenBack { .. }
            | Self::MigDeviceGone { .. } => true,
        }
    }

    /// The claim, or the node where there is none or its name is not known.
    fn subject(&self) -> Subject {
        match self {
            Self::Failed { claim, .. }
            | Self::Waiting { claim, .. }
            | Self::Rebuilt { claim }
            | Self::Restored { claim }
            | Self::TakenBack { claim }
            | Self::MigDeviceGone { claim, .. }
                if has_name(claim) =>
            {
                Subject::Claim((*claim).clone())
            }
            _ => Subject::Node,
        }
    }

    fn severity(&self) -> Severity {
        let is_warning = match self {
            Self::Failed { .. }
            | Self::Rebuilt { .. }
            | Self::Restored { .. }
            | Self::MigDeviceGone { .. } => true,
            Self::Waiting { .. } | Self::TakenBack { .. } => false,
            Self::Changed { change, .. } => change.is_loss() || change.waits_for_reset(),
            Self::TakenOver { report } => report.is_warning(),
        };
        if is_warning {
            Severity::Warning
        } else {
            Severity::Normal
        }
    }

    fn reason(&self) -> &'static str {
        let news = match self {
            Self::Failed { reason, .. } => return reason.as_str(),
            Self::Waiting { on, .. } => on.news(),
            Self::Rebuilt { .. } => News::RecordRebuilt,
            Self::Restored { .. } => News::PreparationRestored,
            Self::TakenBack { .. } => News::ClaimTakenBack,
            Self::MigDeviceGone { .. } => News::MigDeviceGone,
            Self::TakenOver { .. } => News::ClaimsTakenOver,
            Self::Changed { change, .. } => news_of(change),
        };
        news.as_str()
    }

    fn action(&self) -> Action {
        match self {
            Self::Failed { action, .. } | Self::Waiting { action, .. } => *action,
            Self::Rebuilt { .. }
            | Self::Restored { .. }
            | Self::TakenBack { .. }
            | Self::MigDeviceGone { .. }
            | Self::TakenOver { .. } => Action::Reconcile,
            Self::Changed { .. } => Action::Discover,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Failed { text, .. } => (*text).to_owned(),
            Self::Waiting { claim, on, .. } => format!("claim {claim} is waiting for {on}"),
            Self::Rebuilt { claim } => format!(
                "the record of claim {claim} was lost or damaged and has been rebuilt; \
                 running containers are not affected"
            ),
            Self::Restored { claim } => format!(
                "the CDI spec of claim {claim} was missing or altered and has been made anew; \
                 running containers are not affected"
            ),
            Self::TakenBack { claim } => format!(
                "claim {claim} is gone and the kubelet never asked to unprepare it; its devices \
                 are free again"
            ),
            Self::MigDeviceGone { claim, device } => format!(
                "{device} of claim {claim} was destroyed by somebody else while the claim is in \
                 use; delete its pods to have it made anew"
            ),
            Self::TakenOver { report } => report.to_string(),
            Self::Changed { change, .. } => change.to_string(),
        }
    }
}

fn news_of(change: &Change) -> News {
    match change {
        Change::DriverFound { .. } => News::DriverFound,
        Change::NoDriver { .. } => News::NoDriver,
        Change::DriverGone { .. } => News::DriverGone,
        Change::DriverReplaced { .. } => News::DriverReplaced,
        Change::GpuMissing { .. } => News::GpuMissing,
        Change::GpuUnusable { .. } => News::GpuUnusable,
        Change::GpuArrived { .. } => News::GpuArrived,
        // With a name of its own: what is told under one name within minutes keeps the first text.
        Change::MigChanged { .. } if change.waits_for_reset() => News::MigPending,
        Change::MigChanged { .. } => News::MigChanged,
    }
}

/// The text without control characters, which would reach somebody's terminal, and cut to
/// [`LONGEST_NOTE`] between two characters.
fn bounded(text: &str) -> String {
    let text = text.replace(char::is_control, " ");
    if text.len() <= LONGEST_NOTE {
        return text;
    }
    let kept = text.floor_char_boundary(LONGEST_NOTE - CUT.len());
    format!("{}{CUT}", &text[..kept])
}

#[cfg(test)]
mod tests;
