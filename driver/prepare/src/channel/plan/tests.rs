use serde_json::json;

use super::*;
use crate::channel::admit;
use crate::channel::testing::{AllLocked, granted, record};
use crate::channel::{channel_kind, wanted};
use crate::ledger::Flaw;
use crate::testing::{boot, claim};

const NODE: ImexChannels = ImexChannels {
    major: 234,
    count: 2048,
};

fn planned(
    devices: Vec<Granted>,
    node: Option<ImexChannels>,
    in_clique: bool,
) -> Result<ChannelPlan, ChannelRefusal> {
    let claim = claim("a");
    let admitted = admit(&AllLocked, [], &[], &claim, devices).unwrap();
    plan(&admitted, node, in_clique, &channel_kind(), &boot())
}

fn spec(plan: &ChannelPlan) -> Value {
    match &plan.steps[..] {
        [Step::WriteCdi { contents, .. }] => serde_json::from_slice(contents).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_claim_gets_exactly_its_channel_by_its_numbers() {
    let plan = planned(vec![granted("d1", Channels::One(5))], Some(NODE), true).unwrap();
    assert_eq!(
        spec(&plan),
        json!({
            "cdiVersion": "0.5.0",
            "kind": "k8s.compute-domain.nvidia.com/claim",
            "devices": [{
                "name": "a-uid-slot-0",
                "containerEdits": {
                    "env": ["COMPUTE_DOMAIN_UUID=d1"],
                    "deviceNodes": [{
                        "path": "/dev/nvidia-caps-imex-channels/channel5",
                        "type": "c",
                        "major": 234,
                        "minor": 5,
                        "fileMode": 438,
                    }],
                },
            }],
        })
    );
    let [device] = &plan.record.devices[..] else {
        panic!("{:?}", plan.record);
    };
    assert_eq!(
        device.cdi_id,
        "k8s.compute-domain.nvidia.com/claim=a-uid-slot-0"
    );
    assert_eq!(plan.record.phase, Phase::Preparing);
    let effects: Vec<_> = plan.steps.iter().filter_map(Step::effect).collect();
    assert_eq!(plan.record.effects, effects);
}

#[test]
fn a_claim_for_all_channels_gets_every_one_that_the_node_has() {
    let node = ImexChannels { count: 3, ..NODE };
    let plan = planned(vec![granted("d1", Channels::All)], Some(node), true).unwrap();
    let spec = spec(&plan);
    let nodes = spec["devices"][0]["containerEdits"]["deviceNodes"]
        .as_array()
        .unwrap();
    let minors: Vec<_> = nodes
        .iter()
        .map(|node| node["minor"].as_u64().unwrap())
        .collect();
    assert_eq!(minors, [0, 1, 2]);
}

#[test]
fn a_node_without_a_fabric_is_a_domain_of_one_and_needs_no_channels() {
    let one = || vec![granted("d1", Channels::One(5))];
    let plan = planned(one(), None, false).unwrap();
    let edits = &spec(&plan)["devices"][0]["containerEdits"];
    assert_eq!(edits, &json!({"env": ["COMPUTE_DOMAIN_UUID=d1"]}));
    assert!(planned(one(), Some(NODE), false).is_ok());
    let text = planned(one(), None, true).unwrap_err().to_string();
    assert!(text.contains("NVreg_ImexChannelCount"), "{text}");
}

#[test]
fn a_channel_that_the_node_does_not_have_is_refused_with_the_count() {
    let small = ImexChannels { count: 5, ..NODE };
    let text = planned(vec![granted("d1", Channels::One(5))], Some(small), true)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("IMEX channel 5, and this node has 5"),
        "{text}"
    );
    let huge = ImexChannels {
        count: 1 << 20,
        ..NODE
    };
    assert!(planned(vec![granted("d1", Channels::All)], Some(huge), true).is_err());
    assert!(planned(vec![granted("d1", Channels::One(5))], Some(huge), true).is_ok());
}

#[test]
fn only_the_same_channels_of_the_same_domain_and_boot_count_as_prepared() {
    let prepared = record("a", "d1", Channels::One(5));
    let stands = |record: &ChannelRecord, device| standing(Some(record), &[device], &boot());
    let same = granted("d1", Channels::One(5));
    assert_eq!(
        standing(None, std::slice::from_ref(&same), &boot()),
        Standing::New
    );
    assert_eq!(stands(&prepared, same.clone()), Standing::Prepared);
    let undo = Standing::Leftover;
    assert_eq!(stands(&prepared, granted("d1", Channels::One(6))), undo);
    assert_eq!(stands(&prepared, granted("d2", Channels::One(5))), undo);
    let mut begun = prepared.clone();
    begun.phase = Phase::Preparing;
    assert_eq!(stands(&begun, same.clone()), undo);
    let mut former = prepared;
    former.boot = BootId("former".to_owned());
    assert_eq!(stands(&former, same), undo);
}

#[test]
fn a_spec_is_outdated_when_the_kernel_has_given_out_another_major_number() {
    let plan = planned(vec![granted("d1", Channels::One(5))], Some(NODE), true).unwrap();
    let bytes = serde_json::to_vec(&spec(&plan)).unwrap();
    assert!(is_current(&bytes, Some(NODE)));
    assert!(!is_current(
        &bytes,
        Some(ImexChannels { major: 235, ..NODE })
    ));
    assert!(is_current(&bytes, None));
    for nothing in [&b""[..], b"{}", b"[]"] {
        assert!(is_current(nothing, Some(NODE)));
    }
    let restored = restore(
        &plan.record,
        Some(ImexChannels { major: 235, ..NODE }),
        &channel_kind(),
    );
    assert_eq!(restored.record.devices, plan.record.devices);
    assert_ne!(restored.record.effects, plan.record.effects);
}

#[test]
fn a_lost_record_is_rebuilt_from_what_was_made_for_it() {
    for channels in [Channels::One(5), Channels::All] {
        let mut plan = planned(vec![granted("d1", channels)], Some(NODE), true).unwrap();
        let bytes = serde_json::to_vec(&spec(&plan)).unwrap();
        let lost = |copy| UnreadableChannel {
            claim: "a-uid".parse().unwrap(),
            problem: "damage".to_owned(),
            flaw: Flaw::Damaged,
            copy,
        };
        let kind = channel_kind();
        let found = |copy, spec| account(&lost(copy), spec, &kind, "node0", &boot());
        let rebuilt = found(None, Some(&bytes[..])).unwrap();
        let device = plan.record.devices.remove(0);
        let held = &rebuilt.devices[0];
        assert_eq!(
            (&held.pool, &held.domain, held.channels, &held.cdi_id),
            (
                &device.pool,
                &device.domain,
                device.channels,
                &device.cdi_id
            )
        );
        let copy = record("a", "d2", Channels::One(9));
        assert_eq!(found(Some(copy.clone()), Some(&bytes[..])), Some(copy));
        assert_eq!(found(None, None), None);
    }
}

#[test]
fn a_spec_that_says_nothing_certain_rebuilds_nothing() {
    let uid: ClaimUid = "a-uid".parse().unwrap();
    for spec in [
        &b""[..],
        b"{}",
        br#"{"devices": []}"#,
        br#"{"devices": [{"name": "a-uid-slot-0"}]}"#,
        br#"{"devices": [{"name": "a-uid-slot-0", "containerEdits": {"env": ["A=b"]}}]}"#,
        br#"{"devices": [{"name": "b-uid-slot-0", "containerEdits": {"env": ["COMPUTE_DOMAIN_UUID=d"]}}]}"#,
    ] {
        let found = rebuild(&uid, spec, &channel_kind(), "node0", &boot());
        assert_eq!(found, None, "{}", String::from_utf8_lossy(spec));
    }
}

#[test]
fn the_nodes_own_channel_stays_in_the_nodes_own_pool_when_it_is_rebuilt() {
    let allocation = crate::channel::testing::allocation("a", "node0", "channel-0", Some("d1"));
    let wanted = wanted(&allocation, "node0").unwrap().remove(0);
    let granted = Granted {
        allocated: wanted.allocated,
        domain: wanted.domain,
        channels: Channels::One(0),
    };
    let plan = planned(vec![granted], Some(NODE), true).unwrap();
    let bytes = serde_json::to_vec(&spec(&plan)).unwrap();
    let uid: ClaimUid = "a-uid".parse().unwrap();
    let rebuilt = rebuild(&uid, &bytes, &channel_kind(), "node0", &boot()).unwrap();
    assert_eq!(rebuilt.devices[0].pool, "node0");
}
