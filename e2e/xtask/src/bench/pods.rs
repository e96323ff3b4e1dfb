//! Pods with one GPU each, and what the kubelet says that the plugin took for them.
//!
//! The kubelet's histogram starts at 0.1 s, so only its mean says anything about milliseconds.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use tessera_cluster::images::WORKLOAD;
use tessera_scenarios::Failure;
use tessera_scenarios::gpus::DRIVER;
use tessera_scenarios::kubernetes::{Kubernetes, Objects, Scope};

use super::exposition::{Totals, totals};
use super::plugin;

/// What eight pods may take to run on a busy machine of two cores.
const START_LIMIT: Duration = Duration::from_mins(1);

/// What a load of pods came to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Load {
    /// `NodePrepareResources`, as the kubelet sees it.
    pub(super) prepare: Totals,
    /// `NodeUnprepareResources`, as the kubelet sees it.
    pub(super) unprepare: Totals,
    /// What of it passed inside the plugin, per claim.
    pub(super) prepare_inside: Totals,
    /// What of it passed inside the plugin, per claim.
    pub(super) unprepare_inside: Totals,
    /// From the answer to the creation until all pods of the round are seen to run.
    pub(super) started: Vec<Duration>,
}

/// Lets `rounds` times `width` pods come and go.
pub(super) fn run(
    kubernetes: Kubernetes<'_>,
    namespace: &str,
    rounds: usize,
    width: usize,
) -> anyhow::Result<Load> {
    let node = plugin::node(kubernetes)?;
    let kubelet = || kubernetes.raw(&format!("/api/v1/nodes/{}/proxy/metrics", node.name()));
    kubernetes.apply(namespace, TEMPLATE)?;
    let (kubelet_before, plugin_before) = (kubelet()?, plugin::metrics(kubernetes)?);
    let mut started = Vec::new();
    for round in 0..rounds {
        started.push(come(kubernetes, namespace, round, width)?);
        kubernetes.delete(namespace, &["pods", "--all"])?;
    }
    let (kubelet_after, plugin_after) = (kubelet()?, plugin::metrics(kubernetes)?);
    let calls = |method: &str| calls(&kubelet_after, method).since(calls(&kubelet_before, method));
    let claims =
        |operation: &str| claims(&plugin_after, operation).since(claims(&plugin_before, operation));
    Ok(Load {
        prepare: calls("NodePrepareResources"),
        unprepare: calls("NodeUnprepareResources"),
        prepare_inside: claims("prepare"),
        unprepare_inside: claims("unprepare"),
        started,
    })
}

fn come(
    kubernetes: Kubernetes<'_>,
    namespace: &str,
    round: usize,
    width: usize,
) -> Result<Duration, Failure> {
    kubernetes.apply(namespace, &pods(round, width))?;
    let created = Instant::now();
    let what = format!("{width} pods to run");
    let scope = Scope::Namespace(namespace);
    kubernetes.wait(scope, &what, START_LIMIT, |pods: &Objects<Pod>| {
        (pods.values().filter(|pod| runs(pod)).count() == width).then_some(())
    })?;
    Ok(created.elapsed())
}

fn runs(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    status.and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// The kubelet's calls of this method that came through to our plugin.
fn calls(scrape: &str, method: &str) -> Totals {
    totals(scrape, "dra_grpc_operations_duration_seconds", |sample| {
        let called = sample.label("method_name").rsplit('/').next();
        sample.label("driver_name") == DRIVER && called == Some(method)
    })
}

fn claims(scrape: &str, operation: &str) -> Totals {
    totals(scrape, "tessera_claim_duration_seconds", |sample| {
        sample.label("operation") == operation
    })
}

const TEMPLATE: &str = "
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: one-gpu}
spec: {spec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: gpu.nvidia.com}}]}}}
";

/// Pods that end as soon as they are told to, so that none of their grace is in the figures.
fn pods(round: usize, width: usize) -> String {
    let mut yaml = String::new();
    for index in 0..width {
        let written = write!(
            yaml,
            "---
apiVersion: v1
kind: Pod
metadata: {{name: gpu-{round}-{index}}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 5
  resourceClaims: [{{name: gpu, resourceClaimTemplateName: one-gpu}}]
  containers:
    - name: main
      image: {WORKLOAD}
      imagePullPolicy: Never
      command: [/bin/sh, -c, \"trap 'exit 0' TERM; sleep 1000 & wait\"]
      resources: {{claims: [{{name: gpu}}]}}
"
        );
        debug_assert!(written.is_ok(), "a string takes every write");
    }
    yaml
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: &str = r#"
dra_grpc_operations_duration_seconds_sum{driver_name="gpu.nvidia.com",grpc_status_code="OK",method_name="/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources"} 0.5
dra_grpc_operations_duration_seconds_count{driver_name="gpu.nvidia.com",grpc_status_code="OK",method_name="/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources"} 100
dra_grpc_operations_duration_seconds_sum{driver_name="gpu.nvidia.com",grpc_status_code="OK",method_name="/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources"} 7
dra_grpc_operations_duration_seconds_sum{driver_name="net.example.com",grpc_status_code="OK",method_name="/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources"} 9
"#;

    #[test]
    fn only_the_calls_of_one_method_to_our_driver_count() {
        let prepare = calls(SCRAPE, "NodePrepareResources");
        assert_eq!(prepare.mean(), Some(Duration::from_millis(5)));
        assert_eq!(calls(SCRAPE, "NodeWatchResources"), Totals::default());
    }

    #[test]
    fn each_pod_of_a_round_has_a_name_of_its_own() {
        let yaml = pods(3, 2);
        for name in ["gpu-3-0", "gpu-3-1"] {
            assert_eq!(
                yaml.matches(&format!("{{name: {name}}}")).count(),
                1,
                "{yaml}"
            );
        }
    }
}
