use serde_json::json;

use super::*;
use crate::testing::checkpoint as made;

fn decode(file: &Value) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::decode(file.to_string().as_bytes())
}

/// The only claim of a file, as it was read.
#[track_caller]
fn only(file: &Value) -> Result<CheckpointedClaim, String> {
    let claims = decode(file).unwrap().claims;
    assert_eq!(claims.len(), 1);
    claims.into_values().next().unwrap()
}

#[test]
fn both_versions_say_the_same_of_a_prepared_claim_and_only_the_newer_knows_the_boot() {
    let claim = made::completed("a", &[made::gpu("a", 3)]);
    let new = decode(&made::v2("boot", &json!({"a-uid": claim.clone()}))).unwrap();
    let old = decode(&made::v1(&json!({"a-uid": claim}))).unwrap();
    assert_eq!(new.boot, Some(BootId("boot".to_owned())));
    assert_eq!(old.boot, None);
    assert_eq!(new.claims, old.claims);
    let claim = new.claims["a-uid"].as_ref().unwrap();
    assert!(claim.completed && !claim.mps && claim.name.is_none());
    let [device] = claim.devices.as_slice() else {
        panic!("one device was prepared")
    };
    assert_eq!(
        device.kind,
        DeviceKind::Gpu(tessera_device::testing::gpu_uuid(3))
    );
    assert_eq!(device.name, DeviceName::whole_gpu(3));
    assert_eq!(device.cdi_ids, ["k8s.gpu.nvidia.com/claim=a-uid-gpu-3"]);
    assert_eq!(claim.results[0].device, "gpu-3");
}

#[test]
fn the_newer_version_goes_before_the_older_one() {
    let mut file = made::v2("boot", &json!({}));
    file["v1"] = json!({"preparedClaims": {"a-uid": made::completed("a", &[])}});
    assert!(decode(&file).unwrap().claims.is_empty());
    file["v2"] = Value::Null;
    assert_eq!(decode(&file).unwrap().claims.len(), 1);
}

#[test]
fn a_wrong_checksum_is_no_reason_to_forget_a_claim() {
    let mut file = made::v2(
        "boot",
        &json!({"a-uid": made::completed("a", &[made::gpu("a", 0)])}),
    );
    let right = decode(&file).unwrap();
    file["checksum"] = json!(1);
    file["v2"]["checksum"] = json!("not even a number");
    assert_eq!(decode(&file).unwrap(), right);
}

#[test]
fn the_spelling_of_the_kubelets_own_message_is_understood() {
    let device = json!({"gpu": {
        "info": {"uuid": "GPU-00000000-0000-0000-0000-000000000000"},
        "device": {"request_names": ["gpu"], "pool_name": "node0", "device_name": "gpu-0",
                   "cdi_device_ids": ["k8s.gpu.nvidia.com/claim=a-uid-gpu-0"]},
    }});
    let claim = only(&made::v1(
        &json!({"a-uid": made::completed("a", &[device])}),
    ))
    .unwrap();
    assert_eq!(claim.devices[0].pool, "node0");
    assert_eq!(claim.devices[0].cdi_ids.len(), 1);
}

#[test]
fn a_mig_device_is_known_by_its_uuid_in_the_form_of_each_release() {
    let old_driver = json!("MIG-GPU-00000003-0000-0000-0000-000000000000/1/0");
    let new = made::mig("a", 3, "3g.40gb");
    let mut without = new.clone();
    without["mig"]["concrete"]["migUUID"] = old_driver;
    let uuid: MigUuid = new["mig"]["concrete"]["migUUID"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    for (device, instance) in [
        (new, Some(uuid.clone())),
        (made::old_mig("a", 3, "3g.40gb"), Some(uuid)),
        (without, None),
    ] {
        let file = made::v2("boot", &json!({"a-uid": made::completed("a", &[device])}));
        let gpu = tessera_device::testing::gpu_uuid(3);
        assert!(decode(&file).unwrap().has_mig());
        assert_eq!(
            only(&file).unwrap().devices[0].kind,
            DeviceKind::Mig { gpu, instance }
        );
    }
    let whole = made::completed("a", &[made::gpu("a", 3)]);
    assert!(
        !decode(&made::v1(&json!({"a-uid": whole})))
            .unwrap()
            .has_mig()
    );
}

#[test]
fn a_begun_claim_has_its_name_and_no_devices_yet() {
    let claim = only(&made::v2(
        "boot",
        &json!({"a-uid": made::begun("a", &["gpu-1"])}),
    ))
    .unwrap();
    assert!(!claim.completed && claim.devices.is_empty());
    assert_eq!(claim.name, Some(("default".to_owned(), "a".to_owned())));
}

#[test]
fn what_is_wrong_with_one_claim_is_told_and_hides_no_other() {
    let without = |field: &str| {
        let mut gpu = made::gpu("bad", 0);
        gpu["gpu"].as_object_mut().unwrap().remove(field);
        made::completed("bad", &[gpu])
    };
    let mut odd_state = made::completed("bad", &[]);
    odd_state["checkpointState"] = json!("PreparePostponed");
    for (bad, expected) in [
        (without("info"), "gpu.info.uuid is missing"),
        (without("device"), "no field device"),
        (
            made::completed("bad", &[json!({"tpu": {}})]),
            "not exactly one",
        ),
        (odd_state, "PreparePostponed"),
        (json!([]), "expected"),
    ] {
        let good = made::completed("good", &[made::gpu("good", 1)]);
        let file = made::v2("boot", &json!({"bad-uid": bad, "good-uid": good}));
        let claims = decode(&file).unwrap().claims;
        let problem = claims["bad-uid"].as_ref().unwrap_err();
        assert!(problem.contains(expected), "{problem}");
        assert!(claims["good-uid"].is_ok());
    }
}

#[test]
fn a_file_that_is_no_checkpoint_is_refused_and_an_empty_one_is_not() {
    for bad in [
        "",
        "{",
        "[]",
        "1",
        r#"{"v2": []}"#,
        r#"{"v2": {"preparedClaims": [1]}}"#,
    ] {
        assert!(Checkpoint::decode(bad.as_bytes()).is_err(), "{bad}");
    }
    let newer = Checkpoint::decode(br#"{"version": "v3", "v3": {}}"#).unwrap_err();
    assert!(newer.to_string().contains("v3"), "{newer}");
    for empty in [
        r#"{"checksum": 0}"#,
        r#"{"v1": null, "v2": null, "version": "v2"}"#,
        r#"{"v2": {"checksum": 7, "preparedClaims": null}}"#,
    ] {
        assert_eq!(
            Checkpoint::decode(empty.as_bytes()).unwrap(),
            Checkpoint::default()
        );
    }
}
