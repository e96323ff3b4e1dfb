//! What users are told about their claims, and how it is put.
//!
//! # Guarantees
//! A success is not among what can happen: it would be a write to the API server for each pod. What
//! is told fits an event: a text of bounded length without control characters, whatever a claim holds.

use std::collections::BTreeSet;
use std::fmt;

use tessera_claim::ClaimRef;
use tessera_device::follow::Change;
use tessera_device::{DeviceName, GpuUuid};

use crate::reason::{News, Reason};
use crate::upkeep::UNKNOWN_NAME;

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

/// What a claim waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingFor {
    /// A former claim on its GPU that has been let go.
    Predecessor {
        /// The device that both were allocated.
        device: DeviceName,
        /// The GPU behind it.
        gpu: GpuUuid,
        /// The former claim.
        by: ClaimRef,
    },
    /// An answer of the API server.
    Api,
    /// The NVIDIA driver.
    Driver {
        /// Why it is not there.
        why: String,
    },
    /// The lock of a GPU.
    GpuLock {
        /// The GPUs whose locks are wanted.
        gpus: BTreeSet<GpuUuid>,
    },
}

impl WaitingFor {
    /// The metric label: one of four.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Predecessor { .. } => "predecessor",
            Self::Api => "api",
            Self::Driver { .. } => "driver",
            Self::GpuLock { .. } => "gpu_lock",
        }
    }

    fn news(&self) -> News {
        match self {
            Self::Predecessor { .. } => News::WaitingForClaim,
            Self::Api => News::WaitingForApi,
            Self::Driver { .. } => News::WaitingForDriver,
            Self::GpuLock { .. } => News::WaitingForGpu,
        }
    }
}

impl fmt::Display for WaitingFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Predecessor { device, gpu, by } => write!(
                f,
                "claim {by} to be unprepared: it had {device} (GPU {gpu}) before, and its pod has \
                 not ended on this node yet"
            ),
            Self::Api => f.write_str("the API server to answer"),
            Self::Driver { why } => write!(f, "the NVIDIA driver: {why}"),
            Self::GpuLock { gpus } => {
                f.write_str("other claims to be done with ")?;
                for (at, gpu) in gpus.iter().enumerate() {
                    let comma = if at == 0 { "" } else { ", " };
                    write!(f, "{comma}GPU {gpu}")?;
                }
                Ok(())
            }
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
    match happening {
        // Another plugin takes over within seconds, and the kubelet tells the pod.
        Happening::Failed {
            reason: Reason::PluginStopping,
            ..
        } => None,
        Happening::Failed {
            claim,
            action,
            reason,
            text,
        } => Some(Notice {
            subject: subject(claim),
            severity: Severity::Warning,
            reason: reason.as_str(),
            action,
            note: bounded(text),
        }),
        Happening::Waiting { claim, action, on } => Some(Notice {
            subject: subject(claim),
            severity: Severity::Normal,
            reason: on.news().as_str(),
            action,
            note: bounded(&format!("claim {claim} is waiting for {on}")),
        }),
        Happening::Rebuilt { claim } => {
            let text = format!(
                "the record of claim {claim} was lost or damaged and has been rebuilt; \
                 running containers are not affected"
            );
            let severity = Severity::Warning;
            Some(repair(claim, severity, News::RecordRebuilt, &text))
        }
        Happening::Restored { claim } => {
            let text = format!(
                "the CDI spec of claim {claim} was missing or altered and has been made anew; \
                 running containers are not affected"
            );
            let severity = Severity::Warning;
            Some(repair(claim, severity, News::PreparationRestored, &text))
        }
        Happening::TakenBack { claim } => {
            let text = format!(
                "claim {claim} is gone and the kubelet never asked to unprepare it; its devices \
                 are free again"
            );
            let severity = Severity::Normal;
            Some(repair(claim, severity, News::ClaimTakenBack, &text))
        }
        Happening::Changed { change, first_look } => {
            let severity = match (change.is_loss(), first_look) {
                (true, _) => Severity::Warning,
                (false, false) => Severity::Normal,
                (false, true) => return None,
            };
            Some(Notice {
                subject: Subject::Node,
                severity,
                reason: news_of(change).as_str(),
                action: Action::Discover,
                note: bounded(&change.to_string()),
            })
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
    }
}

fn repair(claim: &ClaimRef, severity: Severity, news: News, text: &str) -> Notice {
    Notice {
        subject: subject(claim),
        severity,
        reason: news.as_str(),
        action: Action::Reconcile,
        note: bounded(text),
    }
}

/// The claim, or the node where the claim's name is not known.
fn subject(claim: &ClaimRef) -> Subject {
    if claim.namespace == UNKNOWN_NAME && claim.name == UNKNOWN_NAME {
        Subject::Node
    } else {
        Subject::Claim(claim.clone())
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
mod tests {
    use proptest::prelude::*;
    use tessera_device::DriverVersion;

    use super::*;
    use crate::record::tests::{gpu_uuid, record};

    fn told(happening: Happening<'_>) -> (Subject, Severity, &'static str, &'static str, String) {
        let told = notice(happening).unwrap();
        let action = told.action.as_str();
        (told.subject, told.severity, told.reason, action, told.note)
    }

    #[test]
    fn a_stop_is_not_told() {
        let claim = record("a", &[]).claim;
        assert_eq!(
            notice(Happening::Failed {
                claim: &claim,
                action: Action::Prepare,
                reason: Reason::PluginStopping,
                text: "stopping",
            }),
            None
        );
    }

    #[test]
    fn each_failure_is_told_to_the_users_of_the_claim_under_its_reason() {
        let claim = record("a", &[]).claim;
        for reason in Reason::ALL {
            if *reason == Reason::PluginStopping {
                continue;
            }
            let failed = Happening::Failed {
                claim: &claim,
                action: Action::Unprepare,
                reason: *reason,
                text: "the text",
            };
            assert_eq!(
                told(failed),
                (
                    Subject::Claim(claim.clone()),
                    Severity::Warning,
                    reason.as_str(),
                    "Unprepare",
                    "the text".to_owned()
                )
            );
        }
    }

    #[test]
    fn a_wait_names_what_it_waits_for() {
        let claim = record("next", &[]).claim;
        let predecessor = WaitingFor::Predecessor {
            device: DeviceName::whole_gpu(3),
            gpu: gpu_uuid(3),
            by: record("former", &[]).claim,
        };
        let driver = WaitingFor::Driver {
            why: "no library".to_owned(),
        };
        let lock = WaitingFor::GpuLock {
            gpus: BTreeSet::from([gpu_uuid(1), gpu_uuid(2)]),
        };
        for (on, label, reason, mentions) in [
            (
                &predecessor,
                "predecessor",
                "WaitingForClaim",
                "default/former",
            ),
            (&WaitingFor::Api, "api", "WaitingForApi", "API server"),
            (&driver, "driver", "WaitingForDriver", "no library"),
            (&lock, "gpu_lock", "WaitingForGpu", ", GPU GPU-"),
        ] {
            assert_eq!(on.label(), label);
            let waiting = Happening::Waiting {
                claim: &claim,
                action: Action::Prepare,
                on,
            };
            let (subject, severity, told, action, note) = told(waiting);
            assert_eq!(subject, Subject::Claim(claim.clone()));
            assert_eq!(
                (severity, told, action),
                (Severity::Normal, reason, "Prepare")
            );
            assert!(
                note.contains(mentions) && note.contains("default/next"),
                "{note}"
            );
        }
    }

    #[test]
    fn a_repair_is_told_to_the_claim_or_to_the_node_where_its_name_is_unknown() {
        let known = record("a", &[]).claim;
        let mut unknown = known.clone();
        (unknown.namespace, unknown.name) = (UNKNOWN_NAME.to_owned(), UNKNOWN_NAME.to_owned());
        for (claim, subject) in [
            (&known, Subject::Claim(known.clone())),
            (&unknown, Subject::Node),
        ] {
            for (happening, reason) in [
                (Happening::Rebuilt { claim }, "RecordRebuilt"),
                (Happening::Restored { claim }, "PreparationRestored"),
                (Happening::TakenBack { claim }, "ClaimTakenBack"),
            ] {
                let (told_to, _, told, action, note) = told(happening);
                assert_eq!((told_to, told), (subject.clone(), reason));
                assert_eq!(action, "Reconcile");
                assert!(note.contains("a-uid"), "{note}");
            }
        }
    }

    #[test]
    fn the_driver_is_a_matter_of_the_node_and_finding_it_at_the_start_is_no_news() {
        let found = Change::DriverFound {
            version: DriverVersion::new("580.95.05"),
            gpus: 8,
        };
        let absent = Change::NoDriver {
            why: "no library".to_owned(),
        };
        let changed = |change, first_look| notice(Happening::Changed { change, first_look });
        assert_eq!(changed(&found, true), None);
        for (change, first_look, severity, reason) in [
            (&found, false, Severity::Normal, "DriverFound"),
            (&absent, true, Severity::Warning, "NoDriver"),
            (&absent, false, Severity::Warning, "NoDriver"),
        ] {
            let told = changed(change, first_look).unwrap();
            assert_eq!(told.subject, Subject::Node);
            assert_eq!((told.severity, told.reason), (severity, reason));
            assert_eq!(told.note, change.to_string());
        }
    }

    proptest! {
        #[test]
        fn a_note_fits_an_event_whatever_the_text(text in "\\PC{0,300}[\u{0}-\u{ffff}]{0,700}") {
            let note = bounded(&text);
            let printable = text.replace(char::is_control, " ");
            prop_assert!(note.len() <= LONGEST_NOTE);
            if printable.len() <= LONGEST_NOTE {
                prop_assert_eq!(note, printable);
            } else {
                let kept = note.strip_suffix(CUT).unwrap();
                prop_assert!(printable.starts_with(kept));
            }
        }
    }
}
