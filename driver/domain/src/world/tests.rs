use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::testing::{domain_json, node_json, pod_json};

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

/// A pod that names the templates of these domains.
fn naming(pod: &str, domains: &[u8], version: u64) -> Object {
    let mut json = pod_json(pod, "d0", 0);
    json["metadata"]["resourceVersion"] = json!(version.to_string());
    let claims = domains.iter().map(|domain| {
        json!({"name": format!("c{domain}"), "resourceClaimTemplateName": format!("d{domain}-channel")})
    });
    json["spec"]["resourceClaims"] = claims.collect();
    Object::read(Kind::Pod, json).unwrap()
}

/// A domain of one of two UIDs.
fn made(name: &str, again: bool, version: u64) -> Object {
    let mut json = domain_json(name, 2);
    json["metadata"]["resourceVersion"] = json!(version.to_string());
    if again {
        json["metadata"]["uid"] = json!(format!("{name}-again"));
    }
    Object::read(Kind::Domain, json).unwrap()
}

proptest! {
    /// Whatever comes, changes, goes and is listed: what is looked up is what a look at everything finds.
    #[test]
    fn pods_are_found_by_their_templates_and_domains_by_their_uids(
        events in prop::collection::vec(
            (0_u8..6, 0_u8..4, prop::collection::vec(0_u8..3, 0..3), any::<bool>()), 1..24,
        ),
    ) {
        let mut world = World::default();
        for domain in 0..3 {
            world.apply(made(&format!("d{domain}"), false, 1));
        }
        for (version, (kind, which, domains, again)) in (2..).zip(events) {
            let (pod, domain) = (format!("p{which}"), format!("d{}", which % 3));
            match kind {
                0 | 1 => world.apply(naming(&pod, &domains, version)),
                2 => world.remove(Kind::Pod, &ObjectName::new("team", &pod)),
                3 => world.apply(made(&domain, again, version)),
                4 => world.remove(Kind::Domain, &ObjectName::new("team", &domain)),
                _ => {
                    let kind = if again { Kind::Pod } else { Kind::Domain };
                    world.begin_list(kind);
                    world.apply(naming(&pod, &domains, version));
                    world.apply(made(&domain, false, version));
                    world.end_list(kind);
                }
            }
            for domain in world.domains() {
                let template = &domain.spec.channel.resource_claim_template.name;
                let all: Vec<_> = world.pods().filter(|pod| pod.templates.contains(template)).collect();
                prop_assert_eq!(world.pods_of(domain).collect::<Vec<_>>(), all);
            }
            for uid in (0..3).flat_map(|domain| [format!("d{domain}-uid"), format!("d{domain}-again")]) {
                let found = world.domains().find(|domain| domain.metadata.uid.as_ref() == Some(&uid));
                prop_assert_eq!(world.domain_of_uid(&uid), found);
            }
        }
    }
}
