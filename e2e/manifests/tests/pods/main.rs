//! The chart's pods against the programs that run in them.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

mod sessions;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use clap::Parser;
use k8s_openapi::api::apps::v1::RollingUpdateDaemonSet;
use k8s_openapi::api::core::v1::{Container, Toleration};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tessera_manifests::chart::Install;
use tessera_manifests::rendered::{
    controller, everything, objects, plugin, plugin_set, session_host_set,
};
use tessera_manifests::strict::Object;

const AGENT: &str = "memory-agent";

fn literals(container: &Container) -> BTreeMap<&str, &str> {
    let variables = container.env.iter().flatten();
    variables
        .filter_map(|env| Some((env.name.as_str(), env.value.as_deref()?)))
        .collect()
}

/// Asserts that `program` understands every variable of `container` and its value.
#[track_caller]
fn understood<P: Parser>(container: &Container, but: &[&str]) {
    let program = P::command();
    let mut line: Vec<String> = container.command.clone().unwrap();
    for variable in container.env.iter().flatten() {
        if but.contains(&variable.name.as_str()) {
            continue;
        }
        let argument = program
            .get_arguments()
            .find(|argument| argument.get_env() == Some(variable.name.as_ref()))
            .unwrap_or_else(|| panic!("the program does not read {}", variable.name));
        let value = variable.value.as_deref().unwrap_or("from-the-pod");
        line.push(format!("--{}={value}", argument.get_long().unwrap()));
    }
    if let Err(error) = P::try_parse_from(&line) {
        panic!("{line:?}: {error}");
    }
}

#[test]
fn the_plugin_understands_every_variable_of_its_container() {
    for objects in everything().unwrap() {
        let Some(pod) = plugin(objects) else {
            continue;
        };
        let agent = |container: &&Container| container.name == AGENT;
        for container in pod.containers.iter().filter(|other| !agent(other)) {
            understood::<tessera_kubelet_plugin::args::Args>(container, &["NAMESPACE"]);
        }
        for container in pod.containers.iter().filter(agent) {
            understood::<tessera_agent::args::Args>(container, &[]);
        }
    }
}

/// It shares nothing with the plugin but what it reads, and has no token of the pod's account.
#[test]
fn the_memory_agent_reads_what_the_plugin_writes_and_can_write_none_of_it() {
    let settings = "consumableShares=memory,memoryAgent.enabled=true";
    let objects = objects(&Install::default().set(settings)).unwrap();
    let pod = plugin(&objects).unwrap();
    let named = |name: &str| {
        let mut containers = pod.containers.iter();
        containers.find(|container| container.name == name).unwrap()
    };
    assert_eq!(literals(named("gpus"))["MEMORY_AGENT"], "true");
    assert!(!literals(named("compute-domains")).contains_key("MEMORY_AGENT"));
    let agent = named(AGENT);
    let mounts = agent.volume_mounts.as_ref().unwrap();
    assert!(mounts.iter().all(|mount| mount.read_only == Some(true)));
    let token = "/var/run/secrets/kubernetes.io/serviceaccount";
    assert!(mounts.iter().any(|mount| mount.mount_path == token));
    let told = literals(agent);
    for (variable, value) in &told {
        if variable.ends_with("_PATH") && *variable != "METRICS_PATH" {
            let is_there = mounts.iter().any(|mount| mount.mount_path == *value);
            assert!(is_there, "{variable}");
        }
    }
    let without = rendered_without_agent();
    let pod = plugin(&without).unwrap();
    assert!(
        pod.containers
            .iter()
            .all(|container| container.name != AGENT)
    );
    assert!(!literals(&pod.containers[0]).contains_key("MEMORY_AGENT"));
}

fn rendered_without_agent() -> Vec<Object> {
    objects(&Install::default().set("consumableShares=memory")).unwrap()
}

#[test]
fn the_container_for_gpus_alone_tells_how_shares_fare() {
    let settings = "consumableShares=memory,shareStatus.enabled=true";
    let objects = objects(&Install::default().set(settings)).unwrap();
    for container in &plugin(&objects).unwrap().containers {
        let told = literals(container).get("SHARE_STATUS").copied();
        let expected = (container.name == "gpus").then_some("true");
        assert_eq!(told, expected, "{}", container.name);
    }
    let without = rendered_without_agent();
    let plugin = plugin(&without).unwrap();
    assert!(!literals(&plugin.containers[0]).contains_key("SHARE_STATUS"));
}

#[test]
fn the_container_for_gpus_alone_is_told_how_devices_are_shared() {
    for (setting, expected) in [
        ("consumableShares=", None),
        ("consumableShares=memory", Some("memory")),
        ("consumableShares=10", Some("10")),
        ("consumableShares=3000000", Some("3000000")),
    ] {
        let objects = objects(&Install::default().set(setting)).unwrap();
        for container in &plugin(&objects).unwrap().containers {
            let mut variables = container.env.iter().flatten();
            let told = variables.find(|variable| variable.name == "CONSUMABLE_SHARES");
            let told = told.and_then(|variable| variable.value.as_deref());
            let expected = expected.filter(|_| container.name == "gpus");
            assert_eq!(told, expected, "{setting}, {}", container.name);
            let words = told
                .into_iter()
                .map(|value| format!("--consumable-shares={value}"));
            let line = ["plugin", "--node-name=n"].map(str::to_owned);
            let parsed =
                tessera_kubelet_plugin::args::Args::try_parse_from(line.into_iter().chain(words));
            assert!(parsed.is_ok(), "{setting}");
        }
    }
}

#[test]
fn the_controller_understands_every_variable_of_its_container() {
    for objects in everything().unwrap() {
        understood::<tessera_controller::args::Args>(
            &controller(objects).unwrap().containers[0],
            &[],
        );
    }
}

#[test]
fn the_uninstallation_runs_a_command_that_the_controller_has() {
    let objects = objects(&Install::default()).unwrap();
    let job = objects
        .iter()
        .find(|object| matches!(object, Object::Job(_)))
        .unwrap();
    let line = job.pod().unwrap().containers[0].command.clone().unwrap();
    let args = tessera_controller::args::Args::try_parse_from(line).unwrap();
    assert_eq!(
        args.command,
        Some(tessera_controller::args::Command::Cleanup)
    );
}

#[test]
fn the_webhook_is_asked_where_it_answers_under_a_name_of_its_certificate() {
    let objects =
        objects(&Install::default().set("webhook.enabled=true,namespaceOverride=ns")).unwrap();
    let pod = objects
        .iter()
        .find(|object| object.name().ends_with("-webhook") && object.pod().is_some())
        .and_then(Object::pod)
        .unwrap();
    let container = &pod.containers[0];
    let mut line = container.command.clone().unwrap();
    for (variable, flag) in [
        ("TLS_CERT_FILE", "--tls-cert-file"),
        ("TLS_PRIVATE_KEY_FILE", "--tls-private-key-file"),
        ("WEBHOOK_PORT", "--port"),
    ] {
        line.push(format!("{flag}={}", literals(container)[variable]));
    }
    let args = tessera_controller::args::Args::try_parse_from(line).unwrap();
    let Some(tessera_controller::args::Command::Webhook(webhook)) = args.command else {
        panic!("{:?}", args.command);
    };
    let ports = container.ports.as_ref().unwrap();
    assert_eq!(ports[0].container_port, i32::from(webhook.port));
    let asked = objects.iter().find_map(|object| match object {
        Object::Webhook(configuration) => configuration.webhooks.as_ref(),
        _ => None,
    });
    let service = asked.unwrap()[0].client_config.service.as_ref().unwrap();
    assert_eq!(
        service.path.as_deref(),
        Some(tessera_controller::webhook::PATH)
    );
    let certificate = objects.iter().find_map(|object| match object {
        Object::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    let spec = &certificate.unwrap().spec;
    let name = format!("{}.{}.svc", service.name, service.namespace);
    assert_eq!(spec["dnsNames"][0].as_str(), Some(name.as_str()));
    let mounted = pod.volumes.as_ref().unwrap()[0].secret.as_ref().unwrap();
    assert_eq!(spec["secretName"].as_str(), mounted.secret_name.as_deref());
}

#[test]
fn every_directory_that_the_plugin_is_told_of_is_mounted_from_the_same_path_of_the_host() {
    for objects in everything().unwrap() {
        let containers = plugin(objects).into_iter().flat_map(|pod| {
            let each = pod.containers.iter().filter(|one| one.name != AGENT);
            each.map(move |container| (pod, container))
        });
        for (pod, container) in containers {
            let mounts: BTreeMap<_, _> = container
                .volume_mounts
                .iter()
                .flatten()
                .map(|mount| (mount.mount_path.as_str(), mount))
                .collect();
            let host_path = |name: &str| {
                let volume = pod
                    .volumes
                    .iter()
                    .flatten()
                    .find(|volume| volume.name == name)
                    .unwrap();
                volume.host_path.as_ref().unwrap().path.as_str()
            };
            let environment = literals(container);
            for name in [
                "CDI_ROOT",
                "KUBELET_REGISTRAR_DIRECTORY_PATH",
                "KUBELET_PLUGINS_DIRECTORY_PATH",
                "STATE_DIRECTORY_PATH",
            ] {
                let path = environment[name];
                assert_eq!(host_path(&mounts[path].name), path, "{name}");
                assert_ne!(mounts[path].read_only, Some(true), "{name}");
            }
            let root = mounts[environment["DRIVER_ROOT_CTR_PATH"]];
            assert_eq!(host_path(&root.name), environment["NVIDIA_DRIVER_ROOT"]);
            assert_eq!(root.read_only, Some(true));
            assert_eq!(root.mount_propagation.as_deref(), Some("HostToContainer"));
            if let Some(devices) = environment.get("ALT_PROC_DEVICES_PATH") {
                let (folder, file) = devices.rsplit_once('/').unwrap();
                let found = format!("{}/{file}", host_path(&mounts[folder].name));
                assert_eq!(found, "/run/nvidia/driver/proc/devices");
            }
        }
    }
}

#[test]
fn each_driver_runs_in_a_container_of_its_own_and_either_can_be_left_out() {
    for (settings, drivers) in [
        (
            "image.tag=dev",
            &["--drivers=gpu", "--drivers=compute-domain"][..],
        ),
        (
            "resources.gpus.enabled=false",
            &["--drivers=compute-domain"],
        ),
        ("resources.computeDomains.enabled=false", &["--drivers=gpu"]),
        (
            "resources.gpus.enabled=false,resources.computeDomains.enabled=false",
            &[],
        ),
    ] {
        let objects = objects(&Install::default().set(settings)).unwrap();
        let containers = plugin(&objects).map_or(&[][..], |pod| &pod.containers);
        let driver = |container: &Container| container.command.as_ref().unwrap()[1].clone();
        let found: Vec<_> = containers.iter().map(driver).collect();
        assert_eq!(found, drivers, "{settings}");
        let ports = containers
            .iter()
            .flat_map(|container| container.ports.iter().flatten());
        let ports: Vec<_> = ports
            .map(|port| (port.name.as_ref(), port.container_port))
            .collect();
        let names: BTreeSet<_> = ports.iter().map(|(name, _)| name).collect();
        let numbers: BTreeSet<_> = ports.iter().map(|(_, number)| number).collect();
        assert_eq!((names.len(), numbers.len()), (ports.len(), ports.len()));
    }
}

#[test]
fn every_pod_runs_the_image_of_the_values_under_an_account_that_the_chart_makes() {
    for (setting, image) in [
        (
            "image.pullPolicy=Never",
            format!("docker.io/tessera/tessera:{}", env!("CARGO_PKG_VERSION")),
        ),
        (
            "image.pullPolicy=Never,image.repository=r.io/x,image.tag=1.2",
            "r.io/x:1.2".to_owned(),
        ),
    ] {
        let objects = objects(&Install::default().set(setting)).unwrap();
        let accounts: Vec<_> = objects
            .iter()
            .filter(|object| matches!(object, Object::ServiceAccount(_)))
            .map(Object::name)
            .collect();
        for pod in objects.iter().filter_map(Object::pod) {
            for container in &pod.containers {
                assert_eq!(container.image.as_ref(), Some(&image));
                assert_eq!(container.image_pull_policy.as_deref(), Some("Never"));
            }
            assert!(accounts.contains(&pod.service_account_name.as_deref().unwrap()));
        }
        assert_eq!(objects.iter().filter_map(Object::pod).count(), 4);
    }
}

#[test]
fn every_pod_may_be_on_a_node_that_is_held_for_a_domain_whatever_the_values_tolerate() {
    let none =
        "controller.tolerations=null,kubeletPlugin.tolerations=null,webhook.tolerations=null";
    for setting in ["webhook.enabled=true", none] {
        let objects = objects(&Install::default().set(setting)).unwrap();
        for pod in objects.iter().filter_map(Object::pod) {
            let mut tolerations = pod.tolerations.iter().flatten();
            let held = |toleration: &Toleration| match toleration.key.as_deref() {
                None => toleration.operator.as_deref() == Some("Exists"),
                Some(key) => key == tessera_domain::keys::TAINT,
            };
            assert!(tolerations.any(held), "{:?}", pod.service_account_name);
        }
    }
}

#[test]
fn feature_gates_reach_the_plugin() {
    let install =
        Install::default().set("featureGates.DynamicMIG=true,featureGates.MPSSupport=false");
    let with = objects(&install).unwrap();
    let container = &plugin(&with).unwrap().containers[0];
    assert_eq!(
        literals(container)["FEATURE_GATES"],
        "DynamicMIG=true,MPSSupport=false"
    );
    let without = objects(&Install::default()).unwrap();
    let container = &plugin(&without).unwrap().containers[0];
    assert!(!literals(container).contains_key("FEATURE_GATES"));
}

#[test]
fn time_slices_are_judged_by_the_gate_wherever_configurations_are_judged() {
    let rendered = |install: &Install| serde_json::to_string(&install.render().unwrap()).unwrap();
    let install = Install::default().set("webhook.enabled=true");
    let said = "gate TimeSlicingSettings is off";
    let off = rendered(&install);
    assert!(
        off.contains(said) && !off.contains("FEATURE_GATES"),
        "{off}"
    );
    let on = rendered(&install.set("featureGates.TimeSlicingSettings=true"));
    assert!(!on.contains(said), "{on}");
    // The plugin's containers for GPUs and for compute domains, and the webhook.
    let told = on.matches("TimeSlicingSettings=true").count();
    assert_eq!(told, 3, "{on}");
}

#[test]
fn the_plugin_is_probed_on_its_health_port_and_not_at_all_without_one() {
    let with = objects(&Install::default()).unwrap();
    for container in &plugin(&with).unwrap().containers {
        let port: i32 = literals(container)["HEALTHCHECK_PORT"].parse().unwrap();
        for probe in [
            &container.startup_probe,
            &container.liveness_probe,
            &container.readiness_probe,
        ] {
            assert_eq!(probe.as_ref().unwrap().grpc.as_ref().unwrap().port, port);
        }
    }

    let without =
        objects(&Install::default().set("kubeletPlugin.containers.gpus.healthcheckPort=-1"))
            .unwrap();
    let container = &plugin(&without).unwrap().containers[0];
    assert_eq!(container.startup_probe, None);
    assert_eq!(container.liveness_probe, None);
    assert_eq!(container.readiness_probe, None);
}

/// How an update of the plugin goes, and whether each pod's sockets have names of their own.
fn update(settings: &str) -> (Option<RollingUpdateDaemonSet>, bool) {
    let objects = objects(&Install::default().set(settings)).unwrap();
    let strategy = plugin_set(&objects).unwrap().spec.update_strategy.clone();
    let container = &plugin(&objects).unwrap().containers[0];
    let mut variables = container.env.iter().flatten();
    let own_names = variables.any(|variable| variable.name == "POD_UID");
    (
        strategy.and_then(|strategy| strategy.rolling_update),
        own_names,
    )
}

#[test]
fn sockets_have_names_of_their_own_exactly_where_two_pods_can_be_on_a_node() {
    let int = |number| Some(IntOrString::Int(number));
    let text = |text: &str| Some(IntOrString::String(text.to_owned()));
    let rolling = |max_surge, max_unavailable| {
        Some(RollingUpdateDaemonSet {
            max_surge,
            max_unavailable,
        })
    };
    let at = "kubeletPlugin.updateStrategy";
    for (settings, wanted) in [
        ("image.tag=1.0".to_owned(), (rolling(int(1), int(0)), true)),
        (
            format!("{at}.rollingUpdate.maxSurge=10%"),
            (rolling(text("10%"), int(0)), true),
        ),
        // What a values file for the reference chart has.
        (
            format!("{at}.rollingUpdate.maxUnavailable=100%"),
            (rolling(None, text("100%")), false),
        ),
        (
            format!("{at}.rollingUpdate.maxUnavailable=1,{at}.rollingUpdate.maxSurge=0"),
            (rolling(None, int(1)), false),
        ),
        (
            format!("{at}.type=OnDelete,{at}.rollingUpdate=null"),
            (None, false),
        ),
        (format!("{at}=null"), (None, false)),
    ] {
        assert_eq!(update(&settings), wanted, "{settings}");
    }
}

#[test]
fn a_pod_that_is_told_to_stop_has_time_for_a_longest_call_of_the_kubelet() {
    let objects = objects(&Install::default()).unwrap();
    let grace = plugin(&objects).unwrap().termination_grace_period_seconds;
    let longest = i64::try_from(tessera_proto::CALL_LIMIT.as_secs()).unwrap();
    assert!(grace.unwrap() >= longest + 10);
}
