//! Brings objects into the form of a version, and back.
//!
//! `v1beta2` is `v1` under another name. In `v1beta1` all that a device has stands in its field `basic`,
//! and what a request wants stands in the request itself and not in its field `exactly`. Results of
//! allocations and a claim's status are the same in all.

use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::version::Version;

/// An object that is not of the form of its version.
#[derive(Debug, Error)]
#[error("read the object as one of resource.k8s.io/{version}")]
pub struct FormError {
    version: Version,
    #[source]
    source: serde_json::Error,
}

/// The slice as a server of this version takes it.
pub fn slice_in(version: Version, slice: &ResourceSlice) -> Value {
    let mut object = serde_json::to_value(slice)
        .expect("a slice is texts and numbers under texts, which JSON can always hold");
    object["apiVersion"] = Value::String(version.api_version());
    if version == Version::V1beta1 {
        for_each(&mut object, &["spec", "devices"], |device| {
            wrap(device, "basic", |field| field == "name");
        });
    }
    object
}

/// The slice that a server of this version sent.
pub fn slice_from(version: Version, mut object: Value) -> Result<ResourceSlice, FormError> {
    if version == Version::V1beta1 {
        for_each(&mut object, &["spec", "devices"], |device| {
            unwrap(device, "basic");
        });
    }
    read(version, object)
}

/// The claim that a server of this version sent.
pub fn claim_from(version: Version, mut object: Value) -> Result<ResourceClaim, FormError> {
    if version == Version::V1beta1 {
        for_each(&mut object, &["spec", "devices", "requests"], |request| {
            wrap(request, "exactly", |field| {
                field == "name" || field == "firstAvailable"
            });
        });
    }
    read(version, object)
}

fn read<T: serde::de::DeserializeOwned>(
    version: Version,
    mut object: Value,
) -> Result<T, FormError> {
    if let Some(fields) = object.as_object_mut() {
        let api_version = Version::V1.api_version();
        fields.insert("apiVersion".to_owned(), Value::String(api_version));
    }
    serde_json::from_value(object).map_err(|source| FormError { version, source })
}

/// Changes each object of the list at `path`, if there is one.
fn for_each(object: &mut Value, path: &[&str], change: impl Fn(&mut Map<String, Value>)) {
    let mut at = Some(object);
    for field in path {
        at = at.and_then(|at| at.get_mut(*field));
    }
    let list = at.and_then(Value::as_array_mut);
    let entries = list.into_iter().flatten();
    entries.filter_map(Value::as_object_mut).for_each(change);
}

/// Moves all fields into the object `inner`, but for those that stay.
fn wrap(object: &mut Map<String, Value>, inner: &str, stays: impl Fn(&str) -> bool) {
    let (outside, inside): (Map<_, _>, Map<_, _>) = std::mem::take(object)
        .into_iter()
        .partition(|(field, _)| stays(field));
    *object = outside;
    if !inside.is_empty() {
        object.insert(inner.to_owned(), Value::Object(inside));
    }
}

/// Moves the fields of the object `inner` out of it.
fn unwrap(object: &mut Map<String, Value>, inner: &str) {
    if let Some(Value::Object(fields)) = object.remove(inner) {
        object.extend(fields);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::resource::{v1beta1, v1beta2};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn slice(devices: &Value) -> ResourceSlice {
        serde_json::from_value(json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
            "metadata": {"name": "node0-gpu", "resourceVersion": "7"},
            "spec": {
                "driver": "gpu.nvidia.com", "nodeName": "node0",
                "pool": {"name": "node0", "generation": 1, "resourceSliceCount": 1},
                "devices": devices,
            },
        }))
        .unwrap()
    }

    fn gpu(name: &str) -> Value {
        json!({
            "name": name,
            "attributes": {
                "type": {"string": "gpu"}, "driverVersion": {"version": "580.95.5"},
                "resource.kubernetes.io/numaNode": {"int": 1}, "healthy": {"bool": true},
            },
            "capacity": {"memory": {"value": "80Gi"}},
            "taints": [{"key": "a", "effect": "NoSchedule"}],
        })
    }

    /// The types of the older versions know every field that we write in them.
    #[test]
    fn a_slice_is_written_as_the_types_of_each_version_have_it() {
        let slice = slice(&json!([gpu("gpu-0"), gpu("gpu-1"), {"name": "bare"}]));
        let old = slice_in(Version::V1beta1, &slice);
        let typed: v1beta1::ResourceSlice = serde_json::from_value(old.clone()).unwrap();
        assert_eq!(serde_json::to_value(&typed).unwrap(), old);
        let basic = &old["spec"]["devices"][1]["basic"];
        assert_eq!(basic["capacity"]["memory"]["value"], "80Gi");
        assert_eq!(basic.get("name"), None);

        let newer = slice_in(Version::V1beta2, &slice);
        let typed: v1beta2::ResourceSlice = serde_json::from_value(newer.clone()).unwrap();
        assert_eq!(serde_json::to_value(&typed).unwrap(), newer);
        assert_eq!(newer["apiVersion"], "resource.k8s.io/v1beta2");
    }

    #[test]
    fn a_claim_of_each_version_is_read_with_its_requests_and_its_allocation() {
        let status = json!({"allocation": {"devices": {
            "results": [{"request": "gpu", "driver": "gpu.nvidia.com", "pool": "node0", "device": "gpu-0"}],
        }}});
        let exactly = json!({"deviceClassName": "gpu.nvidia.com", "count": 2, "allocationMode": "ExactCount"});
        let mut flat = exactly.clone();
        flat["name"] = json!("gpu");
        let either = json!({"name": "either", "firstAvailable": [
            {"name": "one", "deviceClassName": "gpu.nvidia.com"},
        ]});
        let claim = |version: Version, requests: Value| {
            let object = json!({
                "apiVersion": version.api_version(), "kind": "ResourceClaim",
                "metadata": {"name": "a", "namespace": "default", "uid": "a-uid"},
                "spec": {"devices": {"requests": requests}},
                "status": status,
            });
            claim_from(version, object).unwrap()
        };
        let nested = json!([{"name": "gpu", "exactly": exactly}, either]);
        let new = claim(Version::V1, nested.clone());
        assert_eq!(claim(Version::V1beta2, nested), new);
        assert_eq!(claim(Version::V1beta1, json!([flat, either])), new);
        let requests = new.spec.unwrap().devices.unwrap().requests.unwrap();
        assert_eq!(requests[0].exactly.as_ref().unwrap().count, Some(2));
        assert_eq!(requests[1].first_available.as_ref().unwrap().len(), 1);
        assert_eq!(requests[1].exactly, None);
    }

    #[test]
    fn what_is_no_object_of_the_version_is_an_error_that_names_it() {
        for odd in [json!(null), json!([]), json!({"spec": {"devices": 1}})] {
            let error = slice_from(Version::V1beta1, odd.clone()).unwrap_err();
            assert!(error.to_string().contains("v1beta1"), "{error}");
            assert!(claim_from(Version::V1beta1, odd).is_err());
        }
    }

    proptest! {
        #[test]
        fn a_slice_that_is_written_and_read_back_is_the_same(names in prop::collection::vec("[a-z]{1,8}", 0..5), full: bool) {
            let device = |name: &String| if full { gpu(name) } else { json!({"name": name}) };
            let devices: Vec<Value> = names.iter().map(device).collect();
            let slice = slice(&json!(devices));
            for version in Version::ALL {
                let written = slice_in(version, &slice);
                prop_assert_eq!(&written["apiVersion"], &json!(version.api_version()));
                prop_assert_eq!(&slice_from(version, written).unwrap(), &slice);
            }
        }
    }
}
