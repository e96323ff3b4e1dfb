use proptest::prelude::*;
use serde_json::{Value, json};
use tessera_claim::Allocation;
use tessera_device::mig::MigLayouts;
use tessera_device::testing::{cut, driver, gpu, gpu_uuid, inventory};

use super::*;
use crate::ledger::Ledger;
use crate::plan::plan;
use crate::resolve::resolve;
use crate::standing::{Standing, is_prepared_for, standing};
use crate::testing::{AllLocked, allocation, boot, checkpoint as made, mig_record, named};

const DRIVER: &str = "gpu.nvidia.com";

fn uid(name: &str) -> ClaimUid {
    format!("{name}-uid").parse().unwrap()
}

/// The spec that the reference driver wrote for the claim of this name.
fn spec(name: &str) -> (ClaimUid, FoundSpec) {
    let found = FoundSpec {
        file: cdi::reference_file_name(&CdiKind::claim(), &uid(name)),
        contents: format!("devices:\n- name: {name}-uid-gpu-0\n").into_bytes(),
    };
    (uid(name), found)
}

/// Eight GPUs of which the one with this minor number is cut into these.
fn node(minor: u32, profiles: &[&str]) -> Inventory {
    let one = |other| match gpu(other) {
        it if other == minor => cut(it, profiles),
        it => it,
    };
    Inventory::new(driver("580"), (0..8).map(one).collect()).unwrap()
}

/// The same, but cut after the claims were prepared: an instance that is made again is another one.
fn cut_anew(minor: u32, profiles: &[&str]) -> Inventory {
    let mut gpu = cut(gpu(minor), profiles);
    let instances = &mut gpu.mig.as_mut().unwrap().instances;
    for (number, instance) in instances.iter_mut().enumerate() {
        let uuid = format!("MIG-ffffffff-0000-0000-0000-{number:012x}");
        instance.uuid = uuid.parse().unwrap();
    }
    Inventory::new(driver("580"), vec![gpu]).unwrap()
}

fn take_over(checkpoint: &Value, specs: &[&str]) -> Takeover {
    take_over_on(Some(&inventory(0..8)), checkpoint, specs)
}

fn take_over_on(inventory: Option<&Inventory>, checkpoint: &Value, specs: &[&str]) -> Takeover {
    let checkpoint = Checkpoint::decode(checkpoint.to_string().as_bytes()).unwrap();
    let specs = specs.iter().map(|name| spec(name)).collect();
    let (kind, boot) = (CdiKind::claim(), boot());
    let successor = Successor {
        driver: DRIVER,
        kind: &kind,
        boot: &boot,
        inventory,
    };
    successor.take_over(&checkpoint, &specs, |claim| *claim == uid("ours"))
}

/// What becomes of claim `a`, whose spec is there.
#[track_caller]
fn fate(claim: &Value) -> Fate {
    fate_on(Some(&inventory(0..8)), claim)
}

#[track_caller]
fn fate_on(inventory: Option<&Inventory>, claim: &Value) -> Fate {
    let checkpoint = made::v2("boot", &json!({"a-uid": claim}));
    let mut claims = take_over_on(inventory, &checkpoint, &["a"]).claims;
    assert_eq!(claims.len(), 1);
    claims.remove(0).fate
}

#[track_caller]
fn record(fate: &Fate) -> Record {
    let record = fate.record().unwrap_or_else(|| panic!("no record: {fate}"));
    assert!(
        record.is_of(&CdiKind::claim()),
        "it would be read as damaged"
    );
    assert_eq!(Record::decode(&record.encode()).unwrap(), *record);
    record.clone()
}

#[test]
fn a_claim_that_is_taken_over_counts_as_prepared_for_its_allocation_with_the_spec_that_is_there() {
    // As the reference keeps them: grouped by configuration, not in the order of the results.
    let mut claim = made::completed("a", &[made::gpu("a", 0), made::gpu("a", 3)]);
    let devices = &mut claim["preparedDevices"][0]["devices"];
    devices.as_array_mut().unwrap().reverse();
    let fate = fate(&claim);
    assert!(matches!(fate, Fate::TakenOver(_)), "{fate}");
    let record = record(&fate);
    assert_eq!(record.effects, [spec("a").1.effect()]);

    let (inventory, allocation) = (inventory(0..8), allocation("a", &[0, 3]));
    let devices = resolve(&allocation, "node0", &inventory, MigLayouts::Static).unwrap();
    assert_eq!(
        standing(Some(&record), &devices, &boot()),
        Standing::Prepared
    );
    assert!(is_prepared_for(&record, &allocation, &boot()));
}

#[test]
fn what_the_kubelet_knows_of_a_claim_is_what_a_prepare_of_ours_would_have_told_it() {
    let inventory = inventory(0..8);
    let allocation = allocation("a", &[2]);
    let devices = resolve(&allocation, "node0", &inventory, MigLayouts::Static).unwrap();
    let admitted = Ledger::under(&AllLocked, [], vec![])
        .admit(&allocation.claim, devices)
        .unwrap();
    let install = crate::cdi::DriverInstall::default();
    let own = plan(&admitted, &CdiKind::claim(), &install, &boot()).record;
    let taken = record(&fate(&made::completed("a", &[made::gpu("a", 2)])));
    assert_eq!(taken.devices, own.devices);
}

#[test]
fn a_gpu_of_a_claim_that_was_taken_over_is_given_to_nobody_else() {
    let inventory = inventory(0..8);
    let next = allocation("next", &[0]);
    for device in [
        made::gpu("a", 0),
        made::mig("a", 0, "3g.40gb"),
        made::vfio("a", gpu_uuid(0).as_str()),
    ] {
        let record = record(&fate(&made::completed("a", &[device])));
        let devices = resolve(&next, "node0", &inventory, MigLayouts::Static).unwrap();
        let refused = Ledger::under(&AllLocked, [&record], vec![]).admit(&next.claim, devices);
        assert!(refused.unwrap_err().to_string().contains("a-uid"));
    }
}

#[test]
fn admin_access_shares_and_sub_requests_are_taken_over() {
    let mut claim = made::completed("a", &[made::gpu("a", 0)]);
    let result = &mut claim["status"]["allocation"]["devices"]["results"][0];
    result["adminAccess"] = json!(true);
    result["shareID"] = json!("share");
    result["request"] = json!("gpu/large");
    claim["preparedDevices"][0]["devices"][0]["gpu"]["device"]["Requests"] = json!(["gpu/large"]);
    let device = record(&fate(&claim)).devices.remove(0);
    assert_eq!(device.view, View::Admin);
    assert_eq!(device.share_id.as_deref(), Some("share"));
    assert_eq!(device.request, "gpu");
}

#[test]
fn shares_are_taken_over_as_shares_and_those_that_say_nothing_certain_as_the_whole_gpu() {
    let with = |consumed: Value| {
        let mut claim = made::completed("a", &[made::gpu("a", 0)]);
        let result = &mut claim["status"]["allocation"]["devices"]["results"][0];
        result["shareID"] = json!("share");
        result["consumedCapacity"] = consumed;
        record(&fate(&claim)).devices.remove(0).view
    };
    let View::Share(share) = with(json!({"memory": "20Gi", "shares": "1"})) else {
        panic!("it is a share")
    };
    assert_eq!(share.amounts.memory.to_string(), "20Gi");
    assert_eq!((share.of, share.amounts.shares), (None, 1));
    for uncertain in [json!(null), json!({}), json!({"memory": "some"})] {
        assert_eq!(with(uncertain.clone()), View::Whole, "{uncertain}");
    }
}

#[test]
fn a_mig_device_is_taken_over_as_a_prepare_of_ours_would_have_had_it() {
    let layout = node(2, &["3g.40gb", "1g.10gb", "1g.10gb"]);
    let own = mig_record("a", 2, &["3g.40gb"]);
    for device in [
        made::mig("a", 2, "3g.40gb"),
        made::old_mig("a", 2, "3g.40gb"),
    ] {
        let fate = fate_on(Some(&layout), &made::completed("a", &[device]));
        assert!(matches!(fate, Fate::TakenOver(_)), "{fate}");
        let record = record(&fate);
        assert_eq!(record.devices, own.devices);
        assert_eq!(record.effects, [spec("a").1.effect()]);
        assert_eq!(record.remains(), None, "nothing of it keeps the GPU");

        let same = named(&["gpu-2-mig-3g40gb-9-0"]);
        let devices = resolve(&same, "node0", &layout, MigLayouts::Static).unwrap();
        let standing = standing(Some(&record), &devices, &boot());
        assert_eq!(standing, Standing::Prepared);
    }
}

#[test]
fn beside_a_mig_device_that_was_taken_over_the_others_of_its_gpu_are_given_away_and_it_is_not() {
    let layout = node(2, &["3g.40gb", "1g.10gb", "1g.10gb"]);
    let claim = made::completed("a", &[made::mig("a", 2, "3g.40gb")]);
    let taken = record(&fate_on(Some(&layout), &claim));
    let admit = |device: &str| {
        let next = Allocation {
            claim: crate::testing::claim("next"),
            ..named(&[device])
        };
        let devices = resolve(&next, "node0", &layout, MigLayouts::Static).unwrap();
        let ledger = Ledger::under(&AllLocked, [&taken], vec![]);
        ledger.admit(&next.claim, devices).map(|_| ())
    };
    for beside in ["gpu-2-mig-1g10gb-19-4", "gpu-2-mig-1g10gb-19-5", "gpu-1"] {
        assert_eq!(admit(beside), Ok(()), "{beside}");
    }
    let refused = admit("gpu-2-mig-3g40gb-9-0").unwrap_err();
    assert!(refused.to_string().contains("a-uid"), "{refused}");
}

#[test]
fn a_mig_device_whose_place_nobody_knows_has_its_whole_gpu_until_its_claim_ends() {
    let claim = made::completed("a", &[made::mig("a", 2, "3g.40gb")]);
    let other = cut_anew(2, &["3g.40gb"]);
    let away = inventory([0, 1]);
    for inventory in [None, Some(&other), Some(&away)] {
        let fate = fate_on(inventory, &claim);
        assert!(matches!(fate, Fate::TakenOver(_)), "{fate}");
        let record = record(&fate);
        assert_eq!(record.devices[0].view, View::Whole);
        assert!(record.devices[0].instance.is_some());
        assert_eq!(record.remains(), None);
    }
}

#[test]
fn admin_access_and_shares_of_a_mig_device_are_those_of_its_part() {
    let layout = node(2, &["3g.40gb"]);
    let part = mig_record("a", 2, &["3g.40gb"]).devices[0].view;
    let with = |field: &str, value: Value, consumed: Value| {
        let mut claim = made::completed("a", &[made::mig("a", 2, "3g.40gb")]);
        let result = &mut claim["status"]["allocation"]["devices"]["results"][0];
        result[field] = value;
        result["consumedCapacity"] = consumed;
        record(&fate_on(Some(&layout), &claim))
            .devices
            .remove(0)
            .view
    };
    assert_eq!(with("adminAccess", json!(true), json!(null)), View::Admin);
    assert_eq!(with("shareID", json!("share"), json!(null)), part);
    let View::Share(share) = with("shareID", json!("share"), json!({"memory": "10Gi"})) else {
        panic!("it is a share")
    };
    assert_eq!(Some(View::Part(share.of.unwrap())), Some(part));
    assert_eq!(share.amounts.memory.to_string(), "10Gi");
}

#[test]
fn what_only_the_reference_can_take_back_is_held_and_named() {
    let mut old_name = made::mig("a", 0, "3g.40gb");
    old_name["mig"]["concrete"]["migUUID"] =
        json!("MIG-GPU-00000000-0000-0000-0000-000000000000/1/0");
    let mut mps = made::completed("a", &[made::gpu("a", 0)]);
    mps["preparedDevices"][0]["configState"]["mpsControlDaemonID"] = json!("a-uid-12345");
    for (claim, left) in [
        (
            made::completed("a", &[old_name]),
            "MIG device gpu-0-mig-3g40gb-9-0",
        ),
        (
            made::completed("a", &[made::vfio("a", gpu_uuid(0).as_str())]),
            "passthrough gpu-vfio-0",
        ),
        (
            made::completed("a", &[made::vfio("a", "0000:1b:00.0")]),
            "passthrough gpu-vfio-0",
        ),
        (mps, "an MPS control daemon"),
    ] {
        let fate = fate(&claim);
        assert!(matches!(fate, Fate::Held(_)), "{fate}");
        assert!(fate.to_string().contains(left), "{fate}");
        assert_eq!(record(&fate).remains().unwrap().phase, Phase::Released);
    }
}

#[test]
fn a_missing_spec_is_recorded_as_missing_so_that_it_is_made_anew() {
    let claim = made::completed("a", &[made::gpu("a", 0)]);
    let taken = take_over(&made::v2("boot", &json!({"a-uid": claim})), &[]);
    let file = cdi::file_name(&CdiKind::claim(), &uid("a"));
    let effects = record(&taken.claims[0].fate).effects;
    assert_eq!(effects, [Effect::CdiFile { file, crc32: 0 }]);
}

#[test]
fn of_a_begun_preparation_only_its_spec_is_kept_to_be_taken_back() {
    let begun = made::begun("a", &["gpu-0", "gpu-1-mig-3g40gb-9-0"]);
    let with_spec = record(&fate(&begun));
    assert_eq!(with_spec.phase, Phase::Preparing);
    assert_eq!(
        (with_spec.claim.name.as_str(), with_spec.devices.len()),
        ("a", 0)
    );
    assert_eq!(with_spec.effects, [spec("a").1.effect()]);
    let without = take_over(&made::v2("boot", &json!({"a-uid": begun})), &[]);
    assert_eq!(without.claims[0].fate, Fate::Begun(None));
}

#[test]
fn what_cannot_be_accounted_for_is_never_taken_for_free() {
    let mut other_ids = made::completed("a", &[made::gpu("a", 0)]);
    other_ids["preparedDevices"][0]["devices"][0]["gpu"]["device"]["CDIDeviceIDs"] =
        json!(["example.com/claim=a"]);
    let mut no_devices = made::completed("a", &[made::gpu("a", 0)]);
    no_devices["preparedDevices"] = json!([]);
    let mut no_uuid = made::completed("a", &[made::gpu("a", 0)]);
    no_uuid["preparedDevices"][0]["devices"][0]["gpu"]["info"]["uuid"] = json!("GPU-0");
    for (claim, why) in [
        (other_ids, "example.com/claim=a"),
        (no_devices, "no devices"),
        (no_uuid, "gpu.info.uuid"),
        (
            made::begun("a", &["gpu-0-mig-3g40gb-9-0", "gpu-vfio-1"]),
            "gpu-vfio-1 was interrupted",
        ),
        (json!({"status": 1}), "invalid type"),
    ] {
        let fate = fate(&claim);
        assert!(matches!(fate, Fate::Unaccounted { .. }), "{fate}");
        assert!(fate.to_string().contains(why), "{fate}");
    }
    let taken = take_over(
        &made::v2("boot", &json!({"../etc": made::begun("a", &[])})),
        &[],
    );
    assert_eq!(taken.claims[0].fate, Fate::Impossible);
}

#[test]
fn nothing_of_a_former_boot_is_taken_over_and_a_file_without_a_boot_is_believed() {
    let claims = json!({"a-uid": made::completed("a", &[made::gpu("a", 0)])});
    let former = take_over(&made::v2("former", &claims), &["a"]);
    assert!(former.former_boot && former.claims.is_empty());
    assert_eq!(former.stale_specs, [spec("a").1.file]);
    let old = take_over(&made::v1(&claims), &["a"]);
    assert!(!old.former_boot && old.stale_specs.is_empty());
    assert_eq!(old.claims.len(), 1);
}

#[test]
fn a_spec_that_belongs_to_no_claim_is_stale_and_one_of_a_claim_of_ours_is_not() {
    let claims = json!({"a-uid": made::completed("a", &[made::gpu("a", 0)])});
    let taken = take_over(&made::v2("boot", &claims), &["a", "b", "ours"]);
    assert_eq!(taken.stale_specs, [spec("b").1.file]);
}

#[test]
fn a_report_counts_what_became_of_the_claims_and_warns_of_what_is_not_whole() {
    let report = |claims: Value| Report {
        outcome: Ok(take_over(&made::v2("boot", &claims), &[])),
        kept: "/kept".to_owned(),
    };
    let whole = report(json!({"a-uid": made::completed("a", &[made::gpu("a", 0)])}));
    assert!(whole.is_news() && !whole.is_warning());
    let mixed = report(json!({
        "a-uid": made::completed("a", &[made::gpu("a", 0)]),
        "b-uid": made::completed("b", &[made::vfio("b", gpu_uuid(1).as_str())]),
    }));
    assert!(mixed.is_warning());
    let text = mixed.to_string();
    assert!(
        text.contains("2 claims") && text.contains("taken_over 1, held 1;"),
        "{text}"
    );
    assert!(!report(json!({})).is_news());
    let unreadable = Report {
        outcome: Err("damage".to_owned()),
        ..whole
    };
    assert!(unreadable.is_news() && unreadable.is_warning());
}

proptest! {
    #[test]
    fn whatever_else_is_in_the_file_a_gpu_that_a_claim_has_is_held(minors in prop::collection::btree_set(0u32..8, 1..4), noise: Vec<u8>) {
        let devices: Vec<Value> = minors.iter().map(|minor| made::gpu("a", *minor)).collect();
        let mut claim = made::completed("a", &devices);
        claim["noise"] = json!(noise);
        let taken = take_over(&made::v2("boot", &json!({"a-uid": claim, "z": noise})), &["a"]);
        let record = record(&taken.claims[0].fate);
        let held: Vec<_> = record.devices.iter().map(|device| device.gpu.clone()).collect();
        let wanted: Vec<_> = minors.iter().map(|minor| gpu_uuid(*minor)).collect();
        prop_assert_eq!(held, wanted);
    }

    /// However the GPU is cut, and however much of that is known: what a claim holds of it is at least
    /// the device that it has, and exactly that if its place is known.
    #[test]
    fn whatever_is_known_of_a_layout_a_claim_has_at_least_its_mig_device(
        profile in prop::sample::select(vec!["1g.10gb", "2g.20gb", "3g.40gb", "7g.80gb"]),
        then in prop::collection::vec(prop::sample::select(vec!["1g.10gb", "2g.20gb", "3g.40gb"]), 0..3),
        is_known: bool,
    ) {
        let was = mig_record("a", 3, &[profile]);
        let layout = match then.as_slice() {
            [] => node(3, &[profile]),
            others => cut_anew(3, others),
        };
        let claim = made::completed("a", &[made::mig("a", 3, profile)]);
        let record = record(&fate_on(is_known.then_some(&layout), &claim));
        let (view, device) = (record.devices[0].view, &was.devices[0]);
        prop_assert!(view.excludes(device.view));
        let offered = layout.offered().filter_map(|part| part.instance);
        let mut known = offered.filter(|_| is_known);
        let found = known.find(|instance| Some(&instance.uuid) == device.instance.as_ref());
        prop_assert_eq!(view, found.map_or(View::Whole, |instance| View::Part(instance.part())));
    }
}
