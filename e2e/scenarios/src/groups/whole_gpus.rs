//! Claims of whole GPUs: each pod gets what it asked for, nobody else has it, and what is too much waits.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use super::manifests::{example, one_gpu, one_gpu_on};
use crate::context::{Context, claim_of, uuids};
use crate::failure::{Failure, same};
use crate::kubernetes::{name, runs};

pub(crate) fn one_pod_with_one_gpu_sees_exactly_that_gpu(
    context: &Context<'_>,
) -> Result<(), Failure> {
    context.apply(&example("one-gpu")?)?;
    let pods = context.running(&["one-gpu"])?;
    let held = context.held(&claim_of(&pods["one-gpu"], "gpu")?)?;
    same("the number of GPUs of the claim", &held.len(), &1)?;
    let seen = context.lists("one-gpu", "main")?;
    same("the GPUs in the pod", &seen, &uuids(&held))
}

pub(crate) fn two_pods_get_two_different_gpus(context: &Context<'_>) -> Result<(), Failure> {
    context.apply(&one_gpu("first"))?;
    context.apply(&one_gpu("second"))?;
    let pods = context.running(&["first", "second"])?;
    let mut all = BTreeSet::new();
    for pod in ["first", "second"] {
        let held = uuids(&context.held(&claim_of(&pods[pod], "gpu")?)?);
        let seen = context.seen(pod, "main")?;
        same(&format!("the GPUs in {pod}"), &seen, &held)?;
        all.extend(seen);
    }
    same("the number of different GPUs in both pods", &all.len(), &2)
}

const THREE_GPUS: &str = "
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata:
  name: three-gpus
spec:
  devices:
    requests:
    - name: gpus
      exactly:
        deviceClassName: gpu.nvidia.com
        count: 3
---
apiVersion: v1
kind: Pod
metadata:
  name: pod
spec:
  resourceClaims:
  - name: gpus
    resourceClaimName: three-gpus
  containers:
  - name: main
    image: docker.io/tessera/workload:1
    command: [sh, -c, nvidia-smi -L; echo listed; trap exit TERM; sleep 3600 & wait]
    resources:
      claims:
      - name: gpus
  terminationGracePeriodSeconds: 1
";

pub(crate) fn three_gpus_in_one_claim_are_three_different_gpus(
    context: &Context<'_>,
) -> Result<(), Failure> {
    context.apply(THREE_GPUS)?;
    context.running(&["pod"])?;
    let held: BTreeSet<_> = uuids(&context.held("three-gpus")?).into_iter().collect();
    let seen = context.seen("pod", "main")?;
    same("the number of lines of nvidia-smi -L", &seen.len(), &3)?;
    same("the GPUs in the pod", &seen.into_iter().collect(), &held)?;
    same("the number of different GPUs", &held.len(), &3)
}

/// Nine pods that each want one of the eight GPUs of one node.
const NINE: [&str; 9] = ["p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9"];

pub(crate) fn the_ninth_pod_waits_with_a_reason_and_runs_when_a_gpu_is_free(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    let manifests = NINE.map(|pod| one_gpu_on(node, pod));
    context.apply(&manifests.join("\n---\n"))?;

    let (eight, ninth) = context.pods("eight pods to run and one to have a reason", |pods| {
        let running: Vec<_> = pods.values().filter(|pod| runs(pod)).map(name).collect();
        let reason = pods.values().find_map(unschedulable)?;
        (running.len() == 8).then_some((running, reason))
    })?;
    let (ninth, reason) = ninth;
    if !reason.contains("cannot allocate all claims") {
        let text = format!("{ninth} is pending, and the scheduler says only {reason:?}");
        return Err(Failure::wrong(text));
    }
    let first = seen_by(context, &eight[0])?;
    let mut all = BTreeSet::from([first.clone()]);
    for pod in &eight[1..] {
        all.insert(seen_by(context, pod)?);
    }
    same("the number of different GPUs in eight pods", &all.len(), &8)?;

    context.delete_pods(&[&eight[0]])?;
    context.running(&[&ninth])?;
    let seen = seen_by(context, &ninth)?;
    same("the GPU in the ninth pod", &seen, &first)
}

/// The pod and what the scheduler says, if it finds no place for it.
pub(super) fn unschedulable(pod: &Pod) -> Option<(String, String)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let mut unmet = conditions.iter().filter(|c| c.type_ == "PodScheduled");
    let condition = unmet.find(|c| c.reason.as_deref() == Some("Unschedulable"))?;
    Some((name(pod), condition.message.clone().unwrap_or_default()))
}

fn seen_by(context: &Context<'_>, pod: &str) -> Result<String, Failure> {
    let mut seen = context.seen(pod, "main")?;
    same(&format!("the number of GPUs in {pod}"), &seen.len(), &1)?;
    Ok(seen.remove(0))
}
