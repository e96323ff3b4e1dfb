//! The reference driver's names and the API's limits, held against [`plan`].

mod sharing;

use std::collections::BTreeSet;

use proptest::prelude::*;
use tessera_device::mig::{MigMode, MigState};
use tessera_device::{
    AddressingMode, Bytes, CudaVersion, DriverFacts, DriverVersion, Gpu, testing,
};

use super::*;
use crate::limits::{
    ATTRIBUTE_NAME_BYTES, ATTRIBUTE_VALUE_BYTES, ATTRIBUTES_AND_CAPACITIES_PER_DEVICE,
};
use crate::{DropReason, Dropped};

const DRIVER: &str = "gpu.nvidia.com";

fn node() -> Node {
    Node {
        name: "node-a".to_owned(),
        uid: "0c5cbc2e-1d0f-4a46-9b1c-3b1f0f5f7d11".to_owned(),
    }
}

/// The test GPU in a place that sysfs tells of.
fn h100(minor: u32) -> Gpu {
    Gpu {
        pci: format!("0000:{:02x}:00.0", minor % 256).parse().unwrap(),
        addressing_mode: Some(AddressingMode::Hmm),
        pcie_root: Some(format!("pci0000:{:02x}", minor % 256).parse().unwrap()),
        numa_node: Some(minor / 4),
        ..testing::gpu(minor)
    }
}

fn driver() -> DriverFacts {
    testing::driver("580.95.05")
}

fn offer_of(gpus: Vec<Gpu>) -> Offer {
    shared(gpus, ConsumableShares::Disabled)
}

fn shared(gpus: Vec<Gpu>, shares: ConsumableShares) -> Offer {
    let inventory = Inventory::new(driver(), gpus).unwrap();
    plan(&inventory, &node(), DRIVER, shares)
}

fn attribute<'a>(device: &'a Device, name: &str) -> Option<&'a DeviceAttribute> {
    device.attributes.as_ref().unwrap().get(name)
}

#[test]
fn eight_h100_are_one_slice_with_the_names_and_values_of_the_reference_driver() {
    let slices = offer_of((0..8).map(h100).collect()).slices(1);
    assert_eq!(slices.len(), 1);
    insta::assert_yaml_snapshot!("h100_x8", slices[0]);
}

#[test]
fn a_cut_gpu_is_offered_by_its_mig_devices_with_the_names_and_values_of_the_reference_driver() {
    let gpus = vec![h100(0), testing::cut(h100(1), &["3g.40gb", "1g.10gb+me"])];
    let offer = offer_of(gpus);
    assert_eq!(offer.dropped(), []);
    insta::assert_yaml_snapshot!("h100_whole_and_cut", offer.slices(1)[0]);
}

#[test]
fn a_gpu_is_offered_in_the_mode_that_it_is_in() {
    let names = |gpu: Gpu| -> Vec<String> {
        let offer = offer_of(vec![gpu]);
        offer.devices().map(|device| device.name.clone()).collect()
    };
    let with = |mode, pending| Gpu {
        mig: Some(MigState {
            pending,
            ..MigState::empty(mode)
        }),
        ..h100(0)
    };
    assert_eq!(names(with(MigMode::Off, MigMode::On)), ["gpu-0"]);
    assert_eq!(names(with(MigMode::On, MigMode::Off)), [""; 0]);
    assert_eq!(names(with(MigMode::On, MigMode::On)), [""; 0]);
}

#[test]
fn a_mig_device_of_the_whole_gpu_is_within_the_limits_and_one_beyond_them_goes_without_slices() {
    let mut gpu = testing::cut(h100(0), &["7g.80gb"]);
    let offer = offer_of(vec![gpu.clone()]);
    assert_eq!(offer.dropped(), []);
    let device = offer.devices().next().unwrap();
    assert_within_limits(&device);
    assert!(
        device
            .capacity
            .as_ref()
            .unwrap()
            .contains_key("memorySlice7")
    );

    gpu.mig.as_mut().unwrap().instances[0].placement.size = 12;
    let offer = offer_of(vec![gpu]);
    let device = offer.devices().next().unwrap();
    assert_within_limits(&device);
    assert!(
        !device
            .capacity
            .as_ref()
            .unwrap()
            .contains_key("memorySlice0")
    );
    let [dropped] = offer.dropped() else {
        panic!("{:?}", offer.dropped())
    };
    assert!(dropped.to_string().contains("memorySlice"), "{dropped}");
    assert_eq!(dropped.reason, DropReason::TooMany { count: 33 });
}

#[test]
fn a_node_without_gpus_offers_one_empty_slice() {
    let slices = offer_of(Vec::new()).slices(1);
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0].spec.devices, Some(Vec::new()));
    assert_eq!(slices[0].spec.pool.resource_slice_count, 1);
    // Without a driver there is nothing either.
    assert_eq!(nothing(&node(), DRIVER), offer_of(Vec::new()));
}

#[test]
fn more_gpus_than_a_slice_takes_are_split_in_order() {
    let slices = offer_of((0..300).map(h100).collect()).slices(7);
    let sizes: Vec<usize> = slices
        .iter()
        .map(|slice| slice.spec.devices.as_ref().unwrap().len())
        .collect();
    assert_eq!(sizes, [128, 128, 44]);
    assert!(slices.iter().all(|slice| {
        slice.spec.pool.resource_slice_count == 3 && slice.spec.pool.generation == 7
    }));
    let names: Vec<&String> = slices
        .iter()
        .flat_map(|slice| slice.spec.devices.as_ref().unwrap())
        .map(|device| &device.name)
        .collect();
    assert_eq!(names[127..130], ["gpu-127", "gpu-128", "gpu-129"]);
}

#[test]
fn a_tainted_device_halves_what_its_slice_may_hold() {
    let plain = vec![Device::default(); 3];
    assert_eq!(devices_per_slice(&plain), 128);
    for field in [
        serde_json::json!({"name": "a", "taints": [{"key": "k", "effect": "NoSchedule"}]}),
        serde_json::json!({"name": "a", "consumesCounters": [{"counterSet": "s", "counters": {}}]}),
        serde_json::json!({"name": "a", "attributes": {"numaNode": {"ints": [0, 1]}}}),
    ] {
        let mut devices = plain.clone();
        devices.push(serde_json::from_value(field.clone()).unwrap());
        assert_eq!(devices_per_slice(&devices), 64, "{field}");
    }
}

#[test]
fn what_the_node_does_not_know_is_left_out_and_not_reported() {
    let gpu = Gpu {
        addressing_mode: None,
        pcie_root: None,
        numa_node: None,
        ..h100(0)
    };
    let offer = offer_of(vec![gpu]);
    let device = offer.devices().next().unwrap();
    for name in [
        "addressingMode",
        "resource.kubernetes.io/pcieRoot",
        "resource.kubernetes.io/numaNode",
    ] {
        assert_eq!(attribute(&device, name), None, "{name}");
    }
    assert_eq!(offer.dropped(), []);
}

#[test]
fn a_value_that_the_api_would_refuse_costs_its_attribute_and_is_reported() {
    let named = |length: usize| Gpu {
        product_name: "x".repeat(length),
        ..h100(3)
    };
    let longest = offer_of(vec![named(ATTRIBUTE_VALUE_BYTES)]);
    assert_eq!(longest.dropped(), []);
    let longer = offer_of(vec![named(ATTRIBUTE_VALUE_BYTES + 1)]);
    let device = longer.devices().next().unwrap();
    assert_eq!(attribute(&device, "productName"), None);
    assert!(attribute(&device, "uuid").is_some());
    assert_eq!(
        longer.dropped(),
        [Dropped {
            device: h100(3).device_name(),
            attribute: "productName",
            reason: DropReason::TooLong { bytes: 65 },
        }]
    );
    assert_eq!(
        longer.dropped()[0].to_string(),
        "gpu-3 is offered without attribute productName: its value has 65 bytes, the API takes 64"
    );
}

#[test]
fn a_driver_version_is_offered_as_semver_or_not_at_all() {
    let with_version = |version: &str| {
        let facts = DriverFacts {
            version: DriverVersion::new(version),
            ..driver()
        };
        plan(
            &Inventory::new(facts, vec![h100(0)]).unwrap(),
            &node(),
            DRIVER,
            ConsumableShares::Disabled,
        )
    };
    let usual = with_version("580.95.05");
    let device = usual.devices().next().unwrap();
    let version = attribute(&device, "driverVersion").unwrap();
    assert_eq!(version.version.as_deref(), Some("580.95.5"));

    let odd = with_version("580.95.05-grid");
    assert_eq!(
        attribute(&odd.devices().next().unwrap(), "driverVersion"),
        None
    );
    assert!(odd.dropped()[0].to_string().contains("580.95.05-grid"));
}

/// Ways to cut a GPU, or not to.
const LAYOUTS: &[Option<&[&str]>] = &[
    None,
    None,
    Some(&[]),
    Some(&["7g.80gb"]),
    Some(&[
        "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb",
    ]),
    Some(&["4g.40gb", "2g.20gb", "1g.10gb+me"]),
];

fn any_gpu() -> impl Strategy<Value = Gpu> {
    (
        0..500_u32,
        ".{0,80}",
        ".{0,80}",
        any::<(u32, u32, u64)>(),
        any::<Option<u32>>(),
        any::<bool>(),
        prop::sample::select(LAYOUTS),
    )
        .prop_map(
            |(minor, product_name, brand, numbers, numa_node, rooted, layout)| Gpu {
                product_name,
                brand,
                compute_capability: CudaVersion {
                    major: numbers.0,
                    minor: numbers.1,
                },
                memory: Bytes(numbers.2),
                numa_node,
                pcie_root: h100(minor).pcie_root.filter(|_| rooted),
                ..match layout {
                    Some(profiles) => testing::cut(h100(minor), profiles),
                    None => h100(minor),
                }
            },
        )
}

fn any_inventory() -> impl Strategy<Value = Inventory> {
    (prop::collection::vec(any_gpu(), 0..300), ".{0,80}").prop_map(|(mut gpus, version)| {
        let mut seen = BTreeSet::new();
        gpus.retain(|gpu| seen.insert(gpu.minor));
        let facts = DriverFacts {
            version: DriverVersion::new(version),
            ..driver()
        };
        Inventory::new(facts, gpus).unwrap()
    })
}

fn assert_within_limits(device: &Device) {
    let attributes = device.attributes.as_ref().unwrap();
    let capacity = device.capacity.as_ref().unwrap();
    assert!(attributes.len() + capacity.len() <= ATTRIBUTES_AND_CAPACITIES_PER_DEVICE);
    for (name, value) in attributes {
        let id = name.rsplit('/').next().unwrap();
        assert!(id.len() <= ATTRIBUTE_NAME_BYTES, "{name}");
        assert!(id.bytes().all(|b| b.is_ascii_alphanumeric()), "{name}");
        let text = value.string.as_ref().or(value.version.as_ref());
        assert!(
            text.is_none_or(|text| text.len() <= ATTRIBUTE_VALUE_BYTES),
            "{name}"
        );
        let set = [
            value.string.is_some(),
            value.version.is_some(),
            value.int.is_some(),
            value.bool.is_some(),
        ];
        assert_eq!(
            set.into_iter().filter(|is_set| *is_set).count(),
            1,
            "{name}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_inventory_panics_or_leaves_the_limits_of_the_api(
        inventory in any_inventory(),
        shares in sharing::any_shares(),
    ) {
        let offer = plan(&inventory, &node(), DRIVER, shares);
        offer.devices().for_each(|device| sharing::assert_policies_are_valid(&device));
        let expected: Vec<String> =
            inventory.offered().map(|part| part.name().to_string()).collect();
        let offered: Vec<String> = offer.devices().map(|device| device.name.clone()).collect();
        prop_assert_eq!(offered, expected);
        offer.devices().for_each(|device| assert_within_limits(&device));
        for slice in offer.slices(1) {
            prop_assert!(slice.spec.devices.unwrap().len() <= DEVICES_PER_SLICE);
        }
    }

    #[test]
    fn the_same_gpus_in_another_order_give_the_same_bytes(
        inventory in any_inventory(),
        rotation: prop::sample::Index,
        shares in sharing::any_shares(),
    ) {
        let mut gpus = inventory.gpus().to_vec();
        if !gpus.is_empty() {
            let by = rotation.index(gpus.len());
            gpus.rotate_left(by);
        }
        let again = Inventory::new(inventory.driver().clone(), gpus).unwrap();
        let bytes = |inventory| {
            serde_json::to_string(&plan(inventory, &node(), DRIVER, shares).slices(1)).unwrap()
        };
        prop_assert_eq!(bytes(&inventory), bytes(&again));
    }
}
