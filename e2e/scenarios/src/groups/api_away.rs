//! The API server does not answer, or the plugin does not reach it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceSlice;
use tessera_cluster::{Cut, Node};

use super::manifests::one_gpu_on;
use crate::context::{Context, START_LIMIT};
use crate::failure::{Failure, nothing, same};
use crate::gpus::{Place, held};
use crate::kubernetes::{Objects, Scope, containers, uid};
use crate::pause::pause;
use crate::plugin_pod::Plugin;
use crate::presence::Presence;
use crate::release::RELEASE;

/// How long the plugin is cut off.
const CUT: Duration = Duration::from_secs(20);

/// When a pod that was made meanwhile runs at the latest, counted from the end of the cut.
const AFTER_CUT: Duration = Duration::from_secs(15);

/// When a connection whose other end is silent is given up at the latest, and a little.
const NOTICED: Duration = Duration::from_secs(50);

/// How long the API server is stopped.
const STOPPED: Duration = Duration::from_secs(30);

/// How long it is stopped in the long form.
const STOPPED_LONG: Duration = Duration::from_mins(5);

/// When a pod runs at the latest after the API server is back. A kubelet that was long without it asks for its pods only
/// every half a minute, and its node is unready meanwhile.
const AFTER_STOP: Duration = Duration::from_mins(2);

/// For so long the plugin is left to itself after the API server is back, before its writes are counted.
const SETTLING: Duration = Duration::from_secs(10);

/// How often it is tried whether the API server takes a pod again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The metric that counts the plugin's writes to the API.
const WRITES: &str = "tessera_slice_writes_total";

pub(crate) fn a_pod_made_while_the_plugin_is_cut_off_runs_soon_after(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    let plugin = Plugin::on(context.kubernetes(), node);
    let presence = Presence::of(context.kubernetes(), node, START_LIMIT)?;
    let before = presence.history()?.present;
    let cut = node.cut_off(plugin.address()?, plugin.process()?, Cut::Everything)?;
    context.apply(&one_gpu_on(node, "meanwhile"))?;
    pause(CUT)?;
    drop(cut);
    context.running_within(&["meanwhile"], AFTER_CUT)?;
    nothing("preparations have failed", &context.failed_preparations()?)?;
    same("the slices", &presence.history()?.present, &before)
}

pub(crate) fn connections_that_hang_for_good_hold_up_neither_pods_nor_slices(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    let plugin = Plugin::on(context.kubernetes(), node);
    let presence = Presence::of(context.kubernetes(), node, START_LIMIT)?;
    let cut = node.cut_off(plugin.address()?, plugin.process()?, Cut::OpenConnections)?;
    if cut.is_empty() {
        return Err(Failure::wrong("the plugin has no open connection to cut"));
    }
    context.apply(&one_gpu_on(node, "first"))?;
    context.running_within(&["first"], AFTER_CUT)?;
    // Its watch is among what hangs, so it does not hear that somebody deletes the slices.
    if context.either(false, true) {
        for slice in presence.history()?.present.keys() {
            let slice = ["resourceslice", slice];
            context.kubernetes().delete(RELEASE, &slice)?;
        }
        presence.wait("the slices to be back", NOTICED, |history| {
            (!history.gaps.is_empty() && !history.present.is_empty()).then_some(())
        })?;
    }
    let gaps = presence.history()?.gaps.len();
    node.restart_kubelet()?;
    let what = "slices after those that the kubelet deletes when it starts";
    presence.wait(what, AFTER_CUT, |history| {
        (history.gaps.len() > gaps && !history.present.is_empty()).then_some(())
    })?;
    context.apply(&one_gpu_on(node, "second"))?;
    context.running(&["first", "second"])?;
    nothing("preparations have failed", &context.failed_preparations()?)
}

pub(crate) fn nothing_is_lost_and_nothing_is_written_while_the_api_server_is_stopped(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let nodes = context.nodes();
    let pods: Vec<_> = nodes.iter().map(Node::name).collect();
    let manifests = nodes.iter().map(|node| one_gpu_on(node, node.name()));
    context.apply(&manifests.collect::<Vec<_>>().join("\n---\n"))?;
    let started = all_containers(&context.running(&pods)?);
    let claims = allocations(context)?;
    let slices = slices(context)?;
    let writes = writes(context)?;

    let stopped = context.kubernetes().cluster().stop_api_server()?;
    pause(context.either(STOPPED, STOPPED_LONG))?;
    drop(stopped);

    context.apply(&one_gpu_on(&nodes[0], "after"))?;
    context.running_within(&["after"], AFTER_STOP)?;
    let mut pods_now = context.running_within(&pods, AFTER_STOP)?;
    pods_now.remove("after");
    pause(SETTLING)?;
    same("the containers", &all_containers(&pods_now), &started)?;
    let mut claims_now = allocations(context)?;
    claims_now.retain(|name, _| claims.contains_key(name));
    same("the claims", &claims_now, &claims)?;
    // One that was missing for a time would have another version.
    same("the slices", &self::slices(context)?, &slices)?;
    same("the plugins' writes", &self::writes(context)?, &writes)
}

pub(crate) fn pods_run_and_slices_stay_when_the_api_server_is_killed(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    context.apply(&one_gpu_on(node, "before"))?;
    let started = all_containers(&context.running(&["before"])?);
    let slices = slices(context)?;
    let writes = writes(context)?;
    for pod in ["first", "second", "third"] {
        context.kubernetes().cluster().restart_api_server()?;
        // At the first moment at which it can be made.
        let deadline = Instant::now() + START_LIMIT;
        while let Err(failure) = context.apply(&one_gpu_on(node, pod)) {
            if Instant::now() >= deadline || matches!(failure, Failure::Interrupted) {
                return Err(failure);
            }
            pause(ASK_AGAIN)?;
        }
        context.running(&[pod])?;
    }
    let mut pods = context.running(&["before"])?;
    pods.retain(|name, _| started.contains_key(name));
    same("the containers", &all_containers(&pods), &started)?;
    nothing("preparations have failed", &context.failed_preparations()?)?;
    same("the slices", &self::slices(context)?, &slices)?;
    same("the plugins' writes", &self::writes(context)?, &writes)
}

/// By slice, its version.
fn slices(context: &Context<'_>) -> Result<BTreeMap<String, Option<String>>, Failure> {
    let slices: Objects<ResourceSlice> = context.kubernetes().list(Scope::Cluster)?;
    let version = |(name, slice): (String, ResourceSlice)| (name, slice.metadata.resource_version);
    Ok(slices.into_iter().map(version).collect())
}

/// By node, how often its plugin has written slices.
fn writes(context: &Context<'_>) -> Result<Vec<u64>, Failure> {
    let of = |node| Plugin::on(context.kubernetes(), node).metric(WRITES);
    context.nodes().iter().map(of).collect()
}

/// By pod, which containers it has and how often they were restarted.
fn all_containers(pods: &Objects<Pod>) -> BTreeMap<String, Vec<(Option<String>, i32)>> {
    let of = |(name, pod): (&String, &Pod)| (name.clone(), containers(pod));
    pods.iter().map(of).collect()
}

/// By claim, its identity and what it holds.
fn allocations(context: &Context<'_>) -> Result<BTreeMap<String, (String, Vec<Place>)>, Failure> {
    let claims = context.claims()?;
    let of = |(name, claim)| (name, (uid(&claim), held(&claim)));
    Ok(claims.into_iter().map(of).collect())
}
