//! What the plugin makes of a driver that comes late, is replaced, goes away or does not answer.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{DeviceAttribute, ResourceSlice};
use tessera_cluster::Node;
use tessera_hw::state::Presence;

use super::manifests::one_gpu_on;
use crate::context::{Context, START_LIMIT, went_on};
use crate::failure::{Failure, same};
use crate::gpus::offered;
use crate::kubernetes::{Objects, Scope, containers, restarts, runs};
use crate::plugin_pod::{PROGRAM, Plugin, plugin_on};
use crate::release::RELEASE;
use crate::simulated::Driver;

/// The hardware whose driver the scenarios of this group change.
const PROFILE: &str = "t4";

/// How many GPUs it has.
const GPUS: usize = 4;

/// The version that the driver is replaced by, and how the API writes it.
const NEW: &str = "590.48.01";
const NEW_SEMVER: &str = "590.48.1";

pub(crate) fn a_driver_that_is_installed_after_the_plugin_has_started_is_offered(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let mut driver = Driver::of(node)?;
    driver.remove()?;
    let old = Plugin::on(context.kubernetes(), node).pod_name()?;
    let kubernetes = context.kubernetes();
    kubernetes.delete(RELEASE, &["pod", &old])?;
    let what = "a new pod of the plugin whose container runs";
    let ours = Scope::Namespace(RELEASE);
    let new = kubernetes.wait(ours, what, START_LIMIT, |pods: &Objects<Pod>| {
        plugin_on(pods, node).filter(|pod| started(&pods[pod]))
    })?;
    // What the former plugin has offered must not stay, or pods are sent to where nothing is.
    await_devices(context, node, 0)?;
    context.apply(&one_gpu_on(node, "waiting"))?;
    driver.install()?;
    await_ready(context, &new)?;
    await_devices(context, node, GPUS)?;
    context.running(&["waiting"])?;
    not_restarted(context, node, &new)
}

pub(crate) fn a_driver_that_is_replaced_serves_the_next_pods_and_leaves_running_ones_alone(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let plugin = Plugin::on(context.kubernetes(), node);
    let pod = plugin.pod_name()?;
    context.apply(&one_gpu_on(node, "before"))?;
    let started = containers(&context.running(&["before"])?["before"]);

    let mut driver = Driver::of(node)?;
    driver.upgrade(NEW)?;
    let what = "slices that name the new driver";
    context.kubernetes().wait(
        Scope::Cluster,
        what,
        START_LIMIT,
        |slices: &Objects<ResourceSlice>| {
            let versions = driver_versions(slices, node);
            (versions == vec![NEW_SEMVER; GPUS]).then_some(())
        },
    )?;
    context.apply(&one_gpu_on(node, "after"))?;
    let pods = context.running(&["before", "after"])?;
    went_on(&pods["before"], &started)?;
    same(
        "GPUs in the next pod",
        &context.seen("after", "main")?.len(),
        &1,
    )?;
    // Of the new driver, and not of the one that is gone.
    let library = format!("/usr/lib64/libcuda.so.{NEW}");
    context.execute("after", "main", &["ls", &library])?;

    driver.install()?;
    await_devices(context, node, GPUS)?;
    not_restarted(context, node, &pod)
}

pub(crate) fn the_gpus_of_a_driver_that_is_removed_are_withdrawn_with_the_reason_until_it_is_back(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let plugin = Plugin::on(context.kubernetes(), node);
    let pod = plugin.pod_name()?;
    context.apply(&one_gpu_on(node, "kept"))?;
    context.apply(&one_gpu_on(node, "ended"))?;
    let started = containers(&context.running(&["kept", "ended"])?["kept"]);

    let mut driver = Driver::of(node)?;
    driver.remove()?;
    await_devices(context, node, 0)?;
    same("whether there is a driver", &ready(plugin)?, &0)?;
    let log = context.kubernetes().log(RELEASE, &pod, &[])?;
    if !log.contains("the driver is gone, its GPUs are withdrawn: ") {
        return Err(Failure::wrong(format!("the log names no reason:\n{log}")));
    }
    told_on(context, node, "DriverGone")?;
    // To take back what a pod had needs no driver.
    context.delete_pods(&["ended"])?;

    driver.install()?;
    await_ready(context, &pod)?;
    await_devices(context, node, GPUS)?;
    context.apply(&one_gpu_on(node, "next"))?;
    let pods = context.running(&["kept", "next"])?;
    went_on(&pods["kept"], &started)?;
    not_restarted(context, node, &pod)
}

/// Waits until the node has an event with this reason. Events of nodes are in the namespace `default`.
fn told_on(context: &Context<'_>, node: &Node, reason: &str) -> Result<(), Failure> {
    let what = format!("an event {reason} of node {}", node.name());
    let told = context.event(Scope::Namespace("default"), &what, |event| {
        event.reason.as_deref() == Some(reason)
            && event.involved_object.name.as_deref() == Some(node.name())
    });
    told.map(drop)
}

pub(crate) fn a_lost_gpu_is_withdrawn_until_it_is_reset_and_the_others_go_on(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let plugin = Plugin::on(context.kubernetes(), node);
    let pod = plugin.pod_name()?;
    let mut driver = Driver::of(node)?;
    driver.set(0, Presence::Lost)?;
    await_devices(context, node, GPUS - 1)?;
    same(
        "the GPUs that are left",
        &names(context, node)?,
        &vec!["gpu-1".to_owned(), "gpu-2".to_owned(), "gpu-3".to_owned()],
    )?;
    same(
        "lost GPUs",
        &plugin.metric("tessera_gpus{state=\"lost\"}")?,
        &1,
    )?;
    context.apply(&one_gpu_on(node, "other"))?;
    let started = containers(&context.running(&["other"])?["other"]);

    driver.set(0, Presence::Resetting)?;
    driver.heal()?;
    // The loss was found by the look that comes every half minute; this need not be waited for again.
    driver.stir()?;
    await_devices(context, node, GPUS)?;
    let pods = context.running(&["other"])?;
    same(
        "the container on another GPU",
        &containers(&pods["other"]),
        &started,
    )?;
    not_restarted(context, node, &pod)
}

pub(crate) fn a_call_of_the_driver_that_hangs_holds_up_no_pod_and_does_not_end_the_plugin(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let plugin = Plugin::on(context.kubernetes(), node);
    let pod = plugin.pod_name()?;
    let mut driver = Driver::of(node)?;
    driver.hang("nvmlDeviceGetMemoryInfo", PROGRAM)?;
    driver.stir()?;
    // The probe of the plugin is told, and whoever reads the metrics.
    await_unready(context, &pod)?;
    same("whether the driver answers", &ready(plugin)?, &0)?;
    context.apply(&one_gpu_on(node, "meanwhile"))?;
    context.running(&["meanwhile"])?;
    driver.heal()?;
    await_ready(context, &pod)?;
    same("whether the driver answers", &ready(plugin)?, &1)?;
    not_restarted(context, node, &pod)
}

/// Waits until the pool of the node has so many devices. The pool itself stays.
fn await_devices(context: &Context<'_>, node: &Node, count: usize) -> Result<(), Failure> {
    let what = format!("{count} devices of {}", node.name());
    context.kubernetes().wait(
        Scope::Cluster,
        &what,
        START_LIMIT,
        |slices: &Objects<ResourceSlice>| {
            let mut of_node = slices
                .values()
                .filter(|slice| slice.spec.pool.name == node.name());
            let devices = devices_of(slices, node);
            (of_node.next().is_some() && devices.len() == count).then_some(())
        },
    )
}

fn names(context: &Context<'_>, node: &Node) -> Result<Vec<String>, Failure> {
    Ok(devices_of(
        &context.kubernetes().list(Scope::Cluster)?,
        node,
    ))
}

fn devices_of(slices: &Objects<ResourceSlice>, node: &Node) -> Vec<String> {
    let places = offered(slices).into_iter().map(|offer| offer.place);
    let ours = places.filter(|place| place.pool == node.name());
    ours.map(|place| place.device).collect()
}

fn driver_versions(slices: &Objects<ResourceSlice>, node: &Node) -> Vec<String> {
    let ours = slices
        .values()
        .filter(|slice| slice.spec.pool.name == node.name());
    let devices = ours.flat_map(|slice| slice.spec.devices.iter().flatten());
    let version = |attribute: &DeviceAttribute| attribute.version.clone();
    devices
        .filter_map(|device| device.attributes.as_ref()?.get("driverVersion"))
        .filter_map(version)
        .collect()
}

fn ready(plugin: Plugin<'_>) -> Result<u64, Failure> {
    plugin.metric("tessera_driver_ready")
}

fn await_ready(context: &Context<'_>, plugin: &str) -> Result<(), Failure> {
    await_readiness(context, plugin, true, "the plugin to be ready")
}

fn await_unready(context: &Context<'_>, plugin: &str) -> Result<(), Failure> {
    await_readiness(context, plugin, false, "the plugin not to be ready")
}

fn await_readiness(
    context: &Context<'_>,
    plugin: &str,
    wanted: bool,
    what: &str,
) -> Result<(), Failure> {
    let ours = Scope::Namespace(RELEASE);
    context
        .kubernetes()
        .wait(ours, what, START_LIMIT, |pods: &Objects<Pod>| {
            let pod = pods.get(plugin)?;
            (runs(pod) == wanted).then_some(())
        })
}

/// Whether every container of the pod runs, ready or not.
fn started(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    containers.is_some_and(|all| {
        all.iter().all(|container| {
            let state = container.state.as_ref();
            state.is_some_and(|state| state.running.is_some())
        })
    })
}

/// Holds if the plugin of the node is still this pod, and neither a container of it nor the process in
/// it was replaced.
fn not_restarted(context: &Context<'_>, node: &Node, pod: &str) -> Result<(), Failure> {
    let pods: Objects<Pod> = context.kubernetes().list(Scope::Namespace(RELEASE))?;
    let now = plugin_on(&pods, node);
    same("the plugin's pod", &now.as_deref(), &Some(pod))?;
    same("restarts of the plugin", &restarts(&pods[pod]), &0)?;
    let replaced =
        Plugin::on(context.kubernetes(), node).metric("tessera_worker_restarts_total")?;
    same("replaced processes of the plugin", &replaced, &0)
}
