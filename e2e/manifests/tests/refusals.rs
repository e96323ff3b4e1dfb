//! Values that cannot be meant are refused with a message that names them.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::BTreeSet;

use tessera_manifests::chart::{Install, RenderError, chart, repository};

#[track_caller]
fn refused(install: &Install, mentions: &[&str]) {
    match install.render() {
        Err(RenderError::Refused(message)) => {
            for mention in mentions {
                assert!(
                    message.contains(mention),
                    "{mention:?} is not in {message:?}"
                );
            }
        }
        other => panic!("{install:?} was not refused but gave {other:?}"),
    }
}

#[test]
fn gpus_need_the_word_that_no_one_else_hands_them_out() {
    refused(
        &Install::bare(),
        &[
            "gpuResourcesEnabledOverride=true",
            "resources.gpus.enabled=false",
        ],
    );
}

#[test]
fn the_default_namespace_needs_permission() {
    let default = Install::default().into_namespace("default");
    refused(&default, &["allowDefaultNamespace=true"]);
    refused(
        &Install::default().set("namespaceOverride=default"),
        &["allowDefaultNamespace=true"],
    );
    default.set("allowDefaultNamespace=true").render().unwrap();
}

#[test]
fn keys_that_the_reference_dropped_are_refused_with_their_successor() {
    refused(
        &Install::default().set("namespace=x"),
        &["namespaceOverride"],
    );
    refused(
        &Install::default().set("nvidiaCtkPath=/x"),
        &["nvidiaCDIHookPath"],
    );
}

#[test]
fn the_image_of_the_reference_is_refused_since_our_commands_are_not_in_it() {
    let image = "registry.k8s.io/dra-driver-nvidia/dra-driver-nvidia-gpu";
    refused(
        &Install::default().set(&format!("image.repository={image}")),
        &["image.repository", image, "leave"],
    );
}

#[test]
fn an_update_that_could_not_begin_is_refused_with_both_ways_out() {
    refused(
        &Install::default().set("kubeletPlugin.updateStrategy.rollingUpdate.maxSurge=0"),
        &["maxSurge", "maxUnavailable"],
    );
}

#[test]
fn a_webhook_without_a_certificate_is_refused_with_the_values_to_set() {
    refused(
        &Install::default().set("webhook.enabled=true,webhook.tls.mode=secret"),
        &["webhook.tls.secret.name", "webhook.tls.secret.caBundle"],
    );
    refused(
        &Install::default().set("webhook.enabled=true,webhook.tls.certManager.issuerType=issuer"),
        &["webhook.tls.certManager.issuerName"],
    );
}

#[test]
fn misspelt_keys_and_wrong_types_are_refused_by_the_schema() {
    for (setting, mention) in [
        ("nvidiaDriverroot=/x", "nvidiaDriverroot"),
        ("image.pulPolicy=Never", "pulPolicy"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.tag=1", "tag"),
        ("nvidiaDriverRoot=run/nvidia", "nvidiaDriverRoot"),
        ("resourceApiVersion=v2", "resourceApiVersion"),
        ("logVerbosity=loud", "logVerbosity"),
        ("logFormat=xml", "logFormat"),
        ("resources.gpus.enabled=perhaps", "enabled"),
        ("resources.gpus.migProfiles[0]=all", "migProfiles"),
        ("kubeletPlugin.containers.gpu.env=null", "gpu"),
        (
            "kubeletPlugin.updateStrategy.rollingUpdate.maxSurge=some",
            "maxSurge",
        ),
        ("kubeletPlugin.updateStrategy.type=Sometimes", "type"),
        (
            "kubeletPlugin.containers.gpus.healthcheckPort=99999",
            "healthcheckPort",
        ),
        (
            "kubeletPlugin.metrics.gpuHttpEndpoint=8080",
            "gpuHttpEndpoint",
        ),
        (
            "controller.leaderElection.leaseDuration=15",
            "leaseDuration",
        ),
        ("controller.replicas=one", "replicas"),
        ("webhook.failurePolicy=Warn", "failurePolicy"),
        ("webhook.tls.mode=none", "mode"),
        ("consumableShares=some", "consumableShares"),
        ("consumableShares=0", "consumableShares"),
        ("featureGates.DynamicMIG=on", "DynamicMIG"),
        ("resources.computeDomains.imex.mode=mine", "driverManaged"),
        ("resources.computeDomains.imex.isolation=no", "isolation"),
        ("resources.computeDomain.enabled=true", "computeDomain"),
    ] {
        refused(&Install::default().set(setting), &["schema", mention]);
    }
}

#[test]
fn keys_of_features_that_are_not_here_yet_are_accepted() {
    for setting in [
        "featureGates.DynamicMIG=true",
        "altProcDevices=/x",
        "resources.computeDomains.imex.isolation=channel",
        "kubeletPlugin.containers.init.resources.limits.cpu=1",
        "kubeletPlugin.containers.computeDomains.healthcheckPort=51515",
        "kubeletPlugin.metrics.computeDomainHttpEndpoint=:8081",
        "controller.metrics.profilePath=/debug",
        "maskNvidiaDriverParams=true",
    ] {
        let install = Install::default().set(setting);
        install
            .render()
            .unwrap_or_else(|error| panic!("{setting}: {error}"));
    }
}

/// The messages with which the chart's templates refuse values, with … for what varies.
fn messages() -> BTreeSet<String> {
    let mut messages = BTreeSet::new();
    for file in std::fs::read_dir(chart().join("templates")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let text = text.replace("fail (printf \"", "fail \"");
        for refusal in text.split("fail \"").skip(1) {
            let (message, _) = refusal.split_once('"').unwrap();
            messages.insert(message.replace("%s", "…"));
        }
    }
    messages
}

#[test]
fn the_documentation_has_every_message_with_which_values_are_refused_and_no_other() {
    let page = std::fs::read_to_string(repository().join("docs/errors.md")).unwrap();
    let (_, section) = page.split_once("\n## Installation\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut explained = BTreeSet::new();
    for entry in section.split("\n### `").skip(1) {
        let (value, body) = entry.split_once("`\n").unwrap();
        let quoted: Vec<&str> = body
            .lines()
            .filter_map(|line| line.strip_prefix("> "))
            .collect();
        let message = quoted.join(" ");
        assert!(message.contains(value), "{value} is not in {message:?}");
        explained.insert(message);
    }
    assert_eq!(explained, messages());
}

#[test]
fn a_memory_agent_needs_shares_that_are_counted_by_memory() {
    for shares in ["consumableShares=", "consumableShares=10"] {
        let install = Install::default().set(&format!("{shares},memoryAgent.enabled=true"));
        refused(
            &install,
            &["memoryAgent.enabled", "consumableShares=memory"],
        );
    }
}

#[test]
fn the_status_of_shares_needs_devices_that_are_shared() {
    for shares in ["consumableShares=", "consumableShares=disabled"] {
        let install = Install::default().set(&format!("{shares},shareStatus.enabled=true"));
        refused(&install, &["shareStatus.enabled", "consumableShares"]);
    }
}
