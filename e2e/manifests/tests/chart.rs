//! The chart, rendered by real Helm, against what Kubernetes and the binaries accept.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use clap::Parser;
use k8s_openapi::api::apps::v1::RollingUpdateDaemonSet;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::api::rbac::v1::PolicyRule;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tessera_manifests::chart::{Install, RELEASE};
use tessera_manifests::strict::Object;

/// Installations that differ in which templates and branches they take.
fn installations() -> Vec<Install> {
    let long = "x".repeat(63);
    [
        "image.tag=dev",
        "nvidiaDriverRoot=/run/nvidia/driver,image.pullPolicy=Never",
        "resources.gpus.enabled=false",
        "serviceAccount.create=false,serviceAccount.name=mine",
        "serviceAccount.name=mine,serviceAccount.annotations.a=b",
        "kubeletPlugin.containers.gpus.healthcheckPort=-1",
        "kubeletPlugin.metrics.enabled=false,controller.metrics.enabled=false",
        "kubeletPlugin.containers.gpus.healthcheckPort=-1,kubeletPlugin.metrics.enabled=false",
        "kubeletPlugin.containers.gpus.env[0].name=SYSFS_ROOT,kubeletPlugin.containers.gpus.env[0].value=/driver-root/sys",
        "kubeletPlugin.containers.gpus.resources.limits.memory=64Mi,controller.containers.computeDomain.resources.requests.cpu=10m",
        "kubeletPlugin.nodeSelector.a=b,controller.nodeSelector.a=b,kubeletPlugin.podAnnotations.a=b,controller.podAnnotations.a=b",
        "kubeletPlugin.podSecurityContext.fsGroup=1,controller.podSecurityContext.fsGroup=1",
        "kubeletPlugin.tolerations=null,controller.tolerations=null,kubeletPlugin.affinity=null,controller.affinity=null",
        "kubeletPlugin.priorityClassName=,controller.priorityClassName=,kubeletPlugin.updateStrategy=null",
        "kubeletPlugin.updateStrategy.rollingUpdate.maxUnavailable=100%",
        "imagePullSecrets[0].name=secret,nvidiaCDIHookPath=/usr/bin/nvidia-cdi-hook,logFormat=text,logVerbosity=6",
        "controller.metrics.httpEndpoint=[::]:9090,kubeletPlugin.metrics.gpuHttpEndpoint=127.0.0.1:9091,controller.replicas=2",
        "fullnameOverride=other,namespaceOverride=elsewhere,nameOverride=third",
        "selectorLabelsOverride.app=gpu",
        "uninstall.deleteResourceSlices=false,resources.computeDomains.enabled=false",
        "controller.leaderElection.enabled=false",
        "global.anything=true",
        "webhook.enabled=true",
        "webhook.enabled=true,webhook.tls.certManager.issuerType=clusterissuer,webhook.tls.certManager.issuerName=ca",
        "webhook.enabled=true,webhook.tls.mode=secret,webhook.tls.secret.name=mine,webhook.tls.secret.caBundle=Q0E=",
        "webhook.enabled=true,webhook.containerPort=8443,webhook.servicePort=8443,webhook.serviceAccount.name=mine,webhook.podAnnotations.a=b",
        "webhook.enabled=true,webhook.strategy=null,webhook.podSecurityContext=null,webhook.tolerations=null,webhook.priorityClassName=",
        "controller.networkPolicy.enabled=true,kubeletPlugin.networkPolicy.enabled=true,controller.replicas=3",
        "controller.networkPolicy.enabled=true,kubeletPlugin.networkPolicy.enabled=true,resources.gpus.enabled=false",
        "controller.networkPolicy.enabled=true,kubeletPlugin.networkPolicy.enabled=true,controller.metrics.enabled=false,kubeletPlugin.metrics.enabled=false,kubeletPlugin.containers.gpus.healthcheckPort=-1",
        "monitoring.podMonitor.enabled=true,monitoring.podMonitor.interval=15s,monitoring.podMonitor.labels.release=prometheus",
        "monitoring.serviceMonitor.enabled=true,monitoring.dashboard.enabled=true,monitoring.dashboard.annotations.folder=gpu",
        "monitoring.service.enabled=true,kubeletPlugin.metrics.enabled=false",
    ]
    .into_iter()
    .map(|settings| Install::default().set(settings))
    .chain([Install::default(), Install::default().set(&format!("fullnameOverride={long}"))])
    .collect()
}

#[track_caller]
fn objects(install: &Install) -> Vec<Object> {
    let documents = install
        .render()
        .unwrap_or_else(|error| panic!("{install:?}: {error}"));
    let read = |document| Object::read(&document).unwrap_or_else(|error| panic!("{error:?}"));
    documents.into_iter().map(read).collect()
}

/// What each of the installations renders to.
fn rendered() -> impl Iterator<Item = &'static Vec<Object>> {
    static RENDERED: LazyLock<Vec<Vec<Object>>> =
        LazyLock::new(|| installations().iter().map(objects).collect());
    RENDERED.iter()
}

fn plugin(objects: &[Object]) -> Option<&PodSpec> {
    objects
        .iter()
        .find(|object| matches!(object, Object::DaemonSet(_)))?
        .pod()
}

fn controller(objects: &[Object]) -> &PodSpec {
    let deployment = objects
        .iter()
        .find(|object| matches!(object, Object::Deployment(_)));
    deployment.and_then(Object::pod).unwrap()
}

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
fn helm_lints_every_installation_without_a_warning() {
    for install in installations() {
        install
            .lint()
            .unwrap_or_else(|error| panic!("{install:?}: {error}"));
    }
}

#[test]
fn every_rendered_document_is_an_object_without_unknown_fields() {
    assert!(rendered().all(|objects| !objects.is_empty()));
}

#[test]
fn names_are_unique_within_their_kind_and_fit_into_a_label() {
    for objects in rendered() {
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
fn the_plugin_understands_every_variable_of_its_container() {
    for objects in rendered() {
        let Some(pod) = plugin(objects) else {
            continue;
        };
        understood::<tessera_kubelet_plugin::args::Args>(&pod.containers[0], &["NAMESPACE"]);
    }
}

/// How an update of the plugin goes, and whether each pod's sockets have names of their own.
fn update(settings: &str) -> (Option<RollingUpdateDaemonSet>, bool) {
    let objects = objects(&Install::default().set(settings));
    let set = objects.iter().find_map(|object| match object {
        Object::DaemonSet(set) => Some(set),
        _ => None,
    });
    let set = set.unwrap();
    let strategy = set.spec.clone().update_strategy;
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
    let objects = objects(&Install::default());
    let grace = plugin(&objects).unwrap().termination_grace_period_seconds;
    let longest = i64::try_from(tessera_proto::CALL_LIMIT.as_secs()).unwrap();
    assert!(grace.unwrap() >= longest + 10);
}

#[test]
fn the_controller_understands_every_variable_of_its_container() {
    for objects in rendered() {
        understood::<tessera_controller::args::Args>(&controller(objects).containers[0], &[]);
    }
}

#[test]
fn the_uninstallation_runs_a_command_that_the_controller_has() {
    let objects = objects(&Install::default());
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
fn every_directory_that_the_plugin_is_told_of_is_mounted_from_the_same_path_of_the_host() {
    for objects in rendered() {
        let Some(pod) = plugin(objects) else {
            continue;
        };
        let mounts: BTreeMap<_, _> = pod.containers[0]
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
        let environment = literals(&pod.containers[0]);
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
        let objects = objects(&Install::default().set(setting));
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
        assert_eq!(objects.iter().filter_map(Object::pod).count(), 3);
    }
}

#[test]
fn the_plugin_is_probed_on_its_health_port_and_not_at_all_without_one() {
    let with = objects(&Install::default());
    let container = &plugin(&with).unwrap().containers[0];
    let port: i32 = literals(container)["HEALTHCHECK_PORT"].parse().unwrap();
    for probe in [
        &container.startup_probe,
        &container.liveness_probe,
        &container.readiness_probe,
    ] {
        assert_eq!(probe.as_ref().unwrap().grpc.as_ref().unwrap().port, port);
    }

    let without =
        objects(&Install::default().set("kubeletPlugin.containers.gpus.healthcheckPort=-1"));
    let container = &plugin(&without).unwrap().containers[0];
    assert_eq!(container.startup_probe, None);
    assert_eq!(container.liveness_probe, None);
    assert_eq!(container.readiness_probe, None);
}

fn grants(rules: &[PolicyRule]) -> BTreeSet<String> {
    let mut grants = BTreeSet::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    let names = rule
                        .resource_names
                        .iter()
                        .flatten()
                        .cloned()
                        .collect::<Vec<_>>();
                    grants.insert(
                        format!("{verb} {resource}.{group} {}", names.join(","))
                            .trim()
                            .to_owned(),
                    );
                }
            }
        }
    }
    grants
}

#[test]
fn the_controllers_lease_is_the_one_that_is_made_and_that_its_role_names() {
    let objects = objects(&Install::default().set("fullnameOverride=other"));
    let container = &controller(&objects).containers[0];
    let lease = literals(container)["LEADER_ELECTION_LEASE_NAME"];
    let role = objects
        .iter()
        .find(|object| matches!(object, Object::Role(_)))
        .unwrap();
    assert!(
        grants(role.rules().unwrap())
            .contains(&format!("patch leases.coordination.k8s.io {lease}"))
    );
}

#[test]
fn each_binding_joins_a_role_and_an_account_that_are_rendered() {
    for objects in rendered() {
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
        objects(&Install::default().set("serviceAccount.create=false,serviceAccount.name=mine"));
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
fn the_admission_policy_matches_the_very_account_that_the_plugin_runs_under() {
    for objects in rendered() {
        let Some(pod) = plugin(objects) else {
            continue;
        };
        let set = objects
            .iter()
            .find(|object| matches!(object, Object::DaemonSet(_)))
            .unwrap();
        let user = format!(
            "\"system:serviceaccount:{}:{}\"",
            set.metadata().namespace.as_deref().unwrap(),
            pod.service_account_name.as_deref().unwrap()
        );
        let policy = objects.iter().find_map(|object| match object {
            Object::Policy(policy) if object.name().ends_with("-node-slices") => {
                policy.spec.as_ref()
            }
            _ => None,
        });
        let policy = policy.unwrap();
        let conditions = policy.match_conditions.as_ref().unwrap();
        assert!(
            conditions[0].expression.ends_with(&user),
            "{conditions:?} {user}"
        );
        let rules = policy
            .match_constraints
            .as_ref()
            .unwrap()
            .resource_rules
            .as_ref()
            .unwrap();
        let operations = rules[0].operations.as_ref().unwrap();
        assert_eq!(operations[..], ["CREATE", "UPDATE", "DELETE"]);
    }
}

#[test]
fn the_webhook_is_asked_where_it_answers_under_a_name_of_its_certificate() {
    let objects = objects(&Install::default().set("webhook.enabled=true,namespaceOverride=ns"));
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
fn switching_gpus_off_leaves_nothing_that_concerns_nodes() {
    let everything = "controller.networkPolicy.enabled=true,kubeletPlugin.networkPolicy.enabled=true,\
                      monitoring.podMonitor.enabled=true,monitoring.serviceMonitor.enabled=true";
    let install = Install::bare()
        .set("resources.gpus.enabled=false")
        .set(everything)
        .serving("security.openshift.io/v1");
    let objects = objects(&install);
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
    let objects = objects(&Install::default());
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
