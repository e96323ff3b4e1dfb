//! What holds for every offer of GPUs that are cut when claims need it.

use proptest::prelude::*;

use super::*;

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
        assert_apart(&inventory, &allocate(&offer.slices(1), &order));
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
