//! What the chart lets its programs do: each right with the call that needs it.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};
use tessera_manifests::chart::Install;
use tessera_manifests::strict::Object;

/// Rights as `verb resource.group names`, with what needs each.
const RIGHTS: &[(&str, &[(&str, &str)])] = &[
    (
        "tessera-kubelet-plugin",
        &[
            (
                "get resourceclaims.resource.k8s.io",
                "the claim that the kubelet names carries its allocation",
            ),
            (
                "list resourceslices.resource.k8s.io",
                "what is published for the node is compared with what should be",
            ),
            (
                "watch resourceslices.resource.k8s.io",
                "a slice that somebody deletes is put back at once",
            ),
            (
                "create resourceslices.resource.k8s.io",
                "devices are published",
            ),
            (
                "update resourceslices.resource.k8s.io",
                "devices come and go",
            ),
            (
                "delete resourceslices.resource.k8s.io",
                "a slice that is one too many goes",
            ),
            ("get nodes.", "the node's UID makes the node own its slices"),
            (
                "create events.events.k8s.io",
                "what happens to a claim is told",
            ),
            (
                "patch events.events.k8s.io",
                "a repeated event is counted on the first",
            ),
        ],
    ),
    (
        "tessera-controller",
        &[
            (
                "create leases.coordination.k8s.io",
                "a Lease that somebody deleted; create cannot be tied to a name",
            ),
            (
                "get leases.coordination.k8s.io tessera-controller",
                "who leads",
            ),
            (
                "patch leases.coordination.k8s.io tessera-controller",
                "to lead and to go on leading",
            ),
        ],
    ),
    (
        "tessera-uninstall",
        &[
            (
                "list resourceslices.resource.k8s.io",
                "to see that none is left",
            ),
            (
                "deletecollection resourceslices.resource.k8s.io",
                "the drivers' slices go when nobody publishes them any more",
            ),
        ],
    ),
];

#[track_caller]
fn objects(install: &Install) -> Vec<Object> {
    let documents = install.render().unwrap();
    let read = |document| Object::read(&document).unwrap();
    documents.into_iter().map(read).collect()
}

fn grants(rules: &[PolicyRule]) -> BTreeSet<String> {
    let mut grants = BTreeSet::new();
    for rule in rules {
        assert_eq!(rule.non_resource_urls, None);
        let names = rule.resource_names.clone().unwrap_or_default().join(",");
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    let grant = format!("{verb} {resource}.{group} {names}");
                    grants.insert(grant.trim().to_owned());
                }
            }
        }
    }
    grants
}

#[test]
fn each_role_grants_exactly_the_rights_that_have_a_reason() {
    for settings in [
        "image.tag=dev",
        "controller.replicas=2,controller.networkPolicy.enabled=true,monitoring.podMonitor.enabled=true",
    ] {
        let objects = objects(&Install::default().set(settings));
        let roles: BTreeMap<_, _> = objects
            .iter()
            .filter_map(|object| Some((object.name(), (object, grants(object.rules()?)))))
            .collect();
        assert_eq!(roles.len(), RIGHTS.len());
        for (name, rights) in RIGHTS {
            let wanted: BTreeSet<_> = rights
                .iter()
                .map(|(right, _)| (*right).to_owned())
                .collect();
            assert_eq!(roles[name].1, wanted, "{name}");
        }
        // Leases exist in one namespace, so nothing of the controller reaches beyond it.
        assert!(matches!(roles["tessera-controller"].0, Object::Role(_)));
    }
}

/// What is bound beyond the roles of the chart, as on `OpenShift`: the account and the role.
fn constraints(install: &Install) -> Vec<(String, String)> {
    let pair = |role: &RoleRef, subjects: &Option<Vec<Subject>>| {
        let subject = subjects.as_ref().unwrap()[0].name.clone();
        (subject, role.name.clone())
    };
    let objects = objects(install);
    let bindings = objects.iter().filter_map(|object| match object {
        Object::RoleBinding(binding) => Some(pair(&binding.role_ref, &binding.subjects)),
        _ => None,
    });
    bindings
        .filter(|(_, role)| role.starts_with("system:openshift:scc:"))
        .collect()
}

#[test]
fn on_openshift_the_plugin_alone_is_privileged() {
    let install = Install::default();
    assert_eq!(constraints(&install), []);
    let install = install.serving("security.openshift.io/v1");
    let pairs = [
        ("tessera-controller", "nonroot-v2"),
        ("tessera-kubelet-plugin", "privileged"),
        ("tessera-uninstall", "nonroot-v2"),
    ];
    let wanted = pairs.map(|(account, constraints)| {
        let role = format!("system:openshift:scc:{constraints}");
        (account.to_owned(), role)
    });
    let mut bound = constraints(&install);
    bound.sort();
    assert_eq!(bound, wanted);
    assert_eq!(constraints(&install.set("serviceAccount.create=false")), []);
}
