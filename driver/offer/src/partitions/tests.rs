mod changes;
mod properties;

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::ResourceSlice;
use tessera_device::Architecture;
use tessera_device::mig::{MigMode, MigState};
use tessera_device::testing::{cut, driver, gpu, h100_profiles};

use super::*;
use crate::entry::MIG_DEVICE_BUSY;
use crate::limits::{
    ATTRIBUTES_AND_CAPACITIES_PER_DEVICE, COUNTER_SETS_PER_SLICE, COUNTERS_PER_SET,
    DEVICES_PER_SLICE, ELABORATE_DEVICES_PER_SLICE, USED_COUNTERS_PER_SLICE,
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
fn counters_have_slices_of_their_own_and_whole_gpus_share_theirs_with_the_parts_that_have_room() {
    let gpus: Vec<Gpu> = (0..10).map(|minor| h100(minor, MigMode::Off)).collect();
    let slices = offer(gpus, &MadeDevices::default()).slices(1);
    let sets = |slice: &ResourceSlice| slice.spec.shared_counters.as_ref().map(Vec::len);
    let found: Vec<_> = slices.iter().map(sets).collect();
    assert_eq!(found[..3], [Some(8), Some(2), None]);
    let devices = |slice: &ResourceSlice| slice.spec.devices.as_ref().map_or(0, Vec::len);
    let found: Vec<_> = slices[2..].iter().map(devices).collect();
    assert_eq!(found, [[10 + 2 * 25].as_slice(), &[25; 8]].concat());
    for slice in &slices {
        assert_eq!(slice.spec.pool.resource_slice_count, 11);
    }
}

#[test]
fn a_claim_of_a_whole_gpu_meets_no_mig_device_before_the_last_whole_gpu() {
    let gpus = (0..8).map(|minor| h100(minor, MigMode::Off)).collect();
    let names = names(&offer(gpus, &MadeDevices::default()));
    let wholes: Vec<String> = (0..8).map(|minor| format!("gpu-{minor}")).collect();
    assert_eq!(names[..8], wholes);
    assert_eq!(names.len(), 8 * 26);
}

/// Up to November 2026 each GPU had one slice, in which the whole came last; then whole GPUs had one, and the parts of each GPU
/// another.
#[test]
fn a_pool_with_fewer_or_more_slices_gives_way_to_the_next_generation() {
    let gpus = (0..2).map(|minor| h100(minor, MigMode::Off)).collect();
    let desired = offer(gpus, &MadeDevices::default());
    let now = desired.slices(7);
    let devices = now[1].spec.devices.as_deref().unwrap();
    let (wholes, parts) = devices.split_at(2);
    let mut of_each: Vec<Vec<Device>> = parts.chunks(25).map(<[Device]>::to_vec).collect();
    let apart = [vec![wholes.to_vec()], of_each.clone()].concat();
    for (parts, whole) in of_each.iter_mut().zip(wholes) {
        parts.push(whole.clone());
    }
    for former in [of_each, apart] {
        let former = Offer::new(DRIVER, &node(), former, Vec::new());
        let counters = now[0].spec.shared_counters.clone().unwrap();
        let smaller = former.clone();
        let stored = former.counted(counters, smaller).slices(7);
        let writes = reconcile(&desired, &stored);
        let (replaced, deleted): (Vec<_>, Vec<_>) = writes
            .iter()
            .partition(|write| matches!(write, Write::Replace(_)));
        // Until the last of both is written, the next generation has fewer slices than each of it says.
        for write in &replaced {
            let Write::Replace(slice) = write else {
                panic!("{write:?}")
            };
            assert_eq!(slice.spec.pool.generation, 8);
            assert_eq!(slice.spec.pool.resource_slice_count, 2);
        }
        assert_eq!((replaced.len(), deleted.len()), (2, stored.len() - 2));
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
fn what_overlaps_a_device_that_is_held_open_beyond_its_claim_is_tainted_and_no_other_slice_written()
{
    let gpus = || vec![h100(0, MigMode::Off), h100(1, MigMode::On)];
    let before = offer(gpus(), &MadeDevices::default());
    let mut made = MadeDevices::default();
    let place = Placement { start: 4, size: 2 };
    made.busy.insert((gpus()[1].uuid.clone(), place));
    let busy = offer(gpus(), &made);
    let is_tainted = |device: &Cow<'_, Device>| {
        let taints = device.taints.iter().flatten();
        taints
            .inspect(|taint| assert_eq!(taint.effect, "NoSchedule"))
            .any(|taint| taint.key == MIG_DEVICE_BUSY)
    };
    let tainted: BTreeSet<String> = busy
        .devices()
        .filter(is_tainted)
        .map(|device| device.name.clone())
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
    assert_eq!(tainted, BTreeSet::from(expected.map(str::to_owned)));
    let stored = before.slices(1);
    let writes = reconcile(&busy, &stored);
    assert_eq!(replaced(&writes), ["001"]);
    // A server without taints keeps the devices as they were.
    let Write::Replace(written) = &writes[0] else {
        panic!("{writes:?}")
    };
    let mut kept = (**written).clone();
    for device in kept.spec.devices.iter_mut().flatten() {
        device.taints = None;
    }
    let without = busy.without(&dropped_fields(written, &kept));
    assert_eq!(reconcile(&without, &stored), []);
}

/// Which slices are replaced at the generation that they have, by the ends of their names.
fn replaced<'w>(writes: &'w [Write]) -> Vec<&'w str> {
    let number = |write: &'w Write| match write {
        Write::Replace(slice) if slice.spec.pool.generation == 1 => {
            slice.metadata.name.as_ref().unwrap().rsplit('-').next()
        }
        other => panic!("{other:?}"),
    };
    writes.iter().filter_map(number).collect()
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
    let has_uuid =
        |device: Cow<'_, Device>| device.attributes.as_ref().unwrap().contains_key("uuid");
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
    // The whole GPU is the first of the devices, behind the counters.
    let mut first = shared.slices(1).swap_remove(1);
    let sent = first.clone();
    for device in first.spec.devices.iter_mut().flatten() {
        device.allow_multiple_allocations = None;
    }
    let sharing = dropped_fields(&sent, &first);
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
    let mut whole = Device {
        consumes_counters: None,
        ..whole.unwrap().into_owned()
    };
    let capacity = whole.capacity.iter_mut();
    capacity.for_each(|capacity| capacity.retain(|name, _| name == "memory"));
    assert_eq!(Some(whole), plain.devices().next().map(Cow::into_owned));
}

#[test]
fn a_whole_gpu_beside_its_parts_has_every_capacity_of_theirs_and_as_much_as_the_largest() {
    let offer = offer(vec![h100(0, MigMode::Off)], &MadeDevices::default());
    let capacity = |device: &Device| device.capacity.clone().unwrap();
    let named = |name: &str| capacity(&offer.devices().find(|device| device.name == name).unwrap());
    let (mut whole, mut largest) = (named("gpu-0"), named("gpu-0-mig-7g80gb-0-0"));
    for device in offer.devices() {
        assert!(capacity(&device).keys().eq(whole.keys()), "{}", device.name);
    }
    let (all, usable) = (whole.remove("memory"), largest.remove("memory"));
    assert_ne!(all, usable, "a MIG device has less of the memory");
    assert_eq!(whole, largest);
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

/// Takes devices of these slices in this order, as long as the counters allow it, as the scheduler does.
fn allocate(slices: &[ResourceSlice], order: &[usize]) -> Vec<String> {
    let devices = slices.iter().flat_map(|slice| &slice.spec.devices);
    let devices: Vec<&Device> = devices.flatten().collect();
    let (mut there, mut used, mut taken) = (Used::new(), Used::new(), Vec::new());
    let sets = slices.iter().flat_map(|slice| &slice.spec.shared_counters);
    for set in sets.flatten() {
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

/// That of these devices no two overlap, and that each is of a GPU that answers.
fn assert_apart(inventory: &Inventory, taken: &[String]) {
    let of = |minor: u32| {
        let is_of = move |name: &&String| {
            let name: DeviceName = name.parse().unwrap();
            name == DeviceName::whole_gpu(minor) || name.mig_parent() == Some(minor)
        };
        taken.iter().filter(is_of).collect::<Vec<_>>()
    };
    for missing in inventory.missing() {
        let mine = of(missing.gpu.minor);
        assert!(mine.is_empty(), "{mine:?}");
    }
    for gpu in inventory.gpus() {
        let mine = of(gpu.minor);
        let whole = mine.contains(&&gpu.device_name().as_str().to_owned());
        assert!(!whole || mine.len() == 1, "{mine:?}");
        let mut places: Vec<Placement> = Vec::new();
        let choices = Choices::of(gpu, |_, _| true);
        for slot in choices.iter().flat_map(|choices| &choices.slots) {
            let name = slot.device_name(gpu.minor);
            if mine.iter().any(|mine| **mine == *name.as_str()) {
                let overlapped = places.iter().any(|place| place.overlaps(slot.placement));
                assert!(!overlapped, "{mine:?}");
                places.push(slot.placement);
            }
        }
    }
}
