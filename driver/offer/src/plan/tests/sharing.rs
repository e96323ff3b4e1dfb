//! Devices that several claims can share.

use std::borrow::Cow;

use k8s_openapi::api::resource::v1::CapacityRequestPolicyRange;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tessera_device::MemoryLimiting;
use tessera_device::quantity::nanos;

use super::*;
use crate::dropped_fields;

pub(super) fn any_shares() -> impl Strategy<Value = ConsumableShares> {
    let words = [
        "disabled",
        "memory",
        "unlimited",
        "1",
        "2",
        "10",
        "4294967295",
    ];
    prop::sample::select(words.map(|word| word.parse().unwrap()).to_vec())
}

fn shares(word: &str) -> ConsumableShares {
    word.parse().unwrap()
}

fn amount(quantity: &Quantity) -> i128 {
    nanos(&quantity.0).unwrap()
}

/// The rules of `validateRequestPolicy` in Kubernetes' `pkg/apis/resource/validation`.
pub(super) fn assert_policies_are_valid(device: &Device) {
    let is_shared = device.allow_multiple_allocations == Some(true);
    for (name, capacity) in device.capacity.iter().flatten() {
        let Some(policy) = &capacity.request_policy else {
            assert!(!is_shared, "the first share would have all {name}");
            continue;
        };
        assert!(is_shared, "{name}");
        let value = amount(&capacity.value);
        let default = amount(policy.default.as_ref().unwrap());
        let CapacityRequestPolicyRange { min, max, step } = policy.valid_range.as_ref().unwrap();
        let (min, max) = (amount(min), max.as_ref().map_or(value, amount));
        assert!(
            0 <= min && min <= default && default <= max && max <= value,
            "{name}"
        );
        if let Some(step) = step.as_ref().map(amount) {
            assert!(step > 0 && min + step <= value, "{name}");
            for aligned in [min, default, max] {
                assert_eq!(aligned % step, 0, "{name}");
            }
        }
    }
}

#[test]
fn a_device_says_native_where_the_driver_holds_its_shares_and_none_elsewhere() {
    let gpus = || vec![h100(0), testing::cut(h100(1), &["3g.40gb"])];
    let tiers = |memory_limiting, word| {
        let facts = DriverFacts {
            memory_limiting,
            ..driver()
        };
        let inventory = Inventory::new(facts, gpus()).unwrap();
        let offer = plan(&inventory, &node(), DRIVER, shares(word));
        let devices: Vec<Device> = offer.devices().map(Cow::into_owned).collect();
        let tier = |device: &Device| {
            let attribute = |name: &str| {
                let name = format!("tessera-dra.github.io/{name}");
                device.attributes.as_ref().unwrap().get(&name).cloned()
            };
            let tier = attribute("memoryEnforcement").unwrap().string.unwrap();
            match attribute("dynamicMemory").map(|grows| grows.bool.unwrap()) {
                Some(true) => format!("{tier}, grows"),
                Some(false) => format!("{tier}, fixed"),
                None => tier,
            }
        };
        devices.iter().map(tier).collect::<Vec<_>>()
    };
    let limits = MemoryLimiting::PerCgroup;
    assert_eq!(tiers(limits, "memory"), ["native, fixed", "none"]);
    // Whoever asks for no memory has no limit, and could take what others are to have.
    assert_eq!(tiers(limits, "unlimited"), ["none, fixed", "none"]);
    assert_eq!(tiers(limits, "10"), ["none, fixed", "none"]);
    let moved = MemoryLimiting::Moved;
    assert_eq!(tiers(moved, "memory"), ["native, grows", "none"]);
    assert_eq!(tiers(moved, "unlimited"), ["none, fixed", "none"]);
    for limits in [MemoryLimiting::NoCall, MemoryLimiting::CgroupV1] {
        assert_eq!(tiers(limits, "memory"), ["none, fixed", "none"]);
    }
}

#[test]
fn a_gpu_that_is_shared_by_memory_is_all_of_whoever_asks_for_no_amount() {
    let gpus = vec![h100(0), testing::cut(h100(1), &["3g.40gb"])];
    let offer = shared(gpus, shares("memory"));
    assert_eq!(offer.shareable(), 2);
    insta::assert_yaml_snapshot!("h100_shared_by_memory", offer.slices(1)[0]);
}

#[test]
fn the_other_ways_of_the_reference_count_by_shares_or_not_at_all() {
    let capacity = |word| {
        let offer = shared(vec![h100(0)], shares(word));
        let device = offer.devices().next().unwrap().into_owned();
        device.capacity.unwrap()
    };
    for word in ["unlimited", "4"] {
        let memory = capacity(word)["memory"].request_policy.clone().unwrap();
        assert_eq!(memory.default, Some(Quantity("0".to_owned())), "{word}");
    }
    assert!(!capacity("unlimited").contains_key("shares"));
    let four = &capacity("4")["shares"];
    let policy = four.request_policy.as_ref().unwrap();
    assert_eq!(four.value.0, "4");
    assert_eq!(policy.default, Some(Quantity("1".to_owned())));
}

#[test]
fn a_mig_device_of_the_whole_gpu_can_be_shared_within_the_limits() {
    let gpu = testing::cut(h100(0), &["7g.80gb"]);
    let offer = shared(vec![gpu], shares("10"));
    assert_eq!(offer.dropped(), []);
    let device = offer.devices().next().unwrap();
    assert_within_limits(&device);
    let count = device.attributes.as_ref().unwrap().len() + device.capacity.as_ref().unwrap().len();
    assert_eq!(count, ATTRIBUTES_AND_CAPACITIES_PER_DEVICE);
    assert!(
        device
            .capacity
            .as_ref()
            .unwrap()
            .contains_key("memorySlice7")
    );
}

#[test]
fn a_device_without_memory_to_divide_is_not_shared() {
    for bytes in [0, 1 << 20] {
        let gpu = Gpu {
            memory: Bytes(bytes),
            ..h100(0)
        };
        assert_eq!(shared(vec![gpu], shares("memory")).shareable(), 0);
    }
}

#[test]
fn a_server_that_keeps_only_a_part_of_sharing_gets_the_offer_without_any() {
    let gpus = || vec![h100(0), testing::cut(h100(1), &["3g.40gb"])];
    let offer = shared(gpus(), shares("memory"));
    let exclusive = offer_of(gpus());
    let sent = &offer.slices(1)[0];
    let keeps = |allow: bool, policy: bool| {
        let mut stored = sent.clone();
        for device in stored.spec.devices.iter_mut().flatten() {
            if !allow {
                device.allow_multiple_allocations = None;
            }
            for capacity in device.capacity.iter_mut().flat_map(|all| all.values_mut()) {
                capacity.request_policy = capacity.request_policy.take().filter(|_| policy);
            }
        }
        offer.without(&dropped_fields(sent, &stored))
    };
    assert_eq!(keeps(true, true).slices(1), offer.slices(1));
    for (allow, policy) in [(false, false), (false, true), (true, false)] {
        assert_eq!(keeps(allow, policy).slices(1), exclusive.slices(1));
    }
}
