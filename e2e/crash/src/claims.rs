//! Claims as a scheduler leaves them: allocated, each with whole GPUs of the node.

use serde_json::{Value, json};
use tessera_proto::dra::v1::Claim;

/// The driver whose plugin is killed.
pub const DRIVER: &str = "gpu.nvidia.com";

/// The node, and the pool that it publishes.
pub const NODE: &str = "node-1";

/// Where claims are.
pub const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";

/// Where slices are.
pub const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";

/// A claim of this name as the kubelet names it.
pub fn reference(name: &str) -> Claim {
    Claim {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: uid(name),
    }
}

/// The UID of the claim of this name.
pub fn uid(name: &str) -> String {
    format!("{name}-uid")
}

/// The claim of this name as the API server has it, with these GPUs.
pub fn object(name: &str, gpus: &[u32]) -> Value {
    let devices: Vec<_> = gpus.iter().map(|gpu| format!("gpu-{gpu}")).collect();
    object_of(name, &devices)
}

/// The same with these devices.
pub fn object_of(name: &str, devices: &[impl AsRef<str>]) -> Value {
    let results: Vec<_> = devices
        .iter()
        .map(|device| {
            json!({"request": "gpus", "driver": DRIVER, "pool": NODE, "device": device.as_ref()})
        })
        .collect();
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"namespace": "default", "name": name, "uid": uid(name)},
        "spec": {"devices": {"requests": [{"name": "gpus", "exactly": {
            "deviceClassName": DRIVER, "allocationMode": "ExactCount", "count": devices.len()}}]}},
        "status": {"allocation": {"devices": {"results": results}}},
    })
}

/// The claim with a configuration that asks for this time slice.
pub fn with_time_slice(mut claim: Value, interval: &str) -> Value {
    claim["status"]["allocation"]["devices"]["config"] = json!([{
        "source": "FromClaim",
        "opaque": {"driver": DRIVER, "parameters": {
            "apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig",
            "sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": interval}},
        }},
    }]);
    claim
}
