//! What a domain says of the NVLink sessions of its nodes.

use super::*;

/// A placed gang on `n0` and `n1`, whose sessions these are: state, address, and to whom there is no connection.
fn gang_with(sessions: [(&str, &str, &[&str]); 2]) -> Known {
    let (mut members, mut told) = (Vec::new(), Vec::new());
    for ((index, node), (state, address, unreachable)) in
        ["n0", "n1"].iter().enumerate().zip(sessions)
    {
        members.push(json!({"nodeName": node, "index": index, "address": address}));
        told.push(json!({
            "nodeName": node, "state": state, "address": address, "unreachable": unreachable,
        }));
    }
    Known::pair()
        .accepted("train", 2)
        .with(Kind::Pod, pod_json("w0", "train", 4))
        .placed(NOW)
        .with(
            Kind::Clique,
            json!({
                "metadata": {"name": "c.0"},
                "spec": {"cliqueID": "c.0", "epoch": 1, "members": members},
                "status": {"sessions": told},
            }),
        )
}

#[test]
fn a_session_that_is_away_or_has_lost_a_peer_is_named_and_takes_no_slot() {
    for (sessions, reason, named) in [
        (
            [("READY", "10.0.0.1", &[][..]), ("READY", "10.0.0.2", &[])],
            "NodesReady",
            "",
        ),
        // The session host was replaced, or its daemon has died and waits for its peers.
        (
            [("READY", "10.0.0.1", &[]), ("STOPPED", "10.0.0.2", &[])],
            "FabricNotReady",
            "n1 (session: STOPPED)",
        ),
        (
            [
                ("WAITING_FOR_RECOVERY", "10.0.0.1", &[]),
                ("READY", "10.0.0.2", &[]),
            ],
            "FabricNotReady",
            "n0 (session: WAITING_FOR_RECOVERY)",
        ),
        (
            [
                ("READY", "10.0.0.1", &["n1"]),
                ("READY", "10.0.0.2", &["n0"]),
            ],
            "FabricNotReady",
            "n1",
        ),
        // It is back under another address.
        (
            [("READY", "10.0.0.1", &[]), ("READY", "10.0.0.9", &[])],
            "NodesReady",
            "",
        ),
    ] {
        let known = gang_with(sessions);
        let (is, message) = said(&known, "train", "Ready");
        assert_eq!(is, reason, "{sessions:?}: {message}");
        assert!(message.contains(named), "{message}");
        let slices = writes(&known.world, NOW).into_iter();
        let slices: Vec<_> = slices.filter(|write| write.kind == Kind::Slice).collect();
        assert_eq!(slices, [], "{sessions:?}");
    }
}
