//! What is answered about a cluster that is always the same.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use tessera_domain::testing::{domain_json, fabric_json, node_json, pod_json};
use tessera_domain::{ObjectName, Outlook, Rules, World, outlook};
use tessera_kubectl::cluster::{Cluster, ReadError, read};
use tessera_kubectl::manifest::{self, ManifestError};
use tessera_kubectl::show;

/// Two cliques of three nodes, of each of which a stranger has one node; with a domain that wants three.
struct Fixed(BTreeMap<&'static str, Vec<Value>>);

impl Fixed {
    fn new() -> Self {
        let mut lists: BTreeMap<&'static str, Vec<Value>> = BTreeMap::new();
        for at in 0..6 {
            let (node, clique) = (format!("n{at}"), format!("rack.{}", at / 3));
            lists.entry("nodes").or_default().push(node_json(&node));
            let slices = lists.entry("resourceslices").or_default();
            slices.push(fabric_json(&node, Some(&clique)));
        }
        for node in ["n0", "n3"] {
            let mut stranger = pod_json(&format!("on-{node}"), "nobody", 4);
            stranger["spec"]["nodeName"] = json!(node);
            lists.entry("pods").or_default().push(stranger);
        }
        lists.insert("computedomains", vec![domain_json("train", 3)]);
        lists
            .entry("pods")
            .or_default()
            .push(pod_json("w0", "train", 4));
        Self(lists)
    }

    fn world(&self) -> World {
        read(self).unwrap()
    }
}

impl Cluster for Fixed {
    /// One object to a page, so that lists have several.
    fn get(&self, path: &str) -> Result<Vec<u8>, ReadError> {
        let (list, query) = path.rsplit_once('/').unwrap().1.split_once('?').unwrap();
        let from = query.split_once("continue=at%3D").map(|(_, at)| at);
        let at: usize = from.map_or(0, |at| at.parse().unwrap());
        let all = self.0.get(list).map_or(&[][..], Vec::as_slice);
        let rest = if at + 1 < all.len() {
            format!("at={}", at + 1)
        } else {
            String::new()
        };
        let items: Vec<&Value> = all.iter().skip(at).take(1).collect();
        Ok(json!({"metadata": {"continue": rest}, "items": items})
            .to_string()
            .into_bytes())
    }
}

fn asked(world: &World, name: &str) -> Outlook {
    let name = ObjectName::new("team", name);
    outlook(world, &Rules::default(), &name, None, Timestamp::UNIX_EPOCH).unwrap()
}

#[test]
fn a_domain_that_waits_is_told_why_and_what_would_fit() {
    let text = show::plan(&asked(&Fixed::new().world(), "train"));
    for line in [
        "ComputeDomain team/train\n",
        "Asks for: 3 nodes with 4 GPUs each; policy: none\n",
        "InsufficientFree: 3 nodes with 4 free GPUs each are wanted in one NVLink clique",
        "  cliquePolicy Preferred: fits: ",
        "  numNodes 2: fits: 2 of rack.",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn the_answer_in_the_guide_is_the_plugins() {
    let text = show::plan(&asked(&Fixed::new().world(), "train"));
    let guide = include_str!("../../docs/policies.md");
    let shown = format!("$ kubectl tessera plan train\n{text}```\n");
    assert!(
        guide.contains(&shown),
        "docs/policies.md must have\n{shown}"
    );
}

#[test]
fn an_explanation_counts_the_nodes_of_each_clique() {
    let text = show::explanation(&asked(&Fixed::new().world(), "train"));
    let rows: Vec<Vec<&str>> = text
        .lines()
        .skip_while(|line| !line.starts_with("CLIQUE"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows,
        [
            vec!["CLIQUE", "NODES", "ELIGIBLE", "FREE", "HELD", "BY"],
            vec!["rack.0", "3", "3", "2"],
            vec!["rack.1", "3", "3", "2"],
        ]
    );
}

#[test]
fn a_domain_of_a_file_is_planned_with_its_policy_and_its_workload() {
    let file = "
apiVersion: resource.nvidia.com/v1beta1
kind: ComputeDomain
metadata: {name: new, annotations: {tessera-dra.github.io/policy: wide}}
spec: {numNodes: 4, channel: {resourceClaimTemplate: {name: new-channel}}}
---
kind: DomainPolicy
metadata: {name: wide}
spec: {cliquePolicy: Preferred}
---
kind: ResourceClaimTemplate
metadata: {name: two-gpus}
spec: {spec: {devices: {requests: [{name: g, exactly: {deviceClassName: gpu.nvidia.com, count: 2}}]}}}
---
kind: Job
metadata: {name: job}
spec:
  template:
    spec:
      containers: [{name: c}]
      resourceClaims:
      - {name: channel, resourceClaimTemplateName: new-channel}
      - {name: gpus, resourceClaimTemplateName: two-gpus}
";
    let mut world = Fixed::new().world();
    let name = manifest::apply(&mut world, file, "team").unwrap();
    let outlook = asked(&world, &name.name);
    assert_eq!(outlook.reason, "Fits", "{outlook:?}");
    let asks = outlook.asks.as_ref().unwrap();
    assert_eq!(
        (asks.nodes, asks.gpus_per_node, asks.assumed),
        (4, 2, false)
    );
    let plan = outlook.plan.as_ref().unwrap();
    let sizes: Vec<usize> = plan.cliques.iter().map(|share| share.nodes.len()).collect();
    assert_eq!(sizes, [2, 2], "{plan:?}");
    assert!(!plan.whole_nodes && !plan.holds);
    let json = serde_json::to_value(&outlook).unwrap();
    assert_eq!(
        json["plan"]["cliques"][0]["nodes"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn without_pods_all_gpus_of_the_largest_node_are_assumed_and_that_is_said() {
    let file = "
kind: ComputeDomain
metadata: {name: new}
spec: {numNodes: 2, channel: {resourceClaimTemplate: {name: new-channel}}}
";
    let mut world = Fixed::new().world();
    manifest::apply(&mut world, file, "team").unwrap();
    let text = show::plan(&asked(&world, "new"));
    for words in [
        "2 nodes with 4 GPUs each (assumed: no pod names its template)",
        "Fits: it fits now, 2 nodes in 1 clique; ",
        "It would get channel 1 and whole nodes",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
}

#[test]
fn files_that_say_nothing_of_one_new_domain_are_refused_with_what_to_do() {
    let refused = |file: &str| {
        let mut world = Fixed::new().world();
        manifest::apply(&mut world, file, "team").unwrap_err()
    };
    let domain = |name: &str| {
        format!(
            "kind: ComputeDomain\nmetadata: {{name: {name}}}\nspec: {{numNodes: 1, channel: \
             {{resourceClaimTemplate: {{name: t}}}}}}\n---\n"
        )
    };
    assert!(matches!(refused(""), ManifestError::NotOneDomain(0)));
    assert!(matches!(
        refused(&domain("a").repeat(2)),
        ManifestError::NotOneDomain(2)
    ));
    assert!(matches!(
        refused("a: [b"),
        ManifestError::NotYaml { number: 1, .. }
    ));
    let exists = refused(&domain("train")).to_string();
    assert!(exists.contains("team/train is in the cluster"), "{exists}");
    let bad = refused("kind: ComputeDomain\nmetadata: {name: a}\nspec: {numNodes: many}\n");
    assert!(bad.to_string().contains("ComputeDomain a"), "{bad}");
    let pod = "kind: Pod\nmetadata: {name: p}\nspec: {containers: [], resourceClaims: [\
               {name: c, resourceClaimTemplateName: t}, {name: g, resourceClaimTemplateName: gpus}]}\n";
    let unknown = refused(&(domain("a") + pod)).to_string();
    assert!(
        unknown.contains("template gpus") && unknown.contains("put it there"),
        "{unknown}"
    );
}

#[test]
fn a_domain_that_is_not_there_is_told_by_its_name() {
    let world = Fixed::new().world();
    let name = ObjectName::new("team", "other");
    let none = outlook(
        &world,
        &Rules::default(),
        &name,
        None,
        Timestamp::UNIX_EPOCH,
    );
    assert!(
        none.unwrap_err()
            .to_string()
            .contains("team/other does not exist")
    );
}
