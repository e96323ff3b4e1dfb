use std::collections::BTreeSet;
use std::sync::LazyLock;

use proptest::prelude::*;
use tessera_claim::AllocatedDevice;
use tessera_device::testing::{cut, gpu, gpu_uuid};
use tessera_device::{DriverFacts, Gpu};

use super::*;
use crate::step::Effect;
use crate::testing::{mig_record, named, record, share_allocation, share_record};

#[derive(Debug)]
struct Locked(BTreeSet<GpuUuid>);

impl GpuGuard for Locked {
    fn covers(&self, gpu: &GpuUuid) -> bool {
        self.0.contains(gpu)
    }
}

fn all_locked() -> Locked {
    Locked((0..8).map(gpu_uuid).collect())
}

fn driver() -> &'static DriverFacts {
    static DRIVER: LazyLock<DriverFacts> =
        LazyLock::new(|| tessera_device::testing::driver("580.95.05"));
    &DRIVER
}

fn wants(gpus: &[Gpu], view: View) -> Vec<ResolvedDevice<'_>> {
    gpus.iter()
        .map(|gpu| ResolvedDevice {
            allocated: AllocatedDevice {
                request: "gpu".to_owned(),
                pool: "node0".to_owned(),
                device: DeviceName::whole_gpu(gpu.minor),
                admin_access: view == View::Admin,
                share_id: None,
                consumed: tessera_claim::Consumed::default(),
                configuration: None,
                share_configuration: None,
            },
            gpu,
            instance: None,
            slot: None,
            driver: driver(),
        })
        .collect()
}

/// The MIG devices of a GPU that is cut in this way, of which the claim gets those at `chosen`.
fn wants_parts<'i>(gpu: &'i Gpu, chosen: &[usize]) -> Vec<ResolvedDevice<'i>> {
    let parts: Vec<_> = gpu.offered().collect();
    let wanted = chosen.iter().map(|at| parts[*at]);
    wanted
        .map(|part| ResolvedDevice {
            allocated: named(&[part.name().as_str()]).devices.remove(0),
            gpu,
            instance: part.instance,
            slot: None,
            driver: driver(),
        })
        .collect()
}

#[test]
fn parts_of_a_gpu_are_held_apart_and_a_part_excludes_the_whole() {
    let guard = all_locked();
    let whole_gpu = [gpu(3)];
    let cut = cut(gpu(3), &["3g.40gb", "1g.10gb", "1g.10gb"]);
    let held = mig_record("holder", 3, &["3g.40gb"]);
    let newcomer = record("newcomer", &[]).claim;
    let admit = |wanted| Ledger::under(&guard, [&held], vec![]).admit(&newcomer, wanted);
    admit(wants_parts(&cut, &[1, 2])).unwrap();
    for refused in [
        wants_parts(&cut, &[1, 0]),
        wants_parts(&cut, &[1, 1]),
        wants(&whole_gpu, View::Whole),
    ] {
        let error = admit(refused).unwrap_err();
        assert!(matches!(error, Refusal::GpuHeld { .. }), "{error}");
    }
    admit(wants(&whole_gpu, View::Admin)).unwrap();
    // The layout has changed since, and what is there now lies where the holder's part was.
    let anew = tessera_device::testing::cut(gpu(3), &["4g.40gb", "1g.10gb"]);
    admit(wants_parts(&anew, &[0])).unwrap_err();
    admit(wants_parts(&anew, &[1])).unwrap();

    let whole = record("holder", &[3]);
    let admitted =
        Ledger::under(&guard, [&whole], vec![]).admit(&newcomer, wants_parts(&cut, &[1]));
    assert!(matches!(admitted, Err(Refusal::GpuHeld { .. })));
}

#[test]
fn a_gpu_that_another_claim_holds_is_refused_and_both_claims_are_named() {
    let guard = all_locked();
    let held = record("holder", &[3]);
    let gpus = [gpu(2), gpu(3)];
    let claim = record("newcomer", &[]).claim;
    let error = Ledger::under(&guard, [&held], vec![])
        .admit(&claim, wants(&gpus, View::Whole))
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("default/newcomer") && text.contains("default/holder"),
        "{text}"
    );
    assert!(text.contains("gpu-3"), "{text}");
}

/// Shares of a GPU of 80 GB for the claim, each with its id and its memory in GiB.
fn wants_shares<'i>(gpu: &'i Gpu, shares: &[(&str, u64)]) -> Vec<ResolvedDevice<'i>> {
    let allocation = share_allocation("a", gpu.minor, shares);
    let devices = allocation.devices.into_iter();
    devices
        .map(|allocated| ResolvedDevice {
            allocated,
            gpu,
            instance: None,
            slot: None,
            driver: driver(),
        })
        .collect()
}

#[test]
fn shares_are_admitted_as_long_as_there_is_room_and_a_refusal_names_who_has_the_rest() {
    let guard = all_locked();
    let gpu = gpu(3);
    let held = [
        share_record("one", 3, &[("s1", 20), ("s2", 20)]),
        share_record("two", 3, &[("s3", 20)]),
    ];
    let newcomer = record("newcomer", &[]).claim;
    let admit = |shares: &[(&str, u64)]| {
        Ledger::under(&guard, &held, vec![]).admit(&newcomer, wants_shares(&gpu, shares))
    };
    admit(&[("n1", 19)]).unwrap();
    admit(&[("n1", 10), ("n2", 9)]).unwrap();
    for too_much in [&[("n1", 20)][..], &[("n1", 10), ("n2", 10)]] {
        let error = admit(too_much).unwrap_err();
        let text = error.to_string();
        for part in ["default/newcomer", "default/one", "gpu-3", "of 81559Mi"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let Refusal::GpuOverdrawn { held_by, .. } = error else {
            panic!("{text}")
        };
        let claims: Vec<&str> = held_by
            .iter()
            .map(|(claim, _)| claim.name.as_str())
            .collect();
        assert_eq!(claims, ["one", "two"]);
    }
    // Nobody's shares but the claim's own are too much as well.
    let alone = |shares: &[(&str, u64)]| {
        Ledger::under(&guard, [], vec![]).admit(&newcomer, wants_shares(&gpu, shares))
    };
    alone(&[("n1", 79)]).unwrap();
    let error = alone(&[("n1", 40), ("n2", 40)]).unwrap_err();
    assert!(matches!(error, Refusal::GpuOverdrawn { .. }), "{error}");
}

#[test]
fn a_share_and_the_whole_gpu_exclude_each_other_and_admin_access_sees_both() {
    let guard = all_locked();
    let gpus = [gpu(3)];
    let newcomer = record("newcomer", &[]).claim;
    let shared = share_record("holder", 3, &[("s1", 1)]);
    let whole = record("holder", &[3]);
    for (held, wanted) in [
        (&shared, wants(&gpus, View::Whole)),
        (&whole, wants_shares(&gpus[0], &[("n1", 1)])),
    ] {
        let error = Ledger::under(&guard, [held], vec![])
            .admit(&newcomer, wanted)
            .unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Refusal::GpuHeld { .. }), "{text}");
        assert!(text.contains("default/holder"), "{text}");
    }
    for held in [&shared, &whole] {
        Ledger::under(&guard, [held], vec![])
            .admit(&newcomer, wants(&gpus, View::Admin))
            .unwrap();
    }
}

#[test]
fn where_the_number_of_shares_is_limited_they_are_counted() {
    let guard = all_locked();
    let gpu = gpu(3);
    let held = share_record("holder", 3, &[("s1", 0), ("s2", 0)]);
    let newcomer = record("newcomer", &[]).claim;
    let admit = |sharing: &str| {
        Ledger::under(&guard, [&held], vec![])
            .sharing(sharing.parse().unwrap())
            .admit(&newcomer, wants_shares(&gpu, &[("n1", 0)]))
    };
    admit("3").unwrap();
    admit("unlimited").unwrap();
    let text = admit("2").unwrap_err().to_string();
    assert!(text.contains("0 of 2 are left"), "{text}");
}

#[test]
fn admin_access_neither_is_hindered_nor_hinders() {
    let guard = all_locked();
    let held = record("holder", &[3]);
    let gpus = [gpu(3)];
    let claim = record("monitor", &[]).claim;
    Ledger::under(&guard, [&held], vec![])
        .admit(&claim, wants(&gpus, View::Admin))
        .unwrap();

    let mut monitor = record("monitor", &[3]);
    monitor.devices[0].view = View::Admin;
    let claim = record("newcomer", &[]).claim;
    Ledger::under(&guard, [&monitor], vec![])
        .admit(&claim, wants(&gpus, View::Whole))
        .unwrap();
}

#[test]
fn a_claim_is_not_in_its_own_way_but_cannot_have_one_gpu_twice() {
    let guard = all_locked();
    let own = record("a", &[3]);
    let once = [gpu(3)];
    Ledger::under(&guard, [&own], vec![])
        .admit(&own.claim, wants(&once, View::Whole))
        .unwrap();
    let twice = [gpu(3), gpu(3)];
    Ledger::under(&guard, [&own], vec![])
        .admit(&own.claim, wants(&twice, View::Whole))
        .unwrap_err();
}

#[test]
fn while_a_record_cannot_be_read_no_gpu_is_given_to_another_claim() {
    let guard = all_locked();
    let gpus = [gpu(0)];
    let damaged = Unreadable {
        claim: "lost-uid".parse().unwrap(),
        problem: "the first line is not that of a record".to_owned(),
        flaw: Flaw::Damaged,
        copy: None,
    };
    let claim = record("newcomer", &[]).claim;
    let error = Ledger::under(&guard, [], vec![damaged.clone()])
        .admit(&claim, wants(&gpus, View::Whole))
        .unwrap_err();
    assert!(error.to_string().contains("lost-uid"), "{error}");

    let same = record("lost", &[]).claim;
    Ledger::under(&guard, [], vec![damaged])
        .admit(&same, wants(&gpus, View::Whole))
        .unwrap();
}

#[test]
fn a_gpu_on_which_something_was_left_is_given_to_nobody_but_for_admin_access() {
    let guard = all_locked();
    let mut former = record("former", &[3]);
    let what = "a MIG device".to_owned();
    former.effects.push(Effect::Foreign { what });
    let remains = former.remains().unwrap();
    let gpus = [gpu(2), gpu(3)];
    for claim in ["newcomer", "former"].map(|name| record(name, &[]).claim) {
        let admit =
            |gpus, view| Ledger::under(&guard, [&remains], vec![]).admit(&claim, wants(gpus, view));
        let error = admit(&gpus[..], View::Whole).unwrap_err();
        let Refusal::Unclean { device, what, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!((device.as_str(), what.as_str()), ("gpu-3", "a MIG device"));
        admit(&gpus[..1], View::Whole).unwrap();
        admit(&gpus[..], View::Admin).unwrap();
    }
}

#[test]
#[should_panic(expected = "is not locked")]
fn asking_about_a_gpu_without_its_lock_is_a_mistake_of_the_caller() {
    let guard = Locked(BTreeSet::new());
    let gpus = [gpu(0)];
    let claim = record("a", &[]).claim;
    let _ = Ledger::under(&guard, [], vec![]).admit(&claim, wants(&gpus, View::Whole));
}

proptest! {
    #[test]
    fn no_sequence_of_claims_ever_overlaps(claims in prop::collection::vec(prop::collection::btree_set(0u32..8, 1..4), 1..12)) {
        let guard = all_locked();
        let mut records: Vec<Record> = Vec::new();
        for (number, minors) in claims.iter().enumerate() {
            let gpus: Vec<Gpu> = minors.iter().map(|minor| gpu(*minor)).collect();
            let numbers: Vec<u32> = minors.iter().copied().collect();
            let newcomer = record(&format!("claim{number}"), &numbers);
            let admitted = Ledger::under(&guard, &records, vec![])
                .admit(&newcomer.claim, wants(&gpus, View::Whole))
                .is_ok();
            let free = records.iter().all(|held| {
                held.devices.iter().all(|device| !newcomer.devices.iter().any(|d| d.gpu == device.gpu))
            });
            prop_assert_eq!(admitted, free);
            if admitted {
                records.push(newcomer);
            }
        }
    }
}
