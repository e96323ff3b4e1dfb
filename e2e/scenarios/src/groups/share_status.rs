//! What the status of a claim says of its shares, and who may say it.

use std::time::Duration;

use k8s_openapi::api::resource::v1::{AllocatedDeviceStatus, ResourceClaim};
use serde_json::{Value, json};

use super::rights::account_of;
use super::shares::{last_gpu, share};
use crate::context::Context;
use crate::failure::{Failure, same};
use crate::gpus::DRIVER;
use crate::kubernetes::Objects;

/// The plugin looks at its shares every 15 s; one look can be missed on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

/// In any refusal: the authorizer and policies write it small, and the validation of a claim's status large.
const REFUSED: &[&str] = &["orbidden"];

/// The claim, and its pod.
const NAME: &str = "best-effort";

pub(crate) fn a_claim_says_what_holds_its_share_and_no_plugin_says_more_than_that(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let kubernetes = context.kubernetes();
    let (own, other) = (context.node_with("h100")?, context.node_with("t4")?);
    let gpu = last_gpu(context, own)?;
    context.apply(&share(&gpu, NAME, "enforcement: BestEffort"))?;
    context.running(&[NAME])?;
    let what = "the claim to say what holds its share";
    let said = kubernetes.wait(
        context.scope(),
        what,
        LIMIT,
        |claims: &Objects<ResourceClaim>| {
            let status = claims.get(NAME)?.status.as_ref()?;
            status.devices.as_ref()?.first().cloned()
        },
    )?;
    let place = (said.driver.as_str(), said.pool.as_str());
    same("whose word it is", &place, &(DRIVER, own.name()))?;
    same(
        "whether it tells the share",
        &said.share_id.is_some(),
        &true,
    )?;
    // Nodes here have the first version of cgroups, by which no driver holds a share.
    let expected = vec![
        ["Enforced", "False", "None"],
        ["NearLimit", "Unknown", "NotMeasured"],
        ["Violation", "Unknown", "NotMeasured"],
    ];
    same("what it says", &conditions(&said), &expected)?;

    let (plugin, stranger) = (account_of(kubernetes, own)?, account_of(kubernetes, other)?);
    let forged = AllocatedDeviceStatus {
        conditions: None,
        ..said
    };
    let mut devices = json!({"devices": [forged]});
    devices["devices"][0]["data"] = json!({"usedBytes": 1});
    let reserved = json!({"reservedFor": [{"resource": "pods", "name": "nobody", "uid": "none"}]});
    let selected = json!([{"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": [other.name()]}]}]);
    let allocated = json!({"allocation": {"nodeSelector": {"nodeSelectorTerms": selected}}});
    // That it may say something of its own share is what makes the rest mean something.
    plugin.kubectl(
        &applying(context, "--dry-run=server"),
        Some(&claim(context, &devices)),
    )?;
    for (account, forgery) in [
        (&stranger, &devices),
        (&plugin, &reserved),
        (&plugin, &allocated),
    ] {
        let forgery = claim(context, forgery);
        account.refused(
            &applying(context, "--dry-run=none"),
            Some(&forgery),
            REFUSED,
        )?;
    }
    Ok(())
}

/// Type, status and reason of each condition.
fn conditions(said: &AllocatedDeviceStatus) -> Vec<[&str; 3]> {
    let conditions = said.conditions.iter().flatten();
    let words = conditions.map(|it| [it.type_.as_str(), it.status.as_str(), it.reason.as_str()]);
    words.collect()
}

/// The claim as somebody wants its status to be.
fn claim(context: &Context<'_>, status: &Value) -> String {
    let claim = json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": NAME, "namespace": context.namespace()},
        "status": status,
    });
    claim.to_string()
}

/// The arguments with which `kubectl` writes a status as the plugin does: without a look at it, to which that has no right.
fn applying<'a>(context: &'a Context<'_>, dry_run: &'a str) -> [&'a str; 9] {
    [
        "apply",
        "--namespace",
        context.namespace(),
        "--server-side",
        "--force-conflicts",
        "--subresource=status",
        "--validate=false",
        "--filename=-",
        dry_run,
    ]
}
