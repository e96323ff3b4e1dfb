use std::collections::BTreeSet;

use proptest::prelude::*;
use tessera_device::mig::{MigMode, MigState};
use tessera_device::testing::gpu_uuid;
use tessera_device::{DeviceName, DriverVersion};

use super::*;
use crate::testing::claim;
use crate::upkeep::nameless;

fn told(happening: Happening<'_>) -> (Subject, Severity, &'static str, &'static str, String) {
    let told = notice(happening).unwrap();
    let action = told.action.as_str();
    (told.subject, told.severity, told.reason, action, told.note)
}

#[test]
fn a_stop_is_not_told() {
    let claim = claim("a");
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
    let claim = claim("a");
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
    let next = claim("next");
    let predecessor = WaitingFor::Predecessor {
        device: DeviceName::whole_gpu(3),
        gpu: gpu_uuid(3),
        by: claim("former"),
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
            claim: &next,
            action: Action::Prepare,
            on,
        };
        let (subject, severity, told, action, note) = told(waiting);
        assert_eq!(subject, Subject::Claim(next.clone()));
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
    let known = claim("a");
    let unknown = nameless(&known.uid);
    for (claim, subject) in [
        (&known, Subject::Claim(known.clone())),
        (&unknown, Subject::Node),
    ] {
        for (happening, reason) in [
            (Happening::Rebuilt { claim }, "RecordRebuilt"),
            (Happening::Restored { claim }, "PreparationRestored"),
            (Happening::TakenBack { claim }, "ClaimTakenBack"),
            (
                Happening::MigDeviceGone {
                    claim,
                    device: &DeviceName::whole_gpu(0),
                },
                "MigDeviceGone",
            ),
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

#[test]
fn a_mode_that_waits_for_a_reset_is_told_by_its_own_name_also_at_the_start() {
    let change = |pending| Change::MigChanged {
        device: DeviceName::whole_gpu(3),
        gpu: gpu_uuid(3),
        mig: MigState {
            pending,
            ..MigState::empty(MigMode::Off)
        },
    };
    for first_look in [true, false] {
        let told = |change: &Change| {
            let notice = notice(Happening::Changed { change, first_look });
            notice.map(|notice| (notice.severity, notice.reason))
        };
        let waiting = told(&change(MigMode::On));
        assert_eq!(waiting, Some((Severity::Warning, "MigPending")));
        let settled = (!first_look).then_some((Severity::Normal, "MigChanged"));
        assert_eq!(told(&change(MigMode::Off)), settled);
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
