//! What users are told: refusals and long waits are events of the pod and of the claim, and nothing else is.

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::api::resource::v1::ResourceClaim;

use super::manifests::{all_gpus, one_gpu};
use crate::context::{Context, claim_of};
use crate::failure::{Failure, nothing, same};
use crate::gpus::DRIVER;
use crate::kubernetes::Objects;

/// What ends the containers of a node, by the name that the kernel keeps of it.
const SHIM: &str = "containerd-shim";

/// A kind of configuration that is right in itself and wrong for a whole GPU, so that only the node
/// can refuse it.
const WRONG_KIND: &str = "MigDeviceConfig";

pub(crate) fn a_refused_claim_says_why_on_the_pod_and_on_the_claim(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let configured = format!(
        "    devices:
      config:
      - requests: [gpu]
        opaque:
          driver: {DRIVER}
          parameters: {{apiVersion: resource.nvidia.com/v1beta1, kind: {WRONG_KIND}}}
"
    );
    context.apply(&one_gpu("refused").replace("    devices:\n", &configured))?;
    let reason = "MismatchedConfiguration";
    let events = told(context, reason, &["Pod", "ResourceClaim"])?;
    for event in &events {
        let note = event.message.clone().unwrap_or_default();
        same(
            "the event names the kind",
            &note.contains(WRONG_KIND),
            &true,
        )?;
        same(
            "the event's type",
            &event.type_.as_deref(),
            &Some("Warning"),
        )?;
    }
    let claims: Objects<ResourceClaim> = context.list()?;
    let mut described = vec!["pod/refused".to_owned()];
    described.extend(claims.keys().map(|claim| format!("resourceclaim/{claim}")));
    for object in described {
        let text = context.describe(&object)?;
        let shown = text
            .lines()
            .any(|line| line.contains(reason) && line.contains(WRONG_KIND));
        same(
            &format!("kubectl describe {object} shows the reason"),
            &shown,
            &true,
        )?;
    }
    Ok(())
}

pub(crate) fn a_long_wait_is_told_and_a_normal_start_is_not(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    // Once a minute the kubelet has the claims unprepared of pods that it does not know any more, whether
    // their processes have ended or not (reconcileLoop in pkg/kubelet/cm/dra/manager.go). The minute is to
    // begin here, so that it does not end during the wait.
    node.restart_kubelet()?;
    context.apply(&all_gpus("former", node))?;
    let former = claim_of(&context.running(&["former"])?["former"], "gpus")?;
    // Nobody can end its process for as long as the wait is to last.
    let shims = node.stop(node.processes(SHIM));
    // Its object is gone at once, and with it the claim; its process is not.
    context.delete_pods(&["former", "--force", "--grace-period=0"])?;
    context.apply(&all_gpus("next", node))?;
    for event in told(context, "WaitingForClaim", &["Pod", "ResourceClaim"])? {
        let named = event.message.is_some_and(|note| note.contains(&former));
        same("the event names the former claim", &named, &true)?;
    }
    drop(shims);
    context.running(&["next"])?;
    nothing("preparations have failed", &context.failed_preparations()?)?;
    // By now an event of the former pod's start would be there as well.
    let of_the_former = |text: &&String| text.starts_with("former");
    let about: Vec<String> = ours(context)?
        .iter()
        .filter(of_the_former)
        .cloned()
        .collect();
    nothing("a normal start is told", &about)
}

/// Waits until the driver has an event with this reason about an object of each kind.
fn told(context: &Context<'_>, reason: &str, kinds: &[&str]) -> Result<Vec<Event>, Failure> {
    let about = |kind: &&str| {
        let what = format!("an event {reason} about a {kind}");
        context.event(context.scope(), &what, |event| {
            is_ours(event)
                && event.reason.as_deref() == Some(reason)
                && event.involved_object.kind.as_deref() == Some(kind)
        })
    };
    kinds.iter().map(about).collect()
}

/// Whether the driver has written it.
fn is_ours(event: &Event) -> bool {
    event.reporting_component.as_deref() == Some(DRIVER)
}

/// The driver's events, in words.
fn ours(context: &Context<'_>) -> Result<Vec<String>, Failure> {
    let events: Objects<Event> = context.list()?;
    let ours = events.into_values().filter(is_ours);
    let words = ours.map(|event| {
        let about = event.involved_object.name.unwrap_or_default();
        format!("{about}: {}", event.message.unwrap_or_default())
    });
    Ok(words.collect())
}
