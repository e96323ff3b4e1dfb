//! Shares of a GPU by the scheduler's account of its capacity: several claims on one GPU, each with as much as it asks for.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{DeviceRequestAllocationResult, ResourceSlice};
use tessera_cluster::Node;

use super::manifests::{example, on_node, pod_by_template};
use super::whole_gpus::unschedulable;
use crate::context::{Context, claim_of, failed_preparation, uuids};
use crate::failure::{Failure, same};
use crate::kubernetes::{Objects, Scope, runs};

/// The node that gives its GPUs away in shares: eight GPUs of 81559 MiB.
const PROFILE: &str = "h100";

/// So many shares of 20 GiB fit on such a GPU: 3 · 20480 MiB are 61440, four are too much.
const FIT: usize = 3;

/// How many pods ask for such a share.
const PODS: usize = 20;

/// What so many pods may take to run on a machine of two cores.
const MANY: Duration = Duration::from_mins(3);

/// What a namespace must say before its claims may have admin access.
pub(super) const ADMIN_LABEL: &str = "resource.kubernetes.io/admin-access";

const TWENTY_GIB: &str = "21474836480";

pub(crate) fn twenty_pods_with_a_share_each_are_packed_on_as_few_gpus_as_can_hold_them(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let mut names = vec!["one-share".to_owned(), "other-share".to_owned()];
    let mut manifests = example("shares")?;
    for number in names.len()..PODS {
        let name = format!("share-{number:02}");
        manifests = format!("{manifests}---{}", pod_by_template(&name, "share"));
        names.push(name);
    }
    context.apply(&on_node(&manifests, node))?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let pods = context.running_within(&names, MANY)?;

    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for name in &names {
        let claim = claim_of(&pods[*name], "gpu")?;
        let held = context.held(&claim)?;
        same(&format!("the number of GPUs of {name}"), &held.len(), &1)?;
        let seen = context.seen(name, "main")?;
        same(&format!("the GPU in {name}"), &seen, &uuids(&held))?;
        *shares.entry(held[0].uuid.clone()).or_default() += 1;
    }
    // Equal shares are packed best when all GPUs but the last are full, which is what brute force
    // finds as well.
    let mut counts: Vec<usize> = shares.into_values().collect();
    counts.sort_unstable();
    let full = PODS / FIT;
    let best: Vec<usize> = [PODS % FIT].into_iter().chain(vec![FIT; full]).collect();
    same("the shares of each GPU in use", &counts, &best)?;

    let told = told(context, "one-share", "main")?;
    same("the shares that a container is told of", &told.len(), &1)?;
    if !told[0].contains(&format!(",memory={TWENTY_GIB},")) {
        let text = format!("a container with a share is told {:?}", told[0]);
        return Err(Failure::wrong(text));
    }
    Ok(())
}

pub(crate) fn a_whole_gpu_waits_while_a_share_of_it_is_in_use_and_runs_after(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let gpu = last_gpu(context, node)?;
    context.apply(&asking(
        &gpu,
        "share",
        "capacity: {requests: {memory: 1Gi}}",
    ))?;
    context.running(&["share"])?;
    context.apply(&asking(&gpu, "whole", ""))?;
    let reason = context.pods("the pod with the whole GPU to be pending", |pods| {
        unschedulable(pods.get("whole")?)
    })?;
    let (_, message) = reason;
    if !message.contains("cannot allocate all claims") {
        let text = format!("the scheduler says of the pending pod only {message:?}");
        return Err(Failure::wrong(text));
    }
    // A second share has room beside the first.
    context.apply(&asking(
        &gpu,
        "beside",
        "capacity: {requests: {memory: 1Gi}}",
    ))?;
    context.running(&["beside"])?;
    context.delete_pods(&["share"])?;
    still_pending(context, "whole")?;
    context.delete_pods(&["beside"])?;
    context.running(&["whole"])?;

    // And nobody has a share while one has all of it.
    context.apply(&asking(&gpu, "late", "capacity: {requests: {memory: 1Gi}}"))?;
    context.pods("the pod with the late share to be pending", |pods| {
        unschedulable(pods.get("late")?)
    })?;
    context.delete_pods(&["whole"])?;
    context.running(&["late"])?;
    same(
        "the failed preparations",
        &context.failed_preparations()?,
        &vec![],
    )?;
    Ok(())
}

pub(crate) fn two_shares_of_one_claim_are_told_apart_by_the_containers_that_have_them(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    context.apply(&on_node(&example("two-shares")?, node))?;
    context.running(&["divided"])?;
    let results = results(context, "two-shares")?;
    same("the number of shares", &results.len(), &2)?;
    same(
        "the device of the second share",
        &results[1].device,
        &results[0].device,
    )?;
    let gpu = uuids(&context.held("two-shares")?).remove(0);
    for (container, memory) in [
        ("first", &["21474836480"][..]),
        ("second", &["5368709120"]),
        ("both", &["21474836480", "5368709120"]),
    ] {
        let seen = context.seen("divided", container)?;
        let what = format!("the GPUs in container {container}");
        same(&what, &seen, &vec![gpu.clone()])?;
        let told = told(context, "divided", container)?;
        same("the number of its shares", &told.len(), &memory.len())?;
        for amount in memory {
            if !told
                .iter()
                .any(|one| one.contains(&format!(",memory={amount},")))
            {
                let text = format!("container {container} is told of no {amount}: {told:?}");
                return Err(Failure::wrong(text));
            }
        }
    }
    Ok(())
}

pub(crate) fn admin_access_sees_a_gpu_that_is_shared_and_hinders_nobody(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let gpu = last_gpu(context, node)?;
    context.label_namespace(ADMIN_LABEL, "true")?;
    context.apply(&asking(
        &gpu,
        "share",
        "capacity: {requests: {memory: 1Gi}}",
    ))?;
    context.running(&["share"])?;
    let watching = "adminAccess: true\n        capacity: {requests: {memory: 1Mi}}";
    context.apply(&asking(&gpu, "monitor", watching))?;
    context.running(&["monitor"])?;
    same(
        "the GPU that is watched",
        &context.lists("monitor", "main")?,
        &vec![gpu.clone()],
    )?;
    context.delete_pods(&["share"])?;
    context.apply(&asking(&gpu, "whole", ""))?;
    context.running(&["whole"])?;
    same(
        "the GPU of the whole",
        &context.lists("whole", "main")?,
        &vec![gpu],
    )?;
    Ok(())
}

pub(crate) fn a_limit_of_gpus_has_them_for_itself_beside_shares(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    context.apply(&on_node(&example("shares")?, node))?;
    let pods = context.running(&["one-share", "other-share"])?;
    let mut shared = Vec::new();
    for pod in ["one-share", "other-share"] {
        shared.extend(uuids(&context.held(&claim_of(&pods[pod], "gpu")?)?));
    }
    context.apply(&example("extended-resource")?)?;
    let pods = context.running(&["by-limit"])?;
    let status = pods["by-limit"].status.clone().unwrap_or_default();
    let made = status.extended_resource_claim_status;
    let claim = made.map(|made| made.resource_claim_name);
    let claim = claim.ok_or_else(|| Failure::wrong("no claim was made for the limit"))?;
    let held = uuids(&context.held(&claim)?);
    same("the number of GPUs", &held.len(), &2)?;
    let both: Vec<_> = held.iter().filter(|gpu| shared.contains(gpu)).collect();
    same("the GPUs that are shared as well", &both, &vec![])?;
    same(
        "the GPUs in the container",
        &context.lists("by-limit", "main")?,
        &held,
    )?;
    Ok(())
}

pub(crate) fn a_share_that_must_be_held_is_refused_with_what_its_device_has(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let gpu = last_gpu(context, node)?;
    context.apply(&share(&gpu, "best-effort", "enforcement: BestEffort"))?;
    context.running(&["best-effort"])?;
    context.apply(&share(&gpu, "required", "enforcement: Required"))?;
    let what = "the refusal of the share that must be held";
    context.event(context.scope(), what, |event| {
        let message = event.message.as_deref().unwrap_or_default();
        failed_preparation(event)
            && message.contains("memory.minimumTier Shim is required")
            && message.contains("what holds the shares of this device is none")
    })?;
    Ok(())
}

/// A share of 1 GiB of this GPU with this configuration of its memory, and a pod that has it. Claim and pod have this name.
pub(super) fn share(uuid: &str, name: &str, memory: &str) -> String {
    let config = format!(
        "
    config:
    - opaque:
        driver: gpu.nvidia.com
        parameters:
          apiVersion: tessera-dra.github.io/v1alpha1
          kind: ShareConfig
          memory: {{{memory}}}
---"
    );
    asking(uuid, name, "capacity: {requests: {memory: 1Gi}}").replace("\n---", &config)
}

/// The UUID of the last GPU of the node.
pub(super) fn last_gpu(context: &Context<'_>, node: &Node) -> Result<String, Failure> {
    let slices: Objects<ResourceSlice> = context.kubernetes().list(Scope::Cluster)?;
    let offered = crate::gpus::offered(&slices);
    let mut ours = offered.iter().filter(|gpu| gpu.place.pool == node.name());
    let last = ours.next_back().map(|gpu| gpu.uuid.clone());
    last.ok_or_else(|| Failure::wrong(format!("{} offers no GPU", node.name())))
}

/// A claim for this very GPU, or for what `capacity` asks for of it, and a pod that has it. Both have this name.
fn asking(uuid: &str, name: &str, capacity: &str) -> String {
    format!(
        "
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata:
  name: {name}
spec:
  devices:
    requests:
    - name: gpu
      exactly:
        deviceClassName: gpu.nvidia.com
        selectors:
        - cel: {{expression: \"device.attributes['gpu.nvidia.com'].uuid == '{uuid}'\"}}
        {capacity}
---{}",
        super::manifests::pod_of(name, name)
    )
}

fn still_pending(context: &Context<'_>, pod: &str) -> Result<(), Failure> {
    let pods: Objects<Pod> = context.list()?;
    if pods.get(pod).is_some_and(runs) {
        let text = format!("{pod} runs beside a share of its GPU");
        return Err(Failure::wrong(text));
    }
    Ok(())
}

/// What a container is told of its shares.
fn told(context: &Context<'_>, pod: &str, container: &str) -> Result<Vec<String>, Failure> {
    let variables = context.execute(pod, container, &["env"])?;
    let shares = variables
        .lines()
        .filter(|line| line.starts_with("TESSERA_SHARE_"));
    Ok(shares.map(str::to_owned).collect())
}

fn results(
    context: &Context<'_>,
    claim: &str,
) -> Result<Vec<DeviceRequestAllocationResult>, Failure> {
    let mut claims = context.claims()?;
    let status = claims.remove(claim).and_then(|claim| claim.status);
    let allocation = status.and_then(|status| status.allocation);
    let devices = allocation.and_then(|allocation| allocation.devices);
    Ok(devices
        .and_then(|devices| devices.results)
        .unwrap_or_default())
}
