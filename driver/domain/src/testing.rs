//! Domains, nodes, pods and claims for tests, those of other crates too.

use serde_json::{Value, json};
use tessera_api::{API_VERSION, ComputeDomain};

use crate::keys;

/// A domain in the namespace `team`.
pub fn domain(name: &str, nodes: u32) -> ComputeDomain {
    serde_json::from_value(domain_json(name, nodes)).expect("it is a domain")
}

/// The same as the API server has it.
pub fn domain_json(name: &str, nodes: u32) -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": "ComputeDomain",
        "metadata": {
            "name": name, "namespace": "team", "uid": format!("{name}-uid"), "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "numNodes": nodes,
            "channel": {
                "resourceClaimTemplate": {"name": format!("{name}-channel")},
                "allocationMode": "Single",
            },
        },
    })
}

/// A node.
pub fn node_json(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "uid": format!("{name}-uid"), "labels": {keys::HOSTNAME_LABEL: name}},
        "spec": {},
        "status": {},
    })
}

/// The slice of a node with four GPUs in a clique.
pub fn fabric_json(node: &str, clique: Option<&str>) -> Value {
    let mut attributes = json!({
        "type": {"string": "fabric"}, "gpus": {"int": 4}, "fabricState": {"string": "Completed"},
        "heldChannels": {"string": ""},
    });
    if let Some(clique) = clique {
        attributes["cliqueId"] = json!({"string": clique});
    }
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
        "metadata": {"name": format!("{node}-fabric"), "uid": format!("{node}-fabric-uid")},
        "spec": {
            "driver": keys::DRIVER, "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "fabric", "attributes": attributes}],
        },
    })
}

/// A pending pod in the namespace `team` that names a domain's template and asks for GPUs by limits.
pub fn pod_json(name: &str, domain: &str, gpus: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "team", "uid": format!("{name}-uid"),
            "ownerReferences": [{
                "apiVersion": "kubeflow.org/v2beta1", "kind": "MPIJob", "name": "job", "uid": "job-uid",
                "controller": true,
            }],
        },
        "spec": {
            "containers": [{"resources": {"limits": {keys::GPU_RESOURCE: gpus.to_string()}}}],
            "resourceClaims": [{
                "name": "channel", "resourceClaimTemplateName": format!("{domain}-channel"),
            }],
            "tolerations": [{
                "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": 300,
            }],
        },
        "status": {"phase": "Pending"},
    })
}

/// The claim of a pod for a slot of a domain, allocated and used by the pod.
pub fn slot_claim_json(pod: &str, domain: &str) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": format!("{pod}-channel"), "namespace": "team", "uid": format!("{pod}-claim")},
        "spec": {"devices": {"requests": [{
            "name": "channel", "exactly": {"deviceClassName": keys::CHANNEL_CLASS},
        }]}},
        "status": {
            "allocation": {"devices": {"results": [{
                "request": "channel", "driver": keys::DRIVER, "device": "slot-0",
                "pool": keys::pool(&format!("{domain}-uid")),
            }]}},
            "reservedFor": [{"resource": "pods", "name": pod, "uid": format!("{pod}-uid")}],
        },
    })
}
