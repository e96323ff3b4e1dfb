//! Compute domains as the controller serves them.
//!
//! What nodes say of their NVLink fabric is simulated: the scenario writes the slices of which a node's plugin would
//! make one. No node prepares a slot, so pods are bound and do not run.

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::api::resource::v1::ResourceSlice;

use crate::context::{Context, START_LIMIT};
use crate::failure::{Failure, same};
use crate::kubernetes::{Objects, Scope};

/// The slice by which the node `NODE` would say that it has `GPUS` GPUs in an NVLink clique.
const FABRIC: &str = "
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata:
  name: fabric-of-NODE
spec:
  driver: compute-domain.nvidia.com
  nodeName: NODE
  pool: {name: NODE, generation: 1, resourceSliceCount: 1}
  devices:
  - name: fabric
    attributes:
      type: {string: fabric}
      cliqueId: {string: 2f1c7a3e-0000-4000-8000-000000000001.0}
      fabricState: {string: Completed}
      gpus: {int: GPUS}
      heldChannels: {string: \"\"}
";

/// A domain of one node, and a pod that wants four GPUs of it.
const TRAIN: &str = "
apiVersion: resource.nvidia.com/v1beta1
kind: ComputeDomain
metadata:
  name: train
spec:
  numNodes: 1
  channel:
    resourceClaimTemplate:
      name: train-channel
---
apiVersion: v1
kind: Pod
metadata:
  name: worker
spec:
  resourceClaims:
  - name: channel
    resourceClaimTemplateName: train-channel
  containers:
  - name: main
    image: docker.io/tessera/workload:1
    command: [sleep, \"3600\"]
    resources:
      limits:
        nvidia.com/gpu: 4
      claims:
      - name: channel
  terminationGracePeriodSeconds: 1
";

/// The key of the taint by which a node is held.
const TAINT: &str = "tessera-dra.github.io/domain";

pub(crate) fn a_compute_domain_has_its_template_and_its_nodes_and_ends_when_nothing_uses_it(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let [small, large] = [context.node_with("t4")?, context.node_with("h100")?];
    for (node, gpus) in [(small, "4"), (large, "8")] {
        let slice = FABRIC.replace("NODE", node.name()).replace("GPUS", gpus);
        context.apply(&slice)?;
    }
    let lived = life(context, small.name());
    for node in [small, large] {
        let slice = format!("resourceslice/fabric-of-{}", node.name());
        context.kubernetes().delete("default", &[&slice])?;
    }
    lived
}

fn life(context: &Context<'_>, node: &str) -> Result<(), Failure> {
    context.apply(TRAIN)?;
    let worker = context.pods("the pod to be bound", |pods| {
        let pod = pods.get("worker")?;
        pod.spec.as_ref()?.node_name.is_some().then(|| pod.clone())
    })?;
    let spec = worker.spec.clone().unwrap_or_default();
    // It has just the GPUs that the pod wants, and the other has more.
    same("the pod's node", &spec.node_name.as_deref(), &Some(node))?;
    same(
        "whether the pod tolerates the taint",
        &tolerates(&worker),
        &true,
    )?;
    wait(context, "condition=Ready", "computedomain/train")?;
    same("the taints of the node", &taints(context, node)?, &1)?;
    let table = kubectl(context, &["get", "computedomain"])?;
    for word in ["STATUS", "NODES", "REASON", "Ready", "NodesReady"] {
        let has = table.split_whitespace().any(|other| other == word);
        same(
            &format!("whether the table has {word}:\n{table}"),
            &has,
            &true,
        )?;
    }
    let template = kubectl(
        context,
        &["get", "resourceclaimtemplate", "train-channel", "-oname"],
    )?;
    same(
        "the template",
        &template.trim(),
        &"resourceclaimtemplate.resource.k8s.io/train-channel",
    )?;

    kubectl(context, &["delete", "computedomain/train", "--wait=false"])?;
    let reason = r#"jsonpath={.status.conditions[?(@.type=="Ready")].reason}=InUse"#;
    wait(context, reason, "computedomain/train")?;
    context.delete_pods(&["worker"])?;
    wait(context, "delete", "computedomain/train")?;
    let what = "no slot to be left";
    context.kubernetes().wait(
        Scope::Cluster,
        what,
        START_LIMIT,
        |slices: &Objects<ResourceSlice>| {
            let slots = slices.keys().filter(|name| name.starts_with("domain-"));
            (slots.count() == 0).then_some(())
        },
    )?;
    same("the taints of the node", &taints(context, node)?, &0)
}

fn tolerates(pod: &Pod) -> bool {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref());
    let mut tolerations = tolerations.into_iter().flatten();
    tolerations.any(|toleration| toleration.key.as_deref() == Some(TAINT))
}

/// How many taints of ours a node has.
fn taints(context: &Context<'_>, node: &str) -> Result<usize, Failure> {
    let nodes: Objects<Node> = context.kubernetes().list(Scope::Cluster)?;
    let spec = nodes.get(node).and_then(|node| node.spec.as_ref());
    let taints = spec.and_then(|spec| spec.taints.as_ref());
    let ours = |taint: &&Taint| taint.key == TAINT;
    Ok(taints.into_iter().flatten().filter(ours).count())
}

fn wait(context: &Context<'_>, condition: &str, object: &str) -> Result<(), Failure> {
    let condition = format!("--for={condition}");
    kubectl(context, &["wait", &condition, object, "--timeout=25s"]).map(drop)
}

fn kubectl(context: &Context<'_>, arguments: &[&str]) -> Result<String, Failure> {
    let Scope::Namespace(namespace) = context.scope() else {
        return Err(Failure::wrong("a scenario has a namespace"));
    };
    context.kubernetes().command(namespace, arguments, None)
}
