//! Which channels are given out.

use super::*;

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
    assert_eq!(
        slots["greedy-uid"].slots.channel,
        crate::place::ALL_CHANNELS
    );
    let known = known
        .with(Kind::Domain, domain_json("third", 1))
        .with(Kind::Pod, pod_json("t0", "third", 4));
    // Only the clique that is taken as a whole would have a node with four free GPUs.
    assert_eq!(said(&known, "third", "Ready").0, "InsufficientFree");
}
