use tessera_device::Gpu;
use tessera_device::mig::{MigLayouts, Placement};
use tessera_device::testing::{cut, driver, gpu, h100_profiles};

use super::*;
use crate::ledger::Ledger;
use crate::resolve::resolve;
use crate::step::{Effect, undo_all};
use crate::testing::{AllLocked, boot, named, record};

/// A GPU of a node whose layouts are made.
fn dynamic(mut gpu: Gpu) -> Gpu {
    gpu.mig.as_mut().unwrap().profiles = h100_profiles();
    gpu
}

fn uncut(minor: u32, mode: MigMode) -> Gpu {
    let mut gpu = dynamic(gpu(minor));
    gpu.mig.as_mut().unwrap().mode = mode;
    gpu.mig.as_mut().unwrap().pending = mode;
    gpu
}

fn made_of(gpus: Vec<Gpu>, devices: &[&str], held: &[Record]) -> Result<Option<Plan>, Refusal> {
    let inventory = Inventory::new(driver("580"), gpus).unwrap();
    let allocation = named(devices);
    let devices = resolve(&allocation, "node0", &inventory, MigLayouts::Dynamic)?;
    let admitted = Ledger::under(&AllLocked, held, vec![]).admit(&allocation.claim, devices)?;
    make(&admitted, &CdiKind::claim(), &boot())
}

const SMALL: &str = "gpu-0-mig-1g10gb-19-6";
const HALF: &str = "gpu-0-mig-3g40gb-9-0";

#[test]
fn a_device_that_is_not_there_is_made_after_the_mode_was_switched_once() {
    let plan = made_of(vec![uncut(0, MigMode::Off)], &[HALF, SMALL], &[]);
    let Plan { record, steps } = plan.unwrap().unwrap();
    let [
        Step::SwitchMigMode { mode, .. },
        Step::CreateMig(half),
        Step::CreateMig(small),
    ] = steps.as_slice()
    else {
        panic!("{steps:?}")
    };
    assert_eq!(*mode, MigMode::On);
    assert_eq!(half.placement, Placement { start: 0, size: 4 });
    assert_eq!(
        (small.placement, small.profile_id),
        (Placement { start: 6, size: 1 }, 19)
    );
    assert_eq!(record.phase, Phase::Preparing);
    let intents: Vec<_> = record.made().cloned().collect();
    assert_eq!(intents, [half.clone(), small.clone()]);
    assert!(intents.iter().all(|intent| intent.identity.is_none()));
    assert!(
        record
            .devices
            .iter()
            .all(|device| device.instance.is_none() && matches!(device.view, View::Part(_)))
    );
}

#[test]
fn nothing_is_made_of_what_is_there_and_no_mode_is_switched_that_is_right() {
    let cut = dynamic(cut(gpu(0), &["3g.40gb"]));
    assert_eq!(made_of(vec![cut.clone()], &[HALF], &[]).unwrap(), None);
    let whole = made_of(vec![uncut(0, MigMode::Off)], &["gpu-0"], &[]);
    assert_eq!(whole.unwrap(), None);
    let beside = made_of(vec![cut], &[SMALL], &[]).unwrap().unwrap();
    assert!(matches!(beside.steps[..], [Step::CreateMig(_)]));
}

#[test]
fn a_whole_gpu_that_is_left_in_mig_mode_is_switched_back_unless_something_lies_on_it() {
    let plan = made_of(vec![uncut(0, MigMode::On)], &["gpu-0"], &[]).unwrap();
    let Plan { record, steps } = plan.unwrap();
    let [Step::SwitchMigMode { mode, .. }] = steps.as_slice() else {
        panic!("{steps:?}")
    };
    assert_eq!((*mode, record.effects.len()), (MigMode::Off, 0));

    for (wanted, layout) in [
        ("gpu-0", &["1g.10gb"][..]),
        (HALF, &["1g.10gb"]),
        (HALF, &["4g.40gb"]),
    ] {
        let error = made_of(vec![dynamic(cut(gpu(0), layout))], &[wanted], &[]).unwrap_err();
        assert!(matches!(error, Refusal::MigLayoutChanged { .. }), "{error}");
    }
}

#[test]
fn what_another_claim_holds_is_refused_with_the_claim_before_anything_is_made() {
    let held = record("holder", &[0]);
    let error = made_of(vec![uncut(0, MigMode::Off)], &[SMALL], &[held]).unwrap_err();
    assert!(error.to_string().contains("default/holder"), "{error}");
}

#[test]
fn what_was_made_is_recorded_with_its_identity_and_taken_back_by_that() {
    let plan = made_of(vec![uncut(0, MigMode::Off)], &[HALF], &[]);
    let Plan { mut record, steps } = plan.unwrap().unwrap();
    let instance = cut(gpu(0), &["3g.40gb"]).mig.unwrap().instances.remove(0);
    let done = Done::Created(instance.clone());
    assert!(!record.learn(&steps[0], &Done::AsPlanned));
    assert!(record.learn(&steps[1], &done));
    assert!(!record.learn(&steps[1], &done));
    let [Effect::MigDevice(device)] = record.effects.as_slice() else {
        panic!("{record:?}")
    };
    assert!(device.is(&instance));
    let undo = undo_all(&record.effects);
    assert_eq!(undo, [Step::DestroyMig(device.clone())]);

    let bytes = record.encode();
    let header = "tessera-record 3 ";
    assert!(bytes.starts_with(header.as_bytes()));
    assert_eq!(Record::decode(&bytes).unwrap(), record);
}

#[test]
fn what_was_made_is_there_for_the_second_round() {
    let before = Inventory::new(driver("580"), vec![uncut(0, MigMode::Off)]).unwrap();
    let plan = made_of(before.gpus().to_vec(), &[HALF], &[]);
    let steps = plan.unwrap().unwrap().steps;
    let instance = cut(gpu(0), &["3g.40gb"]).mig.unwrap().instances.remove(0);
    let outcomes = [Done::AsPlanned, Done::Created(instance.clone())];
    let done: Vec<_> = steps.into_iter().zip(outcomes).collect();
    let after = after(&before, &done).unwrap();
    let devices = resolve(&named(&[HALF]), "node0", &after, MigLayouts::Dynamic).unwrap();
    assert_eq!(devices[0].instance, Some(&instance));
    assert_eq!(devices[0].slot, None);
}
