//! Which nodes of a gang are in another clique than the rest of it: fabrics change while gangs run.

use std::collections::BTreeMap;

use tessera_gang::CliqueId;

use crate::facts::{FabricFacts, NodeFacts};
use crate::place::clique;

/// The names of the nodes that are not in the clique of most of these. Where no clique has more than half of them nobody
/// can tell who left, and all are named.
pub(crate) fn apart(nodes: &[(&NodeFacts, &FabricFacts)]) -> Vec<String> {
    let mut members: BTreeMap<CliqueId, usize> = BTreeMap::new();
    for (node, fabric) in nodes {
        *members.entry(clique(node, fabric)).or_default() += 1;
    }
    let is_home = |clique: &CliqueId| {
        members
            .get(clique)
            .is_some_and(|size| size * 2 > nodes.len())
    };
    let left = nodes
        .iter()
        .filter(|(node, fabric)| !is_home(&clique(node, fabric)));
    left.map(|(node, _)| node.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(cliques: &[Option<&str>]) -> Vec<String> {
        let node = |at: usize| NodeFacts {
            name: format!("n{at}"),
            ..NodeFacts::default()
        };
        let fabric = |clique: Option<&str>| FabricFacts {
            clique: clique.map(str::to_owned),
            ..FabricFacts::default()
        };
        let nodes: Vec<_> = (0..cliques.len()).map(node).collect();
        let fabrics: Vec<_> = cliques.iter().copied().map(fabric).collect();
        apart(&nodes.iter().zip(&fabrics).collect::<Vec<_>>())
    }

    #[test]
    fn the_few_are_named_and_all_if_there_are_no_few() {
        let (c, d) = (Some("c"), Some("d"));
        for (cliques, wanted) in [
            (&[][..], &[][..]),
            (&[None], &[]),
            (&[c, c, c], &[]),
            (&[c, d, c], &["n1"]),
            (&[c, None, c], &["n1"]),
            (&[c, d], &["n0", "n1"]),
            (&[None, None], &["n0", "n1"]),
        ] {
            assert_eq!(told(cliques), wanted, "{cliques:?}");
        }
    }
}
