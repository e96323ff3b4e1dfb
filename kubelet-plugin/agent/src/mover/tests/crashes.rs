//! The agent, or the plugin at a hook, dies at each of its calls of the driver.

use super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Three shares, one of which has grown and given back, so that limits are to go down and others up; and a fourth that is
/// prepared.
async fn node() -> Node {
    let node = Node::new();
    let all = node.card.room();
    for name in NAMES {
        node.prepare(name, 5 * GIB, all);
    }
    let (plugin, agent) = (node.plugin(), node.agent());
    for name in NAMES {
        assert!(node.start(&plugin, name).await);
    }
    for _ in 0..12 {
        node.card.allocate("/a", 16 * GIB);
        agent.tick().await.unwrap();
    }
    node.card.free("/a", node.card.used_by("/a") - GIB);
    let limit = node.card.limit_of("/b");
    assert!(node.card.allocate("/b", limit));
    node.prepare("d", 30 * GIB, all);
    node
}

fn limits(node: &Node) -> Vec<u64> {
    let names = NAMES.into_iter().chain(["d"]);
    names
        .map(|name| node.card.limit_of(&format!("/{name}")))
        .collect()
}

fn check(node: &Node) {
    let set = limits(node).into_iter().filter(|limit| *limit != UNLIMITED);
    assert!(set.sum::<u64>() <= node.card.room());
}

/// Ticks until nothing moves.
async fn settle(node: &Node) {
    let agent = node.agent();
    for _ in 0..10 {
        if seen(&agent.tick().await.unwrap()).moved == 0 {
            return;
        }
    }
    panic!("limits do not come to rest");
}

fn dies(node: &Node, at: Option<(usize, bool)>) {
    *node.card.death.lock().unwrap() = Death { calls: 0, at };
}

#[tokio::test]
async fn wherever_the_agent_dies_the_next_one_ends_where_it_would_have() {
    let undisturbed = node().await;
    settle(&undisturbed).await;
    let expected = limits(&undisturbed);
    let mut deaths = 0;
    for effect in [false, true] {
        for at in 0.. {
            let node = node().await;
            assert_ne!(limits(&node), expected, "there is something to do");
            dies(&node, Some((at, effect)));
            let _unheard = node.agent().tick().await;
            if node.card.death.lock().unwrap().calls <= at {
                break;
            }
            deaths += 1;
            check(&node);
            dies(&node, None);
            settle(&node).await;
            assert_eq!(limits(&node), expected, "died at call {at}");
        }
    }
    assert!(deaths >= 8, "{deaths}");
}

#[tokio::test]
async fn wherever_the_plugin_dies_at_a_hook_no_container_starts_without_its_limit() {
    for effect in [false, true] {
        for at in 0.. {
            let node = node().await;
            dies(&node, Some((at, effect)));
            let started = node.start(&node.plugin(), "d").await;
            let is_past_the_end = node.card.death.lock().unwrap().calls <= at;
            if started {
                assert!(node.card.limit_of("/d") != UNLIMITED, "died at call {at}");
            }
            check(&node);
            dies(&node, None);
            settle(&node).await;
            // The runtime has removed the container, and the kubelet starts it again.
            node.end("d");
            assert!(node.start(&node.plugin(), "d").await);
            assert!((30 * GIB..UNLIMITED).contains(&node.card.limit_of("/d")));
            check(&node);
            if is_past_the_end {
                break;
            }
        }
    }
}
