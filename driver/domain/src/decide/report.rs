//! What the status of a domain says, as a write.

use std::collections::BTreeMap;

use serde_json::json;
use tessera_api::{ComputeDomain, ComputeDomainNode, NODES_IN_STATUS, Readiness};

use super::{Round, uid};
use crate::cliques::Sharer;
use crate::facts::ObjectName;
use crate::place;
use crate::situation::Situation;
use crate::slots::Slots;
use crate::status;
use crate::world::{Kind, StoredSlots};
use crate::write::{Verb, Write};

impl Round<'_> {
    /// The status, if it is not the one that is stored.
    pub(super) fn status(
        &self,
        domain: &ComputeDomain,
        situation: &Situation,
        stored: Option<&StoredSlots>,
    ) -> Option<Write> {
        let promised = self.promised.offered_to(uid(domain));
        let slots = promised.or_else(|| Some(&stored?.slots));
        let nodes = match situation {
            Situation::Placed(_) => slots.map(|slots| self.nodes(slots)),
            _ => None,
        };
        let in_use =
            self.users.contains_key(uid(domain)) || self.world.pods_of(domain).next().is_some();
        let nodes = nodes.unwrap_or_default();
        let status = status::status(domain, situation, in_use, nodes, self.now)?;
        let mut body = json!(status);
        if status.nodes.is_empty() {
            // A merge patch forgets only what it names.
            body["nodes"] = serde_json::Value::Null;
        }
        Some(Write {
            kind: Kind::Domain,
            name: ObjectName::of(&domain.metadata),
            verb: Verb::Status(json!({"status": body})),
        })
    }

    /// The nodes as the status lists them: not where there are too many, or where they are all that there are.
    fn nodes(&self, slots: &Slots) -> Vec<ComputeDomainNode> {
        if slots.hostnames.len() > NODES_IN_STATUS {
            return Vec::new();
        }
        let mut of_clique: BTreeMap<&str, i32> = BTreeMap::new();
        let nodes = place::nodes(self.world, slots);
        nodes
            .map(|node| {
                let fabric = self.fabric.get(node.name.as_str());
                let clique = fabric.and_then(|fabric| fabric.clique.as_deref());
                let index = clique.map_or(-1, |clique| {
                    let next = of_clique.entry(clique).or_default();
                    *next += 1;
                    *next - 1
                });
                let address = self.sessions.address(&node.name);
                let fabric_ready = fabric.is_some_and(|fabric| fabric.is_ready());
                let sharer = Sharer {
                    domain: &slots.domain,
                    chosen: true,
                };
                let flaw = self.sessions.wrong(&node.name, sharer, std::iter::empty());
                ComputeDomainNode {
                    name: node.name.clone(),
                    ip_address: address.unwrap_or_default().to_owned(),
                    clique_id: clique.unwrap_or_default().to_owned(),
                    index,
                    status: Readiness::when(fabric_ready && flaw.is_none()),
                }
            })
            .collect()
    }
}
