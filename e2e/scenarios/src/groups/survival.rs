//! What goes wrong around the driver: pods torn away, a kubelet that restarts or forgets.

use std::fs;

use k8s_openapi::api::resource::v1::ResourceSlice;
use tessera_cluster::Node;

use super::manifests::{all_gpus, one_gpu_on};
use crate::context::{COLLECT_LIMIT, Context, START_LIMIT, claim_of, uuids, went_on};
use crate::failure::{Failure, nothing, same};
use crate::kubernetes::{Objects, Scope, containers};

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
    nothing("preparations have failed", &context.failed_preparations()?)
}

pub(crate) fn slices_come_back_and_pods_go_on_when_the_kubelet_restarts(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    context.apply(&one_gpu_on(node, "before"))?;
    let started = containers(&context.running(&["before"])?["before"]);
    let wiped = slice_uids(context, node)?;

    node.restart_kubelet()?;
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
    context.apply(&one_gpu_on(node, "after"))?;
    let pods = context.running(&["before", "after"])?;
    went_on(&pods["before"], &started)?;
    nothing("preparations have failed", &context.failed_preparations()?)
}

/// The UIDs of the slices of this node, of which there must be some.
pub(super) fn slice_uids(context: &Context<'_>, node: &Node) -> Result<Vec<String>, Failure> {
    let uids = uids_on(&context.kubernetes().list(Scope::Cluster)?, node);
    if uids.is_empty() {
        return Err(Failure::wrong(format!("{} has no slice", node.name())));
    }
    Ok(uids)
}

fn uids_on(slices: &Objects<ResourceSlice>, node: &Node) -> Vec<String> {
    let ours = slices
        .values()
        .filter(|s| s.spec.node_name.as_deref() == Some(node.name()));
    ours.filter_map(|slice| slice.metadata.uid.clone())
        .collect()
}

pub(crate) fn what_the_kubelet_forgot_is_freed(context: &Context<'_>) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    context.apply(&all_gpus("former", node))?;
    context.running(&["former"])?;
    // The kubelet reads this file when it starts; without it nobody tells the driver that the claim ends.
    let checkpoint = node.kubelet_dir().join("dra_manager_state");
    if let Err(reason) = fs::remove_file(&checkpoint) {
        let path = checkpoint;
        return Err(Failure::File { path, reason });
    }
    node.restart_kubelet()?;
    context.delete_pods(&["former"])?;
    context.nothing_left_within(COLLECT_LIMIT)?;
    context.apply(&all_gpus("next", node))?;
    context.running(&["next"]).map(drop)
}
