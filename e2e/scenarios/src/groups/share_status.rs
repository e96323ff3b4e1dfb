//! What the status of a claim says of its shares, and who may say it.

use std::time::Duration;

use k8s_openapi::api::resource::v1::{AllocatedDeviceStatus, ResourceClaim};
use serde_json::json;

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
    let devices = json!({"status": {"devices": [forged]}});
    let reserved = json!({"status": {"reservedFor": []}});
    let allocated = json!({"status": {"allocation": null}});
    // That it may say something of its own share is what makes the rest mean something.
    plugin.kubectl(
        &patch(context, &devices.to_string(), "--dry-run=server"),
        None,
    )?;
    for (account, forgery) in [
        (&stranger, &devices),
        (&plugin, &reserved),
        (&plugin, &allocated),
    ] {
        let forgery = forgery.to_string();
        account.refused(&patch(context, &forgery, "--dry-run=none"), None, REFUSED)?;
    }
    Ok(())
}

/// Type, status and reason of each condition.
fn conditions(said: &AllocatedDeviceStatus) -> Vec<[&str; 3]> {
    let conditions = said.conditions.iter().flatten();
    let words = conditions.map(|it| [it.type_.as_str(), it.status.as_str(), it.reason.as_str()]);
    words.collect()
}

/// The arguments with which `kubectl` changes the status of the claim.
fn patch<'a>(context: &'a Context<'_>, patch: &'a str, dry_run: &'a str) -> Vec<&'a str> {
    vec![
        "patch",
        "resourceclaim",
        NAME,
        "--namespace",
        context.namespace(),
        "--subresource=status",
        "--type=merge",
        "--patch",
        patch,
        dry_run,
    ]
}
