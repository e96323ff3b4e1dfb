//! Which node a slice's node selector means: the label that it names is the node's name nearly everywhere, and need not be.

use std::collections::{BTreeMap, BTreeSet};

/// The nodes whose label is not their name, by that label.
#[derive(Clone, Debug, Default)]
pub(super) struct Hostnames(BTreeMap<String, BTreeSet<String>>);

impl Hostnames {
    /// The label of a node is another than before: `before` and `now`, each none where the node has none or is not there.
    pub(super) fn change(&mut self, node: &str, before: Option<&str>, now: Option<&str>) {
        let differs = |hostname: &&str| *hostname != node;
        if let Some(before) = before.filter(differs)
            && let Some(nodes) = self.0.get_mut(before)
        {
            nodes.remove(node);
            if nodes.is_empty() {
                self.0.remove(before);
            }
        }
        if let Some(now) = now.filter(differs) {
            self.0
                .entry(now.to_owned())
                .or_default()
                .insert(node.to_owned());
        }
    }

    /// The first by name of the nodes with this label, which is not their name.
    pub(super) fn node(&self, hostname: &str) -> Option<&str> {
        self.0.get(hostname)?.first().map(String::as_str)
    }
}
