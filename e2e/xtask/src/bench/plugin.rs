//! The plugin on the cluster's only node.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use tessera_cluster::Node;
use tessera_scenarios::kubernetes::{Kubernetes, Objects, Scope, uid};
use tessera_scenarios::release::RELEASE;

use super::memory;
use crate::shipped::PLUGIN;

/// What a pod of the plugin may take to come or go: its own grace is 30 s.
const LIMIT: Duration = Duration::from_mins(1);

/// The node that is measured.
pub(super) fn node(kubernetes: Kubernetes<'_>) -> anyhow::Result<&Node> {
    kubernetes
        .cluster()
        .nodes()
        .first()
        .context("find a node: the cluster has none")
}

/// The plugin's pod by name, waited for until it runs.
pub(super) fn pod(kubernetes: Kubernetes<'_>) -> anyhow::Result<(String, Pod)> {
    let scope = Scope::Namespace(RELEASE);
    let what = "the plugin's pod to run";
    let found = kubernetes.wait(scope, what, LIMIT, |pods: &Objects<Pod>| {
        let mut ours = pods.iter().filter(|(_, pod)| is_plugin(pod) && runs(pod));
        ours.next().map(|(name, pod)| (name.clone(), pod.clone()))
    })?;
    Ok(found)
}

/// Waits until the plugin has no pod.
pub(super) fn gone(kubernetes: Kubernetes<'_>) -> anyhow::Result<()> {
    let scope = Scope::Namespace(RELEASE);
    let what = "the plugin's pod to be gone";
    kubernetes.wait(scope, what, LIMIT, |pods: &Objects<Pod>| {
        (!pods.values().any(is_plugin)).then_some(())
    })?;
    Ok(())
}

/// The plugin's process that does the work, as the machine counts processes.
pub(super) fn worker(kubernetes: Kubernetes<'_>) -> anyhow::Result<u32> {
    let (name, pod) = pod(kubernetes)?;
    memory::process(&uid(&pod), PLUGIN)
        .with_context(|| format!("find the plugin's process in the cgroups of pod {name}"))
}

/// The plugin's log.
pub(super) fn log(kubernetes: Kubernetes<'_>) -> anyhow::Result<String> {
    let (name, _) = pod(kubernetes)?;
    Ok(kubernetes.log(RELEASE, &name, &["--container", "gpus"])?)
}

/// The plugin's metrics, by way of the API server.
pub(super) fn metrics(kubernetes: Kubernetes<'_>) -> anyhow::Result<String> {
    let (name, _) = pod(kubernetes)?;
    let path = format!("/api/v1/namespaces/{RELEASE}/pods/{name}:8080/proxy/metrics");
    Ok(kubernetes.raw(&path)?)
}

fn is_plugin(pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    let component = labels.and_then(|labels| labels.get("app.kubernetes.io/component"));
    component.is_some_and(|component| component == "kubelet-plugin")
}

fn runs(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
}
