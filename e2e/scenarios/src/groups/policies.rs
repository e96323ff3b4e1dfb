//! Policies of compute domains on two racks, and the plugin of kubectl that says what they come to.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Event;

use super::domains::{domain, kubectl, no_slots, there, wait};
use super::racks::{bound, cliques, two_of, worker};
use crate::context::Context;
use crate::failure::{Failure, same};
use crate::kubernetes::Objects;

/// A policy by which a domain shares a clique where there is room.
const WIDE: &str = "
apiVersion: tessera-dra.github.io/v1alpha1
kind: DomainPolicy
metadata:
  name: wide
spec:
  cliquePolicy: Preferred
---
";

/// A domain of two nodes with this policy.
fn with_policy(name: &str, policy: &str) -> String {
    let annotated =
        format!("\n  name: {name}\n  annotations: {{tessera-dra.github.io/policy: {policy}}}\n");
    domain(name, 2).replacen(&format!("\n  name: {name}\n"), &annotated, 1)
}

pub(crate) fn a_domain_goes_over_two_racks_if_its_policy_says_so_and_as_the_plugin_said_before(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let racks = cliques(context)?;
    // With these no rack has two whole nodes.
    let [first, second] = [0, 2].map(|at| there(context.nodes()[at].name()));
    let others = worker("other-0", 1, None, &first) + &worker("other-1", 1, None, &second);
    context.apply(&others)?;
    bound(context, &["other-0", "other-1"])?;

    let ask = |arguments: &[&str], input: Option<&str>| {
        let kubernetes = context.kubernetes();
        kubernetes.plugin(context.namespace(), arguments, input)
    };
    let workers = two_of("train", 4, "");
    let said = ask(&["plan", "-f", "-"], Some(&(domain("train", 2) + &workers)))?;
    for words in [
        "InsufficientFree: 2 nodes with 4 free GPUs each are wanted in one NVLink clique",
        "cliquePolicy Preferred: fits: 1 of ",
        "numNodes 1: fits: 1 of ",
    ] {
        let what = format!("whether {said:?} has {words:?}");
        same(&what, &said.contains(words), &true)?;
    }
    let manifests = with_policy("train", "wide") + WIDE + &workers;
    let said = ask(&["plan", "-f", "-", "-o", "json"], Some(&manifests))?;
    let planned: serde_json::Value =
        serde_json::from_str(&said).map_err(|reason| Failure::Unreadable {
            line: "kubectl tessera plan".to_owned(),
            reason,
        })?;
    let planned: BTreeSet<String> = planned["plan"]["cliques"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|share| Some(share["nodes"][0].as_str()?.to_owned()))
        .collect();

    context.apply(&manifests)?;
    let pods = ["train-0", "train-1"];
    context.running(&pods)?;
    wait(context, "condition=Ready", "computedomain/train")?;
    let nodes: BTreeSet<String> = bound(context, &pods)?.into_iter().collect();
    same("the nodes that the plugin named", &planned, &nodes)?;
    let of: BTreeSet<_> = nodes.iter().map(|node| racks.get(node)).collect();
    same("the racks of the pods", &of.len(), &2)?;
    let told = ask(&["explain", "train"], None)?;
    let holder = format!("{}/train (1)", context.namespace());
    let rows = told.lines().filter(|line| line.ends_with(&holder));
    same("the racks of which it holds a node", &rows.count(), &2)?;

    context.delete_pods(&["train-0", "train-1", "other-0", "other-1"])?;
    kubectl(
        context,
        &["delete", "computedomain/train", "domainpolicy/wide"],
    )?;
    no_slots(context)
}

/// Two classes, by which pods of the scenario are more or less important.
const CLASSES: &str = "
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: tessera-scenario-low}
value: 10
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: tessera-scenario-high}
value: 1000
---
";

/// A policy by which domains of lower priority are ended.
const URGENT: &str = "
apiVersion: tessera-dra.github.io/v1alpha1
kind: DomainPolicy
metadata:
  name: urgent
spec:
  preempts: true
---
";

pub(crate) fn a_domain_of_higher_priority_replaces_one_whole_if_its_policy_says_so(
    context: &Context<'_>,
) -> Result<(), Failure> {
    // One rack is not to be had.
    let node = context.nodes()[2].name();
    let low = two_of("low", 4, "priorityClassName: tessera-scenario-low");
    let other = worker("other", 1, None, &there(node));
    context.apply(&(CLASSES.to_owned() + &other + &domain("low", 2) + &low))?;
    bound(context, &["other"])?;
    context.running(&["low-0", "low-1"])?;
    let before = bound(context, &["low-0", "low-1"])?;

    let high = two_of("high", 4, "priorityClassName: tessera-scenario-high");
    context.apply(&(domain("high", 2) + &high))?;
    let reason = |reason: &str| {
        format!(r#"jsonpath={{.status.conditions[?(@.type=="Ready")].reason}}={reason}"#)
    };
    // Without a policy that says so nobody is ended.
    wait(context, &reason("InsufficientFree"), "computedomain/high")?;
    context.running(&["low-0", "low-1"])?;
    context.apply(URGENT)?;
    wait(context, "condition=Accepted", "domainpolicy/urgent")?;
    let annotated = "tessera-dra.github.io/policy=urgent";
    kubectl(context, &["annotate", "computedomain/high", annotated])?;
    context.running(&["high-0", "high-1"])?;
    wait(context, "condition=Ready", "computedomain/high")?;
    let after: BTreeSet<String> = bound(context, &["high-0", "high-1"])?.into_iter().collect();
    same("the nodes of both", &after, &before.into_iter().collect())?;
    let pods = kubectl(context, &["get", "pods", "-o", "name"])?;
    same(
        "whether a pod of the other is left",
        &pods.contains("low-"),
        &false,
    )?;
    for (about, reason, other) in [("low", "Preempted", "high"), ("high", "Preempting", "low")] {
        let named = format!("{}/{other}", context.namespace());
        let is_told = |event: &Event| {
            let of = event.involved_object.name.as_deref() == Some(about);
            let said = event.message.as_deref().unwrap_or_default();
            of && event.reason.as_deref() == Some(reason) && said.contains(&named)
        };
        let events: Objects<Event> = context.list()?;
        let found = events.values().any(is_told);
        same(
            &format!("whether {about} was told {reason} with {named}"),
            &found,
            &true,
        )?;
    }

    context.delete_pods(&["high-0", "high-1", "other"])?;
    let rest = [
        "computedomain/high",
        "computedomain/low",
        "domainpolicy/urgent",
    ];
    kubectl(context, &[&["delete"][..], &rest].concat())?;
    let classes = [
        "priorityclass/tessera-scenario-low",
        "priorityclass/tessera-scenario-high",
    ];
    kubectl(context, &[&["delete"][..], &classes].concat())?;
    no_slots(context)
}
