//! Policies of compute domains on two racks, and the plugin of kubectl that says what they come to.

use std::collections::BTreeSet;

use super::domains::{domain, kubectl, no_slots, there, wait};
use super::racks::{bound, cliques, two_of, worker};
use crate::context::Context;
use crate::failure::{Failure, same};

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
