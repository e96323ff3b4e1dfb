//! The ways to ask for GPUs that users of the reference driver know, each as the documentation shows it: what is applied
//! is `docs/examples`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{Device, DeviceRequestAllocationResult, ResourceSlice};
use tessera_cluster::Node;

use super::manifests::{example, on_node, one_gpu_on};
use super::whole_gpus::unschedulable;
use crate::context::{Context, claim_of, uuids};
use crate::failure::{Failure, same};
use crate::gpus::{Place, device, offered};
use crate::kubernetes::{Objects, Scope, restarts};

/// What a namespace must say before its claims may have admin access.
const ADMIN_LABEL: &str = "resource.kubernetes.io/admin-access";

const NUMA_NODE: &str = "resource.kubernetes.io/numaNode";
const PCIE_ROOT: &str = "resource.kubernetes.io/pcieRoot";

pub(crate) fn selectors_by_attribute_and_capacity_find_a_gpu_that_has_them(
    context: &Context<'_>,
) -> Result<(), Failure> {
    context.apply(&example("selectors")?)?;
    on_node_with(context, "selected", "h100")?;
    same("the number of GPUs", &context.held("selected")?.len(), &1)?;
    sees(context, ("selected", "main"), ("selected", None))
}

pub(crate) fn gpus_that_must_agree_in_an_attribute_do(
    context: &Context<'_>,
) -> Result<(), Failure> {
    context.apply(&example("match-attribute")?)?;
    for (claim, attribute, count) in [
        ("same-numa-node", NUMA_NODE, 4),
        ("same-pcie-root", PCIE_ROOT, 2),
    ] {
        context.running(&[claim])?;
        let values = values(context, claim, attribute)?;
        same(
            &format!("the number of GPUs of {claim}"),
            &values.len(),
            &count,
        )?;
        let different: BTreeSet<_> = values.into_iter().collect();
        same(
            &format!("the number of values of {attribute}"),
            &different.len(),
            &1,
        )?;
        sees(context, (claim, "main"), (claim, None))?;
    }
    Ok(())
}

pub(crate) fn gpus_that_must_differ_in_an_attribute_do(
    context: &Context<'_>,
) -> Result<(), Failure> {
    context.apply(&example("distinct-attribute")?)?;
    context.running(&["apart"])?;
    let values: BTreeSet<_> = values(context, "apart", NUMA_NODE)?.into_iter().collect();
    same("the number of NUMA nodes", &values.len(), &2)?;
    sees(context, ("apart", "main"), ("apart", None))
}

pub(crate) fn the_first_entry_of_a_prioritized_list_that_can_be_had_is_taken(
    context: &Context<'_>,
) -> Result<(), Failure> {
    context.apply(&example("prioritized-list")?)?;
    context.running(&["first-available"])?;
    let results = results(context, "first-available")?;
    let requests: Vec<_> = results.iter().map(|r| r.request.as_str()).collect();
    same(
        "the requests that were served",
        &requests,
        &vec!["gpus/pair"; 2],
    )?;
    sees(
        context,
        ("first-available", "main"),
        ("first-available", None),
    )
}

pub(crate) fn a_claim_of_all_gpus_has_every_gpu_of_a_node(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("t4")?;
    context.apply(&on_node(&example("all-gpus")?, node))?;
    context.running(&["all-gpus"])?;
    let held: BTreeSet<_> = context
        .held("all-gpus")?
        .into_iter()
        .map(|gpu| gpu.place)
        .collect();
    same("the GPUs of the claim", &held, &all_of(context, node)?)?;
    sees(context, ("all-gpus", "main"), ("all-gpus", None))
}

pub(crate) fn admin_access_sees_gpus_in_use_and_disturbs_nobody(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    context.apply(&one_gpu_on(node, "user"))?;
    let pods = context.running(&["user"])?;
    let users = claim_of(&pods["user"], "gpu")?;
    let monitor = on_node(&example("admin-access")?, node);
    refused_without_label(context, &monitor)?;
    context.label_namespace(ADMIN_LABEL, "true")?;
    context.apply(&monitor)?;
    context.running(&["monitor"])?;
    sees(context, ("monitor", "main"), ("monitor", None))?;
    let watched: BTreeSet<_> = context
        .held("monitor")?
        .into_iter()
        .map(|gpu| gpu.place)
        .collect();
    same(
        "the GPUs that are watched",
        &watched,
        &all_of(context, node)?,
    )?;

    // A GPU that is watched can be had, like one that nobody watches.
    context.apply(&one_gpu_on(node, "newcomer"))?;
    let pods = context.running(&["newcomer"])?;
    let newcomers = claim_of(&pods["newcomer"], "gpu")?;
    context.delete_pods(&["monitor"])?;
    context.delete_claim("monitor")?;
    for (pod, claim) in [("user", &users), ("newcomer", &newcomers)] {
        sees(context, (pod, "main"), (claim, None))?;
    }
    let pods: Objects<Pod> = context.list()?;
    for pod in ["user", "newcomer"] {
        same(&format!("the restarts of {pod}"), &restarts(&pods[pod]), &0)?;
    }
    Ok(())
}

fn refused_without_label(context: &Context<'_>, monitor: &str) -> Result<(), Failure> {
    match context.apply(monitor) {
        // The pod of the manifest was taken all the same, and waits for its claim.
        Err(Failure::Refused { said, .. }) if said.contains(ADMIN_LABEL) => {
            context.delete_pods(&["monitor"])
        }
        other => Err(Failure::wrong(format!(
            "admin access without the label {ADMIN_LABEL} should be refused: {other:?}"
        ))),
    }
}

pub(crate) fn each_container_sees_the_gpus_of_the_request_that_it_names(
    context: &Context<'_>,
) -> Result<(), Failure> {
    context.apply(&example("two-requests")?)?;
    context.running(&["divided"])?;
    for (request, count) in [("single", 1), ("pair", 2)] {
        let served = results(context, "divided")?;
        let served = served.iter().filter(|result| result.request == request);
        same(
            &format!("the GPUs of request {request}"),
            &served.count(),
            &count,
        )?;
        sees(context, ("divided", request), ("divided", Some(request)))?;
    }
    sees(context, ("divided", "all"), ("divided", None))
}

pub(crate) fn a_limit_of_gpus_is_served_without_a_claim_of_the_users(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let two = example("extended-resource")?;
    context.apply(&two)?;
    let pods = context.running(&["by-limit"])?;
    let status = pods["by-limit"].status.clone().unwrap_or_default();
    let made = status.extended_resource_claim_status;
    let claim =
        made.ok_or_else(|| Failure::wrong("no claim was made for the limit of by-limit"))?;
    let claim = claim.resource_claim_name;
    same("the number of GPUs", &context.held(&claim)?.len(), &2)?;
    sees(context, ("by-limit", "main"), (&claim, None))?;
    let beside = context.execute(
        "by-limit",
        "beside",
        &["sh", "-c", "ls /dev | grep -c nvidia || true"],
    )?;
    same(
        "the GPU files in the container beside",
        &beside.trim(),
        &"0",
    )?;

    let nine = two
        .replace("name: by-limit", "name: too-many")
        .replace("nvidia.com/gpu: 2", "nvidia.com/gpu: 9");
    context.apply(&nine)?;
    let reason = context.pods("a reason why too-many waits", |pods| {
        unschedulable(pods.get("too-many")?)
    })?;
    let (_, reason) = reason;
    if !reason.contains("nvidia.com/gpu") && !reason.contains("cannot allocate all claims") {
        return Err(Failure::wrong(format!(
            "too-many waits, and the scheduler says only {reason:?}"
        )));
    }
    Ok(())
}

fn on_node_with(context: &Context<'_>, pod: &str, profile: &str) -> Result<(), Failure> {
    let pods = context.running(&[pod])?;
    let spec = pods[pod].spec.as_ref();
    let placed = spec.and_then(|spec| spec.node_name.as_deref());
    let node = context.node_with(profile)?.name();
    same(&format!("the node of {pod}"), &placed, &Some(node))
}

/// Holds if `nvidia-smi -L` lists exactly the GPUs of the claim, or of one of its requests.
fn sees(
    context: &Context<'_>,
    (pod, container): (&str, &str),
    (claim, request): (&str, Option<&str>),
) -> Result<(), Failure> {
    let mut seen = context.lists(pod, container)?;
    let places: Vec<_> = results(context, claim)?
        .into_iter()
        .filter(|result| request.is_none_or(|request| result.request == request))
        .map(|result| (result.pool, result.device))
        .collect();
    let mut held = context.held(claim)?;
    held.retain(|gpu| places.contains(&(gpu.place.pool.clone(), gpu.place.device.clone())));
    let mut held = uuids(&held);
    // nvidia-smi lists GPUs by their bus addresses, and the scheduler in the order in which it found them.
    seen.sort();
    held.sort();
    same(&format!("the GPUs in {pod}/{container}"), &seen, &held)
}

/// What the scheduler gave the claim.
fn results(
    context: &Context<'_>,
    claim: &str,
) -> Result<Vec<DeviceRequestAllocationResult>, Failure> {
    let claims = context.claims()?;
    let status = claims.get(claim).and_then(|claim| claim.status.clone());
    let allocation = status.and_then(|status| status.allocation);
    let devices = allocation.and_then(|allocation| allocation.devices);
    let results = devices.and_then(|devices| devices.results);
    results.ok_or_else(|| Failure::wrong(format!("claim {claim} is not allocated")))
}

/// The values of an attribute of each device of the claim, as the slices write them.
fn values(context: &Context<'_>, claim: &str, attribute: &str) -> Result<Vec<String>, Failure> {
    let slices: Objects<ResourceSlice> = context.kubernetes().list(Scope::Cluster)?;
    let value = |place: &Place| -> Option<String> {
        let Device { attributes, .. } = device(&slices, place)?;
        let value = attributes.as_ref()?.get(attribute)?;
        value
            .string
            .clone()
            .or_else(|| Some(value.int?.to_string()))
    };
    let held = context.held(claim)?.into_iter();
    held.map(|gpu| {
        value(&gpu.place)
            .ok_or_else(|| Failure::wrong(format!("{:?} has no {attribute}", gpu.place)))
    })
    .collect()
}

/// Every GPU that this node offers.
fn all_of(context: &Context<'_>, node: &Node) -> Result<BTreeSet<Place>, Failure> {
    let slices: Objects<ResourceSlice> = context.kubernetes().list(Scope::Cluster)?;
    let offered = offered(&slices).into_iter();
    let on_node = offered.filter(|gpu| gpu.place.pool == node.name());
    Ok(on_node.map(|gpu| gpu.place).collect())
}
