//! Servers that drop fields, and servers that only rewrite them.

use serde_json::json;

use super::*;

fn slice(spec: &Value) -> ResourceSlice {
    let mut object = json!({
        "metadata": {},
        "spec": {"driver": "d", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}},
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn shareable() -> Value {
    json!({"devices": [
        {"name": "gpu-0"},
        {
            "name": "gpu-1",
            "allowMultipleAllocations": true,
            "attributes": {"resource.kubernetes.io/numaNode": {"ints": [0, 1]}},
            "capacity": {"memory": {"value": "1024Mi", "requestPolicy": {"default": "1Gi"}}},
            "consumesCounters": [{"counterSet": "s", "counters": {"memory": {"value": "1Gi"}}}],
            "taints": [{"key": "k", "effect": "NoSchedule"}],
        },
    ]})
}

#[test]
fn the_fields_of_a_gate_that_is_off_are_named() {
    let device = |fields: Value| {
        let mut device = json!({"name": "gpu-1"});
        for (key, value) in fields.as_object().unwrap() {
            device[key] = value.clone();
        }
        json!({"devices": [{"name": "gpu-0"}, device]})
    };
    let all = shareable()["devices"][1].clone();
    let kept = |keys: &[&str]| {
        let mut fields = json!({});
        for key in keys {
            fields[*key] = all[*key].clone();
        }
        device(fields)
    };
    let mut without_policy = shareable();
    without_policy["devices"][1]["capacity"]["memory"] = json!({"value": "1Gi"});
    for (stored, expected) in [
        (shareable(), vec![]),
        (
            without_policy,
            vec!["devices[].capacity.memory.requestPolicy"],
        ),
        (
            kept(&[
                "attributes",
                "capacity",
                "consumesCounters",
                "allowMultipleAllocations",
            ]),
            vec!["devices[].taints"],
        ),
        (
            kept(&["attributes", "capacity"]),
            vec![
                "devices[].allowMultipleAllocations",
                "devices[].consumesCounters",
                "devices[].taints",
            ],
        ),
        (
            kept(&[
                "capacity",
                "consumesCounters",
                "allowMultipleAllocations",
                "taints",
            ]),
            vec!["devices[].attributes"],
        ),
    ] {
        let dropped = dropped_fields(&slice(&shareable()), &slice(&stored));
        let shown: Vec<String> = dropped.iter().map(ToString::to_string).collect();
        assert_eq!(shown, expected);
    }
}

#[test]
fn what_the_server_spells_anew_adds_or_shortens_is_not_dropped() {
    let sent = slice(&json!({"devices": [
        {"name": "a", "capacity": {"memory": {"value": "1024Mi"}}, "attributes": {}},
        {"name": "b"},
    ]}));
    for stored in [
        json!({"devices": [
            {"name": "a", "capacity": {"memory": {"value": "1Gi"}}, "allNodes": true},
            {"name": "b"},
        ]}),
        json!({"devices": [{"name": "a", "capacity": {"memory": {"value": "1024Mi"}}}]}),
    ] {
        assert_eq!(dropped_fields(&sent, &slice(&stored)), BTreeSet::new());
    }
}

#[test]
fn what_is_sent_without_the_dropped_fields_is_stored_whole() {
    let sent = slice(&shareable());
    let mut stored = shareable();
    let device = stored["devices"][1].as_object_mut().unwrap();
    device.remove("taints");
    device["capacity"]["memory"] = json!({"value": "1Gi"});
    let stored = slice(&stored);

    let dropped = dropped_fields(&sent, &stored);
    let smaller = without(sent.spec.clone(), &dropped);
    let device = &smaller.devices.as_ref().unwrap()[1];
    assert_eq!(device.taints, None);
    assert_eq!(
        device.capacity.as_ref().unwrap()["memory"].request_policy,
        None
    );
    let smaller = ResourceSlice {
        spec: smaller,
        ..sent
    };
    assert_eq!(dropped_fields(&smaller, &stored), BTreeSet::new());
}

#[test]
fn a_key_with_dots_is_shown_in_brackets() {
    let path = FieldPath(vec![
        Step::Field("devices".to_owned()),
        Step::EachItem,
        Step::Field("attributes".to_owned()),
        Step::Field("resource.kubernetes.io/numaNode".to_owned()),
        Step::Field("ints".to_owned()),
    ]);
    assert_eq!(
        path.to_string(),
        "devices[].attributes[resource.kubernetes.io/numaNode].ints"
    );
}
