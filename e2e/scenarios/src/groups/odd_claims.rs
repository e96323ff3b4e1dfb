//! Claims that are not what they were when the kubelet calls.
//!
//! A kubelet reads a claim itself a moment before it calls, so the call is made by the test, at the plugin's own socket,
//! and the allocation is written by it instead of the scheduler. API server and plugin are the real ones.

use tessera_proto::dra::v1::Claim;

use super::manifests::claim;
use crate::calls::Calls;
use crate::context::Context;
use crate::failure::{Failure, same};
use crate::gpus::DRIVER;
use crate::kubernetes::uid;
use crate::leftovers::left_on;

/// What follows the requests of a claim: one more, for a device of another driver.
const OTHER_REQUEST: &str = "    - name: other
      exactly:
        deviceClassName: gpu.nvidia.com
";

pub(crate) fn claims_that_are_gone_replaced_or_shared_with_other_drivers_are_told_apart(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    let mut calls = Calls::to(context.kubernetes(), node)?;
    let ours = |device: &str| ("gpu", DRIVER, node.name().to_owned(), device.to_owned());
    let theirs = (
        "other",
        "nic.example.com",
        "rack".to_owned(),
        "gpu-1".to_owned(),
    );

    let deleted = allocated(context, "deleted", &[ours("gpu-0")])?;
    context.delete_claim("deleted")?;
    refused(context, &mut calls, &deleted, "does not exist any more")?;

    let former = allocated(context, "replaced", &[ours("gpu-0")])?;
    context.delete_claim("replaced")?;
    let next = allocated(context, "replaced", &[ours("gpu-0")])?;
    refused(context, &mut calls, &former, "was replaced")?;
    same(
        "the devices of the claim that replaced it",
        &calls.prepare(&next)?,
        &Ok(vec!["gpu-0".to_owned()]),
    )?;
    // The kubelet asks for the former once more, when it cleans up behind it: that must not touch the present one.
    calls.unprepare(&former)?;
    same("what is left of the claims", &left_on(node)?, &(1, 1))?;
    calls.unprepare(&next)?;

    let joined = allocated(context, "joined", &[theirs.clone(), ours("gpu-2")])?;
    same(
        "our devices of a claim of two drivers",
        &calls.prepare(&joined)?,
        &Ok(vec!["gpu-2".to_owned()]),
    )?;
    calls.unprepare(&joined)?;
    let foreign = allocated(context, "foreign", &[theirs])?;
    refused(
        context,
        &mut calls,
        &foreign,
        "no device of driver gpu.nvidia.com",
    )
}

/// A result of an allocation: request, driver, pool, device.
type Allocated<'a> = (&'a str, &'a str, String, String);

/// Makes a claim, writes this allocation into its status, and returns how the kubelet would name it.
fn allocated(
    context: &Context<'_>,
    name: &str,
    results: &[Allocated<'_>],
) -> Result<Claim, Failure> {
    context.apply(&format!("{}{OTHER_REQUEST}", claim(name)))?;
    let results = results.iter().map(|(request, driver, pool, device)| {
        serde_json::json!({"request": request, "driver": driver, "pool": pool, "device": device})
    });
    let results: Vec<_> = results.collect();
    let status = serde_json::json!({"status": {"allocation": {"devices": {"results": results}}}});
    context.patch_status("resourceclaim", name, &status)?;
    let claims = context.claims()?;
    let claim = claims.get(name);
    let claim = claim.ok_or_else(|| Failure::wrong(format!("claim {name} is gone")))?;
    Ok(Claim {
        namespace: claim.metadata.namespace.clone().unwrap_or_default(),
        name: name.to_owned(),
        uid: uid(claim),
    })
}

/// Holds if the claim is not prepared, the reason says this, and nothing is left of the attempt.
fn refused(
    context: &Context<'_>,
    calls: &mut Calls,
    claim: &Claim,
    reason: &str,
) -> Result<(), Failure> {
    match calls.prepare(claim)? {
        Err(error) if error.contains(reason) => context.nothing_left(),
        other => Err(Failure::wrong(format!(
            "claim {} should be refused because it {reason}: {other:?}",
            claim.name
        ))),
    }
}
