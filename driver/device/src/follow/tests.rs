use super::*;
use crate::testing::{driver, gpu};

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
    assert_eq!(
        inventory.missing_by_device_name(&name).unwrap().gpu.minor,
        2
    );
    assert!(inventory.by_device_name(&name).is_none());
    assert_eq!(inventory.seen_by_device_name(&name).unwrap().minor, 2);
}
