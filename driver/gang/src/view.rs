//! What a cluster has free for gangs of one shape, kept up to date with every change.

use std::collections::{BTreeSet, HashMap};

use crate::cluster::{Clique, Node};
use crate::demand::Shape;
use crate::eligibility::{Compiled, Objection, Strings};
use crate::node::CapacityType;

/// Cliques by how many nodes they have free for one shape.
#[derive(Clone, Debug)]
pub(crate) struct View {
    gpus_per_node: u32,
    /// Which nodes are eligible and healthy.
    eligible: Bits,
    /// Which nodes are eligible, healthy or not.
    matching: Bits,
    /// Which nodes can be taken: known without a look at the node, because most nodes of a clique are in use.
    fitting: Bits,
    cliques: Vec<Count>,
    /// The cliques with so much room, in the order of preference.
    by_room: Vec<BTreeSet<Place>>,
    /// How many cliques have so many eligible nodes.
    by_size: Vec<u32>,
    /// How many nodes with room each group of a topology level has, in cliques that are in it whole.
    by_group: Vec<u32>,
    /// GPUs that are taken to be free in a plan for what might be.
    freed: HashMap<u32, u32>,
    /// Nodes of one clique that have gained room in the change that is under way, less those that lost it.
    gained: i32,
}

/// Nodes of one clique.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// Those that are eligible and healthy and have room now.
    room: u32,
    /// Those that are eligible and healthy.
    healthy: u32,
    /// Those that are eligible. A node that is ill for a while makes its clique no smaller: else a gang of
    /// the clique's size would be cut in two.
    size: u32,
}

/// A set of numbers.
#[derive(Clone, Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, at: u32, value: bool) {
        let word = at as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let bit = 1 << (at % 64);
        if value {
            self.0[word] |= bit;
        } else {
            self.0[word] &= !bit;
        }
    }

    fn has(&self, at: u32) -> bool {
        let word = self.0.get(at as usize / 64);
        word.is_some_and(|word| word >> (at % 64) & 1 == 1)
    }
}

/// A clique among those with the same room: the first is taken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    suspects: u32,
    order: u64,
    /// The clique's number.
    pub(crate) clique: u32,
}

impl Place {
    fn of(number: u32, clique: &Clique) -> Self {
        Self {
            suspects: clique.suspects,
            order: clique.order,
            clique: number,
        }
    }
}

/// What decides whether a node is eligible.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) shape: Shape,
    pub(crate) capacity: Vec<CapacityType>,
    pub(crate) compiled: Compiled,
}

/// Why a node is not eligible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ineligible {
    Selector,
    Taint,
    Capacity,
    Gpus,
    Health,
}

impl Filter {
    pub(crate) fn objection(&self, node: &Node, strings: &Strings) -> Option<Ineligible> {
        let said = self
            .compiled
            .objection(&node.name, &node.labels, &node.taints, strings);
        if let Some(said) = said {
            return Some(match said {
                Objection::Selector => Ineligible::Selector,
                Objection::Taint => Ineligible::Taint,
            });
        }
        if !self.capacity.is_empty() && !self.capacity.contains(&node.capacity) {
            return Some(Ineligible::Capacity);
        }
        if node.gpus < self.shape.gpus_per_node() {
            return Some(Ineligible::Gpus);
        }
        (!node.health.takes_gangs()).then_some(Ineligible::Health)
    }
}

impl View {
    pub(crate) fn empty(gpus_per_node: u32) -> Self {
        Self {
            gpus_per_node,
            eligible: Bits::default(),
            matching: Bits::default(),
            fitting: Bits::default(),
            cliques: Vec::new(),
            by_room: Vec::new(),
            by_size: Vec::new(),
            by_group: Vec::new(),
            freed: HashMap::new(),
            gained: 0,
        }
    }

    /// Counts a node in. Its clique must be among `cliques` as it will be while the view has it.
    pub(crate) fn add(
        &mut self,
        at: u32,
        node: &Node,
        clique: &Clique,
        against: Option<Ineligible>,
    ) {
        let matches = matches!(against, None | Some(Ineligible::Health));
        self.matching.set(at, matches);
        self.eligible.set(at, against.is_none());
        self.count(at, node, clique, 1);
    }

    /// Counts a node out.
    pub(crate) fn remove(&mut self, at: u32, node: &Node, clique: &Clique) {
        self.count(at, node, clique, -1);
        self.matching.set(at, false);
        self.eligible.set(at, false);
    }

    fn count(&mut self, at: u32, node: &Node, clique: &Clique, by: i32) {
        if self.matching.has(at) {
            self.change_size(node.clique, by);
        }
        if self.is_eligible(at) {
            let count = &mut self.cliques[node.clique as usize];
            count.healthy = count.healthy.saturating_add_signed(by);
            let fits = self.would_fit(at, node.free());
            self.fitting.set(at, fits && by > 0);
            self.change(node.clique, clique, by * i32::from(fits));
        }
    }

    /// Takes a clique out of the order, before what orders it changes.
    pub(crate) fn lift(&mut self, number: u32, clique: &Clique) {
        let room = self.room(number);
        if room > 0 {
            self.by_room[room as usize].remove(&Place::of(number, clique));
            for group in clique.path.iter().flatten() {
                self.by_group[*group as usize] -= room;
            }
        }
    }

    /// Puts a clique back in order.
    pub(crate) fn settle(&mut self, number: u32, clique: &Clique) {
        let room = self.room(number);
        if room > 0 {
            self.by_room[room as usize].insert(Place::of(number, clique));
            for group in clique.path.iter().flatten() {
                let group = *group as usize;
                if group >= self.by_group.len() {
                    self.by_group.resize(group + 1, 0);
                }
                self.by_group[group] += room;
            }
        }
    }

    /// Changes how many nodes of a clique have room.
    fn change(&mut self, number: u32, clique: &Clique, by: i32) {
        let at = number as usize;
        if by != 0 && at < self.cliques.len() {
            self.lift(number, clique);
            let count = &mut self.cliques[at];
            count.room = count.room.saturating_add_signed(by);
            let now = count.room as usize;
            if now >= self.by_room.len() {
                self.by_room.resize(now + 1, BTreeSet::new());
            }
            self.settle(number, clique);
        }
    }

    fn change_size(&mut self, number: u32, by: i32) {
        let at = number as usize;
        if at >= self.cliques.len() {
            self.cliques.resize(at + 1, Count::default());
        }
        let count = &mut self.cliques[at];
        let was = count.size as usize;
        count.size = count.size.saturating_add_signed(by);
        let now = count.size as usize;
        if now.max(was) >= self.by_size.len() {
            self.by_size.resize(now.max(was) + 1, 0);
        }
        self.by_size[was] = self.by_size[was].saturating_sub(1);
        self.by_size[now] += 1;
    }

    /// Begins a change of what is free on nodes of one clique.
    pub(crate) fn begin_change(&mut self) {
        self.gained = 0;
    }

    /// Tells how many GPUs of a node were free before the change, and are after it.
    pub(crate) fn note_change(&mut self, at: u32, before: u32, after: u32) {
        let (before, after) = (self.would_fit(at, before), self.would_fit(at, after));
        if before != after {
            self.fitting.set(at, after);
        }
        self.gained += i32::from(after) - i32::from(before);
    }

    /// Ends the change.
    pub(crate) fn end_change(&mut self, number: u32, clique: &Clique) {
        self.change(number, clique, self.gained);
    }

    /// Whether a node is eligible and healthy, whoever uses it.
    pub(crate) fn is_eligible(&self, at: u32) -> bool {
        self.eligible.has(at)
    }

    /// Whether a node can be taken.
    pub(crate) fn fits(&self, at: u32, node: &Node) -> bool {
        self.fitting.has(at) || (!self.freed.is_empty() && self.would_fit(at, self.free(at, node)))
    }

    /// Whether a node need not be looked at, because it cannot be taken.
    pub(crate) fn is_taken(&self, at: u32) -> bool {
        self.freed.is_empty() && !self.fitting.has(at)
    }

    /// Whether a node could be taken if so many of its GPUs were free.
    pub(crate) fn would_fit(&self, at: u32, free: u32) -> bool {
        self.is_eligible(at) && free >= self.gpus_per_node
    }

    /// The node's free GPUs.
    pub(crate) fn free(&self, at: u32, node: &Node) -> u32 {
        let freed = if self.freed.is_empty() {
            0
        } else {
            self.freed.get(&at).copied().unwrap_or(0)
        };
        node.free_with(freed)
    }

    /// How many nodes of a clique can be taken.
    pub(crate) fn room(&self, clique: u32) -> u32 {
        self.cliques
            .get(clique as usize)
            .map_or(0, |count| count.room)
    }

    /// How many nodes with room a group has, in cliques that are in it whole.
    pub(crate) fn group_room(&self, group: usize) -> u32 {
        self.by_group.get(group).copied().unwrap_or(0)
    }

    /// Whether no node is eligible and healthy.
    pub(crate) fn is_barren(&self) -> bool {
        self.cliques.iter().all(|count| count.healthy == 0)
    }

    /// The most eligible nodes that one clique has, healthy or not.
    pub(crate) fn largest_size(&self) -> u32 {
        let found = self.by_size.iter().rposition(|cliques| *cliques > 0);
        found.map_or(0, as_u32)
    }

    /// Cliques with at least so much room, the best fit first.
    pub(crate) fn at_least(&self, room: u32) -> impl Iterator<Item = (u32, Place)> {
        let from = (room.max(1) as usize).min(self.by_room.len());
        let rooms = self.by_room[from..].iter().enumerate();
        rooms.flat_map(move |(at, places)| {
            places.iter().map(move |place| (as_u32(from + at), *place))
        })
    }

    /// Cliques with less room than this, most room first.
    pub(crate) fn below(&self, room: u32) -> impl Iterator<Item = (u32, Place)> {
        let to = (room as usize).min(self.by_room.len());
        let rooms = self.by_room[..to].iter().enumerate().rev();
        rooms.flat_map(|(at, places)| places.iter().map(move |place| (as_u32(at), *place)))
    }

    /// All cliques with room, most room first.
    pub(crate) fn by_room(&self) -> impl Iterator<Item = (u32, Place)> {
        self.below(u32::MAX)
    }

    /// The same cluster with more GPUs free on some nodes.
    pub(crate) fn with_freed(
        &self,
        freed: HashMap<u32, u32>,
        nodes: &[Option<Node>],
        cliques: &[Option<Clique>],
    ) -> Self {
        let mut other = self.clone();
        for (&at, &gpus) in &freed {
            let Some(node) = &nodes[at as usize] else {
                continue;
            };
            let gains = !self.fits(at, node) && self.would_fit(at, node.free_with(gpus));
            if let (true, Some(clique)) = (gains, &cliques[node.clique as usize]) {
                other.change(node.clique, clique, 1);
            }
        }
        other.freed = freed;
        other
    }

    /// The same cluster with nobody on it.
    pub(crate) fn emptied(&self, cliques: &[Option<Clique>]) -> Self {
        let mut other = self.clone();
        for (number, count) in self.cliques.iter().enumerate() {
            if let Some(Some(clique)) = cliques.get(number) {
                let missing = i32::try_from(count.healthy - count.room);
                let missing = missing.expect("fewer than 2^31 nodes are in memory");
                other.change(as_u32(number), clique, missing);
            }
        }
        other
    }
}

pub(crate) fn as_u32(number: usize) -> u32 {
    u32::try_from(number).expect("fewer than 2^32 nodes are in memory")
}
