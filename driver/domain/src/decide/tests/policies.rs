//! What policies change, and what is wrong with some.

use tessera_api::POLICY_ANNOTATION;

use super::*;

/// Two cliques of three nodes in one zone, each in a block of its own, of which a stranger uses one node each.
fn crumbled() -> Known {
    let mut known = Known::default();
    for at in 0..6 {
        let (name, clique) = (format!("n{at}"), at / 3);
        let mut node = node_json(&name);
        node["metadata"]["labels"]["zone"] = json!("z");
        node["metadata"]["labels"]["block"] = json!(format!("b{clique}"));
        known.put(Kind::Node, node);
        known.put(
            Kind::Slice,
            fabric_json(&name, Some(&format!("c.{clique}"))),
        );
    }
    for node in ["n0", "n3"] {
        let mut stranger = pod_json(&format!("stranger-{node}"), "nobody", 4);
        stranger["spec"]["nodeName"] = json!(node);
        known.put(Kind::Pod, stranger);
    }
    known
}

/// A domain of so many whole nodes that names the policy `p`, with a pod that waits.
fn named(known: Known, nodes: u32) -> Known {
    let mut known = known.accepted("train", nodes);
    let mut domain = domain_json("train", nodes);
    domain["metadata"]["finalizers"] = json!([keys::FINALIZER]);
    domain["metadata"]["annotations"] = json!({POLICY_ANNOTATION: "p"});
    known.put(Kind::Domain, domain);
    known.with(Kind::Pod, pod_json("w0", "train", 4))
}

fn train(known: &Known) -> Slots {
    let slots = known.world.slots();
    slots["train-uid"].slots.clone()
}

#[test]
fn a_gang_that_prefers_one_clique_is_placed_over_two_and_is_ready_there() {
    let known = named(crumbled(), 3).policy("p", &json!({}));
    let (reason, message) = said(&known, "train", "Ready");
    assert_eq!(reason, "InsufficientFree");
    for words in [
        "3 nodes",
        "2 fit now",
        "at most 2 nodes",
        "use clique policy Preferred",
    ] {
        assert!(message.contains(words), "{message}: {words}");
    }
    let known = known
        .policy("p", &json!({"cliquePolicy": "Preferred"}))
        .placed(NOW);
    let slots = train(&known);
    let cliques: Vec<usize> = slots.shares().map(<[String]>::len).collect();
    assert_eq!(cliques.iter().sum::<usize>(), 3);
    assert_eq!(cliques.len(), 3 - 1, "{slots:?}");
    assert_eq!(said(&known, "train", "Ready").0, "NodesReady");
    let placed = said(&known, "train", "Placed").1;
    assert!(placed.contains("3 nodes in 2 NVLink cliques"), "{placed}");
}

#[test]
fn a_node_that_leaves_one_of_the_cliques_is_told() {
    let known = named(crumbled(), 4)
        .policy("p", &json!({"cliquePolicy": "Spread", "segmentNodes": 2}))
        .placed(NOW);
    assert_eq!(train(&known).clique_nodes, [2, 2]);
    assert_eq!(said(&known, "train", "Ready").0, "NodesReady");
    let mut running = pod_json("w0", "train", 4);
    running["spec"]["nodeName"] = json!("n1");
    let known = known
        .with(Kind::Pod, running)
        .with(Kind::Slice, fabric_json("n1", Some("c.9")));
    let (reason, message) = said(&known, "train", "Ready");
    assert_eq!(reason, "CliqueChanged");
    assert!(message.contains("n1"), "{message}");
}

#[test]
fn a_policy_is_the_annotations_else_the_labels_else_the_namespaces_default() {
    let spread = json!({"cliquePolicy": "Spread"});
    let cliques = |annotation: Option<&str>, label: Option<&str>, policies: &[&str]| {
        let mut known = crumbled().accepted("train", 2);
        let mut domain = domain_json("train", 2);
        domain["metadata"]["finalizers"] = json!([keys::FINALIZER]);
        if let Some(name) = annotation {
            domain["metadata"]["annotations"] = json!({POLICY_ANNOTATION: name});
        }
        if let Some(name) = label {
            domain["metadata"]["labels"] = json!({POLICY_ANNOTATION: name});
        }
        known.put(Kind::Domain, domain);
        let known = known.with(Kind::Pod, pod_json("w0", "train", 4));
        let known = known.policy("one", &json!({}));
        let known = policies
            .iter()
            .fold(known, |known, name| known.policy(name, &spread));
        train(&known.placed(NOW)).shares().count()
    };
    for (annotation, label, policies, expected) in [
        (None, None, &[][..], 1),
        (None, None, &["other"], 1),
        (None, None, &["default"], 2),
        (Some("one"), None, &["default"], 1),
        (Some("wide"), Some("one"), &["wide"], 2),
        (None, Some("wide"), &["wide"], 2),
    ] {
        let found = cliques(annotation, label, policies);
        assert_eq!(found, expected, "{annotation:?} {label:?} {policies:?}");
    }
}

#[test]
fn a_policy_that_is_missing_or_wrong_is_told_with_field_value_and_remedy() {
    for (spec, reason, words) in [
        (
            None,
            "PolicyNotFound",
            ["team/p", POLICY_ANNOTATION, "make it"],
        ),
        (
            Some(json!({"cliquePolicy": "Sometimes"})),
            "PolicyInvalid",
            [
                "team/p",
                "spec.cliquePolicy",
                "\"Sometimes\"; write Required",
            ],
        ),
        (
            Some(json!({"minNodes": 4})),
            "PolicyInvalid",
            ["spec.minNodes 4", "numNodes 3", "write 3 at most"],
        ),
        (
            Some(json!({"preempts": true})),
            "PolicyInvalid",
            ["team/p", "spec.preempts: true", "write false"],
        ),
        (
            Some(json!({"replacement": {"migrate": true}})),
            "PolicyInvalid",
            ["team/p", "spec.replacement.migrate: true", "write false"],
        ),
        (
            Some(json!({"topology": {"requiredLevel": "rack"}})),
            "UnknownTopologyLevel",
            ["\"rack\"", "[zone, block]", "name one of these"],
        ),
    ] {
        let known = named(crumbled(), 3);
        let known = match spec {
            Some(spec) => known.policy("p", &spec),
            None => known,
        };
        let (told, message) = said(&known, "train", "Ready");
        assert_eq!(told, reason, "{message}");
        for word in words {
            assert!(message.contains(word), "{message}: {word}");
        }
        let told = self::told(&known.world, NOW);
        assert_eq!(told, ["status computedomain team/train"]);
    }
}

#[test]
fn a_policy_that_becomes_wrong_takes_nothing_from_whom_it_has_placed() {
    let known = named(crumbled(), 2)
        .policy("p", &json!({}))
        .placed(NOW)
        .policy("p", &json!({"cliquePolicy": 3}));
    assert_eq!(said(&known, "train", "Ready").0, "NodesReady");
    assert!(train(&known).are_offered());
}

#[test]
fn a_required_level_keeps_a_gang_together_and_names_what_would_fit() {
    let known = |level: &str| {
        let spec = json!({"cliquePolicy": "Spread", "topology": {"requiredLevel": level}});
        named(crumbled(), 3).policy("p", &spec)
    };
    assert_eq!(train(&known("zone").placed(NOW)).shares().count(), 2);
    let (reason, message) = said(&known("block"), "train", "Ready");
    assert_eq!(reason, "InsufficientFree");
    assert!(message.contains("no required topology level"), "{message}");
}

#[test]
fn a_gang_that_waits_for_segments_is_told_of_smaller_ones_that_fit() {
    let known = named(crumbled(), 3).policy("p", &json!({"segmentNodes": 3}));
    let (reason, message) = said(&known, "train", "Ready");
    assert_eq!(reason, "InsufficientFree");
    assert!(message.contains("use segments of 1 nodes"), "{message}");
    let known = known.policy("p", &json!({"segmentNodes": 1})).placed(NOW);
    assert_eq!(train(&known).hostnames.len(), 3);
}

#[test]
fn spares_are_held_with_the_gang_and_offered_to_no_pod() {
    let known = named(crumbled(), 1).policy("p", &json!({"spareNodes": 1}));
    let tainted: Vec<String> = told(&known.world, NOW)
        .into_iter()
        .filter(|write| write.starts_with("patch node"))
        .collect();
    assert_eq!(tainted.len(), 2, "{tainted:?}");
    let known = known.placed(NOW);
    let slots = train(&known);
    assert_eq!(
        (slots.hostnames.len(), slots.spares.len()),
        (1, 1),
        "{slots:?}"
    );
    // Nobody else gets the spare.
    let known = known
        .accepted("other", 2)
        .with(Kind::Pod, pod_json("o0", "other", 4))
        .placed(NOW);
    let other = &known.world.slots()["other-uid"].slots;
    assert!(!other.hostnames.contains(&slots.spares[0]), "{other:?}");
}

#[test]
fn a_gang_that_may_be_smaller_takes_what_there_is() {
    let known = named(crumbled(), 3)
        .policy("p", &json!({"minNodes": 2}))
        .placed(NOW);
    assert_eq!(train(&known).hostnames.len(), 2);
}

#[test]
fn nodes_are_let_go_when_the_time_of_the_policy_is_over() {
    let known = named(crumbled(), 2)
        .policy("p", &json!({"bindTimeoutSeconds": 60}))
        .placed(NOW);
    let slice = "patch resourceslice domain-train-uid-0".to_owned();
    assert!(!told(&known.world, later(59)).contains(&slice));
    assert!(told(&known.world, later(60)).contains(&slice));
}
