//! A node reboots: `/run` is empty, the disk is as it was, and the kubelet starts its pods anew.
//!
//! The kernel does not restart, so the plugin, whose container has a `/proc` of its own, sees the same boot id as before:
//! that much of the reboot is simulated. What the plugin does with records of another boot is shown by its unit tests.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use tessera_cluster::Node;

use super::manifests::{all_gpus, one_gpu_on};
use crate::context::{Context, START_LIMIT, claim_of, uuids};
use crate::failure::{Failure, same};
use crate::kubernetes::{Objects, Scope, containers, runs};
use crate::leftovers::left_on;
use crate::plugin_pod::Plugin;
use crate::presence::Presence;

/// How long pods may take to run again. The plugin is one of them: a pod that the kubelet starts before it is tried again
/// after a minute and a half (the kubelet's resync).
const COMES_BACK: Duration = Duration::from_mins(3);

const PODS: [&str; 3] = ["first", "second", "third"];

pub(crate) fn pods_of_a_node_that_reboots_run_again_with_their_gpus(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    let plugin = Plugin::on(context.kubernetes(), node);
    context.apply(&PODS.map(|pod| one_gpu_on(node, pod)).join("\n---\n"))?;
    let before = context.running(&PODS)?;
    let held = held_by(context, &before)?;
    let presence = Presence::of(context.kubernetes(), node, START_LIMIT)?;
    let boot = boot_of(context, node)?;

    context.kubernetes().cluster().reboot(node.name())?;
    let back = context.pods_within("the pods to run again", COMES_BACK, |pods| {
        let again =
            |pod: &Pod| runs(pod) && containers(pod).iter().all(|(_, restarts)| *restarts == 1);
        let all = PODS.iter().all(|pod| pods.get(*pod).is_some_and(again));
        all.then(|| pods.clone())
    })?;
    if boot_of(context, node)? == boot {
        return Err(Failure::wrong(
            "the kubelet has not noticed that its node rebooted",
        ));
    }
    same("what the pods hold", &held_by(context, &back)?, &held)?;
    for (pod, gpus) in PODS.iter().zip(&held) {
        same(
            &format!("the GPUs in {pod}"),
            &context.seen(pod, "main")?,
            gpus,
        )?;
    }
    same(
        "records and CDI files of three pods",
        &left_on(node)?,
        &(3, 3),
    )?;
    plugin.ready(START_LIMIT, |_| true)?;
    presence.wait("the slices to be back", START_LIMIT, |history| {
        (!history.present.is_empty()).then_some(())
    })?;

    context.delete_pods(&PODS)?;
    context.nothing_left()?;
    context.apply(&all_gpus("all", node))?;
    context.running(&["all"]).map(drop)
}

fn held_by(context: &Context<'_>, pods: &Objects<Pod>) -> Result<Vec<Vec<String>>, Failure> {
    let of = |pod: &&str| Ok(uuids(&context.held(&claim_of(&pods[*pod], "gpu")?)?));
    PODS.iter().map(of).collect()
}

/// The boot id that the node's kubelet reports.
fn boot_of(context: &Context<'_>, node: &Node) -> Result<String, Failure> {
    let nodes: Objects<NodeObject> = context.kubernetes().list(Scope::Cluster)?;
    let status = nodes.get(node.name()).and_then(|node| node.status.as_ref());
    let info = status.and_then(|status| status.node_info.as_ref());
    let boot = info.map(|info| info.boot_id.clone());
    boot.ok_or_else(|| Failure::wrong(format!("{} reports no boot", node.name())))
}
