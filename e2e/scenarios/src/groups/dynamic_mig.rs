//! GPUs that are cut into MIG devices when pods need them.

use std::collections::BTreeSet;

use k8s_openapi::api::resource::v1::{Device, ResourceSlice};
use tessera_cluster::Node;
use tessera_hw::state::Presence;

use super::manifests::{example, on_node, one_gpu_on};
use crate::context::{Context, START_LIMIT, claim_of};
use crate::failure::{Failure, same};
use crate::gpus::offered;
use crate::kubernetes::{Objects, Scope};
use crate::simulated::Driver;

/// The hardware whose GPUs are cut.
const PROFILE: &str = "h100";

/// Another hardware with as many GPUs, whose MIG mode changes with a reset only, and as many kinds of parts.
const AMPERE: &str = "a100-40g";

/// The taint of what overlaps a device that somebody holds open.
const BUSY: &str = "tessera-dra.github.io/mig-device-busy";

/// How many devices the smallest profile has on one of its GPUs, and how many GPUs there are.
const SMALL: usize = 7;
pub(super) const GPUS: usize = 8;

/// As what each GPU is offered: 25 MIG devices, and the whole.
pub(super) const VIEWS: usize = 26;

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
    let driver = Driver::of(node)?;
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

/// A MIG device that was made for a pod.
struct Made {
    minor: usize,
    /// Its first memory slice.
    start: u32,
}

impl Made {
    /// That of this pod. Its name ends with the place.
    fn of(context: &Context<'_>, pod: &str) -> Result<Self, Failure> {
        let pods = context.running(&[pod])?;
        let held = context.held(&claim_of(&pods[pod], "mig")?)?;
        let names: Vec<_> = held.into_iter().map(|held| held.place.device).collect();
        let place = |name: &str| {
            let (gpu, rest) = name.strip_prefix("gpu-")?.split_once('-')?;
            let (_, start) = rest.rsplit_once('-')?;
            Some((gpu.parse().ok()?, start.parse().ok()?))
        };
        let [name] = &names[..] else {
            return Err(Failure::wrong(format!("{pod} has {names:?}")));
        };
        let (minor, start) =
            place(name).ok_or_else(|| Failure::wrong(format!("{name} tells no place")))?;
        Ok(Self { minor, start })
    }

    /// Whether this device would take the memory slice, by the counters of its own slice.
    fn is_overlapped_by(&self, device: &Device) -> bool {
        let set = format!("gpu-{}-counter-set", self.minor);
        let counter = format!("memory-slice-{}", self.start);
        let mut used = device.consumes_counters.iter().flatten();
        used.any(|used| used.counter_set == set && used.counters.contains_key(&counter))
    }
}

pub(crate) fn a_mig_device_that_somebody_holds_open_is_tainted_until_it_is_let_go(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let mut driver = Driver::of(node)?;
    await_views(context, node, GPUS * VIEWS)?;
    await_tainted(context, node, |_| false)?;
    let pods = POD.replace("NAME", "held") + &POD.replace("NAME", "beside");
    context.apply(&on_node(&format!("{TEMPLATE}{pods}"), node))?;
    let (held, beside) = (Made::of(context, "held")?, Made::of(context, "beside")?);
    same("the GPU of both", &held.minor, &beside.minor)?;

    driver.hold(held.minor, held.start)?;
    context.let_go(&["held"])?;
    await_tainted(context, node, |device| held.is_overlapped_by(device))?;
    // The others go on, and so do newcomers.
    context.apply(&on_node(&POD.replace("NAME", "newcomer"), node))?;
    context.running(&["beside", "newcomer"])?;
    same("MIG devices on the node", &driver.mig_devices()?, &3)?;

    driver.let_go()?;
    context.pods("the pod of the held device to be gone", |pods| {
        (!pods.contains_key("held")).then_some(())
    })?;
    await_tainted(context, node, |_| false)?;
    context.delete_pods(&["beside", "newcomer"])?;
    context.no_claims()?;
    context.nothing_left()?;
    same("MIG devices that are left", &driver.mig_devices()?, &0)?;
    driver.heal()
}

pub(crate) fn a_lost_gpu_of_which_somebody_has_a_part_leaves_its_place_and_the_others_go_on(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let mut driver = Driver::of(node)?;
    let all = await_views(context, node, GPUS * VIEWS)?;
    context.apply(&on_node(
        &format!("{TEMPLATE}{}", POD.replace("NAME", "before")),
        node,
    ))?;
    let in_use = Made::of(context, "before")?.minor;
    let last = GPUS - 1;
    let mut views = all.clone();
    // All devices of the first GPUs stand in one slice, and of the last the whole in one and the parts in another.
    for (withdrawn, (minor, slices)) in (1..).zip([(in_use, 1), (last, 2)]) {
        driver.set(minor, Presence::Lost)?;
        driver.stir()?;
        let now = await_views(context, node, (GPUS - withdrawn) * VIEWS)?;
        let what = format!("slices written when gpu-{minor} is lost");
        same(&what, &written(&views, &now), &slices)?;
        views = now;
    }
    // The part that somebody has of a lost GPU does not keep the scheduler from the others.
    context.apply(&on_node(&POD.replace("NAME", "beside"), node))?;
    let beside = Made::of(context, "beside")?.minor;
    same(
        &format!("whether gpu-{beside} answers"),
        &(beside != in_use && beside != last),
        &true,
    )?;
    for minor in [in_use, last] {
        driver.set(minor, Presence::Present)?;
    }
    driver.stir()?;
    let back = await_views(context, node, GPUS * VIEWS)?;
    same("slices", &names_of(&back), &names_of(&all))?;
    context.delete_pods(&["before", "beside"])?;
    context.no_claims()?;
    context.nothing_left()?;
    same("MIG devices that are left", &driver.mig_devices()?, &0)?;
    driver.heal()
}

/// A slice by its name, and its version.
type Version = (String, Option<String>);

/// How many of the slices that there were have been written since.
fn written(before: &[Version], now: &[Version]) -> usize {
    before.iter().filter(|slice| !now.contains(slice)).count()
}

fn names_of(slices: &[Version]) -> Vec<&String> {
    slices.iter().map(|(name, _)| name).collect()
}

/// Waits until exactly these devices of the node have a taint.
fn await_tainted(
    context: &Context<'_>,
    node: &Node,
    wanted: impl Fn(&Device) -> bool,
) -> Result<(), Failure> {
    let what = "the taints of what overlaps the held device, and no others";
    let ours = |slice: &&ResourceSlice| {
        slice.spec.driver == crate::gpus::DRIVER && slice.spec.pool.name == node.name()
    };
    let agree = |device: &Device| {
        let keys = device.taints.iter().flatten().map(|taint| &taint.key);
        let wanted: &[&str] = if wanted(device) { &[BUSY] } else { &[] };
        keys.eq(wanted)
    };
    let kubernetes = context.kubernetes();
    kubernetes.wait(Scope::Cluster, what, START_LIMIT, |slices: &Objects<_>| {
        let mut slices = slices.values().filter(ours);
        let mut all = slices
            .by_ref()
            .flat_map(|slice| slice.spec.devices.iter().flatten());
        all.all(agree).then_some(())
    })
}

pub(crate) fn gpus_whose_mode_needs_a_reset_are_cut_in_the_mode_that_they_are_in(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let mut driver = Driver::of(node)?;
    driver.exchange(AMPERE)?;
    driver.switch_mig_on()?;
    let outcome = cut_in_their_mode(context, node, &driver);
    driver.install()?;
    outcome?;
    await_views(context, node, GPUS * VIEWS).map(drop)
}

fn cut_in_their_mode(
    context: &Context<'_>,
    node: &Node,
    driver: &Driver<'_>,
) -> Result<(), Failure> {
    // As parts alone, for to be whole they would have to be reset.
    let views = await_views(context, node, GPUS * (VIEWS - 1))?;
    for (profile, count) in [
        ("1g.5gb", context.either(SMALL + 1, GPUS * SMALL)),
        ("7g.40gb", context.either(1, GPUS)),
    ] {
        let of_size = |manifest: &str| {
            let template = format!("size-{}", profile.replace('.', "-"));
            manifest
                .replace("small", &template)
                .replace("1g.10gb", profile)
        };
        let names: Vec<String> = (0..count).map(|number| format!("part-{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let pods = names.iter().map(|name| POD.replace("NAME", name));
        let pods: String = std::iter::once(TEMPLATE.to_owned()).chain(pods).collect();
        context.apply(&on_node(&of_size(&pods), node))?;
        context.running_within(&names, START_LIMIT * 4)?;
        let what = format!("MIG devices for pods with {profile}");
        same(&what, &driver.mig_devices()?, &count)?;
        context.delete_pods(&names)?;
        context.no_claims()?;
        context.nothing_left()?;
        same("MIG devices that are left", &driver.mig_devices()?, &0)?;
    }
    same("GPUs in MIG mode", &driver.gpus_in_mig_mode()?, &GPUS)?;
    same(
        "the offer",
        &await_views(context, node, GPUS * (VIEWS - 1))?,
        &views,
    )
}

/// Waits until the node offers so many devices, and returns them with the versions of their slices.
pub(super) fn await_views(
    context: &Context<'_>,
    node: &Node,
    count: usize,
) -> Result<Vec<Version>, Failure> {
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
