//! Compute domains on nodes with an NVLink fabric between them: where their pods go, and what becomes of those that do not fit.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use tessera_cluster::Node as SimulatedNode;

use super::domains::{channel_of, domain, kubectl, no_slots, taints, there, uid_of, wait};
use crate::context::{Context, START_LIMIT, claim_of};
use crate::failure::{Failure, nothing, same};
use crate::kubernetes::{Objects, Scope, uid};
use crate::leftovers;

/// The label of a node's clique.
const CLIQUE: &str = "nvidia.com/gpu.clique";

/// What a pod may take to get a node.
const BIND_LIMIT: Duration = Duration::from_secs(30);

/// A pod whose container does nothing and ends as soon as it is told to. `claim` is its claim for a channel, if it wants one,
/// and `more` what else its specification has.
pub(super) fn worker(name: &str, gpus: u32, of: Option<&str>, more: &str) -> String {
    let (claims, named) = match of {
        None => (String::new(), ""),
        Some(domain) => (
            format!(
                "resourceClaims: [{{name: channel, resourceClaimTemplateName: {domain}-channel}}]"
            ),
            "claims: [{name: channel}]",
        ),
    };
    format!(
        "
apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  {claims}
  containers:
  - name: main
    image: docker.io/tessera/workload:1
    command: [sh, -c, 'trap \"exit 0\" TERM; sleep 3600 & wait']
    resources:
      limits: {{nvidia.com/gpu: {gpus}}}
      {named}
  terminationGracePeriodSeconds: 5
  {more}
---
"
    )
}

/// The clique of each node.
pub(super) fn cliques(context: &Context<'_>) -> Result<BTreeMap<String, String>, Failure> {
    let what = "every node to have the label of its clique";
    let scope = Scope::Cluster;
    context
        .kubernetes()
        .wait(scope, what, START_LIMIT, |nodes: &Objects<Node>| {
            let of = |(name, node): (&String, &Node)| {
                let labels = node.metadata.labels.as_ref()?;
                Some((name.clone(), labels.get(CLIQUE)?.clone()))
            };
            nodes.iter().map(of).collect()
        })
}

/// The node of a pod.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Waits until these pods have a node each, and returns these.
pub(super) fn bound(context: &Context<'_>, names: &[&str]) -> Result<Vec<String>, Failure> {
    let what = format!("{} to have a node", names.join(", "));
    context.pods_within(&what, BIND_LIMIT, |pods| {
        let of = |name: &&str| pods.get(*name).and_then(node_of).map(str::to_owned);
        names.iter().map(of).collect()
    })
}

/// What others use of the four nodes, two of a rack after each other, and what each of the two pods of a domain wants.
/// In most of them only one rack has room for both pods, and the other has room for one.
const ARRANGEMENTS: [([u32; 4], u32); 20] = [
    ([0, 0, 0, 0], 4),
    ([1, 0, 0, 0], 4),
    ([1, 0, 0, 0], 2),
    ([3, 0, 0, 0], 2),
    ([3, 0, 1, 0], 2),
    ([3, 0, 1, 1], 3),
    ([3, 0, 1, 3], 1),
    ([4, 0, 1, 3], 1),
    ([4, 0, 1, 2], 2),
    ([4, 0, 0, 2], 2),
    ([4, 0, 0, 0], 4),
    ([0, 0, 0, 4], 4),
    ([0, 0, 1, 4], 4),
    ([0, 2, 1, 4], 2),
    ([0, 2, 1, 2], 2),
    ([0, 2, 1, 1], 3),
    ([2, 2, 1, 1], 3),
    ([2, 2, 3, 1], 2),
    ([2, 1, 3, 1], 2),
    ([2, 1, 4, 0], 2),
];

pub(crate) fn pods_of_a_domain_share_a_clique_whatever_else_uses_the_racks(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let cliques = cliques(context)?;
    let different: BTreeSet<_> = cliques.values().collect();
    same("the number of cliques", &different.len(), &2)?;
    let names: Vec<_> = context.nodes().iter().map(SimulatedNode::name).collect();
    let mut load = [0; 4];
    let mut gone: Vec<String> = Vec::new();
    for (at, (wanted, gpus)) in ARRANGEMENTS.into_iter().enumerate() {
        let about = format!("arrangement {at}, {wanted:?} GPUs in use and {gpus} wanted twice");
        let change = Change::of(&names, load, wanted);
        load = wanted;
        // All that goes goes at once: each end takes a second.
        gone.extend(change.goes);
        delete(context, &gone)?;
        if !change.comes.is_empty() {
            context.apply(&change.manifests)?;
            bound(context, &strs(&change.comes))?;
        }

        let name = format!("train-{at}");
        let pods = [0, 1].map(|rank| format!("{name}-{rank}"));
        context.apply(&(domain(&name, 2) + &two_of(&name, gpus, "")))?;
        let nodes = bound(context, &strs(&pods))?;
        let of: BTreeSet<_> = nodes.iter().map(|node| cliques.get(node)).collect();
        same(
            &format!("the cliques of {nodes:?} in {about}"),
            &of.len(),
            &1,
        )?;
        gone = pods.iter().map(|pod| format!("pod/{pod}")).collect();
        gone.push(format!("computedomain/{name}"));
    }
    delete(context, &gone)?;
    no_slots(context)
}

fn strs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn delete(context: &Context<'_>, objects: &[String]) -> Result<(), Failure> {
    if objects.is_empty() {
        return Ok(());
    }
    let namespace = context.namespace();
    context.kubernetes().delete(namespace, &strs(objects))
}

/// How the nodes' load becomes another.
struct Change {
    /// Pods that go, with their kind.
    goes: Vec<String>,
    /// Pods that come.
    comes: Vec<String>,
    manifests: String,
}

impl Change {
    fn of(nodes: &[&str], now: [u32; 4], wanted: [u32; 4]) -> Self {
        let name = |node: &str, gpus: u32| format!("load-{node}-{gpus}");
        let mut change = Self {
            goes: Vec::new(),
            comes: Vec::new(),
            manifests: String::new(),
        };
        for (node, (now, wanted)) in nodes.iter().zip(now.into_iter().zip(wanted)) {
            if now == wanted {
                continue;
            }
            if now > 0 {
                change.goes.push(format!("pod/{}", name(node, now)));
            }
            if wanted > 0 {
                let name = name(node, wanted);
                change.manifests += &worker(&name, wanted, None, &there(node));
                change.comes.push(name);
            }
        }
        change
    }
}

/// The channels that a pod has.
fn channels(context: &Context<'_>, pod: &str) -> Result<Vec<String>, Failure> {
    let list = ["ls", "/dev/nvidia-caps-imex-channels"];
    let listed = context.execute(pod, "main", &list)?;
    Ok(listed.lines().map(str::to_owned).collect())
}

/// Two pods of a domain, named after it.
pub(super) fn two_of(domain: &str, gpus: u32, more: &str) -> String {
    let pod = |rank| worker(&format!("{domain}-{rank}"), gpus, Some(domain), more);
    pod(0) + &pod(1)
}

/// The cliques of these nodes.
fn cliques_of(context: &Context<'_>, nodes: &[String]) -> Result<BTreeSet<String>, Failure> {
    let cliques = cliques(context)?;
    let of = |node: &String| cliques.get(node).cloned().unwrap_or_default();
    Ok(nodes.iter().map(of).collect())
}

pub(crate) fn two_domains_in_one_clique_have_a_channel_each_and_a_number_waits_for_all_nodes(
    context: &Context<'_>,
) -> Result<(), Failure> {
    // It does not end when it is told to, and is killed after its grace period.
    let stubborn = worker("one-2", 1, Some("one"), "")
        .replace("trap \"exit 0\" TERM", "trap : TERM")
        .replace("sleep 3600 & wait", "while :; do sleep 1; done");
    context.apply(&(domain("one", 2) + &two_of("one", 1, "") + &stubborn))?;
    context.running(&["one-0", "one-1", "one-2"])?;
    context.apply(&(domain("two", 2) + &two_of("two", 1, "")))?;
    context.running(&["two-0", "two-1"])?;
    let pods = ["one-0", "one-1", "one-2", "two-0", "two-1"];
    let nodes = bound(context, &pods)?;
    same(
        "the number of cliques in use",
        &cliques_of(context, &nodes)?.len(),
        &1,
    )?;
    let (first, second) = (uid_of(context, "one")?, uid_of(context, "two")?);
    let (one, two) = (channel_of(context, &first)?, channel_of(context, &second)?);
    same("whether both have one channel", &(one == two), &false)?;
    for pod in pods {
        let number = if pod.starts_with("one") { one } else { two };
        let what = format!("the channels in {pod}");
        same(
            &what,
            &channels(context, pod)?,
            &vec![format!("channel{number}")],
        )?;
    }

    let held = held_by(context, "one-2")?;
    let now = ["--force", "--grace-period=0", "--wait=false"];
    kubectl(
        context,
        &[&["delete", "pods", "one-0", "one-1", "one-2"][..], &now].concat(),
    )?;
    kubectl(context, &["delete", "computedomain/one"])?;
    context.apply(&(domain("three", 2) + &two_of("three", 1, "")))?;
    context.running(&["three-0", "three-1"])?;
    let three = channel_of(context, &uid_of(context, "three")?)?;
    let again = [one, two].contains(&three);
    same("whether a number is given twice", &again, &false)?;
    // What withdrew the slots of the first domain keeps its number until every node has let it go.
    let slots = format!("domain-{first}-0");
    let what = format!("{slots} to be gone");
    let scope = Scope::Cluster;
    context.kubernetes().wait(
        scope,
        &what,
        START_LIMIT,
        |slices: &Objects<ResourceSlice>| (!slices.contains_key(&slots)).then_some(()),
    )?;
    for node in context.nodes() {
        let mut left = leftovers::channels(node)?;
        left.retain(|file| file.contains(&held));
        nothing(
            "a container may still have the channel whose number is free",
            &left,
        )?;
    }
    context.delete_pods(&["two-0", "two-1", "three-0", "three-1"])?;
    kubectl(context, &["delete", "computedomain", "two", "three"])?;
    no_slots(context)
}

/// The UID of the claim by which a pod has its channel.
fn held_by(context: &Context<'_>, pod: &str) -> Result<String, Failure> {
    let pods: Objects<Pod> = context.list()?;
    let pod = pods
        .get(pod)
        .ok_or_else(|| Failure::wrong(format!("there is no pod {pod}")))?;
    let name = claim_of(pod, "channel")?;
    let claims: Objects<ResourceClaim> = context.claims()?;
    claims
        .get(&name)
        .map(uid)
        .ok_or_else(|| Failure::wrong(format!("there is no claim {name}")))
}

pub(crate) fn of_two_gangs_that_do_not_both_fit_one_runs_whole_and_the_other_is_told_what_fits(
    context: &Context<'_>,
) -> Result<(), Failure> {
    // With this only one rack has two whole nodes.
    let node = context.nodes()[2].name();
    context.apply(&worker("other", 1, None, &there(node)))?;
    bound(context, &["other"])?;
    let gangs = ["one", "two"];
    let gang = |name: &&str| domain(name, 2) + &two_of(name, 4, "");
    context.apply(&gangs.iter().map(gang).collect::<String>())?;
    let what = "one gang to run";
    let winner = context.pods(what, |pods| {
        let runs = |name: &&&str| {
            [0, 1].iter().all(|rank| {
                let pod = pods.get(&format!("{name}-{rank}"));
                pod.is_some_and(crate::kubernetes::runs)
            })
        };
        gangs.iter().find(runs).copied()
    })?;
    let loser = if winner == "one" { "two" } else { "one" };
    let reason = r#"jsonpath={.status.conditions[?(@.type=="Ready")].reason}=InsufficientFree"#;
    let of_loser = format!("computedomain/{loser}");
    wait(context, reason, &of_loser)?;
    let message = r#"jsonpath={.status.conditions[?(@.type=="Ready")].message}"#;
    let said = kubectl(context, &["get", &of_loser, "-o", message])?;
    for words in [
        "2 nodes with 4 free GPUs each are wanted in one NVLink clique",
        "1 fit now",
        "ask for at most 1 nodes",
    ] {
        let what = format!("whether {said:?} has {words:?}");
        same(&what, &said.contains(words), &true)?;
    }
    holds_nothing(context, loser)?;
    // The end of the one is the beginning of the other.
    context.delete_pods(&[&format!("{winner}-0"), &format!("{winner}-1")])?;
    kubectl(context, &["delete", &format!("computedomain/{winner}")])?;
    context.running(&[&format!("{loser}-0"), &format!("{loser}-1")])?;
    wait(context, "condition=Ready", &of_loser)?;
    context.delete_pods(&["other", &format!("{loser}-0"), &format!("{loser}-1")])?;
    kubectl(context, &["delete", &of_loser])?;
    no_slots(context)?;
    for node in context.nodes() {
        let left = taints(context, node.name())?;
        same(&format!("the taints of {}", node.name()), &left, &0)?;
    }
    Ok(())
}

/// No pod of the gang has a node, none of its claims a device, and no slot is offered to it.
fn holds_nothing(context: &Context<'_>, gang: &str) -> Result<(), Failure> {
    let pods: Objects<Pod> = context.list()?;
    for rank in [0, 1] {
        let name = format!("{gang}-{rank}");
        let node = pods.get(&name).and_then(node_of);
        same(&format!("the node of {name}"), &node, &None)?;
    }
    let allocated = |claim: &&ResourceClaim| {
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let status = claim.status.as_ref();
        name.starts_with(gang) && status.is_some_and(|status| status.allocation.is_some())
    };
    let claims = context.claims()?;
    let held: Vec<_> = claims.values().filter(allocated).map(uid).collect();
    nothing(&format!("claims of {gang} hold devices"), &held)?;
    let pool = format!("domain-{}", uid_of(context, gang)?);
    let slices: Objects<ResourceSlice> = context.kubernetes().list(Scope::Cluster)?;
    let offered = slices.values().filter(|slice| slice.spec.pool.name == pool);
    nothing(
        &format!("{gang} has slots"),
        &offered.map(uid).collect::<Vec<_>>(),
    )
}
