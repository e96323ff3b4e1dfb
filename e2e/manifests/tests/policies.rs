//! The manifests of the guide to policies are what the definitions and the controller take.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use serde::Deserialize;
use serde_json::Value;
use tessera_api::{ComputeDomain, Document, DomainPolicySpec};
use tessera_domain::Levels;

const GUIDE: &str = include_str!("../../../docs/policies.md");

/// The objects of every YAML block of the guide.
fn objects() -> Vec<Value> {
    let blocks = GUIDE.split("```yaml\n").skip(1);
    let texts = blocks.map(|block| block.split("```").next().unwrap());
    let documents = texts.flat_map(|text| {
        serde_yaml_ng::Deserializer::from_str(text)
            .map(|document| Value::deserialize(document).unwrap())
            .collect::<Vec<_>>()
    });
    documents.collect()
}

#[test]
fn every_policy_of_the_guide_is_taken_and_names_levels_that_there_are() {
    let presets = Levels::preset_names();
    let levels: Vec<Levels> = presets
        .iter()
        .map(|name| Levels::preset(name).unwrap())
        .collect();
    let mut policies = 0;
    for object in objects() {
        if object["kind"] != "DomainPolicy" {
            let domain: ComputeDomain = serde_json::from_value(object).unwrap();
            assert!(domain.metadata.annotations.is_some());
            continue;
        }
        assert_eq!(object["apiVersion"], tessera_api::OWN_API_VERSION);
        let spec = DomainPolicySpec::decode(&Document::from(&object["spec"])).unwrap();
        let topology = spec.topology.unwrap_or_default();
        for level in [topology.required_level, topology.preferred_level] {
            let known = |level: &String| levels.iter().any(|it| it.keys().contains(level));
            assert!(level.as_ref().is_none_or(known), "{level:?}");
        }
        policies += 1;
    }
    assert_eq!(policies, GUIDE.matches("kind: DomainPolicy\n").count());
}

#[test]
fn every_field_and_preset_is_explained_in_the_guide() {
    let definition =
        include_str!("../../../charts/tessera/crds/tessera-dra.github.io_domainpolicies.yaml");
    let definition: Value = serde_yaml_ng::from_str(definition).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let fields = schema["properties"]["spec"]["properties"]
        .as_object()
        .unwrap();
    for (field, about) in fields {
        let inner = about["properties"].as_object();
        let inner = inner.map(|inner| inner.keys().map(|name| format!("{field}.{name}")));
        let names = inner.map_or_else(|| vec![field.clone()], Iterator::collect);
        for name in names {
            assert!(GUIDE.contains(&format!("`{name}`")), "{name}");
        }
    }
    for preset in Levels::preset_names() {
        assert!(GUIDE.contains(&format!("`{preset}`")), "{preset}");
    }
}
