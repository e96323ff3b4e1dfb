//! What the chart lets its programs do: each right with the call that needs it.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::rbac::v1::PolicyRule;
use tessera_manifests::chart::Install;
use tessera_manifests::rendered::{controller, objects};
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
            (
                "get resourceslices.resource.k8s.io",
                "the slice of a compute domain says which channel its slots have",
            ),
            (
                "list computedomains.resource.nvidia.com",
                "a claim of the reference driver's class names a compute domain of its namespace",
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
        "tessera-compute-domains",
        &[
            (
                "list computedomains.resource.nvidia.com",
                "which domains there are",
            ),
            (
                "watch computedomains.resource.nvidia.com",
                "a domain is served when it comes, and let go when it is deleted",
            ),
            (
                "patch computedomains.resource.nvidia.com",
                "the finalizer that keeps a domain until nothing uses it",
            ),
            (
                "patch computedomains/status.resource.nvidia.com",
                "how a domain fares",
            ),
            (
                "list resourceclaimtemplates.resource.k8s.io",
                "whether a template's name is free",
            ),
            (
                "watch resourceclaimtemplates.resource.k8s.io",
                "a template that somebody deletes is made again",
            ),
            (
                "create resourceclaimtemplates.resource.k8s.io",
                "each domain has a template, which its pods name",
            ),
            (
                "patch resourceclaimtemplates.resource.k8s.io",
                "a template of the reference's controller has a finalizer that nobody else takes off",
            ),
            (
                "delete resourceclaimtemplates.resource.k8s.io",
                "no pod gets a claim of a domain that is deleted",
            ),
            (
                "list resourceslices.resource.k8s.io",
                "what nodes say of their fabric, and which slots there are",
            ),
            (
                "watch resourceslices.resource.k8s.io",
                "a fabric that changes is followed",
            ),
            (
                "create resourceslices.resource.k8s.io",
                "the slots of a domain are offered",
            ),
            (
                "patch resourceslices.resource.k8s.io",
                "slots grow with the pods of a domain, and are withdrawn",
            ),
            (
                "delete resourceslices.resource.k8s.io",
                "withdrawn slots go when their channel is free again",
            ),
            (
                "list resourceclaims.resource.k8s.io",
                "which GPUs are used, and who holds a slot",
            ),
            (
                "watch resourceclaims.resource.k8s.io",
                "a domain that is deleted goes when its last slot is let go",
            ),
            (
                "list domainpolicies.tessera-dra.github.io",
                "how the nodes of a domain are chosen",
            ),
            (
                "watch domainpolicies.tessera-dra.github.io",
                "a domain that waits is planned anew when its policy changes",
            ),
            (
                "patch domainpolicies/status.tessera-dra.github.io",
                "whether a policy can be followed",
            ),
            ("list nodes.", "labels, taints and GPUs of nodes"),
            ("watch nodes.", "nodes come and go"),
            ("patch nodes.", "nodes are held for a domain by a taint"),
            ("list pods.", "which pods name a domain's template"),
            ("watch pods.", "nodes are chosen when pods wait"),
            (
                "patch pods.",
                "the pods of a domain are made to tolerate its taint",
            ),
            (
                "list nvlinkcliques.tessera-dra.github.io",
                "who is in which clique, and how sessions fare",
            ),
            (
                "watch nvlinkcliques.tessera-dra.github.io",
                "a session that is not ready is known at once",
            ),
            (
                "create nvlinkcliques.tessera-dra.github.io",
                "a clique of which a node tells is new",
            ),
            (
                "patch nvlinkcliques.tessera-dra.github.io",
                "members come, go and change their addresses",
            ),
            (
                "delete nvlinkcliques.tessera-dra.github.io",
                "a clique without nodes",
            ),
            (
                "patch nvlinkcliques/status.tessera-dra.github.io",
                "how the sessions of a clique fare together",
            ),
            (
                "create events.events.k8s.io",
                "what becomes of a domain is told",
            ),
            (
                "patch events.events.k8s.io",
                "a repeated event is counted on the first",
            ),
        ],
    ),
    (
        "tessera-session-host",
        &[
            (
                "list resourceslices.resource.k8s.io",
                "in which clique the node is",
            ),
            (
                "watch resourceslices.resource.k8s.io",
                "a fabric that comes up is followed",
            ),
            (
                "list nvlinkcliques.tessera-dra.github.io",
                "who else is in the clique",
            ),
            (
                "watch nvlinkcliques.tessera-dra.github.io",
                "members come, go and change their addresses",
            ),
            (
                "patch nvlinkcliques/status.tessera-dra.github.io",
                "how the node's session is",
            ),
        ],
    ),
    (
        "tessera-uninstall",
        &[
            (
                "list nvlinkcliques.tessera-dra.github.io",
                "which cliques are left",
            ),
            (
                "delete nvlinkcliques.tessera-dra.github.io",
                "nobody keeps the members of a clique any more",
            ),
            (
                "list computedomains.resource.nvidia.com",
                "which domains are left",
            ),
            (
                "patch computedomains.resource.nvidia.com",
                "a finalizer that nobody takes off would hold a domain for good",
            ),
            ("list nodes.", "which nodes are held"),
            (
                "patch nodes.",
                "a taint that nobody takes off would hold a node for good",
            ),
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
        let objects = objects(&Install::default().set(settings)).unwrap();
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

#[test]
fn the_controller_may_evict_pods_only_where_preemption_is_on() {
    let evict = "create pods/eviction.".to_owned();
    for on in [true, false] {
        let settings = format!("resources.computeDomains.preemption.enabled={on}");
        let objects = objects(&Install::default().set(&settings)).unwrap();
        let role = objects
            .iter()
            .find(|object| object.name() == "tessera-compute-domains" && object.rules().is_some());
        let granted = grants(role.unwrap().rules().unwrap()).contains(&evict);
        let container = &controller(&objects).unwrap().containers[0];
        let mut variables = container.env.iter().flatten();
        let told = variables.find(|variable| variable.name == "PREEMPTION");
        let told = told.unwrap().value.clone();
        assert_eq!((granted, told), (on, Some(on.to_string())));
    }
}

/// What the plugin may do under these settings.
fn plugins_grants(settings: &str) -> BTreeSet<String> {
    let objects = objects(&Install::default().set(settings)).unwrap();
    let mut roles = objects
        .iter()
        .filter(|object| object.name() == "tessera-kubelet-plugin");
    grants(roles.find_map(Object::rules).unwrap())
}

#[test]
fn a_plugin_may_patch_nodes_only_to_label_its_own_and_reads_domains_only_to_serve_them() {
    let label = "kubeletPlugin.containers.computeDomains.gpuCliqueLabelEnabled=true";
    let patches = "patch nodes.".to_owned();
    let (with, without) = (plugins_grants(label), plugins_grants("image.tag=dev"));
    assert!(with.contains(&patches) && !without.contains(&patches));
    let rendered = objects(&Install::default().set(label)).unwrap();
    let guard = |object: &Object| {
        matches!(object, Object::Policy(_)) && object.name() == "tessera-node-label"
    };
    assert!(rendered.iter().any(guard), "nothing narrows that right");
    let gpus_alone = plugins_grants("resources.computeDomains.enabled=false");
    let domains = "list computedomains.resource.nvidia.com".to_owned();
    assert!(without.contains(&domains) && !gpus_alone.contains(&domains));
}

#[test]
fn a_plugin_may_list_claims_only_where_it_cuts_gpus_for_them() {
    let list = "list resourceclaims.resource.k8s.io".to_owned();
    for (settings, may) in [
        ("featureGates.DynamicMIG=true", true),
        ("featureGates.DynamicMIG=false", false),
        ("featureGates.TimeSlicingSettings=true", false),
    ] {
        assert_eq!(plugins_grants(settings).contains(&list), may, "{settings}");
    }
}

/// From 1.36 on a server asks for the second right as well, and for the first before.
#[test]
fn a_plugin_may_write_the_status_of_claims_only_where_shares_are_told_of_and_a_policy_narrows_that()
{
    let rights = [
        "patch resourceclaims/status.resource.k8s.io",
        "associated-node:patch resourceclaims/driver.resource.k8s.io gpu.nvidia.com",
    ];
    let named = |object: &Object| {
        matches!(object, Object::Policy(_)) && object.name() == "tessera-node-claims"
    };
    for (settings, may) in [
        ("consumableShares=memory,shareStatus.enabled=true", true),
        ("consumableShares=memory", false),
        (
            "resources.gpus.enabled=false,shareStatus.enabled=true",
            false,
        ),
    ] {
        let grants = plugins_grants(settings);
        for right in rights {
            assert_eq!(grants.contains(right), may, "{settings}: {right}");
        }
        let rendered = objects(&Install::default().set(settings)).unwrap();
        assert_eq!(rendered.iter().any(named), may, "{settings}");
    }
}

#[test]
fn the_controllers_lease_is_the_one_that_is_made_and_that_its_role_names() {
    let objects = objects(&Install::default().set("fullnameOverride=other")).unwrap();
    let container = &controller(&objects).unwrap().containers[0];
    let mut variables = container.env.iter().flatten();
    let lease = variables.find(|variable| variable.name == "LEADER_ELECTION_LEASE_NAME");
    let lease = lease.unwrap().value.as_deref().unwrap();
    let role = objects
        .iter()
        .find(|object| matches!(object, Object::Role(_)))
        .unwrap();
    assert!(
        grants(role.rules().unwrap())
            .contains(&format!("patch leases.coordination.k8s.io {lease}"))
    );
}
