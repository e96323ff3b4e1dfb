//! The facts of a cluster, and an index that answers plans quickly.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use crate::demand::Shape;
use crate::eligibility::{Compiled, Labels, Strings};
use crate::intern::Interner;
use crate::names::{CliqueId, GangId, NodeName, stable_hash};
use crate::node::{CapacityType, Health, NodeFacts, Taint};
use crate::placement::{Member, Placement};
use crate::topology::Levels;
use crate::view::{Filter, View, as_u32};

/// Most shapes whose index is kept. The one that was not asked for longest makes room for another,
/// which costs a look at every node.
pub const MOST_VIEWS: usize = 64;

/// The nodes of a cluster, what holds them, and indices over both.
///
/// Plans read it; it changes only by facts and holds. The indices inside are made when a shape is
/// first asked for (a look at every node) and then follow every change.
#[derive(Debug)]
pub struct Cluster {
    levels: Levels,
    pub(crate) groups: Interner<Group>,
    pub(crate) nodes: Vec<Option<Node>>,
    vacant_nodes: Vec<u32>,
    by_name: HashMap<NodeName, u32>,
    pub(crate) cliques: Vec<Option<Clique>>,
    vacant_cliques: Vec<u32>,
    by_clique: HashMap<CliqueId, u32>,
    holds: HashMap<GangId, Hold>,
    /// GPUs that are held on nodes of which nothing is known (yet, or any more).
    absent: HashMap<NodeName, u32>,
    index: Mutex<Index>,
}

/// A node as it is kept.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) clique: u32,
    path: Box<[Option<u32>]>,
    pub(crate) capacity: CapacityType,
    pub(crate) gpus: u32,
    used: u32,
    held: u32,
    pub(crate) health: Health,
    pub(crate) taints: Box<[Taint]>,
    pub(crate) labels: Labels,
}

impl Node {
    pub(crate) fn free(&self) -> u32 {
        self.free_with(0)
    }

    /// What would be free if so many GPUs were given back. A node on which more is used than it has
    /// has to be given back the excess first.
    pub(crate) fn free_with(&self, back: u32) -> u32 {
        let taken = u64::from(self.used) + u64::from(self.held);
        let taken = taken.saturating_sub(u64::from(back));
        u64::from(self.gpus).saturating_sub(taken) as u32
    }
}

/// A clique as it is kept. A node without fabric has one of its own.
#[derive(Debug)]
pub(crate) struct Clique {
    pub(crate) id: Option<CliqueId>,
    /// Breaks ties.
    pub(crate) order: u64,
    /// Its nodes by name.
    pub(crate) members: Vec<u32>,
    /// The group of each level that all its nodes are in.
    pub(crate) path: Box<[Option<u32>]>,
    /// How many of its nodes are suspect.
    pub(crate) suspects: u32,
}

/// A group of a topology level: the nodes with one value of its label in one group of the level above.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Group {
    pub(crate) parent: Option<u32>,
    pub(crate) level: usize,
    pub(crate) value: Box<str>,
}

impl From<&Group> for Group {
    fn from(group: &Group) -> Self {
        group.clone()
    }
}

#[derive(Clone, Debug)]
struct Hold {
    members: Vec<Member>,
    gpus_per_node: u32,
}

#[derive(Debug)]
struct Index {
    strings: Strings,
    views: Vec<Kept>,
    /// Counts uses, to know which view was not used longest.
    clock: u64,
}

#[derive(Debug)]
struct Kept {
    filter: Filter,
    view: View,
    used_at: u64,
}

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

impl Cluster {
    /// A cluster without nodes, with these topology levels.
    pub fn new(levels: Levels) -> Self {
        Self {
            levels,
            groups: Interner::new(),
            nodes: Vec::new(),
            vacant_nodes: Vec::new(),
            by_name: HashMap::new(),
            cliques: Vec::new(),
            vacant_cliques: Vec::new(),
            by_clique: HashMap::new(),
            holds: HashMap::new(),
            absent: HashMap::new(),
            index: Mutex::new(Index {
                strings: Interner::new(),
                views: Vec::new(),
                clock: 0,
            }),
        }
    }

    /// The topology levels.
    pub fn levels(&self) -> &Levels {
        &self.levels
    }

    /// How many nodes are known.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether no node is known.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

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
    pub fn held(&self, gang: &GangId) -> Option<(impl Iterator<Item = &NodeName>, u32)> {
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

    /// The number of a node that is there.
    pub(crate) fn number(&self, name: &NodeName) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The number of a clique that has nodes.
    pub(crate) fn clique_number(&self, id: &CliqueId) -> Option<u32> {
        self.by_clique.get(id).copied()
    }

    /// The gangs that hold nodes, in no order.
    pub fn holders(&self) -> impl Iterator<Item = &GangId> {
        self.holds.keys()
    }

    /// The free GPUs of a node: neither held nor used by others.
    pub fn free(&self, name: &NodeName) -> Option<u32> {
        let at = self.by_name.get(name)?;
        Some(self.node(*at).free())
    }

    /// The clique of a node, if both are known.
    pub fn clique_of(&self, name: &NodeName) -> Option<&CliqueId> {
        let node = self.node(*self.by_name.get(name)?);
        self.clique(node.clique).id.as_ref()
    }

    pub(crate) fn node(&self, at: u32) -> &Node {
        let node = self.nodes[at as usize].as_ref();
        node.expect("numbers of nodes are those of nodes that are there")
    }

    pub(crate) fn clique(&self, number: u32) -> &Clique {
        let clique = self.cliques[number as usize].as_ref();
        clique.expect("numbers of cliques are those of cliques that have nodes")
    }

    /// The values of a group and of those around it, from broad to narrow.
    pub(crate) fn group_values(&self, group: u32) -> Vec<&str> {
        let mut values = Vec::new();
        let mut next = Some(group);
        while let Some(number) = next {
            let group = self.groups.key(number);
            values.push(&*group.value);
            next = group.parent;
        }
        values.reverse();
        values
    }

    /// Where the node of a placement is kept.
    pub(crate) fn locate(&self, member: &Member) -> Option<u32> {
        let hinted = self.nodes.get(member.at as usize).and_then(Option::as_ref);
        let right = hinted
            .is_some_and(|node| node.name.is_same_copy(&member.name) || node.name == member.name);
        if right {
            Some(member.at)
        } else {
            self.by_name.get(&member.name).copied()
        }
    }

    /// Looks at the view of a shape, which is made if there is none.
    pub(crate) fn with_view<R>(
        &self,
        shape: &Shape,
        capacity: &[CapacityType],
        look: impl FnOnce(&View, &Filter, &Strings) -> R,
    ) -> R {
        let mut index = self.locked();
        let index = &mut *index;
        index.clock += 1;
        let is_it = |kept: &Kept| kept.filter.shape == *shape && kept.filter.capacity == capacity;
        let at = if let Some(at) = index.views.iter().position(is_it) {
            at
        } else {
            index.make_room();
            let kept = self.kept(shape, capacity, &mut index.strings);
            index.views.push(kept);
            index.views.len() - 1
        };
        let kept = &mut index.views[at];
        kept.used_at = index.clock;
        look(&kept.view, &kept.filter, &index.strings)
    }

    fn kept(&self, shape: &Shape, capacity: &[CapacityType], strings: &mut Strings) -> Kept {
        let filter = Filter {
            shape: shape.clone(),
            capacity: capacity.to_vec(),
            compiled: Compiled::new(shape.eligibility(), strings),
        };
        let mut view = View::empty(shape.gpus_per_node());
        for (at, node) in self.nodes.iter().enumerate() {
            if let Some(node) = node {
                let eligible = filter.objection(node, strings).is_none();
                view.add(as_u32(at), node, self.clique(node.clique), eligible);
            }
        }
        Kept {
            filter,
            view,
            used_at: 0,
        }
    }

    fn locked(&self) -> MutexGuard<'_, Index> {
        // Views are put in whole, so what a panic left is whole too.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&mut self) -> &mut Index {
        self.index.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&mut self, gang: GangId, members: Vec<Member>, gpus_per_node: u32) {
        self.each_clique(&members, |cluster, present| {
            cluster.shift(present, |node| {
                node.held = node.held.saturating_add(gpus_per_node)
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
            let eligible = kept.filter.objection(&node, &index.strings).is_none();
            kept.view.add(at, &node, clique, eligible);
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

impl Index {
    /// Drops the view that was not used longest if there are as many as may be.
    fn make_room(&mut self) {
        if self.views.len() < MOST_VIEWS {
            return;
        }
        let oldest = self
            .views
            .iter()
            .enumerate()
            .min_by_key(|(_, kept)| kept.used_at);
        if let Some((at, _)) = oldest {
            let kept = self.views.swap_remove(at);
            kept.filter.compiled.release(&mut self.strings);
        }
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
