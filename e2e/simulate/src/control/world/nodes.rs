//! Nodes, the pods on them, and strangers.

use super::{Event, World};
use crate::chance::Chance;
use crate::control::model::{Change, Container};
use crate::layout::GPUS;

impl World {
    pub(super) fn node_lost(&mut self) {
        let node = self.chance.below(u64::from(self.setting.layout.nodes)) as u32;
        let truth = &mut self.nodes[node as usize];
        if truth.away_since.is_some() || self.resting {
            return;
        }
        truth.away_since = Some(self.now);
        self.report.nodes_lost += 1;
        if self.chance.happens(0.5) {
            // It goes down: what ran there is gone. When it is back, it says so.
            self.nodes[node as usize].containers.clear();
        }
        self.tell(Change::Node(node));
        let delay = self.chance.between(5_000, 400_000);
        self.at(delay, Event::NodeBack(node));
    }

    pub(super) fn node_back(&mut self, node: u32) {
        if self.nodes[node as usize].away_since.take().is_none() {
            return;
        }
        self.tell(Change::Node(node));
        // Its kubelet looks at every domain that it may have to do with.
        let concerned: Vec<(u32, bool, u64)> = self
            .store
            .iter()
            .filter(|(_, domain)| domain.held().contains(&node))
            .map(|(number, domain)| (*number, domain.is_planned_on(node), domain.generation))
            .collect();
        for (number, planned, generation) in concerned {
            let delay = self.latency();
            self.at(
                delay,
                if planned {
                    Event::Pod(number, node, generation)
                } else {
                    Event::Leave(number, node)
                },
            );
        }
    }

    pub(super) fn stranger(&mut self) {
        let node = self.chance.index(self.nodes.len());
        let free = self.free(node as u32);
        let truth = &self.nodes[node];
        if self.resting || free == 0 || truth.tainted || truth.away_since.is_some() {
            return;
        }
        let gpus = self.chance.between(1, u64::from(free)) as u32;
        self.nodes[node].strangers += gpus;
        self.tell(Change::Node(node as u32));
        let delay = self.chance.between(1_000, 200_000);
        self.at(delay, Event::StrangerGoes(node as u32, gpus));
    }

    /// GPUs of a node that nothing uses in truth.
    pub(crate) fn free(&self, node: u32) -> u32 {
        let node = &self.nodes[node as usize];
        GPUS.saturating_sub(node.strangers + GPUS * node.containers.len() as u32)
    }

    /// Whether a pod of a plan does not come: always the same for one plan, however often it is asked.
    fn never_comes(&self, number: u32, node: u32, generation: u64) -> bool {
        let pod = u64::from(number) << 32 | u64::from(node) << 16 | generation;
        let mut chance = Chance::new(self.setting.seed ^ pod);
        !self.resting && chance.happens(self.setting.faults.pod_missing)
    }

    /// What a node does with a claim: it reads the domain, and prepares only what is planned on it.
    fn prepares(&self, number: u32, node: u32) -> Option<u32> {
        let domain = self.store.get(&number)?;
        let right = domain.is_planned_on(node) && !domain.ended;
        let channel = domain.channels.get(&self.setting.layout.clique_of(node));
        channel.copied().filter(|_| right)
    }

    pub(super) fn pod(&mut self, number: u32, node: u32, generation: u64) {
        let Some(domain) = self.store.get(&number) else {
            return;
        };
        let truth = &self.nodes[node as usize];
        if domain.generation != generation && !domain.is_planned_on(node) {
            return;
        }
        if truth.away_since.is_some() || truth.containers.contains_key(&number) {
            return;
        }
        if self.free(node) < GPUS {
            let delay = self.chance.between(1_000, 3_000);
            self.at(delay, Event::Pod(number, node, generation));
            return;
        }
        if self.never_comes(number, node, generation) {
            return;
        }
        let Some(channel) = self.prepares(number, node) else {
            return;
        };
        let container = Container {
            channel,
            running: false,
            ending: false,
        };
        self.nodes[node as usize]
            .containers
            .insert(number, container);
        // The domain may change while the container is made.
        let delay = self.chance.between(1, 2_000);
        self.at(delay, Event::Prepared(number, node));
    }

    pub(super) fn prepared(&mut self, number: u32, node: u32) {
        let truth = &mut self.nodes[node as usize];
        let Some(container) = truth.containers.get_mut(&number) else {
            return;
        };
        container.running = true;
        if container.ending {
            return;
        }
        let delay = self.latency();
        self.at(delay, Event::Bound(number, node));
    }

    /// A node learns that a domain is not planned on it: it ends the container, or says at once that it has none.
    pub(super) fn leave(&mut self, number: u32, node: u32) {
        let Some(domain) = self.store.get(&number) else {
            return;
        };
        let generation = domain.generation;
        let truth = &mut self.nodes[node as usize];
        if domain.is_planned_on(node) || truth.away_since.is_some() {
            return;
        }
        match truth.containers.get_mut(&number) {
            Some(container) if container.ending => {}
            Some(container) => {
                container.ending = true;
                let delay = self.chance.between(100, 5_000);
                self.at(delay, Event::Ended(number, node));
            }
            None => {
                let delay = self.latency();
                self.at(delay, Event::Confirmed(number, node, generation));
            }
        }
    }

    pub(super) fn ended(&mut self, number: u32, node: u32) {
        let generation = self
            .store
            .get(&number)
            .map_or(0, |domain| domain.generation);
        let truth = &mut self.nodes[node as usize];
        if truth.away_since.is_some() {
            // It is cut off; it looks again when it is back.
            if let Some(container) = truth.containers.get_mut(&number) {
                container.ending = false;
            }
            return;
        }
        if truth.containers.remove(&number).is_some() {
            let delay = self.latency();
            self.at(delay, Event::Confirmed(number, node, generation));
        }
    }

    pub(super) fn confirmed(&mut self, number: u32, node: u32, generation: u64) {
        let Some(domain) = self.store.get(&number) else {
            return;
        };
        // A word about an older plan says nothing about a newer one.
        let stale = domain
            .unconfirmed
            .get(&node)
            .is_none_or(|planned| *planned > generation);
        if stale || domain.is_planned_on(node) {
            return;
        }
        if self.chance_of(self.setting.faults.refused) {
            self.at(2_000, Event::Confirmed(number, node, generation));
            return;
        }
        self.change(number, |domain| {
            domain.unconfirmed.remove(&node);
        });
        let delay = self.latency();
        self.at(delay, Event::Taint(node));
    }
}
