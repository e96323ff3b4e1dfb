//! Compute domains: the controller chooses and holds their nodes, and a pod gets the channel of its own domain.
//!
//! The nodes of these scenarios are part of no NVLink fabric, so each is a clique of its own.

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::api::resource::v1::ResourceSlice;

use crate::context::{Context, START_LIMIT};
use crate::failure::{Failure, nothing, same};
use crate::kubernetes::{Objects, Scope};
use crate::leftovers;

/// The major number of the simulated driver's channels, as `stat` writes it: 234.
const MAJOR: &str = "ea";

/// The key of the taint by which a node is held.
const TAINT: &str = "tessera-dra.github.io/domain";

/// A domain of this size whose template is `<name>-channel`.
pub(super) fn domain(name: &str, nodes: u32) -> String {
    format!(
        "
apiVersion: resource.nvidia.com/v1beta1
kind: ComputeDomain
metadata:
  name: {name}
spec:
  numNodes: {nodes}
  channel:
    resourceClaimTemplate:
      name: {name}-channel
---
"
    )
}

/// A pod that writes which channels it has. `claim` says where its claim for a channel comes from, and `more` what else
/// its specification has.
pub(super) fn pod(name: &str, claim: &str, more: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  resourceClaims:
  - name: channel
    {claim}
  containers:
  - name: main
    image: docker.io/tessera/workload:1
    command: [sh, -c, 'stat -c \"%n %t %T %a\" /dev/nvidia-caps-imex-channels/*; echo listed; trap exit TERM; sleep 3600 & wait']
    resources:
      claims:
      - name: channel
  terminationGracePeriodSeconds: 1
  {more}
---
"
    )
}

pub(super) fn from_template(domain: &str) -> String {
    format!("resourceClaimTemplateName: {domain}-channel")
}

/// A claim `name` for a slot of the domain with the UID `of` whose configuration names the domain `named`.
fn forged(name: &str, of: &str, named: &str) -> String {
    format!(
        "
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata:
  name: {name}
spec:
  devices:
    requests:
    - name: channel
      exactly:
        deviceClassName: compute-domain-default-channel.nvidia.com
        selectors:
        - cel:
            expression: >-
              'domain' in device.attributes['compute-domain.nvidia.com'] &&
              device.attributes['compute-domain.nvidia.com'].domain == '{of}'
    config:
    - requests: [channel]
      opaque:
        driver: compute-domain.nvidia.com
        parameters:
          apiVersion: resource.nvidia.com/v1beta1
          kind: ComputeDomainChannelConfig
          domainID: {named}
---
"
    )
}

pub(super) fn device_node(channel: i64) -> String {
    let path = format!("/dev/nvidia-caps-imex-channels/channel{channel}");
    format!("{path} {MAJOR} {channel:x} 666")
}

pub(crate) fn a_compute_domain_has_its_template_and_its_nodes_and_ends_when_nothing_uses_it(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("t4")?;
    let gpus = "limits: {nvidia.com/gpu: 4}";
    let worker = pod("worker", &from_template("train"), "")
        .replace("resources:", &format!("resources:\n      {gpus}"));
    context.apply(&(domain("train", 1) + &worker))?;
    let pods = context.running(&["worker"])?;
    let spec = pods["worker"].spec.clone().unwrap_or_default();
    // It has just the GPUs that the pod wants, and the other has more.
    same(
        "the pod's node",
        &spec.node_name.as_deref(),
        &Some(node.name()),
    )?;
    same(
        "whether the pod tolerates the taint",
        &tolerates(&pods["worker"]),
        &true,
    )?;
    let uid = uid_of(context, "train")?;
    let channel = channel_of(context, &uid)?;
    same(
        "whether its channel is one of its own",
        &(channel > 0),
        &true,
    )?;
    same(
        "the channels in the pod",
        &context.written("worker", "main")?,
        &vec![device_node(channel)],
    )?;
    is_shown_as_ready(context, node.name())?;

    kubectl(context, &["delete", "computedomain/train", "--wait=false"])?;
    let reason = r#"jsonpath={.status.conditions[?(@.type=="Ready")].reason}=InUse"#;
    wait(context, reason, "computedomain/train")?;
    context.delete_pods(&["worker"])?;
    wait(context, "delete", "computedomain/train")?;
    no_slots(context)?;
    same("the taints of the node", &taints(context, node.name())?, &0)?;
    nothing(
        "CDI files of channels are left",
        &leftovers::channels(node)?,
    )
}

fn is_shown_as_ready(context: &Context<'_>, node: &str) -> Result<(), Failure> {
    wait(context, "condition=Ready", "computedomain/train")?;
    same("the taints of the node", &taints(context, node)?, &1)?;
    let table = kubectl(context, &["get", "computedomain"])?;
    for word in ["STATUS", "NODES", "REASON", "Ready", "NodesReady"] {
        let has = table.split_whitespace().any(|other| other == word);
        let what = format!("whether the table has {word}:\n{table}");
        same(&what, &has, &true)?;
    }
    let template = ["get", "resourceclaimtemplate", "train-channel", "-oname"];
    let template = kubectl(context, &template)?;
    let wanted = "resourceclaimtemplate.resource.k8s.io/train-channel";
    same("the template", &template.trim(), &wanted)
}

pub(crate) fn a_pod_gets_the_channel_of_its_domain_and_no_other(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    let there = there(node.name());
    context.apply(&(domain("one", 0) + &domain("other", 0)))?;
    for (name, of) in [("one", "one"), ("two", "one"), ("other", "other")] {
        context.apply(&pod(name, &from_template(of), &there))?;
    }
    context.running(&["one", "two", "other"])?;
    let channel = |domain| channel_of(context, &uid_of(context, domain)?);
    let (one, other) = (channel("one")?, channel("other")?);
    same(
        "whether the domains share a channel",
        &(one == other),
        &false,
    )?;
    for (pod, number) in [("one", one), ("two", one), ("other", other)] {
        let what = format!("the channels in {pod}");
        same(
            &what,
            &context.written(pod, "main")?,
            &vec![device_node(number)],
        )?;
    }
    context.delete_pods(&["one", "two", "other"])?;
    nothing(
        "CDI files of channels are left",
        &leftovers::channels(node)?,
    )?;
    kubectl(context, &["delete", "computedomain", "one", "other"])?;
    no_slots(context)
}

pub(crate) fn a_claim_that_names_another_domain_than_its_slot_is_refused(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let elsewhere = domain("elsewhere", 0);
    context.kubernetes().apply("default", &elsewhere)?;
    let outcome = refuses(context);
    let domain = ["computedomain", "elsewhere"];
    context.kubernetes().delete("default", &domain)?;
    outcome?;
    no_slots(context)
}

fn refuses(context: &Context<'_>) -> Result<(), Failure> {
    context.apply(&(domain("mine", 0) + &domain("yours", 0)))?;
    let (mine, yours) = (uid_of(context, "mine")?, uid_of(context, "yours")?);
    let path = [
        "get",
        "computedomain/elsewhere",
        "-o",
        "jsonpath={.metadata.uid}",
    ];
    let elsewhere = context.kubernetes().command("default", &path, None)?;
    context.apply(&forged("forged", &mine, &yours))?;
    context.apply(&forged("foreign", &elsewhere, &elsewhere))?;
    for name in ["forged", "foreign"] {
        context.apply(&pod(name, &format!("resourceClaimName: {name}"), ""))?;
        let what = format!("an event that refuses {name}");
        context.event(context.scope(), &what, |event| {
            let about = event.involved_object.name.as_deref() == Some(name);
            about && event.reason.as_deref() == Some("DomainMismatch")
        })?;
    }
    for node in context.nodes() {
        nothing(
            "CDI files of channels are there",
            &leftovers::channels(node)?,
        )?;
    }
    context.delete_pods(&["forged", "foreign"])?;
    kubectl(context, &["delete", "computedomain", "mine", "yours"]).map(drop)
}

pub(super) fn uid_of(context: &Context<'_>, domain: &str) -> Result<String, Failure> {
    let domain = format!("computedomain/{domain}");
    kubectl(context, &["get", &domain, "-o", "jsonpath={.metadata.uid}"])
}

/// The channel of the domain with this UID, as its slots say it.
pub(super) fn channel_of(context: &Context<'_>, uid: &str) -> Result<i64, Failure> {
    let pool = format!("domain-{uid}");
    let slices: Objects<ResourceSlice> = context.kubernetes().list(Scope::Cluster)?;
    let ours = slices.values().filter(|slice| slice.spec.pool.name == pool);
    let slots = ours.flat_map(|slice| slice.spec.devices.iter().flatten());
    let mut channels = slots.filter_map(|slot| {
        let attribute = slot.attributes.as_ref()?.get("channel")?;
        attribute.int
    });
    channels
        .next()
        .ok_or_else(|| Failure::wrong(format!("no slot of {pool} names a channel")))
}

/// What a pod's specification has that is for this node.
pub(super) fn there(node: &str) -> String {
    format!("nodeSelector: {{kubernetes.io/hostname: {node}}}")
}

/// Takes a domain away with its pods.
pub(super) fn end(context: &Context<'_>, domain: &str, pods: &[&str]) -> Result<(), Failure> {
    context.delete_pods(pods)?;
    kubectl(context, &["delete", "computedomain", domain])?;
    no_slots(context)
}

/// Waits until no slot of any domain is left.
pub(super) fn no_slots(context: &Context<'_>) -> Result<(), Failure> {
    let what = "no slot to be left";
    context.kubernetes().wait(
        Scope::Cluster,
        what,
        START_LIMIT,
        |slices: &Objects<ResourceSlice>| {
            let slots = slices.keys().filter(|name| name.starts_with("domain-"));
            (slots.count() == 0).then_some(())
        },
    )
}

fn tolerates(pod: &Pod) -> bool {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref());
    let mut tolerations = tolerations.into_iter().flatten();
    tolerations.any(|toleration| toleration.key.as_deref() == Some(TAINT))
}

/// How many taints of ours a node has.
pub(super) fn taints(context: &Context<'_>, node: &str) -> Result<usize, Failure> {
    let nodes: Objects<Node> = context.kubernetes().list(Scope::Cluster)?;
    let spec = nodes.get(node).and_then(|node| node.spec.as_ref());
    let taints = spec.and_then(|spec| spec.taints.as_ref());
    let ours = |taint: &&Taint| taint.key == TAINT;
    Ok(taints.into_iter().flatten().filter(ours).count())
}

pub(super) fn wait(context: &Context<'_>, condition: &str, object: &str) -> Result<(), Failure> {
    let condition = format!("--for={condition}");
    kubectl(context, &["wait", &condition, object, "--timeout=25s"]).map(drop)
}

pub(super) fn kubectl(context: &Context<'_>, arguments: &[&str]) -> Result<String, Failure> {
    let kubernetes = context.kubernetes();
    kubernetes.command(context.namespace(), arguments, None)
}
