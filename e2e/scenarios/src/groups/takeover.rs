//! The plugin comes to a node on which the reference driver has prepared claims.
//!
//! What is simulated of the reference driver is said in [`reference`].

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use tessera_cluster::Node;

use super::manifests::{claim, example, on_node, pod_of, stubborn};
use super::mig::{MINOR, await_parts, make_whole, sees_its_device};
use super::reference::{self, Known};
use crate::context::{COLLECT_LIMIT, Context, START_LIMIT, claim_of, uuids};
use crate::failure::{Failure, nothing, same};
use crate::kubelet_log::{KubeletLog, Said};
use crate::kubernetes::{Objects, Scope, containers, runs};
use crate::plugin_pod::Plugin;
use crate::release::{self, RELEASE};
use crate::simulated::Driver;

pub(crate) fn the_claims_of_the_reference_driver_are_taken_over_with_their_running_pods(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    let mut driver = Driver::of(node)?;
    driver.cut(MINOR, &["3g.40gb", "3g.40gb"])?;
    await_parts(
        context,
        node,
        &["gpu-7-mig-3g40gb-9-0", "gpu-7-mig-3g40gb-9-4"],
    )?;
    context.apply(&claim("shared"))?;
    context.apply(&on_node(&pod_of("first", "shared"), node))?;
    context.apply(&stubborn("former", node, 2))?;
    let halves = example("mig")?;
    context.apply(&halves)?;
    let pods = context.running(&["first", "former", "one-half", "other-half"])?;
    let owned = claim_of(&pods["former"], "gpus")?;
    let half = claim_of(&pods["one-half"], "mig")?;
    let other_half = claim_of(&pods["other-half"], "mig")?;
    let held = uuids(&context.held(&owned)?);
    let claims = ["shared", &owned, &half, &other_half];
    let known = Known::of(context, node, &claims)?;
    let log = KubeletLog::of(node)?;
    become_the_reference(context, node, known)?;
    // A pod that comes before waits for more than a minute.
    log.wait(&[Said::Registered], START_LIMIT)?;
    let what = "the event of the takeover";
    let event = context.event(Scope::Namespace("default"), what, |event| {
        event.reason.as_deref() == Some("ClaimsTakenOver")
            && event.involved_object.name.as_deref() == Some(node.name())
    })?;
    let told = event.message.unwrap_or_default();
    if !told.starts_with("4 claims of the reference driver were taken over, taken_over 4;") {
        return Err(Failure::wrong(format!("the event says {told:?}")));
    }
    are_taken_over(context, node, claims.len())?;

    // A container that is started now is made by the spec of the reference driver.
    context.apply(&pod_of("second", "shared"))?;
    context.running(&["second"])?;
    let seen = context.seen("second", "main")?;
    same(
        "the GPU of the claim that two pods share",
        &seen,
        &uuids(&context.held("shared")?),
    )?;
    let now = context.pods("the pods of before", |pods| Some(pods.clone()))?;
    for pod in ["first", "former", "one-half", "other-half"] {
        same(
            &format!("the container of {pod} that ran before"),
            &containers(&now[pod]),
            &containers(&pods[pod]),
        )?;
    }
    same("the GPUs in it", &context.lists("former", "main")?, &held)?;
    sees_its_device(context, "one-half", &half, "3g.40gb")?;

    // Nothing of a MIG device is left that keeps it from the next pod, and the other half goes on beside.
    context.delete_pods(&["one-half"])?;
    context.apply(&halves)?;
    context.running(&["one-half"])?;

    // The claim is gone at once and its GPUs allocated anew; its process is not gone.
    context.delete_pods(&["former", "--force", "--grace-period=0"])?;
    context.apply(&stubborn("next", node, 6))?;
    context.running(&["next"])?;
    let next = context.seen("next", "main")?;
    let missing: Vec<_> = held.iter().filter(|gpu| !next.contains(gpu)).collect();
    nothing("the next pod lacks GPUs of the former one", &missing)?;
    nothing("preparations have failed", &context.failed_preparations()?)?;

    context.delete_pods(&["first", "second", "next", "one-half", "other-half"])?;
    context.nothing_left_within(COLLECT_LIMIT)?;
    reference::clear(node)?;
    make_whole(context, &mut driver, node)
}

/// Makes a node one of the reference driver, and has the plugin start on it.
fn become_the_reference(
    context: &Context<'_>,
    node: &Node,
    known: Known<'_>,
) -> Result<(), Failure> {
    let plugin = Plugin::on(context.kubernetes(), node);
    let keeper = plugin.keeper()?;
    let mut processes = vec![keeper];
    processes.extend(plugin.processes());
    // Nobody repairs what is done here.
    let _stopped = node.stop(processes);
    known.leave()?;
    // With its first process the whole container ends, and the kubelet starts it anew.
    node.kill(&[keeper]);
    Ok(())
}

/// Holds if the plugin has taken over so many claims, all of them whole.
fn are_taken_over(context: &Context<'_>, node: &Node, claims: usize) -> Result<(), Failure> {
    let plugin = Plugin::on(context.kubernetes(), node);
    let counted = plugin.metric("tessera_takeover_claims_total{fate=\"taken_over\"}")?;
    let claims = u64::try_from(claims).unwrap_or(u64::MAX);
    same("the claims in the metric", &counted, &claims)
}

pub(crate) fn a_release_of_the_reference_chart_becomes_ours_by_helm_upgrade_and_its_pods_go_on(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let kubernetes = context.kubernetes();
    let node = context.node_with("h100")?;
    context.apply(&claim("shared"))?;
    context.apply(&on_node(&pod_of("first", "shared"), node))?;
    context.apply(&stubborn("other", node, 2))?;
    let pods = context.running(&["first", "other"])?;
    let owned = claim_of(&pods["other"], "gpus")?;
    let held = uuids(&context.held(&owned)?);
    let known = Known::of(context, node, &["shared", &owned])?;

    let given = release::given(kubernetes)?;
    let upgraded = upgrade_from_the_reference(context, known, given.path())
        .and_then(|()| are_taken_over(context, node, 2));
    // The values of the reference are not those of the other scenarios.
    let restored = release::put(kubernetes, &release::chart(), &[given.path()])
        .and_then(|()| release::serving(kubernetes));
    upgraded?;
    restored?;

    context.apply(&pod_of("second", "shared"))?;
    context.running(&["second"])?;
    same(
        "the GPU of the claim that two pods share",
        &context.seen("second", "main")?,
        &uuids(&context.held("shared")?),
    )?;
    let now = context.pods("the pods of before", |pods| Some(pods.clone()))?;
    for pod in ["first", "other"] {
        same(
            &format!("the container of {pod} that ran before"),
            &containers(&now[pod]),
            &containers(&pods[pod]),
        )?;
    }
    same("the GPUs in it", &context.lists("other", "main")?, &held)?;
    nothing("preparations have failed", &context.failed_preparations()?)?;
    context.delete_pods(&["first", "second", "other"])?;
    context.nothing_left_within(COLLECT_LIMIT)?;
    // The release was on every node.
    kubernetes
        .cluster()
        .nodes()
        .iter()
        .try_for_each(reference::clear)
}

/// Puts a release of the reference chart in the place of ours, and then ours in the place of that, with its values: what
/// users do, but for the image, which is ours.
fn upgrade_from_the_reference(
    context: &Context<'_>,
    known: Known<'_>,
    given: &Path,
) -> Result<(), Failure> {
    let kubernetes = context.kubernetes();
    let ours = Scope::Namespace(RELEASE);
    let is_its = |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        labels.is_some_and(|labels| labels.contains_key(reference::COMPONENT))
    };
    release::uninstall(kubernetes)?;
    let what = "our pods to be gone";
    kubernetes.wait(ours, what, START_LIMIT, |pods: &Objects<Pod>| {
        pods.is_empty().then_some(())
    })?;
    known.leave()?;
    let chart = reference::chart()?;
    let values = reference::values();
    release::put(kubernetes, chart.path(), &[values.as_path()])?;
    let what = "a plugin of the stand-in on every node, and its controller";
    let parts = context.nodes().len() + 1;
    kubernetes.wait(ours, what, START_LIMIT, |pods: &Objects<Pod>| {
        let running = pods.values().filter(|pod| is_its(pod) && runs(pod));
        (running.count() == parts).then_some(())
    })?;

    release::put(kubernetes, &release::chart(), &[values.as_path(), given])?;
    let what = "the pods of the stand-in to be gone";
    kubernetes.wait(ours, what, START_LIMIT, |pods: &Objects<Pod>| {
        (!pods.values().any(is_its)).then_some(())
    })?;
    release::serving(kubernetes)
}
