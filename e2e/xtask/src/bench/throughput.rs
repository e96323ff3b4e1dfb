//! How many pods with a GPU each the scheduler places in a second, by what the slices of their nodes say.
//!
//! The nodes are imagined: objects alone, without a kubelet. Their slices are those of the real node under other names. The
//! scheduler is stopped while a round's pods and claims are made, so what is timed is its work and the API server's.
//! Rounds of both kinds follow each other, so that what else the machine does meets both.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use serde_json::{Value, json};
use tessera_scenarios::kubernetes::{Kubernetes, Objects, Scope};

use super::namespace;

const NAMESPACE: &str = "bench-scheduler";

/// Imagined nodes, each with the GPUs of the real one.
const NODES: usize = 8;

/// As many as there are GPUs.
const PODS: usize = 64;

/// What a round may take.
const LIMIT: Duration = Duration::from_mins(2);

const LABEL: &str = "tessera-dra.github.io/imagined";

/// Pods per second of each round.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rates {
    /// With slices of whole GPUs alone.
    pub(super) whole: Vec<f64>,
    /// With slices of everything that a GPU can be.
    pub(super) views: Vec<f64>,
}

impl Rates {
    /// The medians, and the second as a part of the first.
    pub(super) fn compared(&self) -> Option<(f64, f64, f64)> {
        let (whole, views) = (median(&self.whole)?, median(&self.views)?);
        Some((whole, views, views / whole))
    }
}

fn median(rates: &[f64]) -> Option<f64> {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.get(sorted.len() / 2)?;
    let before = sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(*middle, *before))
}

/// Has so many rounds of pods scheduled with each of these kinds of slices.
pub(super) fn measure(
    kubernetes: Kubernetes<'_>,
    whole: &[ResourceSlice],
    views: &[ResourceSlice],
    rounds: usize,
) -> anyhow::Result<Rates> {
    namespace(kubernetes, NAMESPACE)?;
    kubernetes.apply(NAMESPACE, &list((0..NODES).map(node)).to_string())?;
    let mut rates = Rates::default();
    // The first of each fills caches, and is not told.
    for round in 0..=rounds {
        for (slices, rates) in [(whole, &mut rates.whole), (views, &mut rates.views)] {
            let rate = scheduled(kubernetes, slices)?;
            if round > 0 {
                rates.push(rate);
            }
        }
    }
    kubernetes.delete(NAMESPACE, &["nodes", "--selector", LABEL])?;
    Ok(rates)
}

fn scheduled(kubernetes: Kubernetes<'_>, slices: &[ResourceSlice]) -> anyhow::Result<f64> {
    let copies = (0..NODES).flat_map(|node| slices.iter().map(move |slice| copy(slice, node)));
    kubernetes.apply(NAMESPACE, &list(copies).to_string())?;
    let stopped = kubernetes.cluster().stop_scheduler()?;
    let pods = (0..PODS).flat_map(|pod| [claim(pod), self::pod(pod)]);
    kubernetes.apply(NAMESPACE, &list(pods).to_string())?;
    let begun = Instant::now();
    drop(stopped);
    let scope = Scope::Namespace(NAMESPACE);
    kubernetes.wait(
        scope,
        "all pods to have a node",
        LIMIT,
        |pods: &Objects<Pod>| {
            let placed = |pod: &&Pod| {
                let spec = pod.spec.as_ref();
                spec.is_some_and(|spec| spec.node_name.is_some())
            };
            (pods.values().filter(placed).count() == PODS).then_some(())
        },
    )?;
    let took = begun.elapsed();
    // No kubelet ends them.
    kubernetes.delete(NAMESPACE, &["pods", "--all", "--force", "--grace-period=0"])?;
    kubernetes.delete(NAMESPACE, &["resourceclaims", "--all", "--wait=false"])?;
    let what = "no claim to be left";
    kubernetes.wait(scope, what, LIMIT, |claims: &Objects<ResourceClaim>| {
        claims.is_empty().then_some(())
    })?;
    kubernetes.delete(NAMESPACE, &["resourceslices", "--selector", LABEL])?;
    Ok(f64::from(u32::try_from(PODS)?) / took.as_secs_f64())
}

fn list(items: impl Iterator<Item = Value>) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": items.collect::<Vec<_>>() })
}

fn node_name(node: usize) -> String {
    format!("imagined-{node}")
}

fn node(node: usize) -> Value {
    let room = json!({"cpu": "64", "memory": "512Gi", "pods": "256"});
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": node_name(node), "labels": { LABEL: "true" } },
        "status": { "capacity": room, "allocatable": room },
    })
}

/// The slice as that of an imagined node.
fn copy(slice: &ResourceSlice, node: usize) -> Value {
    let mut spec = json!(slice.spec);
    spec["nodeName"] = json!(node_name(node));
    spec["pool"]["name"] = json!(node_name(node));
    let name = slice.metadata.name.clone().unwrap_or_default();
    json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": { "name": format!("imagined-{node}-{name}"), "labels": { LABEL: "true" } },
        "spec": spec,
    })
}

fn claim(pod: usize) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": { "name": format!("gpu-{pod}") },
        "spec": { "devices": { "requests": [
            { "name": "gpu", "exactly": { "deviceClassName": "gpu.nvidia.com" } },
        ] } },
    })
}

fn pod(pod: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": format!("pod-{pod}") },
        "spec": {
            "nodeSelector": { LABEL: "true" },
            // A node without a kubelet is soon known not to be ready.
            "tolerations": [{ "operator": "Exists" }],
            "resourceClaims": [{ "name": "gpu", "resourceClaimName": format!("gpu-{pod}") }],
            "containers": [{
                "name": "main",
                "image": "docker.io/tessera/workload:1",
                "resources": { "claims": [{ "name": "gpu" }] },
            }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_compared() {
        let rates = Rates {
            whole: vec![10.0, 30.0, 20.0],
            views: vec![10.0, 20.0],
        };
        assert_eq!(rates.compared(), Some((20.0, 15.0, 0.75)));
        assert_eq!(Rates::default().compared(), None);
    }
}
