//! How domains begin and end.

use super::*;

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
    let about = decide(&known.world, &rules(), NOW).each.remove(0).notices;
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
    assert_eq!(
        decide(&known.world, &rules(), NOW).look_again,
        Some(later(30))
    );
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
