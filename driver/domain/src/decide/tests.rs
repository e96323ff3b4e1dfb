//! Each decision by itself.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::testing::{domain_json, fabric_json, node_json, pod_json, slot_claim_json};
use crate::world::Object;

const NOW: Timestamp = Timestamp::constant(1_767_225_600, 0);

fn later(seconds: i64) -> Timestamp {
    NOW + SignedDuration::from_secs(seconds)
}

/// What is known in a test.
#[derive(Default)]
struct Known {
    world: World,
    version: u64,
}

impl Known {
    /// Nodes in a clique, four GPUs each.
    fn nodes(nodes: &[(&str, Option<&str>)]) -> Self {
        let mut known = Self::default();
        for (node, clique) in nodes {
            known = known
                .with(Kind::Node, node_json(node))
                .with(Kind::Slice, fabric_json(node, *clique));
        }
        known
    }

    fn pair() -> Self {
        Self::nodes(&[("n0", Some("c.0")), ("n1", Some("c.0"))])
    }

    #[must_use]
    fn with(mut self, kind: Kind, object: Value) -> Self {
        self.put(kind, object);
        self
    }

    fn put(&mut self, kind: Kind, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.world.apply(match kind {
            Kind::Domain => Object::Domain(Box::new(typed(object))),
            Kind::Template => Object::Template(Box::new(typed(object["metadata"].clone()))),
            Kind::Slice => Object::Slice(Box::new(typed(object))),
            Kind::Node => Object::Node(Box::new(typed(object))),
            Kind::Pod => Object::Pod(Box::new(typed(object))),
            Kind::Claim => Object::Claim(Box::new(typed(object))),
        });
    }

    /// A domain that has been accepted, with its template.
    fn accepted(self, name: &str, nodes: u32) -> Self {
        let mut domain = domain_json(name, nodes);
        domain["metadata"]["finalizers"] = json!([keys::FINALIZER]);
        let typed: ComputeDomain = serde_json::from_value(domain.clone()).unwrap();
        self.with(Kind::Domain, domain)
            .with(Kind::Template, json!(template::template(&typed)))
    }

    /// As after the slots that are decided now have been written.
    fn placed(mut self, now: Timestamp) -> Self {
        for write in writes(&self.world, now) {
            if let (Kind::Slice, Verb::Create(slice)) = (write.kind, write.verb) {
                self.put(Kind::Slice, slice);
            }
        }
        self
    }
}

fn typed<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).unwrap()
}

fn writes(world: &World, now: Timestamp) -> Vec<Write> {
    let each = decide(world, now).each;
    each.into_iter()
        .flat_map(|decision| decision.writes)
        .collect()
}

/// The writes in short.
fn told(world: &World, now: Timestamp) -> Vec<String> {
    writes(world, now)
        .iter()
        .map(|write| {
            format!(
                "{} {} {}",
                write.verb.as_str(),
                write.kind.as_str(),
                write.name
            )
        })
        .collect()
}

/// Reason and message of the condition `kind` in the status that is written.
fn said(known: &Known, domain: &str, kind: &str) -> (String, String) {
    let status = writes(&known.world, NOW)
        .into_iter()
        .find_map(|write| match write.verb {
            Verb::Status(status) if write.name.name == domain => Some(status),
            _ => None,
        });
    let status = status.expect("a status is written");
    let conditions = status["status"]["conditions"].as_array().unwrap();
    let condition = conditions
        .iter()
        .find(|condition| condition["type"] == kind)
        .unwrap();
    let text = |name: &str| condition[name].as_str().unwrap().to_owned();
    (text("reason"), text("message"))
}

#[test]
fn a_new_domain_gets_a_finalizer_a_template_and_a_status() {
    let known = Known::pair().with(Kind::Domain, domain_json("train", 2));
    assert_eq!(
        told(&known.world, NOW),
        [
            "patch computedomain team/train",
            "create resourceclaimtemplate team/train-channel",
            "status computedomain team/train",
        ]
    );
    let (reason, message) = said(&known, "train", "Ready");
    assert_eq!(reason, "AwaitingPods");
    assert!(message.contains("team/train-channel"), "{message}");
}

#[test]
fn a_gang_gets_its_slots_before_its_pods_are_let_in_and_others_kept_out() {
    let known = Known::pair()
        .accepted("train", 2)
        .with(Kind::Pod, pod_json("w0", "train", 4))
        .with(Kind::Pod, pod_json("w1", "train", 4));
    assert_eq!(
        told(&known.world, NOW),
        [
            "create resourceslice domain-train-uid-0",
            "patch pod team/w0",
            "patch pod team/w1",
            "patch node n0",
            "patch node n1",
            "status computedomain team/train",
        ]
    );
    assert_eq!(said(&known, "train", "Ready").0, "NodesReady");
    assert_eq!(said(&known, "train", "Reserved").0, "NodesTainted");
    let slots = &writes(&known.world, NOW)[0];
    let Verb::Create(slice) = &slots.verb else {
        panic!("{slots:?}");
    };
    let selector = &slice["spec"]["nodeSelector"]["nodeSelectorTerms"][0]["matchExpressions"][0];
    assert_eq!(selector["values"], json!(["n0", "n1"]));
}

#[test]
fn a_toleration_is_added_and_none_is_lost() {
    let known = Known::pair()
        .accepted("train", 1)
        .with(Kind::Pod, pod_json("w0", "train", 4));
    let patch = |known: &Known| {
        let write = writes(&known.world, NOW)
            .into_iter()
            .find(|write| write.kind == Kind::Pod);
        match write.map(|write| write.verb) {
            Some(Verb::Json(patch)) => patch,
            other => panic!("{other:?}"),
        }
    };
    let ours = json!({"key": keys::TAINT, "operator": "Exists", "effect": "NoSchedule"});
    assert_eq!(
        patch(&known),
        json!([{"op": "add", "path": "/spec/tolerations/-", "value": ours}])
    );
    let mut bare = pod_json("w0", "train", 4);
    bare["spec"].as_object_mut().unwrap().remove("tolerations");
    assert_eq!(
        patch(&known.with(Kind::Pod, bare)),
        json!([
            {"op": "test", "path": "/spec/tolerations", "value": null},
            {"op": "add", "path": "/spec/tolerations", "value": [ours]},
        ])
    );
}

#[test]
fn a_taint_is_put_beside_those_of_others_and_taken_off_from_among_them() {
    let tainted = |keys: &[&str]| {
        let mut node = node_json("n0");
        let taints = keys
            .iter()
            .map(|key| json!({"key": key, "effect": "NoExecute"}));
        node["spec"]["taints"] = taints.collect();
        node
    };
    let patch = |known: &Known| {
        let write = writes(&known.world, NOW)
            .into_iter()
            .find(|write| write.name.name == "n0");
        match write.map(|write| write.verb) {
            Some(Verb::Json(patch)) => patch,
            other => panic!("{other:?}"),
        }
    };
    let mut pod = pod_json("w0", "train", 4);
    pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    let known = Known::nodes(&[("n0", Some("c.0"))])
        .with(Kind::Node, tainted(&["theirs"]))
        .accepted("train", 1)
        .with(Kind::Pod, pod);
    let ours = json!({"key": keys::TAINT, "value": "train-uid", "effect": "NoSchedule"});
    assert_eq!(
        patch(&known),
        json!([{"op": "add", "path": "/spec/taints/-", "value": ours}])
    );
    let known = Known::pair().with(Kind::Node, tainted(&["theirs", keys::TAINT]));
    assert_eq!(
        patch(&known),
        json!([
            {"op": "test", "path": "/spec/taints/1/key", "value": keys::TAINT},
            {"op": "remove", "path": "/spec/taints/1"},
        ])
    );
}

#[test]
fn pods_that_take_part_of_a_node_are_placed_and_told_that_nothing_is_kept() {
    let known = Known::pair()
        .accepted("train", 2)
        .with(Kind::Pod, pod_json("w0", "train", 2));
    let told = told(&known.world, NOW);
    assert!(
        !told.iter().any(|write| write.starts_with("patch node")),
        "{told:?}"
    );
    assert_eq!(said(&known, "train", "Reserved").0, "PartOfNodes");
    let none = Known::pair()
        .accepted("train", 1)
        .with(Kind::Pod, pod_json("w0", "train", 0));
    assert_eq!(said(&none, "train", "Reserved").0, "NoGpusWanted");
    assert_eq!(said(&none, "train", "Ready").0, "NodesReady");
}

#[test]
fn what_others_use_counts_whoever_gave_it_out() {
    let bound = |name: &str, limits: u32| {
        let mut pod = pod_json(name, "none", limits);
        pod["spec"]["resourceClaims"] = json!([]);
        pod["spec"]["nodeName"] = json!("n0");
        pod
    };
    let claim = json!({
        "metadata": {"name": "gpus", "namespace": "team"},
        "status": {
            "allocation": {"devices": {"results": [
                {"request": "r", "driver": keys::GPU_DRIVER, "pool": "n0", "device": "gpu-0"},
            ]}},
            "reservedFor": [{"resource": "pods", "name": "stranger", "uid": "x"}],
        },
    });
    for (kind, object) in [(Kind::Pod, bound("stranger", 1)), (Kind::Claim, claim)] {
        let known = Known::pair()
            .accepted("train", 2)
            .with(Kind::Pod, pod_json("w0", "train", 4))
            .with(kind, object);
        let (reason, message) = said(&known, "train", "Ready");
        assert_eq!(reason, "InsufficientFree", "{message}");
        assert!(message.contains("1 fit now"), "{message}");
    }
}

#[test]
fn gpus_of_the_domains_own_pods_are_not_counted_twice() {
    let mut known = Known::pair()
        .accepted("train", 2)
        .with(Kind::Pod, pod_json("w0", "train", 4))
        .placed(NOW);
    let mut pod = pod_json("w0", "train", 4);
    pod["spec"]["nodeName"] = json!("n0");
    known.put(Kind::Pod, pod);
    known = known
        .with(Kind::Node, node_json("n2"))
        .with(Kind::Slice, fabric_json("n2", Some("c.0")));
    let known = known
        .accepted("second", 1)
        .with(Kind::Pod, pod_json("v0", "second", 4));
    assert_eq!(said(&known, "second", "Ready").0, "NodesReady");
}

#[test]
fn nothing_is_planned_while_the_gpus_of_a_pod_are_not_known() {
    let mut pod = pod_json("w0", "train", 0);
    let claims = json!([
        {"name": "channel", "resourceClaimTemplateName": "train-channel"},
        {"name": "gpus", "resourceClaimTemplateName": "two-gpus"},
    ]);
    pod["spec"]["resourceClaims"] = claims;
    let known = Known::pair()
        .accepted("train", 2)
        .with(Kind::Pod, pod.clone());
    assert_eq!(said(&known, "train", "Ready").0, "AwaitingClaims");
    // The pod knows its claim before this process does.
    pod["status"]["resourceClaimStatuses"] =
        json!([{"name": "gpus", "resourceClaimName": "w0-gpus"}]);
    let known = known.with(Kind::Pod, pod);
    assert_eq!(said(&known, "train", "Ready").0, "AwaitingClaims");
    let claim = json!({
        "metadata": {"name": "w0-gpus", "namespace": "team"},
        "spec": {"devices": {"requests": [
            {"name": "r", "exactly": {"deviceClassName": keys::GPU_CLASS, "count": 4}},
        ]}},
    });
    let known = known.with(Kind::Claim, claim);
    assert_eq!(said(&known, "train", "Reserved").0, "NodesTainted");
}

#[test]
fn of_two_domains_with_one_template_name_the_younger_is_refused_with_both_names() {
    let mut younger = domain_json("younger", 2);
    younger["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:09Z");
    younger["spec"]["channel"]["resourceClaimTemplate"]["name"] = json!("train-channel");
    let known = Known::pair()
        .accepted("train", 2)
        .with(Kind::Domain, younger);
    let (reason, message) = said(&known, "younger", "Ready");
    assert_eq!(reason, "TemplateNameTaken");
    assert!(
        message.contains("team/train-channel") && message.contains("team/train;"),
        "{message}"
    );
    assert_eq!(said(&known, "train", "Ready").0, "AwaitingPods");
    let touched = told(&known.world, NOW);
    assert!(
        !touched.contains(&"patch computedomain team/younger".to_owned()),
        "{touched:?}"
    );
}

#[test]
fn a_template_of_the_users_own_is_left_alone() {
    let template =
        json!({"metadata": {"name": "train-channel", "namespace": "team", "uid": "theirs"}});
    let known = Known::pair()
        .with(Kind::Domain, domain_json("train", 2))
        .with(Kind::Template, template);
    assert_eq!(said(&known, "train", "Ready").0, "TemplateNotOurs");
    assert_eq!(told(&known.world, NOW), ["status computedomain team/train"]);
    let about = decide(&known.world, NOW).each.remove(0).notices;
    assert!(
        about[0].warning && about[0].reason == "TemplateNotOurs",
        "{about:?}"
    );
}

#[test]
fn a_domain_without_a_size_has_slots_on_every_node_and_follows_new_ones() {
    let known = Known::pair().accepted("elastic", 0);
    assert_eq!(
        told(&known.world, NOW),
        [
            "create resourceslice domain-elastic-uid-0",
            "status computedomain team/elastic"
        ]
    );
    assert_eq!(said(&known, "elastic", "Ready").0, "FollowsPods");
    let known = known.placed(NOW);
    let known = known
        .with(Kind::Node, node_json("n2"))
        .with(Kind::Slice, fabric_json("n2", Some("c.1")));
    let writes = writes(&known.world, later(60));
    let Verb::Merge(patch) = &writes[0].verb else {
        panic!("{writes:?}");
    };
    let selector = &patch["spec"]["nodeSelector"]["nodeSelectorTerms"][0]["matchExpressions"][0];
    assert_eq!(selector["values"], json!(["n0", "n1", "n2"]));
    assert_eq!(patch["spec"]["pool"]["generation"], 2);
}

#[test]
fn slots_outlive_their_pods_for_a_while_and_no_longer() {
    let mut known = Known::pair()
        .accepted("train", 2)
        .with(Kind::Pod, pod_json("w0", "train", 4))
        .placed(NOW);
    known
        .world
        .remove(Kind::Pod, &ObjectName::new("team", "w0"));
    // The status that is written then says since when.
    let mut domain = domain_json("train", 2);
    domain["metadata"]["finalizers"] = json!([keys::FINALIZER]);
    domain["status"] = writes(&known.world, NOW)
        .into_iter()
        .find_map(|write| match write.verb {
            Verb::Status(status) => Some(status["status"].clone()),
            _ => None,
        })
        .unwrap();
    known.put(Kind::Domain, domain);
    let withdraws = |at: i64| {
        told(&known.world, later(at)).contains(&"patch resourceslice domain-train-uid-0".to_owned())
    };
    assert!(!withdraws(29));
    assert!(withdraws(30));
    assert!(decide(&known.world, NOW).time_matters);
}

#[test]
fn slots_are_taken_back_from_pods_of_which_none_gets_a_node() {
    let known = Known::pair()
        .accepted("train", 2)
        .with(Kind::Pod, pod_json("w0", "train", 4))
        .placed(NOW);
    let withdraws = |known: &Known, at: i64| {
        told(&known.world, later(at)).contains(&"patch resourceslice domain-train-uid-0".to_owned())
    };
    assert!(!withdraws(&known, 299));
    assert!(withdraws(&known, 300));
    let mut bound = pod_json("w1", "train", 4);
    bound["spec"]["nodeName"] = json!("n0");
    let known = known.with(Kind::Pod, bound);
    assert!(!withdraws(&known, 300));
}

#[test]
fn a_deleted_domain_in_use_waits_and_names_its_pods() {
    let known = Known::pair()
        .accepted("train", 2)
        .with(Kind::Pod, pod_json("w0", "train", 4))
        .placed(NOW)
        .with(Kind::Claim, slot_claim_json("w0", "train"));
    let mut domain = domain_json("train", 2);
    domain["metadata"]["finalizers"] = json!([keys::FINALIZER, "other/one"]);
    domain["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut known = known.with(Kind::Domain, domain);
    assert_eq!(
        told(&known.world, NOW),
        [
            "patch resourceslice domain-train-uid-0",
            "delete resourceclaimtemplate team/train-channel",
            "status computedomain team/train",
        ]
    );
    let (reason, message) = said(&known, "train", "Ready");
    assert_eq!(reason, "InUse");
    assert!(message.contains("pod w0"), "{message}");
    known
        .world
        .remove(Kind::Claim, &ObjectName::new("team", "w0-channel"));
    let ends = writes(&known.world, NOW)
        .into_iter()
        .find(|write| write.kind == Kind::Domain);
    let Some(Verb::Merge(patch)) = ends.map(|write| write.verb) else {
        panic!("it does not end");
    };
    assert_eq!(patch["metadata"]["finalizers"], json!(["other/one"]));
}

#[test]
fn a_template_of_the_references_controller_ends_with_its_domain() {
    let mut domain = domain_json("train", 2);
    domain["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let template = json!({"metadata": {
        "name": "train-channel", "namespace": "team", "uid": "t",
        "labels": {keys::DOMAIN_LABEL: "train-uid"}, "finalizers": [keys::FINALIZER],
    }});
    let known = Known::pair()
        .with(Kind::Domain, domain)
        .with(Kind::Template, template);
    assert_eq!(
        told(&known.world, NOW),
        [
            "patch resourceclaimtemplate team/train-channel",
            "delete resourceclaimtemplate team/train-channel",
        ]
    );
}

#[test]
fn taints_and_slots_of_domains_that_are_gone_are_taken_away() {
    let mut node = node_json("n0");
    node["spec"]["taints"] = json!([
        {"key": keys::TAINT, "value": "gone-uid", "effect": "NoSchedule"},
        {"key": "theirs", "effect": "NoSchedule"},
    ]);
    let known = Known::pair().with(Kind::Node, node);
    assert_eq!(told(&known.world, NOW), ["patch node n0"]);
    let known = Known::pair()
        .accepted("train", 2)
        .with(Kind::Pod, pod_json("w0", "train", 4))
        .placed(NOW);
    let mut world = known.world;
    world.remove(Kind::Domain, &ObjectName::new("team", "train"));
    assert_eq!(
        told(&world, NOW),
        ["patch resourceslice domain-train-uid-0"]
    );
}

#[test]
fn a_channel_leaves_quarantine_when_every_node_says_so() {
    let held = |channels: Option<&str>| {
        let mut slice = fabric_json("n0", Some("c.0"));
        let attributes = &mut slice["spec"]["devices"][0]["attributes"];
        match channels {
            Some(channels) => attributes["heldChannels"] = json!({"string": channels}),
            None => drop(attributes.as_object_mut().unwrap().remove("heldChannels")),
        }
        slice
    };
    let mut known = Known::pair()
        .accepted("train", 1)
        .with(Kind::Pod, pod_json("w0", "train", 4))
        .placed(NOW);
    let slots = known.world.slots()["train-uid"].slots.clone();
    for kind in [Kind::Domain, Kind::Pod] {
        let name = if kind == Kind::Pod { "w0" } else { "train" };
        known.world.remove(kind, &ObjectName::new("team", name));
    }
    known.put(Kind::Slice, json!(slots.withdrawn(NOW).render(0, 2)));
    let channel = slots.channel.to_string();
    for (channels, seconds, over) in [
        (Some(""), 9, false),
        (Some(""), 10, true),
        (Some(channel.as_str()), 100_000, false),
        (Some("77"), 10, true),
        (Some("1,2,…"), 100_000, false),
        (None, 299, false),
        (None, 300, true),
    ] {
        known.put(Kind::Slice, held(channels));
        let told = told(&known.world, later(seconds));
        let expected = if over {
            &["delete resourceslice domain-train-uid-0"][..]
        } else {
            &[]
        };
        assert_eq!(told, expected, "{channels:?} after {seconds} s");
    }
    known.put(Kind::Slice, held(Some("")));
    known.put(Kind::Claim, slot_claim_json("w0", "train"));
    assert_eq!(
        told(&known.world, later(60)),
        [""; 0],
        "a claim still has a slot"
    );
}

#[test]
fn a_domain_that_takes_all_channels_shares_its_clique_with_nobody() {
    let all = |name: &str| {
        let mut domain = domain_json(name, 1);
        domain["spec"]["channel"]["allocationMode"] = json!("All");
        domain
    };
    let known = Known::nodes(&[
        ("n0", Some("c.0")),
        ("n1", Some("c.0")),
        ("n2", Some("c.1")),
    ])
    .accepted("first", 2)
    .with(Kind::Pod, pod_json("f0", "first", 1))
    .placed(NOW)
    .with(Kind::Domain, all("greedy"))
    .with(Kind::Pod, pod_json("g0", "greedy", 1))
    .placed(NOW);
    let slots = known.world.slots();
    assert_eq!(slots["greedy-uid"].slots.hostnames, ["n2"]);
    assert_eq!(slots["greedy-uid"].slots.channel, place::ALL_CHANNELS);
    let known = known
        .with(Kind::Domain, domain_json("third", 1))
        .with(Kind::Pod, pod_json("t0", "third", 4));
    // Only the clique that is taken as a whole would have a node with four free GPUs.
    assert_eq!(said(&known, "third", "Ready").0, "InsufficientFree");
}

#[test]
fn a_node_whose_fabric_is_down_is_named_and_gets_no_gang() {
    let mut down = fabric_json("n1", Some("c.0"));
    down["spec"]["devices"][0]["attributes"]["fabricState"] = json!({"string": "InProgress"});
    let known = Known::pair()
        .accepted("train", 2)
        .with(Kind::Pod, pod_json("w0", "train", 4))
        .placed(NOW)
        .with(Kind::Slice, down.clone());
    let (reason, message) = said(&known, "train", "Ready");
    assert_eq!(reason, "FabricNotReady");
    assert!(message.contains("node n1"), "{message}");
    let fresh = Known::pair()
        .with(Kind::Slice, down)
        .accepted("train", 2)
        .with(Kind::Pod, pod_json("w0", "train", 4));
    let (reason, message) = said(&fresh, "train", "Ready");
    assert!(
        reason == "NoCliqueLargeEnough" || reason == "InsufficientFree",
        "{reason} {message}"
    );
}

#[test]
fn the_same_world_gives_the_same_decisions_and_a_settled_one_gives_none() {
    let known = Known::pair()
        .accepted("train", 2)
        .with(Kind::Pod, pod_json("w0", "train", 4));
    assert_eq!(decide(&known.world, NOW), decide(&known.world, NOW));
    let empty = Known::pair();
    assert_eq!(decide(&empty.world, NOW).each, []);
}

/// Nodes of a gang by their names, and its slots.
fn offered(world: &World) -> Vec<(BTreeSet<String>, Slots)> {
    let stored = world.slots().into_values().map(|stored| stored.slots);
    stored
        .filter(Slots::are_offered)
        .map(|slots| (slots.hostnames.iter().cloned().collect(), slots))
        .collect()
}

proptest! {
    /// I9, and that no GPU is promised twice: whatever domains come in whatever order.
    #[test]
    fn domains_never_share_a_channel_in_a_clique_nor_a_gpu_that_is_held(
        domains in prop::collection::vec((1_u32..4, 0_u32..6, any::<bool>()), 1..10),
    ) {
        let nodes: Vec<String> = (0..6).map(|at| format!("n{at}")).collect();
        let clique = |node: &str| if node < "n3" { "c.0" } else { "c.1" };
        let pairs: Vec<_> = nodes.iter().map(|node| (node.as_str(), Some(clique(node)))).collect();
        let mut known = Known::nodes(&pairs);
        for (at, (size, gpus, early)) in domains.into_iter().enumerate() {
            let name = format!("d{at}");
            known = known
                .accepted(&name, size)
                .with(Kind::Pod, pod_json(&format!("p{at}"), &name, gpus));
            if early {
                known = known.placed(NOW);
            }
        }
        let known = known.placed(NOW);
        let offered = offered(&known.world);
        for (at, (nodes, slots)) in offered.iter().enumerate() {
            let cliques: BTreeSet<_> = nodes.iter().map(|node| clique(node)).collect();
            prop_assert_eq!(cliques.len(), 1);
            for (others, other) in &offered[..at] {
                let meet = others.iter().any(|node| cliques.contains(clique(node)));
                prop_assert!(!meet || slots.channel != other.channel, "{slots:?} {other:?}");
            }
        }
        for node in &nodes {
            let held = offered.iter().filter(|(nodes, _)| nodes.contains(node));
            let held: u32 = held.map(|(_, slots)| slots.gpus_per_node).sum();
            prop_assert!(held <= 4, "{node} has 4 GPUs, and {held} are promised");
        }
    }
}
