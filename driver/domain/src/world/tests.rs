use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::testing::node_json;

/// A node with this label.
fn labelled(name: &str, hostname: &str, version: u64) -> Object {
    let mut node = node_json(name);
    node["metadata"]["resourceVersion"] = json!(version.to_string());
    node["metadata"]["labels"][crate::keys::HOSTNAME_LABEL] = json!(hostname);
    Object::read(Kind::Node, node).unwrap()
}

#[derive(Clone, Debug)]
enum Event {
    Is(u8, u8),
    Old(u8, u8),
    Gone(u8),
    List(Vec<(u8, u8)>),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_u8..4, 0_u8..5).prop_map(|(node, label)| Event::Is(node, label)),
        1 => (0_u8..4, 0_u8..5).prop_map(|(node, label)| Event::Old(node, label)),
        1 => (0_u8..4).prop_map(Event::Gone),
        1 => prop::collection::vec((0_u8..4, 0_u8..5), 0..4).prop_map(Event::List),
    ]
}

proptest! {
    /// Labels that are names of nodes, of other nodes, or of none; shared ones too.
    #[test]
    fn a_node_is_found_by_its_label_whatever_became_of_labels(
        events in prop::collection::vec(event(), 1..20),
    ) {
        let name = |at: u8| format!("n{at}");
        let mut world = World::default();
        let mut version = 1;
        for event in events {
            version += 1;
            match event {
                Event::Is(node, label) => world.apply(labelled(&name(node), &name(label), version)),
                Event::Old(node, label) => world.apply(labelled(&name(node), &name(label), 1)),
                Event::Gone(node) => world.remove(Kind::Node, &ObjectName::new("", &name(node))),
                Event::List(nodes) => {
                    world.begin_list(Kind::Node);
                    for (node, label) in nodes {
                        world.apply(labelled(&name(node), &name(label), version));
                    }
                    world.end_list(Kind::Node);
                }
            }
            for label in 0..6 {
                let hostname = name(label);
                let found = world.node_by_hostname(&hostname).map(|node| &node.name);
                let same: Vec<&String> = world
                    .nodes()
                    .filter(|node| node.hostname() == Some(&hostname))
                    .map(|node| &node.name)
                    .collect();
                // Its own name comes first, then the first by name.
                let own = same.iter().find(|name| ***name == hostname);
                prop_assert_eq!(found, own.or(same.first()).copied());
            }
        }
    }
}
