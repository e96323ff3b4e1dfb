//! The failures of a claim, one of each.

use std::path::Path;

use tessera_api::{ConfigError, Feature, FieldPath, Kind, MinimumTier, Unsupported};
use tessera_claim::{ClaimRefusal, ClaimUid, ConfigurationRefusal, ShareError};
use tessera_device::DeviceName;
use tessera_device::follow::Absence;
use tessera_device::mig::{MigMode, MigState};
use tessera_device::testing::gpu_uuid;
use tessera_nvml::MigErrorReason;
use tessera_prepare::cdi::CdiKind;
use tessera_prepare::channel::{ChannelRefusal, Channels, Disagreement};
use tessera_prepare::reason::Reason;
use tessera_prepare::refusal::Refusal;
use tessera_prepare::waiting::WaitingFor;
use tessera_sharing::{Conflict, Holder, NoNative, Overdrawn, Tier};

use super::next;
use super::page::check;
use crate::cdi_dir::CdiDir;
use crate::channels::{ChannelsBusy, SessionNotReady};
use crate::claim_reader::ReadError;
use crate::claims::ClaimError;
use crate::executor::{LocalNode, Node, StepError};
use crate::file_error::FileError;
use crate::hardware::NotReady;
use crate::journal::Journal;
use crate::locks::LockError;
use crate::mig::MigError;
use crate::time_slice::TimeSliceError;
use crate::wait::Interrupted;

fn driver() -> String {
    "gpu.nvidia.com".to_owned()
}

fn about_the_claim() -> Vec<ClaimRefusal> {
    let (wanted, driver) = (next(), driver());
    let source = "../gpu".parse::<DeviceName>().unwrap_err();
    let (request, found) = ("gpu".to_owned(), "another".to_owned());
    let mut all = vec![
        ClaimRefusal::Replaced { wanted, found },
        ClaimRefusal::NotAllocated { claim: next() },
        ClaimRefusal::NoDevice {
            claim: next(),
            driver,
        },
        ClaimRefusal::BadDevice {
            claim: next(),
            request: request.clone(),
            source,
        },
        ClaimRefusal::BadShare {
            claim: next(),
            request,
            device: DeviceName::whole_gpu(3),
            source: ShareError::Amount {
                name: "memory",
                found: "all".to_owned(),
            },
        },
    ];
    all.extend(
        about_its_configuration().map(|refusal| ClaimRefusal::Configuration {
            claim: next(),
            refusal: Box::new(refusal),
        }),
    );
    all
}

fn about_its_configuration() -> [ConfigurationRefusal; 3] {
    let at = FieldPath::parameters("status.allocation.devices.config[0].opaque.parameters");
    [
        ConfigurationRefusal::Unsupported {
            origin: "device class",
            wish: Unsupported {
                at: at.field("sharing").field("strategy"),
                value: "MPS",
                feature: Feature::Mps,
                remove: "sharing",
            },
        },
        ConfigurationRefusal::Invalid {
            origin: "claim",
            error: ConfigError::Missing {
                at: at.field("apiVersion"),
                remedy: "write resource.nvidia.com/v1beta1".to_owned(),
            },
        },
        ConfigurationRefusal::Mismatched {
            origin: "claim",
            at: at.field("kind"),
            kind: Kind::MigDeviceConfig,
            request: "gpu".to_owned(),
            device: DeviceName::whole_gpu(3),
            fitting: Kind::GpuConfig,
        },
    ]
}

fn overdrawn() -> Overdrawn {
    let holder = |name: &str, share: &str| Holder {
        claim: super::claim(name),
        share: Some(share.to_owned()),
    };
    Overdrawn::Sum {
        holder: holder("next", "b1"),
        name: "memory",
        wanted: "20Gi".to_owned(),
        left: "10Gi".to_owned(),
        whole: "141Gi".to_owned(),
        by: vec![holder("former", "a7")],
        others: 0,
    }
}

fn conflict() -> Conflict {
    let holder = |name: &str, share: &str| Holder {
        claim: super::claim(name),
        share: Some(share.to_owned()),
    };
    Conflict {
        holder: holder("next", "b1"),
        setting: "the time-slice interval",
        wanted: "Long",
        by: holder("former", "a7"),
        found: "Short",
    }
}

fn about_the_gpu() -> Vec<Refusal> {
    let (claim, gpu, device) = (next, || gpu_uuid(3), || DeviceName::whole_gpu(3));
    let by = || super::claim("former");
    vec![
        Refusal::UnknownDevice {
            claim: claim(),
            pool: "node0".to_owned(),
            device: device(),
        },
        Refusal::GpuLost {
            claim: claim(),
            device: device(),
            gpu: gpu(),
            absence: Absence::Lost,
        },
        Refusal::MigLayoutChanged {
            claim: claim(),
            device: device(),
            gpu: gpu(),
            mig: Box::new(MigState::empty(MigMode::On)),
        },
        Refusal::GpuHeld {
            claim: claim(),
            device: device(),
            gpu: gpu(),
            by: by(),
            held_as: device(),
        },
        Refusal::GpuOverdrawn {
            claim: claim(),
            device: device(),
            gpu: gpu(),
            overdrawn: Box::new(overdrawn()),
            held_by: vec![(by(), device())],
        },
        Refusal::SettingConflict {
            claim: claim(),
            device: device(),
            gpu: gpu(),
            conflict: Box::new(conflict()),
            held_by: Some((by(), device())),
        },
        Refusal::ShareNotHeld {
            claim: claim(),
            device: device(),
            gpu: gpu(),
            refusal: tessera_sharing::Refusal::Enforcement {
                wanted: MinimumTier::Shim,
                strongest: Tier::None,
                no_native: Some(NoNative::Driver),
            },
        },
        Refusal::GpuBeingReleased {
            claim: claim(),
            device: device(),
            gpu: gpu(),
            by: by(),
        },
        Refusal::Unclean {
            claim: claim(),
            device: device(),
            gpu: gpu(),
            by: "former-uid".parse().unwrap(),
            what: "passthrough gpu-vfio-3".to_owned(),
        },
        Refusal::Unaccounted {
            claim: claim(),
            gpu: gpu(),
            record: "lost-uid".parse().unwrap(),
            problem: "damage".to_owned(),
        },
    ]
}

fn about_the_channel() -> [ChannelRefusal; 8] {
    let (claim, channels) = (next, Channels::One(3));
    let slot = || "slot-0".parse::<DeviceName>().unwrap();
    let by = || super::claim("former");
    let (pool, why) = (|| "domain-d1".to_owned(), || "a reason".to_owned());
    [
        ChannelRefusal::WithoutDomain {
            claim: claim(),
            device: slot(),
            why: why(),
        },
        ChannelRefusal::Mismatch {
            claim: claim(),
            device: slot(),
            pool: pool(),
            disagreement: Disagreement::Namespace { domain: why() },
        },
        ChannelRefusal::NotFound {
            claim: claim(),
            device: slot(),
            pool: pool(),
            missing: why(),
        },
        ChannelRefusal::NotServed {
            claim: claim(),
            device: "daemon-0".parse().unwrap(),
        },
        ChannelRefusal::Missing {
            claim: claim(),
            device: slot(),
            why: why(),
        },
        ChannelRefusal::Held {
            claim: claim(),
            device: slot(),
            channels,
            by: by(),
            domain: "d2".parse().unwrap(),
        },
        ChannelRefusal::BeingReleased {
            claim: claim(),
            device: slot(),
            channels,
            by: by(),
        },
        ChannelRefusal::Unaccounted {
            claim: claim(),
            channels,
            record: "lost-uid".parse().unwrap(),
            problem: "damage".to_owned(),
        },
    ]
}

/// Failures of what the plugin depends on. Those of files are real ones.
fn about_the_node() -> Vec<ClaimError> {
    let gpu = gpu_uuid(3);
    let nowhere = Path::new("/proc/tessera");
    let journal = Journal::open(nowhere, CdiKind::claim()).unwrap_err();
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("cdi");
    let cdi = CdiDir::open(&directory).unwrap();
    std::fs::remove_dir(&directory).unwrap();
    std::fs::write(&directory, "in the way").unwrap();
    let look = LocalNode {
        cdi,
        mig: None,
        time_slices: None,
    }
    .spec_files()
    .unwrap_err();
    let refused = kube::Error::Service("403".into());
    vec![
        LockError::Busy { gpu }.into(),
        ChannelsBusy.into(),
        SessionNotReady {
            why: "its state is STOPPED (members of epoch 3)".to_owned(),
        }
        .into(),
        NotReady::new("no library").into(),
        ReadError::Unavailable {
            claim: next(),
            source: None,
        }
        .into(),
        ReadError::Refused {
            claim: next(),
            source: Box::new(refused),
        }
        .into(),
        Interrupted::at(&next(), &WaitingFor::Api).into(),
        LockError::from(FileError::of("lock", nowhere)(std::io::Error::other(
            "full",
        )))
        .into(),
        journal.into(),
        look.into(),
        StepError::from(mig_refused(MigErrorReason::InUse)).into(),
        StepError::from(mig_refused(MigErrorReason::NoRoom)).into(),
        StepError::from(TimeSliceError::Refused {
            arguments: "compute-policy -i GPU-3 --set-timeslice 1".to_owned(),
            code: Some(3),
            said: "not supported".to_owned(),
        })
        .into(),
        ClaimError::Defect,
    ]
}

fn mig_refused(reason: MigErrorReason) -> MigError {
    MigError::Refused(tessera_nvml::MigError {
        gpu: gpu_uuid(3),
        call: "nvmlGpuInstanceDestroy",
        reason,
        fault: None,
    })
}

#[test]
fn every_failure_of_a_claim_is_explained_with_its_message() {
    let unnamed: Result<ClaimUid, _> = "../etc".parse();
    let mut failures = vec![
        ClaimError::from(unnamed.unwrap_err()),
        ReadError::NotFound { claim: next() }.into(),
    ];
    let refused = about_the_claim().into_iter().map(Refusal::from);
    failures.extend(refused.chain(about_the_gpu()).map(ClaimError::from));
    let refused = about_the_channel().into_iter().map(Refusal::from);
    failures.extend(refused.map(ClaimError::from));
    failures.extend(about_the_node());
    let said: Vec<(&str, String)> = failures
        .iter()
        .map(|failure| (failure.label(), failure.to_string()))
        .collect();
    let named: Vec<&str> = said.iter().map(|(name, _)| *name).collect();
    let all: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(named, all, "this test has an example of each");
    check("Claims", &said);
}
