use std::collections::BTreeMap;

use proptest::prelude::*;
use tessera_device::Architecture;
use tessera_device::mig::{MigMode, MigState};
use tessera_device::testing::{cut, driver, gpu, h100_profiles};

use super::*;
use crate::limits::{
    ATTRIBUTES_AND_CAPACITIES_PER_DEVICE, COUNTER_SETS_PER_SLICE, COUNTERS_PER_SET,
    USED_COUNTERS_PER_SLICE,
};
use crate::{FieldPath, Write, dropped_fields, reconcile};

const DRIVER: &str = "gpu.nvidia.com";

fn node() -> Node {
    Node {
        name: "node-a".to_owned(),
        uid: "0c5cbc2e-1d0f-4a46-9b1c-3b1f0f5f7d11".to_owned(),
    }
}

/// An H100 that tells its profiles, in this mode.
fn h100(minor: u32, mode: MigMode) -> Gpu {
    let mut mig = MigState::empty(mode);
    mig.profiles = h100_profiles();
    Gpu {
        mig: Some(mig),
        ..gpu(minor)
    }
}

/// The same, cut into these instances.
fn cut_into(minor: u32, profiles: &[&str]) -> Gpu {
    let mut gpu = cut(gpu(minor), profiles);
    gpu.mig.as_mut().unwrap().profiles = h100_profiles();
    gpu
}

fn offer(gpus: Vec<Gpu>, made: &MadeDevices) -> Offer {
    let inventory = Inventory::new(driver("580.95.05"), gpus).unwrap();
    partitions(
        &inventory,
        made,
        &node(),
        DRIVER,
        ConsumableShares::Disabled,
    )
}

fn names(offer: &Offer) -> Vec<String> {
    offer.devices().map(|device| device.name.clone()).collect()
}

/// What a server without the feature keeps of the first slice that it gets.
fn no_counters(offer: &Offer) -> BTreeSet<FieldPath> {
    let sent = offer.slices(1).remove(0);
    let mut stored = sent.clone();
    stored.spec.shared_counters = None;
    dropped_fields(&sent, &stored)
}

#[test]
fn an_h100_is_offered_with_the_names_and_values_of_the_reference_drivers_dynamic_mig() {
    let offer = offer(vec![h100(0, MigMode::Off)], &MadeDevices::default());
    assert_eq!((offer.dropped(), offer.bound()), (&[][..], &[][..]));
    insta::assert_yaml_snapshot!("h100_divided", offer.slices(1));
}

#[test]
fn counters_and_devices_have_slices_of_their_own_and_each_gpu_has_one() {
    let gpus: Vec<Gpu> = (0..10).map(|minor| h100(minor, MigMode::Off)).collect();
    let slices = offer(gpus, &MadeDevices::default()).slices(1);
    let sets = |slice: &k8s_openapi::api::resource::v1::ResourceSlice| {
        slice.spec.shared_counters.as_ref().map(Vec::len)
    };
    let found: Vec<_> = slices.iter().map(sets).collect();
    assert_eq!(found[..3], [Some(8), Some(2), None]);
    assert_eq!(slices.len(), 2 + 10);
    for slice in &slices[2..] {
        assert_eq!(slice.spec.devices.as_ref().unwrap().len(), 26);
        assert_eq!(slice.spec.pool.resource_slice_count, 12);
    }
}

#[test]
fn what_the_driver_makes_and_destroys_changes_nothing_of_the_offer() {
    let before = offer(
        vec![h100(0, MigMode::Off), h100(1, MigMode::Off)],
        &MadeDevices::default(),
    );
    let cut = cut_into(1, &["3g.40gb", "1g.10gb"]);
    let instances = &cut.mig.as_ref().unwrap().instances;
    let mut made = MadeDevices::default();
    // One is known by its identity, of the other there is the intent alone.
    made.devices.insert(instances[0].uuid.clone());
    made.places
        .insert((cut.uuid.clone(), instances[1].placement));
    let during = offer(vec![h100(0, MigMode::On), cut], &made);
    assert_eq!(before.slices(1), during.slices(1));
}

#[test]
fn what_overlaps_a_device_that_is_held_open_beyond_its_claim_is_tainted_by_one_write() {
    let gpus = || vec![h100(0, MigMode::Off), h100(1, MigMode::On)];
    let before = offer(gpus(), &MadeDevices::default());
    let mut made = MadeDevices::default();
    let place = Placement { start: 4, size: 2 };
    made.busy.insert((gpus()[1].uuid.clone(), place));
    let busy = offer(gpus(), &made);
    let is_tainted = |device: &&Device| {
        let taints = device.taints.iter().flatten();
        taints
            .inspect(|taint| assert_eq!(taint.effect, "NoSchedule"))
            .any(|taint| taint.key == MIG_DEVICE_BUSY)
    };
    let tainted: BTreeSet<&str> = busy
        .devices()
        .filter(is_tainted)
        .map(|device| device.name.as_str())
        .collect();
    let expected = [
        "gpu-1",
        "gpu-1-mig-1g10gb-19-4",
        "gpu-1-mig-1g10gb-19-5",
        "gpu-1-mig-1g10gb-me-20-4",
        "gpu-1-mig-1g10gb-me-20-5",
        "gpu-1-mig-1g20gb-15-4",
        "gpu-1-mig-2g20gb-14-4",
        "gpu-1-mig-3g40gb-9-4",
        "gpu-1-mig-7g80gb-0-0",
    ];
    assert_eq!(tainted, BTreeSet::from(expected));
    let stored = before.slices(1);
    let [Write::Replace(written)] = &reconcile(&busy, &stored)[..] else {
        panic!("one slice changes")
    };
    // A server without taints keeps the devices as they were.
    let mut kept = (**written).clone();
    for device in kept.spec.devices.iter_mut().flatten() {
        device.taints = None;
    }
    let without = busy.without(&dropped_fields(written, &kept));
    assert_eq!(reconcile(&without, &stored), []);
}

#[test]
fn a_gpu_whose_layout_changes_is_one_write() {
    let none = MadeDevices::default();
    let whole = |minor| h100(minor, MigMode::Off);
    let before = offer((0..8).map(whole).collect(), &none);
    let stored = before.slices(1);
    assert_eq!(reconcile(&before, &stored), []);
    let cut = |minor| match minor {
        3 => cut_into(minor, &["1g.10gb", "3g.40gb"]),
        _ => whole(minor),
    };
    let after = offer((0..8).map(cut).collect(), &none);
    let writes = reconcile(&after, &stored);
    assert!(matches!(&writes[..], [Write::Replace(_)]), "{writes:#?}");
}

#[test]
fn what_somebody_else_has_made_is_offered_as_it_is_and_nothing_that_overlaps_it() {
    let offer = offer(
        vec![cut_into(0, &["3g.40gb", "2g.20gb"])],
        &MadeDevices::default(),
    );
    assert_eq!(
        names(&offer),
        [
            "gpu-0-mig-3g40gb-9-0",
            "gpu-0-mig-2g20gb-14-4",
            "gpu-0-mig-1g10gb-19-6",
            "gpu-0-mig-1g10gb-me-20-6",
            "gpu-0-mig-1g20gb-15-6",
        ]
    );
    let has_uuid = |device: &Device| device.attributes.as_ref().unwrap().contains_key("uuid");
    let with: Vec<bool> = offer.devices().map(has_uuid).collect();
    assert_eq!(with, [true, true, false, false, false]);
}

#[test]
fn a_gpu_that_has_to_be_reset_is_offered_in_its_mode_with_the_reason() {
    let ampere = |minor, mode| Gpu {
        architecture: Architecture::Ampere,
        ..h100(minor, mode)
    };
    let offer = offer(
        vec![ampere(0, MigMode::Off), ampere(1, MigMode::On)],
        &MadeDevices::default(),
    );
    let names = names(&offer);
    assert_eq!(names[0], "gpu-0");
    assert_eq!(names.len(), 1 + 25);
    assert!(!names.contains(&"gpu-1".to_owned()));
    let bound: Vec<_> = offer.bound().iter().map(|(gpu, _)| gpu.as_str()).collect();
    assert_eq!(bound, ["gpu-0", "gpu-1"]);
}

#[test]
fn a_server_that_keeps_no_counters_gets_one_view_of_each_gpu() {
    let offer = offer(
        vec![
            h100(0, MigMode::Off),
            h100(1, MigMode::On),
            cut_into(2, &["3g.40gb"]),
        ],
        &MadeDevices::default(),
    );
    let fields = no_counters(&offer);
    assert!(offer.form_without(&fields).uncounted);
    let smaller = offer.without(&fields);
    assert_eq!(names(&smaller), ["gpu-0", "gpu-1", "gpu-2-mig-3g40gb-9-0"]);
    assert_eq!(smaller.slices(1).len(), 1);
    assert_eq!(no_counters(&smaller), BTreeSet::new());
    assert!(!offer.form_without(&BTreeSet::new()).uncounted);
}

#[test]
fn a_gpu_can_be_shared_as_a_whole_and_what_is_made_of_it_is_one_claims() {
    let inventory = Inventory::new(driver("580.95.05"), vec![h100(0, MigMode::Off)]).unwrap();
    let made = MadeDevices::default();
    let shared = partitions(&inventory, &made, &node(), DRIVER, ConsumableShares::Memory);
    let shareable: Vec<_> = shared
        .devices()
        .filter(|device| device.allow_multiple_allocations == Some(true))
        .collect();
    let [whole] = shareable.as_slice() else {
        panic!("{shareable:?}")
    };
    assert_eq!(whole.name, "gpu-0");
    assert!(whole.consumes_counters.is_some());

    // A server may lack the one feature, the other, or both.
    let counters = no_counters(&shared);
    // The whole GPU is the last of the devices, in the last slice.
    let mut last = shared.slices(1).pop().unwrap();
    let sent = last.clone();
    for device in last.spec.devices.iter_mut().flatten() {
        device.allow_multiple_allocations = None;
    }
    let sharing = dropped_fields(&sent, &last);
    let both: BTreeSet<_> = counters.iter().chain(&sharing).cloned().collect();
    let unshared = offer(vec![h100(0, MigMode::Off)], &made);
    assert_eq!(shared.without(&sharing).slices(1), unshared.slices(1));
    let uncounted = shared.without(&counters);
    assert_eq!(names(&uncounted), ["gpu-0"]);
    assert_eq!(uncounted.shareable(), 1);
    let plain = shared.without(&both);
    assert_eq!(
        (names(&plain), plain.shareable()),
        (vec!["gpu-0".to_owned()], 0)
    );
    let form = shared.form_without(&both);
    assert!(form.uncounted && form.exclusive);
}

#[test]
fn gpus_of_which_nothing_can_be_made_are_offered_as_they_are_found() {
    let gpus = vec![gpu(0), cut(gpu(1), &["3g.40gb"]), gpu(2)];
    let inventory = Inventory::new(driver("580"), gpus).unwrap();
    let found = partitions(
        &inventory,
        &MadeDevices::default(),
        &node(),
        DRIVER,
        ConsumableShares::Disabled,
    );
    assert_eq!(
        found,
        crate::plan(&inventory, &node(), DRIVER, ConsumableShares::Disabled)
    );
}

#[test]
fn a_whole_gpu_says_the_same_of_itself_whether_it_can_be_cut_or_not() {
    let divided = offer(vec![h100(0, MigMode::Off)], &MadeDevices::default());
    let inventory = Inventory::new(driver("580.95.05"), vec![gpu(0)]).unwrap();
    let plain = crate::plan(&inventory, &node(), DRIVER, ConsumableShares::Disabled);
    let whole = divided.devices().find(|device| device.name == "gpu-0");
    let whole = Device {
        consumes_counters: None,
        ..whole.unwrap().clone()
    };
    assert_eq!(Some(&whole), plain.devices().next());
}

type Used = BTreeMap<(String, String), u64>;

fn amounts(set: &str, counters: &Amounts, used: &mut Used) {
    for (name, counter) in counters {
        let value = &counter.value.0;
        let (digits, unit) = value.split_at(
            value
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(value.len()),
        );
        let unit = if unit == "Mi" {
            1 << 20
        } else if unit == "Gi" {
            1 << 30
        } else {
            assert_eq!(unit, "");
            1
        };
        *used.entry((set.to_owned(), name.clone())).or_default() +=
            digits.parse::<u64>().unwrap() * unit;
    }
}

/// Takes devices in this order, as long as the counters allow it, as the scheduler does.
fn allocate(offer: &Offer, order: &[usize]) -> Vec<String> {
    let devices: Vec<&Device> = offer.devices().collect();
    let (mut there, mut used, mut taken) = (Used::new(), Used::new(), Vec::new());
    for set in offer
        .slices(1)
        .iter()
        .flat_map(|slice| slice.spec.shared_counters.iter().flatten())
    {
        amounts(&set.name, &set.counters, &mut there);
    }
    for at in order {
        let Some(device) = devices
            .get(*at)
            .filter(|device| !taken.contains(&device.name))
        else {
            continue;
        };
        let mut with = used.clone();
        for use_of in device.consumes_counters.iter().flatten() {
            amounts(&use_of.counter_set, &use_of.counters, &mut with);
        }
        if with
            .iter()
            .all(|(counter, amount)| there[counter] >= *amount)
        {
            used = with;
            taken.push(device.name.clone());
        }
    }
    taken
}

const LAYOUTS: &[Option<&[&str]>] = &[
    None,
    Some(&[]),
    Some(&["7g.80gb"]),
    Some(&["1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb"]),
    Some(&["4g.40gb", "2g.20gb", "1g.10gb+me"]),
];

prop_compose! {
    fn any_gpu()(minor in 0..20_u32, layout in prop::sample::select(LAYOUTS), is_ampere: bool, tells: bool) -> Gpu {
        let mut gpu = match layout {
            None => h100(minor, MigMode::Off),
            Some(profiles) => cut_into(minor, profiles),
        };
        if is_ampere {
            gpu.architecture = Architecture::Ampere;
        }
        if !tells {
            gpu.mig.as_mut().unwrap().profiles.clear();
        }
        gpu
    }
}

fn any_offer() -> impl Strategy<Value = (Inventory, MadeDevices)> {
    prop::collection::vec((any_gpu(), any::<bool>()), 0..20).prop_map(|mut gpus| {
        let mut seen = BTreeSet::new();
        gpus.retain(|(gpu, _)| seen.insert(gpu.minor));
        let mut made = MadeDevices::default();
        for (gpu, is_ours) in &gpus {
            let instances = gpu.mig.iter().flat_map(|mig| &mig.instances);
            let uuids = instances.map(|instance| instance.uuid.clone());
            made.devices.extend(uuids.filter(|_| *is_ours));
        }
        let gpus = gpus.into_iter().map(|(gpu, _)| gpu).collect();
        (Inventory::new(driver("580"), gpus).unwrap(), made)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_inventory_leaves_the_limits_of_the_api((inventory, made) in any_offer()) {
        let offer = partitions(&inventory, &made, &node(), DRIVER, ConsumableShares::Disabled);
        for slice in offer.slices(1) {
            let devices = slice.spec.devices.unwrap_or_default();
            let sets = slice.spec.shared_counters.unwrap_or_default();
            prop_assert!(devices.is_empty() || sets.is_empty());
            prop_assert!(sets.len() <= COUNTER_SETS_PER_SLICE);
            prop_assert!(sets.iter().all(|set| set.counters.len() <= COUNTERS_PER_SET));
            let used = devices.iter().flat_map(|device| device.consumes_counters.iter().flatten());
            let used: Vec<usize> = used.map(|set| set.counters.len()).collect();
            prop_assert!(used.iter().sum::<usize>() <= USED_COUNTERS_PER_SLICE);
            let most = if used.is_empty() { DEVICES_PER_SLICE } else { ELABORATE_DEVICES_PER_SLICE };
            prop_assert!(devices.len() <= most);
            for device in &devices {
                let count = device.attributes.as_ref().unwrap().len() + device.capacity.as_ref().unwrap().len();
                prop_assert!(count <= ATTRIBUTES_AND_CAPACITIES_PER_DEVICE);
            }
        }
    }

    #[test]
    fn the_counters_let_no_two_devices_be_given_away_that_overlap(
        (inventory, made) in any_offer(),
        order in prop::collection::vec(0..600_usize, 0..200),
    ) {
        let offer = partitions(&inventory, &made, &node(), DRIVER, ConsumableShares::Disabled);
        let taken = allocate(&offer, &order);
        for gpu in inventory.gpus() {
            let mine = |name: &String| {
                let name: tessera_device::DeviceName = name.parse().unwrap();
                name == gpu.device_name() || name.mig_parent() == Some(gpu.minor)
            };
            let mine: Vec<&String> = taken.iter().filter(|name| mine(name)).collect();
            let whole = mine.contains(&&gpu.device_name().as_str().to_owned());
            prop_assert!(!whole || mine.len() == 1, "{mine:?}");
            let mut places = Vec::new();
            let choices = Choices::of(gpu, |_, _| true);
            for slot in choices.iter().flat_map(|choices| &choices.slots) {
                if mine.iter().any(|name| *slot.device_name(gpu.minor).as_str() == **name) {
                    places.push(slot.placement);
                }
            }
            for (at, place) in places.iter().enumerate() {
                prop_assert!(places[..at].iter().all(|other| !other.overlaps(*place)), "{mine:?}");
            }
        }
    }

    #[test]
    fn the_same_input_gives_the_same_bytes((inventory, made) in any_offer(), by: prop::sample::Index) {
        let mut gpus = inventory.gpus().to_vec();
        if !gpus.is_empty() {
            let by = by.index(gpus.len());
            gpus.rotate_left(by);
        }
        let again = Inventory::new(inventory.driver().clone(), gpus).unwrap();
        let bytes = |inventory| {
            serde_json::to_string(&partitions(inventory, &made, &node(), DRIVER, ConsumableShares::Disabled).slices(1)).unwrap()
        };
        prop_assert_eq!(bytes(&inventory), bytes(&again));
    }
}
