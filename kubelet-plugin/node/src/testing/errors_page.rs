//! Holds `docs/errors.md` against the types whose texts and names it explains, both ways.

mod failures;
mod page;

use std::collections::BTreeSet;
use std::time::Duration;

use tessera_claim::ClaimRef;
use tessera_device::follow::{Absence, Change};
use tessera_device::mig::{MigMode, MigState};
use tessera_device::testing::gpu_uuid;
use tessera_device::{DeviceName, DriverVersion};
use tessera_prepare::notice::{Action, Happening, notice};
use tessera_prepare::reason::News;
use tessera_prepare::takeover::{Fate, Report, Taken, Takeover};
use tessera_prepare::waiting::WaitingFor;
use tessera_proto::RegistrationEvent;
use tessera_proto::uds::Peer;

use self::page::check;
use super::claim;
use crate::publisher::StoreError;

fn next() -> ClaimRef {
    claim("next")
}

/// One of each change of the driver and the GPUs.
fn changes() -> [Change; 9] {
    let version = || DriverVersion::new("580.95.05");
    let why = || "no library".to_owned();
    let (device, gpu) = (|| DeviceName::whole_gpu(3), || gpu_uuid(3));
    [
        Change::DriverFound {
            version: version(),
            gpus: 8,
        },
        Change::NoDriver { why: why() },
        Change::DriverGone { why: why() },
        Change::DriverReplaced {
            from: version(),
            to: version(),
        },
        Change::GpuMissing {
            device: device(),
            gpu: gpu(),
            absence: Absence::Lost,
        },
        Change::GpuUnusable {
            absence: Absence::NoAnswer { why: why() },
        },
        Change::GpuArrived {
            device: device(),
            gpu: gpu(),
        },
        Change::MigChanged {
            device: device(),
            gpu: gpu(),
            mig: MigState::empty(MigMode::On),
        },
        Change::MigChanged {
            device: device(),
            gpu: gpu(),
            mig: MigState {
                pending: MigMode::On,
                ..MigState::empty(MigMode::Off)
            },
        },
    ]
}

#[test]
fn every_wait_repair_and_change_is_explained_with_its_message() {
    let claim = &next();
    let waits = [
        WaitingFor::Predecessor {
            device: DeviceName::whole_gpu(3),
            gpu: gpu_uuid(3),
            by: super::claim("former"),
        },
        WaitingFor::GpuLock {
            gpus: BTreeSet::from([gpu_uuid(3)]),
        },
        WaitingFor::ChannelsLock,
        WaitingFor::Session {
            why: "its state is STOPPED (members of epoch 3)".to_owned(),
        },
        WaitingFor::Driver {
            why: "no library".to_owned(),
        },
        WaitingFor::Api,
    ];
    let report = Report {
        outcome: Ok(Takeover {
            claims: vec![Taken {
                uid: "former-uid".to_owned(),
                fate: Fate::Begun(None),
            }],
            ..Takeover::default()
        }),
        kept: "/var/lib/kubelet/plugins/gpu.nvidia.com/checkpoint.json.taken-over".to_owned(),
    };
    let action = Action::Prepare;
    let part: DeviceName = "gpu-3-mig-3g40gb-9-0".parse().unwrap();
    let mut happenings: Vec<Happening<'_>> = waits
        .iter()
        .map(|on| Happening::Waiting { claim, action, on })
        .collect();
    happenings.extend([
        Happening::Rebuilt { claim },
        Happening::Restored { claim },
        Happening::TakenBack { claim },
        Happening::MigDeviceGone {
            claim,
            device: &part,
        },
        Happening::TakenOver { report: &report },
    ]);
    let first_look = false;
    let changes = changes();
    happenings.extend(
        changes
            .iter()
            .map(|change| Happening::Changed { change, first_look }),
    );
    let told = happenings.into_iter().map(|it| notice(it).unwrap());
    let told: Vec<(&str, String)> = told.map(|notice| (notice.reason, notice.note)).collect();
    let named: Vec<&str> = told.iter().map(|(name, _)| *name).collect();
    let all: Vec<&str> = News::ALL.iter().map(|news| news.as_str()).collect();
    assert_eq!(named, all, "this test has an example of each");
    check("Waits, repairs and changes", &told);
}

#[test]
fn every_failure_to_publish_is_explained_with_its_message() {
    let text = || "text".to_owned();
    let after = Duration::from_secs(5);
    let failures = [
        StoreError::Conflict(text()),
        StoreError::Missing(text()),
        StoreError::Forbidden(text()),
        StoreError::Invalid(text()),
        StoreError::Unavailable(text()),
        StoreError::TimedOut { after },
    ];
    let said = failures.map(|failure| {
        // Whoever adds a variant is led here, and adds an example above.
        match failure {
            StoreError::Conflict(_)
            | StoreError::Missing(_)
            | StoreError::Forbidden(_)
            | StoreError::Invalid(_)
            | StoreError::Unavailable(_)
            | StoreError::TimedOut { .. } => {}
        }
        (failure.reason(), failure.to_string())
    });
    check("Slices", &said);
}

#[test]
fn every_failure_to_register_is_explained_with_its_message() {
    let reason = "taken".to_owned();
    let peer = Peer {
        uid: 0,
        pid: Some(1),
    };
    let events = [
        RegistrationEvent::Refused { reason },
        RegistrationEvent::Unheard { peer },
        RegistrationEvent::InfoRead,
        RegistrationEvent::Registered,
        RegistrationEvent::Connected,
    ];
    let said: Vec<(&str, String)> = events
        .iter()
        .filter_map(|event| {
            let name = match event {
                RegistrationEvent::Refused { .. } => "Refused",
                RegistrationEvent::Unheard { .. } => "Unheard",
                RegistrationEvent::InfoRead
                | RegistrationEvent::Registered
                | RegistrationEvent::Connected => return None,
            };
            Some((name, event.to_string()))
        })
        .collect();
    check("Registration", &said);
}
