//! Whether a stored slice already says what the offer says.
//!
//! The server may spell a quantity anew, leave empty collections out and stamp a taint with its
//! time. None of these is a change; everything else is, whoever made it.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{
    CapacityRequestPolicy, Counter, Device, ResourceSlice, ResourceSliceSpec,
};

use crate::quantity::canonical;

/// What a wanted slice says that the stored one does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// Fewer devices, or more taints of them.
    Less,
    /// Anything else.
    Other,
    /// More devices, or fewer taints of them.
    More,
}

/// How `wanted` changes the content of `stored` and its owner. Nothing if both say the same.
pub(crate) fn change(wanted: &ResourceSlice, stored: &ResourceSlice) -> Option<Change> {
    if !has_owners(wanted, stored) {
        return Some(Change::Other);
    }
    // Nearly always the server spells everything as it was sent, and there is nothing to make comparable.
    if wanted.spec == stored.spec {
        return None;
    }
    let (wanted, stored) = (comparable(&wanted.spec), comparable(&stored.spec));
    if wanted == stored {
        None
    } else if is_part(&wanted, &stored) {
        Some(Change::Less)
    } else if is_part(&stored, &wanted) {
        Some(Change::More)
    } else {
        Some(Change::Other)
    }
}

/// Whether a slice has nothing but devices of another, in the same order and with all their taints.
fn is_part(part: &ResourceSliceSpec, all: &ResourceSliceSpec) -> bool {
    let frame = |spec: &ResourceSliceSpec| ResourceSliceSpec {
        devices: None,
        ..spec.clone()
    };
    let mut others = all.devices.iter().flatten();
    let mut devices = part.devices.iter().flatten();
    frame(part) == frame(all)
        && devices.all(|device| others.any(|other| is_same_or_worse(device, other)))
}

fn is_same_or_worse(device: &Device, other: &Device) -> bool {
    let untainted = |device: &Device| Device {
        taints: None,
        ..device.clone()
    };
    let taints = device.taints.as_deref().unwrap_or_default();
    device.name == other.name
        && other
            .taints
            .iter()
            .flatten()
            .all(|taint| taints.contains(taint))
        && untainted(device) == untainted(other)
}

/// Labels, annotations and further owners are another's business; ours must be there.
fn has_owners(wanted: &ResourceSlice, stored: &ResourceSlice) -> bool {
    let owners =
        |slice: &ResourceSlice| slice.metadata.owner_references.clone().unwrap_or_default();
    let stored = owners(stored);
    owners(wanted).iter().all(|owner| stored.contains(owner))
}

fn comparable(spec: &ResourceSliceSpec) -> ResourceSliceSpec {
    let mut spec = spec.clone();
    for set in spec.shared_counters.iter_mut().flatten() {
        counters(&mut set.counters);
    }
    for item in spec.devices.iter_mut().flatten() {
        device(item);
    }
    drop_empty(&mut spec.devices, Vec::is_empty);
    drop_empty(&mut spec.shared_counters, Vec::is_empty);
    spec
}

fn device(device: &mut Device) {
    for capacity in device.capacity.iter_mut().flat_map(BTreeMap::values_mut) {
        capacity.value = canonical(&capacity.value);
        if let Some(policy) = &mut capacity.request_policy {
            request_policy(policy);
        }
    }
    for consumption in device.consumes_counters.iter_mut().flatten() {
        counters(&mut consumption.counters);
    }
    for taint in device.taints.iter_mut().flatten() {
        taint.time_added = None;
    }
    drop_empty(&mut device.attributes, BTreeMap::is_empty);
    drop_empty(&mut device.capacity, BTreeMap::is_empty);
    drop_empty(&mut device.consumes_counters, Vec::is_empty);
    drop_empty(&mut device.taints, Vec::is_empty);
}

fn request_policy(policy: &mut CapacityRequestPolicy) {
    let range = policy.valid_range.iter_mut();
    let bounds = range.flat_map(|range| {
        std::iter::once(&mut range.min)
            .chain(&mut range.max)
            .chain(&mut range.step)
    });
    let values = policy.valid_values.iter_mut().flatten();
    for quantity in bounds.chain(values).chain(&mut policy.default) {
        *quantity = canonical(quantity);
    }
}

fn counters(counters: &mut BTreeMap<String, Counter>) {
    for counter in counters.values_mut() {
        counter.value = canonical(&counter.value);
    }
}

fn drop_empty<T>(field: &mut Option<T>, is_empty: fn(&T) -> bool) {
    if field.as_ref().is_some_and(is_empty) {
        *field = None;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(spec: &serde_json::Value) -> ResourceSlice {
        let mut object = json!({
            "metadata": {},
            "spec": {
                "driver": "gpu.nvidia.com",
                "nodeName": "node-a",
                "pool": {"name": "node-a", "generation": 1, "resourceSliceCount": 1},
            },
        });
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn what_a_server_spells_anew_is_no_change() {
        let wanted = slice(&json!({"devices": [{
            "name": "gpu-0",
            "attributes": {},
            "capacity": {"memory": {
                "value": "1024Mi",
                "requestPolicy": {
                    "default": "1024Mi",
                    "validRange": {"min": "1024Ki", "max": "1024Mi", "step": "1024Ki"},
                    "validValues": ["0.5Gi"],
                },
            }},
            "consumesCounters": [{"counterSet": "s", "counters": {"memory": {"value": "1000"}}}],
            "taints": [{"key": "k", "effect": "NoSchedule"}],
        }], "sharedCounters": []}));
        let stored = slice(&json!({"devices": [{
            "name": "gpu-0",
            "capacity": {"memory": {
                "value": "1Gi",
                "requestPolicy": {
                    "default": "1Gi",
                    "validRange": {"min": "1Mi", "max": "1Gi", "step": "1Mi"},
                    "validValues": ["512Mi"],
                },
            }},
            "consumesCounters": [{"counterSet": "s", "counters": {"memory": {"value": "1k"}}}],
            "taints": [{"key": "k", "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"}],
        }]}));
        assert_eq!(change(&wanted, &stored), None);
    }

    #[test]
    fn counters_of_a_set_are_compared_by_value() {
        let counters = |value: &str| {
            slice(&json!({"sharedCounters": [
                {"name": "s", "counters": {"memory": {"value": value}}},
            ]}))
        };
        assert_eq!(change(&counters("1024Mi"), &counters("1Gi")), None);
        assert_eq!(
            change(&counters("1024Mi"), &counters("2Gi")),
            Some(Change::Other)
        );
    }

    #[test]
    fn order_name_and_value_of_devices_are_content() {
        let wanted = slice(&json!({"devices": [{"name": "gpu-0"}, {"name": "gpu-1"}]}));
        for (other, found) in [
            (
                json!({"devices": [{"name": "gpu-1"}, {"name": "gpu-0"}]}),
                Change::Other,
            ),
            (json!({"devices": [{"name": "gpu-0"}]}), Change::More),
            (json!({}), Change::More),
            (
                json!({"devices": [{"name": "gpu-0", "allNodes": true}, {"name": "gpu-1"}]}),
                Change::Other,
            ),
            (
                json!({"devices": [{"name": "gpu-0"}, {"name": "gpu-2"}]}),
                Change::Other,
            ),
        ] {
            assert_eq!(change(&wanted, &slice(&other)), Some(found), "{other}");
        }
    }

    #[test]
    fn fewer_devices_are_less_and_so_are_devices_with_more_taints() {
        let taint = |key: &str| json!({"key": key, "effect": "NoSchedule"});
        let tainted = |taints: &[&str]| {
            let taints: Vec<_> = taints.iter().map(|key| taint(key)).collect();
            slice(&json!({"devices": [{"name": "gpu-0"}, {"name": "gpu-1", "taints": taints}]}))
        };
        let fewer =
            slice(&json!({"devices": [{"name": "gpu-1", "taints": [taint("a"), taint("b")]}]}));
        let (none, one, two) = (tainted(&[]), tainted(&["a"]), tainted(&["a", "b"]));
        for (less, more) in [(&one, &none), (&two, &none), (&two, &one), (&fewer, &one)] {
            assert_eq!(change(less, more), Some(Change::Less));
            assert_eq!(change(more, less), Some(Change::More));
        }
        let other = tainted(&["b"]);
        assert_eq!(change(&other, &one), Some(Change::Other));
        let mut counted = fewer.clone();
        counted.spec.pool.resource_slice_count = 2;
        assert_eq!(change(&counted, &one), Some(Change::Other));
    }
}
