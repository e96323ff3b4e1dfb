//! What must be undone when the driver leaves the cluster.
//!
//! Slices are deleted by whoever uninstalls; a finalizer or a taint that nobody takes off would keep domains
//! from being deleted, and nodes from being used, for good.

use tessera_api::ComputeDomain;

use crate::cliques;
use crate::keys;
use crate::world::World;
use crate::write::{self, Write};

/// Takes our finalizer off every domain and our taint off every node, and ends the objects of cliques.
pub fn uninstall(world: &World) -> Vec<Write> {
    let held = world.nodes().filter(|node| node.held_for().is_some());
    let domains = world.domains().filter_map(unfinalized);
    let cliques = world.cliques().map(cliques::end);
    domains
        .chain(held.map(write::untaint))
        .chain(cliques)
        .collect()
}

/// Takes our finalizer off a domain that has it.
pub(crate) fn unfinalized(domain: &ComputeDomain) -> Option<Write> {
    let finalizers = domain.metadata.finalizers.iter().flatten();
    let all: Vec<&str> = finalizers.map(String::as_str).collect();
    let others: Vec<&str> = all
        .iter()
        .copied()
        .filter(|finalizer| *finalizer != keys::FINALIZER)
        .collect();
    (others.len() < all.len()).then(|| write::finalizers(domain, &others))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{domain_json, node_json};
    use crate::world::{Kind, Object};
    use crate::write::Verb;

    #[test]
    fn finalizers_and_taints_of_ours_go_and_those_of_others_stay() {
        let mut world = World::default();
        let mut domain = domain_json("train", 2);
        domain["metadata"]["finalizers"] = json!(["other/one", keys::FINALIZER]);
        world.apply(Object::Domain(serde_json::from_value(domain).unwrap()));
        let free = domain_json("free", 2);
        world.apply(Object::Domain(serde_json::from_value(free).unwrap()));
        let mut node = node_json("n1");
        node["spec"]["taints"] =
            json!([{"key": keys::TAINT, "value": "x", "effect": "NoSchedule"}]);
        world.apply(Object::Node(serde_json::from_value(node).unwrap()));
        world.apply(Object::Node(
            serde_json::from_value(node_json("n2")).unwrap(),
        ));
        let writes = uninstall(&world);
        let told: Vec<_> = writes
            .iter()
            .map(|write| (write.kind, write.name.to_string()))
            .collect();
        assert_eq!(
            told,
            [
                (Kind::Domain, "team/train".to_owned()),
                (Kind::Node, "n1".to_owned())
            ]
        );
        let Verb::Merge(patch) = &writes[0].verb else {
            panic!("{writes:?}");
        };
        assert_eq!(patch["metadata"]["finalizers"], json!(["other/one"]));
    }
}
