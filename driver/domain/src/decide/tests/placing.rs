//! Which nodes a gang gets, and what keeps others off them.

use super::*;

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
fn a_gang_whose_nodes_are_not_in_one_clique_any_more_says_so_and_gets_others_when_no_pod_has_one() {
    for elsewhere in [Some("d.0"), None] {
        let mut moved = Known::pair()
            .accepted("train", 2)
            .with(Kind::Pod, pod_json("w0", "train", 4))
            .placed(NOW)
            .with(Kind::Slice, fabric_json("n1", elsewhere));
        // No pod of it has a node yet: the slots are taken back at once.
        let withdrawn = "patch resourceslice domain-train-uid-0".to_owned();
        assert!(told(&moved.world, NOW).contains(&withdrawn));
        let mut bound = pod_json("w1", "train", 4);
        bound["spec"]["nodeName"] = json!("n0");
        moved.put(Kind::Pod, bound);
        moved.settle(NOW);
        let slots = &moved.world.slots()["train-uid"].slots;
        assert!(slots.are_offered() && slots.closed.is_some(), "{slots:?}");
        for condition in ["Ready", "FabricReady"] {
            let (reason, message) = said(&moved, "train", condition);
            assert_eq!(reason, "CliqueChanged");
            assert!(message.contains("see nodes n0, n1"), "{message}");
        }
    }
}
