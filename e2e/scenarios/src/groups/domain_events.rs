//! What happens to a compute domain while it is in use: an event, what its conditions say, and by when.
//!
//! `docs/domains.md` has the table of these; each scenario is a row of it.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use tessera_cluster::Node;

use super::domains::{self, channel_of, domain, kubectl, no_slots, taints, uid_of, wait};
use super::racks::{bound, cliques, two_of, worker};
use crate::context::{Context, START_LIMIT};
use crate::failure::{Failure, same};
use crate::kubernetes::{Objects, Scope, restarts};
use crate::plugin_pod::plugin_on;
use crate::release::{self, RELEASE};
use crate::simulated::Moved;

/// The file name of the controller's program.
const CONTROLLER: &str = "tessera-controller";

/// The pods of the gang that most of these scenarios have.
const GANG: [&str; 2] = ["train-0", "train-1"];

/// Brings up a gang of two whole nodes, and returns where its pods are.
fn gang(context: &Context<'_>) -> Result<Vec<String>, Failure> {
    context.apply(&(domain("train", 2) + &two_of("train", 4, "")))?;
    context.running(&GANG)?;
    wait(context, "condition=Ready", "computedomain/train")?;
    bound(context, &GANG)
}

/// Ends the gang, which leaves nothing.
fn end(context: &Context<'_>, pods: &[&str]) -> Result<(), Failure> {
    domains::end(context, "train", pods)?;
    gone(context)
}

/// Waits until there is no slot and no taint of any domain.
fn gone(context: &Context<'_>) -> Result<(), Failure> {
    no_slots(context)?;
    for node in context.nodes() {
        let what = format!("the taints of {}", node.name());
        same(&what, &taints(context, node.name())?, &0)?;
    }
    Ok(())
}

/// Something of a condition of the gang's.
fn condition(context: &Context<'_>, kind: &str, field: &str) -> Result<String, Failure> {
    let path = format!(r#"jsonpath={{.status.conditions[?(@.type=="{kind}")].{field}}}"#);
    kubectl(context, &["get", "computedomain/train", "-o", &path])
}

/// Waits until a condition of the gang's has this reason.
fn becomes(context: &Context<'_>, kind: &str, reason: &str) -> Result<(), Failure> {
    let path = format!(r#"jsonpath={{.status.conditions[?(@.type=="{kind}")].reason}}={reason}"#);
    wait(context, &path, "computedomain/train")
}

/// What must stay as it is while the gang runs.
#[derive(Debug, PartialEq)]
struct Undisturbed {
    ready_since: String,
    channels: Vec<String>,
    restarts: i32,
}

impl Undisturbed {
    fn look(context: &Context<'_>) -> Result<Self, Failure> {
        let pods: Objects<Pod> = context.list()?;
        let list = ["ls", "/dev/nvidia-caps-imex-channels"];
        let channels = GANG.iter().map(|pod| context.execute(pod, "main", &list));
        Ok(Self {
            ready_since: condition(context, "Ready", "lastTransitionTime")?,
            channels: channels.collect::<Result<_, _>>()?,
            restarts: GANG
                .iter()
                .filter_map(|pod| pods.get(*pod))
                .map(restarts)
                .sum(),
        })
    }
}

/// Runs one more pod of the gang, without GPUs, and holds if it has the gang's channel.
fn one_more(context: &Context<'_>, name: &str) -> Result<(), Failure> {
    let more = worker(name, 0, Some("train"), "").replace("limits: {nvidia.com/gpu: 0}", "");
    context.apply(&more)?;
    context.running(&[name])?;
    let channel = format!(
        "channel{}",
        channel_of(context, &uid_of(context, "train")?)?
    );
    let list = ["ls", "/dev/nvidia-caps-imex-channels"];
    let listed = context.execute(name, "main", &list)?;
    same(
        &format!("the channels in {name}"),
        &listed.trim(),
        &channel.as_str(),
    )
}

pub(crate) fn a_restarted_plugin_changes_nothing_of_a_domain_in_use(
    context: &Context<'_>,
) -> Result<(), Failure> {
    gang(context)?;
    let before = Undisturbed::look(context)?;
    let kubernetes = context.kubernetes();
    let ours = Scope::Namespace(RELEASE);
    let pods: Objects<Pod> = kubernetes.list(ours)?;
    let plugins: Vec<_> = context
        .nodes()
        .iter()
        .filter_map(|node| plugin_on(&pods, node))
        .collect();
    let mut arguments = vec!["pods"];
    arguments.extend(plugins.iter().map(String::as_str));
    kubernetes.delete(RELEASE, &arguments)?;
    release::serving(kubernetes)?;
    one_more(context, "more")?;
    same("the gang", &Undisturbed::look(context)?, &before)?;
    end(context, &["train-0", "train-1", "more"])
}

pub(crate) fn an_upgraded_chart_changes_nothing_of_a_domain_in_use(
    context: &Context<'_>,
) -> Result<(), Failure> {
    gang(context)?;
    let before = Undisturbed::look(context)?;
    // Every pod of the product is another after that.
    let annotated = |of: &str| format!("{of}.podAnnotations.upgraded=again");
    let values = ["controller", "kubeletPlugin"].map(annotated);
    release::change(context.kubernetes(), &values)?;
    one_more(context, "more")?;
    same("the gang", &Undisturbed::look(context)?, &before)?;
    end(context, &["train-0", "train-1", "more"])
}

pub(crate) fn a_killed_controller_is_replaced_and_goes_on_where_it_was(
    context: &Context<'_>,
) -> Result<(), Failure> {
    gang(context)?;
    let before = Undisturbed::look(context)?;
    context.apply(&(domain("next", 2) + &two_of("next", 4, "")))?;
    // In the middle of what it does for the second domain.
    for node in context.nodes() {
        node.kill(&node.contained(CONTROLLER));
    }
    context.running(&["next-0", "next-1"])?;
    same("the gang", &Undisturbed::look(context)?, &before)?;
    context.delete_pods(&["next-0", "next-1"])?;
    kubectl(context, &["delete", "computedomain/next"])?;
    end(context, &GANG)
}

pub(crate) fn another_leader_goes_on_where_the_first_was(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let kubernetes = context.kubernetes();
    let replicas =
        |count: u8| release::change(kubernetes, &[format!("controller.replicas={count}")]);
    replicas(2)?;
    let outcome = leader_moves(context);
    replicas(1)?;
    outcome
}

fn leader_moves(context: &Context<'_>) -> Result<(), Failure> {
    gang(context)?;
    let before = Undisturbed::look(context)?;
    let kubernetes = context.kubernetes();
    let holder = || {
        let path = [
            "get",
            "lease",
            "-o",
            "jsonpath={.items[0].spec.holderIdentity}",
        ];
        kubernetes.command(RELEASE, &path, None)
    };
    let first = holder()?;
    let pods: Objects<Pod> = kubernetes.list(Scope::Namespace(RELEASE))?;
    let leads = |pod: &&String| first.starts_with(pod.as_str());
    let leader = pods.keys().find(leads);
    let leader = leader.ok_or_else(|| {
        Failure::wrong(format!("the lease is held by {first:?}, which is no pod"))
    })?;
    kubernetes.delete(RELEASE, &["pod", leader, "--wait=false"])?;
    context.apply(&(domain("next", 2) + &two_of("next", 4, "")))?;
    context.running(&["next-0", "next-1"])?;
    same(
        "whether the leader is another",
        &(holder()? == first),
        &false,
    )?;
    same("the gang", &Undisturbed::look(context)?, &before)?;
    context.delete_pods(&["next-0", "next-1"])?;
    kubectl(context, &["delete", "computedomain/next"])?;
    end(context, &GANG)
}

pub(crate) fn a_node_that_leaves_its_clique_is_told_and_pods_go_on(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let nodes = gang(context)?;
    let node = node_named(context, &nodes[1])?;
    {
        let _moved = Moved::to(node, "elsewhere")?;
        becomes(context, "FabricReady", "CliqueChanged")?;
        becomes(context, "Ready", "CliqueChanged")?;
        let said = condition(context, "Ready", "message")?;
        let what = format!("whether {said:?} names {}", node.name());
        same(&what, &said.contains(node.name()), &true)?;
        let list = ["ls", "/dev/nvidia-caps-imex-channels"];
        let listed = context.execute("train-1", "main", &list)?;
        same("the channels in a pod", &listed.lines().count(), &1)?;
    }
    becomes(context, "Ready", "NodesReady")?;
    same("the number of cliques", &distinct(context)?, &2)?;
    end(context, &GANG)
}

fn distinct(context: &Context<'_>) -> Result<usize, Failure> {
    let cliques: std::collections::BTreeSet<_> = cliques(context)?.into_values().collect();
    Ok(cliques.len())
}

fn node_named<'a>(context: &Context<'a>, name: &str) -> Result<&'a Node, Failure> {
    Ok(context.kubernetes().cluster().node(name)?)
}

pub(crate) fn a_deleted_namespace_takes_its_domains_along(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let kubernetes = context.kubernetes();
    let own = format!("{}-own", &context.namespace()[..20]);
    kubernetes.apply(
        "default",
        &format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {own}}}}}"),
    )?;
    let scope = Scope::Namespace(&own);
    let what = "the service account of the namespace";
    kubernetes.wait(
        scope,
        what,
        START_LIMIT,
        |accounts: &Objects<k8s_openapi::api::core::v1::ServiceAccount>| {
            accounts.contains_key("default").then_some(())
        },
    )?;
    kubernetes.apply(&own, &(domain("train", 2) + &two_of("train", 4, "")))?;
    let what = "the pods to run";
    kubernetes.wait(scope, what, START_LIMIT, |pods: &Objects<Pod>| {
        let runs = |name: &&str| pods.get(*name).is_some_and(crate::kubernetes::runs);
        GANG.iter().all(runs).then_some(())
    })?;
    kubernetes.give_up_namespace(&own)?;
    let what = "the namespace to be gone";
    kubernetes.wait(
        Scope::Cluster,
        what,
        Duration::from_secs(40),
        |namespaces: &Objects<Namespace>| (!namespaces.contains_key(&own)).then_some(()),
    )?;
    gone(context)
}

pub(crate) fn a_gang_that_loses_a_node_is_told_and_gets_others_when_its_pods_are_gone(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let nodes = gang(context)?;
    let node = node_named(context, &nodes[1])?;
    let kubernetes = context.kubernetes();
    let began = Instant::now();
    let ran_elsewhere = lose(context, &nodes, node);
    // Whatever came of it, the next scenarios want all nodes.
    node.restart_kubelet()?;
    release::serving(kubernetes)?;
    cliques(context)?;
    ran_elsewhere?;
    println!(
        "    the gang ran elsewhere and the node was back {:.1} s after it was lost",
        began.elapsed().as_secs_f64()
    );
    end(context, &GANG)
}

/// Takes a node from the cluster, makes the pods of its gang again, and holds where they run.
fn lose(context: &Context<'_>, nodes: &[String], node: &Node) -> Result<(), Failure> {
    let _kubelet = node.stop(node.processes("kubelet"));
    let kubernetes = context.kubernetes();
    kubernetes.delete("default", &["node", node.name()])?;
    becomes(context, "Ready", "NodeLost")?;
    let said = condition(context, "Ready", "message")?;
    let what = format!("whether {said:?} names {}", node.name());
    same(&what, &said.contains(node.name()), &true)?;
    let now = [
        "delete",
        "pods",
        "train-0",
        "train-1",
        "--force",
        "--grace-period=0",
    ];
    kubectl(context, &now)?;
    context.apply(&two_of("train", 4, ""))?;
    context.running(&GANG)?;
    let others = bound(context, &GANG)?;
    let stays = others.iter().any(|other| nodes.contains(other));
    same(
        "whether a node of the old clique is taken again",
        &stays,
        &false,
    )?;
    becomes(context, "Ready", "NodesReady")
}

pub(crate) fn an_uninstalled_chart_lets_domains_go(context: &Context<'_>) -> Result<(), Failure> {
    gang(context)?;
    context.delete_pods(&GANG)?;
    let kubernetes = context.kubernetes();
    release::uninstall(kubernetes)?;
    let what = "the product's pods to be gone";
    let ours = Scope::Namespace(RELEASE);
    kubernetes.wait(ours, what, START_LIMIT, |pods: &Objects<Pod>| {
        pods.is_empty().then_some(())
    })?;
    // Its finalizer would keep it for ever.
    kubectl(context, &["delete", "computedomain/train", "--timeout=20s"])?;
    gone(context)
}
