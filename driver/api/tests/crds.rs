//! The chart's CRDs and the types say the same.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::{Metadata, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tessera_api::{
    CapacityType, CliquePolicy, ComputeDomain, ComputeDomainNode, ComputeDomainSpec,
    ComputeDomainStatus, DomainPolicy, DomainPolicySpec, DomainPolicyStatus, NVLinkClique,
    NVLinkCliqueMember, NVLinkCliqueSession, NVLinkCliqueSpec, NVLinkCliqueStatus, Readiness,
    Replacement, SessionsOf, Topology,
};

/// The CRD of `K` out of the chart, as written and as the API server's type.
fn crd<K: Resource>() -> (Value, CustomResourceDefinition) {
    let file = format!("{}_{}.yaml", K::GROUP, K::URL_PATH_SEGMENT);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/tessera/crds");
    let text = std::fs::read_to_string(folder.join(file)).unwrap();
    let value: Value = serde_yaml_ng::from_str(&text).unwrap();
    (value.clone(), serde_json::from_value(value).unwrap())
}

fn condition() -> Condition {
    Condition {
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
        message: "m".to_owned(),
        observed_generation: Some(1),
        reason: "R".to_owned(),
        status: "True".to_owned(),
        type_: "Ready".to_owned(),
    }
}

/// Asserts that `value`, in which every field of its type is set, has the fields of `schema` and no others.
fn agree(schema: &Value, value: &Value, at: &str) {
    match value {
        Value::Object(fields) => {
            assert_eq!(schema["type"], "object", "{at}");
            // The API server knows what metadata is; the schema does not repeat it.
            let Some(properties) = schema["properties"].as_object() else {
                assert_eq!(at, ".metadata");
                return;
            };
            let names = |map: &serde_json::Map<String, Value>| -> BTreeSet<String> {
                map.keys().cloned().collect()
            };
            assert_eq!(names(properties), names(fields), "{at}");
            for (name, field) in fields {
                agree(&properties[name], field, &format!("{at}.{name}"));
            }
        }
        Value::Array(entries) => {
            assert_eq!(schema["type"], "array", "{at}");
            assert!(!entries.is_empty(), "{at}");
            for entry in entries {
                agree(&schema["items"], entry, &format!("{at}[]"));
            }
        }
        Value::String(text) => {
            assert_eq!(schema["type"], "string", "{at}");
            if let Some(values) = schema["enum"].as_array() {
                assert!(values.contains(&Value::from(text.as_str())), "{at}");
            }
        }
        Value::Number(_) => assert_eq!(schema["type"], "integer", "{at}"),
        Value::Bool(_) => assert_eq!(schema["type"], "boolean", "{at}"),
        Value::Null => panic!("{at} is not set"),
    }
}

/// Asserts that an object without anything that the schema does not require is read.
fn the_required_is_enough<K: DeserializeOwned>(schema: &Value) {
    fn least(schema: &Value) -> Value {
        match schema["type"].as_str().unwrap() {
            "object" => {
                let required = schema["required"].as_array().into_iter().flatten();
                let field = |name: &Value| {
                    let name = name.as_str().unwrap();
                    (name.to_owned(), least(&schema["properties"][name]))
                };
                Value::Object(required.map(field).collect())
            }
            "array" => Value::Array(Vec::new()),
            "string" => schema["enum"].get(0).cloned().unwrap_or("x".into()),
            "integer" => 1.into(),
            other => panic!("{other}"),
        }
    }
    let mut object = least(schema);
    object["status"] = least(&schema["properties"]["status"]);
    serde_json::from_value::<K>(object).unwrap();
}

#[track_caller]
fn check<K>(full: &K)
where
    K: Resource + Metadata + Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let (written, typed) = crd::<K>();
    assert_eq!(
        typed.metadata.name.unwrap(),
        format!("{}.{}", K::URL_PATH_SEGMENT, K::GROUP)
    );
    assert_eq!(typed.spec.group, K::GROUP);
    assert_eq!(typed.spec.names.kind, K::KIND);
    assert_eq!(typed.spec.names.plural, K::URL_PATH_SEGMENT);
    let [version] = &typed.spec.versions[..] else {
        panic!("{:?}", typed.spec.versions);
    };
    assert_eq!(version.name, K::VERSION);
    assert!(version.subresources.as_ref().unwrap().status.is_some());
    let schema = &written["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let value = serde_json::to_value(full).unwrap();
    agree(schema, &value, "");
    assert_eq!(&serde_json::from_value::<K>(value).unwrap(), full);
    the_required_is_enough::<K>(schema);
}

#[test]
fn the_crd_of_compute_domains_has_the_fields_of_the_type() {
    let channel =
        serde_json::json!({"resourceClaimTemplate": {"name": "t"}, "allocationMode": "All"});
    let spec: ComputeDomainSpec =
        serde_json::from_value(serde_json::json!({"numNodes": 2, "channel": channel})).unwrap();
    let node = ComputeDomainNode {
        name: "n".to_owned(),
        ip_address: "10.0.0.1".to_owned(),
        clique_id: "c.0".to_owned(),
        index: -1,
        status: Readiness::Ready,
    };
    let status = ComputeDomainStatus {
        status: Readiness::NotReady,
        nodes: vec![node],
        conditions: vec![condition()],
        observed_generation: Some(1),
    };
    check(&ComputeDomain {
        spec,
        status: Some(status),
        ..ComputeDomain::default()
    });
}

#[test]
fn the_crd_of_cliques_has_the_fields_of_the_type() {
    let spec = NVLinkCliqueSpec {
        clique_id: "c.0".to_owned(),
        epoch: 1,
        room: 18,
        sessions_of: SessionsOf::Domain,
        members: vec![NVLinkCliqueMember {
            domain: "d".to_owned(),
            ..NVLinkCliqueMember::default()
        }],
    };
    let status = NVLinkCliqueStatus {
        sessions: vec![NVLinkCliqueSession {
            address: "10.0.0.1".to_owned(),
            unreachable: vec!["n".to_owned()],
            domain: "d".to_owned(),
            ..NVLinkCliqueSession::default()
        }],
        conditions: vec![condition()],
        observed_generation: Some(1),
    };
    check(&NVLinkClique {
        spec,
        status: Some(status),
        ..NVLinkClique::default()
    });
}

#[test]
fn the_crd_of_policies_has_the_fields_of_the_type() {
    let spec = DomainPolicySpec {
        min_nodes: Some(2),
        clique_policy: CliquePolicy::Preferred,
        segment_nodes: Some(8),
        topology: Some(Topology {
            required_level: Some("a".to_owned()),
            preferred_level: Some("b".to_owned()),
        }),
        capacity_types: vec![CapacityType::CapacityBlock],
        spare_nodes: Some(1),
        bind_timeout_seconds: Some(60),
        replacement: Some(Replacement {
            shrink: Some(true),
            migrate: Some(false),
            timeout_seconds: Some(600),
        }),
        preempts: Some(false),
        preemptible: Some(false),
    };
    let status = DomainPolicyStatus {
        domains: Some(3),
        conditions: vec![condition()],
        observed_generation: Some(1),
    };
    check(&DomainPolicy {
        spec,
        status: Some(status),
        ..DomainPolicy::default()
    });
}
