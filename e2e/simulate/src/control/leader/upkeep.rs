//! What becomes of domains that hold nodes: they end, are given up, lose nodes, get others, and grow.

use std::collections::BTreeSet;
use std::time::Duration;

use tessera_gang::NodeName;
use tessera_gang::recover::{Recovery, recover, regrow};

use super::{Leader, gang, node_number};
use crate::control::model::{
    BIND_TIMEOUT, Domain, NODE_GRACE, Phase, REPLACE_TIMEOUT, Time, Write,
};
use crate::layout::GPUS;

impl Leader {
    /// What a domain that holds something needs.
    pub(super) fn upkeep(&mut self, number: u32, domain: &Domain, now: Time) -> Option<Write> {
        let free = domain.unconfirmed.is_empty();
        match domain.phase {
            Phase::Pending => domain.ended.then_some(Write::Delete),
            Phase::Releasing => free.then_some(Write::Delete),
            _ if domain.ended => Some(Write::Release),
            Phase::Unbinding => free.then_some(Write::Pend),
            Phase::Reserved if domain.is_whole() => Some(Write::Ready),
            Phase::Reserved | Phase::Ready => self.look_after(number, domain, now),
        }
    }

    /// What a domain needs whose pods are coming or running.
    fn look_after(&mut self, number: u32, domain: &Domain, now: Time) -> Option<Write> {
        let repaired = self.repair(number, domain, now);
        if repaired.is_some() {
            return repaired;
        }
        if now >= domain.reserved_at + BIND_TIMEOUT && !domain.is_whole() {
            if (domain.bound.len() as u32) < domain.min {
                self.fail(number, now);
                return Some(Write::Unbind);
            }
            // An elastic domain goes on without the pods that did not come.
            let bound = domain
                .nodes
                .iter()
                .copied()
                .filter(|node| domain.bound.contains(node));
            return self.replan(number, domain, bound.collect());
        }
        let grows = domain.phase == Phase::Ready;
        if grows {
            self.grow(number, domain)
        } else {
            None
        }
    }

    fn fail(&mut self, number: u32, now: Time) {
        let entry = self.back_off.entry(number).or_insert((0, 0));
        entry.1 += 1;
        entry.0 = now + (5_000 << entry.1.min(6)).min(300_000);
    }

    fn lost(&self, domain: &Domain, now: Time) -> (BTreeSet<NodeName>, Time) {
        let gone = domain.nodes.iter().filter_map(|node| {
            let since = *self.away.get(node)?;
            (now >= since + NODE_GRACE).then_some((*node, since))
        });
        let gone: Vec<(u32, Time)> = gone.collect();
        let since = gone.iter().map(|(_, since)| *since).min().unwrap_or(now);
        (
            gone.iter()
                .map(|(node, _)| self.layout.name(*node).into())
                .collect(),
            now - since,
        )
    }

    fn repair(&mut self, number: u32, domain: &Domain, now: Time) -> Option<Write> {
        let (lost, lost_for) = self.lost(domain, now);
        if lost.is_empty() {
            return None;
        }
        let wanted = Self::demand(number, domain, now);
        let placement = self.placement(domain);
        let lost_for = Duration::from_millis(lost_for);
        match recover(&self.cluster, &wanted, &placement, &lost, lost_for) {
            Recovery::Replace(substitutes) | Recovery::Shrink { substitutes, .. } => {
                let replaced = |node: &u32| {
                    let name: NodeName = self.layout.name(*node).into();
                    if !lost.contains(&name) {
                        return Some(*node);
                    }
                    let by = substitutes
                        .iter()
                        .find(|substitute| substitute.lost == name)?;
                    Some(node_number(&by.by))
                };
                let nodes: Vec<u32> = domain.nodes.iter().filter_map(replaced).collect();
                self.replan(number, domain, nodes)
            }
            Recovery::Wait {
                again_in: Some(_), ..
            } => None,
            Recovery::Wait { .. } if lost_for.as_millis() < u128::from(REPLACE_TIMEOUT) => None,
            Recovery::Migrate(_) | Recovery::Wait { .. } => Some(Write::Unbind),
        }
    }

    fn grow(&mut self, number: u32, domain: &Domain) -> Option<Write> {
        if domain.nodes.len() as u32 >= domain.max {
            return None;
        }
        let wanted = Self::demand(number, domain, domain.arrived);
        let more = regrow(&self.cluster, &wanted, &self.placement(domain));
        if more.is_empty() {
            return None;
        }
        let nodes = domain
            .nodes
            .iter()
            .copied()
            .chain(more.iter().map(node_number));
        self.replan(number, domain, nodes.collect())
    }

    fn replan(&mut self, number: u32, domain: &Domain, nodes: Vec<u32>) -> Option<Write> {
        let spares: Vec<u32> = domain
            .spares
            .iter()
            .filter(|spare| !nodes.contains(spare))
            .copied()
            .collect();
        let cliques: BTreeSet<u32> = nodes
            .iter()
            .map(|node| self.layout.clique_of(*node))
            .collect();
        let channels = self.grant(number, &cliques)?;
        let all = domain
            .held()
            .into_iter()
            .chain(nodes.iter().copied())
            .collect::<BTreeSet<_>>();
        let names = all
            .iter()
            .map(|node| NodeName::from(self.layout.name(*node)));
        self.cluster
            .restore(&gang(number), names.collect::<Vec<_>>(), GPUS);
        Some(Write::Plan {
            nodes,
            spares,
            channels,
            first: false,
        })
    }
}
