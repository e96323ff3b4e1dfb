//! A node that is not upgraded yet, under a control plane that is: kubelets may be three releases older.
//!
//! A kubelet of 1.33 reads claims as `resource.k8s.io/v1beta1`, calls `v1beta1.DRAPlugin`, and names the sockets in a way that
//! a usual gRPC server refuses.

use super::manifests::{claim, on_node, one_gpu_on, pod_of};
use crate::context::{Context, START_LIMIT, claim_of, uuids, went_on};
use crate::failure::{Failure, same};
use crate::kubelet_log::{KubeletLog, Said};
use crate::kubernetes::{containers, name};
use crate::plugin_pod::Plugin;
use crate::presence::Presence;

pub(crate) fn a_node_with_an_older_kubelet_serves_pods_under_a_newer_control_plane(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("t4")?;
    let control_plane = context.kubernetes().cluster().kubernetes();
    same(
        "whether the kubelet is older than the control plane",
        &(node.kubelet().minor() < control_plane.minor()),
        &true,
    )?;
    context.apply(&one_gpu_on(node, "before"))?;
    context.apply(&claim("shared"))?;
    for pod in ["one", "other"] {
        context.apply(&on_node(&pod_of(pod, "shared"), node))?;
    }
    let pods = context.running(&["before", "one", "other"])?;
    let started = containers(&pods["before"]);
    let held = uuids(&context.held(&claim_of(&pods["before"], "gpu")?)?);
    same(
        "the GPU in the pod",
        &context.seen("before", "main")?,
        &held,
    )?;
    let shared = uuids(&context.held("shared")?);
    for pod in ["one", "other"] {
        same("the GPU of both pods", &context.seen(pod, "main")?, &shared)?;
    }

    let presence = Presence::of(context.kubernetes(), node, START_LIMIT)?;
    let log = KubeletLog::of(node)?;
    node.restart_kubelet()?;
    let what = "slices after those that the kubelet deletes when it starts";
    presence.wait(what, START_LIMIT, |history| {
        (!history.gaps.is_empty()).then_some(())
    })?;
    log.wait(&[Said::Wiped, Said::Registered], START_LIMIT)?;
    let plugin = Plugin::on(context.kubernetes(), node);
    let old = plugin.replace()?;
    plugin.ready(START_LIMIT, |now| name(now) != old)?;

    context.apply(&one_gpu_on(node, "after"))?;
    let pods = context.running(&["before", "after"])?;
    went_on(&pods["before"], &started)?;
    context.delete_pods(&["before", "after", "one", "other"])?;
    context.delete_claim("shared")?;
    context.nothing_left()
}
