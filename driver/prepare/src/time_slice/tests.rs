use proptest::prelude::*;
use tessera_api::Interval::{Default as Own, Long, Short};
use tessera_device::mig::MigLayouts;
use tessera_device::testing::{cut, driver, gpu, gpu_uuid, inventory};
use tessera_device::{Gpu, Inventory};

use super::*;
use crate::cdi::{CdiKind, DriverInstall};
use crate::ledger::Ledger;
use crate::plan::{Plan, plan, restore};
use crate::record::Record;
use crate::refusal::Refusal;
use crate::resolve::resolve;
use crate::testing::{
    AllLocked, allocation, boot, named, record, share_allocation, share_record, slicing,
    wants_slices,
};
use tessera_claim::Allocation;

/// What becomes of an allocation beside these records, on a node of whole GPUs.
fn prepare(allocation: &Allocation, records: &[Record]) -> Result<Plan, Refusal> {
    prepare_on(&inventory(0..8), allocation, records)
}

fn prepare_on(
    inventory: &Inventory,
    allocation: &Allocation,
    records: &[Record],
) -> Result<Plan, Refusal> {
    let devices = resolve(allocation, "node0", inventory, MigLayouts::Static)?;
    let ledger = Ledger::under(&AllLocked, records, vec![]);
    let admitted = ledger.admit(&allocation.claim, devices)?;
    let install = DriverInstall::default();
    Ok(plan(&admitted, &CdiKind::claim(), &install, &boot()))
}

/// A share of 20 GiB of GPU 3, and its record.
fn share(name: &str) -> (Allocation, Record) {
    let shares = [(name, 20)];
    (
        share_allocation(name, 3, &shares),
        share_record(name, 3, &shares),
    )
}

fn admin(allocation: Allocation) -> Allocation {
    let mut allocation = allocation;
    for device in &mut allocation.devices {
        device.admin_access = true;
    }
    allocation
}

fn slices(plan: &Plan) -> Vec<(GpuUuid, Interval)> {
    let steps = plan.steps.iter();
    steps
        .filter_map(|step| match step {
            Step::SetTimeSlice { gpu, interval } => Some((gpu.clone(), *interval)),
            _ => None,
        })
        .collect()
}

#[test]
fn only_a_claim_that_asks_for_it_has_its_gpus_set_and_that_is_recorded_before() {
    let plain = prepare(&allocation("a", &[0, 3]), &[]).unwrap();
    assert_eq!(slices(&plain), []);
    assert!(plain.record.devices.iter().all(|d| d.time_slice.is_none()));

    let asking = prepare(&wants_slices(allocation("a", &[0, 3]), Short), &[]).unwrap();
    let mut expected = vec![(gpu_uuid(0), Short), (gpu_uuid(3), Short)];
    expected.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(slices(&asking), expected);
    assert_eq!(asking.record.devices[1].time_slice, Some(Short));
    // The container starts when its GPU is set.
    assert!(matches!(asking.steps[2], Step::WriteCdi { .. }));
}

#[test]
fn two_shares_of_a_gpu_set_it_once_and_must_not_contradict_each_other() {
    let two = share_allocation("a", 3, &[("s1", 20), ("s2", 20)]);
    let same = prepare(&wants_slices(two.clone(), Long), &[]).unwrap();
    assert_eq!(slices(&same), [(gpu_uuid(3), Long)]);
    let mut odd = wants_slices(two, Long);
    odd.devices[0].configuration = wants_slices(allocation("a", &[3]), Short).devices[0]
        .configuration
        .clone();
    let refusal = prepare(&odd, &[]).unwrap_err();
    let Refusal::SettingConflict { held_by, .. } = &refusal else {
        panic!("{refusal}")
    };
    assert_eq!(*held_by, None);
}

#[test]
fn claims_that_share_a_gpu_agree_on_its_time_slice_or_the_later_is_refused() {
    let (a, b) = (share("a"), share("b"));
    for (held, wanted, agrees) in [
        (None, None, true),
        (None, Some(Short), true),
        (Some(Short), None, true),
        (Some(Short), Some(Short), true),
        (Some(Short), Some(Long), false),
        (Some(Short), Some(Own), false),
        (Some(Own), Some(Long), false),
    ] {
        let asking = |interval| wants_slices(b.0.clone(), interval);
        let wanted = wanted.map_or_else(|| b.0.clone(), asking);
        let holding = |interval| slicing(a.1.clone(), interval);
        let held = held.map_or_else(|| a.1.clone(), holding);
        let outcome = prepare(&wanted, &[held]);
        let Err(refusal) = outcome else {
            assert!(agrees);
            continue;
        };
        assert!(!agrees, "{refusal}");
        let text = refusal.to_string();
        assert!(text.contains("claim default/b (UID b-uid)"), "{text}");
        assert!(text.contains("claim default/a (UID a-uid)"), "{text}");
    }
}

#[test]
fn admin_access_changes_nothing_under_others_and_may_ask_for_what_they_have() {
    let watcher = |interval| admin(wants_slices(allocation("watcher", &[3]), interval));
    let plain = record("a", &[3]);
    let short = slicing(plain.clone(), Short);
    for (held, wanted, agrees) in [
        (Some(&plain), Short, false),
        (Some(&plain), Own, true),
        (Some(&short), Short, true),
        (Some(&short), Long, false),
        (None, Long, true),
    ] {
        let held: Vec<Record> = held.into_iter().cloned().collect();
        let outcome = prepare(&watcher(wanted), &held);
        assert_eq!(outcome.is_ok(), agrees, "{wanted:?} {outcome:?}");
    }
    // Another who only watches is not in the way, and what it has set is joined.
    let mut other = record("other", &[3]);
    other.devices[0].view = View::Admin;
    prepare(&watcher(Short), &[other.clone()]).unwrap();
    let outcome = prepare(&watcher(Long), &[slicing(other, Short)]);
    assert!(matches!(outcome, Err(Refusal::SettingConflict { .. })));
}

#[test]
fn of_a_mig_device_nothing_is_set_whatever_its_configuration_says() {
    let halves: Gpu = cut(gpu(0), &["3g.40gb", "3g.40gb"]);
    let inventory = Inventory::new(driver("580"), vec![halves]).unwrap();
    let mut allocation = named(&["gpu-0-mig-3g40gb-9-0"]);
    let sharing = Some(tessera_api::MigSharing::TimeSlicing);
    allocation.devices[0].configuration = Some(tessera_api::Config::MigDevice(
        tessera_api::MigDeviceConfig { sharing },
    ));
    let plan = prepare_on(&inventory, &allocation, &[]).unwrap();
    assert_eq!(slices(&plan), []);
    assert_eq!(plan.record.devices[0].time_slice, None);
}

#[test]
fn what_is_prepared_anew_is_set_anew_but_for_gpus_that_are_away() {
    let (kind, install) = (CdiKind::claim(), DriverInstall::default());
    let prepared = slicing(record("a", &[0, 3]), Long);
    let anew = restore(&prepared, &inventory(0..8), &kind, &install).unwrap();
    assert_eq!(slices(&anew).len(), 2);
    assert_eq!(anew.record.devices, prepared.devices);
    let lost = tessera_device::testing::inventory_that_lost(0, 0..8);
    let anew = restore(&prepared, &lost, &kind, &install).unwrap();
    assert_eq!(slices(&anew), [(gpu_uuid(3), Long)]);
}

#[test]
fn the_last_who_wants_it_sets_it_back_and_it_is_certain_only_once_it_was_prepared() {
    let (a, b) = (share("a").1, share("b").1);
    let (a, b, plain) = (slicing(a, Short), slicing(b, Short), share("c").1);
    let back = |was_set| Step::ResetTimeSlice {
        gpu: gpu_uuid(3),
        was_set,
    };
    assert_eq!(set_back(&a, [&a, &b, &plain]), []);
    assert_eq!(set_back(&a, [&a, &plain]), [back(true)]);
    assert_eq!(set_back(&plain, [&a, &b, &plain]), []);
    let mut begun = a.clone();
    begun.phase = Phase::Preparing;
    assert_eq!(set_back(&begun, [&begun]), [back(false)]);
    // Whoever is about to set it wants it kept; whoever is gone does not.
    assert_eq!(set_back(&b, [&begun, &b]), []);
    let mut released = a.clone();
    released.phase = Phase::Released;
    assert_eq!(set_back(&b, [&released, &b]), [back(true)]);
    // What was set to the driver's own needs no undo.
    assert_eq!(set_back(&slicing(a, Own), []), []);
}

/// A claim that comes, or goes.
#[derive(Clone, Copy, Debug)]
struct Move {
    claim: usize,
    wants: Option<Interval>,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let wants = prop::sample::select(vec![None, Some(Own), Some(Short), Some(Long)]);
    let one = (0..5_usize, wants).prop_map(|(claim, wants)| Move { claim, wants });
    prop::collection::vec(one, 0..24)
}

proptest! {
    /// Whatever comes and goes, the GPU is set as every claim that it has wants it, and is as it was by
    /// itself when nobody wants anything.
    #[test]
    fn a_gpu_is_always_set_as_those_who_have_it_want_it(moves in moves()) {
        let mut held: Vec<Record> = Vec::new();
        let mut now = Own;
        for Move { claim, wants } in moves {
            let (mut wanted, _) = share(["a", "b", "c", "d", "e"][claim]);
            wanted.devices[0].consumed.memory = Some(tessera_device::Bytes::from_mib(1024));
            if let Some(at) = held.iter().position(|record| record.claim == wanted.claim) {
                let gone = &held[at];
                for step in set_back(gone, &held) {
                    let resets = matches!(step, Step::ResetTimeSlice { .. });
                    prop_assert!(resets, "{:?}", step);
                    now = Own;
                }
                held.remove(at);
            } else {
                let wanted = wants.map_or(wanted.clone(), |wants| wants_slices(wanted, wants));
                match prepare(&wanted, &held) {
                    Ok(plan) => {
                        now = slices(&plan).last().map_or(now, |(_, interval)| *interval);
                        let mut record = plan.record;
                        record.phase = Phase::Prepared;
                        held.push(record);
                    }
                    Err(refusal) => {
                        let conflict = matches!(refusal, Refusal::SettingConflict { .. });
                        prop_assert!(conflict, "{}", refusal);
                    }
                }
            }
            let wishes = held.iter().filter_map(|record| record.devices[0].time_slice);
            let wishes: Vec<Interval> = wishes.collect();
            prop_assert!(wishes.iter().all(|wish| *wish == now), "{:?} {:?}", wishes, now);
            if wishes.is_empty() {
                prop_assert_eq!(now, Own);
            }
        }
    }
}
