//! GPUs that are cut into MIG devices when pods need them.

use std::collections::BTreeSet;

use k8s_openapi::api::resource::v1::ResourceSlice;
use tessera_cluster::Node;

use super::manifests::{example, on_node, one_gpu_on};
use super::setting;
use crate::context::{Context, START_LIMIT, claim_of};
use crate::failure::{Failure, same};
use crate::gpus::offered;
use crate::kubernetes::{Objects, Scope};
use crate::simulated::Driver;

/// The hardware whose GPUs are cut.
const PROFILE: &str = "h100";

/// How many devices the smallest profile has on one of its GPUs, and how many GPUs there are.
const SMALL: usize = 7;
const GPUS: usize = 8;

/// As what each GPU is offered: 25 MIG devices, and the whole.
const VIEWS: usize = 26;

const TEMPLATE: &str = "
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata:
  name: small
spec:
  spec:
    devices:
      requests:
      - name: mig
        exactly:
          deviceClassName: mig.nvidia.com
          selectors:
          - cel:
              expression: device.attributes['gpu.nvidia.com'].profile == '1g.10gb'
";

/// A pod `NAME` with one of the smallest MIG devices.
const POD: &str = "
---
apiVersion: v1
kind: Pod
metadata:
  name: NAME
spec:
  resourceClaims:
  - name: mig
    resourceClaimTemplateName: small
  containers:
  - name: main
    image: docker.io/tessera/workload:1
    command: [sh, -c, nvidia-smi -L; echo listed; trap exit TERM; sleep 3600 & wait]
    resources:
      claims:
      - name: mig
  terminationGracePeriodSeconds: 1
";

pub(crate) fn gpus_are_cut_when_pods_need_it_and_whole_for_the_next(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let mut driver = Driver::of(node)?;
    setting::with(context, "FEATURE_GATES", "DynamicMIG=true", || {
        cut_and_put_together(context, node, &mut driver)
    })?;
    await_views(context, node, GPUS)?;
    driver.heal()
}

fn cut_and_put_together(
    context: &Context<'_>,
    node: &Node,
    driver: &mut Driver<'_>,
) -> Result<(), Failure> {
    let views = await_views(context, node, GPUS * VIEWS)?;

    // More than one GPU has room for, at once.
    let count = context.either(2 * SMALL, GPUS * SMALL);
    let names: Vec<String> = (0..count).map(|number| format!("small-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let pods = names.iter().map(|name| POD.replace("NAME", name));
    let pods: String = std::iter::once(TEMPLATE.to_owned()).chain(pods).collect();
    context.apply(&on_node(&pods, node))?;
    context.running_within(&names, START_LIMIT * 4)?;
    let mut seen = BTreeSet::new();
    for name in &names {
        let lines = context.written(name, "main")?;
        let device = lines
            .get(1)
            .filter(|line| line.starts_with("  MIG 1g.10gb"));
        let device = device
            .filter(|_| lines.len() == 2)
            .ok_or_else(|| Failure::wrong(format!("nvidia-smi -L in {name} says {lines:?}")))?;
        seen.insert(
            device
                .rsplit("UUID: ")
                .next()
                .unwrap_or_default()
                .to_owned(),
        );
    }
    same("different MIG devices in the pods", &seen.len(), &count)?;
    same("MIG devices on the node", &driver.mig_devices()?, &count)?;
    // They fill one GPU before they break the next.
    let cut = driver.cut_gpus()?;
    same("GPUs that are cut", &cut, &count.div_ceil(SMALL))?;
    same(
        "the offer",
        &await_views(context, node, GPUS * VIEWS)?,
        &views,
    )?;

    context.delete_pods(&names)?;
    context.no_claims()?;
    context.nothing_left()?;
    same("MIG devices that are left", &driver.mig_devices()?, &0)?;

    // Another size, as the documentation shows it.
    context.apply(&example("mig")?)?;
    let pods = context.running(&["one-half", "other-half"])?;
    let halves: BTreeSet<String> = ["one-half", "other-half"]
        .iter()
        .map(|pod| context.held(&claim_of(&pods[*pod], "mig")?))
        .collect::<Result<Vec<_>, Failure>>()?
        .into_iter()
        .flatten()
        .map(|held| held.place.device)
        .collect();
    same("different halves", &halves.len(), &2)?;
    context.delete_pods(&["one-half", "other-half"])?;

    let whole: Vec<String> = (0..GPUS).map(|number| format!("whole-{number}")).collect();
    let whole: Vec<&str> = whole.iter().map(String::as_str).collect();
    for name in &whole {
        context.apply(&one_gpu_on(node, name))?;
    }
    context.running_within(&whole, START_LIMIT * 2)?;
    for name in &whole {
        same("the GPUs in a pod", &context.seen(name, "main")?.len(), &1)?;
    }
    same("MIG devices beside whole GPUs", &driver.mig_devices()?, &0)?;
    same("GPUs in MIG mode", &driver.gpus_in_mig_mode()?, &0)?;
    context.delete_pods(&whole)?;
    context.no_claims()?;
    context.nothing_left()
}

/// Waits until the node offers so many devices, and returns them with the versions of their slices.
fn await_views(
    context: &Context<'_>,
    node: &Node,
    count: usize,
) -> Result<Vec<(String, Option<String>)>, Failure> {
    let what = format!("{} to offer {count} devices", node.name());
    let views = |slices: &Objects<ResourceSlice>| {
        let devices = offered(slices).into_iter();
        let ours = devices.filter(|device| device.place.pool == node.name());
        let versions = slices.values().filter(|slice| {
            slice.spec.driver == crate::gpus::DRIVER && slice.spec.pool.name == node.name()
        });
        let versions = versions.map(|slice| {
            let metadata = &slice.metadata;
            (
                metadata.name.clone().unwrap_or_default(),
                metadata.resource_version.clone(),
            )
        });
        (ours.count() == count).then(|| versions.collect())
    };
    let kubernetes = context.kubernetes();
    kubernetes.wait(Scope::Cluster, &what, START_LIMIT, views)
}
