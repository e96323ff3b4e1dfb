//! Time slices: the setting of a GPU as a whole that claims can ask for.

use std::time::Duration;

use tessera_cluster::Node;
use tessera_hw::TimeSlice;

use super::manifests::{example, on_node, pod_of};
use super::shares::last_gpu;
use crate::context::{Context, failed_preparation, uuids};
use crate::failure::{Failure, same};
use crate::pause::pause;
use crate::simulated::Driver;

/// The node whose GPUs are set.
const PROFILE: &str = "h100";

/// How many pods share a GPU.
const SHARES: usize = 10;

/// What so many pods may take to run on a machine of two cores.
const MANY: Duration = Duration::from_mins(2);

pub(crate) fn a_time_slice_is_set_while_somebody_wants_it_and_no_other_gpu_is_touched(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let mut driver = Driver::of(node)?;
    let outcome = take_turns(context, node, &mut driver);
    let all = ["pods", "--all"];
    let gone = context.kubernetes().delete(context.namespace(), &all);
    outcome.and(gone)?;
    driver.heal()
}

fn take_turns(context: &Context<'_>, node: &Node, driver: &mut Driver<'_>) -> Result<(), Failure> {
    // Two pods share the GPU of one claim.
    context.apply(&on_node(&example("time-slicing")?, node))?;
    context.running(&["one-turn", "other-turn"])?;
    let first = uuids(&context.held("short-turns")?);
    same("the number of GPUs", &first.len(), &1)?;
    let short = (first[0].clone(), TimeSlice::Short);
    same("what is set", &driver.time_slices()?, &vec![short.clone()])?;

    // Somebody has set another GPU by hand; a claim that says nothing of it changes nothing.
    let last = last_gpu(context, node)?;
    let medium = (last.clone(), TimeSlice::Medium);
    driver.set_time_slice(&last, TimeSlice::Medium)?;
    context.apply(&asking("plain", &last, None))?;
    context.running(&["plain"])?;
    context.delete_pods(&["plain"])?;
    let both = vec![short.clone(), medium.clone()];
    same(
        "what is set beside a plain claim",
        &driver.time_slices()?,
        &both,
    )?;

    // The first of the two pods ends, and the setting stays with the other.
    context.delete_pods(&["one-turn"])?;
    same(
        "what is set for the other pod",
        &driver.time_slices()?,
        &both,
    )?;
    context.delete_pods(&["other-turn"])?;
    set_back_to(driver, &[medium])?;

    // Ten claims share a GPU with their time slice, and one that wants another is refused.
    let names: Vec<String> = (0..SHARES).map(|number| format!("turn-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names[1..] {
        context.apply(&asking(name, &last, Some("Long")))?;
    }
    context.running_within(&names[1..], MANY)?;
    let long = vec![(last.clone(), TimeSlice::Long)];
    same("what is set for the shares", &driver.time_slices()?, &long)?;
    context.apply(&asking("contrary", &last, Some("Short")))?;
    let what = "the refusal of another time slice";
    context.event(context.scope(), what, |event| {
        let message = event.message.as_deref().unwrap_or_default();
        failed_preparation(event)
            && message.contains("/contrary")
            && message.contains("wants the time-slice interval Short of the device, but claim")
            && message.contains("has it at Long")
            && names
                .iter()
                .any(|name| message.contains(&format!("/{name} ")))
    })?;
    same("what is set beside it", &driver.time_slices()?, &long)?;
    context.delete_pods(&["contrary"])?;
    context.delete_claim("contrary")?;
    context.apply(&asking(names[0], &last, Some("Long")))?;
    context.running(&names[..1])?;

    // The last of them sets it back.
    context.delete_pods(&names[1..])?;
    same("what is set for the last", &driver.time_slices()?, &long)?;
    context.delete_pods(&names[..1])?;
    set_back_to(driver, &[])?;
    context.nothing_left()
}

/// Waits until nothing but this is set: a pod is gone before its claim is unprepared.
fn set_back_to(driver: &Driver<'_>, expected: &[(String, TimeSlice)]) -> Result<(), Failure> {
    for _ in 0..100 {
        if driver.time_slices()? == expected {
            return Ok(());
        }
        pause(Duration::from_millis(100))?;
    }
    same(
        "what is left set",
        &driver.time_slices()?,
        &expected.to_vec(),
    )
}

/// A claim for this very GPU, or for a share of it, and a pod that has it. Both have this name.
fn asking(name: &str, uuid: &str, interval: Option<&str>) -> String {
    let config = interval.map_or_else(String::new, |interval| {
        format!(
            "
    config:
    - opaque:
        driver: gpu.nvidia.com
        parameters:
          apiVersion: resource.nvidia.com/v1beta1
          kind: GpuConfig
          sharing:
            strategy: TimeSlicing
            timeSlicingConfig: {{interval: {interval}}}"
        )
    });
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
        - cel: {{expression: \"device.attributes['gpu.nvidia.com'].uuid == '{uuid}'\"}}{config}
---{}",
        pod_of(name, name)
    )
}
