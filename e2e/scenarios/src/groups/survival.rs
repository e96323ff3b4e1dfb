//! What goes wrong around the driver: pods torn away, a kubelet that restarts or forgets.

use std::fs;

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::resource::v1::ResourceSlice;
use tessera_cluster::Node;

use super::one_gpu;
use crate::context::{COLLECT_LIMIT, Context, START_LIMIT, claim_of, uuids};
use crate::failure::{Failure, nothing, same};
use crate::kubernetes::{Objects, Scope};

/// A pod `NAME` on node `NODE` that has all eight GPUs and ignores the signal to end.
const ALL_GPUS: &str = "
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata:
  name: all-gpus
spec:
  spec:
    devices:
      requests:
      - name: gpus
        exactly:
          deviceClassName: gpu.nvidia.com
          count: 8
---
apiVersion: v1
kind: Pod
metadata:
  name: NAME
spec:
  nodeSelector: {kubernetes.io/hostname: NODE}
  resourceClaims:
  - name: gpus
    resourceClaimTemplateName: all-gpus
  containers:
  - name: main
    image: docker.io/tessera/workload:1
    command: [sh, -c, \"trap '' TERM; nvidia-smi -L; echo listed; while :; do sleep 1; done\"]
    resources:
      claims:
      - name: gpus
  terminationGracePeriodSeconds: 5
";

pub(super) fn all_gpus(name: &str, node: &Node) -> String {
    ALL_GPUS.replace("NAME", name).replace("NODE", node.name())
}

pub(crate) fn a_pod_on_the_gpus_of_a_force_deleted_pod_waits_and_does_not_fail(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    context.apply(&all_gpus("former", node))?;
    context.running(&["former"])?;
    // Its object is gone at once, and with it the claim; its process is not.
    context.delete_pods(&["former", "--force", "--grace-period=0"])?;
    context.apply(&all_gpus("next", node))?;
    let pods = context.running(&["next"])?;
    let held = uuids(&context.held(&claim_of(&pods["next"], "gpus")?)?);
    same(
        "the GPUs in the next pod",
        &context.seen("next", "main")?,
        &held,
    )?;
    nothing("preparations have failed", &failed_preparations(context)?)
}

/// What the kubelet says about preparations that failed. Each costs a pod more than a minute.
pub(super) fn failed_preparations(context: &Context<'_>) -> Result<Vec<String>, Failure> {
    let events: Objects<Event> = context.list()?;
    let failed = events
        .into_values()
        .filter(|event| event.reason.as_deref() == Some("FailedPrepareDynamicResources"));
    Ok(failed.filter_map(|event| event.message).collect())
}

pub(crate) fn slices_come_back_and_pods_go_on_when_the_kubelet_restarts(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    let on_node = format!(
        "nodeSelector: {{kubernetes.io/hostname: {}}}\n  containers:",
        node.name()
    );
    let pod = |name: &str| one_gpu(name).replace("containers:", &on_node);
    context.apply(&pod("before"))?;
    let started = containers(&context.running(&["before"])?["before"]);
    let wiped = slice_uids(context, node)?;

    node.restart_kubelet()
        .map_err(|error| Failure::wrong(format!("{error:#}")))?;
    let kubernetes = context.kubernetes();
    let what = "slices other than those that the kubelet deletes when it starts";
    kubernetes.wait(
        Scope::Cluster,
        what,
        START_LIMIT,
        |slices: &Objects<ResourceSlice>| {
            let now = uids_on(slices, node);
            (!now.is_empty() && now.iter().all(|uid| !wiped.contains(uid))).then_some(())
        },
    )?;
    context.apply(&pod("after"))?;
    let pods = context.running(&["before", "after"])?;
    same(
        "the container that ran before",
        &containers(&pods["before"]),
        &started,
    )?;
    nothing("preparations have failed", &failed_preparations(context)?)
}

/// The UIDs of the slices of this node.
pub(super) fn slice_uids(context: &Context<'_>, node: &Node) -> Result<Vec<String>, Failure> {
    Ok(uids_on(&context.kubernetes().list(Scope::Cluster)?, node))
}

fn uids_on(slices: &Objects<ResourceSlice>, node: &Node) -> Vec<String> {
    let ours = slices
        .values()
        .filter(|s| s.spec.node_name.as_deref() == Some(node.name()));
    ours.filter_map(|slice| slice.metadata.uid.clone())
        .collect()
}

/// Which containers the pod's are, and how often they were restarted.
pub(super) fn containers(pod: &Pod) -> Vec<(Option<String>, i32)> {
    let statuses = pod
        .status
        .iter()
        .filter_map(|status| status.container_statuses.as_ref());
    statuses
        .flatten()
        .map(|s| (s.container_id.clone(), s.restart_count))
        .collect()
}

pub(crate) fn what_the_kubelet_forgot_is_freed(context: &Context<'_>) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    context.apply(&all_gpus("former", node))?;
    context.running(&["former"])?;
    // The kubelet reads this file when it starts; without it nobody tells the driver that the claim ends.
    let checkpoint = node.kubelet_dir().join("dra_manager_state");
    fs::remove_file(&checkpoint)
        .map_err(|error| Failure::wrong(format!("remove {}: {error}", checkpoint.display())))?;
    node.restart_kubelet()
        .map_err(|error| Failure::wrong(format!("{error:#}")))?;
    context.delete_pods(&["former"])?;
    context.nothing_left_within(COLLECT_LIMIT)?;
    context.apply(&all_gpus("next", node))?;
    context.running(&["next"]).map(drop)
}
