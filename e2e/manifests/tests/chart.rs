//! The chart as a whole, rendered by real Helm: what it is made of and what it leaves out.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::BTreeSet;

use tessera_manifests::chart::{Install, RELEASE};
use tessera_manifests::rendered::{everything, installations, objects, plugin};
use tessera_manifests::strict::Object;

#[test]
fn helm_lints_every_installation_without_a_warning() {
    for install in installations() {
        install
            .lint()
            .unwrap_or_else(|error| panic!("{error}\n  for {install:?}"));
    }
}

#[test]
fn every_rendered_document_is_an_object_without_unknown_fields() {
    assert!(
        everything()
            .unwrap()
            .iter()
            .all(|objects| !objects.is_empty())
    );
}

#[test]
fn names_are_unique_within_their_kind_and_fit_into_a_label() {
    for objects in everything().unwrap() {
        let names: BTreeSet<_> = objects
            .iter()
            .map(|object| (std::mem::discriminant(object), object.name()))
            .map(|(kind, name)| (format!("{kind:?}"), name))
            .collect();
        assert_eq!(names.len(), objects.len());
        assert!(
            names
                .iter()
                .all(|(_, name)| !name.is_empty() && name.len() <= 63),
            "{names:?}"
        );
    }
}

#[test]
fn switching_gpus_off_leaves_nothing_that_concerns_nodes() {
    let around = "controller.networkPolicy.enabled=true,kubeletPlugin.networkPolicy.enabled=true,\
                      monitoring.podMonitor.enabled=true,monitoring.serviceMonitor.enabled=true";
    let install = Install::bare()
        .set("resources.gpus.enabled=false,resources.computeDomains.enabled=false")
        .set(around)
        .serving("security.openshift.io/v1");
    let objects = objects(&install).unwrap();
    assert!(plugin(&objects).is_none());
    for object in &objects {
        assert!(
            !matches!(
                object,
                Object::DeviceClass(_) | Object::Policy(_) | Object::PolicyBinding(_)
            ),
            "{}",
            object.name()
        );
        assert!(
            !object
                .name()
                .starts_with(&format!("{RELEASE}-kubelet-plugin")),
            "{}",
            object.name()
        );
    }
}

#[test]
fn what_an_uninstallation_needs_removes_itself_however_it_ends() {
    let objects = objects(&Install::default()).unwrap();
    let hooks: Vec<_> = objects
        .iter()
        .filter_map(|object| Some((object, object.metadata().annotations.as_ref()?)))
        .filter(|(_, annotations)| annotations.contains_key("helm.sh/hook"))
        .collect();
    assert_eq!(hooks.len(), 4);
    for (object, annotations) in hooks {
        assert_eq!(
            annotations["helm.sh/hook"],
            "post-delete",
            "{}",
            object.name()
        );
        assert_eq!(
            annotations["helm.sh/hook-delete-policy"],
            "before-hook-creation,hook-succeeded,hook-failed"
        );
    }
}
