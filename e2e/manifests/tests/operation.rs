//! What stands around the pods: network policies, the disruption budget, what scrapes metrics.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::api::networking::v1::{NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_yaml_ng::Value;
use tessera_manifests::chart::Install;
use tessera_manifests::rendered;
use tessera_manifests::strict::Object;

const POLICIES: &str = "controller.networkPolicy.enabled=true,kubeletPlugin.networkPolicy.enabled=true,sessionHost.networkPolicy.enabled=true";

#[track_caller]
fn objects(settings: &str) -> Vec<Object> {
    rendered::objects(&Install::default().set(settings)).unwrap()
}

fn policy<'a>(objects: &'a [Object], name: &str) -> &'a NetworkPolicySpec {
    let mut policies = objects.iter().filter_map(|object| match object {
        Object::NetworkPolicy(policy) if object.name() == name => policy.spec.as_ref(),
        _ => None,
    });
    policies.next().unwrap()
}

/// `TCP 443` and so on.
fn ports(ports: Option<&Vec<NetworkPolicyPort>>) -> Vec<String> {
    let port = |port: &NetworkPolicyPort| match &port.port {
        Some(IntOrString::Int(number)) => {
            format!("{} {number}", port.protocol.as_deref().unwrap())
        }
        other => panic!("{other:?}"),
    };
    ports.into_iter().flatten().map(port).collect()
}

fn incoming(policy: &NetworkPolicySpec) -> BTreeSet<String> {
    let rules = policy.ingress.iter().flatten();
    rules.flat_map(|rule| ports(rule.ports.as_ref())).collect()
}

fn outgoing(policy: &NetworkPolicySpec) -> BTreeSet<String> {
    let rules = policy.egress.iter().flatten();
    rules
        .flat_map(|rule| {
            // A rule without ports would allow everything.
            assert!(rule.ports.as_ref().is_some_and(|ports| !ports.is_empty()));
            ports(rule.ports.as_ref())
        })
        .collect()
}

fn containers<'a>(objects: &'a [Object], name: &str) -> &'a [Container] {
    let mut pods = objects.iter().filter(|object| object.name() == name);
    let pod = pods.find_map(Object::pod).unwrap();
    &pod.containers
}

fn listening(containers: &[Container]) -> BTreeSet<String> {
    let ports = containers.iter().flat_map(|container| &container.ports);
    ports
        .flatten()
        .map(|port| format!("TCP {}", port.container_port))
        .collect()
}

#[test]
fn a_network_policy_lets_in_what_the_pod_listens_for_and_out_what_it_calls() {
    for settings in [
        "",
        "controller.metrics.httpEndpoint=:9090,kubeletPlugin.containers.gpus.healthcheckPort=-1",
        "controller.metrics.enabled=false,kubeletPlugin.metrics.enabled=false",
    ] {
        let objects = objects(&format!("{POLICIES},{settings}"));
        for name in ["tessera-controller", "tessera-kubelet-plugin"] {
            let policy = policy(&objects, name);
            let both = ["Ingress".to_owned(), "Egress".to_owned()];
            assert_eq!(policy.policy_types.as_deref(), Some(&both[..]), "{name}");
            let listening = listening(containers(&objects, name));
            assert_eq!(incoming(policy), listening, "{name}");
            let wanted = ["TCP 443", "TCP 6443", "TCP 53", "UDP 53"].map(str::to_owned);
            assert_eq!(outgoing(policy), wanted.into(), "{name}");
        }
    }
    let none = objects("image.tag=dev");
    assert!(
        !none
            .iter()
            .any(|object| matches!(object, Object::NetworkPolicy(_)))
    );
}

#[test]
fn only_session_hosts_reach_the_ports_of_nvidia_imex() {
    let objects = objects(&format!("{POLICIES},sessionHost.serverPort=51000"));
    let name = "tessera-session-host";
    let policy = policy(&objects, name);
    assert_eq!(incoming(policy), listening(containers(&objects, name)));
    let own = policy.pod_selector.clone();
    for rule in policy.ingress.iter().flatten() {
        let imex = ports(rule.ports.as_ref()).contains(&"TCP 51000".to_owned());
        let from = rule.from.iter().flatten();
        let from: Vec<_> = from.map(|peer| peer.pod_selector.clone()).collect();
        assert_eq!(from, if imex { vec![own.clone()] } else { vec![] });
    }
    for rule in policy.egress.iter().flatten() {
        let imex = ports(rule.ports.as_ref()).contains(&"TCP 51000".to_owned());
        let to = rule.to.iter().flatten();
        let to: Vec<_> = to.map(|peer| peer.pod_selector.clone()).collect();
        assert_eq!(to, if imex { vec![own.clone()] } else { vec![] });
    }
}

#[test]
fn the_api_servers_port_can_be_another() {
    let objects = objects(&format!(
        "{POLICIES},controller.networkPolicy.apiServerPorts={{16443}}"
    ));
    let wanted = ["TCP 16443", "TCP 53", "UDP 53"].map(str::to_owned);
    let policy = policy(&objects, "tessera-controller");
    assert_eq!(outgoing(policy), wanted.into());
}

/// The labels with which `document` looks for pods.
fn selector(document: &Value) -> Option<&Value> {
    let spec = &document["spec"];
    match document["kind"].as_str()? {
        "NetworkPolicy" => spec["podSelector"].get("matchLabels"),
        "Service" => spec.get("selector"),
        "PodDisruptionBudget" | "PodMonitor" | "ServiceMonitor" => {
            spec["selector"].get("matchLabels")
        }
        _ => None,
    }
}

#[test]
fn everything_around_the_pods_finds_those_of_its_own_name_and_no_others() {
    let monitors = "monitoring.podMonitor.enabled=true,monitoring.serviceMonitor.enabled=true";
    for settings in ["nameOverride=other", "selectorLabelsOverride.app=gpu"] {
        let install = Install::default().set("fullnameOverride=tessera,controller.replicas=2");
        let install = install.set(POLICIES).set(monitors).set(settings);
        let documents = install.render().unwrap();
        let workloads: Vec<_> = documents
            .iter()
            .filter(|document| document["kind"] == "DaemonSet" || document["kind"] == "Deployment")
            .collect();
        let mut seen = 0;
        for document in &documents {
            let Some(labels) = selector(document) else {
                continue;
            };
            seen += 1;
            let found: Vec<_> = workloads
                .iter()
                .filter(|workload| {
                    let pod = &workload["spec"]["template"]["metadata"]["labels"];
                    let mut labels = labels.as_mapping().unwrap().iter();
                    labels.all(|(label, value)| pod.get(label) == Some(value))
                })
                .map(|workload| &workload["metadata"]["name"])
                .collect();
            assert_eq!(found, [&document["metadata"]["name"]], "{document:?}");
        }
        // Three of each but the budget, which the controller alone has.
        assert_eq!(seen, 13);
    }
}

#[test]
fn a_drain_takes_one_controller_at_a_time_where_there_are_several() {
    let budget = |settings: &str| {
        let objects = objects(settings);
        objects.into_iter().find_map(|object| match object {
            Object::DisruptionBudget(budget) => budget.spec,
            _ => None,
        })
    };
    assert_eq!(budget("controller.replicas=1"), None);
    let off = "controller.replicas=2,controller.pdb.enabled=false";
    assert_eq!(budget(off), None);
    let one = Some(IntOrString::Int(1));
    let half = Some(IntOrString::String("50%".to_owned()));
    for (settings, away, left) in [
        ("", one.clone(), None),
        ("controller.pdb.minAvailable=1", None, one.clone()),
        ("controller.pdb.maxUnavailable=50%", half, None),
        (
            "controller.pdb.minAvailable=2,controller.pdb.maxUnavailable=1",
            one,
            None,
        ),
    ] {
        let budget = budget(&format!("controller.replicas=2,{settings}")).unwrap();
        assert_eq!(budget.max_unavailable, away, "{settings}");
        assert_eq!(budget.min_available, left, "{settings}");
    }
}

#[test]
fn monitors_scrape_the_port_and_the_path_that_the_values_name() {
    let install = Install::default().set(
        "monitoring.podMonitor.enabled=true,monitoring.podMonitor.interval=15s,\
         monitoring.podMonitor.labels.release=prometheus,kubeletPlugin.metrics.metricsPath=/m",
    );
    let documents = install.render().unwrap();
    let named = |kind: &str, name: &str| {
        let mut documents = documents.iter().filter(|document| document["kind"] == kind);
        let document = documents.find(|document| document["metadata"]["name"] == name);
        document.unwrap().clone()
    };
    let monitor = named("PodMonitor", "tessera-kubelet-plugin");
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    assert_eq!(endpoint["path"], "/m");
    assert_eq!(endpoint["interval"], "15s");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let plugin = named("DaemonSet", "tessera-kubelet-plugin");
    let container = &plugin["spec"]["template"]["spec"]["containers"][0];
    let ports = container["ports"].as_sequence().unwrap();
    assert!(ports.iter().any(|port| port["name"] == endpoint["port"]));
}
