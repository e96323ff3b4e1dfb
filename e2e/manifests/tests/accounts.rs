//! Under which accounts the chart's programs run, and what is bound to and matched with these.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::{RoleRef, Subject};
use tessera_manifests::chart::Install;
use tessera_manifests::rendered::{everything, objects, plugin, plugin_set, session_host_set};
use tessera_manifests::strict::Object;

#[test]
fn each_binding_joins_a_role_and_an_account_that_are_rendered() {
    for objects in everything().unwrap() {
        let names = |wanted: fn(&Object) -> bool| -> BTreeSet<&str> {
            objects
                .iter()
                .filter(|object| wanted(object))
                .map(Object::name)
                .collect()
        };
        let roles = names(|object| object.rules().is_some());
        let accounts = names(|object| matches!(object, Object::ServiceAccount(_)));
        for object in objects {
            let (role, subjects) = match object {
                Object::ClusterRoleBinding(binding) => (&binding.role_ref, &binding.subjects),
                Object::RoleBinding(binding) => (&binding.role_ref, &binding.subjects),
                _ => continue,
            };
            assert!(roles.contains(role.name.as_str()), "{}", role.name);
            for subject in subjects.iter().flatten() {
                assert!(accounts.contains(subject.name.as_str()), "{}", subject.name);
                let namespace = objects
                    .iter()
                    .find_map(|object| object.metadata().namespace.as_ref());
                assert_eq!(subject.namespace.as_ref(), namespace);
            }
        }
    }
}

#[test]
fn without_accounts_of_its_own_the_chart_makes_no_rbac() {
    let objects =
        objects(&Install::default().set("serviceAccount.create=false,serviceAccount.name=mine"))
            .unwrap();
    assert!(objects.iter().all(|object| object.rules().is_none()));
    assert!(
        !objects
            .iter()
            .any(|object| matches!(object, Object::ServiceAccount(_) | Object::Job(_)))
    );
    let account = plugin(&objects).unwrap().service_account_name.as_deref();
    assert_eq!(account, Some("mine-kubelet-plugin"));
}

#[test]
fn the_admission_policies_match_the_very_account_that_the_plugin_runs_under() {
    for objects in everything().unwrap() {
        let Some(pod) = plugin(objects) else {
            continue;
        };
        let set = plugin_set(objects).unwrap();
        let user = format!(
            "\"system:serviceaccount:{}:{}\"",
            set.metadata.namespace.as_deref().unwrap(),
            pod.service_account_name.as_deref().unwrap()
        );
        for (suffix, operations) in [
            ("-node-slices", &["CREATE", "UPDATE", "DELETE"][..]),
            ("-node-claims", &["CREATE", "UPDATE"]),
        ] {
            let policy = objects.iter().find_map(|object| match object {
                Object::Policy(policy) if object.name().ends_with(suffix) => policy.spec.as_ref(),
                _ => None,
            });
            let Some(policy) = policy else {
                assert_eq!(suffix, "-node-claims", "slices are always written");
                continue;
            };
            let conditions = policy.match_conditions.as_ref().unwrap();
            assert!(
                conditions[0].expression.ends_with(&user),
                "{conditions:?} {user}"
            );
            let constraints = policy.match_constraints.as_ref().unwrap();
            let rules = constraints.resource_rules.as_ref().unwrap();
            assert_eq!(rules[0].operations.as_ref().unwrap()[..], *operations);
        }
    }
}

#[test]
fn the_policy_for_session_hosts_matches_their_very_account() {
    for objects in everything().unwrap() {
        let Some(set) = session_host_set(objects) else {
            continue;
        };
        let user = format!(
            "\"system:serviceaccount:{}:{}\"",
            set.metadata.namespace.as_deref().unwrap(),
            set.spec
                .template
                .spec
                .as_ref()
                .unwrap()
                .service_account_name
                .as_deref()
                .unwrap()
        );
        let policy = objects.iter().find_map(|object| match object {
            Object::Policy(policy) if object.name().ends_with("-session-host") => {
                policy.spec.as_ref()
            }
            _ => None,
        });
        let conditions = policy.unwrap().match_conditions.as_ref().unwrap();
        assert!(
            conditions[0].expression.ends_with(&user),
            "{conditions:?} {user}"
        );
    }
}

/// What is bound beyond the roles of the chart, as on `OpenShift`: the account and the role.
fn constraints(install: &Install) -> Vec<(String, String)> {
    let pair = |role: &RoleRef, subjects: &Option<Vec<Subject>>| {
        let subject = subjects.as_ref().unwrap()[0].name.clone();
        (subject, role.name.clone())
    };
    let objects = objects(install).unwrap();
    let bindings = objects.iter().filter_map(|object| match object {
        Object::RoleBinding(binding) => Some(pair(&binding.role_ref, &binding.subjects)),
        _ => None,
    });
    bindings
        .filter(|(_, role)| role.starts_with("system:openshift:scc:"))
        .collect()
}

#[test]
fn on_openshift_what_opens_gpus_alone_is_privileged() {
    let install = Install::default();
    assert_eq!(constraints(&install), []);
    let install = install.serving("security.openshift.io/v1");
    let pairs = [
        ("tessera-controller", "nonroot-v2"),
        ("tessera-kubelet-plugin", "privileged"),
        ("tessera-session-host", "privileged"),
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
