//! What becomes of gangs that lose nodes.

use tessera_api::POLICY_ANNOTATION;

use super::*;

/// Two cliques of four nodes, and a domain of so many whole nodes with this policy, of which a pod runs on each node.
fn running(nodes: u32, policy: &Value) -> Known {
    let names: Vec<String> = (0..8).map(|at| format!("n{at}")).collect();
    let pairs = names.iter().enumerate();
    let pairs: Vec<(&str, Option<&str>)> = pairs
        .map(|(at, name)| (name.as_str(), Some(if at < 4 { "c.0" } else { "c.1" })))
        .collect();
    let mut known = Known::nodes(&pairs)
        .policy("p", policy)
        .accepted("train", nodes);
    let mut domain = domain_json("train", nodes);
    domain["metadata"]["finalizers"] = json!([keys::FINALIZER]);
    domain["metadata"]["annotations"] = json!({POLICY_ANNOTATION: "p"});
    known.put(Kind::Domain, domain);
    for rank in 0..nodes {
        known.put(Kind::Pod, pod_json(&format!("w{rank}"), "train", 4));
    }
    known.settle(NOW);
    bind(&mut known);
    known
}

/// Gives each pod of the domain that has no node one of the domain's nodes, as a scheduler does.
fn bind(known: &mut Known) {
    let open: Vec<String> = {
        let in_use: Vec<&str> = known
            .world
            .pods()
            .filter_map(|pod| pod.node.as_deref())
            .collect();
        let nodes = train(known).hostnames;
        let free = |node: &String| {
            let there = known
                .world
                .node(node)
                .is_some_and(|node| !node.unschedulable);
            there && !in_use.contains(&node.as_str())
        };
        nodes.into_iter().filter(free).collect()
    };
    let pending = known.world.pods().filter(|pod| pod.node.is_none());
    let pending: Vec<String> = pending.map(|pod| pod.name.name.clone()).collect();
    for (pod, node) in pending.iter().zip(open) {
        let mut bound = pod_json(pod, "train", 4);
        bound["spec"]["nodeName"] = json!(node);
        known.put(Kind::Pod, bound);
    }
}

fn train(known: &Known) -> Slots {
    known.world.slots()["train-uid"].slots.clone()
}

/// A node leaves the cluster, and the pod on it is made again.
fn lose(known: &mut Known, node: &str) {
    known.world.remove(Kind::Node, &ObjectName::new("", node));
    let slice = ObjectName::new("", &format!("{node}-fabric"));
    known.world.remove(Kind::Slice, &slice);
    let of = known
        .world
        .pods()
        .find(|pod| pod.node.as_deref() == Some(node));
    if let Some(pod) = of.map(|pod| pod.name.name.clone()) {
        known.put(Kind::Pod, pod_json(&pod, "train", 4));
    }
}

fn give_back(known: &mut Known, node: &str) {
    let clique = if node < "n4" { "c.0" } else { "c.1" };
    known.put(Kind::Node, node_json(node));
    known.put(Kind::Slice, fabric_json(node, Some(clique)));
}

#[test]
fn a_lost_node_is_replaced_at_its_rank_by_a_spare_and_then_by_a_free_node() {
    let mut known = running(2, &json!({"spareNodes": 1, "replacement": {}}));
    let before = train(&known);
    lose(&mut known, &before.hostnames[0]);
    known.settle(NOW);
    let after = train(&known);
    assert_eq!(
        after.hostnames,
        [before.spares[0].clone(), before.hostnames[1].clone()]
    );
    assert_eq!(after.channel, before.channel);
    assert_eq!(after.former, [before.hostnames[0].clone()]);
    assert_eq!(after.spares, [""; 0]);
    lose(&mut known, &after.hostnames[0]);
    known.settle(NOW);
    let last = train(&known);
    assert_eq!(last.hostnames.len(), 2);
    assert!(last.hostnames.contains(&before.hostnames[1]));
    bind(&mut known);
    assert_eq!(said(&known, "train", "Ready").0, "NodesReady");
}

#[test]
fn without_a_word_of_the_policy_nobody_is_replaced_while_pods_run() {
    let mut known = running(2, &json!({}));
    let before = train(&known);
    lose(&mut known, &before.hostnames[0]);
    known.settle(NOW);
    assert_eq!(train(&known), before.closed(&BTreeSet::new()));
    assert_eq!(said(&known, "train", "Ready").0, "NodeLost");
}

#[test]
fn a_gang_that_lost_a_node_keeps_what_claims_hold_and_gives_nothing_more_until_the_node_is_back() {
    let mut known = running(2, &json!({}));
    let before = train(&known);
    known.put(Kind::Claim, slot_claim_json("w1", "train"));
    lose(&mut known, &before.hostnames[0]);
    // The slots before the condition: whoever reads that a node is lost finds no old slot.
    let kinds: Vec<Kind> = writes(&known.world, NOW)
        .iter()
        .map(|write| write.kind)
        .collect();
    assert_eq!(kinds.first(), Some(&Kind::Slice), "{kinds:?}");
    known.settle(NOW);
    assert_eq!(train(&known), before.closed(&BTreeSet::from([0])));
    let tolerated =
        |known: &Known| told(&known.world, NOW).contains(&"patch pod team/w0".to_owned());
    assert!(!tolerated(&known));
    give_back(&mut known, &before.hostnames[0]);
    known.settle(NOW);
    assert_eq!(train(&known), before);
    assert!(tolerated(&known));
}

#[test]
fn pods_that_are_made_again_take_no_old_slot_while_claims_of_the_former_ones_linger() {
    let mut known = running(2, &json!({}));
    let before = train(&known);
    for rank in 0..2 {
        known.put(Kind::Claim, slot_claim_json(&format!("w{rank}"), "train"));
    }
    lose(&mut known, &before.hostnames[0]);
    for rank in 0..2 {
        known.put(Kind::Pod, pod_json(&format!("w{rank}"), "train", 4));
    }
    known.settle(NOW);
    assert_eq!(train(&known), before.closed(&BTreeSet::from([0])));
    for rank in 0..2 {
        let claim = ObjectName::new("team", &format!("w{rank}-channel"));
        known.world.remove(Kind::Claim, &claim);
    }
    known.settle(NOW);
    let after = train(&known);
    assert!(after.are_offered() && after.closed.is_none());
    assert!(!after.hostnames.contains(&before.hostnames[0]), "{after:?}");
}

#[test]
fn an_elastic_gang_shrinks_to_three_and_grows_to_four_again() {
    let mut known = running(4, &json!({"minNodes": 3}));
    let before = train(&known);
    lose(&mut known, &before.hostnames[1]);
    known.settle(NOW);
    let smaller = train(&known);
    assert_eq!(smaller.hostnames.len(), 3);
    assert_eq!(said(&known, "train", "Ready").0, "NodesReady");
    give_back(&mut known, &before.hostnames[1]);
    known.settle(NOW);
    let whole: BTreeSet<String> = train(&known).hostnames.into_iter().collect();
    assert_eq!(whole, before.hostnames.into_iter().collect());
    assert_eq!(train(&known).former, [""; 0]);
}

#[test]
fn a_gang_that_need_not_share_a_clique_gets_a_node_of_another() {
    let mut known = running(4, &json!({"cliquePolicy": "Preferred", "replacement": {}}));
    let before = train(&known);
    lose(&mut known, &before.hostnames[2]);
    known.settle(NOW);
    let after = train(&known);
    assert_eq!(after.clique_nodes, [3, 1]);
    bind(&mut known);
    assert_eq!(said(&known, "train", "Ready").0, "NodesReady");
}

#[test]
fn a_node_that_is_being_emptied_is_replaced_when_its_pod_is_gone_and_not_before() {
    let mut known = running(2, &json!({"replacement": {}}));
    let before = train(&known);
    let node = before.hostnames[0].clone();
    let mut closed = node_json(&node);
    closed["spec"]["unschedulable"] = json!(true);
    known.put(Kind::Node, closed);
    known.settle(NOW);
    assert_eq!(train(&known), before);
    let of = known
        .world
        .pods()
        .find(|pod| pod.node.as_ref() == Some(&node));
    let pod = of.unwrap().name.name.clone();
    known.put(Kind::Pod, pod_json(&pod, "train", 4));
    known.settle(NOW);
    let after = train(&known);
    assert!(!after.hostnames.contains(&node), "{after:?}");
    assert!(after.may_have_channel().any(|former| former == node));
}

proptest! {
    /// Where nobody has said that nodes are replaced: while a node of a gang is away, the slots that are there are those
    /// that claims hold, and none of its pods is let onto a node.
    #[test]
    fn a_gang_without_one_of_its_nodes_lets_nobody_in(
        events in prop::collection::vec((0_usize..8, any::<bool>(), any::<bool>()), 1..12),
    ) {
        let mut known = running(3, &json!({}));
        for (at, comes, claimed) in events {
            let node = format!("n{at}");
            if comes {
                give_back(&mut known, &node);
            } else {
                lose(&mut known, &node);
            }
            if claimed {
                known.put(Kind::Claim, slot_claim_json("w0", "train"));
            } else {
                known.world.remove(Kind::Claim, &ObjectName::new("team", "w0-channel"));
            }
            known.settle(NOW);
            let slots = train(&known);
            let away = slots.hostnames.iter().any(|it| known.world.node(it).is_none());
            if slots.are_offered() && away {
                let held = known.world.slots_held("train-uid");
                prop_assert!(slots.closed.as_ref().is_some_and(|left| left.is_superset(&held)));
                prop_assert!(slots.count <= 1, "{slots:?}");
                let let_in = told(&known.world, NOW).iter().any(|write| write.starts_with("patch pod "));
                prop_assert!(!let_in);
            } else if slots.are_offered() {
                prop_assert_eq!(slots.closed, None);
            }
        }
    }

    /// Whatever nodes go and come: the decisions come to rest, nobody's channel changes, a clique is shared by those that
    /// are to share one, no node is lost twice or taken twice, and there are as many as the policy says.
    #[test]
    fn gangs_that_lose_nodes_stay_what_their_policy_says(
        size in 1_u32..5,
        least in 1_u32..5,
        spares in 0_u32..3,
        preferred in any::<bool>(),
        events in prop::collection::vec((0_usize..8, any::<bool>()), 1..12),
    ) {
        let least = least.min(size);
        let clique = if preferred { "Preferred" } else { "Required" };
        let mut known = running(size, &json!({
            "minNodes": least, "spareNodes": spares, "cliquePolicy": clique, "replacement": {},
        }));
        let channel = train(&known).channel;
        for (at, comes) in events {
            let node = format!("n{at}");
            if comes {
                give_back(&mut known, &node);
            } else {
                lose(&mut known, &node);
            }
            known.settle(NOW);
            bind(&mut known);
            known.settle(NOW);
            let slots = train(&known);
            let pods_run = known.world.pods().any(|pod| pod.node.is_some());
            if !slots.are_offered() || !pods_run {
                // All of it went, and it is placed anew or waits.
                return Ok(());
            }
            prop_assert_eq!(slots.channel, channel);
            let all: BTreeSet<&String> = slots.hostnames.iter().chain(&slots.spares).collect();
            prop_assert_eq!(all.len(), slots.hostnames.len() + slots.spares.len());
            prop_assert!(slots.hostnames.len() <= size as usize);
            prop_assert!(slots.hostnames.len() >= least as usize);
            for share in slots.shares() {
                let cliques: BTreeSet<bool> = share.iter().map(|node| node.as_str() < "n4").collect();
                prop_assert_eq!(cliques.len(), 1, "{:?}", slots);
            }
            let there = slots.hostnames.iter().filter(|it| known.world.node(it).is_some());
            let free = (0..8).map(|at| format!("n{at}")).filter(|it| {
                let near = preferred || (it.as_str() < "n4") == (slots.hostnames[0].as_str() < "n4");
                near && known.world.node(it).is_some() && !all.contains(it)
            });
            let (there, free) = (there.count(), free.count());
            prop_assert!(
                there == slots.hostnames.len() || free == 0 || there < least as usize,
                "{there} of {slots:?} are there, and {free} nodes are free"
            );
        }
    }
}
