//! Small clusters and gangs, made by chance.

use std::num::NonZeroU32;

use proptest::prelude::*;

use crate::node::{Health, NodeFacts};
use crate::policy::{CliquePolicy, Policy};
use crate::testing::{demand, node};
use crate::topology::Levels;
use crate::{Cluster, Demand, NodeCount, Shape};

pub(super) const LEVELS: [&str; 2] = ["block", "rack"];

/// A node by numbers.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    /// Its clique; none for a node without fabric.
    pub(super) clique: Option<u32>,
    pub(super) used: u32,
    pub(super) health: Health,
}

impl Spec {
    pub(super) fn facts(&self, at: usize) -> NodeFacts {
        let clique = self.clique.map(|number| format!("c{number}"));
        let mut facts = node(&format!("n{at}"), clique.as_deref());
        facts.used = self.used;
        facts.health = self.health;
        // Cliques 0 and 1 are racks of the first block, 2 and 3 of the second; a node without fabric is in no rack.
        let block = self.clique.unwrap_or(0) / 2;
        facts.labels.insert("block".to_owned(), format!("b{block}"));
        if let Some(clique) = self.clique {
            facts
                .labels
                .insert("rack".to_owned(), format!("r{}", clique % 2));
        }
        facts
    }

    pub(super) fn free(&self) -> u32 {
        4 - self.used
    }
}

pub(super) fn levels() -> Levels {
    Levels::new(LEVELS.map(str::to_owned)).unwrap()
}

pub(super) fn cluster(nodes: &[Spec]) -> Cluster {
    let mut cluster = Cluster::new(levels());
    for (at, node) in nodes.iter().enumerate() {
        cluster.upsert(node.facts(at));
    }
    cluster
}

pub(super) fn nodes(most: usize) -> impl Strategy<Value = Vec<Spec>> {
    let clique = prop_oneof![4 => (0..4u32).prop_map(Some), 1 => Just(None)];
    let used = prop_oneof![4 => Just(0u32), 2 => 1..4u32, 2 => Just(4u32)];
    let health = prop_oneof![
        8 => Just(Health::Healthy),
        1 => Just(Health::Suspect),
        1 => Just(Health::Draining),
        1 => Just(Health::Unfit),
    ];
    let spec = (clique, used, health).prop_map(|(clique, used, health)| Spec {
        clique,
        used,
        health,
    });
    prop::collection::vec(spec, 1..=most)
}

pub(super) fn policy() -> impl Strategy<Value = Policy> {
    let clique = prop_oneof![
        2 => Just(CliquePolicy::Required),
        1 => Just(CliquePolicy::Preferred),
        1 => Just(CliquePolicy::Spread),
    ];
    let level = || prop::option::weighted(0.3, prop::sample::select(&LEVELS[..]));
    let segment = prop::option::weighted(0.4, 1..5u32);
    (clique, segment, level(), level(), 0..3u32).prop_map(
        |(clique, segment, required, preferred, spares)| Policy {
            clique,
            segment: segment.and_then(NonZeroU32::new),
            required_level: required.map(str::to_owned),
            preferred_level: preferred.map(str::to_owned),
            spares,
            ..Policy::default()
        },
    )
}

pub(super) fn gang() -> impl Strategy<Value = Demand> {
    let gpus = prop_oneof![3 => Just(4u32), 1 => 1..4u32];
    (1..8u32, 0..3u32, gpus, policy()).prop_map(|(min, more, gpus, policy)| Demand {
        nodes: NodeCount::new(min, min + more).unwrap(),
        shape: Shape::new(gpus, crate::Eligibility::default()),
        policy,
        ..demand("gang", min)
    })
}
