use super::*;
use crate::testing::{cut, driver, gpu};

fn inventory(version: &str, minors: &[u32]) -> Inventory {
    Inventory::new(driver(version), minors.iter().copied().map(gpu).collect()).unwrap()
}

fn found(version: &str, minors: &[u32]) -> Look {
    Look::Found {
        inventory: inventory(version, minors),
        silent: Vec::new(),
    }
}

/// So many GPUs are listed besides those that answer; none of them says which it is.
fn some_lost(minors: &[u32], lost: usize) -> Look {
    let silent = SilentGpu {
        uuid: None,
        absence: Absence::Lost,
    };
    Look::Found {
        inventory: inventory("580", minors),
        silent: vec![silent; lost],
    }
}

fn mute(minors: &[u32], minor: u32) -> Look {
    let silent = SilentGpu {
        uuid: Some(gpu(minor).uuid),
        absence: no_answer(),
    };
    Look::Found {
        inventory: inventory("580", minors),
        silent: vec![silent],
    }
}

fn no_answer() -> Absence {
    Absence::NoAnswer {
        why: "nvmlDeviceGetName: Unknown Error".to_owned(),
    }
}

fn gone(why: &str) -> Look {
    let why = why.to_owned();
    Look::NoDriver { why }
}

fn driver_found(version: &str, gpus: usize) -> Change {
    let version = DriverVersion::new(version);
    Change::DriverFound { version, gpus }
}

fn withdrawn(minor: u32, absence: Absence) -> Change {
    Change::GpuMissing {
        device: DeviceName::whole_gpu(minor),
        gpu: gpu(minor).uuid,
        absence,
    }
}

fn arrived(minor: u32) -> Change {
    Change::GpuArrived {
        device: DeviceName::whole_gpu(minor),
        gpu: gpu(minor).uuid,
    }
}

/// Looks one after the other, each with what shall be news of it.
#[track_caller]
fn check(looks: Vec<(Look, Vec<Change>)>) -> Known {
    let mut known = Known::default();
    for (number, (look, expected)) in looks.into_iter().enumerate() {
        let (next, changes) = known.next(look);
        assert_eq!(changes, expected, "look {number}");
        known = next;
    }
    known
}

#[test]
fn a_late_driver_is_told_of_once_and_what_does_not_change_is_no_news() {
    let why = "no library".to_owned();
    let known = check(vec![
        (gone(&why), vec![Change::NoDriver { why: why.clone() }]),
        (gone(&why), vec![]),
        (
            gone("version mismatch"),
            vec![Change::NoDriver {
                why: "version mismatch".to_owned(),
            }],
        ),
        (found("580", &[0, 1]), vec![driver_found("580", 2)]),
        (found("580", &[0, 1]), vec![]),
    ]);
    assert_eq!(known, Known::Present(inventory("580", &[0, 1])));
}

#[test]
fn a_driver_that_is_replaced_or_goes_away_and_comes_back_keeps_its_gpus() {
    let why = "no library".to_owned();
    let known = check(vec![
        (found("580", &[0, 1]), vec![driver_found("580", 2)]),
        (
            found("590", &[0, 1]),
            vec![Change::DriverReplaced {
                from: DriverVersion::new("580"),
                to: DriverVersion::new("590"),
            }],
        ),
        (gone(&why), vec![Change::DriverGone { why: why.clone() }]),
        (gone(&why), vec![]),
    ]);
    let last = Some(inventory("590", &[0, 1]));
    assert_eq!(known, Known::Absent { why, last });
    let (known, changes) = known.next(found("595", &[0, 1]));
    assert_eq!(changes, [driver_found("595", 2)]);
    assert_eq!(known, Known::Present(inventory("595", &[0, 1])));
}

#[test]
fn a_gpu_is_missing_for_the_reason_that_the_driver_gives_until_it_is_back() {
    let known = check(vec![
        (found("580", &[0, 1, 2]), vec![driver_found("580", 3)]),
        // Lost: it stays in the list and says nothing more, not even which it is.
        (some_lost(&[0, 2], 1), vec![withdrawn(1, Absence::Lost)]),
        (some_lost(&[0, 2], 1), vec![]),
        // Its reset: it is not listed meanwhile, and back afterwards.
        (
            found("580", &[0, 2]),
            vec![withdrawn(1, Absence::NotListed)],
        ),
        (found("580", &[0, 1, 2]), vec![arrived(1)]),
        (mute(&[1, 2], 0), vec![withdrawn(0, no_answer())]),
    ]);
    let last = known.last().unwrap();
    let names: Vec<_> = last.gpus().iter().map(|gpu| gpu.minor).collect();
    assert_eq!(names, [1, 2]);
    let missing = MissingGpu {
        gpu: gpu(0),
        absence: no_answer(),
    };
    assert_eq!(last.missing(), [missing]);
}

#[test]
fn a_gpu_that_was_lost_before_the_driver_went_away_is_still_missing_when_it_is_back() {
    let why = "no library".to_owned();
    let known = check(vec![
        (found("580", &[0, 1]), vec![driver_found("580", 2)]),
        (some_lost(&[0], 1), vec![withdrawn(1, Absence::Lost)]),
        (gone(&why), vec![Change::DriverGone { why }]),
        (some_lost(&[0], 1), vec![driver_found("580", 1)]),
    ]);
    assert_eq!(known.last().unwrap().missing().len(), 1);
}

#[test]
fn a_gpu_that_never_answered_is_told_of_once_and_arrives_when_it_does() {
    let stranger = Change::GpuUnusable {
        absence: Absence::Lost,
    };
    check(vec![
        (some_lost(&[0], 1), vec![driver_found("580", 1), stranger]),
        (some_lost(&[0], 1), vec![]),
        (found("580", &[0, 1]), vec![arrived(1)]),
    ]);
}

#[test]
fn several_lost_gpus_are_all_missing() {
    let known = check(vec![
        (found("580", &[0, 1, 2]), vec![driver_found("580", 3)]),
        (
            some_lost(&[1], 2),
            vec![withdrawn(0, Absence::Lost), withdrawn(2, Absence::Lost)],
        ),
    ]);
    let Known::Present(inventory) = known else {
        panic!("one GPU answers")
    };
    let name = DeviceName::whole_gpu(2);
    let mut missing = inventory.missing().iter();
    assert!(missing.any(|missing| missing.gpu.device_name() == name));
    assert!(inventory.by_device_name(&name).is_none());
    assert_eq!(inventory.seen_by_device_name(&name).unwrap().gpu.minor, 2);
}

fn looked_at(gpus: Vec<Gpu>) -> Look {
    Look::Found {
        inventory: Inventory::new(driver("580"), gpus).unwrap(),
        silent: Vec::new(),
    }
}

#[test]
fn a_gpu_that_is_cut_anew_is_news_once_and_one_that_serves_nobody_is_a_loss() {
    let told = |changes: &[Change]| -> Vec<(bool, String)> {
        let tell = |change: &Change| (change.is_loss(), change.to_string());
        changes.iter().map(tell).collect()
    };
    let (known, changes) = Known::Unseen.next(looked_at(vec![gpu(0), gpu(1)]));
    assert_eq!(changes, [driver_found("580", 2)]);

    let halves = || looked_at(vec![gpu(0), cut(gpu(1), &["3g.40gb", "3g.40gb"])]);
    let (known, changes) = known.next(halves());
    let uuid = gpu(1).uuid;
    let layout = "MIG mode is on, with 3g.40gb at 0:4, 3g.40gb at 4:4";
    assert_eq!(
        told(&changes),
        [(false, format!("gpu-1: GPU {uuid}: {layout}"))]
    );
    assert_eq!(known.next(halves()).1, []);

    let (known, changes) = known.next(looked_at(vec![gpu(0), cut(gpu(1), &[])]));
    let [(true, text)] = &told(&changes)[..] else {
        panic!("{changes:?}")
    };
    assert!(text.contains("no MIG device"), "{text}");

    let (_, changes) = known.next(looked_at(vec![gpu(0), gpu(1)]));
    assert_eq!(
        told(&changes),
        [(false, format!("gpu-1: GPU {uuid}: MIG mode is off"))]
    );
}

#[test]
fn a_mode_that_waits_for_a_reset_is_told_also_at_the_first_look() {
    let mut waiting = gpu(0);
    waiting.mig.as_mut().unwrap().pending = MigMode::On;
    let (_, changes) = Known::Unseen.next(looked_at(vec![waiting]));
    let [_, Change::MigChanged { mig, .. }] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert_eq!(mig.waiting(), Some(MigMode::On));
    assert!(changes[1].waits_for_reset() && !changes[0].waits_for_reset());
    assert!(
        mig.to_string()
            .ends_with("to be on after a reset of the GPU")
    );
}
