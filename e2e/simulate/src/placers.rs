//! Ways to place gangs: the planner, and what it is compared with.

use std::collections::HashMap;
use std::time::Duration;

use tessera_gang::{
    CliqueId, Cluster, Demand, Eligibility, GangId, NodeCount, Policy, Shape, place,
};

use crate::chance::Chance;
use crate::layout::{GPUS, Layout};

/// Something that places gangs and takes them away again.
pub trait Placer {
    /// Places a gang on whole nodes, if it can.
    fn place(&mut self, gang: u64, nodes: u32) -> bool;
    /// Takes a gang away that was placed.
    fn release(&mut self, gang: u64);
    /// How many nodes nobody has.
    fn free(&self) -> u32;
    /// How many of them are in cliques that nobody has a node of.
    fn free_in_whole_cliques(&self) -> u32;
}

/// The demand of a gang on whole nodes, with the default policy.
pub fn demand(gang: GangId, nodes: u32) -> Demand {
    Demand {
        gang,
        nodes: NodeCount::exactly(nodes)
            .expect("simulated gangs have a node and fewer than a million"),
        shape: Shape::new(GPUS, Eligibility::default()),
        policy: Policy::default(),
        priority: 0,
        waiting: Duration::ZERO,
        runs_for: None,
    }
}

/// Counts nodes by clique, whoever chooses them.
#[derive(Clone, Debug)]
struct Tally {
    layout: Layout,
    free: Vec<u32>,
    total: u32,
    whole: u32,
}

impl Tally {
    fn new(layout: Layout) -> Self {
        let size = |clique| {
            let first = clique * layout.clique;
            layout.clique.min(layout.nodes - first)
        };
        Self {
            layout,
            free: (0..layout.cliques()).map(size).collect(),
            total: layout.nodes,
            whole: layout.nodes,
        }
    }

    fn size(&self, clique: u32) -> u32 {
        self.layout
            .clique
            .min(self.layout.nodes - clique * self.layout.clique)
    }

    fn change(&mut self, clique: u32, by: i32) {
        let size = self.size(clique);
        let free = &mut self.free[clique as usize];
        if *free == size {
            self.whole -= size;
        }
        *free = free.saturating_add_signed(by);
        if *free == size {
            self.whole += size;
        }
        self.total = self.total.saturating_add_signed(by);
    }
}

/// The product's planner.
#[derive(Debug)]
pub struct BestFit {
    cluster: Cluster,
    demands: HashMap<u32, Demand>,
    placed: HashMap<u64, (GangId, Vec<(u32, u32)>)>,
    tally: Tally,
    racks: HashMap<String, u32>,
}

impl BestFit {
    /// An empty cluster.
    pub fn new(layout: Layout) -> Self {
        let cliques = 0..layout.cliques();
        let racks = cliques.map(|clique| (format!("rack-{clique:05}.0"), clique));
        Self {
            cluster: layout.cluster(),
            demands: HashMap::new(),
            placed: HashMap::new(),
            tally: Tally::new(layout),
            racks: racks.collect(),
        }
    }
}

impl Placer for BestFit {
    fn place(&mut self, number: u64, nodes: u32) -> bool {
        let gang = GangId::from(number.to_string());
        let wanted = self
            .demands
            .entry(nodes)
            .or_insert_with(|| demand(gang.clone(), nodes));
        let Some(placement) = place(&self.cluster, wanted) else {
            return false;
        };
        self.cluster
            .hold(&gang, &placement)
            .expect("a plan takes only what is free");
        let shares = placement.cliques.iter().map(|share| {
            let rack = share.clique.as_ref().map_or("", CliqueId::as_str);
            (self.racks[rack], share.nodes.len() as u32)
        });
        let shares: Vec<(u32, u32)> = shares.collect();
        for (clique, nodes) in &shares {
            self.tally.change(*clique, -(*nodes as i32));
        }
        self.placed.insert(number, (gang, shares));
        true
    }

    fn release(&mut self, number: u64) {
        if let Some((gang, shares)) = self.placed.remove(&number) {
            self.cluster.release(&gang);
            for (clique, nodes) in shares {
                self.tally.change(clique, nodes as i32);
            }
        }
    }

    fn free(&self) -> u32 {
        self.tally.total
    }

    fn free_in_whole_cliques(&self) -> u32 {
        self.tally.whole
    }
}

/// What users do by hand: the first pod goes to any free node, and the others are pinned to its clique
/// by pod affinity. If they do not all fit there, the gang leaves; in practice its pods would hold their nodes.
///
/// A gang that is larger than a clique cannot be pinned: its pods go to any free nodes.
#[derive(Debug)]
pub struct Affinity {
    chance: Chance,
    layout: Layout,
    /// Free nodes in no order, and where each node is among them.
    free: Vec<u32>,
    at: Vec<Option<u32>>,
    placed: HashMap<u64, Vec<u32>>,
    tally: Tally,
}

impl Affinity {
    /// An empty cluster.
    pub fn new(layout: Layout, seed: u64) -> Self {
        Self {
            chance: Chance::new(seed),
            layout,
            free: (0..layout.nodes).collect(),
            at: (0..layout.nodes).map(Some).collect(),
            placed: HashMap::new(),
            tally: Tally::new(layout),
        }
    }

    fn take(&mut self, node: u32) {
        let Some(at) = self.at[node as usize].take() else {
            return;
        };
        self.free.swap_remove(at as usize);
        if let Some(moved) = self.free.get(at as usize) {
            self.at[*moved as usize] = Some(at);
        }
        self.tally.change(self.layout.clique_of(node), -1);
    }
}

impl Placer for Affinity {
    fn place(&mut self, gang: u64, nodes: u32) -> bool {
        if (self.free.len() as u32) < nodes {
            return false;
        }
        let mut taken = Vec::with_capacity(nodes as usize);
        if nodes > self.layout.clique {
            for _ in 0..nodes {
                let node = self.free[self.chance.index(self.free.len())];
                self.take(node);
                taken.push(node);
            }
        } else {
            let first = self.free[self.chance.index(self.free.len())];
            let clique = self.layout.clique_of(first);
            if self.tally.free[clique as usize] < nodes {
                return false;
            }
            let begin = clique * self.layout.clique;
            let all = begin..(begin + self.layout.clique).min(self.layout.nodes);
            let others = all.filter(|node| *node != first && self.at[*node as usize].is_some());
            taken.push(first);
            taken.extend(others.take(nodes as usize - 1));
            for node in &taken {
                self.take(*node);
            }
        }
        self.placed.insert(gang, taken);
        true
    }

    fn release(&mut self, gang: u64) {
        for node in self.placed.remove(&gang).unwrap_or_default() {
            self.at[node as usize] = Some(self.free.len() as u32);
            self.free.push(node);
            self.tally.change(self.layout.clique_of(node), 1);
        }
    }

    fn free(&self) -> u32 {
        self.tally.total
    }

    fn free_in_whole_cliques(&self) -> u32 {
        self.tally.whole
    }
}

/// The bound: nodes without cliques. A gang fits if so many nodes are free, wherever.
#[derive(Debug)]
pub struct Pooled {
    free: u32,
    placed: HashMap<u64, u32>,
}

impl Pooled {
    /// An empty cluster.
    pub fn new(layout: Layout) -> Self {
        Self {
            free: layout.nodes,
            placed: HashMap::new(),
        }
    }
}

impl Placer for Pooled {
    fn place(&mut self, gang: u64, nodes: u32) -> bool {
        let fits = nodes <= self.free;
        if fits {
            self.free -= nodes;
            self.placed.insert(gang, nodes);
        }
        fits
    }

    fn release(&mut self, gang: u64) {
        self.free += self.placed.remove(&gang).unwrap_or(0);
    }

    fn free(&self) -> u32 {
        self.free
    }

    fn free_in_whole_cliques(&self) -> u32 {
        self.free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every placer must do with an empty cluster of two cliques of four.
    fn keeps_count(placer: &mut dyn Placer) {
        assert!(placer.place(1, 4));
        assert!(placer.place(2, 2));
        assert_eq!(placer.free(), 2);
        assert!(!placer.place(3, 4));
        placer.release(1);
        placer.release(2);
        assert_eq!((placer.free(), placer.free_in_whole_cliques()), (8, 8));
        assert!(placer.place(4, 8));
        assert_eq!((placer.free(), placer.free_in_whole_cliques()), (0, 0));
    }

    #[test]
    fn placers_give_back_what_they_take() {
        let layout = Layout {
            nodes: 8,
            clique: 4,
        };
        keeps_count(&mut BestFit::new(layout));
        keeps_count(&mut Pooled::new(layout));
        // Four pods that follow the first one find the other clique of four empty.
        keeps_count(&mut Affinity::new(layout, 1));
    }

    #[test]
    fn pods_that_follow_the_first_one_can_be_stuck() {
        let layout = Layout {
            nodes: 8,
            clique: 4,
        };
        let stuck = (0..64).filter(|seed| {
            let mut affinity = Affinity::new(layout, *seed);
            assert!(affinity.place(1, 2));
            !affinity.place(2, 4)
        });
        let stuck = stuck.count();
        // Two of six free nodes are in the clique that is too full.
        assert!((10..32).contains(&stuck), "{stuck} of 64");
    }
}
