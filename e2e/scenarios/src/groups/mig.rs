//! GPUs that are cut into MIG devices, before and while pods run.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{DeviceAttribute, ResourceSlice};
use tessera_cluster::Node;
use tessera_hw::state::Presence;

use super::manifests::{example, one_gpu_on};
use crate::context::{Context, START_LIMIT, claim_of};
use crate::failure::{Failure, same};
use crate::gpus::{Place, device, offered};
use crate::kubernetes::{Objects, Scope, containers};
use crate::plugin_pod::Plugin;
use crate::simulated::Driver;

/// The hardware of which a GPU is cut.
const PROFILE: &str = "h100";

/// The GPU that the scenarios of this group cut. It is the last one, which no other scenario names.
pub(super) const MINOR: usize = 7;

pub(crate) fn pods_with_mig_devices_of_one_gpu_see_one_each(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let mut driver = Driver::of(node)?;
    driver.cut(MINOR, &["3g.40gb", "3g.40gb"])?;
    let halves = ["gpu-7-mig-3g40gb-9-0", "gpu-7-mig-3g40gb-9-4"];
    await_parts(context, node, &halves)?;

    context.apply(&example("mig")?)?;
    let pods = context.running(&["one-half", "other-half"])?;
    let mut held = Vec::new();
    for pod in ["one-half", "other-half"] {
        let claim = claim_of(&pods[pod], "mig")?;
        sees_its_device(context, pod, &claim, "3g.40gb")?;
        held.extend(
            context
                .held(&claim)?
                .into_iter()
                .map(|gpu| gpu.place.device),
        );
    }
    held.sort();
    same(
        "the devices of both",
        &held,
        &halves.map(str::to_owned).to_vec(),
    )?;

    // What is full is full, and a whole GPU is another one.
    context.apply(&one_gpu_on(node, "whole"))?;
    let pods = context.running(&["whole"])?;
    let whole = context.held(&claim_of(&pods["whole"], "gpu")?)?;
    if whole
        .iter()
        .any(|gpu| gpu.place.device == format!("gpu-{MINOR}"))
    {
        return Err(Failure::wrong(
            "the GPU that is cut was given away as a whole",
        ));
    }
    context.delete_pods(&["one-half", "other-half", "whole"])?;
    make_whole(context, &mut driver, node)
}

pub(crate) fn a_limit_of_a_mig_profile_is_served_without_a_claim_of_the_users(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let mut driver = Driver::of(node)?;
    driver.cut(MINOR, &["4g.40gb", "1g.10gb"])?;
    let parts = ["gpu-7-mig-1g10gb-19-4", "gpu-7-mig-4g40gb-5-0"];
    await_parts(context, node, &parts)?;

    context.apply(&example("mig-extended-resource")?)?;
    let pods = context.running(&["mig-by-limit"])?;
    let status = pods["mig-by-limit"].status.clone().unwrap_or_default();
    let made = status.extended_resource_claim_status;
    let claim =
        made.ok_or_else(|| Failure::wrong("no claim was made for the limit of mig-by-limit"))?;
    sees_its_device(
        context,
        "mig-by-limit",
        &claim.resource_claim_name,
        "1g.10gb",
    )?;
    context.delete_pods(&["mig-by-limit"])?;
    make_whole(context, &mut driver, node)
}

pub(crate) fn a_layout_that_is_changed_under_the_plugin_appears_in_the_slice(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let plugin = Plugin::on(context.kubernetes(), node);
    context.apply(&one_gpu_on(node, "beside"))?;
    let started = containers(&context.running(&["beside"])?["beside"]);
    let mut driver = Driver::of(node)?;
    driver.cut(MINOR, &["3g.40gb", "2g.20gb", "1g.10gb"])?;
    await_parts(
        context,
        node,
        &[
            "gpu-7-mig-1g10gb-19-6",
            "gpu-7-mig-2g20gb-14-4",
            "gpu-7-mig-3g40gb-9-0",
        ],
    )?;
    driver.cut(MINOR, &["7g.80gb"])?;
    await_parts(context, node, &["gpu-7-mig-7g80gb-0-0"])?;
    same("cut GPUs", &mig_gpus(plugin, "cut")?, &1)?;

    // MIG mode without an instance: nothing is offered, and the node says so.
    driver.cut(MINOR, &[])?;
    await_parts(context, node, &[])?;
    same("stranded GPUs", &mig_gpus(plugin, "stranded")?, &1)?;
    context.event(
        Scope::Namespace("default"),
        "an event MigChanged",
        |event| {
            event.reason.as_deref() == Some("MigChanged")
                && event.involved_object.name.as_deref() == Some(node.name())
                && event
                    .message
                    .as_deref()
                    .is_some_and(|message| message.contains("no MIG device"))
        },
    )?;

    make_whole(context, &mut driver, node)?;
    // A switch that waits for a reset changes nothing yet, and is shown.
    driver.await_mig(MINOR, true)?;
    driver.stir()?;
    context.event(
        Scope::Namespace("default"),
        "an event MigPending",
        |event| {
            event.reason.as_deref() == Some("MigPending")
                && event.involved_object.name.as_deref() == Some(node.name())
                && event
                    .message
                    .as_deref()
                    .is_some_and(|message| message.contains("to be on after a reset"))
        },
    )?;
    same("pending GPUs", &mig_gpus(plugin, "pending")?, &1)?;
    await_parts(context, node, &["gpu-7"])?;
    driver.set(MINOR, Presence::Resetting)?;
    driver.heal()?;
    await_parts(context, node, &["gpu-7"])?;
    let pods: Objects<Pod> = context.list()?;
    same(
        "the container beside",
        &containers(&pods["beside"]),
        &started,
    )
}

fn mig_gpus(plugin: Plugin<'_>, state: &str) -> Result<u64, Failure> {
    plugin.metric(&format!("tessera_mig_gpus{{state={state:?}}}"))
}

/// Makes the GPU whole again and returns when it is offered so.
pub(super) fn make_whole(
    context: &Context<'_>,
    driver: &mut Driver<'_>,
    node: &Node,
) -> Result<(), Failure> {
    driver.heal()?;
    await_parts(context, node, &["gpu-7"])
}

/// Waits until the GPU is offered as exactly these devices. They are sorted by name.
pub(super) fn await_parts(
    context: &Context<'_>,
    node: &Node,
    parts: &[&str],
) -> Result<(), Failure> {
    let what = format!("GPU {MINOR} of {} to be offered as {parts:?}", node.name());
    let whole = format!("gpu-{MINOR}");
    let part = format!("gpu-{MINOR}-");
    let slices = |slices: &Objects<ResourceSlice>| {
        let places = offered(slices).into_iter().map(|offer| offer.place);
        let ours = places.filter(|place| place.pool == node.name());
        let names = ours.map(|place| place.device);
        let found: Vec<_> = names
            .filter(|name| *name == whole || name.starts_with(&part))
            .collect();
        (found == parts).then_some(())
    };
    context
        .kubernetes()
        .wait(Scope::Cluster, &what, START_LIMIT, slices)
}

/// Holds if the container lists one GPU with one MIG device of this profile, that of the claim, and has
/// the nodes of two capabilities.
pub(super) fn sees_its_device(
    context: &Context<'_>,
    pod: &str,
    claim: &str,
    profile: &str,
) -> Result<(), Failure> {
    let held = context.held(claim)?;
    let [of_claim] = &held[..] else {
        return Err(Failure::wrong(format!("claim {claim} holds {held:?}")));
    };
    let parent = attribute(context, &of_claim.place, "parentUUID")?;
    same(
        "the profile",
        &attribute(context, &of_claim.place, "profile")?.as_str(),
        &profile,
    )?;
    let text = context.execute(pod, "main", &["nvidia-smi", "-L"])?;
    let lines: Vec<_> = text.lines().collect();
    let wanted = [
        format!("GPU 0: {} (UUID: {parent})", of_claim.product),
        format!("  MIG {profile:<11} Device  0: (UUID: {})", of_claim.uuid),
    ];
    same(
        &format!("the devices in {pod}"),
        &lines,
        &wanted.each_ref().map(String::as_str).to_vec(),
    )?;
    let nodes = context.execute(pod, "main", &["sh", "-c", "ls /dev/nvidia-caps | wc -l"])?;
    same(&format!("the capabilities in {pod}"), &nodes.trim(), &"2")
}

/// The text of an attribute of the device at this place.
pub(super) fn attribute(
    context: &Context<'_>,
    place: &Place,
    name: &str,
) -> Result<String, Failure> {
    let slices: Objects<ResourceSlice> = context.kubernetes().list(Scope::Cluster)?;
    let attributes = device(&slices, place).and_then(|device| device.attributes.as_ref());
    let value = attributes.and_then(|all| all.get(name));
    let text = value.and_then(|DeviceAttribute { string, .. }| string.clone());
    text.ok_or_else(|| Failure::wrong(format!("{place:?} has no {name}")))
}
