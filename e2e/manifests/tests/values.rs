//! Every value key of the reference chart, with its default there, against the chart's own.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::{BTreeMap, BTreeSet};

use serde_yaml_ng::Value;
use tessera_manifests::chart::{Install, chart, repository};

/// How the chart's default relates to that of the reference.
#[derive(Clone, Copy, Debug)]
enum Ours {
    /// The same.
    Same(&'static str),
    /// Another, for the reason.
    Differs(&'static str, &'static str),
    /// None in either chart's values; the key is taken all the same.
    Unlisted(&'static str),
}

use Ours::{Differs, Same, Unlisted};

const HARDENED: &str = "the program needs no right in its container";

/// Keys and defaults of the reference chart, as JSON.
const KEYS: &[(&str, Ours)] = &[
    ("nvidiaDriverRoot", Same("\"/\"")),
    ("nvidiaCDIHookPath", Same("\"\"")),
    ("altProcDevices", Same("\"\"")),
    ("nameOverride", Same("\"\"")),
    ("fullnameOverride", Same("\"\"")),
    ("namespaceOverride", Same("\"\"")),
    ("selectorLabelsOverride", Same("{}")),
    ("allowDefaultNamespace", Same("false")),
    ("gpuResourcesEnabledOverride", Same("false")),
    ("consumableShares", Same("\"\"")),
    ("resourceApiVersion", Same("\"\"")),
    ("imagePullSecrets", Same("[]")),
    (
        "image.repository",
        Differs(
            "\"registry.k8s.io/dra-driver-nvidia/dra-driver-nvidia-gpu\"",
            "it is our image",
        ),
    ),
    ("image.pullPolicy", Same("\"IfNotPresent\"")),
    ("image.tag", Same("\"\"")),
    ("serviceAccount.create", Same("true")),
    ("serviceAccount.annotations", Same("{}")),
    ("serviceAccount.name", Same("\"\"")),
    ("resources.gpus.enabled", Same("true")),
    ("resources.computeDomains.enabled", Same("true")),
    (
        "resources.computeDomains.imex.mode",
        Differs(
            "\"driverManaged\"",
            "one session for each clique is there before a pod asks; driverManaged means it too",
        ),
    ),
    (
        "resources.computeDomains.imex.isolation",
        Same("\"domain\""),
    ),
    (
        "resources.computeDomains.imex.hostSocketPath",
        Same("\"/etc/nvidia-imex/imex_ctrl.sock\""),
    ),
    ("resources.computeDomains.imex.config", Same("{}")),
    ("gpuDriverConfig.default", Same("\"\"")),
    (
        "gpuDriverConfig.map",
        Same(
            r#"{"container":"version: v1alpha1\ngpu:\n  advertisedDeviceTypes: [gpu, mig]",
                "passthrough":"version: v1alpha1\ngpu:\n  advertisedDeviceTypes: [vfio]"}"#,
        ),
    ),
    ("featureGates", Same("{}")),
    ("logVerbosity", Same("\"4\"")),
    ("maskNvidiaDriverParams", Unlisted("true")),
    ("controller.replicas", Same("1")),
    (
        "controller.pdb.enabled",
        Differs("false", "a second replica is there so that one is left"),
    ),
    ("controller.pdb.minAvailable", Unlisted("1")),
    ("controller.pdb.maxUnavailable", Unlisted("1")),
    (
        "controller.leaderElection.enabled",
        Differs(
            "false",
            "a rolling update runs two controllers, which would both act",
        ),
    ),
    ("controller.leaderElection.leaseDuration", Same("\"15s\"")),
    ("controller.leaderElection.renewDeadline", Same("\"10s\"")),
    ("controller.leaderElection.retryPeriod", Same("\"2s\"")),
    ("controller.metrics.enabled", Same("true")),
    ("controller.metrics.httpEndpoint", Same("\":8080\"")),
    ("controller.metrics.metricsPath", Same("\"/metrics\"")),
    ("controller.metrics.profilePath", Same("\"\"")),
    (
        "controller.priorityClassName",
        Same("\"system-node-critical\""),
    ),
    ("controller.podAnnotations", Same("{}")),
    ("controller.podSecurityContext", Same("{}")),
    ("controller.nodeSelector", Same("{}")),
    (
        "controller.tolerations",
        Same(
            r#"[{"key":"node-role.kubernetes.io/control-plane","operator":"Exists","effect":"NoSchedule"},
                {"key":"node-role.kubernetes.io/master","operator":"Exists","effect":"NoSchedule"},
                {"key":"CriticalAddonsOnly","operator":"Exists"}]"#,
        ),
    ),
    (
        "controller.containers.computeDomain.securityContext",
        Differs("{}", HARDENED),
    ),
    ("controller.containers.computeDomain.env", Same("[]")),
    ("controller.containers.computeDomain.resources", Same("{}")),
    (
        "controller.affinity",
        // In outline: it prefers nodes of the control plane and spreads its replicas.
        Differs(
            r#"{"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":1,"preference":
                {"matchExpressions":[{"key":"node-role.kubernetes.io/control-plane","operator":"Exists"}]}}]},
                "podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":1,"podAffinityTerm":
                {"topologyKey":"kubernetes.io/hostname","labelSelector":{"matchLabels":{"app":"controller"}}}}]}}"#,
            "one replica needs no spreading",
        ),
    ),
    ("controller.networkPolicy.enabled", Same("false")),
    ("kubeletPlugin.metrics.enabled", Same("true")),
    ("kubeletPlugin.metrics.gpuHttpEndpoint", Same("\":8080\"")),
    (
        "kubeletPlugin.metrics.computeDomainHttpEndpoint",
        Same("\":8081\""),
    ),
    ("kubeletPlugin.metrics.metricsPath", Same("\"/metrics\"")),
    (
        "kubeletPlugin.priorityClassName",
        Same("\"system-node-critical\""),
    ),
    (
        "kubeletPlugin.updateStrategy",
        Differs(
            r#"{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":"100%"}}"#,
            "an update leaves no gap in which pods that start would fail",
        ),
    ),
    ("kubeletPlugin.podAnnotations", Same("{}")),
    ("kubeletPlugin.podSecurityContext", Same("{}")),
    ("kubeletPlugin.nodeSelector", Same("{}")),
    (
        "kubeletPlugin.tolerations",
        Same(r#"[{"key":"nvidia.com/gpu","operator":"Exists","effect":"NoSchedule"}]"#),
    ),
    (
        "kubeletPlugin.kubeletRegistrarDirectoryPath",
        Same("\"/var/lib/kubelet/plugins_registry\""),
    ),
    (
        "kubeletPlugin.kubeletPluginsDirectoryPath",
        Same("\"/var/lib/kubelet/plugins\""),
    ),
    ("kubeletPlugin.containers.init.securityContext", Same("{}")),
    ("kubeletPlugin.containers.init.resources", Same("{}")),
    ("kubeletPlugin.containers.computeDomains.env", Same("[]")),
    (
        "kubeletPlugin.containers.computeDomains.securityContext",
        Same(r#"{"privileged":true}"#),
    ),
    (
        "kubeletPlugin.containers.computeDomains.resources",
        Same("{}"),
    ),
    (
        "kubeletPlugin.containers.computeDomains.healthcheckPort",
        Same("51515"),
    ),
    (
        "kubeletPlugin.containers.computeDomains.gpuCliqueLabelEnabled",
        Same("false"),
    ),
    ("kubeletPlugin.containers.gpus.env", Same("[]")),
    (
        "kubeletPlugin.containers.gpus.securityContext",
        Same(r#"{"privileged":true}"#),
    ),
    (
        "kubeletPlugin.containers.gpus.resources",
        Differs("{}", "without a request a busy node starves the plugin"),
    ),
    (
        "kubeletPlugin.containers.gpus.healthcheckPort",
        Same("51516"),
    ),
    (
        "kubeletPlugin.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms",
        Same(
            r#"[{"matchExpressions":[{"key":"feature.node.kubernetes.io/pci-10de.present","operator":"In","values":["true"]}]},
                {"matchExpressions":[{"key":"feature.node.kubernetes.io/pci-0302_10de.present","operator":"In","values":["true"]}]},
                {"matchExpressions":[{"key":"feature.node.kubernetes.io/pci-0300_10de.present","operator":"In","values":["true"]}]},
                {"matchExpressions":[{"key":"feature.node.kubernetes.io/cpu-model.vendor_id","operator":"In","values":["NVIDIA"]}]},
                {"matchExpressions":[{"key":"nvidia.com/gpu.present","operator":"In","values":["true"]}]}]"#,
        ),
    ),
    ("kubeletPlugin.networkPolicy.enabled", Same("false")),
    ("webhook.enabled", Same("false")),
    ("webhook.replicas", Same("1")),
    ("webhook.servicePort", Same("443")),
    ("webhook.containerPort", Same("443")),
    (
        "webhook.priorityClassName",
        Same("\"system-cluster-critical\""),
    ),
    (
        "webhook.strategy",
        // In outline: there it is never rendered.
        Differs(
            r#"{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":"100%"}}"#,
            "an update must not leave the API server without an answer",
        ),
    ),
    ("webhook.podAnnotations", Same("{}")),
    (
        "webhook.podSecurityContext",
        Differs("{}", "the port is below 1024 and the user is not root"),
    ),
    ("webhook.nodeSelector", Same("{}")),
    (
        "webhook.tolerations",
        Same(r#"[{"key":"CriticalAddonsOnly","operator":"Exists"}]"#),
    ),
    ("webhook.affinity", Same("{}")),
    (
        "webhook.containers.webhook.securityContext",
        Differs(r#"{"privileged":false}"#, HARDENED),
    ),
    ("webhook.containers.webhook.resources", Same("{}")),
    ("webhook.serviceAccount.create", Same("true")),
    ("webhook.serviceAccount.name", Same("\"\"")),
    ("webhook.failurePolicy", Same("\"Fail\"")),
    ("webhook.tls.mode", Same("\"cert-manager\"")),
    ("webhook.tls.certManager.issuerType", Same("\"selfsigned\"")),
    ("webhook.tls.certManager.issuerName", Same("\"\"")),
    ("webhook.tls.certManager.dnsNames", Same("[]")),
    ("webhook.tls.secret.name", Same("\"\"")),
    ("webhook.tls.secret.caBundle", Same("\"\"")),
];

fn json(text: &str) -> Value {
    serde_yaml_ng::from_str(text).unwrap()
}

fn at<'a>(values: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(values, |at, part| at.get(part))
}

/// A values file with `value` at `key`.
fn file(entries: &[(&str, Value)]) -> tempfile::NamedTempFile {
    let mut values = Value::Mapping(serde_yaml_ng::Mapping::new());
    for (key, value) in entries {
        let place = key.split('.').fold(&mut values, |at, part| {
            if at.is_null() {
                *at = Value::Mapping(serde_yaml_ng::Mapping::new());
            }
            at.as_mapping_mut()
                .unwrap()
                .entry(part.into())
                .or_insert(Value::Null)
        });
        *place = value.clone();
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), serde_yaml_ng::to_string(&values).unwrap()).unwrap();
    file
}

#[test]
fn each_key_of_the_reference_has_its_default_or_a_reason_for_another() {
    let values = std::fs::read_to_string(chart().join("values.yaml")).unwrap();
    let values = json(&values);
    for (key, default) in KEYS {
        let ours = at(&values, key);
        match default {
            Same(text) => assert_eq!(ours, Some(&json(text)), "{key}"),
            Differs(text, reason) => {
                assert!(ours.is_some() && ours != Some(&json(text)), "{key}");
                assert!(!reason.is_empty(), "{key}");
            }
            Unlisted(_) => assert_eq!(ours, None, "{key}"),
        }
    }
}

#[test]
fn a_values_file_with_every_key_of_the_reference_renders() {
    let entries: Vec<_> = KEYS
        .iter()
        .map(|(key, default)| match default {
            // The image is the one value that a user has to leave out.
            _ if *key == "image.repository" => (*key, json("r.io/tessera")),
            Same(text) | Differs(text, _) | Unlisted(text) => (*key, json(text)),
        })
        .collect();
    let file = file(&entries);
    let install = Install::default().values(file.path());
    assert!(!install.render().unwrap().is_empty());
}

/// By this file a scenario comes from a release of the reference.
#[test]
fn the_values_file_of_the_scenarios_has_every_key_of_the_reference_and_no_other() {
    let path = repository().join("e2e/scenarios/data/reference-values.yaml");
    let values = json(&std::fs::read_to_string(&path).unwrap());
    let mut listed = 0;
    for (key, default) in KEYS {
        let found = at(&values, key);
        match default {
            Same(text) => assert_eq!(found, Some(&json(text)), "{key}"),
            Differs(..) => assert!(found.is_some(), "{key}"),
            Unlisted(_) => assert_eq!(found, None, "{key}"),
        }
        listed += usize::from(found.is_some());
    }
    assert_eq!(leaves(&values, ""), listed);
    // With our image in place of the reference's it is what our chart takes.
    let image = file(&[("image.repository", json("r.io/tessera"))]);
    let install = Install::default().values(&path).values(image.path());
    assert!(!install.render().unwrap().is_empty());
}

/// How many keys of the reference lie in these values. What is below one of them is its value.
fn leaves(values: &Value, at: &str) -> usize {
    let Some(fields) = values.as_mapping().filter(|_| !is_key(at)) else {
        return usize::from(is_key(at));
    };
    let below = |(name, value): (&Value, &Value)| {
        let name = name.as_str().unwrap();
        let key = if at.is_empty() {
            name.to_owned()
        } else {
            format!("{at}.{name}")
        };
        let leaves = leaves(value, &key);
        assert!(leaves > 0, "{key} is no key of the reference");
        leaves
    };
    fields.iter().map(below).sum()
}

fn is_key(key: &str) -> bool {
    KEYS.iter().any(|(known, _)| *known == key)
}

#[test]
fn no_affinity_at_all_is_taken_as_every_node() {
    let file = file(&[("kubeletPlugin.affinity", Value::Null)]);
    Install::default().values(file.path()).render().unwrap();
}

#[test]
fn each_key_without_effect_is_one_of_the_reference_and_silent_at_its_default() {
    let table = std::fs::read_to_string(chart().join("without-effect.yaml")).unwrap();
    let table = json(&table);
    let keys: BTreeMap<_, _> = KEYS.iter().copied().collect();
    for row in table.as_sequence().unwrap() {
        let key = row["key"].as_str().unwrap();
        let silent = row.get("silent").unwrap();
        assert!(["not yet", "never"].contains(&row["when"].as_str().unwrap()));
        assert!(!row["why"].as_str().unwrap().is_empty());
        match keys.get(key) {
            Some(Same(text)) => assert_eq!(silent, &json(text), "{key}"),
            Some(Unlisted(text)) => assert_ne!(silent, &json(text), "{key}"),
            other => panic!("{key}: {other:?}"),
        }
    }
}

#[test]
fn the_page_on_migration_has_each_key_whose_default_differs_and_no_other() {
    let page = std::fs::read_to_string(repository().join("docs/migration.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let keys = rows.filter_map(|row| row.split(" | ").next());
    let named: BTreeSet<_> = keys
        .flat_map(|keys| keys.trim_matches('`').split("`, `"))
        .collect();
    let differing = KEYS
        .iter()
        .filter(|(_, default)| matches!(default, Differs(..)));
    assert_eq!(named, differing.map(|(key, _)| *key).collect());
}
