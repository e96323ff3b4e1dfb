//! The kind `MPIJob`, as far as the stand-in knows it.

use serde_json::{Value, json};

/// The definition of the kind. Fields are not pruned and not checked: the operator checks them when it sees the job.
pub fn crd() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "mpijobs.kubeflow.org" },
        "spec": {
            "group": "kubeflow.org",
            "scope": "Namespaced",
            "names": {
                "kind": "MPIJob",
                "listKind": "MPIJobList",
                "plural": "mpijobs",
                "singular": "mpijob",
            },
            "versions": [{
                "name": "v2beta1",
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": true,
                    },
                },
            }],
        },
    })
}
