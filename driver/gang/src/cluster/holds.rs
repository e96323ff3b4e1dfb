//! Which nodes gangs hold.

use std::collections::hash_map::Entry;
use std::sync::PoisonError;

use thiserror::Error;

use super::{Cluster, Node};
use crate::names::{GangId, NodeName};
use crate::placement::{Member, Placement};

/// GPUs that are held of a node to hold all of it: more than any has, and few enough to be added up.
pub const WHOLE_NODE: u32 = 1 << 16;

/// Why nodes cannot be held.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HoldRefusal {
    /// The gang holds nodes already.
    #[error("gang {0} holds nodes already; release them first")]
    Held(GangId),
    /// A node that is gone.
    #[error("node {0} is not in the cluster any more; plan anew")]
    Gone(NodeName),
    /// A node with too few free GPUs.
    #[error("node {node} has {free} free GPUs and {wanted} are to be held; plan anew")]
    Taken {
        /// The node.
        node: NodeName,
        /// Its free GPUs.
        free: u32,
        /// What was to be held.
        wanted: u32,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Hold {
    members: Vec<Member>,
    gpus_per_node: u32,
}

impl Cluster {
    /// Sets how many GPUs of a node others use than the gangs that hold nodes. Says whether the node is known.
    pub fn set_used(&mut self, name: &NodeName, used: u32) -> bool {
        let Some(&at) = self.by_name.get(name) else {
            return false;
        };
        self.shift(&[at], |node| node.used = used);
        true
    }

    /// Holds a placement's nodes and spares for a gang, all or none.
    pub fn hold(&mut self, gang: &GangId, placement: &Placement) -> Result<(), HoldRefusal> {
        if self.holds.contains_key(gang) {
            return Err(HoldRefusal::Held(gang.clone()));
        }
        let wanted = placement.gpus_per_node;
        for member in placement.members() {
            let at = self.locate(member);
            let at = at.ok_or_else(|| HoldRefusal::Gone(member.name.clone()))?;
            let free = self.node(at).free();
            if free < wanted {
                let node = member.name.clone();
                return Err(HoldRefusal::Taken { node, free, wanted });
            }
        }
        let members = placement.members().cloned().collect();
        self.take(gang.clone(), members, wanted);
        Ok(())
    }

    /// Holds nodes for a gang as the API has it, whatever is on them: what was promised stays promised
    /// after a restart. Replaces what the gang held.
    pub fn restore(
        &mut self,
        gang: &GangId,
        nodes: impl IntoIterator<Item = NodeName>,
        gpus_per_node: u32,
    ) {
        self.release(gang);
        let members = nodes.into_iter().map(Member::from).collect();
        self.take(gang.clone(), members, gpus_per_node);
    }

    /// Lets a gang's nodes go. Says whether it held any.
    pub fn release(&mut self, gang: &GangId) -> bool {
        let Some(hold) = self.holds.remove(gang) else {
            return false;
        };
        self.each_clique(&hold.members, |cluster, present| {
            cluster.shift(present, |node| {
                node.held = node.held.saturating_sub(hold.gpus_per_node);
            });
        });
        let absent = if self.absent.is_empty() {
            &[][..]
        } else {
            &hold.members
        };
        for member in absent {
            if let Entry::Occupied(mut entry) = self.absent.entry(member.name.clone()) {
                let left = entry.get().saturating_sub(hold.gpus_per_node);
                if left == 0 {
                    entry.remove();
                } else {
                    *entry.get_mut() = left;
                }
            }
        }
        true
    }

    /// The nodes that a gang holds, spares among them, and the GPUs held on each.
    pub fn held<'a>(
        &'a self,
        gang: &GangId,
    ) -> Option<(impl Iterator<Item = &'a NodeName> + use<'a>, u32)> {
        let hold = self.holds.get(gang)?;
        let names = hold.members.iter().map(|member| &member.name);
        Some((names, hold.gpus_per_node))
    }

    /// The nodes that a gang holds, as far as they are there, and the GPUs held on each.
    pub(crate) fn held_nodes(&self, gang: &GangId) -> impl Iterator<Item = (u32, u32)> {
        let holds = self.holds.get(gang).into_iter();
        holds.flat_map(|hold| {
            let present = hold.members.iter().filter_map(|member| self.locate(member));
            present.map(|at| (at, hold.gpus_per_node))
        })
    }

    /// The gangs that hold nodes, in no order.
    pub fn holders(&self) -> impl Iterator<Item = &GangId> {
        self.holds.keys()
    }

    /// Where the node of a placement is kept.
    pub(crate) fn locate(&self, member: &Member) -> Option<u32> {
        let hinted = self.nodes.get(member.at as usize).and_then(Option::as_ref);
        let right = hinted.is_some_and(|node| node.name == member.name);
        if right {
            Some(member.at)
        } else {
            self.by_name.get(&member.name).copied()
        }
    }

    fn take(&mut self, gang: GangId, members: Vec<Member>, gpus_per_node: u32) {
        self.each_clique(&members, |cluster, present| {
            cluster.shift(present, |node| {
                node.held = node.held.saturating_add(gpus_per_node);
            });
        });
        for member in &members {
            if self.locate(member).is_none() {
                let held = self.absent.entry(member.name.clone()).or_default();
                *held = held.saturating_add(gpus_per_node);
            }
        }
        let hold = Hold {
            members,
            gpus_per_node,
        };
        self.holds.insert(gang, hold);
    }

    /// Calls for the nodes that are there, those of one clique together where they follow each other.
    fn each_clique(&mut self, members: &[Member], mut call: impl FnMut(&mut Self, &[u32])) {
        let mut together: Vec<u32> = Vec::with_capacity(members.len());
        for member in members {
            let Some(at) = self.locate(member) else {
                continue;
            };
            let other = together.last().map(|last| self.node(*last).clique);
            if other.is_some_and(|other| other != self.node(at).clique) {
                call(self, &together);
                together.clear();
            }
            together.push(at);
        }
        if !together.is_empty() {
            call(self, &together);
        }
    }

    /// Changes how much is free on nodes of one clique, and tells the views.
    fn shift(&mut self, nodes: &[u32], mut change: impl FnMut(&mut Node)) {
        let index = self.index.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(&first) = nodes.first() else { return };
        let number = self.nodes[first as usize].as_ref().map(|node| node.clique);
        let number = number.expect("the caller names nodes that are there");
        let clique = self.cliques[number as usize].as_ref();
        let clique = clique.expect("a node's clique is there");
        for kept in &mut index.views {
            kept.view.begin_change();
        }
        for &at in nodes {
            let Some(node) = &mut self.nodes[at as usize] else {
                continue;
            };
            let before = node.free();
            change(node);
            let after = node.free();
            for kept in &mut index.views {
                kept.view.note_change(at, before, after);
            }
        }
        for kept in &mut index.views {
            kept.view.end_change(number, clique);
        }
    }
}
