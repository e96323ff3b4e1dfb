//! The plain DeviceClasses and the chart's are the same.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize as _;
use serde_yaml_ng::Value;
use tessera_device::mig::MODELS;
use tessera_manifests::chart::{Install, repository};
use tessera_manifests::strict::Object;

/// Version and specification of each class.
type Classes = BTreeMap<String, (Value, Value)>;

fn class(document: &Value) -> (String, (Value, Value)) {
    let name = document["metadata"]["name"].as_str().unwrap().to_owned();
    (
        name,
        (document["apiVersion"].clone(), document["spec"].clone()),
    )
}

fn plain() -> Classes {
    let folder = repository().join("deviceclasses");
    let paths = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let manifests = paths.filter(|path| path.extension().is_some_and(|kind| kind == "yaml"));
    let parse = |path| {
        let text = std::fs::read_to_string(path).unwrap();
        let documents = serde_yaml_ng::Deserializer::from_str(&text);
        let classes = documents.map(|document| {
            let document = Value::deserialize(document).unwrap();
            Object::read(&document).unwrap();
            class(&document)
        });
        classes.collect::<Vec<_>>()
    };
    manifests.flat_map(parse).collect()
}

fn rendered(install: &Install) -> Classes {
    let documents = install.render().unwrap();
    documents
        .iter()
        .filter(|document| document["kind"] == "DeviceClass")
        .map(class)
        .collect()
}

#[test]
fn the_chart_installs_the_classes_of_the_folder_and_no_others() {
    let plain = plain();
    assert!(!plain.is_empty());
    assert_eq!(plain, rendered(&Install::default()));
}

#[test]
fn older_servers_get_the_same_selectors_without_the_newer_field() {
    let newest = rendered(&Install::default());
    for version in ["v1beta1", "v1beta2", "resource.k8s.io/v1beta1"] {
        let install = Install::default().set(&format!("resourceApiVersion={version}"));
        for (name, (api_version, spec)) in rendered(&install) {
            let short = version.trim_start_matches("resource.k8s.io/");
            assert_eq!(api_version, format!("resource.k8s.io/{short}"));
            let (_, mut expected) = newest[&name].clone();
            expected
                .as_mapping_mut()
                .unwrap()
                .remove("extendedResourceName");
            assert_eq!(spec, expected);
        }
    }
}

#[test]
fn every_mig_profile_of_a_known_model_has_its_extended_resource() {
    let rows = MODELS.iter().flat_map(|model| model.rows);
    let known: BTreeSet<_> = rows
        .map(|row| format!("nvidia.com/{}", row.profile.resource()))
        .collect();
    let classes = plain();
    let served: BTreeSet<_> = classes
        .values()
        .filter_map(|(_, spec)| spec["extendedResourceName"].as_str())
        .filter(|name| name.starts_with("nvidia.com/mig-"))
        .map(str::to_owned)
        .collect();
    assert_eq!(served, known);
}
