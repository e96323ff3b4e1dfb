//! How nodes come into a cluster and leave it.

use std::sync::PoisonError;

use super::{Clique, Cluster, Group, Node};
use crate::names::{CliqueId, NodeName, stable_hash};
use crate::node::{Health, NodeFacts};
use crate::view::as_u32;

impl Cluster {
    /// Puts a node in, or replaces what was known of it. What is held on it stays held.
    pub fn upsert(&mut self, facts: NodeFacts) {
        let held = self
            .detach(&facts.name)
            .or_else(|| self.absent.remove(&facts.name));
        self.attach(facts, held.unwrap_or(0));
    }

    /// Takes a node out. What is held on it is held again when it comes back. Says whether it was known.
    pub fn remove(&mut self, name: &NodeName) -> bool {
        let held = self.detach(name);
        if let Some(held) = held.filter(|held| *held > 0) {
            self.absent.insert(name.clone(), held);
        }
        held.is_some()
    }

    /// Takes a node out of everything, and returns what was held on it.
    fn detach(&mut self, name: &NodeName) -> Option<u32> {
        let at = self.by_name.remove(name)?;
        let node = self.nodes[at as usize]
            .take()
            .expect("a name leads to a node");
        let number = node.clique;
        let mut clique = self.cliques[number as usize].take();
        let inner = clique.as_mut().expect("a node's clique is there");
        let index = self.index();
        for kept in &mut index.views {
            kept.view.remove(at, &node, inner);
            kept.view.lift(number, inner);
        }
        for &(key, value) in &node.labels {
            index.strings.release(key);
            index.strings.release(value);
        }
        inner.members.retain(|member| *member != at);
        if node.health == Health::Suspect {
            inner.suspects -= 1;
        }
        if inner.members.is_empty() {
            if let Some(id) = &inner.id {
                self.by_clique.remove(id);
            }
            self.vacant_cliques.push(number);
            clique = None;
        } else {
            inner.path = self.common_path(&inner.members);
            for kept in &mut self.index().views {
                kept.view.settle(number, inner);
            }
        }
        self.cliques[number as usize] = clique;
        for group in node.path.iter().flatten() {
            self.groups.release(*group);
        }
        self.vacant_nodes.push(at);
        Some(node.held)
    }

    fn common_path(&self, members: &[u32]) -> Box<[Option<u32>]> {
        let mut path = self.node(members[0]).path.clone();
        for member in members {
            narrow(&mut path, &self.node(*member).path);
        }
        path
    }

    fn attach(&mut self, facts: NodeFacts, held: u32) {
        let path = self.path(&facts);
        let at = self.vacant_nodes.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            as_u32(self.nodes.len() - 1)
        });
        let number = self.clique_for(&facts, &path);
        let index = self.index.get_mut().unwrap_or_else(PoisonError::into_inner);
        let labels = facts.labels.iter();
        let mut labels: Vec<(u32, u32)> = labels
            .map(|(key, value)| {
                let strings = &mut index.strings;
                (
                    strings.acquire(key.as_str()),
                    strings.acquire(value.as_str()),
                )
            })
            .collect();
        labels.sort_unstable();
        let node = Node {
            name: facts.name.clone(),
            clique: number,
            path,
            capacity: facts.capacity,
            gpus: facts.gpus,
            used: facts.used,
            held,
            health: facts.health,
            taints: facts.taints.into(),
            labels: labels.into(),
        };
        let clique = self.cliques[number as usize].as_mut();
        let clique = clique.expect("it was just found or made");
        for kept in &mut index.views {
            kept.view.lift(number, clique);
        }
        let nodes = &self.nodes;
        let place = clique.members.partition_point(|other| {
            nodes[*other as usize]
                .as_ref()
                .is_some_and(|other| other.name < node.name)
        });
        clique.members.insert(place, at);
        clique.suspects += u32::from(node.health == Health::Suspect);
        narrow(&mut clique.path, &node.path);
        for kept in &mut index.views {
            kept.view.settle(number, clique);
            let against = kept.filter.objection(&node, &index.strings);
            kept.view.add(at, &node, clique, against);
        }
        self.nodes[at as usize] = Some(node);
        self.by_name.insert(facts.name, at);
    }

    /// The node's group at each level. One that lacks a level's label is in no group of that level.
    fn path(&mut self, facts: &NodeFacts) -> Box<[Option<u32>]> {
        let mut parent = None;
        let mut path = Vec::with_capacity(self.levels.keys().len());
        for (level, key) in self.levels.keys().iter().enumerate() {
            let group = facts.labels.get(key).map(|value| {
                let value = value.as_str().into();
                let group = Group {
                    parent,
                    level,
                    value,
                };
                self.groups.acquire(&group)
            });
            parent = group.or(parent);
            path.push(group);
        }
        path.into()
    }

    /// The number of the node's clique, which is made if it is the first of it.
    fn clique_for(&mut self, facts: &NodeFacts, path: &[Option<u32>]) -> u32 {
        if let Some(known) = facts.clique.as_ref().and_then(|id| self.by_clique.get(id)) {
            return *known;
        }
        let id = facts.clique.clone();
        let name = id.as_ref().map_or(facts.name.as_str(), CliqueId::as_str);
        let clique = Some(Clique {
            order: stable_hash(name),
            id,
            members: Vec::new(),
            path: path.into(),
            suspects: 0,
        });
        let number = if let Some(number) = self.vacant_cliques.pop() {
            self.cliques[number as usize] = clique;
            number
        } else {
            self.cliques.push(clique);
            as_u32(self.cliques.len() - 1)
        };
        if let Some(id) = &facts.clique {
            self.by_clique.insert(id.clone(), number);
        }
        number
    }
}

/// Keeps of a path only what another shares.
fn narrow(path: &mut [Option<u32>], other: &[Option<u32>]) {
    for (own, other) in path.iter_mut().zip(other) {
        if own != other {
            *own = None;
        }
    }
}
